//! `lightbox boot`: the system that this machine was started with. For the image's own units.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use lightbox_bootstrap::boot_entry::{self, EntryName};
use lightbox_bootstrap::slot::own_disk;

use crate::system::manifest::Version;
use crate::system::orders::{Entry, Orders, STATE, Standing, Start};
use crate::system::{System, boot_id};

/// Where EFI variables are.
const EFIVARS: &str = "/sys/firmware/efi/efivars";
/// The variable that says whether Secure Boot is on (UEFI 2.10, 3.3).
const SECURE_BOOT: &str = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// Shows which system this machine was started with, and marks it as good. The firmware image's own
/// units run this; it needs UEFI and systemd-boot.
#[derive(Debug, Parser)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Marks the started system as good: its boot entry gets a full counter of tries, so that a damage that
    /// comes later still leads to the other slot. Run after `lightbox health --gate`.
    Bless {
        /// Where the EFI system partition is mounted.
        #[arg(long, value_name = "FOLDER", default_value = "/efi")]
        esp: PathBuf,
        /// Where EFI variables are.
        #[arg(long, value_name = "FOLDER", default_value = EFIVARS)]
        efivars: PathBuf,
        /// Where to leave what is on the partition, for those who may not look at it.
        #[arg(long, value_name = "FOLDER")]
        state: Option<PathBuf>,
        /// A file to leave behind, as a sign that this start was good; on a file system that forgets it.
        #[arg(long, value_name = "FILE")]
        note: Option<PathBuf>,
    },
    /// Writes down the boot entries with their counters of tries, one a line, for those who may not look at
    /// them: the health gate, which does not restart a machine that has nothing else to try.
    Entries {
        /// Where the EFI system partition is mounted.
        #[arg(long, value_name = "FOLDER", default_value = "/efi")]
        esp: PathBuf,
        /// Where to write them.
        #[arg(long, value_name = "FILE")]
        note: PathBuf,
    },
    /// Exit code 0 if the partition lies on the disk that the running root lies on: for udev, whose links by
    /// name lead to any disk.
    Owns {
        /// The kernel's name of the partition: nvme0n1p1.
        partition: String,
        /// Where `/sys` is.
        #[arg(long, value_name = "FOLDER", default_value = "/sys")]
        sys: PathBuf,
    },
    /// One line: name and flavour of the system, its boot entry, Secure Boot, the root's hash.
    Status {
        /// Where EFI variables are.
        #[arg(long, value_name = "FOLDER", default_value = EFIVARS)]
        efivars: PathBuf,
    },
}

impl Args {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Bless { esp, efivars, state, note } => {
                println!("blessed: {}", boot_entry::bless(&esp, &efivars)?);
                if let Some(note) = note {
                    fs::write(&note, "").with_context(|| note.display().to_string())?;
                }
                if let Some(state) = state {
                    let booted = boot_entry::booted(&efivars)?;
                    let start = start(&booted, boot_entry::all(&esp)?);
                    let told = || state.display().to_string();
                    Orders::new(&state, &state).started(&start).with_context(told)?;
                }
            }
            Command::Entries { esp, note } => {
                let found = boot_entry::all(&esp)?;
                let text: String = found.iter().map(|entry| format!("{entry}\n")).collect();
                fs::write(&note, &text).with_context(|| note.display().to_string())?;
                println!("boot entries: {}", text.trim_end().replace('\n', ", "));
            }
            Command::Owns { partition, sys } => {
                if !own_disk::owns(&sys, &partition)? {
                    return Ok(ExitCode::FAILURE);
                }
            }
            Command::Status { efivars } => println!("{}", status(&efivars)),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// `booted`: the entry with the counter that it had after this start was counted.
fn start(booted: &EntryName, entries: Vec<EntryName>) -> Start {
    let others = entries.into_iter().filter(|one| !one.stem.eq_ignore_ascii_case(&booted.stem));
    Start {
        boot: boot_id(),
        entry: booted.stem.clone(),
        failed: booted.done.saturating_sub(1),
        others: others.map(|one| Entry { name: one.stem, left: one.left, failed: one.done }).collect(),
    }
}

fn status(efivars: &Path) -> String {
    let name =
        System::running().map_or_else(|| "this system has no name".to_owned(), |system| system.pretty_name);
    let entry = match boot_entry::booted(efivars) {
        Ok(entry) => entry.stem,
        Err(error) => error.to_string(),
    };
    let secure = match fs::read(efivars.join(SECURE_BOOT)) {
        Ok(bytes) if bytes.get(4) == Some(&1) => "Secure Boot on",
        Ok(_) => "Secure Boot OFF",
        Err(_) => "Secure Boot unknown",
    };
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let root = line.split_whitespace().find_map(|word| word.strip_prefix("roothash="));
    let root = root.and_then(|hash| hash.get(..12)).unwrap_or("none");
    let came_back = came_back().map(|version| {
        format!(
            "\nFELL BACK: {version} was installed last and did not pass its health gate; see the system page"
        )
    });
    format!("{name}: entry {entry}, {secure}, root hash {root}{}", came_back.unwrap_or_default())
}

/// The version that was written last, where another one runs.
fn came_back() -> Option<Version> {
    let running = System::running()?.version?;
    let last = Orders::new(Path::new(STATE), Path::new(STATE)).progress()?;
    (last.state == Standing::Written && last.version != running).then_some(last.version)
}
