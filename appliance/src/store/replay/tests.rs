//! What may be replayed, what may not, and that each is on record.

use std::sync::Arc;

use super::*;
use crate::audit::export::verify;
use crate::clock::SystemClock;
use crate::store::fixture::Fixture;
use crate::store::ledger::Ledger;
use crate::store::queries;

fn by() -> By {
    By { operator: "olaf".into(), through: "page" }
}

fn run<T: Send + 'static>(
    ledger: &Ledger,
    change: impl FnOnce(&Writer<'_>) -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, LedgerError> {
    ledger.write_blocking(change)
}

fn detail(fixture: &Fixture) -> queries::StudyDetail {
    fixture.ledger.read_blocking(|reader| queries::study(reader, &fixture.key())).expect("read")
}

#[test]
fn a_dead_letter_gets_all_its_tries_again_and_only_a_dead_one() {
    let fixture = Fixture::complete();
    assert_eq!(run(&fixture.ledger, |w| replay_delivery(w, 2, &by())).expect("replayed"), "ris");
    let again = &detail(&fixture).revisions[0].jobs[0].results[0].deliveries[1].clone();
    assert_eq!((again.state.as_str(), again.attempts), ("queued", 0));
    assert!(again.last_reason.is_some(), "what the peer said stays until the next try");
    for id in [1, 2] {
        let refused = run(&fixture.ledger, move |w| replay_delivery(w, id, &by()));
        assert!(matches!(refused, Err(LedgerError::Illegal(_))), "delivered, or queued already");
    }
    let missing = run(&fixture.ledger, |w| replay_delivery(w, 99, &by()));
    assert!(matches!(missing, Err(LedgerError::NotFound("delivery"))));
    let records: i64 = fixture
        .ledger
        .read_blocking(|reader| {
            Ok(reader.query_row(
                "SELECT count(*) FROM audit WHERE event = 'operator-action' AND subject = 'olaf'
                    AND detail LIKE '%\"delivery\":2%'",
                [],
                |row| row.get(0),
            )?)
        })
        .expect("read");
    assert_eq!(records, 1, "the refused ones changed nothing");
}

#[test]
fn all_dead_letters_of_one_destination() {
    let fixture = Fixture::complete();
    fixture.sql("UPDATE deliveries SET state = 'dead'");
    assert_eq!(
        run(&fixture.ledger, |w| Wish::Replay.act_on_all(w, Some("pacs"), &by())).expect("ok"),
        [Outgoing::Delivery(1)]
    );
    assert_eq!(
        run(&fixture.ledger, |w| Wish::Replay.act_on_all(w, None, &by())).expect("ok"),
        [Outgoing::Delivery(2)]
    );
}

#[test]
fn a_failed_job_of_the_last_revision_runs_again() {
    let fixture = Fixture::routed();
    let refused = run(&fixture.ledger, |w| replay_job(w, 1, &by()));
    assert!(matches!(refused, Err(LedgerError::Illegal(_))), "it waits already");
    fixture.sql(
        "UPDATE jobs SET state = 'failed', error = 'x', attempts = 3; UPDATE studies SET state = 'done'",
    );
    assert_eq!(run(&fixture.ledger, |w| replay_job(w, 1, &by())).expect("replayed"), fixture.key());
    let study = detail(&fixture);
    assert_eq!((study.line.state.as_str(), study.revisions[0].jobs[0].attempts), ("processing", 0));

    fixture.finish_job(&crate::deliver::fixture::detection().result);
    fixture.sql("UPDATE jobs SET state = 'failed'");
    run(&fixture.ledger, |w| replay_job(w, 1, &by())).expect("its failure was told, it may still run again");
    fixture.sql("UPDATE jobs SET state = 'failed'; UPDATE studies SET revision = 2");
    let refused = run(&fixture.ledger, |w| replay_job(w, 1, &by()));
    assert!(matches!(refused, Err(LedgerError::Illegal(why)) if why.contains("last revision")));
}

/// What `lightbox queue replay` does beside a running daemon: a second writer on the same file,
/// with the same device key. Both write; the chain stays whole.
#[test]
fn two_writers_on_one_ledger_keep_one_chain() {
    let fixture = Fixture::complete();
    let beside = Ledger::open(&fixture.data_dir(), fixture.identity.clone(), Arc::new(SystemClock))
        .expect("opened beside");
    std::thread::scope(|scope| {
        for ledger in [&fixture.ledger, &beside] {
            scope.spawn(move || {
                for _ in 0..100 {
                    ledger
                        .write_blocking(|writer| {
                            writer.audit(&Event::new(EventKind::OperatorAction, "olaf", json!({})))
                        })
                        .expect("written");
                }
            });
        }
    });
    run(&beside, |w| replay_delivery(w, 2, &by())).expect("replayed");
    drop(beside);
    let count = fixture.ledger.read_blocking(|reader| Ok(verify(reader, fixture.identity.public_key())));
    assert_eq!(count.expect("read").expect("whole"), 4 + 200 + 1);
}
