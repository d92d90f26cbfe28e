//! `lightbox audit`: verifying, exporting and checking the audit log, here and away from the box.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use serde_json::json;

use super::SiteArg;
use super::place::Place;
use super::print::print_json;
use crate::audit::export::{AuditError, export, verify, verify_export};

/// Exit code for a log that was read and found broken.
pub const EXIT_BROKEN: u8 = 3;

/// Verifies and exports the audit log.
///
/// Each record holds a hash over itself and the record before it, and the device's key signs the
/// last one with every change: an edited, dropped, reordered or cut-off record is found at its
/// place. Exit code 0: whole; 3: broken; 1: it could not be read.
#[derive(Debug, Parser)]
pub struct Args {
    #[command(flatten)]
    site: SiteArg,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Verifies the log in the ledger, beside a running daemon too.
    Verify {
        /// The device's public key; without it the device key beside the ledger is read.
        #[arg(long, value_name = "FILE")]
        public_key: Option<PathBuf>,
        /// Write JSON for programs.
        #[arg(long)]
        json: bool,
    },
    /// Writes the log as JSON lines, for the archive or the SIEM. It holds study keys and no
    /// patient data.
    Export {
        /// Where to; standard output without it.
        file: Option<PathBuf>,
    },
    /// Writes the device's public key (PEM). Keep it away from the box: it proves the exports.
    PublicKey,
    /// Verifies an export, on any machine; needs no site file.
    #[command(after_help = "Example:\n  lightbox audit verify-file audit.jsonl --public-key device.pub")]
    VerifyFile {
        /// The export.
        export: PathBuf,
        /// The device's public key, from `lightbox audit public-key`.
        #[arg(long, value_name = "FILE")]
        public_key: PathBuf,
        /// Write JSON for programs.
        #[arg(long)]
        json: bool,
    },
}

impl Args {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        self.write(&mut std::io::stdout().lock())
    }

    pub(super) fn write(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Verify { public_key: path, json } => {
                let place = Place::open(&self.site)?;
                let key = match path {
                    Some(path) => public_key(&path)?,
                    None => place.identity()?.public_key(),
                };
                verdict(out, verify(&place.reader()?, key), json)
            }
            Command::Export { file } => {
                let reader = Place::open(&self.site)?.reader()?;
                match file {
                    Some(path) => {
                        let make = || path.display().to_string();
                        let mut file = BufWriter::new(File::create(&path).with_context(make)?);
                        export(&reader, &mut file)?;
                        file.flush().with_context(make)?;
                        file.get_ref().sync_all().with_context(make)?;
                    }
                    None => export(&reader, out)?,
                }
                Ok(ExitCode::SUCCESS)
            }
            Command::PublicKey => {
                write!(out, "{}", Place::open(&self.site)?.identity()?.public_key().to_pem())?;
                Ok(ExitCode::SUCCESS)
            }
            Command::VerifyFile { export, public_key: path, json } => {
                let file = File::open(&export).with_context(|| export.display().to_string())?;
                verdict(out, verify_export(BufReader::new(file), public_key(&path)?), json)
            }
        }
    }
}

fn verdict(out: &mut impl Write, found: Result<i64, AuditError>, json: bool) -> anyhow::Result<ExitCode> {
    match found {
        Ok(records) => {
            if json {
                print_json(out, &json!({ "whole": true, "records": records }))?;
            } else {
                writeln!(out, "whole: {records} records, from the first to the signed last one")?;
            }
            Ok(ExitCode::SUCCESS)
        }
        // A line that is none of ours is tampering too, or a file that was cut in a line.
        Err(error @ (AuditError::Broken(_) | AuditError::Line { .. })) => {
            if json {
                print_json(out, &json!({ "whole": false, "problem": error.to_string() }))?;
            } else {
                writeln!(out, "BROKEN: {error}")?;
            }
            Ok(ExitCode::from(EXIT_BROKEN))
        }
        Err(error) => Err(error.into()),
    }
}

/// Reads a public key, as `lightbox audit public-key` writes it.
fn public_key(path: &Path) -> anyhow::Result<lightbox_bootstrap::identity::PublicKey> {
    let pem = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    lightbox_bootstrap::identity::PublicKey::from_pem(&pem)
        .with_context(|| format!("{} is no Ed25519 public key (PEM)", path.display()))
}
