//! A body as it comes: bounded in length, and in the time that its sender may dawdle.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Body;
use thiserror::Error;
use tokio::time::{Instant, timeout};

use super::multipart::{Event, Malformed, Reader};

/// So much must come within the time that a sender may be silent; else it is one that drips.
const PACE: usize = 16 * 1024;

/// A body that does not come, or is too long. Names no value of it.
#[derive(Debug, Error)]
pub enum BodyError {
    /// The sender is silent, or slower than 16 KiB in that time.
    #[error("the sender did not send on within {} s", .0.as_secs())]
    Slow(Duration),
    /// It is longer than allowed.
    #[error("the body is longer than {0} bytes")]
    TooLong(u64),
    /// The connection ended, or the transfer coding is wrong.
    #[error("the body ended before its end")]
    Broken,
    /// It is no multipart body.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It has more parts than allowed.
    #[error("the body has more than {0} parts")]
    TooMany(u32),
}

/// A body whose sender must keep the pace.
#[derive(Debug)]
pub struct Paced<B> {
    body: B,
    silence: Duration,
    left: Duration,
    since: usize,
    taken: u64,
    max: u64,
}

impl<B: Body<Data = Bytes> + Unpin> Paced<B> {
    /// At most `max` bytes, and `silence` for each 16 KiB of them. Only the time of waiting counts.
    pub fn new(body: B, max: u64, silence: Duration) -> Self {
        Paced { body, silence, left: silence, since: 0, taken: 0, max }
    }

    /// The next bytes; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            let begun = Instant::now();
            let frame = timeout(self.left, poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)))
                .await
                .map_err(|_| BodyError::Slow(self.silence))?;
            self.left = self.left.saturating_sub(begun.elapsed());
            let data = match frame {
                None => return Ok(None),
                Some(Err(_)) => return Err(BodyError::Broken),
                // Trailers mean nothing here.
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            self.since += data.len();
            if self.since >= PACE {
                (self.since, self.left) = (0, self.silence);
            }
            self.taken += data.len() as u64;
            if self.taken > self.max {
                return Err(BodyError::TooLong(self.max));
            }
            if !data.is_empty() {
                return Ok(Some(data));
            }
        }
    }

    /// All of it.
    pub async fn all(&mut self) -> Result<Vec<u8>, BodyError> {
        let mut whole = Vec::new();
        while let Some(bytes) = self.next().await? {
            whole.extend_from_slice(&bytes);
        }
        Ok(whole)
    }

    /// Reads and forgets what is left, `max` bytes of it at most and at the pace `silence` (as in
    /// [`Paced::new`]), for a sender that hears an answer only when it has sent all. What was read before does
    /// not count: a body that is too long has used up its own allowance.
    pub async fn drain(&mut self, max: u64, silence: Duration) {
        (self.taken, self.max) = (0, max);
        (self.silence, self.left, self.since) = (silence, silence, 0);
        while matches!(self.next().await, Ok(Some(_))) {}
    }
}

/// A multipart body in the reading.
#[derive(Debug)]
pub struct Parts<B> {
    body: Paced<B>,
    reader: Reader,
    parts: u32,
    max: u32,
}

impl<B: Body<Data = Bytes> + Unpin> Parts<B> {
    /// At most `max` parts.
    pub fn new(body: Paced<B>, reader: Reader, max: u32) -> Self {
        Parts { body, reader, parts: 0, max }
    }

    /// The next event.
    pub async fn next(&mut self) -> Result<Event, BodyError> {
        loop {
            if let Some(event) = self.reader.event()? {
                if let Event::Part(_) = event {
                    self.parts += 1;
                    if self.parts > self.max {
                        return Err(BodyError::TooMany(self.max));
                    }
                }
                return Ok(event);
            }
            match self.body.next().await? {
                Some(bytes) => self.reader.push(&bytes),
                None => {
                    self.reader.end()?;
                    return Err(BodyError::Broken);
                }
            }
        }
    }

    /// What remains of the body.
    pub fn rest(&mut self) -> &mut Paced<B> {
        &mut self.body
    }
}
