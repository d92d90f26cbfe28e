//! Ports that stay ours for the life of the test, listening or not.

use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::sync::Mutex;

use nix::fcntl::{Flock, FlockArg};

/// Below the range from which the kernel takes ports by itself.
const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

static HELD: Mutex<Vec<Flock<File>>> = Mutex::new(Vec::new());

/// A port on which nobody listens and which no other test takes until this process ends.
pub fn reserve() -> u16 {
    let folder = std::env::temp_dir().join("lightbox-test-ports");
    std::fs::create_dir_all(&folder).expect("a folder for the ports' locks");
    let start = (std::process::id() as u16).wrapping_mul(13) % COUNT;
    for step in 0..COUNT {
        let port = FIRST + (start + step) % COUNT;
        let file = OpenOptions::new().create(true).append(true).open(folder.join(port.to_string()));
        let Ok(held) = Flock::lock(file.expect("a lock file"), FlockArg::LockExclusiveNonblock) else {
            continue;
        };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            HELD.lock().expect("whole").push(held);
            return port;
        }
    }
    panic!("no port is free");
}
