//! The plan's ruling: a sound update, and the same update with one flaw each, which must be refused
//! by exactly the clauses that the flaw is named for.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use lightbox_models::Manifest;
use lightbox_models::acceptance::{Row, Run};
use lightbox_models::manifest::{Claim, File, Label, Performance, Precision, Resize, Role};
use lightbox_models::metrics::SplitMix64;
use lightbox_models::plan::{
    Candidate, Change, ClauseName, Comparator, Equivalence, Evidence, GoldenOutcome, Installed, Metric,
    Outcome, Plan, Scope, Stage, Tier, Verdict, changes, evaluate, explain, io_schema_digest, site_threshold,
    text_digest, updates_after,
};

const SET: &str = "5e75e75e75e75e75e75e75e75e75e75e75e75e75e75e75e75e75e75e75e75e75";
const OLD: &str = "01d01d01d01d01d01d01d01d01d01d01d01d01d01d01d01d01d01d01d01d01d0";
const NEW: &str = "4e04e04e04e04e04e04e04e04e04e04e04e04e04e04e04e04e04e04e04e04e04";
const DEVICE: &str = "09521234543213";

/// Everything that an evaluation is given, to be flawed.
struct Fixture {
    plan: String,
    old: Option<Manifest>,
    new: Manifest,
    digest: String,
    updates: BTreeMap<String, u32>,
    scope: Scope,
    /// Indices of positive cases that the candidate misses, and with which score.
    missed: Vec<(usize, f64)>,
    set: String,
    cases: usize,
    evidence: Evidence,
    /// The last word on the runs.
    runs: fn(&mut Vec<Run>),
}

fn manifest() -> Manifest {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/phantom-detector/bundle/manifest.toml");
    let mut manifest = Manifest::read(&path, &std::fs::read_to_string(&path).unwrap()).unwrap();
    manifest.indication.age_min_years = Some(22.0);
    manifest.indication.manufacturers = vec!["Acme".into()];
    manifest
}

fn plan(manifest: &Manifest) -> String {
    include_str!("plan/sound.toml")
        .replace("INTENDED_USE", &text_digest(&manifest.model.intended_use))
        .replace("IO_SCHEMA", &io_schema_digest(manifest))
        .replace("ACCEPTANCE_SET", SET)
        .replace("BASELINE", OLD)
}

fn file(role: Role, name: &str) -> File {
    File { path: name.into(), role, size: 1, sha256: "ab".repeat(32) }
}

/// A declared sensitivity on the plan's set.
fn declared(estimate: f64) -> Performance {
    Performance {
        set_sha256: SET.into(),
        label: "disk".into(),
        metric: Metric::Sensitivity,
        tier: Some(Tier::Flagged),
        estimate,
        tolerance: 0.001,
    }
}

impl Fixture {
    /// Retrained weights and a moved threshold, all evidence given, ready to become active.
    fn sound() -> Fixture {
        let old = manifest();
        let mut new = old.clone();
        new.model.version = "2.0.0".into();
        new.model.release = 2;
        new.file[0].sha256 = "cd".repeat(32);
        new.label[0].reported_min = Some(0.75);
        Fixture {
            plan: plan(&old),
            old: Some(old),
            new,
            digest: NEW.into(),
            updates: BTreeMap::new(),
            scope: Scope::Global,
            missed: vec![(1, 0.39)],
            set: SET.into(),
            cases: 100,
            evidence: Evidence {
                stage: Stage::Activation,
                now: 1_800_000_000,
                device_udi_di: DEVICE.into(),
                engine_build: Some("onnxruntime 1.24 cpu".into()),
                precision: Precision::Fp32,
                accelerated: false,
                golden: vec![GoldenOutcome { name: "two disks".into(), deviations: Vec::new() }],
                equivalence: Vec::new(),
                runs: Vec::new(),
                compared: BTreeMap::new(),
                acknowledged: vec!["aa".repeat(32)],
                canary_cases: 20,
                shadow_hours: 48.0,
                shadow_report: Some("ab".repeat(32)),
                approvals: vec!["ada".into(), "grace".into()],
            },
            runs: |_| {},
        }
    }

    /// The same with a 16-bit network that this box will use.
    fn fp16() -> Fixture {
        let mut fixture = Fixture::sound();
        fixture.new.file.push(file(Role::NetworkFp16, "model16.onnx"));
        fixture.evidence.precision = Precision::Fp16;
        fixture.evidence.accelerated = true;
        fixture.evidence.equivalence =
            vec![Equivalence { name: "two disks".into(), score: 0.004, box_px: 0.2, flipped: false }];
        fixture
    }

    fn first() -> Fixture {
        let mut fixture = Fixture::sound();
        fixture.new = fixture.old.take().unwrap();
        fixture.digest = OLD.into();
        fixture
    }

    fn rule(mut self) -> Verdict {
        let plan = Plan::read(Path::new("plan.toml"), &self.plan).unwrap();
        let run = |model: &str, label: &Label, missed: &[(usize, f64)]| {
            let rows = rows(self.cases, label, missed);
            Run {
                model: model.into(),
                set_sha256: self.set.clone(),
                cases: rows.iter().map(|row| row.case.clone()).collect(),
                rows,
            }
        };
        self.evidence.runs = vec![run(&self.digest, &self.new.label[0], &self.missed)];
        if let Some(old) = &self.old {
            self.evidence.compared.insert(Comparator::Current, vec![run(OLD, &old.label[0], &[])]);
        }
        (self.runs)(&mut self.evidence.runs);
        let installed =
            self.old.as_ref().map(|manifest| Installed { manifest, digest: OLD, updates: &self.updates });
        let candidate = Candidate { manifest: &self.new, digest: &self.digest, scope: self.scope };
        evaluate(&plan, installed.as_ref(), &candidate, &self.evidence)
    }
}

/// Half of the cases positive with scores from 0.76, half negative with scores to 0.35; every fifth
/// pair of cases is of women.
fn rows(cases: usize, label: &Label, missed: &[(usize, f64)]) -> Vec<Row> {
    let mut random = SplitMix64::new(5);
    (0..cases)
        .map(|at| {
            let truth = at % 2 == 1;
            let part = random.below(1000) as f64 / 1000.0;
            let score = match missed.iter().find(|(missed, _)| *missed == at) {
                Some((_, score)) => *score,
                None if truth => 0.76 + 0.2 * part,
                // One negative case above the missed positive one, so that the AUC is not 1.
                None if at == 50 => 0.395,
                None => 0.05 + 0.3 * part,
            };
            let sex = if at / 2 % 5 == 0 { "F" } else { "M" };
            Row {
                case: format!("case-{at}"),
                label: "disk".into(),
                score,
                tier: Tier::of(label, score),
                truth,
                overlap: None,
                groups: BTreeMap::from([("sex".to_owned(), sex.to_owned())]),
            }
        })
        .collect()
}

fn broken(verdict: &Verdict) -> BTreeSet<ClauseName> {
    verdict.broken().map(|clause| clause.name).collect()
}

#[track_caller]
fn assert_allowed(fixture: Fixture) -> Verdict {
    let verdict = fixture.rule();
    assert!(verdict.allows(), "{}", explain(&verdict));
    verdict
}

type Flaw = (&'static str, fn(&mut Fixture), ClauseName);

fn first_label(fixture: &mut Fixture) -> &mut Label {
    &mut fixture.new.label[0]
}

/// Takes everything of a plan's text from one line up to, not including, another.
fn cut(plan: &mut String, from: &str, to: &str) {
    let start = plan.find(from).unwrap();
    let end = start + plan[start..].find(to).unwrap();
    plan.replace_range(start..end, "");
}

const FLAWS: &[Flaw] = &[
    ("expired_plan", |f| f.evidence.now = 1_900_000_000, ClauseName::PlanInForce),
    ("expired_plan_to_the_second", |f| f.evidence.now = 1_830_297_600, ClauseName::PlanInForce),
    (
        "plan_of_another_model",
        |f| f.plan = f.plan.replace("model = \"lightbox", "model = \"other"),
        ClauseName::PlanScope,
    ),
    (
        "submission_of_another_clearance",
        |f| f.new.regulatory.submission = Some("K999999".into()),
        ClauseName::PlanScope,
    ),
    ("wrong_device", |f| f.evidence.device_udi_di = "00000000000000".into(), ClauseName::Device),
    ("bundle_for_another_device", |f| f.new.device.udi_di = vec!["1".into()], ClauseName::Device),
    ("older_release", |f| f.old.as_mut().unwrap().model.release = 3, ClauseName::NewerRelease),
    ("same_release", |f| f.new.model.release = 1, ClauseName::NewerRelease),
    ("intended_use_reworded", |f| f.new.model.intended_use.push('!'), ClauseName::IntendedUse),
    ("claim_raised", |f| f.new.regulatory.claim = Claim::Diagnosis, ClauseName::Claim),
    ("indication_widened", |f| f.new.indication.body_parts.push("CHEST".into()), ClauseName::Indication),
    ("indication_without_bound", |f| f.new.indication.age_min_years = None, ClauseName::Indication),
    ("modality_added", |f| f.new.indication.modalities.push("MR".into()), ClauseName::Indication),
    ("manufacturer_any", |f| f.new.indication.manufacturers.clear(), ClauseName::Indication),
    (
        "input_shape_changed",
        |f| f.new.input.resize = Resize::Fit { width: 512, height: 512 },
        ClauseName::IoSchema,
    ),
    (
        "output_tensor_renamed",
        |f| f.new.output.detection.as_mut().unwrap().boxes = "b".into(),
        ClauseName::IoSchema,
    ),
    (
        "label_added",
        |f| {
            let ring = Label { index: 1, name: "ring".into(), ..f.new.label[0].clone() };
            f.new.label.push(ring);
        },
        ClauseName::Labels,
    ),
    (
        "label_code_changed",
        |f| first_label(f).finding.as_mut().unwrap().value = "X".into(),
        ClauseName::Labels,
    ),
    ("wording_changed", |f| f.new.model.looked_for = "cancers".into(), ClauseName::LockedFields),
    ("vendor_changed", |f| f.new.model.vendor = "Other".into(), ClauseName::LockedFields),
    ("template_added", |f| f.new.file.push(file(Role::Template, "report.txt")), ClauseName::LockedFields),
    (
        "unlisted_modification_kind",
        |f| {
            cut(&mut f.plan, "[[allowed]]\nid = \"M1\"", "[[allowed]]\nid = \"M2\"");
            f.plan = f.plan.replace("\"M1\", ", "").replace("[\"M1\"]", "[\"M2\"]");
        },
        ClauseName::Modification,
    ),
    ("unlisted_manufacturer", |f| f.new.indication.manufacturers.push("Zeta".into()), ClauseName::Indication),
    ("licence_changed_unlisted", |f| f.new.file[3].sha256 = "00".repeat(32), ClauseName::Modification),
    ("threshold_of_no_modification", |f| first_label(f).flagged_min = Some(0.38), ClauseName::Modification),
    (
        "only_the_version",
        |f| {
            let release = f.new.model.release;
            f.new = f.old.clone().unwrap();
            f.new.model.release = release;
            f.updates.clear();
        },
        ClauseName::Modification,
    ),
    (
        "local_modification_in_a_global_release",
        |f| f.plan = f.plan.replacen("scope = \"global\"", "scope = \"local\"", 1),
        ClauseName::Modification,
    ),
    ("threshold_outside_bounds", |f| first_label(f).reported_min = Some(0.85), ClauseName::ThresholdBounds),
    (
        "threshold_step_too_large",
        |f| {
            f.old.as_mut().unwrap().label[0].reported_min = Some(0.55);
        },
        ClauseName::ThresholdBounds,
    ),
    (
        "cumulative_bound_passed",
        |f| {
            f.old.as_mut().unwrap().label[0].reported_min = Some(0.6);
            first_label(f).reported_min = Some(0.5);
        },
        ClauseName::CumulativeBound,
    ),
    (
        "too_many_retrainings",
        |f| {
            f.updates.insert("M1".into(), 3);
        },
        ClauseName::CumulativeBound,
    ),
    ("missing_sbom", |f| f.new.file.retain(|file| file.role != Role::Sbom), ClauseName::Sbom),
    ("engine_of_another_build", |f| f.evidence.engine_build = Some("other".into()), ClauseName::EngineBuild),
    ("engine_unnamed", |f| f.evidence.engine_build = None, ClauseName::EngineBuild),
    (
        "golden_case_failed",
        |f| f.evidence.golden[0].deviations.push("scores: off".into()),
        ClauseName::GoldenCases,
    ),
    ("golden_case_left_out", |f| f.evidence.golden.clear(), ClauseName::GoldenCases),
    ("acceptance_set_swapped", |f| f.set = "ee".repeat(32), ClauseName::AcceptanceSet),
    ("case_that_did_not_run", |f| f.runs = |runs| drop(runs[0].rows.pop()), ClauseName::AcceptanceSet),
    (
        "case_counted_twice",
        |f| f.runs = |runs| runs[0].rows.extend_from_within(..1),
        ClauseName::AcceptanceSet,
    ),
    ("run_of_another_bundle", |f| f.runs = |runs| runs[0].model = OLD.into(), ClauseName::AcceptanceSet),
    (
        "tier_that_no_threshold_gives",
        |f| f.runs = |runs| runs[0].rows[0].tier = Tier::Reported,
        ClauseName::AcceptanceSet,
    ),
    (
        "too_few_cases",
        |f| f.plan = f.plan.replace("positive_min = 50", "positive_min = 51"),
        ClauseName::CasesMinimum,
    ),
    (
        "estimate_missed",
        |f| f.plan = f.plan.replace("estimate_min = 0.88", "estimate_min = 0.99"),
        ClauseName::Estimate,
    ),
    (
        // 45 of 50 found: 0.90 reaches the 0.88 that is asked for, Wilson's bound of 0.786 not the 0.80.
        "ci_lower_bound_missed_with_passing_point_estimate",
        |f| f.missed = [1, 3, 5, 7, 9].map(|at| (at, 0.39)).to_vec(),
        ClauseName::ConfidenceBound,
    ),
    (
        "declared_performance_not_reached_here",
        // Both sides count: what is much better than declared is another network as well.
        |f| f.new.performance = vec![declared(0.93)],
        ClauseName::DeclaredEvidence,
    ),
    (
        // Four positive cases among the negative ones: AUC and sensitivity pass, the comparison does not.
        "worse_than_the_active_version",
        |f| f.missed = [1, 3, 5, 7].map(|at| (at, 0.2)).to_vec(),
        ClauseName::NonInferiority,
    ),
    (
        // Three of ten women missed; of all, 47 of 50 are found.
        "subgroup_below_floor",
        |f| f.missed = [1, 11, 21].map(|at| (at, 0.39)).to_vec(),
        ClauseName::SubgroupFloor,
    ),
    (
        "subgroup_absent",
        |f| {
            f.runs = |runs| {
                for row in &mut runs[0].rows {
                    row.groups.clear();
                }
            };
        },
        ClauseName::SubgroupFloor,
    ),
    ("instructions_not_acknowledged", |f| f.evidence.acknowledged.clear(), ClauseName::Labelling),
    ("shadow_too_short", |f| f.evidence.shadow_hours = 23.0, ClauseName::ShadowHours),
    ("shadow_hours_not_a_number", |f| f.evidence.shadow_hours = f64::NAN, ClauseName::ShadowHours),
    ("too_few_canary_cases", |f| f.evidence.canary_cases = 9, ClauseName::CanaryCases),
    (
        "two_approvals_by_one_person",
        |f| f.evidence.approvals = vec!["ada".into(), " ADA ".into()],
        ClauseName::Approvals,
    ),
    (
        "manual_without_anyone",
        |f| {
            f.plan = f.plan.replace("approvals = 2", "approvals = 0");
            f.evidence.approvals.clear();
        },
        ClauseName::Approvals,
    ),
];

const FLAWS_OF_FP16: &[Flaw] = &[
    ("fp16_outside_tolerance", |f| f.evidence.equivalence[0].score = 0.02, ClauseName::Equivalence),
    ("fp16_box_outside_tolerance", |f| f.evidence.equivalence[0].box_px = 1.5, ClauseName::Equivalence),
    ("fp16_flips_a_finding", |f| f.evidence.equivalence[0].flipped = true, ClauseName::Equivalence),
    ("fp16_not_a_number", |f| f.evidence.equivalence[0].score = f64::NAN, ClauseName::Equivalence),
    ("fp16_not_compared", |f| f.evidence.equivalence.clear(), ClauseName::Equivalence),
    (
        "fp16_not_planned",
        |f| {
            cut(&mut f.plan, "[[allowed]]\nid = \"M3\"", "[[criterion]]");
            f.plan = f.plan.replace("\"M3\", ", "");
        },
        ClauseName::Modification,
    ),
];

const FLAWS_OF_A_FIRST_INSTALLATION: &[Flaw] = &[
    ("no_baseline", |f| f.digest = NEW.into(), ClauseName::FirstInstallation),
    ("no_baseline_that_was_measured", |f| f.set = "ee".repeat(32), ClauseName::AcceptanceSet),
];

#[test]
fn a_sound_update_and_a_sound_first_installation_are_allowed() {
    let verdict = assert_allowed(Fixture::sound());
    assert_eq!(verdict.modifications, ["M1", "M2"]);
    assert_eq!(verdict.approvals, 2);
    let updates = updates_after(&BTreeMap::from([("M1".to_owned(), 1)]), &verdict);
    assert_eq!(updates, BTreeMap::from([("M1".to_owned(), 2), ("M2".to_owned(), 1)]));
    assert_allowed(Fixture::fp16());
    assert!(assert_allowed(Fixture::first()).modifications.is_empty());
}

#[test]
fn each_flaw_is_refused_by_its_clause_and_no_other() {
    let mut names = BTreeSet::new();
    for (sound, flaws) in [
        (Fixture::sound as fn() -> Fixture, FLAWS),
        (Fixture::fp16, FLAWS_OF_FP16),
        (Fixture::first, FLAWS_OF_A_FIRST_INSTALLATION),
    ] {
        for (name, flaw, clause) in flaws {
            assert!(names.insert(*name), "{name} is given twice");
            let mut fixture = sound();
            flaw(&mut fixture);
            let verdict = fixture.rule();
            assert_eq!(broken(&verdict), BTreeSet::from([*clause]), "{name}:\n{}", explain(&verdict));
            assert!(!verdict.allows(), "{name}");
        }
    }
    // Every clause that a plan has is broken by some flaw.
    let ruled: BTreeSet<ClauseName> = [FLAWS, FLAWS_OF_FP16, FLAWS_OF_A_FIRST_INSTALLATION]
        .concat()
        .iter()
        .map(|(_, _, clause)| *clause)
        .collect();
    let all: BTreeSet<ClauseName> =
        Fixture::sound().rule().clauses.into_iter().map(|clause| clause.name).collect();
    assert_eq!(ruled, all);
}

#[test]
fn what_the_vendor_declares_is_found_again_or_refused() {
    let ruled = |estimate| {
        let mut fixture = Fixture::sound();
        fixture.new.performance = vec![declared(estimate)];
        fixture.rule()
    };
    // 49 of 50 found.
    let verdict = ruled(0.98);
    assert!(verdict.allows(), "{}", explain(&verdict));
    let clause =
        verdict.clauses.iter().find(|one| one.name == ClauseName::DeclaredEvidence && one.subject == "C2");
    assert_eq!(clause.unwrap().outcome, Outcome::Met);
    for wrong in [0.93, 1.0] {
        assert_eq!(broken(&ruled(wrong)), BTreeSet::from([ClauseName::DeclaredEvidence]), "{wrong}");
    }
}

#[test]
fn what_is_not_known_yet_is_not_applicable_early_and_broken_late() {
    let stripped = |stage| {
        let mut fixture = Fixture::sound();
        fixture.evidence = Evidence {
            stage,
            engine_build: None,
            golden: Vec::new(),
            acknowledged: Vec::new(),
            canary_cases: 0,
            shadow_hours: 0.0,
            shadow_report: None,
            approvals: Vec::new(),
            ..fixture.evidence
        };
        fixture.runs = Vec::clear;
        fixture.rule()
    };
    let early = stripped(Stage::Admission);
    assert!(early.allows(), "{}", explain(&early));
    let run = stripped(Stage::Acceptance);
    assert_eq!(
        broken(&run),
        BTreeSet::from([ClauseName::EngineBuild, ClauseName::GoldenCases, ClauseName::AcceptanceSet])
    );
    let late = broken(&stripped(Stage::Activation));
    for name in
        [ClauseName::Labelling, ClauseName::ShadowHours, ClauseName::CanaryCases, ClauseName::Approvals]
    {
        assert!(late.contains(&name), "{name}");
    }
}

#[test]
fn a_narrower_sub_population_is_a_change_that_the_plan_must_allow() {
    let mut fixture = Fixture::sound();
    fixture.new.indication.age_min_years = Some(30.0);
    let verdict = fixture.rule();
    assert_eq!(broken(&verdict), BTreeSet::from([ClauseName::Modification]), "{}", explain(&verdict));

    let mut fixture = Fixture::sound();
    fixture.new.indication.manufacturers.push("bETA".into());
    assert_eq!(assert_allowed(fixture).modifications, ["M1", "M2", "M4"]);
}

#[test]
fn equal_manifests_do_not_differ_and_each_threshold_does() {
    let old = manifest();
    assert_eq!(changes(&old, &old), []);
    let mut new = old.clone();
    new.label[0].flagged_min = None;
    assert!(matches!(changes(&old, &new)[..], [Change::Threshold(_)]));
}

#[test]
fn a_verdict_is_explained_in_words_and_kept_as_json() {
    let mut fixture = Fixture::sound();
    first_label(&mut fixture).reported_min = Some(0.85);
    let verdict = fixture.rule();
    let text = explain(&verdict);
    assert!(text.contains("activation under plan PCCP-DISKS version 3: refused, 1 clause broken"), "{text}");
    assert!(text.contains("threshold_bounds (disk reported): 0.7 to 0.85, allowed are 0.4 to 0.8"), "{text}");
    let json = serde_json::to_string(&verdict).unwrap();
    assert!(json.contains(r#""name":"threshold_bounds""#), "{json}");
    assert_eq!(serde_json::from_str::<Verdict>(&json).unwrap(), verdict);
}

#[test]
fn a_site_sets_thresholds_within_the_plan_only() {
    let plan = Plan::read(Path::new("plan.toml"), &Fixture::sound().plan).unwrap();
    let ruled = |label, tier, value| site_threshold(&plan, label, tier, value).outcome;
    assert_eq!(ruled("disk", Tier::Flagged, 0.45), Outcome::Met);
    assert_eq!(ruled("disk", Tier::Flagged, 0.51), Outcome::Broken);
    assert_eq!(ruled("disk", Tier::Flagged, f64::NAN), Outcome::Broken);
    assert_eq!(ruled("disk", Tier::Reported, 0.45), Outcome::Broken);
    assert_eq!(ruled("ring", Tier::Flagged, 0.45), Outcome::Broken);
}

/// Each with the line that is told, and words of what is said of it.
const UNREADABLE: &[(&str, &str, &str, &str)] = &[
    ("unknown_plan_key", "expires =", "until =", "unknown field `until`"),
    ("unknown_change_key", "step_max =", "step =", "unknown field `step`"),
    ("later_schema", "schema = 1", "schema = 2", "schema 2 is not known"),
    ("no_time", "2028-01-01T00:00:00Z", "next year", "plan.expires: not a time"),
    ("not_a_digest", "ifu_sha256 = \"aa", "ifu_sha256 = \"AA", "labelling.ifu_sha256: not a SHA-256"),
    (
        "label_unknown",
        "label = \"disk\"\ntier = \"reported\"",
        "label = \"rings\"\ntier = \"reported\"",
        "no locked label",
    ),
    (
        "delong_of_sensitivity",
        "method = \"wilson\"",
        "method = \"delong\"",
        "gives no interval for this metric",
    ),
    ("bootstrap_without_seed", "method = \"wilson\"", "method = \"bootstrap\"", "`resamples`"),
    ("three_people", "approvals = 2", "approvals = 3", "more than two people"),
    (
        "criterion_of_no_modification",
        "[\"M1\", \"M2\", \"M3\", \"M4\"]",
        "[\"M1\", \"M9\"]",
        "no [[criterion]] says",
    ),
    ("nothing_kept", "keep = 2", "keep = 0", "keeps no version"),
    ("warning_after_the_stop", "warn = 0.1", "warn = 0.3", "monitor[0].stop"),
    ("subgroup_without_criterion", "criterion = \"C2\"", "criterion = \"C7\"", "no such criterion"),
    (
        "threshold_in_the_locked_part",
        "name = \"disk\"",
        "name = \"disk\"\nflagged_min = 0.1",
        "has a threshold",
    ),
];

#[test]
fn an_unreadable_plan_is_told_by_line_key_and_remedy() {
    for (name, from, to, told) in UNREADABLE {
        let sound = Fixture::sound().plan;
        assert!(sound.contains(from), "{name}: the fixture has no {from:?}");
        let problem = Plan::read(Path::new("plan.toml"), &sound.replace(from, to)).expect_err(name);
        let text = problem.to_string();
        assert!(text.contains(told) && text.contains("remedy: "), "{name}: {text}");
        assert!(problem.line.is_some(), "{name}: {text}");
    }
}
