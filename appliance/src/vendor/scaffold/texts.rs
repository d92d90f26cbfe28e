//! What a new bundle's files begin with, and what the manifest's comments teach.

use std::fmt::Write as _;

use lightbox_models::manifest::Role;
use toml::{Table, Value};

/// In place of a name that nobody has decided.
pub(super) const UNDECIDED_TEXT: &str = "DECIDE";

/// The tables that a file of decisions may have.
pub(super) const DECIDABLE: [&str; 9] =
    ["model", "device", "regulatory", "resources", "indication", "input", "output", "label", "component"];

pub(super) const NO_OUTPUTS: &str = "{ \"schema\": 1, \"outputs\": [] }\n";

pub(super) const LICENCE: &str = "DECIDE: under which terms a hospital may use the model\n";

pub(super) const CARD: &str = "\
# MODEL

## What it does

DECIDE: what it finds, in which images, and what it does not

## How it was made

DECIDE: training data: sources, sites, scanners, years, number of patients, age, sex, how the truth was found

## How good it is

DECIDE: on which data it was measured, with intervals, and for which groups of patients it is worse

## When not to use it

DECIDE: known limits and failures
";

/// The manifest before anything is known.
pub(super) const SCAFFOLD: &str = r#"
[model]
id = "model"
name = "DECIDE: name shown to people"
version = "1.0.0"
release = 1
vendor = "DECIDE: your company's name"
family = "DECIDE: detection or classification"
not_for_clinical_use = true
looked_for = "DECIDE: what was looked for, e.g. bright disks"
intended_use = "DECIDE: the cleared statement of intended use, word for word"
procedure = { value = "DECIDE: LOINC code", scheme = "LN", meaning = "DECIDE: its name" }

[device]
udi_di = ["DECIDE: UDI-DI of the device"]

[regulatory]
claim = "DECIDE: triage, detection, diagnosis or quantification"

[resources]
memory_mib = 1024
runtime_seconds = 60

[indication]
modalities = ["DECIDE: e.g. CT"]
body_parts = ["DECIDE: e.g. CHEST"]

[input]
tensor = "DECIDE: the network's input"
layout = "NCHW"
channels = 1
scope = "image"
resize = { to = "native" }
intensity = { from = "DECIDE: modality, window, image_window, min_max or percentile" }

[output]

[[label]]
index = 0
name = "DECIDE: name of this output"
finding = { value = "DECIDE: SNOMED CT code", scheme = "SCT", meaning = "DECIDE: its name" }
category = { value = "49755003", scheme = "SCT", meaning = "Morphologically abnormal structure" }
reported_min = "DECIDE: a score from 0 to 1"
flagged_min = "DECIDE: a score from 0 to reported_min"
"#;

struct Section {
    name: &'static str,
    teach: &'static str,
    keys: &'static [(&'static str, &'static str)],
}

const SECTIONS: [Section; 10] = [
    Section {
        name: "model",
        teach: "What the model is. Of two bundles of one `id`, the larger `release` is the newer one.",
        keys: &[
            ("id", "lower-case letters, digits, hyphens; never changes"),
            ("name", ""),
            ("version", "for people"),
            ("release", "1, 2, ...: never given twice"),
            ("vendor", ""),
            ("family", "detection (boxes) or classification (probabilities)"),
            (
                "not_for_clinical_use",
                "true: every output of the box says so. Cleared models say false, and have a submission and a regulation",
            ),
            ("looked_for", "stands in reports where nothing was found"),
            ("intended_use", "an update under the plan may not change a letter of it"),
            ("procedure", "what the model reports on"),
        ],
    },
    Section {
        name: "device",
        teach: "The devices that the model is for: the DI part of the UDI. A box of another one refuses the bundle.",
        keys: &[("udi_di", "")],
    },
    Section {
        name: "regulatory",
        teach: "Under which clearance: submission = \"K241234\", regulation = \"21 CFR 892.2080\".",
        keys: &[("submission", ""), ("regulation", ""), ("claim", "")],
    },
    Section {
        name: "resources",
        teach: "What a run needs. accelerator = \"none\", \"optional\" or \"required\".",
        keys: &[
            ("memory_mib", ""),
            ("runtime_seconds", "longer than this, and the run has failed"),
            ("accelerator", ""),
        ],
    },
    Section {
        name: "indication",
        teach: "The images that the model is cleared for; on all others it is not run. Also: age_min_years, age_max_years,\n\
                # sex, views, manufacturers, slice_thickness_max_mm, excluded = [{ view = \"LL\" }], when_unstated = \"allow\".",
        keys: &[("modalities", ""), ("body_parts", "")],
    },
    Section {
        name: "input",
        teach: "How an image becomes the network's input: exactly as in training.",
        keys: &[
            ("tensor", ""),
            ("layout", ""),
            ("channels", ""),
            ("scope", ""),
            ("resize", "native; stretch, fit: width, height; limit_side: side"),
            ("interpolation", ""),
            ("intensity", "modality: HU; window: centre, width; percentile: low, high"),
            ("normalise", "(value * scale - mean) / std"),
        ],
    },
    Section { name: "output", teach: "What the network's outputs are.", keys: &[] },
    Section {
        name: "label",
        teach: "One for each output index: its codes, and the scores from which it is flagged and reported. A label that is\n\
                # no finding has `negative = true` and nothing else.",
        keys: &[
            ("index", ""),
            ("name", ""),
            ("negative", ""),
            ("finding", ""),
            ("category", ""),
            ("site", ""),
            ("laterality", ""),
            ("reported_min", ""),
            ("flagged_min", ""),
        ],
    },
    Section {
        name: "file",
        teach: "Every file. `lightbox bundle refresh` writes sizes and digests after a change.",
        keys: &[("path", ""), ("role", ""), ("size", ""), ("sha256", "")],
    },
    Section {
        name: "golden",
        teach: "Images whose outputs are known: every box runs them before it uses the model. Tolerances are yours to judge:\n\
                # |found - expected| <= absolute + relative * |expected|.",
        keys: &[("name", ""), ("input", ""), ("frame", ""), ("expected", ""), ("tolerance", "")],
    },
];

/// The order of files in a manifest.
pub(super) fn order(role: Role) -> u8 {
    match role {
        Role::Network => 0,
        Role::NetworkFp16 => 1,
        Role::Card => 2,
        Role::Sbom => 3,
        Role::Licence => 4,
        Role::Template => 5,
        Role::GoldenCase | Role::GoldenExpected => 6,
        Role::Document => 7,
    }
}

/// The manifest's text, with comments that teach.
pub(super) fn manifest(table: &Table) -> String {
    let mut text = String::from(
        "# A model bundle's manifest; models/README.md says what each key means.\n\
         # What begins with DECIDE is for you to decide: `lightbox bundle check` says what is left.\n\
         schema = 2\n",
    );
    for section in &SECTIONS {
        let (name, teach) = (section.name, section.teach);
        match table.get(name) {
            Some(Value::Table(families)) if name == "output" => {
                line(&mut text, format_args!("\n# {teach}"));
                for (family, keys) in families {
                    line(&mut text, format_args!("[output.{family}]"));
                    entry(&mut text, keys, &[]);
                }
            }
            Some(Value::Array(entries)) => {
                line(&mut text, format_args!("\n# {teach}"));
                for (at, keys) in entries.iter().enumerate() {
                    line(&mut text, format_args!("{}[[{name}]]", if at == 0 { "" } else { "\n" }));
                    entry(&mut text, keys, section.keys);
                }
            }
            Some(keys) => {
                line(&mut text, format_args!("\n# {teach}\n[{name}]"));
                entry(&mut text, keys, section.keys);
            }
            None => {}
        }
    }
    text
}

fn entry(text: &mut String, keys: &Value, known: &[(&str, &str)]) {
    let Some(keys) = keys.as_table() else { return };
    for (key, teach) in known {
        if let Some(value) = keys.get(*key) {
            if !teach.is_empty() {
                line(text, format_args!("# {teach}"));
            }
            line(text, format_args!("{key} = {value}"));
        }
    }
    for (key, value) in keys.iter().filter(|(key, _)| known.iter().all(|(name, _)| name != key)) {
        line(text, format_args!("{key} = {value}"));
    }
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _infallible = writeln!(text, "{content}");
}
