//! What the site file says of completeness, in the form in which it is asked.

use std::collections::BTreeMap;

use lightbox_provisioning::site::{Rule, Site, Start};

use crate::dispatch::Dispatch;
use crate::ingest::rules::Routing;
use crate::phi::Phi;

/// Timers, and the rules' own words on them.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `timers.quiet_seconds`.
    pub quiet_ms: i64,
    /// `timers.longest_seconds`.
    pub longest_ms: i64,
    /// `timers.settle_seconds`.
    pub settle_ms: i64,
    /// Whether a PACS is asked for its count.
    pub asks_count: bool,
    rules: Vec<Rule>,
}

/// What a model that starts with the series does with one series.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesStart {
    /// The series.
    pub series: Phi<String>,
    /// Model, as named in the site file.
    pub model: String,
    /// Where its results go, by destination.
    pub deliver: BTreeMap<String, Dispatch>,
}

impl Policy {
    /// From the site file.
    pub fn of(site: &Site) -> Self {
        let timers = &site.file.timers;
        let ms = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX / 2000) * 1000;
        Policy {
            quiet_ms: ms(timers.quiet_seconds),
            longest_ms: ms(timers.longest_seconds),
            settle_ms: ms(timers.settle_seconds),
            asks_count: timers.count_at.is_some(),
            rules: site.file.rule.clone(),
        }
    }

    /// Whether any rule starts with the series.
    pub fn starts_series(&self) -> bool {
        self.rules.iter().any(|rule| rule.start == Start::Series)
    }

    /// Whether any rule wants priors, which are looked for while the study comes.
    pub fn wants_priors(&self) -> bool {
        self.rules.iter().any(|rule| rule.priors.is_some())
    }

    /// Whether a rule has something to say before a study is complete.
    pub fn asks_rules(&self) -> bool {
        self.starts_series()
            || self.wants_priors()
            || self.rules.iter().any(|rule| rule.quiet_seconds.is_some())
    }

    /// The shortest silence after which anything can happen to a study without other evidence.
    pub fn shortest_ms(&self) -> i64 {
        let rules = self.rules.iter().filter_map(|rule| rule.quiet_seconds).map(|quiet| quiet as i64 * 1000);
        let asked = self.asks_count.then_some(self.settle_ms);
        rules.chain(asked).fold(self.quiet_ms, i64::min)
    }

    fn rule(&self, name: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.name == name)
    }

    /// The rules that matched a series.
    fn matched<'a>(
        &'a self,
        routing: &'a Routing,
        series: &'a Phi<String>,
    ) -> impl Iterator<Item = &'a Rule> {
        let of_series = routing.decisions.iter().filter(move |one| one.matched && one.series_uid == *series);
        of_series.filter_map(|decision| self.rule(&decision.rule))
    }

    /// The quiet timer of a series: the longest of the rules that match it, else the site's.
    pub fn quiet_ms_of(&self, routing: &Routing, series: &Phi<String>) -> i64 {
        let of_rules = self.matched(routing, series).filter_map(|rule| rule.quiet_seconds).max();
        of_rules.map_or(self.quiet_ms, |seconds| seconds as i64 * 1000)
    }

    /// Takes out of a routing what starts with its series, so that what is left starts with the study.
    pub fn take_series_starts(&self, routing: &mut Routing) -> Vec<SeriesStart> {
        let mut starts = Vec::new();
        for (model, assignment) in &mut routing.models {
            let all = std::mem::take(&mut assignment.series);
            let early = |series: &Phi<String>| {
                routing.decisions.iter().any(|one| {
                    one.matched
                        && one.series_uid == *series
                        && self
                            .rule(&one.rule)
                            .is_some_and(|rule| rule.start == Start::Series && rule.models.contains(model))
                })
            };
            let (with_series, with_study): (Vec<_>, Vec<_>) = all.into_iter().partition(early);
            assignment.series = with_study;
            starts.extend(with_series.into_iter().map(|series| SeriesStart {
                series,
                model: model.clone(),
                deliver: assignment.deliver.clone(),
            }));
        }
        routing.models.retain(|_, assignment| !assignment.series.is_empty());
        starts
    }
}
