//! A hospital's public key infrastructure: an authority, and certificates of every kind that a
//! PACS may show.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lightbox_provisioning::pki::{self, Authority};
use tempfile::TempDir;
use time::OffsetDateTime;

use crate::command::{program, run};

/// A certificate with its key, as files.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Certificate, PEM.
    pub certificate: PathBuf,
    /// Key, PEM.
    pub key: PathBuf,
    /// SHA-256 fingerprint of the certificate, hex.
    pub sha256: String,
}

/// One test's hospital, and the folder in which all that the test makes lies.
pub struct Hospital {
    folder: TempDir,
    authority: Authority,
}

#[expect(
    clippy::disallowed_methods,
    reason = "the peers check these certificates against the machine's clock"
)]
fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

const HOSTS: &[&str] = &["localhost", "127.0.0.1"];

impl Hospital {
    /// A new one.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("lightbox-test-").tempdir().expect("a temporary folder");
        let authority = Authority::new("Test Site CA", now()).expect("an authority");
        fs::write(folder.path().join("ca.crt"), &authority.certificate_pem).expect("written");
        Hospital { folder, authority }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A folder in it, made if missing.
    pub fn sub_folder(&self, name: &str) -> PathBuf {
        let path = self.folder().join(name);
        fs::create_dir_all(&path).expect("a folder");
        path
    }

    /// The authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder().join("ca.crt")
    }

    fn keep(&self, name: &str, made: &pki::Identity) -> Identity {
        let folder = self.sub_folder("pki");
        let identity = Identity {
            certificate: folder.join(format!("{name}.crt")),
            key: folder.join(format!("{name}.key")),
            sha256: made.sha256.clone(),
        };
        assert!(!identity.key.exists(), "there is already a certificate called {name}");
        fs::write(&identity.certificate, &made.certificate_pem).expect("written");
        fs::write(&identity.key, &made.key_pem).expect("written");
        identity
    }

    /// A certificate that the site's authority issued.
    pub fn issue(&self, name: &str) -> Identity {
        self.keep(name, &self.authority.issue(name, HOSTS, now(), 30).expect("issued"))
    }

    /// A certificate that the site's authority issued, with so many days to go.
    pub fn issue_for(&self, name: &str, days: i64) -> Identity {
        self.keep(name, &self.authority.issue(name, HOSTS, now(), days).expect("issued"))
    }

    /// Writes the authority's revocation list over these certificates to `file`, valid for `days`.
    pub fn revoke(&self, file: &Path, revoked: &[&Identity], days: i64) {
        let read = |identity: &&Identity| fs::read_to_string(&identity.certificate).expect("a certificate");
        let texts: Vec<String> = revoked.iter().map(read).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let list = self.authority.revoke(&texts, now(), days).expect("a list");
        // Renamed into its place, as a careful administrator does.
        let new = file.with_extension("new");
        fs::write(&new, list).expect("written");
        fs::rename(&new, file).expect("renamed");
    }

    /// A certificate that an authority of somebody else's issued.
    pub fn issued_elsewhere(&self, name: &str) -> Identity {
        let now = now();
        let elsewhere = Authority::new("Another CA", now).expect("an authority");
        self.keep(name, &elsewhere.issue(name, HOSTS, now, 30).expect("issued"))
    }

    /// A self-signed certificate, marked as an authority's where `ca_marked`.
    pub fn self_signed(&self, name: &str, ca_marked: bool) -> Identity {
        self.keep(name, &pki::self_signed(name, HOSTS, ca_marked, now()).expect("made"))
    }

    /// A self-signed certificate of X.509 version 1: no extensions at all.
    pub fn self_signed_version_1(&self, name: &str) -> Identity {
        let folder = self.sub_folder("pki");
        let file = |end: &str| folder.join(format!("{name}.{end}"));
        let (key, csr, certificate) = (file("key"), file("csr"), file("crt"));
        let openssl = || Command::new(program("openssl"));
        run(openssl()
            .args(["req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj"])
            .arg(format!("/CN={name}"))
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&csr))
        .ok("making a request");
        run(openssl()
            .args(["x509", "-req", "-days", "30", "-in"])
            .arg(&csr)
            .arg("-signkey")
            .arg(&key)
            .arg("-out")
            .arg(&certificate))
        .ok("signing it by itself");
        let text =
            run(openssl().args(["x509", "-noout", "-text", "-in"]).arg(&certificate)).ok("reading it").out;
        assert!(text.contains("Version: 1 (0x0)"), "not version 1: {text}");
        let said =
            run(openssl().args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]).arg(&certificate))
                .ok("its fingerprint");
        let sha256 = said.out.trim().split_once('=').expect("NAME=FINGERPRINT").1.to_owned();
        Identity { certificate, key, sha256 }
    }
}

impl Default for Hospital {
    fn default() -> Self {
        Hospital::new()
    }
}
