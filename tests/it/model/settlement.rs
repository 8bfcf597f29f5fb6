//! The settlement of an attempt: the table that says when it commits.

use support::{Kind, Moment};
use tower_interlock::{ErrorKind, Outcome};

use super::{
    Answer,
    attempt::{Attempt, Halt, Said, Stop, Verdict},
    meaning::{Again, Commit},
};

/// What comes of an attempt.
pub(super) enum Settled {
    Answer(Answer, Outcome),
    /// And whether there is a transaction to be rolled back first.
    Again(Again, bool),
}

impl Attempt<'_> {
    /// "When it commits: the first row that matches." The first row, a panic, never comes here.
    pub(super) fn settle(&mut self, said: Said) -> Result<Settled, Stop> {
        let settings = &self.script.settings;
        let status = said.status();
        let success = matches!(status, 200..=399) && !(settings.commit_if && status == 202);
        let kept = matches!(status, 400..=499) && self.commit_on_error;
        let denied = self.verdict == Some(Verdict::Denied);
        let failed = self.verdict == Some(Verdict::Failed);
        if (success || kept) && !denied && !failed {
            self.verify_last()?;
        }
        let fault = self.fault();
        let outcome = self.outcome();
        let theirs = Ok(Settled::Answer(said.answer(), outcome));
        let ours = |answer| Ok(Settled::Answer(answer, outcome));
        let aborted = ours(Answer::Problem(ErrorKind::Aborted));

        // 2. "Lease still out (escaped): never retried; 500 `Escaped`."
        if self.escaped {
            return ours(Answer::Problem(ErrorKind::Escaped));
        }
        // 3. "An unhealed error noted that is retryable: rolled back, next attempt."
        //    "An `Error` in the answer carries its SQLSTATE to settlement."
        let noted = self.noted.iter().map(|(trouble, _)| *trouble);
        let answered = match said {
            Said::Error(trouble) => Some(trouble),
            Said::Status(_) => None,
        };
        for trouble in noted.chain(answered) {
            if let Some(again @ (Again::Conflict | Again::Lost)) = trouble.again {
                return self.again(again);
            }
        }
        // 4. "The policy denied, no other unhealed error noted: rolled back; the policy's."
        //    "A later 2xx over it is `Aborted`." A redirect to the login page is none, as long as
        //    there is no transaction and "nothing to commit".
        if denied && fault.is_none() {
            let redirect = matches!(status, 300..=399) && !self.opened;
            return if success && !redirect {
                aborted
            } else {
                theirs
            };
        }
        // 5. "The policy failed, or 'denied' over a noted database error: rolled back; 5xx."
        if denied || failed {
            let told = failed && status >= 500;
            return if told { theirs } else { ours(Answer::Failure) };
        }
        // 6. "An unhealed error noted, or verification failed; answer 2xx/3xx: rolled back; once
        //    retried if the cause was hidden (25P02); 500 `Aborted`." So it is with an answer that
        //    says its writes are kept.
        if let Some(fault) = fault
            && (success || kept)
        {
            return match fault.again {
                Some(Again::Hidden) => self.again(Again::Hidden),
                _ => aborted,
            };
        }
        //    "A 4xx/5xx seen by a joined layer stays; a later 2xx over it is `Aborted`."
        if success && self.verdict == Some(Verdict::Refused) {
            return aborted;
        }
        // 7. "1xx/4xx/5xx, or `commit_if` says no, without `commit_on_error`: rolled back; the handler's."
        // 8. "`rollback_only`, `dry_run`: rolled back (deferred constraints checked first)."
        if !(success || kept) || self.rollback_only {
            return theirs;
        }
        if settings.dry_run {
            return self.rehearse(said);
        }
        // 9. "2xx/3xx, or 4xx with `commit_on_error`; read-only too: COMMIT, awaited."
        Ok(self.commit(said))
    }

    fn again(&self, again: Again) -> Result<Settled, Stop> {
        let transaction = self.transaction.as_ref();
        let open = transaction.is_some_and(|transaction| !transaction.dead);
        Ok(Settled::Again(again, open))
    }

    /// Only what is to be kept is verified.
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

    /// CockroachDB has no deferred constraints.
    fn rehearse(&mut self, said: Said) -> Result<Settled, Stop> {
        let checked = if self.transaction.is_some() && self.wire.server == Kind::PostgreSql {
            self.transmit()
        } else {
            Ok(())
        };
        let outcome = self.outcome();
        match checked {
            Ok(()) => Ok(Settled::Answer(said.answer(), outcome)),
            Err(Halt::Stop(stop)) => Err(stop),
            Err(Halt::Error(trouble)) => match trouble.again {
                Some(Again::Conflict) => self.again(Again::Conflict),
                _ => Ok(Settled::Answer(Answer::Failure, outcome)),
            },
        }
    }

    /// "A 2xx/3xx response leaves only after the database acknowledged COMMIT."
    /// "Past the deadline a COMMIT that was sent gets a grace period, then the answer is `OutcomeUnknown`."
    /// "The hooks and the log of the outcome live inside the COMMIT's future."
    fn commit(&mut self, said: Said) -> Settled {
        let hooks = self.hooks.iter().map(|(number, _)| *number);
        let Some(transaction) = self.transaction.take() else {
            self.wire.hooks.extend(hooks);
            return Settled::Answer(said.answer(), Outcome::NoTransaction);
        };
        let settings = &self.script.settings;
        let patience = settings.deadline.saturating_add(settings.grace);
        self.wire.commits += 1;
        let reply = self.wire.send(&Moment::Commit, patience);
        if reply.done {
            self.wire.rows.extend(transaction.rows);
        }
        let commit = Commit::of(&reply.heard, self.wire.server);
        if commit == Commit::Acknowledged || reply.late {
            self.wire.hooks.extend(hooks);
        }
        let problem = |kind, outcome| Settled::Answer(Answer::Problem(kind), outcome);
        match commit {
            Commit::Acknowledged => Settled::Answer(said.answer(), Outcome::Committed),
            Commit::Conflict => Settled::Again(Again::Conflict, false),
            // "`Rejected`, 409: COMMIT refused by class 23."
            Commit::Rejected => problem(ErrorKind::Rejected, Outcome::RolledBack),
            Commit::Refused => problem(ErrorKind::Database, Outcome::RolledBack),
            Commit::Unknown => problem(ErrorKind::OutcomeUnknown, Outcome::Unknown),
        }
    }
}
