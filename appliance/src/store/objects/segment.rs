//! Segments: files of fixed size, written with zeros once, then used again and again.
//!
//! Writing into space that was written before changes no metadata of the file system, so that syncing
//! it costs one write and no journal: measured about 1.4 times the rate of appending, and twice that of
//! appending with a database commit. Everything that does cost metadata (making a file, naming it,
//! syncing the folder) happens here, on a thread of its own, before a segment is taken into use.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::record::{PAGE, SegmentHeader};
use super::{ObjectError, io_error};
use crate::store::folder;

/// Segments that are kept ready for use, so that no sender waits for one.
const READY: usize = 2;
/// Bytes of zeros written at once when a segment is made.
const ZEROS: usize = 1 << 20;

/// A segment in use. Whoever reads from it or has bytes in it holds it; one that nobody but the pool
/// holds may be used again.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) header: SegmentHeader,
    pub(super) file: File,
    path: PathBuf,
    /// Writing or syncing failed: what is not synced in it is lost.
    doubtful: AtomicBool,
}

impl Segment {
    /// Opens a segment file that was taken into use; `None` if its first page is not whole: it was
    /// being prepared, and holds nothing.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, ObjectError> {
        let file =
            OpenOptions::new().read(true).write(true).open(path).map_err(io_error("opening a segment"))?;
        let length = file.metadata().map_err(io_error("opening a segment"))?.len();
        let mut page = vec![0; PAGE as usize];
        match file.read_exact_at(&mut page, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(io_error("reading a segment")(error)),
        }
        let header = SegmentHeader::decode(&page).filter(|header| header.size <= length);
        Ok(header.map(|header| Segment {
            header,
            file,
            path: path.to_owned(),
            doubtful: AtomicBool::new(false),
        }))
    }

    /// Nothing may be built any more on what was written here and not synced.
    pub(super) fn doubt(&self) {
        self.doubtful.store(true, Ordering::Relaxed);
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_doubtful(&self) -> bool {
        self.doubtful.load(Ordering::Relaxed)
    }
}

/// What the pool is asked to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct PoolConfig {
    /// Length of a segment in bytes, a multiple of [`PAGE`].
    pub(super) segment_bytes: u64,
    /// Segments that stay when they are free.
    pub(super) segments: usize,
    /// Free space of the disk below which no segment is made.
    pub(super) reserve_bytes: u64,
}

/// The segments of one store: those ready for use, and those in use.
#[derive(Debug)]
pub(super) struct Pool {
    folder: PathBuf,
    config: PoolConfig,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Named by a durable header, not yet written to.
    ready: VecDeque<Segment>,
    /// Taken into use, in that order.
    used: Vec<Arc<Segment>>,
    /// Files without a life: to be prepared.
    blank: Vec<PathBuf>,
    next_number: u64,
    next_file: u64,
    /// Somebody waits for a segment.
    wanted: bool,
    /// Attempts to prepare one that were begun; and the last that failed, with what was wrong.
    attempts: u64,
    fault: Option<(u64, Fault)>,
    closed: bool,
}

/// Why a segment could not be prepared.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Full,
    /// What else it was stands in the log.
    Other,
}

impl Pool {
    /// The pool of a folder, with the segments found there by [`super::recover`].
    pub(super) fn new(
        folder: PathBuf,
        config: PoolConfig,
        used: Vec<Arc<Segment>>,
        blank: Vec<PathBuf>,
    ) -> Self {
        let next_number = used.iter().map(|segment| segment.header.number + 1).max().unwrap_or(1);
        let number_of = |path: &Path| path.file_stem()?.to_str()?.parse::<u64>().ok();
        let files =
            used.iter().map(|segment| segment.path.as_path()).chain(blank.iter().map(PathBuf::as_path));
        let next_file = files.filter_map(number_of).max().map_or(1, |last| last + 1);
        let state = State { used, blank, next_number, next_file, ..State::default() };
        Pool { folder, config, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next segment to write to; waits until one is ready. Blocking.
    ///
    /// Only an attempt that was begun after this call can refuse it: room may have come back since the
    /// last one.
    pub(super) fn take(&self) -> Result<Arc<Segment>, ObjectError> {
        let mut state = self.lock();
        let asked = state.attempts;
        loop {
            if let Some(segment) = state.ready.pop_front() {
                let segment = Arc::new(segment);
                state.used.push(segment.clone());
                state.wanted = false;
                self.changed.notify_all();
                return Ok(segment);
            }
            if state.closed {
                return Err(ObjectError::Closed);
            }
            if let Some((attempt, fault)) = state.fault
                && attempt > asked
            {
                state.wanted = false;
                return Err(match fault {
                    Fault::Full => ObjectError::Full,
                    Fault::Other => ObjectError::Io {
                        operation: "preparing a segment",
                        source: io::Error::other("see the log"),
                    },
                });
            }
            state.wanted = true;
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether the usual number of segments is used up: what can be moved out should be.
    pub(super) fn is_pressed(&self) -> bool {
        let state = self.lock();
        state.used.len() + READY > self.config.segments
    }

    /// Looks for segments that can be used again. Called when something in them was let go.
    pub(super) fn look_again(&self) {
        self.changed.notify_all();
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Keeps segments ready, until the pool is closed. Runs on a thread of its own.
    pub(super) fn keep_ready(&self) {
        let mut state = self.lock();
        loop {
            if state.closed {
                return;
            }
            let freed = free(&mut state);
            let enough = state.ready.len() >= READY.min(self.config.segments)
                && state.ready.len() + state.used.len() >= self.config.segments;
            if freed.is_empty() && (enough || (state.fault.is_some() && !state.wanted)) {
                let every = std::time::Duration::from_secs(1);
                let waited = self.changed.wait_timeout(state, every);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                if !enough && !state.wanted {
                    // After a fault, room may have come back.
                    state.fault = None;
                }
                continue;
            }
            let number = state.next_number;
            state.next_number += 1;
            state.attempts += 1;
            let attempt = state.attempts;
            let in_all = state.ready.len() + state.used.len() + state.blank.len() + freed.len();
            // What was made beyond the usual number goes again.
            let surplus = in_all.saturating_sub(self.config.segments).min(freed.len());
            let (gone, again) = freed.split_at(surplus);
            state.blank.extend(again.iter().map(|segment| segment.path.clone()));
            let blank = if enough { None } else { state.blank.pop() };
            let file = state.next_file;
            let make = !enough && blank.is_none();
            state.next_file += u64::from(make);
            drop(state);
            for segment in gone {
                // Left behind, it is a blank one at the next start.
                drop(fs::remove_file(&segment.path));
            }
            drop(freed);
            let prepared = match blank {
                Some(path) => Some(self.prepare(&path, number).map_err(|error| (error, Some(path)))),
                None if make => {
                    let path = self.folder.join(format!("{file:08}.seg"));
                    let made = self.make(&path).and_then(|()| self.prepare(&path, number));
                    Some(made.map_err(|error| (error, None)))
                }
                None => None,
            };
            state = self.lock();
            match prepared {
                None => {}
                Some(Ok(segment)) => {
                    state.fault = None;
                    state.ready.push_back(segment);
                    self.changed.notify_all();
                }
                Some(Err((error, blank))) => {
                    state.blank.extend(blank);
                    let fault = if matches!(error, ObjectError::Full) { Fault::Full } else { Fault::Other };
                    if matches!(fault, Fault::Other) {
                        tracing::error!(reason = %error, "a segment of the object store cannot be prepared");
                    }
                    state.fault = Some((attempt, fault));
                    self.changed.notify_all();
                }
            }
        }
    }

    /// Makes a file of zeros under a name that is durable.
    fn make(&self, path: &Path) -> Result<(), ObjectError> {
        let stat = nix::sys::statvfs::statvfs(&self.folder)
            .map_err(|errno| io_error("asking for free space")(errno.into()))?;
        let free = stat.blocks_available() as u64 * stat.fragment_size() as u64;
        if free < self.config.reserve_bytes.saturating_add(self.config.segment_bytes) {
            return Err(ObjectError::Full);
        }
        let new = path.with_extension("new");
        let made = self.fill(&new).and_then(|()| fs::rename(&new, path));
        if let Err(error) = made {
            drop(fs::remove_file(&new));
            return Err(io_error("making a segment")(error));
        }
        folder::sync(&self.folder).map_err(io_error("making a segment"))
    }

    fn fill(&self, path: &Path) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        let zeros = vec![0; ZEROS];
        let mut at = 0;
        while at < self.config.segment_bytes {
            let count = (self.config.segment_bytes - at).min(ZEROS as u64);
            file.write_all_at(&zeros[..count as usize], at)?;
            at += count;
        }
        file.sync_all()
    }

    /// Gives a file a new life: from here on, what was in it is gone.
    fn prepare(&self, path: &Path, number: u64) -> Result<Segment, ObjectError> {
        let file =
            OpenOptions::new().read(true).write(true).open(path).map_err(io_error("opening a segment"))?;
        let size = file.metadata().map_err(io_error("opening a segment"))?.len();
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce)
            .map_err(|_| io_error("drawing a random number")(io::Error::other("no random numbers")))?;
        let header = SegmentHeader { number, nonce: u64::from_le_bytes(nonce), size };
        file.write_all_at(&header.encode(), 0).map_err(io_error("naming a segment"))?;
        file.sync_data().map_err(io_error("naming a segment"))?;
        Ok(Segment { header, file, path: path.to_owned(), doubtful: AtomicBool::new(false) })
    }
}

/// Takes the segments out that nobody but the pool holds, save the one that is written to.
fn free(state: &mut State) -> Vec<Arc<Segment>> {
    let (mut freed, mut kept) = (Vec::new(), Vec::new());
    for segment in state.used.drain(..) {
        // The pool's own is the only handle, and new ones are cloned from the pool or from a handle
        // only: nobody can take hold of it any more.
        if Arc::strong_count(&segment) == 1 { freed.push(segment) } else { kept.push(segment) }
    }
    state.used = kept;
    freed
}
