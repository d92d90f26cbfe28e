//! The acceptance set: a manifest of its cases, and one file that holds all.
//!
//! The file has no paths and no compression, so that there is nothing to traverse and nothing to
//! inflate:
//!
//! ```text
//! "lightbox acceptance set 1\n"
//! u64, big-endian: length of the manifest
//! the manifest (TOML)
//! each case's input, in the manifest's order, of the length that it gives
//! ```
//!
//! The set's digest is the SHA-256 of the manifest, which names every input's.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const MAGIC: &[u8] = b"lightbox acceptance set 1\n";
/// Longest manifest that is read, in bytes.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;
/// Largest input that is read, in bytes.
const CASE_BYTES_MAX: u64 = 1 << 30;

/// A set's manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptanceSet {
    /// Version of this format: 1.
    pub schema: u32,
    /// The vendor's name of it.
    pub id: String,
    /// Its cases, in the order of their inputs.
    pub case: Vec<Case>,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Name, once in the set. Not a patient's: it goes into records.
    pub name: String,
    /// What the input is.
    pub input: CaseInput,
    /// Length of the input in bytes.
    pub size: u64,
    /// SHA-256 of the input, 64 lower-case hex digits.
    pub sha256: String,
    /// Labels that the case has; all others it has not.
    pub truth: Vec<String>,
    /// For a label, the true boxes: left, top, right, bottom in pixels of the image.
    #[serde(default)]
    pub boxes: BTreeMap<String, Vec<[f64; 4]>>,
    /// Attributes, e.g. `sex = "F"`.
    #[serde(default)]
    pub groups: BTreeMap<String, String>,
}

/// What a case's input is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum CaseInput {
    /// A DICOM file: decoding and preparation are measured as well.
    Dicom {
        /// The frame that is run, from 1.
        frame: u32,
    },
    /// The network's input, 32-bit little-endian floats, row-major.
    Tensor {
        /// Its shape.
        shape: Vec<u64>,
    },
}

/// Why a set is refused.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// Not a set at all.
    #[error("not an acceptance set; remedy: give the file that `lightbox` made for this device")]
    NotASet,
    /// The manifest is not one.
    #[error("the acceptance set's manifest: {0}")]
    Manifest(String),
    /// The set is not the one that the plan names.
    #[error("the acceptance set's digest is {found}, the plan names {named}")]
    Digest {
        /// What the plan names.
        named: String,
        /// What it is.
        found: String,
    },
    /// A case's input has other bytes.
    #[error("case {0:?} has not the bytes that the set's manifest names")]
    Case(String),
    /// There is more in the file than the manifest names.
    #[error("the acceptance set goes on after its last case")]
    Longer,
    /// Reading or writing failed.
    #[error("reading or writing the acceptance set failed")]
    Io(#[from] io::Error),
}

impl AcceptanceSet {
    /// Reads and checks a manifest.
    pub fn read(text: &str) -> Result<AcceptanceSet, SetError> {
        let set: AcceptanceSet =
            toml::from_str(text).map_err(|error| SetError::Manifest(error.message().to_owned()))?;
        let wrong = |what: String| Err(SetError::Manifest(what));
        if set.schema != 1 {
            return wrong(format!("schema {} is not known, only 1", set.schema));
        }
        if set.case.is_empty() {
            return wrong("it has no case".into());
        }
        let mut names = BTreeSet::new();
        for case in &set.case {
            if case.name.is_empty() || case.name.len() > 64 || !names.insert(&case.name) {
                return wrong(format!("case {:?}: the name is empty, too long or given twice", case.name));
            }
            if case.size == 0 || case.size > CASE_BYTES_MAX {
                return wrong(format!("case {:?}: {} bytes, allowed are 1 to 1 GiB", case.name, case.size));
            }
            if let CaseInput::Tensor { shape } = &case.input {
                let bytes = shape.iter().try_fold(4_u64, |bytes, axis| bytes.checked_mul(*axis));
                if bytes != Some(case.size) {
                    return wrong(format!(
                        "case {:?}: shape {shape:?} is not {} bytes",
                        case.name, case.size
                    ));
                }
            }
            if case.boxes.values().flatten().flatten().any(|edge| !edge.is_finite()) {
                return wrong(format!("case {:?}: a box has an edge that is not finite", case.name));
            }
            if let Some(label) = case.boxes.keys().find(|label| !case.truth.contains(label)) {
                return wrong(format!(
                    "case {:?}: has boxes of {label:?}, which it does not have",
                    case.name
                ));
            }
        }
        Ok(set)
    }
}

/// Writes a set: first the manifest, then each case's input, checked on the way.
#[derive(Debug)]
pub struct SetWriter<W> {
    to: W,
    set: AcceptanceSet,
    next: usize,
}

impl<W: Write> SetWriter<W> {
    /// Begins with the manifest's text.
    pub fn new(mut to: W, manifest: &str) -> Result<Self, SetError> {
        let set = AcceptanceSet::read(manifest)?;
        to.write_all(MAGIC)?;
        to.write_all(&(manifest.len() as u64).to_be_bytes())?;
        to.write_all(manifest.as_bytes())?;
        Ok(SetWriter { to, set, next: 0 })
    }

    /// The next case's input.
    pub fn case(&mut self, bytes: &[u8]) -> Result<(), SetError> {
        let case = self.set.case.get(self.next).ok_or(SetError::Longer)?;
        is_input(case, bytes)?;
        self.to.write_all(bytes)?;
        self.next += 1;
        Ok(())
    }

    /// Ends the set; refused where a case is missing.
    pub fn finish(self) -> Result<W, SetError> {
        match self.set.case.get(self.next) {
            Some(case) => Err(SetError::Case(case.name.clone())),
            None => Ok(self.to),
        }
    }
}

/// Reads a set, one case in memory at a time.
#[derive(Debug)]
pub struct SetReader<R> {
    from: R,
    set: AcceptanceSet,
    digest: String,
    next: usize,
}

impl<R: Read> SetReader<R> {
    /// Reads the manifest; refused where its digest is not the one that the plan names.
    pub fn new(mut from: R, named: &str) -> Result<Self, SetError> {
        let mut magic = [0; MAGIC.len()];
        let mut length = [0; 8];
        from.read_exact(&mut magic).and_then(|()| from.read_exact(&mut length)).map_err(short)?;
        let length = u64::from_be_bytes(length);
        if magic != MAGIC || length > MANIFEST_BYTES_MAX {
            return Err(SetError::NotASet);
        }
        // By what is there, not by what is claimed.
        let mut manifest = Vec::new();
        (&mut from).take(length).read_to_end(&mut manifest)?;
        let digest = hex(&Sha256::digest(&manifest));
        if digest != named {
            return Err(SetError::Digest { named: named.to_owned(), found: digest });
        }
        let text = str::from_utf8(&manifest).map_err(|_| SetError::NotASet)?;
        Ok(SetReader { set: AcceptanceSet::read(text)?, from, digest, next: 0 })
    }

    /// The manifest.
    pub fn set(&self) -> &AcceptanceSet {
        &self.set
    }

    /// The set's digest.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The next case and its input; none after the last one, if the file ends there.
    pub fn next_case(&mut self) -> Result<Option<(Case, Vec<u8>)>, SetError> {
        let Some(case) = self.set.case.get(self.next) else {
            let mut more = [0];
            return if self.from.read(&mut more)? == 0 { Ok(None) } else { Err(SetError::Longer) };
        };
        let mut bytes = Vec::new();
        (&mut self.from).take(case.size).read_to_end(&mut bytes)?;
        is_input(case, &bytes)?;
        self.next += 1;
        Ok(Some((case.clone(), bytes)))
    }
}

fn short(error: io::Error) -> SetError {
    if error.kind() == io::ErrorKind::UnexpectedEof { SetError::NotASet } else { SetError::Io(error) }
}

fn is_input(case: &Case, bytes: &[u8]) -> Result<(), SetError> {
    if bytes.len() as u64 == case.size && hex(&Sha256::digest(bytes)) == case.sha256 {
        Ok(())
    } else {
        Err(SetError::Case(case.name.clone()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
