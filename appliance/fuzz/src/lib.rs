//! What all targets share.

use std::panic::catch_unwind;
use std::process::abort;
use std::sync::{Mutex, Once, PoisonError};

static LAST: Mutex<String> = Mutex::new(String::new());

/// Runs a target on one input. The fuzzer's own hook calls every panic a crash; but the product contains the
/// panics of decoders and parsers that are not its own (`catch_unwind`), and only one that gets out ends it.
pub fn run(target: fn(&[u8]), input: &[u8]) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            *LAST.lock().unwrap_or_else(PoisonError::into_inner) = panic.to_string();
        }));
    });
    if catch_unwind(|| target(input)).is_err() {
        eprintln!("{}", LAST.lock().unwrap_or_else(PoisonError::into_inner));
        abort();
    }
}
