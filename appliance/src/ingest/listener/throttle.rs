//! How fast we read from a peer: a token bucket over the bytes received, shared by all its
//! associations. What is not read stays in the kernel's buffers, so TCP holds the sender back.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// What the bucket holds when full, as a part of a second's rate.
const BURST: f64 = 0.25;

/// The bucket of one peer. Reading may overdraw it by one read; the next waits until it is paid.
#[derive(Debug)]
pub struct Bucket {
    /// Bytes a second.
    rate: f64,
    level: Mutex<(f64, Instant)>,
}

impl Bucket {
    /// A full bucket.
    pub fn new(bytes_per_second: u64) -> Self {
        let rate = bytes_per_second.max(1) as f64;
        Bucket { rate, level: Mutex::new((rate * BURST, Instant::now())) }
    }

    /// How long to wait before anything may be read.
    fn debt(&self, now: Instant) -> Option<Duration> {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let (tokens, at) = &mut *level;
        *tokens =
            (*tokens + now.saturating_duration_since(*at).as_secs_f64() * self.rate).min(self.rate * BURST);
        *at = now;
        (*tokens < 0.0).then(|| Duration::from_secs_f64(-*tokens / self.rate))
    }

    fn take(&self, bytes: usize) {
        self.level.lock().unwrap_or_else(PoisonError::into_inner).0 -= bytes as f64;
    }
}

/// A stream that is read no faster than its bucket allows, once it has one.
#[derive(Debug)]
pub struct Throttled<S> {
    stream: S,
    bucket: Option<Arc<Bucket>>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<S> Throttled<S> {
    /// Not yet throttled: who is calling is not known before its first PDU.
    pub fn new(stream: S) -> Self {
        Throttled { stream, bucket: None, pause: None }
    }

    /// From now on this bucket counts.
    pub fn set_bucket(&mut self, bucket: Option<Arc<Bucket>>) {
        self.bucket = bucket;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Throttled<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(bucket) = &this.bucket else { return Pin::new(&mut this.stream).poll_read(cx, buf) };
        loop {
            if let Some(pause) = &mut this.pause {
                ready!(pause.as_mut().poll(cx));
                this.pause = None;
            }
            let now = Instant::now();
            match bucket.debt(now) {
                Some(wait) => this.pause = Some(Box::pin(sleep_until(now + wait))),
                None => break,
            }
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        bucket.take(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Throttled<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn two_streams_of_one_peer_share_its_rate() {
        let bucket = Arc::new(Bucket::new(1 << 20));
        let begun = Instant::now();
        let mut readers = tokio::task::JoinSet::new();
        for _ in 0..2 {
            let (ours, mut theirs) = tokio::io::duplex(1 << 16);
            let mut ours = Throttled::new(ours);
            ours.set_bucket(Some(bucket.clone()));
            tokio::spawn(async move { theirs.write_all(&vec![0; 1 << 19]).await });
            readers.spawn(async move { ours.read_to_end(&mut Vec::new()).await });
        }
        let mut read = 0;
        while let Some(done) = readers.join_next().await {
            read += done.expect("joined").expect("read");
        }
        assert_eq!(read, 1 << 20);
        // One MiB at one MiB a second, less the quarter with which the bucket began and one read.
        assert!(begun.elapsed() > Duration::from_millis(600), "{:?}", begun.elapsed());
    }
}
