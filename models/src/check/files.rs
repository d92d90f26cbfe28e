//! Files, golden cases and resources.

use std::collections::BTreeSet;

use super::{Fault, fault, short_text};
use crate::manifest::{Golden, MANIFEST_NAME, Manifest, Role, is_inside, is_sha256};

/// Most files of a bundle.
const FILES_MAX: usize = 1000;
/// Largest file: what the engine reads into memory, and below what a tar header can say.
const FILE_BYTES_MAX: u64 = 4 << 30;
/// Largest bundle.
const BUNDLE_BYTES_MAX: u64 = 16 << 30;
/// Largest golden case: an image that the box's own way must take.
const CASE_BYTES_MAX: u64 = 64 << 20;
/// Largest file that is parsed whole: the SBOM, and the outputs of a golden case.
const PARSED_BYTES_MAX: u64 = 8 << 20;

pub(super) fn files(manifest: &Manifest) -> Result<(), Fault> {
    if manifest.file.len() > FILES_MAX {
        return fault("file", "more than 1000 files", "put documents into one file");
    }
    let mut seen = BTreeSet::new();
    for (at, file) in manifest.file.iter().enumerate() {
        let key = format!("file[{at}].path");
        if !is_inside(&file.path) || file.path.eq_ignore_ascii_case(MANIFEST_NAME) {
            return fault(
                &key,
                "not a path below the bundle's folder",
                "use a relative path of at most 100 letters, digits, dots, hyphens and underscores, without `..`",
            );
        }
        if !seen.insert(file.path.to_ascii_lowercase()) {
            return fault(&key, "listed twice", "list each file once");
        }
        if !is_sha256(&file.sha256) {
            return fault(
                &format!("file[{at}].sha256"),
                "not a SHA-256",
                "write the 64 lower-case hex digits that `sha256sum` prints",
            );
        }
        let max = match file.role {
            Role::Sbom | Role::GoldenExpected => PARSED_BYTES_MAX,
            Role::GoldenCase => CASE_BYTES_MAX,
            _ => FILE_BYTES_MAX,
        };
        if file.size == 0 || file.size > max {
            return fault(
                &format!("file[{at}].size"),
                format!("{} bytes, where 1 to {max} are possible for a file of this role", file.size),
                "write the number of bytes that `stat -c %s` prints; split or quantise what is larger",
            );
        }
    }
    // A file cannot stand where another one needs a folder.
    for (at, file) in manifest.file.iter().enumerate() {
        let lower = file.path.to_ascii_lowercase();
        let parent = lower.match_indices('/').find(|(end, _)| seen.contains(&lower[..*end]));
        if parent.is_some() {
            return fault(
                &format!("file[{at}].path"),
                "lies below another listed file",
                "a name is a file or a folder: rename one",
            );
        }
    }
    if manifest.bytes() > BUNDLE_BYTES_MAX {
        return fault("file", "above 16 GiB together", "split the bundle");
    }
    Ok(())
}

pub(super) fn roles(manifest: &Manifest) -> Result<(), Fault> {
    let count = |role| manifest.file.iter().filter(|file| file.role == role).count();
    if count(Role::Sbom) == 0 {
        return fault(
            "file",
            "no SBOM: no file has the role \"sbom\"",
            "make a CycloneDX JSON with the model and what it was made with, and list it with role \"sbom\"",
        );
    }
    for (role, remedy) in [
        (Role::Network, "give exactly one file the role \"network\": the ONNX network in 32-bit floats"),
        (Role::Card, "give exactly one file the role \"card\": the model card for people"),
        (Role::Sbom, "give exactly one file the role \"sbom\": CycloneDX JSON"),
        (Role::Licence, "give exactly one file the role \"licence\": under which terms the model is used"),
    ] {
        let count = count(role);
        if count != 1 {
            return fault("file", format!("{count} files have the role \"{}\"", role.name()), remedy);
        }
    }
    if count(Role::NetworkFp16) > 1 {
        return fault(
            "file",
            "more than one file has the role \"network_fp16\"",
            "give it to at most one file: the same network in 16-bit floats",
        );
    }
    Ok(())
}

pub(super) fn golden(manifest: &Manifest) -> Result<(), Fault> {
    if manifest.golden.is_empty() {
        return fault("golden", "no golden case", "add a [[golden]] with an input whose outputs are known");
    }
    let mut names = BTreeSet::new();
    for (at, case) in manifest.golden.iter().enumerate() {
        let key = format!("golden[{at}]");
        short_text(&format!("{key}.name"), &case.name)?;
        if !names.insert(&case.name) {
            return fault(&format!("{key}.name"), "stands twice", "give each golden case its own name");
        }
        golden_case(&key, case, manifest)?;
    }
    for (at, file) in manifest.file.iter().enumerate() {
        let used = match file.role {
            Role::GoldenCase => manifest.golden.iter().any(|case| case.input == file.path),
            Role::GoldenExpected => manifest.golden.iter().any(|case| case.expected == file.path),
            _ => true,
        };
        if !used {
            return fault(
                &format!("file[{at}].role"),
                "no [[golden]] names this file",
                "add the golden case that it belongs to, or remove the file",
            );
        }
    }
    Ok(())
}

fn golden_case(key: &str, case: &Golden, manifest: &Manifest) -> Result<(), Fault> {
    for (name, path, role) in
        [("input", &case.input, Role::GoldenCase), ("expected", &case.expected, Role::GoldenExpected)]
    {
        if manifest.file_at(path).is_none_or(|file| file.role != role) {
            return fault(
                &format!("{key}.{name}"),
                format!("no file of role \"{}\" has this path", role.name()),
                "list the file as a [[file]] with that role",
            );
        }
    }
    if case.frame == 0 {
        return fault(&format!("{key}.frame"), "not a frame", "count frames from 1");
    }
    let mut wanted: BTreeSet<&str> = manifest.output_tensors().into_iter().collect();
    for (at, tolerance) in case.tolerance.iter().enumerate() {
        let key = format!("{key}.tolerance[{at}]");
        if !wanted.remove(tolerance.tensor.as_str()) {
            return fault(
                &format!("{key}.tensor"),
                "not an output tensor of this manifest, or named twice",
                "name each tensor of the output table once",
            );
        }
        let fits = |value: f64| value.is_finite() && value >= 0.0;
        if !fits(tolerance.absolute) || !fits(tolerance.relative) {
            return fault(&key, "not a tolerance", "use finite numbers from 0");
        }
    }
    if let Some(missing) = wanted.first() {
        return fault(
            &format!("{key}.tolerance"),
            format!("none for the output tensor {missing:?}"),
            "say for each output tensor how far its values may be off",
        );
    }
    Ok(())
}

pub(super) fn resources(manifest: &Manifest) -> Result<(), Fault> {
    let resources = manifest.resources;
    if !(1..=1 << 20).contains(&resources.memory_mib) {
        return fault("resources.memory_mib", "not an amount of memory", "use 1 to 1048576 MiB");
    }
    if !(resources.runtime_seconds > 0.0 && resources.runtime_seconds <= 3600.0) {
        return fault("resources.runtime_seconds", "not a time", "use seconds above 0, to 3600");
    }
    Ok(())
}
