//! What the demo sends: phantoms, whose answers are known exactly, and real studies from packages.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use dicom_dictionary_std::tags;

use super::Parts;
use super::folder::Folder;
use crate::dicom::scu::Instance;
use crate::dicom::{header, part_ten};
use crate::finding::{Finding, Tier};
use crate::phantom::{Kind, Phantom, Spec, generate};
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

/// A phantom's truth, with the size of its pixels.
#[derive(Debug)]
pub struct Truth {
    phantom: Phantom,
    row_mm: f64,
    column_mm: f64,
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
        truth: Some(Truth { phantom, row_mm: spec.row_mm, column_mm: spec.column_mm }),
        examined: true,
    })
}

fn real(path: &Path) -> Option<(Phi<String>, Instance)> {
    let opened = part_ten::open(path).ok()?;
    let (header, _) = header::scan(opened.file, opened.length, opened.meta.transfer_syntax());
    Some((Phi::new(header.uid(tags::STUDY_INSTANCE_UID)?), Instance::open(path)?))
}

impl Truth {
    /// Compares a model's answer with the truth: every disk found on its slice, in its tier, centre
    /// within a pixel, size within a pixel's spacing, and nothing invented. Yields a sentence.
    pub fn check(&self, findings: &[Finding]) -> Result<String, String> {
        let mut left: Vec<&Finding> = findings.iter().collect();
        let (mut furthest, mut shown) = (0.0_f64, 0);
        for disk in &self.phantom.truth {
            let slice = &self.phantom.files[disk.file].instance;
            let place = format!("the disk at column {:.1}, row {:.1}", disk.centre.0, disk.centre.1);
            let near = left.iter().position(|finding| {
                finding.source.instance.sop_instance_uid == slice.sop_instance_uid
                    && finding.source.region.is_some_and(|region| {
                        let (column, row) = region.centre();
                        (column - disk.centre.0).abs() <= 1.0 && (row - disk.centre.1).abs() <= 1.0
                    })
            });
            let Some(finding) = near.map(|at| left.swap_remove(at)) else {
                return Err(format!("{place} was not found"));
            };
            if finding.tier != disk.tier {
                return Err(format!(
                    "{place} is {} instead of {}",
                    finding.tier.as_str(),
                    disk.tier.as_str()
                ));
            }
            let Some(region) = finding.source.region else { continue };
            let width_off = (region.width() * self.column_mm - disk.diameter_mm).abs();
            let height_off = (region.height() * self.row_mm - disk.diameter_mm).abs();
            if width_off > self.column_mm || height_off > self.row_mm {
                return Err(format!("{place} has another size"));
            }
            let (column, row) = region.centre();
            furthest = furthest.max((column - disk.centre.0).abs()).max((row - disk.centre.1).abs());
            shown += usize::from(disk.tier != Tier::Suppressed);
        }
        match left.len() {
            0 => Ok(format!(
                "exact: {} of {} disks found ({shown} shown, {} below the threshold), centres within {furthest:.2} pixels, none invented",
                self.phantom.truth.len(),
                self.phantom.truth.len(),
                self.phantom.truth.len() - shown,
            )),
            count => Err(format!("{count} findings are invented")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::{Code, Region, Source};

    fn truth() -> Truth {
        let spec = Spec { rows: 128, columns: 128, disks: 3, ..Spec::new(Kind::Ct { slices: 3 }, 5) };
        Truth { phantom: generate(&spec).unwrap(), row_mm: spec.row_mm, column_mm: spec.column_mm }
    }

    fn answer(truth: &Truth) -> Vec<Finding> {
        let disks = truth.phantom.truth.iter();
        disks
            .map(|disk| {
                let half = disk.diameter_mm / truth.row_mm / 2.0;
                let (column, row) = disk.centre;
                Finding {
                    tracking_id: "t".into(),
                    label: "disk".into(),
                    category: Code::new("1", "SCT", "a"),
                    finding: Code::new("1", "SCT", "a"),
                    site: None,
                    laterality: None,
                    score: disk.score,
                    tier: disk.tier,
                    measurements: Vec::new(),
                    source: Source {
                        instance: truth.phantom.files[disk.file].instance.clone(),
                        frame: 1,
                        region: Some(Region {
                            left: column - half,
                            right: column + half,
                            top: row - half,
                            bottom: row + half,
                        }),
                    },
                }
            })
            .collect()
    }

    #[test]
    fn only_the_truth_is_the_truth() {
        let truth = truth();
        let right = answer(&truth);
        assert!(truth.check(&right).unwrap().starts_with("exact: 3 of 3"));
        assert!(truth.check(&right[1..]).unwrap_err().contains("was not found"));
        let doubled: Vec<_> = right.iter().chain(&right[..1]).cloned().collect();
        assert!(truth.check(&doubled).unwrap_err().contains("invented"));
        let mut off = right.clone();
        if let Some(region) = &mut off[0].source.region {
            region.left += 1.5;
            region.right += 1.5;
        }
        assert!(truth.check(&off).is_err());
        let mut tier = right;
        tier[0].tier = Tier::Flagged;
        assert!(truth.check(&tier).unwrap_err().contains("instead of reported"));
    }
}
