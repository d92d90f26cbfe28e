//! PDUs over a stream (PS3.8 §9.3): read within bounds and deadlines, written, and how an association
//! ends before its time. The codec is `dicom-ul`'s.
//!
//! A peer's PDU is bounded by the length that we announced before a byte of it is awaited, and
//! must arrive whole within the idle timeout, however slowly its bytes drip.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use dicom_ul::pdu::{
    AbortRQServiceProviderReason, AbortRQSource, AssociationRJ, AssociationRJResult,
    AssociationRJServiceProviderASCEReason as Acse,
    AssociationRJServiceProviderPresentationReason as Presentation, AssociationRJServiceUserReason as User,
    AssociationRJSource, MINIMUM_PDU_SIZE, Pdu, read_pdu, write_pdu,
};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::dimse::CommandError;

/// Bytes that are read at once. The TLS layer clears all the room that it is given before it fills some
/// of it: more than two TLS records' room would be cleared in vain.
const READ_MAX: usize = 32 * 1024;
/// Bytes before a fragment: the header of its PDU and its own (length, context, control).
pub(super) const VALUE_HEAD: usize = 12;
/// Longest A-ASSOCIATE PDU that we read: 128 contexts with every transfer syntax there is.
const ASSOCIATE_MAX: u32 = 512 * 1024;

/// An association failed, or was ended by one side. No variant holds a peer's data.
#[derive(Debug, Error)]
pub enum AssociationError {
    /// The connection broke.
    #[error("connection failed: {}", .0.kind())]
    Io(#[source] io::Error),
    /// The peer closed the connection without releasing the association.
    #[error("the peer closed the connection without a release")]
    Closed,
    /// The peer was too slow.
    #[error("the peer sent no whole PDU in time while we waited for {0}")]
    Timeout(&'static str),
    /// A PDU longer than we announced to take.
    #[error("the peer sent a PDU of {length} bytes, we take {max}")]
    PduTooLong {
        /// Its length.
        length: u32,
        /// What we take.
        max: u32,
    },
    /// A PDU that is not one.
    #[error("the peer sent a malformed PDU of type {0:#04x}")]
    Malformed(u8),
    /// A PDU or fragment that may not come here.
    #[error("the peer sent {found} where {expected} had to come")]
    Unexpected {
        /// What came.
        found: &'static str,
        /// What had to come.
        expected: &'static str,
    },
    /// A data set longer than the service needs.
    #[error("the peer sent a data set of more than {max} bytes")]
    DataSetTooLong {
        /// What we take.
        max: usize,
    },
    /// A command set that cannot be read.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The peer aborted.
    #[error("the peer aborted the association ({0})")]
    Aborted(&'static str),
    /// The peer rejected our association.
    #[error("the peer rejected the association: {0}")]
    Rejected(Rejection),
}

/// Why an association was rejected: result, source and reason of PS3.8 §9.3.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// 1 permanent, 2 transient.
    pub result: u8,
    /// 1 service user, 2 service provider (ACSE), 3 service provider (presentation).
    pub source: u8,
    /// Depends on the source.
    pub reason: u8,
}

impl Rejection {
    /// No reason given: the user identity is missing or wrong.
    pub const NO_REASON: Rejection = Rejection { result: 1, source: 1, reason: 1 };
    /// The application context name is not supported.
    pub const APPLICATION_CONTEXT: Rejection = Rejection { result: 1, source: 1, reason: 2 };
    /// The calling AE title is not recognized.
    pub const CALLING_AE: Rejection = Rejection { result: 1, source: 1, reason: 3 };
    /// The called AE title is not recognized.
    pub const CALLED_AE: Rejection = Rejection { result: 1, source: 1, reason: 7 };
    /// The protocol version is not supported.
    pub const PROTOCOL_VERSION: Rejection = Rejection { result: 1, source: 2, reason: 2 };
    /// No room for what the peer would send: come back later.
    pub const CONGESTION: Rejection = Rejection { result: 2, source: 3, reason: 1 };
    /// More associations than we take at once: come back later.
    pub const LOCAL_LIMIT: Rejection = Rejection { result: 2, source: 3, reason: 2 };

    /// The three numbers, e.g. `1/1/3`.
    pub fn numbers(&self) -> String {
        format!("{}/{}/{}", self.result, self.source, self.reason)
    }

    /// Whether trying again later may help.
    pub fn is_transient(&self) -> bool {
        self.result == 2
    }

    pub(super) fn of(rj: &AssociationRJ) -> Self {
        let (source, reason) = match &rj.source {
            AssociationRJSource::ServiceUser(reason) => (
                1,
                match reason {
                    User::NoReasonGiven => 1,
                    User::ApplicationContextNameNotSupported => 2,
                    User::CallingAETitleNotRecognized => 3,
                    User::CalledAETitleNotRecognized => 7,
                    User::Reserved(reason) => *reason,
                },
            ),
            AssociationRJSource::ServiceProviderASCE(reason) => (
                2,
                match reason {
                    Acse::NoReasonGiven => 1,
                    Acse::ProtocolVersionNotSupported => 2,
                },
            ),
            AssociationRJSource::ServiceProviderPresentation(reason) => (
                3,
                match reason {
                    Presentation::TemporaryCongestion => 1,
                    Presentation::LocalLimitExceeded => 2,
                    Presentation::Reserved(reason) => *reason,
                },
            ),
        };
        let result = match rj.result {
            AssociationRJResult::Permanent => 1,
            AssociationRJResult::Transient => 2,
        };
        Rejection { result, source, reason }
    }

    pub(super) fn pdu(self) -> Pdu {
        let source = match (self.source, self.reason) {
            (1, 2) => AssociationRJSource::ServiceUser(User::ApplicationContextNameNotSupported),
            (1, 3) => AssociationRJSource::ServiceUser(User::CallingAETitleNotRecognized),
            (1, 7) => AssociationRJSource::ServiceUser(User::CalledAETitleNotRecognized),
            (2, 2) => AssociationRJSource::ServiceProviderASCE(Acse::ProtocolVersionNotSupported),
            (3, 1) => AssociationRJSource::ServiceProviderPresentation(Presentation::TemporaryCongestion),
            (3, 2) => AssociationRJSource::ServiceProviderPresentation(Presentation::LocalLimitExceeded),
            _ => AssociationRJSource::ServiceUser(User::NoReasonGiven),
        };
        let result =
            if self.result == 2 { AssociationRJResult::Transient } else { AssociationRJResult::Permanent };
        Pdu::AssociationRJ(AssociationRJ { result, source })
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match (self.source, self.reason) {
            (1, 2) => "application context name not supported",
            (1, 3) => "calling AE title not recognized",
            (1, 7) => "called AE title not recognized",
            (2, 2) => "protocol version not supported",
            (3, 1) => "temporary congestion",
            (3, 2) => "local limit exceeded",
            (_, 1) => "no reason given",
            _ => "reserved reason",
        };
        let result = if self.is_transient() { "transient" } else { "permanent" };
        write!(f, "{words} (A-ASSOCIATE-RJ {}/{}/{}, {result})", self.result, self.source, self.reason)
    }
}

/// Sizes and deadlines of an association.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest P-DATA-TF PDU that we take; announced to the peer.
    pub max_pdu: u32,
    /// Time for the association request, and for a release (ARTIM, PS3.8 §9.1.5).
    pub artim: Duration,
    /// Time for any other PDU.
    pub idle: Duration,
    /// Operations that may be under way at once (asynchronous operations window, PS3.7 D.3.3.3): as requestor, how many
    /// we ask to invoke; as acceptor, how many we grant to whoever asks. 1 is what holds without negotiation.
    pub operations: u16,
}

/// What came.
#[derive(Debug)]
pub(super) enum Received {
    /// P-DATA-TF: one or more fragments.
    Data(VecDeque<Value>),
    /// Any other PDU.
    Control(Pdu),
}

/// A presentation data value (PS3.8 §9.3.5.1): a fragment of a command set or of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    /// Id of its presentation context.
    pub(super) context: u8,
    /// Of a command set, not of a data set.
    pub(super) is_command: bool,
    /// The last one of its command set or data set.
    pub(super) is_last: bool,
    /// The fragment, as it lies in what was read: nothing is copied.
    pub(super) data: Bytes,
}

/// Reads the values of a P-DATA-TF PDU. `dicom-ul` would do it, copying every byte once more.
fn presentation_data_values(mut rest: Bytes) -> Option<VecDeque<Value>> {
    let mut values = VecDeque::new();
    while !rest.is_empty() {
        let length = u32::from_be_bytes(*rest.first_chunk()?) as usize;
        rest.advance(4);
        // The context's id and the control header count as well.
        if length < 2 || length > rest.len() {
            return None;
        }
        let mut data = rest.split_to(length);
        let (context, control) = (data[0], data[1]);
        data.advance(2);
        values.push_back(Value { context, is_command: control & 1 != 0, is_last: control & 2 != 0, data });
    }
    // A PDU without a value is not one (§9.3.5); a peer could send such for ever.
    (!values.is_empty()).then_some(values)
}

/// PDUs over a stream.
#[derive(Debug)]
pub(super) struct PduStream<S> {
    pub(super) stream: S,
    buffer: BytesMut,
    pub(super) limits: Limits,
}

impl<S: AsyncRead + AsyncWrite + Unpin> PduStream<S> {
    pub(super) fn new(stream: S, limits: Limits) -> Self {
        PduStream { stream, buffer: BytesMut::with_capacity(16 * 1024), limits }
    }

    /// The next PDU that is not P-DATA-TF: where none may come.
    pub(super) async fn next_control(
        &mut self,
        within: Duration,
        expected: &'static str,
    ) -> Result<Pdu, AssociationError> {
        match self.next(within, expected).await? {
            Received::Control(pdu) => Ok(pdu),
            Received::Data(_) => Err(AssociationError::Unexpected { found: "P-DATA-TF", expected }),
        }
    }

    pub(super) async fn next(
        &mut self,
        within: Duration,
        expected: &'static str,
    ) -> Result<Received, AssociationError> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(received) = self.take_buffered()? {
                return Ok(received);
            }
            let mut some = (&mut self.buffer).limit(READ_MAX);
            let read = timeout_at(deadline, self.stream.read_buf(&mut some))
                .await
                .map_err(|_| AssociationError::Timeout(expected))?
                .map_err(AssociationError::Io)?;
            if read == 0 {
                return Err(AssociationError::Closed);
            }
        }
    }

    /// Whether bytes are here or come within that time; the end of the stream counts as well.
    pub(super) async fn arrives_within(&mut self, within: Duration) -> bool {
        !self.buffer.is_empty() || timeout(within, self.stream.read_buf(&mut self.buffer)).await.is_ok()
    }

    /// The next PDU, if all of it is here. Lengths are judged from the first six bytes.
    fn take_buffered(&mut self) -> Result<Option<Received>, AssociationError> {
        let Some(head) = self.buffer.first_chunk::<6>() else {
            self.buffer.reserve(6);
            return Ok(None);
        };
        let kind = head[0];
        let length = u32::from_be_bytes([head[2], head[3], head[4], head[5]]);
        let max = match kind {
            0x01 | 0x02 => ASSOCIATE_MAX,
            0x04 => self.limits.max_pdu,
            0x03 | 0x05..=0x07 if length == 4 => 4,
            _ => return Err(AssociationError::Malformed(kind)),
        };
        if length > max {
            return Err(AssociationError::PduTooLong { length, max });
        }
        let whole = 6 + length as usize;
        if self.buffer.len() < whole {
            self.buffer.reserve(whole - self.buffer.len());
            return Ok(None);
        }
        let mut bytes = self.buffer.split_to(whole).freeze();
        if kind == 0x04 {
            bytes.advance(6);
            let values = presentation_data_values(bytes).ok_or(AssociationError::Malformed(kind))?;
            return Ok(Some(Received::Data(values)));
        }
        // dicom-ul reads sub-items of A-ASSOCIATE with `Buf::get_*`, which panic when a length
        // lies (its issue 799); a peer's bytes must not end the task.
        catch_unwind(AssertUnwindSafe(|| read_pdu(bytes.clone(), max.max(MINIMUM_PDU_SIZE), true)))
            .ok()
            .and_then(Result::ok)
            .flatten()
            .map(|pdu| Some(Received::Control(pdu)))
            .ok_or(AssociationError::Malformed(kind))
    }

    pub(super) async fn send(&mut self, pdu: &Pdu) -> Result<(), AssociationError> {
        let mut bytes = Vec::with_capacity(256);
        write_pdu(&mut bytes, pdu).map_err(|_| AssociationError::Unexpected {
            found: "an unencodable PDU",
            expected: "one of ours",
        })?;
        self.send_bytes(&bytes).await
    }

    /// Sends a fragment in a P-DATA-TF PDU of its own (PS3.8 §9.3.5). `framed` is the fragment behind [`VALUE_HEAD`] bytes,
    /// into which the headers are written: `dicom-ul` would copy every byte of it.
    pub(super) async fn send_value(
        &mut self,
        context: u8,
        is_command: bool,
        is_last: bool,
        framed: &mut [u8],
    ) -> Result<(), AssociationError> {
        // Both count what stands behind them; what we send fits into a PDU by far.
        let value = (framed.len() - 10) as u32;
        let control = u8::from(is_command) | u8::from(is_last) << 1;
        framed[..2].copy_from_slice(&[0x04, 0]);
        framed[2..6].copy_from_slice(&(value + 4).to_be_bytes());
        framed[6..10].copy_from_slice(&value.to_be_bytes());
        framed[10..VALUE_HEAD].copy_from_slice(&[context, control]);
        self.send_bytes(framed).await
    }

    async fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), AssociationError> {
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        timeout(self.limits.idle, write)
            .await
            .map_err(|_| AssociationError::Timeout("room to send"))?
            .map_err(AssociationError::Io)
    }
}

pub(super) async fn abort<S: AsyncRead + AsyncWrite + Unpin>(
    pdus: &mut PduStream<S>,
    reason: AbortRQServiceProviderReason,
) {
    let pdu = Pdu::AbortRQ { source: AbortRQSource::ServiceProvider(reason) };
    // Best effort: the connection may be gone, and the association is over either way.
    if pdus.send(&pdu).await.is_ok() {
        wait_for_close(pdus).await;
    }
}

pub(super) async fn abort_for<S: AsyncRead + AsyncWrite + Unpin>(
    pdus: &mut PduStream<S>,
    error: &AssociationError,
) {
    let reason = match error {
        AssociationError::Io(_) | AssociationError::Closed | AssociationError::Aborted(_) => {
            drop(pdus.stream.shutdown().await);
            return;
        }
        AssociationError::Malformed(0x01..=0x07) => AbortRQServiceProviderReason::InvalidPduParameter,
        AssociationError::Malformed(_) => AbortRQServiceProviderReason::UnrecognizedPdu,
        AssociationError::PduTooLong { .. } => AbortRQServiceProviderReason::InvalidPduParameter,
        AssociationError::Unexpected { .. } => AbortRQServiceProviderReason::UnexpectedPdu,
        _ => AbortRQServiceProviderReason::ReasonNotSpecified,
    };
    abort(pdus, reason).await;
}

/// Closes our side, and lets the peer close its own: closing first with its bytes unread would
/// reset the connection and could take our last PDU with it.
pub(super) async fn wait_for_close<S: AsyncRead + AsyncWrite + Unpin>(pdus: &mut PduStream<S>) {
    drop(pdus.stream.shutdown().await);
    let drain = async {
        let mut rest = [0; 4096];
        while matches!(pdus.stream.read(&mut rest).await, Ok(count) if count > 0) {}
    };
    // ARTIM, but never long: a peer that stays is cut.
    drop(timeout(pdus.limits.artim.min(Duration::from_secs(2)), drain).await);
    pdus.buffer.advance(pdus.buffer.len());
}

pub(super) fn abort_words(source: &AbortRQSource) -> &'static str {
    match source {
        AbortRQSource::ServiceUser => "by its application",
        AbortRQSource::ServiceProvider(_) => "by its protocol machine",
        AbortRQSource::Reserved => "by an unnamed source",
    }
}

pub(super) fn pdu_words(pdu: &Pdu) -> &'static str {
    match pdu {
        Pdu::Unknown { .. } => "an unknown PDU",
        Pdu::AssociationRQ(_) => "A-ASSOCIATE-RQ",
        Pdu::AssociationAC(_) => "A-ASSOCIATE-AC",
        Pdu::AssociationRJ(_) => "A-ASSOCIATE-RJ",
        Pdu::PData { .. } => "P-DATA-TF",
        Pdu::ReleaseRQ => "A-RELEASE-RQ",
        Pdu::ReleaseRP => "A-RELEASE-RP",
        Pdu::AbortRQ { .. } => "A-ABORT",
    }
}
