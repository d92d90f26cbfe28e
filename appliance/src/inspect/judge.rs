//! What in a report is as it should be. Pure: the administration page shows it, and whoever verifies a report elsewhere
//! comes to the same.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Report;
use super::facts::{Facts, Listener, Mount, Unit};
use lightbox_bootstrap::boot_entry::TRIES;

/// Facts that are older than this when the report is signed, in seconds, are not of the machine as it is.
const FACTS_AGE_MAX: i64 = 300;
/// The daemon's unit.
const DAEMON: &str = "lightbox.service";
/// Sockets of the system itself that hear from outside: DHCP clients.
const SYSTEM_PORTS: [(&str, u16, &str); 2] =
    [("udp", 68, "systemd-networkd.service"), ("udp", 546, "systemd-networkd.service")];
/// File systems that hold what somebody has written.
const WRITABLE: [&str; 7] = ["ext4", "ext2", "xfs", "btrfs", "vfat", "tmpfs", "overlay"];

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Not as it should be.
    Bad,
    /// It could not be seen.
    Unknown,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was seen, and where something is wrong, what to do.
    pub note: String,
}

/// What whoever asks knows from elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The root hash of the image that should run (its signed manifest has it).
    pub root_hash: Option<String>,
    /// Values of the TPM's registers, as the acceptance record has them.
    pub registers: BTreeMap<u8, String>,
}

/// Judges a report.
pub fn judge(report: &Report, wanted: &Wanted) -> Vec<Check> {
    let facts = &report.facts;
    let checks = [
        ("collected", collected(report)),
        ("image", image(report)),
        ("secure boot", secure_boot(facts.boot.secure_boot, facts.boot.setup_mode)),
        ("root file system", root(report, wanted)),
        ("data", data(&facts.mounts)),
        ("kernel", kernel(facts.system.lockdown.as_deref(), facts.system.taint)),
        ("measured state", measured(&facts.registers, wanted)),
        ("slots", slots(report)),
        ("rollback floor", floor(report)),
        ("ports", ports(report)),
        ("programs", programs(&facts.units, facts.unread_processes)),
        ("sandboxes", sandboxes(&facts.units, facts.unread_processes)),
        ("mounts", mounts(&facts.mounts)),
    ];
    checks.into_iter().map(|(name, (verdict, note))| Check { name, verdict, note }).collect()
}

type Judged = (Verdict, String);

fn good(note: impl Into<String>) -> Judged {
    (Verdict::Good, note.into())
}

fn bad(note: impl Into<String>) -> Judged {
    (Verdict::Bad, note.into())
}

fn unknown(note: impl Into<String>) -> Judged {
    (Verdict::Unknown, note.into())
}

/// Bad, with what is wrong; good, with the note, where nothing is.
fn none_of(wrong: Vec<String>, fine: impl Into<String>) -> Judged {
    if wrong.is_empty() { good(fine) } else { bad(wrong.join("; ")) }
}

fn collected(report: &Report) -> Judged {
    let at = |text: &str| OffsetDateTime::parse(text, &Rfc3339).ok();
    let age = at(&report.signed_at).zip(at(&report.facts.collected_at));
    let Some((signed, collected)) = age else { return bad("the report has no usable times") };
    let seconds = (signed - collected).whole_seconds();
    match report.facts.collected_by.as_str() {
        by if by.starts_with("the daemon itself") => unknown(format!("by {by}")),
        by if !(-1..=FACTS_AGE_MAX).contains(&seconds) => bad(format!(
            "by {by}, {seconds} s before the report was signed; remedy: see why lightbox-inspect.service does not run"
        )),
        by => good(format!("by {by}, {} s before the report was signed", seconds.max(0))),
    }
}

fn image(report: &Report) -> Judged {
    let system = &report.facts.system;
    match (&system.version, system.flavour.as_str()) {
        (None, _) => unknown(format!("{} is no firmware image of ours", or_none(&system.pretty_name))),
        (Some(_), "production") => good(&system.pretty_name),
        (Some(_), flavour) => bad(format!("{}: a {flavour} image is not the product", system.pretty_name)),
    }
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "the system" } else { text }
}

fn secure_boot(on: Option<bool>, setup: Option<bool>) -> Judged {
    match (on, setup) {
        (Some(true), Some(false)) => good("on"),
        (Some(true), Some(true)) => {
            bad("on, but in setup mode: anybody could bring keys; remedy: enrol the platform key")
        }
        (Some(false), _) => {
            bad("off: anything could have been started; remedy: switch it on in the firmware's setup")
        }
        (Some(true), None) | (None, _) => unknown("the firmware does not say"),
    }
}

fn root_hash(command_line: &str) -> Option<&str> {
    command_line.split(' ').find_map(|word| word.strip_prefix("roothash="))
}

fn root(report: &Report, wanted: &Wanted) -> Judged {
    let Some(root) = report.facts.mounts.iter().find(|mount| mount.at == "/") else {
        return unknown("not seen");
    };
    if !root.has("ro") {
        return bad(format!("{} is mounted for writing", root.kind));
    }
    if root.mapped.as_deref() != Some("CRYPT-VERITY") {
        return bad(format!("{} from {} is not verified by dm-verity", root.kind, root.source));
    }
    let Some(hash) = root_hash(&report.facts.system.command_line) else {
        return bad("the kernel was told no root hash");
    };
    match &wanted.root_hash {
        Some(other) if !other.eq_ignore_ascii_case(hash) => {
            bad(format!("root hash {hash}, another than the image's, {other}"))
        }
        Some(_) => good(format!("read-only, under dm-verity, root hash {hash}, which is the image's")),
        None => good(format!("read-only, under dm-verity, root hash {hash}")),
    }
}

fn data(mounts: &[Mount]) -> Judged {
    match mounts.iter().rfind(|mount| mount.at == "/var") {
        None => unknown("no data partition at /var"),
        Some(data) if data.mapped.as_deref() == Some("CRYPT-LUKS2") => good("encrypted (LUKS2)"),
        Some(data) => bad(format!("{} from {} is not encrypted", data.kind, data.source)),
    }
}

fn kernel(lockdown: Option<&str>, taint: Option<u64>) -> Judged {
    let (Some(lockdown), Some(taint)) = (lockdown, taint) else {
        return unknown(format!("lockdown {}, taint {taint:?}", lockdown.unwrap_or("not seen")));
    };
    let mut wrong = Vec::new();
    if lockdown == "none" {
        wrong.push("not locked down: root could change it".to_owned());
    }
    if taint != 0 {
        wrong.push(format!("tainted ({taint})"));
    }
    none_of(wrong, format!("locked down ({lockdown}), not tainted"))
}

fn measured(registers: &BTreeMap<u8, String>, wanted: &Wanted) -> Judged {
    if registers.is_empty() {
        return unknown("no TPM");
    }
    // What no firmware has extended holds zeros; what no start has reached, ones.
    let idle =
        |value: &str| value.bytes().all(|digit| digit == b'0') || value.bytes().all(|digit| digit == b'f');
    let mut wrong = Vec::new();
    for number in [7, 11] {
        match registers.get(&number) {
            Some(value) if !idle(value) => {}
            _ => wrong.push(format!("register {number} holds no measurement")),
        }
    }
    for (number, value) in &wanted.registers {
        match registers.get(number) {
            Some(seen) if seen.eq_ignore_ascii_case(value) => {}
            Some(seen) => wrong.push(format!("register {number} holds {seen}, not {value}")),
            None => wrong.push(format!("register {number} was not seen")),
        }
    }
    let shown = |number: u8| registers.get(&number).map_or("", String::as_str);
    let compared = match wanted.registers.len() {
        0 => String::new(),
        count => format!(", {count} as wanted"),
    };
    none_of(wrong, format!("register 7 {}, register 11 {}{compared}", shown(7), shown(11)))
}

fn slots(report: &Report) -> Judged {
    let boot = &report.facts.boot;
    let Some(running) = &boot.entry else { return unknown("the boot loader names no entry") };
    let Some(entry) = boot.entries.iter().find(|one| one.name.eq_ignore_ascii_case(running)) else {
        return unknown(format!("{running} runs; the EFI system partition was not seen"));
    };
    let others: Vec<String> = boot
        .entries
        .iter()
        .filter(|one| one.name != entry.name)
        .map(|one| format!("{} ({} tries left)", one.name, one.left.unwrap_or(0)))
        .collect();
    let others = if others.is_empty() { "nothing to fall back to".to_owned() } else { others.join(", ") };
    if root_hash(&report.facts.system.command_line).is_some_and(|hash| hash != entry.root_hash) {
        return bad(format!("{running} on the EFI system partition has another root hash than what runs"));
    }
    match entry.left {
        Some(TRIES) => good(format!("{running} runs and has passed its health gate; beside it {others}")),
        _ => bad(format!(
            "{running} runs and has not passed its health gate ({} starts not called good); beside it {others}",
            entry.failed
        )),
    }
}

fn floor(report: &Report) -> Judged {
    match report.facts.boot.floor {
        Some(floor) => good(format!("nothing below {floor} starts here")),
        None => unknown("not seen"),
    }
}

fn ports(report: &Report) -> Judged {
    let facts = &report.facts;
    let named: BTreeSet<u16> = report
        .daemon
        .listens
        .values()
        .filter_map(|address| address.rsplit_once(':')?.1.parse().ok())
        .collect();
    let outside: Vec<&Listener> = facts.listeners.iter().filter(|one| !one.address.is_loopback()).collect();
    if facts.listeners.is_empty() {
        // The page over which this was asked for has at least one.
        return unknown("no listening socket was seen");
    }
    // Without one of the kernel's tables, what is in the others is not all there is.
    let table = |line: &&String| line.contains("/net/tcp") || line.contains("/net/udp");
    let unseen = facts.unseen.iter().find(table);
    let mut wrong = Vec::new();
    let mut unowned = 0;
    for one in &outside {
        let Listener { protocol, port, .. } = one;
        match one.unit.as_deref() {
            None => unowned += 1,
            Some(DAEMON) if protocol == "tcp" && named.contains(port) => {}
            Some(unit) if SYSTEM_PORTS.contains(&(protocol.as_str(), *port, unit)) => {}
            Some(unit) => wrong.push(format!("{unit} listens on {protocol} {}:{port}", one.address)),
        }
    }
    if let Some(unseen) = unseen.filter(|_| wrong.is_empty()) {
        return unknown(format!("not all sockets were seen: {unseen}"));
    }
    if wrong.is_empty() && unowned > 0 {
        return unknown(format!("whose {unowned} of {} listening sockets are was not seen", outside.len()));
    }
    none_of(wrong, format!("{} open to the network, all of them the daemon's own or DHCP", outside.len()))
}

fn programs(units: &BTreeMap<String, Unit>, unread: u32) -> Judged {
    if units.is_empty() {
        return unknown("no processes seen");
    }
    let wrong: Vec<String> = units
        .iter()
        .filter(|(_, unit)| unit.on_root == Some(false))
        .map(|(name, unit)| {
            let programs: Vec<&str> = unit.programs.iter().flatten().map(String::as_str).collect();
            format!("{name} runs {}, not all of it from the root file system", programs.join(", "))
        })
        .collect();
    if wrong.is_empty() && unread > 0 {
        return unknown(format!("{unread} processes could not be read"));
    }
    let hidden = units.values().filter(|unit| unit.on_root.is_none()).count();
    if wrong.is_empty() && hidden > 0 {
        return unknown(format!("those of {hidden} of {} units were not seen", units.len()));
    }
    none_of(wrong, format!("those of all {} units lie on the root file system", units.len()))
}

/// Parts of the system that hold privileges by their task.
fn is_system(name: &str) -> bool {
    name == "init.scope" || (name.starts_with("systemd-") && name.ends_with(".service"))
}

fn sandboxes(units: &BTreeMap<String, Unit>, unread: u32) -> Judged {
    if !units.contains_key(DAEMON) {
        return unknown(format!("{DAEMON} was not seen"));
    }
    let (mut wrong, mut unseen) = (Vec::new(), false);
    for (name, unit) in units.iter().filter(|(name, _)| !is_system(name)) {
        let mut lacks = Vec::new();
        if !unit.no_new_privileges {
            lacks.push("may gain privileges");
        }
        if !unit.seccomp {
            lacks.push("may make any system call");
        }
        if name == DAEMON {
            if unit.users.contains(&0) {
                lacks.push("runs as root");
            }
            if unit.capabilities.bytes().chain(unit.bounding.bytes()).any(|digit| digit != b'0') {
                lacks.push("has capabilities");
            }
            match &unit.own_namespaces {
                Some(own) if !own.iter().any(|one| one == "mnt") => {
                    lacks.push("sees the system's own mounts")
                }
                Some(_) => {}
                None => unseen = true,
            }
        }
        if !lacks.is_empty() {
            wrong.push(format!("{name} {}", lacks.join(", ")));
        }
    }
    if wrong.is_empty() && unread > 0 {
        return unknown(format!("{unread} processes could not be read"));
    }
    if wrong.is_empty() && unseen {
        return unknown(format!("whether {DAEMON} has mounts of its own was not seen"));
    }
    let system = units.keys().filter(|name| is_system(name)).count();
    none_of(
        wrong,
        format!(
            "{DAEMON}: no capabilities, calls filtered, mounts of its own; {} other units confined; {system} of the system",
            units.len() - system - 1
        ),
    )
}

fn mounts(mounts: &[Mount]) -> Judged {
    if mounts.is_empty() {
        return unknown("none seen");
    }
    let written: Vec<&Mount> =
        mounts.iter().filter(|one| !one.has("ro") && WRITABLE.contains(&one.kind.as_str())).collect();
    let wrong = written
        .iter()
        .filter(|one| !one.has("nosuid"))
        .map(|one| format!("{} ({}) takes set-user-ID programs", one.at, one.kind))
        .collect();
    let runs: Vec<&str> =
        written.iter().filter(|one| !one.has("noexec")).map(|one| one.at.as_str()).collect();
    let runs = if runs.is_empty() { "none".to_owned() } else { runs.join(", ") };
    none_of(
        wrong,
        format!(
            "{} of {} writable, none takes set-user-ID programs; those from which programs can be started: {runs}",
            written.len(),
            mounts.len()
        ),
    )
}

/// What differs between an earlier report and a later one of the same device, one line each. Times and what a start
/// changes by itself are left out.
pub fn changes(before: &Report, after: &Report) -> Vec<String> {
    let mut found = Vec::new();
    let mut differ = |what: &str, one: String, other: String| {
        if one != other {
            found.push(format!("{what}: {one} -> {other}"));
        }
    };
    let (one, other) = (before, after);
    differ("device", one.device.fingerprint.clone(), other.device.fingerprint.clone());
    differ("program", one.daemon.version.clone(), other.daemon.version.clone());
    differ("site file", one.daemon.site_sha256.clone(), other.daemon.site_sha256.clone());
    let (a, b) = (&one.facts, &other.facts);
    for number in a.registers.keys().chain(b.registers.keys()).collect::<BTreeSet<_>>() {
        let value = |of: &BTreeMap<u8, String>| of.get(number).cloned().unwrap_or_else(|| "none".into());
        differ(&format!("register {number}"), value(&a.registers), value(&b.registers));
    }
    for name in one.daemon.models.keys().chain(other.daemon.models.keys()).collect::<BTreeSet<_>>() {
        let value = |of: &Report| of.daemon.models.get(name).cloned().unwrap_or_else(|| "none".into());
        differ(&format!("model {name}"), value(one), value(other));
    }
    if let (Some(was), Some(is)) = (&one.daemon.audit, &other.daemon.audit) {
        if is.sequence < was.sequence {
            found.push(format!("the audit log went back from record {} to {}", was.sequence, is.sequence));
        } else if is.sequence == was.sequence && is.hash != was.hash {
            found.push(format!("record {} of the audit log is another one", is.sequence));
        }
    }
    let listeners = |of: &Report| -> BTreeSet<String> {
        let name = |one: &Listener| {
            let unit = one.unit.as_deref().unwrap_or("somebody");
            format!("{unit} {} {} port {}", one.protocol, one.address, one.port)
        };
        of.facts.listeners.iter().map(name).collect()
    };
    let (was, is) = (listeners(one), listeners(other));
    found.extend(is.difference(&was).map(|one| format!("listens now: {one}")));
    found.extend(was.difference(&is).map(|one| format!("listens no more: {one}")));
    let units = |of: &Report| -> BTreeSet<String> { of.facts.units.keys().cloned().collect() };
    let (was, is) = (units(one), units(other));
    found.extend(is.difference(&was).map(|one| format!("runs now: {one}")));
    found.extend(was.difference(&is).map(|one| format!("runs no more: {one}")));
    let (was, is) = (leaves(a), leaves(b));
    for path in was.keys().chain(is.keys()).collect::<BTreeSet<_>>() {
        match (was.get(path), is.get(path)) {
            (Some(before), Some(after)) if before != after => {
                found.push(format!("{path}: {before} -> {after}"));
            }
            (Some(before), None) if !names_unit(path) => {
                found.push(format!("no more: {path} {before}").trim_end().to_owned());
            }
            (None, Some(after)) if !names_unit(path) => {
                found.push(format!("now: {path} {after}").trim_end().to_owned());
            }
            _ => {}
        }
    }
    found
}

/// What each start changes, each look, or what is compared by itself.
const NOT_COMPARED: [&str; 7] = [
    "collected_at",
    "system.boot_id",
    "system.uptime_seconds",
    "registers",
    "listeners",
    "unseen",
    "unread_processes",
];

/// Whether it is a unit's own, whose coming and going is told as a whole.
fn names_unit(path: &str) -> bool {
    path.starts_with("units.")
}

/// All that was seen, by its place. What a list holds has the place of the list and itself.
fn leaves(facts: &Facts) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    // Facts hold nothing that could not be written as JSON.
    gather(String::new(), &serde_json::to_value(facts).unwrap_or_default(), &mut found);
    found
}

fn gather(path: String, value: &Value, found: &mut BTreeMap<String, String>) {
    if NOT_COMPARED.contains(&path.as_str()) || names_unit(&path) && path.ends_with(".processes") {
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                gather(path, value, found);
            }
        }
        Value::Array(values) if !names_unit(&path) => {
            found.extend(values.iter().map(|value| (format!("{path}: {value}"), String::new())));
        }
        value => drop(found.insert(path, value.to_string())),
    }
}

#[cfg(test)]
pub(in crate::inspect) mod tests;
