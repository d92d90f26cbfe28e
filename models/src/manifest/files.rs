//! The bundle's files and its golden cases.

use serde::{Deserialize, Serialize};

/// Longest path of a file: what the name field of a tar header holds, so that a packed bundle needs
/// no extended headers.
pub const PATH_LENGTH_MAX: usize = 100;

/// Whether a path leads to a place below the bundle's folder, by its text alone.
pub fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= PATH_LENGTH_MAX
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte))
}

/// Whether a text is a SHA-256 as all documents here write one: 64 lower-case hex digits.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// One file of the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Path below the bundle's folder, at most 100 characters, `/` between parts; no `..`, not
    /// absolute.
    pub path: String,
    /// What it is.
    pub role: Role,
    /// Its bytes' number.
    pub size: u64,
    /// SHA-256 of its bytes, 64 lower-case hex digits.
    pub sha256: String,
}

/// What a file of the bundle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The ONNX network in 32-bit floats: exactly one.
    Network,
    /// The same network in 16-bit floats: at most one.
    NetworkFp16,
    /// The model card for people: exactly one.
    Card,
    /// The software bill of materials, CycloneDX JSON with the model among its components: exactly one.
    Sbom,
    /// The licence: exactly one.
    Licence,
    /// A report template.
    Template,
    /// The input of a golden case: a DICOM file.
    GoldenCase,
    /// The raw outputs of a golden case: JSON, see [`crate::golden`].
    GoldenExpected,
    /// Anything else that comes along, such as evidence or instructions for use.
    Document,
}

impl Role {
    /// As the manifest writes it.
    pub fn name(self) -> &'static str {
        match self {
            Role::Network => "network",
            Role::NetworkFp16 => "network_fp16",
            Role::Card => "card",
            Role::Sbom => "sbom",
            Role::Licence => "licence",
            Role::Template => "template",
            Role::GoldenCase => "golden_case",
            Role::GoldenExpected => "golden_expected",
            Role::Document => "document",
        }
    }
}

/// An input whose raw outputs are known. It goes the whole way of a clinical image: decoded,
/// prepared, run; its outputs are compared before anything is made of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// Name for people, at most 64 characters, each once.
    pub name: String,
    /// Path of a file of role `golden_case`: a DICOM file with one image inside the indication.
    pub input: String,
    /// The frame that is run, from 1.
    #[serde(default = "first")]
    pub frame: u32,
    /// Path of a file of role `golden_expected`.
    pub expected: String,
    /// For each output tensor that the family's table names, how far a value may be off.
    pub tolerance: Vec<Tolerance>,
}

fn first() -> u32 {
    1
}

/// How far the values of an output tensor may be from the expected ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tolerance {
    /// The tensor's name.
    pub tensor: String,
    /// In the tensor's own unit.
    #[serde(default)]
    pub absolute: f64,
    /// As a fraction of the expected value.
    #[serde(default)]
    pub relative: f64,
}

impl Tolerance {
    /// Whether a value is near enough: `|found - expected| <= absolute + relative * |expected|`.
    /// What is not a number is never near.
    pub fn allows(&self, expected: f64, found: f64) -> bool {
        (found - expected).abs() <= self.absolute + self.relative * expected.abs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearness_is_absolute_plus_relative_and_never_not_a_number() {
        let tolerance = Tolerance { tensor: "t".into(), absolute: 0.5, relative: 0.01 };
        assert!(tolerance.allows(100.0, 101.5));
        assert!(!tolerance.allows(100.0, 101.6));
        assert!(tolerance.allows(-100.0, -98.5));
        assert!(!tolerance.allows(1.0, f64::NAN));
        assert!(!tolerance.allows(f64::NAN, 1.0));
        assert!(!tolerance.allows(1.0, f64::INFINITY));
    }
}
