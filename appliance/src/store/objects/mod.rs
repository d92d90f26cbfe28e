//! Instances as received, durable before anybody is told so.
//!
//! A data set streams into memory, in chunks; the writer ([`log`]) puts chunks and commit records of all
//! associations into the active segment and syncs once for all of them. The commit record holds the
//! instance's [`Entry`]: with it on disk, the instance is acknowledged; the ledger's index follows, and is
//! rebuilt from the commit records where it did not. Later, when the disk has nothing better to do,
//! [`export`] moves each object into a Part 10 file `studies/<study key>/<digest>.dcm`, and its segment is
//! used again.
//!
//! An object's name is the key of its study and the BLAKE3 digest of transfer syntax and data set. It
//! says nothing of the patient, and a second copy of the same instance falls on the first. Who sent it,
//! and when, stands in the commit record, and in the file's meta information (0002,0016) and (0002,0102).
//!
//! Callers see [`Objects`], [`Incoming`], [`Finished`], [`Reader`] and [`ObjectId`] only; how the bytes lie
//! on the disk is this folder's own business.

mod archive;
mod direct;
mod error;
mod export;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod incoming;
mod log;
mod name;
mod reader;
mod record;
mod recover;
mod segment;
mod writeback;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

pub use self::archive::Archive;
pub use self::error::ObjectError;
pub use self::incoming::{Finished, Incoming};
pub use self::name::{Digest, ObjectId, Receipt};
pub use self::reader::Reader;

use self::error::io_error;
use self::log::{CommitRecord, Live, Located, Log};
use self::name::hasher;
use self::segment::{Pool, PoolConfig};
use super::entry::Entry;
use super::folder;
use crate::dicom::part_ten::{self, DataSet, PartTenError, Source};

/// Buffers kept for the next instance.
const IDLE_BUFFERS: usize = 16;
/// Acknowledged instances that the index may lag behind; beyond it, senders are told to come back.
const BACKLOG_MAX: usize = 20_000;

impl Located {
    /// Length of the data set in bytes.
    fn length(&self) -> u64 {
        self.pieces.iter().map(|piece| u64::from(piece.length)).sum()
    }

    fn entry(&self) -> Result<Entry, ObjectError> {
        use std::os::unix::fs::FileExt as _;
        let mut bytes = vec![0; self.record.length as usize];
        let file = &self.record.segment.file;
        file.read_exact_at(&mut bytes, self.record.at).map_err(io_error("reading a commit record"))?;
        if crc32fast::hash(&bytes) != self.record.crc {
            return Err(ObjectError::Damaged);
        }
        let record: CommitRecord = serde_json::from_slice(&bytes).map_err(|_| ObjectError::Damaged)?;
        Ok(record.entry)
    }
}

/// Sizes of a store.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Free space below which nothing new is begun.
    pub reserve_bytes: u64,
    /// Length of a segment.
    pub segment_bytes: u64,
    /// Segments that are kept.
    pub segments: usize,
}

/// What opening a store found.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub objects: Objects,
    /// Entries of the objects in segments, in the order in which they were committed.
    pub entries: Vec<Entry>,
    /// Entries as they become durable from now on: for the index.
    pub committed: Committed,
    /// Objects whose bytes are gone though their commit record is there.
    pub broken: Vec<ObjectId>,
}

/// The entries on their way from the commit record to the index.
#[derive(Debug)]
pub struct Committed {
    entries: mpsc::Receiver<Entry>,
    indexed: watch::Sender<usize>,
}

impl Committed {
    /// Waits for the next entries, at most so many; `None` once the store is closed and all were taken.
    pub fn next(&self, most: usize) -> Option<Vec<Entry>> {
        let mut entries = vec![self.entries.recv().ok()?];
        entries.extend(self.entries.try_iter().take(most.saturating_sub(1)));
        Some(entries)
    }

    /// So many entries are in the index.
    pub fn indexed(&self, count: usize) {
        self.indexed.send_modify(|indexed| *indexed += count);
    }
}

/// The object store of one data folder; clones share it.
#[derive(Clone, Debug)]
pub struct Objects {
    inner: Arc<Inner>,
    /// Held so that the threads end with the last handle.
    _threads: Arc<Threads>,
}

#[derive(Debug)]
struct Inner {
    studies: PathBuf,
    reserve_bytes: u64,
    pool: Arc<Pool>,
    live: Arc<Live>,
    log: Log,
    /// How many of the committed entries the index has taken.
    indexed: watch::Receiver<usize>,
    buffers: Mutex<Vec<Vec<u8>>>,
    closing: Flag,
}

/// The store's threads; when the last handle goes, they end.
#[derive(Debug)]
struct Threads {
    inner: Arc<Inner>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.inner.log.close();
        self.inner.closing.set();
        self.inner.pool.close();
        for handle in self.handles.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A panic in one was reported by its own hook; there is nobody left to tell.
            drop(handle.join());
        }
    }
}

/// A flag that can be waited for.
#[derive(Debug, Default)]
struct Flag {
    set: Mutex<bool>,
    changed: Condvar,
}

impl Flag {
    fn set(&self) {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn is_set(&self) -> bool {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is set, but not longer than that; yields whether it is.
    fn wait(&self, longest: Duration) -> bool {
        let set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        *self.changed.wait_timeout_while(set, longest, |set| !*set).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Inner {
    fn path(&self, id: &ObjectId) -> PathBuf {
        id.path_below(&self.studies)
    }

    fn free_bytes(&self) -> Result<u64, ObjectError> {
        let stat = nix::sys::statvfs::statvfs(&self.studies)
            .map_err(|errno| io_error("asking for free space")(errno.into()))?;
        Ok(stat.blocks_available() as u64 * stat.fragment_size() as u64)
    }

    fn backlog(&self) -> usize {
        self.log.committed().saturating_sub(*self.indexed.borrow())
    }

    fn buffer(&self) -> Vec<u8> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut idle = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_BUFFERS && buffer.capacity() > 0 {
            idle.push(buffer);
        }
    }
}

impl Objects {
    /// Opens or makes the store, and finds out what a crash left: every instance whose commit record
    /// is whole is there, and no other.
    pub fn open(data_dir: &Path, config: Config) -> Result<Opened, ObjectError> {
        let (studies, segments) = (data_dir.join("studies"), data_dir.join("segments"));
        for folder in [&studies, &segments] {
            folder::make(folder).map_err(io_error("making a folder of the object store"))?;
        }
        // A run that was killed may have made names that it did not sync any more. This run builds on what
        // it sees, so that must be durable first.
        for folder in [data_dir, &studies, &segments] {
            folder::sync(folder).map_err(io_error("syncing a folder of the object store"))?;
        }
        let mut moved = BTreeSet::new();
        let found = recover::recover(&segments, true, |id| {
            let exported = id.path_below(&studies).exists();
            if exported {
                moved.insert(id.study_key().to_owned());
            }
            exported
        })?;
        for study in moved {
            folder::sync(&studies.join(study)).map_err(io_error("syncing a study's folder"))?;
        }
        if found.torn {
            tracing::info!("the last batch was torn by the end of the last run: it was never acknowledged");
        }
        let pool_config = PoolConfig {
            segment_bytes: config.segment_bytes.next_multiple_of(record::PAGE),
            segments: config.segments,
            reserve_bytes: config.reserve_bytes,
        };
        let (indexed_sender, indexed) = watch::channel(0);
        let live = Arc::new(Live::default());
        *live.lock() = found.live;
        let pool = Arc::new(Pool::new(segments, pool_config, found.used, found.blank));
        let (sender, receiver) = mpsc::channel();
        let inner = Arc::new(Inner {
            studies,
            reserve_bytes: config.reserve_bytes,
            pool: pool.clone(),
            live: live.clone(),
            log: Log::new(pool, live, sender),
            indexed,
            buffers: Mutex::default(),
            closing: Flag::default(),
        });
        let committed = Committed { entries: receiver, indexed: indexed_sender };
        let threads = start(&inner)?;
        let objects = Objects { inner, _threads: Arc::new(threads) };
        Ok(Opened { objects, entries: found.entries, committed, broken: found.broken })
    }

    /// Whether there is room for an instance beyond the reserve.
    pub fn check_room(&self) -> Result<(), ObjectError> {
        if self.inner.backlog() > BACKLOG_MAX {
            return Err(ObjectError::Behind);
        }
        let free = self.free_bytes()?;
        if free < self.inner.reserve_bytes { Err(ObjectError::Full) } else { Ok(()) }
    }

    /// Free space on the store's disk, in bytes.
    pub fn free_bytes(&self) -> Result<u64, ObjectError> {
        self.inner.free_bytes()
    }

    /// Acknowledged instances that are not in the index yet.
    pub fn backlog(&self) -> usize {
        self.inner.backlog()
    }

    /// Waits until everything that was acknowledged before this call is in the index: for whoever asks
    /// the ledger what the box holds.
    pub async fn settled(&self) {
        let wanted = self.inner.log.committed();
        let mut indexed = self.inner.indexed.clone();
        // An error means that the indexer has ended: the daemon is stopping.
        drop(indexed.wait_for(|indexed| *indexed >= wanted).await);
    }

    /// The names of all objects that have a file of their own, with the lengths of their files in bytes.
    pub fn list_files(&self) -> Result<Vec<(ObjectId, u64)>, ObjectError> {
        list_files(&self.inner.studies)
    }

    /// The names of all objects in segments, with the lengths of their data sets in bytes.
    pub fn list_in_segments(&self) -> Vec<(ObjectId, u64)> {
        let live = self.inner.live.lock();
        live.iter().map(|(id, located)| (id.clone(), located.length())).collect()
    }

    /// Opens an object: how it came in, and its data set.
    pub fn read(&self, id: &ObjectId) -> Result<(Receipt, Reader), ObjectError> {
        // An object that is being moved has its file before it leaves the segments.
        match self.inner.live.find(id) {
            Some(located) => {
                let entry = located.entry()?;
                Ok((entry.receipt, Reader::of_pieces(&located.pieces)))
            }
            None => read_file(&self.inner.path(id)),
        }
    }

    /// A way to open an object's data set, for whoever must not know of this store.
    pub fn source(&self, id: &ObjectId) -> Source {
        let (objects, id) = (self.clone(), id.clone());
        Source::new(move || {
            let (receipt, reader) = objects.read(&id).map_err(io::Error::other)?;
            let length = reader.length();
            Ok(DataSet { transfer_syntax: receipt.transfer_syntax, bytes: Box::new(reader), length })
        })
    }

    /// Reads all of an object and compares it with its name; `false` if its bytes have changed.
    pub fn verify(&self, id: &ObjectId) -> Result<bool, ObjectError> {
        let (receipt, mut reader) = self.read(id)?;
        let mut hasher = hasher(&receipt.transfer_syntax);
        io::copy(&mut reader, &mut hasher).map_err(io_error("reading an object"))?;
        Ok(hasher.finalize().to_hex().as_str() == id.digest_text())
    }

    /// Removes an object for good. One that is in segments leaves them.
    pub fn remove(&self, id: &ObjectId) -> Result<(), ObjectError> {
        let was_live = self.inner.live.lock().remove(id).is_some();
        match fs::remove_file(self.inner.path(id)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error("removing an object's file")(error)),
        }
        if was_live {
            self.inner.pool.look_again();
        }
        Ok(())
    }

    /// Removes a study's folder once nothing is in it.
    pub fn remove_empty_study(&self, study_key: &str) {
        // Not empty, or never there: both are well.
        drop(fs::remove_dir(self.inner.studies.join(study_key)));
    }
}

fn read_file(path: &Path) -> Result<(Receipt, Reader), ObjectError> {
    let part_ten = part_ten::open(path).map_err(|error| match error {
        PartTenError::Read(source) if source.kind() == io::ErrorKind::NotFound => ObjectError::Absent,
        PartTenError::Read(source) => io_error("opening an object")(source),
        PartTenError::NotPartTen => ObjectError::Damaged,
    })?;
    let receipt = Receipt::of_file(&part_ten)?;
    let data_set_at = part_ten.data_set_at;
    Ok((receipt, Reader::of_file(part_ten.file, data_set_at, part_ten.length)))
}

fn list_files(studies: &Path) -> Result<Vec<(ObjectId, u64)>, ObjectError> {
    let mut found = Vec::new();
    for study in fs::read_dir(studies).map_err(io_error("listing objects"))? {
        let study = study.map_err(io_error("listing objects"))?;
        for file in fs::read_dir(study.path()).map_err(io_error("listing objects"))? {
            let file = file.map_err(io_error("listing objects"))?;
            let (folder, name) = (study.file_name(), file.file_name());
            let digest = name.to_str().and_then(|name| name.strip_suffix(".dcm"));
            let id = folder
                .to_str()
                .zip(digest)
                .and_then(|(study, digest)| ObjectId::parse(&format!("{study}/{digest}")));
            if let Some(id) = id {
                found.push((id, file.metadata().map_err(io_error("listing objects"))?.len()));
            }
        }
    }
    Ok(found)
}

fn start(inner: &Arc<Inner>) -> Result<Threads, ObjectError> {
    let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new().name(name.into()).spawn(work).map_err(io_error("starting a thread"))
    };
    let (pool, writer, exporter) = (inner.pool.clone(), inner.clone(), inner.clone());
    let handles = vec![
        spawn("object-segments", Box::new(move || pool.keep_ready()))?,
        spawn("object-writer", Box::new(move || writer.log.run()))?,
        spawn("object-export", Box::new(move || export::run(&exporter)))?,
    ];
    Ok(Threads { inner: inner.clone(), handles: Mutex::new(handles) })
}

#[cfg(test)]
mod tests;
