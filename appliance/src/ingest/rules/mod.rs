//! Routing rules: which series of a study go to which models, and where the results go.
//!
//! Pure: facts in, decisions out, each with the condition that decided and the values it saw, so
//! that "why did this study (not) go there?" is answered from the ledger.

mod conditions;
pub mod diff;
mod expression;

use std::collections::BTreeMap;

use cel::Program;
use lightbox_provisioning::site::{Edits, Problem, Rule, Site};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::audit::chain::hex;
use crate::dicom::attributes::Attributes;
use crate::dispatch::Dispatch;
use crate::phi::Phi;
use expression::{Seen, StudySums, inputs};

/// What rules see of a series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeriesFacts {
    /// Series Instance UID; names the series in the decision, rules cannot ask for it.
    pub series_uid: Phi<String>,
    /// The attributes of its first instance.
    pub attributes: Attributes,
    /// AE title of its sender.
    pub calling_ae: String,
    /// Name of its sender in the site file.
    pub peer: String,
    /// SOP Class UID of its first instance.
    pub sop_class_uid: String,
    /// Number of instances.
    pub instances: usize,
}

/// One rule's word on one series.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The rule.
    pub rule: String,
    /// The series.
    pub series_uid: Phi<String>,
    /// Whether it matched.
    pub matched: bool,
    /// The condition that decided. May hold values of the study's header.
    pub because: Phi<String>,
    /// What the rule saw, as JSON. May hold values of the study's header.
    pub inputs: Phi<String>,
}

/// What one model is to do with a study.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Assignment {
    /// The series it gets, in the order of the study.
    pub series: Vec<Phi<String>>,
    /// Where its results go, by destination.
    pub deliver: BTreeMap<String, Dispatch>,
}

/// A series that is sent on to a destination as it was received.
#[derive(Clone, Debug, PartialEq)]
pub struct Forward {
    /// The series.
    pub series_uid: Phi<String>,
    /// Where it goes, as named in the site file.
    pub destination: String,
    /// The first rule that says so.
    pub rule: String,
    /// When it may leave.
    pub dispatch: Dispatch,
    /// Elements that are changed on the way.
    pub set: Edits,
}

/// A rule that wants priors.
#[derive(Clone, Debug, PartialEq)]
pub struct PriorsAsked {
    /// The rule.
    pub rule: String,
    /// The first series that it matched: priors are compared with it.
    pub series_uid: Phi<String>,
}

/// What the rules say of a study.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routing {
    /// Every rule's word on every series it looked at.
    pub decisions: Vec<Decision>,
    /// By model, as named in the site file.
    pub models: BTreeMap<String, Assignment>,
    /// What is sent on, in the order of series and rules; each series once to each destination.
    pub forwards: Vec<Forward>,
    /// The rules that matched and want priors, each once.
    pub priors: Vec<PriorsAsked>,
}

struct Compiled {
    rule: Rule,
    when: Option<Program>,
    dispatch: Dispatch,
}

/// The rules of a site file, compiled.
pub struct RuleSet {
    rules: Vec<Compiled>,
    /// The peer behind each DICOM destination: nothing is sent back to where it came from.
    peers: BTreeMap<String, String>,
    /// Digest of [`text`](Self::text): every decision names it.
    pub revision: String,
    /// The rules as TOML, with all defaults: what the ledger keeps of them. The same rules with other
    /// comments or in another layout are the same text.
    pub text: String,
}

impl std::fmt::Debug for RuleSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RuleSet({} rules, {})", self.rules.len(), self.revision)
    }
}

/// What decides on a study, in the form in which the ledger keeps it.
#[derive(Serialize)]
struct Canonical<'a> {
    utc_offset: &'a str,
    rule: &'a [Rule],
}

impl RuleSet {
    /// Compiles the rules; every expression that does not compile is a problem of the site file.
    pub fn compile(site: &Site) -> Result<Self, Vec<Problem>> {
        let (mut rules, mut problems) = (Vec::new(), Vec::new());
        let utc_offset = &site.file.appliance.utc_offset;
        for (index, rule) in site.file.rule.iter().enumerate() {
            match rule.when.as_deref().map(expression::compile).transpose() {
                Ok(when) => {
                    rules.push(Compiled {
                        rule: rule.clone(),
                        when,
                        dispatch: Dispatch::of(rule, utc_offset),
                    });
                }
                Err(error) => problems.push(site.problem(
                    &format!("rule[{index}].when"),
                    format!("the expression cannot be used: {}", error.trim().replace('\n', "; ")),
                    format!("an expression over {}, e.g. series.instances > 20", expression::vocabulary()),
                )),
            }
        }
        let text = toml::to_string(&Canonical { utc_offset, rule: &site.file.rule }).map_err(|error| {
            let remedy = "report this: every rule that can be read can be written";
            vec![site.problem("rule", format!("the rules cannot be written down: {error}"), remedy)]
        })?;
        if !problems.is_empty() {
            return Err(problems);
        }
        let destinations = site.file.destination.iter();
        let peers = destinations
            .filter_map(|destination| {
                let dicom = destination.dicom.as_ref().map(|dicom| &dicom.peer);
                let peer = dicom.or(destination.dicomweb.as_ref().map(|web| &web.peer))?;
                Some((destination.name.clone(), peer.clone()))
            })
            .collect();
        Ok(RuleSet { rules, peers, revision: hex(&Sha256::digest(text.as_bytes())), text })
    }

    /// Number of rules.
    pub fn count(&self) -> usize {
        self.rules.len()
    }

    /// The rule of that name.
    pub fn rule(&self, name: &str) -> Option<&Rule> {
        self.rules.iter().map(|compiled| &compiled.rule).find(|rule| rule.name == name)
    }

    /// Decides on a study, series by series.
    pub fn decide(&self, series: &[SeriesFacts]) -> Routing {
        let mut routing = Routing::default();
        let sums = StudySums::of(series);
        for facts in series {
            let seen = Seen::new(facts, &sums);
            let inputs = Phi::new(inputs(facts).to_string());
            for compiled in &self.rules {
                let rule = &compiled.rule;
                let (matched, mut because) = match compiled.judge(facts, &seen) {
                    Ok(because) => (true, because),
                    Err(because) => (false, because),
                };
                if matched {
                    routing.assign(compiled, facts);
                    self.forward(&mut routing, compiled, facts, &mut because);
                    routing.ask_priors(rule, facts);
                }
                routing.decisions.push(Decision {
                    rule: rule.name.clone(),
                    series_uid: facts.series_uid.clone(),
                    matched,
                    because: Phi::new(because),
                    inputs: inputs.clone(),
                });
                if matched && rule.stop {
                    break;
                }
            }
        }
        routing
    }

    fn forward(&self, routing: &mut Routing, compiled: &Compiled, facts: &SeriesFacts, because: &mut String) {
        for destination in &compiled.rule.forward {
            // Two routers that send each other what they get would never stop.
            if self.peers.get(destination) == Some(&facts.peer) {
                because.push_str(&format!("; not sent to {destination}, where it came from"));
                continue;
            }
            let known = routing
                .forwards
                .iter_mut()
                .rev()
                .take_while(|forward| forward.series_uid == facts.series_uid)
                .find(|forward| forward.destination == *destination);
            match known {
                Some(forward) => {
                    forward.dispatch = forward.dispatch.sooner(compiled.dispatch);
                    forward.set = std::mem::take(&mut forward.set).or(&compiled.rule.set);
                }
                None => routing.forwards.push(Forward {
                    series_uid: facts.series_uid.clone(),
                    destination: destination.clone(),
                    rule: compiled.rule.name.clone(),
                    dispatch: compiled.dispatch,
                    set: compiled.rule.set.clone(),
                }),
            }
        }
    }
}

impl Routing {
    fn ask_priors(&mut self, rule: &Rule, facts: &SeriesFacts) {
        if rule.priors.is_some() && !self.priors.iter().any(|asked| asked.rule == rule.name) {
            let (rule, series_uid) = (rule.name.clone(), facts.series_uid.clone());
            self.priors.push(PriorsAsked { rule, series_uid });
        }
    }

    fn assign(&mut self, compiled: &Compiled, facts: &SeriesFacts) {
        for model in &compiled.rule.models {
            let assignment = self.models.entry(model.clone()).or_default();
            if !assignment.series.contains(&facts.series_uid) {
                assignment.series.push(facts.series_uid.clone());
            }
            for destination in &compiled.rule.deliver {
                // Where one rule sends and another only shadows, the sending one counts.
                let dispatch = assignment.deliver.entry(destination.clone()).or_insert(compiled.dispatch);
                *dispatch = dispatch.sooner(compiled.dispatch);
            }
        }
    }
}

impl Compiled {
    fn judge(&self, facts: &SeriesFacts, seen: &Seen<'_>) -> Result<String, String> {
        let mut held = conditions::judge(&self.rule.matches, facts)?;
        if let Some(program) = &self.when {
            held.push(seen.judge(program, self.rule.when.as_deref().unwrap_or_default())?);
        }
        Ok(if held.is_empty() { "the rule has no condition".into() } else { held.join("; ") })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::*;

    pub(in crate::ingest::rules) fn rules(text: &str) -> RuleSet {
        let site = include_str!("../../../../provisioning/examples/site.toml");
        let (head, _) = site.split_once("[[rule]]").expect("the example has rules");
        let site = Site::parse(Path::new("site.toml"), &format!("{head}\n{text}")).expect("good");
        RuleSet::compile(&site).expect("compiles")
    }

    pub(in crate::ingest::rules) fn ct(uid: &str, thickness: f64) -> SeriesFacts {
        SeriesFacts {
            series_uid: Phi::from(uid),
            attributes: Attributes {
                modality: Some("CT".into()),
                body_part: Some("CHEST".into()),
                series_description: Some("Lung 1.0/0.8 B60f".into()),
                slice_thickness_mm: Some(thickness),
                ..Attributes::default()
            },
            calling_ae: "CT1".into(),
            peer: "ct-1".into(),
            sop_class_uid: "1.2.840.10008.5.1.4.1.1.2".into(),
            instances: 120,
        }
    }

    #[test]
    fn every_condition_of_the_table_must_hold_and_the_failing_one_is_named() {
        let rules = rules(
            "[[rule]]\nname='thin'\nmatch={modality='ct',series_description='lung*B60?',slice_thickness_mm={max=1.5}}\n\
             models=['phantom']\ndeliver=['pacs']",
        );
        let routing = rules.decide(&[ct("1", 1.0), ct("2", 5.0)]);
        assert!(routing.decisions[0].matched);
        assert!(!routing.decisions[1].matched);
        assert!(routing.decisions[1].because.expose().contains("slice_thickness_mm 5 is outside any to 1.5"));
        assert_eq!(routing.models["phantom"].series, [Phi::from("1")]);
        assert_eq!(routing.models["phantom"].deliver["pacs"], Dispatch::NOW);
    }

    #[test]
    fn an_absent_value_matches_nothing() {
        let rules = rules("[[rule]]\nname='old'\nmatch={age_years={min=18}}\nmodels=['phantom']");
        let routing = rules.decide(&[ct("1", 1.0)]);
        assert_eq!(routing.decisions[0].because.expose(), "age_years is absent");
        assert!(routing.models.is_empty());
    }

    #[test]
    fn expressions_see_the_series_and_the_study() {
        let rules = rules(
            "[[rule]]\nname='big'\nwhen='series.instances > 100 && study.series_count == 2'\nmodels=['phantom']\n\
             [[rule]]\nname='absent'\nwhen='series.age_years > 1.0'\nmodels=['phantom']",
        );
        let routing = rules.decide(&[ct("1", 1.0), ct("2", 1.0)]);
        assert!(routing.decisions[0].matched, "{:?}", routing.decisions[0].because.expose());
        assert!(!routing.decisions[1].matched);
        assert!(routing.decisions[1].because.expose().contains("could not be evaluated"));
    }

    #[test]
    fn stop_keeps_later_rules_away_and_sending_wins_over_shadow() {
        let stopped = rules("[[rule]]\nname='a'\nstop=true\n[[rule]]\nname='b'\nmodels=['phantom']");
        let routing = stopped.decide(&[ct("1", 1.0)]);
        assert_eq!((routing.decisions.len(), routing.models.len()), (1, 0));
        let both = rules(
            "[[rule]]\nname='a'\nmodels=['phantom']\ndeliver=['pacs']\n\
             [[rule]]\nname='b'\nmode='shadow'\nmodels=['phantom']\ndeliver=['pacs','ris']",
        );
        let deliver = &both.decide(&[ct("1", 1.0)]).models["phantom"].deliver;
        assert_eq!((deliver["pacs"], deliver["ris"]), (Dispatch::NOW, Dispatch::SHADOW));
    }

    #[test]
    fn a_bad_expression_is_a_problem_of_the_site_file_with_its_line() {
        let site = include_str!("../../../../provisioning/examples/site.toml");
        let unknown = format!("{site}\n[[rule]]\nname='x'\nwhen='series.no_such_thing == 1'\n");
        let unknown = Site::parse(Path::new("site.toml"), &unknown).expect("the text is good");
        let problems = RuleSet::compile(&unknown).expect_err("must be refused");
        assert!(problems[0].what.contains("no_such_thing"), "{}", problems[0].what);
        assert!(problems[0].remedy.contains("slice_thickness_mm"), "{}", problems[0].remedy);
        let text = format!("{site}\n[[rule]]\nname='x'\nwhen='series.instances >'\n");
        let site = Site::parse(Path::new("site.toml"), &text).expect("the text is good");
        let problems = RuleSet::compile(&site).expect_err("must be refused");
        assert_eq!(problems[0].key, "rule[1].when");
        assert_eq!(
            problems[0].line,
            text.lines().position(|line| line.starts_with("when=")).expect("there") + 1
        );
    }

    #[test]
    fn a_series_goes_once_to_each_archive_and_never_back() {
        let rules = rules(
            "[[rule]]\nname='a'\nmatch={modality='CT'}\nforward=['pacs']\nhold=true\n\
             [[rule]]\nname='b'\nforward=['pacs']\nmode='shadow'",
        );
        let mut own = ct("2", 1.0);
        own.peer = "pacs".into();
        let routing = rules.decide(&[ct("1", 1.0), own]);
        assert_eq!(
            routing.forwards,
            [Forward {
                series_uid: Phi::from("1"),
                destination: "pacs".into(),
                rule: "a".into(),
                dispatch: Dispatch { hold: true, ..Dispatch::NOW },
                set: Edits::default(),
            }]
        );
        let back = &routing.decisions[2];
        assert!(back.matched && back.because.expose().contains("not sent to pacs, where it came from"));
        assert!(routing.models.is_empty());
    }

    #[test]
    fn the_revision_is_of_the_rules_and_of_nothing_else() {
        let one = rules("# why\n[[rule]]\nname='a'\nmatch={modality='CT'}\nforward=['pacs']");
        let same = rules("[[rule]]\nforward = [\n'pacs' ]\nname = \"a\"\n[rule.match]\nmodality = 'CT'");
        let other = rules("[[rule]]\nname='a'\nmatch={modality='MR'}\nforward=['pacs']");
        assert_eq!((&one.text, &one.revision), (&same.text, &same.revision));
        assert_ne!(one.revision, other.revision);
        assert!(one.text.contains("[[rule]]") && one.text.contains("modality = \"CT\""), "{}", one.text);
    }
}
