use super::*;
use crate::store::fixture::Fixture;

fn row(digest: &str, release: u64) -> VersionRow {
    VersionRow {
        slot: "detector".into(),
        digest: digest.into(),
        target: format!("vendors/acme/detector-{release}.lightbox"),
        target_sha256: format!("sha-{digest}"),
        version: format!("{release}.0.0"),
        release,
        manifest: String::new(),
        state: State::Received,
        kept: true,
        last_active: 0,
        received_at: 0,
        since: 0,
        note: String::new(),
        plan: None,
        acceptance: None,
        updates: BTreeMap::new(),
    }
}

fn facts() -> Facts {
    Facts { evidence: "proof".into(), ..Facts::default() }
}

pub(super) fn act(fixture: &Fixture, digest: &str, event: Event) -> Result<Vec<Step>, LedgerError> {
    let digest = digest.to_owned();
    fixture.ledger.write_blocking(move |writer| {
        apply(writer, "detector", &digest, event, &facts(), &Duties::NONE, &Actor::the_box("test"), None)
    })
}

pub(super) fn with_version(fixture: &Fixture, digest: &str, release: u64) {
    let row = row(digest, release);
    fixture
        .ledger
        .write_blocking(move |writer| {
            let slot = ("detector".to_owned(), "vendors/acme/detector".to_owned(), "plans/p".to_owned());
            manage(writer, &[slot])?;
            receive(writer, &row, &Actor::the_box("fetched"))
        })
        .unwrap();
}

pub(super) fn activate(fixture: &Fixture, digest: &str) {
    for event in [Event::Verify, Event::Admit, Event::Accept, Event::Activate] {
        act(fixture, digest, event).unwrap();
    }
}

fn states(fixture: &Fixture) -> Vec<(String, State)> {
    let rows = fixture.ledger.read_blocking(|reader| versions(reader, None)).unwrap();
    rows.into_iter().map(|row| (row.digest, row.state)).collect()
}

#[test]
fn a_switch_is_one_transaction_with_its_history_and_audit() {
    let fixture = Fixture::new();
    with_version(&fixture, "aa", 1);
    activate(&fixture, "aa");
    with_version(&fixture, "bb", 2);
    assert!(act(&fixture, "bb", Event::Activate).is_err(), "nothing was proved of it");
    activate(&fixture, "bb");
    assert_eq!(states(&fixture), [("aa".to_owned(), State::Retired), ("bb".to_owned(), State::Active)]);
    act(&fixture, "bb", Event::RollBack).unwrap();
    assert_eq!(states(&fixture), [("aa".to_owned(), State::Active), ("bb".to_owned(), State::RolledBack)]);
    let events = fixture.ledger.read_blocking(|reader| events(reader, "detector", None)).unwrap();
    let audited: i64 = fixture
        .ledger
        .read_blocking(|reader| {
            Ok(reader.query_row(
                "SELECT count(*) FROM audit WHERE event = 'model-transition'",
                [],
                |row| row.get(0),
            )?)
        })
        .unwrap();
    assert_eq!(events.len() as i64, audited);
    assert_eq!(events.last().unwrap().after, "active");
    // The index itself lets no second one be active, whoever writes.
    let two = fixture.ledger.write_blocking(|writer| {
        Ok(writer.tx().execute("UPDATE model_versions SET state = 'active'", [])?)
    });
    assert!(two.is_err());
}

#[test]
fn an_approval_is_of_the_state_that_was_seen_and_of_another_person_each() {
    let fixture = Fixture::new();
    with_version(&fixture, "aa", 1);
    let approve = |name: &str| {
        let actor = Actor { name: name.into(), account: "shell:x".into(), reason: String::new() };
        fixture.ledger.write_blocking(move |writer| approve(writer, "detector", "aa", &actor, "", ""))
    };
    assert_eq!(approve("Meyer").unwrap(), 1);
    assert!(approve(" meyer ").is_err(), "the same person");
    assert_eq!(approve("Huber").unwrap(), 2);
    act(&fixture, "aa", Event::Verify).unwrap();
    let now = fixture.ledger.read_blocking(|reader| approvals(reader, "detector", "aa")).unwrap();
    assert_eq!(now, [], "what was approved has changed");
}

#[test]
fn a_plan_goes_forward_only() {
    let fixture = Fixture::new();
    with_version(&fixture, "aa", 1);
    let keep_as = |plan: &str, sha256: &str, version: u64| {
        let row = PlanRow { sha256: sha256.into(), plan: plan.into(), version, text: "x".into() };
        fixture.ledger.write_blocking(move |writer| keep_plan(writer, "detector", &row))
    };
    let keep = |sha256: &str, version: u64| keep_as("P", sha256, version);
    keep("one", 2).unwrap();
    keep("one", 2).unwrap();
    assert!(keep("two", 2).unwrap_err().to_string().contains("plan-version"));
    assert!(keep("two", 1).is_err());
    keep("three", 3).unwrap();
    // Nor under another name, over which the first one could go back.
    for version in [1, 3] {
        assert!(keep_as("Q", "four", version).unwrap_err().to_string().contains("plan-version"));
    }
    keep_as("Q", "four", 4).unwrap();
    assert!(keep("one", 2).is_err());
}

#[test]
fn files_go_only_after_the_ledger_says_so() {
    let fixture = Fixture::new();
    for (digest, release) in [("aa", 1), ("bb", 2), ("cc", 3)] {
        with_version(&fixture, digest, release);
        activate(&fixture, digest);
    }
    let gone = fixture.ledger.write_blocking(|writer| discard(writer, "detector", 1)).unwrap();
    assert_eq!(gone, ["aa"]);
    assert_eq!(fixture.ledger.read_blocking(kept).unwrap(), ["bb", "cc"]);
}

#[test]
fn a_job_keeps_its_version_over_a_switch_but_not_over_a_rollback() {
    let fixture = Fixture::new();
    fixture
        .ledger
        .write_blocking(|writer| {
            writer.tx().execute_batch(
                "INSERT INTO studies (id, study_uid, key, state, revision, first_at, last_at)
                 VALUES (1, '1.2', 'k', 'processing', 1, 0, 0);
                 INSERT INTO jobs (id, study_id, revision, model, state, series, deliver, next_at, created_at)
                 VALUES (1, 1, 1, 'detector', 'waiting', '[]', '{}', 0, 0);",
            )?;
            Ok(())
        })
        .unwrap();
    let pinned =
        || fixture.ledger.write_blocking(|writer| pin(writer, 1)).unwrap().map(|pinned| pinned.digest);
    with_version(&fixture, "aa", 1);
    let claim =
        || fixture.ledger.write_blocking(|writer| crate::store::jobs::claim(writer, "owner", 1000)).unwrap();
    assert!(claim().is_none(), "no version is active");
    let why: String = fixture
        .ledger
        .read_blocking(|reader| Ok(reader.query_row("SELECT error FROM jobs", [], |row| row.get(0))?))
        .unwrap();
    assert!(why.contains("no active version"), "{why}");
    activate(&fixture, "aa");
    assert_eq!(pinned().as_deref(), Some("aa"));
    with_version(&fixture, "bb", 2);
    activate(&fixture, "bb");
    assert_eq!(pinned().as_deref(), Some("aa"), "it goes on with its own");
    act(&fixture, "bb", Event::RollBack).unwrap();
    assert_eq!(pinned().as_deref(), Some("aa"));
    act(&fixture, "aa", Event::Recall).unwrap();
    assert_eq!(pinned(), None, "a recalled version runs for nobody");
    let stopped = |digest: &'static str| {
        fixture.ledger.read_blocking(move |reader| is_stopped(reader, "detector", digest)).unwrap()
    };
    assert!(stopped("aa") && stopped("bb") && stopped("unknown"));
}
