//! What a monitor reads of a model's live studies, and what the reading asks for.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::document::{Action, Monitor, Watched};
use crate::metrics::{MetricError, kolmogorov_smirnov, percentile, population_stability_index};

/// Bins of the population stability index.
const BINS: usize = 10;

/// What a version said of one study.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Place among all studies of the version; the same study has the same place in every list.
    pub place: i64,
    /// Whether the model failed on it.
    pub failed: bool,
    /// Whether any finding was flagged.
    pub flagged: bool,
    /// How long the run took, in ms.
    pub latency_ms: f64,
    /// The greatest score of each label.
    pub scores: BTreeMap<String, f64>,
}

/// What a monitor asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Alarm {
    /// Nothing.
    None,
    /// Telling people.
    Warn,
    /// The plan's action.
    Stop(Action),
}

/// Judges a reading. A reading that is not a number stops: a monitor that cannot see is no reason
/// to go on.
pub fn judge(monitor: &Monitor, reading: f64) -> Alarm {
    if reading.is_nan() || reading >= monitor.stop {
        Alarm::Stop(monitor.action)
    } else if reading >= monitor.warn {
        Alarm::Warn
    } else {
        Alarm::None
    }
}

/// A monitor's reading; none while there are too few studies to tell. `first` are the studies that the version ran
/// on first on this box, in shadow or live; `live` are those of the present activation. Both begin with the oldest.
///
/// A share counts from the first study on, over the whole window: what is still to come counts as well, so that an
/// early reading is the least that the full window can give. Drift compares the last window with the first: what a
/// version does now with what it did when people approved it.
pub fn reading(monitor: &Monitor, first: &[Observed], live: &[Observed]) -> Option<f64> {
    let window = monitor.window_studies as usize;
    match monitor.metric {
        Watched::FailedShare => Some(share(live, window, |study| study.failed)),
        Watched::FlaggedShare => Some(share(live, window, |study| study.flagged)),
        Watched::LatencyP95Ms => {
            let mut times: Vec<f64> = last(live.iter().filter(|study| !study.failed), window)?
                .map(|study| study.latency_ms)
                .collect();
            times.sort_by(f64::total_cmp);
            Some(percentile(&times, 0.95).unwrap_or(f64::NAN))
        }
        Watched::ScorePsi => {
            drift(first, live, window, |then, now| population_stability_index(then, now, BINS))
        }
        Watched::ScoreKs => {
            drift(first, live, window, |then, now| Ok(kolmogorov_smirnov(then, now)?.statistic))
        }
    }
}

fn share(live: &[Observed], window: usize, counts: fn(&Observed) -> bool) -> f64 {
    let begin = live.len().saturating_sub(window);
    live[begin..].iter().filter(|study| counts(study)).count() as f64 / window as f64
}

/// The last `window` of them, if there are as many.
fn last<'a>(
    studies: impl Iterator<Item = &'a Observed>,
    window: usize,
) -> Option<impl Iterator<Item = &'a Observed>> {
    let all: Vec<&Observed> = studies.collect();
    let begin = all.len().checked_sub(window)?;
    Some(all.into_iter().skip(begin))
}

/// The worst of all labels.
fn drift(
    first: &[Observed],
    live: &[Observed],
    window: usize,
    measure: impl Fn(&[f64], &[f64]) -> Result<f64, MetricError>,
) -> Option<f64> {
    let then: Vec<&Observed> = first.iter().filter(|study| !study.failed).take(window).collect();
    let places: BTreeSet<i64> = then.iter().map(|study| study.place).collect();
    let later = live.iter().filter(|study| !study.failed && !places.contains(&study.place));
    let now: Vec<&Observed> = last(later, window)?.collect();
    if then.len() < window {
        return None;
    }
    let labels: BTreeSet<&String> = then.iter().chain(&now).flat_map(|study| study.scores.keys()).collect();
    let of = |studies: &[&Observed], label: &String| -> Vec<f64> {
        studies.iter().map(|study| study.scores.get(label).copied().unwrap_or(0.0)).collect()
    };
    let worse =
        |worst: f64, found: f64| if worst.is_nan() || found.is_nan() { f64::NAN } else { worst.max(found) };
    let found = labels
        .into_iter()
        .map(|label| measure(&of(&then, label), &of(&now, label)).unwrap_or(f64::NAN))
        .reduce(worse);
    Some(found.unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn monitor(metric: Watched, window_studies: u32) -> Monitor {
        Monitor { id: "m".into(), metric, window_studies, warn: 0.1, stop: 0.25, action: Action::Revert }
    }

    fn study(place: i64, score: f64) -> Observed {
        Observed {
            place,
            failed: false,
            flagged: false,
            latency_ms: place as f64,
            scores: BTreeMap::from([("disk".into(), score)]),
        }
    }

    #[test]
    fn bounds_belong_to_the_alarm_and_a_blind_monitor_stops() {
        let monitor = monitor(Watched::ScorePsi, 100);
        assert_eq!(judge(&monitor, 0.09), Alarm::None);
        assert_eq!(judge(&monitor, 0.1), Alarm::Warn);
        assert_eq!(judge(&monitor, 0.25), Alarm::Stop(Action::Revert));
        assert_eq!(judge(&monitor, f64::NAN), Alarm::Stop(Action::Revert));
    }

    #[test]
    fn a_share_is_the_least_that_the_full_window_can_give() {
        let monitor = monitor(Watched::FailedShare, 4);
        let failed = |place| Observed { failed: true, ..study(place, 0.0) };
        assert_eq!(reading(&monitor, &[], &[]), Some(0.0));
        assert_eq!(reading(&monitor, &[], &[failed(1)]), Some(0.25));
        let five = [failed(1), study(2, 0.5), study(3, 0.5), study(4, 0.5), study(5, 0.5)];
        assert_eq!(reading(&monitor, &[], &five), Some(0.0), "the first one has left the window");
        let flagged = Observed { flagged: true, ..study(2, 0.5) };
        let monitor = Monitor { metric: Watched::FlaggedShare, ..monitor };
        assert_eq!(reading(&monitor, &[], &[failed(1), flagged]), Some(0.25));
    }

    #[test]
    fn latency_needs_a_full_window_of_runs() {
        let monitor = monitor(Watched::LatencyP95Ms, 2);
        let failed = Observed { failed: true, latency_ms: 1e9, ..study(3, 0.0) };
        assert_eq!(reading(&monitor, &[], &[study(1, 0.5), failed.clone()]), None);
        let found = reading(&monitor, &[], &[study(1, 0.5), study(2, 0.5), failed, study(4, 0.5)]);
        assert!((found.expect("two ran") - 3.9).abs() < 1e-12, "{found:?}");
    }

    #[test]
    fn drift_is_the_last_window_against_the_first_and_never_against_itself() {
        let monitor = monitor(Watched::ScoreKs, 3);
        let low: Vec<Observed> = (1..=3).map(|place| study(place, 0.1)).collect();
        assert_eq!(reading(&monitor, &low, &low), None, "the first window is not its own comparison");
        let all: Vec<Observed> = low.iter().cloned().chain((4..=6).map(|place| study(place, 0.9))).collect();
        assert_eq!(reading(&monitor, &all[..5], &all[..5]), None);
        assert_eq!(reading(&monitor, &all, &all), Some(1.0));
        assert_eq!(reading(&monitor, &all[..2], &all), None);
        let same: Vec<Observed> = (4..=6).map(|place| study(place, 0.1)).collect();
        assert_eq!(reading(&monitor, &low, &same), Some(0.0));
        let psi = Monitor { metric: Watched::ScorePsi, ..monitor.clone() };
        assert!(reading(&psi, &all, &all).expect("full") > 1.0);
        let blind: Vec<Observed> = (4..=6).map(|place| study(place, f64::NAN)).collect();
        assert!(reading(&monitor, &low, &blind).expect("full").is_nan());
    }
}
