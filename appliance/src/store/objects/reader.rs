//! Reading an object, wherever its bytes lie.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::segment::Segment;

/// A piece of a data set in a segment.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) segment: Arc<Segment>,
    /// Of its first byte, in bytes from the segment's beginning.
    pub(super) at: u64,
    pub(super) length: u32,
    pub(super) crc: u32,
}

/// A data set to read: it begins at position 0.
#[derive(Debug)]
pub struct Reader {
    source: Source,
    length: u64,
    at: u64,
}

#[derive(Debug)]
enum Source {
    /// A file of its own; the data set begins at the offset.
    File(File, u64),
    /// Pieces in segments, each with its place in the data set.
    Pieces(Vec<(u64, Piece)>, InMemory),
}

/// What of a data set that is still arriving is in memory: its first bytes, which may lie in a piece as well,
/// and its last ones, which lie nowhere else.
#[derive(Clone, Debug, Default)]
pub(super) struct InMemory {
    pub(super) head: Arc<Vec<u8>>,
    pub(super) tail: Arc<Vec<u8>>,
}

impl Reader {
    pub(super) fn of_file(file: File, data_set_at: u64, length: u64) -> Self {
        Reader { source: Source::File(file, data_set_at), length, at: 0 }
    }

    pub(super) fn of_pieces(pieces: &[Piece]) -> Self {
        Self::of_arriving(pieces, InMemory::default())
    }

    pub(super) fn of_arriving(pieces: &[Piece], memory: InMemory) -> Self {
        let mut placed = Vec::with_capacity(pieces.len());
        let mut length = 0;
        for piece in pieces {
            placed.push((length, piece.clone()));
            length += u64::from(piece.length);
        }
        length += memory.tail.len() as u64;
        Reader { source: Source::Pieces(placed, memory), length, at: 0 }
    }

    /// Length of the data set in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }
}

impl Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.length.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let wanted = into.len().min(left);
        if wanted == 0 {
            return Ok(0);
        }
        let into = &mut into[..wanted];
        let read = match &self.source {
            Source::File(file, begin) => file.read_at(into, begin + self.at)?,
            Source::Pieces(_, InMemory { head, .. }) if self.at < head.len() as u64 => {
                let from = &head[self.at as usize..];
                let count = into.len().min(from.len());
                into[..count].copy_from_slice(&from[..count]);
                count
            }
            Source::Pieces(placed, InMemory { tail, .. }) => {
                let next = placed.partition_point(|(begin, _)| *begin <= self.at);
                let found = next.checked_sub(1).and_then(|index| placed.get(index));
                match found {
                    Some((begin, piece)) if self.at < begin + u64::from(piece.length) => {
                        let within = self.at - begin;
                        let count = into.len().min((u64::from(piece.length) - within) as usize);
                        piece.segment.file.read_at(&mut into[..count], piece.at + within)?
                    }
                    _ => {
                        let begin = self.length - tail.len() as u64;
                        let within = (self.at - begin) as usize;
                        let count = into.len().min(tail.len() - within);
                        into[..count].copy_from_slice(&tail[within..within + count]);
                        count
                    }
                }
            }
        };
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}
