//! What a start of the daemon means for the images that the ledger knows: the new one runs, or the box has come back from
//! it. Pure: the ledger's rows in, steps out.

use super::manifest::Version as Number;
use crate::store::system::{State, Version};

/// A step of one image.
#[derive(Debug)]
pub struct Step {
    /// Which.
    pub version: Version,
    /// Where it goes.
    pub to: State,
    /// Why, for people.
    pub note: String,
}

/// Whether it was decided in this start of the machine; rows of old releases do not say.
fn is_of(version: &Version, boot: &str) -> bool {
    version.boot.is_empty() || version.boot == boot
}

/// The row of what runs: a publisher may have put out another image of the same version meanwhile, so it is the one that was
/// on its way to be started, else the last.
fn row_of(versions: &[Version], running: Number) -> Option<&Version> {
    let rank = |one: &Version| match one.state {
        State::Restarting => 0,
        State::Ready => 1,
        State::Writing => 2,
        State::OnTrial => 3,
        State::Installed => 4,
        State::Offered | State::Fetching | State::Refused | State::FellBack | State::Replaced => 5,
    };
    let of_version = versions.iter().filter(|one| one.manifest.version == running);
    of_version.min_by_key(|one| (rank(one), std::cmp::Reverse(one.id)))
}

/// That the box has come back from an image.
pub fn came_back(version: &Version, running: Number) -> Step {
    let note = format!(
        "the box came back from {} to {running}: it did not pass its health gate, or its slot is damaged; it is not installed again unless somebody asks for it",
        version.version
    );
    Step { version: version.clone(), to: State::FellBack, note }
}

/// The steps of a start with `running`; `boot` is which start of the machine this is.
pub fn steps(versions: &[Version], running: Number, boot: &str) -> Vec<Step> {
    let runs = row_of(versions, running);
    // What runs is what was started, wherever the ledger thinks that it is: the machine may have gone down just after the
    // boot entry was there, or the boot loader may have come back to one that failed before.
    let tried = runs.filter(|one| !matches!(one.state, State::OnTrial | State::Installed));
    let mut steps = Vec::new();
    if let Some(version) = tried {
        let note = "started; its health gate decides".to_owned();
        steps.push(Step { version: version.clone(), to: State::OnTrial, note });
    }
    // The one that was installed is left for a new one, or its slot is no good any more.
    let is_new =
        runs.is_some_and(|one| !matches!(one.state, State::Installed | State::Replaced | State::FellBack));
    for version in versions.iter().filter(|one| runs.is_none_or(|runs| runs.id != one.id)) {
        if version.manifest.version == running {
            if version.state.is_under_way() {
                let note = "another image of this version runs".to_owned();
                steps.push(Step { version: version.clone(), to: State::Refused, note });
            }
            continue;
        }
        let was_to_run = match version.state {
            State::OnTrial => true,
            // What is in its slot starts first, whoever has restarted the machine.
            State::Ready => !is_of(version, boot),
            State::Restarting => version.boot.is_empty() || version.boot != boot,
            // What the box would come back to stays what it is until another is installed.
            State::Installed => !is_new,
            _ => false,
        };
        if was_to_run {
            steps.push(came_back(version, running));
        }
    }
    steps
}

/// Whether the machine is still to be restarted into another image, as was decided in this start of it.
pub fn waits_for_restart(versions: &[Version], running: Number, boot: &str) -> bool {
    let waits = |one: &Version| one.state == State::Restarting && !one.boot.is_empty() && one.boot == boot;
    versions.iter().any(|one| waits(one) && one.manifest.version != running)
}

#[cfg(test)]
mod tests {
    use super::super::manifest::{Ledger, Manifest};
    use super::*;

    fn image(id: i64, version: Number, state: State, boot: &str) -> Version {
        let manifest = Manifest {
            schema: 1,
            version,
            machine: "x86_64".into(),
            flavour: "test".into(),
            rollback: 1,
            root_hash: "a".repeat(64),
            ledger: Ledger::ours(),
        };
        Version {
            id,
            version: version.to_string(),
            manifest_sha256: String::new(),
            manifest,
            state,
            since: 0,
            note: String::new(),
            asked_by: String::new(),
            at_once: false,
            dates_by: String::new(),
            ready_at: None,
            boot: boot.into(),
        }
    }

    const OLD: Number = Number(1, 1, 0);
    const NEW: Number = Number(1, 2, 0);

    #[track_caller]
    fn check(versions: &[Version], running: Number, expected: &[(i64, State)]) {
        let steps: Vec<_> =
            steps(versions, running, "2").iter().map(|step| (step.version.id, step.to)).collect();
        assert_eq!(steps, expected);
    }

    #[test]
    fn the_image_that_was_started_is_on_trial_wherever_it_stood() {
        use State::{Fetching, Installed, Offered, OnTrial, Ready, Refused, Replaced, Restarting, Writing};
        for state in [Writing, Ready, Restarting, Refused, Offered, Fetching] {
            check(&[image(1, OLD, Installed, "0"), image(2, NEW, state, "1")], NEW, &[(2, OnTrial)]);
            // In whatever order they were seen first.
            check(&[image(1, NEW, state, "1"), image(2, OLD, Installed, "0")], NEW, &[(1, OnTrial)]);
        }
        check(&[image(1, OLD, Installed, "0"), image(2, NEW, OnTrial, "1")], NEW, &[]);
        check(&[image(1, OLD, Replaced, "0"), image(2, NEW, Installed, "1")], NEW, &[]);
    }

    #[test]
    fn of_two_images_of_one_version_it_is_the_one_that_was_on_its_way() {
        use State::{Installed, Offered, OnTrial, Ready, Refused, Restarting};
        let old = || image(1, OLD, Installed, "0");
        for other in [Offered, Refused] {
            let both = [old(), image(2, NEW, Restarting, "1"), image(3, NEW, other, "")];
            check(&both, NEW, &[(2, OnTrial)]);
        }
        check(
            &[old(), image(2, NEW, Ready, "1"), image(3, NEW, Restarting, "1")],
            NEW,
            &[(3, OnTrial), (2, Refused)],
        );
        check(&[old(), image(2, NEW, OnTrial, "1"), image(3, NEW, Offered, "")], NEW, &[]);
    }

    #[test]
    fn the_box_came_back_from_what_should_run_and_does_not() {
        use State::{FellBack, Installed, OnTrial, Ready, Replaced, Restarting};
        let old = || image(1, OLD, Installed, "0");
        check(&[old(), image(2, NEW, OnTrial, "1")], OLD, &[(2, FellBack)]);
        check(&[old(), image(2, NEW, Restarting, "1")], OLD, &[(2, FellBack)]);
        check(&[old(), image(2, NEW, Ready, "1")], OLD, &[(2, FellBack)]);
        // What the factory wrote is in no row.
        check(&[image(2, NEW, Installed, "1")], OLD, &[(2, FellBack)]);
        // The slot of the installed one is no good any more: the other is tried anew, whatever became of it before.
        for state in [Replaced, FellBack] {
            check(
                &[image(1, OLD, state, "0"), image(2, NEW, Installed, "1")],
                OLD,
                &[(1, OnTrial), (2, FellBack)],
            );
        }
    }

    #[test]
    fn the_daemon_alone_was_started_again() {
        use State::{Fetching, Installed, Offered, Ready, Refused, Restarting, Writing};
        for state in [Offered, Fetching, Writing, Ready, Restarting, Refused] {
            check(&[image(1, OLD, Installed, "0"), image(2, NEW, state, "2")], OLD, &[]);
        }
        let restarting = |boot| [image(1, OLD, Installed, "0"), image(2, NEW, Restarting, boot)];
        assert!(waits_for_restart(&restarting("2"), OLD, "2"));
        assert!(!waits_for_restart(&restarting("1"), OLD, "2"));
        assert!(!waits_for_restart(&restarting(""), OLD, "2"));
    }
}
