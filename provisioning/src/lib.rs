//! Provisioning: what a hospital tells this box, and what the box tells the hospital.
//!
//! - [`site`]: the site file, parsed and checked whole before anything starts;
//! - [`pki`]: certificates for a site that has no authority of its own, for the demo and tests.

pub mod pki;
pub mod site;
