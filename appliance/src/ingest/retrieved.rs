//! Objects that come by C-GET go the way of every other: durable, indexed, then acknowledged.

use super::receive::{Receiver, Sender};
use crate::dicom::association::{Association, AssociationError};
use crate::dicom::dimse::Command;
use crate::dicom::peer::Stream;
use crate::dicom::retrieve::Sink;

/// The daemon's own store, as the sink of a C-GET.
pub struct IntoStore {
    /// Takes the objects.
    pub receiver: Receiver,
    /// From whom they come.
    pub sender: Sender,
}

impl Sink for IntoStore {
    async fn store(
        &mut self,
        association: &mut Association<Stream>,
        context: u8,
        request: &Command,
    ) -> Result<Command, AssociationError> {
        self.receiver.store(association, context, request, &self.sender).await
    }
}
