//! Is a model's answer on a phantom the truth? The demo and the health gate ask.

use super::{Phantom, Spec};
use crate::finding::{Finding, Tier};

/// How far a size may be off, in pixels. A pixel belongs to a disk if its centre does, so the pixels across may be one
/// fewer or more than the diameter; and the row that is nearest to the disk's centre lies up to half a pixel off it, where
/// a disk of ten pixels, the smallest there is, is narrower by a twentieth.
const SIZE_OFF: f64 = 1.1;

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
    /// within a pixel, size as pixels can show it ([`SIZE_OFF`]), and nothing invented. Yields a sentence.
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
            if width_off > SIZE_OFF * self.column_mm || height_off > SIZE_OFF * self.row_mm {
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
    use crate::phantom::{Kind, TruthDisk, generate};

    fn truth() -> Truth {
        let spec = Spec { rows: 128, columns: 128, disks: 3, ..Spec::new(Kind::Ct { slices: 3 }, 5) };
        Truth::new(generate(&spec).unwrap(), &spec)
    }

    fn answer(truth: &Truth) -> Vec<Finding> {
        answer_with(truth, |disk| {
            let half = disk.diameter_mm / truth.row_mm / 2.0;
            let (column, row) = disk.centre;
            Region { left: column - half, right: column + half, top: row - half, bottom: row + half }
        })
    }

    fn answer_with(truth: &Truth, region: impl Fn(&TruthDisk) -> Region) -> Vec<Finding> {
        let disks = truth.phantom.truth.iter();
        disks
            .map(|disk| Finding {
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
                    region: Some(region(disk)),
                },
            })
            .collect()
    }

    /// The box around the pixels whose centres lie in a disk.
    fn drawn(disk: &TruthDisk, spacing_mm: f64) -> Region {
        let (column, row) = disk.centre;
        let radius = disk.diameter_mm / spacing_mm / 2.0;
        let reach = radius as i32 + 2;
        let mut found = Region { left: f64::MAX, right: 0.0, top: f64::MAX, bottom: 0.0 };
        for (across, down) in
            (-reach..=reach).flat_map(|down| (-reach..=reach).map(move |across| (across, down)))
        {
            let (left, top) = (column.floor() + f64::from(across), row.floor() + f64::from(down));
            if (left + 0.5 - column).hypot(top + 0.5 - row) <= radius {
                found.left = found.left.min(left);
                found.right = found.right.max(left + 1.0);
                found.top = found.top.min(top);
                found.bottom = found.bottom.max(top + 1.0);
            }
        }
        found
    }

    #[test]
    fn a_disk_that_falls_worst_between_the_pixels_is_the_truth_too() {
        let mut truth = truth();
        let spacing = truth.row_mm;
        // Ten pixels and a little across, of which nine are seen: one disk in two thousand is drawn so.
        let disk = &mut truth.phantom.truth[0];
        (disk.centre, disk.diameter_mm) = ((65.49995, 64.0), 10.01 * spacing);
        let region = drawn(&truth.phantom.truth[0], spacing);
        assert_eq!(region.width(), 9.0);
        let found = answer_with(&truth, |disk| drawn(disk, spacing));
        truth.check(&found).expect("as true as pixels can be");
        let mut smaller = found;
        if let Some(region) = &mut smaller[0].source.region {
            region.left += 1.0;
        }
        assert!(truth.check(&smaller).unwrap_err().contains("another size"));
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
