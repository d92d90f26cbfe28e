//! Our edge to the DICOM wire: associations, DIMSE, TLS, and the header of what arrives.

pub mod age;
pub mod association;
pub mod attributes;
pub mod charset;
pub(crate) mod codestream;
pub mod commitment;
pub mod data_set;
pub mod dimse;
pub mod header;
pub(crate) mod one_frame;
pub mod part_ten;
pub mod pdu;
pub mod peer;
pub mod procedure_step;
pub mod query;
pub mod retrieve;
pub mod scu;
pub mod services;
pub mod status;
pub mod tls;

/// Implementation Class UID (0002,0012) of everything that this box writes or says: a UUID-derived
/// UID (PS3.5 B.2), fixed for the project.
pub const IMPLEMENTATION_CLASS_UID: &str = "2.25.144103912078854259940284961278023527729";
/// Implementation Version Name (0002,0013), at most 16 characters.
pub const IMPLEMENTATION_VERSION_NAME: &str = "LIGHTBOX";
