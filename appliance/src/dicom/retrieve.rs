//! C-MOVE and C-GET SCU, Study Root Query/Retrieve Information Model (PS3.4 C.4.2, C.4.3).
//!
//! With C-MOVE the objects come to our own SCP, over associations that the PACS opens. With C-GET they
//! come as C-STORE requests over the association of the request, on which we are SCP of the storage
//! classes by role selection; each is answered when the sink has it, as anywhere else.

use std::collections::BTreeMap;
use std::time::Duration;

use dicom_dictionary_std::tags;
use tokio::time::{Instant, timeout, timeout_at};

use super::association::{Association, AssociationError, Incoming, Roles};
use super::data_set::DataSet;
use super::dimse::{
    C_CANCEL_RQ, C_GET_RQ, C_GET_RSP, C_MOVE_RQ, C_MOVE_RSP, C_STORE_RQ, Command, SubOperations,
};
use super::peer::{RemoteAe, Stream};
use super::query::{IDENTIFIER_MAX, Level, QueryError};
use super::services::{
    EXPLICIT_VR_LITTLE_ENDIAN, GET_STORAGE, GET_TRANSFER_SYNTAXES, IMPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
};
use crate::phi::Phi;

/// What is to be retrieved: a study, one of its series, or some instances of a series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Study Instance UID.
    pub study_uid: Phi<String>,
    /// Series Instance UID.
    pub series_uid: Option<Phi<String>>,
    /// SOP Instance UIDs; they need the series' UID beside them.
    pub instance_uids: Vec<Phi<String>>,
}

impl Wanted {
    /// A whole study.
    pub fn study(study_uid: Phi<String>) -> Self {
        Wanted { study_uid, series_uid: None, instance_uids: Vec::new() }
    }

    fn identifier(&self) -> DataSet {
        let mut identifier = DataSet::new().with(tags::STUDY_INSTANCE_UID, self.study_uid.expose());
        let mut level = Level::Study;
        if let Some(series_uid) = &self.series_uid {
            level = Level::Series;
            identifier = identifier.with(tags::SERIES_INSTANCE_UID, series_uid.expose());
            if !self.instance_uids.is_empty() {
                level = Level::Image;
                let uids: Vec<&str> = self.instance_uids.iter().map(|uid| uid.expose().as_str()).collect();
                identifier = identifier.with(tags::SOP_INSTANCE_UID, &uids.join("\\"));
            }
        }
        identifier.with(tags::QUERY_RETRIEVE_LEVEL, level.as_str())
    }
}

/// How a retrieval ended, by what the PACS says. What has really come is in the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retrieved {
    /// Sub-operations that were completed, with a warning or without; 0 where the PACS does not say.
    pub completed: u32,
    /// Sub-operations that failed.
    pub failed: u32,
    /// The instances that failed, as far as the PACS names them.
    pub failed_instances: Vec<Phi<String>>,
}

/// Where the objects of a C-GET go.
pub trait Sink: Send {
    /// Takes one C-STORE request with its data set, and yields the response; success only when the
    /// object is where it belongs, on disk.
    fn store(
        &mut self,
        association: &mut Association<Stream>,
        context: u8,
        request: &Command,
    ) -> impl Future<Output = Result<Command, AssociationError>> + Send;
}

/// The sink of a C-MOVE: nothing may come over its association.
struct Nothing;

impl Sink for Nothing {
    async fn store(
        &mut self,
        _: &mut Association<Stream>,
        _: u8,
        _: &Command,
    ) -> Result<Command, AssociationError> {
        Err(AssociationError::Unexpected { found: "a C-STORE request", expected: "a C-MOVE response" })
    }
}

/// Has a PACS send objects to `destination`, an AE that it knows: our own, whose SCP must be running.
/// `progress` is told the numbers of each pending response.
pub async fn move_to(
    ae: &RemoteAe,
    destination: &str,
    wanted: &Wanted,
    progress: &mut (dyn FnMut(SubOperations) + Send),
) -> Result<Retrieved, QueryError> {
    let syntaxes = [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN].map(str::to_owned);
    let contexts = [(STUDY_ROOT_MOVE.to_owned(), syntaxes.to_vec())];
    let request = Command {
        field: C_MOVE_RQ,
        message_id: 1,
        sop_class_uid: Some(STUDY_ROOT_MOVE.into()),
        move_destination: Some(destination.to_owned()),
        has_data_set: true,
        ..Command::default()
    };
    let operation = Operation { name: "C-MOVE", service: "Study Root C-MOVE", response: C_MOVE_RSP, request };
    operation.run(ae, &contexts, &BTreeMap::new(), wanted, &mut Nothing, progress).await
}

/// Gets objects from a PACS over our own association, into `sink`.
pub async fn get(
    ae: &RemoteAe,
    wanted: &Wanted,
    sink: &mut impl Sink,
    progress: &mut (dyn FnMut(SubOperations) + Send),
) -> Result<Retrieved, QueryError> {
    let native = [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN].map(str::to_owned);
    let objects: Vec<String> = GET_TRANSFER_SYNTAXES.iter().map(|syntax| (*syntax).to_owned()).collect();
    let mut contexts = vec![(STUDY_ROOT_GET.to_owned(), native.to_vec())];
    contexts.extend(GET_STORAGE.iter().map(|class| ((*class).to_owned(), objects.clone())));
    let roles = GET_STORAGE.iter().map(|class| ((*class).to_owned(), Roles::SCP)).collect();
    let request = Command {
        field: C_GET_RQ,
        message_id: 1,
        sop_class_uid: Some(STUDY_ROOT_GET.into()),
        has_data_set: true,
        ..Command::default()
    };
    let operation = Operation { name: "C-GET", service: "Study Root C-GET", response: C_GET_RSP, request };
    operation.run(ae, &contexts, &roles, wanted, sink, progress).await
}

struct Operation {
    name: &'static str,
    service: &'static str,
    response: u16,
    request: Command,
}

impl Operation {
    async fn run(
        &self,
        ae: &RemoteAe,
        contexts: &[(String, Vec<String>)],
        roles: &BTreeMap<String, Roles>,
        wanted: &Wanted,
        sink: &mut impl Sink,
        progress: &mut (dyn FnMut(SubOperations) + Send),
    ) -> Result<Retrieved, QueryError> {
        let within = ae.retrieve_deadline;
        let deadline = Instant::now() + within;
        // A PACS may say nothing while it sends or fetches from tape: the deadline bounds the silence.
        let mut patient = ae.clone();
        patient.limits.idle = within;
        let mut association = timeout_at(deadline, patient.connect_with_roles(contexts, roles))
            .await
            .map_err(|_| QueryError::Deadline(within))??;
        let abstract_syntax = contexts.first().map_or("", |(syntax, _)| syntax.as_str());
        let Some((context, syntax)) = association.any_context_for(abstract_syntax) else {
            let why = association.refusal_of(abstract_syntax).unwrap_or("no answer to the context");
            drop(association.release().await);
            return Err(QueryError::NotOffered { service: self.service, why });
        };
        let exchange = self.exchange(&mut association, context, &syntax, wanted, sink, progress);
        let error = match timeout_at(deadline, exchange).await {
            Ok(Ok(retrieved)) => {
                drop(association.release().await);
                return Ok(retrieved);
            }
            Ok(Err(error)) => error,
            Err(_) => {
                let cancel =
                    Command { field: C_CANCEL_RQ, message_id: self.request.message_id, ..Command::default() };
                // Best effort: the association is aborted next, which ends the operation for good.
                drop(timeout(Duration::from_secs(2), association.send_command(context, &cancel)).await);
                QueryError::Deadline(within)
            }
        };
        match &error {
            QueryError::Refused { .. } => drop(association.release().await),
            _ => {
                let because =
                    AssociationError::Unexpected { found: "an answer", expected: "a usable one in time" };
                association.abort(&because).await;
            }
        }
        Err(error)
    }

    async fn exchange(
        &self,
        association: &mut Association<Stream>,
        context: u8,
        syntax: &str,
        wanted: &Wanted,
        sink: &mut impl Sink,
        progress: &mut (dyn FnMut(SubOperations) + Send),
    ) -> Result<Retrieved, QueryError> {
        association.send_command(context, &self.request).await?;
        association.send_data_set(context, &wanted.identifier().encode(syntax)[..]).await?;
        loop {
            let Incoming::Command(came_in, command) = association.next().await? else {
                return Err(QueryError::Unexpected("A-RELEASE-RQ in the middle of a retrieval"));
            };
            if command.field == C_STORE_RQ {
                let response = sink.store(association, came_in, &command).await?;
                association.send_command(came_in, &response).await?;
                continue;
            }
            if command.field != self.response || command.message_id != self.request.message_id {
                return Err(QueryError::Unexpected("a message that does not belong to the retrieval"));
            }
            let identifier = if command.has_data_set {
                let bytes = association.data_set(came_in, IDENTIFIER_MAX).await?;
                DataSet::parse(&bytes, syntax)?
            } else {
                DataSet::new()
            };
            let numbers = command.sub_operations;
            let count = |number: Option<u16>| u32::from(number.unwrap_or_default());
            match command.status.unwrap_or(0xFFFF) {
                0xFF00 => progress(numbers),
                // B000: sub-operations are complete, some failed.
                0x0000 | 0xB000 => {
                    return Ok(Retrieved {
                        completed: count(numbers.completed) + count(numbers.warning),
                        failed: count(numbers.failed),
                        failed_instances: identifier
                            .uids(tags::FAILED_SOP_INSTANCE_UID_LIST)
                            .into_iter()
                            .map(Phi::new)
                            .collect(),
                    });
                }
                status => {
                    let comment = command.error_comment;
                    return Err(QueryError::Refused { service: self.name, status, comment });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_follows_from_what_is_named() {
        let mut wanted = Wanted::study(Phi::from("1.2"));
        let level = |wanted: &Wanted| wanted.identifier().ascii(tags::QUERY_RETRIEVE_LEVEL);
        assert_eq!(level(&wanted).as_deref(), Some("STUDY"));
        wanted.series_uid = Some(Phi::from("1.2.3"));
        assert_eq!(level(&wanted).as_deref(), Some("SERIES"));
        wanted.instance_uids = vec![Phi::from("1.2.3.4"), Phi::from("1.2.3.5")];
        assert_eq!(level(&wanted).as_deref(), Some("IMAGE"));
        assert_eq!(wanted.identifier().uids(tags::SOP_INSTANCE_UID), ["1.2.3.4", "1.2.3.5"]);
    }

    #[test]
    fn an_association_has_room_for_what_a_get_proposes() {
        assert!(GET_STORAGE.len() < 128);
    }
}
