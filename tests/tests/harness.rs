//! Controls: the peers and judges of these tests do what the tests take for granted.

use std::net::SocketAddr;
use std::process::Command;

use lightbox_tests::command::{program, python, run};
use lightbox_tests::peers::orthanc::{self, Orthanc};
use lightbox_tests::peers::port;
use lightbox_tests::peers::refusing::{Refusal, RefusingScp};
use lightbox_tests::peers::server::Server;
use lightbox_tests::peers::storescp::Storescp;
use lightbox_tests::peers::storescu::Storescu;
use lightbox_tests::peers::tls_client::{alert, connect, openssl};
use lightbox_tests::samples::{data_set_digest, large_sample, sample, study_of_copies};
use lightbox_tests::{Hospital, judges};

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[test]
fn the_tls_1_1_client_really_offers_it_and_sees_the_alert() {
    let hospital = Hospital::new();
    let identity = hospital.issue("server");
    let server = |version: &str| {
        let port = port::reserve();
        let mut command = Command::new(program("openssl"));
        command.args([
            "s_server",
            version,
            "-cipher",
            "ALL@SECLEVEL=0",
            "-www",
            "-accept",
            &port.to_string(),
        ]);
        command.arg("-cert").arg(&identity.certificate).arg("-key").arg(&identity.key);
        (Server::start(&mut command, port, &hospital.folder().join("s_server.log")), port)
    };
    let (_old, port) = server("-tls1_1");
    let offer = ["s_client", "-tls1_1", "-cipher", "ALL@SECLEVEL=0", "-connect", &local(port).to_string()];
    let said = run(Command::new(program("openssl")).args(offer));
    assert!(said.out.contains("Protocol  : TLSv1.1"), "{}", said.all());
    assert_eq!(alert(&said), None);
    let (_new, port) = server("-tls1_2");
    let said = openssl(local(port), &["-tls1_1", "-cipher", "ALL@SECLEVEL=0"], None);
    assert_eq!(alert(&said), Some(70), "{}", said.all());
}

#[test]
fn the_sender_sends_data_sets_unchanged() {
    let hospital = Hospital::new();
    let mut pacs = Storescp::stopped(&hospital, "pacs", &["+B"]);
    pacs.run();
    let mut files = study_of_copies(&hospital, &large_sample("693_UNCR.dcm"), "ct", 2);
    files.extend(study_of_copies(&hospital, &sample("CT_small.dcm"), "small", 1));
    let sender = Storescu::new(&hospital, "CT1");
    let sent = sender.deliver(local(pacs.port), &[], &files);
    assert_eq!(sent.statuses, [0, 0, 0]);
    let digests = |files: &[std::path::PathBuf]| {
        let mut all: Vec<_> = files.iter().map(|file| data_set_digest(file).expect("whole")).collect();
        all.sort();
        all
    };
    assert_eq!(digests(&pacs.files()), digests(&files));
}

#[test]
fn orthanc_wants_its_title_and_a_certificate() {
    let hospital = Hospital::new();
    let pacs = Orthanc::start(&hospital);
    let mut sender = Storescu::new(&hospital, "CT1");
    let file = [sample("CT_small.dcm")];
    sender.called = "SOMEBODY".into();
    let refused = sender.send(local(pacs.port), &[], &file);
    assert!(refused.said.all().contains("Called AE Title Not Recognized"), "{}", refused.said.all());
    sender.called = orthanc::AE_TITLE.into();
    sender.identity = Some(hospital.issued_elsewhere("stranger"));
    assert!(sender.send(local(pacs.port), &[], &file).acknowledged.is_empty());
    assert_eq!(pacs.count(), 0);
    sender.identity = Some(hospital.issue("known"));
    sender.deliver(local(pacs.port), &[], &file);
    assert_eq!(pacs.count(), 1);
}

#[test]
fn the_refusing_pacs_refuses() {
    let hospital = Hospital::new();
    let strict = RefusingScp::start(&hospital, "strict", Refusal::Status(0xa900, "No such patient"));
    let sender = Storescu::new(&hospital, "CT1");
    let sent = sender.send(local(strict.port), &[], &[sample("CT_small.dcm")]);
    assert_eq!(sent.statuses, [0xa900], "{}", sent.said.all());
    assert!(sent.said.all().contains("No such patient"));
    let ct_only = RefusingScp::start(&hospital, "ct-only", Refusal::SopClass);
    let sent = sender.send(local(ct_only.port), &[], &[sample("MR_small.dcm")]);
    assert!(sent.acknowledged.is_empty() && sent.statuses.is_empty(), "{}", sent.said.all());
}

#[test]
fn a_certificate_is_no_key() {
    let hospital = Hospital::new();
    let pacs = Storescp::start(&hospital, "pacs");
    let (own, other) = (hospital.issue("own"), hospital.issue("other"));
    let with = |key| {
        connect(local(pacs.port), &hospital.ca(), &own.certificate, key)
            .and_then(lightbox_tests::peers::tls_client::listen)
    };
    assert_eq!(with(&own.key).expect("let in"), None);
    with(&other.key).expect_err("the signature of another key was taken");
}

#[test]
fn the_judges_refuse_what_is_wrong() {
    let hospital = Hospital::new();
    assert_ne!(
        run(python("read_groups.py").arg(sample("CT_small.dcm"))).code,
        Some(0),
        "a CT was read as an SR"
    );
    let caught = std::panic::catch_unwind(|| judges::accept_sr(&sample("CT_small.dcm")));
    assert!(caught.is_err(), "dciodvfy took a CT for an SR");
    let caught = std::panic::catch_unwind(|| judges::accept_sr(&sample("test-SR.dcm")));
    assert!(caught.is_err(), "an SR of another class passed");
    let good = "MSH|^~\\&|LIGHTBOX|H|RIS|H|20250101000000||ORU^R01^ORU_R01|1|P|2.5.1\rPID|1||1^^^H^MR||Doe^Jane^^^^^L\r\
                OBR|1||1|18748-4^Diagnostic imaging study^LN|||20250101000000||||||||||||||||||P\r\
                OBX|1|TX|18748-4^Diagnostic imaging study^LN||text||||||P\r";
    let read = judges::accept_oru(&hospital, good.as_bytes());
    assert_eq!(read["structure"], "ORU_R01", "{read}");
    for (from, to) in [
        ("|P|2.5.1", "|Q|2.5.1"),
        ("OBX|1|TX|", "OBX|1|ZZ|"),
        ("OBR|1||1|18748-4^Diagnostic imaging study^LN|", "OBR|1||1||"),
    ] {
        let bad = good.replace(from, to);
        assert_ne!(bad, good);
        let file = hospital.folder().join("bad.hl7");
        std::fs::write(&file, bad).expect("written");
        assert_ne!(run(python("check_oru.py").arg(&file)).code, Some(0), "{to} passed");
    }
}
