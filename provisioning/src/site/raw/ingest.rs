//! What comes in, and where it is kept: the listeners, the object store, timers, orders, queries.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Certificate;

/// `[dicom]`: the DICOM listener and its limits.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dicom {
    /// Address and port for DICOM over mutually authenticated TLS (PS3.15 B.12).
    pub listen: String,
    /// Address and port for DICOM *without* TLS. Needs `allow_plaintext = true`.
    pub plaintext_listen: Option<String>,
    /// Accept patient data over connections that nobody has encrypted or authenticated.
    pub allow_plaintext: bool,
    /// Longest PDU that we accept, in bytes, 4096 to 1048576.
    pub max_pdu_bytes: u32,
    /// Associations at once; one more is rejected as a local limit (transient).
    pub max_associations: u32,
    /// Time that a peer has for the TLS handshake, in seconds.
    pub handshake_timeout_seconds: u64,
    /// Time that a peer has to send A-ASSOCIATE-RQ, and to close after a release (ARTIM), in seconds.
    pub artim_seconds: u64,
    /// Time that a peer has for each PDU, from waiting for it to its last byte, in seconds; then the
    /// association is aborted.
    pub idle_timeout_seconds: u64,
    /// Operations that we let a sender have under way at once, on one association, if it asks for that (asynchronous
    /// operations window, PS3.7 D.3.3.3), 1 to 64. It then sends the next images while the last ones are being made
    /// durable. 1: one after the other.
    pub operations_at_once: u16,
}

impl Default for Dicom {
    fn default() -> Self {
        Dicom {
            listen: "0.0.0.0:2762".into(),
            plaintext_listen: None,
            allow_plaintext: false,
            max_pdu_bytes: 131_072,
            max_associations: 64,
            handshake_timeout_seconds: 10,
            artim_seconds: 10,
            idle_timeout_seconds: 60,
            operations_at_once: 8,
        }
    }
}

/// `[dicomweb]`: instances by DICOMweb (STOW-RS, PS3.18 §10.5), over HTTPS with a client certificate.
/// Who may send is said by `[[peer]]`, as for C-STORE: `certificate`, `may`, `networks`, `sop_classes`,
/// `max_associations` (requests count as associations) and `throttle_mib_per_second`. A peer with
/// `user_identity` cannot send by DICOMweb. The times are those of `[dicom]`: `handshake_timeout_seconds`,
/// `artim_seconds` for a request's head and between two requests, `idle_timeout_seconds` for each 16 KiB
/// of a body. Rules see the peer's `ae_title` as the calling AE.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dicomweb {
    /// Address and port, e.g. `0.0.0.0:8042`. Without it this box takes nothing by DICOMweb.
    pub listen: Option<String>,
    /// What the paths begin with: instances are sent to `{prefix}/studies`.
    pub prefix: String,
    /// Longest body of a request, in MiB, 1 to 1048576.
    pub max_request_mib: u64,
    /// Longest instance, in MiB, 1 to 1048576; a longer one fails, the others of its request do not.
    pub max_instance_mib: u64,
    /// Most instances of one request, 1 to 100000.
    pub max_instances: u32,
}

impl Default for Dicomweb {
    fn default() -> Self {
        Dicomweb {
            listen: None,
            prefix: "/dicom-web".into(),
            max_request_mib: 16_384,
            max_instance_mib: 4096,
            max_instances: 10_000,
        }
    }
}

/// `[store]`: the object store.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// Free space that is kept for the ledger and the results, in MiB. Below it, C-STORE answers
    /// 0xA700 (out of resources) before anything is written.
    pub reserve_mib: u64,
    /// Length of a segment, in MiB, 4 to 1024. Instances are received into segments: files that were
    /// written before, so that making an instance durable costs one write.
    pub segment_mib: u64,
    /// Disk space that the segments take all the time, in MiB: about what comes in one burst, before
    /// the instances are moved into files of their own. More is taken when needed, and given back.
    pub segments_mib: u64,
    /// Days after its last image at which a study goes that was delivered: its images and results are
    /// removed, what the ledger says of it stays. What waits to be sent, failed or was given up stays.
    pub keep_days: u64,
    /// Free space, in MiB, below which delivered studies go before their time, the oldest first.
    pub short_of_room_mib: u64,
    /// Hours for which a study stays however short of room the disk is.
    pub keep_at_least_hours: u64,
    /// Days in which every image is reread once, in idle time, and compared with what was received.
    pub scrub_days: u64,
    /// Free space below which new associations of senders are rejected as temporary congestion
    /// (2/3/1), in MiB; those that are open go on. 0 never rejects.
    pub congestion_mib: u64,
}

impl Default for Store {
    fn default() -> Self {
        Store {
            reserve_mib: 256,
            segment_mib: 64,
            segments_mib: 1024,
            keep_days: 30,
            short_of_room_mib: 4096,
            keep_at_least_hours: 24,
            scrub_days: 30,
            congestion_mib: 1024,
        }
    }
}

/// `[timers]`: when a study counts as complete.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timers {
    /// A study with no new instance for this long is closed and processed, in seconds, where no better
    /// evidence tells (procedure steps, announcements, the PACS's count, the order). An image that comes
    /// later opens a new revision.
    pub quiet_seconds: u64,
    /// Evidence against completeness (a procedure step in progress, an instance that is listed and not
    /// here, a higher count at the PACS) keeps a study waiting at most so long after its last instance,
    /// in seconds. Then it is closed, and the verdict says what was missing.
    pub longest_seconds: u64,
    /// Silence after which a mere number is asked for and believed (the PACS's count, the order's
    /// expected series), in seconds.
    pub settle_seconds: u64,
    /// Name of the peer that is asked by C-FIND how many instances a study has. A PACS that does not
    /// answer never holds a study up.
    pub count_at: Option<String>,
}

impl Default for Timers {
    fn default() -> Self {
        Timers { quiet_seconds: 30, longest_seconds: 900, settle_seconds: 2, count_at: None }
    }
}

/// `[orders]`: orders from the RIS by HL7 v2 (ORM^O01, OMI^O23, ADT^A08, ADT^A40) over MLLP.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Orders {
    /// Address and port for MLLP over mutually authenticated TLS, e.g. `0.0.0.0:2575`. Without it this
    /// box takes no orders by TLS.
    pub listen: Option<String>,
    /// Address and port for MLLP *without* TLS. Needs `allow_plaintext = true`.
    pub plaintext_listen: Option<String>,
    /// Accept patient data over connections that nobody has encrypted or authenticated.
    pub allow_plaintext: bool,
    /// Who may send.
    pub source: Vec<OrderSource>,
    /// Largest message, in KiB; a larger one ends the connection.
    pub max_message_kib: u64,
    /// Time that a source has to send one message, from its first byte to its last, in seconds.
    pub message_timeout_seconds: u64,
    /// Time that a connection may stay without a message, in seconds.
    pub idle_timeout_seconds: u64,
    /// Connections of one source at once; one more is closed.
    pub connections_per_source: u32,
    /// Days after its last change at which an order goes, with the messages that brought it. An order is
    /// needed until its study has come. Messages that were refused stay until a person has dealt with them.
    pub keep_days: u64,
    /// Where an order says how many series the study will have: segment and field, e.g. `ZDS-5`. HL7
    /// has no field of its own for it.
    pub expected_series_field: Option<String>,
    /// The same for the number of instances.
    pub expected_instances_field: Option<String>,
}

impl Default for Orders {
    fn default() -> Self {
        Orders {
            listen: None,
            plaintext_listen: None,
            allow_plaintext: false,
            source: Vec::new(),
            max_message_kib: 1024,
            message_timeout_seconds: 30,
            idle_timeout_seconds: 3600,
            connections_per_source: 8,
            keep_days: 400,
            expected_series_field: None,
            expected_instances_field: None,
        }
    }
}

/// `[[orders.source]]`: a RIS or interface engine that may send orders.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OrderSource {
    /// Name shown with each message.
    pub name: String,
    /// How its certificate is known. Needed unless `address` is given.
    pub certificate: Option<Certificate>,
    /// IP address from which it sends without TLS. Needs `orders.allow_plaintext = true`.
    pub address: Option<String>,
}

/// `[query]`: how PACS are queried (C-FIND), and studies retrieved from them (C-MOVE, C-GET).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Query {
    /// Time for a whole query with all its answers, in seconds; then it is cancelled.
    pub deadline_seconds: u64,
    /// Time for a whole retrieval, in seconds; then it is cancelled. What has come by then is kept.
    pub retrieve_deadline_seconds: u64,
    /// Answers that one query takes at most; the rest is cancelled.
    pub max_matches: usize,
}

impl Default for Query {
    fn default() -> Self {
        Query { deadline_seconds: 30, retrieve_deadline_seconds: 600, max_matches: 1000 }
    }
}
