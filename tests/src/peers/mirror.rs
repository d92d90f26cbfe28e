//! A mirror of the repository of models, inside the hospital: Python's HTTPS server.

use std::path::Path;

use super::port;
use super::server::Server;
use crate::command::python;
use crate::hospital::{Hospital, Identity};

/// The mirror.
pub struct Mirror {
    server: Server,
    /// Its port.
    pub port: u16,
}

impl Mirror {
    /// Serves a folder with that certificate.
    #[track_caller]
    pub fn start(hospital: &Hospital, identity: &Identity, folder: &Path) -> Self {
        let port = port::reserve();
        let mut command = python("mirror.py");
        command
            .arg(port.to_string())
            .args([&identity.certificate, &identity.key, &hospital.ca()])
            .arg(folder);
        let log = hospital.folder().join(format!("mirror-{port}.log"));
        Mirror { server: Server::start(&mut command, port, &log), port }
    }

    /// What was asked of it.
    pub fn log(&self) -> String {
        self.server.log()
    }
}
