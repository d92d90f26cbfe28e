//! A peer that is a program listening on a port.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use crate::wait;

/// A running program; killed on drop, and a failing test prints what it said.
pub struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts it with its output going to `log`, and waits until `port` answers.
    #[track_caller]
    pub fn start(command: &mut Command, port: u16, log: &Path) -> Self {
        let out = File::options().create(true).append(true).open(log).expect("a log file");
        let err = out.try_clone().expect("a second handle");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let said = || fs::read_to_string(log).unwrap_or_default();
        wait::until(
            &format!("{command:?} to listen on {port}"),
            60,
            || {
                if let Some(status) = child.try_wait().expect("a child of ours") {
                    panic!("{command:?} ended at once: {status}\n{}", said());
                }
                TcpStream::connect(("127.0.0.1", port)).ok()
            },
            said,
        );
        Server { child, log: log.to_owned() }
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let said = self.log();
            let tail: Vec<&str> = said.lines().rev().take(40).collect();
            eprintln!("--- {}", self.log.display());
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}
