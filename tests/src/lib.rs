//! The harness of the end-to-end tests: it starts the real binary in a hospital of its own (site
//! file, certificates, temporary folders, ports) among real peers, and stops all of it on drop.
//!
//! A program, part or sample that is missing fails the test and names `./justw test`: nothing is
//! skipped.

pub mod canary;
pub mod chance;
pub mod command;
pub mod daemon;
pub mod firmware;
pub mod hospital;
pub mod judges;
pub mod ledger;
pub mod line;
pub mod peers;
pub mod samples;
pub mod site;
pub mod vendor;
pub mod wait;

pub use daemon::Daemon;
pub use hospital::{Hospital, Identity};
pub use line::Line;
pub use site::Site;
pub use vendor::Vendor;
