//! STOW-RS clients: dicomweb-client, and `curl` for bodies that no library makes.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::command::{program, python, run};
use crate::hospital::{Hospital, Identity};

/// A client with a certificate.
pub struct Stow {
    at: SocketAddr,
    ca: PathBuf,
    identity: Identity,
    folder: PathBuf,
}

/// What dicomweb-client was told.
#[derive(Debug)]
pub struct Told(Value);

impl Told {
    /// HTTP status; none without a connection.
    pub fn status(&self) -> Option<u64> {
        self.0["status"].as_u64()
    }

    /// SOP Instance UIDs that are stored, sorted.
    pub fn stored(&self) -> Vec<String> {
        let all = self.0["stored"].as_array().into_iter().flatten();
        let mut uids: Vec<String> = all.filter_map(Value::as_str).map(str::to_owned).collect();
        uids.sort();
        uids
    }

    /// The body of a refusal, or what went wrong before there was one.
    pub fn error(&self) -> &str {
        self.0["error"].as_str().unwrap_or_default()
    }
}

/// What `curl` was told.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status; 0 without an answer.
    pub status: u16,
    /// Head of the response.
    pub head: String,
    /// Body.
    pub body: String,
}

impl Answer {
    /// SOP Instance UIDs that are stored.
    pub fn stored(&self) -> Vec<String> {
        let told = self.json();
        let items = told["00081199"]["Value"].as_array().into_iter().flatten();
        items.map(|item| item["00081155"]["Value"][0].as_str().expect("a UID").to_owned()).collect()
    }

    /// SOP Instance UIDs that are not, with the Failure Reason; an empty UID for those that have none.
    pub fn failed(&self) -> Vec<(String, u64)> {
        let told = self.json();
        let items = ["00081198", "0008119A"].map(|tag| told[tag]["Value"].as_array().cloned());
        let reason = |item: Value| {
            let uid = item["00081155"]["Value"][0].as_str().unwrap_or_default().to_owned();
            (uid, item["00081197"]["Value"][0].as_u64().expect("a Failure Reason"))
        };
        items.into_iter().flatten().flatten().map(reason).collect()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Stow {
    /// A client of the port `at`.
    pub fn new(hospital: &Hospital, at: SocketAddr, identity: &Identity) -> Self {
        let folder = hospital.sub_folder("stow");
        Stow { at, ca: hospital.ca(), identity: identity.clone(), folder }
    }

    /// Stores files by dicomweb-client, to a study where one is named.
    #[track_caller]
    pub fn store(&self, files: &[PathBuf], study: Option<&str>) -> Told {
        let request = json!({
            "url": format!("https://{}/dicom-web", self.at), "ca": self.ca,
            "certificate": self.identity.certificate, "key": self.identity.key,
            "files": files, "study": study,
        });
        let said = run(python("stow.py").arg(request.to_string())).ok("stow.py");
        Told(serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {}", said.all())))
    }

    /// Sends a body with this Content-Type by `curl`; `options` go to curl.
    #[track_caller]
    pub fn post(&self, path: &str, content_type: &str, body: &[u8], options: &[&str]) -> Answer {
        let file = tempfile::NamedTempFile::new_in(&self.folder).expect("a file");
        fs::write(file.path(), body).expect("written");
        let data = format!("@{}", file.path().display());
        let media_type = format!("Content-Type: {content_type}");
        // curl awaits 100-continue for large bodies; most clients do not.
        let plain = ["-H", "Expect:", "--data-binary", &data, "-H", &media_type];
        self.ask(path, &[&plain[..], options].concat())
    }

    /// Sends a request by `curl`.
    #[track_caller]
    pub fn ask(&self, path: &str, options: &[&str]) -> Answer {
        let mut command = Command::new(program("curl"));
        command.args(["-sS", "-D", "/dev/stderr", "--max-time", "30", "-w", "\n%{http_code}", "--cacert"]);
        command.arg(&self.ca).arg("--cert").arg(&self.identity.certificate);
        command.arg("--key").arg(&self.identity.key).args(options);
        let said = run(command.arg(format!("https://{}{path}", self.at)));
        let (body, status) = said.out.rsplit_once('\n').unwrap_or(("", &said.out));
        Answer { status: status.trim().parse().unwrap_or(0), body: body.to_owned(), head: said.err }
    }
}

/// A body of files, each a part, with more header lines in each part.
pub fn body(boundary: &str, files: &[&Path], headers: &str) -> Vec<u8> {
    let mut body = Vec::new();
    for file in files {
        body.extend(format!("--{boundary}\r\nContent-Type: application/dicom\r\n{headers}\r\n").as_bytes());
        body.extend(fs::read(file).expect("a file"));
        body.extend(b"\r\n");
    }
    body.extend(format!("--{boundary}--\r\n").as_bytes());
    body
}

/// The Content-Type of such a body.
pub fn content_type(boundary: &str) -> String {
    format!("multipart/related; type=\"application/dicom\"; boundary={boundary}")
}
