//! For the fuzzer: a start over a segment file that nobody of ours has written.

use std::fs;
use std::io::Read as _;
use std::path::PathBuf;
use std::thread::ThreadId;

use super::reader::Reader;
use super::record::{Kind, PAGE, RecordHeader, SegmentHeader, record_size};
use super::recover::recover;

/// A folder of this thread's own, in memory where the machine has such a place.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let thread: ThreadId = std::thread::current().id();
        let memory = PathBuf::from("/dev/shm");
        let root = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let folder = root.join(format!("lightbox-fuzz-{}-{thread:?}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Reads a segment as a start of the daemon does, then every object that it claims to hold.
///
/// The input is a list of records: a byte with the kind and the faults, two bytes of length, the payload.
/// Checksums are made for it, so that the fuzzer gets past them; bit 2 spoils the header's, bit 3 the
/// payload's, bit 4 claims a longer payload, bit 5 begins a new page. A first byte of 255 means that the rest
/// is the file itself.
pub fn segment(bytes: &[u8]) {
    const NONCE: u64 = 0x1122_3344_5566_7788;
    let Some((first, mut rest)) = bytes.split_first() else { return };
    let mut file = Vec::new();
    if *first == 255 {
        file.extend(rest);
    } else {
        file.resize(PAGE as usize, 0);
        while let [head, low, high, after @ ..] = rest {
            if head & 32 != 0 {
                file.resize(file.len().next_multiple_of(PAGE as usize), 0);
            }
            let (payload, next) =
                after.split_at(after.len().min(usize::from(u16::from_le_bytes([*low, *high]))));
            let kind = if head & 1 == 0 { Kind::Chunk } else { Kind::Commit };
            let spoiled = u32::from(head & 8 != 0);
            let longer = if head & 16 == 0 { 0 } else { u32::from(*low) << 12 };
            let header = RecordHeader {
                kind,
                length: payload.len() as u32 + longer,
                payload_crc: crc32fast::hash(payload) ^ spoiled,
            };
            let begin = file.len();
            file.extend(header.encode(NONCE ^ u64::from(head & 4)));
            file.extend(payload);
            file.resize(begin + record_size(payload.len()) as usize, 0);
            rest = next;
        }
        let size = file.len().next_multiple_of(PAGE as usize) as u64;
        // The first byte makes the header lie about the size.
        let claimed = size.wrapping_add(u64::from(*first) * 512);
        let header = SegmentHeader { number: 1, nonce: NONCE, size: claimed };
        file[..PAGE as usize].copy_from_slice(&header.encode());
        file.resize(size as usize, 0);
    }
    let folder = Folder::new();
    fs::write(folder.0.join("00000001.seg"), &file).expect("written");
    let Ok(found) = recover(&folder.0, true, |_| false) else { return };
    assert_eq!(found.live.len(), found.entries.len(), "an object without its entry");
    for located in found.live.values() {
        located.entry().expect("the record was read a moment ago");
        let mut reader = Reader::of_pieces(&located.pieces);
        let most = reader.length().min(1 << 22);
        let read = std::io::copy(&mut (&mut reader).take(most), &mut std::io::sink()).expect("read");
        assert_eq!(read, most, "an object that is not all there");
    }
}
