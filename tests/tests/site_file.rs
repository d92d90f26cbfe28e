//! A bad site file: a distinct exit code, before a port opens, and every problem with its remedy.

use std::fs;
use std::net::TcpListener;

use lightbox_tests::command::{Said, run_lightbox};
use lightbox_tests::{Hospital, Site};

/// EX_CONFIG of sysexits.h.
const BAD_SITE_FILE: i32 = 78;

fn run(hospital: &Hospital, verb: &[&str], toml: &str) -> Said {
    let path = hospital.folder().join("site.toml");
    fs::write(&path, toml).expect("written");
    let mut arguments = verb.to_vec();
    arguments.push(path.to_str().expect("a plain path"));
    run_lightbox(&arguments)
}

#[track_caller]
fn refused(hospital: &Hospital, toml: &str, key: &str) {
    let line = toml.lines().position(|line| line.contains("# here")).expect("a marked line") + 1;
    for verb in [&["site", "check"][..], &["serve", "--site"]] {
        let said = run(hospital, verb, toml);
        assert_eq!(said.code, Some(BAD_SITE_FILE), "{verb:?}: {}", said.all());
        let place = format!("site.toml:{line}: {key}");
        assert!(said.err.contains(&place), "{verb:?}: {place} is not named:\n{}", said.err);
        assert!(said.err.contains("remedy: "), "{verb:?}: no remedy:\n{}", said.err);
        assert!(!said.out.contains("ready"), "it got ready with a bad site file");
    }
}

#[test]
fn a_good_site_file_passes_the_check() {
    let hospital = Hospital::new();
    let site = Site::new(&hospital).phantom_detector();
    site.write();
    run(&hospital, &["site", "check"], &site.toml()).ok("site check");
}

#[test]
fn each_kind_of_mistake_is_refused_with_line_key_and_remedy() {
    let hospital = Hospital::new();
    let sound = Site::new(&hospital).phantom_detector();
    sound.write();
    let site = || sound.clone();
    let rule = |when: &str| {
        site().text(&format!("[[rule]]\nname = \"r\"\nmodels = [\"phantom\"]\nwhen = {when:?} # here")).toml()
    };
    let cases = [
        (site().text("[timers_of_ours] # here").toml(), "timers_of_ours"),
        (site().dicom_line("max_pdu_bytes = 1 # here").toml(), "dicom.max_pdu_bytes"),
        (
            site().text("[[rule]]\nname = \"r\"\nmodels = [\"no-such-model\"] # here").toml(),
            "rule[0].models[0]",
        ),
        (
            site().text("[[model]]\nname = \"m\"\ntarget = \"acme\" # here\nplan = \"plans/m.toml\"").toml(),
            "model[1].target",
        ),
        (rule("series.instances >"), "rule[0].when"),
        (rule("series.no_such_thing == 1"), "rule[0].when"),
    ];
    for (toml, key) in cases {
        refused(&hospital, &toml, key);
    }
}

#[test]
fn a_model_that_is_only_a_folder_is_refused() {
    let hospital = Hospital::new();
    let toml = Site::new(&hospital).text("[[model]]\nname = \"m\"\nbundle = \"some/folder\"").toml();
    let said = run(&hospital, &["serve", "--site"], &toml);
    assert_eq!(said.code, Some(BAD_SITE_FILE), "{}", said.all());
    assert!(said.err.contains("unknown field `bundle`") && said.err.contains("target"), "{}", said.err);
}

#[test]
fn the_demonstration_vendor_signs_no_damaged_bundle() {
    let hospital = Hospital::new();
    let bundle = lightbox_tests::site::bundle_for_any_image(&hospital);
    let network = bundle.join("model.onnx");
    let mut bytes = fs::read(&network).expect("the network");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&network, bytes).expect("written");
    let site = Site::new(&hospital);
    let (site, bundle) = (site.write().to_str().expect("plain"), bundle.to_str().expect("plain"));
    let vendor = hospital.folder().join("vendor");
    let vendor = vendor.to_str().expect("plain");
    let said = run_lightbox(&["repository", "demo", vendor, "--site", site, bundle]);
    assert_ne!(said.code, Some(0), "{}", said.all());
    assert!(said.err.contains("model.onnx"), "{}", said.err);
}

#[test]
fn a_taken_port_is_an_error_that_names_it() {
    let hospital = Hospital::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let toml =
        Site::new(&hospital).toml().replacen("listen = \"127.0.0.1:0\"", &format!("listen = {address:?}"), 1);
    let said = run(&hospital, &["serve", "--site"], &toml);
    assert!(!matches!(said.code, Some(0 | BAD_SITE_FILE)), "{:?}\n{}", said.code, said.all());
    assert!(said.err.contains(&address), "the address is not named:\n{}", said.err);
}

#[test]
fn the_reference_is_what_the_binary_prints() {
    let printed = run_lightbox(&["site", "reference"]).ok("site reference").out;
    let kept =
        fs::read_to_string(lightbox_tests::command::root().join("provisioning/SITE.md")).expect("SITE.md");
    assert_eq!(printed.trim_end(), kept.trim_end(), "run `./justw generate`");
}
