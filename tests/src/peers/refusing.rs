//! A PACS (pynetdicom) that takes the association and refuses what is sent, in its own words.

use super::port;
use super::server::Server;
use crate::command::python;
use crate::hospital::{Hospital, Identity};

/// How it refuses.
#[derive(Clone, Copy, Debug)]
pub enum Refusal {
    /// C-STORE-RSP with this status and Error Comment (0000,0902).
    Status(u16, &'static str),
    /// It knows CT images only: no presentation context for an SR.
    SopClass,
}

/// The PACS.
pub struct RefusingScp {
    _server: Server,
    /// Its port.
    pub port: u16,
    /// Its certificate.
    pub identity: Identity,
}

impl RefusingScp {
    /// Starts it.
    #[track_caller]
    pub fn start(hospital: &Hospital, name: &str, refusal: Refusal) -> Self {
        let identity = hospital.issue(name);
        let port = port::reserve();
        let mut command = python("refusing_scp.py");
        command.arg(port.to_string()).args([&identity.certificate, &identity.key, &hospital.ca()]);
        match refusal {
            Refusal::Status(status, comment) => command.args([&format!("{status:#06x}"), comment]),
            Refusal::SopClass => command.arg("sop-class"),
        };
        let log = hospital.folder().join(format!("{name}.log"));
        RefusingScp { _server: Server::start(&mut command, port, &log), port, identity }
    }
}
