//! How records lie in a segment. Pure: no file is touched here.
//!
//! A segment begins with one page that names it ([`SegmentHeader`]). Behind it come records, each a
//! header of 32 bytes and a payload. A batch of records begins on a page of its own, so that a page
//! whose records were acknowledged is never written again.
//!
//! Segments are used again and again without being cleared, so a record must prove that it belongs
//! to this life of its segment: it carries the segment's nonce, drawn at random for each life. A
//! sender cannot know it, so no image can hold bytes that would pass for a record.

/// Batches begin at multiples of this: the page size of disks and page cache.
pub const PAGE: u64 = 4096;
/// Bytes of a record's header.
pub const RECORD_HEADER: usize = 32;
/// Longest payload of a record.
pub const PAYLOAD_MAX: u32 = 2 << 20;

const SEGMENT_MAGIC: &[u8; 8] = b"LBXSEG\x01\n";
const RECORD_MAGIC: &[u8; 4] = b"LBXR";

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes of a data set.
    Chunk,
    /// An instance is whole: its ledger entry, and where its chunks are.
    Commit,
}

/// A segment's first page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Place in the order in which segments were taken into use.
    pub number: u64,
    /// Proof that a record belongs to this life of the segment.
    pub nonce: u64,
    /// Length of the segment in bytes.
    pub size: u64,
}

impl SegmentHeader {
    /// The page.
    pub fn encode(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(PAGE as usize);
        page.extend(SEGMENT_MAGIC);
        page.extend(self.number.to_le_bytes());
        page.extend(self.nonce.to_le_bytes());
        page.extend(self.size.to_le_bytes());
        let sum = crc32fast::hash(&page);
        page.extend(sum.to_le_bytes());
        page.resize(PAGE as usize, 0);
        page
    }

    /// Reads the page; `None` if it is not a segment's, or torn.
    pub fn decode(page: &[u8]) -> Option<Self> {
        let (body, rest) = page.split_at_checked(32)?;
        let sum = u32::from_le_bytes(*rest.first_chunk()?);
        if !body.starts_with(SEGMENT_MAGIC) || crc32fast::hash(body) != sum {
            return None;
        }
        let word = |at: usize| Some(u64::from_le_bytes(*body.get(at..)?.first_chunk()?));
        Some(SegmentHeader { number: word(8)?, nonce: word(16)?, size: word(24)? })
    }
}

/// A record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What the payload is.
    pub kind: Kind,
    /// Length of the payload in bytes.
    pub length: u32,
    /// CRC-32 of the payload.
    pub payload_crc: u32,
}

impl RecordHeader {
    /// The header's bytes, for the segment with this nonce.
    pub fn encode(&self, nonce: u64) -> [u8; RECORD_HEADER] {
        let mut bytes = [0; RECORD_HEADER];
        bytes[..4].copy_from_slice(RECORD_MAGIC);
        bytes[4] = match self.kind {
            Kind::Chunk => 1,
            Kind::Commit => 2,
        };
        bytes[8..16].copy_from_slice(&nonce.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.length.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.payload_crc.to_le_bytes());
        let sum = crc32fast::hash(&bytes[..24]);
        bytes[24..28].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads a header; `None` if these bytes are not one of the segment with this nonce.
    pub fn decode(bytes: &[u8; RECORD_HEADER], nonce: u64) -> Option<Self> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if &bytes[..4] != RECORD_MAGIC
            || bytes[8..16] != nonce.to_le_bytes()
            || word(24) != crc32fast::hash(&bytes[..24])
        {
            return None;
        }
        let kind = match bytes[4] {
            1 => Kind::Chunk,
            2 => Kind::Commit,
            _ => return None,
        };
        let header = RecordHeader { kind, length: word(16), payload_crc: word(20) };
        (header.length <= PAYLOAD_MAX).then_some(header)
    }
}

/// Bytes that a record with such a payload takes, with its padding to 8 bytes.
pub fn record_size(payload: usize) -> u64 {
    (RECORD_HEADER as u64 + payload as u64).next_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn headers_survive_the_round_trip_and_no_flipped_bit_does() {
        let segment = SegmentHeader { number: 7, nonce: 0x1234_5678_9abc_def0, size: 1 << 26 };
        let page = segment.encode();
        assert_eq!((page.len() as u64, SegmentHeader::decode(&page)), (PAGE, Some(segment)));
        for at in 0..36 {
            let mut flipped = page.clone();
            flipped[at] ^= 0x10;
            assert_eq!(SegmentHeader::decode(&flipped), None, "byte {at}");
        }
        let record = RecordHeader { kind: Kind::Commit, length: 900, payload_crc: 17 };
        let bytes = record.encode(segment.nonce);
        assert_eq!(RecordHeader::decode(&bytes, segment.nonce), Some(record));
        assert_eq!(RecordHeader::decode(&bytes, 1), None, "another life of the segment");
        for at in 0..28 {
            let mut flipped = bytes;
            flipped[at] ^= 0x10;
            assert_eq!(RecordHeader::decode(&flipped, segment.nonce), None, "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn foreign_bytes_are_neither(bytes in proptest::collection::vec(any::<u8>(), 0..128), nonce: u64) {
            prop_assert_eq!(SegmentHeader::decode(&bytes), None);
            if let Some(head) = bytes.first_chunk() {
                prop_assert_eq!(RecordHeader::decode(head, nonce), None);
            }
        }
    }
}
