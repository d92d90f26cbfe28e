//! What differs between two manifests, field by field.
//!
//! Every struct is taken apart whole (no `..`): a field that is added to the manifest does not
//! compile here until somebody decides what a change of it means.

use std::fmt;

use super::document::{Accompanying, Tier};
use crate::manifest::{
    Excluded, File, Golden, Indication, Label, Manifest, Model, Precision, Regulatory, Resources, Role,
};

/// A label's threshold.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    /// The label's name.
    pub label: String,
    /// Which.
    pub tier: Tier,
    /// Before.
    pub from: Option<f64>,
    /// Now.
    pub to: Option<f64>,
}

/// One difference.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Version or release: each update's own.
    Release,
    /// The 32-bit network has other bytes.
    Weights,
    /// The 16-bit network has come, changed or gone; where it comes or changes, the plan must allow it.
    Precision(Precision),
    /// A label's threshold.
    Threshold(Threshold),
    /// A manufacturer was added to the indication.
    ManufacturerAdded(String),
    /// Another condition of the indication changed.
    Indication {
        /// The key.
        key: &'static str,
        /// Before and now, for people.
        what: String,
    },
    /// What may come along with a modification if the plan says so.
    Accompanying(Accompanying),
    /// Input, preparation, output: [`super::io_schema_digest`] rules on it.
    IoSchema(&'static str),
    /// Labels and codes: the plan's locked labels rule on it.
    Labels(String),
    /// Nothing covers it.
    Locked(&'static str),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |value: &Option<f64>| value.map_or("none".to_owned(), |value| value.to_string());
        match self {
            Change::Release => f.write_str("version and release number"),
            Change::Weights => f.write_str("the network's weights"),
            Change::Precision(_) => f.write_str("the 16-bit network"),
            Change::Threshold(Threshold { label, tier, from, to }) => {
                write!(f, "{} threshold of {label:?}: {} to {}", tier.name(), value(from), value(to))
            }
            Change::ManufacturerAdded(name) => write!(f, "manufacturer {name:?} added to the indication"),
            Change::Indication { key, what } => write!(f, "indication.{key}: {what}"),
            Change::Accompanying(what) => f.write_str(what.name()),
            Change::IoSchema(key) | Change::Locked(key) => f.write_str(key),
            Change::Labels(what) => f.write_str(what),
        }
    }
}

/// Every difference between what is installed and what is to be.
pub fn changes(old: &Manifest, new: &Manifest) -> Vec<Change> {
    let Manifest {
        schema: _, // Both were read by the one schema that this version knows.
        model,
        device,
        regulatory,
        resources,
        file,
        golden,
        indication,
        input,
        output,
        label,
        performance,
    } = old;
    let mut found = Found(Vec::new());
    found.model(model, &new.model);
    found.locked("device", *device == new.device);
    found.regulatory(regulatory, &new.regulatory);
    found.resources(resources, &new.resources);
    found.files(file, &new.file);
    found.golden(golden, &new.golden);
    found.indication(indication, &new.indication);
    // Whole: the digest in the plan covers every field of both.
    found.push_if(*input != new.input, Change::IoSchema("input"));
    found.push_if(*output != new.output, Change::IoSchema("output"));
    found.labels(label, &new.label);
    found.accompanying(Accompanying::Performance, *performance == new.performance);
    found.0
}

/// Labels that differ in anything but thresholds, told one by one.
pub(super) fn label_differences(old: &[Label], new: &[Label]) -> Vec<String> {
    let mut found = Vec::new();
    for label in new {
        match old.iter().find(|other| other.index == label.index) {
            None => found.push(format!("label {} {:?} is added", label.index, label.name)),
            Some(other) if bare(other) != bare(label) => {
                found.push(format!(
                    "label {} {:?} has another name, code or measurement",
                    label.index, label.name
                ));
            }
            Some(_) => {}
        }
    }
    for label in old {
        if !new.iter().any(|other| other.index == label.index) {
            found.push(format!("label {} {:?} is gone", label.index, label.name));
        }
    }
    if new.iter().enumerate().any(|(at, label)| new[..at].iter().any(|other| other.index == label.index)) {
        found.push("an index is given twice".to_owned());
    }
    found
}

/// A label without its thresholds.
fn bare(label: &Label) -> Label {
    Label { reported_min: None, flagged_min: None, ..label.clone() }
}

struct Found(Vec<Change>);

impl Found {
    fn push_if(&mut self, differs: bool, change: Change) {
        if differs {
            self.0.push(change);
        }
    }

    fn locked(&mut self, key: &'static str, same: bool) {
        self.push_if(!same, Change::Locked(key));
    }

    fn accompanying(&mut self, what: Accompanying, same: bool) {
        self.push_if(!same && !self.0.contains(&Change::Accompanying(what)), Change::Accompanying(what));
    }

    fn model(&mut self, old: &Model, new: &Model) {
        let Model {
            id,
            name,
            version,
            release,
            vendor,
            family,
            not_for_clinical_use,
            looked_for,
            intended_use,
            procedure,
        } = old;
        self.push_if(*version != new.version || *release != new.release, Change::Release);
        self.accompanying(Accompanying::Name, *name == new.name);
        self.locked("model.id", *id == new.id);
        self.locked("model.vendor", *vendor == new.vendor);
        self.locked("model.family", *family == new.family);
        self.locked("model.not_for_clinical_use", *not_for_clinical_use == new.not_for_clinical_use);
        self.locked("model.looked_for", *looked_for == new.looked_for);
        self.locked("model.intended_use", *intended_use == new.intended_use);
        self.locked("model.procedure", *procedure == new.procedure);
    }

    fn regulatory(&mut self, old: &Regulatory, new: &Regulatory) {
        let Regulatory { submission, regulation, claim } = old;
        self.locked("regulatory.submission", *submission == new.submission);
        self.locked("regulatory.regulation", *regulation == new.regulation);
        self.locked("regulatory.claim", *claim == new.claim);
    }

    fn resources(&mut self, old: &Resources, new: &Resources) {
        let Resources { memory_mib, runtime_seconds, accelerator } = old;
        self.accompanying(
            Accompanying::Resources,
            *memory_mib == new.memory_mib && *runtime_seconds == new.runtime_seconds,
        );
        self.locked("resources.accelerator", *accelerator == new.accelerator);
    }

    fn files(&mut self, old: &[File], new: &[File]) {
        let of = |files: &[File], role: Role| -> Vec<(String, String)> {
            let mut found: Vec<_> = files
                .iter()
                .map(|file| {
                    // Taken apart for the compiler: size follows from the digest.
                    let File { path, role, size: _, sha256 } = file;
                    (*role, path.clone(), sha256.clone())
                })
                .filter(|(found, _, _)| *found == role)
                .map(|(_, path, sha256)| (path, sha256))
                .collect();
            found.sort();
            found
        };
        for role in [
            Role::Network,
            Role::NetworkFp16,
            Role::Card,
            Role::Sbom,
            Role::Licence,
            Role::Template,
            Role::GoldenCase,
            Role::GoldenExpected,
            Role::Document,
        ] {
            if of(old, role) == of(new, role) {
                continue;
            }
            let change = match role {
                Role::Network => Change::Weights,
                Role::NetworkFp16 => Change::Precision(Precision::Fp16),
                Role::Card => Change::Accompanying(Accompanying::Card),
                Role::Sbom => Change::Accompanying(Accompanying::Sbom),
                Role::Licence => Change::Accompanying(Accompanying::Licence),
                Role::Document => Change::Accompanying(Accompanying::Documents),
                Role::GoldenCase | Role::GoldenExpected => Change::Accompanying(Accompanying::Golden),
                // What a report says is regulated wording.
                Role::Template => Change::Locked("report templates"),
            };
            self.push_if(!self.0.contains(&change), change);
        }
    }

    fn golden(&mut self, old: &[Golden], new: &[Golden]) {
        self.accompanying(Accompanying::Golden, old == new);
    }

    fn indication(&mut self, old: &Indication, new: &Indication) {
        let Indication {
            modalities,
            body_parts,
            age_min_years,
            age_max_years,
            sex,
            views,
            manufacturers,
            slice_thickness_max_mm,
            excluded,
            when_unstated,
        } = old;
        self.condition("modalities", modalities, &new.modalities);
        self.condition("body_parts", body_parts, &new.body_parts);
        self.condition("age_min_years", age_min_years, &new.age_min_years);
        self.condition("age_max_years", age_max_years, &new.age_max_years);
        self.condition("sex", sex, &new.sex);
        self.condition("views", views, &new.views);
        self.condition("slice_thickness_max_mm", slice_thickness_max_mm, &new.slice_thickness_max_mm);
        self.condition("excluded", &sorted(excluded), &sorted(&new.excluded));
        self.condition("when_unstated", when_unstated, &new.when_unstated);
        let lower = |names: &[String]| names.iter().map(|name| name.to_lowercase()).collect::<Vec<_>>();
        let (before, now) = (lower(manufacturers), lower(&new.manufacturers));
        // An empty list means any: from or to it is no mere adding of a scanner.
        if before.is_empty() != now.is_empty() || before.iter().any(|name| !now.contains(name)) {
            self.condition("manufacturers", manufacturers, &new.manufacturers);
        } else {
            for name in new.manufacturers.iter().filter(|name| !before.contains(&name.to_lowercase())) {
                self.0.push(Change::ManufacturerAdded(name.clone()));
            }
        }
    }

    fn condition<T: PartialEq + fmt::Debug>(&mut self, key: &'static str, old: &T, new: &T) {
        let what = format!("{old:?} to {new:?}");
        self.push_if(old != new, Change::Indication { key, what });
    }

    fn labels(&mut self, old: &[Label], new: &[Label]) {
        for what in label_differences(old, new) {
            self.0.push(Change::Labels(what));
        }
        for label in new {
            let Some(before) = old.iter().find(|other| other.index == label.index) else { continue };
            for (tier, from, to) in [
                (Tier::Reported, before.reported_min, label.reported_min),
                (Tier::Flagged, before.flagged_min, label.flagged_min),
            ] {
                let change = Threshold { label: label.name.clone(), tier, from, to };
                self.push_if(from != to, Change::Threshold(change));
            }
        }
    }
}

/// In an order of their own, so that only what is excluded counts.
fn sorted(excluded: &[Excluded]) -> Vec<String> {
    let mut found: Vec<String> = excluded.iter().map(|excluded| format!("{excluded:?}")).collect();
    found.sort();
    found
}
