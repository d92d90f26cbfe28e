//! Storage Commitment Push Model, SCU (PS3.4 J.3): a destination is asked to commit to what was
//! delivered to it.
//!
//! Its report comes on the association of the request, or later on one that it opens to us
//! (`ingest::session` takes it). Without a report in time it is asked again; at the end the delivery
//! shows that nobody has committed to it.

use std::sync::Arc;
use std::time::Duration;

use lightbox_provisioning::site::Destination;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::queue::{Backoff, Queue};
use crate::clock::SharedClock;
use crate::config::Config;
use crate::dicom::association::{Association, AssociationError, Incoming};
use crate::dicom::commitment::{INFORMATION_MAX, REQUEST, Reference, Report, Request};
use crate::dicom::data_set::DataSet;
use crate::dicom::dimse::{Command, N_ACTION_RQ, N_ACTION_RSP, N_EVENT_REPORT_RQ};
use crate::dicom::peer::{PeerError, RemoteAe, Stream};
use crate::dicom::services::{
    COMPREHENSIVE_3D_SR, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
};
use crate::dicom::status;
use crate::dicom::tls::live::Live;
use crate::phi::Phi;
use crate::store::deliveries::{self, ToCommit};
use crate::store::ledger::{Ledger, LedgerError};

/// How long the association of a request stays open for the report.
const STAY: Duration = Duration::from_secs(5);

/// Asks one destination to commit.
pub struct Asker {
    destination: String,
    ae: RemoteAe,
    ledger: Ledger,
    clock: SharedClock,
    backoff: Backoff,
    report_within: Duration,
}

impl Asker {
    /// For a destination with `commit = true`; `None` for all others.
    pub fn new(
        config: &Config,
        destination: &Destination,
        queue: &Queue,
        live: &watch::Receiver<Arc<Live>>,
    ) -> Option<Self> {
        let dicom = destination.dicom.as_ref().filter(|dicom| dicom.commit)?;
        let peer = config.site.peer(&dicom.peer)?;
        RemoteAe::of_site(&config.site, peer, live).map(|ae| Asker {
            destination: destination.name.clone(),
            ae,
            ledger: queue.ledger.clone(),
            clock: queue.clock.clone(),
            backoff: queue.backoff,
            report_within: Duration::from_secs(config.site.file.deliver.commit_report_minutes * 60),
        })
    }

    /// Asks for what is due, until `stop` turns true.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let asker = Arc::new(self);
        loop {
            let asked = tokio::select! {
                asked = asker.ask_next() => asked,
                _ = stop.changed() => return,
            };
            let wait = match asked {
                Ok(true) => continue,
                Ok(false) => Duration::from_secs(1),
                Err(LedgerError::Closed) => return,
                Err(error) => {
                    let (destination, reason) = (&asker.destination, error.to_string());
                    tracing::error!(destination, reason, "commitments cannot be asked for, trying on");
                    Duration::from_secs(5)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = stop.changed() => return,
            }
        }
    }

    /// Asks for the next delivery that is due; false when there is none.
    async fn ask_next(&self) -> Result<bool, LedgerError> {
        let name = self.destination.clone();
        let now = self.clock.now_ms();
        let since = now - self.backoff.give_up.as_millis() as i64;
        if !self.ledger.read(move |reader| deliveries::commitment_due(reader, &name, since, now)).await? {
            return Ok(false);
        }
        let report_by = now + self.report_within.as_millis() as i64;
        let name = self.destination.clone();
        let claim = self
            .ledger
            .write(move |writer| {
                for study in deliveries::give_up_commitments(writer, &name, since)? {
                    tracing::error!(study, destination = name, "given up asking for commitment");
                }
                let transaction = |uid: &str, attempt| transaction_uid(uid, &name, attempt);
                deliveries::claim_commitment(writer, &name, since, report_by, transaction)
            })
            .await?;
        let Some(claim) = claim else { return Ok(false) };
        if let Err(error) = self.ask(&claim).await {
            let mut chance = [0];
            // Without random numbers the waits are still right, only not spread.
            let _ = getrandom::fill(&mut chance);
            let wait = self.backoff.wait(claim.attempts, chance[0]);
            let next_ms = self.clock.now_ms() + wait.as_millis() as i64;
            let reason = error.to_string();
            let (study, destination) = (&claim.study_key, &self.destination);
            tracing::warn!(study, destination, reason, "the request for commitment did not come through");
            self.ledger
                .write(move |writer| deliveries::commitment_later(writer, claim.id, next_ms, &reason))
                .await?;
        }
        Ok(true)
    }

    async fn ask(&self, claim: &ToCommit) -> Result<(), PeerError> {
        let syntaxes = [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN].map(str::to_owned);
        let mut association = self.ae.connect(&[(STORAGE_COMMITMENT.to_owned(), syntaxes.to_vec())]).await?;
        let Some((context, syntax)) = association.any_context_for(STORAGE_COMMITMENT) else {
            drop(association.release().await);
            return Err(AssociationError::Unexpected {
                found: "a refusal of Storage Commitment Push Model",
                expected: "its acceptance",
            }
            .into());
        };
        match self.exchange(&mut association, context, &syntax, claim).await {
            Ok(true) => drop(association.release().await),
            // The peer has released; we answer.
            Ok(false) => drop(association.answer_release().await),
            Err(error) => {
                association.abort(&error).await;
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// N-ACTION, its response, and the report if it comes soon; false when the peer released.
    async fn exchange(
        &self,
        association: &mut Association<Stream>,
        context: u8,
        syntax: &str,
        claim: &ToCommit,
    ) -> Result<bool, AssociationError> {
        let information = Request {
            transaction_uid: claim.transaction_uid.clone(),
            references: vec![Reference {
                class: COMPREHENSIVE_3D_SR.into(),
                instance: claim.sr_instance_uid.clone(),
            }],
        }
        .information();
        let request = Command {
            field: N_ACTION_RQ,
            message_id: 1,
            requested_sop_class_uid: Some(STORAGE_COMMITMENT.into()),
            requested_sop_instance_uid: Some(Phi::from(STORAGE_COMMITMENT_INSTANCE)),
            action_type_id: Some(REQUEST),
            has_data_set: true,
            ..Command::default()
        };
        association.send_command(context, &request).await?;
        association.send_data_set(context, &information.encode(syntax)[..]).await?;
        let expected = "an N-ACTION response";
        // Some report before they answer.
        let mut answered = false;
        let mut deadline = Instant::now() + self.ae.limits.idle;
        loop {
            let next = match timeout_at(deadline, association.next()).await {
                Ok(next) => next?,
                Err(_) if answered => return Ok(true),
                Err(_) => return Err(AssociationError::Timeout(expected)),
            };
            match next {
                Incoming::Release if answered => return Ok(false),
                Incoming::Release => {
                    return Err(AssociationError::Unexpected { found: "A-RELEASE-RQ", expected });
                }
                Incoming::Command(context, response) if response.field == N_ACTION_RSP => {
                    if response.has_data_set {
                        association.data_set(context, INFORMATION_MAX).await?;
                    }
                    if response.status != Some(0) {
                        let found = "a failure status";
                        return Err(AssociationError::Unexpected { found, expected: "success to N-ACTION" });
                    }
                    answered = true;
                    deadline = Instant::now() + STAY;
                }
                Incoming::Command(context, report) if report.field == N_EVENT_REPORT_RQ => {
                    let status = self.reported(association, context, syntax, &report).await?;
                    association.send_command(context, &report.response(status, None)).await?;
                    if answered {
                        return Ok(true);
                    }
                }
                Incoming::Command(..) => {
                    return Err(AssociationError::Unexpected { found: "another message", expected });
                }
            }
        }
    }

    /// Takes a report; yields the status to answer.
    async fn reported(
        &self,
        association: &mut Association<Stream>,
        context: u8,
        syntax: &str,
        command: &Command,
    ) -> Result<u16, AssociationError> {
        if !command.has_data_set {
            return Ok(status::INVALID_ARGUMENT);
        }
        let bytes = association.data_set(context, INFORMATION_MAX).await?;
        let report = DataSet::parse(&bytes, syntax).ok().as_ref().and_then(Report::read);
        let Some(report) = report else { return Ok(status::INVALID_ARGUMENT) };
        let destinations = [self.destination.clone()];
        let written = self
            .ledger
            .write(move |writer| deliveries::commitment_reported(writer, &destinations, &report))
            .await;
        Ok(match written {
            Ok(true) => status::SUCCESS,
            Ok(false) => status::INVALID_ARGUMENT,
            Err(error) => {
                let (destination, reason) = (&self.destination, error.to_string());
                tracing::error!(destination, reason, "a commitment report could not be kept");
                status::PROCESSING_FAILURE
            }
        })
    }
}

/// A UID under 2.25 (PS3.5 B.2) from what the request is about, so that a try after a crash is the same.
fn transaction_uid(sr_instance_uid: &str, destination: &str, attempt: u32) -> String {
    let hash = Sha256::digest(format!("storage commitment\n{sr_instance_uid}\n{destination}\n{attempt}"));
    let number = hash.iter().take(16).fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
    // A UUID of version 8, variant 1.
    let number = number & !(0xf << 76) & !(0x3 << 62) | 0x8 << 76 | 0x2 << 62;
    format!("2.25.{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_has_a_transaction_of_its_own_that_a_restart_keeps() {
        let uid = transaction_uid("1.2.3", "pacs", 1);
        assert_eq!(uid, transaction_uid("1.2.3", "pacs", 1));
        assert!(crate::dicom::header::is_uid(&uid));
        for other in [transaction_uid("1.2.3", "pacs", 2), transaction_uid("1.2.3", "vna", 1)] {
            assert_ne!(uid, other);
        }
    }
}
