//! A new bundle's folder: what the network and the files say by themselves is written, the rest is
//! marked for the vendor to decide, or taken from the vendor's file of decisions.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use lightbox_models::manifest::{MANIFEST_NAME, Role};
use serde_json::json;
use toml::{Table, Value};

use super::refresh::{refresh, write};
use super::{hash, read_whole, rough};
use crate::infer::onnx::{OnnxEngine, Outlet, Outlets};

mod texts;

/// What a new bundle is made of.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The folder; made if it is missing. What lies in it comes into the bundle.
    pub folder: PathBuf,
    /// The network in 32-bit floats.
    pub onnx: PathBuf,
    /// The same in 16-bit floats.
    pub onnx_fp16: Option<PathBuf>,
    /// DICOM files for golden cases, beside those in the folder.
    pub golden: Vec<PathBuf>,
    /// The vendor's decisions: the manifest's keys, kept from release to release.
    pub decisions: Option<PathBuf>,
}

/// Makes the folder; the lines say what was done and what is left to do.
pub fn new(parts: &Parts, engine: Option<&mut OnnxEngine>, made: &str) -> anyhow::Result<Vec<String>> {
    let folder = &parts.folder;
    let manifest = folder.join(MANIFEST_NAME);
    if manifest.exists() {
        bail!(
            "{}: exists; remedy: `lightbox bundle refresh` brings its digests up to date",
            manifest.display()
        );
    }
    let decided = match &parts.decisions {
        Some(path) => decisions(path)?,
        None => Table::new(),
    };
    fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
    let onnx = take(folder, &parts.onnx)?;
    let fp16 = parts.onnx_fp16.as_deref().map(|path| take(folder, path)).transpose()?;
    for path in &parts.golden {
        take(folder, path)?;
    }
    let (_, sha256) = hash(&folder.join(&onnx))?;
    let mut done = Vec::new();
    let outlets = match &engine {
        Some(engine) => {
            let path = folder.join(&onnx);
            let bytes = read_whole(&path)?;
            let outlets = engine.outlets(&bytes).with_context(|| format!("{}", path.display()))?;
            done.push(format!(
                "{onnx}: inputs {}; outputs {}",
                listed(&outlets.inputs),
                listed(&outlets.outputs)
            ));
            Some(outlets)
        }
        None => {
            done.push("ONNX Runtime is not here: the network's inputs and outputs are left to you".into());
            None
        }
    };
    let name = fs::canonicalize(folder)?.file_name().map(|name| name.to_string_lossy().to_lowercase());
    let components = decided.get("component").cloned();
    let mut table = guess(name.as_deref().unwrap_or("model"), outlets.as_ref());
    merge(&mut table, decided);
    table.remove("component");
    let decided_name = |table: &Table, key: &str| {
        let value = table.get("model").and_then(|model| model.get(key)).and_then(Value::as_str);
        value.unwrap_or(texts::UNDECIDED_TEXT).to_owned()
    };
    let (id, version, vendor) =
        (decided_name(&table, "id"), decided_name(&table, "version"), decided_name(&table, "vendor"));

    provide(folder, "card.md", &texts::CARD.replace("MODEL", &decided_name(&table, "name")), &mut done)?;
    if !fs::read_dir(folder)?.flatten().any(|entry| is_licence(&entry.file_name().to_string_lossy())) {
        provide(folder, "LICENSE", texts::LICENCE, &mut done)?;
    }
    let sbom = sbom(&Named { id: &id, version: &version, vendor: &vendor }, &sha256, components, made)?;
    provide(folder, "sbom.json", &sbom, &mut done)?;
    files(folder, &onnx, fp16.as_deref(), &mut table)?;
    write(&manifest, &texts::manifest(&table))?;
    if let (Some(fp16), Ok(text)) = (&fp16, fs::read_to_string(folder.join("sbom.json")))
        && !text.contains(&hash(&folder.join(fp16))?.1)
    {
        done.push("sbom.json: add the 16-bit network's SHA-256 to the model's hashes".into());
    }
    // Without every number decided the network's outputs cannot be asked for yet.
    let engine = engine.filter(|_| rough(folder).is_ok());
    let ran = engine.is_some();
    match refresh(folder, engine) {
        Ok(lines) => done.extend(lines),
        Err(error) if ran => {
            done.push(format!("golden outputs are not written: {error:#}"));
            done.extend(refresh(folder, None)?);
        }
        Err(error) => return Err(error),
    }
    if !ran {
        done.push(
            "golden outputs are not written yet: `lightbox bundle refresh --golden`, once all is decided"
                .into(),
        );
    }
    Ok(done)
}

fn listed(outlets: &[Outlet]) -> String {
    let of = |outlet: &Outlet| format!("{} {:?}", outlet.name, outlet.shape);
    outlets.iter().map(of).collect::<Vec<_>>().join(", ")
}

fn decisions(path: &Path) -> anyhow::Result<Table> {
    let text = fs::read_to_string(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let table: Table =
        text.parse().map_err(|error: toml::de::Error| anyhow!("{}: {error}", path.display()))?;
    for key in table.keys() {
        if !texts::DECIDABLE.contains(&key.as_str()) {
            bail!(
                "{}: {key}: not for you to decide, or not a key of the manifest; remedy: give tables among {}",
                path.display(),
                texts::DECIDABLE.join(", ")
            );
        }
    }
    Ok(table)
}

/// Copies a file into the folder, unless it lies there; its name there.
fn take(folder: &Path, path: &Path) -> anyhow::Result<String> {
    let failed = || format!("{}: cannot be read; remedy: check the path", path.display());
    let name = path.file_name().and_then(|name| name.to_str()).with_context(failed)?.to_owned();
    let into = folder.join(&name);
    // A link of the vendor's own may be followed here; a pipe or a device has no end.
    if !fs::metadata(path).with_context(failed)?.is_file() {
        bail!("{}: not a file; remedy: give the file itself", path.display());
    }
    let same = into.exists() && fs::canonicalize(&into)? == fs::canonicalize(path).with_context(failed)?;
    if !same {
        if into.exists() {
            bail!("{}: exists already; remedy: remove it, or give that file", into.display());
        }
        fs::copy(path, &into).with_context(failed)?;
    }
    Ok(name)
}

fn provide(folder: &Path, name: &str, text: &str, done: &mut Vec<String>) -> anyhow::Result<()> {
    let path = folder.join(name);
    if !path.exists() {
        write(&path, text)?;
        done.push(format!("{name}: written for you to go on with"));
    }
    Ok(())
}

fn is_licence(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with("license") || name.starts_with("licence")
}

/// Tables are merged key by key, everything else is replaced.
fn merge(table: &mut Table, decided: Table) {
    for (key, value) in decided {
        match (table.get_mut(&key), value) {
            // The output is of one family or the other, never of both.
            (Some(Value::Table(known)), Value::Table(given)) if key != "output" => known.extend(given),
            (_, value) => {
                table.insert(key, value);
            }
        }
    }
}

/// What can be known without asking.
fn guess(name: &str, outlets: Option<&Outlets>) -> Table {
    let id: String = name.chars().map(|char| if char.is_ascii_alphanumeric() { char } else { '-' }).collect();
    let mut table: Table = texts::SCAFFOLD.parse().unwrap_or_default();
    let mut set = |section: &str, key: &str, value: Value| {
        if let Some(Value::Table(section)) = table.get_mut(section) {
            section.insert(key.to_owned(), value);
        }
    };
    set("model", "id", Value::String(id));
    let Some(outlets) = outlets else { return table };
    if let Some(input) = outlets.inputs.first() {
        set("input", "tensor", Value::String(input.name.clone()));
        let colours = |at: usize| input.shape.get(at).copied().filter(|axis| [1, 3].contains(axis));
        let (layout, channels, height, width) = match (colours(1), colours(3)) {
            (Some(channels), _) => ("NCHW", channels, input.shape.get(2), input.shape.get(3)),
            (None, Some(channels)) => ("NHWC", channels, input.shape.get(1), input.shape.get(2)),
            (None, None) => ("NCHW", 1, None, None),
        };
        set("input", "layout", Value::String(layout.into()));
        set("input", "channels", Value::Integer(channels));
        if let (Some(height), Some(width)) =
            (height.filter(|axis| **axis > 0), width.filter(|axis| **axis > 0))
        {
            let size = [
                ("to", Value::String("stretch".into())),
                ("width", (*width).into()),
                ("height", (*height).into()),
            ];
            let size: Table = size.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            set("input", "resize", Value::Table(size));
        }
    }
    let named = |word: &str| outlets.outputs.iter().find(|output| output.name.to_lowercase().contains(word));
    let boxes = named("box").or(outlets.outputs.iter().find(|output| output.shape.last() == Some(&4)));
    let text = |value: &str| Value::String(value.into());
    let mut output = Table::new();
    let mut labels = 1;
    if let (Some(boxes), Some(scores)) = (boxes, named("score")) {
        set("model", "family", text("detection"));
        let mut detection = Table::new();
        detection.insert("boxes".into(), text(&boxes.name));
        detection.insert("scores".into(), text(&scores.name));
        if let Some(labels) = named("label").or(named("class")) {
            detection.insert("labels".into(), text(&labels.name));
        }
        detection.insert("box_format".into(), text("xyxy"));
        output.insert("detection".into(), Value::Table(detection));
    } else if let Some(first) = outlets.outputs.first() {
        set("model", "family", text("classification"));
        let mut classification = Table::new();
        classification.insert("probabilities".into(), text(&first.name));
        classification.insert("activation".into(), text("none"));
        classification.insert("aggregate".into(), text("max_over_series"));
        output.insert("classification".into(), Value::Table(classification));
        labels = first.shape.last().copied().filter(|count| (1..=100).contains(count)).unwrap_or(1);
    }
    table.insert("output".into(), Value::Table(output));
    if let Some(Value::Array(entries)) = table.get_mut("label")
        && let Some(Value::Table(first)) = entries.first().cloned()
    {
        for index in 1..labels {
            let mut entry = first.clone();
            entry.insert("index".into(), Value::Integer(index));
            entries.push(Value::Table(entry));
        }
    }
    table
}

/// Lists what lies in the folder, and the golden cases.
fn files(folder: &Path, onnx: &str, fp16: Option<&str>, table: &mut Table) -> anyhow::Result<()> {
    let tensors: Vec<String> = table
        .get("output")
        .and_then(Value::as_table)
        .into_iter()
        .flat_map(|output| output.values())
        .filter_map(Value::as_table)
        .flat_map(|family| {
            ["boxes", "scores", "labels", "probabilities"].iter().filter_map(|key| family.get(*key))
        })
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    let mut cases = Vec::new();
    let mut listed: Vec<(String, Role)> = Vec::new();
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("{}: cannot be read", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    for name in names.iter().filter(|name| name.to_lowercase().ends_with(".dcm")) {
        let stem = name.get(..name.len() - 4).unwrap_or(name);
        let expected = format!("{stem}.json");
        if !folder.join(&expected).exists() {
            write(&folder.join(&expected), texts::NO_OUTPUTS)?;
        }
        listed.push((name.clone(), Role::GoldenCase));
        listed.push((expected.clone(), Role::GoldenExpected));
        let tolerances = tensors.iter().map(|tensor| {
            let mut tolerance = Table::new();
            tolerance.insert("tensor".into(), Value::String(tensor.clone()));
            tolerance.insert("absolute".into(), Value::Float(0.0001));
            tolerance.insert("relative".into(), Value::Float(0.0001));
            Value::Table(tolerance)
        });
        let mut case = Table::new();
        case.insert("name".into(), Value::String(stem.replace(['-', '_'], " ")));
        case.insert("input".into(), Value::String(name.clone()));
        case.insert("frame".into(), Value::Integer(1));
        case.insert("expected".into(), Value::String(expected));
        case.insert("tolerance".into(), Value::Array(tolerances.collect()));
        cases.push(Value::Table(case));
    }
    for name in &names {
        let role = match name.as_str() {
            name if name == onnx => Role::Network,
            name if Some(name) == fp16 => Role::NetworkFp16,
            "card.md" => Role::Card,
            "sbom.json" => Role::Sbom,
            name if is_licence(name) => Role::Licence,
            _ => Role::Document,
        };
        if name != MANIFEST_NAME && listed.iter().all(|(known, _)| known != name) {
            listed.push((name.clone(), role));
        }
    }
    listed.sort_by_key(|(_, role)| texts::order(*role));
    let entry = |(path, role): &(String, Role)| {
        let mut entry = Table::new();
        entry.insert("path".into(), Value::String(path.clone()));
        entry.insert("role".into(), Value::String(role.name().into()));
        entry.insert("size".into(), Value::Integer(0));
        entry.insert("sha256".into(), Value::String(String::new()));
        Value::Table(entry)
    };
    table.insert("file".into(), Value::Array(listed.iter().map(entry).collect()));
    table.insert("golden".into(), Value::Array(cases));
    Ok(())
}

struct Named<'a> {
    id: &'a str,
    version: &'a str,
    vendor: &'a str,
}

/// A CycloneDX 1.6 ML-BOM of the network, and of what was decided or is to be listed.
fn sbom(model: &Named<'_>, sha256: &str, components: Option<Value>, made: &str) -> anyhow::Result<String> {
    let mut all = vec![json!({
        "type": "machine-learning-model", "bom-ref": "model", "supplier": { "name": model.vendor },
        "name": model.id, "version": model.version,
        "hashes": [{ "alg": "SHA-256", "content": sha256 }],
    })];
    match components {
        Some(Value::Array(given)) => {
            for component in given {
                let mut component = serde_json::to_value(component)?;
                if let Some(component) = component.as_object_mut()
                    && !component.contains_key("type")
                {
                    component.insert("type".into(), "library".into());
                }
                all.push(component);
            }
        }
        Some(_) => bail!("component: not an array of tables; remedy: write each as [[component]] with name and version"),
        None => all.push(json!({
            "type": "framework", "name": "DECIDE: the framework that made the network, e.g. pytorch", "version": "DECIDE",
        })),
    }
    // A name of its own for each network, without drawing one by chance.
    let part = |from: usize, to: usize| sha256.get(from..to).unwrap_or_default();
    let serial = format!(
        "urn:uuid:{}-{}-5{}-8{}-{}",
        part(0, 8),
        part(8, 12),
        part(13, 16),
        part(17, 20),
        part(20, 32)
    );
    let bom = json!({
        "bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": serial, "version": 1,
        "metadata": {
            "timestamp": made, "supplier": { "name": model.vendor },
            "component": { "type": "data", "bom-ref": "bundle", "name": format!("{} bundle", model.id), "version": model.version },
        },
        "components": all,
        "dependencies": [{ "ref": "bundle", "dependsOn": ["model"] }],
    });
    Ok(serde_json::to_string_pretty(&bom)? + "\n")
}
