//! The vendor's verbs: the worked example of models/README.md, word for word, and what is refused.

use std::fs;
use std::path::Path;
use std::process::Command;

use lightbox_tests::command::{Said, lightbox, onnxruntime, root, run};
use lightbox_tests::peers::mllp::{Behaviour, MllpReceiver};
use lightbox_tests::peers::storescp::Storescp;
use lightbox_tests::peers::storescu::Storescu;
use lightbox_tests::samples::copy_as;
use lightbox_tests::site::UDI_DI;
use lightbox_tests::{Daemon, Hospital, Line, Site};
use serde_json::Value;

/// The site file of the guide's box, in the vendor's folder.
const SITE: &str = "site.toml";

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

/// Runs a block as a shell would; each command must end well.
fn follow(folder: &Path, block: &str) -> Said {
    let binary = lightbox();
    let path = format!(
        "{}:{}",
        binary.parent().expect("a folder").display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let mut command = Command::new("bash");
    command.current_dir(folder).args(["-euo", "pipefail", "-c", block]).env("PATH", path);
    command.env("LIGHTBOX_ONNXRUNTIME", onnxruntime()).env("LIGHTBOX_SITE", folder.join(SITE));
    run(&mut command).ok(block)
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

/// The state of each version, by its release.
fn states(line: &Line) -> Vec<String> {
    line.daemon.ledger().texts("SELECT release || ' ' || state FROM model_versions ORDER BY release")
}

#[track_caller]
fn wait_for(line: &Line, state: &str) {
    line.daemon.wait_for(&format!("the versions to hold {state:?}"), 60, |ledger| {
        let states = ledger.texts("SELECT release || ' ' || state FROM model_versions");
        states.contains(&state.to_owned()).then_some(())
    });
}

/// A line whose only model is the one that the guide's lines of a site file name.
fn line_of_the_guide(hospital: Hospital, folder: &Path, updates: &str) -> Line {
    let modality = Storescu::new(&hospital, "CT1");
    let pacs = Storescp::start(&hospital, "pacs");
    let ris = MllpReceiver::start(Behaviour::Accept);
    let updates = updates.replace("/media/vendor", folder.to_str().expect("a plain path"));
    let mut site = Site::new(&hospital)
        .appliance_line(&format!("udi_di = \"{UDI_DI}\""))
        .text(&updates)
        .sender("ct-1", "CT1", modality.identity())
        .receiver("pacs", &pacs.ae_title(), pacs.port, &pacs.identity)
        .hl7("ris", ris.port, "")
        .rule("phantoms", "body_part = \"PHANTOM\"", &["disks"], &["pacs", "ris"]);
    site.path = folder.join(SITE);
    let daemon = Daemon::start(&site);
    Line { daemon, site, modality, pacs, ris, hospital }
}

#[test]
fn the_vendor_guide_works_word_for_word() {
    let hospital = Hospital::new();
    let folder = hospital.sub_folder("vendor");
    let folder = folder.as_path();
    fs::create_dir(folder.join("disks")).expect("made");
    for name in ["model.onnx", "card.md", "LICENSE", "golden-disks.dcm"] {
        fs::copy(detector(name), folder.join("disks").join(name)).expect("copied");
    }
    let texts = blocks("toml");
    assert_eq!(texts.len(), 3);
    for (name, text) in ["decisions.toml", "plan-decisions.toml"].iter().zip(&texts) {
        fs::write(folder.join(name), text).expect("written");
    }
    let mut steps = blocks("sh").into_iter();
    let mut next = |begins: &str| {
        let block = steps.next().expect("a block");
        assert!(block.starts_with(begins), "the guide goes on otherwise: {block}");
        block
    };

    let block = next("lightbox bundle new");
    assert_eq!(block.lines().count(), 4, "from a folder to a signed repository in four commands");
    follow(folder, &block);
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

    let checked = follow(folder, &next("for n in"));
    assert!(checked.out.contains("label disk: 10 positive, 10 negative"), "{}", checked.all());
    let set = checked
        .out
        .split("set_sha256 = \"")
        .nth(1)
        .and_then(|rest| rest.get(..64))
        .expect("a digest")
        .to_owned();

    let planned = follow(folder, &next("lightbox plan new"));
    assert!(
        planned.out.contains("plan.toml: written\n") && planned.out.contains("plan.toml: good"),
        "{}",
        planned.all()
    );
    let plan = fs::read_to_string(folder.join("plan.toml")).expect("the plan");
    assert_eq!(plan.matches(&set).count(), 2, "{plan}");

    let mut line = line_of_the_guide(hospital, folder, &texts[2]);
    follow(folder, &next("lightbox models recipient"));
    let sealed = follow(folder, &next("lightbox acceptance-set seal"));
    assert!(sealed.out.contains("sealed to 1 boxes"), "{}", sealed.all());
    assert!(targets(&inspect(folder)).contains(&format!("vendors/acme/acme-disks/sets/{set}.age").as_str()));
    let listed = follow(folder, &next("lightbox models check"));
    assert!(listed.out.contains("accepted"), "{}", listed.all());
    wait_for(&line, "1 active");

    let mut network = fs::read(folder.join("disks/model.onnx")).expect("the network");
    let at_scale = network.windows(4).position(|bytes| bytes == 1000_f32.to_le_bytes()).expect("the scale");
    network[at_scale..at_scale + 4].copy_from_slice(&990_f32.to_le_bytes());
    fs::write(folder.join("disks/model.onnx"), network).expect("written");
    let allowed = follow(folder, &next("sed -i"));
    assert!(
        allowed.out.contains("allowed") && allowed.out.contains("modifications used: M1"),
        "{}",
        allowed.all()
    );

    let proposed = follow(folder, &next("lightbox keys new"));
    assert!(
        proposed.out.contains("vendor-acme version 5")
            && proposed.out.contains("`lightbox bundle sign disks-2.proposal"),
        "{}",
        proposed.all()
    );
    a_release_of_two_signatures(folder);

    follow(folder, &next("lightbox models check"));
    wait_for(&line, "2 shadow");
    for number in 0..3 {
        let image = folder.join(format!("cases/disk/{}/000.dcm", number + 1));
        let study = copy_as(&image, &folder.join(format!("study-{number}.dcm")), true);
        line.send_and_wait(&[study]);
    }
    line.daemon.wait_for("the candidate to have run on three studies", 60, |ledger| {
        let ended = "SELECT count(*) FROM shadow_runs WHERE state <> 'begun'";
        (ledger.number(ended) == 3).then_some(())
    });
    let shown = follow(folder, &next("lightbox models shadow"));
    assert!(shown.out.contains("3 of 3 studies"), "{}", shown.all());
    assert!(fs::read_to_string(folder.join("shadow.html")).expect("the report").contains("<svg"));
    wait_for(&line, "2 active");
    let history = follow(folder, &next("lightbox models history"));
    assert!(history.out.contains("A. Meyer"), "{}", history.all());
    assert_eq!(states(&line), ["1 active", "2 rolled_back"]);

    let recalled = follow(folder, &next("lightbox recall publish"));
    assert!(recalled.out.contains("acme-disks version 2.0.0"), "{}", recalled.all());
    let studies = follow(folder, &next("lightbox models check"));
    assert!(studies.out.contains("misses disks near the edge"), "{}", studies.all());
    assert_eq!(states(&line), ["1 active", "2 recalled"]);
    assert!(steps.next().is_none(), "the whole guide was run");

    // Whoever waits is told for what.
    assert!(line.daemon.stop().success());
    let mut waiting = Command::new("timeout");
    waiting.args(["3"]).arg(lightbox()).args(["models", "check", "--by", "A. Meyer"]);
    let waited = run(waiting.env("LIGHTBOX_SITE", folder.join(SITE)));
    assert_eq!(waited.code, Some(124));
    assert!(
        waited.err.contains(" s of at most 300 s: the daemon looks at the repository"),
        "{}",
        waited.all()
    );
}

/// What is in the repository after the guide's release of two people.
fn a_release_of_two_signatures(folder: &Path) {
    let inspected = inspect(folder);
    let sets: Vec<&str> = targets(&inspected)
        .into_iter()
        .filter(|name| name.starts_with("vendors/acme/acme-disks/sets/"))
        .collect();
    assert_eq!(sets.len(), 1);
    assert_eq!(
        targets(&inspected),
        [
            "plans/acme/acme-disks.toml",
            "vendors/acme/acme-disks-1.lightbox",
            "vendors/acme/acme-disks-2.lightbox",
            sets[0],
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
fn a_manifest_that_leads_out_of_the_folder_is_told_and_never_followed() {
    let temp = tempfile::tempdir().expect("a folder");
    let folder = temp.path();
    fs::create_dir(folder.join("sound")).expect("made");
    for entry in fs::read_dir(detector("")).expect("the bundle") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), folder.join("sound").join(entry.file_name())).expect("copied");
    }
    let sound = fs::read_to_string(folder.join("sound/manifest.toml")).expect("the manifest");
    fs::write(folder.join("outside.txt"), "not yours").expect("written");
    fs::create_dir(folder.join("elsewhere")).expect("made");
    fs::copy(detector("card.md"), folder.join("elsewhere/card.md")).expect("copied");
    std::os::unix::fs::symlink(folder.join("elsewhere"), folder.join("sound/lead")).expect("a link");
    run(Command::new("mkfifo").arg(folder.join("sound/pipe"))).ok("mkfifo");
    for (path, said) in [
        ("/dev/zero", "not a path below the bundle's folder"),
        ("../outside.txt", "not a path below the bundle's folder"),
        ("../../../etc/hostname", "not a path below the bundle's folder"),
        ("pipe", "a link or a special file"),
        ("lead/card.md", "a link or a special file"),
    ] {
        // As a card, as a golden case's image, and as the outputs that `refresh --golden` writes.
        for replaced in ["card.md", "golden-disks.dcm", "golden-disks.json"] {
            let manifest = sound.replace(&format!("\"{replaced}\""), &format!("{path:?}"));
            fs::write(folder.join("sound/manifest.toml"), &manifest).expect("written");
            let checked = bounded(folder, &["bundle", "check", "sound"]);
            assert!(checked.code == Some(1) && checked.err.contains(said), "{path}: {}", checked.all());
            assert!(!checked.err.contains("its SHA-256 is"), "{path} was read: {}", checked.err);
            for refresh in [&["bundle", "refresh", "sound"][..], &["bundle", "refresh", "sound", "--golden"]]
            {
                let refreshed = bounded(folder, refresh);
                assert!(
                    refreshed.code == Some(1) && refreshed.err.contains("remedy: "),
                    "{path}: {}",
                    refreshed.all()
                );
            }
            let after = fs::read_to_string(folder.join("sound/manifest.toml")).expect("the manifest");
            assert_eq!(after, manifest, "nothing of {path} was written into the manifest");
        }
    }
    assert_eq!(fs::read_to_string(folder.join("outside.txt")).expect("read"), "not yours");

    // The manifest itself, a packed bundle, a set's image.
    fs::remove_file(folder.join("sound/manifest.toml")).expect("removed");
    fs::rename(folder.join("sound/pipe"), folder.join("sound/manifest.toml")).expect("moved");
    for verb in [
        &["bundle", "check", "sound"][..],
        &["bundle", "check", "sound/manifest.toml"],
        &["bundle", "refresh", "sound"],
        &["acceptance-set", "seal", "sound", "--recipient", "/dev/zero", "-o", "set.age"],
        &[
            "acceptance-set",
            "publish",
            "/dev/zero",
            "--model",
            "m",
            "--repository",
            "repo",
            "--vendor",
            "acme",
        ],
        &["bundle", "new", "other", "--onnx", "/dev/zero"],
    ] {
        let said = bounded(folder, verb);
        assert!(said.code == Some(1) && said.err.contains("remedy: "), "{verb:?}: {}", said.all());
    }
}

/// Runs a verb that might wait for ever; it must not.
#[track_caller]
fn bounded(folder: &Path, words: &[&str]) -> Said {
    let mut command = Command::new("timeout");
    command.current_dir(folder).arg("60").arg(lightbox()).args(words);
    let said = run(command.env("LIGHTBOX_ONNXRUNTIME", onnxruntime()));
    assert_ne!(said.code, Some(124), "{words:?} did not end");
    said
}

#[test]
fn sets_are_refused_until_they_are_whole_and_true() {
    let temp = tempfile::tempdir().expect("a folder");
    let folder = temp.path();
    let bundle = detector("").display().to_string();
    let cases = folder.join("cases");
    for (place, disks) in [("disk", "1"), ("negative", "0"), ("unsorted", "1")] {
        let seed = (place.len()).to_string();
        let out = format!("cases/{place}");
        at(
            folder,
            &["phantom", "--out", &out, "--slices", "1", "--size", "64", "--disks", disks, "--seed", &seed],
        )
        .ok("phantom");
    }
    let new = at(folder, &["acceptance-set", "new", "cases", "--bundle", &bundle]).ok("new");
    assert!(
        new.out.contains("3 images are listed") && new.out.contains("1 are left to decide"),
        "{}",
        new.all()
    );
    let again = at(folder, &["acceptance-set", "new", "cases", "--bundle", &bundle]);
    assert!(again.code == Some(1) && again.err.contains("exists"), "{}", again.all());
    let check = |said: &str| {
        let checked = at(folder, &["acceptance-set", "check", "cases", "--bundle", &bundle]);
        assert!(checked.code == Some(1) && checked.err.contains(said), "{said}: {}", checked.all());
        let sealed = at(folder, &["acceptance-set", "check", "cases"]);
        sealed.code
    };
    assert_eq!(check("truth: nobody has decided this; remedy: "), Some(1));
    let list = cases.join("set.toml");
    edit(&list, &[("\"DECIDE: which labels it has\"", "\"disc\"")]);
    assert_eq!(
        check("no finding named \"disc\", only [\"disk\"]"),
        Some(0),
        "only a bundle knows its labels"
    );
    edit(&list, &[("\"disc\"", "\"disk\"")]);
    let good = at(folder, &["acceptance-set", "check", "cases", "--bundle", &bundle]).ok("check");
    assert!(good.out.contains("label disk: 2 positive, 1 negative"), "{}", good.out);
    fs::copy(cases.join("disk/000.dcm"), cases.join("unsorted/000.dcm")).expect("copied");
    check("the same image as case \"case-0001\": it would count twice");
    fs::write(cases.join("unsorted/000.dcm"), "no image").expect("written");
    check("not an image that a box can read");
    edit(&list, &[("unsorted/000.dcm", "../../etc/hostname")]);
    check("cannot be used; remedy: ");
    edit(&list, &[("../../etc/hostname", "negative/000.dcm")]);
    check("would count twice");

    let recipient =
        at(folder, &["acceptance-set", "seal", "cases", "--recipient", "age1nobody", "-o", "set.age"]);
    assert!(
        recipient.code == Some(1) && recipient.err.contains("not a recipient; remedy: "),
        "{}",
        recipient.all()
    );
    assert!(!folder.join("set.age").exists() && !folder.join("set.age.part").exists());
}

#[test]
fn a_recall_says_what_it_stops_and_refuses_what_it_cannot_mean() {
    let temp = tempfile::tempdir().expect("a folder");
    let folder = temp.path();
    at(folder, &["bundle", "pack", &detector("").display().to_string(), "-o", "d.lightbox", "--no-run"])
        .ok("pack");
    at(
        folder,
        &["repository", "new", "repo", "--vendor", "acme", "--vendor", "other", "--make-keys", "keys"],
    )
    .ok("new");
    at(
        folder,
        &["bundle", "publish", "d.lightbox", "--repository", "repo", "--vendor", "acme", "--key", "keys"],
    )
    .ok("publish");
    let recall = |words: &[&str]| {
        at(folder, &[&["recall", "publish", "--repository", "repo", "--key", "keys"], words].concat())
    };
    let model = "lightbox-phantom-detector";
    let other = "ab".repeat(32);
    let before = targets(&inspect(folder)).len();
    for (words, said) in [
        (&["--model", model, "--reason", "why", "--vendor", "acme"][..], "nothing is named; remedy: "),
        (
            &["--model", model, "--reason", " ", "--vendor", "acme", "--every-version"],
            "--reason: empty; remedy: ",
        ),
        (
            &["--model", model, "--reason", "why", "--vendor", "acme", "--digest", "abcd"],
            "--digests: \"abcd\" is not a bundle's digest",
        ),
        (
            &["--model", model, "--reason", "why", "--vendor", "acme", "--digest", &other],
            "no bundle of model \"lightbox-phantom-detector\" with the digest ab",
        ),
        (
            &["--model", "detectr", "--reason", "why", "--vendor", "acme", "--every-version"],
            "has no bundle of model \"detectr\"; remedy: compare",
        ),
        (
            &["--model", "detectr", "--reason", "why", "--vendor", "acme", "--bundle", "d.lightbox"],
            "a bundle of model",
        ),
        (
            &["--model", model, "--reason", "why", "--vendor", "other", "--every-version"],
            "has no bundle of model",
        ),
        (
            &["--model", model, "--reason", "why", "--vendor", "acmee", "--every-version"],
            "no vendor acmee; there is: acme, other; remedy: ",
        ),
    ] {
        let refused = recall(words);
        assert!(refused.code == Some(1) && refused.err.contains(said), "{said}: {}", refused.all());
    }
    assert_eq!(targets(&inspect(folder)).len(), before, "nothing was published");
    let done =
        recall(&["--model", model, "--reason", "misses disks", "--vendor", "acme", "--bundle", "d.lightbox"])
            .ok("recall");
    assert!(done.out.contains("lightbox-phantom-detector version 1.0.0 (vendors/acme/"), "{}", done.out);
    let elsewhere = recall(&[
        "--model",
        "gone",
        "--reason",
        "why",
        "--safety",
        "--digest",
        &other,
        "--not-in-repository",
    ]);
    assert!(elsewhere.ok("recall").out.contains("which this repository does not have"));
    let inspected = inspect(folder);
    let notices: Vec<&str> =
        targets(&inspected).into_iter().filter(|name| name.starts_with("recalls/")).collect();
    assert!(
        notices.len() == 2
            && notices[0].starts_with("recalls/acme/")
            && notices[1].starts_with("recalls/gone-"),
        "{notices:?}"
    );
    let left = fs::read_dir(folder.join("repo")).expect("read").flatten();
    assert!(!left.into_iter().any(|entry| entry.file_name().to_string_lossy().contains("recall")));
}

#[test]
fn what_is_no_repository_vendor_or_packed_bundle_is_told_as_that() {
    let temp = tempfile::tempdir().expect("a folder");
    let folder = temp.path();
    let bundle = detector("").display().to_string();
    at(folder, &["bundle", "pack", &bundle, "-o", "d.lightbox", "--no-run"]).ok("pack");
    at(folder, &["repository", "new", "repo", "--vendor", "acme", "--make-keys", "keys"]).ok("new");
    let publish = |file: &str, repository: &str, vendor: &str| {
        at(
            folder,
            &["bundle", "publish", file, "--repository", repository, "--vendor", vendor, "--key", "keys"],
        )
    };
    for (said, words) in [
        (
            publish("d.lightbox", "repo", "acmee"),
            "no vendor acmee; there is: acme; remedy: name one of these, or add one by `lightbox repository rotate --holder vendor-acmee=KEY`",
        ),
        (publish(&bundle, "repo", "acme"), "a folder; remedy: pack it first"),
        (publish("d.lightbox", "nope", "acme"), "nope: no repository is here; remedy: "),
    ] {
        assert!(said.code == Some(1) && said.err.contains(words), "{words}: {}", said.all());
    }
    assert!(!folder.join("nope").exists());

    // A reader that goes away ends a verb without a word; what was published is whole.
    let piped = |line: &str| {
        let mut command = Command::new("bash");
        let path = format!("{}:/usr/bin:/bin", lightbox().parent().expect("a folder").display());
        run(command.current_dir(folder).args(["-c", line]).env("PATH", path))
    };
    for verb in
        ["bundle inspect repo", "bundle inspect repo --json", "bundle inspect d.lightbox", "conformance"]
    {
        let said = piped(&format!("(sleep 0.3; lightbox {verb}; echo $? > code) | true"));
        assert_eq!(said.err, "", "{verb}");
        assert_eq!(fs::read_to_string(folder.join("code")).expect("its code").trim(), "141", "{verb}");
    }
}

#[test]
fn bounds_that_no_result_breaks_are_warned_of_and_senseless_ones_refused() {
    let temp = tempfile::tempdir().expect("a folder");
    let folder = temp.path();
    let bundle = detector("").display().to_string();
    let made = at(folder, &["plan", "new", &bundle, "-o", "draft.toml"]).ok("plan new");
    assert!(made.out.contains("things are left to decide"), "{}", made.all());
    let marks = fs::read_to_string(folder.join("draft.toml")).expect("the plan").matches("\"DECIDE").count();
    let undecided = at(folder, &["plan", "check", "draft.toml"]);
    assert!(undecided.err.contains(&format!("draft.toml: {marks} problems")), "{}", undecided.err);

    let decisions = blocks("toml")[1].replace("id = \"C1\"\n", "id = \"C1\"\nset_sha256 = \"SET\"\n");
    let decisions = decisions
        .replace("id = \"C2\"\n", "id = \"C2\"\nset_sha256 = \"SET\"\n")
        .replace("SET", &"ab".repeat(32));
    let mut number = 0;
    let mut checked = |edits: &[(&str, &str)]| {
        number += 1;
        let mut text = decisions.clone();
        for (from, to) in edits {
            assert!(text.contains(from), "{from}");
            text = text.replacen(from, to, 1);
        }
        fs::write(folder.join("decisions.toml"), text).expect("written");
        let plan = format!("plan-{number}.toml");
        at(folder, &["plan", "new", &bundle, "-o", &plan, "--decisions", "decisions.toml"]).ok("plan new");
        at(folder, &["plan", "check", &plan])
    };
    let sound = checked(&[]).ok("plan check");
    assert!(sound.err.is_empty() && sound.out.contains("good, plan PCCP-1 version 1"), "{}", sound.all());
    let loose = checked(&[
        ("positive_min = 10", "positive_min = 0"),
        ("estimate_min = 0.9", "estimate_min = 0.0"),
        ("level = 0.95", "level = 0.5"),
    ])
    .ok("plan check");
    for key in [
        "criterion[0].positive_min: is 0",
        "criterion[0].estimate_min: is 0",
        "criterion[0].interval.level: is 0.5",
    ] {
        assert!(
            loose.err.lines().any(|line| line.starts_with("warning: ") && line.contains(key)),
            "{key}: {}",
            loose.err
        );
    }
    assert!(!loose.out.contains("good"), "{}", loose.out);
    let one_sided = checked(&[("metric = \"specificity\"", "metric = \"sensitivity\"")]).ok("plan check");
    assert!(one_sided.err.contains("looks at false alarms of label \"disk\""), "{}", one_sided.err);
    let monitor = "[site]\n";
    let never = "[[monitor]]\nid = \"m\"\nmetric = \"failed_share\"\nwindow_studies = 50\nwarn = 0.1\nstop = 7.0\naction = \"revert\"\n\n[site]\n";
    let senseless = checked(&[(monitor, never)]);
    assert!(
        senseless.code == Some(1) && senseless.err.contains("monitor[0].stop: is 7"),
        "{}",
        senseless.all()
    );
    let past = checked(&[("2099", "2001")]);
    assert!(past.code == Some(1) && past.err.contains("plan.expires: is past"), "{}", past.all());
    at(folder, &["repository", "new", "repo", "--vendor", "acme", "--make-keys", "keys"]).ok("new");
    let published = at(
        folder,
        &["plan", "publish", "plan-4.toml", "--repository", "repo", "--publisher", "acme", "--key", "keys"],
    );
    assert!(published.code == Some(1) && published.err.contains("can never happen"), "{}", published.all());

    fs::create_dir(folder.join("sound")).expect("made");
    for entry in fs::read_dir(detector("")).expect("the bundle") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), folder.join("sound").join(entry.file_name())).expect("copied");
    }
    edit(&folder.join("sound/manifest.toml"), &[("release = 1\n", "release = 9223372036854775807\n")]);
    let last = at(folder, &["bundle", "check", "sound", "--no-run"]).ok("check");
    assert!(
        last.err.contains("model.release: is the highest number") && last.err.contains("20260131"),
        "{}",
        last.all()
    );
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
        ("acceptance-set", &["new", "check", "seal", "publish"]),
        ("recall", &["publish"]),
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
