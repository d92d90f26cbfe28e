//! The requestor's end: contexts and roles are proposed, and the acceptor's answer taken apart.

use std::collections::{BTreeMap, VecDeque};

use dicom_ul::pdu::{
    AbortRQServiceProviderReason, AssociationRQ, Pdu, PresentationContextProposed,
    PresentationContextResultReason,
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::negotiation::{granted, our_variables, peer_max_pdu, roles_of, window_of};
use super::{APPLICATION_CONTEXT, Association, Context, Roles};
use crate::dicom::pdu::{AssociationError, Limits, PduStream, Rejection, abort, abort_words, pdu_words};

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
            user_variables: our_variables(
                limits.max_pdu,
                roles,
                (limits.operations > 1).then_some(limits.operations),
            ),
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
                // What was not answered holds as one at a time; what we did not ask for means nothing.
                let window = granted(window_of(&answer.user_variables).unwrap_or(1), limits.operations);
                let pending = VecDeque::new();
                let command = Default::default();
                Ok(Association { pdus, contexts, roles, refused, peer_max, window, pending, command })
            }
            Pdu::AssociationRJ(rejection) => Err(AssociationError::Rejected(Rejection::of(&rejection))),
            Pdu::AbortRQ { source } => Err(AssociationError::Aborted(abort_words(&source))),
            other => {
                abort(&mut pdus, AbortRQServiceProviderReason::UnexpectedPdu).await;
                Err(AssociationError::Unexpected { found: pdu_words(&other), expected: "A-ASSOCIATE-AC" })
            }
        }
    }
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
