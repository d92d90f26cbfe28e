//! Later versions of the phantom detector: one inside the demonstration's plan, one outside.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use lightbox_models::Bundle;

use crate::infer::onnx::OnnxEngine;
use crate::vendor::refresh::refresh;

/// What a score is the intensity divided by, in version 1 and in version 2 (little-endian floats).
const SCALE: f32 = 1000.0;
const SCALE_V2: f32 = 990.0;

/// Version 2: a weight is changed, so that every score is a hundredth higher; the reported threshold
/// goes from 0.7 to 0.71; release 2. Its golden outputs are those of the changed network. The
/// demonstration's plan allows both changes.
pub fn retrained(v1: &Path, into: &Path, engine: &mut OnnxEngine) -> anyhow::Result<Bundle> {
    let bundle = copy(v1, into)?;
    let network =
        bundle.manifest().file_of(lightbox_models::manifest::Role::Network).context("no network")?;
    let path = into.join(&network.path);
    let mut bytes = bundle.read_network()?;
    let old = SCALE.to_le_bytes();
    let places: Vec<usize> =
        bytes.windows(4).enumerate().filter(|(_, window)| *window == old).map(|(at, _)| at).collect();
    let [at] = places[..] else {
        bail!(
            "{}: has {} weights of {SCALE}, one is expected; remedy: give the phantom detector",
            path.display(),
            places.len()
        );
    };
    bytes[at..at + 4].copy_from_slice(&SCALE_V2.to_le_bytes());
    fs::write(&path, bytes).with_context(|| format!("{}: cannot be written", path.display()))?;
    edit(
        into,
        "card.md",
        &[("1.0.0", "2.0.0"), ("/ 1000,", "/ 990,"), ("from 0.7 reported", "from 0.71 reported")],
    )?;
    edit(
        into,
        "manifest.toml",
        &[
            ("version = \"1.0.0\"", "version = \"2.0.0\""),
            ("release = 1\n", "release = 2\n"),
            ("reported_min = 0.7\n", "reported_min = 0.71\n"),
        ],
    )?;
    refresh(into, Some(engine))?;
    Ok(Bundle::open(into)?)
}

/// Version 3: a label is added, which no plan covers; release 3.
pub fn label_added(v1: &Path, into: &Path, engine: &mut OnnxEngine) -> anyhow::Result<Bundle> {
    copy(v1, into)?;
    edit(
        into,
        "manifest.toml",
        &[("version = \"1.0.0\"", "version = \"3.0.0\""), ("release = 1\n", "release = 3\n")],
    )?;
    let path = into.join("manifest.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let label = "\n[[label]]\nindex = 1\nname = \"ring\"\n\
                 finding = { value = \"BRIGHTRING\", scheme = \"99LIGHTBOX\", meaning = \"Bright ring\" }\n\
                 category = { value = \"49755003\", scheme = \"SCT\", meaning = \"Morphologically abnormal structure\" }\n\
                 reported_min = 0.7\nflagged_min = 0.4\n";
    fs::write(&path, text + label).with_context(|| format!("{}: cannot be written", path.display()))?;
    refresh(into, Some(engine))?;
    Ok(Bundle::open(into)?)
}

fn copy(from: &Path, into: &Path) -> anyhow::Result<Bundle> {
    let bundle = Bundle::open(from)?;
    fs::create_dir(into).with_context(|| format!("{}: cannot be made", into.display()))?;
    let files = bundle.manifest().file.iter().map(|file| file.path.as_str());
    for name in files.chain(["manifest.toml"]) {
        let path = into.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("{}: cannot be made", parent.display()))?;
        }
        fs::copy(from.join(name), &path).with_context(|| format!("{}: cannot be written", path.display()))?;
    }
    Ok(Bundle::open(into)?)
}

fn edit(folder: &Path, name: &str, edits: &[(&str, &str)]) -> anyhow::Result<()> {
    let path = folder.join(name);
    let mut text =
        fs::read_to_string(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
    for (from, to) in edits {
        if text.matches(from).count() != 1 {
            bail!(
                "{}: {from:?} is not there once; remedy: give version 1 of the phantom detector",
                path.display()
            );
        }
        text = text.replace(from, to);
    }
    fs::write(&path, text).with_context(|| format!("{}: cannot be written", path.display()))
}
