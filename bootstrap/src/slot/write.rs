//! The writing itself; see the module's text for the order and why.

use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::disk::Disk;
use super::gpt::{Partition, ROOT_X86_64, ROOT_X86_64_VERITY, Table};
use super::image::{CHUNK, Digested, Image, hex};
use super::uki::{Uki, root_hash_of};
use super::{SlotError, esp, failed};

/// Hears of bytes done and bytes in all: all are written, then all are read back.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// The slot that may be written.
struct Other {
    root: Partition,
    verity: Partition,
}

/// The PARTUUIDs that belong to a root hash: its two halves (UAPI.2).
fn uuids(root_hash: &str) -> Option<(String, String)> {
    let text = |half: &str| {
        let part = |from: usize, to: usize| half.get(from..to);
        Some(format!(
            "{}-{}-{}-{}-{}",
            part(0, 8)?,
            part(8, 12)?,
            part(12, 16)?,
            part(16, 20)?,
            part(20, 32)?
        ))
    };
    Some((text(root_hash.get(..32)?)?, text(root_hash.get(32..)?)?))
}

/// Finds the slot that does not run. Anything but two whole slots, one of them the running one, is refused: then there
/// is nothing that may be written without a risk.
fn other_slot(table: &Table, running: &str) -> Result<Other, SlotError> {
    let found = table.partitions();
    let of = |kind: &str| found.iter().filter(|one| one.kind == kind).cloned().collect::<Vec<_>>();
    let (roots, trees) = (of(ROOT_X86_64), of(ROOT_X86_64_VERITY));
    let (root_uuid, verity_uuid) = uuids(running).ok_or(SlotError::NoRootHash)?;
    let split = |all: Vec<Partition>, uuid: &str, what: &str| {
        let count = all.len();
        let (mine, other): (Vec<_>, Vec<_>) = all.into_iter().partition(|one| one.uuid == uuid);
        match (mine.len(), <[Partition; 1]>::try_from(other)) {
            (1, Ok([other])) => Ok(other),
            (mine, _) => Err(SlotError::Partitions(format!(
                "{count} partitions for a {what}, {mine} of them the running system's, instead of two and one"
            ))),
        }
    };
    Ok(Other { root: split(roots, &root_uuid, "root")?, verity: split(trees, &verity_uuid, "hash tree")? })
}

/// Writes an image into the slot that does not run, and its boot entry; yields the entry's file name.
///
/// `running` is the root hash of the running system, `entry` the stem of its boot entry, `esp` where the EFI system
/// partition is mounted.
pub fn write(
    disk: &mut dyn Disk,
    esp: &Path,
    running: &str,
    entry: &str,
    image: &Image,
    progress: Progress<'_>,
) -> Result<String, SlotError> {
    if image.root_hash == running {
        return Err(SlotError::Running);
    }
    let said = Uki::read(&image.uki.path)?;
    if said.root_hash != image.root_hash || said.version() != image.version {
        let problem = format!("it is version {} with another root hash than promised", said.version());
        return Err(SlotError::Uki { path: image.uki.path.clone(), problem });
    }
    let (root_uuid, verity_uuid) = uuids(&image.root_hash).ok_or(SlotError::NoRootHash)?;
    let mut table = Table::read(disk)?;
    let other = other_slot(&table, running)?;
    let parts = [("the root", &image.root, &other.root), ("the hash tree", &image.verity, &other.verity)];
    for (what, file, partition) in parts {
        if file.bytes > partition.size {
            return Err(SlotError::TooLarge { what, bytes: file.bytes, room: partition.size });
        }
    }
    // Kept open to the end: the partition is unmounted when nobody has looked for a while.
    let _held = fs::File::open(esp).map_err(failed(esp.display(), "opening"))?;
    let files = image.root.bytes + image.verity.bytes;
    let (mut done, all) = (0, 3 * files);
    // What the box comes back to is given up only for what was read once, whole, as it was signed.
    for (_, file, _) in parts {
        file.each(&mut |bytes, _| {
            done += bytes.len() as u64;
            progress(done, all);
            Ok(())
        })?;
    }
    image.uki.each(&mut |_, _| Ok(()))?;
    esp::clear_others(esp, entry)?;
    for (what, file, partition) in parts {
        fill(disk, what, file, partition.start, &mut |count| {
            done += count;
            progress(done, all);
        })?;
    }
    disk.sync().map_err(failed("the slot", "syncing"))?;
    for (what, file, partition) in parts {
        compare(disk, what, file, partition.start, &mut |count| {
            done += count;
            progress(done, all);
        })?;
    }
    table.rename(other.root.index, &format!("lightbox_{}", image.version), &root_uuid)?;
    table.rename(other.verity.index, &format!("lightbox_{}_verity", image.version), &verity_uuid)?;
    table.write(disk)?;
    esp::install(esp, &image.version, &image.uki)
}

/// Copies a file to a place on the disk.
fn fill(
    disk: &mut dyn Disk,
    what: &str,
    file: &Digested,
    start: u64,
    count: &mut dyn FnMut(u64),
) -> Result<(), SlotError> {
    file.each(&mut |bytes, at| {
        disk.write(bytes, start + at).map_err(failed(what, "writing"))?;
        count(bytes.len() as u64);
        Ok(())
    })
}

/// Reads what was copied, and compares it with what was signed.
fn compare(
    disk: &dyn Disk,
    what: &str,
    file: &Digested,
    start: u64,
    count: &mut dyn FnMut(u64),
) -> Result<(), SlotError> {
    let (mut hasher, mut at, mut chunk) = (Sha256::new(), 0, vec![0; CHUNK]);
    while at < file.bytes {
        let size = (file.bytes - at).min(CHUNK as u64) as usize;
        disk.read(&mut chunk[..size], start + at).map_err(failed(what, "reading"))?;
        hasher.update(&chunk[..size]);
        at += size as u64;
        count(size as u64);
    }
    match hex(&hasher.finalize()) == file.sha256 {
        true => Ok(()),
        false => Err(SlotError::ReadBack(what.to_owned())),
    }
}

/// The running system's root hash, from the kernel's command line.
pub fn running_root_hash() -> Result<String, SlotError> {
    let line = fs::read_to_string("/proc/cmdline").map_err(failed("/proc/cmdline", "reading"))?;
    root_hash_of(&line).ok_or(SlotError::NoRootHash)
}
