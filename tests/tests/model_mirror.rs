//! The repository of models on an HTTPS mirror: it is found by its certificate, and nothing that it gives is
//! believed.

use lightbox_tests::command::{Said, run_lightbox};
use lightbox_tests::peers::mirror::Mirror;
use lightbox_tests::{Line, Vendor};

fn check(line: &Line) -> Said {
    let site = line.site.path.to_str().expect("a plain path");
    run_lightbox(&["models", "--site", site, "check", "--by", "A. Meyer"])
}

fn states(line: &Line) -> Vec<String> {
    line.daemon.ledger().texts("SELECT release || ' ' || state FROM model_versions ORDER BY release")
}

#[test]
fn a_model_is_installed_from_a_mirror_that_failed_half_way_before() {
    let mut mirror = None;
    let (vendor, line) = Vendor::line_from(|hospital, vendor| {
        let identity = hospital.issue("mirror");
        let started = Mirror::start(hospital, &identity, &vendor.repository());
        let url = format!("https://127.0.0.1:{}", started.port);
        mirror = Some(started);
        format!("mirror = {{ url = {url:?}, certificate = {{ sha256 = {:?} }} }}", identity.sha256)
    });
    let one = vendor.version(1, &[]);
    let set = vendor.publish_set(&line.site);
    vendor.publish_plan(&one, &set, 0);
    vendor.publish_version(&one);

    let cut = vendor.repository().join("cut");
    std::fs::write(&cut, "").expect("written");
    let said = check(&line);
    assert!(said.out.contains("the mirror: the body ended before its end"), "{}", said.all());
    assert!(states(&line).is_empty(), "{:?}", states(&line));
    std::fs::remove_file(&cut).expect("removed");

    check(&line).ok("models check");
    line.daemon.wait_for("the version to be active", 60, |_| (states(&line) == ["1 active"]).then_some(()));
    let asked = mirror.expect("started").log();
    assert!(asked.contains("GET /metadata/timestamp.json") && asked.contains(".lightbox"), "{asked}");
}

#[test]
fn an_impostor_s_mirror_is_not_asked_and_one_without_a_repository_is_said() {
    let mut mirrors = Vec::new();
    let (_vendor, line) = Vendor::line_from(|hospital, vendor| {
        let (wanted, other) = (hospital.issue("mirror"), hospital.issue("impostor"));
        let impostor = Mirror::start(hospital, &other, &vendor.repository());
        let url = format!("https://127.0.0.1:{}", impostor.port);
        mirrors.push(impostor);
        format!("mirror = {{ url = {url:?}, certificate = {{ sha256 = {:?} }} }}", wanted.sha256)
    });
    let said = check(&line);
    assert!(said.code != Some(0) && said.out.contains("the mirror: TLS"), "{}", said.all());
    assert!(!mirrors[0].log().contains("GET"), "it was asked:\n{}", mirrors[0].log());

    let (_vendor, line) = Vendor::line_from(|hospital, _| {
        let identity = hospital.issue("mirror");
        let empty = Mirror::start(hospital, &identity, &hospital.sub_folder("empty"));
        let url = format!("https://127.0.0.1:{}/models", empty.port);
        mirrors.push(empty);
        format!("mirror = {{ url = {url:?}, certificate = {{ sha256 = {:?} }} }}", identity.sha256)
    });
    let said = check(&line);
    assert!(said.code != Some(0) && said.out.contains("[missing]"), "{}", said.all());
    assert!(mirrors[1].log().contains("GET /models/metadata/"), "{}", mirrors[1].log());
}
