//! Reading a plan: first by its types, then by what the types cannot say.

use std::collections::BTreeSet;
use std::path::Path;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::document::{
    Accompanying, Allowed, Baseline, Bounds, Criterion, EquivalenceBounds, Identity, Impact, Labelling,
    Locked, Method, Metric, Monitor, Plan, Required, Rollback, SCHEMA, Site, Subgroup, Tier,
};
use crate::document::{self, Fault};
use crate::draft::Draft;
use crate::problem::{Problem, line_of};

/// Parses and checks a plan's text.
pub(super) fn read(file: &Path, text: &str) -> Result<Plan, Problem> {
    let other_schema = |_| "update the box, or ask the vendor for a plan of that schema";
    document::read(file, text, SCHEMA, other_schema, faults)
}

/// Every problem of a plan's text.
pub(super) fn problems(file: &Path, text: &str) -> Vec<Problem> {
    let Err(first) = read(file, text) else { return Vec::new() };
    if first.key == "schema" {
        return vec![first];
    }
    let mut draft = match Draft::new(file, text) {
        Ok(draft) => draft,
        Err(problem) => return vec![problem],
    };
    draft.section::<u32>("schema", true);
    draft.section::<Identity>("plan", true);
    draft.section::<Locked>("locked", true);
    draft.section::<Baseline>("baseline", true);
    draft.entries::<Allowed>("allowed", true);
    draft.section::<Vec<Accompanying>>("accompanying", false);
    draft.entries::<Criterion>("criterion", true);
    draft.entries::<Subgroup>("subgroup", false);
    draft.section::<EquivalenceBounds>("equivalence", true);
    draft.section::<Required>("evidence", true);
    draft.section::<Impact>("impact", true);
    draft.section::<Labelling>("labelling", true);
    draft.section::<Rollback>("rollback", true);
    draft.entries::<Monitor>("monitor", false);
    draft.section::<Site>("site", true);
    let mut found = draft.finish();
    if let Ok(plan) = toml::from_str::<Plan>(text) {
        for (key, problem, remedy) in faults(&plan) {
            if !found.iter().any(|other| other.key.starts_with(&key)) {
                let (line, remedy) = (line_of(text, &key), remedy.to_owned());
                found.push(Problem { file: file.to_owned(), line, key, problem, remedy });
            }
        }
    }
    if found.is_empty() {
        found.push(first);
    }
    found
}

/// The plan's end, in seconds since 1970.
pub(super) fn expires(plan: &Plan) -> Option<i64> {
    OffsetDateTime::parse(&plan.plan.expires, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp)
}

fn fault<T>(key: impl Into<String>, problem: impl Into<String>, remedy: &'static str) -> Result<T, Fault> {
    Err((key.into(), problem.into(), remedy))
}

/// What looks at a part of a plan, and tells its first fault.
type Room = fn(&Plan) -> Result<(), Fault>;

/// The first fault of every room.
fn faults(plan: &Plan) -> Vec<Fault> {
    let rooms: [Room; 6] = [identity, digests, locked, allowed, criteria, rest];
    rooms.iter().filter_map(|room| room(plan).err()).collect()
}

fn identity(plan: &Plan) -> Result<(), Fault> {
    identifier("plan.id", &plan.plan.id)?;
    identifier("plan.model", &plan.plan.model)?;
    if plan.plan.device_udi_di.is_empty() || plan.plan.device_udi_di.iter().any(|udi| udi.trim().is_empty()) {
        return fault("plan.device_udi_di", "names no device", "list the device identifiers it is for");
    }
    if expires(plan).is_none() {
        return fault("plan.expires", "not a time", "write it as \"2028-01-31T00:00:00Z\"");
    }
    Ok(())
}

fn digests(plan: &Plan) -> Result<(), Fault> {
    for (key, value) in [
        ("locked.intended_use_sha256", &plan.locked.intended_use_sha256),
        ("locked.io_schema_sha256", &plan.locked.io_schema_sha256),
        ("impact.sha256", &plan.impact.sha256),
        ("labelling.ifu_sha256", &plan.labelling.ifu_sha256),
    ] {
        digest(key, value)?;
    }
    for (at, value) in plan.baseline.digests.iter().enumerate() {
        digest(&format!("baseline.digests[{at}]"), value)?;
    }
    Ok(())
}

fn identifier(key: &str, value: &str) -> Result<(), Fault> {
    let fits = (1..=64).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(()) } else { fault(key, "not an identifier", "use 1 to 64 letters, digits and hyphens") }
}

fn digest(key: &str, value: &str) -> Result<(), Fault> {
    let hex = value.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if value.len() == 64 && hex {
        Ok(())
    } else {
        fault(key, "not a SHA-256", "write the 64 lower-case hex digits that `sha256sum` prints")
    }
}

/// A finite number from `low` to `high`.
fn within(key: impl Into<String>, value: f64, low: f64, high: f64) -> Result<(), Fault> {
    if value >= low && value <= high && value.is_finite() {
        Ok(())
    } else {
        fault(key, format!("{value} is not from {low} to {high}"), "write a number in this range")
    }
}

fn locked(plan: &Plan) -> Result<(), Fault> {
    if plan.locked.label.is_empty() {
        return fault("locked.label", "no label is locked", "list every label with its codes");
    }
    for (at, label) in plan.locked.label.iter().enumerate() {
        if label.reported_min.is_some() || label.flagged_min.is_some() {
            return fault(
                format!("locked.label[{at}]"),
                "has a threshold",
                "leave thresholds out here; bound them by an [[allowed]] of kind \"threshold\"",
            );
        }
    }
    Ok(())
}

fn known_label(plan: &Plan, key: String, label: &str) -> Result<(), Fault> {
    if plan.locked.label.iter().any(|known| known.name == label && !known.negative) {
        Ok(())
    } else {
        fault(
            key,
            format!("no locked label that makes a finding is named {label:?}"),
            "name one of [[locked.label]]",
        )
    }
}

fn a_threshold(key: String, tier: Tier) -> Result<(), Fault> {
    if tier == Tier::Suppressed {
        return fault(key, "the suppressed tier has no threshold", "write \"reported\" or \"flagged\"");
    }
    Ok(())
}

fn allowed(plan: &Plan) -> Result<(), Fault> {
    let mut ids = BTreeSet::new();
    for (at, allowed) in plan.allowed.iter().enumerate() {
        let key = |name: &str| format!("allowed[{at}].{name}");
        identifier(&key("id"), &allowed.id)?;
        if !ids.insert(&allowed.id) {
            return fault(key("id"), "given twice", "give each modification its own id");
        }
        if allowed.updates_max == 0 {
            return fault(key("updates_max"), "allows no update", "write at least 1, or leave the entry out");
        }
        if !plan.criterion.iter().any(|criterion| criterion.modifications.contains(&allowed.id)) {
            return fault(
                key("id"),
                "no [[criterion]] says what must be shown for it",
                "name it in the `modifications` of at least one criterion",
            );
        }
        match &allowed.change {
            Bounds::Threshold { label, tier, min, max, step_max, baseline, cumulative_max } => {
                known_label(plan, key("change"), label)?;
                a_threshold(key("change"), *tier)?;
                within(key("change"), *min, 0.0, *max)?;
                within(key("change"), *max, *min, 1.0)?;
                within(key("change"), *baseline, *min, *max)?;
                within(key("change"), *step_max, 0.0, 1.0)?;
                within(key("change"), *cumulative_max, 0.0, 1.0)?;
            }
            Bounds::NewScanner { manufacturers } if manufacturers.is_empty() => {
                return fault(key("change"), "names no manufacturer", "list those that may be added");
            }
            Bounds::Precision { precisions } if precisions.is_empty() => {
                return fault(key("change"), "names no precision", "list those that may be added");
            }
            _ => {}
        }
    }
    Ok(())
}

fn criteria(plan: &Plan) -> Result<(), Fault> {
    if plan.criterion.is_empty() {
        return fault("criterion", "nothing must be shown", "write at least one [[criterion]]");
    }
    let mut ids = BTreeSet::new();
    for (at, criterion) in plan.criterion.iter().enumerate() {
        let key = |name: &str| format!("criterion[{at}].{name}");
        identifier(&key("id"), &criterion.id)?;
        if !ids.insert(&criterion.id) {
            return fault(key("id"), "given twice", "give each criterion its own id");
        }
        for id in &criterion.modifications {
            if !plan.allowed.iter().any(|allowed| allowed.id == *id) {
                return fault(
                    key("modifications"),
                    format!("no [[allowed]] has the id {id:?}"),
                    "name those that exist",
                );
            }
        }
        digest(&key("set_sha256"), &criterion.set_sha256)?;
        known_label(plan, key("label"), &criterion.label)?;
        within(key("estimate_min"), criterion.estimate_min, 0.0, 1.0)?;
        within(key("interval"), criterion.interval.lower_min, 0.0, 1.0)?;
        within(key("interval"), criterion.interval.level, 0.5, 0.9999)?;
        if let Some(non_inferior) = &criterion.non_inferior {
            within(key("non_inferior"), non_inferior.margin, 0.0, 1.0)?;
        }
        method(criterion, &key)?;
    }
    for (at, subgroup) in plan.subgroup.iter().enumerate() {
        if !ids.contains(&subgroup.criterion) {
            return fault(
                format!("subgroup[{at}].criterion"),
                "no such criterion",
                "name one of [[criterion]]",
            );
        }
        if subgroup.values.is_empty() || subgroup.key.trim().is_empty() {
            return fault(format!("subgroup[{at}].values"), "names no group", "list the attribute's values");
        }
        within(format!("subgroup[{at}].floor"), subgroup.floor, 0.0, 1.0)?;
    }
    Ok(())
}

fn method(criterion: &Criterion, key: &dyn Fn(&str) -> String) -> Result<(), Fault> {
    let proportion = !matches!(criterion.metric, Metric::Auc | Metric::Dice);
    if proportion != criterion.tier.is_some() {
        return fault(
            key("tier"),
            "given where it means nothing, or missing",
            "give it for proportions, leave it out for \"auc\" and \"dice\"",
        );
    }
    if let Some(tier) = criterion.tier {
        a_threshold(key("tier"), tier)?;
    }
    let fits = match criterion.interval.method {
        Method::Delong => criterion.metric == Metric::Auc,
        Method::Wilson => proportion,
        Method::Bootstrap => true,
    };
    if !fits {
        return fault(
            key("interval"),
            "this method gives no interval for this metric",
            "use \"delong\" or \"bootstrap\" for auc, \"wilson\" or \"bootstrap\" for proportions, \"bootstrap\" for dice",
        );
    }
    // Non-inferiority of all but AUC with DeLong is by the bootstrap, whatever the interval is.
    let resampled = criterion.interval.method == Method::Bootstrap
        || criterion.non_inferior.is_some() && criterion.interval.method != Method::Delong;
    let given = criterion.interval.resamples.is_some_and(|count| (200..=100_000).contains(&count))
        && criterion.interval.seed.is_some();
    let absent = criterion.interval.resamples.is_none() && criterion.interval.seed.is_none();
    if resampled && !given || !resampled && !absent {
        return fault(
            key("interval"),
            "`resamples` (200 to 100000) and `seed` do not go with this method",
            "give both for the bootstrap and for non-inferiority other than by \"delong\", otherwise neither",
        );
    }
    Ok(())
}

fn rest(plan: &Plan) -> Result<(), Fault> {
    within("equivalence.score_max", plan.equivalence.score_max, 0.0, 1.0)?;
    within("equivalence.box_max_px", plan.equivalence.box_max_px, 0.0, 8192.0)?;
    for (key, value) in [
        ("impact.reference", &plan.impact.reference),
        ("labelling.version", &plan.labelling.version),
        ("labelling.notice", &plan.labelling.notice),
    ] {
        if value.trim().is_empty() {
            return fault(key, "empty", "write it out");
        }
    }
    if plan.rollback.keep == 0 {
        return fault("rollback.keep", "keeps no version to go back to", "write at least 1");
    }
    for (at, monitor) in plan.monitor.iter().enumerate() {
        identifier(&format!("monitor[{at}].id"), &monitor.id)?;
        within(format!("monitor[{at}].stop"), monitor.stop, monitor.warn, f64::MAX)?;
        within(format!("monitor[{at}].warn"), monitor.warn, 0.0, monitor.stop)?;
        if monitor.window_studies == 0 {
            return fault(format!("monitor[{at}].window_studies"), "no study is watched", "write at least 1");
        }
    }
    within("site.shadow_hours", plan.site.shadow_hours, 0.0, 24.0 * 366.0)?;
    if plan.site.approvals > 2 {
        return fault("site.approvals", "more than two people", "write 0, 1 or 2");
    }
    for (at, threshold) in plan.site.threshold.iter().enumerate() {
        let key = |name: &str| format!("site.threshold[{at}].{name}");
        known_label(plan, key("label"), &threshold.label)?;
        a_threshold(key("tier"), threshold.tier)?;
        within(key("min"), threshold.min, 0.0, threshold.max)?;
        within(key("max"), threshold.max, threshold.min, 1.0)?;
    }
    Ok(())
}
