//! The writer: puts what all associations bring into the active segment, in order, and syncs once for all
//! of them.
//!
//! One at a time writes. While a sync is under way, requests gather, and the writer's thread takes them all
//! in its next batch. An association that finds nobody writing writes its own commit itself: with few
//! associations, waking a thread and being woken by it cost more than the sync. A commit is answered
//! only after the sync that follows its batch, and nothing of a later batch is written before, so
//! what stands in a segment before the first record that is not whole was written in order, and a torn
//! tail holds nothing that anybody was told of.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError, mpsc};
use std::time::Instant;

use nix::sys::uio::pwritev;
use serde::{Deserialize, Serialize};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;

use super::reader::Piece;
use super::record::{Kind, PAGE, PAYLOAD_MAX, RECORD_HEADER, RecordHeader, record_size};
use super::segment::{Pool, Segment};
use super::{ObjectError, ObjectId, io_error, writeback};
use crate::store::entry::Entry;

/// Requests in one batch: their slices must fit into one vectored write.
const BATCH_MAX: usize = 128;
/// A batch that has so many bytes takes no further request. Larger ones sync hardly faster, and while one
/// syncs the associations that are not in it receive: with all in one they would wait and work in turns.
const BATCH_BYTES: usize = 2 << 20;
/// A write, its sync included, that is as short as a task's usual turn, in µs.
const SHORT_US: u64 = 2_000;
/// Zeros between records.
static ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];

/// Where a chunk is now, and its buffer back.
pub(super) type Written = Result<(Piece, Vec<u8>), ObjectError>;

/// What an association asks of the writer.
#[derive(Debug)]
pub(super) enum Request {
    /// Part of an instance that is longer than one chunk. Not synced: its commit will be.
    Chunk { payload: Vec<u8>, crc: u32, reply: oneshot::Sender<Written> },
    /// The last bytes of an instance, and its entry.
    Commit(Box<Commit>),
}

impl Request {
    /// Bytes of the data set that it brings.
    fn length(&self) -> usize {
        match self {
            Request::Chunk { payload, .. } => payload.len(),
            Request::Commit(commit) => commit.payload.len(),
        }
    }
}

#[derive(Debug)]
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
#[derive(Debug)]
struct Active {
    segment: Arc<Segment>,
    at: u64,
}

#[derive(Debug)]
pub(super) struct Log {
    pool: Arc<Pool>,
    live: Arc<Live>,
    /// Entries that are durable, on their way to the index.
    committed: mpsc::Sender<Entry>,
    /// How many went there.
    count: AtomicUsize,
    /// How many batches were synced.
    syncs: AtomicUsize,
    /// How long the last write by an association took, in µs; none yet counts as long.
    last_write_us: AtomicU64,
    /// Whoever holds this is the one who writes.
    active: Mutex<Option<Active>>,
    queue: Mutex<Queue>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Request>,
    closed: bool,
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

/// The right to write, held by one at a time.
pub(super) struct Turn<'a> {
    log: &'a Log,
    active: MutexGuard<'a, Option<Active>>,
}

impl Turn<'_> {
    /// Writes a chunk, and lets the disk begin with it.
    pub(super) fn write_chunk(mut self, payload: Vec<u8>) -> Written {
        let crc = crc32fast::hash(&payload);
        let (reply, mut answer) = oneshot::channel();
        self.log.write(&mut self.active, vec![Request::Chunk { payload, crc, reply }]);
        answer.try_recv().map_err(|_| ObjectError::Closed)?
    }
}

impl Queue {
    fn next_batch(&mut self) -> Vec<Request> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_MAX
            && bytes < BATCH_BYTES
            && let Some(request) = self.waiting.pop_front()
        {
            bytes += request.length();
            batch.push(request);
        }
        batch
    }
}

impl Log {
    pub(super) fn new(pool: Arc<Pool>, live: Arc<Live>, committed: mpsc::Sender<Entry>) -> Self {
        Log {
            pool,
            live,
            committed,
            count: AtomicUsize::new(0),
            syncs: AtomicUsize::new(0),
            last_write_us: AtomicU64::new(u64::MAX),
            active: Mutex::default(),
            queue: Mutex::default(),
            arrived: Condvar::new(),
        }
    }

    /// How many instances became durable since the store was opened.
    pub(super) fn committed(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// How many batches were synced; for whoever waits until ingest is quiet.
    pub(super) fn syncs(&self) -> usize {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Hands a request to the writer's thread.
    pub(super) fn ask(&self, request: Request) -> Result<(), ObjectError> {
        let mut queue = self.lock_queue();
        if queue.closed {
            return Err(ObjectError::Closed);
        }
        queue.waiting.push_back(request);
        drop(queue);
        self.arrived.notify_one();
        Ok(())
    }

    /// Writes a request here and now if nobody is writing and nobody waits; else the same as
    /// [`Log::ask`]. Either way the answer comes over the request's channel.
    pub(super) fn ask_or_write(&self, request: Request) -> Result<(), ObjectError> {
        let workers = match Handle::try_current() {
            Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => {
                runtime.metrics().num_workers()
            }
            _ => return self.ask(request),
        };
        if !self.lock_queue().waiting.is_empty() {
            return self.ask(request);
        }
        let Some(mut active) = self.try_lock_active() else { return self.ask(request) };
        let begun = Instant::now();
        // One at a time writes, so one of tokio's threads waits for the disk here at most. Where that was short, to
        // arrange for another in its place costs more than it is worth. A new segment may take long.
        let is_short = self.last_write_us.load(Ordering::Relaxed) < SHORT_US
            && active.as_ref().is_some_and(|active| fits(&request, active));
        if workers > 1 && is_short {
            self.write(&mut active, vec![request]);
        } else {
            tokio::task::block_in_place(|| self.write(&mut active, vec![request]));
        }
        let took = begun.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
        self.last_write_us.store(took, Ordering::Relaxed);
        Ok(())
    }

    /// The right to write a chunk of this length here and now, if nobody is writing, nobody waits, and the
    /// segment in use has room for it.
    pub(super) fn turn(&self, length: usize) -> Option<Turn<'_>> {
        if !self.lock_queue().waiting.is_empty() {
            return None;
        }
        let active = self.try_lock_active()?;
        let has_room = |active: &Active| active.at + record_size(length) <= active.segment.header.size;
        active.as_ref().is_some_and(has_room).then_some(Turn { log: self, active })
    }

    /// Serves requests until the log is closed, on a thread of its own.
    pub(super) fn run(&self) {
        let _closed = CloseAtEnd(self);
        loop {
            let mut queue = self.lock_queue();
            while queue.waiting.is_empty() && !queue.closed {
                queue = self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            if queue.waiting.is_empty() {
                break;
            }
            drop(queue);
            let mut active = self.lock_active();
            let batch = self.lock_queue().next_batch();
            self.write(&mut active, batch);
        }
        if let Some(active) = self.lock_active().take() {
            self.seal(active);
        }
    }

    /// Lets [`Log::run`] end once everything that waits is written.
    pub(super) fn close(&self) {
        self.lock_queue().closed = true;
        self.arrived.notify_one();
    }

    fn lock_queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_active(&self) -> MutexGuard<'_, Option<Active>> {
        self.active.lock().unwrap_or_else(|poisoned| self.leave_segment(poisoned.into_inner()))
    }

    fn try_lock_active(&self) -> Option<MutexGuard<'_, Option<Active>>> {
        match self.active.try_lock() {
            Ok(active) => Some(active),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(poisoned)) => Some(self.leave_segment(poisoned.into_inner())),
        }
    }

    /// After a panic of whoever was writing: how far the segment was written is unknown, and what is put
    /// behind a gap would not be found again.
    fn leave_segment<'a>(
        &self,
        mut active: MutexGuard<'a, Option<Active>>,
    ) -> MutexGuard<'a, Option<Active>> {
        if let Some(active) = active.take() {
            active.segment.doubt();
        }
        self.active.clear_poison();
        active
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
            match write_all(&segment, begin, &placed).and_then(|()| self.sync(&segment, &placed, begin)) {
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

    /// Syncs what was written from `begin` on, if anything in it is to be answered as durable; else the disk may
    /// begin with it.
    fn sync(&self, segment: &Segment, placed: &[Placed], begin: u64) -> Result<(), ObjectError> {
        if placed.iter().any(|one| one.record.is_some()) {
            segment.file.sync_data().map_err(io_error("syncing a segment"))?;
            self.syncs.fetch_add(1, Ordering::Relaxed);
        } else {
            writeback::begin(&segment.file, begin);
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

/// When the writer's thread ends, however it ends, nobody must wait for it.
struct CloseAtEnd<'a>(&'a Log);

impl Drop for CloseAtEnd<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.lock_queue();
        queue.closed = true;
        // Dropping a request tells its association that the store is closed.
        queue.waiting.clear();
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
