//! The messages to the server, and their replies.

use std::time::Duration;

use support::{Fault, Kind, Moment, ServerError};

use super::{
    World,
    errors::{Constraint, Retry, Trouble},
};

/// The moment of a fault, the fault, and how often it occurs.
pub(crate) type Strike = (Moment, Fault, u32);

/// The connections to the server, and what passed on them.
pub(super) struct Wire {
    pub(super) server: Kind,
    pub(super) pool: u32,
    strikes: Vec<Strike>,
    pub(super) begins: u32,
    pub(super) commits: u32,
    pub(super) rows: Vec<i64>,
    pub(super) hooks: Vec<i64>,
    pub(super) waited: Duration,
    /// The constraints that earlier attempts violated.
    pub(super) known: Vec<Constraint>,
}

/// The result of a message that was sent.
pub(super) struct Delivery {
    pub(super) heard: Heard,
    /// The server received and executed it.
    pub(super) done: bool,
    /// The connection is unusable.
    pub(super) dead: bool,
    /// The server replies after the wait has ended.
    pub(super) late: bool,
}

pub(super) enum Heard {
    Done,
    Error(ServerError),
    Lost,
    /// Nothing within the wait.
    Silence,
}

/// The crate gives up a ROLLBACK after this time.
pub(super) const HANGS: Duration = Duration::from_secs(2);

/// The crate takes another connection if a BEGIN has no reply after this time.
pub(super) const BEGIN_HANGS: Duration = Duration::from_secs(1);

impl Wire {
    pub(super) fn new(world: &World) -> Self {
        Self {
            server: world.server,
            pool: world.pool,
            strikes: world.strikes.clone(),
            begins: 0,
            commits: 0,
            rows: Vec::new(),
            hooks: Vec::new(),
            waited: Duration::ZERO,
            known: Vec::new(),
        }
    }

    /// Sends what `now` stands for, and waits for the server no longer than `patience`.
    pub(super) fn send(&mut self, now: &Moment, patience: Duration) -> Delivery {
        let mut strikes = self.strikes.iter_mut();
        let due = strikes.find(|(moment, _, left)| moment == now && *left > 0);
        let fault = due.map(|(_, fault, left)| {
            *left -= 1;
            fault.clone()
        });
        let delivery = |heard, done, dead| Delivery {
            heard,
            done,
            dead,
            late: false,
        };
        let delivery = match fault {
            None => delivery(Heard::Done, true, false),
            Some(Fault::Delay(delay)) if delay < patience => {
                self.waited += delay;
                delivery(Heard::Done, true, false)
            }
            Some(Fault::Delay(_)) => Delivery {
                late: true,
                ..delivery(Heard::Silence, true, false)
            },
            Some(Fault::CutBefore) => delivery(Heard::Lost, false, true),
            Some(Fault::CutSent | Fault::CutAfter) => delivery(Heard::Lost, true, true),
            Some(Fault::Swallow) => delivery(Heard::Silence, true, true),
            Some(Fault::Stall) => delivery(Heard::Silence, false, true),
            Some(Fault::Reject(error)) => delivery(Heard::Error(error), false, false),
            Some(Fault::Misreport(error)) => delivery(Heard::Error(error), true, false),
            Some(Fault::Terminate(error)) => delivery(Heard::Error(error), false, true),
        };
        if matches!(delivery.heard, Heard::Silence) {
            self.waited += patience;
        }
        delivery
    }

    /// R7: a violation is retried on PostgreSQL only, and once.
    pub(super) fn met(&self, trouble: Trouble) -> Trouble {
        let is_new =
            |constraint| self.server == Kind::PostgreSql && !self.known.contains(&constraint);
        match trouble.retry {
            Some(Retry::Violation(constraint, _)) if !is_new(constraint) => Trouble {
                retry: None,
                ..trouble
            },
            _ => trouble,
        }
    }

    /// Rolls back. Returns whether that ended before the deadline.
    pub(super) fn roll_back(&mut self, deadline: Duration) -> bool {
        let delivery = self.send(&Moment::Rollback, deadline.min(HANGS));
        // The next BEGIN may travel with it.
        self.begins += u32::from(delivery.late);
        !matches!(delivery.heard, Heard::Silence) || deadline > HANGS
    }
}
