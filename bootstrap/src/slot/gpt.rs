//! The partition table (UEFI 2.10, chapter 5): read, judged, and its entries renamed so that a power cut between any
//! two sectors leaves one of its two copies whole.
//!
//! The copy at the disk's end is written and synced before the first one is touched. Whoever reads the table must look
//! at the copy when the first one is damaged: UEFI firmware does and mends it; Linux does when its command line says
//! `gpt`, which the image's does.

use super::disk::Disk;
use super::{SlotError, failed};

/// The sectors that all of our disks have.
pub const SECTOR: u64 = 512;
/// Type of a root partition for x86-64 (UAPI.2).
pub const ROOT_X86_64: &str = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709";
/// Type of its hash tree's partition.
pub const ROOT_X86_64_VERITY: &str = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5";

/// Longest partition name, in UTF-16 units.
const NAME_UNITS: usize = 36;
/// The one size of entries and their usual number; others are valid, and no tool makes them.
const ENTRY_BYTES: usize = 128;
const ENTRIES_MAX: u32 = 1024;

/// A GUID as text, in lower case, from its bytes in the table: the first three fields are little-endian.
fn guid_text(bytes: &[u8]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let hex: String =
        order.iter().map(|at| format!("{:02x}", bytes.get(*at).copied().unwrap_or_default())).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The bytes of a GUID; `None` if the text is none.
fn guid_bytes(text: &str) -> Option<[u8; 16]> {
    let hex: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
    if hex.len() != 32 {
        return None;
    }
    let mut bytes = [0; 16];
    for (at, pair) in hex.as_chunks::<2>().0.iter().enumerate() {
        bytes[at] = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    Some(bytes)
}

/// CRC-32 as Ethernet has it (IEEE 802.3), bit by bit: a table is a few kilobytes.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its place in the table, from 0.
    pub index: usize,
    /// Its type, as a GUID in lower case.
    pub kind: String,
    /// Its PARTUUID, in lower case.
    pub uuid: String,
    /// First byte.
    pub start: u64,
    /// Number of bytes.
    pub size: u64,
    /// Its name.
    pub name: String,
}

/// One copy of the table, checked.
#[derive(Clone, Debug)]
struct Copy {
    header: Vec<u8>,
    entries: Vec<u8>,
}

impl Copy {
    /// Reads and checks the copy whose header is in sector `at`.
    fn read(disk: &dyn Disk, at: u64) -> Result<Copy, String> {
        let mut header = vec![0; SECTOR as usize];
        disk.read(&mut header, at * SECTOR).map_err(|error| format!("cannot be read ({error})"))?;
        let size = u32_at(&header, 12) as usize;
        if header.get(..8) != Some(b"EFI PART") || !(92..=SECTOR as usize).contains(&size) {
            return Err("has no header".into());
        }
        let mut zeroed = header[..size].to_vec();
        zeroed[16..20].fill(0);
        if crc32(&zeroed) != u32_at(&header, 16) || u64_at(&header, 24) != at {
            return Err("has a damaged header".into());
        }
        let (first, count, each) = (u64_at(&header, 72), u32_at(&header, 80), u32_at(&header, 84) as usize);
        if each != ENTRY_BYTES || count == 0 || count > ENTRIES_MAX {
            return Err(format!("has {count} entries of {each} bytes"));
        }
        let mut entries = vec![0; count as usize * each];
        let place = first.checked_mul(SECTOR).ok_or("lies nowhere")?;
        disk.read(&mut entries, place)
            .map_err(|error| format!("has entries that cannot be read ({error})"))?;
        if crc32(&entries) != u32_at(&header, 88) {
            return Err("has damaged entries".into());
        }
        Ok(Copy { header, entries })
    }

    /// Writes the entries, then the header that vouches for them.
    fn write(&mut self, disk: &mut dyn Disk, at: u64) -> Result<(), SlotError> {
        let entries = crc32(&self.entries);
        self.header[88..92].copy_from_slice(&entries.to_le_bytes());
        self.header[16..20].fill(0);
        let size = u32_at(&self.header, 12) as usize;
        let crc = crc32(&self.header[..size]);
        self.header[16..20].copy_from_slice(&crc.to_le_bytes());
        let what = "the partition table";
        disk.write(&self.entries, u64_at(&self.header, 72) * SECTOR).map_err(failed(what, "writing"))?;
        disk.write(&self.header, at * SECTOR).map_err(failed(what, "writing"))?;
        disk.sync().map_err(failed(what, "syncing"))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|eight| eight.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// A disk's partition table, from whichever of its copies is whole.
#[derive(Clone, Debug)]
pub struct Table {
    copy: Copy,
}

impl Table {
    /// Reads the first copy, or the one in the disk's last sector where the first one is damaged.
    pub fn read(disk: &dyn Disk) -> Result<Table, SlotError> {
        let last = (disk.size() / SECTOR).saturating_sub(1);
        let copy = Copy::read(disk, 1).or_else(|first| {
            Copy::read(disk, last).map_err(|second| {
                SlotError::Table(format!("the first copy {first}, the one at the disk's end {second}"))
            })
        });
        copy.map(|copy| Table { copy })
    }

    /// The partitions, in the table's order.
    pub fn partitions(&self) -> Vec<Partition> {
        let entries = self.copy.entries.as_chunks::<ENTRY_BYTES>().0.iter().enumerate();
        entries
            .filter(|(_, entry)| entry[..16].iter().any(|byte| *byte != 0))
            .map(|(index, entry)| {
                let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
                let units = entry[56..].as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit));
                let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
                Partition {
                    index,
                    kind: guid_text(&entry[..16]),
                    uuid: guid_text(&entry[16..32]),
                    start: first.saturating_mul(SECTOR),
                    size: last.saturating_add(1).saturating_sub(first).saturating_mul(SECTOR),
                    name: String::from_utf16_lossy(&units),
                }
            })
            .collect()
    }

    /// Gives a partition another name and PARTUUID, in memory.
    pub fn rename(&mut self, index: usize, name: &str, uuid: &str) -> Result<(), SlotError> {
        let units: Vec<u16> = name.encode_utf16().collect();
        let (Some(uuid), true) = (guid_bytes(uuid), units.len() <= NAME_UNITS) else {
            return Err(SlotError::Table(format!("{name} cannot be a partition's name")));
        };
        let entries = self.copy.entries.as_chunks_mut::<ENTRY_BYTES>().0;
        let entry = entries.get_mut(index).ok_or_else(|| SlotError::Table(format!("no entry {index}")))?;
        entry[16..32].copy_from_slice(&uuid);
        entry[56..].fill(0);
        for (at, unit) in units.iter().enumerate() {
            entry[56 + 2 * at..58 + 2 * at].copy_from_slice(&unit.to_le_bytes());
        }
        Ok(())
    }

    /// Writes both copies, the one at the disk's end first; each is synced before the next is touched.
    pub fn write(&self, disk: &mut dyn Disk) -> Result<(), SlotError> {
        let array = (self.copy.entries.len() as u64).div_ceil(SECTOR);
        // Where Linux and firmware look for it when the first copy, which names its place, is damaged.
        let last = (disk.size() / SECTOR).saturating_sub(1);
        let end = self.partitions().iter().map(|one| one.start.saturating_add(one.size)).max().unwrap_or(0);
        let start = self.partitions().iter().map(|one| one.start).min().unwrap_or(u64::MAX);
        if last < array + 2 || end > (last - array) * SECTOR || start < (2 + array) * SECTOR {
            return Err(SlotError::Table("a partition lies where the table must".into()));
        }
        let mut copy = |own: u64, other: u64, entries: u64| {
            let mut copy = self.copy.clone();
            copy.header[24..32].copy_from_slice(&own.to_le_bytes());
            copy.header[32..40].copy_from_slice(&other.to_le_bytes());
            copy.header[72..80].copy_from_slice(&entries.to_le_bytes());
            copy.write(disk, own)
        };
        copy(last, 1, last - array)?;
        copy(1, last, 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guids_and_checksums_are_those_of_the_specification() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        let bytes = guid_bytes(ROOT_X86_64).expect("a GUID");
        assert_eq!(bytes[..4], [0xe3, 0xbc, 0x68, 0x4f]);
        assert_eq!(guid_text(&bytes), ROOT_X86_64);
        assert_eq!(guid_bytes("4f68bce3"), None);
        assert_eq!(guid_bytes("zf68bce3-e8cd-4db1-96e7-fbcaf984b709"), None);
    }
}
