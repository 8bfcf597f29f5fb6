//! The settlement of an attempt, by rules 2 to 10 of the contract.

use support::{Kind, Moment};
use tower_interlock::{ErrorKind, Outcome};

use super::{
    Reply,
    attempt::{Attempt, Halt, LayerReply, Stop, Verdict},
    errors::{Commit, Retry},
    wire::Heard,
};

/// The result of an attempt.
pub(super) enum Settled {
    Done(Reply, Outcome),
    /// With whether a transaction must be rolled back first.
    Retry(Retry, bool),
}

/// The transaction was ended by other means (T9).
pub(super) fn ended() -> Settled {
    let reply = Reply::Problem(ErrorKind::TransactionAborted);
    Settled::Done(reply, Outcome::Unknown)
}

impl Attempt<'_> {
    /// Applies the first rule that fits. Rule 1, a panic, ends an attempt before its settlement.
    pub(super) fn settle(&mut self, returned: LayerReply) -> Result<Settled, Stop> {
        let settings = &self.script.settings;
        let status = returned.status();
        let success = matches!(status, 200..=399) && !(settings.commit_if && status == 202);
        let kept = matches!(status, 400..=499) && self.commit_on_error;
        let denied = self.verdict == Some(Verdict::Denied);
        let failed = self.verdict == Some(Verdict::Failed);
        if (success || kept) && !denied && !failed {
            self.verify_last()?;
        }
        let fault = self.fault();
        let outcome = self.outcome();
        let unchanged = Ok(Settled::Done(returned.reply(), outcome));
        let replaced = |reply| Ok(Settled::Done(reply, outcome));
        let aborted = replaced(Reply::Problem(ErrorKind::TransactionAborted));

        // T9.
        if self.is_ended()? {
            return Ok(ended());
        }
        // Rule 2.
        if self.escaped {
            return replaced(Reply::Problem(ErrorKind::TxEscaped));
        }
        // Rule 3.
        if let Some(retry) = self.retryable(returned) {
            return self.retry(retry);
        }
        // Rule 4. A redirect of a policy that ran no statement has no transaction to commit.
        if denied && fault.is_none() {
            let redirect = matches!(status, 300..=399) && !self.opened;
            return if success && !redirect {
                aborted
            } else {
                unchanged
            };
        }
        // Rule 5.
        if failed && status >= 500 {
            return unchanged;
        }
        if denied || failed {
            return replaced(Reply::Failure);
        }
        // Rule 6.
        if !(success || kept) {
            return unchanged;
        }
        // Rule 7.
        if let Some(fault) = fault {
            return match fault.retry {
                Some(Retry::Hidden) => self.retry(Retry::Hidden),
                _ => aborted,
            };
        }
        // Rule 8.
        if success && self.verdict == Some(Verdict::InnerError) {
            return aborted;
        }
        self.finish(returned)
    }

    /// Rules 9 and 10.
    fn finish(&mut self, returned: LayerReply) -> Result<Settled, Stop> {
        if self.rollback_only {
            return Ok(Settled::Done(returned.reply(), self.outcome()));
        }
        if self.script.settings.dry_run {
            return self.dry_run(returned);
        }
        self.commit(returned)
    }

    /// A recorded serialization failure or lost connection, or one that is the error of the reply.
    fn retryable(&self, returned: LayerReply) -> Option<Retry> {
        let recorded = self.recorded.iter().map(|(trouble, _)| *trouble);
        let own = match returned {
            LayerReply::Error(trouble) => Some(trouble),
            LayerReply::Status(_) => None,
        };
        let mut retries = recorded.chain(own).filter_map(|trouble| trouble.retry);
        let retry = retries.find(|retry| *retry != Retry::Hidden)?;
        let rejected = matches!(self.verdict, Some(Verdict::Denied | Verdict::Failed));
        Some(if rejected { retry.of_check() } else { retry })
    }

    fn retry(&mut self, retry: Retry) -> Result<Settled, Stop> {
        let recorded = self
            .recorded
            .iter()
            .filter_map(|(trouble, _)| trouble.retry);
        for retry in recorded.chain([retry]) {
            if let Retry::Violation(constraint, _) = retry {
                self.wire.known.push(constraint);
            }
        }
        let transaction = self.transaction.as_ref();
        let open = transaction.is_some_and(|transaction| !transaction.dead && !transaction.broken);
        Ok(Settled::Retry(retry, open))
    }

    /// Verifies a transaction that is about to be committed (T9).
    fn verify_last(&mut self) -> Result<(), Stop> {
        let Some(transaction) = &self.transaction else {
            return Ok(());
        };
        if let Some(depth) = transaction.dropped
            && let Err(Halt::Stop(stop)) = self.roll_back_to(depth)
        {
            return Err(stop);
        }
        if self.fault().is_none()
            && let Err(Halt::Stop(stop)) = self.verify()
        {
            return Err(stop);
        }
        Ok(())
    }

    /// Rule 9: a dry run checks the deferred constraints, which CockroachDB does not have.
    fn dry_run(&mut self, returned: LayerReply) -> Result<Settled, Stop> {
        let checked = if self.transaction.is_some() && self.wire.server == Kind::PostgreSql {
            self.transmit()
        } else {
            Ok(())
        };
        let outcome = self.outcome();
        match checked {
            Ok(()) => Ok(Settled::Done(returned.reply(), outcome)),
            Err(Halt::Stop(stop)) => Err(stop),
            Err(Halt::Error(trouble)) => match trouble.retry {
                Some(retry @ (Retry::Conflict | Retry::Violation(..))) => self.retry(retry),
                _ => Ok(Settled::Done(Reply::Failure, outcome)),
            },
        }
    }

    /// Rule 10, with C2 to C6, C8 and X2.
    fn commit(&mut self, returned: LayerReply) -> Result<Settled, Stop> {
        let hooks = self.hooks.iter().map(|(number, _)| *number);
        let Some(transaction) = self.transaction.take() else {
            self.wire.hooks.extend(hooks);
            return Ok(Settled::Done(returned.reply(), Outcome::NoTransaction));
        };
        let settings = &self.script.settings;
        let patience = settings.deadline.saturating_add(settings.grace);
        self.wire.commits += 1;
        let delivery = self.wire.send(&Moment::Commit, patience);
        if delivery.done {
            self.wire.rows.extend(transaction.rows);
        }
        let commit = Commit::of(&delivery.heard, self.wire.server);
        if commit == Commit::Acknowledged || delivery.late {
            self.wire.hooks.extend(hooks);
        }
        let problem = |kind, outcome| Settled::Done(Reply::Problem(kind), outcome);
        Ok(match commit {
            Commit::Acknowledged => Settled::Done(returned.reply(), Outcome::Committed),
            Commit::Conflict => Settled::Retry(Retry::Conflict, false),
            Commit::Rejected(trouble) => match self.wire.met(trouble).retry {
                Some(retry @ Retry::Violation(..)) => return self.retry(retry),
                _ => {
                    let kind = trouble.kind.unwrap_or(ErrorKind::Database);
                    problem(kind, Outcome::RolledBack)
                }
            },
            // R2: it could only read.
            Commit::Unknown
                if transaction.began_read_only && !matches!(delivery.heard, Heard::Silence) =>
            {
                Settled::Retry(Retry::Lost, false)
            }
            Commit::Unknown => problem(ErrorKind::OutcomeUnknown, Outcome::Unknown),
        })
    }
}
