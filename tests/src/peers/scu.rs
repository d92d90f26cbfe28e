//! A sender with every knob of the association request: pynetdicom over TLS (`tests/peers/scu.py`).

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::command::{python, run};
use crate::hospital::{Hospital, Identity};
use crate::site::AE_TITLE;

/// Verification.
pub const VERIFICATION: &str = "1.2.840.10008.1.1";
/// CT Image Storage.
pub const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
/// MR Image Storage.
pub const MR: &str = "1.2.840.10008.5.1.4.1.1.4";
/// Implicit VR Little Endian.
pub const IMPLICIT: &str = "1.2.840.10008.1.2";
/// Explicit VR Little Endian.
pub const EXPLICIT: &str = "1.2.840.10008.1.2.1";

/// A sender; `request` is what the script reads, and may be changed before it is sent.
#[derive(Clone, Debug)]
pub struct Scu {
    /// The request, as `scu.py` reads it.
    pub request: Value,
}

/// How a request was answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// All that the script told.
    pub told: Value,
    /// What pynetdicom said besides.
    pub said: String,
}

/// An association that is held open.
pub struct Held {
    child: Child,
    out: BufReader<ChildStdout>,
    /// How the request was answered.
    pub answer: Answer,
}

impl Scu {
    /// A sender that proposes Verification and CT, each with both uncompressed transfer syntaxes.
    pub fn new(hospital: &Hospital, calling: &str, identity: &Identity) -> Self {
        let path = |path: &Path| path.display().to_string();
        Scu {
            request: json!({
                "ca": path(&hospital.ca()), "certificate": path(&identity.certificate), "key": path(&identity.key),
                "calling": calling, "called": AE_TITLE,
                "contexts": [[VERIFICATION, [IMPLICIT, EXPLICIT]], [CT, [IMPLICIT, EXPLICIT]]],
            }),
        }
    }

    /// The same with one key of the request changed.
    #[must_use]
    pub fn with(&self, key: &str, value: Value) -> Self {
        let mut changed = self.clone();
        changed.request[key] = value;
        changed
    }

    fn command(&self, to: SocketAddr) -> Command {
        let mut request = self.request.clone();
        request["port"] = to.port().into();
        let mut command = python("scu.py");
        command.arg(request.to_string());
        command
    }

    /// Asks for an association, sends what `send` names, and releases.
    #[track_caller]
    pub fn ask(&self, to: SocketAddr) -> Answer {
        let said = run(&mut self.command(to)).ok("scu.py");
        let told =
            serde_json::from_str(said.out.trim()).unwrap_or_else(|error| panic!("{error}: {}", said.all()));
        Answer { told, said: said.err }
    }

    /// Asks for an association and holds it open.
    #[track_caller]
    pub fn hold(&self, to: SocketAddr) -> Held {
        let mut child = self
            .with("hold", true.into())
            .command(to)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("scu.py starts");
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let answer = Answer { told: line(&mut out), said: String::new() };
        Held { child, out, answer }
    }
}

#[track_caller]
fn line(out: &mut impl BufRead) -> Value {
    let mut text = String::new();
    out.read_line(&mut text).expect("read");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

impl Held {
    /// Ends it; yields the status of a C-ECHO that was sent on it just before.
    #[track_caller]
    pub fn end(mut self) -> Option<u64> {
        drop(self.child.stdin.take());
        let told = line(&mut self.out);
        self.child.wait().expect("a child of ours");
        told["echo"].as_u64()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Answer {
    /// Whether there was an association.
    pub fn established(&self) -> bool {
        self.told["established"] == true
    }

    /// Result, source and reason, as `1/1/3`.
    pub fn rejected(&self) -> Option<String> {
        let numbers = self.told["rejected"].as_array()?;
        Some(numbers.iter().map(Value::to_string).collect::<Vec<_>>().join("/"))
    }

    /// The result and, where accepted, the transfer syntax of the first context of a SOP class.
    pub fn context(&self, sop_class: &str) -> Option<(u64, String)> {
        let contexts = self.told["contexts"].as_array()?;
        let found = contexts.iter().find(|context| context[1] == sop_class)?;
        Some((found[2].as_u64()?, found[3].as_str().unwrap_or_default().to_owned()))
    }

    /// The statuses of what was sent.
    pub fn statuses(&self) -> Vec<u64> {
        self.told["statuses"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
    }
}

/// Paths as the request holds them.
pub fn paths(files: &[PathBuf]) -> Value {
    files.iter().map(|file| file.display().to_string()).collect()
}
