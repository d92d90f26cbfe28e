//! The audit log: append-only, hash-chained, its head and checkpoints signed by the device's key.
//!
//! Records live in the ledger and commit with the change they speak of. They name studies by
//! study key and peers by their name in the site file: no record holds a patient's data
//! (safety rule 5).

pub mod chain;
pub mod export;

use serde::Serialize;
use serde_json::Value;

/// What happened. The names follow the DICOM audit events (PS3.15 A.5) where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// The daemon started (110100, 110120).
    Started,
    /// The daemon stopped on purpose (110100, 110121).
    Stopped,
    /// An association was accepted (110102).
    AssociationAccepted,
    /// A connection or an association was refused (110113, 110126 node authentication).
    AssociationRefused,
    /// An instance was stored (110104).
    InstanceStored,
    /// An instance could not be stored, and the sender was told so (110104).
    InstanceRefused,
    /// A study's revision was closed and routed.
    StudyRouted,
    /// A series was complete before its study, and given to a model.
    SeriesRouted,
    /// An HL7 message came and was kept (110109).
    OrderReceived,
    /// Orders that had aged were removed, with their messages.
    OrdersRemoved,
    /// A study was put before others.
    StudyRaised,
    /// A model ran on a study.
    InferenceRun,
    /// A result was made from findings.
    ResultMade,
    /// A result was delivered (110104).
    ResultSent,
    /// A result went to the dead letters.
    ResultDeadLetter,
    /// A series was sent on to a destination, all of its instances (110104).
    InstancesForwarded,
    /// A forward went to the dead letters.
    ForwardDeadLetter,
    /// A study's instances and results were removed by the retention policy (110105 study deleted).
    StudyPurged,
    /// An object's bytes are not what was received.
    ObjectRotten,
    /// A person looked at, or changed, something (110103, 110106).
    OperatorAction,
    /// A peer told of a study: a performed procedure step, or the availability of instances (110104).
    StudyAnnounced,
    /// A peer asked us to commit to instances.
    CommitmentAsked,
    /// We told a peer what we commit to, or gave up telling it.
    CommitmentReported,
    /// A destination committed to a result, or did not.
    ResultCommitted,
    /// Studies were asked for at a peer: queried (110112) or retrieved (110107).
    PeerQueried,
    /// Earlier studies were looked for, for another study.
    PriorsFetched,
    /// The ledger's instance index was rebuilt or mended from the objects.
    IndexRebuilt,
    /// Certificates, keys and revocation lists were read again, or could not be used (110113, 110137).
    CertificatesReloaded,
    /// The signed repository of models was looked at (110113 where it was refused).
    RepositoryChecked,
    /// A version of a model went from one state to another, or was refused before it had one (110131
    /// software configuration).
    ModelTransition,
    /// An image of the firmware went from one state to another: found, written, started, installed, or fallen
    /// back from (110131 software configuration).
    SystemUpdate,
    /// The machine was started, and the start was good: from which entry, and what went wrong before (110100).
    SystemStarted,
    /// A notice of recall came, or what it comes to here has changed (110113 where it cannot be obeyed).
    RecallKept,
}

impl EventKind {
    /// The name as recorded.
    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::Started => "started",
            EventKind::Stopped => "stopped",
            EventKind::AssociationAccepted => "association-accepted",
            EventKind::AssociationRefused => "association-refused",
            EventKind::InstanceStored => "instance-stored",
            EventKind::InstanceRefused => "instance-refused",
            EventKind::StudyRouted => "study-routed",
            EventKind::SeriesRouted => "series-routed",
            EventKind::OrderReceived => "order-received",
            EventKind::OrdersRemoved => "orders-removed",
            EventKind::StudyRaised => "study-raised",
            EventKind::InferenceRun => "inference-run",
            EventKind::ResultMade => "result-made",
            EventKind::ResultSent => "result-sent",
            EventKind::ResultDeadLetter => "result-dead-letter",
            EventKind::InstancesForwarded => "instances-forwarded",
            EventKind::ForwardDeadLetter => "forward-dead-letter",
            EventKind::StudyPurged => "study-purged",
            EventKind::ObjectRotten => "object-rotten",
            EventKind::OperatorAction => "operator-action",
            EventKind::StudyAnnounced => "study-announced",
            EventKind::CommitmentAsked => "commitment-asked",
            EventKind::CommitmentReported => "commitment-reported",
            EventKind::ResultCommitted => "result-committed",
            EventKind::PeerQueried => "peer-queried",
            EventKind::PriorsFetched => "priors-fetched",
            EventKind::IndexRebuilt => "index-rebuilt",
            EventKind::CertificatesReloaded => "certificates-reloaded",
            EventKind::RepositoryChecked => "repository-checked",
            EventKind::ModelTransition => "model-transition",
            EventKind::SystemUpdate => "system-update",
            EventKind::SystemStarted => "system-started",
            EventKind::RecallKept => "recall-kept",
        }
    }
}

/// How it went (Event Outcome Indicator, PS3.15 A.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Success (0).
    Success,
    /// Minor failure (4): refused, as it should be, or to be tried again.
    Minor,
    /// Serious failure (8).
    Serious,
}

impl Outcome {
    /// The name as recorded.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Success => "success",
            Outcome::Minor => "minor",
            Outcome::Serious => "serious",
        }
    }
}

/// One event, before it has its place in the chain.
#[derive(Clone, Debug)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// How it went.
    pub outcome: Outcome,
    /// Whom or what it concerns: a study key, a peer's name, an operator's name.
    pub subject: String,
    /// The rest, without patient data.
    pub detail: Value,
}

impl Event {
    /// An event that went well.
    pub fn new(kind: EventKind, subject: impl Into<String>, detail: Value) -> Self {
        Event { kind, outcome: Outcome::Success, subject: subject.into(), detail }
    }

    /// The same event with another outcome.
    pub fn with_outcome(self, outcome: Outcome) -> Self {
        Event { outcome, ..self }
    }
}
