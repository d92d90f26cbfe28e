//! `lightbox inspect`: what a box says of itself, collected there and verified elsewhere.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use clap::{Parser, Subcommand};
use lightbox_bootstrap::identity::PublicKey;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::print::{plain, print_json, print_table};
use crate::clock::{Clock as _, SystemClock};
use crate::inspect::collect::Machine;
use crate::inspect::judge::{Verdict, Wanted, changes, judge};
use crate::inspect::{Envelope, Report};

/// Exit code for a report that is genuine and says that something is not as it should be.
pub const EXIT_NOT_GOOD: u8 = 3;
/// How far the box's clock may be ahead of ours, in seconds.
const CLOCKS_APART: i64 = 120;

/// Checks a box from outside: its own signed report of what runs on it, and how.
///
/// The administration page gives the report at /system/report (page: System, Inspection). It says which image was started and
/// how, what the TPM measured, which ports are open and whose they are, what is mounted, and how each unit is confined.
#[derive(Debug, Parser)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Verifies a saved report, on any machine, and says what of it is not as it should be.
    ///
    /// Exit code 0: genuine, and all is good. 3: genuine, but something is not good or was not seen. 1: not genuine, too old,
    /// or not to be read.
    #[command(
        after_help = "Examples:\n  curl --cert op.crt --key op.key --cacert box.crt https://box:8443/system/device.pub -o device.pub    # once, at acceptance\n  curl --cert op.crt --key op.key --cacert box.crt \"https://box:8443/system/report?nonce=4711\" -o report.json\n  lightbox inspect verify report.json --public-key device.pub --nonce 4711\n  lightbox inspect verify report.json --public-key device.pub --image summary.json --against acceptance.json"
    )]
    Verify(Verify),
    /// Collects what is so on this machine, as JSON. The image's own unit runs this, as root; elsewhere it shows what
    /// the caller may see.
    Collect {
        /// Where to; standard output without it.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
struct Verify {
    /// The report.
    report: PathBuf,
    /// The device's public key: /system/device.pub of the administration page, saved when the box was accepted.
    #[arg(long, value_name = "FILE")]
    public_key: PathBuf,
    /// The nonce that was sent. Without one, an earlier report of the same box could be shown: see --max-age.
    #[arg(long, value_name = "TEXT")]
    nonce: Option<String>,
    /// Oldest report that is taken, in minutes, by this machine's clock. 0: any.
    #[arg(long, value_name = "MINUTES", default_value_t = 60)]
    max_age: u32,
    /// What should run: the image's manifest from the publisher's repository (a file SHA256.system.json), or summary.json of its build.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// A value that a TPM register must hold: NUMBER=HEX, as often as wanted.
    #[arg(long, value_name = "NUMBER=HEX", value_parser = register)]
    register: Vec<(u8, String)>,
    /// An earlier report of the same box (of its acceptance): what has changed since is listed.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Write JSON for programs.
    #[arg(long)]
    json: bool,
}

fn register(text: &str) -> Result<(u8, String), String> {
    let (number, value) = text.split_once('=').ok_or("NUMBER=HEX")?;
    let number = number.parse().ok().filter(|number| *number < 24).ok_or("a register is 0 to 23")?;
    let is_hex = value.len() == 64 && value.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_hex { Ok((number, value.to_owned())) } else { Err("a value is 64 hex digits (SHA-256)".into()) }
}

impl Args {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let out = &mut std::io::stdout().lock();
        match self.command {
            Command::Verify(args) => args.run(out),
            Command::Collect { output } => {
                let facts = Machine::running().collect(SystemClock.now());
                match output {
                    None => print_json(out, &facts)?,
                    Some(path) => {
                        // Renamed into place: the daemon reads it at any time.
                        let aside = path.with_extension("new");
                        fs::write(&aside, serde_json::to_vec(&facts)?)
                            .and_then(|()| fs::rename(&aside, &path))
                            .with_context(|| path.display().to_string())?;
                    }
                }
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

impl Verify {
    fn run(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let pem = fs::read_to_string(&self.public_key)
            .with_context(|| format!("--public-key {}", self.public_key.display()))?;
        let key = PublicKey::from_pem(&pem).with_context(|| {
            format!("--public-key {}: no Ed25519 public key (PEM)", self.public_key.display())
        })?;
        let report = open(&self.report, &key)?;
        self.is_fresh(&report, SystemClock.now())?;
        let wanted = Wanted {
            root_hash: self.image.as_deref().map(root_hash).transpose()?,
            registers: self.register.iter().cloned().collect(),
        };
        let checks = judge(&report, &wanted);
        let changed = match &self.against {
            Some(path) => Some(changes(&open(path, &key)?, &report)),
            None => None,
        };
        if self.json {
            print_json(out, &json!({ "report": report, "checks": checks, "changed": changed }))?;
        } else {
            let (device, daemon) = (&report.device, &report.daemon);
            writeln!(
                out,
                "Genuine: signed by device {} (\"{}\") at {}{}.",
                plain(&device.fingerprint),
                plain(&device.name),
                plain(&report.signed_at),
                if self.nonce.is_some() { ", for this nonce" } else { "" },
            )?;
            writeln!(out, "Program {}, site file {}.", plain(&daemon.version), plain(&daemon.site_sha256))?;
            for (name, digest) in &daemon.models {
                writeln!(out, "Model {}: {}.", plain(name), plain(digest))?;
            }
            let rows: Vec<Vec<String>> = checks
                .iter()
                .map(|check| {
                    let verdict = match check.verdict {
                        Verdict::Good => "good",
                        Verdict::Bad => "NOT GOOD",
                        Verdict::Unknown => "not seen",
                    };
                    vec![check.name.to_owned(), verdict.to_owned(), check.note.clone()]
                })
                .collect();
            print_table(out, &["CHECKED", "", "SEEN"], &rows)?;
            for line in changed.iter().flatten() {
                writeln!(out, "Changed: {}", plain(line))?;
            }
            if changed.as_ref().is_some_and(Vec::is_empty) {
                writeln!(out, "Nothing has changed since the earlier report.")?;
            }
        }
        let good = checks.iter().all(|check| check.verdict == Verdict::Good);
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(EXIT_NOT_GOOD) })
    }

    fn is_fresh(&self, report: &Report, now: OffsetDateTime) -> anyhow::Result<()> {
        if let Some(nonce) = &self.nonce
            && report.nonce.as_ref() != Some(nonce)
        {
            bail!(
                "the report is not the answer to nonce {nonce}; remedy: fetch it again with /system/report?nonce={nonce}"
            );
        }
        let signed = OffsetDateTime::parse(&report.signed_at, &Rfc3339)
            .map_err(|_| anyhow!("the report does not say when it was signed"))?;
        let age = (now - signed).whole_seconds();
        if age < -CLOCKS_APART {
            bail!(
                "the report was signed {} s in the future; remedy: set the clocks of box and this machine",
                -age
            );
        }
        if self.max_age > 0 && age > i64::from(self.max_age) * 60 {
            bail!(
                "the report is {} min old, --max-age allows {}; remedy: fetch it again",
                age / 60,
                self.max_age
            );
        }
        Ok(())
    }
}

fn open(path: &Path, key: &PublicKey) -> anyhow::Result<Report> {
    let text = fs::read(path).with_context(|| path.display().to_string())?;
    let opened = Envelope::read(&text).and_then(|envelope| envelope.open(key));
    opened.with_context(|| path.display().to_string())
}

fn root_hash(path: &Path) -> anyhow::Result<String> {
    let text = fs::read(path).with_context(|| format!("--image {}", path.display()))?;
    // Both files have the same key for it, and much else that does not matter here.
    let said: serde_json::Value =
        serde_json::from_slice(&text).with_context(|| format!("--image {}", path.display()))?;
    let hash = said.get("root_hash").and_then(serde_json::Value::as_str);
    hash.map(str::to_owned).with_context(|| format!("--image {}: it names no root_hash", path.display()))
}
