//! PACS that are queried and retrieved from: dcmtk's `dcmqrscp`, and a pynetdicom one that is odd.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::port;
use super::server::Server;
use crate::command::{program, python, run};
use crate::hospital::{Hospital, Identity};
use crate::site::AE_TITLE;

/// A running `dcmqrscp`. Debian's knows no TLS.
pub struct Dcmqrscp {
    _server: Server,
    /// Its port.
    pub port: u16,
}

impl Dcmqrscp {
    /// Its AE title.
    pub const AE_TITLE: &str = "QRSCP";

    /// Starts one that knows us at this port, and gives it files.
    #[track_caller]
    pub fn start(hospital: &Hospital, ours: u16, files: &[PathBuf]) -> Self {
        let folder = hospital.sub_folder("dcmqrscp");
        let database = hospital.sub_folder("dcmqrscp/db");
        let port = port::reserve();
        let ae = Self::AE_TITLE;
        let configuration = format!(
            "NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n\nHostTable BEGIN\n\
             us = ({AE_TITLE}, localhost, {ours})\nHostTable END\n\nVendorTable BEGIN\nVendorTable END\n\n\
             AETable BEGIN\n{ae} {} RW (100, 1024mb) ANY\nAETable END\n",
            database.display()
        );
        let path = folder.join("dcmqrscp.cfg");
        fs::write(&path, configuration).expect("written");
        let server = Server::start(
            Command::new(program("dcmqrscp")).arg("-d").arg("-c").arg(&path),
            port,
            &folder.join("dcmqrscp.log"),
        );
        run(Command::new(program("storescu"))
            .args(["-R", "-aec", ae, "127.0.0.1", &port.to_string()])
            .args(files))
        .ok("filling dcmqrscp");
        Dcmqrscp { _server: server, port }
    }
}

/// A PACS that answers in an odd way.
pub struct OddPacs {
    _server: Server,
    /// Its port.
    pub port: u16,
    /// Its certificate.
    pub identity: Identity,
}

impl OddPacs {
    /// Starts it; `how` is one of those that `odd_qr_scp.py` knows.
    #[track_caller]
    pub fn start(hospital: &Hospital, how: &str) -> Self {
        let identity = hospital.issue(how);
        let port = port::reserve();
        let mut command = python("odd_qr_scp.py");
        command.arg(port.to_string()).args([&identity.certificate, &identity.key, &hospital.ca()]).arg(how);
        let log = hospital.folder().join(format!("{how}.log"));
        OddPacs { _server: Server::start(&mut command, port, &log), port, identity }
    }
}
