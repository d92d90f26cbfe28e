//! The manifest's contents, schema 2. Unknown keys are refused everywhere: a key that this version
//! does not know may be a condition that it would silently ignore.
//!
//! Each group of tables has its file: what the model is and for whom ([`Model`], [`Device`],
//! [`Regulatory`] here; [`Indication`]), its files and golden cases, its input, its output.

mod files;
mod indication;
mod input;
mod output;
mod performance;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use files::{File, Golden, PATH_LENGTH_MAX, Role, Tolerance, is_inside, is_sha256};
pub use indication::{Excluded, Indication, Sex, Unstated};
pub use input::{Input, Intensity, Interpolation, Layout, Monochrome1, Normalise, Resize, Scope};
pub use output::{
    Activation, Aggregate, BoxFormat, Classification, Detection, Label, Measure, MergeSlices, Output,
};

pub use performance::Performance;

use crate::problem::Problem;

/// The one schema that this version reads.
pub const SCHEMA: u32 = 2;

/// The manifest's name in a bundle's folder and in a packed bundle.
pub const MANIFEST_NAME: &str = "manifest.toml";

/// Longest manifest that is read, in bytes.
pub const MANIFEST_BYTES_MAX: u64 = 1 << 20;

/// A whole manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format: [`SCHEMA`].
    pub schema: u32,
    /// What the model is.
    pub model: Model,
    /// The device that it is cleared for.
    pub device: Device,
    /// Under which clearance.
    pub regulatory: Regulatory,
    /// What it needs to run.
    pub resources: Resources,
    /// Every file of the bundle but the manifest.
    pub file: Vec<File>,
    /// Cases whose raw outputs are known, run on the box before the model is used there.
    pub golden: Vec<Golden>,
    /// The images that the model is cleared for.
    pub indication: Indication,
    /// How an image becomes the input tensor.
    pub input: Input,
    /// What the output tensors are.
    pub output: Output,
    /// The output labels, in any order; their indices are 0 to n-1, each once.
    pub label: Vec<Label>,
    /// What the vendor measured, to be found again on each box.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub performance: Vec<Performance>,
}

impl Manifest {
    /// Reads and checks a manifest's text; `file` is what a [`Problem`] names.
    pub fn read(file: &Path, text: &str) -> Result<Manifest, Problem> {
        crate::check::read(file, text)
    }

    /// Every problem of a manifest's text, for whoever writes it; none where [`Manifest::read`] takes it.
    pub fn problems(file: &Path, text: &str) -> Vec<Problem> {
        crate::check::problems(file, text).0
    }

    /// What it may say, and hardly means: for whoever writes it.
    pub fn doubts(&self) -> Vec<crate::Doubt> {
        crate::check::doubts(self)
    }

    /// The first file of a role.
    pub fn file_of(&self, role: Role) -> Option<&File> {
        self.file.iter().find(|file| file.role == role)
    }

    /// The file of a path.
    pub fn file_at(&self, path: &str) -> Option<&File> {
        self.file.iter().find(|file| file.path == path)
    }

    /// The network of a precision.
    pub fn network(&self, precision: Precision) -> Option<&File> {
        self.file_of(match precision {
            Precision::Fp32 => Role::Network,
            Precision::Fp16 => Role::NetworkFp16,
        })
    }

    /// Bytes of all files but the manifest.
    pub fn bytes(&self) -> u64 {
        self.file.iter().fold(0, |sum, file| sum.saturating_add(file.size))
    }

    /// The names of the output tensors that the family's table names.
    pub fn output_tensors(&self) -> Vec<&str> {
        let detection = self.output.detection.iter().flat_map(|detection| {
            [Some(&detection.boxes), Some(&detection.scores), detection.labels.as_ref()]
                .into_iter()
                .flatten()
                .map(String::as_str)
        });
        let classification = self.output.classification.iter().map(|output| output.probabilities.as_str());
        detection.chain(classification).collect()
    }
}

/// What the model is, and what it claims.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Identifier: lower-case letters, digits and hyphens, at most 64.
    pub id: String,
    /// Name shown to people, at most 64 characters.
    pub name: String,
    /// Version for people, at most 64 characters.
    pub version: String,
    /// Release number, from 1. Of two bundles of one `id` the newer one is the one with the larger
    /// number, whatever the versions' texts say; a vendor never gives a number twice.
    pub release: u64,
    /// Vendor, at most 64 characters.
    pub vendor: String,
    /// Which kind of output it has.
    pub family: Family,
    /// True: every output of the box carries "not for clinical use".
    pub not_for_clinical_use: bool,
    /// The regulatory claim's wording of what was looked for, e.g. "bright disks".
    pub looked_for: String,
    /// The cleared statement of intended use, word for word, at most 4000 characters.
    pub intended_use: String,
    /// LOINC code of the procedure that it reports on.
    pub procedure: Code,
}

/// Kinds of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Says of a whole image which labels hold.
    Classification,
    /// Says where in an image the labels hold.
    Detection,
}

/// A coded concept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Code {
    /// Code Value, at most 16 characters.
    pub value: String,
    /// Coding Scheme Designator, e.g. `SCT`, `LN`.
    pub scheme: String,
    /// Code Meaning, plain ASCII, at most 64 characters.
    pub meaning: String,
}

/// The device that the model is for. A box of another UDI-DI refuses the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Device identifiers (the DI part of the UDI: a GTIN-14 or another agency's), at least one.
    pub udi_di: Vec<String>,
}

/// Under which clearance the model is marketed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Regulatory {
    /// Number of the submission, e.g. `K241234`; only a model not for clinical use may have none.
    #[serde(default)]
    pub submission: Option<String>,
    /// The classification regulation, e.g. `21 CFR 892.2080`; only a model not for clinical use may
    /// have none.
    #[serde(default)]
    pub regulation: Option<String>,
    /// What the model claims to do.
    pub claim: Claim,
}

/// What a model claims to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Claim {
    /// Says which study to look at first.
    Triage,
    /// Says where to look.
    Detection,
    /// Says what it is.
    Diagnosis,
    /// Says how large, how many or how much.
    Quantification,
}

/// What the model needs to run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Memory beyond the daemon's own, in MiB.
    pub memory_mib: u64,
    /// Longest time for one input, in seconds; a run that takes longer has failed.
    pub runtime_seconds: f64,
    /// Whether it needs a GPU.
    #[serde(default)]
    pub accelerator: Accelerator,
}

/// Whether a model needs a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    /// It runs on the CPU alone.
    #[default]
    None,
    /// It runs on the CPU, and faster on a GPU.
    Optional,
    /// It is not run without one.
    Required,
}

/// The number format of a network's weights and sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit: the reference that every other one is compared with.
    Fp32,
    /// 16-bit.
    Fp16,
}
