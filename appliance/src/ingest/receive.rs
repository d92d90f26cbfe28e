//! C-STORE, from the first fragment to the response: the instance is durable, and so is its ledger entry
//! (the commit record), before the sender hears of success (safety rule 1).

use std::sync::Arc;

use lightbox_bootstrap::identity::DeviceIdentity;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};

use super::status::{self as our_status, Status};
use super::under_way::UnderWay;
use crate::audit::{Event, EventKind, Outcome};
use crate::clock::SharedClock;
use crate::dicom::association::{Association, AssociationError};
use crate::dicom::dimse::Command;
use crate::dicom::header::is_uid;
use crate::dicom::part_ten::Named;
use crate::dicom::services::is_storage;
use crate::dicom::status;
use crate::phi::Phi;
use crate::store::entry::{Entry, NotIdentified};
use crate::store::ledger::Ledger;
use crate::store::objects::{Finished, Incoming, ObjectError, Objects, Receipt};

/// What receiving needs; clones share it.
#[derive(Clone)]
pub struct Receiver {
    /// Where instances go.
    pub objects: Objects,
    /// Where their entries go.
    pub ledger: Ledger,
    /// For the study keys.
    pub identity: Arc<DeviceIdentity>,
    /// For the time of receipt.
    pub clock: SharedClock,
    /// Our AE title.
    pub ae_title: String,
}

/// Who sends.
#[derive(Clone, Debug)]
pub struct Sender {
    /// Name of the peer in the site file.
    pub peer: String,
    /// Calling AE title.
    pub calling_ae: String,
}

/// Why an instance was not taken.
#[derive(Debug)]
pub enum NotStored {
    /// The store could not take it.
    Objects(ObjectError),
    /// Its data set does not say what it is.
    NotIdentified(NotIdentified),
    /// It is of another study than the request was for (STOW-RS to a study).
    OtherStudy,
}

impl NotStored {
    /// What the sender is told.
    pub fn status(&self) -> Status {
        match self {
            NotStored::Objects(error) => our_status::of_object_error(error),
            NotStored::NotIdentified(error) => our_status::of_not_identified(*error),
            NotStored::OtherStudy => {
                (status::OTHER_STUDY, Some("the instance is of another study than the request"))
            }
        }
    }

    fn reason(&self) -> String {
        match self {
            NotStored::Objects(error) => error.to_string(),
            NotStored::NotIdentified(error) => error.to_string(),
            NotStored::OtherStudy => "the instance is of another study than the request".into(),
        }
    }
}

impl Receiver {
    /// Takes one C-STORE request with its data set; what came whole is to be [kept](Self::keep) then. An error ends the
    /// association; every other failure is the response, in the inner `Err`.
    pub(super) async fn receive<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        association: &mut Association<S>,
        context: u8,
        request: &Command,
        sender: &Sender,
        under_way: &mut UnderWay,
    ) -> Result<Result<Incoming, Command>, AssociationError> {
        let syntax = association.context(context).cloned();
        let usable = |uid: &Option<Phi<String>>| uid.as_ref().is_some_and(|uid| is_uid(uid.expose()));
        let named = match (syntax, &request.sop_class_uid, &request.sop_instance_uid) {
            (Some(syntax), Some(class), Some(instance))
                if *class == syntax.abstract_syntax
                    && is_storage(class)
                    && is_uid(class)
                    && is_uid(instance.expose()) =>
            {
                Ok(Named {
                    sop_class_uid: class.clone(),
                    sop_instance_uid: instance.clone(),
                    transfer_syntax: syntax.transfer_syntax,
                })
            }
            _ if !usable(&request.sop_instance_uid) => {
                Err((status::CANNOT_UNDERSTAND, Some("no usable Affected SOP Instance UID")))
            }
            _ => Err((status::SOP_CLASS_NOT_SUPPORTED, Some("SOP class does not fit the context"))),
        };
        if !request.has_data_set {
            let comment = "the request has no data set";
            return Ok(Err(request.response(status::CANNOT_UNDERSTAND, Some(comment))));
        }
        let begun = named.map(|named| {
            let mut begun = self.begin(named, sender)?;
            if under_way.has_window() {
                begun.leave_writing_to_the_writer();
            }
            Ok(begun)
        });
        let (status, comment) = match receive_fragments(association, context, begun, under_way).await? {
            Ok(Ok(incoming)) => return Ok(Ok(incoming)),
            Ok(Err(error)) => self.not_stored(error, sender).await,
            Err(status) => status,
        };
        Ok(Err(request.response(status, comment)))
    }

    /// Takes one C-STORE request and yields its response, once the instance is durable.
    pub async fn store<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        association: &mut Association<S>,
        context: u8,
        request: &Command,
        sender: &Sender,
    ) -> Result<Command, AssociationError> {
        let mut under_way = UnderWay::one_by_one();
        Ok(match self.receive(association, context, request, sender, &mut under_way).await? {
            Ok(incoming) => self.keep(request, incoming, sender).await,
            Err(response) => response,
        })
    }

    /// Makes an instance that came whole durable, with its entry; yields the response.
    pub(super) async fn keep(&self, request: &Command, incoming: Incoming, sender: &Sender) -> Command {
        let kept = match self.identify(incoming).await {
            Ok((finished, entry)) => finished.commit(entry).await.map_err(NotStored::Objects),
            Err(error) => Err(error),
        };
        let (status, comment) = match kept {
            Ok(()) => (status::SUCCESS, None),
            Err(error) => self.not_stored(error, sender).await,
        };
        request.response(status, comment)
    }

    /// Starts to take an instance that its sender has named.
    pub fn begin(&self, named: Named, sender: &Sender) -> Result<Incoming, NotStored> {
        let receipt = Receipt {
            sop_class_uid: named.sop_class_uid,
            sop_instance_uid: named.sop_instance_uid,
            transfer_syntax: named.transfer_syntax,
            calling_ae: sender.calling_ae.clone(),
            called_ae: self.ae_title.clone(),
            peer: sender.peer.clone(),
            received_ms: self.clock.now_ms(),
        };
        self.objects.begin(receipt).map_err(NotStored::Objects)
    }

    /// Counts, logs and audits an instance that was not taken; yields what its sender is told.
    pub async fn not_stored(&self, error: NotStored, sender: &Sender) -> Status {
        let (status, comment) = error.status();
        metrics::counter!("lightbox_instances_received_total", "outcome" => "refused").increment(1);
        tracing::warn!(
            peer = sender.peer,
            status = format!("{status:#06x}"),
            reason = error.reason(),
            "instance refused"
        );
        let event = Event::new(
            EventKind::InstanceRefused,
            sender.peer.as_str(),
            json!({ "status": format!("{status:#06x}"), "reason": error.reason() }),
        )
        .with_outcome(Outcome::Serious);
        // With a full disk this record may not fit; the log has it, and the sender has the status.
        if let Err(error) = self.ledger.write(move |writer| writer.audit(&event)).await {
            tracing::error!(reason = error.to_string(), "the refusal could not be audited");
        }
        (status, comment)
    }

    /// Looks at an instance that has come whole: what remains is to commit it with its entry.
    pub async fn identify(&self, incoming: Incoming) -> Result<(Finished, Entry), NotStored> {
        let mut finished = incoming.finish().await.map_err(NotStored::Objects)?;
        // A header in memory is scanned in some ten microseconds; one that lies on the disk may take long.
        let (header, damage) = if finished.is_in_memory() {
            finished.scan()
        } else {
            tokio::task::block_in_place(|| finished.scan())
        };
        let (digest, receipt) = (finished.digest(), finished.receipt().clone());
        let entry = Entry::new(digest, receipt, finished.length(), &header, damage.as_ref(), &self.identity)
            .map_err(NotStored::NotIdentified)?;
        Ok((finished, entry))
    }
}

/// Reads the data set to its end, whatever becomes of it: the response comes after it (PS3.7
/// §9.1.1), and a sender must not be left hanging because our disk is full.
async fn receive_fragments<S: AsyncRead + AsyncWrite + Unpin>(
    association: &mut Association<S>,
    context: u8,
    mut begun: Result<Result<Incoming, NotStored>, Status>,
    under_way: &mut UnderWay,
) -> Result<Result<Result<Incoming, NotStored>, Status>, AssociationError> {
    loop {
        let (bytes, last) = under_way.fragment(association, context).await?;
        if let Ok(Ok(incoming)) = &mut begun
            && let Err(error) = incoming.write(&bytes).await
        {
            begun = Ok(Err(NotStored::Objects(error)));
        }
        if last {
            return Ok(match begun {
                Ok(inner) => Ok(inner),
                Err(status) => Err(status),
            });
        }
    }
}
