//! All problems at once, for whoever writes a manifest or a plan.

use std::fs;
use std::path::{Path, PathBuf};

use lightbox_models::plan::Plan;
use lightbox_models::{Bundle, Manifest, Problem};

fn detector() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/phantom-detector/bundle")
}

fn told(problems: &[Problem]) -> Vec<(usize, &str)> {
    problems.iter().map(|problem| (problem.line.unwrap_or(0), problem.key.as_str())).collect()
}

#[test]
fn every_problem_of_a_manifest_has_its_line_and_key() {
    let path = detector().join("manifest.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(Manifest::problems(&path, &text), []);
    // Of a kind each: undecided, of a wrong type, unknown, and in rooms that the types say nothing of.
    let flawed = text
        .replace("vendor = \"Lightbox project\"", "vendor = \"DECIDE: who\"")
        .replace("memory_mib = 256", "memory_mib = \"much\"")
        .replace("reported_min = 0.7", "reported_min = \"DECIDE: a score\"")
        .replace("[device]", "[divice]");
    let problems = Manifest::problems(&path, &flawed);
    let line = |wanted: &str| flawed.lines().position(|line| line.starts_with(wanted)).unwrap() + 1;
    assert_eq!(
        told(&problems),
        [
            (line("vendor ="), "model.vendor"),
            (line("[divice]"), "divice"),
            (line("memory_mib ="), "resources"),
            (line("reported_min ="), "label[0].reported_min"),
            (0, "device"),
        ]
    );
    assert!(problems.iter().all(|problem| !problem.remedy.is_empty()));

    let rooms = text
        .replace("channels = 1", "channels = 2")
        .replace("09521234543213", "09521234543214")
        .replace("runtime_seconds = 60", "runtime_seconds = 0");
    let keys: Vec<String> =
        Manifest::problems(&path, &rooms).into_iter().map(|problem| problem.key).collect();
    assert_eq!(keys, ["device.udi_di[0]", "resources.runtime_seconds", "input.channels"]);
}

#[test]
fn what_nobody_has_decided_no_box_takes() {
    let path = Path::new("manifest.toml");
    let text = fs::read_to_string(detector().join("manifest.toml")).unwrap();
    let text = text.replace("looked_for = \"bright disks\"", "looked_for = \"DECIDE: what\"");
    let refused = Manifest::read(path, &text).unwrap_err();
    assert!(refused.key == "model.looked_for" && refused.problem.contains("nobody has decided"), "{refused}");
    let plan = ["INTENDED_USE", "IO_SCHEMA", "ACCEPTANCE_SET", "BASELINE"]
        .iter()
        .fold(include_str!("plan/sound.toml").to_owned(), |text, word| text.replace(word, &"ab".repeat(32)));
    assert_eq!(Plan::problems(path, &plan), []);
    let undecided =
        plan.replace("reference = \"IA-7\"", "reference = \"DECIDE: where\"").replace("keep = 2", "keep = 0");
    assert!(Plan::read(path, &undecided).is_err());
    let keys: Vec<String> = Plan::problems(path, &undecided).into_iter().map(|problem| problem.key).collect();
    assert_eq!(keys, ["impact.reference", "rollback.keep"]);
}

#[test]
fn every_problem_of_a_folder_is_told() {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(detector()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    assert!(Bundle::problems(folder.path()).is_empty());
    fs::write(folder.path().join("more.txt"), "x").unwrap();
    fs::write(folder.path().join("card.md"), "x").unwrap();
    fs::remove_file(folder.path().join("LICENSE")).unwrap();
    let clauses: Vec<&str> = Bundle::problems(folder.path()).iter().map(|problem| problem.clause()).collect();
    assert_eq!(clauses, ["bundle-unlisted", "bundle-size", "bundle-missing"]);
    fs::remove_file(folder.path().join("manifest.toml")).unwrap();
    assert_eq!(Bundle::problems(folder.path())[0].clause(), "bundle-missing");
}
