//! Our edge to the DICOM wire: associations, DIMSE, TLS, and the header of what arrives.

pub mod association;
pub mod charset;
pub mod dimse;
pub mod header;
pub mod services;
pub mod status;
pub mod tls;
