use super::*;
use crate::inspect::facts::{Boot, Entry, Facts, System};
use crate::inspect::{AuditHead, Daemon, Device};

/// A mount.
fn mount(at: &str, kind: &str, options: &[&str], mapped: Option<&str>) -> Mount {
    Mount {
        at: at.into(),
        source: "/dev/x".into(),
        kind: kind.into(),
        options: options.iter().map(|one| (*one).to_owned()).collect(),
        mapped: mapped.map(str::to_owned),
    }
}

fn unit(users: &[u32]) -> Unit {
    Unit {
        processes: 1,
        users: users.into(),
        programs: vec![Some("/usr/bin/lightbox".into())],
        on_root: Some(true),
        no_new_privileges: true,
        seccomp: true,
        capabilities: "0000000000000000".into(),
        bounding: "0000000000000000".into(),
        own_namespaces: Some(vec!["mnt".into()]),
    }
}

fn listener(protocol: &str, address: &str, port: u16, unit: Option<&str>) -> Listener {
    let address = address.parse().expect("an address");
    Listener { protocol: protocol.into(), address, port, unit: unit.map(str::to_owned) }
}

/// A report of a box on which all is well.
pub(in crate::inspect) fn sound() -> Report {
    let facts = Facts {
        collected_by: "the image's own unit".into(),
        collected_at: "2026-01-02T03:04:05Z".into(),
        system: System {
            pretty_name: "Lightbox 1.0.0".into(),
            version: Some("1.0.0".into()),
            flavour: "production".into(),
            command_line: "roothash=abcd quiet".into(),
            lockdown: Some("integrity".into()),
            taint: Some(0),
            ..System::default()
        },
        boot: Boot {
            secure_boot: Some(true),
            setup_mode: Some(false),
            entry: Some("lightbox_1.0.0".into()),
            entries: vec![Entry {
                name: "lightbox_1.0.0".into(),
                left: Some(TRIES),
                failed: 0,
                root_hash: "abcd".into(),
            }],
            floor: Some(1),
        },
        registers: BTreeMap::from([(7, "12ab".into()), (11, "34cd".into())]),
        listeners: vec![
            listener("tcp", "0.0.0.0", 2762, Some(DAEMON)),
            listener("tcp", "127.0.0.53", 53, Some("systemd-resolved.service")),
            listener("udp", "10.0.0.2", 68, Some("systemd-networkd.service")),
        ],
        mounts: vec![
            mount("/", "erofs", &["ro"], Some("CRYPT-VERITY")),
            mount("/var", "ext4", &["rw", "nosuid", "nodev", "noexec"], Some("CRYPT-LUKS2")),
            mount("/run", "tmpfs", &["rw", "nosuid", "nodev"], None),
        ],
        units: BTreeMap::from([
            ("init.scope".into(), Unit { no_new_privileges: false, seccomp: false, ..unit(&[0]) }),
            (DAEMON.into(), unit(&[700])),
        ]),
        ..Facts::default()
    };
    let device = Device { name: "BOX".into(), fingerprint: "00".into(), udi_di: None };
    let daemon = Daemon {
        version: "1.0.0".into(),
        started_at: "2026-01-02T03:00:00Z".into(),
        site_sha256: "ee".into(),
        listens: BTreeMap::from([("dicom".into(), "0.0.0.0:2762".into())]),
        models: BTreeMap::new(),
        audit: None,
    };
    Report::new(None, "2026-01-02T03:04:35Z".into(), device, daemon, facts)
}

fn verdict(report: &Report, wanted: &Wanted, name: &str) -> (Verdict, String) {
    let check = judge(report, wanted).into_iter().find(|check| check.name == name).expect("a check");
    (check.verdict, check.note)
}

#[test]
fn a_sound_box_is_called_good() {
    let wanted = Wanted {
        root_hash: Some("ABCD".into()),
        registers: BTreeMap::from([(7, "12AB".into()), (11, "34cd".into())]),
    };
    for check in judge(&sound(), &wanted) {
        assert_eq!(check.verdict, Verdict::Good, "{}: {}", check.name, check.note);
    }
}

#[test]
fn each_thing_that_is_wrong_is_called_bad_by_its_own_check_alone() {
    type Spoil = fn(&mut Report);
    let cases: [(&str, &str, Spoil); 23] = [
        ("collected", "before", |r| r.facts.collected_at = "2026-01-02T02:04:05Z".into()),
        ("collected", "times", |r| r.facts.collected_at = String::new()),
        ("image", "not the product", |r| r.facts.system.flavour = "debug".into()),
        ("secure boot", "off", |r| r.facts.boot.secure_boot = Some(false)),
        ("secure boot", "setup mode", |r| r.facts.boot.setup_mode = Some(true)),
        ("root file system", "writing", |r| r.facts.mounts[0].options = vec!["rw".into()]),
        ("root file system", "dm-verity", |r| r.facts.mounts[0].mapped = None),
        ("root file system", "no root hash", |r| r.facts.system.command_line = "quiet".into()),
        ("data", "not encrypted", |r| r.facts.mounts[1].mapped = None),
        ("kernel", "not locked down", |r| r.facts.system.lockdown = Some("none".into())),
        ("kernel", "tainted", |r| r.facts.system.taint = Some(1)),
        ("measured state", "register 7", |r| drop(r.facts.registers.insert(7, "0000".into()))),
        ("measured state", "register 11", |r| drop(r.facts.registers.remove(&11))),
        ("slots", "not passed", |r| r.facts.boot.entries[0].left = Some(2)),
        ("slots", "root hash", |r| r.facts.boot.entries[0].root_hash = "ef".into()),
        ("ports", "sshd.service", |r| {
            r.facts.listeners.push(listener("tcp", "0.0.0.0", 22, Some("sshd.service")));
        }),
        ("ports", "tcp", |r| r.facts.listeners.push(listener("tcp", "10.0.0.2", 9, Some(DAEMON)))),
        ("programs", "/tmp/x", |r| {
            let unit = r.facts.units.get_mut(DAEMON).expect("there");
            (unit.on_root, unit.programs) = (Some(false), vec![Some("/tmp/x".into())]);
        }),
        ("sandboxes", "shell.service", |r| {
            let open = Unit { no_new_privileges: false, ..unit(&[0]) };
            r.facts.units.insert("shell.service".into(), open);
        }),
        ("sandboxes", "capabilities", |r| {
            r.facts.units.get_mut(DAEMON).expect("there").bounding = "0000000000000400".into();
        }),
        ("sandboxes", "as root", |r| r.facts.units.get_mut(DAEMON).expect("there").users.push(0)),
        ("sandboxes", "own mounts", |r| {
            r.facts.units.get_mut(DAEMON).expect("there").own_namespaces = Some(Vec::new());
        }),
        ("mounts", "/run", |r| r.facts.mounts[2].options = vec!["rw".into()]),
    ];
    for (name, says, spoil) in cases {
        let mut report = sound();
        spoil(&mut report);
        for check in judge(&report, &Wanted::default()) {
            let expected = if check.name == name { Verdict::Bad } else { Verdict::Good };
            assert_eq!(check.verdict, expected, "{name}, {says}: {} {}", check.name, check.note);
        }
        let note = verdict(&report, &Wanted::default(), name).1;
        assert!(note.contains(says), "{name}: {note} does not say {says}");
    }
}

#[test]
fn another_image_and_another_measurement_than_wanted_are_bad() {
    let wanted = Wanted {
        root_hash: Some("ef".into()),
        registers: BTreeMap::from([(11, "0".into()), (4, "1".into())]),
    };
    assert_eq!(verdict(&sound(), &wanted, "root file system").0, Verdict::Bad);
    let (verdict, note) = verdict(&sound(), &wanted, "measured state");
    assert_eq!(verdict, Verdict::Bad);
    assert!(note.contains("register 11 holds 34cd, not 0") && note.contains("register 4 was not seen"));
}

#[test]
fn what_was_not_seen_is_never_called_good() {
    let mut report = sound();
    report.facts = Facts {
        collected_at: report.facts.collected_at,
        collected_by: "the daemon itself, which sees little".into(),
        ..Facts::default()
    };
    let open = judge(&report, &Wanted::default());
    let seen: Vec<_> = open.iter().filter(|check| check.verdict != Verdict::Unknown).collect();
    assert_eq!(seen.iter().map(|check| check.name).collect::<Vec<_>>(), Vec::<&str>::new(), "{seen:?}");
}

#[test]
fn what_was_seen_in_part_is_not_called_good() {
    let mut report = sound();
    report.facts.unread_processes = 1;
    report.facts.unseen = vec!["/proc/self/net/tcp6: permission denied".into()];
    for check in judge(&report, &Wanted::default()) {
        let partial = ["ports", "programs", "sandboxes"].contains(&check.name);
        let expected = if partial { Verdict::Unknown } else { Verdict::Good };
        assert_eq!(check.verdict, expected, "{}: {}", check.name, check.note);
    }
    // What is wrong in the part that was seen stays wrong.
    report.facts.listeners.push(listener("tcp", "0.0.0.0", 22, Some("sshd.service")));
    assert_eq!(verdict(&report, &Wanted::default(), "ports").0, Verdict::Bad);
}

#[test]
fn what_changed_between_two_reports_is_named() {
    let before = sound();
    assert_eq!(changes(&before, &before), Vec::<String>::new());
    let mut after = sound();
    after.facts.registers.insert(11, "ff00".into());
    after.daemon.models.insert("phantom".into(), "aa".into());
    after.facts.listeners.push(listener("tcp", "0.0.0.0", 22, Some("sshd.service")));
    after.facts.units.insert("sshd.service".into(), unit(&[0]));
    after.signed_at = "2026-02-02T03:04:35Z".into();
    let said = changes(&before, &after);
    let expected = [
        "register 11: 34cd -> ff00",
        "model phantom: none -> aa",
        "listens now: sshd.service tcp 0.0.0.0 port 22",
        "runs now: sshd.service",
    ];
    assert_eq!(said, expected);
}

#[test]
fn no_change_of_what_was_seen_goes_unsaid() {
    type Change = fn(&mut Report);
    let cases: [(&str, Change); 11] = [
        ("system.taint: 0 -> 4096", |r| r.facts.system.taint = Some(4096)),
        ("system.lockdown: \"integrity\" -> \"none\"", |r| r.facts.system.lockdown = Some("none".into())),
        ("system.flavour: \"production\" -> \"debug\"", |r| r.facts.system.flavour = "debug".into()),
        ("boot.setup_mode: false -> true", |r| r.facts.boot.setup_mode = Some(true)),
        ("now: modules: \"rootkit\"", |r| r.facts.modules.push("rootkit".into())),
        ("now: mounts: {\"at\":\"/mnt\"", |r| r.facts.mounts.push(mount("/mnt", "ext4", &["rw"], None))),
        ("units.lightbox.service.users: [700] -> [0]", |r| {
            r.facts.units.get_mut(DAEMON).expect("there").users = vec![0];
        }),
        ("units.lightbox.service.seccomp: true -> false", |r| {
            r.facts.units.get_mut(DAEMON).expect("there").seccomp = false;
        }),
        ("collected_by", |r| r.facts.collected_by = "somebody".into()),
        ("the audit log went back", |r| r.daemon.audit = Some(AuditHead { sequence: 1, hash: "a".into() })),
        ("is another one", |r| r.daemon.audit = Some(AuditHead { sequence: 9, hash: "b".into() })),
    ];
    for (says, change) in cases {
        let mut before = sound();
        before.daemon.audit = Some(AuditHead { sequence: 9, hash: "a".into() });
        before.facts.system.lockdown = Some("integrity".into());
        let mut after = before.clone();
        change(&mut after);
        let said = changes(&before, &after);
        assert!(said.iter().any(|line| line.contains(says)), "{says}: {said:?}");
    }
}
