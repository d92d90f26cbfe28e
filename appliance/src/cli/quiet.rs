//! What a verb does when nobody reads on (`lightbox ... | head`): it ends without a word, as other programs do that the
//! signal SIGPIPE ends. Rust ignores the signal: `println!` panics instead, and `writeln!` gives an error.

use std::io;
use std::os::fd::AsFd as _;
use std::panic;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The exit code: what a shell shows for a program that SIGPIPE ended.
pub const EXIT_READER_GONE: u8 = 141;

/// From now on a `println!` that nobody reads ends the program quietly. Every other panic is told as ever.
pub fn end_with_the_reader() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let text = info.payload_as_str().unwrap_or_default();
        // The standard library's words for a `print!` that failed.
        if text.starts_with("failed printing to std") && is_a_reader_gone() {
            std::process::exit(EXIT_READER_GONE.into());
        }
        usual(info);
    }));
}

/// Whether a verb failed because nobody reads its output any more: not where a peer closed a connection.
pub fn is_the_reader_gone(error: &anyhow::Error) -> bool {
    let broken = |kind: Option<io::ErrorKind>| kind == Some(io::ErrorKind::BrokenPipe);
    let pipe = error.chain().any(|cause| {
        let written = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let json = cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
        broken(written) || broken(json)
    });
    pipe && is_a_reader_gone()
}

/// Whether standard output or standard error is a pipe or socket whose other end is closed.
fn is_a_reader_gone() -> bool {
    let (out, err) = (io::stdout(), io::stderr());
    let mut both =
        [PollFd::new(out.as_fd(), PollFlags::empty()), PollFd::new(err.as_fd(), PollFlags::empty())];
    poll(&mut both, PollTimeout::ZERO).is_ok()
        && both.iter().any(|one| {
            one.revents().is_some_and(|found| found.intersects(PollFlags::POLLERR | PollFlags::POLLHUP))
        })
}
