//! Storage Commitment Push Model, SCP (PS3.4 J.3): the request is in the ledger before it is answered,
//! and the report is tried until the peer has it or it is given up.
//!
//! The report goes over the association of the request where the peer keeps it open, else over a new
//! one to the peer's address, on which we are SCP by role selection.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::status::of_service_error;
use crate::clock::SharedClock;
use crate::deliver::queue::Backoff;
use crate::dicom::association::{Association, AssociationError, Incoming, Roles};
use crate::dicom::commitment::{REQUEST, Report, Request};
use crate::dicom::data_set::DataSet;
use crate::dicom::dimse::{Command, N_EVENT_REPORT_RSP};
use crate::dicom::peer::{PeerError, RemoteAe, Stream};
use crate::dicom::services::{
    EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE,
};
use crate::dicom::status;
use crate::store::commitments::{self, Due, Told};
use crate::store::ledger::{Ledger, LedgerError};
use crate::store::objects::Objects;

/// How long a peer that has asked may stay silent before the report goes over its own association.
/// Most release at once, and would take a message of ours for a fault.
pub const SILENCE: Duration = Duration::from_millis(500);
/// For how long the association of a request holds its report, at most, while it is open.
const HELD: Duration = Duration::from_secs(120);

/// What the service needs; clones share it.
#[derive(Clone)]
pub struct Commitments {
    /// Where requests are kept.
    pub ledger: Ledger,
    /// What the box holds: asked through the index, which follows the acknowledgement.
    pub objects: Objects,
    /// For the waits.
    pub clock: SharedClock,
    /// When a report is tried again.
    pub backoff: Backoff,
    /// The peers that have an address.
    pub peers: Arc<BTreeMap<String, RemoteAe>>,
    /// Told when a report is due.
    pub wake: Arc<Notify>,
}

impl Commitments {
    /// Answers an N-ACTION request; yields the response, and the row of the request where there is a
    /// report to come.
    pub async fn ask(&self, peer: &str, command: &Command, information: &DataSet) -> (Command, Option<i64>) {
        let instance = command.requested_sop_instance_uid.as_ref().map(|uid| uid.expose().as_str());
        if instance != Some(STORAGE_COMMITMENT_INSTANCE) {
            return (command.response(status::NO_SUCH_INSTANCE, None), None);
        }
        if command.action_type_id != Some(REQUEST) {
            return (command.response(status::NO_SUCH_ACTION, None), None);
        }
        let Some(request) = Request::read(information) else {
            let comment = "transaction UID or references missing or unusable";
            return (command.response(status::INVALID_ARGUMENT, Some(comment)), None);
        };
        let (name, next_ms) = (peer.to_owned(), self.later(HELD));
        let count = request.references.len();
        let kept = self.ledger.write(move |writer| commitments::ask(writer, &name, &request, next_ms)).await;
        match kept {
            Ok(id) => {
                tracing::info!(peer, instances = count, commitment = id, "asked to commit");
                (command.response(status::SUCCESS, None), Some(id))
            }
            Err(error) => {
                tracing::error!(peer, reason = error.to_string(), "a request to commit could not be kept");
                let (status, comment) = of_service_error(&error);
                (command.response(status, comment), None)
            }
        }
    }

    fn later(&self, wait: Duration) -> i64 {
        self.clock.now_ms() + wait.as_millis() as i64
    }

    /// Sends the report on a request over the association on which it came.
    pub async fn report_here<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        association: &mut Association<S>,
        context: u8,
        message_id: u16,
        id: i64,
    ) -> Result<Option<Due>, AssociationError> {
        let next_ms = self.later(HELD);
        self.objects.settled().await;
        let (due, report) = match self
            .ledger
            .write(move |writer| commitments::report(writer, id, next_ms))
            .await
        {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(error) => {
                tracing::error!(commitment = id, reason = error.to_string(), "a report could not be made");
                return Ok(None);
            }
        };
        let syntax = association.context(context).map(|context| context.transfer_syntax.clone());
        report.send(association, context, &syntax.unwrap_or_default(), message_id).await?;
        Ok(Some(due))
    }

    /// Writes down the peer's answer to a report.
    pub async fn answered(&self, due: Due, response: &Command) {
        let told = match response.status {
            Some(0) => Told::Yes,
            status => self.again(&due, format!("N-EVENT-REPORT status {:#06x}", status.unwrap_or(0xFFFF))),
        };
        self.write_end(due, told).await;
    }

    /// The association of these requests has ended.
    pub async fn hand_over(&self, ids: Vec<i64>) {
        for id in ids {
            if let Err(error) = self.ledger.write(move |writer| commitments::hand_over(writer, id)).await {
                // It comes due by itself after a while.
                tracing::error!(commitment = id, reason = error.to_string(), "a report was not handed over");
            }
        }
        self.wake.notify_one();
    }

    /// When to try again, or that it is given up.
    fn again(&self, due: &Due, reason: String) -> Told {
        let age = u64::try_from(self.clock.now_ms() - due.asked_ms).unwrap_or_default();
        if Duration::from_millis(age) >= self.backoff.give_up {
            return Told::Never(reason);
        }
        let mut chance = [0];
        // Without random numbers the waits are still right, only not spread.
        let _ = getrandom::fill(&mut chance);
        Told::Later(self.later(self.backoff.wait(due.attempts, chance[0])), reason)
    }

    async fn write_end(&self, due: Due, told: Told) {
        match &told {
            Told::Yes => tracing::info!(
                peer = due.peer,
                commitment = due.id,
                committed = due.committed,
                failed = due.failed,
                "commitment reported"
            ),
            Told::Later(_, reason) => {
                tracing::warn!(peer = due.peer, commitment = due.id, reason, "commitment not yet reported");
            }
            Told::Never(reason) => {
                tracing::error!(peer = due.peer, commitment = due.id, reason, "commitment report given up");
            }
        }
        let id = due.id;
        if let Err(error) = self.ledger.write(move |writer| commitments::end(writer, &due, &told)).await {
            // It comes due again; the peer takes the same report twice.
            tracing::error!(commitment = id, reason = error.to_string(), "the outcome could not be written");
        }
    }

    /// Sends reports that are due over associations of our own, until `stop` turns true. One peer that
    /// hangs delays no other.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        loop {
            let turn = async {
                let now = self.clock.now_ms();
                match self.ledger.read(move |reader| commitments::due(reader, now)).await {
                    Ok(due) => self.report_all(due).await,
                    Err(LedgerError::Closed) => {}
                    Err(error) => {
                        tracing::error!(reason = error.to_string(), "commitments cannot be read");
                    }
                }
            };
            tokio::select! {
                () = turn => {}
                _ = stop.changed() => return,
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                _ = stop.changed() => return,
            }
        }
    }

    async fn report_all(&self, due: Vec<(i64, String)>) {
        let mut by_peer: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for (id, peer) in due {
            by_peer.entry(peer).or_default().push(id);
        }
        let mut tasks = tokio::task::JoinSet::new();
        for (peer, ids) in by_peer {
            let service = self.clone();
            tasks.spawn(async move {
                for id in ids {
                    service.report_anew(&peer, id).await;
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn report_anew(&self, peer: &str, id: i64) {
        let next_ms = self.later(HELD);
        self.objects.settled().await;
        let (due, report) = match self
            .ledger
            .write(move |writer| commitments::report(writer, id, next_ms))
            .await
        {
            Ok(Some(found)) => found,
            Ok(None) => return,
            Err(error) => {
                tracing::error!(commitment = id, reason = error.to_string(), "a report could not be made");
                return;
            }
        };
        let told = match self.peers.get(peer) {
            None => Told::Never(format!(
                "peer \"{peer}\" has no address in the site file and closed its association; add `address`, \
                 or let it wait for the report"
            )),
            Some(ae) => match self.exchange(ae, &report).await {
                Ok(0) => Told::Yes,
                Ok(status) => self.again(&due, format!("N-EVENT-REPORT status {status:#06x}")),
                Err(error) => self.again(&due, error.to_string()),
            },
        };
        self.write_end(due, told).await;
    }

    /// N-EVENT-REPORT over an association of our own; yields the peer's status.
    async fn exchange(&self, ae: &RemoteAe, report: &Report) -> Result<u16, PeerError> {
        let syntaxes = [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN].map(str::to_owned);
        let contexts = [(STORAGE_COMMITMENT.to_owned(), syntaxes.to_vec())];
        let roles = BTreeMap::from([(STORAGE_COMMITMENT.to_owned(), Roles::SCP)]);
        let mut association = ae.connect_with_roles(&contexts, &roles).await?;
        // Peers that accept the context but leave the role selection out are told all the same: many
        // take the report.
        let Some((context, syntax)) = association.any_context_for(STORAGE_COMMITMENT) else {
            drop(association.release().await);
            return Err(AssociationError::Unexpected {
                found: "a refusal of Storage Commitment Push Model",
                expected: "its acceptance",
            }
            .into());
        };
        match respond_to(&mut association, report, context, &syntax, ae.limits.idle).await {
            Ok(status) => {
                drop(association.release().await);
                Ok(status)
            }
            Err(error) => {
                association.abort(&error).await;
                Err(error.into())
            }
        }
    }
}

async fn respond_to(
    association: &mut Association<Stream>,
    report: &Report,
    context: u8,
    syntax: &str,
    within: Duration,
) -> Result<u16, AssociationError> {
    report.send(association, context, syntax, 1).await?;
    let expected = "an N-EVENT-REPORT response";
    let answer =
        timeout(within, association.next()).await.map_err(|_| AssociationError::Timeout(expected))??;
    match answer {
        Incoming::Command(context, response) if response.field == N_EVENT_REPORT_RSP => {
            if response.has_data_set {
                association.data_set(context, crate::dicom::commitment::INFORMATION_MAX).await?;
            }
            Ok(response.status.unwrap_or(0xFFFF))
        }
        Incoming::Command(..) => Err(AssociationError::Unexpected { found: "another message", expected }),
        Incoming::Release => Err(AssociationError::Unexpected { found: "A-RELEASE-RQ", expected }),
    }
}
