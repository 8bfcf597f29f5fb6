//! The list for people.

use std::{collections::BTreeSet, fmt};

use crate::rules::{Finding, Findings, Level, Rule};

/// Whether a list has colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colours {
    /// For terminals.
    Ansi,
    /// For files.
    None,
}

impl Findings {
    /// Returns a list for people: the findings with their evidence, how to mend them, and what the
    /// list is based on.
    #[must_use]
    pub fn list(&self, colours: Colours) -> String {
        let mut list = String::new();
        for finding in &self.findings {
            list += &one(finding, colours);
        }
        let rules: BTreeSet<Rule> = self.findings.iter().map(|finding| finding.rule).collect();
        for rule in rules {
            list += &mend(rule, colours);
        }
        list + &self.last_lines()
    }

    fn last_lines(&self) -> String {
        let summary = &self.summary;
        let operations = summary.operations;
        let seen = match summary.exercised {
            Some(exercised) => format!(
                "{exercised} of {operations} operations exercised by {} requests, {} of them blind; \
                 {} statements outside of requests",
                summary.requests, summary.blind, summary.elsewhere
            ),
            None => format!("{operations} operations, and no trace of requests"),
        };
        let count = |level| {
            let of_level = self
                .findings
                .iter()
                .filter(|finding| finding.level == level);
            of_level.count()
        };
        let (errors, warnings) = (count(Level::Error), count(Level::Warning));
        let notes = count(Level::Note);
        let suppressed = self.suppressed.len();
        let known = self.known;
        format!(
            "{seen}\n{errors} errors, {warnings} warnings, {notes} notes; {suppressed} suppressed, \
             {known} in the baseline\n"
        )
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.list(Colours::None))
    }
}

impl Colours {
    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::Ansi => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            Self::None => text.to_owned(),
        }
    }

    fn level(self, level: Level) -> String {
        let code = match level {
            Level::Error => "1;31",
            Level::Warning => "1;33",
            Level::Note => "1;36",
        };
        self.paint(code, level.name())
    }
}

fn one(finding: &Finding, colours: Colours) -> String {
    let place = &finding.place;
    let at = format!("{}:{}:{}", place.file, place.line, place.column);
    let operation = finding.operation.as_deref().unwrap_or_default();
    let severity = match finding.severity() {
        Some(severity) => format!(", severity {severity:.1}"),
        None => String::new(),
    };
    let head = format!(
        "{} {} {} {}",
        printable(&at),
        colours.level(finding.level),
        colours.paint("1", &finding.rule.to_string()),
        printable(operation)
    );
    let mut text = format!(
        "{}\n  {}\n  {}{severity}, fingerprint {}\n",
        head.trim_end(),
        printable(&finding.message),
        finding.confidence,
        finding.fingerprint
    );
    let width = finding
        .evidence
        .iter()
        .map(|evidence| evidence.place.len())
        .max();
    let width = width.unwrap_or_default();
    for evidence in &finding.evidence {
        let (place, statement) = (&evidence.place, printable(&evidence.statement));
        text += &format!("    {place:<width$}  {statement}\n");
    }
    text + "\n"
}

/// How to mend the findings of a rule.
fn mend(rule: Rule, colours: Colours) -> String {
    let explanation = rule.explanation();
    let mend = explanation.split("## Mend").nth(1).unwrap_or_default();
    let mend = mend.split("## Suppress").next().unwrap_or_default();
    let title = colours.paint("1", &format!("How to mend {rule}"));
    let lines = mend.trim().lines().map(|line| match line {
        "" => "\n".to_owned(),
        line => format!("  {line}\n"),
    });
    format!("{title}\n{}\n", lines.collect::<String>())
}

/// The text without characters that a terminal obeys.
fn printable(text: &str) -> String {
    let printable = text.chars().map(|character| match character {
        character if character.is_control() => character.escape_default().to_string(),
        // They change the direction of the text around them.
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => character.escape_default().to_string(),
        character => character.to_string(),
    });
    printable.collect()
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn text_of_a_document_cannot_steer_a_terminal() {
        assert_eq!(
            printable("a\u{1b}[2Jb\n\u{202e}é"),
            "a\\u{1b}[2Jb\\n\\u{202e}é"
        );
    }
}
