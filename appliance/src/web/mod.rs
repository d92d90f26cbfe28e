//! DICOMweb (PS3.18): instances by STOW-RS to us, and QIDO-RS, WADO-RS and STOW-RS at peers.
//!
//! Who may send is the DICOM listener's policy ([`crate::ingest::listener::policy`]); an instance goes the
//! way of every other ([`crate::ingest::receive`]). Bodies are streamed: at most one piece of a part is in
//! memory besides the store's own buffers.
//!
//! - [`multipart`]: `multipart/related` bodies and media types, pure;
//! - [`body`]: a body as it comes, with its bounds;
//! - [`json`]: the DICOM JSON model (PS3.18 Annex F), as far as it is spoken here;
//! - [`server`]: the port; `store`: a STOW-RS request; [`answer`]: its response, pure;
//! - [`client`]: requests to peers; [`query`], [`retrieve`]. Results leave by `crate::deliver::stow`.

pub mod answer;
pub mod body;
pub mod client;
pub mod json;
pub mod multipart;
pub mod query;
pub mod retrieve;
pub mod server;
mod store;

/// Media type of a Part 10 file.
pub const APPLICATION_DICOM: &str = "application/dicom";
/// Media type of the DICOM JSON model.
pub const DICOM_JSON: &str = "application/dicom+json";
/// Media type of bodies with several instances.
pub const MULTIPART_RELATED: &str = "multipart/related";
