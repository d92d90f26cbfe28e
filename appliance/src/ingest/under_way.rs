//! Instances that have come whole and are being made durable while their association goes on receiving, where its peer
//! asked for an asynchronous operations window (PS3.7 D.3.3.3). Each is answered when it is durable, in whatever order
//! that happens: an answer names the message that it answers.

use std::panic::resume_unwind;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};

use crate::dicom::association::{Association, AssociationError, Incoming};
use crate::dicom::dimse::Command;
use crate::phi::Phi;

/// How many of all associations together: each holds up to a chunk of the object store in memory. Who finds no place is
/// served one after the other.
const PLACES: usize = 32;

/// The places that all associations share.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Semaphore>);

impl Default for Shared {
    fn default() -> Self {
        Shared(Arc::new(Semaphore::new(PLACES)))
    }
}

/// A place among them, held for as long as it is not dropped.
#[derive(Debug)]
pub struct Place {
    _held: OwnedSemaphorePermit,
}

/// An answer, and the presentation context of its request.
type Answer = (u8, Command);

/// Those of one association.
#[derive(Debug)]
pub struct UnderWay {
    window: usize,
    shared: Shared,
    commits: JoinSet<Answer>,
    /// Their SOP Instance UIDs.
    instances: Vec<Phi<String>>,
}

impl UnderWay {
    /// None yet, of at most `window`.
    pub fn new(window: usize, shared: &Shared) -> Self {
        UnderWay { window, shared: shared.clone(), commits: JoinSet::new(), instances: Vec::new() }
    }

    /// For an association without a window.
    pub fn one_by_one() -> Self {
        UnderWay::new(1, &Shared::default())
    }

    /// Whether the association goes on while an instance is made durable.
    pub fn has_window(&self) -> bool {
        self.window > 1
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.commits.is_empty()
    }

    /// A place for one more; `None` where each must be waited for.
    pub fn place(&self) -> Option<Place> {
        if !self.has_window() {
            return None;
        }
        self.shared.0.clone().try_acquire_owned().ok().map(|held| Place { _held: held })
    }

    /// Whether an instance of that UID is under way: of two that differ, the one that came first counts, so the second
    /// has to wait for it.
    pub fn has(&self, instance: &Option<Phi<String>>) -> bool {
        instance.as_ref().is_some_and(|instance| self.instances.contains(instance))
    }

    /// Goes on with a request's answer beside the association.
    pub fn begin(
        &mut self,
        place: Place,
        context: u8,
        instance: Option<Phi<String>>,
        answer: impl Future<Output = Command> + Send + 'static,
    ) {
        self.instances.extend(instance);
        self.commits.spawn(async move {
            let answer = answer.await;
            drop(place);
            (context, answer)
        });
    }

    /// The next message; `None` when an answer came first, and was sent. While the window is full nothing is read.
    pub async fn next<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        association: &mut Association<S>,
    ) -> Result<Option<Incoming>, AssociationError> {
        if self.commits.is_empty() {
            return association.next().await.map(Some);
        }
        let answer = if self.commits.len() >= self.window {
            self.commits.join_next().await
        } else {
            tokio::select! {
                biased;
                answer = self.commits.join_next() => answer,
                message = association.next() => return message.map(Some),
            }
        };
        self.send(association, answer).await.map(|()| None)
    }

    /// The next fragment of a data set; answers that are ready meanwhile are sent.
    pub async fn fragment<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        association: &mut Association<S>,
        context: u8,
    ) -> Result<(Bytes, bool), AssociationError> {
        while !self.commits.is_empty() {
            let answer = tokio::select! {
                biased;
                answer = self.commits.join_next() => answer,
                fragment = association.fragment(context) => return fragment,
            };
            self.send(association, answer).await?;
        }
        association.fragment(context).await
    }

    /// Waits for all and sends their answers.
    pub async fn send_all<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        association: &mut Association<S>,
    ) -> Result<(), AssociationError> {
        while !self.commits.is_empty() {
            let answer = self.commits.join_next().await;
            self.send(association, answer).await?;
        }
        Ok(())
    }

    /// The association has ended before its time: what has come whole is kept all the same, and nobody hears of it.
    pub fn leave(mut self) {
        self.commits.detach_all();
    }

    async fn send<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        association: &mut Association<S>,
        answer: Option<Result<Answer, JoinError>>,
    ) -> Result<(), AssociationError> {
        match answer {
            None => Ok(()),
            Some(Ok((context, answer))) => {
                self.instances.retain(|instance| Some(instance) != answer.sop_instance_uid.as_ref());
                association.send_command(context, &answer).await
            }
            // As if it had been done here. None is ever cancelled.
            Some(Err(panicked)) => resume_unwind(panicked.into_panic()),
        }
    }
}
