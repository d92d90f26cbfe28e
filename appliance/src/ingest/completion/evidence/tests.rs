use super::*;

const NOW: i64 = 1_000_000;
const QUIET: i64 = 30_000;

fn here(uid: &str, count: u32, silent_ms: i64) -> Series {
    Series {
        uid: Phi::from(uid),
        instances: (0..count).map(|index| Phi::new(format!("{uid}.{index}"))).collect(),
        count,
        last_at: NOW - silent_ms,
        quiet_ms: QUIET,
    }
}

fn lists(uid: &str, count: u32) -> Listed {
    let uids = (0..count).map(|index| Phi::new(format!("{uid}.{index}"))).collect();
    Listed { series_uid: Phi::from(uid), instances: Uids::These(uids) }
}

fn step(status: StepStatus, series: &[Listed]) -> Step {
    Step { peer: "ct-1".into(), status, series: series.to_vec() }
}

fn announced(series: &[Listed]) -> Announcement {
    Announcement { peer: "pacs".into(), series: series.to_vec() }
}

fn counted_series(uid: &str, modality: &str, instances: Option<u32>) -> CountedSeries {
    CountedSeries { series_uid: Phi::from(uid), modality: modality.into(), instances }
}

fn counted_at(silent_ms: i64, instances: Option<u32>, series: &[CountedSeries]) -> Count {
    Count { peer: "pacs".into(), asked_at: NOW - silent_ms, instances, series: series.to_vec(), fault: None }
}

fn known(series: Vec<Series>) -> Known {
    Known {
        now: NOW,
        last_at: series.iter().map(|series| series.last_at).max().unwrap_or(NOW),
        longest_ms: 900_000,
        settle_ms: 2_000,
        series,
        ..Known::default()
    }
}

/// What decided, or until when (from now) it waits.
fn outcome(judged: &Judged) -> Result<Kind, i64> {
    match &judged.verdict {
        Verdict::Complete { by, .. } => Ok(*by),
        Verdict::Waiting { until, .. } => Err(until - NOW),
    }
}

use StepStatus::{Completed, Discontinued, InProgress};

#[test]
fn studies() {
    let two = || vec![here("1", 3, 100), here("2", 2, 100)];
    let count = |asked, n, series: &[CountedSeries]| Some(counted_at(asked, n, series));
    let cases: Vec<(&str, Known, Result<Kind, i64>)> = vec![
        ("nothing but instances waits for the timer", known(two()), Err(QUIET - 100)),
        ("the timer runs out", known(vec![here("1", 3, QUIET)]), Ok(Kind::QuietTimer)),
        (
            "each series has its own timer, and the last one counts",
            known(vec![Series { quiet_ms: 500, ..here("1", 3, 400) }, here("2", 1, 29_000)]),
            Err(1_000),
        ),
        (
            "a step in progress waits for the cap, whatever the timer says",
            Known { steps: vec![step(InProgress, &[])], ..known(vec![here("1", 3, QUIET)]) },
            Err(900_000 - QUIET),
        ),
        (
            "a finished step whose instances are all here",
            Known { steps: vec![step(Completed, &[lists("1", 3), lists("2", 2)])], ..known(two()) },
            Ok(Kind::Mpps),
        ),
        (
            "a finished step that lists more",
            Known { steps: vec![step(Completed, &[lists("1", 4), lists("2", 2)])], ..known(two()) },
            Err(900_000 - 100),
        ),
        (
            "a series that is listed and has not begun",
            Known {
                steps: vec![step(Completed, &[lists("1", 3), lists("2", 2), lists("3", 1)])],
                ..known(two())
            },
            Err(900_000 - 100),
        ),
        (
            "one of two steps is in progress",
            Known {
                steps: vec![step(Completed, &[lists("1", 3), lists("2", 2)]), step(InProgress, &[])],
                ..known(two())
            },
            Err(900_000 - 100),
        ),
        (
            "two steps, both finished, one discontinued",
            Known {
                steps: vec![step(Completed, &[lists("1", 3)]), step(Discontinued, &[lists("2", 2)])],
                ..known(two())
            },
            Ok(Kind::Mpps),
        ),
        (
            "a series that no step lists keeps its timer",
            Known { steps: vec![step(Completed, &[lists("1", 3)])], ..known(two()) },
            Err(QUIET - 100),
        ),
        (
            "and once its timer is over, the step decides",
            Known {
                steps: vec![step(Completed, &[lists("1", 3)])],
                ..known(vec![here("1", 3, 100), here("2", 2, QUIET)])
            },
            Ok(Kind::Mpps),
        ),
        (
            "steps that list nothing leave it to the timer",
            Known { steps: vec![step(Discontinued, &[])], ..known(vec![here("1", 3, QUIET)]) },
            Ok(Kind::QuietTimer),
        ),
        (
            "a step that lists fewer than came is content",
            Known { steps: vec![step(Completed, &[lists("1", 2), lists("2", 2)])], ..known(two()) },
            Ok(Kind::Mpps),
        ),
        (
            "an announcement whose instances are all here",
            Known { announcements: vec![announced(&[lists("1", 3), lists("2", 2)])], ..known(two()) },
            Ok(Kind::Ian),
        ),
        (
            "announcements add up, and an instance announced twice counts once",
            Known {
                announcements: vec![announced(&[lists("1", 3)]), announced(&[lists("1", 2), lists("2", 2)])],
                ..known(two())
            },
            Ok(Kind::Ian),
        ),
        (
            "an announcement of what is not here",
            Known { announcements: vec![announced(&[lists("2", 3)])], ..known(two()) },
            Err(900_000 - 100),
        ),
        (
            "an announcement against a finished step",
            Known {
                steps: vec![step(Completed, &[lists("1", 3), lists("2", 2)])],
                announcements: vec![announced(&[lists("3", 1)])],
                ..known(two())
            },
            Err(900_000 - 100),
        ),
        (
            "an announcement with a number in place of UIDs",
            Known {
                announcements: vec![announced(&[Listed {
                    series_uid: "1".into(),
                    instances: Uids::Number(3),
                }])],
                ..known(vec![here("1", 3, 100)])
            },
            Ok(Kind::Ian),
        ),
        ("a count that agrees", Known { count: count(0, Some(5), &[]), ..known(two()) }, Ok(Kind::Count)),
        ("a higher count waits", Known { count: count(0, Some(6), &[]), ..known(two()) }, Err(900_000 - 100)),
        (
            "a lower count says nothing",
            Known { count: count(0, Some(4), &[]), ..known(two()) },
            Err(QUIET - 100),
        ),
        (
            "a count from before the last instance says nothing",
            Known { count: count(200, Some(5), &[]), ..known(two()) },
            Err(QUIET - 100),
        ),
        (
            "a PACS that does not count leaves it to the timer",
            Known { count: count(0, None, &[]), ..known(vec![here("1", 3, QUIET)]) },
            Ok(Kind::QuietTimer),
        ),
        (
            "a PACS that is down leaves it to the timer",
            Known {
                count: Some(Count { fault: Some("cannot connect".into()), ..counted_at(0, None, &[]) }),
                ..known(vec![here("1", 3, QUIET)])
            },
            Ok(Kind::QuietTimer),
        ),
        (
            "our own results and readers' documents at the PACS are not missing here",
            Known {
                count: count(
                    0,
                    Some(8),
                    &[
                        counted_series("1", "CT", Some(3)),
                        counted_series("2", "CT", Some(2)),
                        counted_series("ours", "SR", Some(1)),
                        counted_series("reader's", "PR", Some(2)),
                    ],
                ),
                own_series: vec![Phi::from("ours")],
                ..known(two())
            },
            Ok(Kind::Count),
        ),
        (
            "a PACS that only tells the sum counts our own results too",
            Known { count: count(0, Some(6), &[]), own_series: vec![Phi::from("ours")], ..known(two()) },
            Ok(Kind::Count),
        ),
        (
            "a series of images at the PACS that has not begun here",
            Known {
                count: count(
                    0,
                    None,
                    &[
                        counted_series("1", "CT", Some(3)),
                        counted_series("2", "CT", Some(2)),
                        counted_series("3", "CT", Some(1)),
                    ],
                ),
                ..known(two())
            },
            Err(900_000 - 100),
        ),
        (
            "the order's series are here, and after a moment's silence that is enough",
            Known {
                expected: Expected { series: Some(2), instances: None },
                ..known(vec![here("1", 3, 2_000), here("2", 2, 2_000)])
            },
            Ok(Kind::Order),
        ),
        (
            "but not before",
            Known { expected: Expected { series: Some(2), instances: None }, ..known(two()) },
            Err(1_900),
        ),
        (
            "the order expects another series",
            Known {
                expected: Expected { series: Some(3), instances: None },
                ..known(vec![here("1", 3, QUIET), here("2", 2, QUIET)])
            },
            Err(900_000 - QUIET),
        ),
        (
            "the order's instances are all here: no silence is needed",
            Known { expected: Expected { series: Some(2), instances: Some(5) }, ..known(two()) },
            Ok(Kind::Order),
        ),
        (
            "the cap: what is missing does not hold a study for ever",
            Known { steps: vec![step(Completed, &[lists("1", 4)])], ..known(vec![here("1", 3, 900_000)]) },
            Ok(Kind::Longest),
        ),
        ("a study without a readable instance", known(Vec::new()), Ok(Kind::QuietTimer)),
    ];
    for (what, known, expected) in cases {
        let judged = study(&known);
        assert_eq!(outcome(&judged), expected, "{what}: {judged:?}");
    }
}

#[test]
fn series_by_themselves() {
    let of = |known: Known| outcome(&series(&known, &known.series[0]));
    let begun = || known(vec![here("1", 3, 100), here("2", 1, 0)]);
    for (what, known, expected) in [
        ("its timer", begun(), Err(QUIET - 100)),
        (
            "a finished step lists it, though another step goes on",
            Known { steps: vec![step(Completed, &[lists("1", 3)]), step(InProgress, &[])], ..begun() },
            Ok(Kind::Mpps),
        ),
        (
            "an announcement of it, though the other series is announced too and not here",
            Known { announcements: vec![announced(&[lists("1", 3), lists("2", 9)])], ..begun() },
            Ok(Kind::Ian),
        ),
        (
            "something of it is missing",
            Known { announcements: vec![announced(&[lists("1", 4)])], ..begun() },
            Err(900_000 - 100),
        ),
        (
            "a count that was asked for too early",
            Known { count: Some(counted_at(0, None, &[counted_series("1", "CT", Some(3))])), ..begun() },
            Err(QUIET - 100),
        ),
        (
            "a count after its silence",
            Known {
                count: Some(counted_at(0, None, &[counted_series("1", "CT", Some(3))])),
                ..known(vec![here("1", 3, 2_000), here("2", 1, 0)])
            },
            Ok(Kind::Count),
        ),
    ] {
        assert_eq!(of(known), expected, "{what}");
    }
}

#[test]
fn texts_tell_numbers_and_peers_and_no_uid() {
    let missing = Known {
        steps: vec![step(Completed, &[lists("1.2.840.99", 4)])],
        announcements: vec![announced(&[lists("1.2.840.99", 3)])],
        count: Some(counted_at(0, Some(4), &[])),
        ..known(vec![here("1.2.840.99", 3, 900_000)])
    };
    let judged = study(&missing);
    let Verdict::Complete { why, .. } = &judged.verdict else { panic!("{judged:?}") };
    assert_eq!(
        why,
        "no new instance for 900 s, although 3 of the 4 instances that the procedure step of ct-1 lists are here; \
         pacs has 4 instances, we 3"
    );
    for text in judged.evidence.iter().map(|one| &one.text).chain([why]) {
        assert!(!text.contains("1.2.840"), "{text}");
    }
    let complete =
        study(&Known { steps: vec![step(Completed, &[lists("1", 1)])], ..known(vec![here("1", 1, 0)]) });
    let Verdict::Complete { why, .. } = complete.verdict else { panic!() };
    assert_eq!(why, "all of the 1 instance that the procedure step of ct-1 lists are here");
}

#[test]
fn both_forms_of_lists_are_read() {
    let step: Vec<Listed> =
        serde_json::from_str(r#"[{"series_uid":"1","instances":["1.0","1.1"]}]"#).unwrap();
    assert_eq!(step[0].instances.count(), 2);
    let text = r#"[{"series_uid":"1","instances":2,"uids":["1.0","1.1"]},{"series_uid":"2","instances":7}]"#;
    let announced: Vec<Listed> = serde_json::from_str(text).unwrap();
    assert!(matches!(&announced[0].instances, Uids::These(uids) if uids.len() == 2));
    assert!(matches!(announced[1].instances, Uids::Number(7)));
}
