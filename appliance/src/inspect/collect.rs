//! Collects [`Facts`] from `/proc`, `/sys`, the EFI variables and the EFI system partition. Reads only.

mod mounts;
mod network;
mod processes;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use lightbox_bootstrap::boot_entry;
use lightbox_bootstrap::slot::esp;
use lightbox_bootstrap::slot::own_disk::{self, OwnPartition};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::facts::{Boot, Entry, Facts, Partition, System};

/// The vendor identifier of UEFI's own variables.
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// Where to look: a machine, or what stands for one in a test.
#[derive(Clone, Debug)]
pub struct Machine {
    /// `/proc`
    pub proc: PathBuf,
    /// `/sys`
    pub sys: PathBuf,
    /// `/run`
    pub run: PathBuf,
    /// Where the EFI system partition is mounted.
    pub esp: PathBuf,
}

impl Machine {
    /// The machine that this process runs on.
    pub fn running() -> Self {
        Machine { proc: "/proc".into(), sys: "/sys".into(), run: "/run".into(), esp: "/efi".into() }
    }

    /// Looks at everything.
    pub fn collect(&self, now: OffsetDateTime) -> Facts {
        let mut unseen = Unseen::default();
        let mounts = mounts::collect(self, &mut unseen);
        let processes = processes::collect(self, &mut unseen);
        Facts {
            collected_by: "the image's own unit".into(),
            collected_at: now.format(&Rfc3339).unwrap_or_default(),
            system: self.system(&mut unseen),
            boot: self.boot(&mut unseen),
            partitions: self.partitions(&mut unseen),
            registers: self.registers(),
            listeners: network::collect(self, &processes.sockets, &mut unseen),
            mounts,
            units: processes.units,
            unread_processes: processes.unread,
            modules: self.modules(&mut unseen),
            unseen: unseen.0,
        }
    }

    fn system(&self, unseen: &mut Unseen) -> System {
        let mut proc = |name: &str| unseen.text(&self.proc.join(name)).unwrap_or_default();
        let running = crate::system::System::running();
        let here = running.as_ref();
        System {
            kernel: proc("sys/kernel/osrelease"),
            command_line: proc("cmdline"),
            boot_id: proc("sys/kernel/random/boot_id"),
            uptime_seconds: proc("uptime").split('.').next().and_then(|seconds| seconds.parse().ok()),
            taint: proc("sys/kernel/tainted").parse().ok(),
            // `[none] integrity confidentiality`: what holds stands in brackets.
            lockdown: text(&self.sys.join("kernel/security/lockdown"))
                .ok()
                .and_then(|text| Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())),
            pretty_name: here.map(|system| system.pretty_name.clone()).unwrap_or_default(),
            version: here.and_then(|system| system.version).map(|version| version.to_string()),
            flavour: here.map(|system| system.flavour.clone()).unwrap_or_default(),
        }
    }

    fn boot(&self, unseen: &mut Unseen) -> Boot {
        let efivars = self.sys.join("firmware/efi/efivars");
        // Four bytes of attributes, then the value.
        let flag = |name: &str| {
            fs::read(efivars.join(format!("{name}-{GLOBAL}"))).ok()?.get(4).map(|value| *value == 1)
        };
        let entries = match esp::entries(&self.esp) {
            Ok(entries) => entries
                .into_iter()
                .map(|(name, uki)| Entry {
                    name: name.stem,
                    left: name.left,
                    failed: name.done,
                    root_hash: uki.root_hash,
                })
                .collect(),
            Err(error) => {
                unseen.add(&self.esp, &error);
                Vec::new()
            }
        };
        Boot {
            secure_boot: flag("SecureBoot"),
            setup_mode: flag("SetupMode"),
            entry: boot_entry::booted(&efivars).ok().map(|name| name.stem),
            entries,
            floor: text(&self.run.join("lightbox-floor")).ok().and_then(|text| text.parse().ok()),
        }
    }

    /// Of the disk that the box runs from: a stick that somebody puts in changes nothing of the box.
    fn partitions(&self, unseen: &mut Unseen) -> Vec<Partition> {
        let found = own_disk::own_disk(&self.sys).and_then(|disk| own_disk::partitions(&self.sys, &disk));
        let of = |own: OwnPartition| Partition { device: own.device, label: own.label, bytes: own.bytes };
        match found {
            Ok(found) => found.into_iter().map(of).collect(),
            Err(error) => {
                unseen.add(&self.sys.join("class/block"), &error);
                Vec::new()
            }
        }
    }

    fn registers(&self) -> BTreeMap<u8, String> {
        let bank = self.sys.join("class/tpm/tpm0/pcr-sha256");
        (0..24)
            .filter_map(|number| Some((number, text(&bank.join(number.to_string())).ok()?.to_lowercase())))
            .collect()
    }

    fn modules(&self, unseen: &mut Unseen) -> Vec<String> {
        let text = unseen.text(&self.proc.join("modules")).unwrap_or_default();
        let mut names: Vec<String> =
            text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
        names.sort();
        names
    }
}

/// What could not be seen.
#[derive(Debug, Default)]
struct Unseen(Vec<String>);

impl Unseen {
    fn add(&mut self, what: &Path, why: &dyn Display) {
        self.0.push(format!("{}: {why}", what.display()));
    }

    /// A file's text, or a note that it could not be seen.
    fn text(&mut self, path: &Path) -> Option<String> {
        text(path).inspect_err(|error| self.add(path, &error.kind())).ok()
    }

    /// What is in a folder, or a note that it could not be seen.
    fn folder(&mut self, path: &Path) -> Vec<PathBuf> {
        match fs::read_dir(path) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            Err(error) => {
                self.add(path, &error.kind());
                Vec::new()
            }
        }
    }
}

fn text(path: &Path) -> std::io::Result<String> {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
