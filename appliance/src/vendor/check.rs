//! Everything that is wrong with a bundle's folder, at once.

use std::path::Path;

use lightbox_models::draft::UNDECIDED;
use lightbox_models::manifest::{Layout, MANIFEST_NAME, Manifest, Resize, Role};
use lightbox_models::pack::Progress;
use lightbox_models::{Bundle, BundleError};

use super::{golden, rough};
use crate::infer::engine::{Engine as _, RunLimits};
use crate::infer::onnx::{OnnxEngine, Outlets};

/// The problems of a folder, each with file, line and key where there are such, and remedy. With an
/// engine, the network is compared with the manifest, and the golden cases are run. `shown` hears how far the hashing is.
pub fn folder(
    folder: &Path,
    engine: Option<&mut OnnxEngine>,
    shown: &mut dyn FnMut(Progress),
) -> Vec<String> {
    let mut found: Vec<String> = Bundle::problems_shown(folder, shown).iter().map(told).collect();
    for path in texts(folder) {
        // What leads out of the folder is told by the bundle's own check.
        if let Ok(path) = super::below(folder, &path) {
            undecided(&path, &mut found);
        }
    }
    let Ok((_, manifest)) = rough(folder) else { return found };
    if let Some(engine) = engine {
        network(folder, &manifest, engine, &mut found);
    }
    found
}

fn told(problem: &BundleError) -> String {
    match problem {
        BundleError::Size { .. } | BundleError::Digest { .. } => {
            format!("{problem} (`lightbox bundle refresh` writes sizes and digests as they are)")
        }
        other => other.to_string(),
    }
}

/// Card, SBOM and licence, as far as the manifest can be read.
fn texts(folder: &Path) -> Vec<String> {
    let text = super::read_text(&folder.join(MANIFEST_NAME)).unwrap_or_default();
    let table: toml::Table = text.parse().unwrap_or_default();
    let files = table.get("file").and_then(toml::Value::as_array).into_iter().flatten();
    files
        .filter_map(|file| {
            let role = file.get("role")?.as_str()?;
            let told = [Role::Card, Role::Sbom, Role::Licence].iter().any(|known| known.name() == role);
            if told { file.get("path")?.as_str().map(str::to_owned) } else { None }
        })
        .collect()
}

fn undecided(path: &Path, found: &mut Vec<String>) {
    // What cannot be read is told by the bundle's own check.
    let Ok(text) = super::read_text(path) else { return };
    for (at, line) in text.lines().enumerate().filter(|(_, line)| line.contains(UNDECIDED)) {
        let (path, line) = (path.display(), line.trim());
        found.push(format!("{path}:{}: nobody has decided this: {line}; remedy: write it out", at + 1));
    }
}

fn network(folder: &Path, manifest: &Manifest, engine: &mut OnnxEngine, found: &mut Vec<String>) {
    let path = folder.join(MANIFEST_NAME);
    for role in [Role::Network, Role::NetworkFp16] {
        let Some(file) = manifest.file_of(role) else { continue };
        let Ok(bytes) = super::below(folder, &file.path).and_then(|path| super::read_whole(&path)) else {
            continue;
        };
        match engine.outlets(&bytes) {
            Ok(outlets) => {
                let told = compare(manifest, &outlets, role).into_iter();
                found.extend(told.map(|problem| format!("{}: {problem}", path.display())));
            }
            Err(error) => found.push(format!("{}: {error}", folder.join(&file.path).display())),
        }
        if role == Role::Network {
            cases(folder, manifest, engine, &bytes, found);
        }
    }
}

/// What the manifest says of the network, and the network does not.
fn compare(manifest: &Manifest, outlets: &Outlets, role: Role) -> Vec<String> {
    let mut found = Vec::new();
    let names =
        |all: &[crate::infer::onnx::Outlet]| all.iter().map(|outlet| outlet.name.clone()).collect::<Vec<_>>();
    let input = &manifest.input;
    match outlets.inputs.as_slice() {
        [one] if one.name == input.tensor => {
            if !one.is_f32 {
                found.push(format!("input.tensor: the {}'s input is not of 32-bit floats; remedy: export it with 32-bit inputs", role.name()));
            }
            let (height, width) = match input.resize {
                Resize::Stretch { width, height } | Resize::Fit { width, height } => (i64::from(height), i64::from(width)),
                _ => (-1, -1),
            };
            let channels = i64::from(input.channels);
            let asked = match input.layout {
                Layout::Nchw => [1, channels, height, width],
                Layout::Nhwc => [1, height, width, channels],
            };
            let fits = one.shape.is_empty()
                || one.shape.len() == 4 && one.shape.iter().zip(asked).all(|(has, gets)| *has < 0 || *has == gets);
            if !fits {
                found.push(format!("input: the {} takes {:?}, the manifest makes {asked:?} (-1: any); remedy: mend layout, channels or resize", role.name(), one.shape));
            }
        }
        _ => found.push(format!("input.tensor: {:?} is not the {}'s one input; it has {:?}; remedy: name it, and export a network with one input", input.tensor, role.name(), names(&outlets.inputs))),
    }
    for name in manifest.output_tensors() {
        if !outlets.outputs.iter().any(|output| output.name == name) {
            found.push(format!(
                "output: the {} has no output {name:?}, only {:?}; remedy: name one of these",
                role.name(),
                names(&outlets.outputs)
            ));
        }
    }
    found
}

fn cases(
    folder: &Path,
    manifest: &Manifest,
    engine: &mut OnnxEngine,
    network: &[u8],
    found: &mut Vec<String>,
) {
    // That it cannot be loaded is told already.
    let Ok(mut model) = engine.load(network, RunLimits::of(&manifest.resources)) else { return };
    for (at, case) in manifest.golden.iter().enumerate() {
        let key = format!("{}: golden[{at}]", folder.join(MANIFEST_NAME).display());
        let input = super::below(folder, &case.input);
        let run = match input.and_then(|input| golden::run(model.as_mut(), manifest, &input, case.frame)) {
            Ok(run) => run,
            Err(error) => {
                found.push(format!("{key}: {error:#}"));
                continue;
            }
        };
        let expected = super::below(folder, &case.expected).and_then(|path| super::read_text(&path));
        let expected = expected.map(String::into_bytes).map_err(|error| error.to_string());
        let deviations = match expected.and_then(|bytes| lightbox_models::golden::Expected::read(&bytes)) {
            Ok(expected) if expected.outputs.is_empty() => vec!["no outputs are written yet".to_owned()],
            Ok(expected) => expected.compare(case, &run.outputs).iter().map(ToString::to_string).collect(),
            // Told by the bundle's own check.
            Err(_) => Vec::new(),
        };
        for deviation in deviations {
            found.push(format!("{key}: the run here deviates: {deviation}; remedy: find out why; where the outputs are to be made anew, `lightbox bundle refresh --golden`"));
        }
    }
}
