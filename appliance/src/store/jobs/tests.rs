use super::*;
use crate::store::deliveries;
use crate::store::fixture::Fixture;

/// A second study, later than the first, with a job and a delivery of its own.
const SECOND: &str = "
    INSERT INTO studies (id, key, study_uid, state, revision, first_at, last_at) VALUES (2, 'second', '1.2.9', 'processing', 1, 9, 9);
    INSERT INTO revisions VALUES (2, 1, 9, 'silence', '{}', 'rules');
    INSERT INTO jobs (id, study_id, revision, model, state, series, deliver, next_at, created_at)
        SELECT 2, 2, 1, model, state, '[]', deliver, next_at, created_at + 1 FROM jobs WHERE id = 1;
    INSERT INTO results VALUES (1, 1, 1, 1, 'phantom', '2.25.1', '2.25.2', 'MC1', 'aa.dcm', '{}', '{}', 1);
    INSERT INTO results VALUES (2, 2, 2, 1, 'phantom', '2.25.3', '2.25.4', 'MC2', 'bb.dcm', '{}', '{}', 2);
    INSERT INTO deliveries (id, result_id, destination, state, queued_at, next_at) VALUES (1, 1, 'pacs', 'queued', 1, 1);
    INSERT INTO deliveries (id, result_id, destination, state, queued_at, next_at) VALUES (2, 2, 'pacs', 'queued', 2, 2);
";

fn claimed(fixture: &Fixture) -> (Option<i64>, Option<i64>) {
    let write = fixture.ledger.write_blocking(|writer| {
        let job = claim(writer, "me", 1000)?.map(|claim| claim.id);
        Ok((job, deliveries::claim(writer, "pacs", "me", 1000)?.map(|claim| claim.id)))
    });
    write.expect("claimed")
}

#[test]
fn the_oldest_goes_first_and_stat_before_it() {
    let fixture = Fixture::routed();
    fixture.sql(SECOND);
    assert_eq!(claimed(&fixture), (Some(1), Some(1)));
    let fixture = Fixture::routed();
    fixture.sql(SECOND);
    fixture.sql("UPDATE studies SET priority = 1 WHERE id = 2");
    assert_eq!(claimed(&fixture), (Some(2), Some(2)));
    assert_eq!(claimed(&fixture), (Some(1), Some(1)));
}

#[test]
fn a_job_on_a_series_is_written_once_grows_until_it_starts_and_sees_what_it_was_given() {
    let fixture = Fixture::new();
    let series = Phi::new(crate::deliver::fixture::image(1, 1, 1).series_uid.expose().clone());
    let write = |through: i64| {
        let series = series.clone();
        fixture
            .ledger
            .write_blocking(move |writer| {
                let deliver = "{}".to_owned();
                let new = OnSeries {
                    study_id: 1,
                    revision: 1,
                    model: "phantom",
                    series: &series,
                    through,
                    verdict: "all here",
                    deliver,
                };
                write_on_series(writer, &new)
            })
            .expect("written")
    };
    fixture.receive(1, 1, "PHANTOM", b"one");
    assert!(write(1));
    assert!(!write(1), "covered");
    fixture.receive(1, 2, "PHANTOM", b"two");
    assert!(write(2), "it waits, and takes the second instance along");
    let claim =
        fixture.ledger.write_blocking(|writer| claim(writer, "me", 1000)).expect("claimed").expect("one job");
    assert_eq!((claim.revision, claim.verdict.as_str()), (1, "all here"));
    fixture.receive(1, 3, "PHANTOM", b"three");
    fixture.receive(2, 1, "PHANTOM", b"other series");
    let seen = {
        let claim = claim.clone();
        fixture.ledger.read_blocking(|reader| instances(reader, &claim)).expect("read")
    };
    assert_eq!(seen.len(), 2, "neither what came later nor the other series");
    assert!(write(3), "it runs: the third instance makes a job of its own");
    let jobs = fixture
        .ledger
        .read_blocking(|reader| {
            Ok(reader.query_row("SELECT count(*) FROM jobs", [], |row| row.get::<_, i64>(0))?)
        })
        .expect("counted");
    assert_eq!(jobs, 2);
}
