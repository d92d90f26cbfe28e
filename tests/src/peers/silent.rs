//! A peer that takes connections and never says a word.

use std::net::TcpListener;
use std::thread;

use super::port;

/// The peer; it lives as long as the test.
pub struct Silent {
    /// Its port.
    pub port: u16,
}

impl Silent {
    /// Starts it.
    pub fn start() -> Self {
        let port = port::reserve();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is ours");
        thread::spawn(move || {
            let mut kept = Vec::new();
            kept.extend(listener.incoming().map_while(Result::ok));
        });
        Silent { port }
    }
}
