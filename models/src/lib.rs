//! The model bundle: a folder with a manifest, the network, and a card for people.
//!
//! A bundle says by itself everything that the box must know to run its model: which images it is
//! for, how their pixels become a tensor, what the outputs mean in codes, and from which score on
//! a finding is shown. The thresholds and the wording are regulated data: they live in the
//! manifest, never in code.
//!
//! ```text
//! bundle/
//!   manifest.toml   schema 1; lists every other file with its SHA-256
//!   model.onnx      role "network"
//!   card.md         role "card"
//! ```
//!
//! [`Bundle::open`] is the only way in: it checks the manifest whole, then every file against its
//! digest, and refuses what the manifest does not list.

mod bundle;
mod check;
pub mod life_cycle;
pub mod manifest;
pub mod metrics;
mod problem;

pub use bundle::{Bundle, BundleError};
pub use manifest::Manifest;
pub use problem::Problem;
