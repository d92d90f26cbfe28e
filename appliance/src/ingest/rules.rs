//! Routing rules: which series of a study go to which models, and where the results go.
//!
//! Pure: facts in, decisions out, each with the condition that decided and the values it saw, so
//! that "why did this study (not) go there?" is answered from the ledger.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use cel::{Context, ExecutionError, Program, Value};
use lightbox_provisioning::site::{Mode, OneOrMany, Problem, Range, Rule, Site};
use serde::{Deserialize, Serialize};
use serde_json::json;
use wildmatch::WildMatch;

use crate::dicom::attributes::Attributes;
use crate::phi::Phi;

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
    pub deliver: BTreeMap<String, Mode>,
}

/// What the rules say of a study.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routing {
    /// Every rule's word on every series it looked at.
    pub decisions: Vec<Decision>,
    /// By model, as named in the site file.
    pub models: BTreeMap<String, Assignment>,
}

struct Compiled {
    rule: Rule,
    when: Option<Program>,
}

/// The rules of a site file, compiled.
pub struct RuleSet {
    rules: Vec<Compiled>,
    /// The site file's digest: every decision names it.
    pub revision: String,
}

impl std::fmt::Debug for RuleSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RuleSet({} rules, {})", self.rules.len(), self.revision)
    }
}

impl RuleSet {
    /// Compiles the rules; every expression that does not compile is a problem of the site file.
    pub fn compile(site: &Site) -> Result<Self, Vec<Problem>> {
        let (mut rules, mut problems) = (Vec::new(), Vec::new());
        for (index, rule) in site.file.rule.iter().enumerate() {
            // The CEL parser is fed by the site, not by peers; still, a bug in it must become a
            // message and not the end of the daemon.
            let when = rule.when.as_deref().map(|text| {
                catch_unwind(AssertUnwindSafe(|| Program::compile(text).map_err(|error| error.to_string())))
                    .unwrap_or_else(|_| Err("the expression cannot be parsed".into()))
            });
            let when = when.transpose().and_then(|when| match when.as_ref().and_then(unknown_name) {
                Some(name) => Err(format!("it asks for `{name}`, which there is not")),
                None => Ok(when),
            });
            match when {
                Ok(when) => rules.push(Compiled { rule: rule.clone(), when }),
                Err(error) => problems.push(site.problem(
                    &format!("rule[{index}].when"),
                    format!("the expression cannot be used: {}", error.trim().replace('\n', "; ")),
                    format!(
                        "an expression over series.{{{}}} and study.{{{}}}, e.g. series.instances > 20",
                        names(&inputs(&sample())),
                        names(&study_inputs(&sample(), &[])),
                    ),
                )),
            }
        }
        if problems.is_empty() {
            Ok(RuleSet { rules, revision: site.revision.clone() })
        } else {
            Err(problems)
        }
    }

    /// Decides on a study, series by series.
    pub fn decide(&self, series: &[SeriesFacts]) -> Routing {
        let mut routing = Routing::default();
        for facts in series {
            let inputs = Phi::new(inputs(facts).to_string());
            for compiled in &self.rules {
                let rule = &compiled.rule;
                let verdict = judge(compiled, facts, series);
                let (matched, because) = match verdict {
                    Ok(because) => (true, because),
                    Err(because) => (false, because),
                };
                routing.decisions.push(Decision {
                    rule: rule.name.clone(),
                    series_uid: facts.series_uid.clone(),
                    matched,
                    because: Phi::new(because),
                    inputs: inputs.clone(),
                });
                if !matched {
                    continue;
                }
                for model in &rule.models {
                    let assignment = routing.models.entry(model.clone()).or_default();
                    if !assignment.series.contains(&facts.series_uid) {
                        assignment.series.push(facts.series_uid.clone());
                    }
                    for destination in &rule.deliver {
                        // Where one rule sends and another only shadows, the sending one counts.
                        let mode = assignment.deliver.entry(destination.clone()).or_insert(rule.mode);
                        if rule.mode == Mode::Assist {
                            *mode = Mode::Assist;
                        }
                    }
                }
                if rule.stop {
                    break;
                }
            }
        }
        routing
    }
}

/// The values that rules can ask for, as the ledger keeps them.
fn inputs(facts: &SeriesFacts) -> serde_json::Value {
    let a = &facts.attributes;
    json!({
        "modality": a.modality, "body_part": a.body_part, "study_description": a.study_description,
        "series_description": a.series_description, "protocol": a.protocol, "calling_ae": facts.calling_ae,
        "peer": facts.peer, "station": a.station, "manufacturer": a.manufacturer, "sex": a.sex,
        "sop_class": facts.sop_class_uid, "view": a.view, "age_years": a.age_years,
        "slice_thickness_mm": a.slice_thickness_mm, "instances": facts.instances,
    })
}

fn judge(compiled: &Compiled, facts: &SeriesFacts, study: &[SeriesFacts]) -> Result<String, String> {
    let (a, wanted) = (&facts.attributes, &compiled.rule.matches);
    let texts: [(&str, &Option<OneOrMany>, Option<&str>); 12] = [
        ("modality", &wanted.modality, a.modality.as_deref()),
        ("body_part", &wanted.body_part, a.body_part.as_deref()),
        ("study_description", &wanted.study_description, a.study_description.as_deref()),
        ("series_description", &wanted.series_description, a.series_description.as_deref()),
        ("protocol", &wanted.protocol, a.protocol.as_deref()),
        ("calling_ae", &wanted.calling_ae, Some(&facts.calling_ae)),
        ("peer", &wanted.peer, Some(&facts.peer)),
        ("station", &wanted.station, a.station.as_deref()),
        ("manufacturer", &wanted.manufacturer, a.manufacturer.as_deref()),
        ("sex", &wanted.sex, a.sex.as_deref()),
        ("sop_class", &wanted.sop_class, Some(&facts.sop_class_uid)),
        ("view", &wanted.view, a.view.as_deref()),
    ];
    let mut held = Vec::new();
    for (name, wanted, value) in texts {
        if let Some(wanted) = wanted {
            held.push(text_condition(name, wanted.texts(), value)?);
        }
    }
    let ranges: [(&str, Option<Range>, Option<f64>); 3] = [
        ("age_years", wanted.age_years, a.age_years),
        ("slice_thickness_mm", wanted.slice_thickness_mm, a.slice_thickness_mm),
        ("instances", wanted.instances, Some(facts.instances as f64)),
    ];
    for (name, wanted, value) in ranges {
        if let Some(wanted) = wanted {
            held.push(range_condition(name, wanted, value)?);
        }
    }
    if let Some(program) = &compiled.when {
        held.push(expression(program, compiled.rule.when.as_deref().unwrap_or_default(), facts, study)?);
    }
    Ok(if held.is_empty() { "the rule has no condition".into() } else { held.join("; ") })
}

fn text_condition(name: &str, wanted: &[String], value: Option<&str>) -> Result<String, String> {
    let Some(value) = value else { return Err(format!("{name} is absent")) };
    match wanted.iter().find(|pattern| WildMatch::new_case_insensitive(pattern).matches(value)) {
        Some(pattern) if pattern.contains(['*', '?']) => Ok(format!("{name} \"{value}\" fits \"{pattern}\"")),
        Some(_) => Ok(format!("{name} is \"{value}\"")),
        None => Err(format!("{name} \"{value}\" is none of: {}", wanted.join(", "))),
    }
}

fn range_condition(name: &str, wanted: Range, value: Option<f64>) -> Result<String, String> {
    let Some(value) = value else { return Err(format!("{name} is absent")) };
    let end = |end: Option<f64>| end.map_or("any".to_owned(), |end| end.to_string());
    let range = format!("{} to {}", end(wanted.min), end(wanted.max));
    if wanted.contains(value) {
        Ok(format!("{name} {value} is within {range}"))
    } else {
        Err(format!("{name} {value} is outside {range}"))
    }
}

fn expression(
    program: &Program,
    text: &str,
    facts: &SeriesFacts,
    study: &[SeriesFacts],
) -> Result<String, String> {
    match evaluate(program, facts, study).map_err(|error| error.to_string()) {
        Ok(Value::Bool(true)) => Ok(format!("`{text}` is true")),
        Ok(Value::Bool(false)) => Err(format!("`{text}` is false")),
        Ok(_) => Err(format!("`{text}` is neither true nor false")),
        Err(error) => Err(format!("`{text}` could not be evaluated: {error}")),
    }
}

/// What an expression sees of the study.
fn study_inputs(facts: &SeriesFacts, study: &[SeriesFacts]) -> serde_json::Value {
    let modalities: Vec<_> = study.iter().filter_map(|series| series.attributes.modality.clone()).collect();
    json!({
        "description": facts.attributes.study_description,
        "series_count": study.len(),
        "instances": study.iter().map(|series| series.instances).sum::<usize>(),
        "modalities": modalities,
        "age_years": facts.attributes.age_years,
        "sex": facts.attributes.sex,
    })
}

fn evaluate(program: &Program, facts: &SeriesFacts, study: &[SeriesFacts]) -> Result<Value, ExecutionError> {
    catch_unwind(AssertUnwindSafe(|| {
        let mut context = Context::default();
        let failed = |_| ExecutionError::function_error("inputs", "they cannot be given to it");
        context.add_variable("series", inputs(facts)).map_err(failed)?;
        context.add_variable("study", study_inputs(facts, study)).map_err(failed)?;
        program.execute(&context)
    }))
    .unwrap_or_else(|_| Err(ExecutionError::function_error("evaluation", "it failed")))
}

/// A series with a value in every attribute, so that an expression's slips show before a study does.
fn sample() -> SeriesFacts {
    let text = || Some("X".to_owned());
    SeriesFacts {
        series_uid: Phi::default(),
        attributes: Attributes {
            modality: text(),
            body_part: text(),
            study_description: text(),
            series_description: text(),
            protocol: text(),
            station: text(),
            manufacturer: text(),
            sex: text(),
            view: text(),
            age_years: Some(50.0),
            slice_thickness_mm: Some(1.0),
            instance_number: Some(1),
            ..Attributes::default()
        },
        calling_ae: "X".into(),
        peer: "X".into(),
        sop_class_uid: "1.2".into(),
        instances: 1,
    }
}

/// A name in the expression that no study will ever have.
fn unknown_name(program: &Program) -> Option<String> {
    match evaluate(program, &sample(), &[sample()]) {
        Err(ExecutionError::NoSuchKey(name) | ExecutionError::UndeclaredReference(name)) => {
            Some(name.to_string())
        }
        // A comparison that fails on the sample's values may hold on a study's.
        _ => None,
    }
}

fn names(object: &serde_json::Value) -> String {
    object.as_object().map(|object| object.keys().cloned().collect::<Vec<_>>().join(", ")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn rules(text: &str) -> RuleSet {
        let site = include_str!("../../../provisioning/examples/site.toml");
        let (head, _) = site.split_once("[[rule]]").expect("the example has rules");
        let site = Site::parse(Path::new("site.toml"), &format!("{head}\n{text}")).expect("good");
        RuleSet::compile(&site).expect("compiles")
    }

    fn ct(uid: &str, thickness: f64) -> SeriesFacts {
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
        assert_eq!(routing.models["phantom"].deliver["pacs"], Mode::Assist);
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
        assert_eq!((deliver["pacs"], deliver["ris"]), (Mode::Assist, Mode::Shadow));
    }

    #[test]
    fn a_bad_expression_is_a_problem_of_the_site_file_with_its_line() {
        let site = include_str!("../../../provisioning/examples/site.toml");
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
}
