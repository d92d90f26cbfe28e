//! MLLP (HL7 v2.5.1 Appendix C.4): one message between 0x0B and 0x1C 0x0D, over any byte stream,
//! and what the peer's acknowledgement (HL7 v2.5.1 §2.9) makes of a message.

use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::phi::Phi;

mod ack;

pub use ack::{
    Ack, AckCode, AckPolicy, Complaint, Disposition, OnNegative, Reason, acknowledgement, answer,
    answer_to_no_message, disposition, parse,
};

const START: u8 = 0x0B;
const END: [u8; 2] = [0x1C, 0x0D];

/// The largest acknowledgement that is read: no RIS answers with more.
pub const ACK_LIMIT_BYTES: usize = 64 * 1024;

/// Why a message was not exchanged. Never says what the message or its answer held.
#[derive(Debug, Error)]
pub enum MllpError {
    /// The connection failed.
    #[error("the MLLP connection failed")]
    Io(#[from] std::io::Error),
    /// The peer closed the connection before a whole frame had come.
    #[error("the peer closed the MLLP connection in the middle of an exchange")]
    Closed,
    /// Nothing that would end the exchange came in time.
    #[error("no acknowledgement within {0:?}")]
    TimedOut(Duration),
    /// A frame is larger than allowed.
    #[error("an MLLP frame is larger than {limit_bytes} bytes")]
    TooLarge {
        /// What is allowed, in bytes.
        limit_bytes: usize,
    },
    /// The answer is no HL7 acknowledgement.
    #[error("the answer is not an HL7 acknowledgement: {0}")]
    NotAnAcknowledgement(&'static str),
    /// The answer acknowledges another message.
    #[error("the acknowledgement names another message control id")]
    WrongControlId,
    /// A message to be sent holds a framing byte.
    #[error("the message holds a byte that frames MLLP")]
    FramingByte,
}

/// Frames a message.
///
/// # Errors
/// [`MllpError::FramingByte`] if it holds 0x0B or 0x1C, which would cut it in two.
pub fn encode(message: &str) -> Result<Vec<u8>, MllpError> {
    if message.bytes().any(|byte| byte == START || byte == END[0]) {
        return Err(MllpError::FramingByte);
    }
    let mut frame = Vec::with_capacity(message.len() + 3);
    frame.push(START);
    frame.extend_from_slice(message.as_bytes());
    frame.extend_from_slice(&END);
    Ok(frame)
}

/// Takes bytes as they come and gives back whole messages. Bytes before a start block are dropped;
/// a second start block begins the message anew, since the first one can no longer end.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// How much of `buffer` was searched for the end of the frame.
    searched: usize,
    /// Whether a start block was seen; without one nothing is kept.
    started: bool,
    limit_bytes: usize,
}

impl Decoder {
    /// A decoder of messages of at most `limit_bytes`.
    pub fn new(limit_bytes: usize) -> Self {
        Decoder { buffer: Vec::new(), searched: 0, started: false, limit_bytes }
    }

    /// Whether a message has begun and not ended.
    pub fn is_within_message(&self) -> bool {
        self.started
    }

    /// Takes what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, without its framing.
    ///
    /// # Errors
    /// [`MllpError::TooLarge`]: the connection is of no more use, as the frame's end is unknown.
    pub fn next_message(&mut self) -> Result<Option<Vec<u8>>, MllpError> {
        if !self.started {
            match self.buffer.iter().position(|byte| *byte == START) {
                Some(at) => {
                    self.buffer.drain(..=at);
                    self.started = true;
                    self.searched = 0;
                }
                None => {
                    self.buffer.clear();
                    return Ok(None);
                }
            }
        }
        // The end block may lie across two reads, so the last byte is looked at again.
        let from = self.searched.saturating_sub(1);
        let end = self.buffer[from..].windows(2).position(|pair| pair == END).map(|at| from + at);
        self.searched = self.buffer.len();
        let size = end.unwrap_or(self.buffer.len());
        if size > self.limit_bytes {
            return Err(MllpError::TooLarge { limit_bytes: self.limit_bytes });
        }
        let Some(end) = end else { return Ok(None) };
        let mut message: Vec<u8> = self.buffer.drain(..end + END.len()).take(end).collect();
        if let Some(restart) = message.iter().rposition(|byte| *byte == START) {
            message.drain(..=restart);
        }
        self.started = false;
        self.searched = 0;
        Ok(Some(message))
    }
}

/// Reads the next message of a connection that may stay without one for `idle`; once its first byte is
/// there, `timeout` is all that it has. `None`: the peer closed between two messages.
///
/// # Errors
/// See [`MllpError`]; the connection is of no more use.
pub async fn receive<S>(
    stream: &mut S,
    decoder: &mut Decoder,
    idle: Duration,
    timeout: Duration,
) -> Result<Option<Vec<u8>>, MllpError>
where
    S: AsyncRead + Unpin,
{
    if let Some(message) = decoder.next_message()? {
        return Ok(Some(message));
    }
    if !decoder.is_within_message() {
        let mut chunk = [0_u8; 4096];
        let read = tokio::time::timeout(idle, stream.read(&mut chunk)).await;
        match read.map_err(|_| MllpError::TimedOut(idle))? {
            Ok(0) => return Ok(None),
            // Many senders hang up without the alert that ends TLS.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error.into()),
            Ok(count) => decoder.push(&chunk[..count]),
        }
    }
    let message = tokio::time::timeout(timeout, read_message(stream, decoder)).await;
    message.map_err(|_| MllpError::TimedOut(timeout))?.map(Some)
}

/// Sends one message, framed.
///
/// # Errors
/// See [`MllpError`].
pub async fn reply<S>(stream: &mut S, message: &str, timeout: Duration) -> Result<(), MllpError>
where
    S: AsyncWrite + Unpin,
{
    let frame = encode(message)?;
    let sent = async {
        stream.write_all(&frame).await?;
        stream.flush().await
    };
    Ok(tokio::time::timeout(timeout, sent).await.map_err(|_| MllpError::TimedOut(timeout))??)
}

async fn read_message<S>(stream: &mut S, decoder: &mut Decoder) -> Result<Vec<u8>, MllpError>
where
    S: AsyncRead + Unpin,
{
    let mut chunk = [0_u8; 4096];
    loop {
        if let Some(message) = decoder.next_message()? {
            return Ok(message);
        }
        match stream.read(&mut chunk).await? {
            0 => return Err(MllpError::Closed),
            count => decoder.push(&chunk[..count]),
        }
    }
}

/// Sends one message and waits for its acknowledgement: a `CA` is followed by the application's
/// own answer only if the policy waits for one. `timeout` covers the whole exchange.
///
/// On any error the message may or may not have arrived: close the connection and send the same
/// message, with the same control id, again.
///
/// # Errors
/// See [`MllpError`]. An answer to another control id is an error rather than skipped: the
/// connection's exchanges are out of step.
pub async fn send<S>(
    stream: &mut S,
    message: &str,
    control_id: &str,
    timeout: Duration,
    policy: &AckPolicy,
) -> Result<Ack, MllpError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let exchange = async {
        stream.write_all(&encode(message)?).await?;
        stream.flush().await?;
        let mut decoder = Decoder::new(ACK_LIMIT_BYTES);
        loop {
            let ack = parse(&read_message(stream, &mut decoder).await?)?;
            if ack.control_id.expose() != control_id {
                return Err(MllpError::WrongControlId);
            }
            if ack.code != AckCode::CA || !policy.await_application {
                return Ok(ack);
            }
        }
    };
    tokio::time::timeout(timeout, exchange).await.map_err(|_| MllpError::TimedOut(timeout))?
}

/// Receives one message, hands it to `handle`, and answers with the code that it returns. `handle`
/// stores the message durably before it returns [`AckCode::AA`]. Gives the message back.
///
/// `answered_at` is the HL7 time stamp for the acknowledgement's MSH-7.
///
/// # Errors
/// See [`MllpError`]; bytes that are not UTF-8 reach `handle` with U+FFFD in their place.
pub async fn serve_one<S, H>(
    stream: &mut S,
    limit_bytes: usize,
    timeout: Duration,
    answered_at: &str,
    handle: H,
) -> Result<Phi<String>, MllpError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: FnOnce(&str) -> AckCode,
{
    let exchange = async {
        let mut decoder = Decoder::new(limit_bytes);
        let bytes = read_message(stream, &mut decoder).await?;
        let message = String::from_utf8_lossy(&bytes).into_owned();
        let code = handle(&message);
        let answer = acknowledgement(&message, code, answered_at)?;
        stream.write_all(&encode(&answer)?).await?;
        stream.flush().await?;
        Ok(Phi::new(message))
    };
    tokio::time::timeout(timeout, exchange).await.map_err(|_| MllpError::TimedOut(timeout))?
}

#[cfg(test)]
mod tests;
