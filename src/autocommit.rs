//! A conditional write on an `Interlock`: the statement is its own COMMIT.

use std::{pin::pin, sync::Arc};

use tokio::time::{Instant, sleep};
use tracing::Instrument as _;

use crate::{
    detach::Detached,
    error::{Error, ErrorKind},
    fused::{Fused, Written},
    interlock::{Interlock, Settings, Shared},
    retry::{self, Meaning, Refusal},
    settlement::{self, later},
    transaction::{CommitError, Link, Transaction},
    until::until,
};

/// Writes, or finds the reason why not. `None` if there is none.
pub(crate) async fn run(interlock: &Interlock, write: &Fused) -> Result<Option<Written>, Error> {
    let running = interlock.shared.running.token();
    let written = if interlock.shared.running.is_closed() {
        Err(Error::because(ErrorKind::Unavailable, "draining"))
    } else {
        Writer::new(interlock).attempts(write).await
    };
    drop(running);
    // No layer sees this error on its way.
    written.inspect_err(Error::log)
}

/// One write, in as many attempts as it needs.
struct Writer<'i> {
    shared: &'i Arc<Shared>,
    settings: &'i Settings,
    deadline: Instant,
    /// Until when the answer to a COMMIT is awaited.
    limit: Instant,
}

/// What comes of an attempt.
enum Tried {
    Written(Written),
    /// Nothing was written, for this reason.
    Refused(Error),
    /// Nothing was written, and no condition is the reason.
    Unexplained(Option<Link>),
    /// A serialization failure.
    Again(Error),
}

impl<'i> Writer<'i> {
    fn new(interlock: &'i Interlock) -> Self {
        let deadline = later(Instant::now(), interlock.settings.deadline);
        Self {
            shared: &interlock.shared,
            settings: &interlock.settings,
            deadline,
            limit: later(deadline, interlock.settings.grace),
        }
    }

    async fn attempts(&self, write: &Fused) -> Result<Option<Written>, Error> {
        // A write and its diagnosis see different moments. If they contradict each other, both
        // are run in one transaction, whose word is the last.
        let mut together = self.settings.dry_run;
        let mut spare = None;
        let mut attempt = 1;
        loop {
            let tried = if together {
                self.together(spare.take(), write).await?
            } else {
                self.alone(write).await?
            };
            let error = match tried {
                Tried::Written(written) => return Ok(Some(written)),
                Tried::Refused(reason) => return Err(reason),
                Tried::Unexplained(_) if together => return Ok(None),
                Tried::Unexplained(link) => {
                    together = true;
                    spare = link;
                    continue;
                }
                Tried::Again(error) => error,
            };
            let pause = self.settings.backoff.pause(attempt);
            if attempt >= self.settings.max_attempts
                || later(Instant::now(), pause) >= self.deadline
            {
                return Err(error.with_kind(ErrorKind::Contended));
            }
            tracing::debug!(
                attempt,
                sqlstate = error.sqlstate(),
                ?pause,
                "writing again"
            );
            sleep(pause).await;
            attempt += 1;
        }
    }

    /// The statement alone, and the diagnosis after it.
    async fn alone(&self, write: &Fused) -> Result<Tried, Error> {
        let link = self.in_time(Link::acquire(self.shared)).await??;
        let (shared, limit, sent) = (Arc::clone(self.shared), self.limit, write.clone());
        let committing = async move {
            let answer = link.write(shared, sent).await;
            settlement::log(&answer, limit);
            answer
        };
        let link = match self.committed(committing).await? {
            Ok((Some(written), link)) => {
                link.hand_on();
                return Ok(Tried::Written(written));
            }
            Ok((None, link)) => link,
            Err(again) => return Ok(again),
        };
        match Detached::new(link.diagnose(write.clone(), self.deadline)).await {
            Ok((Some(reason), link)) => {
                link.hand_on();
                Ok(Tried::Refused(reason))
            }
            Ok((None, link)) => Ok(Tried::Unexplained(Some(link))),
            Err(error) => again(error),
        }
    }

    /// Statement and diagnosis in one transaction.
    async fn together(&self, spare: Option<Link>, write: &Fused) -> Result<Tried, Error> {
        let begun = Transaction::begin(self.shared, spare, false);
        let mut transaction = match self.in_time(begun).await? {
            Ok(transaction) => transaction,
            Err(error) => return again(error.into_sqlx()),
        };
        let written = match self.in_time(both(&mut transaction, write)).await? {
            Ok(Tried::Written(written)) => written,
            ended => {
                // Awaited, because CockroachDB keeps the locks of a failed transaction until then.
                let rolled_back = Detached::new(transaction.roll_back());
                until(self.deadline, rolled_back).await;
                return ended.or_else(again);
            }
        };
        let ended = if self.settings.dry_run {
            let rehearsed = self.in_time(transaction.rehearse()).await?;
            match rehearsed {
                Ok(()) => Ok(()),
                Err(error) => Err(refused(error)?),
            }
        } else {
            let running = self.shared.running.token();
            let hooks = Vec::new();
            let committing = settlement::acknowledge(transaction, hooks, running, self.limit);
            self.committed(committing).await?
        };
        Ok(ended.map_or_else(|again| again, |()| Tried::Written(written)))
    }

    /// Awaits what is not known to have happened until it is answered. Cancelled, it goes on.
    async fn committed<T: Send + 'static>(
        &self,
        committing: impl Future<Output = Result<T, CommitError>> + Send + 'static,
    ) -> Result<Result<T, Tried>, Error> {
        let committing = Detached::new(committing.in_current_span());
        let Some(answer) = until(self.limit, committing).await else {
            let cause =
                "the write was not answered in time; it goes on, and its outcome will be logged";
            return Err(Error::because(ErrorKind::OutcomeUnknown, cause));
        };
        match answer {
            Ok(done) => Ok(Ok(done)),
            Err(error) => refused(error).map(Err),
        }
    }

    /// Awaits what writes nothing by itself.
    async fn in_time<T>(&self, future: impl Future<Output = T>) -> Result<T, Error> {
        let answer = until(self.deadline, pin!(future)).await;
        answer.ok_or_else(|| Error::new(ErrorKind::DeadlineExceeded))
    }
}

/// What to do about an error before COMMIT was sent.
fn again(error: sqlx::Error) -> Result<Tried, Error> {
    match retry::meaning(&error) {
        Some(Meaning::Conflict) => Ok(Tried::Again(error.into())),
        _ => Err(error.into()),
    }
}

/// Statement and diagnosis, which now see the same state.
async fn both(transaction: &mut Transaction, write: &Fused) -> Result<Tried, sqlx::Error> {
    if let Some(written) = write.write(transaction.connection()?).await? {
        return Ok(Tried::Written(written));
    }
    let reason = write.diagnose(transaction.connection()?).await?;
    Ok(reason.map_or(Tried::Unexplained(None), Tried::Refused))
}

/// What to do about a COMMIT that was not acknowledged.
fn refused(refused: CommitError) -> Result<Tried, Error> {
    let CommitError { refusal, error, .. } = refused;
    let kind = match refusal {
        Refusal::Conflict => {
            let error = Error::database(ErrorKind::Contended, error);
            return Ok(Tried::Again(error));
        }
        Refusal::Rejected => ErrorKind::Rejected,
        Refusal::Definite => retry::kind_of_write(&error),
        Refusal::Unknown => ErrorKind::OutcomeUnknown,
    };
    Err(Error::database(kind, error))
}
