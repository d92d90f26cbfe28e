//! The writer: one thread puts what all associations bring into the active segment, in order, and
//! syncs once for all of them.
//!
//! While a sync is under way, requests gather; the next batch takes them all. A commit is answered
//! only after the sync that follows its batch, and nothing of a later batch is written before, so
//! what stands in a segment before the first record that is not whole was written in order, and a torn
//! tail holds nothing that anybody was told of.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use nix::sys::uio::pwritev;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::reader::Piece;
use super::record::{Kind, PAGE, PAYLOAD_MAX, RECORD_HEADER, RecordHeader, record_size};
use super::segment::{Pool, Segment};
use super::{ObjectError, ObjectId, io_error};
use crate::store::entry::Entry;

/// Requests in one batch: their slices must fit into one vectored write.
const BATCH_MAX: usize = 128;
/// Zeros between records.
static ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];

/// Where a chunk is now, and its buffer back.
pub(super) type Written = Result<(Piece, Vec<u8>), ObjectError>;

/// What an association asks of the writer.
pub(super) enum Request {
    /// Part of an instance that is longer than one chunk. Not synced: its commit will be.
    Chunk { payload: Vec<u8>, crc: u32, reply: oneshot::Sender<Written> },
    /// The last bytes of an instance, and its entry.
    Commit(Box<Commit>),
}

pub(super) struct Commit {
    pub(super) payload: Vec<u8>,
    pub(super) crc: u32,
    pub(super) earlier: Vec<Piece>,
    pub(super) entry: Entry,
    pub(super) reply: oneshot::Sender<Result<Vec<u8>, ObjectError>>,
}

/// A commit record's payload.
#[derive(Serialize, Deserialize)]
pub(super) struct CommitRecord {
    pub(super) entry: Entry,
    /// Number of the segment, offset, length and CRC-32 of each chunk.
    pub(super) pieces: Vec<(u64, u64, u32, u32)>,
}

/// Where an object is that has no file of its own yet.
#[derive(Clone, Debug)]
pub(super) struct Located {
    pub(super) pieces: Arc<[Piece]>,
    /// Its commit record's payload.
    pub(super) record: Piece,
}

/// The objects that are in segments.
#[derive(Debug, Default)]
pub(super) struct Live(Mutex<HashMap<ObjectId, Located>>);

impl Live {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<ObjectId, Located>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn find(&self, id: &ObjectId) -> Option<Located> {
        self.lock().get(id).cloned()
    }
}

/// The segment that is written to, and where.
struct Active {
    segment: Arc<Segment>,
    at: u64,
}

pub(super) struct Log {
    pub(super) pool: Arc<Pool>,
    pub(super) live: Arc<Live>,
    /// Entries that are durable, on their way to the index.
    pub(super) committed: mpsc::Sender<Entry>,
    /// How many went there.
    pub(super) count: Arc<AtomicUsize>,
    /// How many batches were synced; for whoever waits until ingest is quiet.
    pub(super) syncs: Arc<AtomicUsize>,
}

/// A request with its place.
struct Placed {
    request: Request,
    /// Header of the chunk, if it has one.
    head: Option<[u8; RECORD_HEADER]>,
    piece: Option<Piece>,
    /// Header and payload of the commit record.
    commit: Vec<u8>,
    record: Option<Piece>,
}

impl Log {
    /// Serves requests until every sender is gone.
    pub(super) fn run(self, requests: &mpsc::Receiver<Request>) {
        let mut active: Option<Active> = None;
        while let Ok(first) = requests.recv() {
            let mut batch = vec![first];
            while batch.len() < BATCH_MAX
                && let Ok(next) = requests.try_recv()
            {
                batch.push(next);
            }
            self.write(&mut active, batch);
        }
        if let Some(active) = active {
            self.seal(active);
        }
    }

    fn write(&self, active: &mut Option<Active>, batch: Vec<Request>) {
        let mut waiting = batch.into_iter().peekable();
        while waiting.peek().is_some() {
            if active.is_none() {
                match self.pool.take() {
                    Ok(segment) => *active = Some(Active { segment, at: PAGE }),
                    Err(error) => return waiting.for_each(|request| refuse(request, &error)),
                }
            }
            let Some(current) = active.as_mut() else { return };
            let (mut placed, begin) = (Vec::new(), current.at);
            while let Some(request) = waiting.next_if(|request| fits(request, current)) {
                match place(request, current) {
                    Ok(one) => placed.push(one),
                    Err((request, error)) => refuse(request, &error),
                }
            }
            if placed.is_empty() {
                if begin == PAGE {
                    // Longer than a whole segment: no request of ours is.
                    let error = ObjectError::TooLong;
                    if let Some(request) = waiting.next() {
                        refuse(request, &error);
                    }
                } else if let Some(full) = active.take() {
                    self.seal(full);
                }
                continue;
            }
            current.at = current.at.next_multiple_of(PAGE);
            let segment = current.segment.clone();
            match write_all(&segment, begin, &placed).and_then(|()| self.sync(&segment, &placed)) {
                Ok(()) => self.answer(placed),
                Err(error) => {
                    // What the disk holds of this segment is unknown: nothing more is put into it, and
                    // nothing is built on what was not synced.
                    segment.doubt();
                    *active = None;
                    tracing::error!(reason = %error, "writing to the object store failed");
                    placed.into_iter().for_each(|one| refuse(one.request, &error));
                }
            }
        }
    }

    fn sync(&self, segment: &Segment, placed: &[Placed]) -> Result<(), ObjectError> {
        if placed.iter().any(|one| one.record.is_some()) {
            segment.file.sync_data().map_err(io_error("syncing a segment"))?;
            self.syncs.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Leaves a segment for good. Chunks of instances under way may not be synced yet.
    fn seal(&self, active: Active) {
        if let Err(error) = active.segment.file.sync_data() {
            active.segment.doubt();
            tracing::error!(kind = %error.kind(), "syncing a full segment failed");
        }
    }

    fn answer(&self, placed: Vec<Placed>) {
        for one in placed {
            match (one.request, one.piece, one.record) {
                (Request::Chunk { payload, reply, .. }, Some(piece), _) => {
                    drop(reply.send(Ok((piece, payload))));
                }
                (Request::Commit(commit), piece, Some(record)) => {
                    let Commit { payload, earlier, entry, reply, .. } = *commit;
                    let pieces = earlier.into_iter().chain(piece).collect();
                    self.live.lock().entry(entry.object.clone()).or_insert(Located { pieces, record });
                    self.count.fetch_add(1, Ordering::AcqRel);
                    // Nobody listens where there is no index, as in a test of this store alone.
                    drop(self.committed.send(entry));
                    drop(reply.send(Ok(payload)));
                }
                _ => {}
            }
        }
    }
}

fn refuse(request: Request, error: &ObjectError) {
    match request {
        Request::Chunk { reply, .. } => drop(reply.send(Err(error.again()))),
        Request::Commit(commit) => drop(commit.reply.send(Err(error.again()))),
    }
}

/// Longest that a commit record can become: its entry is bounded by what the header scan keeps.
fn commit_bound(commit: &Commit) -> usize {
    64 * 1024 + commit.earlier.len() * 64
}

fn fits(request: &Request, active: &Active) -> bool {
    let size = match request {
        Request::Chunk { payload, .. } => record_size(payload.len()),
        Request::Commit(commit) => record_size(commit.payload.len()) + record_size(commit_bound(commit)),
    };
    active.at + size <= active.segment.header.size
}

/// Gives a request its place in the active segment.
fn place(request: Request, active: &mut Active) -> Result<Placed, (Request, ObjectError)> {
    let nonce = active.segment.header.nonce;
    let (length, crc) = match &request {
        Request::Chunk { payload, crc, .. } => (payload.len(), *crc),
        Request::Commit(commit) => (commit.payload.len(), commit.crc),
    };
    let begin = active.at;
    let mut at = begin;
    let (mut head, mut piece) = (None, None);
    if length > 0 {
        let header = RecordHeader { kind: Kind::Chunk, length: length as u32, payload_crc: crc };
        head = Some(header.encode(nonce));
        let segment = active.segment.clone();
        piece = Some(Piece { segment, at: at + RECORD_HEADER as u64, length: length as u32, crc });
        at += record_size(length);
    }
    let mut placed = Placed { request, head, piece, commit: Vec::new(), record: None };
    if let Request::Commit(commit) = &placed.request {
        if commit.earlier.iter().any(|piece| piece.segment.is_doubtful()) {
            return Err((placed.request, ObjectError::lost_segment()));
        }
        let pieces = commit.earlier.iter().chain(&placed.piece);
        let record = CommitRecord {
            entry: commit.entry.clone(),
            pieces: pieces.map(|p| (p.segment.header.number, p.at, p.length, p.crc)).collect(),
        };
        let json = match serde_json::to_vec(&record) {
            Ok(json) if json.len() <= commit_bound(commit) && json.len() <= PAYLOAD_MAX as usize => json,
            _ => return Err((placed.request, ObjectError::TooLong)),
        };
        let crc = crc32fast::hash(&json);
        let header = RecordHeader { kind: Kind::Commit, length: json.len() as u32, payload_crc: crc };
        placed.commit = [&header.encode(nonce)[..], &json].concat();
        let segment = active.segment.clone();
        placed.record =
            Some(Piece { segment, at: at + RECORD_HEADER as u64, length: json.len() as u32, crc });
        at += record_size(json.len());
    }
    active.at = at;
    Ok(placed)
}

/// Zeros up to the next multiple of 8.
fn padding(length: usize) -> &'static [u8] {
    &ZEROS[..length.next_multiple_of(8) - length]
}

/// Writes a batch, padded to the end of its last page.
fn write_all(segment: &Segment, begin: u64, placed: &[Placed]) -> Result<(), ObjectError> {
    let mut slices = Vec::with_capacity(placed.len() * 5 + 1);
    let mut at = begin;
    for one in placed {
        if let Some(head) = &one.head {
            let payload = match &one.request {
                Request::Chunk { payload, .. } => payload,
                Request::Commit(commit) => &commit.payload,
            };
            let padding = padding(head.len() + payload.len());
            slices.extend([IoSlice::new(head), IoSlice::new(payload), IoSlice::new(padding)]);
            at += record_size(payload.len());
        }
        if !one.commit.is_empty() {
            slices.extend([IoSlice::new(&one.commit), IoSlice::new(padding(one.commit.len()))]);
            at += record_size(one.commit.len() - RECORD_HEADER);
        }
    }
    let rest = at.next_multiple_of(PAGE) - at;
    slices.push(IoSlice::new(&ZEROS[..rest as usize]));
    let mut left = &mut slices[..];
    let mut at = begin;
    while left.iter().any(|slice| !slice.is_empty()) {
        let written = match pwritev(&segment.file, left, at as i64) {
            Ok(0) => return Err(io_error("writing to a segment")(io::ErrorKind::WriteZero.into())),
            Ok(written) => written,
            Err(nix::errno::Errno::EINTR) => continue,
            Err(errno) => return Err(io_error("writing to a segment")(errno.into())),
        };
        at += written as u64;
        IoSlice::advance_slices(&mut left, written);
    }
    Ok(())
}
