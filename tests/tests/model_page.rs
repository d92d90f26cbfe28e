//! The models on the administration page: who decides is the one whose certificate was shown.

use lightbox_tests::command::run_lightbox;
use lightbox_tests::ledger::Ledger;
use lightbox_tests::peers::curl::Browser;
use lightbox_tests::samples::phantom;
use lightbox_tests::{Identity, Line, Vendor};

fn states(ledger: &Ledger) -> Vec<String> {
    ledger.texts("SELECT release || ' ' || state FROM model_versions ORDER BY release")
}

/// A viewer and two operators.
struct People {
    viewer: Identity,
    operators: [Identity; 2],
}

fn scene() -> (Vendor, Line, People) {
    let mut people = None;
    let (vendor, line) = Vendor::line_from(|hospital, vendor| {
        let issued = people.insert(People {
            viewer: hospital.issue("vera"),
            operators: [hospital.issue("olga"), hospital.issue("otto")],
        });
        let person = |name: &str, role: &str, identity: &Identity| {
            format!(
                "\n[[operator]]\nname = {name:?}\nrole = {role:?}\ncertificate = {{ sha256 = {:?} }}\n",
                identity.sha256
            )
        };
        format!("repository = {:?}\n", vendor.repository())
            + &person("Vera Viewer", "viewer", &issued.viewer)
            + &person("Olga Operator", "operator", &issued.operators[0])
            + &person("Otto Operator", "operator", &issued.operators[1])
    });
    (vendor, line, people.expect("issued"))
}

/// The form of a page with that target: the fields that a browser would send, the reason filled in.
#[track_caller]
fn form(page: &str, target: &str) -> String {
    let wanted = format!("action=\"{target}\"");
    let form = page.split("<form").find(|form| form.contains(&wanted));
    let form = form.unwrap_or_else(|| panic!("no form for {target} in\n{page}"));
    let (_, rest) = form.split_once("name=\"token\" value=\"").expect("a token");
    let token = rest.split('"').next().expect("its end");
    format!("token={token}&reason=Looks+right")
}

#[test]
fn a_version_is_looked_for_approved_by_two_and_taken_out_of_service_on_the_page() {
    let (vendor, mut line, people) = scene();
    let one = vendor.version(1, &[]);
    let set = vendor.publish_set(&line.site);
    vendor.publish_plan(&one, &set, 2);
    vendor.publish_version(&one);
    let browser = |line: &Line, who: &Identity| Browser::new(&line.hospital, line.daemon.admin, Some(who));
    let (vera, olga) = (browser(&line, &people.viewer), browser(&line, &people.operators[0]));
    let otto = browser(&line, &people.operators[1]);

    let seen = vera.get("/models");
    assert_eq!(seen.status, 200, "{seen:?}");
    assert!(seen.body.contains("no version is active") && !seen.body.contains("<form"), "{}", seen.body);
    let page = olga.get("/models").body;
    assert_eq!(olga.post("/models/check", "token=none").status, 403, "a forged form");
    let taken = olga.post("/models/check", &form(&page, "/models/check"));
    assert_eq!(taken.status, 303, "{taken:?}");
    line.daemon.wait_for("acceptance", 60, |ledger| (states(ledger) == ["1 accepted"]).then_some(()));

    // The command line takes no other names than the page.
    let site = line.site.path.to_str().expect("a plain path");
    for nobody in ["Mallory", "Vera Viewer"] {
        let refused = run_lightbox(&["models", "--site", site, "approve", "detector", "--by", nobody]);
        assert!(refused.code != Some(0), "{}", refused.all());
        assert!(refused.err.contains("one of Olga Operator, Otto Operator"), "{}", refused.err);
    }
    let place = format!("/models/detector/{}", one.digest());
    let (approve, page) = (format!("{place}/approve"), olga.get(&place).body);
    for shown in ["0 of 2 people have approved", "sensitivity", "allows it", one.digest()] {
        assert!(page.contains(shown), "{shown} is not on\n{page}");
    }
    // A viewer's token is the viewer's; the operator's form is no help to them.
    assert_eq!(vera.post(&approve, &form(&page, &approve)).status, 403);
    assert_eq!(olga.post(&approve, &form(&page, &approve)).status, 303);
    let again = olga.post(&approve, &form(&page, &approve));
    assert!(again.status == 409 && again.body.contains("another person has to"), "{again:?}");
    let page = otto.get(&place).body;
    assert!(page.contains("1 of 2 people have approved") && page.contains("Olga Operator"), "{page}");
    assert_eq!(otto.post(&approve, &form(&page, &approve)).status, 303);
    line.daemon
        .wait_for("the version to be active", 60, |ledger| (states(ledger) == ["1 active"]).then_some(()));
    let image = phantom(&line.hospital, "dx", 1).files.remove(0);
    line.send_and_wait(&[image]);
    assert!(vera.get(&place).body.contains("1 studies"), "{}", vera.get(&place).body);

    // There is nothing to go back to; out of service it can go.
    let page = otto.get("/models").body;
    let refused = otto.post("/models/detector/rollback", &form(&page, "/models/detector/rollback"));
    assert!(refused.status == 409 && refused.body.contains("no earlier version"), "{refused:?}");
    assert_eq!(otto.post("/models/detector/disable", &form(&page, "/models/detector/disable")).status, 303);
    let ledger = line.daemon.ledger();
    assert_ne!(states(&ledger), ["1 active"]);
    let by = ledger.texts("SELECT actor FROM model_events WHERE reason = 'Looks right' ORDER BY id");
    assert_eq!(by.last().map(String::as_str), Some("Otto Operator"), "{by:?}");
    // In the audit log too it is the person who acts.
    let asked = "SELECT subject FROM audit WHERE detail LIKE '%check-models%' ORDER BY seq DESC LIMIT 1";
    assert_eq!(ledger.texts(asked), ["Olga Operator"]);
    assert!(vera.get("/models").body.contains("no version is active"));
    assert_eq!(vera.get("/models/detector/0000").status, 404);
    assert_eq!(vera.get(&format!("{place}/shadow")).status, 404, "it was never in shadow");
    assert!(line.daemon.stop().success());
}
