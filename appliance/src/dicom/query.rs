//! C-FIND SCU, Study Root Query/Retrieve Information Model (PS3.4 C.4.1, C.6.2).
//!
//! A PACS' answers are bounded in number, size and time. When a bound is reached the query is
//! cancelled (C-CANCEL), and an association that does not come to an end then is aborted.

use std::time::Duration;

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use thiserror::Error;
use tokio::time::{Instant, timeout, timeout_at};

use super::association::{Association, AssociationError, Incoming};
use super::data_set::DataSet;
use super::dimse::{C_CANCEL_RQ, C_FIND_RQ, C_FIND_RSP, Command};
use super::header::Damage;
use super::peer::{PeerError, RemoteAe, Stream};
use super::services::{EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT_FIND};
use crate::phi::Phi;

/// Longest identifier of one answer.
pub const IDENTIFIER_MAX: usize = 256 * 1024;
/// Series of one study that are counted.
const SERIES_MAX: usize = 1_000;
/// Instances of one series that are counted one by one.
const INSTANCES_MAX: usize = 20_000;
/// Pending (FF00), and pending with optional keys that were not supported (FF01).
const PENDING: u16 = 0xFF00;
const PENDING_UNSUPPORTED_KEYS: u16 = 0xFF01;
/// The query ended because we cancelled it.
const CANCELLED: u16 = 0xFE00;

/// The level of a query or retrieval, (0008,0052).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// One answer a study.
    Study,
    /// One answer a series; needs the Study Instance UID as a key.
    Series,
    /// One answer an instance; needs the study's and the series' UID as keys.
    Image,
}

impl Level {
    /// The value of Query/Retrieve Level.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Study => "STUDY",
            Level::Series => "SERIES",
            Level::Image => "IMAGE",
        }
    }
}

/// One answer: the keys that were asked for, with the PACS' values. All of it is patient data.
pub type Match = DataSet;

/// What a query found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The answers, in the PACS' order.
    pub matches: Vec<Match>,
    /// Whether these are all: false where the limit was reached and the rest was cancelled.
    pub complete: bool,
    /// Whether the PACS said that it did not use some of the optional keys (0xFF01): there may be
    /// more matches than the keys allow.
    pub keys_ignored: bool,
}

/// A query failed. `Display` holds no patient data; the peer's own comment does not belong into logs.
#[derive(Debug, Error)]
pub enum QueryError {
    /// The peer was not reached, or the association failed.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The peer does not offer the service.
    #[error("the peer does not accept {service}: {why}")]
    NotOffered {
        /// Name of the SOP class.
        service: &'static str,
        /// The peer's reason in the words of PS3.8 §9.3.3.2.
        why: &'static str,
    },
    /// A final status that is no success.
    #[error("the peer answered {service} with status {status:#06x} ({})", status_words(*.status))]
    Refused {
        /// The operation.
        service: &'static str,
        /// The status.
        status: u16,
        /// The peer's own words.
        comment: Option<Phi<String>>,
    },
    /// An answer that cannot be read.
    #[error("an identifier of the peer's answer cannot be read: {0}")]
    Damaged(#[from] Damage),
    /// An answer that may not come here.
    #[error("the peer answered with {0}")]
    Unexpected(&'static str),
    /// The whole operation took too long.
    #[error("the peer did not finish within {} s", .0.as_secs())]
    Deadline(Duration),
}

impl From<AssociationError> for QueryError {
    fn from(error: AssociationError) -> Self {
        QueryError::Peer(error.into())
    }
}

impl QueryError {
    /// A deadline that ran out is the whole operation's, connecting included.
    fn of_whole(self, ae: &RemoteAe) -> Self {
        if let QueryError::Deadline(_) = self { QueryError::Deadline(ae.deadline) } else { self }
    }
}

/// What a final status of C-FIND, C-MOVE or C-GET says (PS3.4 C.4).
pub fn status_words(status: u16) -> &'static str {
    match status {
        0xA700 => "out of resources",
        0xA701 => "out of resources: unable to calculate the number of matches",
        0xA702 => "out of resources: unable to perform sub-operations",
        0xA801 => "the move destination is unknown to the peer",
        0xA900 => "the identifier does not match the SOP class",
        0x0122 => "SOP class not supported",
        0x0124 => "not authorized",
        0xB000 => "some sub-operations failed",
        CANCELLED => "cancelled",
        0xC000..=0xCFFF => "unable to process",
        _ => "failure",
    }
}

/// An association for queries. Dropping it closes the connection; [`end`](Self::end) is the polite way.
pub struct Querier {
    association: Association<Stream>,
    context: u8,
    transfer_syntax: String,
    message_id: u16,
    grace: Duration,
}

impl Querier {
    /// Opens an association for C-FIND.
    pub async fn open(ae: &RemoteAe) -> Result<Self, QueryError> {
        let syntaxes = [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN].map(str::to_owned);
        let association = ae.connect(&[(STUDY_ROOT_FIND.to_owned(), syntaxes.to_vec())]).await?;
        match association.any_context_for(STUDY_ROOT_FIND) {
            Some((context, transfer_syntax)) => {
                let grace = ae.limits.artim.min(Duration::from_secs(5));
                Ok(Querier { association, context, transfer_syntax, message_id: 0, grace })
            }
            None => {
                let why = association.refusal_of(STUDY_ROOT_FIND).unwrap_or("no answer to the context");
                drop(association.release().await);
                Err(QueryError::NotOffered { service: "Study Root C-FIND", why })
            }
        }
    }

    /// One query: `keys` with what to match and what to return, at most `limit` answers, all of them by
    /// `deadline`. After an error the association is not to be used again.
    pub async fn find(
        &mut self,
        level: Level,
        keys: DataSet,
        limit: usize,
        deadline: Instant,
    ) -> Result<Found, QueryError> {
        let started = Instant::now();
        self.message_id = self.message_id.wrapping_add(1).max(1);
        let identifier = keys.with(tags::QUERY_RETRIEVE_LEVEL, level.as_str());
        let request = Command {
            field: C_FIND_RQ,
            message_id: self.message_id,
            sop_class_uid: Some(STUDY_ROOT_FIND.into()),
            has_data_set: true,
            ..Command::default()
        };
        let encoded = identifier.encode(&self.transfer_syntax);
        self.association.send_command(self.context, &request).await?;
        self.association.send_data_set(self.context, &encoded[..]).await?;
        let mut found = Found::default();
        loop {
            let answer = match timeout_at(deadline, self.answer()).await {
                Ok(answer) => answer?,
                Err(_) => {
                    // Whether the rest of a message is still to come is not known now, so what
                    // follows is read only to end in peace; the association is not used again.
                    self.cancel().await?;
                    return Err(QueryError::Deadline(deadline - started));
                }
            };
            match answer {
                Answer::Pending { identifier, keys_ignored } => {
                    if found.matches.len() >= limit {
                        self.cancel().await?;
                        return Ok(found);
                    }
                    found.keys_ignored |= keys_ignored;
                    found.matches.push(identifier);
                }
                Answer::Final(response) => {
                    let status = response.status.unwrap_or(0xFFFF);
                    if status == 0 {
                        found.complete = true;
                        return Ok(found);
                    }
                    let comment = response.error_comment;
                    return Err(QueryError::Refused { service: "C-FIND", status, comment });
                }
            }
        }
    }

    async fn answer(&mut self) -> Result<Answer, QueryError> {
        let Incoming::Command(context, response) = self.association.next().await? else {
            return Err(QueryError::Unexpected("A-RELEASE-RQ in the middle of a query"));
        };
        if response.field != C_FIND_RSP || response.message_id != self.message_id || context != self.context {
            return Err(QueryError::Unexpected("a message that does not belong to the query"));
        }
        match response.status {
            Some(status @ (PENDING | PENDING_UNSUPPORTED_KEYS)) => {
                if !response.has_data_set {
                    return Err(QueryError::Unexpected("a pending response without an identifier"));
                }
                let bytes = self.association.data_set(context, IDENTIFIER_MAX).await?;
                Ok(Answer::Pending {
                    identifier: DataSet::parse(&bytes, &self.transfer_syntax)?,
                    keys_ignored: status == PENDING_UNSUPPORTED_KEYS,
                })
            }
            _ => {
                if response.has_data_set {
                    self.association.data_set(context, IDENTIFIER_MAX).await?;
                }
                Ok(Answer::Final(response))
            }
        }
    }

    /// Cancels the query and reads what is still on its way, for a while.
    async fn cancel(&mut self) -> Result<(), QueryError> {
        let request = Command { field: C_CANCEL_RQ, message_id: self.message_id, ..Command::default() };
        self.association.send_command(self.context, &request).await?;
        let drained = timeout(self.grace, async {
            loop {
                if let Answer::Final(_) = self.answer().await? {
                    return Ok::<_, QueryError>(());
                }
            }
        });
        match drained.await {
            Ok(Ok(())) => Ok(()),
            // It goes on all the same, or says something else: the connection is closed on it when this
            // association is dropped. What was asked for is there.
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }

    /// Releases the association; how that goes changes nothing.
    pub async fn end(self) {
        drop(self.association.release().await);
    }

    /// Aborts the association after an error.
    pub async fn abort(self, because: &QueryError) {
        match because {
            QueryError::Peer(PeerError::Association(error)) => self.association.abort(error).await,
            QueryError::Refused { .. } | QueryError::NotOffered { .. } => self.end().await,
            _ => {
                let error = AssociationError::Unexpected { found: "an answer", expected: "a usable one" };
                self.association.abort(&error).await;
            }
        }
    }
}

#[expect(clippy::large_enum_variant, reason = "one at a time, taken apart at once")]
enum Answer {
    Pending { identifier: DataSet, keys_ignored: bool },
    Final(Command),
}

/// One query on an association of its own, within the peer's deadline.
///
/// `keys` holds the keys to match (a value, a list with `\`, `*` and `?`, a range of dates) and the
/// keys to return (empty). Level and encoding are added here. At most `limit` answers are taken.
pub async fn find(ae: &RemoteAe, level: Level, keys: DataSet, limit: usize) -> Result<Found, QueryError> {
    let deadline = Instant::now() + ae.deadline;
    let mut querier = open_by(ae, deadline).await?;
    match querier.find(level, keys, limit, deadline).await {
        Ok(found) => {
            querier.end().await;
            Ok(found)
        }
        Err(error) => {
            querier.abort(&error).await;
            Err(error.of_whole(ae))
        }
    }
}

async fn open_by(ae: &RemoteAe, deadline: Instant) -> Result<Querier, QueryError> {
    timeout_at(deadline, Querier::open(ae)).await.map_err(|_| QueryError::Deadline(ae.deadline))?
}

/// How many instances a PACS has of a series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesCount {
    /// Series Instance UID.
    pub series_uid: Phi<String>,
    /// Modality, empty where the PACS does not say.
    pub modality: String,
    /// Number of instances, if it could be found out.
    pub instances: Option<u32>,
}

/// How many instances a PACS has of a study, and of each of its series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StudyCount {
    /// Number of instances, if it could be found out; 0 where the PACS does not know the study.
    pub instances: Option<u32>,
    /// Its series.
    pub series: Vec<SeriesCount>,
}

/// Counts a study at a PACS: by Number of Study Related Instances (0020,1208) and Number of Series
/// Related Instances (0020,1209), and by listing instances where the PACS does not return them.
pub async fn count_study(ae: &RemoteAe, study_uid: &Phi<String>) -> Result<StudyCount, QueryError> {
    let deadline = Instant::now() + ae.deadline;
    let mut querier = open_by(ae, deadline).await?;
    match count(&mut querier, study_uid.expose(), deadline).await {
        Ok(count) => {
            querier.end().await;
            Ok(count)
        }
        Err(error) => {
            querier.abort(&error).await;
            Err(error.of_whole(ae))
        }
    }
}

async fn count(querier: &mut Querier, study_uid: &str, deadline: Instant) -> Result<StudyCount, QueryError> {
    let study = DataSet::new().with(tags::STUDY_INSTANCE_UID, study_uid);
    let keys = study.clone().with(tags::NUMBER_OF_STUDY_RELATED_INSTANCES, "");
    let studies = querier.find(Level::Study, keys, SERIES_MAX, deadline).await?;
    // A PACS that does not match by the key answers with other studies.
    let Some(told) = studies.matches.iter().find(|found| is(found, tags::STUDY_INSTANCE_UID, study_uid))
    else {
        return Ok(StudyCount { instances: Some(0), series: Vec::new() });
    };
    let told = told.number(tags::NUMBER_OF_STUDY_RELATED_INSTANCES);
    let keys = study
        .clone()
        .with(tags::SERIES_INSTANCE_UID, "")
        .with(tags::MODALITY, "")
        .with(tags::NUMBER_OF_SERIES_RELATED_INSTANCES, "");
    let found = querier.find(Level::Series, keys, SERIES_MAX, deadline).await?;
    let mut series = Vec::new();
    for one in found.matches.iter().filter(|one| is(one, tags::STUDY_INSTANCE_UID, study_uid)) {
        let Some(series_uid) = one.uid(tags::SERIES_INSTANCE_UID) else { continue };
        let instances = match one.number(tags::NUMBER_OF_SERIES_RELATED_INSTANCES) {
            Some(instances) => Some(instances),
            None => {
                let keys = study
                    .clone()
                    .with(tags::SERIES_INSTANCE_UID, &series_uid)
                    .with(tags::SOP_INSTANCE_UID, "");
                let listed = querier.find(Level::Image, keys, INSTANCES_MAX, deadline).await?;
                let of_series = listed
                    .matches
                    .iter()
                    .filter(|one| is(one, tags::SERIES_INSTANCE_UID, &series_uid))
                    .count();
                listed.complete.then_some(of_series as u32)
            }
        };
        let modality = one.ascii(tags::MODALITY).unwrap_or_default();
        series.push(SeriesCount { series_uid: Phi::new(series_uid), modality, instances });
    }
    let sum = || {
        let counted: Option<Vec<u32>> = series.iter().map(|one| one.instances).collect();
        counted
            .filter(|_| found.complete)
            .map(|counts| counts.iter().fold(0, |a: u32, b| a.saturating_add(*b)))
    };
    Ok(StudyCount { instances: told.or_else(sum), series })
}

/// Whether an answer is about that UID; the unique keys of the levels above may be left out.
fn is(found: &Match, tag: Tag, uid: &str) -> bool {
    found.uid(tag).is_none_or(|value| value == uid)
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::super::association::{Limits, Requested};
    use super::*;

    const LIMITS: Limits = Limits {
        max_pdu: 16_384,
        artim: Duration::from_millis(300),
        idle: Duration::from_secs(5),
        operations: 1,
    };

    /// A PACS of which `serve` speaks after the C-FIND request; yields how to call it.
    async fn pacs<F>(serve: impl FnOnce(Association<TcpStream>, u8, u16) -> F + Send + 'static) -> RemoteAe
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let port = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = port.local_addr().expect("bound").to_string();
        tokio::spawn(async move {
            let (stream, _) = port.accept().await.expect("a connection");
            let requested = Requested::read(stream, LIMITS).await.expect("a request");
            let mut association =
                requested.accept(|_, syntaxes| Ok(syntaxes[0].clone())).await.expect("accepted");
            let Incoming::Command(context, request) = association.next().await.expect("a request") else {
                panic!("a C-FIND request had to come");
            };
            association.data_set(context, IDENTIFIER_MAX).await.expect("an identifier");
            serve(association, context, request.message_id).await;
        });
        RemoteAe {
            name: "pacs".into(),
            address,
            called_ae: "PACS".into(),
            calling_ae: "LIGHTBOX".into(),
            tls: None,
            limits: LIMITS,
            connect: Duration::from_secs(2),
            deadline: Duration::from_secs(1),
            retrieve_deadline: Duration::from_secs(1),
        }
    }

    async fn answer(to: &mut Association<TcpStream>, context: u8, id: u16, status: u16) -> bool {
        let pending = status & 0xFF00 == 0xFF00;
        let response = Command {
            field: C_FIND_RSP,
            message_id: id,
            status: Some(status),
            has_data_set: pending,
            error_comment: Some(Phi::from("DOE^JANE is locked")),
            ..Command::default()
        };
        let identifier =
            DataSet::new().with(tags::STUDY_INSTANCE_UID, "1.2.3").encode(EXPLICIT_VR_LITTLE_ENDIAN);
        to.send_command(context, &response).await.is_ok()
            && (!pending || to.send_data_set(context, &identifier[..]).await.is_ok())
    }

    fn keys() -> DataSet {
        DataSet::new().with(tags::STUDY_INSTANCE_UID, "")
    }

    #[tokio::test]
    async fn a_pacs_that_never_stops_is_cut_at_the_limit() {
        let ae = pacs(|mut association, context, id| async move {
            while answer(&mut association, context, id, PENDING).await {}
        })
        .await;
        let found = find(&ae, Level::Study, keys(), 7).await.expect("some");
        assert_eq!((found.matches.len(), found.complete), (7, false));
    }

    #[tokio::test]
    async fn a_pacs_that_says_nothing_is_left_at_the_deadline_and_told_so() {
        let (told, cancelled) = tokio::sync::oneshot::channel();
        let ae = pacs(|mut association, context, id| async move {
            answer(&mut association, context, id, PENDING_UNSUPPORTED_KEYS).await;
            let Ok(Incoming::Command(_, command)) = association.next().await else { return };
            told.send(command.field).expect("the test waits for it");
        })
        .await;
        let error = find(&ae, Level::Study, keys(), 7).await.expect_err("nothing came");
        assert!(matches!(error, QueryError::Deadline(_)), "{error}");
        assert_eq!(cancelled.await, Ok(C_CANCEL_RQ));
    }

    #[tokio::test]
    async fn a_refusal_keeps_the_peers_words_out_of_its_display() {
        let ae = pacs(|mut association, context, id| async move {
            answer(&mut association, context, id, 0xA900).await;
            drop(association.next().await);
        })
        .await;
        let error = find(&ae, Level::Study, keys(), 7).await.expect_err("refused");
        assert!(error.to_string().contains("0xa900"), "{error}");
        assert!(!format!("{error} {error:?}").contains("DOE"));
    }

    #[tokio::test]
    async fn damaged_and_oversized_answers_are_errors() {
        let ae = pacs(|mut association, context, id| async move {
            let response = Command {
                field: C_FIND_RSP,
                message_id: id,
                status: Some(PENDING),
                has_data_set: true,
                ..Command::default()
            };
            drop(association.send_command(context, &response).await);
            drop(association.send_data_set(context, &b"\x10\0\x20\0LO\xff\xff"[..]).await);
        })
        .await;
        assert!(matches!(find(&ae, Level::Study, keys(), 7).await, Err(QueryError::Damaged(_))));
        let ae = pacs(|mut association, context, id| async move {
            let response = Command {
                field: C_FIND_RSP,
                message_id: id,
                status: Some(PENDING),
                has_data_set: true,
                ..Command::default()
            };
            drop(association.send_command(context, &response).await);
            drop(association.send_data_set(context, &vec![0; IDENTIFIER_MAX + 2][..]).await);
        })
        .await;
        let error = find(&ae, Level::Study, keys(), 7).await.expect_err("too long");
        assert!(error.to_string().contains("more than 262144 bytes"), "{error}");
    }
}
