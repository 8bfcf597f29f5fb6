//! What is sent, and what is heard of it.

use std::time::Duration;

use support::{Fault, Kind, Moment, ServerError};

use super::World;

/// A fault, the moment it comes at, and how often.
pub(crate) type Strike = (Moment, Fault, u32);

/// The way to the server, and what has passed.
pub(super) struct Wire {
    pub(super) server: Kind,
    pub(super) pool: u32,
    strikes: Vec<Strike>,
    pub(super) begins: u32,
    pub(super) commits: u32,
    pub(super) rows: Vec<i64>,
    pub(super) hooks: Vec<i64>,
    pub(super) waited: Duration,
}

/// What comes of something that is sent.
pub(super) struct Reply {
    pub(super) heard: Heard,
    /// The server has got it, and does it.
    pub(super) done: bool,
    /// The connection is of no use any more.
    pub(super) dead: bool,
    /// It is answered when nobody waits any more.
    pub(super) late: bool,
}

pub(super) enum Heard {
    Done,
    Error(ServerError),
    Lost,
    /// Nothing, for as long as somebody waits.
    Silence,
}

/// What only a connection that hangs takes so long for.
pub(super) const HANGS: Duration = Duration::from_secs(5);

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
        }
    }

    /// Sends what is sent `now`, and waits for the answer no longer than `patience`.
    pub(super) fn send(&mut self, now: &Moment, patience: Duration) -> Reply {
        let mut strikes = self.strikes.iter_mut();
        let due = strikes.find(|(moment, _, left)| moment == now && *left > 0);
        let fault = due.map(|(_, fault, left)| {
            *left -= 1;
            fault.clone()
        });
        let reply = |heard, done, dead| Reply {
            heard,
            done,
            dead,
            late: false,
        };
        let reply = match fault {
            None => reply(Heard::Done, true, false),
            Some(Fault::Delay(delay)) if delay < patience => {
                self.waited += delay;
                reply(Heard::Done, true, false)
            }
            Some(Fault::Delay(_)) => Reply {
                late: true,
                ..reply(Heard::Silence, true, false)
            },
            Some(Fault::CutBefore) => reply(Heard::Lost, false, true),
            Some(Fault::CutSent | Fault::CutAfter) => reply(Heard::Lost, true, true),
            Some(Fault::Swallow) => reply(Heard::Silence, true, true),
            Some(Fault::Stall) => reply(Heard::Silence, false, true),
            Some(Fault::Refuse(error)) => reply(Heard::Error(error), false, false),
            Some(Fault::Misreport(error)) => reply(Heard::Error(error), true, false),
            Some(Fault::Terminate(error)) => reply(Heard::Error(error), false, true),
        };
        if matches!(reply.heard, Heard::Silence) {
            self.waited += patience;
        }
        reply
    }

    /// Rolls back, and says whether the deadline has not passed over that.
    pub(super) fn roll_back(&mut self, deadline: Duration) -> bool {
        let reply = self.send(&Moment::Rollback, deadline.min(HANGS));
        // The next BEGIN may travel with it.
        self.begins += u32::from(reply.late);
        !matches!(reply.heard, Heard::Silence) || deadline > HANGS
    }
}
