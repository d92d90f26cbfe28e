//! The running system, and its updates.
//!
//! Is it a firmware image of ours, of which version and flavour ([`System`])? What may replace it ([`manifest`])? The
//! daemon's side of an update looks, fetches and waits ([`updates`], [`stage`]); it may not write to a disk. The other side
//! ([`slot`]) runs as root, started by a file that the daemon leaves, believes nothing that the daemon says, and checks
//! all signatures again. Both talk by the files of [`orders`].

mod arrival;
pub mod manifest;
pub mod orders;
pub mod slot;
pub mod stage;
pub mod updates;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lightbox_bootstrap::slot::{own_disk, uki};

use manifest::{Here, Ledger, Version};

/// Where another file than `/etc/os-release` says what runs: for tests on machines that are no boxes.
const OS_RELEASE: &str = "LIGHTBOX_OS_RELEASE";
/// What stands for the kernel's `boot_id`, in the same tests: their machine never restarts.
const BOOT_ID: &str = "LIGHTBOX_BOOT_ID";
/// The kernel's `boot_id` as the image leaves it for the daemon, which sees nothing of `/proc` but processes.
const BOOT: &str = "/run/lightbox-boot";
/// The same from the kernel.
const KERNEL_BOOT: &str = "/proc/sys/kernel/random/boot_id";
/// The machine's floor, as the image's units leave it for those who may not ask the TPM.
const FLOOR: &str = "/run/lightbox-floor";

/// What changes with each start of the machine, and with nothing else; empty where nothing says it.
pub fn boot_id() -> String {
    let given = std::env::var_os(BOOT_ID).map(PathBuf::from);
    let places = given.map_or_else(|| vec![BOOT.into(), KERNEL_BOOT.into()], |given| vec![given]);
    let read = |path: &PathBuf| std::fs::read_to_string(path).ok().map(|text| text.trim().replace('-', ""));
    places.iter().find_map(read).unwrap_or_default()
}

/// The running system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// Name, version and, where it is not the product's, the flavour.
    pub pretty_name: String,
    /// `production`, `test` or `debug`; empty where the system is none of our images.
    pub flavour: String,
    /// The image's version; none where the system is none of our images.
    pub version: Option<Version>,
}

impl System {
    /// The running system; `None` where it has no `os-release`.
    pub fn running() -> Option<Self> {
        let path = std::env::var_os(OS_RELEASE).map_or_else(|| "/etc/os-release".into(), PathBuf::from);
        std::fs::read_to_string(path).ok().map(|text| Self::parse(&text))
    }

    /// From the text of an `os-release`.
    fn parse(text: &str) -> Self {
        let names: BTreeMap<String, String> = uki::names(text);
        let value = |key: &str| names.get(key).cloned().unwrap_or_default();
        let ours = value("IMAGE_ID") == "lightbox";
        System {
            pretty_name: value("PRETTY_NAME"),
            flavour: if ours { value("VARIANT_ID") } else { String::new() },
            version: value("IMAGE_VERSION").parse().ok().filter(|_| ours),
        }
    }

    /// What an image must fit; `None` where the system is none of our images.
    pub fn here(&self) -> Option<Here> {
        Some(Here {
            version: self.version?,
            machine: std::env::consts::ARCH.to_owned(),
            flavour: self.flavour.clone(),
            floor: floor(Path::new(FLOOR)),
            ledger: Ledger::ours(),
            room: room(Path::new("/sys")),
        })
    }

    /// What every page must say of an image that is not the product.
    pub fn warning(&self) -> Option<String> {
        let product = self.flavour.is_empty() || self.flavour == "production";
        (!product).then(|| self.pretty_name.clone())
    }
}

/// The floor that a unit has left.
fn floor(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The sizes of the slots' partitions on the disk that the box runs from, as the kernel tells them to everybody; the slot
/// writer looks at the disk itself.
fn room(sys: &Path) -> Option<(u64, u64)> {
    let found = own_disk::partitions(sys, &own_disk::own_disk(sys).ok()?).ok()?;
    let (mut root, mut verity) = (None, None);
    for partition in found {
        let slot = match (partition.label.starts_with("lightbox_"), partition.label.ends_with("_verity")) {
            (true, true) => &mut verity,
            (true, false) => &mut root,
            (false, _) => continue,
        };
        *slot = Some(slot.map_or(partition.bytes, |other: u64| other.min(partition.bytes)));
    }
    root.zip(verity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_images_that_are_not_the_product_are_warned_of() {
        let of = |flavour: &str| {
            let text = format!(
                "ID=lightbox\nPRETTY_NAME=\"Lightbox 1 ({flavour})\"\nIMAGE_ID=lightbox\nVARIANT_ID={flavour}\n"
            );
            System::parse(&text)
        };
        assert_eq!(of("debug").warning().as_deref(), Some("Lightbox 1 (debug)"));
        assert_eq!(of("test").warning().as_deref(), Some("Lightbox 1 (test)"));
        assert_eq!(of("production").warning(), None);
        assert_eq!(System::parse("PRETTY_NAME=\"Debian\"\nVARIANT_ID=debug\n").warning(), None);
    }

    #[test]
    fn the_slots_sizes_are_those_that_the_kernel_tells() {
        let folder = tempfile::tempdir().expect("temp dir");
        let class = folder.path().join("class/block");
        let add = |disk: &str, name: &str, label: &str, sectors: &str| {
            let place = class.join(disk).join(name);
            std::fs::create_dir_all(&place).expect("made");
            for (file, text) in [
                ("partition", "1\n"),
                ("uevent", &format!("DEVNAME={name}\nPARTNAME={label}\n")),
                ("size", sectors),
            ] {
                std::fs::write(place.join(file), text).expect("written");
            }
        };
        assert_eq!(room(folder.path()), None);
        add("vda", "vda2", "lightbox_1.0.0", "8\n");
        add("vda", "vda3", "lightbox_1.0.0_verity", "2\n");
        add("vda", "vda4", "lightbox_1.1.0", "6\n");
        add("vda", "vda6", "data", "1\n");
        // A stick that would have the daemon refuse every image as too large.
        add("sda", "sda1", "lightbox_9.0.0", "1\n");
        add("sda", "sda2", "lightbox_9.0.0_verity", "1\n");
        assert_eq!(room(folder.path()), None, "nothing says which disk is ours");
        let mapped = class.join("dm-0");
        std::fs::create_dir_all(mapped.join("dm")).expect("made");
        std::fs::create_dir_all(mapped.join("slaves")).expect("made");
        std::fs::write(mapped.join("dm/name"), "root\n").expect("written");
        for name in ["vda2", "vda3"] {
            std::os::unix::fs::symlink(class.join("vda").join(name), mapped.join("slaves").join(name))
                .expect("linked");
        }
        assert_eq!(room(folder.path()), Some((3072, 1024)));
        assert_eq!(room(Path::new("/nowhere")), None);
    }
}
