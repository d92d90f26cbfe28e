//! What is done in an association that was accepted: its messages, one after the other, each to its
//! service.

use tokio::io::{AsyncRead, AsyncWrite};

use super::receive::{Receiver, Sender};
use crate::dicom::association::{AssociationError, Incoming, Requested};
use crate::dicom::dimse::{C_ECHO_RQ, C_STORE_RQ};
use crate::dicom::{services, status};

/// Accepts the association and serves its messages until it is released; an error ends it.
pub async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    receiver: &Receiver,
    requested: Requested<S>,
    sender: &Sender,
) -> Result<(), AssociationError> {
    let mut association = requested.accept(services::judge).await?;
    loop {
        let step = async {
            match association.next().await? {
                Incoming::Release => Ok(false),
                Incoming::Command(context, command) => {
                    let response = match command.field {
                        C_ECHO_RQ => command.response(status::SUCCESS, None),
                        C_STORE_RQ => receiver.store(&mut association, context, &command, sender).await?,
                        _ if command.has_data_set => {
                            return Err(AssociationError::Unexpected {
                                found: "a request of a service that was not negotiated",
                                expected: "C-STORE or C-ECHO",
                            });
                        }
                        _ => command.response(status::UNRECOGNIZED_OPERATION, None),
                    };
                    association.send_command(context, &response).await?;
                    Ok(true)
                }
            }
        };
        match step.await {
            Ok(true) => {}
            Ok(false) => return association.answer_release().await,
            Err(error) => {
                association.abort(&error).await;
                return Err(error);
            }
        }
    }
}
