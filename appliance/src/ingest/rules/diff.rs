//! What a changed rule set would do otherwise to a study: pure, from the facts that the ledger keeps.

use std::collections::BTreeMap;

use lightbox_provisioning::site::Edits;
use serde::Serialize;

use super::{Decision, Routing, RuleSet, SeriesFacts};
use crate::dispatch::Dispatch;
use crate::phi::Phi;

/// What a change is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// A rule's word on a series.
    Decision,
    /// A series that a model gets.
    Model,
    /// A destination of a model's results.
    Deliver,
    /// A series that is sent on to a destination.
    Forward,
}

/// One thing that would be different.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// What it is about.
    pub subject: Subject,
    /// The series by its place in the study, from 1; none where it is about the whole study.
    pub series: Option<u32>,
    /// The rules that decide it, by the set on whose side it is.
    pub rules: Vec<String>,
    /// The model.
    pub model: Option<String>,
    /// The destination.
    pub destination: Option<String>,
    /// How it is now; none where it is not.
    pub before: Option<String>,
    /// How it would be; none where it would not be.
    pub after: Option<String>,
    /// The condition that decides. May hold values of the study's header.
    pub because: Phi<String>,
}

/// A study as two rule sets see it.
struct Sides<'a> {
    series: &'a [SeriesFacts],
    old: Side<'a>,
    new: Side<'a>,
}

struct Side<'a> {
    rules: &'a RuleSet,
    routing: Routing,
}

/// What would change for a study; empty where nothing would.
pub fn diff(old: &RuleSet, new: &RuleSet, series: &[SeriesFacts]) -> Vec<Change> {
    let sides = Sides {
        series,
        old: Side { rules: old, routing: old.decide(series) },
        new: Side { rules: new, routing: new.decide(series) },
    };
    if sides.old.routing == sides.new.routing {
        return Vec::new();
    }
    let mut changes = sides.decisions();
    changes.extend(sides.models());
    changes.extend(sides.deliveries());
    changes.extend(sides.forwards());
    changes
}

impl Side<'_> {
    fn decision(&self, series: &Phi<String>, rule: &str) -> Option<&Decision> {
        self.routing.decisions.iter().find(|decision| decision.series_uid == *series && decision.rule == rule)
    }

    /// The rules that matched a series and do something, and why the first of them matched.
    fn doing(
        &self,
        series: Option<&Phi<String>>,
        does: impl Fn(&lightbox_provisioning::site::Rule) -> bool,
    ) -> (Vec<String>, Phi<String>) {
        let mut rules = Vec::new();
        let mut because = None;
        for decision in &self.routing.decisions {
            let asked = series.is_none_or(|series| decision.series_uid == *series);
            let does = decision.matched && asked && self.rules.rule(&decision.rule).is_some_and(&does);
            if does && !rules.contains(&decision.rule) {
                rules.push(decision.rule.clone());
                because.get_or_insert_with(|| decision.because.clone());
            }
        }
        (rules, because.unwrap_or_default())
    }

    /// Why a rule does not match here, or is not asked.
    fn why_not(&self, series: &Phi<String>, rule: &str) -> Phi<String> {
        match self.decision(series, rule) {
            Some(decision) => decision.because.clone(),
            None if self.rules.rule(rule).is_some() => Phi::from("an earlier rule says `stop`"),
            None => Phi::from("there is no such rule"),
        }
    }
}

impl Sides<'_> {
    fn number(&self, series: &Phi<String>) -> Option<u32> {
        self.series.iter().position(|facts| facts.series_uid == *series).map(|index| index as u32 + 1)
    }

    fn decisions(&self) -> Vec<Change> {
        let matched = |side: &Side<'_>| -> Vec<(Phi<String>, String)> {
            let all = side.routing.decisions.iter().filter(|decision| decision.matched);
            all.map(|decision| (decision.series_uid.clone(), decision.rule.clone())).collect()
        };
        let (before, after) = (matched(&self.old), matched(&self.new));
        let gone = before.iter().filter(|pair| !after.contains(pair));
        let come = after.iter().filter(|pair| !before.contains(pair));
        let change = |series: &Phi<String>, rule: &String, matches: bool, because| Change {
            subject: Subject::Decision,
            series: self.number(series),
            rules: vec![rule.clone()],
            model: None,
            destination: None,
            before: (!matches).then(|| "matches".to_owned()),
            after: matches.then(|| "matches".to_owned()),
            because,
        };
        gone.map(|(series, rule)| change(series, rule, false, self.new.why_not(series, rule)))
            .chain(come.map(|(series, rule)| {
                let because = self.new.decision(series, rule).map(|decision| decision.because.clone());
                change(series, rule, true, because.unwrap_or_default())
            }))
            .collect()
    }

    fn models(&self) -> Vec<Change> {
        let given = |side: &Side<'_>| -> Vec<(String, Phi<String>)> {
            let models = side.routing.models.iter();
            models
                .flat_map(|(model, assignment)| {
                    assignment.series.iter().map(|series| (model.clone(), series.clone()))
                })
                .collect()
        };
        let (before, after) = (given(&self.old), given(&self.new));
        let change = |side: &Side<'_>, (model, series): &(String, Phi<String>), added: bool| {
            let (rules, because) = side.doing(Some(series), |rule| rule.models.contains(model));
            let text = side.routing.models.get(model).map(|assignment| results_to(&assignment.deliver));
            let (before, after) = if added { (None, text) } else { (text, None) };
            Change {
                subject: Subject::Model,
                series: self.number(series),
                rules,
                model: Some(model.clone()),
                destination: None,
                before,
                after,
                because,
            }
        };
        let gone = before.iter().filter(|pair| !after.contains(pair));
        let come = after.iter().filter(|pair| !before.contains(pair));
        gone.map(|pair| change(&self.old, pair, false))
            .chain(come.map(|pair| change(&self.new, pair, true)))
            .collect()
    }

    /// Of models that run either way, where their results go and when.
    fn deliveries(&self) -> Vec<Change> {
        let none = BTreeMap::new();
        let mut changes = Vec::new();
        for model in self.old.routing.models.keys() {
            let Some(after) = self.new.routing.models.get(model) else { continue };
            let before = self.old.routing.models.get(model).map_or(&none, |found| &found.deliver);
            let mut destinations: Vec<&String> = before.keys().chain(after.deliver.keys()).collect();
            destinations.sort_unstable();
            destinations.dedup();
            for destination in destinations {
                let (was, will) = (before.get(destination), after.deliver.get(destination));
                if was == will {
                    continue;
                }
                let side = if will.is_some() { &self.new } else { &self.old };
                let (rules, because) = side
                    .doing(None, |rule| rule.models.contains(model) && rule.deliver.contains(destination));
                changes.push(Change {
                    subject: Subject::Deliver,
                    series: None,
                    rules,
                    model: Some(model.clone()),
                    destination: Some(destination.clone()),
                    before: was.map(way),
                    after: will.map(way),
                    because,
                });
            }
        }
        changes
    }

    fn forwards(&self) -> Vec<Change> {
        let find = |side: &Side<'_>, series: &Phi<String>, destination: &str| {
            let mut all = side.routing.forwards.iter();
            all.find(|forward| forward.series_uid == *series && forward.destination == destination)
                .map(|forward| (forward.dispatch, forward.set.clone()))
        };
        let mut changes: Vec<Change> = Vec::new();
        for facts in self.series {
            let series = &facts.series_uid;
            let mut destinations: Vec<&String> = [&self.old, &self.new]
                .into_iter()
                .flat_map(|side| &side.routing.forwards)
                .filter(|forward| forward.series_uid == *series)
                .map(|forward| &forward.destination)
                .collect();
            destinations.sort_unstable();
            destinations.dedup();
            for destination in destinations {
                let (was, will) =
                    (find(&self.old, series, destination), find(&self.new, series, destination));
                if was == will {
                    continue;
                }
                let side = if will.is_some() { &self.new } else { &self.old };
                let (rules, because) = side.doing(Some(series), |rule| rule.forward.contains(destination));
                changes.push(Change {
                    subject: Subject::Forward,
                    series: self.number(series),
                    rules,
                    model: None,
                    destination: Some(destination.clone()),
                    before: was.as_ref().map(way_and_changes),
                    after: will.as_ref().map(way_and_changes),
                    because,
                });
            }
        }
        changes
    }
}

fn way(dispatch: &Dispatch) -> String {
    match dispatch.words() {
        words if words.is_empty() => "at once".into(),
        words => words,
    }
}

fn way_and_changes((dispatch, set): &(Dispatch, Edits)) -> String {
    let changed: Vec<String> = set
        .entries()
        .into_iter()
        .filter_map(|(name, _, _, _, value)| Some(format!("{name} = \"{}\"", value.as_ref()?)))
        .collect();
    let way = way(dispatch);
    if changed.is_empty() { way } else { format!("{way}, with {}", changed.join(", ")) }
}

fn results_to(deliver: &BTreeMap<String, Dispatch>) -> String {
    if deliver.is_empty() {
        return "results to nobody".into();
    }
    let to: Vec<String> =
        deliver.iter().map(|(destination, dispatch)| format!("{destination} {}", way(dispatch))).collect();
    format!("results to {}", to.join(", "))
}

impl Change {
    /// In one line, for people.
    pub fn words(&self) -> String {
        let series = self.series.map(|number| format!("series {number} ")).unwrap_or_default();
        let model = self.model.as_deref().unwrap_or_default();
        let destination = self.destination.as_deref().unwrap_or_default();
        let rules = match &self.rules[..] {
            [] => String::new(),
            [one] => format!(" (rule \"{one}\")"),
            many => format!(" (rules \"{}\")", many.join("\", \"")),
        };
        let (sign, how) = match (&self.before, &self.after) {
            (None, Some(after)) => ('+', after.clone()),
            (Some(before), None) => ('-', before.clone()),
            (before, after) => (
                '~',
                format!(
                    "{} -> {}",
                    before.as_deref().unwrap_or_default(),
                    after.as_deref().unwrap_or_default()
                ),
            ),
        };
        let what = match self.subject {
            Subject::Decision => {
                let rule = self.rules.first().map(String::as_str).unwrap_or_default();
                let word = if sign == '+' { "matches" } else { "matches no longer" };
                return format!("{sign} {series}rule \"{rule}\" {word}: {}", self.because.expose());
            }
            Subject::Model => format!("{series}to model \"{model}\", {how}"),
            Subject::Deliver => format!("results of \"{model}\" to {destination}: {how}"),
            Subject::Forward => format!("{series}sent on to {destination}: {how}"),
        };
        format!("{sign} {what}{rules}: {}", self.because.expose())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ct, rules};
    use super::*;

    const NOW: &str = "[[rule]]\nname='thin'\nmatch={slice_thickness_mm={max=2}}\nmodels=['phantom']\ndeliver=['pacs']\n\
                       [[rule]]\nname='keep'\nmatch={modality='CT'}\nforward=['pacs']\n";

    #[test]
    fn the_same_rules_change_nothing_and_a_reworded_reason_is_no_change() {
        let (old, new) = (rules(NOW), rules(&NOW.replace("'CT'", "'C?'")));
        assert!(diff(&old, &old, &[ct("1", 1.0)]).is_empty());
        assert!(diff(&old, &new, &[ct("1", 1.0)]).is_empty(), "it matches either way");
    }

    #[test]
    fn each_changed_decision_and_what_follows_from_it_is_named() {
        let old = rules(NOW);
        let new = rules(
            &NOW.replace("max=2", "max=0.5").replace("forward=['pacs']", "forward=['pacs']\nhold=true"),
        );
        let changes = diff(&old, &new, &[ct("1", 1.0), ct("2", 0.4)]);
        let words: Vec<String> = changes.iter().map(Change::words).collect();
        assert_eq!(
            words,
            [
                "- series 1 rule \"thin\" matches no longer: slice_thickness_mm 1 is outside any to 0.5",
                "- series 1 to model \"phantom\", results to pacs at once (rule \"thin\"): slice_thickness_mm 1 is within any to 2",
                "~ series 1 sent on to pacs: at once -> held until released (rule \"keep\"): modality is \"CT\"",
                "~ series 2 sent on to pacs: at once -> held until released (rule \"keep\"): modality is \"CT\"",
            ]
        );
    }

    #[test]
    fn a_rule_that_is_gone_or_stopped_says_so() {
        let old = rules(NOW);
        let gone = rules("[[rule]]\nname='keep'\nmatch={modality='CT'}\nforward=['pacs']\n");
        let changes = diff(&old, &gone, &[ct("1", 1.0)]);
        assert_eq!(changes[0].because.expose(), "there is no such rule");
        assert_eq!((changes.len(), changes[1].subject), (2, Subject::Model));
        let stopped = rules(&format!("[[rule]]\nname='first'\nstop=true\n{NOW}"));
        let changes = diff(&old, &stopped, &[ct("1", 1.0)]);
        assert!(changes.iter().any(|change| change.because.expose().contains("`stop`")), "{changes:?}");
        assert!(changes.iter().any(|change| change.subject == Subject::Forward && change.after.is_none()));
    }

    #[test]
    fn a_destination_or_mode_that_changes_is_named_for_a_model_that_runs_either_way() {
        let old = rules(NOW);
        let new = rules(&NOW.replace("deliver=['pacs']", "deliver=['pacs','ris']\nmode='shadow'"));
        let words: Vec<String> = diff(&old, &new, &[ct("1", 1.0)]).iter().map(Change::words).collect();
        assert_eq!(words.len(), 2);
        assert!(words[0].starts_with("~ results of \"phantom\" to pacs: at once -> shadow"), "{words:?}");
        assert!(words[1].starts_with("+ results of \"phantom\" to ris: shadow"), "{words:?}");
    }
}
