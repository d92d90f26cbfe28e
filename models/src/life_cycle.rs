//! A model version's life, as data: states, events, which event leads where, and what must be
//! proved for it. Nothing here acts; a caller asks [`Slot::decide`], writes the steps and their
//! audit records in one transaction, and then [`Slot::commit`]s them.
//!
//! ```text
//! received → verified → planned in → accepted → (shadow →) active → retired ⇄ active
//!     any of these but active → refused              active → rolled back → active (by approval)
//!     every state → recalled, and nothing leads out of it
//! ```
//!
//! A slot is the place of one model (one `model.id`): at most one of its versions is active.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a version stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its bytes are here.
    Received,
    /// Authentic, newer, meant for this device.
    Verified,
    /// Inside the change-control plan, as far as documents can say.
    PlannedIn,
    /// Good enough on this hardware.
    Accepted,
    /// Runs beside the active version, without output.
    Shadow,
    /// Its results leave the box.
    Active,
    /// Was active, was followed by another.
    Retired,
    /// Will never run.
    Refused,
    /// Was active, was taken out of service.
    RolledBack,
    /// The vendor's notice: never again.
    Recalled,
}

impl State {
    /// Every state.
    pub const ALL: [State; 10] = [
        State::Received,
        State::Verified,
        State::PlannedIn,
        State::Accepted,
        State::Shadow,
        State::Active,
        State::Retired,
        State::Refused,
        State::RolledBack,
        State::Recalled,
    ];
}

/// What happens to a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// Signatures, freshness and device proved. Evidence: the verification.
    Verify,
    /// The plan's verdict before running. Evidence: the verdict.
    Admit,
    /// The acceptance run passed. Evidence: the acceptance record.
    Accept,
    /// Begins to run beside the active version.
    BeginShadow,
    /// Becomes the active version; the one before is superseded in the same step. Evidence: the
    /// plan's verdict for activation.
    Activate,
    /// Another version became active.
    Supersede,
    /// Taken out of service; the version before is restored in the same step. Evidence: the
    /// order, or the monitor's reading.
    RollBack,
    /// Becomes active again. Evidence: as for the rollback that asked for it.
    Restore,
    /// Taken out of service; the slot stays empty. Evidence: the monitor's reading.
    Disable,
    /// A check failed, or a person said no. Evidence: which.
    Refuse,
    /// The vendor's signed notice. Evidence: the notice.
    Recall,
}

impl Event {
    /// Every event.
    pub const ALL: [Event; 11] = [
        Event::Verify,
        Event::Admit,
        Event::Accept,
        Event::BeginShadow,
        Event::Activate,
        Event::Supersede,
        Event::RollBack,
        Event::Restore,
        Event::Disable,
        Event::Refuse,
        Event::Recall,
    ];
}

/// What must hold for a transition beside the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    /// The identifier of the record that proves it is given.
    Evidence,
    /// As many different people as the plan asks for have approved this version.
    Approvals,
    /// The hours and studies in shadow that the plan asks for are done.
    ShadowDone,
    /// Its files are still here.
    Kept,
    /// It has been active before.
    OnceActive,
}

/// One legal transition.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Transition {
    /// From this state,
    pub from: State,
    /// by this event,
    pub event: Event,
    /// to this state,
    pub to: State,
    /// if all of these hold.
    pub guards: &'static [Guard],
}

/// Every legal transition; what is not here is refused.
pub const TRANSITIONS: &[Transition] = &{
    use Event::*;
    use Guard::*;
    use State::*;
    const fn way(from: State, event: Event, to: State, guards: &'static [Guard]) -> Transition {
        Transition { from, event, to, guards }
    }
    [
        way(Received, Verify, Verified, &[Evidence]),
        way(Verified, Admit, PlannedIn, &[Evidence]),
        way(PlannedIn, Accept, Accepted, &[Evidence]),
        way(Accepted, BeginShadow, Shadow, &[]),
        // Straight to active only where the plan asks for nothing in shadow: `ShadowDone` says so.
        way(Accepted, Activate, Active, &[Evidence, Approvals, ShadowDone, Kept]),
        way(Shadow, Activate, Active, &[Evidence, Approvals, ShadowDone, Kept]),
        way(Active, Supersede, Retired, &[]),
        way(Active, RollBack, RolledBack, &[Evidence]),
        way(Active, Disable, RolledBack, &[Evidence]),
        // Back to a version that was good until it was followed: at once, nobody is asked.
        way(Retired, Restore, Active, &[Evidence, Kept, OnceActive]),
        // Back to one that was taken out of service for a reason: only by people.
        way(RolledBack, Restore, Active, &[Evidence, Approvals, Kept, OnceActive]),
        way(Received, Refuse, Refused, &[Evidence]),
        way(Verified, Refuse, Refused, &[Evidence]),
        way(PlannedIn, Refuse, Refused, &[Evidence]),
        way(Accepted, Refuse, Refused, &[Evidence]),
        way(Shadow, Refuse, Refused, &[Evidence]),
        way(Received, Recall, Recalled, &[Evidence]),
        way(Verified, Recall, Recalled, &[Evidence]),
        way(PlannedIn, Recall, Recalled, &[Evidence]),
        way(Accepted, Recall, Recalled, &[Evidence]),
        way(Shadow, Recall, Recalled, &[Evidence]),
        way(Active, Recall, Recalled, &[Evidence]),
        way(Retired, Recall, Recalled, &[Evidence]),
        way(Refused, Recall, Recalled, &[Evidence]),
        way(RolledBack, Recall, Recalled, &[Evidence]),
    ]
};

/// What a plan asks of the site before a version becomes active.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Duties {
    /// How many different people approve.
    pub approvals: u32,
    /// Hours beside the active version. Not asked of the first version in an empty slot: there is
    /// none to run beside.
    pub shadow_hours: f64,
    /// Studies beside the active version; likewise.
    pub shadow_studies: u32,
}

impl Duties {
    /// Nothing is asked.
    pub const NONE: Duties = Duties { approvals: 0, shadow_hours: 0.0, shadow_studies: 0 };
}

/// What is given with an event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Identifier of the record that proves it.
    pub evidence: String,
    /// Who approved this version, each person as the site names them.
    pub approvals: Vec<String>,
    /// Hours that it ran in shadow.
    pub shadow_hours: f64,
    /// Studies that it ran on in shadow.
    pub shadow_studies: u32,
}

/// How many different people are named; case, spaces, punctuation and marks that nobody sees make no other person,
/// and a name without a letter or digit is nobody.
pub fn people<S: AsRef<str>>(names: &[S]) -> usize {
    names
        .iter()
        .map(|name| person(name.as_ref()))
        .filter(|name| !name.is_empty())
        .collect::<BTreeSet<_>>()
        .len()
}

/// A name as people are told apart by.
pub fn person(name: &str) -> String {
    name.chars().filter(|letter| letter.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Why an event was refused. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such version in this slot.
    #[error("no version {0} in this slot")]
    Unknown(String),
    /// The version is already here.
    #[error("version {0} is already in this slot")]
    Known(String),
    /// The table has no such transition.
    #[error("{event} is not possible for a version that is {state}")]
    NotLegal {
        /// Where it stands.
        state: State,
        /// What was asked.
        event: Event,
    },
    /// A guard does not hold.
    #[error("{event} of a version that is {state}: {why}")]
    Guard {
        /// Where it stands.
        state: State,
        /// What was asked.
        event: Event,
        /// Which guard.
        guard: Guard,
        /// What is missing.
        why: String,
    },
    /// There is no version to go back to.
    #[error("no earlier version to go back to that is kept and not recalled; disable the model instead")]
    NothingToRestore,
    /// The event only happens as a part of another.
    #[error("{0} happens only together with another version's event")]
    NotByItself(Event),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Received => "received",
            State::Verified => "verified",
            State::PlannedIn => "planned in",
            State::Accepted => "accepted",
            State::Shadow => "in shadow",
            State::Active => "active",
            State::Retired => "retired",
            State::Refused => "refused",
            State::RolledBack => "rolled back",
            State::Recalled => "recalled",
        })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Event::Verify => "verification",
            Event::Admit => "admission by the plan",
            Event::Accept => "acceptance",
            Event::BeginShadow => "beginning the shadow run",
            Event::Activate => "activation",
            Event::Supersede => "being followed",
            Event::RollBack => "rollback",
            Event::Restore => "restoring",
            Event::Disable => "disabling",
            Event::Refuse => "refusal",
            Event::Recall => "recall",
        })
    }
}

/// One version of a slot's model.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Version {
    /// Where it stands.
    pub state: State,
    /// Whether its files are still here.
    pub kept: bool,
    /// Place among all activations of the slot, the latest highest; 0: never active.
    pub last_active: u64,
}

/// One step to be written: a version's transition with what proves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Digest of the version.
    pub version: String,
    /// By this event,
    pub event: Event,
    /// from this state,
    pub from: State,
    /// to this state.
    pub to: State,
    /// Identifier of the record that proves it.
    pub evidence: String,
}

/// The versions of one model, by the bundle's digest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Slot {
    versions: BTreeMap<String, Version>,
    activations: u64,
}

impl Slot {
    /// Puts a slot together from what was stored. Refused where two versions are active.
    pub fn restore(versions: BTreeMap<String, Version>) -> Option<Slot> {
        let active = versions.values().filter(|version| version.state == State::Active).count();
        let activations = versions.values().map(|version| version.last_active).max().unwrap_or(0);
        (active <= 1).then_some(Slot { versions, activations })
    }

    /// The versions, by digest.
    pub fn versions(&self) -> &BTreeMap<String, Version> {
        &self.versions
    }

    /// The active version's digest.
    pub fn active(&self) -> Option<&str> {
        self.versions
            .iter()
            .find(|(_, version)| version.state == State::Active)
            .map(|(digest, _)| digest.as_str())
    }

    /// A version whose bytes have come.
    pub fn receive(&mut self, digest: &str) -> Result<(), Refusal> {
        if self.versions.contains_key(digest) {
            return Err(Refusal::Known(digest.to_owned()));
        }
        let version = Version { state: State::Received, kept: true, last_active: 0 };
        self.versions.insert(digest.to_owned(), version);
        Ok(())
    }

    /// Where an automatic rollback goes: the version that was active last among the retired ones
    /// that are kept. Never one that was itself taken out of service.
    pub fn previous(&self) -> Option<&str> {
        self.versions
            .iter()
            .filter(|(_, version)| version.state == State::Retired && version.kept && version.last_active > 0)
            .max_by_key(|(_, version)| version.last_active)
            .map(|(digest, _)| digest.as_str())
    }

    /// The versions whose files the plan no longer asks to keep: all but the `keep` last active
    /// ones among those that are out of service, and all refused and recalled ones.
    pub fn disposable(&self, keep: usize) -> Vec<&str> {
        let kept = |states: &[State]| {
            let mut found: Vec<_> = self
                .versions
                .iter()
                .filter(|(_, version)| version.kept && states.contains(&version.state))
                .collect();
            found.sort_by_key(|(_, version)| std::cmp::Reverse(version.last_active));
            found.into_iter().map(|(digest, _)| digest.as_str())
        };
        let mut found: Vec<&str> = kept(&[State::Retired, State::RolledBack]).skip(keep).collect();
        found.extend(kept(&[State::Refused, State::Recalled]));
        found
    }

    /// Notes that a version's files are gone. Refused for one that may still run without asking.
    pub fn discard(&mut self, digest: &str) -> Result<(), Refusal> {
        let version = self.versions.get_mut(digest).ok_or_else(|| Refusal::Unknown(digest.to_owned()))?;
        match version.state {
            State::Retired | State::RolledBack | State::Refused | State::Recalled => {
                version.kept = false;
                Ok(())
            }
            state => Err(Refusal::Guard {
                state,
                event: Event::Refuse,
                guard: Guard::Kept,
                why: "its files are still needed".into(),
            }),
        }
    }

    /// The steps of an event: all of them are written together, or none. Changes nothing.
    pub fn decide(
        &self,
        digest: &str,
        event: Event,
        facts: &Facts,
        duties: &Duties,
    ) -> Result<Vec<Step>, Refusal> {
        let mut steps = Vec::new();
        match event {
            Event::Supersede => return Err(Refusal::NotByItself(event)),
            Event::Activate | Event::Restore => {
                // The old one first: at no point between the steps are two active.
                if let Some(active) = self.active()
                    && active != digest
                {
                    let active = active.to_owned();
                    steps.push(self.step(&active, Event::Supersede, facts, duties)?);
                }
                steps.push(self.step(digest, event, facts, duties)?);
            }
            Event::RollBack => {
                steps.push(self.step(digest, event, facts, duties)?);
                let previous = self.previous().ok_or(Refusal::NothingToRestore)?.to_owned();
                steps.push(self.step(&previous, Event::Restore, facts, duties)?);
            }
            _ => steps.push(self.step(digest, event, facts, duties)?),
        }
        Ok(steps)
    }

    /// Takes steps that [`decide`](Self::decide) gave over this very state, after they were written.
    pub fn commit(&mut self, steps: &[Step]) {
        for step in steps {
            if let Some(version) = self.versions.get_mut(&step.version) {
                version.state = step.to;
                if step.to == State::Active {
                    self.activations += 1;
                    version.last_active = self.activations;
                }
            }
        }
    }

    fn step(&self, digest: &str, event: Event, facts: &Facts, duties: &Duties) -> Result<Step, Refusal> {
        let version = self.versions.get(digest).ok_or_else(|| Refusal::Unknown(digest.to_owned()))?;
        let state = version.state;
        let way = TRANSITIONS
            .iter()
            .find(|way| way.from == state && way.event == event)
            .ok_or(Refusal::NotLegal { state, event })?;
        for guard in way.guards {
            if let Some(why) = self.missing(*guard, version, facts, duties) {
                return Err(Refusal::Guard { state, event, guard: *guard, why });
            }
        }
        Ok(Step {
            version: digest.to_owned(),
            event,
            from: state,
            to: way.to,
            evidence: facts.evidence.clone(),
        })
    }

    fn missing(&self, guard: Guard, version: &Version, facts: &Facts, duties: &Duties) -> Option<String> {
        let people = people(&facts.approvals);
        match guard {
            Guard::Evidence if facts.evidence.trim().is_empty() => Some("no record proves it".into()),
            Guard::Approvals if people < duties.approvals as usize => Some(format!(
                "{people} people approved, the plan asks for {} different ones",
                duties.approvals
            )),
            Guard::ShadowDone if self.active().is_some() && !shadow_done(version, facts, duties) => {
                Some(format!(
                    "{} hours and {} studies in shadow, the plan asks for {} and {}",
                    facts.shadow_hours, facts.shadow_studies, duties.shadow_hours, duties.shadow_studies
                ))
            }
            Guard::Kept if !version.kept => Some("its files are gone".into()),
            Guard::OnceActive if version.last_active == 0 => Some("it was never active".into()),
            _ => None,
        }
    }
}

/// Whether a version has done its part in shadow. Hours that are no number are none.
fn shadow_done(version: &Version, facts: &Facts, duties: &Duties) -> bool {
    let asked = duties.shadow_hours > 0.0 || duties.shadow_studies > 0;
    facts.shadow_hours >= duties.shadow_hours
        && facts.shadow_studies >= duties.shadow_studies
        && (!asked || version.state == State::Shadow)
}
