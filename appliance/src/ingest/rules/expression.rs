//! Expressions (CEL) over a series and its study.

use std::cell::OnceCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use cel::{Context, ExecutionError, Program, Value};
use serde_json::json;

use super::SeriesFacts;
use crate::dicom::attributes::Attributes;
use crate::phi::Phi;

/// Longest expression.
const LENGTH_MAX: usize = 4096;
/// What goes through a list; nested, the time is the product of the lists' lengths.
const LOOPS: [&str; 5] = [".map(", ".filter(", ".all(", ".exists(", ".exists_one("];
/// Most of them in an expression.
const LOOPS_MAX: usize = 2;

/// Compiles an expression and tries it on a sample, so that an expression's slips show before a study
/// does.
pub(super) fn compile(text: &str) -> Result<Program, String> {
    let loops: usize = LOOPS.iter().map(|name| text.matches(name).count()).sum();
    if text.len() > LENGTH_MAX || loops > LOOPS_MAX {
        return Err(format!(
            "it is longer than {LENGTH_MAX} bytes, or has more than {LOOPS_MAX} of map, filter, all, exists and exists_one, which may take minutes for each study"
        ));
    }
    // The CEL parser is fed by the site, not by peers; still, a bug in it must become a message and
    // not the end of the daemon.
    let program =
        catch_unwind(AssertUnwindSafe(|| Program::compile(text).map_err(|error| error.to_string())))
            .unwrap_or_else(|_| Err("the expression cannot be parsed".into()))?;
    let sample = sample();
    let sums = StudySums::of(std::slice::from_ref(&sample));
    match Seen::new(&sample, &sums).evaluate(&program) {
        Err(ExecutionError::NoSuchKey(name) | ExecutionError::UndeclaredReference(name)) => {
            Err(format!("it asks for `{name}`, which there is not"))
        }
        Ok(value) if !matches!(value, Value::Bool(_)) => {
            Err(format!("it yields a value of type {}, and not true or false", value.type_of()))
        }
        // A comparison that fails on the sample's values may hold on a study's.
        _ => Ok(program),
    }
}

/// What expressions can ask for, for the message about one that cannot be used.
pub(super) fn vocabulary() -> String {
    format!(
        "series.{{{}}} and study.{{{}}}",
        names(&inputs(&sample())),
        names(&study_inputs(&sample(), &StudySums::of(&[])))
    )
}

/// What is the same for all series of a study.
pub(super) struct StudySums {
    series: usize,
    instances: usize,
    modalities: Vec<String>,
}

impl StudySums {
    pub(super) fn of(study: &[SeriesFacts]) -> Self {
        StudySums {
            series: study.len(),
            instances: study.iter().map(|series| series.instances).sum(),
            modalities: study.iter().filter_map(|series| series.attributes.modality.clone()).collect(),
        }
    }
}

/// A series as expressions see it. Its values are put into CEL's form once, for all rules, and only if
/// a rule asks.
pub(super) struct Seen<'a> {
    facts: &'a SeriesFacts,
    study: &'a StudySums,
    context: OnceCell<Option<Context<'static, 'static>>>,
}

impl<'a> Seen<'a> {
    pub(super) fn new(facts: &'a SeriesFacts, study: &'a StudySums) -> Self {
        Seen { facts, study, context: OnceCell::new() }
    }

    /// Whether the expression is true of it, in words either way.
    pub(super) fn judge(&self, program: &Program, text: &str) -> Result<String, String> {
        match self.evaluate(program).map_err(|error| error.to_string()) {
            Ok(Value::Bool(true)) => Ok(format!("`{text}` is true")),
            Ok(Value::Bool(false)) => Err(format!("`{text}` is false")),
            Ok(_) => Err(format!("`{text}` is neither true nor false")),
            Err(error) => Err(format!("`{text}` could not be evaluated: {error}")),
        }
    }

    fn evaluate(&self, program: &Program) -> Result<Value, ExecutionError> {
        let failed = || ExecutionError::function_error("inputs", "they cannot be given to it");
        catch_unwind(AssertUnwindSafe(|| {
            let context = self.context.get_or_init(|| {
                let mut context = Context::default();
                context.add_variable("series", inputs(self.facts)).ok()?;
                context.add_variable("study", study_inputs(self.facts, self.study)).ok()?;
                Some(context)
            });
            program.execute(context.as_ref().ok_or_else(failed)?)
        }))
        .unwrap_or_else(|_| Err(ExecutionError::function_error("evaluation", "it failed")))
    }
}

/// The values that rules can ask for, as the ledger keeps them.
pub(super) fn inputs(facts: &SeriesFacts) -> serde_json::Value {
    let a = &facts.attributes;
    json!({
        "modality": a.modality, "body_part": a.body_part, "study_description": a.study_description,
        "series_description": a.series_description, "protocol": a.protocol, "calling_ae": facts.calling_ae,
        "peer": facts.peer, "station": a.station, "manufacturer": a.manufacturer, "sex": a.sex,
        "sop_class": facts.sop_class_uid, "view": a.view, "age_years": a.age_years,
        "slice_thickness_mm": a.slice_thickness_mm, "instances": facts.instances,
    })
}

/// What an expression sees of the study.
fn study_inputs(facts: &SeriesFacts, study: &StudySums) -> serde_json::Value {
    json!({
        "description": facts.attributes.study_description,
        "series_count": study.series,
        "instances": study.instances,
        "modalities": study.modalities,
        "age_years": facts.attributes.age_years,
        "sex": facts.attributes.sex,
    })
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

fn names(object: &serde_json::Value) -> String {
    object.as_object().map(|object| object.keys().cloned().collect::<Vec<_>>().join(", ")).unwrap_or_default()
}
