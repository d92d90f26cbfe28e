//! Modality Performed Procedure Step and Instance Availability Notification, SCP (PS3.4 F.7, Annex R):
//! durable before success, and evidence of completeness; nothing else follows from them.

use super::receive::Receiver;
use super::status::of_service_error;
use crate::dicom::data_set::DataSet;
use crate::dicom::dimse::Command;
use crate::dicom::header::is_uid;
use crate::dicom::procedure_step::{Availability, Begun, Change, Fault, NO_LONGER_UPDATED};
use crate::dicom::status;
use crate::phi::Phi;
use crate::store::announcements::{self, Step};
use crate::store::index::study_key;
use crate::store::ledger::LedgerError;

/// N-CREATE of a performed procedure step.
pub async fn begin_step(receiver: &Receiver, peer: &str, command: &Command, list: &DataSet) -> Command {
    let Some(uid) = usable(command.sop_instance_uid.as_ref()) else {
        let comment = "N-CREATE must name the SOP instance";
        return command.response(status::INVALID_INSTANCE, Some(comment));
    };
    let begun = match Begun::read(list) {
        Ok(begun) => begun,
        Err(fault) => return refusal(command, fault),
    };
    let key = study_key(&receiver.identity, begun.study_uid.expose());
    let name = peer.to_owned();
    let written =
        receiver.ledger.write(move |writer| announcements::begin(writer, &uid, &name, &key, &begun)).await;
    answer(peer, command, written)
}

/// N-SET of a performed procedure step.
pub async fn change_step(receiver: &Receiver, peer: &str, command: &Command, list: &DataSet) -> Command {
    let Some(uid) = usable(command.requested_sop_instance_uid.as_ref()) else {
        return command.response(status::NO_SUCH_INSTANCE, None);
    };
    let change = match Change::read(list) {
        Ok(change) => change,
        Err(fault) => return refusal(command, fault),
    };
    let (name, identity) = (peer.to_owned(), receiver.identity.clone());
    let written = receiver
        .ledger
        .write(move |writer| {
            let key = |study_uid: &str| study_key(&identity, study_uid);
            announcements::change(writer, &uid, &name, key, &change)
        })
        .await;
    answer(peer, command, written)
}

/// N-CREATE of an Instance Availability Notification.
pub async fn announce(receiver: &Receiver, peer: &str, command: &Command, list: &DataSet) -> Command {
    let availability = match Availability::read(list) {
        Ok(availability) => availability,
        Err(fault) => return refusal(command, fault),
    };
    let key = study_key(&receiver.identity, availability.study_uid.expose());
    let name = peer.to_owned();
    let written = receiver
        .ledger
        .write(move |writer| {
            announcements::announce(writer, &name, &key, &availability)?;
            Ok(Step::Kept)
        })
        .await;
    answer(peer, command, written)
}

fn usable(uid: Option<&Phi<String>>) -> Option<Phi<String>> {
    uid.filter(|uid| is_uid(uid.expose())).cloned()
}

fn refusal(command: &Command, fault: Fault) -> Command {
    Command { attribute_identifiers: fault.elements, ..command.response(fault.status, None) }
}

fn answer(peer: &str, command: &Command, written: Result<Step, LedgerError>) -> Command {
    match written {
        Ok(Step::Kept) => command.response(status::SUCCESS, None),
        Ok(Step::Duplicate) => command.response(status::DUPLICATE_INSTANCE, None),
        Ok(Step::Unknown) => command.response(status::NO_SUCH_INSTANCE, None),
        Ok(Step::Ended) => Command {
            error_id: Some(NO_LONGER_UPDATED),
            ..command.response(
                status::PROCESSING_FAILURE,
                Some("Performed Procedure Step Object may no longer be updated"),
            )
        },
        Ok(Step::WithoutSeries) => refusal(
            command,
            Fault {
                status: status::MISSING_ATTRIBUTE,
                elements: vec![dicom_dictionary_std::tags::PERFORMED_SERIES_SEQUENCE],
            },
        ),
        Err(error) => {
            tracing::error!(peer, reason = error.to_string(), "what a peer told could not be kept");
            let (status, comment) = of_service_error(&error);
            command.response(status, comment)
        }
    }
}
