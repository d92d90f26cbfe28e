//! What the site owes before a version becomes active.

use crate::life_cycle::people;
use crate::plan::document::Plan;
use crate::plan::evaluate::Ruling;
use crate::plan::evidence::{Evidence, Stage};
use crate::plan::verdict::ClauseName;

pub(in crate::plan) fn rule(
    ruling: &mut Ruling,
    plan: &Plan,
    evidence: &Evidence,
    first: bool,
    approvals: u32,
) {
    if evidence.stage < Stage::Activation {
        for name in
            [ClauseName::Labelling, ClauseName::ShadowHours, ClauseName::CanaryCases, ClauseName::Approvals]
        {
            ruling.not_applicable(name, "", "judged before activation");
        }
        return;
    }
    if plan.labelling.acknowledge {
        let done = evidence.acknowledged.contains(&plan.labelling.ifu_sha256);
        let why = format!(
            "instructions for use version {}: {}",
            plan.labelling.version,
            if done { "acknowledged" } else { "nobody has acknowledged them" }
        );
        ruling.rule(ClauseName::Labelling, "", done, why);
    } else {
        ruling.not_applicable(ClauseName::Labelling, "", "the plan asks for no acknowledgement");
    }
    if first {
        for name in [ClauseName::ShadowHours, ClauseName::CanaryCases] {
            ruling.not_applicable(name, "", "nothing is installed to run beside");
        }
    } else {
        ruling.rule(
            ClauseName::ShadowHours,
            "",
            evidence.shadow_hours >= plan.site.shadow_hours,
            format!("{:.2} hours in shadow, asked for are {}", evidence.shadow_hours, plan.site.shadow_hours),
        );
        let report = evidence.shadow_report.as_ref();
        let report = report.map(|sha256| format!("; report {sha256}")).unwrap_or_default();
        ruling.rule(
            ClauseName::CanaryCases,
            "",
            evidence.canary_cases >= plan.site.canary_cases,
            format!(
                "{} studies in shadow, asked for are {}{report}",
                evidence.canary_cases, plan.site.canary_cases
            ),
        );
    }
    let found = people(&evidence.approvals);
    ruling.rule(
        ClauseName::Approvals,
        "",
        found >= approvals as usize,
        format!("{found} different people approved, asked for are {approvals}"),
    );
}
