use super::*;
use crate::store::fixture::{Fixture, STUDY_UID};
use crate::store::orders::Order;

fn message(kind: &str, id: &str, body: &str) -> Vec<u8> {
    format!("MSH|^~\\&|RIS|HOSP|LIGHTBOX||20260101||{kind}|{id}|P|2.5.1\rPID|||77^^^HOSP\r{body}")
        .into_bytes()
}

fn order(control: &str, priority: &str, study: &str) -> String {
    format!("ORC|{control}|P1|F1||||^^^^^{priority}\rOBR|1|P1|F1|X^Y^L||||||||||||||A1\rZDS|{study}\r")
}

fn take_raw(fixture: &Fixture, raw: Vec<u8>) -> Taken {
    let settings = Orders::default();
    fixture.ledger.write_blocking(move |writer| take(writer, "ris", &raw, &settings)).expect("kept")
}

fn orders(fixture: &Fixture) -> Vec<Order> {
    fixture.ledger.read_blocking(|reader| orders::list(reader, 10)).expect("listed")
}

fn number(fixture: &Fixture, sql: &'static str) -> i64 {
    fixture.ledger.read_blocking(|reader| Ok(reader.query_row(sql, [], |row| row.get(0))?)).expect("a number")
}

#[test]
fn a_repeat_changes_nothing_and_a_changed_order_stays_one() {
    let fixture = Fixture::new();
    let first = message("ORM^O01", "1", &order("NW", "R", "1.2.3"));
    assert_eq!(take_raw(&fixture, first.clone()), Taken::Applied);
    assert_eq!(take_raw(&fixture, first), Taken::Applied);
    assert_eq!(number(&fixture, "SELECT count(*) FROM orders_inbox"), 1);
    assert_eq!(take_raw(&fixture, message("ORM^O01", "1", &order("XO", "S", ""))), Taken::Applied);
    let [found] = &orders(&fixture)[..] else { panic!("not one order") };
    assert_eq!((found.status.as_str(), found.stat, found.study_uid.expose().as_str()), ("XO", true, "1.2.3"));
    assert_eq!(number(&fixture, "SELECT count(*) FROM orders_inbox"), 2, "MSH-10 was used again for another");
    take_raw(&fixture, message("ORM^O01", "2", &order("CA", "S", "")));
    assert_eq!(orders(&fixture)[0].status, "CA");
}

#[test]
fn a_stat_order_raises_the_study_that_is_already_here() {
    let fixture = Fixture::routed();
    take_raw(&fixture, message("ORM^O01", "1", &order("NW", "R", STUDY_UID)));
    assert_eq!(number(&fixture, "SELECT priority FROM studies"), 0);
    take_raw(&fixture, message("ORM^O01", "2", &order("XO", "S", STUDY_UID)));
    assert_eq!(number(&fixture, "SELECT priority FROM studies"), 1);
    assert_eq!(number(&fixture, "SELECT count(*) FROM audit WHERE event = 'study-raised'"), 1);
}

#[test]
fn an_order_without_a_study_uid_belongs_by_accession_and_patient() {
    let fixture = Fixture::routed();
    fixture.sql(
        "UPDATE instances SET attributes = json_set(attributes, '$.accession', 'A1', '$.patient_id', '77')",
    );
    take_raw(&fixture, message("ORM^O01", "1", &order("NW", "S", "")));
    assert_eq!(number(&fixture, "SELECT priority FROM studies"), 1);
    // Another patient's order with the same accession number raises nothing.
    let fixture = Fixture::routed();
    fixture.sql(
        "UPDATE instances SET attributes = json_set(attributes, '$.accession', 'A1', '$.patient_id', '88')",
    );
    take_raw(&fixture, message("ORM^O01", "1", &order("NW", "S", "")));
    assert_eq!(number(&fixture, "SELECT priority FROM studies"), 0);
    // But once 88 was merged into 77, it is the same patient.
    take_raw(&fixture, message("ADT^A40", "2", "MRG|88^^^HOSP\r"));
    take_raw(&fixture, message("ORM^O01", "3", &order("XO", "S", "")));
    assert_eq!(number(&fixture, "SELECT priority FROM studies"), 1);
}

#[test]
fn a_merge_moves_orders_and_leaves_results() {
    let fixture = Fixture::complete();
    take_raw(&fixture, message("ORM^O01", "1", &order("NW", "R", STUDY_UID)));
    let before = number(&fixture, "SELECT count(*) FROM results");
    let raw =
        b"MSH|^~\\&|RIS|HOSP|LIGHTBOX||2026||ADT^A40|2|P|2.5.1\rPID|||99^^^HOSP\rMRG|77^^^HOSP\r".to_vec();
    assert_eq!(take_raw(&fixture, raw), Taken::Applied);
    assert_eq!(orders(&fixture)[0].patient_id.expose(), "99");
    assert_eq!(number(&fixture, "SELECT count(*) FROM results"), before);
}

#[test]
fn what_is_refused_is_kept_and_can_be_replayed() {
    let fixture = Fixture::new();
    assert!(matches!(take_raw(&fixture, b"GET / HTTP/1.1".to_vec()), Taken::Refused(Refusal::NoMessage(_))));
    let refused = take_raw(&fixture, message("ORU^R01", "1", ""));
    assert_eq!(refused, Taken::Refused(Refusal::Fault(Fault::Kind)));
    let kept = fixture.ledger.read_blocking(|reader| list(reader, true, 10)).expect("listed");
    assert_eq!(kept.len(), 2);
    assert_eq!(kept[0].kind, "other");
    take_raw(&fixture, message("ORM^O01", "2", &order("NW", "R", "1.2.3")));
    fixture.sql("DELETE FROM orders");
    let by = By { operator: "olaf".into(), through: "command line" };
    let again = fixture.ledger.write_blocking(move |writer| replay(writer, 3, &Orders::default(), &by));
    assert_eq!(again.expect("replayed"), Taken::Applied);
    assert_eq!(orders(&fixture).len(), 1);
}

#[test]
fn the_audit_log_names_no_patient() {
    let fixture = Fixture::new();
    take_raw(&fixture, message("ORM^O01", "SECRET", &order("NW", "S", "1.2.840.4711")));
    let audit: String = fixture
        .ledger
        .read_blocking(|reader| {
            Ok(reader.query_row("SELECT group_concat(subject || detail) FROM audit", [], |row| row.get(0))?)
        })
        .expect("the log");
    for value in ["4711", "SECRET", "\"77\"", "A1", "P1"] {
        assert!(!audit.contains(value), "{value}: {audit}");
    }
}
