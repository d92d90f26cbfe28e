//! A STOW-RS request: each part a Part 10 file, streamed into the store.

use bytes::Bytes;
use hyper::body::Body;
use tokio::task::JoinSet;

use super::APPLICATION_DICOM;
use super::answer::{Fault, Outcome, Report};
use super::body::{BodyError, Parts};
use super::multipart::{Event, Headers, MediaType};
use crate::dicom::part_ten::{Head, Named};
use crate::dicom::services::is_storage;
use crate::dicom::status;
use crate::ingest::listener::policy::PeerPolicy;
use crate::ingest::receive::{NotStored, Receiver, Sender};
use crate::phi::Phi;
use crate::store::objects::{Incoming, ObjectError};

/// Commits under way at once: while one is made durable, the next part comes in.
const COMMITS: usize = 4;

/// One request's means.
pub(super) struct Storing<'a> {
    pub receiver: &'a Receiver,
    /// `None` judges no SOP class: what we asked for ourselves.
    pub policy: Option<&'a PeerPolicy>,
    pub sender: &'a Sender,
    /// The study of the target resource; every instance must be of it.
    pub study: Option<&'a str>,
    /// Longest part, in bytes.
    pub max_instance: u64,
}

/// A part in the reading.
enum Part {
    /// Its file meta information is not whole yet.
    Head(Head, u64),
    /// Its data set goes into the store; the length of the part so far.
    Writing((String, Phi<String>), Box<Incoming>, u64),
    /// It has failed; the rest of it is skipped.
    Failed(Outcome),
}

/// What a request came to.
pub(super) struct Stored {
    pub report: Report,
    /// Parts whose SOP class or transfer syntax the peer may not send.
    pub not_allowed: usize,
    /// Why the reading ended before the body's end.
    pub ended: Option<BodyError>,
}

impl Storing<'_> {
    /// Reads the parts to the end of the body, or to its fault. What is reported as stored is durable.
    pub(super) async fn run<B: Body<Data = Bytes> + Unpin>(&self, parts: &mut Parts<B>) -> Stored {
        let mut stored = Stored { report: Report::default(), not_allowed: 0, ended: None };
        let mut commits = JoinSet::new();
        let mut part = None;
        loop {
            match parts.next().await {
                Ok(Event::Part(headers)) => part = Some(begin(&headers)),
                Ok(Event::Data(bytes)) => {
                    if let Some(current) = part.take() {
                        part = Some(self.take(current, &bytes, &mut stored.not_allowed).await);
                    }
                }
                Ok(Event::PartEnd) => {
                    if let Some(current) = part.take() {
                        let outcome = self.end(current, stored.report.outcomes.len(), &mut commits).await;
                        stored.report.outcomes.push(outcome);
                    }
                    while commits.len() >= COMMITS {
                        self.settle(&mut commits, &mut stored.report).await;
                    }
                }
                Ok(Event::End) => break,
                Err(error) => {
                    stored.report.fault = Some(match error {
                        BodyError::Slow(_) => Fault::Slow,
                        BodyError::TooLong(_) | BodyError::TooMany(_) => Fault::TooLong,
                        BodyError::Broken | BodyError::Malformed(_) => Fault::Malformed,
                    });
                    stored.ended = Some(error);
                    break;
                }
            }
        }
        while !commits.is_empty() {
            self.settle(&mut commits, &mut stored.report).await;
        }
        stored
    }

    async fn take(&self, part: Part, bytes: &[u8], not_allowed: &mut usize) -> Part {
        match part {
            Part::Failed(outcome) => Part::Failed(outcome),
            Part::Head(mut head, length) => match head.push(bytes) {
                Err(_) => failed(None, status::CANNOT_UNDERSTAND),
                Ok(None) => Part::Head(head, length + bytes.len() as u64),
                Ok(Some((named, taken))) => {
                    let length = length + taken as u64;
                    match self.open(named, not_allowed).await {
                        Err(outcome) => Part::Failed(outcome),
                        Ok((instance, incoming)) => {
                            self.write(instance, incoming, length, &bytes[taken..]).await
                        }
                    }
                }
            },
            Part::Writing(instance, incoming, length) => self.write(instance, incoming, length, bytes).await,
        }
    }

    async fn write(
        &self,
        instance: (String, Phi<String>),
        mut incoming: Box<Incoming>,
        length: u64,
        bytes: &[u8],
    ) -> Part {
        let length = length + bytes.len() as u64;
        let (error, code) = match length > self.max_instance {
            // To send the same again would not help, unlike with a full disk.
            true => (ObjectError::TooLong, Some(status::CANNOT_UNDERSTAND)),
            false => match incoming.write(bytes).await {
                Ok(()) => return Part::Writing(instance, incoming, length),
                Err(error) => (error, None),
            },
        };
        let (told, _) = self.receiver.not_stored(NotStored::Objects(error), self.sender).await;
        failed(Some(instance), code.unwrap_or(told))
    }

    /// Judges what a part says that it is.
    async fn open(
        &self,
        named: Named,
        not_allowed: &mut usize,
    ) -> Result<((String, Phi<String>), Box<Incoming>), Outcome> {
        let instance = (named.sop_class_uid.clone(), named.sop_instance_uid.clone());
        let fail = |code| Outcome { instance: Some(instance.clone()), failure: Some(code) };
        if !is_storage(&named.sop_class_uid) {
            return Err(fail(status::SOP_CLASS_NOT_SUPPORTED));
        }
        let judged = self
            .policy
            .map(|policy| policy.judge(&named.sop_class_uid, std::slice::from_ref(&named.transfer_syntax)));
        if let Some(Err(why)) = judged {
            *not_allowed += 1;
            metrics::counter!("lightbox_instances_received_total", "outcome" => "refused").increment(1);
            return Err(fail(match why == crate::dicom::services::not_supported() {
                true => status::SOP_CLASS_NOT_SUPPORTED,
                false => status::TRANSFER_SYNTAX_NOT_SUPPORTED,
            }));
        }
        match self.receiver.begin(named, self.sender) {
            Ok(incoming) => Ok((instance, Box::new(incoming))),
            Err(error) => Err(fail(self.receiver.not_stored(error, self.sender).await.0)),
        }
    }

    /// A part is whole: its commit begins. Its outcome is a success that [`settle`](Self::settle) may undo.
    async fn end(
        &self,
        part: Part,
        index: usize,
        commits: &mut JoinSet<(usize, Result<(), ObjectError>)>,
    ) -> Outcome {
        let (instance, incoming) = match part {
            Part::Failed(outcome) => return outcome,
            Part::Head(..) => return Outcome { instance: None, failure: Some(status::CANNOT_UNDERSTAND) },
            Part::Writing(instance, incoming, _) => (instance, incoming),
        };
        let identified = match self.receiver.identify(*incoming).await {
            Ok((_, entry)) if self.study.is_some_and(|study| study != entry.study_uid.expose()) => {
                Err(NotStored::OtherStudy)
            }
            other => other,
        };
        let failure = match identified {
            Ok((finished, entry)) => {
                commits.spawn(async move { (index, finished.commit(entry).await) });
                None
            }
            Err(error) => Some(self.receiver.not_stored(error, self.sender).await.0),
        };
        Outcome { instance: Some(instance), failure }
    }

    /// Waits for one commit.
    async fn settle(&self, commits: &mut JoinSet<(usize, Result<(), ObjectError>)>, report: &mut Report) {
        let failed = match commits.join_next().await {
            None | Some(Ok((_, Ok(())))) => return,
            Some(Ok((index, Err(error)))) => {
                let (code, _) = self.receiver.not_stored(NotStored::Objects(error), self.sender).await;
                Some((index, code))
            }
            // The task of a commit panicked: which one is not known, so none counts as stored.
            Some(Err(_)) => None,
        };
        for (index, outcome) in report.outcomes.iter_mut().enumerate() {
            match failed {
                Some((at, code)) if at == index => outcome.failure = Some(code),
                None => outcome.failure = outcome.failure.or(Some(status::PROCESSING_FAILURE)),
                Some(_) => {}
            }
        }
    }
}

fn begin(headers: &Headers) -> Part {
    // PS3.18 §8.6.1.2: each part names its media type. Without one, the root type of the body counts.
    let media_type = headers.get("content-type").map(MediaType::parse);
    let fits = media_type.is_none_or(|found| found.is_some_and(|found| found.essence == APPLICATION_DICOM));
    let encoding = headers.get("content-transfer-encoding").unwrap_or("binary").to_ascii_lowercase();
    if fits && matches!(encoding.as_str(), "binary" | "8bit" | "7bit") {
        Part::Head(Head::default(), 0)
    } else {
        failed(None, status::CANNOT_UNDERSTAND)
    }
}

fn failed(instance: Option<(String, Phi<String>)>, code: u16) -> Part {
    Part::Failed(Outcome { instance, failure: Some(code) })
}
