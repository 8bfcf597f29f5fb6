//! The transaction of an attempt: BEGIN, statements, savepoints.

use std::mem::replace;

use support::{Kind, Moment};
use tower_interlock::ErrorKind;

use super::{
    attempt::{Attempt, Halt, Holder, Stop},
    errors::Trouble,
    wire::{BEGIN_HANGS, Heard},
};
use crate::script::{Close, FOREVER, Plain, Statement, Step};

/// The state of the transaction on the server.
#[derive(Default)]
pub(super) struct Transaction {
    pub(super) rows: Vec<i64>,
    savepoints: Vec<Savepoint>,
    statements: usize,
    /// It has read or written rows.
    used: bool,
    /// CockroachDB has moved it to another timestamp, because of a conflict.
    restarted: bool,
    read_only: bool,
    /// So it could only read from its beginning on.
    pub(super) began_read_only: bool,
    aborted: bool,
    /// A text has rolled it back.
    ended: bool,
    /// Its connection is gone.
    pub(super) dead: bool,
    /// The crate knows that its connection is gone, or will close it.
    pub(super) broken: bool,
    /// The depth of the outermost savepoint that was dropped.
    pub(super) dropped: Option<usize>,
    /// The error behind the first row of a dropped row stream.
    unread: Option<Trouble>,
    /// The depth of the savepoint with the first effect that the crate cannot see.
    unseen: Option<usize>,
    /// An event since then that may have ended the transaction.
    doubt: Option<Doubt>,
}

/// An open savepoint.
#[derive(Clone, Copy)]
struct Savepoint {
    /// The number of rows when it was set.
    rows: usize,
    /// Nothing was read or written before it was set.
    initial: bool,
}

/// An event that may have ended the transaction (T9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Doubt {
    RawConnection,
    Text,
}

impl Transaction {
    /// It may have been ended, and nothing has proved since that it was not (T9).
    pub(super) fn in_doubt(&self) -> bool {
        self.doubt() == Some(Doubt::Text)
    }

    fn doubt(&self) -> Option<Doubt> {
        self.doubt.filter(|_| self.unseen.is_some())
    }
}

impl Attempt<'_> {
    pub(super) fn statement(&mut self, statement: Statement) -> Result<(), Halt> {
        match statement {
            Statement::Plain(plain) => self.plain(plain),
            Statement::Raw(plain) => self.raw(plain),
            // T8.
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
                self.set_sentinel()?;
                self.write(&rows)
            }
            Statement::HiddenEnd => {
                self.hold(Holder::Own)?;
                self.set_sentinel()?;
                self.open().doubt = Some(Doubt::Text);
                self.send()?;
                self.open().ended = true;
                Ok(())
            }
            // T5.
            Statement::Control => {
                self.hold(Holder::Own)?;
                Err(self.record(Trouble::of(ErrorKind::Misconfigured)))
            }
            Statement::Rival => {
                self.hold(Holder::Rival)?;
                self.query()
            }
        }
    }

    pub(super) fn plain(&mut self, plain: Plain) -> Result<(), Halt> {
        let row = matches!(plain, Plain::Write).then(|| self.next_write());
        self.hold(Holder::Own)?;
        match plain {
            Plain::Write => self.prepare_and_write(row.as_slice()),
            // T6.
            Plain::Missing => {
                self.query()?;
                Err(Trouble::of(ErrorKind::NotFound).into())
            }
            Plain::Fail => self.fail(Trouble::of(ErrorKind::Database)),
            Plain::Conflict(attempts) if self.number <= attempts => {
                self.query()?;
                self.hold(Holder::Own)?;
                self.conflict()
            }
            Plain::Read | Plain::Conflict(_) => self.query(),
        }
    }

    /// T9: errors on the raw connection are not recorded.
    fn raw(&mut self, plain: Plain) -> Result<(), Halt> {
        self.hold(Holder::Own)?;
        self.away = true;
        self.set_sentinel()?;
        let transaction = self.open();
        transaction.doubt = transaction.doubt.max(Some(Doubt::RawConnection));
        let (recorded, broken) = (self.recorded.len(), self.open().broken);
        let done = self.unseen(plain);
        self.recorded.truncate(recorded);
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
                self.query()?;
                Err(Trouble::of(ErrorKind::NotFound).into())
            }
            Plain::Fail => self.fail(Trouble::of(ErrorKind::Database)),
            Plain::Conflict(attempts) if self.number <= attempts => {
                self.query()?;
                self.conflict()
            }
            Plain::Read | Plain::Conflict(_) => self.query(),
        }
    }

    /// A statement with values is prepared first.
    ///
    /// In an aborted transaction PostgreSQL rejects the preparation, and CockroachDB the execution.
    fn prepare_and_write(&mut self, rows: &[i64]) -> Result<(), Halt> {
        let rejects_prepare = self.wire.server == Kind::PostgreSql;
        if rejects_prepare && self.open().aborted && !self.open().dead && !self.open().broken {
            return Err(self.record(Trouble::HIDDEN));
        }
        self.write(rows)
    }

    /// Writes rows, unless the transaction is read-only.
    fn write(&mut self, rows: &[i64]) -> Result<(), Halt> {
        if self.open().read_only {
            return self.fail(Trouble::of(ErrorKind::Database));
        }
        self.query()?;
        self.open().rows.extend(rows);
        Ok(())
    }

    /// A write to a row that another session has written.
    fn conflict(&mut self) -> Result<(), Halt> {
        if self.open().read_only {
            return self.fail(Trouble::of(ErrorKind::Database));
        }
        self.send()?;
        self.open().aborted = true;
        self.open().restarted = self.wire.server == Kind::CockroachDb;
        Err(self.record(Trouble::CONFLICT))
    }

    /// A statement that the server rejects.
    fn fail(&mut self, trouble: Trouble) -> Result<(), Halt> {
        self.send()?;
        self.open().aborted = true;
        Err(self.record(trouble))
    }

    /// A savepoint. A dropped one is rolled back before the next statement.
    pub(super) fn savepoint(&mut self, steps: &[Step], close: Close) -> Result<(), Halt> {
        self.hold(Holder::Own)?;
        self.send()?;
        let transaction = self.open();
        transaction.savepoints.push(Savepoint {
            rows: transaction.rows.len(),
            initial: !transaction.used,
        });
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
            self.away = false;
            let dropped = &mut self.open().dropped;
            *dropped = Some(dropped.map_or(depth, |other| depth.min(other)));
        }
        closed
    }

    fn release(&mut self, depth: usize) -> Result<(), Halt> {
        self.hold(Holder::Own)?;
        self.send()?;
        self.open().leave(depth);
        let recorded = self.recorded.iter_mut().map(|(_, at)| at);
        let hooks = self.hooks.iter_mut().map(|(_, at)| at);
        recorded
            .chain(hooks)
            .for_each(|at| *at = (*at).min(depth - 1));
        Ok(())
    }

    fn roll_back(&mut self, depth: usize) -> Result<(), Halt> {
        self.away = false;
        if self.abandoned {
            return Err(Trouble::of(ErrorKind::TransactionAborted).into());
        }
        self.roll_back_to(depth)
    }

    /// T7. After a conflict CockroachDB can only go back to the beginning of the transaction.
    pub(super) fn roll_back_to(&mut self, depth: usize) -> Result<(), Halt> {
        if let Some(unread) = self.open().unread.take() {
            let _ = self.record(unread);
        }
        self.transmit()?;
        if self.open().ended {
            return Err(self.record(Trouble::UNSPECIFIED));
        }
        let transaction = self.open();
        let savepoint = transaction.savepoints[depth - 1];
        if transaction.restarted && !savepoint.initial {
            return Err(self.record(Trouble::CONFLICT));
        }
        transaction.aborted = false;
        transaction.restarted = false;
        transaction.rows.truncate(savepoint.rows);
        transaction.used &= !savepoint.initial;
        transaction.leave(depth);
        transaction.dropped = transaction.dropped.filter(|dropped| *dropped < depth);
        self.recorded
            .retain(|(trouble, at)| *at < depth || !trouble.can_be_cleared());
        self.hooks.retain(|(_, at)| *at < depth);
        Ok(())
    }

    /// T1 and T4.
    pub(super) fn hold(&mut self, who: Holder) -> Result<(), Halt> {
        if self.abandoned {
            self.away &= self.holder != Some(who);
            return Err(Trouble::of(ErrorKind::TransactionAborted).into());
        }
        if self.holder.is_some_and(|holder| holder != who) {
            let leased = Trouble::of(ErrorKind::TxInUse);
            self.recorded.push((leased, 0));
            return Err(leased.into());
        }
        self.holder = Some(who);
        self.opened = true;
        self.away = true;
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
        self.away = false;
        Ok(())
    }

    /// R2: a connection that is lost at BEGIN costs no attempt, up to the size of the pool plus
    /// one.
    fn begin(&mut self) -> Result<(), Halt> {
        let deadline = self.script.settings.deadline;
        let mut retries_left = self.wire.pool + 1;
        let trouble = loop {
            self.wire.begins += 1;
            let delivery = self.wire.send(&Moment::Begin, deadline.min(BEGIN_HANGS));
            let trouble = match &delivery.heard {
                Heard::Done => {
                    self.transaction = Some(Transaction {
                        read_only: self.read_only,
                        began_read_only: self.read_only,
                        ..Transaction::default()
                    });
                    return Ok(());
                }
                Heard::Silence if deadline <= BEGIN_HANGS => {
                    return Err(Halt::Stop(Stop::Deadline));
                }
                Heard::Silence | Heard::Lost => Trouble::LOST,
                Heard::Error(error) => self.wire.met(Trouble::reported_at_begin(error)),
            };
            if !trouble.is_lost_at_begin(&delivery.heard) || retries_left == 0 {
                break trouble;
            }
            retries_left -= 1;
        };
        Err(self.record(trouble))
    }

    /// T9. The next statement is preceded by the same check.
    pub(super) fn verify(&mut self) -> Result<(), Halt> {
        let verified = if let Some(unread) = self.open().unread.take() {
            Err(self.record(unread))
        } else if self.open().unseen.is_some() {
            self.send()
        } else {
            Ok(())
        };
        match verified {
            Ok(()) => self.open().unseen = None,
            Err(Halt::Error(Trouble { retry: None, .. })) => {
                self.recorded.pop();
                return Err(self.record(Trouble::of(ErrorKind::TransactionAborted)));
            }
            Err(other) => return Err(other),
        }
        Ok(())
    }

    fn set_sentinel(&mut self) -> Result<(), Halt> {
        if self.open().unseen.is_none() {
            self.send()?;
            self.open().unseen = Some(self.depth());
            self.open().doubt = None;
        }
        Ok(())
    }

    /// T9: whether the transaction was ended, or its connection cannot say that a text has not.
    pub(super) fn is_ended(&mut self) -> Result<bool, Stop> {
        let doubt = self.transaction.as_ref().and_then(Transaction::doubt);
        let Some(doubt) = doubt else {
            return Ok(false);
        };
        if self.escaped && self.away {
            return Ok(doubt == Doubt::Text);
        }
        let (recorded, broken) = (self.recorded.len(), self.open().broken);
        let asked = self.transmit();
        self.recorded.truncate(recorded);
        self.open().broken = broken || self.open().dead;
        match asked {
            Ok(()) => Ok(self.open().ended),
            Err(Halt::Stop(stop)) if self.script.settings.deadline >= FOREVER => Err(stop),
            // CockroachDB replies with it inside of a transaction only.
            Err(Halt::Error(Trouble::CONFLICT)) if self.wire.server == Kind::CockroachDb => {
                Ok(false)
            }
            Err(_) => Ok(doubt == Doubt::Text),
        }
    }

    /// A statement that reads or writes rows.
    fn query(&mut self) -> Result<(), Halt> {
        self.send()?;
        self.open().used = true;
        Ok(())
    }

    /// A statement, which fails if the transaction has ended or is aborted.
    fn send(&mut self) -> Result<(), Halt> {
        self.transmit()?;
        if self.open().ended {
            Err(self.record(Trouble::UNSPECIFIED))
        } else if self.open().aborted {
            Err(self.record(Trouble::HIDDEN))
        } else {
            Ok(())
        }
    }

    /// Sends something, unless the connection is known to be gone.
    pub(super) fn transmit(&mut self) -> Result<(), Halt> {
        let deadline = self.script.settings.deadline;
        if self.open().broken {
            return Err(self.record(Trouble::of(ErrorKind::TransactionAborted)));
        }
        if self.open().dead {
            self.open().broken = true;
            return Err(self.record(Trouble::LOST));
        }
        self.open().statements += 1;
        let moment = Moment::Statement(self.open().statements);
        let waited = self.wire.waited;
        let delivery = self.wire.send(&moment, deadline);
        let is_read_only = self.open().read_only;
        (self.open().dead, self.open().broken) = (delivery.dead, delivery.dead);
        let trouble = match delivery.heard {
            Heard::Done => return Ok(()),
            Heard::Silence => {
                self.wire.waited = waited.max(deadline);
                return Err(Halt::Stop(Stop::Deadline));
            }
            Heard::Lost => Trouble::LOST,
            Heard::Error(error) => {
                // In a READ ONLY transaction it is a mistake of the handler.
                if error.code() == "25006" && is_read_only {
                    Trouble::of(ErrorKind::Database)
                } else {
                    self.open().broken |= Trouble::closes(&error);
                    self.wire.met(Trouble::reported(&error))
                }
            }
        };
        self.open().aborted = true;
        Err(self.record(trouble))
    }

    fn record(&mut self, trouble: Trouble) -> Halt {
        self.recorded.push((trouble, self.depth()));
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
    /// Removes a savepoint. That the server knew it proves that the transaction is the same.
    fn leave(&mut self, depth: usize) {
        self.savepoints.truncate(depth - 1);
        self.unseen = self.unseen.filter(|unseen| *unseen < depth);
    }
}
