//! dcmtk's `storescu` with TLS: a modality, or a PACS's router.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{Said, program, run};
use crate::hospital::{Hospital, Identity};
use crate::site::AE_TITLE;

/// A sender.
#[derive(Clone, Debug)]
pub struct Storescu {
    /// Its AE title.
    pub ae_title: String,
    /// Whom it calls.
    pub called: String,
    /// Its certificate; none: it offers TLS without one.
    pub identity: Option<Identity>,
    ca: PathBuf,
}

/// What came of sending.
#[derive(Debug)]
pub struct Sent {
    /// All that `storescu` said.
    pub said: Said,
    /// The files that were acknowledged with success.
    pub acknowledged: Vec<PathBuf>,
    /// The statuses, as in 0xa700, in the order of the responses.
    pub statuses: Vec<u16>,
}

impl Storescu {
    /// A sender with a certificate that the site's authority issued.
    pub fn new(hospital: &Hospital, ae_title: &str) -> Self {
        Self::with(hospital, ae_title, hospital.issue(&ae_title.to_lowercase()))
    }

    /// A sender with this certificate.
    pub fn with(hospital: &Hospital, ae_title: &str, identity: Identity) -> Self {
        Storescu {
            ae_title: ae_title.into(),
            called: AE_TITLE.into(),
            identity: Some(identity),
            ca: hospital.ca(),
        }
    }

    /// Its certificate.
    pub fn identity(&self) -> &Identity {
        self.identity.as_ref().expect("this sender has a certificate")
    }

    /// Sends the files over one association; `options` say which transfer syntax is proposed.
    #[track_caller]
    pub fn send(&self, to: SocketAddr, options: &[&str], files: &[PathBuf]) -> Sent {
        let mut command = Command::new(program("storescu"));
        command.args(["-d", "-R", "-nh", "--timeout", "20"]).args(options);
        match &self.identity {
            Some(identity) => command.arg("+tls").args([&identity.key, &identity.certificate]),
            None => command.arg("+tla"),
        };
        command
            .arg("+cf")
            .arg(&self.ca)
            .args(["-aet", &self.ae_title, "-aec", &self.called])
            .args([to.ip().to_string(), to.port().to_string()])
            .args(files);
        let said = run(&mut command);
        read(said)
    }

    /// Sends and panics unless every file was acknowledged.
    #[track_caller]
    pub fn deliver(&self, to: SocketAddr, options: &[&str], files: &[PathBuf]) -> Sent {
        let sent = self.send(to, options, files);
        assert_eq!(sent.acknowledged.len(), files.len(), "not all were acknowledged:\n{}", sent.said.all());
        sent
    }

    /// Sends one file of any transfer syntax as it is.
    #[track_caller]
    pub fn deliver_as_it_is(&self, to: SocketAddr, file: &Path) -> Sent {
        self.deliver(to, proposal(file), &[file.to_owned()])
    }
}

fn read(said: Said) -> Sent {
    let mut sent = Sent { acknowledged: Vec::new(), statuses: Vec::new(), said };
    let mut current = None;
    for line in sent.said.all().lines() {
        if let Some((_, file)) = line.split_once("Sending file: ") {
            current = Some(PathBuf::from(file.trim()));
        } else if line.contains("DIMSE Status") {
            let hex = line.split_once("0x").map_or("", |(_, rest)| rest.get(..4).unwrap_or(""));
            let Ok(status) = u16::from_str_radix(hex, 16) else { continue };
            sent.statuses.push(status);
            if status == 0 {
                sent.acknowledged.extend(current.take());
            }
        }
    }
    sent
}

/// The options by which `storescu` proposes a file's own transfer syntax.
pub fn proposal(file: &Path) -> &'static [&'static str] {
    let object = dicom_object::open_file(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    match object.meta().transfer_syntax().trim_end_matches('\0') {
        "1.2.840.10008.1.2.4.50" => &["-xy"],
        "1.2.840.10008.1.2.4.51" => &["-xx"],
        "1.2.840.10008.1.2.4.70" => &["-xs"],
        "1.2.840.10008.1.2.4.80" => &["-xt"],
        "1.2.840.10008.1.2.4.81" => &["-xu"],
        "1.2.840.10008.1.2.4.90" => &["-xv"],
        "1.2.840.10008.1.2.4.91" => &["-xw"],
        "1.2.840.10008.1.2.5" => &["-xr"],
        _ => &[],
    }
}
