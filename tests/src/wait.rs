//! Waiting for something to become true, with a deadline and a reason.

use std::fmt::Display;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(50);

/// Waits until `probe` yields a value. Past the deadline it panics with `what` and what `explain` says.
pub fn until<T, E: Display>(
    what: &str,
    seconds: u64,
    mut probe: impl FnMut() -> Option<T>,
    explain: impl FnOnce() -> E,
) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        if Instant::now() >= deadline {
            panic!("waited {seconds} s in vain for: {what}\n{}", explain());
        }
        sleep(PAUSE);
    }
}
