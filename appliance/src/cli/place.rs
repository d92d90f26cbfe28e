//! The ledger of a site, for the verbs that work beside a running daemon, and who runs them.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use lightbox_bootstrap::identity::DeviceIdentity;
use lightbox_provisioning::site::Site;
use rusqlite::Connection;

use super::SiteArg;
use super::print::plain;
use crate::clock::SystemClock;
use crate::store::ledger::{Ledger, LedgerError, fits, open_reader};
use crate::store::replay::By;
use crate::store::schema::MIGRATIONS;

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
        if (version as usize) < MIGRATIONS.len() || fits(&reader).is_err() {
            bail!(
                "the ledger has schema version {version}, this program knows {}: use the `lightbox` of the release that runs",
                MIGRATIONS.len()
            );
        }
        Ok(reader)
    }

    /// Whether this release may work on the ledger, if there is one yet. What else is wrong with it, [`Place::reader`] says.
    pub fn is_no_newer_releases(&self) -> anyhow::Result<()> {
        let path = self.data_dir.join("ledger.db");
        let newer = path.exists().then(|| open_reader(&path).and_then(|reader| fits(&reader)));
        match newer {
            Some(Err(error @ LedgerError::TooNew { .. })) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The device's identity, which is never made here: a new key would orphan the audit log.
    pub fn identity(&self) -> anyhow::Result<DeviceIdentity> {
        let path = self.data_dir.join("device.key");
        std::fs::metadata(&path).with_context(|| format!("the device key {} is needed", path.display()))?;
        Ok(DeviceIdentity::open_or_create(&path)?)
    }

    /// The device's identity, made where the box has never been started: then there is nothing to orphan.
    pub fn identity_before_the_first_start(&self) -> anyhow::Result<DeviceIdentity> {
        if self.data_dir.join("ledger.db").exists() {
            return self.identity();
        }
        std::fs::create_dir_all(&self.data_dir)
            .with_context(|| format!("appliance.data_dir: making {}", self.data_dir.display()))?;
        Ok(DeviceIdentity::open_or_create(&self.data_dir.join("device.key"))?)
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
