use super::*;
use crate::deliver::fixture;
use crate::finding::Code;

fn result() -> ModelResult {
    fixture::detection().result
}

#[test]
fn each_shown_finding_has_its_sentence() {
    let draft = draft(&result(), 1);
    assert_eq!(
        draft.findings,
        [
            "Finding 1: Bright disk, Lung, Right; Long Axis 8.4 mm; Short Axis 6.12 mm; certainty 87.5 %.",
            "Finding 2: Bright disk, Lung, Right; Long Axis 8.4 mm; Short Axis 6.12 mm; certainty 87.5 %; flagged, needs explicit attention.",
        ]
    );
    assert_eq!(
        draft.impression,
        ["2 findings reported by Phantom disk detector 1.2.0, 1 flagged for explicit attention."]
    );
    assert_eq!(draft.rejected, None);
}

#[test]
fn every_kind_of_result_passes_the_verifier() {
    for (kind, context) in fixture::all() {
        let draft = draft(&context.result, context.revision);
        assert_eq!(draft.rejected, None, "{kind}");
        assert!(!draft.findings.is_empty() && !draft.impression.is_empty(), "{kind}");
    }
    assert!(draft(&fixture::multi_frame().result, 1).findings[0].contains("; frame 17; "));
    assert_eq!(draft(&result(), 3).impression[1], "Study revision 3.");
}

#[test]
fn absence_is_said_of_the_model_and_of_what_it_examined() {
    let none = draft(&fixture::no_finding().result, 1);
    assert_eq!(none.findings, ["No bright disks reported by Phantom disk detector 1.2.0."]);
    let mut partial = fixture::partial().result;
    partial.findings.clear();
    assert_eq!(
        draft(&partial, 1).findings,
        [
            "No bright disks reported by Phantom disk detector 1.2.0 in the images that it examined.",
            "Not all images were examined by Phantom disk detector 1.2.0.",
        ]
    );
    let not_run = draft(&fixture::not_run().result, 1);
    assert_eq!(not_run.findings, ["This study was not examined by Phantom disk detector 1.2.0."]);
}

#[test]
fn measurements_of_one_name_and_without_unit_are_told_apart() {
    let mut result = result();
    let finding = &mut result.findings[0];
    finding.measurements[1].name = finding.measurements[0].name.clone();
    finding.measurements[1].unit = Code::new("1", "UCUM", "no units");
    let draft = draft(&result, 1);
    assert_eq!(draft.rejected, None);
    assert!(draft.findings[0].contains("; Long Axis 8.4 mm; Long Axis 6.12; "));
}

type Spoil = fn(&mut Realised);

/// Each takes the template's text and makes it say something that the findings do not.
#[test]
fn the_verifier_rejects_text_that_the_findings_do_not_bear_out() {
    fn replace(text: &mut Realised, from: &str, to: &str) {
        let line = &mut text.findings[0].text;
        assert!(line.contains(from));
        *line = line.replacen(from, to, 1);
    }
    let cases: &[(Spoil, Rejection)] = &[
        (|t| replace(t, "8.4", "8.5"), Rejection::Number(1)),
        (|t| replace(t, "8.4 mm", "8.4 cm"), Rejection::Number(1)),
        (|t| replace(t, "Long Axis 8.4", "Long Axis 6.12"), Rejection::Number(1)),
        (|t| replace(t, "87.5 %", "97.5 %"), Rejection::Number(1)),
        (|t| replace(t, "87.5", "NaN"), Rejection::Number(1)),
        (|t| replace(t, "Right", "Left"), Rejection::Unaccounted(1)),
        (|t| replace(t, "Lung", "Liver"), Rejection::Unaccounted(1)),
        (|t| replace(t, "Bright disk", "No Bright disk"), Rejection::Unaccounted(1)),
        (|t| replace(t, "Bright disk", "Bright disks"), Rejection::Unaccounted(1)),
        (|t| replace(t, "Lung", "Lung, Lung"), Rejection::Unaccounted(1)),
        (|t| replace(t, "; Long Axis 8.4 mm", ""), Rejection::Missing(1)),
        (|t| replace(t, ", Right", ""), Rejection::Missing(1)),
        (|t| replace(t, "certainty 87.5 %", "certainty 87.5 %; 3"), Rejection::Number(1)),
        (
            |t| replace(t, "certainty 87.5 %", "certainty 87.5 %; flagged, needs explicit attention"),
            Rejection::Unaccounted(1),
        ),
        (|t| replace(t, "Finding 1", "Finding 2"), Rejection::Unaccounted(1)),
        (|t| replace(t, ".", "\n."), Rejection::Malformed),
        (|t| replace(t, "Lung", "Normal Lung"), Rejection::Forbidden("normal")),
        (|t| t.impression[0].text.push_str(" Recommendation: none."), Rejection::Forbidden("recommend")),
        (|t| t.impression[0].text = "FINAL".into(), Rejection::Forbidden("final")),
        (|t| t.findings.swap(0, 1), Rejection::Count),
        (|t| drop(t.findings.remove(1)), Rejection::Count),
        (|t| t.findings[0].findings = vec![1], Rejection::Count),
        (
            |t| t.findings.push(Segment { text: "No other disks.".into(), findings: vec![] }),
            Rejection::Statement,
        ),
        (|t| t.impression.clear(), Rejection::Count),
        (
            |t| t.impression[0].text = t.impression[0].text.replace("2 findings", "3 findings"),
            Rejection::Statement,
        ),
        (
            |t| t.impression[0].text = t.impression[0].text.replace(", 1 flagged for explicit attention", ""),
            Rejection::Statement,
        ),
    ];
    let result = result();
    for (index, (spoil, rejection)) in cases.iter().enumerate() {
        let mut text = realise::realise(&result, 1);
        assert_eq!(verify::verify(&result, 1, &text), Ok(()));
        spoil(&mut text);
        assert_eq!(verify::verify(&result, 1, &text), Err(rejection.clone()), "case {index}");
        // What is shown then says nothing of it.
        let shown = checked(&result, 1, text);
        assert_eq!(
            shown.findings,
            ["Coded findings that accompany this text: 2, of which flagged for explicit attention: 1."]
        );
        assert_eq!(shown.rejected.as_ref(), Some(rejection));
    }
}

#[test]
fn a_bundle_that_speaks_of_more_than_findings_is_not_put_into_words() {
    let mut partial = fixture::partial().result;
    partial.model.name = "Verified detector".into();
    let text = draft(&partial, 1);
    assert_eq!(text.rejected, Some(Rejection::Forbidden("verif")));
    assert_eq!(text.findings[1], "The examination by the algorithm is incomplete.");
    assert!(!format!("{:?}", text.findings).to_lowercase().contains("verif"));
    let mut opposite = result();
    opposite.findings[0].site = Some(Code::new("1", "SCT", "Left lung"));
    assert_eq!(draft(&opposite, 1).rejected, Some(Rejection::Sides(1)));
    let mut none = fixture::no_finding().result;
    none.model.looked_for = "normal variants".into();
    assert_eq!(draft(&none, 1).findings, ["No coded finding accompanies this text."]);
    let mut not_a_number = result();
    not_a_number.findings[0].measurements[0].value = f64::NAN;
    assert_eq!(draft(&not_a_number, 1).rejected, Some(Rejection::Number(1)));
    let mut not_run = fixture::not_run().result;
    not_run.model.version = "final".into();
    assert_eq!(draft(&not_run, 1).findings, ["The algorithm did not examine this study."]);
}

/// The builders of outputs say the absence themselves, so that it is never left out; the draft's own
/// sentence must be the same one, or it would be said twice.
#[test]
fn the_absence_is_said_once_in_an_output() {
    let mut partial = fixture::partial();
    partial.result.findings.clear();
    partial.ids.tracking_uids.clear();
    for mut context in [fixture::no_finding(), partial] {
        let draft = draft(&context.result, 1);
        context.findings_text = draft.findings;
        context.impression_text = draft.impression;
        let message = crate::deliver::hl7::build_oru(&context, &Default::default()).unwrap();
        let lines = message.split('\r').filter(|line| line.contains("|59776-5^"));
        assert_eq!(lines.filter(|line| line.contains("|No bright disks reported by ")).count(), 1);
        let report = crate::deliver::sr::build(&context).unwrap();
        let said = report.windows(15).filter(|window| window == b"No bright disks").count();
        assert_eq!(said, 2, "once as a finding, once in the impression");
    }
}
