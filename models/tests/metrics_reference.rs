//! The metrics against scikit-learn, statsmodels and scipy on 200 random sets, with ties, rare
//! classes and sets on which nothing is defined. The reference is `metrics_reference.py`.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use lightbox_models::metrics::{
    Bootstrap, Confusion, MetricError, Resamples, SplitMix64, auc, delong, dice_of_masks, kolmogorov_smirnov,
    normal_cdf, normal_quantile, paired_delong, percentile_interval, population_stability_index,
};
use serde_json::{Value, json};

const SETS: usize = 200;

struct Set {
    scores: Vec<f64>,
    other: Vec<f64>,
    truth: Vec<bool>,
    threshold: f64,
    resamples: Vec<Vec<usize>>,
}

/// Uniform in 0..1.
fn uniform(random: &mut SplitMix64) -> f64 {
    (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

fn sets() -> Vec<Set> {
    let mut random = SplitMix64::new(20_261_122);
    (0..SETS)
        .map(|at| {
            let cases = 2 + random.below(120) as usize;
            // Every fifth set has rare positives, every twentieth none or only such.
            let share = match at {
                at if at % 40 == 0 => 0.0,
                at if at % 40 == 20 => 1.0,
                at if at % 5 == 0 => 0.06,
                _ => 0.2 + 0.6 * uniform(&mut random),
            };
            let truth: Vec<bool> = (0..cases).map(|_| uniform(&mut random) < share).collect();
            // Coarse steps make ties; one step of 1 makes all scores equal.
            let step = [0.0, 0.1, 0.25, 0.01, 1.0][at % 5];
            let shift = uniform(&mut random);
            let mut drawn = |weight: f64| -> Vec<f64> {
                truth
                    .iter()
                    .map(|truth| {
                        let value = uniform(&mut random) + if *truth { shift * weight } else { 0.0 };
                        if step > 0.0 { (value / step).floor() * step } else { value }
                    })
                    .collect()
            };
            let (scores, other) = (drawn(1.0), drawn(0.7));
            let kind = if at % 2 == 0 { Bootstrap::Stratified } else { Bootstrap::Plain };
            let resamples = Resamples::new(kind, &truth, at as u64).take(25).collect();
            Set { scores, other, truth, threshold: uniform(&mut random), resamples }
        })
        .collect()
}

fn reference(input: &Value) -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("../target/tools/venv/bin/python");
    assert!(python.exists(), "{} is missing; remedy: run `./justw peers`", python.display());
    let mut child = Command::new(python)
        .arg(root.join("tests/metrics_reference.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the reference failed: {}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Both defined and within 1e-9, or both not defined.
fn same(name: &str, at: usize, ours: Result<f64, MetricError>, theirs: &Value) {
    match (&ours, theirs.as_f64()) {
        (Ok(ours), Some(theirs)) => {
            assert!((ours - theirs).abs() <= 1e-9, "set {at}, {name}: {ours} here, {theirs} there");
        }
        (Err(_), None) => assert!(theirs.is_null(), "set {at}, {name}: {theirs}"),
        _ => panic!("set {at}, {name}: {ours:?} here, {theirs} there"),
    }
}

#[test]
fn two_hundred_random_sets_agree_with_the_reference() {
    let sets = sets();
    let probabilities: Vec<f64> =
        (1..400).map(|at| f64::from(at) / 400.0).chain([1e-12, 1e-6, 1.0 - 1e-6]).collect();
    let deviates: Vec<f64> = (-80..80).map(|at| f64::from(at) / 10.0).collect();
    let given: Vec<Value> = sets
        .iter()
        .map(|set| {
            json!({
                "scores": set.scores, "other": set.other, "truth": set.truth,
                "threshold": set.threshold, "resamples": set.resamples,
            })
        })
        .collect();
    let found = reference(&json!({ "sets": given, "probabilities": probabilities, "deviates": deviates }));

    let (mut undefined, mut ties) = (0, 0);
    for (at, set) in sets.iter().enumerate() {
        let theirs = &found["sets"][at];
        let ours = auc(&set.scores, &set.truth);
        undefined += usize::from(ours.is_err());
        let mut distinct = set.scores.clone();
        distinct.sort_by(f64::total_cmp);
        distinct.dedup();
        ties += usize::from(distinct.len() < set.scores.len());
        same("auc", at, ours, &theirs["auc"]);

        let one = delong(&set.scores, &set.truth);
        let pair = paired_delong(&set.scores, &set.other, &set.truth);
        let interval = one.clone().and_then(|one| one.interval(0.95));
        let reference = &theirs["delong"];
        same("variance", at, one.map(|one| one.variance), &reference["variance"]);
        same("lower", at, interval.clone().map(|found| found.lower), &reference["lower"]);
        same("upper", at, interval.map(|found| found.upper), &reference["upper"]);
        same("covariance", at, pair.clone().map(|pair| pair.covariance), &reference["covariance"]);
        same("difference", at, pair.clone().map(|pair| pair.difference()), &reference["difference"]);
        same(
            "difference's variance",
            at,
            pair.map(|pair| pair.variance()),
            &reference["difference_variance"],
        );

        let table = Confusion::at(set.threshold, &set.scores, &set.truth).unwrap();
        for (name, ours) in [
            ("sensitivity", table.sensitivity()),
            ("specificity", table.specificity()),
            ("ppv", table.positive_predictive_value()),
            ("npv", table.negative_predictive_value()),
        ] {
            let interval = ours.clone().and_then(|ours| ours.interval(0.9));
            same(name, at, ours.map(|ours| ours.value()), &theirs[name][0]);
            same(name, at, interval.clone().map(|found| found.lower), &theirs[name][1]);
            same(name, at, interval.map(|found| found.upper), &theirs[name][2]);
        }

        let interval = percentile_interval(set.scores.len(), set.resamples.clone(), 0.95, |drawn| {
            let scores: Vec<f64> = drawn.iter().map(|at| set.scores[*at]).collect();
            let truth: Vec<bool> = drawn.iter().map(|at| set.truth[*at]).collect();
            auc(&scores, &truth)
        });
        same("bootstrap", at, interval.clone().map(|found| found.lower), &theirs["bootstrap"][0]);
        same("bootstrap", at, interval.map(|found| found.upper), &theirs["bootstrap"][1]);

        let smirnov = kolmogorov_smirnov(&set.scores, &set.other);
        same("Kolmogorov-Smirnov", at, smirnov.clone().map(|found| found.statistic), &theirs["smirnov"][0]);
        same("its p", at, smirnov.map(|found| found.p), &theirs["smirnov"][1]);
        let stability = population_stability_index(&set.scores, &set.other, 10);
        same("stability", at, stability, &theirs["stability"]);

        let said: Vec<bool> = set.scores.iter().map(|score| *score >= set.threshold).collect();
        same("dice", at, dice_of_masks(&set.truth, &said), &theirs["dice"]);
    }
    // The sets are of every kind, or the comparison says little.
    assert!((5..50).contains(&undefined), "{undefined} sets are undefined");
    assert!(ties > 80, "{ties} sets have ties");

    for (p, theirs) in probabilities.iter().zip(found["quantiles"].as_array().unwrap()) {
        let (ours, theirs) = (normal_quantile(*p).unwrap(), theirs.as_f64().unwrap());
        assert!((ours - theirs).abs() <= 1e-12 * theirs.abs().max(1.0), "quantile of {p}: {ours}, {theirs}");
    }
    for (z, theirs) in deviates.iter().zip(found["cumulative"].as_array().unwrap()) {
        let (ours, theirs) = (normal_cdf(*z), theirs.as_f64().unwrap());
        assert!((ours - theirs).abs() <= 1e-12 * theirs, "cumulative at {z}: {ours}, {theirs}");
    }
}
