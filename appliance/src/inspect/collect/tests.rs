use std::os::unix::fs::symlink;

use super::*;

/// A machine of files.
struct Made {
    folder: tempfile::TempDir,
}

impl Made {
    fn new() -> Self {
        Made { folder: tempfile::tempdir().expect("temp dir") }
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }

    /// A process with a socket; `flags` as in its `stat`.
    fn process(&self, pid: u32, unit: &str, flags: u64, no_new: u8, capabilities: u64, inode: u64) {
        let at = |name: &str| format!("proc/{pid}/{name}");
        self.write(&at("stat"), format!("{pid} (a) b (c) S 1 {pid} {pid} 0 -1 {flags} 1 0 0\n"));
        let status = format!(
            "Name:\ta\nUid:\t0\t700\t0\t0\nCapEff:\t{capabilities:016x}\nCapBnd:\t{capabilities:016x}\nNoNewPrivs:\t{no_new}\nSeccomp:\t2\n"
        );
        self.write(&at("status"), status);
        self.write(&at("cgroup"), format!("0::/system.slice/{unit}\n"));
        let here = self.folder.path().join(format!("proc/{pid}"));
        fs::create_dir_all(here.join("fd")).expect("made");
        fs::create_dir_all(here.join("ns")).expect("made");
        symlink(format!("socket:[{inode}]"), here.join("fd/3")).expect("linked");
        symlink("/usr/bin/a", here.join("exe")).expect("linked");
        for name in ["cgroup", "ipc", "net", "pid", "user", "uts"] {
            symlink(format!("{name}:[1]"), here.join("ns").join(name)).expect("linked");
        }
        symlink(format!("mnt:[{pid}]"), here.join("ns/mnt")).expect("linked");
    }

    fn collect(&self) -> Facts {
        let at = |name: &str| self.folder.path().join(name);
        let machine = Machine { proc: at("proc"), sys: at("sys"), run: at("run"), esp: at("efi") };
        machine.collect(OffsetDateTime::UNIX_EPOCH)
    }
}

#[test]
fn a_machine_is_seen_as_it_is() {
    let made = Made::new();
    made.write("proc/cmdline", "roothash=ab quiet\n");
    made.write("proc/uptime", "61.25 100.00\n");
    made.write("proc/sys/kernel/osrelease", "6.12.0\n");
    made.write("proc/sys/kernel/tainted", "0\n");
    made.write("proc/sys/kernel/random/boot_id", "b\n");
    made.write("proc/modules", "tpm 1 0 - Live 0\nerofs 1 0 - Live 0\n");
    made.write("proc/1/mountinfo", "22 1 254:0 / / ro shared:1 - erofs /dev/mapper/root ro\n");
    made.write("sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
    made.write(&format!("sys/firmware/efi/efivars/SecureBoot-{GLOBAL}"), [6, 0, 0, 0, 1]);
    made.write(&format!("sys/firmware/efi/efivars/SetupMode-{GLOBAL}"), [6, 0, 0, 0, 0]);
    made.write("sys/class/tpm/tpm0/pcr-sha256/7", "AB12\n");
    for disk in ["vda", "sda"] {
        let part = format!("sys/class/block/{disk}/{disk}2");
        made.write(&format!("{part}/partition"), "2\n");
        made.write(&format!("{part}/uevent"), "PARTNAME=lightbox_1.0.0\n");
        made.write(&format!("{part}/size"), "8\n");
    }
    made.write("sys/class/block/dm-0/dm/name", "root\n");
    let slaves = made.folder.path().join("sys/class/block/dm-0/slaves");
    fs::create_dir_all(&slaves).expect("made");
    symlink(made.folder.path().join("sys/class/block/vda/vda2"), slaves.join("vda2")).expect("linked");
    made.write("efi/EFI/Linux/lightbox_1.0.0+2-1.efi", "x");
    made.write("run/lightbox-floor", "3\n");
    let heading = "  sl  local_address rem_address   st\n";
    let line =
        |port: &str, inode: u64| format!("   0: 00000000:{port} 00000000:0000 0A 0:0 0:0 0 0 0 {inode} 1\n");
    made.write("proc/self/net/tcp", format!("{heading}{}{}", line("0ACA", 77), line("1F90", 78)));
    made.write("proc/self/net/udp", heading);
    made.process(1, "init.scope", 0x40_0100, 0, 0x3, 1);
    made.process(50, "lightbox.service", 0x40_0100, 1, 0x0, 77);
    made.process(51, "lightbox.service", 0x40_0100, 0, 0x4, 79);
    made.process(60, "kthreadd", KERNEL_THREAD_FLAGS, 0, 0x3, 80);
    made.write("proc/70/stat", "70 (hides) S 1 70 70 0 -1 4194560 1 0 0\n");

    let facts = made.collect();
    assert_eq!(facts.system.lockdown.as_deref(), Some("integrity"));
    assert_eq!((facts.system.uptime_seconds, facts.system.taint), (Some(61), Some(0)));
    assert_eq!((facts.boot.secure_boot, facts.boot.setup_mode), (Some(true), Some(false)));
    assert_eq!(facts.boot.floor, Some(3));
    // A file that no boot loader would start is no entry.
    assert_eq!(facts.boot.entries, []);
    assert_eq!(facts.registers, BTreeMap::from([(7, "ab12".to_owned())]));
    let partition = Partition { device: "vda2".into(), label: "lightbox_1.0.0".into(), bytes: 4096 };
    assert_eq!(facts.partitions, [partition]);
    assert_eq!(facts.modules, ["erofs", "tpm"]);
    assert!(facts.mounts[0].has("ro"));
    let ports: Vec<_> = facts.listeners.iter().map(|one| (one.port, one.unit.as_deref())).collect();
    assert_eq!(ports, [(2762, Some("lightbox.service")), (8080, None)]);

    assert_eq!(facts.unread_processes, 1);
    assert!(facts.unseen.iter().any(|one| one.ends_with("1 processes")), "{:?}", facts.unseen);
    assert_eq!(facts.units.keys().collect::<Vec<_>>(), ["init.scope", "lightbox.service"]);
    let unit = &facts.units["lightbox.service"];
    // One of the two could gain privileges, so the unit can.
    assert_eq!((unit.processes, unit.no_new_privileges, unit.seccomp), (2, false, true));
    assert_eq!(unit.capabilities, "0000000000000004");
    assert_eq!(unit.users, [700]);
    assert_eq!(unit.own_namespaces, Some(vec!["mnt".to_owned()]));
    assert_eq!(facts.units["init.scope"].own_namespaces, Some(Vec::new()));
}

/// As the kernel shows them of its own threads.
const KERNEL_THREAD_FLAGS: u64 = 0x0020_8040;

#[test]
fn what_cannot_be_seen_is_said() {
    let facts = Made::new().collect();
    assert_eq!(facts.boot.secure_boot, None);
    assert_eq!(facts.system.taint, None);
    assert!(facts.registers.is_empty() && facts.units.is_empty());
    for what in ["cmdline", "mountinfo", "class/block", "modules", "net/tcp"] {
        assert!(facts.unseen.iter().any(|one| one.contains(what)), "{what}: {:?}", facts.unseen);
    }
}

#[test]
fn this_very_machine_can_be_looked_at() {
    let facts = Machine::running().collect(OffsetDateTime::UNIX_EPOCH);
    assert!(!facts.system.kernel.is_empty());
    assert!(facts.mounts.iter().any(|mount| mount.at == "/"), "{:?}", facts.unseen);
    assert!(facts.units.values().map(|unit| unit.processes).sum::<u32>() > 0);
}
