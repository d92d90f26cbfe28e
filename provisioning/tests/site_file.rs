//! The site file: what is refused, where, and with which remedy.

use std::path::Path;

use lightbox_provisioning::site::{Site, SiteError, parse_fingerprint};

const GOOD: &str = include_str!("../examples/site.toml");

fn problems(text: &str) -> Vec<(usize, String, String, String)> {
    let error: SiteError = Site::parse(Path::new("site.toml"), text).expect_err("must be refused");
    error.problems.into_iter().map(|p| (p.line, p.key, p.what, p.remedy)).collect()
}

/// The example with one line replaced; yields the text and that line's number.
fn with(from: &str, to: &str) -> (String, usize) {
    let line = GOOD.lines().position(|line| line.starts_with(from)).expect("the example has that line");
    let text = GOOD
        .lines()
        .enumerate()
        .map(|(index, old)| if index == line { to } else { old })
        .collect::<Vec<_>>()
        .join("\n");
    (text, line + 1)
}

#[test]
fn the_example_is_accepted_and_paths_are_taken_from_its_folder() {
    let site = Site::parse(Path::new("/etc/lightbox/site.toml"), GOOD).expect("the example is good");
    assert!(site.file.appliance.tls.key.starts_with("/etc/lightbox"));
    assert_eq!(site.revision.len(), 64);
}

#[test]
fn an_unknown_key_names_itself_and_its_line() {
    let (text, line) = with("ae_title = \"LIGHTBOX\"", "ae_title = \"LIGHTBOX\"\ncolour = \"blue\"");
    let found = problems(&text);
    assert_eq!(found[0].0, line + 1);
    assert_eq!(found[0].1, "colour");
}

#[test]
fn every_problem_is_named_at_once_with_a_remedy() {
    let text = GOOD
        .replace("ae_title = \"LIGHTBOX\"", "ae_title = \"A\\\\B\"")
        .replace("models = [\"phantom\"]", "models = [\"nobody\"]")
        .replace("peer = \"pacs\"", "peer = \"elsewhere\"");
    let found = problems(&text);
    let keys: Vec<_> = found.iter().map(|problem| problem.1.as_str()).collect();
    assert!(keys.contains(&"appliance.ae_title"), "{keys:?}");
    assert!(keys.contains(&"rule[0].models[0]"), "{keys:?}");
    assert!(keys.contains(&"destination[0].dicom.peer"), "{keys:?}");
    assert!(found.iter().all(|problem| !problem.3.is_empty() && problem.0 > 1));
}

#[test]
fn plaintext_must_be_allowed_in_so_many_words() {
    let (text, line) = with("[admin]", "[dicom]\nplaintext_listen = \"127.0.0.1:11112\"\n[admin]");
    let found = problems(&text);
    assert_eq!((found[0].0, found[0].1.as_str()), (line + 1, "dicom.plaintext_listen"));
    let (text, _) =
        with("[admin]", "[dicom]\nplaintext_listen = \"127.0.0.1:11112\"\nallow_plaintext = true\n[admin]");
    assert!(Site::parse(Path::new("site.toml"), &text).is_ok());
}

#[test]
fn a_peer_without_a_known_certificate_is_refused() {
    let (text, _) = with("certificate = { sha256 = \"AA", "");
    let found = problems(&text);
    assert_eq!(found[0].1, "peer[0].certificate");
}

#[test]
fn fingerprints_are_read_as_openssl_prints_them() {
    let plain = "ab".repeat(32);
    let colons = vec!["AB"; 32].join(":");
    assert_eq!(parse_fingerprint(&plain), Some([0xab; 32]));
    assert_eq!(parse_fingerprint(&colons), Some([0xab; 32]));
    assert_eq!(parse_fingerprint("ab"), None);
    assert_eq!(parse_fingerprint(&"zz".repeat(32)), None);
}

#[test]
fn missing_files_are_named_with_their_key() {
    let folder = tempfile::tempdir().expect("temp dir");
    let path = folder.path().join("site.toml");
    let site = Site::parse(&path, GOOD).expect("the text is good");
    let error = site.check_files().expect_err("nothing is there");
    let keys: Vec<_> = error.problems.iter().map(|problem| problem.key.as_str()).collect();
    assert!(keys.contains(&"appliance.tls.certificate"), "{keys:?}");
    assert!(keys.contains(&"appliance.tls.key"), "{keys:?}");
    assert!(keys.contains(&"updates.root"), "{keys:?}");
}

#[test]
fn the_committed_reference_is_what_the_source_says() {
    let committed = include_str!("../SITE.md");
    assert_eq!(
        committed,
        lightbox_provisioning::site::reference_markdown(),
        "run `./justw generate` and commit provisioning/SITE.md"
    );
}

#[test]
fn dicomweb_is_checked_on_both_sides() {
    let keys = |more: &str| -> Vec<String> {
        problems(&format!("{GOOD}\n{more}")).into_iter().map(|(_, key, _, _)| key).collect()
    };
    let web = "[dicomweb]\nlisten = \"everywhere\"\nprefix = \"dicom web/\"\nmax_instances = 0";
    let mut found = keys(web);
    found.sort();
    assert_eq!(found, ["dicomweb.listen", "dicomweb.max_instances", "dicomweb.prefix"]);
    let index = GOOD.lines().filter(|line| *line == "[[peer]]").count();
    let peer = |more: &str| format!("[[peer]]\nname = \"web\"\nae_title = \"WEB\"\n{more}\n");
    let pinned = format!("certificate = {{ sha256 = \"{}\" }}\nmay = [\"receive\"]", "ab".repeat(32));
    let url = format!("peer[{index}].dicomweb.url");
    for wrong in ["pacs/dicom-web", "https://u:p@pacs/", "http://pacs/dicom-web"] {
        assert_eq!(
            keys(&peer(&format!("{pinned}\ndicomweb = {{ url = \"{wrong}\" }}"))),
            [url.as_str()],
            "{wrong}"
        );
    }
    let good = peer(&format!("{pinned}\ndicomweb = {{ url = \"https://pacs/dicom-web\" }}"));
    let at = GOOD.lines().filter(|line| *line == "[[destination]]").count();
    let destination = |what: &str| format!("{good}\n[[destination]]\nname = \"web\"\n{what}\n");
    let text = format!("{GOOD}\n{}", destination("dicomweb = { peer = \"web\" }"));
    Site::parse(Path::new("site.toml"), &text).expect("a peer without address is enough for DICOMweb");
    assert_eq!(keys(&destination("dicom = { peer = \"web\" }")), [format!("destination[{at}].dicom.peer")]);
    assert_eq!(
        keys(&destination("dicomweb = { peer = \"nobody\" }")),
        [format!("destination[{at}].dicomweb.peer")]
    );
}

#[test]
fn a_model_needs_a_plan_a_root_a_repository_and_a_device() {
    const TARGET: &str = "\"vendors/lightbox-demo/lightbox-phantom-detector\"";
    const PLAN: &str = "\"plans/lightbox-demo/lightbox-phantom-detector.toml\"";
    const REPOSITORY: &str = "repository = \"models/repository\"";
    let keys = |text: &str| -> Vec<String> { problems(text).into_iter().map(|problem| problem.1).collect() };
    let without = |starts: &[&str]| -> String {
        let stays = |line: &&str| !starts.iter().any(|start| line.starts_with(start));
        GOOD.lines().filter(stays).fold(String::new(), |text, line| text + line + "\n")
    };
    assert_eq!(
        keys(&without(&["udi_di", "root = ", "repository = "]))
            .into_iter()
            .collect::<std::collections::BTreeSet<_>>(),
        ["appliance.udi_di", "updates.repository", "updates.root"].map(str::to_owned).into()
    );
    let site = Site::parse(Path::new("/etc/lightbox/site.toml"), GOOD).expect("it is whole");
    assert!(site.file.updates.repository.is_some_and(|path| path.starts_with("/etc/lightbox")));
    let known = "certificate = { name = \"mirror.example.org\" }";
    let mirror = |url: &str| format!("mirror = {{ url = \"{url}\", {known} }}");
    Site::parse(
        Path::new("site.toml"),
        &GOOD.replacen(REPOSITORY, &mirror("https://mirror.example.org/models"), 1),
    )
    .expect("a mirror is as good as a folder");
    for (from, to, key) in [
        (PLAN, "\"vendors/acme/plan.toml\"", "model[0].plan"),
        (TARGET, "\"vendors/acme\"", "model[0].target"),
        (TARGET, "\"vendors/acme/../other/x\"", "model[0].target"),
        (REPOSITORY, "repository = \"https://mirror.example.org/models\"", "updates.repository"),
        (REPOSITORY, &mirror("http://mirror.example.org/models"), "updates.mirror.url"),
        (REPOSITORY, &format!("{REPOSITORY}\n{}", mirror("https://mirror.example.org")), "updates.mirror"),
        ("udi_di = \"09521234543213\"", "udi_di = \"0 9\"", "appliance.udi_di"),
    ] {
        assert!(GOOD.contains(from), "the example has changed: {from}");
        let found = keys(&GOOD.replacen(from, to, 1));
        assert!(found.contains(&key.to_owned()), "{key}: {found:?}");
    }
}
