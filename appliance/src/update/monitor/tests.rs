use std::path::Path;

use lightbox_models::Bundle;
use lightbox_models::life_cycle::State;
use serde_json::json;

use super::*;
use crate::store::fixture::Fixture;
use crate::store::models::{PlanRow, Reading, keep_plan};

/// A plan with one monitor: of three studies, half may not fail.
fn plan(action: &str) -> String {
    let text = include_str!("../../../../models/tests/plan/sound.toml");
    let (head, rest) = text.split_once("[[monitor]]").expect("it has a monitor");
    let (_, tail) = rest.split_once("[site]").expect("and what the site owes");
    let monitor = format!(
        "[[monitor]]\nid = \"failures\"\nmetric = \"failed_share\"\nwindow_studies = 4\nwarn = 0.25\nstop = 0.5\naction = \"{action}\"\n"
    );
    ["INTENDED_USE", "IO_SCHEMA", "BASELINE", "ACCEPTANCE_SET"]
        .iter()
        .fold(format!("{head}{monitor}\n[site]{tail}"), |text, word| text.replace(word, &"ab".repeat(32)))
}

struct Watching {
    fixture: Fixture,
    monitors: Monitors,
    /// The version before, whose files are really there.
    before: String,
}

impl Watching {
    /// Version 2 (`bb`) is active, version 1 was.
    fn new(action: &str) -> Self {
        let fixture = Fixture::new();
        let folders = Folders::of(&fixture.data_dir());
        folders.make().unwrap();
        let source =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/reference/phantom-detector/bundle");
        let before = Bundle::open(&source).unwrap().digest().to_owned();
        std::fs::create_dir(folders.bundle(&before)).unwrap();
        for entry in std::fs::read_dir(&source).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folders.bundle(&before).join(entry.file_name())).unwrap();
        }
        let row = PlanRow { sha256: "sha".into(), plan: "P".into(), version: 3, text: plan(action) };
        let one = before.clone();
        fixture
            .ledger
            .write_blocking(move |writer| {
                let slot = ("detector".to_owned(), "vendors/acme/detector".to_owned(), "plans/p".to_owned());
                models::manage(writer, &[slot])?;
                keep_plan(writer, "detector", &row)?;
                for (digest, state, place) in [(one.as_str(), "retired", 1), ("bb", "active", 2)] {
                    writer.tx().execute(
                        "INSERT INTO model_versions (slot, digest, target, target_sha256, version, release, manifest,
                            state, kept, last_active, received_at, since, note)
                         VALUES ('detector', ?1, 't', ?1, ?3 || '.0.0', ?3, '', ?2, 1, ?3, 0, 0, 'approved')",
                        rusqlite::params![digest, state, place],
                    )?;
                }
                Ok(())
            })
            .unwrap();
        let model = Managed { name: "detector".into(), target: "t".into(), plan: "p".into() };
        let monitors = Monitors {
            models: vec![model],
            ledger: fixture.ledger.clone(),
            folders,
            work: Arc::new(Notify::new()),
        };
        Watching { fixture, monitors, before }
    }

    /// The active version ended on a study.
    fn study(&self, job: i64, failed: bool) {
        let reading = match failed {
            true => Reading::failed("the run failed"),
            false => Reading { failed: None, ..Reading::failed("") },
        };
        self.fixture
            .ledger
            .write_blocking(move |writer| {
                writer.tx().execute(
                    "INSERT INTO studies (id, key, study_uid, state, revision, first_at, last_at)
                     VALUES (?1, 'key-' || ?1, '1.2.' || ?1, 'done', 1, 0, 0)",
                    [job],
                )?;
                writer.tx().execute(
                    "INSERT INTO model_runs (job_id, study_id, slot, digest, activation, at, reading)
                     SELECT ?1, ?1, slot, digest, last_active, 0, ?2 FROM model_versions WHERE state = 'active'",
                    rusqlite::params![job, json!(reading).to_string()],
                )?;
                Ok(())
            })
            .unwrap();
    }

    async fn look(&self) -> Option<Seen> {
        self.monitors.look(&self.monitors.models[0], None).await.unwrap()
    }

    /// State and note of version 1, and of version 2.
    fn versions(&self) -> Vec<(State, String)> {
        let found = self.fixture.ledger.read_blocking(|reader| models::versions(reader, None)).unwrap();
        found.into_iter().map(|version| (version.state, version.note)).collect()
    }
}

#[tokio::test]
async fn people_are_told_before_the_box_acts_and_no_longer_than_it_is_so() {
    let watching = Watching::new("revert");
    watching.study(1, true);
    let seen = watching.look().await;
    let (state, note) = watching.versions().remove(1);
    assert_eq!(state, State::Active);
    assert!(note.starts_with("monitor failures: ") && note.contains("0.2500"), "{note}");
    let again = watching.monitors.look(&watching.monitors.models[0], seen).await.unwrap();
    assert_eq!(again, None, "nothing has ended since");
    for job in 2..=5 {
        watching.study(job, false);
    }
    watching.look().await;
    assert_eq!(watching.versions()[1], (State::Active, String::new()));
}

#[tokio::test]
async fn a_stop_goes_back_to_the_version_before_and_its_window_begins_anew() {
    let watching = Watching::new("revert");
    watching.study(1, true);
    watching.study(2, true);
    watching.look().await;
    let versions = watching.versions();
    assert_eq!((versions[0].0, versions[1].0), (State::Active, State::RolledBack));
    assert!(versions[0].1.starts_with("in the place of bb: monitor failures"), "{versions:?}");
    assert!(versions[1].1.contains("the box goes back (plan P version 3)"), "{versions:?}");
    let serious: i64 = watching
        .fixture
        .ledger
        .read_blocking(|reader| {
            let sql = "SELECT count(*) FROM audit WHERE event = 'model-transition' AND outcome = 'serious'
                AND detail LIKE '%monitor failures%'";
            Ok(reader.query_row(sql, [], |row| row.get(0))?)
        })
        .unwrap();
    assert_eq!(serious, 1);
    // What bb failed on is nothing against the one that runs now; but when that one fails too, there is nothing
    // left to go back to: never to what was taken out of service.
    watching.look().await;
    assert_eq!(watching.versions()[0].0, State::Active);
    watching.study(3, true);
    watching.study(4, true);
    watching.look().await;
    let versions = watching.versions();
    assert_eq!((versions[0].0, versions[1].0), (State::RolledBack, State::RolledBack));
    assert!(versions[0].1.contains("nothing to go back to"), "{versions:?}");
    assert_eq!(watching.look().await, None, "nothing is active");
}

#[tokio::test]
async fn a_version_whose_files_are_damaged_is_not_gone_back_to() {
    let watching = Watching::new("revert");
    let network = watching.monitors.folders.bundle(&watching.before).join("model.onnx");
    std::fs::write(network, b"other bytes").unwrap();
    watching.study(1, true);
    watching.study(2, true);
    watching.look().await;
    let versions = watching.versions();
    assert_eq!((versions[0].0, versions[1].0), (State::Retired, State::RolledBack));
    assert!(versions[1].1.contains("damaged"), "{versions:?}");
}

#[tokio::test]
async fn a_monitor_that_disables_leaves_the_version_before_where_it_is() {
    let watching = Watching::new("disable");
    watching.study(1, true);
    watching.study(2, true);
    watching.look().await;
    let versions = watching.versions();
    assert_eq!((versions[0].0, versions[1].0), (State::Retired, State::RolledBack));
    assert!(versions[1].1.contains("takes it out of service"), "{versions:?}");
}
