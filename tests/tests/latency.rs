//! From the last image of a STAT study to the acceptance of its report, when there is evidence of completeness.
//!
//! An ordinary run allows 3 s, as machines that run other tests beside are noisy; `./justw latency` holds it to
//! the goal, p95 under 500 ms.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use dicom_dictionary_std::tags;
use lightbox_tests::Line;
use lightbox_tests::peers::announcer::{Announcer, step_begins, step_ends};
use lightbox_tests::peers::order_sender::{OrderSender, orm};
use lightbox_tests::samples::{phantom, study_of_copies, text_of};

const STUDIES: usize = 20;
/// A quiet timer that no test waits for.
const LONG: u32 = 120;

/// Sends each study's last image, one study after another, and judges the time that each took.
#[track_caller]
fn measure(line: &Line, last_images: &[&[PathBuf]], evidence: &str) {
    let mut spans = Vec::new();
    for (index, files) in last_images.iter().enumerate() {
        line.modality.deliver(line.daemon.dicom, &[], files);
        let deadline = Instant::now() + Duration::from_secs(30);
        while line.daemon.ledger().deliveries_in("pacs", "delivered").len() <= index {
            assert!(
                Instant::now() < deadline,
                "study {index} was not delivered: {}",
                line.daemon.ledger().summary()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        let span = line.daemon.ledger().number(&format!(
            "SELECT d.delivered_at - s.last_at - CAST(json_extract(j.timings, '$.infer') AS INTEGER)
             FROM deliveries d JOIN results r ON r.id = d.result_id JOIN jobs j ON j.id = r.job_id
                JOIN studies s ON s.id = r.study_id ORDER BY d.id LIMIT 1 OFFSET {index}"
        ));
        spans.push(span);
    }
    spans.sort_unstable();
    let (p50, p95) = (spans[STUDIES / 2], spans[STUDIES * 95 / 100 - 1]);
    println!(
        "last image -> SR accepted, less the model's own time, evidence by {evidence}: p50 {p50} ms, p95 {p95} ms, all {spans:?}"
    );
    let ledger = line.daemon.ledger();
    let by = format!("SELECT count(*) FROM revisions WHERE verdict LIKE '%{evidence}%'");
    assert_eq!(ledger.number(&by), STUDIES as i64, "not the evidence that was meant");
    assert_eq!(ledger.number("SELECT count(*) FROM studies WHERE priority = 1"), STUDIES as i64);
    let limit = if std::env::var_os("LIGHTBOX_STRICT_LATENCY").is_some() { 500 } else { 3_000 };
    assert!(p95 < limit, "p95 {p95} ms: {spans:?}");
    let decided = ledger
        .number("SELECT max(r.closed_at - s.last_at) FROM revisions r JOIN studies s ON s.id = r.study_id");
    assert!(decided < 5_000, "a routing decision took {decided} ms");
}

/// The line, and the studies with their STAT orders.
#[track_caller]
fn start(size: Option<(u32, u32)>) -> (Line, Vec<Vec<PathBuf>>) {
    let mut sender = None;
    let line = Line::start_with(|hospital, mut site| {
        site.quiet_seconds = LONG;
        let ris = sender.insert(OrderSender::new(hospital));
        Line::rules_to(site.orders("ris-orders", &ris.identity, ""), &["pacs"])
    });
    let ris = sender.expect("made");
    let image = phantom(&line.hospital, "dx", 1).files.remove(0);
    let studies: Vec<Vec<PathBuf>> = (0..STUDIES)
        .map(|index| study_of_copies(&line.hospital, &image, &format!("stat-{index}"), 2))
        .collect();
    let orders: Vec<String> = studies
        .iter()
        .enumerate()
        .map(|(index, files)| {
            orm(&format!("M{index}"), &text_of(&files[0], tags::STUDY_INSTANCE_UID), "S", size)
        })
        .collect();
    let acks = ris.send(line.daemon.orders.expect("a port"), &orders);
    assert!(acks.iter().all(|ack| ack.code == "AA"), "{acks:?}");
    (line, studies)
}

#[test]
fn with_an_order_that_tells_the_number_of_instances() {
    let (line, studies) = start(Some((1, 2)));
    let both: Vec<&[PathBuf]> = studies.iter().map(Vec::as_slice).collect();
    measure(&line, &both, "the order expects");
}

#[test]
fn with_a_procedure_step_that_lists_the_instances() {
    let (line, studies) = start(None);
    let modality = Announcer::new(&line.hospital, line.modality.identity());
    let begin: Vec<_> = studies.iter().map(|files| step_begins(files)).collect();
    modality.deliver(line.daemon.dicom, &begin);
    let first: Vec<PathBuf> = studies.iter().map(|files| files[0].clone()).collect();
    line.modality.deliver(line.daemon.dicom, &[], &first);
    line.wait_until_indexed(&first);
    let end: Vec<_> = studies.iter().map(|files| step_ends(files)).collect();
    modality.deliver(line.daemon.dicom, &end);
    let last: Vec<&[PathBuf]> = studies.iter().map(|files| &files[1..]).collect();
    measure(&line, &last, "the procedure step of");
}
