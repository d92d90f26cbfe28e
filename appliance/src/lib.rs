//! Lightbox: an imaging-AI appliance. See `ARCHITECTURE.md` for the way of a study through it.

pub mod admin;
pub mod audit;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod deliver;
pub mod demo;
pub mod dicom;
pub mod dispatch;
pub mod finding;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
pub mod hl7;
pub mod infer;
pub mod ingest;
pub mod inspect;
pub mod job;
pub mod phantom;
pub mod phi;
pub mod pipeline;
pub mod raw;
pub mod reload;
pub mod report;
pub mod store;
pub mod structure;
pub mod system;
pub mod update;
pub mod vendor;
pub mod web;
