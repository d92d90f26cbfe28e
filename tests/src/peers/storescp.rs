//! dcmtk's `storescp` with TLS: a PACS that keeps each object as a file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::port;
use super::server::Server;
use crate::command::program;
use crate::hospital::{Hospital, Identity};

/// A receiving `storescp`.
pub struct Storescp {
    server: Option<Server>,
    name: String,
    folder: PathBuf,
    ca: PathBuf,
    options: Vec<String>,
    /// Its port, its own for as long as the test runs.
    pub port: u16,
    /// Its certificate.
    pub identity: Identity,
}

impl Storescp {
    /// One that does not run yet.
    pub fn stopped(hospital: &Hospital, name: &str, options: &[&str]) -> Self {
        Storescp {
            server: None,
            name: name.into(),
            folder: hospital.sub_folder(name),
            ca: hospital.ca(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            port: port::reserve(),
            identity: hospital.issue(name),
        }
    }

    /// One that runs.
    #[track_caller]
    pub fn start(hospital: &Hospital, name: &str) -> Self {
        let mut made = Self::stopped(hospital, name, &[]);
        made.run();
        made
    }

    /// Lets it run.
    #[track_caller]
    pub fn run(&mut self) {
        let mut command = Command::new(program("storescp"));
        command
            .args(["-v", "--fork", "+xa", "+tls"])
            .args([&self.identity.key, &self.identity.certificate])
            .arg("+cf")
            .arg(&self.ca)
            .args(&self.options)
            .arg("-od")
            .arg(&self.folder)
            .arg(self.port.to_string());
        let log = self.folder.with_extension("log");
        self.server = Some(Server::start(&mut command, self.port, &log));
    }

    /// Its AE title for the site file.
    pub fn ae_title(&self) -> String {
        self.name.to_uppercase()
    }

    /// The files that it has received, by name.
    pub fn files(&self) -> Vec<PathBuf> {
        files(&self.folder)
    }
}

/// The files of a folder, by name.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found
}
