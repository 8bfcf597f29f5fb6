//! The reading of a statement by its syntax tree.

use std::ops::ControlFlow;

use sqlparser::{
    ast::{
        CopySource, Expr, FromTable, ObjectName, Query, Select, Statement, TableFactor,
        TableObject, TableWithJoins, Visit as _, Visitor,
    },
    dialect::PostgreSqlDialect,
    parser::Parser,
    tokenizer::Token,
};

use crate::sql::{
    effect::{Effect, Part},
    functions::is_of_server,
};

/// Parses one statement. `None` if the parser does not understand it.
pub(super) fn read(tokens: Vec<Token>) -> Option<Part> {
    let mut parser = Parser::new(&PostgreSqlDialect {}).with_tokens(tokens);
    let statements = parser.parse_statements().ok()?;
    let [statement] = &statements[..] else {
        return None;
    };
    let mut found = Found::default();
    let _ = statement.visit(&mut found);
    Some(found.into_part(statement))
}

/// What a walk through the tree has found.
#[derive(Default)]
struct Found {
    relations: Vec<String>,
    /// The names that `WITH` defines, and functions in the place of tables.
    defined: Vec<String>,
    written: Vec<String>,
    calls: Vec<String>,
    writes: bool,
    unknown: bool,
}

impl Found {
    fn into_part(mut self, statement: &Statement) -> Part {
        // Each target is one of the relations. What is left was read.
        for written in &self.written {
            if let Some(at) = self.relations.iter().position(|name| name == written) {
                self.relations.remove(at);
            }
        }
        let defined = std::mem::take(&mut self.defined);
        self.relations.retain(|name| !defined.contains(name));
        let plan_only = is_plan(statement);
        if plan_only {
            self.relations.append(&mut self.written);
        }
        Part {
            effect: match () {
                () if plan_only => Effect::Read,
                () if self.writes => Effect::Write,
                () if self.unknown => Effect::Unknown,
                () => Effect::Read,
            },
            reads: self.relations,
            writes: self.written,
            calls: self.calls,
        }
    }

    fn call(&mut self, function: &ObjectName) {
        let name = name(function);
        if !is_of_server(&name) {
            self.calls.push(name);
        }
    }

    fn target(&mut self, table: Option<&ObjectName>) {
        self.writes = true;
        self.written.extend(table.map(name));
    }

    fn targets<'t>(&mut self, tables: impl IntoIterator<Item = &'t TableWithJoins>) {
        self.writes = true;
        for table in tables {
            self.factor(&table.relation);
        }
    }

    fn factor(&mut self, factor: &TableFactor) {
        match factor {
            TableFactor::Table { name, .. } => self.target(Some(name)),
            _ => self.writes = true,
        }
    }
}

impl Visitor for Found {
    type Break = ();

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        self.relations.push(name(relation));
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table {
                name: function,
                args: Some(_),
                ..
            }
            | TableFactor::Function { name: function, .. } => {
                self.defined.push(name(function));
                self.call(function);
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expression {
            self.call(&function.name);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let defined = query.with.iter().flat_map(|with| &with.cte_tables);
        let names = defined.map(|table| identifier(&table.alias.name));
        self.defined.extend(names);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        self.writes |= select.into.is_some();
        ControlFlow::Continue(())
    }

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<()> {
        match statement {
            Statement::Query(_) | Statement::Explain { .. } => {}
            Statement::Insert(insert) => match &insert.table {
                TableObject::TableName(name) => self.target(Some(name)),
                _ => self.target(None),
            },
            Statement::Update(update) => self.targets([&update.table]),
            Statement::Delete(delete) => match &delete.from {
                FromTable::WithFromKeyword(tables) | FromTable::WithoutKeyword(tables) => {
                    self.targets(tables);
                }
            },
            Statement::Merge(merge) => self.factor(&merge.table),
            Statement::Copy {
                source: CopySource::Table { table_name, .. },
                to: false,
                ..
            } => self.target(Some(table_name)),
            Statement::Copy { to: true, .. } => {}
            _ => self.unknown = true,
        }
        ControlFlow::Continue(())
    }
}

/// Whether it shows a plan, and does not run it.
fn is_plan(statement: &Statement) -> bool {
    matches!(
        statement,
        Statement::Explain {
            analyze: false,
            options: None,
            ..
        }
    )
}

fn name(name: &ObjectName) -> String {
    let parts = name.0.iter().map(|part| match part.as_ident() {
        Some(ident) => identifier(ident),
        None => part.to_string(),
    });
    parts.collect::<Vec<_>>().join(".")
}

fn identifier(ident: &sqlparser::ast::Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}
