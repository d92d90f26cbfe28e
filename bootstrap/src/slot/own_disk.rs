//! The disk that this box runs from, and its partitions, as the kernel tells them.
//!
//! Not by names or udev's links to them: a stick may carry partitions with any name, and `/dev/disk/by-partlabel` then
//! leads to whichever disk was seen last. What the running root's device mapping stands on is no stick's to choose.

use std::fs;
use std::path::Path;

use super::{SlotError, failed, uki};

/// The name of the running root's device mapping (`root=/dev/mapper/root` in the signed command line).
const ROOT: &str = "root";

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnPartition {
    /// The kernel's name of it: `nvme0n1p2`.
    pub device: String,
    /// Its name in the partition table.
    pub label: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// The kernel's name of the disk that the running root lies on. `sys` is `/sys`.
pub fn own_disk(sys: &Path) -> Result<String, SlotError> {
    let class = sys.join("class/block");
    let none = |what: &str| SlotError::Partitions(format!("the running root lies on {what}"));
    for device in fs::read_dir(&class).map_err(failed(class.display(), "reading"))? {
        let device = device.map_err(failed(class.display(), "reading"))?.path();
        if fs::read_to_string(device.join("dm/name")).is_ok_and(|name| name.trim_end() == ROOT) {
            let slaves = device.join("slaves");
            let mut disks = Vec::new();
            for slave in fs::read_dir(&slaves).map_err(failed(slaves.display(), "reading"))? {
                let slave = slave.map_err(failed(slaves.display(), "reading"))?.path();
                let place = fs::canonicalize(&slave).map_err(failed(slave.display(), "finding"))?;
                let disk = place.parent().and_then(Path::file_name).and_then(|name| name.to_str());
                match disk {
                    Some(disk) if place.join("partition").exists() => disks.push(disk.to_owned()),
                    _ => return Err(none("no partition of a disk")),
                }
            }
            disks.sort();
            disks.dedup();
            return match <[String; 1]>::try_from(disks) {
                Ok([disk]) => Ok(disk),
                Err(disks) => Err(none(&format!("{} disks", disks.len()))),
            };
        }
    }
    Err(none("no verified device of its own"))
}

/// The partitions of a disk whose label the kernel knows, by the kernel's names: not those that were made since the
/// start (BLKPG tells it their places only).
pub fn partitions(sys: &Path, disk: &str) -> Result<Vec<OwnPartition>, SlotError> {
    let place = sys.join("class/block").join(disk);
    let mut found = Vec::new();
    for file in fs::read_dir(&place).map_err(failed(place.display(), "reading"))? {
        let path = file.map_err(failed(place.display(), "reading"))?.path();
        let read = |name: &str| fs::read_to_string(path.join(name)).ok();
        if read("partition").is_none() {
            continue;
        }
        let label = read("uevent").and_then(|text| uki::names(&text).remove("PARTNAME"));
        let sectors: Option<u64> = read("size").and_then(|text| text.trim().parse().ok());
        let bytes = sectors.and_then(|sectors| sectors.checked_mul(512));
        let device = path.file_name().and_then(|name| name.to_str());
        if let (Some(device), Some(label), Some(bytes)) = (device, label, bytes) {
            found.push(OwnPartition { device: device.to_owned(), label, bytes });
        }
    }
    found.sort_by(|one, other| one.device.cmp(&other.device));
    Ok(found)
}

/// Whether a partition, by the kernel's name of it, lies on the disk that this box runs from.
pub fn owns(sys: &Path, partition: &str) -> Result<bool, SlotError> {
    let place = sys.join("class/block").join(own_disk(sys)?);
    Ok(!partition.contains('/') && place.join(partition).join("partition").exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its name, and of each partition name, label and sectors.
    type Disk = (&'static str, &'static [(&'static str, &'static str, u64)]);

    const STICK: Disk = ("sda", &[("sda1", "esp", 8), ("sda2", "data", 8), ("sda3", "lightbox_9.9.9", 2)]);
    const OWN: Disk =
        ("vda", &[("vda2", "lightbox_1.0.0", 8), ("vda3", "lightbox_1.0.0_verity", 2), ("vda6", "data", 64)]);

    /// What `/sys` shows of disks, the running root on the first two partitions of the disk that `root_on` names.
    fn fake(sys: &Path, disks: &[Disk], root_on: Option<&str>) {
        let class = sys.join("class/block");
        let put = |path: &Path, text: &str| {
            fs::create_dir_all(path.parent().expect("in a folder")).expect("made");
            fs::write(path, text).expect("written");
        };
        let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, class.join(name)).expect("linked");
        fs::create_dir_all(&class).expect("made");
        for (disk, parts) in disks {
            let place = sys.join("devices").join(disk);
            put(&place.join("uevent"), &format!("DEVNAME={disk}\nDEVTYPE=disk\n"));
            link(&place, disk);
            for (number, (name, label, sectors)) in parts.iter().enumerate() {
                let part = place.join(name);
                put(&part.join("partition"), &format!("{}\n", number + 1));
                put(&part.join("uevent"), &format!("DEVNAME={name}\nDEVTYPE=partition\nPARTNAME={label}\n"));
                put(&part.join("size"), &format!("{sectors}\n"));
                link(&part, name);
            }
            if root_on == Some(*disk) {
                let mapped = sys.join("devices/virtual/dm-0");
                put(&mapped.join("dm/name"), "root\n");
                fs::create_dir_all(mapped.join("slaves")).expect("made");
                for (name, ..) in parts.iter().take(2) {
                    std::os::unix::fs::symlink(place.join(name), mapped.join("slaves").join(name))
                        .expect("linked");
                }
                link(&mapped, "dm-0");
            }
        }
    }

    #[test]
    fn the_disk_is_the_one_under_the_running_root_whatever_a_stick_calls_its_partitions() {
        let folder = tempfile::tempdir().unwrap();
        fake(folder.path(), &[STICK, OWN], Some("vda"));
        assert_eq!(own_disk(folder.path()).unwrap(), "vda");
        let found = partitions(folder.path(), "vda").unwrap();
        let labels: Vec<_> = found.iter().map(|one| (one.label.as_str(), one.bytes)).collect();
        assert_eq!(labels, [("lightbox_1.0.0", 4096), ("lightbox_1.0.0_verity", 1024), ("data", 32768)]);
        assert!(owns(folder.path(), "vda6").unwrap());
        assert!(!owns(folder.path(), "sda2").unwrap());
        for other in ["vda", "", ".", "../vda/vda6", "slaves"] {
            assert!(!owns(folder.path(), other).unwrap(), "{other}");
        }
        // As the first start makes it.
        let made = folder.path().join("devices/vda/vda7");
        fs::create_dir(&made).unwrap();
        fs::write(made.join("partition"), "7\n").unwrap();
        fs::write(made.join("uevent"), "DEVNAME=vda7\nDEVTYPE=partition\n").unwrap();
        assert!(owns(folder.path(), "vda7").unwrap());
        assert_eq!(partitions(folder.path(), "vda").unwrap(), found);
    }

    #[test]
    fn a_root_that_lies_on_no_disk_or_on_two_has_none() {
        let folder = tempfile::tempdir().unwrap();
        assert!(own_disk(folder.path()).is_err());
        fake(folder.path(), &[STICK, OWN], None);
        assert!(own_disk(folder.path()).unwrap_err().to_string().contains("no verified device"));
        let folder = tempfile::tempdir().unwrap();
        fake(folder.path(), &[STICK, OWN], Some("vda"));
        let other = folder.path().join("devices/sda/sda1");
        std::os::unix::fs::symlink(other, folder.path().join("devices/virtual/dm-0/slaves/sda1")).unwrap();
        assert!(own_disk(folder.path()).unwrap_err().to_string().contains("2 disks"));
    }
}
