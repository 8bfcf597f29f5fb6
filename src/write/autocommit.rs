//! A conditional write on an `Interlock`: the statement is its own COMMIT.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Instant};

use tokio::time;

use crate::{
    attempt::{self, Attempt, Engine, Failure, Limits, Reply, ReplyClass, Retry, Step, Work},
    database::{
        Access, CommitError, CommitFailure, Connection, Database, Detached, Health, timed_out,
        timeout_at,
    },
    error::{Error, ErrorKind, Known, Moment, breaks_connection},
    observe::{Finished, Observation, Phase, WorkKind},
    report::Outcome,
    tx::{Tx, scope},
    write::{
        row::Writer,
        statements::{BoundStatement, Written},
        target::run_in_transaction,
    },
};

/// Writes, or finds the condition that is not true. `None` if there is none.
pub(crate) async fn run(
    engine: &Engine,
    limits: &Limits,
    statement: &BoundStatement,
) -> Result<Option<Written>, Error> {
    let running = engine.database.token();
    if let Err(error) = scope::check_may_begin(&engine.database) {
        error.log();
        return Err(error);
    }
    let context = engine.context(scope::principal());
    let started = Instant::now();
    let writer = statement.enter(engine.database.known_server());
    let mut work = AutocommitWrite {
        statement,
        locks_first: writer.as_ref().is_some_and(Writer::is_contended),
        // A dry run needs a transaction that it can roll back.
        in_transaction: limits.dry_run,
        phase: scope::current_phase(),
    };
    let Ok((attempts, result)) =
        attempt::run(engine, &context, limits, Access::ReadWrite, &mut work).await;
    drop((writer, running));
    if let Some(observation) = &context.observation {
        observation.work_finished(&Finished {
            kind: WorkKind::ConditionalWrite,
            names: &[statement.name()],
            principal: context.principal.as_deref(),
            attempts,
            outcome: result
                .as_ref()
                .map_or_else(Error::outcome, |_| Outcome::Committed),
            error: result.as_ref().err(),
            duration: started.elapsed(),
        });
    }
    // No layer sees this error on its way.
    result.inspect_err(Error::log)
}

/// A conditional write as work.
struct AutocommitWrite<'s> {
    statement: &'s BoundStatement,
    /// Whether it locks its row before the conditions are evaluated.
    locks_first: bool,
    /// A write and its diagnosis see different moments. If they contradict each other, both are run
    /// in one transaction, which decides.
    in_transaction: bool,
    phase: Phase,
}

/// The number of attempts, and the result.
type Finish = (u32, Result<Option<Written>, Error>);

impl Work for AutocommitWrite<'_> {
    type Output = Finish;
    type Error = Infallible;

    fn queue_key(&self) -> Option<&str> {
        None
    }

    async fn attempt(&mut self, attempt: &mut Attempt<'_>) -> Result<Step<Finish>, Infallible> {
        if !self.in_transaction {
            let number = attempt.number();
            match self.single_statement(attempt).await {
                Ok(WriteResult::Written(written)) => {
                    return Ok(Step::Done((number, Ok(Some(written)))));
                }
                Ok(WriteResult::Unexplained) => self.in_transaction = true,
                Err(failure) => return Ok(failure.into_step(|error, _| (number, Err(error)))),
            }
        }
        Ok(self.write_and_diagnose(attempt).await)
    }

    fn exhausted(&mut self, attempts: u32, error: Error) -> Finish {
        (attempts, Err(error))
    }
}

/// The result of the statement alone.
enum WriteResult {
    Written(Written),
    /// Nothing was written, and all conditions are true by now.
    Unexplained,
}

impl AutocommitWrite<'_> {
    /// Runs the statement alone, and the diagnosis after it.
    async fn single_statement(&self, attempt: &mut Attempt<'_>) -> Result<WriteResult, Failure> {
        let database = Arc::clone(&attempt.context().database);
        let connection = match attempt.in_time(database.acquire()).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) | Err(error) => return Err(not_written(error)),
        };
        let observed = self.observed(attempt);
        let mut statement = self.statement.clone();
        if self.locks_first {
            statement.lock_first();
        }
        let limit = attempt.given_up();
        let write = write(connection, database, statement, limit, observed.clone());
        let connection = match attempt.commit(write).await? {
            (Some(written), connection) => {
                connection.release();
                return Ok(WriteResult::Written(written));
            }
            (None, connection) => connection,
        };
        let deadline = attempt.deadline();
        let diagnose = diagnose(connection, self.statement.clone(), deadline, observed);
        match Detached::new(diagnose).await {
            Ok(Some(failed)) => Err(not_written(failed)),
            Ok(None) => Ok(WriteResult::Unexplained),
            Err(error) => Err(diagnosis_failed(error, &attempt.known())),
        }
    }

    /// Runs the statement and the diagnosis in one transaction.
    async fn write_and_diagnose(&self, attempt: &mut Attempt<'_>) -> Step<Finish> {
        let number = attempt.number();
        let slot = attempt.open(Access::ReadWrite);
        slot.set_phase(self.phase);
        let running = pin!(async {
            let mut tx = Tx::new(&slot);
            run_in_transaction(&mut tx, self.statement).await
        });
        let result = attempt.run(&slot, running).await;
        let mut state = slot.close();
        let failure = match result {
            Some(result) => match attempt.settle(&mut state, reply_of(&result), None).await {
                Ok(_) => return Step::Done((number, result)),
                Err(failure) => failure,
            },
            None => attempt.settle_timeout(&state),
        };
        failure.into_step(|error, _| (number, Err(error)))
    }

    fn observed(&self, attempt: &Attempt<'_>) -> Option<Observed> {
        let observation = attempt.context().observation.clone()?;
        Some(Observed {
            observation,
            attempt: attempt.number(),
            phase: self.phase,
        })
    }
}

/// Where the observer is told of the statements.
#[derive(Clone)]
struct Observed {
    observation: Observation,
    attempt: u32,
    phase: Phase,
}

impl Observed {
    fn statement<T>(&self, sql: &str, result: &Result<T, sqlx::Error>) {
        let (ok, error) = (result.is_ok(), result.as_ref().err());
        self.observation
            .statement_executed(self.attempt, self.phase, sql, ok, error);
    }
}

/// Sends the write, and awaits its reply until `limit`. Not to be cancelled: run it in a
/// `Detached`.
async fn write(
    mut connection: Connection,
    database: Arc<Database>,
    statement: BoundStatement,
    limit: time::Instant,
    observed: Option<Observed>,
) -> Result<(Option<Written>, Connection), CommitError> {
    let unsent = CommitError::unsent;
    let server = database.server(&mut connection).await.map_err(unsent)?;
    if statement.alters_session() {
        connection.mark(Health::Altered);
    }
    let written = {
        let writing = pin!(statement.write(connection.sql().map_err(unsent)?));
        timeout_at(limit, writing).await.unwrap_or_else(timed_out)
    };
    if let Some(observed) = observed {
        observed.statement(statement.write_text(), &written);
    }
    match written {
        Ok(written) => Ok((written, connection)),
        Err(error) => {
            let breaks = breaks_connection(&error, Moment::ReadWrite);
            let error = CommitError::of_write(error, server);
            if breaks || error.failure == CommitFailure::Unknown {
                connection.close();
            }
            Err(error)
        }
    }
}

/// Finds the condition that is not true. Not to be cancelled: a connection that still owes the
/// reply would wait for it on its way into the pool.
async fn diagnose(
    mut connection: Connection,
    statement: BoundStatement,
    deadline: time::Instant,
    observed: Option<Observed>,
) -> Result<Option<Error>, sqlx::Error> {
    let failed = timeout_at(deadline, pin!(statement.diagnose(connection.sql()?))).await;
    let Some(failed) = failed else {
        connection.close();
        return Err(Error::new(ErrorKind::DeadlineExceeded).into_sqlx());
    };
    if let Some(observed) = observed {
        observed.statement(statement.diagnosis_text(), &failed);
    }
    let failed = failed?;
    connection.release();
    Ok(failed)
}

/// The failure of a diagnosis: nothing was written.
fn diagnosis_failed(error: sqlx::Error, known: &Known) -> Failure {
    let error = Error::from(error);
    match error.retryable_class(known) {
        Some(class) => Failure::Retry(Retry::new(class, error, None)),
        None => not_written(error),
    }
}

fn not_written(error: Error) -> Failure {
    Failure::Replaced(error, Outcome::RolledBack)
}

/// The reply that the result is.
fn reply_of(result: &Result<Option<Written>, Error>) -> Reply<'_> {
    let (class, error) = match result {
        Ok(Some(_)) => (ReplyClass::Success, None),
        Ok(None) => (ReplyClass::ClientError, None),
        Err(error) if error.status().is_client_error() => (ReplyClass::ClientError, Some(error)),
        Err(error) => (ReplyClass::ServerError, Some(error)),
    };
    Reply {
        class,
        error,
        status: None,
    }
}
