//! What is so on a machine, as far as one may see it. What could not be seen is `None` or in [`Facts::unseen`], never a
//! value that looks like one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything that was collected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Who has collected it.
    pub collected_by: String,
    /// When, in UTC (RFC 3339).
    pub collected_at: String,
    /// What was started.
    pub system: System,
    /// How it was started.
    pub boot: Boot,
    /// Partitions of the disks, by their place.
    pub partitions: Vec<Partition>,
    /// What the TPM has measured: number of the register, SHA-256 bank, hex. Empty without a TPM.
    pub registers: BTreeMap<u8, String>,
    /// What listens on the network.
    pub listeners: Vec<Listener>,
    /// What is mounted, as the first process sees it.
    pub mounts: Vec<Mount>,
    /// What runs, by unit.
    pub units: BTreeMap<String, Unit>,
    /// Processes that were there and could not be read: of which unit they are is not known.
    #[serde(default)]
    pub unread_processes: u32,
    /// Kernel modules.
    pub modules: Vec<String>,
    /// What could not be seen, and why.
    pub unseen: Vec<String>,
}

/// What was started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// Name and version.
    pub pretty_name: String,
    /// Version of the image; `None` where the system is none of ours.
    pub version: Option<String>,
    /// `production`, `test` or `debug`; empty where the system is none of ours.
    pub flavour: String,
    /// The kernel's release.
    pub kernel: String,
    /// The kernel's command line.
    pub command_line: String,
    /// Changes with each start.
    pub boot_id: String,
    /// Time since the start, in seconds.
    pub uptime_seconds: Option<u64>,
    /// `none`, `integrity` or `confidentiality`.
    pub lockdown: Option<String>,
    /// Why the kernel counts as tainted, a bit mask (`Documentation/admin-guide/tainted-kernels.rst`).
    pub taint: Option<u64>,
}

/// How it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// Whether the firmware verified signatures; `None` where it is no UEFI.
    pub secure_boot: Option<bool>,
    /// Whether the firmware would take new keys from anybody.
    pub setup_mode: Option<bool>,
    /// The entry that was started, without its counter.
    pub entry: Option<String>,
    /// The entries on the EFI system partition, where it may be read.
    pub entries: Vec<Entry>,
    /// Lowest rollback number that may start here, from the TPM.
    pub floor: Option<u64>,
}

/// A boot entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Name without the counter.
    pub name: String,
    /// Tries left; `None` without a counter.
    pub left: Option<u32>,
    /// Starts that nobody has called good.
    pub failed: u32,
    /// The root hash of its signed command line.
    pub root_hash: String,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// The kernel's name of it.
    pub device: String,
    /// Its name in the partition table.
    pub label: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// A socket that takes connections, or datagrams from anybody.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Listener {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Address.
    pub address: std::net::IpAddr,
    /// Port.
    pub port: u16,
    /// The unit whose process holds it.
    pub unit: Option<String>,
}

/// Something mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where.
    pub at: String,
    /// What.
    pub source: String,
    /// Kind of the file system.
    pub kind: String,
    /// Its options: those of the place and those of the file system.
    pub options: Vec<String>,
    /// The device mapper's kind of the device, where it is one: `CRYPT-VERITY`, `CRYPT-LUKS2`.
    pub mapped: Option<String>,
}

impl Mount {
    /// Whether it has an option.
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|one| one == option)
    }
}

/// The processes of a unit, taken together: each entry is the weakest of theirs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// How many.
    pub processes: u32,
    /// Their users' numbers (effective).
    pub users: Vec<u32>,
    /// Programs. `None` for one whose file could not be seen.
    pub programs: Vec<Option<String>>,
    /// Whether all their programs lie on the root file system; `None` where that could not be seen.
    pub on_root: Option<bool>,
    /// Whether none of them can gain privileges by starting another program.
    pub no_new_privileges: bool,
    /// Whether the system calls of all of them are filtered.
    pub seccomp: bool,
    /// Capabilities that any of them has, a bit mask in hex (capabilities(7)).
    pub capabilities: String,
    /// Capabilities that any of them could get.
    pub bounding: String,
    /// Namespaces that all of them have apart from the first process: `mnt`, `net`, ...; `None` where that could not be seen.
    pub own_namespaces: Option<Vec<String>>,
}
