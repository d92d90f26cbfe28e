//! What a start finds in the segments: every instance whose commit record is whole, and nothing else.
//!
//! Records were written in order and synced batch by batch, so each segment is read from its first
//! record to the first place where none is. In the newest segment with records the chunks' checksums are
//! verified as well: its last batch may be torn. Records of older segments were synced before the next
//! segment was taken into use.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::log::{CommitRecord, Located};
use super::reader::Piece;
use super::record::{Kind, PAGE, RECORD_HEADER, RecordHeader, record_size};
use super::segment::Segment;
use super::{ObjectError, ObjectId, io_error};
use crate::store::entry::Entry;

/// What the segments hold.
#[derive(Default)]
pub(super) struct Recovered {
    pub(super) live: HashMap<ObjectId, Located>,
    /// The entries of `live`, in the order in which they were committed.
    pub(super) entries: Vec<Entry>,
    /// Segments with records.
    pub(super) used: Vec<Arc<Segment>>,
    /// Files that hold nothing.
    pub(super) blank: Vec<PathBuf>,
    /// Names of objects whose commit record names bytes that are not there.
    pub(super) broken: Vec<ObjectId>,
    /// Whether the newest segment ended in a torn batch, which nobody was told of.
    pub(super) torn: bool,
}

/// Reads all segments of a folder. `exported` says whether an object has a file of its own. Only the
/// store's owner may `clear` what a crash left half made.
pub(super) fn recover(
    folder: &Path,
    clear: bool,
    mut exported: impl FnMut(&ObjectId) -> bool,
) -> Result<Recovered, ObjectError> {
    let mut found = Recovered::default();
    let mut by_number: BTreeMap<u64, Arc<Segment>> = BTreeMap::new();
    for item in fs::read_dir(folder).map_err(io_error("listing segments"))? {
        let path = item.map_err(io_error("listing segments"))?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("seg") => match Segment::open(&path)? {
                Some(segment) => drop(by_number.insert(segment.header.number, Arc::new(segment))),
                None => found.blank.push(path),
            },
            // Half made when a crash came.
            Some("new") if clear => {
                fs::remove_file(&path).map_err(io_error("clearing a half-made segment"))?
            }
            _ => {}
        }
    }
    let mut commits: Vec<(Piece, CommitRecord)> = Vec::new();
    let mut newest = true;
    for segment in by_number.values().rev() {
        let walked = walk(segment, newest)?;
        newest &= walked.is_blank;
        if let Some(at) = walked.torn_at {
            found.torn = true;
            if clear {
                cut_off(segment, at)?;
            }
        }
        // Newest segment first here, oldest record first at the end.
        commits.splice(0..0, walked.commits);
        if walked.is_blank {
            found.blank.push(segment.path().to_owned());
        } else {
            found.used.insert(0, segment.clone());
        }
    }
    by_number.retain(|_, segment| found.used.iter().any(|used| Arc::ptr_eq(used, segment)));
    for (record, commit) in commits {
        let id = commit.entry.object.clone();
        if found.live.contains_key(&id) || exported(&id) {
            continue;
        }
        let pieces: Option<Vec<Piece>> = commit
            .pieces
            .iter()
            .map(|(number, at, length, crc)| {
                let segment = by_number.get(number)?.clone();
                let inside = at.checked_add(u64::from(*length)).is_some_and(|end| end <= segment.header.size);
                inside.then_some(Piece { segment, at: *at, length: *length, crc: *crc })
            })
            .collect();
        match pieces {
            Some(pieces) => {
                found.live.insert(id, Located { pieces: pieces.into(), record });
                found.entries.push(commit.entry);
            }
            None => found.broken.push(id),
        }
    }
    Ok(found)
}

#[derive(Default)]
struct Walked {
    commits: Vec<(Piece, CommitRecord)>,
    is_blank: bool,
    /// Offset of the first record whose payload is not whole.
    torn_at: Option<u64>,
}

/// Ends a segment before a torn record for good. Later starts do not verify its chunks any more, and a
/// commit record behind the torn chunk may be whole.
fn cut_off(segment: &Segment, at: u64) -> Result<(), ObjectError> {
    let file =
        fs::OpenOptions::new().write(true).open(segment.path()).map_err(io_error("opening a segment"))?;
    file.write_all_at(&[0; RECORD_HEADER], at).map_err(io_error("cutting off a torn record"))?;
    file.sync_data().map_err(io_error("cutting off a torn record"))
}

fn walk(segment: &Arc<Segment>, verify: bool) -> Result<Walked, ObjectError> {
    let mut walked = Walked { is_blank: true, ..Walked::default() };
    let mut at = PAGE;
    let mut payload = Vec::new();
    loop {
        let header = match record_at(segment, at)? {
            Some(header) => header,
            // A batch ends before the end of its page; the next begins on a new one.
            None if !at.is_multiple_of(PAGE) => {
                at = at.next_multiple_of(PAGE);
                continue;
            }
            None => return Ok(walked),
        };
        walked.is_blank = false;
        let piece = Piece {
            segment: segment.clone(),
            at: at + RECORD_HEADER as u64,
            length: header.length,
            crc: header.payload_crc,
        };
        if verify || header.kind == Kind::Commit {
            payload.resize(header.length as usize, 0);
            segment.file.read_exact_at(&mut payload, piece.at).map_err(io_error("reading a segment"))?;
            if crc32fast::hash(&payload) != header.payload_crc {
                walked.torn_at = Some(at);
                return Ok(walked);
            }
        }
        if header.kind == Kind::Commit {
            match serde_json::from_slice(&payload) {
                Ok(commit) => walked.commits.push((piece, commit)),
                // Whole, and yet not ours: written by another release. It is kept in its segment.
                Err(_) => return Err(ObjectError::Damaged),
            }
        }
        at += record_size(header.length as usize);
    }
}

/// The record header at an offset, if there is one whose payload lies within the segment.
fn record_at(segment: &Segment, at: u64) -> Result<Option<RecordHeader>, ObjectError> {
    if at + RECORD_HEADER as u64 > segment.header.size {
        return Ok(None);
    }
    let mut bytes = [0; RECORD_HEADER];
    segment.file.read_exact_at(&mut bytes, at).map_err(io_error("reading a segment"))?;
    let header = RecordHeader::decode(&bytes, segment.header.nonce);
    Ok(header.filter(|header| at + record_size(header.length as usize) <= segment.header.size))
}
