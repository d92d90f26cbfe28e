//! Associations (PS3.8), both ends, over any stream: the PDU codec is `dicom-ul`'s, the state is
//! ours.
//!
//! `dicom-ul` has an acceptor and a requestor of its own. They are not used because they decide
//! on the AE titles before the TLS peer's certificate can be asked, hold no deadline over the
//! handshake, and offer only some of the rejections of PS3.8 §9.3.4. Here the caller sees the
//! request, decides with everything it knows, and answers.

mod acceptor;
mod negotiation;
mod requestor;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use dicom_ul::pdu::Pdu;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};

pub use self::acceptor::{Judgement, Proposal, Requested, ShownIdentity};
pub use self::negotiation::Roles;
use super::dimse::{COMMAND_MAX, Command, CommandError};
pub use super::pdu::{AssociationError, Limits, Rejection};
use super::pdu::{PduStream, Received, VALUE_HEAD, Value, abort_for, abort_words, pdu_words, wait_for_close};

/// The DICOM application context (PS3.7 A.2.1), the only one there is.
pub const APPLICATION_CONTEXT: &str = "1.2.840.10008.3.1.1.1";
/// Data sets up to this length, in bytes, are read at any time; longer ones in turn.
const SHORT: usize = 256 * 1024;

/// An accepted presentation context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// SOP class.
    pub abstract_syntax: String,
    /// How data sets are encoded in it.
    pub transfer_syntax: String,
}

/// A message's beginning, or the end of the association.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, taken apart at once")]
pub enum Incoming {
    /// A command set, with the context that it came in. Its data set, if it has one, must be read
    /// to its end by [`Association::fragment`] before the next message.
    Command(u8, Command),
    /// The peer asks to release; answer with [`Association::answer_release`].
    Release,
}

/// An established association.
#[derive(Debug)]
pub struct Association<S> {
    pdus: PduStream<S>,
    contexts: BTreeMap<u8, Context>,
    /// The requestor's roles, for the SOP classes for which they were negotiated.
    roles: BTreeMap<String, Roles>,
    /// Abstract syntaxes that the peer refused, with its reason; empty where we are the acceptor.
    refused: Vec<(String, &'static str)>,
    peer_max: u32,
    /// How many of the requestor's operations may be under way at once.
    window: u16,
    pending: VecDeque<Value>,
    /// The command set that is on its way, and its context.
    command: (Vec<u8>, Option<u8>),
}

/// A data set that may have had to wait for its turn.
#[derive(Debug)]
pub enum InTurn<'a> {
    /// All of it; with the turn, where it is a long one.
    Whole(Vec<u8>, Option<SemaphorePermit<'a>>),
    /// Its turn did not come in time: it was read, and is gone.
    Busy,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Association<S> {
    /// The accepted context of that id.
    pub fn context(&self, id: u8) -> Option<&Context> {
        self.contexts.get(&id)
    }

    /// The first accepted context for a SOP class that has one of the transfer syntaxes.
    pub fn context_for(&self, abstract_syntax: &str, transfer_syntax: &str) -> Option<u8> {
        self.contexts
            .iter()
            .find(|(_, context)| {
                context.abstract_syntax == abstract_syntax && context.transfer_syntax == transfer_syntax
            })
            .map(|(id, _)| *id)
    }

    /// The first accepted context for a SOP class, with its transfer syntax.
    pub fn any_context_for(&self, abstract_syntax: &str) -> Option<(u8, String)> {
        self.contexts
            .iter()
            .find(|(_, context)| context.abstract_syntax == abstract_syntax)
            .map(|(id, context)| (*id, context.transfer_syntax.clone()))
    }

    /// The requestor's roles for a SOP class.
    pub fn roles(&self, abstract_syntax: &str) -> Roles {
        self.roles.get(abstract_syntax).copied().unwrap_or(Roles::DEFAULT)
    }

    /// Why the peer refused an abstract syntax, in the words of PS3.8 §9.3.3.2.
    pub fn refusal_of(&self, abstract_syntax: &str) -> Option<&'static str> {
        self.refused.iter().find(|(refused, _)| refused == abstract_syntax).map(|(_, why)| *why)
    }

    async fn next_value(&mut self, expected: &'static str) -> Result<Option<Value>, AssociationError> {
        loop {
            if let Some(value) = self.pending.pop_front() {
                if !self.contexts.contains_key(&value.context) {
                    return Err(AssociationError::Unexpected {
                        found: "a fragment in a context that was not accepted",
                        expected,
                    });
                }
                return Ok(Some(value));
            }
            match self.pdus.next(self.pdus.limits.idle, expected).await? {
                Received::Data(values) => self.pending = values,
                Received::Control(Pdu::ReleaseRQ) => return Ok(None),
                Received::Control(Pdu::AbortRQ { source }) => {
                    return Err(AssociationError::Aborted(abort_words(&source)));
                }
                Received::Control(other) => {
                    return Err(AssociationError::Unexpected { found: pdu_words(&other), expected });
                }
            }
        }
    }

    /// Whether the peer says something, or closes, within that time. Reads nothing of it, so the next
    /// message can be read as a whole afterwards.
    pub async fn speaks_within(&mut self, within: Duration) -> bool {
        !self.pending.is_empty() || self.pdus.arrives_within(within).await
    }

    /// The next message's command set, or the peer's wish to release. It may be left and asked for again: nothing of what
    /// came is lost.
    pub async fn next(&mut self) -> Result<Incoming, AssociationError> {
        let expected = "a command";
        loop {
            let value = self.next_value(expected).await?;
            let (bytes, context) = &mut self.command;
            let Some(value) = value else {
                if context.is_none() {
                    return Ok(Incoming::Release);
                }
                return Err(AssociationError::Unexpected { found: "A-RELEASE-RQ", expected });
            };
            if !value.is_command {
                return Err(AssociationError::Unexpected { found: "a data set fragment", expected });
            }
            if *context.get_or_insert(value.context) != value.context {
                return Err(AssociationError::Unexpected {
                    found: "a fragment of another context",
                    expected,
                });
            }
            if bytes.len() + value.data.len() > COMMAND_MAX {
                return Err(CommandError::TooLong.into());
            }
            bytes.extend(&value.data);
            if value.is_last {
                let (bytes, _) = std::mem::take(&mut self.command);
                return Ok(Incoming::Command(value.context, Command::parse(&bytes)?));
            }
        }
    }

    /// The next fragment of the data set in that context, and whether it is the last. It may be left and asked for again.
    pub async fn fragment(&mut self, context: u8) -> Result<(Bytes, bool), AssociationError> {
        let expected = "a data set fragment";
        let Some(value) = self.next_value(expected).await? else {
            return Err(AssociationError::Unexpected { found: "A-RELEASE-RQ", expected });
        };
        if value.is_command {
            return Err(AssociationError::Unexpected { found: "a command", expected });
        }
        if value.context != context {
            return Err(AssociationError::Unexpected { found: "a fragment of another context", expected });
        }
        Ok((value.data, value.is_last))
    }

    /// Reads a data set to its end into memory, at most `max` bytes of it.
    pub async fn data_set(&mut self, context: u8, max: usize) -> Result<Vec<u8>, AssociationError> {
        let mut bytes = Vec::new();
        loop {
            let (fragment, last) = self.fragment(context).await?;
            if bytes.len() + fragment.len() > max {
                return Err(AssociationError::DataSetTooLong { max });
            }
            bytes.extend(fragment);
            if last {
                return Ok(bytes);
            }
        }
    }

    /// As [`data_set`](Self::data_set), for an acceptor of many associations: what is longer than
    /// [`SHORT`] waits for the one turn there is, and then must come whole within the idle timeout. The
    /// turn is yielded with the data set, to be held for as long as its content is in memory. Whoever waits for
    /// the turn longer than the idle timeout is read to the end, nothing of it kept, and [`InTurn::Busy`] yielded.
    pub async fn data_set_in_turn<'a>(
        &mut self,
        context: u8,
        max: usize,
        turns: &'a Semaphore,
    ) -> Result<InTurn<'a>, AssociationError> {
        let (mut bytes, mut turn) = (Vec::new(), None);
        let (mut length, mut busy) = (0, false);
        let mut deadline = None;
        loop {
            let (fragment, last) = match deadline {
                None => self.fragment(context).await?,
                Some(deadline) => timeout_at(deadline, self.fragment(context))
                    .await
                    .map_err(|_| AssociationError::Timeout("the rest of a long data set"))??,
            };
            length += fragment.len();
            if length > max {
                return Err(AssociationError::DataSetTooLong { max });
            }
            if !busy {
                bytes.extend(fragment);
            }
            if turn.is_none() && deadline.is_none() && length > SHORT {
                let idle = self.pdus.limits.idle;
                match timeout(idle, turns.acquire()).await {
                    Ok(acquired) => turn = acquired.ok(),
                    Err(_) => (bytes, busy) = (Vec::new(), true),
                }
                deadline = Some(Instant::now() + idle);
            }
            if last {
                return Ok(if busy { InTurn::Busy } else { InTurn::Whole(bytes, turn) });
            }
        }
    }

    /// How many of the requestor's operations may be under way at once (asynchronous operations window, PS3.7 D.3.3.3).
    pub fn window(&self) -> usize {
        usize::from(self.window)
    }

    /// Time that the peer has for each PDU.
    pub fn idle(&self) -> Duration {
        self.pdus.limits.idle
    }

    /// Sends a command set.
    pub async fn send_command(&mut self, context: u8, command: &Command) -> Result<(), AssociationError> {
        let bytes = command.encode();
        self.send_values(context, true, bytes.as_slice()).await
    }

    /// Sends a data set, read piece by piece.
    pub async fn send_data_set(
        &mut self,
        context: u8,
        data_set: impl AsyncRead + Unpin,
    ) -> Result<(), AssociationError> {
        self.send_values(context, false, data_set).await
    }

    async fn send_values(
        &mut self,
        context: u8,
        is_command: bool,
        mut source: impl AsyncRead + Unpin,
    ) -> Result<(), AssociationError> {
        // A PDV's header is 6 bytes (length, context, control); the fragment must be even.
        let room = (self.peer_max as usize - 6) & !1;
        // A command set is far shorter than what the peer would take at once.
        let usual = if is_command { 512 } else { VALUE_HEAD + room };
        let (mut piece, mut next) = (Vec::with_capacity(usual), Vec::new());
        read_piece(&mut source, room, &mut piece).await?;
        loop {
            read_piece(&mut source, room, &mut next).await?;
            let is_last = next.len() == VALUE_HEAD;
            self.pdus.send_value(context, is_command, is_last, &mut piece).await?;
            if is_last {
                return Ok(());
            }
            std::mem::swap(&mut piece, &mut next);
            next.clear();
            next.reserve(usual);
        }
    }

    /// Answers the peer's release and waits for it to close the connection (ARTIM).
    pub async fn answer_release(mut self) -> Result<(), AssociationError> {
        self.pdus.send(&Pdu::ReleaseRP).await?;
        wait_for_close(&mut self.pdus).await;
        Ok(())
    }

    /// Releases the association from our side.
    pub async fn release(mut self) -> Result<(), AssociationError> {
        self.pdus.send(&Pdu::ReleaseRQ).await?;
        match self.pdus.next_control(self.pdus.limits.artim, "A-RELEASE-RP").await? {
            Pdu::ReleaseRP => {
                // The peer has answered; it may close first.
                drop(self.pdus.stream.shutdown().await);
                Ok(())
            }
            other => Err(AssociationError::Unexpected { found: pdu_words(&other), expected: "A-RELEASE-RP" }),
        }
    }

    /// Aborts because of that error.
    pub async fn abort(mut self, because: &AssociationError) {
        abort_for(&mut self.pdus, because).await;
    }
}

/// Reads the next fragment behind the room for its headers; with nothing left to read there is only that room.
async fn read_piece(
    source: &mut (impl AsyncRead + Unpin),
    room: usize,
    piece: &mut Vec<u8>,
) -> Result<(), AssociationError> {
    piece.clear();
    piece.resize(VALUE_HEAD, 0);
    source.take(room as u64).read_to_end(piece).await.map_err(AssociationError::Io)?;
    Ok(())
}

#[cfg(test)]
mod tests;
