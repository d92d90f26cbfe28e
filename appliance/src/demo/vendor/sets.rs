//! Acceptance sets of the demonstration: phantoms, whose truth is known exactly; for other bundles
//! their own golden cases, which show that this box computes what the vendor's computed, and
//! nothing about patients.

use anyhow::{Context as _, anyhow, bail};
use lightbox_models::Bundle;
use lightbox_models::acceptance::{AcceptanceSet, Case, CaseInput, SetWriter};
use lightbox_models::golden::Expected;
use sha2::{Digest as _, Sha256};

use crate::phantom::{Kind, Spec, generate};

/// Cases of each kind in the phantom detector's set.
const PHANTOMS: u64 = 30;
const PHANTOM_DETECTOR: &str = "lightbox-phantom-detector";

/// A set and what a plan says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// The whole file, not sealed.
    pub bytes: Vec<u8>,
    /// Its digest: what the plan names.
    pub digest: String,
    /// The label that is measured.
    pub label: String,
    /// Cases that have it.
    pub positive: u32,
    /// Cases that have it not.
    pub negative: u32,
}

/// The set of a bundle. The same bundle always has the same set.
pub fn set(bundle: &Bundle) -> anyhow::Result<Set> {
    let label = bundle.manifest().label.iter().find(|label| !label.negative);
    let label =
        label.map(|label| label.name.clone()).context("the bundle has no label that makes a finding")?;
    let cases = if bundle.manifest().model.id == PHANTOM_DETECTOR {
        phantoms(&label)?
    } else {
        golden(bundle, &label)?
    };
    let positive = cases.iter().filter(|(case, _)| !case.truth.is_empty()).count();
    let manifest = AcceptanceSet {
        schema: 1,
        id: format!("demonstration-{}", bundle.manifest().model.id),
        case: cases.iter().map(|(case, _)| case.clone()).collect(),
    };
    let text = toml::to_string(&manifest)?;
    let mut writer = SetWriter::new(Vec::new(), &text)?;
    for (_, bytes) in &cases {
        writer.case(bytes)?;
    }
    Ok(Set {
        bytes: writer.finish()?,
        digest: hex(&Sha256::digest(text.as_bytes())),
        label,
        positive: u32::try_from(positive)?,
        negative: u32::try_from(cases.len() - positive)?,
    })
}

fn case(name: String, frame: u32, bytes: &[u8], truth: Vec<String>) -> Case {
    Case {
        name,
        input: CaseInput::Dicom { frame },
        size: bytes.len() as u64,
        sha256: hex(&Sha256::digest(bytes)),
        truth,
        boxes: Default::default(),
        groups: Default::default(),
    }
}

/// X-rays with a bright disk, and without one.
fn phantoms(label: &str) -> anyhow::Result<Vec<(Case, Vec<u8>)>> {
    let mut cases = Vec::new();
    for number in 0..2 * PHANTOMS {
        let disks = usize::from(number % 2 == 0);
        // Seeds that no demonstration study has.
        let seed = 0x5e7_0000 + number;
        let spec = Spec { rows: 128, columns: 128, disks, ..Spec::new(Kind::Dx, seed) };
        let phantom = generate(&spec)?;
        let file = phantom.files.into_iter().next().ok_or_else(|| anyhow!("a phantom without an image"))?;
        let truth = if phantom.truth.is_empty() { Vec::new() } else { vec![label.to_owned()] };
        cases.push((case(format!("phantom-{number:02}"), 1, &file.bytes, truth), file.bytes));
    }
    Ok(cases)
}

/// The golden cases; what the vendor's own run flagged is taken for the truth.
fn golden(bundle: &Bundle, label: &str) -> anyhow::Result<Vec<(Case, Vec<u8>)>> {
    let manifest = bundle.manifest();
    let found =
        manifest.label.iter().find(|entry| entry.name == label).context("the bundle has no such label")?;
    let flagged = found.flagged_min.context("the label has no threshold")?;
    let mut cases = Vec::new();
    for golden in &manifest.golden {
        let (bytes, expected) = bundle.read_golden(golden)?;
        let score = score(bundle, &expected, found.index)?;
        let truth = if score >= flagged { vec![label.to_owned()] } else { Vec::new() };
        cases.push((case(golden.name.clone(), golden.frame, &bytes, truth), bytes));
    }
    Ok(cases)
}

/// A label's greatest score among expected outputs.
fn score(bundle: &Bundle, expected: &Expected, index: u32) -> anyhow::Result<f64> {
    let output = &bundle.manifest().output;
    let tensor = |name: &str| {
        let found = expected.outputs.iter().find(|output| output.tensor == name);
        found.map(|output| output.values.as_slice()).with_context(|| format!("no expected output {name:?}"))
    };
    if let Some(classification) = &output.classification {
        let at = usize::try_from(index)?;
        return tensor(&classification.probabilities)?.get(at).copied().context("no such output");
    }
    let Some(detection) = &output.detection else { bail!("the bundle has no output") };
    let labels = detection.labels.as_deref().map(tensor).transpose()?;
    let scores = tensor(&detection.scores)?.iter().enumerate();
    let of_label = |at: usize| labels.is_none_or(|labels| labels.get(at) == Some(&f64::from(index)));
    Ok(scores.filter(|(at, _)| of_label(*at)).map(|(_, score)| *score).fold(0.0, f64::max))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
