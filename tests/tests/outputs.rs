//! What leaves the box in the less usual settings: models that could not run, studies that HL7 cannot
//! speak of, shadow mode, plaintext where it is allowed, HL7 over TLS.

use std::process::Command;

use lightbox_tests::command::{program, python, run};
use lightbox_tests::peers::port;
use lightbox_tests::peers::server::Server;
use lightbox_tests::samples::{copy_as, files_below, phantom, sample};
use lightbox_tests::{Line, judges};

/// CT_small states no body part, and the phantom detector is for phantoms only: it cannot run.
fn line_with_a_model_that_cannot_run(failed_run: &str) -> Line {
    let line = Line::start_with(|_, site| {
        let mut site = site.rule("all", "", &["phantom"], &["pacs", "ris"]);
        site.failed_run = failed_run.into();
        site
    });
    line.send_and_wait(&[sample("CT_small.dcm")]);
    line
}

#[test]
fn a_model_that_could_not_run_says_so_in_a_partial_sr() {
    let line = line_with_a_model_that_cannot_run("partial");
    let reports = line.pacs.files();
    assert_eq!(reports.len(), 1, "{}", line.daemon.ledger().summary());
    judges::accept_sr(&reports[0]);
    let said = run(Command::new(program("dsrdump")).arg(&reports[0])).ok("dsrdump");
    assert!(said.out.contains("PARTIAL"), "{}", said.out);
    assert!(said.out.contains("outside the indication"), "{}", said.out);
    let failed = line.daemon.ledger().texts("SELECT error FROM jobs WHERE state = 'failed'");
    assert!(failed.len() == 1 && failed[0].contains("outside the indication"), "{failed:?}");
    judges::accept_oru(&line.hospital, &line.ris.received()[0]);
}

#[test]
fn where_the_site_wants_silence_nothing_is_sent_and_the_study_shows_why() {
    let line = line_with_a_model_that_cannot_run("none");
    assert_eq!((line.pacs.files().len(), line.ris.received().len()), (0, 0));
    let ledger = line.daemon.ledger();
    assert_eq!(ledger.number("SELECT count(*) FROM jobs WHERE state = 'failed' AND error != ''"), 1);
    assert_eq!(ledger.number("SELECT count(*) FROM deliveries"), 0);
}

#[test]
fn a_study_without_a_patient_id_keeps_its_sr_and_its_message_is_a_dead_letter() {
    let line = Line::start_with(|_, site| Line::usual_rules(site));
    let file = copy_as(&sample("CT_small.dcm"), &line.hospital.folder().join("nobody.dcm"), true);
    run(Command::new(program("dcmodify")).args(["-nb", "-m", "PatientID="]).arg(&file)).ok("dcmodify");
    line.send_and_wait(&[file]);
    assert_eq!(line.pacs.files().len(), 1, "{}", line.daemon.ledger().summary());
    judges::accept_sr(&line.pacs.files()[0]);
    let dead = line.daemon.ledger().deliveries_in("ris", "dead");
    assert!(dead.len() == 1 && dead[0].reason.contains("patient id"), "{dead:?}");
    assert_eq!(line.ris.received().len(), 0);
}

#[test]
fn shadow_mode_keeps_the_result_and_sends_nothing() {
    let line = Line::start_with(|_, site| {
        site.text("[[rule]]\nname = \"try\"\nmode = \"shadow\"\nmodels = [\"any-image\"]\ndeliver = [\"pacs\", \"ris\"]")
    });
    line.modality.deliver(line.daemon.dicom, &[], &[sample("CT_small.dcm")]);
    line.daemon.wait_for("the result", 30, |ledger| (!ledger.results().is_empty()).then_some(()));
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!((line.pacs.files().len(), line.ris.received().len()), (0, 0));
    assert_eq!(line.daemon.ledger().deliveries_in("pacs", "held").len(), 1);
}

#[test]
fn plaintext_works_only_where_it_is_allowed_and_is_said_loudly() {
    let line = Line::start_with(|_, site| {
        let site = site.dicom_line("plaintext_listen = \"127.0.0.1:0\"\nallow_plaintext = true");
        let site = site
            .text("[[peer]]\nname = \"old-us\"\nae_title = \"OLDUS\"\nplaintext = true\nmay = [\"send\"]");
        Line::usual_rules(site)
    });
    let port = line.daemon.plaintext.expect("a plaintext port").port().to_string();
    let send = |calling: &str| {
        let mut command = Command::new(program("storescu"));
        command.args(["-aet", calling, "-aec", "LIGHTBOX", "127.0.0.1", &port]);
        run(command.arg(sample("CT_small.dcm")))
    };
    send("OLDUS").ok("a plaintext peer");
    line.wait_until_indexed(&[sample("CT_small.dcm")]);
    line.wait_until_quiet();
    assert_eq!(line.pacs.files().len(), 1);
    assert!(line.daemon.log().contains("PLAINTEXT DICOM IS ON"), "{}", line.daemon.log());
    // CT1 is known by its certificate, so it must not get in without one.
    let refused = send("CT1");
    assert!(refused.all().contains("Calling AE Title Not Recognized"), "{}", refused.all());
}

#[test]
fn a_receiver_with_mutual_tls_gets_its_messages_and_an_impostor_gets_none() {
    let mut receiver = None;
    let line = Line::start_with(|hospital, site| {
        let (identity, other) = (hospital.issue("ris-tls"), hospital.issue("impostor"));
        let (real, fake) = (port::reserve(), port::reserve());
        let start = |port: u16, name: &str, identity: &lightbox_tests::hospital::Identity| {
            let folder = hospital.sub_folder(name);
            let mut command = python("mllp_tls.py");
            command.arg(port.to_string()).args([&identity.certificate, &identity.key]);
            command.arg(hospital.ca()).arg(&folder);
            (Server::start(&mut command, port, &folder.with_extension("log")), folder)
        };
        receiver = Some((start(real, "ris-tls", &identity), start(fake, "impostor", &other)));
        let pin = format!("tls = true\ncertificate = {{ sha256 = {:?} }}", identity.sha256);
        let site = site.hl7("ris-tls", real, &pin).hl7("ris-fake", fake, &pin);
        Line::rules_to(site, &["ris-tls", "ris-fake"])
    });
    let phantom = phantom(&line.hospital, "ct", 3);
    line.modality.deliver(line.daemon.dicom, &[], &phantom.files);
    line.daemon.wait_for("the message", 30, |ledger| {
        (!ledger.deliveries_in("ris-tls", "delivered").is_empty()).then_some(())
    });
    line.daemon.wait_for("a refusal of the impostor", 30, |ledger| {
        ledger.deliveries_in("ris-fake", "queued").into_iter().find(|tried| tried.reason.contains("TLS"))
    });
    let ((_server, messages), (_impostor, stolen)) = receiver.expect("started");
    let messages = files_below(&messages, "hl7");
    assert_eq!(messages.len(), 1);
    judges::accept_oru(&line.hospital, &std::fs::read(&messages[0]).expect("readable"));
    assert!(files_below(&stolen, "hl7").is_empty(), "the impostor got a patient's message");
}
