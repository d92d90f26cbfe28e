//! What no sequence of events can do to a slot: every reachable state of a slot with two
//! versions is visited, and long random sequences are played with four.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::collections::{BTreeMap, BTreeSet};

use lightbox_models::life_cycle::{Duties, Event, Facts, Guard, Refusal, Slot, State, TRANSITIONS, people};
use proptest::prelude::*;

const DUTIES: Duties = Duties { approvals: 2, shadow_hours: 24.0, shadow_studies: 10 };

fn sound() -> Facts {
    Facts {
        evidence: "record-1".into(),
        approvals: vec!["ada".into(), "grace".into()],
        shadow_hours: 24.0,
        shadow_studies: 10,
    }
}

/// Facts with one flaw each, and the guard that must see it.
fn flawed() -> Vec<(Facts, Guard)> {
    vec![
        (Facts { evidence: " ".into(), ..sound() }, Guard::Evidence),
        (Facts { approvals: vec!["ada".into(), " Ada ".into()], ..sound() }, Guard::Approvals),
        (Facts { shadow_hours: 23.9, ..sound() }, Guard::ShadowDone),
        (Facts { shadow_hours: f64::NAN, ..sound() }, Guard::ShadowDone),
        (Facts { shadow_studies: 9, ..sound() }, Guard::ShadowDone),
    ]
}

/// What each version has been through, kept apart from the slot.
type Past = BTreeMap<String, BTreeSet<Event>>;

/// Plays one event; checks everything that must hold whatever came before.
fn play(slot: &mut Slot, past: &mut Past, digest: &str, event: Event, facts: &Facts) -> Result<(), Refusal> {
    let before = slot.clone();
    let steps = slot.decide(digest, event, facts, &DUTIES).inspect_err(|_| assert_eq!(*slot, before))?;
    for step in &steps {
        past.entry(step.version.clone()).or_default().insert(step.event);
        let from = before.versions()[&step.version].clone();
        assert_eq!(from.state, step.from);
        assert_ne!(from.state, State::Recalled, "recalled is final");
        if step.event == Event::Restore {
            assert!(from.kept && from.last_active > 0, "rollback to a version that is gone or never ran");
        }
        if step.event == Event::Activate {
            assert!(people(&facts.approvals) >= 2);
        }
        if step.to == State::Active {
            let been = &past[&step.version];
            for needed in [Event::Verify, Event::Admit, Event::Accept] {
                assert!(been.contains(&needed), "active without {needed}: {been:?}");
            }
        }
    }
    // Between the steps, too, at most one is active.
    for count in 0..=steps.len() {
        let mut between = before.clone();
        between.commit(&steps[..count]);
        let active = between.versions().values().filter(|version| version.state == State::Active).count();
        assert!(active <= 1);
    }
    slot.commit(&steps);
    Ok(())
}

#[test]
fn no_reachable_state_of_two_versions_breaks_a_rule() {
    let mut first = Slot::default();
    first.receive("a").unwrap();
    first.receive("b").unwrap();
    // Activations are counted without end; their order is all that the future depends on.
    let key = |slot: &Slot, past: &Past| {
        let mut active: Vec<u64> = slot.versions().values().map(|version| version.last_active).collect();
        active.sort_unstable();
        let versions: Vec<_> = slot
            .versions()
            .values()
            .map(|version| {
                (
                    version.state,
                    version.kept,
                    active.binary_search(&version.last_active).unwrap_or(0),
                    version.last_active > 0,
                )
            })
            .collect();
        (versions, past.clone())
    };
    let mut seen = BTreeSet::new();
    let mut open = vec![(first, Past::new())];
    let mut states = BTreeSet::new();
    while let Some((slot, past)) = open.pop() {
        if !seen.insert(key(&slot, &past)) {
            continue;
        }
        states.extend(slot.versions().values().map(|version| version.state));
        for digest in ["a", "b"] {
            for event in Event::ALL {
                for facts in std::iter::once(sound()).chain(flawed().into_iter().map(|(facts, _)| facts)) {
                    let (mut slot, mut past) = (slot.clone(), past.clone());
                    if play(&mut slot, &mut past, digest, event, &facts).is_ok() {
                        open.push((slot, past));
                    }
                }
            }
            let mut slot = slot.clone();
            if slot.discard(digest).is_ok() {
                open.push((slot, past.clone()));
            }
        }
    }
    assert_eq!(states, State::ALL.into(), "every state can be reached");
    assert!(seen.len() > 500, "{} states seen", seen.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn long_random_sequences_keep_every_rule(
        moves in proptest::collection::vec((0_usize..4, 0_usize..Event::ALL.len(), 0_usize..8), 1..150),
    ) {
        let mut slot = Slot::default();
        let mut past = Past::new();
        let digests = ["a", "b", "c", "d"];
        for digest in digests {
            slot.receive(digest).unwrap();
        }
        for (who, what, facts) in moves {
            let facts = flawed().get(facts).map_or_else(sound, |(facts, _)| facts.clone());
            let _refused = play(&mut slot, &mut past, digests[who], Event::ALL[what], &facts);
        }
    }
}

/// A slot in which `a` is active and `b` is in this state on its way there.
fn slot_with(way: &[Event]) -> Slot {
    let mut slot = Slot::default();
    let mut past = Past::new();
    for (digest, way) in
        [("a", [Event::Verify, Event::Admit, Event::Accept, Event::Activate].as_slice()), ("b", way)]
    {
        slot.receive(digest).unwrap();
        for event in way {
            play(&mut slot, &mut past, digest, *event, &sound()).unwrap();
        }
    }
    slot
}

const TO_SHADOW: [Event; 4] = [Event::Verify, Event::Admit, Event::Accept, Event::BeginShadow];

#[test]
fn each_missing_fact_refuses_activation_by_its_guard() {
    let slot = slot_with(&TO_SHADOW);
    assert!(slot.decide("b", Event::Activate, &sound(), &DUTIES).is_ok());
    for (facts, expected) in flawed() {
        match slot.decide("b", Event::Activate, &facts, &DUTIES) {
            Err(Refusal::Guard { guard, .. }) => assert_eq!(guard, expected),
            other => panic!("{expected:?}: {other:?}"),
        }
    }
    // Hours claimed for a version that never was in shadow do not count.
    let slot = slot_with(&TO_SHADOW[..3]);
    let refused = slot.decide("b", Event::Activate, &sound(), &DUTIES);
    assert!(matches!(refused, Err(Refusal::Guard { guard: Guard::ShadowDone, .. })), "{refused:?}");
    let hours_only = Duties { shadow_studies: 0, ..DUTIES };
    let studies_only = Duties { shadow_hours: 0.0, ..DUTIES };
    for duties in [hours_only, studies_only] {
        assert!(slot.decide("b", Event::Activate, &sound(), &duties).is_err(), "{duties:?}");
    }
    assert!(slot.decide("b", Event::Activate, &sound(), &Duties { approvals: 2, ..Duties::NONE }).is_ok());
}

#[test]
fn activation_retires_and_rollback_restores_in_one_step() {
    let mut slot = slot_with(&TO_SHADOW);
    slot.commit(&slot.decide("b", Event::Activate, &sound(), &DUTIES).unwrap());
    assert_eq!(slot.active(), Some("b"));
    assert_eq!(slot.versions()["a"].state, State::Retired);

    // By a monitor: nobody approves.
    let alarm = Facts { evidence: "reading-7".into(), ..Facts::default() };
    let steps = slot.decide("b", Event::RollBack, &alarm, &DUTIES).unwrap();
    assert_eq!(steps.len(), 2);
    slot.commit(&steps);
    assert_eq!(slot.active(), Some("a"));
    assert_eq!(slot.versions()["b"].state, State::RolledBack);
    // The one taken out of service comes back by people only, and is no target of a rollback.
    assert_eq!(slot.previous(), None);
    assert_eq!(slot.decide("a", Event::RollBack, &alarm, &DUTIES), Err(Refusal::NothingToRestore));
    assert!(slot.decide("b", Event::Restore, &alarm, &DUTIES).is_err());
    assert!(slot.decide("b", Event::Restore, &sound(), &DUTIES).is_ok());
}

#[test]
fn what_is_discarded_or_recalled_never_comes_back() {
    let mut slot = slot_with(&TO_SHADOW);
    assert!(slot.discard("a").is_err(), "the active version's files are needed");
    slot.commit(&slot.decide("b", Event::Activate, &sound(), &DUTIES).unwrap());
    assert_eq!(slot.disposable(1), Vec::<&str>::new());
    assert_eq!(slot.disposable(0), ["a"]);
    let mut gone = slot.clone();
    gone.discard("a").unwrap();
    assert_eq!(gone.previous(), None);
    assert!(gone.decide("a", Event::Restore, &sound(), &DUTIES).is_err());

    slot.commit(&slot.decide("a", Event::Recall, &sound(), &DUTIES).unwrap());
    for event in Event::ALL {
        assert!(slot.decide("a", event, &sound(), &DUTIES).is_err(), "{event}");
    }
    assert_eq!(slot.previous(), None);
}

#[test]
fn the_table_names_each_way_once_and_none_out_of_recalled() {
    let mut ways = BTreeSet::new();
    for way in TRANSITIONS {
        assert!(ways.insert((way.from, way.event)), "{way:?} is listed twice");
        assert_ne!(way.from, State::Recalled);
    }
    for state in State::ALL {
        let recall = TRANSITIONS.iter().any(|way| way.from == state && way.event == Event::Recall);
        assert_eq!(recall, state != State::Recalled, "{state}");
    }
}

#[test]
fn a_stored_slot_with_two_active_versions_is_refused() {
    let slot = slot_with(&[]);
    let mut versions = slot.versions().clone();
    assert_eq!(Slot::restore(versions.clone()), Some(slot));
    versions.get_mut("b").unwrap().state = State::Active;
    assert_eq!(Slot::restore(versions), None);
}

#[test]
fn one_name_in_two_spellings_is_one_person() {
    let one = [
        ["A. Meyer", "a.meyer"],
        ["A. Meyer", "A.\u{200b} Mey\u{ad}er"],
        // As one letter, and as a letter with a mark.
        ["J\u{fc}rgen", "Ju\u{308}rgen"],
        // Wide letters, and letters without a shape.
        ["Meyer", "\u{ff2d}\u{ff45}\u{ff59}\u{ff45}\u{ff52}"],
        ["A. Meyer", "A. Meyer\u{3164}"],
        ["A. Meyer", "A.\u{115f}\u{1160}\u{ffa0} Meyer"],
        // A name of nothing but such letters is nobody.
        ["A. Meyer", "\u{3164} \u{200b}"],
    ];
    for names in one {
        assert_eq!(people(&names), 1, "{names:?}");
    }
    for names in
        [["A. Meyer", "B. Meyer"], ["M\u{fc}ller", "Muller"], ["\u{5c71}\u{7530}", "\u{5c71}\u{672c}"]]
    {
        assert_eq!(people(&names), 2, "{names:?}");
    }
}
