//! What the demo sends: phantoms, whose answers are known exactly, and real studies from packages.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use dicom_dictionary_std::tags;

use super::Parts;
use super::folder::Folder;
use crate::dicom::scu::Instance;
use crate::dicom::{header, part_ten};
use crate::phantom::truth::Truth;
use crate::phantom::{Kind, Spec, generate};
use crate::phi::Phi;

/// A study to send.
#[derive(Debug)]
pub struct Sent {
    /// What it is, for people.
    pub what: String,
    /// Study Instance UID: how it is found in the ledger.
    pub study_uid: Phi<String>,
    /// Its files.
    pub instances: Vec<Instance>,
    /// What is really there, for a phantom.
    pub truth: Option<Truth>,
    /// Whether a model is to examine it.
    pub examined: bool,
}

/// The real studies: file below the samples' folder, what it is, whether the brain model gets it.
const SAMPLES: &[(&str, &str, bool)] = &[
    (
        "pydicom-data/emri_small_jpeg_2k_lossless.dcm",
        "MR of a head, 10 frames (enhanced, JPEG 2000; no patient ID, so no HL7)",
        true,
    ),
    ("pydicom-data/RG1_J2KR.dcm", "CR of a chest (JPEG 2000)", false),
    ("pydicom-data/693_J2KR.dcm", "CT (JPEG 2000)", false),
];

/// Makes the phantoms and looks up the samples; yields what there is, and what is missing and why.
pub fn gather(folder: &Folder, parts: &Parts, seed: u64) -> anyhow::Result<(Vec<Sent>, Vec<String>)> {
    let ct = Spec { rows: 256, columns: 256, ..Spec::new(Kind::Ct { slices: 12 }, seed) };
    // Rows and columns a different distance apart, as real detectors have them.
    let dx = Spec { rows: 640, columns: 512, disks: 6, row_mm: 0.5, ..Spec::new(Kind::Dx, seed) };
    let mut found = vec![
        phantom(folder, "ct", "CT phantom, 12 slices, 5 balls", ct)?,
        phantom(folder, "dx", "DX phantom, 6 disks", dx)?,
    ];
    let mut missing: Vec<String> = Vec::new();
    if parts.brain_tumour.is_none() {
        missing.push(
            "no brain tumour model: its bundle is not there (get it by ./justw parts), so no rule takes an MR".into(),
        );
    }
    let Some(samples) = &parts.samples else {
        missing.push(
            "no real study: there are no samples here; get them by ./justw parts, or name them by --samples"
                .into(),
        );
        return Ok((found, missing));
    };
    for (file, what, brain) in SAMPLES {
        let path = samples.join(file);
        match real(&path) {
            Some((study_uid, instance)) => found.push(Sent {
                what: (*what).to_owned(),
                study_uid,
                instances: vec![instance],
                truth: None,
                examined: *brain && parts.brain_tumour.is_some(),
            }),
            None => missing.push(format!(
                "no {what}: {} is not there or no DICOM file; get it by ./justw parts",
                path.display()
            )),
        }
    }
    Ok((found, missing))
}

fn phantom(folder: &Folder, name: &str, what: &str, spec: Spec) -> anyhow::Result<Sent> {
    let phantom = generate(&spec)?;
    let to = folder.make(&format!("sent/{name}"))?;
    let mut instances = Vec::new();
    for (index, file) in phantom.files.iter().enumerate() {
        let path: PathBuf = to.join(format!("{index:03}.dcm"));
        std::fs::write(&path, &file.bytes).with_context(|| format!("writing {}", path.display()))?;
        instances.push(Instance::open(&path).ok_or_else(|| anyhow!("the phantom is no DICOM file"))?);
    }
    Ok(Sent {
        what: what.to_owned(),
        study_uid: phantom.study_uid.clone(),
        instances,
        truth: Some(Truth::new(phantom, &spec)),
        examined: true,
    })
}

fn real(path: &Path) -> Option<(Phi<String>, Instance)> {
    let opened = part_ten::open(path).ok()?;
    let (header, _) = header::scan(opened.file, opened.length, opened.meta.transfer_syntax());
    Some((Phi::new(header.uid(tags::STUDY_INSTANCE_UID)?), Instance::open(path)?))
}
