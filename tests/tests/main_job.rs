//! The main job: real studies in by TLS, an SR in a real PACS, an ORU in an HL7 receiver.

use std::collections::BTreeSet;
use std::path::PathBuf;

use lightbox_tests::peers::mllp::field;
use lightbox_tests::peers::orthanc::{self, Orthanc};
use lightbox_tests::samples::{charset_sample, copy_as, large_sample, sample, sop_uid, with_name_of};
use lightbox_tests::{Line, judges};

/// What the modality sends: a name for the copy, and the image.
fn studies() -> Vec<(&'static str, PathBuf)> {
    vec![
        ("ct", sample("CT_small.dcm")),
        ("mr", sample("MR_small.dcm")),
        ("cr-chest", large_sample("RG1_UNCR.dcm")),
        ("ct-jpeg-2000", large_sample("693_J2KR.dcm")),
        ("mr-jpeg-2000", sample("MR_small_jp2klossless.dcm")),
        ("mr-jpeg-ls", sample("MR_small_jpeg_ls_lossless.dcm")),
        ("mr-rle", sample("MR_small_RLE.dcm")),
        ("nm-jpeg-lossless", large_sample("JPEG-LL.dcm")),
    ]
}

#[test]
fn real_studies_end_as_sr_in_orthanc_and_storescp_and_as_oru() {
    let mut orthanc = None;
    let line = Line::start_with(|hospital, site| {
        let pacs = orthanc.insert(Orthanc::start(hospital));
        let site = site.receiver("orthanc", orthanc::AE_TITLE, pacs.port, &pacs.identity);
        Line::rules_to(site, &["pacs", "orthanc", "ris"])
    });
    let orthanc = orthanc.expect("started");
    let folder = line.hospital.sub_folder("sent");
    let mut sources = BTreeSet::new();
    let mut sent = Vec::new();
    for (name, image) in studies() {
        let copy = copy_as(&image, &folder.join(format!("{name}.dcm")), true);
        line.modality.deliver_as_it_is(line.daemon.dicom, &copy);
        sources.insert(sop_uid(&copy));
        sent.push(copy);
    }
    line.wait_until_indexed(&sent);
    line.wait_until_quiet();

    let count = studies().len();
    let ledger = line.daemon.ledger();
    let unhappy: Vec<_> = ledger.deliveries().into_iter().filter(|one| one.state != "delivered").collect();
    assert!(unhappy.is_empty(), "{unhappy:?}");
    assert_eq!(ledger.results().len(), count, "{}", ledger.summary());

    let (at_orthanc, at_storescp) = (orthanc.download_all(), line.pacs.files());
    assert_eq!(at_orthanc.len(), count);
    assert_eq!(at_storescp.len(), count);
    let uids = |files: &[PathBuf]| files.iter().map(|file| sop_uid(file)).collect::<BTreeSet<_>>();
    let expected: BTreeSet<String> = ledger.results().into_iter().map(|result| result.sr_uid).collect();
    assert_eq!(uids(&at_orthanc), expected);
    assert_eq!(uids(&at_storescp), expected);

    for file in at_orthanc.iter().chain(&at_storescp) {
        judges::accept_sr(file);
    }
    for file in &at_storescp {
        let read = judges::groups(file);
        assert_eq!(read["completion"], "COMPLETE", "{read}");
        assert_eq!(read["verification"], "UNVERIFIED", "{read}");
        assert_eq!(read["preliminary"], "PRELIMINARY", "{read}");
        for group in read["planar"].as_array().expect("a list") {
            let source = group["source"].as_str().expect("a UID");
            assert!(sources.contains(source), "a finding points at an image that was never sent: {read}");
        }
    }
    let messages = line.ris.received();
    assert_eq!(messages.len(), count);
    for message in &messages {
        judges::accept_oru(&line.hospital, message);
        let text = String::from_utf8_lossy(message);
        assert_eq!(field(&text, "MSH", 12), "2.5.1");
        // An observation that only names the study has no result: O.
        let results: Vec<&str> = text
            .split('\r')
            .filter(|segment| segment.starts_with("OBX|") && !segment.contains("|113014^"))
            .collect();
        assert!(!results.is_empty(), "no OBX with a result:\n{text}");
        for segment in results {
            assert_eq!(segment.split('|').nth(11), Some("P"), "not preliminary: {segment}");
        }
    }
}

#[test]
fn names_in_kanji_and_cyrillic_keep_their_bytes_and_code_points() {
    let line = Line::start_with(|_, site| Line::usual_rules(site));
    for donor in ["chrH31.dcm", "chrRuss.dcm"] {
        let donor = charset_sample(donor);
        let image = with_name_of(&line.hospital, &donor, &sample("CT_small.dcm"), "named.dcm");
        let wanted = judges::name_of(&donor);
        assert_eq!(judges::name_of(&image)["name_raw"], wanted["name_raw"], "the fixture lost the bytes");
        let (before, oru_before) = (line.pacs.files(), line.ris.received().len());
        line.send_and_wait(&[image]);

        let new: Vec<PathBuf> = line.pacs.files().into_iter().filter(|file| !before.contains(file)).collect();
        let [report] = new.as_slice() else { panic!("{} SRs", new.len()) };
        let found = judges::name_of(report);
        let unpadded = |value: &serde_json::Value| {
            let text = value["name_raw"].as_str().unwrap_or_default().to_owned();
            text.strip_suffix("20").map(str::to_owned).unwrap_or(text)
        };
        assert_eq!(unpadded(&found), unpadded(&wanted), "the bytes have changed");
        assert_eq!(found["character_set"], wanted["character_set"]);
        judges::accept_sr(report);

        let message = line.ris.received().split_off(oru_before).pop().expect("an ORU");
        let read = judges::accept_oru(&line.hospital, &message);
        let text = String::from_utf8(message).expect("UTF-8");
        let groups: Vec<String> = field(&text, "PID", 5)
            .split('~')
            .map(|name| {
                name.split('^').take(2).collect::<Vec<_>>().join("^").trim_end_matches('^').to_owned()
            })
            .collect();
        let wanted: Vec<&str> =
            wanted["groups"].as_array().expect("groups").iter().filter_map(|group| group.as_str()).collect();
        assert_eq!(groups, wanted, "{read}");
    }
}

#[test]
fn a_series_of_slices_gets_one_result() {
    let line = Line::start_with(|_, site| Line::usual_rules(site));
    let files =
        lightbox_tests::samples::study_of_copies(&line.hospital, &sample("CT_small.dcm"), "slices", 5);
    line.send_and_wait(&files);
    assert_eq!(line.pacs.files().len(), 1);
    assert_eq!(line.ris.received().len(), 1);
    judges::accept_sr(&line.pacs.files()[0]);
}

#[test]
fn a_study_that_no_rule_names_is_kept_and_shown() {
    let line =
        Line::start_with(|_, site| site.rule("breast", "modality = \"MG\"", &["any-image"], &["pacs"]));
    line.modality.deliver(line.daemon.dicom, &[], &[sample("CT_small.dcm")]);
    line.daemon.wait_for("the study to be closed", 20, |ledger| {
        (ledger.texts("SELECT state FROM studies") == ["unrouted"]).then_some(())
    });
    let site = line.site.path.to_str().expect("a plain path");
    let key = line.daemon.ledger().texts("SELECT key FROM studies").remove(0);
    let shown =
        lightbox_tests::command::run_lightbox(&["studies", "--site", site, "show", &key]).ok("studies show");
    assert!(shown.out.contains("breast"), "the rule that did not match is not named:\n{}", shown.out);
    assert!(line.pacs.files().is_empty());
}
