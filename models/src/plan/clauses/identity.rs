//! Whether this plan rules on this candidate on this box at all.

use crate::plan::check::expires;
use crate::plan::document::Plan;
use crate::plan::evaluate::Ruling;
use crate::plan::evidence::{Candidate, Evidence, Installed};
use crate::plan::verdict::ClauseName;

pub(in crate::plan) fn rule(
    ruling: &mut Ruling,
    plan: &Plan,
    installed: Option<&Installed<'_>>,
    candidate: &Candidate<'_>,
    evidence: &Evidence,
) {
    let model = &candidate.manifest.model;
    ruling.rule(
        ClauseName::PlanInForce,
        "",
        expires(plan).is_some_and(|end| evidence.now < end),
        format!("the plan ends on {}; the box's time is {} s after 1970", plan.plan.expires, evidence.now),
    );
    let submission = &candidate.manifest.regulatory.submission;
    let submission_fits =
        *submission == plan.plan.submission && (submission.is_some() || model.not_for_clinical_use);
    ruling.rule(
        ClauseName::PlanScope,
        "",
        model.id == plan.plan.model && submission_fits,
        format!(
            "the plan is for model {} of submission {}, the bundle is model {} of submission {}",
            plan.plan.model,
            plan.plan.submission.as_deref().unwrap_or("none"),
            model.id,
            submission.as_deref().unwrap_or("none"),
        ),
    );
    let here = &evidence.device_udi_di;
    let by_plan = plan.plan.device_udi_di.contains(here);
    let by_bundle = candidate.manifest.device.udi_di.contains(here);
    let word = |is: bool| if is { "is for it" } else { "is not for it" };
    ruling.rule(
        ClauseName::Device,
        "",
        by_plan && by_bundle,
        format!("this device is {here}; the plan {}, the bundle {}", word(by_plan), word(by_bundle)),
    );
    match installed {
        Some(installed) => {
            let before = installed.manifest.model.release;
            ruling.rule(
                ClauseName::NewerRelease,
                "",
                model.release > before,
                format!("release {}, installed is release {before}", model.release),
            );
            ruling.not_applicable(ClauseName::FirstInstallation, "", "a version is installed");
        }
        None => {
            ruling.not_applicable(ClauseName::NewerRelease, "", "nothing is installed");
            let cleared = plan.baseline.digests.iter().any(|digest| digest == candidate.digest);
            let why = if cleared {
                "the bundle is one of the plan's baselines".to_owned()
            } else {
                format!("the bundle is none of the plan's {} baselines", plan.baseline.digests.len())
            };
            ruling.rule(ClauseName::FirstInstallation, "", cleared, why);
        }
    }
}
