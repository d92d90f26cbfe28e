//! What people ask, on a ledger that was filled as the daemon fills it.

use super::*;
use crate::deliver::fixture::detection;
use crate::finding::{Completeness, Tier};
use crate::store::fixture::{Fixture, HOSTILE, START_MS, STUDY_UID};
use crate::store::index::Stored;

fn read<T>(fixture: &Fixture, query: impl FnOnce(&Connection) -> Result<T, LedgerError>) -> T {
    fixture.ledger.read_blocking(query).expect("read")
}

fn problems(fixture: &Fixture) -> usize {
    let filter = StudyFilter { problems_only: true, ..StudyFilter::default() };
    read(fixture, |reader| studies(reader, &filter)).len()
}

#[test]
fn a_study_tells_where_it_went_and_why() {
    let fixture = Fixture::complete();
    let detail = read(&fixture, |reader| study(reader, &fixture.key()));
    assert_eq!((detail.line.state.as_str(), detail.line.revision), ("done", 1));
    assert_eq!((detail.line.series, detail.line.instances), (2, 3));
    assert_eq!((detail.line.worst_job(), detail.line.worst_delivery()), (Some("done"), Some("dead")));
    assert_eq!(detail.series_list[0].description.expose(), "Thorax 1");
    assert_eq!((detail.series_list[0].instances, detail.series_list[1].instances), (2, 1));

    let revision = &detail.revisions[0];
    assert!(revision.verdict.contains("no new instance for 60 s"));
    assert_eq!(revision.evidence["instances"]["CT"], 3);
    let decided: Vec<_> = revision.decisions.iter().map(|d| (d.series, d.rule.as_str(), d.matched)).collect();
    assert_eq!(
        decided,
        [(1, "phantoms", true), (1, "thin chest", false), (2, "phantoms", true), (2, "thin chest", false)]
    );
    assert_eq!(revision.decisions[1].inputs.expose()["study_description"], HOSTILE);

    let job = &revision.jobs[0];
    assert_eq!((job.series.as_slice(), job.timings["run"]), ([1, 2].as_slice(), 80.0));
    assert_eq!(job.deliver["ris"], crate::dispatch::Dispatch::NOW);
    let outcome = job.outcome.as_ref().expect("it ran");
    assert_eq!(outcome.tiers.values().sum::<usize>(), 3);
    assert_eq!(outcome.tiers["suppressed"], 1);
    assert_eq!(outcome.findings[0].tier, Tier::Reported);
    assert_eq!(outcome.findings[2].tier, Tier::Suppressed);
    assert_eq!((outcome.findings[2].series, outcome.findings[2].image), (1, Some(2)));
    let deliveries = &job.results.first().expect("made").deliveries;
    assert_eq!((deliveries[0].destination.as_str(), deliveries[1].state.as_str()), ("pacs", "dead"));
}

#[test]
fn nothing_that_is_shown_of_a_study_names_the_patient_but_by_its_key() {
    let fixture = Fixture::complete();
    let detail = read(&fixture, |reader| study(reader, &fixture.key()));
    let json = serde_json::to_string(&detail).expect("JSON");
    assert!(json.contains("Thorax 1") && !json.contains(STUDY_UID) && !json.contains("JANE"));
    let debug = format!("{detail:?}");
    assert!(!debug.contains("alert") && !debug.contains("Thorax") && !debug.contains("unknown patient"));
}

#[test]
fn a_study_is_a_problem_until_a_person_has_nothing_to_do() {
    let fixture = Fixture::routed();
    assert_eq!(problems(&fixture), 0);
    let mut outcome = detection().result;
    fixture.finish_job(&outcome);
    assert_eq!(problems(&fixture), 1, "a dead letter");
    fixture.sql("UPDATE deliveries SET state = 'delivered'");
    assert_eq!(problems(&fixture), 0);
    outcome.completeness = Completeness::NotRun("no image that it takes".into());
    let text = serde_json::to_string(&outcome).expect("JSON");
    fixture
        .ledger
        .write_blocking(move |writer| Ok(writer.tx().execute("UPDATE jobs SET outcome = ?1", [text])?))
        .expect("set");
    assert_eq!(problems(&fixture), 1, "a model that could not run");
    fixture.sql("UPDATE jobs SET outcome = 'not JSON'");
    assert_eq!(problems(&fixture), 0);
    fixture.sql("UPDATE jobs SET state = 'failed', error = 'the engine stopped'");
    assert_eq!(problems(&fixture), 1);
    fixture.sql("UPDATE jobs SET state = 'done', outcome = NULL");
    assert_eq!(fixture.receive(1, 1, "PHANTOM", b"other pixels"), Stored::Conflict);
    assert_eq!(problems(&fixture), 1, "an instance that came twice with different bytes");
    let detail = read(&fixture, |reader| study(reader, &fixture.key()));
    assert_eq!(detail.series_list[0].conflicts, 1);
}

#[test]
fn lists_come_in_pages_and_by_state() {
    let fixture = Fixture::routed();
    fixture.sql(
        "INSERT INTO studies (key, study_uid, state, revision, first_at, last_at)
         VALUES ('second', '1', 'unrouted', 1, 0, 0), ('third', '2', 'receiving', 0, 0, 0)",
    );
    let page = |filter| read(&fixture, |reader| studies(reader, &filter));
    let first = page(StudyFilter { limit: 2, ..StudyFilter::default() });
    assert_eq!([&first[0].key, &first[1].key], ["third", "second"]);
    let rest = page(StudyFilter { before: Some(first[1].id), ..StudyFilter::default() });
    assert_eq!(rest[0].key, fixture.key());
    let unrouted = page(StudyFilter { state: Some(StudyState::Unrouted), ..StudyFilter::default() });
    assert_eq!((unrouted.len(), unrouted[0].key.as_str()), (1, "second"));
    let missing = fixture.ledger.read_blocking(|reader| study(reader, "nobody"));
    assert!(matches!(missing, Err(LedgerError::NotFound("study"))));
}

#[test]
fn counts_name_every_state_and_the_age_of_the_queue() {
    let fixture = Fixture::complete();
    let counted = read(&fixture, counts);
    assert_eq!((counted.studies["done"], counted.studies["receiving"]), (1, 0));
    assert_eq!((counted.jobs["done"], counted.problem_studies), (1, 1));
    let ris = &counted.destinations["ris"];
    assert_eq!((ris.deliveries["dead"], ris.deliveries["queued"]), (1, 0));
    assert_eq!(ris.last_attempt, Some((START_MS + 63_000, false)));
    assert_eq!(counted.destinations["pacs"].last_attempt, Some((START_MS + 63_000, true)));
    assert_eq!(counted.audit_head, 4, "three instances and a routing");
    fixture.sql("UPDATE deliveries SET state = 'queued', queued_at = 7 WHERE id = 2");
    assert_eq!(read(&fixture, counts).destinations["ris"].oldest_queued_at, Some(7));
}

#[test]
fn deliveries_are_found_by_state_and_destination() {
    let fixture = Fixture::complete();
    let list = |filter| read(&fixture, |reader| deliveries(reader, &filter));
    assert_eq!(list(DeliveryFilter::default()).len(), 2);
    let dead = list(DeliveryFilter { states: vec![DeliveryState::Dead], ..DeliveryFilter::default() });
    assert_eq!((dead[0].id, dead[0].destination.as_str()), (2, "ris"));
    assert!(dead[0].last_reason.as_ref().expect("kept").expose().contains("unknown patient"));
    let of_pacs = list(DeliveryFilter { destination: Some("pacs".into()), ..DeliveryFilter::default() });
    assert_eq!(of_pacs.len(), 1);
}

#[test]
fn refusals_are_grouped_and_the_last_are_first() {
    let fixture = Fixture::new();
    fixture.sql(
        "INSERT INTO refusals (at, peer, calling_ae, address, reason, remedy) VALUES
            (1, 'ct-1', 'CT9', '10.0.0.1', 'wrong AE', 'set it'), (5, 'ct-1', 'CT9', '10.0.0.1', 'wrong AE', 'set it'),
            (3, 'ct-1', 'CT1', '10.0.0.1', 'not ours', 'call us'), (4, '10.0.0.9', '', '10.0.0.9', 'no cert', 'show one')",
    );
    let found = read(&fixture, |reader| refusals(reader, 1));
    assert_eq!((found["ct-1"].len(), found["ct-1"][0].count, found["ct-1"][0].first_at), (1, 2, 1));
    assert_eq!(found["10.0.0.9"][0].remedy, "show one");
}
