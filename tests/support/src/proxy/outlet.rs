//! The end of a connection that is written to, as far away as it is to be.

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

/// Where bytes leave, some time after they were sent.
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

/// How much longer than told a thread sleeps here at least: less than 0.1 ms. What a busy machine adds
/// is not taken off, or the distance would be too short when it is busy no longer.
static OVERSLEPT: LazyLock<Duration> = LazyLock::new(|| {
    const NAP: Duration = Duration::from_micros(500);
    let overslept = [Duration::ZERO; 31].map(|_| {
        let begun = Instant::now();
        thread::sleep(NAP);
        begun.elapsed().saturating_sub(NAP)
    });
    overslept.into_iter().min().unwrap_or_default()
});
