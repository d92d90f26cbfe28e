//! How a peer is asked and how its instances come: C-FIND with C-MOVE or C-GET, or DICOMweb.

use std::collections::BTreeMap;
use std::time::Duration;

use lightbox_provisioning::site::PriorsBy;
use tokio::time::Instant;

use crate::dicom::data_set::DataSet;
use crate::dicom::peer::RemoteAe;
use crate::dicom::query::{Found, Level, Querier, QueryError};
use crate::dicom::retrieve::{self, Wanted};
use crate::ingest::receive::{Receiver, Sender};
use crate::ingest::retrieved::IntoStore;
use crate::web;
use crate::web::client::{Remote, WebError};

/// The peers that can be asked, by name.
#[derive(Clone, Debug, Default)]
pub struct Ways {
    /// By DIMSE.
    pub dimse: BTreeMap<String, RemoteAe>,
    /// By DICOMweb.
    pub web: BTreeMap<String, Remote>,
}

/// Asking or retrieving failed. `Display` holds no patient data.
#[derive(Debug, thiserror::Error)]
pub(super) enum WayError {
    #[error(transparent)]
    Dimse(#[from] QueryError),
    #[error(transparent)]
    Web(#[from] WebError),
}

/// The way to one peer.
#[derive(Clone, Debug)]
pub(super) enum Way {
    Move(RemoteAe),
    Get(RemoteAe),
    Web(Remote),
}

impl Ways {
    /// `None` where the site file names no such peer, or no such way to it.
    pub(super) fn to(&self, peer: &str, by: PriorsBy) -> Option<Way> {
        match by {
            PriorsBy::Move => self.dimse.get(peer).cloned().map(Way::Move),
            PriorsBy::Get => self.dimse.get(peer).cloned().map(Way::Get),
            PriorsBy::Dicomweb => self.web.get(peer).cloned().map(Way::Web),
        }
    }
}

impl Way {
    /// Opens what questions are asked over.
    pub(super) async fn open(&self) -> Result<Questions, WayError> {
        Ok(match self {
            Way::Move(ae) | Way::Get(ae) => Questions::Dimse(Box::new(Querier::open(ae).await?)),
            Way::Web(remote) => Questions::Web(Box::new(remote.clone())),
        })
    }

    /// Retrieves what is wanted within that time; yields the number of instances that failed.
    pub(super) async fn retrieve(
        mut self,
        receiver: &Receiver,
        wanted: &Wanted,
        within: Duration,
    ) -> Result<u32, WayError> {
        let deadline = match &mut self {
            Way::Move(ae) | Way::Get(ae) => &mut ae.retrieve_deadline,
            Way::Web(remote) => &mut remote.retrieve_deadline,
        };
        *deadline = within;
        let retrieved = match self {
            Way::Move(ae) => retrieve::move_to(&ae, &ae.calling_ae, wanted, &mut |_| {}).await?,
            Way::Get(ae) => {
                let sender = Sender { peer: ae.name.clone(), calling_ae: ae.called_ae.clone() };
                let mut sink = IntoStore { receiver: receiver.clone(), sender };
                retrieve::get(&ae, wanted, &mut sink, &mut |_| {}).await?
            }
            Way::Web(remote) => {
                let sender = Sender { peer: remote.name.clone(), calling_ae: String::new() };
                web::retrieve::into_store(&remote, wanted, receiver, &sender).await?
            }
        };
        Ok(retrieved.failed)
    }
}

/// Questions to a peer, over one association or by requests of their own.
pub(super) enum Questions {
    Dimse(Box<Querier>),
    Web(Box<Remote>),
}

impl Questions {
    /// Asks one, as [`Querier::find`].
    pub(super) async fn find(
        &mut self,
        level: Level,
        keys: DataSet,
        limit: usize,
        until: Instant,
    ) -> Result<Found, WayError> {
        Ok(match self {
            Questions::Dimse(querier) => querier.find(level, keys, limit, until).await?,
            // Whoever asks bounds all of it.
            Questions::Web(remote) => web::query::find(remote, level, &keys, limit).await?,
        })
    }

    /// Ends them after the last answer, or after an error.
    pub(super) async fn end(self, error: Option<&WayError>) {
        match (self, error) {
            (Questions::Dimse(querier), Some(WayError::Dimse(error))) => querier.abort(error).await,
            (Questions::Dimse(querier), _) => querier.end().await,
            (Questions::Web(_), _) => {}
        }
    }
}
