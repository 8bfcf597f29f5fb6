//! The CPU time of this process.

use std::{fs, time::Duration};

/// Returns the CPU time of all threads so far, if the system reports it.
pub(crate) fn time() -> Option<Duration> {
    let mut sum = 0;
    for thread in fs::read_dir("/proc/self/task").ok()? {
        let schedule = thread.ok()?.path().join("schedstat");
        // Empty if the thread has ended.
        let schedule = fs::read_to_string(schedule).unwrap_or_default();
        let nanoseconds = schedule.split(' ').next()?;
        sum += nanoseconds.parse::<u64>().unwrap_or_default();
    }
    (sum > 0).then(|| Duration::from_nanos(sum))
}
