//! `lightbox-floor`: asks the TPM, in the initrd, whether this system may start, and raises the floor after a good start.
//!
//! A program of its own, as the initrd is no place for the daemon's binary.
//!
//! ```text
//! lightbox-floor check [--os-release FILE] [--sys FOLDER] [--tpm DEVICE] [--note FILE] [--pause SECONDS]
//! lightbox-floor raise [--esp FOLDER] [--os-release FILE] [--tpm DEVICE] [--note FILE]
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lightbox_bootstrap::floor::tpm::{Device, Tpm};
use lightbox_bootstrap::floor::{self, FloorError};
use lightbox_bootstrap::slot::{SlotError, esp, own_disk, uki};

/// How long the TPM's device may take to appear.
const APPEAR: Duration = Duration::from_secs(60);

type Failed = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match run() {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("lightbox-floor: {error}");
            // The machine restarts when this ends: somebody must have had the time to read it.
            std::thread::sleep(pause());
            ExitCode::FAILURE
        }
    }
}

/// How long a refusal stands on the console.
fn pause() -> Duration {
    let mut arguments = std::env::args().skip_while(|one| one != "--pause").skip(1);
    Duration::from_secs(arguments.next().and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// Whether the disk that this machine runs from has a partition for data, as the kernel tells it. Not by udev's links:
/// they come when udev finds the time. Other disks do not count: a stick's partition may have any name.
fn has_data(sys: &Path) -> Result<bool, SlotError> {
    let disk = own_disk::own_disk(sys)?;
    Ok(own_disk::partitions(sys, &disk)?.iter().any(|partition| partition.label == "data"))
}

/// The rollback number of the system that runs: it lies under dm-verity.
fn own_number(os_release: &Path) -> Result<u64, Failed> {
    let text =
        std::fs::read_to_string(os_release).map_err(|error| format!("{}: {error}", os_release.display()))?;
    let number = uki::names(&text).get("LIGHTBOX_ROLLBACK").and_then(|text| text.parse().ok());
    Ok(number.ok_or("this system carries no LIGHTBOX_ROLLBACK; remedy: build the image anew")?)
}

fn run() -> Result<String, Failed> {
    let mut arguments = std::env::args().skip(1);
    let verb = arguments.next().unwrap_or_default();
    let mut given = BTreeMap::new();
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        given.insert(name, PathBuf::from(value));
    }
    let mut path = |name: &str, default: &str| given.remove(name).unwrap_or_else(|| default.into());
    let device = path("--tpm", "/dev/tpmrm0");
    let note = path("--note", "/run/lightbox-floor");
    let (os_release, sys) = (path("--os-release", "/etc/os-release"), path("--sys", "/sys"));
    let partitions = path("--esp", "/efi");
    path("--pause", "");
    if let Some(name) = given.keys().next() {
        return Err(format!("{name}: no such option; remedy: see the image's units").into());
    }
    let (floor, said) = match verb.as_str() {
        "check" => {
            let number = own_number(&os_release)?;
            let floor = floor::check(&mut open(&device)?, number, has_data(&sys)?)?;
            (floor, format!("may start: rollback number {number}, floor {floor}"))
        }
        "raise" => {
            let found = esp::entries(&partitions)?;
            let lowest = found.iter().map(|(_, uki)| uki.rollback()).min();
            let lowest = lowest.ok_or("the EFI system partition has no boot entry of ours")?;
            // Nobody has verified a signature of what lies there. What runs was verified, and must start again.
            let lowest = lowest.min(own_number(&os_release)?);
            let mut tpm = open(&device)?;
            let floor = floor::raise(&mut tpm, lowest)?;
            let given = if floor::give_away(&mut tpm)? {
                "; the TPM's owner password is set, and nobody's"
            } else {
                ""
            };
            (floor, format!("floor {floor}: the lowest of {} boot entries{given}", found.len()))
        }
        _ => return Err("say check or raise".into()),
    };
    // For the daemon, which may not ask the TPM.
    std::fs::write(&note, format!("{floor}\n")).map_err(|error| format!("{}: {error}", note.display()))?;
    Ok(said)
}

/// Opens the TPM, once it is there.
fn open(device: &Path) -> Result<Tpm<Device>, FloorError> {
    let until = Instant::now() + APPEAR;
    loop {
        match Device::open(device) {
            Ok(device) => return Ok(Tpm::new(device)),
            Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(100)),
            Err(source) => return Err(FloorError::Tpm { what: "opening", source }),
        }
    }
}
