//! Is a model's answer on a phantom the truth? The demo and the health gate ask.

use super::{Phantom, Spec};
use crate::finding::{Finding, Tier};

/// A phantom's truth, with the size of its pixels.
#[derive(Debug)]
pub struct Truth {
    phantom: Phantom,
    row_mm: f64,
    column_mm: f64,
}

impl Truth {
    /// The truth of a phantom that was made by this specification.
    pub fn new(phantom: Phantom, spec: &Spec) -> Self {
        Truth { phantom, row_mm: spec.row_mm, column_mm: spec.column_mm }
    }

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
    use crate::phantom::{Kind, generate};

    fn truth() -> Truth {
        let spec = Spec { rows: 128, columns: 128, disks: 3, ..Spec::new(Kind::Ct { slices: 3 }, 5) };
        Truth::new(generate(&spec).unwrap(), &spec)
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
