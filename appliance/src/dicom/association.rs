//! Associations (PS3.8), both ends, over any stream: the PDU codec is `dicom-ul`'s, the state is
//! ours.
//!
//! `dicom-ul` has an acceptor and a requestor of its own. They are not used because they decide
//! on the AE titles before the TLS peer's certificate can be asked, hold no deadline over the
//! handshake, and offer only some of the rejections of PS3.8 §9.3.4. Here the caller sees the
//! request, decides with everything it knows, and answers.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use dicom_ul::pdu::{
    AbortRQServiceProviderReason, AssociationAC, AssociationRQ, PDataValue, PDataValueType, Pdu,
    PresentationContextProposed, PresentationContextResult, PresentationContextResultReason, RequestorRoles,
    UserIdentity, UserIdentityType, UserVariableItem,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};

use super::dimse::{COMMAND_MAX, Command, CommandError};
pub use super::pdu::{AssociationError, Limits, Rejection};
use super::pdu::{PduStream, Received, Value, abort, abort_for, abort_words, pdu_words, wait_for_close};
use super::{IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME};

/// The DICOM application context (PS3.7 A.2.1), the only one there is.
pub const APPLICATION_CONTEXT: &str = "1.2.840.10008.3.1.1.1";
/// Item type of the answer to a user identity (PS3.7 D.3.3.7.2).
const USER_IDENTITY_AC: u8 = 0x59;
/// Data sets up to this length, in bytes, are read at any time; longer ones in turn.
const SHORT: usize = 256 * 1024;
/// Largest PDU that we send, whatever the peer would take.
const SEND_PDU_MAX: u32 = 256 * 1024;

/// An association that a peer has asked for, not yet answered. It may hold the peer's passcode, so it
/// has no `Debug` that shows the request.
pub struct Requested<S> {
    pdus: PduStream<S>,
    request: AssociationRQ,
    identity_accepted: bool,
}

impl<S> fmt::Debug for Requested<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requested").finish_non_exhaustive()
    }
}

/// A proposed presentation context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// SOP class.
    pub abstract_syntax: String,
    /// Transfer syntaxes, in the peer's order.
    pub transfer_syntaxes: Vec<String>,
}

/// The user identity that a request carries (PS3.7 D.3.3.7). Never shown: it may hold a passcode.
#[derive(Clone, PartialEq, Eq)]
pub enum ShownIdentity {
    /// Type 1, or type 2 with its passcode.
    User {
        /// The username's bytes (UTF-8).
        username: Vec<u8>,
        /// The passcode's bytes (UTF-8); `None` for type 1.
        passcode: Option<Vec<u8>>,
    },
    /// Kerberos, SAML or JSON web token: not supported.
    Other,
}

impl fmt::Debug for ShownIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShownIdentity(…)")
    }
}

/// Judges a proposed presentation context: the transfer syntax to use, or why not.
pub type Judgement = Result<String, PresentationContextResultReason>;

/// The roles of the association's requestor for a SOP class (SCP/SCU role selection, PS3.7 D.3.3.4).
/// Without negotiation the requestor is SCU and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// The requestor may be SCU.
    pub scu: bool,
    /// The requestor may be SCP.
    pub scp: bool,
}

impl Roles {
    /// What holds where nothing is negotiated.
    pub const DEFAULT: Roles = Roles { scu: true, scp: false };
    /// The requestor is the SCP: for storage in C-GET, for N-EVENT-REPORT on an association of its own.
    pub const SCP: Roles = Roles { scu: false, scp: true };
}

impl<S: AsyncRead + AsyncWrite + Unpin> Requested<S> {
    /// Reads the A-ASSOCIATE-RQ within ARTIM.
    pub async fn read(stream: S, limits: Limits) -> Result<Self, AssociationError> {
        let mut pdus = PduStream::new(stream, limits);
        match pdus.next_control(limits.artim, "A-ASSOCIATE-RQ").await {
            Ok(Pdu::AssociationRQ(request)) => Ok(Requested { pdus, request, identity_accepted: false }),
            Ok(Pdu::AbortRQ { source }) => Err(AssociationError::Aborted(abort_words(&source))),
            Ok(other) => {
                abort(&mut pdus, AbortRQServiceProviderReason::UnexpectedPdu).await;
                Err(AssociationError::Unexpected { found: pdu_words(&other), expected: "A-ASSOCIATE-RQ" })
            }
            Err(error) => {
                abort_for(&mut pdus, &error).await;
                Err(error)
            }
        }
    }

    /// Calling AE title, without padding.
    pub fn calling_ae(&self) -> &str {
        self.request.calling_ae_title.trim()
    }

    /// Called AE title, without padding.
    pub fn called_ae(&self) -> &str {
        self.request.called_ae_title.trim()
    }

    /// The presentation contexts that the peer proposes.
    pub fn proposals(&self) -> Vec<Proposal> {
        let proposed = self.request.presentation_contexts.iter();
        proposed
            .map(|context| Proposal {
                abstract_syntax: context.abstract_syntax.trim_end_matches('\0').to_owned(),
                transfer_syntaxes: context.transfer_syntaxes.clone(),
            })
            .collect()
    }

    fn identity_item(&self) -> Option<&UserIdentity> {
        self.request.user_variables.iter().find_map(|item| match item {
            UserVariableItem::UserIdentityItem(identity) => Some(identity),
            _ => None,
        })
    }

    /// The user identity that the request carries.
    pub fn identity(&self) -> Option<ShownIdentity> {
        let item = self.identity_item()?;
        Some(match item.identity_type() {
            UserIdentityType::Username => {
                ShownIdentity::User { username: item.primary_field(), passcode: None }
            }
            UserIdentityType::UsernamePassword => {
                ShownIdentity::User { username: item.primary_field(), passcode: Some(item.secondary_field()) }
            }
            _ => ShownIdentity::Other,
        })
    }

    /// Says that the user identity was checked and is right: the answer confirms it where the peer
    /// has asked for that (PS3.7 D.3.3.7.2).
    pub fn accept_identity(&mut self) {
        self.identity_accepted = self.identity_item().is_some_and(UserIdentity::positive_response_requested);
    }

    /// Announces, and takes, PDUs of at most this length.
    pub fn set_max_pdu(&mut self, max_pdu: u32) {
        self.pdus.limits.max_pdu = max_pdu;
    }

    /// The stream beneath.
    pub fn stream_mut(&mut self) -> &mut S {
        &mut self.pdus.stream
    }

    /// What is wrong with the request, whoever sent it.
    pub fn fault(&self) -> Option<Rejection> {
        if self.request.protocol_version & 1 == 0 {
            return Some(Rejection::PROTOCOL_VERSION);
        }
        if self.request.application_context_name != APPLICATION_CONTEXT {
            return Some(Rejection::APPLICATION_CONTEXT);
        }
        None
    }

    /// Answers with A-ASSOCIATE-RJ and waits for the peer to close.
    pub async fn reject(mut self, rejection: Rejection) -> Result<(), AssociationError> {
        self.pdus.send(&rejection.pdu()).await?;
        wait_for_close(&mut self.pdus).await;
        Ok(())
    }

    /// Answers with A-ASSOCIATE-AC; `judge` decides on each proposed context by its abstract syntax
    /// and transfer syntaxes. No roles are negotiated.
    pub async fn accept(
        self,
        judge: impl FnMut(&str, &[String]) -> Judgement,
    ) -> Result<Association<S>, AssociationError> {
        self.accept_with_roles(judge, |_, _| None).await
    }

    /// As [`accept`](Self::accept); `judge_roles` says which of the roles that the peer proposes for a
    /// SOP class it gets, `None` where they are not negotiated (the default roles hold).
    pub async fn accept_with_roles(
        mut self,
        mut judge: impl FnMut(&str, &[String]) -> Judgement,
        mut judge_roles: impl FnMut(&str, Roles) -> Option<Roles>,
    ) -> Result<Association<S>, AssociationError> {
        let (mut contexts, mut results) = (BTreeMap::new(), Vec::new());
        for proposed in &self.request.presentation_contexts {
            let fresh = proposed.id % 2 == 1 && !contexts.contains_key(&proposed.id);
            let judgement = if fresh {
                judge(proposed.abstract_syntax.trim_end_matches('\0'), &proposed.transfer_syntaxes)
            } else {
                Err(PresentationContextResultReason::NoReason)
            };
            let (reason, transfer_syntax) = match judgement {
                Ok(transfer_syntax) => {
                    contexts.insert(
                        proposed.id,
                        Context {
                            abstract_syntax: proposed.abstract_syntax.trim_end_matches('\0').to_owned(),
                            transfer_syntax: transfer_syntax.clone(),
                        },
                    );
                    (PresentationContextResultReason::Acceptance, transfer_syntax)
                }
                // The transfer syntax of a refused context is not significant (PS3.8 §9.3.3.2).
                Err(reason) => (reason, "1.2.840.10008.1.2".to_owned()),
            };
            results.push(PresentationContextResult { id: proposed.id, reason, transfer_syntax });
        }
        let mut roles = BTreeMap::new();
        for (class, proposed) in roles_of(&self.request.user_variables) {
            let negotiated = contexts.values().any(|context: &Context| context.abstract_syntax == class);
            if let Some(given) = negotiated.then(|| judge_roles(&class, proposed)).flatten() {
                roles.insert(class, given);
            }
        }
        let mut user_variables = our_variables(self.pdus.limits.max_pdu, &roles);
        if self.identity_accepted {
            // User Identity Negotiation (AC): a server response of length 0, as for types 1 and 2.
            user_variables.push(UserVariableItem::Unknown(USER_IDENTITY_AC, vec![0, 0]));
        }
        let answer = Pdu::AssociationAC(AssociationAC {
            protocol_version: 1,
            calling_ae_title: self.request.calling_ae_title.clone(),
            called_ae_title: self.request.called_ae_title.clone(),
            application_context_name: APPLICATION_CONTEXT.into(),
            presentation_contexts: results,
            user_variables,
        });
        self.pdus.send(&answer).await?;
        let peer_max = peer_max_pdu(&self.request.user_variables);
        Ok(Association {
            pdus: self.pdus,
            contexts,
            roles,
            refused: Vec::new(),
            peer_max,
            pending: VecDeque::new(),
        })
    }
}

fn our_variables(max_pdu: u32, roles: &BTreeMap<String, Roles>) -> Vec<UserVariableItem> {
    let mut variables = vec![
        UserVariableItem::MaxLength(max_pdu),
        UserVariableItem::ImplementationClassUID(IMPLEMENTATION_CLASS_UID.into()),
        UserVariableItem::ImplementationVersionName(IMPLEMENTATION_VERSION_NAME.into()),
    ];
    variables.extend(roles.iter().map(|(class, roles)| {
        let roles = RequestorRoles { scu: roles.scu, scp: roles.scp };
        UserVariableItem::ScuScpRoleSelectionSubItem(class.clone(), roles)
    }));
    variables
}

fn roles_of(variables: &[UserVariableItem]) -> BTreeMap<String, Roles> {
    let role = |item: &UserVariableItem| match item {
        UserVariableItem::ScuScpRoleSelectionSubItem(class, roles) => {
            let class = class.trim_end_matches(['\0', ' ']).to_owned();
            Some((class, Roles { scu: roles.scu, scp: roles.scp }))
        }
        _ => None,
    };
    variables.iter().filter_map(role).collect()
}

/// What the peer takes: 0 means without limit (PS3.8 D.1); less than a PDV header is nonsense, and
/// treated as the smallest size that makes progress.
fn peer_max_pdu(variables: &[UserVariableItem]) -> u32 {
    let announced = variables.iter().find_map(|item| match item {
        UserVariableItem::MaxLength(length) => Some(*length),
        _ => None,
    });
    match announced {
        None => 16_384,
        Some(0) => SEND_PDU_MAX,
        Some(length) => length.clamp(64, SEND_PDU_MAX),
    }
}

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
    pending: VecDeque<Value>,
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
    /// Asks a peer for an association: `contexts` are abstract syntaxes with their transfer syntaxes.
    pub async fn request(
        stream: S,
        calling_ae: &str,
        called_ae: &str,
        contexts: &[(String, Vec<String>)],
        limits: Limits,
    ) -> Result<Self, AssociationError> {
        Self::request_with_roles(stream, calling_ae, called_ae, contexts, &BTreeMap::new(), limits).await
    }

    /// As [`request`](Self::request), proposing our roles for some of the SOP classes.
    pub async fn request_with_roles(
        stream: S,
        calling_ae: &str,
        called_ae: &str,
        contexts: &[(String, Vec<String>)],
        roles: &BTreeMap<String, Roles>,
        limits: Limits,
    ) -> Result<Self, AssociationError> {
        let mut pdus = PduStream::new(stream, limits);
        let proposed: Vec<_> = contexts
            .iter()
            .take(128)
            .enumerate()
            .map(|(index, (abstract_syntax, transfer_syntaxes))| PresentationContextProposed {
                id: (index * 2 + 1) as u8,
                abstract_syntax: abstract_syntax.clone(),
                transfer_syntaxes: transfer_syntaxes.clone(),
            })
            .collect();
        pdus.send(&Pdu::AssociationRQ(AssociationRQ {
            protocol_version: 1,
            calling_ae_title: calling_ae.into(),
            called_ae_title: called_ae.into(),
            application_context_name: APPLICATION_CONTEXT.into(),
            presentation_contexts: proposed.clone(),
            user_variables: our_variables(limits.max_pdu, roles),
        }))
        .await?;
        match pdus.next_control(limits.idle, "A-ASSOCIATE-AC").await? {
            Pdu::AssociationAC(answer) => {
                let contexts = answer
                    .presentation_contexts
                    .iter()
                    .filter(|result| result.reason == PresentationContextResultReason::Acceptance)
                    .filter_map(|result| {
                        let asked = proposed.iter().find(|asked| asked.id == result.id)?;
                        let transfer_syntax = result.transfer_syntax.trim_end_matches('\0').to_owned();
                        asked.transfer_syntaxes.contains(&transfer_syntax).then(|| {
                            (
                                result.id,
                                Context { abstract_syntax: asked.abstract_syntax.clone(), transfer_syntax },
                            )
                        })
                    })
                    .collect();
                let refused = answer
                    .presentation_contexts
                    .iter()
                    .filter_map(|result| {
                        let asked = proposed.iter().find(|asked| asked.id == result.id)?;
                        Some((asked.abstract_syntax.clone(), refusal_words(&result.reason)?))
                    })
                    .collect();
                let peer_max = peer_max_pdu(&answer.user_variables);
                let roles = roles_of(&answer.user_variables);
                Ok(Association { pdus, contexts, roles, refused, peer_max, pending: VecDeque::new() })
            }
            Pdu::AssociationRJ(rejection) => Err(AssociationError::Rejected(Rejection::of(&rejection))),
            Pdu::AbortRQ { source } => Err(AssociationError::Aborted(abort_words(&source))),
            other => {
                abort(&mut pdus, AbortRQServiceProviderReason::UnexpectedPdu).await;
                Err(AssociationError::Unexpected { found: pdu_words(&other), expected: "A-ASSOCIATE-AC" })
            }
        }
    }

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

    /// The next message's command set, or the peer's wish to release.
    pub async fn next(&mut self) -> Result<Incoming, AssociationError> {
        let expected = "a command";
        let (mut bytes, mut context) = (Vec::new(), None);
        loop {
            let Some(value) = self.next_value(expected).await? else {
                if bytes.is_empty() && context.is_none() {
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
                return Ok(Incoming::Command(value.context, Command::parse(&bytes)?));
            }
        }
    }

    /// The next fragment of the data set in that context, and whether it is the last.
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

    /// Time that the peer has for each PDU.
    pub fn idle(&self) -> Duration {
        self.pdus.limits.idle
    }

    /// Sends a command set.
    pub async fn send_command(&mut self, context: u8, command: &Command) -> Result<(), AssociationError> {
        let bytes = command.encode();
        self.send_values(context, PDataValueType::Command, bytes.as_slice()).await
    }

    /// Sends a data set, read piece by piece.
    pub async fn send_data_set(
        &mut self,
        context: u8,
        data_set: impl AsyncRead + Unpin,
    ) -> Result<(), AssociationError> {
        self.send_values(context, PDataValueType::Data, data_set).await
    }

    async fn send_values(
        &mut self,
        context: u8,
        value_type: PDataValueType,
        mut source: impl AsyncRead + Unpin,
    ) -> Result<(), AssociationError> {
        // A PDV's header is 6 bytes (length, context, control); the fragment must be even.
        let room = (self.peer_max as usize - 6) & !1;
        let mut piece = read_piece(&mut source, room).await?;
        loop {
            let next = read_piece(&mut source, room).await?;
            let is_last = next.is_empty();
            let value = PDataValue {
                presentation_context_id: context,
                value_type: value_type.clone(),
                is_last,
                data: piece,
            };
            self.pdus.send(&Pdu::PData { data: vec![value] }).await?;
            if is_last {
                return Ok(());
            }
            piece = next;
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

async fn read_piece(source: &mut (impl AsyncRead + Unpin), room: usize) -> Result<Vec<u8>, AssociationError> {
    let mut piece = Vec::with_capacity(room.min(64 * 1024));
    source.take(room as u64).read_to_end(&mut piece).await.map_err(AssociationError::Io)?;
    Ok(piece)
}

fn refusal_words(reason: &PresentationContextResultReason) -> Option<&'static str> {
    match reason {
        PresentationContextResultReason::Acceptance => None,
        PresentationContextResultReason::UserRejection => Some("user rejection (1)"),
        PresentationContextResultReason::NoReason => Some("no reason, provider rejection (2)"),
        PresentationContextResultReason::AbstractSyntaxNotSupported => {
            Some("abstract syntax not supported (3)")
        }
        PresentationContextResultReason::TransferSyntaxesNotSupported => {
            Some("transfer syntaxes not supported (4)")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { max_pdu: 16_384, artim: Duration::from_secs(2), idle: Duration::from_secs(2) };
    const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
    const EXPLICIT: &str = "1.2.840.10008.1.2.1";

    fn proposal() -> Vec<(String, Vec<String>)> {
        vec![(CT.into(), vec![EXPLICIT.into()]), ("1.2.3".into(), vec![EXPLICIT.into()])]
    }

    #[tokio::test]
    async fn a_message_with_a_data_set_arrives_whole_in_the_accepted_context() {
        let (ours, theirs) = tokio::io::duplex(4096);
        let sender = tokio::spawn(async move {
            let mut association =
                Association::request(theirs, "SCU", "SCP", &proposal(), LIMITS).await.expect("accepted");
            let context = association.context_for(CT, EXPLICIT).expect("accepted");
            assert_eq!(association.context_for("1.2.3", EXPLICIT), None);
            let command = Command {
                field: super::super::dimse::C_STORE_RQ,
                message_id: 1,
                sop_class_uid: Some(CT.into()),
                has_data_set: true,
                ..Command::default()
            };
            association.send_command(context, &command).await.expect("sent");
            association.send_data_set(context, &vec![7; 100_000][..]).await.expect("sent");
            association.release().await.expect("released");
        });
        let requested = Requested::read(ours, LIMITS).await.expect("read");
        assert_eq!((requested.calling_ae(), requested.called_ae(), requested.fault()), ("SCU", "SCP", None));
        let mut association = requested
            .accept(|class, syntaxes| {
                if class == CT {
                    Ok(syntaxes[0].clone())
                } else {
                    Err(PresentationContextResultReason::AbstractSyntaxNotSupported)
                }
            })
            .await
            .expect("accepted");
        let Incoming::Command(context, command) = association.next().await.expect("a command") else {
            panic!("a command had to come")
        };
        assert!(command.has_data_set);
        let mut length = 0;
        loop {
            let (bytes, last) = association.fragment(context).await.expect("a fragment");
            length += bytes.len();
            if last {
                break;
            }
        }
        assert_eq!(length, 100_000);
        assert!(matches!(association.next().await, Ok(Incoming::Release)));
        association.answer_release().await.expect("answered");
        sender.await.expect("the sender's checks hold");
    }

    #[tokio::test]
    async fn a_rejection_carries_its_three_numbers() {
        let (ours, theirs) = tokio::io::duplex(4096);
        let acceptor = tokio::spawn(async move {
            Requested::read(ours, LIMITS).await.expect("read").reject(Rejection::CALLED_AE).await
        });
        let error =
            Association::request(theirs, "SCU", "WRONG", &proposal(), LIMITS).await.expect_err("rejected");
        assert!(matches!(error, AssociationError::Rejected(Rejection::CALLED_AE)), "{error}");
        assert!(error.to_string().contains("1/1/7"));
        acceptor.await.expect("joined").expect("sent");
    }

    #[tokio::test]
    async fn roles_are_given_only_for_accepted_classes() {
        let (ours, theirs) = tokio::io::duplex(4096);
        let acceptor = tokio::spawn(async move {
            let requested = Requested::read(ours, LIMITS).await.expect("read");
            let judge = |class: &str, syntaxes: &[String]| {
                if class == CT {
                    Ok(syntaxes[0].clone())
                } else {
                    Err(PresentationContextResultReason::AbstractSyntaxNotSupported)
                }
            };
            let association =
                requested.accept_with_roles(judge, |_, proposed| Some(proposed)).await.expect("accepted");
            (association.roles(CT), association.roles("1.2.3"))
        });
        let wanted = [(CT.to_owned(), Roles::SCP), ("1.2.3".to_owned(), Roles::SCP)].into();
        let association = Association::request_with_roles(theirs, "SCU", "SCP", &proposal(), &wanted, LIMITS)
            .await
            .expect("accepted");
        assert_eq!((association.roles(CT), association.roles("1.2.3")), (Roles::SCP, Roles::DEFAULT));
        assert_eq!(acceptor.await.expect("joined"), (Roles::SCP, Roles::DEFAULT));
    }

    async fn first_bytes(bytes: &[u8]) -> AssociationError {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        theirs.write_all(bytes).await.expect("sent");
        let keep = theirs;
        let result = Requested::read(ours, Limits { artim: Duration::from_millis(200), ..LIMITS }).await;
        drop(keep);
        result.expect_err("must fail")
    }

    #[tokio::test]
    async fn lying_lengths_and_foreign_bytes_are_refused_from_the_first_six_bytes() {
        let huge = [1, 0, 0xff, 0xff, 0xff, 0xff];
        assert!(matches!(first_bytes(&huge).await, AssociationError::PduTooLong { .. }));
        assert!(matches!(first_bytes(b"GET / HTTP/1.1\r\n").await, AssociationError::Malformed(b'G')));
        assert!(matches!(first_bytes(&[5, 0, 0, 0, 0, 9]).await, AssociationError::Malformed(5)));
        let data = [4, 0, 0, 0, 0, 6, 0, 0, 0, 2, 1, 3];
        assert!(matches!(first_bytes(&data).await, AssociationError::Unexpected { .. }));
        // P-DATA-TF without a value, with one too short to be one, with one that is cut.
        for empty in
            [&[4, 0, 0, 0, 0, 0][..], &[4, 0, 0, 0, 0, 5, 0, 0, 0, 1, 1], &[4, 0, 0, 0, 0, 5, 0, 0, 0, 9, 1]]
        {
            assert!(matches!(first_bytes(empty).await, AssociationError::Malformed(4)), "{empty:?}");
        }
        assert!(matches!(first_bytes(&[1, 0]).await, AssociationError::Timeout(_)));
        // An A-ASSOCIATE-RQ whose sub-item claims more than there is.
        let mut lying = vec![1, 0, 0, 0, 0, 78, 0, 1, 0, 0];
        lying.extend([b' '; 32]);
        lying.extend([0; 32]);
        lying.extend([0x10, 0, 0xff, 0xff, 1, 2, 3, 4, 5, 6]);
        assert!(matches!(first_bytes(&lying).await, AssociationError::Malformed(1)));
    }
}
