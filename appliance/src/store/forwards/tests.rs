use std::time::Duration;

use super::*;
use crate::clock::Clock;
use crate::store::fixture::{Fixture, START_MS};
use crate::store::queries::{self, DeliveryFilter, ForwardLine};
use crate::store::replay::{Outgoing, Wish};

fn by() -> By {
    By { operator: "olaf".into(), through: "page" }
}

fn lines(fixture: &Fixture) -> Vec<ForwardLine> {
    let mut lines = fixture
        .ledger
        .read_blocking(|reader| queries::forwards(reader, &DeliveryFilter::default()))
        .expect("read");
    lines.reverse();
    lines
}

fn claim_next(fixture: &Fixture) -> Option<Claim> {
    fixture.ledger.write_blocking(|writer| claim(writer, "pacs", "this boot", 1000)).expect("claimed")
}

fn settle(fixture: &Fixture, claim: &Claim, fates: Vec<(i64, i64, Fate)>, ended: Try) {
    let claim = claim.clone();
    fixture
        .ledger
        .write_blocking(move |writer| {
            progress(writer, &fates, 0)?;
            for forward in &claim.forwards {
                end(writer, &claim.study_key, &claim.destination, forward, &ended)?;
            }
            Ok(())
        })
        .expect("written");
}

const TO_PACS: &str = "[[rule]]\nname = 'all'\nforward = ['pacs']\n";

#[test]
fn a_plain_router_sends_each_image_once_and_late_ones_with_their_revision() {
    let fixture = Fixture::new();
    for (series, number) in [(1, 1), (1, 2), (2, 1)] {
        fixture.receive(series, number, "CHEST", b"pixels");
    }
    fixture.close_by(TO_PACS);
    let first = lines(&fixture);
    assert_eq!(first.iter().map(|line| (line.series, line.total)).collect::<Vec<_>>(), [(1, 2), (2, 1)]);
    let claim = claim_next(&fixture).expect("both series at once");
    assert_eq!((claim.forwards.len(), claim.items.len()), (2, 3));
    let sent = claim.items.iter().map(|item| (item.id, item.forward, Fate::Sent)).collect();
    settle(&fixture, &claim, sent, Try::Delivered(None));
    assert!(lines(&fixture).iter().all(|line| line.state == "delivered" && line.sent == line.total));
    assert!(claim_next(&fixture).is_none());

    // A late image: only that one.
    fixture.receive(1, 3, "CHEST", b"pixels");
    fixture.close_by(TO_PACS);
    let late = lines(&fixture).pop().expect("there");
    assert_eq!((late.revision, late.series, late.total, late.state.as_str()), (2, 1, 1, "queued"));
    assert_eq!(lines(&fixture).len(), 3, "the series without a late image is not sent again");
    let state: String = fixture
        .ledger
        .read_blocking(|reader| Ok(reader.query_row("SELECT state FROM studies", [], |row| row.get(0))?))
        .expect("read");
    assert_eq!(state, "done");
}

#[test]
fn after_a_crash_only_what_was_not_written_down_is_sent() {
    let fixture = Fixture::new();
    for number in 1..=3 {
        fixture.receive(1, number, "CHEST", b"pixels");
    }
    fixture.close_by(TO_PACS);
    let claim = claim_next(&fixture).expect("due");
    let done = vec![
        (claim.items[0].id, claim.items[0].forward, Fate::Broke),
        (claim.items[1].id, claim.items[1].forward, Fate::Sent),
    ];
    fixture.ledger.write_blocking(move |writer| progress(writer, &done, 0)).expect("written");
    // The next start.
    let held = fixture.ledger.write_blocking(|writer| reclaim(writer, "next boot")).expect("reclaimed");
    assert_eq!(held, 1);
    let again = claim_next(&fixture).expect("due again");
    let ids: Vec<i64> = again.items.iter().map(|item| item.id).collect();
    assert_eq!(ids, [claim.items[2].id, claim.items[0].id], "what broke the association goes last");
}

#[test]
fn a_dead_letter_is_a_problem_and_its_replay_sends_the_rest() {
    let fixture = Fixture::new();
    for number in 1..=2 {
        fixture.receive(1, number, "CHEST", b"pixels");
    }
    fixture.close_by(TO_PACS);
    let claim = claim_next(&fixture).expect("due");
    let reason = crate::phi::Phi::from("no such patient");
    let fates = vec![
        (claim.items[0].id, claim.items[0].forward, Fate::Sent),
        (claim.items[1].id, claim.items[1].forward, Fate::Refused(reason.clone())),
    ];
    settle(&fixture, &claim, fates, Try::Dead { reason, code: "C-STORE status 0xa900".into() });
    let study =
        fixture.ledger.read_blocking(|reader| queries::studies(reader, &Default::default())).expect("read");
    assert!(study[0].problem);
    let dead = &lines(&fixture)[0];
    assert_eq!((dead.state.as_str(), dead.sent, dead.total), ("dead", 1, 2));
    assert_eq!(dead.last_reason.as_ref().expect("kept").expose(), "no such patient");
    let replayed = fixture
        .ledger
        .write_blocking(|writer| Wish::Replay.act_on_all(writer, Some("pacs"), &by()))
        .expect("replayed");
    assert_eq!(replayed, [Outgoing::Forward(1)]);
    assert_eq!(claim_next(&fixture).expect("due").items.len(), 1);
    let again = fixture.ledger.write_blocking(|writer| replay(writer, 1, &by()));
    assert!(matches!(again, Err(LedgerError::Illegal(_))));
}

#[test]
fn what_is_held_waits_for_a_person_and_shadow_never_leaves() {
    let fixture = Fixture::new();
    fixture.receive(1, 1, "CHEST", b"pixels");
    fixture.receive(2, 1, "CHEST", b"pixels");
    // 2026-01-02 12:12Z is a Friday; the hours begin at 19:00.
    fixture.close_by(
        "[[rule]]\nname = 'one'\nmatch = { series_description = 'Thorax 1' }\nforward = ['pacs']\nhold = true\n\
         schedule = { from = '19:00', to = '20:00' }\n\
         [[rule]]\nname = 'two'\nmatch = { series_description = 'Thorax 2' }\nforward = ['pacs']\nmode = 'shadow'\n",
    );
    assert!(claim_next(&fixture).is_none());
    let before = lines(&fixture);
    assert_eq!(before.iter().map(ForwardLine::can_release).collect::<Vec<_>>(), [true, false]);
    let shadow = fixture.ledger.write_blocking(|writer| release(writer, 2, &by()));
    assert!(matches!(shadow, Err(LedgerError::Illegal(why)) if why.contains("shadow")));
    let released = fixture
        .ledger
        .write_blocking(|writer| Wish::Release.act_on_all(writer, None, &by()))
        .expect("released");
    assert_eq!(released, [Outgoing::Forward(1)]);
    assert!(claim_next(&fixture).is_none(), "its hours have not begun");
    let evening = START_MS / 86_400_000 * 86_400_000 + 19 * 3_600_000;
    assert_eq!(lines(&fixture)[0].next_at, evening);
    let wait = Duration::from_millis((evening - fixture.clock.now_ms()) as u64);
    fixture.clock.advance(wait - Duration::from_millis(1));
    assert!(claim_next(&fixture).is_none());
    fixture.clock.advance(Duration::from_millis(1));
    let claim = claim_next(&fixture).expect("the hours have begun");
    // A retry after the hours waits for the next evening.
    let reason = crate::phi::Phi::from("later");
    let next_ms = fixture.clock.now_ms() + 2 * 3_600_000;
    settle(&fixture, &claim, Vec::new(), Try::Again { reason, next_ms });
    assert_eq!(lines(&fixture)[0].next_at, evening + 24 * 3_600_000);
}
