//! The model bundle: a folder with a manifest, the network, and what must come along.
//!
//! A bundle says by itself everything that the box must know to run its model: for which device and
//! images it is, how pixels become a tensor, what the outputs mean in codes, and from which score on
//! a finding is shown. The thresholds and the wording are regulated data: they live in the
//! manifest, never in code.
//!
//! ```text
//! bundle/
//!   manifest.toml     schema 2; lists every other file with its size and SHA-256
//!   model.onnx        role "network"
//!   card.md           role "card"
//!   sbom.json         role "sbom"
//!   LICENSE           role "licence"
//!   golden-disk.dcm   role "golden_case"
//!   golden-disk.json  role "golden_expected"
//! ```
//!
//! [`Bundle::open`] is the only way in: it checks the manifest whole, then every file against its
//! size and digest, and refuses what the manifest does not list.

pub mod acceptance;
mod bundle;
mod check;
mod contents;
mod document;
mod doubt;
pub mod draft;
pub mod golden;
pub mod life_cycle;
pub mod manifest;
pub mod metrics;
pub mod network;
pub mod pack;
pub mod plain;
pub mod plan;
mod problem;
pub mod publish;
pub mod recall;
mod sbom;
pub mod shadow;
pub mod trust;

pub use bundle::{Bundle, BundleError};
pub use doubt::Doubt;
pub use manifest::Manifest;
pub use problem::{Problem, line_of};
