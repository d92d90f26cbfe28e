use std::time::Duration;

use lightbox_models::life_cycle::Event;
use lightbox_models::plan::Tier;

use super::*;
use crate::store::fixture::Fixture;
use crate::store::models::tests::{act, activate, with_version};
use crate::store::models::{Scored, first, live};

/// Version `aa` is active, `bb` in shadow beside it.
fn fixture() -> Fixture {
    let fixture = Fixture::new();
    with_version(&fixture, "aa", 1);
    activate(&fixture, "aa");
    with_version(&fixture, "bb", 2);
    for event in [Event::Verify, Event::Admit, Event::Accept, Event::BeginShadow] {
        act(&fixture, "bb", event).unwrap();
    }
    fixture
}

fn beside(active: &str) -> Watched {
    Watched { candidate: "bb".into(), active: active.into() }
}

fn note(fixture: &Fixture, active: &str, boot: &'static str, fault: &'static str) {
    let watched = beside(active);
    fixture
        .ledger
        .write_blocking(move |writer| note_time(writer, "detector", &watched, boot, fault))
        .unwrap();
}

fn standing_of(fixture: &Fixture) -> Standing {
    fixture
        .ledger
        .read_blocking(|reader| standing(reader, "detector", "bb"))
        .unwrap()
        .expect("it was in shadow")
}

fn scored(score: f64) -> Reading {
    let tier = if score >= 0.7 { Tier::Reported } else { Tier::Suppressed };
    Reading {
        failed: None,
        latency_ms: 20.0,
        flagged: false,
        labels: BTreeMap::from([("disk".into(), Scored { score, tier })]),
        output: "digest".into(),
    }
}

/// A job of the active version that ended on a study.
fn ran(fixture: &Fixture, study: i64, job: i64, score: f64) {
    let reading = json!(scored(score)).to_string();
    fixture
        .ledger
        .write_blocking(move |writer| {
            let tx = writer.tx();
            tx.execute(
                "INSERT INTO studies (id, key, study_uid, state, revision, first_at, last_at)
                 VALUES (?1, 'key-' || ?1, '1.2.' || ?1, 'done', 1, 0, 0) ON CONFLICT (id) DO NOTHING",
                [study],
            )?;
            tx.execute(
                "INSERT INTO model_runs (job_id, study_id, slot, digest, activation, at, reading)
                 SELECT ?1, ?2, slot, digest, last_active, 0, ?3 FROM model_versions WHERE state = 'active'",
                params![job, study, reading],
            )?;
            Ok(())
        })
        .unwrap();
}

fn begun(fixture: &Fixture) -> Begun {
    fixture.ledger.write_blocking(|writer| begin(writer, "detector", &beside("aa"))).unwrap()
}

fn turn(fixture: &Fixture) -> Turn {
    match begun(fixture) {
        Begun::Turn(turn) => turn,
        other => panic!("{other:?}"),
    }
}

fn ended(fixture: &Fixture, turn: &Turn, reading: Reading, may_pass: bool) {
    let turn = turn.clone();
    fixture.ledger.write_blocking(move |writer| end(writer, &turn, &reading, may_pass)).unwrap();
}

#[test]
fn hours_count_while_the_daemon_runs_beside_the_same_version_and_not_by_the_clock_alone() {
    let fixture = fixture();
    note(&fixture, "aa", "boot-1", "");
    for _ in 0..180 {
        fixture.clock.advance(Duration::from_secs(10));
        note(&fixture, "aa", "boot-1", "");
    }
    assert!((standing_of(&fixture).hours - 0.5).abs() < 1e-9);
    // The daemon was down.
    fixture.clock.advance(Duration::from_secs(5 * 3600));
    note(&fixture, "aa", "boot-2", "");
    assert!((standing_of(&fixture).hours - 0.5).abs() < 1e-9);
    // The clock was set forward.
    fixture.clock.advance(Duration::from_secs(72 * 3600));
    note(&fixture, "aa", "boot-2", "");
    assert!((standing_of(&fixture).hours - 0.5 - 15.0 / 3600.0).abs() < 1e-9);
    // It does not load.
    let before = standing_of(&fixture).hours;
    for _ in 0..3 {
        fixture.clock.advance(Duration::from_secs(10));
        note(&fixture, "aa", "boot-2", "damaged");
    }
    let now = standing_of(&fixture);
    assert_eq!((now.hours, now.fault.as_str()), (before, "damaged"));
    // Beside another version all begins anew.
    fixture.clock.advance(Duration::from_secs(10));
    note(&fixture, "other", "boot-2", "");
    assert_eq!((standing_of(&fixture).hours, standing_of(&fixture).beside.as_str()), (0.0, "other"));
}

#[test]
fn each_study_is_compared_once_and_only_those_that_came_after_the_candidate() {
    let fixture = fixture();
    ran(&fixture, 1, 1, 0.9);
    note(&fixture, "aa", "boot", "");
    assert_eq!(begun(&fixture), Begun::Nothing, "it ended before");
    ran(&fixture, 2, 2, 0.9);
    ran(&fixture, 3, 3, 0.1);
    assert_eq!(standing_of(&fixture).waiting, 2);
    let first_turn = turn(&fixture);
    assert_eq!((first_turn.job_id, first_turn.attempt), (2, 1));
    ended(&fixture, &first_turn, scored(0.8), false);
    // A late image: the same study again.
    ran(&fixture, 2, 4, 0.9);
    let second = turn(&fixture);
    assert_eq!(second.job_id, 3);
    ended(&fixture, &second, Reading::failed("no engine"), false);
    ended(&fixture, &second, scored(0.5), false);
    assert_eq!(begun(&fixture), Begun::Nothing);
    let now = standing_of(&fixture);
    assert_eq!((now.studies, now.failed, now.waiting), (1, 1, 0), "what has ended stays as it ended");
    let (pairs, failures) =
        fixture.ledger.read_blocking(|reader| pairs(reader, "detector", "bb", "aa", &["disk"])).unwrap();
    assert_eq!(failures, BTreeMap::from([("no engine".to_owned(), 1)]));
    let found: Vec<_> = pairs.iter().map(|pair| (pair.study.as_str(), pair.candidate)).collect();
    let ran = Outcome::Ran { score: 0.8, tier: Tier::Reported, latency_ms: 20.0 };
    assert_eq!(found, [("key-2", ran), ("key-3", Outcome::Failed)]);
    let audited: i64 = fixture
        .ledger
        .read_blocking(|reader| {
            let sql = "SELECT count(*) FROM audit WHERE event = 'inference-run' AND detail LIKE '%\"shadow\":true%'";
            Ok(reader.query_row(sql, [], |row| row.get(0))?)
        })
        .unwrap();
    assert_eq!(audited, 2);
}

#[test]
fn a_study_that_takes_the_daemon_down_with_it_is_given_up_and_the_candidate_with_it() {
    let fixture = fixture();
    note(&fixture, "aa", "boot", "");
    ran(&fixture, 1, 1, 0.9);
    ran(&fixture, 2, 2, 0.9);
    assert_eq!(turn(&fixture).attempt, 1);
    assert_eq!(turn(&fixture).attempt, 2);
    // A stop on purpose is no try.
    fixture.ledger.write_blocking(take_back).unwrap();
    assert_eq!(turn(&fixture).attempt, 2);
    assert_eq!(turn(&fixture).attempt, 3);
    assert_eq!(begun(&fixture), Begun::Lost);
    assert_eq!(begun(&fixture), Begun::Nothing, "the next study is not tried");
    let now = standing_of(&fixture);
    assert!(now.fault.contains("the daemon ended every time"), "{now:?}");
    assert_eq!((now.studies, now.failed), (0, 1));
    fixture.clock.advance(Duration::from_secs(10));
    note(&fixture, "aa", "boot", "");
    assert_eq!(standing_of(&fixture).hours, 0.0, "it runs no more");
}

#[test]
fn a_failure_that_may_pass_is_tried_three_times_and_what_is_purged_is_not_counted() {
    let fixture = fixture();
    note(&fixture, "aa", "boot", "");
    ran(&fixture, 1, 1, 0.9);
    for attempt in 1..=3 {
        let turn = turn(&fixture);
        assert_eq!(turn.attempt, attempt);
        ended(&fixture, &turn, Reading::failed("the engine: busy"), true);
    }
    assert_eq!((begun(&fixture), standing_of(&fixture).failed), (Begun::Nothing, 1));
    ran(&fixture, 2, 2, 0.9);
    let turn = turn(&fixture);
    fixture.sql("UPDATE studies SET state = 'purged' WHERE id = 2");
    ended(&fixture, &turn, Reading::failed("images are gone"), false);
    let now = standing_of(&fixture);
    assert_eq!((now.failed, now.waiting, begun(&fixture)), (1, 0, Begun::Nothing));
}

#[test]
fn what_a_version_ran_on_first_is_in_shadow_then_live() {
    let fixture = fixture();
    note(&fixture, "aa", "boot", "");
    ran(&fixture, 1, 1, 0.9);
    let in_shadow = turn(&fixture);
    ended(&fixture, &in_shadow, scored(0.3), false);
    act(&fixture, "bb", Event::Activate).unwrap();
    ran(&fixture, 2, 2, 0.6);
    ran(&fixture, 3, 3, 0.7);
    let (first, live) = fixture
        .ledger
        .read_blocking(|reader| {
            Ok((first(reader, "detector", "bb", 2)?, live(reader, "detector", "bb", 2, 9)?))
        })
        .unwrap();
    let scores = |studies: &[lightbox_models::plan::Observed]| -> Vec<f64> {
        studies.iter().map(|study| study.scores["disk"]).collect()
    };
    assert_eq!((scores(&first), scores(&live)), (vec![0.3, 0.6], vec![0.6, 0.7]));
    assert_eq!(first[1].place, live[0].place, "the same study");
}
