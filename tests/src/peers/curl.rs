//! `curl` as an operator's browser: HTTPS with a client certificate.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use crate::command::{Said, program, run};
use crate::hospital::{Hospital, Identity};

/// A browser of the administration page.
pub struct Browser {
    admin: SocketAddr,
    ca: PathBuf,
    identity: Option<Identity>,
}

/// An answer.
#[derive(Debug)]
pub struct Page {
    /// HTTP status; 0 where there was no answer.
    pub status: u16,
    /// Body.
    pub body: String,
    /// What `curl` said on stderr.
    pub said: Said,
}

impl Browser {
    /// A browser with a client certificate, or without.
    pub fn new(hospital: &Hospital, admin: SocketAddr, identity: Option<&Identity>) -> Self {
        Browser { admin, ca: hospital.ca(), identity: identity.cloned() }
    }

    /// Fetches a page; `options` go to curl.
    pub fn fetch(&self, path: &str, options: &[&str]) -> Page {
        let mut command = Command::new(program("curl"));
        command.args(["-sS", "--max-time", "20", "-w", "\n%{http_code}", "--cacert"]).arg(&self.ca);
        if let Some(identity) = &self.identity {
            command.arg("--cert").arg(&identity.certificate).arg("--key").arg(&identity.key);
        }
        let said = run(command.args(options).arg(format!("https://{}{path}", self.admin)));
        let (body, status) = said.out.rsplit_once('\n').unwrap_or(("", &said.out));
        Page { status: status.trim().parse().unwrap_or(0), body: body.to_owned(), said }
    }

    /// GET.
    pub fn get(&self, path: &str) -> Page {
        self.fetch(path, &[])
    }

    /// POST of a form, from the page itself.
    pub fn post(&self, path: &str, form: &str) -> Page {
        let origin = format!("Origin: https://{}", self.admin);
        self.fetch(path, &["-X", "POST", "--data", form, "-H", &origin])
    }
}
