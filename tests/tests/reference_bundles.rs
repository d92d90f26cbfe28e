//! The reference bundle around published weights, on a real MR: a classification through the whole line.

use std::process::Command;

use lightbox_tests::command::{part, program, run};
use lightbox_tests::samples::{copy_as, sample};
use lightbox_tests::{Line, judges};

#[test]
fn a_real_mr_is_classified_by_published_weights_and_the_sr_names_them() {
    let bundle = part("bundles/brain-tumour");
    let line = Line::start_with(|_, site| {
        let site = site.model("brain-tumour", &bundle);
        site.rule("brains", "modality = \"MR\", body_part = \"BRAIN\"", &["brain-tumour"], &["pacs", "ris"])
    });
    let file = copy_as(&sample("MR_small.dcm"), &line.hospital.folder().join("brain.dcm"), true);
    // The sample does not say what it shows; the model runs only on what says it is a brain.
    run(Command::new(program("dcmodify")).args(["-nb", "-i", "BodyPartExamined=BRAIN"]).arg(&file))
        .ok("dcmodify");
    line.send_and_wait(&[file]);

    let ledger = line.daemon.ledger();
    let digest = ledger.texts("SELECT model_digest FROM jobs WHERE state = 'done'");
    assert_eq!(digest.len(), 1, "{}", ledger.summary());
    let findings = ledger.number("SELECT json_array_length(outcome, '$.findings') FROM jobs");
    assert!(findings > 0, "a classifier says something of every image");
    let reports = line.pacs.files();
    assert_eq!(reports.len(), 1);
    judges::accept_sr(&reports[0]);
    let said = run(Command::new(program("dsrdump")).arg("+Pl").arg(&reports[0])).ok("dsrdump");
    for wanted in [digest[0].as_str(), "Brain tumour classifier", "Not for clinical use"] {
        assert!(said.out.contains(wanted), "{wanted} is not in:\n{}", said.out);
    }
    judges::accept_oru(&line.hospital, &line.ris.received()[0]);
}
