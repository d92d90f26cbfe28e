//! Writing what a machine can know into a bundle's folder: sizes, digests, golden outputs. The
//! manifest's text stays as it is otherwise, comments included.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use lightbox_models::manifest::{MANIFEST_NAME, Role};
use lightbox_models::plain;
use toml::de::DeTable;

use super::{below, golden, hash, read_text, read_whole, rough};
use crate::infer::engine::{Engine as _, RunLimits};
use crate::infer::onnx::OnnxEngine;

/// Writes each file's size and SHA-256 as it is now; the SBOM's digest of a network follows it.
/// With an engine, the golden cases' outputs are made anew first.
pub fn refresh(folder: &Path, engine: Option<&mut OnnxEngine>) -> anyhow::Result<Vec<String>> {
    let mut done = Vec::new();
    if let Some(engine) = engine {
        let (_, manifest) = rough(folder)?;
        let network = manifest.file_of(Role::Network).ok_or_else(|| {
            anyhow!(
                "{}: file: none has the role \"network\"; remedy: list the ONNX file",
                folder.join(MANIFEST_NAME).display()
            )
        })?;
        let path = below(folder, &network.path)?;
        let bytes = read_whole(&path)?;
        let mut model = engine
            .load(&bytes, RunLimits::of(&manifest.resources))
            .with_context(|| format!("{}", path.display()))?;
        for case in &manifest.golden {
            let (input, into) = (below(folder, &case.input)?, below(folder, &case.expected)?);
            let expected = golden::run(model.as_mut(), &manifest, &input, case.frame)?;
            write(&into, &golden::text(&expected)?)?;
            done.push(format!("{}: outputs of golden case {:?} written", case.expected, case.name));
        }
    }
    let path = folder.join(MANIFEST_NAME);
    let text = read_text(&path)?;
    // The networks first: the SBOM names their digests, so that its own changes with them.
    let mut entries = entries(&path, &text)?;
    entries.sort_by_key(|entry| entry.role == "sbom");
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    let mut renamed: Vec<(String, String)> = Vec::new();
    for entry in &entries {
        let file = below(folder, &entry.path)?;
        if entry.role == "sbom" && !renamed.is_empty() {
            let sbom = read_text(&file)?;
            let changed = renamed.iter().fold(sbom.clone(), |text, (old, new)| text.replace(old, new));
            if changed != sbom {
                write(&file, &changed)?;
                done.push(format!("{}: names the network as it is now", entry.path));
            }
        }
        let (size, sha256) = hash(&file)?;
        if entry.role.starts_with("network") && entry.listed.1 != sha256 && entry.listed.1.len() == 64 {
            renamed.push((entry.listed.1.clone(), sha256.clone()));
        }
        if entry.listed != (size.to_string(), sha256.clone()) {
            edits.push((entry.size.clone(), size.to_string()));
            edits.push((entry.sha256.clone(), format!("\"{sha256}\"")));
            done.push(format!("{}: {size} bytes, SHA-256 {sha256}", entry.path));
        }
    }
    edits.sort_by_key(|(span, _)| std::cmp::Reverse(span.start));
    let mut changed = text.clone();
    for (span, value) in edits {
        changed.replace_range(span, &value);
    }
    if changed != text {
        write(&path, &changed)?;
    }
    Ok(done)
}

pub(super) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    plain::write(path, text.as_bytes()).with_context(|| {
        format!(
            "{}: cannot be written; remedy: it must be a plain file that this user may write",
            path.display()
        )
    })
}

struct Entry {
    path: String,
    role: String,
    listed: (String, String),
    size: Range<usize>,
    sha256: Range<usize>,
}

fn entries(path: &Path, text: &str) -> anyhow::Result<Vec<Entry>> {
    let table = DeTable::parse(text).map_err(|error| anyhow!("{}: {}", path.display(), error.message()))?;
    let files = table.get_ref().get("file").and_then(|files| files.get_ref().as_array());
    let mut found = Vec::new();
    for (at, file) in files.into_iter().flatten().enumerate() {
        let value = |key: &str| {
            let value = file.get_ref().as_table().and_then(|table| table.get(key));
            value.ok_or_else(|| {
                anyhow!(
                    "{}: file[{at}].{key}: missing; remedy: give path, role, size, sha256",
                    path.display()
                )
            })
        };
        let string =
            |key: &str| Ok::<_, anyhow::Error>(value(key)?.get_ref().as_str().unwrap_or_default().to_owned());
        let (size, sha256) = (value("size")?.span(), value("sha256")?.span());
        found.push(Entry {
            path: string("path")?,
            role: string("role")?,
            listed: (text.get(size.clone()).unwrap_or_default().to_owned(), string("sha256")?),
            size,
            sha256,
        });
    }
    Ok(found)
}
