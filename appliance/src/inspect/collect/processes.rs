//! What runs, by unit, and which unit holds which socket (proc(5)).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{Machine, Unseen, file_name, text};
use crate::inspect::facts::Unit;

/// Namespaces that are compared with the first process's.
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
/// Flag of a kernel thread in `/proc/PID/stat` (PF_KTHREAD).
const KERNEL_THREAD: u64 = 0x0020_0000;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Processes {
    pub(super) units: BTreeMap<String, Unit>,
    /// Unit by the inode of a socket that one of its processes holds.
    pub(super) sockets: BTreeMap<u64, String>,
    /// How many were there and could not be read.
    pub(super) unread: u32,
}

/// What a process says of itself.
struct Process {
    unit: String,
    user: u32,
    program: Option<String>,
    on_root: Option<bool>,
    no_new_privileges: bool,
    seccomp: bool,
    capabilities: u64,
    bounding: u64,
    own_namespaces: Option<BTreeSet<String>>,
    sockets: Vec<u64>,
}

pub(super) fn collect(machine: &Machine, unseen: &mut Unseen) -> Processes {
    let mut found = Processes::default();
    let root = fs::metadata(machine.proc.join("1/root")).ok().map(|root| root.dev());
    let (mut hidden, mut seen) = (0u32, 0u32);
    for path in unseen.folder(&machine.proc) {
        if !file_name(&path).bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        if is_kernel_thread(&path) {
            continue;
        }
        let Some(process) = process(&path, &machine.proc, root) else {
            // A process that ended while we looked is none.
            found.unread += u32::from(path.join("stat").exists());
            continue;
        };
        seen += 1;
        hidden += u32::from(process.program.is_none());
        for inode in &process.sockets {
            found.sockets.insert(*inode, process.unit.clone());
        }
        found
            .units
            .entry(process.unit.clone())
            .and_modify(|unit| join(unit, &process))
            .or_insert_with(|| unit(&process));
    }
    if found.unread > 0 {
        unseen.add(&machine.proc, &format!("{} processes", found.unread));
    }
    if hidden > 0 {
        unseen.add(&machine.proc, &format!("programs and sockets of {hidden} of {seen} processes"));
    }
    found
}

fn is_kernel_thread(path: &Path) -> bool {
    let stat = text(&path.join("stat")).unwrap_or_default();
    // `PID (NAME) STATE PPID ... FLAGS`, where the name may hold anything.
    let flags = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(6)?.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & KERNEL_THREAD != 0)
}

fn process(path: &Path, proc: &Path, root: Option<u64>) -> Option<Process> {
    let status = text(&path.join("status")).ok()?;
    let value =
        |key: &str| status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim);
    let mask = |key: &str| u64::from_str_radix(value(key)?, 16).ok();
    let exe = path.join("exe");
    let program = fs::read_link(&exe).ok().map(|program| program.display().to_string());
    let device = fs::metadata(&exe).ok().map(|exe| exe.dev());
    Some(Process {
        unit: unit_of(&text(&path.join("cgroup")).unwrap_or_default()),
        // Real, effective, saved, of the file system.
        user: value("Uid")?.split_whitespace().nth(1)?.parse().ok()?,
        on_root: device.zip(root).map(|(device, root)| device == root),
        program,
        no_new_privileges: value("NoNewPrivs") == Some("1"),
        seccomp: value("Seccomp") == Some("2"),
        capabilities: mask("CapEff")?,
        bounding: mask("CapBnd")?,
        own_namespaces: own_namespaces(path, proc),
        sockets: sockets(path),
    })
}

/// The unit in the name of a control group: the last part that is a service or a scope.
fn unit_of(cgroup: &str) -> String {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    let is_unit = |part: &&str| part.ends_with(".service") || part.ends_with(".scope");
    path.rsplit('/').find(is_unit).map_or_else(|| format!("no unit ({path})"), str::to_owned)
}

fn own_namespaces(path: &Path, proc: &Path) -> Option<BTreeSet<String>> {
    let mut own = BTreeSet::new();
    for name in NAMESPACES {
        let (here, first) =
            (fs::read_link(path.join("ns").join(name)), fs::read_link(proc.join("1/ns").join(name)));
        if here.ok()? != first.ok()? {
            own.insert(name.to_owned());
        }
    }
    Some(own)
}

/// Inodes of the sockets that a process holds; none where that may not be seen.
fn sockets(path: &Path) -> Vec<u64> {
    let Ok(open) = fs::read_dir(path.join("fd")) else { return Vec::new() };
    open.flatten()
        .filter_map(|one| {
            let target = fs::read_link(one.path()).ok()?;
            target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        })
        .collect()
}

fn unit(process: &Process) -> Unit {
    Unit {
        processes: 1,
        users: vec![process.user],
        programs: vec![process.program.clone()],
        on_root: process.on_root,
        no_new_privileges: process.no_new_privileges,
        seccomp: process.seccomp,
        capabilities: mask(process.capabilities),
        bounding: mask(process.bounding),
        own_namespaces: process.own_namespaces.clone().map(|own| own.into_iter().collect()),
    }
}

/// Takes one more process into a unit: what holds then is the weakest of both.
fn join(unit: &mut Unit, process: &Process) {
    unit.processes += 1;
    if !unit.users.contains(&process.user) {
        unit.users.push(process.user);
    }
    if !unit.programs.contains(&process.program) {
        unit.programs.push(process.program.clone());
    }
    unit.on_root = match (unit.on_root, process.on_root) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    };
    unit.no_new_privileges &= process.no_new_privileges;
    unit.seccomp &= process.seccomp;
    unit.capabilities = mask(read(&unit.capabilities) | process.capabilities);
    unit.bounding = mask(read(&unit.bounding) | process.bounding);
    unit.own_namespaces = match (unit.own_namespaces.take(), &process.own_namespaces) {
        (Some(mut ours), Some(theirs)) => {
            ours.retain(|name| theirs.contains(name));
            Some(ours)
        }
        _ => None,
    };
}

fn mask(capabilities: u64) -> String {
    format!("{capabilities:016x}")
}

fn read(mask: &str) -> u64 {
    // Written by `mask`.
    u64::from_str_radix(mask, 16).unwrap_or(u64::MAX)
}
