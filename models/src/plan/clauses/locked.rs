//! What no update may change, held against the plan itself and not only against what is installed.

use crate::manifest::Indication;
use crate::plan::changes::label_differences;
use crate::plan::document::{Plan, io_schema_digest, text_digest};
use crate::plan::evaluate::Ruling;
use crate::plan::evidence::Candidate;
use crate::plan::verdict::ClauseName;

pub(in crate::plan) fn rule(ruling: &mut Ruling, plan: &Plan, candidate: &Candidate<'_>) {
    let (locked, manifest) = (&plan.locked, candidate.manifest);
    let found = text_digest(&manifest.model.intended_use);
    ruling.rule(
        ClauseName::IntendedUse,
        "",
        found == locked.intended_use_sha256,
        format!("the intended use's digest is {found}, the cleared one's {}", locked.intended_use_sha256),
    );
    let mut wrong = Vec::new();
    if manifest.regulatory.claim != locked.claim {
        wrong.push(format!("the claim is {:?}, cleared is {:?}", manifest.regulatory.claim, locked.claim));
    }
    if manifest.regulatory.regulation != locked.regulation {
        wrong.push("the regulation is another one".to_owned());
    }
    if manifest.model.procedure != locked.procedure {
        wrong.push(format!(
            "the procedure is {}, cleared is {}",
            manifest.model.procedure.value, locked.procedure.value
        ));
    }
    found_or(ruling, ClauseName::Claim, wrong, "claim, regulation and procedure are the cleared ones");
    found_or(
        ruling,
        ClauseName::Indication,
        wider(&locked.indication, &manifest.indication),
        "the indication is within the cleared one",
    );
    let found = io_schema_digest(manifest);
    ruling.rule(
        ClauseName::IoSchema,
        "",
        found == locked.io_schema_sha256,
        format!(
            "family, input and output have the digest {found}, the cleared ones {}",
            locked.io_schema_sha256
        ),
    );
    found_or(
        ruling,
        ClauseName::Labels,
        label_differences(&locked.label, &manifest.label),
        "labels and codes are the cleared ones",
    );
}

fn found_or(ruling: &mut Ruling, name: ClauseName, wrong: Vec<String>, fine: &str) {
    let holds = wrong.is_empty();
    ruling.rule(name, "", holds, if holds { fine.to_owned() } else { wrong.join("; ") });
}

/// Where an indication admits an image that the locked one does not; one sentence each.
fn wider(locked: &Indication, found: &Indication) -> Vec<String> {
    // Taken apart whole: a new condition does not compile until it is ruled on.
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
    } = found;
    let mut wrong: Vec<String> = modalities
        .iter()
        .filter(|value| !locked.modalities.contains(value))
        .map(|value| format!("modalities: {value:?} is not among the cleared {:?}", locked.modalities))
        .collect();
    let mut list = |key: &str, locked: Vec<String>, found: Vec<String>| {
        // An empty list means any.
        if locked.is_empty() {
            return;
        }
        if found.is_empty() {
            wrong.push(format!("{key}: any, cleared are {locked:?}"));
        }
        for value in found.iter().filter(|value| !locked.contains(value)) {
            wrong.push(format!("{key}: {value:?} is not among the cleared {locked:?}"));
        }
    };
    let sexes = |sex: &[crate::manifest::Sex]| sex.iter().map(|sex| sex.code().to_owned()).collect();
    let lower = |names: &[String]| names.iter().map(|name| name.to_lowercase()).collect();
    list("body_parts", locked.body_parts.clone(), body_parts.clone());
    list("sex", sexes(&locked.sex), sexes(sex));
    list("views", locked.views.clone(), views.clone());
    list("manufacturers", lower(&locked.manufacturers), lower(manufacturers));
    let mut bound = |key: &str, locked: Option<f64>, found: Option<f64>, lower: bool| {
        let Some(limit) = locked else { return };
        let inside = found.is_some_and(|found| if lower { found >= limit } else { found <= limit });
        if !inside {
            let found = found.map_or("no bound".to_owned(), |found| found.to_string());
            wrong.push(format!("{key}: {found}, cleared is {limit}"));
        }
    };
    bound("age_min_years", locked.age_min_years, *age_min_years, true);
    bound("age_max_years", locked.age_max_years, *age_max_years, false);
    bound("slice_thickness_max_mm", locked.slice_thickness_max_mm, *slice_thickness_max_mm, false);
    for missing in locked.excluded.iter().filter(|exclusion| !excluded.contains(exclusion)) {
        wrong.push(format!("excluded: {missing:?} is excluded by the clearance, but not by the bundle"));
    }
    if *when_unstated != locked.when_unstated && *when_unstated == crate::manifest::Unstated::Allow {
        wrong.push("when_unstated: images that do not say are admitted, cleared is to refuse them".into());
    }
    wrong
}
