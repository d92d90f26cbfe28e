//! The command line's verbs, one file each, and what they share.

pub mod audit;
pub mod queue;
pub mod studies;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use lightbox_bootstrap::identity::DeviceIdentity;
use lightbox_provisioning::site::Site;
use rusqlite::Connection;

use crate::clock::SystemClock;
use crate::store::ledger::{Ledger, open_reader};
use crate::store::replay::By;
use crate::store::schema::MIGRATIONS;

/// Where the site file is.
#[derive(Clone, Debug, clap::Args)]
pub struct SiteArg {
    /// The site file; it says where the ledger is.
    #[arg(long, value_name = "FILE", global = true, default_value = "/etc/lightbox/site.toml")]
    pub site: PathBuf,
}

/// The ledger of a site, whether the daemon runs or not.
pub struct Place {
    data_dir: PathBuf,
    /// The site file.
    pub site: Site,
}

impl Place {
    /// Reads the site file. A bad one is a `SiteError` in the error, for the exit code.
    pub fn open(arg: &SiteArg) -> anyhow::Result<Self> {
        let site = Site::load(&arg.site)?;
        Ok(Place { data_dir: site.file.appliance.data_dir.clone(), site })
    }

    /// Opens the ledger for reading, beside a running daemon.
    pub fn reader(&self) -> anyhow::Result<Connection> {
        let path = self.data_dir.join("ledger.db");
        if !path.exists() {
            bail!(
                "there is no ledger in {}: has `lightbox serve` run with this site file?",
                self.data_dir.display()
            );
        }
        let reader = open_reader(&path).with_context(|| {
            format!("run as a user who may read {} (root, or the daemon's user)", self.data_dir.display())
        })?;
        let version: u32 = reader.pragma_query_value(None, "user_version", |row| row.get(0))?;
        // Opening a ledger for writing migrates it. Under a running daemon of an older release
        // that would change the tables it works on, so it is the daemon's alone to do.
        if version as usize != MIGRATIONS.len() {
            bail!(
                "the ledger has schema version {version}, this program knows {}: use the `lightbox` of the release that runs",
                MIGRATIONS.len()
            );
        }
        Ok(reader)
    }

    /// The device's identity, which is never made here: a new key would orphan the audit log.
    pub fn identity(&self) -> anyhow::Result<DeviceIdentity> {
        let path = self.data_dir.join("device.key");
        std::fs::metadata(&path).with_context(|| format!("the device key {} is needed", path.display()))?;
        Ok(DeviceIdentity::open_or_create(&path)?)
    }

    /// Opens the ledger for a change, beside a running daemon: SQLite lets one writer in at a time.
    pub fn ledger(&self) -> anyhow::Result<Ledger> {
        drop(self.reader()?);
        Ok(Ledger::open(&self.data_dir, Arc::new(self.identity()?), Arc::new(SystemClock))?)
    }
}

/// Who runs this command, for the audit log: the account, or who became root by sudo.
pub fn who() -> By {
    let account = match nix::unistd::User::from_uid(nix::unistd::getuid()) {
        Ok(Some(user)) => user.name,
        _ => nix::unistd::getuid().to_string(),
    };
    // Root may claim to be anybody; the account itself stays in the name.
    let name = match std::env::var("SUDO_USER") {
        Ok(sudo) if account == "root" && !sudo.is_empty() => format!("shell:{sudo}+sudo"),
        _ => format!("shell:{account}"),
    };
    By { operator: plain(&name), through: "command line" }
}

/// A text for a terminal: peers write some of these, so nothing that moves a cursor.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Writes rows under their headings, each column as wide as its widest cell.
pub fn print_table(out: &mut impl Write, headings: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| plain(cell)).collect()).collect();
    let mut widths: Vec<usize> = headings.iter().map(|heading| heading.chars().count()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (width, cell) in widths.iter().zip(cells) {
            text.push_str(&format!("{cell:width$}  "));
        }
        writeln!(out, "{}", text.trim_end())
    };
    line(&mut headings.iter().copied())?;
    for row in &rows {
        line(&mut row.iter().map(String::as_str))?;
    }
    Ok(())
}

/// Writes a value as JSON for programs.
pub fn print_json(out: &mut impl Write, value: &impl serde::Serialize) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    Ok(writeln!(out)?)
}

/// Reads a public key, as `lightbox audit public-key` writes it.
fn public_key(path: &Path) -> anyhow::Result<lightbox_bootstrap::identity::PublicKey> {
    let pem = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    lightbox_bootstrap::identity::PublicKey::from_pem(&pem)
        .with_context(|| format!("{} is no Ed25519 public key (PEM)", path.display()))
}

#[cfg(test)]
mod tests;
