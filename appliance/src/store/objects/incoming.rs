//! An instance on its way in: chunk by chunk to the writer, looked at, and committed.

use std::io::Cursor;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::log::{Commit, Request, Written};
use super::name::hasher;
use super::reader::{InMemory, Piece};
use super::{Digest, ObjectError, Objects, Reader, Receipt};
use crate::dicom::header::{self, Damage, Header};
use crate::store::entry::Entry;

/// Bytes of a data set that are kept in memory before they go to the writer. A CT slice of 512 by 512
/// fits, so that most instances cost one write.
const CHUNK: usize = 768 * 1024;
/// Bytes that are written before that, while the rest is on its way, when the disk has nothing else to do: what
/// it has begun with need not be waited for at the end. Each time costs the disk a request of its own, so for a CT
/// slice it is done once: measured on a virtual disk, one of 384 KB saves a sixth of an image's time, four of 128 KB
/// cost a fifth.
const EARLY: usize = 360 * 1024;
/// First bytes that stay in memory when they were written early: most headers are shorter.
const HEAD: usize = 32 * 1024;
/// An early write that takes longer than this tells that the disk is busy after all: there is no further one for
/// this instance.
const EARLY_MAX: Duration = Duration::from_millis(2);

/// An instance that is being received. Dropping it forgets it.
#[derive(Debug)]
pub struct Incoming {
    objects: Objects,
    receipt: Receipt,
    buffer: Vec<u8>,
    hasher: blake3::Hasher,
    /// Chunks that are with the writer, or written.
    pieces: Vec<Piece>,
    pending: Option<oneshot::Receiver<Written>>,
    length: u64,
    /// Its first bytes, where they were written early.
    head: Vec<u8>,
    /// Whether the disk keeps up.
    may_write_early: bool,
    /// Whether the next instance is received meanwhile, so that only the writer's own thread writes.
    others_go_on: bool,
}

impl Incoming {
    /// Takes the next bytes of the data set.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), ObjectError> {
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.buffer.len() == CHUNK {
                self.send_chunk().await?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() >= EARLY && self.may_write_early && self.pending.is_none() {
                self.write_early()?;
            }
        }
        Ok(())
    }

    /// Says that whoever receives this goes on with the next meanwhile. Then the writer's thread is kept busy, and takes
    /// several at once: to write here would only keep the next from being received.
    pub fn leave_writing_to_the_writer(&mut self) {
        self.may_write_early = false;
        self.others_go_on = true;
    }

    /// Writes what is buffered, if nobody else writes. It goes into the page cache, which is no more than a copy
    /// while the disk keeps up, so no other thread is asked.
    fn write_early(&mut self) -> Result<(), ObjectError> {
        let Some(turn) = self.objects.inner.log.turn(self.buffer.len()) else { return Ok(()) };
        let begun = Instant::now();
        if self.pieces.is_empty() {
            self.head.extend_from_slice(&self.buffer[..HEAD]);
        }
        let payload = std::mem::take(&mut self.buffer);
        let (piece, mut buffer) = turn.write_chunk(payload)?;
        buffer.clear();
        self.buffer = buffer;
        self.pieces.push(piece);
        self.may_write_early = begun.elapsed() < EARLY_MAX;
        Ok(())
    }

    /// Hands the full buffer to the writer and goes on with the one that it has done with. At most one
    /// is with the writer, so an association costs two buffers however long its instance is.
    async fn send_chunk(&mut self) -> Result<(), ObjectError> {
        let next = match self.settle().await? {
            Some(buffer) => buffer,
            None => self.objects.inner.buffer(),
        };
        let payload = std::mem::replace(&mut self.buffer, next);
        let crc = crc32fast::hash(&payload);
        let (reply, answer) = oneshot::channel();
        self.objects.inner.log.ask(Request::Chunk { payload, crc, reply })?;
        self.pending = Some(answer);
        Ok(())
    }

    /// Waits for the chunk that is with the writer; yields its buffer, empty.
    async fn settle(&mut self) -> Result<Option<Vec<u8>>, ObjectError> {
        let Some(answer) = self.pending.take() else { return Ok(None) };
        let (piece, mut buffer) = answer.await.map_err(|_| ObjectError::Closed)??;
        self.pieces.push(piece);
        buffer.clear();
        Ok(Some(buffer))
    }

    /// Ends the writing. What comes out can be looked at and then committed.
    pub async fn finish(mut self) -> Result<Finished, ObjectError> {
        if let Some(buffer) = self.settle().await? {
            self.objects.inner.give_back(buffer);
        }
        let digest = Digest::from_hasher(&self.hasher);
        Ok(Finished { incoming: self, digest })
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.objects.inner.give_back(std::mem::take(&mut self.buffer));
    }
}

/// An instance that has come whole, but is not durable yet.
#[derive(Debug)]
pub struct Finished {
    incoming: Incoming,
    digest: Digest,
}

impl Finished {
    /// Digest of its bytes.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Length of the data set in bytes.
    pub fn length(&self) -> u64 {
        self.incoming.length
    }

    /// How it came in.
    pub fn receipt(&self) -> &Receipt {
        &self.incoming.receipt
    }

    /// Whether all of it is in memory, or in pages that were written a moment ago, so that looking at it waits for
    /// no disk.
    pub fn is_in_memory(&self) -> bool {
        self.incoming.pieces.is_empty() || self.incoming.length <= CHUNK as u64
    }

    /// Scans its header ([`header::scan`]).
    pub fn scan(&mut self) -> (Header, Option<Damage>) {
        let incoming = &mut self.incoming;
        let length = incoming.length;
        if incoming.pieces.is_empty() {
            return header::scan(Cursor::new(&incoming.buffer), length, &incoming.receipt.transfer_syntax);
        }
        let tail = Arc::new(std::mem::take(&mut incoming.buffer));
        let head = Arc::new(std::mem::take(&mut incoming.head));
        let reader = Reader::of_arriving(&incoming.pieces, InMemory { head, tail: tail.clone() });
        let scanned = header::scan(reader, length, &incoming.receipt.transfer_syntax);
        // The reader is gone, so this is the only handle.
        incoming.buffer = Arc::try_unwrap(tail).unwrap_or_else(|tail| tail.to_vec());
        scanned
    }

    /// Makes it durable, with its ledger entry. After this it survives a power cut. Where the same
    /// bytes are already there, the first copy stays, with how *it* came in.
    pub async fn commit(mut self, entry: Entry) -> Result<(), ObjectError> {
        // The file's meta information must be writable later, when nobody is there to be told.
        entry.receipt.part_ten_head()?;
        let payload = std::mem::take(&mut self.incoming.buffer);
        let crc = crc32fast::hash(&payload);
        let earlier = std::mem::take(&mut self.incoming.pieces);
        let (reply, answer) = oneshot::channel();
        let request = Request::Commit(Box::new(Commit { payload, crc, earlier, entry, reply }));
        let log = &self.incoming.objects.inner.log;
        if self.incoming.others_go_on {
            log.ask(request)?
        } else {
            log.ask_or_write(request)?
        }
        let buffer = answer.await.map_err(|_| ObjectError::Closed)??;
        self.incoming.objects.inner.give_back(buffer);
        Ok(())
    }
}

impl Objects {
    /// Starts to receive an instance.
    pub fn begin(&self, receipt: Receipt) -> Result<Incoming, ObjectError> {
        self.check_room()?;
        Ok(Incoming {
            objects: self.clone(),
            buffer: self.inner.buffer(),
            hasher: hasher(&receipt.transfer_syntax),
            pieces: Vec::new(),
            pending: None,
            length: 0,
            head: Vec::new(),
            may_write_early: true,
            others_go_on: false,
            receipt,
        })
    }
}
