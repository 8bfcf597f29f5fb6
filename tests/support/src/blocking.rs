use std::{io, panic, thread};

/// Runs a future to its end, also if the calling thread is inside a runtime.
pub(crate) fn block_on<T: Send>(future: impl Future<Output = T> + Send) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;

    thread::scope(|scope| {
        let result = scope.spawn(move || runtime.block_on(future)).join();
        Ok(result.unwrap_or_else(|panic| panic::resume_unwind(panic)))
    })
}
