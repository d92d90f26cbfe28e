//! Which allowed modification covers each difference, and whether it stays within its bounds.

use std::collections::BTreeSet;

use crate::manifest::Indication;
use crate::plan::changes::{Change, Threshold};
use crate::plan::document::{Accompanying, Allowed, Bounds, Plan, Scope};
use crate::plan::evaluate::{Ruling, Used, substantial};
use crate::plan::evidence::{Candidate, Installed};
use crate::plan::verdict::{ClauseName, Outcome};

pub(in crate::plan) fn rule<'a>(
    ruling: &mut Ruling,
    plan: &'a Plan,
    installed: &Installed<'_>,
    candidate: &Candidate<'_>,
    changes: &[Change],
) -> Used<'a> {
    let mut used: Vec<&Allowed> = Vec::new();
    let mut locked = Vec::new();
    for change in changes {
        let subject = change.to_string();
        // Told once: where the plan itself rules a difference out, that clause is broken.
        if ruled_by(change).is_some_and(|name| ruling.is_broken(name)) {
            continue;
        }
        match change {
            // Each update's own; `NewerRelease` rules on the number.
            Change::Release => {}
            // Within the plan, but not what is installed: no update makes this change.
            Change::IoSchema(_) | Change::Labels(_) | Change::Locked(_) => locked.push(subject),
            Change::Accompanying(what) => ruling.rule(
                ClauseName::Modification,
                &subject,
                plan.accompanying.contains(what),
                format!("changed; the plan's `accompanying` {}", lists(plan.accompanying.contains(what))),
            ),
            Change::Threshold(change) => threshold(ruling, plan, candidate.scope, change, &mut used),
            _ => {
                let covering = plan.allowed.iter().find(|allowed| {
                    in_scope(allowed, candidate.scope)
                        && covers(&allowed.change, change, &candidate.manifest.indication)
                });
                match covering {
                    Some(allowed) => {
                        ruling.rule(
                            ClauseName::Modification,
                            &subject,
                            true,
                            format!("covered by {}", allowed.id),
                        );
                        used.push(allowed);
                    }
                    None => {
                        ruling.rule(
                            ClauseName::Modification,
                            &subject,
                            false,
                            "no allowed modification covers it",
                        );
                    }
                }
            }
        }
    }
    let unlocked = locked.is_empty();
    let why = if unlocked {
        "nothing differs that no modification can cover".to_owned()
    } else {
        format!("no modification can cover: {}", locked.join("; "))
    };
    ruling.rule(ClauseName::LockedFields, "", unlocked, why);
    if !substantial(changes) {
        ruling.rule(
            ClauseName::Modification,
            "",
            false,
            "nothing but the version differs: there is nothing to update",
        );
    } else if used.is_empty() && ruling.clauses.iter().all(|clause| clause.outcome != Outcome::Broken) {
        ruling.rule(
            ClauseName::Modification,
            "",
            false,
            "what changed only accompanies a modification, but there is none",
        );
    }
    // Each once, in the plan's order.
    let ids: BTreeSet<&str> = used.iter().map(|allowed| allowed.id.as_str()).collect();
    let used: Vec<&Allowed> =
        plan.allowed.iter().filter(|allowed| ids.contains(allowed.id.as_str())).collect();
    for allowed in &used {
        let count = installed.updates.get(&allowed.id).copied().unwrap_or(0).saturating_add(1);
        ruling.rule(
            ClauseName::CumulativeBound,
            &allowed.id,
            count <= allowed.updates_max,
            format!("update {count} with it since the baseline, at most {} are allowed", allowed.updates_max),
        );
    }
    Used { modifications: used, first: false }
}

/// The clause that holds this field against the plan.
fn ruled_by(change: &Change) -> Option<ClauseName> {
    match change {
        Change::IoSchema(_) | Change::Locked("model.family") => Some(ClauseName::IoSchema),
        Change::Labels(_) => Some(ClauseName::Labels),
        Change::Indication { .. } | Change::ManufacturerAdded(_) => Some(ClauseName::Indication),
        Change::Locked("model.intended_use") => Some(ClauseName::IntendedUse),
        Change::Locked("regulatory.claim" | "regulatory.regulation" | "model.procedure") => {
            Some(ClauseName::Claim)
        }
        Change::Locked("model.id" | "regulatory.submission") => Some(ClauseName::PlanScope),
        Change::Locked("device") => Some(ClauseName::Device),
        Change::Accompanying(Accompanying::Sbom) => Some(ClauseName::Sbom),
        _ => None,
    }
}

fn lists(contained: bool) -> &'static str {
    if contained { "lists it" } else { "does not list it" }
}

/// A modification for one site covers no release for all; one for all covers either.
fn in_scope(allowed: &Allowed, candidate: Scope) -> bool {
    allowed.scope == Scope::Global || candidate == Scope::Local
}

fn covers(bounds: &Bounds, change: &Change, now: &Indication) -> bool {
    match (bounds, change) {
        (Bounds::RetrainWeights {}, Change::Weights) => true,
        (Bounds::Precision { precisions }, Change::Precision(precision)) => precisions.contains(precision),
        // The 32-bit network in other bytes is a retraining even where precisions may change.
        (Bounds::NewScanner { manufacturers }, Change::ManufacturerAdded(name)) => {
            manufacturers.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
        }
        (
            Bounds::Subpopulation { age_min_years, age_max_years, sex, body_parts, views },
            Change::Indication { key, .. },
        ) => match *key {
            "age_min_years" => {
                matches!((age_min_years, now.age_min_years), (Some(limit), Some(now)) if now >= *limit)
            }
            "age_max_years" => {
                matches!((age_max_years, now.age_max_years), (Some(limit), Some(now)) if now <= *limit)
            }
            "sex" => !now.sex.is_empty() && now.sex.iter().all(|value| sex.contains(value)),
            "body_parts" => {
                !now.body_parts.is_empty() && now.body_parts.iter().all(|value| body_parts.contains(value))
            }
            "views" => !now.views.is_empty() && now.views.iter().all(|value| views.contains(value)),
            _ => false,
        },
        _ => false,
    }
}

fn threshold<'a>(
    ruling: &mut Ruling,
    plan: &'a Plan,
    scope: Scope,
    change: &Threshold,
    used: &mut Vec<&'a Allowed>,
) {
    let subject = format!("{} {}", change.label, change.tier.name());
    let covering = plan.allowed.iter().find(|allowed| {
        in_scope(allowed, scope)
            && matches!(&allowed.change, Bounds::Threshold { label, tier, .. }
                if *label == change.label && *tier == change.tier)
    });
    let (
        Some(
            allowed @ Allowed {
                change: Bounds::Threshold { min, max, step_max, baseline, cumulative_max, .. },
                ..
            },
        ),
        Some(from),
        Some(to),
    ) = (covering, change.from, change.to)
    else {
        ruling.rule(
            ClauseName::Modification,
            &subject,
            false,
            format!("{}: no allowed modification covers it", Change::Threshold(change.clone())),
        );
        return;
    };
    ruling.rule(ClauseName::Modification, &subject, true, format!("covered by {}", allowed.id));
    let step = (to - from).abs();
    // Decimal fractions are not exact: 0.6 - 0.5 is above 0.1 by a hair.
    const HAIR: f64 = 1e-12;
    ruling.rule(
        ClauseName::ThresholdBounds,
        &subject,
        to >= *min && to <= *max && step <= step_max + HAIR,
        format!("{from} to {to}, allowed are {min} to {max} in steps of at most {step_max}"),
    );
    ruling.rule(
        ClauseName::CumulativeBound,
        &subject,
        (to - baseline).abs() <= cumulative_max + HAIR,
        format!(
            "{to} is {:.6} from the cleared {baseline}, at most {cumulative_max} is allowed",
            (to - baseline).abs()
        ),
    );
    used.push(allowed);
}
