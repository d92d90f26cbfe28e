//! Values that identify a patient, wrapped so that they cannot be printed by accident.
//!
//! DICOM UIDs count as such values here: a Study Instance UID finds the patient in any PACS.
//! Logs, metrics, errors and file names carry the *study key* instead, which means nothing
//! outside this box (safety rule 5).

use std::fmt;

use serde::{Deserialize, Serialize};

/// A value that may identify a patient.
///
/// `Debug` and `Display` print `[redacted]`. Serialisation writes the value, because the ledger
/// and the results must hold it; whoever serialises into a log has chosen to break the rule.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Phi<T>(T);

impl<T> Phi<T> {
    /// Wraps a value that may identify a patient.
    pub fn new(value: T) -> Self {
        Phi(value)
    }

    /// The value itself. Each call is a place where a patient's data is used on purpose:
    /// an output to a named clinical peer, the ledger, or the operator's page.
    pub fn expose(&self) -> &T {
        &self.0
    }

    /// Takes the value out; the same care applies as for [`Phi::expose`].
    pub fn into_exposed(self) -> T {
        self.0
    }
}

impl From<String> for Phi<String> {
    fn from(value: String) -> Self {
        Phi(value)
    }
}

impl From<&str> for Phi<String> {
    fn from(value: &str) -> Self {
        Phi(value.to_owned())
    }
}

impl<T> fmt::Debug for Phi<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<T> fmt::Display for Phi<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_debug_nor_display_shows_the_value() {
        let name = Phi::from("DOE^JANE");
        assert_eq!(format!("{name} {name:?} {:?}", Some(&name)), "[redacted] [redacted] Some([redacted])");
        assert_eq!(name.expose(), "DOE^JANE");
    }
}
