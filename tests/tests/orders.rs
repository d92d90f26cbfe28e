//! Orders from the RIS: on disk before they are acknowledged, refused with a reason, bounded.

use std::io::{Read, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use lightbox_tests::command::{program, run, run_lightbox};
use lightbox_tests::peers::mllp::field;
use lightbox_tests::peers::order_sender::{OrderSender, orm};
use lightbox_tests::peers::tls_client;
use lightbox_tests::samples::{sample, study_of_copies, text_of};
use lightbox_tests::{Daemon, Hospital, Line, Site};

fn box_with_orders(more: &str) -> (Daemon, Site, OrderSender, Hospital) {
    let hospital = Hospital::new();
    let ris = OrderSender::new(&hospital);
    let site = Site::new(&hospital).orders("ris", &ris.identity, more);
    let daemon = Daemon::start(&site);
    (daemon, site, ris, hospital)
}

#[test]
fn an_acknowledged_order_survives_kill_9_and_a_repeat_changes_nothing() {
    let (mut daemon, site, ris, _hospital) = box_with_orders("");
    let messages = [orm("M1", "1.2.826.1", "S", None), orm("M2", "1.2.826.2", "R", None)];
    let acks = ris.send(daemon.orders.expect("a port"), &messages);
    daemon.kill();
    assert_eq!(acks.iter().map(|ack| ack.code.as_str()).collect::<Vec<_>>(), ["AA", "AA"]);
    assert_eq!((acks[0].control_id.as_str(), acks[1].control_id.as_str()), ("M1", "M2"));
    let ledger = daemon.ledger();
    assert_eq!(
        ledger.texts("SELECT accession || ' ' || stat FROM orders ORDER BY id"),
        ["ACCM1 1", "ACCM2 0"]
    );
    assert_eq!(ledger.texts("SELECT CAST(raw AS TEXT) FROM orders_inbox ORDER BY id"), messages);

    let daemon = Daemon::start(&site);
    let again = ris.send(daemon.orders.expect("a port"), &messages);
    assert_eq!(again, acks);
    assert_eq!(daemon.ledger().number("SELECT count(*) FROM orders_inbox"), 2);
    let path = site.path.to_str().expect("a plain path");
    let listed = run_lightbox(&["orders", "list", "--site", path]).ok("orders list").out;
    assert!(listed.contains("ACCM1") && listed.contains("STAT"), "{listed}");
    let shown = run_lightbox(&["orders", "show", "1", "--site", path]).ok("orders show").out;
    assert!(shown.contains("PLACERM1") && shown.contains("PID|||4711"), "{shown}");
    assert!(!daemon.log().contains("4711") && !daemon.log().contains("ACCM1"), "{}", daemon.log());
}

#[test]
fn what_is_not_taken_is_answered_with_the_reason_and_kept() {
    let (daemon, site, ris, _hospital) = box_with_orders("");
    let good = orm("M1", "1.2.826.1", "R", None);
    let acks = ris.send(
        daemon.orders.expect("a port"),
        &[
            good.replace("ORM^O01", "ORU^R01"),
            good.replace("|2.3.1", "|2.8"),
            good.replace("PID|||4711^^^HOSPITAL||DOE^JANE\r", ""),
            good.replace("|P|2.3.1", "|P|2.5.1|||AL|NE"),
            good.replace("ORM^O01", "SIU^S12").replace("|P|2.3.1", "|P|2.5.1|||AL|AL"),
            good,
        ],
    );
    let codes: Vec<&str> = acks.iter().map(|ack| ack.code.as_str()).collect();
    assert_eq!(codes, ["AR", "AR", "AE", "CA", "CR", "AA"], "{acks:?}");
    assert!(acks[0].text.contains("ORM O01, OMI O23"), "{acks:?}");
    assert!(acks[1].text.contains("2.3 to 2.5.1"), "{acks:?}");
    assert!(acks[2].text.contains("PID-3"), "{acks:?}");
    let path = site.path.to_str().expect("a plain path");
    let refused = run_lightbox(&["orders", "messages", "--refused", "--site", path]).ok("messages").out;
    assert_eq!(refused.matches("refused").count(), 4, "{refused}");
    assert!(daemon.ledger().audit("order-received").len() >= 6);
}

#[test]
fn frames_are_bounded_in_size_and_time_and_strangers_stay_out() {
    let (daemon, _site, ris, hospital) = box_with_orders("max_message_kib = 16\nmessage_timeout_seconds = 1");
    let to = daemon.orders.expect("a port");
    let connect = |identity: &lightbox_tests::Identity| {
        tls_client::connect(to, &hospital.ca(), &identity.certificate, &identity.key)
    };
    // Too large: the connection ends, and the page of peers says why.
    let mut stream = connect(&ris.identity).expect("connected");
    let _ = stream.write_all(&[b"\x0bMSH|^~\\&|".as_slice(), &[b'A'; 64 * 1024]].concat());
    assert!(!matches!(stream.read(&mut [0; 64]), Ok(1..)), "a frame above the limit was answered");
    daemon.wait_for("the refusal", 10, |ledger| {
        ledger
            .texts("SELECT reason FROM refusals")
            .iter()
            .any(|reason| reason.contains("larger than"))
            .then_some(())
    });
    // Half a frame: cut after its time.
    let mut stream = connect(&ris.identity).expect("connected");
    stream.write_all(b"\x0bMSH|^~\\&|RIS").expect("sent");
    let begun = Instant::now();
    assert!(!matches!(stream.read(&mut [0; 64]), Ok(1..)), "half a frame was answered");
    assert!(begun.elapsed() < Duration::from_secs(15), "half a frame was waited for");
    // No message at all, and what cannot be read.
    let mut stream = connect(&ris.identity).expect("connected");
    stream.write_all(b"\x0bGET / HTTP/1.1\r\n\x1c\r").expect("sent");
    let mut answer = [0; 4096];
    let read = stream.read(&mut answer).expect("an answer");
    let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
    assert!(answer.contains("MSA|AE|") && answer.contains("MSH segment"), "{answer}");
    // A certificate of the site's authority that belongs to no source.
    let stranger = hospital.issue("stranger");
    let refused = connect(&stranger).and_then(|mut stream| stream.read(&mut [0; 64]));
    assert!(!matches!(refused, Ok(1..)), "a stranger was let in");
    daemon.wait_for("the stranger's refusal", 10, |ledger| {
        ledger
            .texts("SELECT reason FROM refusals")
            .iter()
            .any(|reason| reason.contains("not named"))
            .then_some(())
    });
    // Others are unharmed.
    assert_eq!(ris.send(to, &[orm("M1", "1.2.826.1", "R", None)])[0].code, "AA");
}

#[test]
fn the_message_of_a_result_carries_the_order() {
    let mut sender = None;
    let line = Line::start_with(|hospital, site| {
        let ris = sender.insert(OrderSender::new(hospital));
        let site = site.orders("ris-orders", &ris.identity, "");
        Line::usual_rules(site)
    });
    let ris = sender.expect("made");
    let files = study_of_copies(&line.hospital, &sample("CT_small.dcm"), "ordered", 1);
    run(Command::new(program("dcmodify")).args(["-nb", "-i", "AccessionNumber="]).arg(&files[0]))
        .ok("taking the accession number out");
    let uid = text_of(&files[0], dicom_dictionary_std::tags::STUDY_INSTANCE_UID);
    ris.send(line.daemon.orders.expect("a port"), &[orm("M1", &uid, "R", None)]);
    line.send_and_wait(&files);
    let message = line.ris.texts().remove(0);
    assert_eq!(field(&message, "OBR", 2), "PLACERM1");
    assert_eq!(field(&message, "ORC", 2), "PLACERM1");
    assert_eq!(field(&message, "OBR", 4), "CTHEAD^CT Head^L");
    assert_eq!(field(&message, "OBR", 18), "ACCM1");
    assert_ne!(field(&message, "OBR", 3), "FILLERM1", "we are our result's filler");
}
