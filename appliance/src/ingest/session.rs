//! What is done in an association that was accepted: its messages, one after the other, each to its
//! service.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use lightbox_provisioning::site::Site;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::announce;
use super::commitment::{Commitments, SILENCE};
use super::listener::policy::PeerPolicy;
use super::receive::{Receiver, Sender};
use super::status::of_service_error;
use super::under_way::{Shared, UnderWay};
use crate::dicom::association::{Association, AssociationError, InTurn, Incoming, Requested};
use crate::dicom::commitment::{INFORMATION_MAX, Report};
use crate::dicom::data_set::DataSet;
use crate::dicom::dimse::{
    C_ECHO_RQ, C_STORE_RQ, Command, N_ACTION_RQ, N_CREATE_RQ, N_EVENT_REPORT_RQ, N_EVENT_REPORT_RSP, N_SET_RQ,
};
use crate::dicom::services::{self, AVAILABILITY, PROCEDURE_STEP, Permissions, STORAGE_COMMITMENT};
use crate::dicom::status;
use crate::store::commitments::Due;
use crate::store::deliveries;

/// The services of an association; shared by all.
#[derive(Clone)]
pub struct Services {
    receiver: Receiver,
    commitments: Commitments,
    /// The destinations that report to us what they commit to, by peer.
    committing: Arc<BTreeMap<String, Vec<String>>>,
    /// The turn of the one long data set that may be in memory: a request of some megabytes is ten times
    /// as large taken apart, and as many peers as there are places may send one.
    long: Arc<Semaphore>,
    under_way: Shared,
}

impl Services {
    /// The services with the site's permissions.
    pub fn new(site: &Site, receiver: Receiver, commitments: Commitments) -> Self {
        let mut committing: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for destination in &site.file.destination {
            if let Some(dicom) = destination.dicom.as_ref().filter(|dicom| dicom.commit) {
                committing.entry(dicom.peer.clone()).or_default().push(destination.name.clone());
            }
        }
        Services {
            receiver,
            commitments,
            committing: Arc::new(committing),
            long: Arc::new(Semaphore::new(1)),
            under_way: Shared::default(),
        }
    }

    /// Accepts the association and serves its messages until it is released; an error ends it.
    pub async fn run<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        requested: Requested<S>,
        peer: &PeerPolicy,
        sender: &Sender,
    ) -> Result<(), AssociationError> {
        let mut association = requested
            .accept_with_roles(
                |class, syntaxes| peer.judge(class, syntaxes),
                |class, proposed| peer.judge_roles(class, proposed),
            )
            .await?;
        let mut reports = Reports::default();
        let mut under_way = UnderWay::new(association.window(), &self.under_way);
        let ended = loop {
            match self.step(&mut association, peer.permissions(), sender, &mut reports, &mut under_way).await
            {
                Ok(true) => {}
                Ok(false) => break association.answer_release().await,
                Err(error) => {
                    under_way.leave();
                    association.abort(&error).await;
                    break Err(error);
                }
            }
        };
        let left = reports.left();
        if !left.is_empty() {
            self.commitments.hand_over(left).await;
        }
        ended
    }

    /// One message; false at the release, when all was answered.
    async fn step<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        association: &mut Association<S>,
        may: Permissions,
        sender: &Sender,
        reports: &mut Reports,
        under_way: &mut UnderWay,
    ) -> Result<bool, AssociationError> {
        if reports.is_due() && under_way.is_empty() && !association.speaks_within(SILENCE).await {
            return self.report(association, reports).await.map(|()| true);
        }
        let (context, command) = match under_way.next(association).await? {
            Some(Incoming::Command(context, command)) => (context, command),
            Some(Incoming::Release) => return under_way.send_all(association).await.map(|()| false),
            None => return Ok(true),
        };
        let response = match command.field {
            C_ECHO_RQ if !command.has_data_set => command.response(status::SUCCESS, None),
            C_STORE_RQ => {
                match self.receiver.receive(association, context, &command, sender, under_way).await? {
                    Err(response) => response,
                    Ok(incoming) => {
                        if under_way.has(&command.sop_instance_uid) {
                            under_way.send_all(association).await?;
                        }
                        let Some(place) = under_way.place() else {
                            let response = self.receiver.keep(&command, incoming, sender).await;
                            return association.send_command(context, &response).await.map(|()| true);
                        };
                        let (receiver, sender) = (self.receiver.clone(), sender.clone());
                        let instance = command.sop_instance_uid.clone();
                        let answer = async move { receiver.keep(&command, incoming, &sender).await };
                        under_way.begin(place, context, instance, answer);
                        return Ok(true);
                    }
                }
            }
            N_EVENT_REPORT_RSP => {
                if command.has_data_set {
                    association.data_set_in_turn(context, INFORMATION_MAX, &self.long).await?;
                }
                if let Some((_, due)) = reports.sent.take_if(|(id, _)| *id == command.message_id) {
                    self.commitments.answered(due, &command).await;
                }
                return Ok(true);
            }
            _ if command.is_request() => {
                // What is said of instances is said of those that came before.
                under_way.send_all(association).await?;
                self.serve(association, context, &command, may, sender, reports).await?
            }
            _ => {
                let (found, expected) = ("a response to nothing", "a request");
                return Err(AssociationError::Unexpected { found, expected });
            }
        };
        association.send_command(context, &response).await?;
        Ok(true)
    }

    /// The services whose data sets are read whole.
    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        association: &mut Association<S>,
        context: u8,
        command: &Command,
        may: Permissions,
        sender: &Sender,
        reports: &mut Reports,
    ) -> Result<Command, AssociationError> {
        let (bytes, turn) = if command.has_data_set {
            match association.data_set_in_turn(context, INFORMATION_MAX, &self.long).await? {
                InTurn::Whole(bytes, turn) => (bytes, turn),
                InTurn::Busy => {
                    let comment = "other long requests go first: send again later";
                    return Ok(command.response(status::RESOURCE_LIMITATION, Some(comment)));
                }
            }
        } else {
            (Vec::new(), None)
        };
        let Some(negotiated) = association.context(context).cloned() else {
            return Ok(command.response(status::SOP_CLASS_NOT_SUPPORTED, None));
        };
        let class = command.sop_class_uid.as_ref().or(command.requested_sop_class_uid.as_ref());
        if class != Some(&negotiated.abstract_syntax) {
            let comment = "SOP class does not fit the context";
            return Ok(command.response(status::SOP_CLASS_NOT_SUPPORTED, Some(comment)));
        }
        let service = (command.field, negotiated.abstract_syntax.as_str());
        let known = matches!(
            service,
            (N_CREATE_RQ | N_SET_RQ, PROCEDURE_STEP)
                | (N_CREATE_RQ, AVAILABILITY)
                | (N_ACTION_RQ | N_EVENT_REPORT_RQ, STORAGE_COMMITMENT)
        );
        if !known {
            return Ok(command.response(status::UNRECOGNIZED_OPERATION, None));
        }
        let Ok(data_set) = DataSet::parse(&bytes, &negotiated.transfer_syntax) else {
            let comment = "the data set cannot be read";
            return Ok(command.response(status::PROCESSING_FAILURE, Some(comment)));
        };
        drop(bytes);
        let peer = sender.peer.as_str();
        Ok(match service {
            (N_CREATE_RQ, PROCEDURE_STEP) => {
                announce::begin_step(&self.receiver, peer, command, &data_set).await
            }
            (N_SET_RQ, _) => announce::change_step(&self.receiver, peer, command, &data_set).await,
            (N_CREATE_RQ, _) => announce::announce(&self.receiver, peer, command, &data_set).await,
            (N_ACTION_RQ, _) if may.commit => {
                let (response, id) = self.commitments.ask(peer, command, &data_set).await;
                reports.owed.extend(id.map(|id| Owed { id, context, long: turn.is_some() }));
                response
            }
            (N_EVENT_REPORT_RQ, _) if may.report => self.committed(peer, command, &data_set).await,
            _ => command.response(status::NOT_AUTHORIZED, None),
        })
    }

    /// A peer reports what it commits to.
    async fn committed(&self, peer: &str, command: &Command, information: &DataSet) -> Command {
        let Some(report) = Report::read(information) else {
            let comment = "the report lacks what it must have";
            return command.response(status::INVALID_ARGUMENT, Some(comment));
        };
        if !matches!(command.event_type_id, Some(1 | 2)) {
            return command.response(status::NO_SUCH_EVENT, None);
        }
        let destinations = self.committing.get(peer).cloned().unwrap_or_default();
        let written = self
            .receiver
            .ledger
            .write(move |writer| deliveries::commitment_reported(writer, &destinations, &report))
            .await;
        match written {
            Ok(true) => command.response(status::SUCCESS, None),
            Ok(false) => {
                let comment = "no such transaction";
                command.response(status::INVALID_ARGUMENT, Some(comment))
            }
            Err(error) => {
                tracing::error!(peer, reason = error.to_string(), "a commitment report could not be kept");
                let (status, comment) = of_service_error(&error);
                command.response(status, comment)
            }
        }
    }

    /// Sends the next report over the peer's own association.
    async fn report<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        association: &mut Association<S>,
        reports: &mut Reports,
    ) -> Result<(), AssociationError> {
        let Some(owed) = reports.owed.pop_front() else { return Ok(()) };
        let turn = if owed.long { self.long.try_acquire().ok() } else { None };
        if owed.long && turn.is_none() {
            // After the next silence, then.
            reports.owed.push_front(owed);
            return Ok(());
        }
        reports.message_id = reports.message_id.wrapping_add(1).max(1);
        let idle = association.idle();
        let sending = self.commitments.report_here(association, owed.context, reports.message_id, owed.id);
        let sent = match turn {
            // One that reads slowly must not keep the others' turn.
            Some(_) => timeout(idle, sending)
                .await
                .unwrap_or(Err(AssociationError::Timeout("room to send a long report"))),
            None => sending.await,
        };
        match sent {
            Ok(due) => {
                reports.sent = due.map(|due| (reports.message_id, due));
                Ok(())
            }
            Err(error) => {
                reports.owed.push_front(owed);
                Err(error)
            }
        }
    }
}

/// A commitment report that is to be made.
struct Owed {
    /// Row of the request.
    id: i64,
    /// The context in which it came.
    context: u8,
    /// Whether the request was long, as its report will be.
    long: bool,
}

/// The commitment reports that an association owes its peer.
#[derive(Default)]
struct Reports {
    owed: VecDeque<Owed>,
    /// The one that awaits its response, with its message ID.
    sent: Option<(u16, Due)>,
    message_id: u16,
}

impl Reports {
    /// One operation at a time: asynchronous operations are not negotiated.
    fn is_due(&self) -> bool {
        self.sent.is_none() && !self.owed.is_empty()
    }

    /// What was not told when the association ended.
    fn left(self) -> Vec<i64> {
        self.sent
            .map(|(_, due)| due.id)
            .into_iter()
            .chain(self.owed.into_iter().map(|owed| owed.id))
            .collect()
    }
}

/// Whether a peer may open an association at all.
pub fn may_open(site: &Site, peer: &lightbox_provisioning::site::Peer) -> bool {
    services::Permissions::of(site, peer).any()
}
