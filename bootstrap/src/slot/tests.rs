//! The slot writer on a disk in memory that keeps a log of its writes, so that the power can go anywhere.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::disk::Disk;
use super::gpt::{ROOT_X86_64, ROOT_X86_64_VERITY, SECTOR, Table};
use super::{Digested, Image, SlotError, esp, write};

const MIB: u64 = 1 << 20;
const RUNNING: &str = "11111111222233334444555555555555aaaaaaaabbbbccccddddeeeeeeeeeeee";
const NEXT: &str = "99999999888877776666555555555555ffffffffeeeeddddccccbbbbbbbbbbbb";

#[derive(Clone)]
enum Step {
    Write(u64, Vec<u8>),
    Sync,
}

/// A disk in memory with a log, which can be told to lie when it is read.
#[derive(Clone)]
struct MemoryDisk {
    bytes: Vec<u8>,
    log: Vec<Step>,
    rotten: Option<u64>,
}

impl Disk for MemoryDisk {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        let from = at as usize;
        bytes.copy_from_slice(self.bytes.get(from..from + bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        if let Some(rotten) = self.rotten
            && (at..at + bytes.len() as u64).contains(&rotten)
        {
            bytes[(rotten - at) as usize] ^= 1;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        let from = at as usize;
        self.bytes[from..from + bytes.len()].copy_from_slice(bytes);
        for (index, sector) in bytes.chunks(SECTOR as usize).enumerate() {
            self.log.push(Step::Write(at + index as u64 * SECTOR, sector.to_vec()));
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.log.push(Step::Sync);
        Ok(())
    }
}

fn guid(text: &str) -> Vec<u8> {
    let bytes: Vec<u8> = (0..16)
        .map(|at| {
            let hex: String = text.chars().filter(|one| *one != '-').collect();
            u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex")
        })
        .collect();
    [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].iter().map(|at| bytes[*at]).collect()
}

/// A disk of 12 MiB: the running slot with contents, an empty one, and data.
fn disk() -> MemoryDisk {
    let mut bytes = vec![0; 12 * MIB as usize];
    let rows = [
        (ROOT_X86_64, "11111111-2222-3333-4444-555555555555", 1, 2, "lightbox_1.0.0"),
        (ROOT_X86_64_VERITY, "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", 3, 1, "lightbox_1.0.0_verity"),
        (ROOT_X86_64, "00000000-0000-0000-0000-000000000004", 4, 2, "_empty"),
        (ROOT_X86_64_VERITY, "00000000-0000-0000-0000-000000000005", 6, 1, "_empty"),
        ("0fc63daf-8483-4772-8e79-3d69d8477de4", "00000000-0000-0000-0000-000000000006", 7, 4, "data"),
    ];
    for (index, (kind, uuid, start, size, name)) in rows.iter().enumerate() {
        let at = 2 * SECTOR as usize + 128 * index;
        bytes[at..at + 16].copy_from_slice(&guid(kind));
        bytes[at + 16..at + 32].copy_from_slice(&guid(uuid));
        let first = start * MIB / SECTOR;
        bytes[at + 32..at + 40].copy_from_slice(&first.to_le_bytes());
        bytes[at + 40..at + 48].copy_from_slice(&(first + size * MIB / SECTOR - 1).to_le_bytes());
        for (unit, letter) in name.encode_utf16().enumerate() {
            bytes[at + 56 + 2 * unit..at + 58 + 2 * unit].copy_from_slice(&letter.to_le_bytes());
        }
    }
    let header = SECTOR as usize;
    bytes[header..header + 12].copy_from_slice(b"EFI PART\0\0\x01\0");
    bytes[header + 12..header + 16].copy_from_slice(&92_u32.to_le_bytes());
    bytes[header + 24..header + 32].copy_from_slice(&1_u64.to_le_bytes());
    bytes[header + 72..header + 80].copy_from_slice(&2_u64.to_le_bytes());
    bytes[header + 80..header + 84].copy_from_slice(&128_u32.to_le_bytes());
    bytes[header + 84..header + 88].copy_from_slice(&128_u32.to_le_bytes());
    let crc = |bytes: &[u8]| crc32fast::hash(bytes).to_le_bytes();
    let entries = crc(&bytes[1024..1024 + 128 * 128]);
    bytes[header + 88..header + 92].copy_from_slice(&entries);
    let sum = crc(&bytes[header..header + 92]);
    bytes[header + 16..header + 20].copy_from_slice(&sum);
    for (at, byte) in bytes[MIB as usize..4 * MIB as usize].iter_mut().enumerate() {
        *byte = (at / 7) as u8;
    }
    MemoryDisk { bytes, log: Vec::new(), rotten: None }
}

/// A PE file with the two sections that are read.
fn uki(version: &str, root_hash: &str, rollback: u64) -> Vec<u8> {
    let texts = [
        (".osrel", format!("IMAGE_ID=lightbox\nIMAGE_VERSION=\"{version}\"\nLIGHTBOX_ROLLBACK={rollback}\n")),
        (".cmdline", format!("quiet roothash={root_hash} ro")),
    ];
    let mut bytes = vec![0; 0x400];
    bytes[0x3c] = 0x80;
    bytes[0x80..0x84].copy_from_slice(b"PE\0\0");
    bytes[0x86] = texts.len() as u8;
    for (index, (name, text)) in texts.iter().enumerate() {
        let at = 0x80 + 24 + 40 * index;
        bytes[at..at + name.len()].copy_from_slice(name.as_bytes());
        let (size, place) = (text.len() as u32, bytes.len() as u32);
        bytes[at + 8..at + 12].copy_from_slice(&size.to_le_bytes());
        bytes[at + 16..at + 20].copy_from_slice(&size.next_multiple_of(512).to_le_bytes());
        bytes[at + 20..at + 24].copy_from_slice(&place.to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes
}

struct Appliance {
    folder: tempfile::TempDir,
    image: Image,
}

impl Appliance {
    /// A box that runs 1.0.0, and version 2.0.0 as files beside it.
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("temp dir");
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("esp/EFI/Linux")).expect("made");
        fs::write(at("esp/EFI/Linux/lightbox_1.0.0+3.efi"), uki("1.0.0", RUNNING, 1)).expect("written");
        let file = |name: &str, bytes: Vec<u8>| {
            fs::write(at(name), &bytes).expect("written");
            let sha256 = super::image::hex(&Sha256::digest(&bytes));
            Digested { path: at(name), bytes: bytes.len() as u64, sha256 }
        };
        let image = Image {
            version: "2.0.0".into(),
            root_hash: NEXT.into(),
            root: file("root", (0..2 * MIB - 5000).map(|at| (at / 3) as u8).collect()),
            verity: file("verity", (0..70_000_u32).map(|at| (at / 5) as u8).collect()),
            uki: file("uki", uki("2.0.0", NEXT, 2)),
        };
        Appliance { folder, image }
    }

    fn esp(&self) -> PathBuf {
        self.folder.path().join("esp")
    }

    fn entries(&self) -> Vec<String> {
        let files = fs::read_dir(self.esp().join("EFI/Linux")).expect("there");
        let mut names: Vec<_> =
            files.map(|file| file.expect("read").file_name().into_string().expect("name")).collect();
        names.sort();
        names
    }

    fn write(&self, disk: &mut MemoryDisk) -> Result<String, SlotError> {
        write(disk, &self.esp(), RUNNING, "lightbox_1.0.0", &self.image, &mut |_, _| {})
    }
}

/// Whether the slot of a root hash is found by the table that a start would use, and its root holds these bytes.
fn holds(disk: &MemoryDisk, uuid: &str, root: &[u8]) -> bool {
    let Ok(table) = Table::read(disk) else { return false };
    let found = table.partitions();
    let slot = found.iter().find(|one| one.kind == ROOT_X86_64 && one.uuid == uuid);
    slot.is_some_and(|slot| disk.bytes[slot.start as usize..][..root.len()] == *root)
}

#[test]
fn the_other_slot_is_written_and_the_running_one_is_not() {
    let (place, mut disk) = (Appliance::new(), disk());
    let before = disk.bytes.clone();
    let told = Cell::new((0, 0));
    let name = write(&mut disk, &place.esp(), RUNNING, "lightbox_1.0.0", &place.image, &mut |done, all| {
        told.set((done, all));
    });
    assert_eq!(name.expect("written"), "lightbox_2.0.0+3.efi");
    assert_eq!(told.get().0, told.get().1);
    assert_eq!(place.entries(), ["lightbox_1.0.0+3.efi", "lightbox_2.0.0+3.efi"]);
    let root = fs::read(&place.image.root.path).expect("read");
    assert!(holds(&disk, "99999999-8888-7777-6666-555555555555", &root));
    let (mib1, mib4, mib7) = (MIB as usize, 4 * MIB as usize, 7 * MIB as usize);
    assert_eq!(disk.bytes[mib1..mib4], before[mib1..mib4], "the running slot");
    assert_eq!(disk.bytes[mib7..11 * mib1], before[mib7..11 * mib1], "the data");
    let names: Vec<String> =
        Table::read(&disk).expect("read").partitions().into_iter().map(|one| one.name).collect();
    assert_eq!(
        names,
        ["lightbox_1.0.0", "lightbox_1.0.0_verity", "lightbox_2.0.0", "lightbox_2.0.0_verity", "data"]
    );
    let entries = esp::entries(&place.esp()).expect("read");
    let said: BTreeMap<_, _> =
        entries.iter().map(|(name, uki)| (name.stem.as_str(), uki.rollback())).collect();
    assert_eq!(said, BTreeMap::from([("lightbox_1.0.0", 1), ("lightbox_2.0.0", 2)]));
    // Again, as after a cut that came too late to matter.
    assert_eq!(place.write(&mut disk).expect("again"), "lightbox_2.0.0+3.efi");
    assert_eq!(place.entries().len(), 2);
}

/// After each cut the disk holds all sectors that were synced, and any of those that were not.
#[test]
fn a_power_cut_anywhere_leaves_the_running_slot_and_its_table() {
    let (place, start) = (Appliance::new(), disk());
    let mut written = start.clone();
    place.write(&mut written).expect("written");
    fs::remove_file(place.esp().join("EFI/Linux/lightbox_2.0.0+3.efi")).expect("removed");
    let running: Vec<u8> = start.bytes[MIB as usize..3 * MIB as usize].to_vec();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let table = written.log.iter().position(|step| matches!(step, Step::Sync)).expect("synced");
    let steps = written.log.len();
    // Half of the cuts among the few writes of the tables, where a cut would hurt.
    for number in 0..400 {
        let cut =
            if number % 2 == 0 { next() as usize % steps } else { table + next() as usize % (steps - table) };
        let synced = written.log[..cut].iter().rposition(|step| matches!(step, Step::Sync)).unwrap_or(0);
        let mut disk = start.clone();
        for (index, step) in written.log[..cut].iter().enumerate() {
            if let Step::Write(at, bytes) = step
                && (index < synced || next() % 2 == 0)
            {
                disk.bytes[*at as usize..*at as usize + bytes.len()].copy_from_slice(bytes);
            }
        }
        assert!(holds(&disk, "11111111-2222-3333-4444-555555555555", &running), "cut {cut} of {steps}");
        if number % 40 == 0 {
            place.write(&mut disk).expect("again after the cut");
            let root = fs::read(&place.image.root.path).expect("read");
            assert!(holds(&disk, "99999999-8888-7777-6666-555555555555", &root));
        }
    }
}

#[test]
fn what_must_not_be_written_is_refused_before_a_byte_is() {
    let place = Appliance::new();
    let refuse = |image: &Image, running: &str| {
        let mut disk = disk();
        let said = write(&mut disk, &place.esp(), running, "lightbox_1.0.0", image, &mut |_, _| {});
        assert!(disk.log.is_empty(), "written before it was refused");
        said.expect_err("refused")
    };
    let image = &place.image;
    assert!(matches!(refuse(image, NEXT), SlotError::Running));
    assert!(matches!(refuse(image, &"7".repeat(64)), SlotError::Partitions(_)));
    assert!(matches!(refuse(image, "short"), SlotError::NoRootHash));
    let mut large = image.clone();
    large.verity.bytes = 2 * MIB;
    assert!(matches!(refuse(&large, RUNNING), SlotError::TooLarge { what: "the hash tree", .. }));
    let other = Image { version: "2.0.1".into(), ..image.clone() };
    assert!(matches!(refuse(&other, RUNNING), SlotError::Uki { .. }));
    let no_uki = Image { uki: image.root.clone(), ..image.clone() };
    assert!(matches!(refuse(&no_uki, RUNNING), SlotError::Uki { .. }));
    assert_eq!(place.entries(), ["lightbox_1.0.0+3.efi"]);
}

#[test]
fn no_entry_appears_for_a_slot_that_is_not_whole() {
    let place = Appliance::new();
    for spoil in ["file", "disk"] {
        let (mut disk, mut image) = (disk(), place.image.clone());
        match spoil {
            "file" => image.root.sha256 = "0".repeat(64),
            _ => disk.rotten = Some(5 * MIB + 17),
        }
        let said = write(&mut disk, &place.esp(), RUNNING, "lightbox_1.0.0", &image, &mut |_, _| {});
        match spoil {
            "file" => assert!(matches!(said, Err(SlotError::Digest(_)))),
            _ => assert!(matches!(said, Err(SlotError::ReadBack(_)))),
        }
        assert_eq!(place.entries(), ["lightbox_1.0.0+3.efi"], "{spoil}");
    }
}

#[test]
fn leftovers_of_cuts_and_entries_of_other_slots_go_first() {
    let place = Appliance::new();
    let folder = place.esp().join("EFI/Linux");
    for name in ["lightbox_3.0.0+0-3.efi", "lightbox_2.0.0.part", "lightbox_0.9.0.efi", "readme.txt"] {
        fs::write(folder.join(name), b"x").expect("written");
    }
    assert_eq!(esp::clear_others(&place.esp(), "lightbox_1.0.0").expect("cleared"), 3);
    assert_eq!(place.entries(), ["lightbox_1.0.0+3.efi", "readme.txt"]);
}

#[test]
fn a_damaged_first_table_is_replaced_by_its_copy() {
    let (place, mut disk) = (Appliance::new(), disk());
    place.write(&mut disk).expect("written");
    disk.bytes[1024 + 5] ^= 1;
    assert_eq!(Table::read(&disk).expect("the copy").partitions().len(), 5);
    let last = disk.bytes.len() - 512;
    disk.bytes[last] ^= 1;
    assert!(matches!(Table::read(&disk), Err(SlotError::Table(_))));
}
