//! The vendor's verbs: the worked example of models/README.md, word for word, and what is refused.

use std::fs;
use std::path::Path;
use std::process::Command;

use lightbox_tests::command::{Said, lightbox, onnxruntime, root, run};
use serde_json::Value;

fn at(folder: &Path, words: &[&str]) -> Said {
    let mut command = Command::new(lightbox());
    run(command.current_dir(folder).args(words).env("LIGHTBOX_ONNXRUNTIME", onnxruntime()))
}

/// The fenced blocks of the vendor guide, of a language.
fn blocks(language: &str) -> Vec<String> {
    let readme = fs::read_to_string(root().join("models/README.md")).expect("the README");
    let guide = readme.split("\n## Vendor guide\n").nth(1).expect("a vendor guide");
    let guide = guide.split("\n## ").next().expect("the guide");
    let open = format!("```{language}\n");
    guide.split(&open).skip(1).map(|rest| rest.split("\n```").next().expect("an end").to_owned()).collect()
}

/// Runs a block's commands; each must end well.
fn follow(folder: &Path, block: &str) -> Said {
    let mut last = None;
    for line in block.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[0], "lightbox", "{line}");
        last = Some(at(folder, &words[1..]).ok(line));
    }
    last.expect("a command")
}

fn detector(name: &str) -> std::path::PathBuf {
    root().join("models/reference/phantom-detector/bundle").join(name)
}

fn inspect(folder: &Path) -> Value {
    let said = at(folder, &["bundle", "inspect", "repo", "--json"]).ok("inspect");
    serde_json::from_str(&said.out).expect("JSON")
}

fn targets(inspected: &Value) -> Vec<&str> {
    let targets = inspected["targets"].as_array().expect("targets");
    targets.iter().map(|target| target["name"].as_str().expect("a name")).collect()
}

fn edit(path: &Path, edits: &[(&str, &str)]) {
    let mut text = fs::read_to_string(path).expect("read");
    for (from, to) in edits {
        assert!(text.contains(from), "{from} is not in {}:\n{text}", path.display());
        text = text.replace(from, to);
    }
    fs::write(path, text).expect("written");
}

/// What the guide's reader decides in the plan.
fn decide(plan: &Path) {
    let text = fs::read_to_string(plan).expect("the plan");
    let value = |key: &str| match key {
        "id" => "\"PCCP-1\"",
        "expires" => "\"2099-01-01T00:00:00Z\"",
        "updates_max" | "positive_min" | "negative_min" => "3",
        "min" => "0.6",
        "max" => "0.8",
        "step_max" | "cumulative_max" => "0.1",
        "score_max" | "box_max_px" => "0.01",
        "estimate_min" => "0.9",
        "lower_min" => "0.3",
        "shadow_hours" => "0",
        "canary_cases" | "approvals" => "1",
        "sha256" | "ifu_sha256" | "set_sha256" => {
            "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\""
        }
        "reference" | "version" | "notice" => "\"written out\"",
        other => panic!("{other} is to be decided, and the test does not know it"),
    };
    let mut decided = String::new();
    let mut rest = text.as_str();
    // Comments may say the word; a value that begins with it is what is left.
    while let Some(start) = rest.find("\"DECIDE") {
        let (before, after) = rest.split_at(start);
        let key =
            before.trim_end_matches([' ', '=']).rsplit(|c: char| !c.is_alphanumeric() && c != '_').next();
        let end = after[1..].find('"').expect("the value's end") + 2;
        decided.push_str(before);
        decided.push_str(value(key.expect("a key")));
        rest = &after[end..];
    }
    fs::write(plan, decided + rest).expect("written");
}

#[test]
fn the_vendor_guide_works_word_for_word() {
    let temp = tempfile::tempdir().expect("a folder");
    let folder = temp.path();
    fs::create_dir(folder.join("disks")).expect("made");
    for name in ["model.onnx", "card.md", "LICENSE", "golden-disks.dcm"] {
        fs::copy(detector(name), folder.join("disks").join(name)).expect("copied");
    }
    fs::write(folder.join("decisions.toml"), &blocks("toml")[0]).expect("written");
    let steps = blocks("sh");
    assert_eq!(steps.len(), 5);

    assert_eq!(steps[0].lines().count(), 4, "from a folder to a signed repository in four commands");
    follow(folder, &steps[0]);
    assert_eq!(targets(&inspect(folder)), ["vendors/acme/acme-disks-1.lightbox"]);
    // The network's own outputs on the image: what the reference bundle says too.
    let written: Value =
        serde_json::from_slice(&fs::read(folder.join("disks/golden-disks.json")).expect("read"))
            .expect("JSON");
    let known: Value =
        serde_json::from_slice(&fs::read(detector("golden-disks.json")).expect("read")).expect("JSON");
    let scores = |outputs: &Value| {
        outputs["outputs"][1]["values"]
            .as_array()
            .expect("scores")
            .iter()
            .map(|value| value.as_f64().expect("a number"))
            .collect::<Vec<_>>()
    };
    assert_eq!(scores(&written), scores(&known));

    let unfinished = follow(folder, &steps[1]);
    assert!(unfinished.out.contains("left to decide"), "{}", unfinished.all());
    let plan = folder.join("plan.toml");
    let refused = at(folder, &["plan", "check", "plan.toml"]);
    assert_eq!(refused.code, Some(1));
    let marks = fs::read_to_string(&plan).expect("the plan").matches("\"DECIDE").count();
    assert!(refused.err.contains(&format!("plan.toml: {marks} problems")), "{}", refused.err);
    decide(&plan);
    follow(folder, &steps[2]);

    edit(
        &folder.join("disks/manifest.toml"),
        &[("release = 1", "release = 2"), ("version = \"1.0.0\"", "version = \"2.0.0\"")],
    );
    let mut network = fs::read(folder.join("disks/model.onnx")).expect("the network");
    let at_scale = network.windows(4).position(|bytes| bytes == 1000_f32.to_le_bytes()).expect("the scale");
    network[at_scale..at_scale + 4].copy_from_slice(&990_f32.to_le_bytes());
    fs::write(folder.join("disks/model.onnx"), network).expect("written");
    let allowed = follow(folder, &steps[3]);
    assert!(
        allowed.out.contains("allowed") && allowed.out.contains("modifications used: M1"),
        "{}",
        allowed.all()
    );

    follow(folder, &steps[4]);
    let inspected = inspect(folder);
    assert_eq!(
        targets(&inspected),
        [
            "plans/acme/acme-disks.toml",
            "vendors/acme/acme-disks-1.lightbox",
            "vendors/acme/acme-disks-2.lightbox"
        ]
    );
    let roles = inspected["roles"].as_array().expect("roles");
    let vendor = roles.iter().find(|role| role["role"] == "vendor-acme").expect("the vendor's role");
    assert_eq!((vendor["threshold"].as_u64(), vendor["keys"].as_array().map(Vec::len)), (Some(2), Some(2)));

    // A release is published once; one signature of two is not enough; a refusal has its own exit code.
    let again = at(
        folder,
        &[
            "bundle",
            "publish",
            "disks-2.lightbox",
            "--repository",
            "repo",
            "--vendor",
            "acme",
            "--key",
            "keys",
        ],
    );
    assert!(again.code == Some(1) && again.err.contains("published already"), "{}", again.all());
    let renew = at(
        folder,
        &["repository", "renew", "--repository", "repo", "--role", "vendor-acme", "--key", "keys"],
    );
    assert!(
        renew.code == Some(1) && renew.err.contains("vendor-acme needs 2 of its keys, 1 are given"),
        "{}",
        renew.all()
    );
    at(
        folder,
        &[
            "repository",
            "renew",
            "--repository",
            "repo",
            "--role",
            "vendor-acme",
            "--key",
            "keys",
            "--key",
            "acme-2.pem",
        ],
    )
    .ok("renew");
    let older = [
        "plan",
        "explain",
        "plan.toml",
        "--candidate",
        "disks-1.lightbox",
        "--installed",
        "disks-2.lightbox",
        "--json",
    ];
    let older = at(folder, &older);
    assert_eq!(older.code, Some(3), "{}", older.all());
    let verdict: Value = serde_json::from_str(&older.out).expect("JSON");
    let clauses = verdict["clauses"].as_array().expect("clauses");
    assert!(clauses.iter().any(|clause| clause["name"] == "newer_release" && clause["outcome"] == "broken"));
}

#[test]
fn everything_that_is_left_or_wrong_is_told_at_once_and_nothing_of_it_is_packed() {
    let temp = tempfile::tempdir().expect("a folder");
    let folder = temp.path();
    let network = detector("model.onnx").display().to_string();
    let made = at(folder, &["bundle", "new", "disks", "--onnx", &network]).ok("new");
    assert!(made.out.contains("are left to decide"), "{}", made.all());
    let checked = at(folder, &["bundle", "check", "disks"]);
    assert_eq!(checked.code, Some(1));
    for wanted in [
        "manifest.toml:",
        "model.vendor: nobody has decided this",
        "label[0].reported_min: nobody has decided this",
        "card.md:",
        "LICENSE:1: nobody has decided this",
        "sbom.json:",
        "golden: missing",
        "remedy: ",
    ] {
        assert!(checked.err.contains(wanted), "{wanted} is not in:\n{}", checked.err);
    }
    let packed = at(folder, &["bundle", "pack", "disks", "-o", "disks.lightbox"]);
    assert_eq!(packed.code, Some(1));
    assert!(!folder.join("disks.lightbox").exists());

    // A sound bundle, flawed three times: each flaw is told, with its remedy.
    fs::create_dir(folder.join("sound")).expect("made");
    for name in [
        "model.onnx",
        "card.md",
        "LICENSE",
        "golden-disks.dcm",
        "golden-disks.json",
        "manifest.toml",
        "sbom.json",
    ] {
        fs::copy(detector(name), folder.join("sound").join(name)).expect("copied");
    }
    at(folder, &["bundle", "check", "sound"]).ok("check");
    edit(
        &folder.join("sound/manifest.toml"),
        &[("layout = \"NCHW\"", "layout = \"NHWC\""), ("09521234543213", "09521234543214")],
    );
    fs::write(folder.join("sound/notes.txt"), "x").expect("written");
    edit(&folder.join("sound/card.md"), &[("Not for clinical use", "not for clinical use")]);
    let flawed = at(folder, &["bundle", "check", "sound"]);
    for wanted in [
        "device.udi_di[0]: a GTIN-14 whose check digit is wrong",
        "notes.txt: not listed",
        "card.md: its SHA-256 is",
        "mend layout",
    ] {
        assert!(flawed.err.contains(wanted), "{wanted} is not in:\n{}", flawed.err);
    }
}

#[test]
fn keys_are_refused_where_others_may_read_them_and_tokens_by_what_is_missing() {
    let temp = tempfile::tempdir().expect("a folder");
    let folder = temp.path();
    let public = at(folder, &["keys", "new", "a.pem"]).ok("new");
    assert_eq!(at(folder, &["keys", "show", "a.pem"]).ok("show").out, public.out);
    assert_eq!(public.out.trim().len(), 64);
    run(Command::new("chmod").arg("644").arg(folder.join("a.pem"))).ok("chmod");
    let open = at(folder, &["keys", "show", "a.pem"]);
    assert!(open.code == Some(1) && open.err.contains("chmod 600"), "{}", open.all());
    let token = at(folder, &["keys", "show", "pkcs11:token=none;object=none"]);
    assert!(token.code == Some(1) && token.err.contains("LIGHTBOX_PKCS11_MODULE"), "{}", token.all());
    let vendor = at(folder, &["repository", "new", "repo", "--vendor", "Acme Inc", "--make-keys", "keys"]);
    assert!(
        vendor.code == Some(1) && vendor.err.contains("--vendor") && !folder.join("repo").exists(),
        "{}",
        vendor.all()
    );
}

#[test]
fn a_token_s_key_publishes() {
    const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
    assert!(Path::new(MODULE).exists(), "softhsm2 is missing: run the tests by `./justw test`");
    let temp = tempfile::tempdir().expect("a folder");
    let folder = temp.path();
    fs::create_dir(folder.join("tokens")).expect("made");
    let configuration = folder.join("softhsm2.conf");
    fs::write(&configuration, format!("directories.tokendir = {}/tokens\n", folder.display()))
        .expect("written");
    fs::write(folder.join("pin"), "1234\n").expect("written");
    let public = at(folder, &["keys", "new", "acme.pem"]).ok("new").out;
    for words in [
        &["--init-token", "--free", "--label", "Release", "--pin", "1234", "--so-pin", "5678"][..],
        &["--import", "acme.pem", "--token", "Release", "--label", "acme", "--id", "01", "--pin", "1234"],
    ] {
        run(Command::new("softhsm2-util")
            .current_dir(folder)
            .args(words)
            .env("SOFTHSM2_CONF", &configuration))
        .ok("softhsm2-util");
    }
    fs::remove_file(folder.join("acme.pem")).expect("removed: the key is in the token alone");
    let key = format!("pkcs11:token=Release;object=acme?module-path={MODULE}&pin-source=pin");
    let token = |words: &[&str]| {
        let mut command = Command::new(lightbox());
        run(command.current_dir(folder).args(words).env("SOFTHSM2_CONF", &configuration))
    };
    assert_eq!(token(&["keys", "show", &key]).ok("show").out, public);
    let holder = format!("vendor-acme={}", public.trim());
    let new = ["repository", "new", "repo", "--holder", &holder, "--make-keys", "keys", "--key", &key];
    token(&new).ok("repository new");
    at(folder, &["bundle", "pack", &detector("").display().to_string(), "-o", "d.lightbox"]).ok("pack");
    let publish = ["bundle", "publish", "d.lightbox", "--repository", "repo", "--vendor", "acme"];
    let keys = ["--key", &key, "--key", "keys/snapshot.pem", "--key", "keys/timestamp.pem"];
    token(&[&publish[..], &keys[..]].concat()).ok("publish");
    assert_eq!(targets(&inspect(folder)), ["vendors/acme/lightbox-phantom-detector-1.lightbox"]);
    let wrong = token(&["keys", "show", &key.replace("object=acme", "object=other")]);
    assert!(wrong.code == Some(1) && wrong.err.contains("has the label \"other\""), "{}", wrong.all());
}

#[test]
fn every_verb_s_help_has_an_example() {
    let temp = tempfile::tempdir().expect("a folder");
    for (group, verbs) in [
        ("bundle", &["new", "refresh", "check", "pack", "sign", "publish", "inspect"][..]),
        ("plan", &["new", "check", "publish", "explain"]),
        ("repository", &["new", "rotate", "renew", "sign", "complete"]),
        ("keys", &["new", "show"]),
    ] {
        for verb in verbs {
            let help = at(temp.path(), &[group, verb, "--help"]).ok("help").out;
            assert!(help.contains("Example: lightbox "), "{group} {verb}:\n{help}");
        }
        let help = at(temp.path(), &[group, "--help"]).ok("help").out;
        let listed =
            help.lines().filter(|line| verbs.iter().any(|verb| line.starts_with(&format!("  {verb} "))));
        assert_eq!(listed.count(), verbs.len(), "{help}");
    }
}
