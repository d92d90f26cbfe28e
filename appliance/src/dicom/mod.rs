//! Our edge to the DICOM wire: associations, DIMSE, TLS, and the header of what arrives.

pub mod charset;
