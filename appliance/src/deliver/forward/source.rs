//! A stored object's data set as a stream for the wire: read by a thread that may block, a few pieces
//! ahead, so that neither a whole object is held in memory nor the daemon waits for the disk.

use std::io::{self, Read, Seek, SeekFrom};
use std::pin::Pin;
use std::task::{Context, Poll};

use thiserror::Error;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;

/// Bytes read at once.
const CHUNK: usize = 256 * 1024;
/// Pieces that may wait for the network.
const AHEAD: usize = 2;

/// A stretch of what is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of the stored data set.
    Copy {
        /// From this place, counted from its first byte.
        at: u64,
        /// So many.
        length: u64,
    },
    /// Other bytes.
    Bytes(Vec<u8>),
}

/// The stored object ended early or could not be read: no fault of the network.
#[derive(Debug, Error)]
#[error("the stored object cannot be read back")]
pub struct Unreadable;

/// Whether an error of a stream is the store's.
pub fn is_unreadable(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Unreadable>())
}

/// The bytes of the pieces, one after the other.
pub struct Source {
    chunks: mpsc::Receiver<io::Result<Vec<u8>>>,
    current: Vec<u8>,
    at: usize,
}

impl Source {
    /// Starts to read; `reader` stands at the first byte of the data set.
    pub fn new(reader: impl Read + Seek + Send + 'static, pieces: Vec<Piece>) -> Self {
        let (sender, chunks) = mpsc::channel(AHEAD);
        tokio::task::spawn_blocking(move || {
            if pump(reader, pieces, &sender).is_err() {
                // Nobody listens any more where the association has ended.
                drop(sender.blocking_send(Err(io::Error::other(Unreadable))));
            }
        });
        Source { chunks, current: Vec::new(), at: 0 }
    }
}

fn pump(
    mut reader: impl Read + Seek,
    pieces: Vec<Piece>,
    sender: &mpsc::Sender<io::Result<Vec<u8>>>,
) -> io::Result<()> {
    let start = reader.stream_position()?;
    for piece in pieces {
        match piece {
            Piece::Bytes(bytes) => {
                if sender.blocking_send(Ok(bytes)).is_err() {
                    return Ok(());
                }
            }
            Piece::Copy { at, mut length } => {
                reader.seek(SeekFrom::Start(start + at))?;
                while length > 0 {
                    let size = length.min(CHUNK as u64) as usize;
                    let mut chunk = Vec::with_capacity(size);
                    if reader.by_ref().take(size as u64).read_to_end(&mut chunk)? < size {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    length -= size as u64;
                    if sender.blocking_send(Ok(chunk)).is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }
    Ok(())
}

impl AsyncRead for Source {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.at == self.current.len() {
            match self.chunks.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Ready(Some(chunk)) => {
                    self.current = chunk?;
                    self.at = 0;
                }
            }
        }
        let count = into.remaining().min(self.current.len() - self.at);
        into.put_slice(&self.current[self.at..self.at + count]);
        self.at += count;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn pieces_come_in_order_from_where_the_reader_stood() {
        let stored: Vec<u8> = (0..CHUNK * 3).map(|index| (index % 251) as u8).collect();
        let mut reader = Cursor::new(stored.clone());
        reader.set_position(5);
        let pieces = vec![
            Piece::Copy { at: 0, length: 2 },
            Piece::Bytes(vec![0xaa; 3]),
            Piece::Bytes(Vec::new()),
            Piece::Copy { at: 10, length: CHUNK as u64 * 2 },
        ];
        let mut all = Vec::new();
        Source::new(reader, pieces).read_to_end(&mut all).await.expect("read");
        let expected = [&stored[5..7], &[0xaa; 3], &stored[15..15 + CHUNK * 2]].concat();
        assert!(all == expected);
    }

    #[tokio::test]
    async fn an_object_that_ends_early_is_known_from_the_network() {
        let pieces = vec![Piece::Copy { at: 0, length: 11 }];
        let error = Source::new(Cursor::new(vec![1; 10]), pieces)
            .read_to_end(&mut Vec::new())
            .await
            .expect_err("too short");
        assert!(is_unreadable(&error));
        assert!(!is_unreadable(&io::Error::other("reset")));
    }
}
