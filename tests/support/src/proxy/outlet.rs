//! The writing end of a connection, with a delay.

use std::{
    io::{self, Write as _},
    net::TcpStream,
    sync::{
        Arc, LazyLock,
        mpsc::{self, Sender},
    },
    thread,
    time::{Duration, Instant},
};

/// An end that writes bytes some time after they were sent.
pub(super) enum Outlet {
    Near(Arc<TcpStream>),
    Far {
        delay: Duration,
        queue: Sender<(Instant, Vec<u8>)>,
    },
}

impl Outlet {
    pub(super) fn new(stream: Arc<TcpStream>, delay: Duration) -> Self {
        if delay.is_zero() {
            return Self::Near(stream);
        }
        let delay = delay.saturating_sub(*OVERSLEPT);
        let (queue, sent) = mpsc::channel::<(Instant, Vec<u8>)>();
        thread::spawn(move || {
            for (due, bytes) in sent {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                if (&*stream).write_all(&bytes).is_err() {
                    break;
                }
            }
        });
        Self::Far { delay, queue }
    }

    pub(super) fn send(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        match self {
            Self::Near(stream) => (&**stream).write_all(&bytes),
            Self::Far { delay, queue } => queue
                .send((Instant::now() + *delay, bytes))
                .map_err(|_| io::ErrorKind::BrokenPipe.into()),
        }
    }
}

/// How much longer than requested a thread sleeps on an idle machine, which is less than 0.1 ms.
///
/// The delays of a busy machine are not subtracted. Otherwise the latency would be too short once
/// the machine is idle.
static OVERSLEPT: LazyLock<Duration> = LazyLock::new(|| {
    const NAP: Duration = Duration::from_micros(500);
    let overslept = [Duration::ZERO; 31].map(|_| {
        let begun = Instant::now();
        thread::sleep(NAP);
        begun.elapsed().saturating_sub(NAP)
    });
    overslept.into_iter().min().unwrap_or_default()
});
