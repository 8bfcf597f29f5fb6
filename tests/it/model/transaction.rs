//! The transaction of an attempt: BEGIN, statements, savepoints.

use std::mem::replace;

use support::{Kind, Moment};
use tower_interlock::ErrorKind;

use super::{
    attempt::{Attempt, Halt, Holder, Stop},
    meaning::{Again, Trouble},
    wire::{HANGS, Heard},
};
use crate::script::{Close, Plain, Statement, Step};

/// The transaction, as the server has it.
#[derive(Default)]
pub(super) struct Transaction {
    pub(super) rows: Vec<i64>,
    /// How many rows there were when each open savepoint was made.
    savepoints: Vec<usize>,
    statements: usize,
    read_only: bool,
    aborted: bool,
    /// A text has rolled it back.
    ended: bool,
    /// Its connection is gone.
    pub(super) dead: bool,
    /// And that is known.
    broken: bool,
    /// The outermost savepoint that was dropped without a word.
    pub(super) dropped: Option<usize>,
    /// The error behind the first row of a row stream that was dropped.
    unread: Option<Trouble>,
    /// In which savepoint something was first done that cannot be seen.
    unseen: Option<usize>,
}

impl Attempt<'_> {
    pub(super) fn statement(&mut self, statement: Statement) -> Result<(), Halt> {
        match statement {
            Statement::Plain(plain) => self.plain(plain),
            Statement::Raw(plain) => self.raw(plain),
            // "A row stream may be dropped early (drained, errors noted)."
            Statement::Stream { fails } => {
                self.hold(Holder::Own)?;
                self.send()?;
                if fails {
                    self.open().aborted = true;
                    self.open().unread = Some(Trouble::UNSPECIFIED);
                }
                Ok(())
            }
            Statement::Several => {
                let rows = [self.next_write(), self.next_write()];
                self.hold(Holder::Own)?;
                self.seal()?;
                self.write(&rows)
            }
            Statement::HiddenEnd => {
                self.hold(Holder::Own)?;
                self.seal()?;
                self.send()?;
                self.open().ended = true;
                Ok(())
            }
            // "It refuses texts that begin with transaction control."
            Statement::Control => {
                self.hold(Holder::Own)?;
                Err(self.note(Trouble::of(ErrorKind::Misconfigured)))
            }
            Statement::Rival => {
                self.hold(Holder::Rival)?;
                self.send()
            }
        }
    }

    pub(super) fn plain(&mut self, plain: Plain) -> Result<(), Halt> {
        let row = matches!(plain, Plain::Write).then(|| self.next_write());
        self.hold(Holder::Own)?;
        match plain {
            Plain::Write => self.prepare_and_write(row.as_slice()),
            // "Noted: not `RowNotFound`."
            Plain::Missing => {
                self.send()?;
                Err(Trouble::of(ErrorKind::NotFound).into())
            }
            Plain::Fail => self.fail(Trouble::of(ErrorKind::Database)),
            Plain::Conflict(attempts) if self.number <= attempts => {
                self.send()?;
                self.hold(Holder::Own)?;
                self.conflict()
            }
            Plain::Read | Plain::Conflict(_) => self.send(),
        }
    }

    /// "What the lease could not see (raw `connection()`) sets a flag."
    fn raw(&mut self, plain: Plain) -> Result<(), Halt> {
        self.hold(Holder::Own)?;
        self.seal()?;
        let (noted, broken) = (self.noted.len(), self.open().broken);
        let done = self.unseen(plain);
        self.noted.truncate(noted);
        self.open().broken = broken;
        done
    }

    fn unseen(&mut self, plain: Plain) -> Result<(), Halt> {
        match plain {
            Plain::Write => {
                let row = self.next_write();
                self.prepare_and_write(&[row])
            }
            Plain::Missing => {
                self.send()?;
                Err(Trouble::of(ErrorKind::NotFound).into())
            }
            Plain::Fail => self.fail(Trouble::of(ErrorKind::Database)),
            Plain::Conflict(attempts) if self.number <= attempts => {
                self.send()?;
                self.conflict()
            }
            Plain::Read | Plain::Conflict(_) => self.send(),
        }
    }

    /// A statement with values is prepared first, which an aborted transaction of PostgreSQL refuses already.
    /// CockroachDB's prepares it, and refuses to run it.
    fn prepare_and_write(&mut self, rows: &[i64]) -> Result<(), Halt> {
        let refuses = self.wire.server == Kind::PostgreSql;
        if refuses && self.open().aborted && !self.open().dead {
            return Err(self.note(Trouble::HIDDEN));
        }
        self.write(rows)
    }

    /// Not in a transaction that only reads.
    fn write(&mut self, rows: &[i64]) -> Result<(), Halt> {
        if self.open().read_only {
            return self.fail(Trouble::of(ErrorKind::Database));
        }
        self.send()?;
        self.open().rows.extend(rows);
        Ok(())
    }

    /// A write to what somebody else has written meanwhile.
    fn conflict(&mut self) -> Result<(), Halt> {
        let read_only = self.open().read_only;
        self.fail(if read_only {
            Trouble::of(ErrorKind::Database)
        } else {
            Trouble::CONFLICT
        })
    }

    /// A statement that the server refuses.
    fn fail(&mut self, trouble: Trouble) -> Result<(), Halt> {
        self.send()?;
        self.open().aborted = true;
        Err(self.note(trouble))
    }

    /// "`savepoint()` gives a guard that is an Executor, nests, and sends its own SQL." Dropped, it is
    /// rolled back before whatever comes next.
    pub(super) fn savepoint(&mut self, steps: &[Step], close: Close) -> Result<(), Halt> {
        self.hold(Holder::Own)?;
        self.send()?;
        let rows = self.open().rows.len();
        self.open().savepoints.push(rows);
        let depth = self.depth();
        let around = replace(&mut self.within, depth);
        let played = self.steps(steps);
        self.within = around;
        let closed = played.and_then(|()| match close {
            Close::Release => self.release(depth),
            Close::RollBack => self.roll_back(depth),
            Close::Drop => Ok(()),
        });
        if closed.is_err() || close == Close::Drop {
            let dropped = &mut self.open().dropped;
            *dropped = Some(dropped.map_or(depth, |other| depth.min(other)));
        }
        closed
    }

    fn release(&mut self, depth: usize) -> Result<(), Halt> {
        self.hold(Holder::Own)?;
        self.send()?;
        self.open().leave(depth);
        let noted = self.noted.iter_mut().map(|(_, at)| at);
        let hooks = self.hooks.iter_mut().map(|(_, at)| at);
        noted.chain(hooks).for_each(|at| *at = (*at).min(depth - 1));
        Ok(())
    }

    fn roll_back(&mut self, depth: usize) -> Result<(), Halt> {
        if self.abandoned {
            return Err(Trouble::of(ErrorKind::Aborted).into());
        }
        self.roll_back_to(depth)
    }

    /// "Healed: inside a savepoint that was rolled back to."
    pub(super) fn roll_back_to(&mut self, depth: usize) -> Result<(), Halt> {
        if let Some(unread) = self.open().unread.take() {
            let _ = self.note(unread);
        }
        self.transmit()?;
        if self.open().ended {
            return Err(self.note(Trouble::UNSPECIFIED));
        }
        let transaction = self.open();
        transaction.aborted = false;
        let rows = transaction.savepoints.get(depth - 1).copied();
        transaction.rows.truncate(rows.unwrap_or_default());
        transaction.leave(depth);
        transaction.dropped = transaction.dropped.filter(|dropped| *dropped < depth);
        self.noted
            .retain(|(trouble, at)| *at < depth || !trouble.can_be_healed());
        self.hooks.retain(|(_, at)| *at < depth);
        Ok(())
    }

    /// "A lease, taken at its first statement; the transaction begins there." `AlreadyLeased`:
    /// another `Tx` of the request has it.
    pub(super) fn hold(&mut self, who: Holder) -> Result<(), Halt> {
        if self.abandoned {
            return Err(Trouble::of(ErrorKind::Aborted).into());
        }
        if self.holder.is_some_and(|holder| holder != who) {
            let leased = Trouble::of(ErrorKind::AlreadyLeased);
            self.noted.push((leased, 0));
            return Err(leased.into());
        }
        self.holder = Some(who);
        self.opened = true;
        if self.transaction.is_none() {
            self.begin()?;
        }
        if let Some(depth) = self.open().dropped {
            self.roll_back_to(depth)?;
        }
        self.verify()?;
        if self.read_only && !self.open().read_only {
            self.send()?;
            self.open().read_only = true;
        }
        Ok(())
    }

    /// "At BEGIN it costs no attempt (bounded by pool size + 1: a restarted server leaves a pool
    /// full of dead connections)."
    fn begin(&mut self) -> Result<(), Halt> {
        let deadline = self.script.settings.deadline;
        let mut repeats = self.wire.pool + 1;
        let trouble = loop {
            self.wire.begins += 1;
            let reply = self.wire.send(&Moment::Begin, deadline.min(HANGS));
            let trouble = match reply.heard {
                Heard::Done => {
                    self.transaction = Some(Transaction {
                        read_only: self.read_only,
                        ..Transaction::default()
                    });
                    return Ok(());
                }
                Heard::Silence if deadline <= HANGS => return Err(Halt::Stop(Stop::Deadline)),
                Heard::Silence | Heard::Lost => Trouble::LOST,
                Heard::Error(error) => Trouble::reported_at_begin(&error),
            };
            if trouble.again != Some(Again::Lost) || repeats == 0 {
                break trouble;
            }
            repeats -= 1;
        };
        Err(self.note(trouble))
    }

    /// "Settlement first drains the connection, and requires one `SAVEPOINT` to succeed; otherwise
    /// the attempt is `Aborted`." The next statement requires that, too.
    pub(super) fn verify(&mut self) -> Result<(), Halt> {
        let verified = if let Some(unread) = self.open().unread.take() {
            Err(self.note(unread))
        } else if self.open().unseen.is_some() {
            self.send()
        } else {
            Ok(())
        };
        match verified {
            Ok(()) => self.open().unseen = None,
            Err(Halt::Error(Trouble { again: None, .. })) => {
                self.noted.pop();
                return Err(self.note(Trouble::of(ErrorKind::Aborted)));
            }
            Err(other) => return Err(other),
        }
        Ok(())
    }

    fn seal(&mut self) -> Result<(), Halt> {
        if self.open().unseen.is_none() {
            self.send()?;
            self.open().unseen = Some(self.depth());
        }
        Ok(())
    }

    /// A statement that the server does, if there is a transaction and it is not aborted.
    fn send(&mut self) -> Result<(), Halt> {
        self.transmit()?;
        if self.open().ended {
            Err(self.note(Trouble::UNSPECIFIED))
        } else if self.open().aborted {
            Err(self.note(Trouble::HIDDEN))
        } else {
            Ok(())
        }
    }

    /// Nothing more is sent on a connection that is known to be gone.
    pub(super) fn transmit(&mut self) -> Result<(), Halt> {
        let deadline = self.script.settings.deadline;
        if self.open().broken {
            return Err(self.note(Trouble::of(ErrorKind::Aborted)));
        }
        if self.open().dead {
            self.open().broken = true;
            return Err(self.note(Trouble::LOST));
        }
        self.open().statements += 1;
        let moment = Moment::Statement(self.open().statements);
        let waited = self.wire.waited;
        let reply = self.wire.send(&moment, deadline);
        let transaction = self.open();
        (transaction.dead, transaction.broken) = (reply.dead, reply.dead);
        let trouble = match reply.heard {
            Heard::Done => return Ok(()),
            Heard::Silence => {
                self.wire.waited = waited.max(deadline);
                return Err(Halt::Stop(Stop::Deadline));
            }
            Heard::Lost => Trouble::LOST,
            Heard::Error(error) => Trouble::reported(&error),
        };
        transaction.aborted = true;
        Err(self.note(trouble))
    }

    fn note(&mut self, trouble: Trouble) -> Halt {
        self.noted.push((trouble, self.depth()));
        trouble.into()
    }

    fn depth(&self) -> usize {
        let transaction = self.transaction.as_ref();
        transaction.map_or(0, |transaction| transaction.savepoints.len())
    }

    fn open(&mut self) -> &mut Transaction {
        self.transaction.as_mut().expect("it was begun")
    }
}

impl Transaction {
    /// The savepoint is gone. That it could be left shows that the transaction is still the same.
    fn leave(&mut self, depth: usize) {
        self.savepoints.truncate(depth - 1);
        self.unseen = self.unseen.filter(|unseen| *unseen < depth);
    }
}
