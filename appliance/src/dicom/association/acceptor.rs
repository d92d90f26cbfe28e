//! The acceptor's end: a request is read, shown to whoever decides, and answered.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use dicom_ul::pdu::{
    AbortRQServiceProviderReason, AssociationAC, AssociationRQ, Pdu, PresentationContextResult,
    PresentationContextResultReason, UserIdentity, UserIdentityType, UserVariableItem,
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::negotiation::{granted, our_variables, peer_max_pdu, roles_of, window_of};
use super::{APPLICATION_CONTEXT, Association, Context, Roles};
use crate::dicom::pdu::{
    AssociationError, Limits, PduStream, Rejection, abort, abort_for, abort_words, pdu_words, wait_for_close,
};

/// Item type of the answer to a user identity (PS3.7 D.3.3.7.2).
const USER_IDENTITY_AC: u8 = 0x59;

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
        // Whoever asks for a window is told one; whoever does not must not be (PS3.7 D.3.3.3).
        let window =
            window_of(&self.request.user_variables).map(|asked| granted(asked, self.pdus.limits.operations));
        let mut user_variables = our_variables(self.pdus.limits.max_pdu, &roles, window);
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
            window: window.unwrap_or(1),
            pending: VecDeque::new(),
            command: Default::default(),
        })
    }
}
