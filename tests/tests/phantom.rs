//! Phantoms: the answers in the delivered SR are exact, for every kind and many seeds.

use lightbox_tests::samples::{Phantom, phantom, sop_uid};
use lightbox_tests::{Line, judges};
use serde_json::Value;

/// One disk, as the truth or the report has it.
#[derive(Clone, Debug)]
struct Disk {
    column: f64,
    row: f64,
    size_mm: f64,
    source: String,
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"))
}

/// The disks of a truth that are in one of the tiers.
fn truth(phantom: &Phantom, tiers: &[&str]) -> Vec<Disk> {
    let disks = phantom.truth["disks"].as_array().unwrap_or_else(|| panic!("no disks: {}", phantom.truth));
    disks
        .iter()
        .filter(|disk| tiers.contains(&disk["tier"].as_str().expect("a tier")))
        .map(|disk| Disk {
            column: number(&disk["column"]),
            row: number(&disk["row"]),
            size_mm: number(&disk["diameter_mm"]),
            source: disk["sop_instance_uid"].as_str().expect("a UID").to_owned(),
        })
        .collect()
}

/// The disks of a report.
fn reported(read: &Value) -> Vec<Disk> {
    let groups = read["planar"].as_array().expect("groups");
    groups
        .iter()
        .map(|group| {
            let points: Vec<f64> = group["points"].as_array().expect("points").iter().map(number).collect();
            let middle = |axis: usize| {
                let along = || points.iter().skip(axis).step_by(2).copied();
                (along().fold(f64::INFINITY, f64::min) + along().fold(f64::NEG_INFINITY, f64::max)) / 2.0
            };
            let sizes = group["measurements"].as_array().expect("measurements");
            let long = sizes.iter().find(|one| one["name"]["value"] == "103339001").expect("a long axis");
            assert_eq!(long["unit"]["value"], "mm");
            Disk {
                column: middle(0),
                row: middle(1),
                size_mm: number(&long["value"]),
                source: group["source"].as_str().expect("a UID").to_owned(),
            }
        })
        .collect()
}

#[test]
fn every_disk_is_found_where_it_is_and_none_is_invented() {
    let line = Line::start_with(|_, site| Line::usual_rules(site));
    for (kind, seed) in [("dx", 1), ("ct", 2), ("dx", 3), ("ct", 4), ("dx", 5)] {
        let phantom = phantom(&line.hospital, kind, seed);
        let before = line.pacs.files();
        line.send_and_wait(&phantom.files);
        let new: Vec<_> = line.pacs.files().into_iter().filter(|file| !before.contains(file)).collect();
        let [report] = new.as_slice() else { panic!("{kind} {seed}: {} reports", new.len()) };
        judges::accept_sr(report);
        let read = judges::groups(report);
        assert_eq!(read["completion"], "COMPLETE", "{kind} {seed}: {read}");

        let (expected, mut found) = (truth(&phantom, &["reported", "flagged"]), reported(&read));
        assert!(!expected.is_empty());
        assert_eq!(found.len(), expected.len(), "{kind} {seed}: expected {expected:?}\nfound {found:?}");
        let spacing = number(&phantom.truth["row_mm"]);
        for disk in &expected {
            let near = |one: &Disk| {
                one.source == disk.source
                    && (one.column - disk.column).abs() <= 1.0
                    && (one.row - disk.row).abs() <= 1.0
                    && (one.size_mm - disk.size_mm).abs() <= spacing
            };
            let at = found.iter().position(near);
            let at = at.unwrap_or_else(|| panic!("{kind} {seed}: {disk:?} is not among {found:?}"));
            found.remove(at);
        }
        // What is below the threshold leaves no trace in the report, and is kept in the ledger.
        let suppressed = truth(&phantom, &["suppressed"]).len();
        assert!(suppressed > 0, "a phantom without a suppressed disk proves nothing here");
        let outcome =
            line.daemon.ledger().texts("SELECT outcome FROM jobs ORDER BY id DESC LIMIT 1").remove(0);
        let outcome: Value = serde_json::from_str(&outcome).expect("JSON");
        let kept = outcome["findings"].as_array().expect("findings");
        let kept = kept.iter().filter(|finding| finding["tier"] == "suppressed").count();
        assert_eq!(kept, suppressed, "{kind} {seed}: {outcome}");
    }
}

#[test]
fn a_phantom_without_disks_gets_a_report_that_says_so() {
    let line = Line::start_with(|_, site| Line::usual_rules(site));
    let folder = line.hospital.sub_folder("empty");
    let out = folder.to_str().expect("a plain path");
    lightbox_tests::command::run_lightbox(&[
        "phantom", "--out", out, "--seed", "7", "--kind", "dx", "--disks", "0",
    ])
    .ok("lightbox phantom");
    let files = lightbox_tests::samples::files_below(&folder, "dcm");
    line.send_and_wait(&files);
    let reports = line.pacs.files();
    let [report] = reports.as_slice() else { panic!("{} reports", reports.len()) };
    judges::accept_sr(report);
    let read = judges::groups(report);
    assert_eq!(read["planar"], serde_json::json!([]), "{read}");
    assert_eq!(read["completion"], "COMPLETE");
    let dump = lightbox_tests::command::run(
        std::process::Command::new(lightbox_tests::command::program("dsrdump")).arg(report),
    )
    .ok("dsrdump");
    assert!(dump.out.contains("Lightbox Phantom Detector"), "the model is not named:\n{}", dump.out);
    let message = line.ris.texts().remove(0);
    assert!(message.contains("Lightbox Phantom Detector"), "{message}");
}

#[test]
fn equal_seeds_make_equal_phantoms() {
    let line = lightbox_tests::Hospital::new();
    let other = lightbox_tests::Hospital::new();
    let (one, two) = (phantom(&line, "dx", 11), phantom(&other, "dx", 11));
    let bytes = |phantom: &Phantom| {
        phantom.files.iter().map(|file| std::fs::read(file).expect("read")).collect::<Vec<_>>()
    };
    assert_eq!(bytes(&one), bytes(&two));
    assert_ne!(sop_uid(&one.files[0]), sop_uid(&phantom(&other, "dx", 12).files[0]));
}
