//! The store: received objects and results as files, and the ledger that says where each study is.
//!
//! - [`objects`]: instances as received, each durable, with its [`entry`], before it is acknowledged;
//! - [`indexer`]: takes the entries over into the ledger's index, behind the acknowledgement;
//! - [`ledger`]: studies, jobs, decisions, deliveries and the audit chain, in SQLite;
//! - [`jobs`] and [`deliveries`]: claiming work under a lease, and writing down how it ended;
//! - [`announcements`]: performed procedure steps and the availability of instances, as evidence;
//! - [`commitments`]: what peers ask us to commit to, until they have our report;
//! - [`forwards`]: series on their way to other archives, and which of their instances are there;
//! - [`models`]: versions of signed models, which one runs, and how it came to;
//! - [`rule_sets`]: the rules that were active;
//! - [`system`]: images of the firmware, and where each of them stands;
//! - [`priors`]: earlier studies that rules want fetched, and what came of it;
//! - [`results`]: the outputs made from findings, as files;
//! - [`retention`] and [`scrub`]: what has aged goes, what stays is reread;
//! - [`queries`]: what people ask of the ledger, for the command line and the admin page;
//! - [`replay`]: what people change in it.
//!
//! The objects are the truth of what was received: the ledger's instance index can be rebuilt
//! from them ([`index`]).

pub mod announcements;
pub mod commitments;
pub mod deliveries;
pub mod entry;
#[cfg(test)]
pub(crate) mod fixture;
pub mod folder;
pub mod forwards;
pub mod index;
pub mod indexer;
pub mod jobs;
pub mod ledger;
pub mod models;
pub mod objects;
pub mod orders;
pub mod priors;
pub mod queries;
pub mod replay;
pub mod results;
pub mod retention;
pub mod rule_sets;
pub mod schema;
pub mod scrub;
pub mod system;
