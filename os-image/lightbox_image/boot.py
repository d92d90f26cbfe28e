"""Booting what was built: first start to health, a study through it, and every damage that must be refused.

Each check is a virtual machine of its own. What is expected is read from the serial console, where whoever stands
before a dead box would read it.
"""

import os
import re
import shutil
import subprocess
import time

from . import disk, machine, trees
from .build import Build, sha256
from .fast import SECTOR, flip
from .inspection import audit_log, inspect, reasons
from .keys import Keys
from .machine import Machine, wait_until
from .peers import Modality, Pacs, phantom
from .place import OUT, Failed, fresh
from .rows import Rows, expect
from .update import CHECKS as UPDATES
from .update import Updates

FLAVOUR = "test"
# Emulated and beside other work: generous. What was needed is in the row.
BOOT = 420
HEALTHY = r"healthy: exact: (\d+) of \1 disks found"
BLESSED = r"blessed: lightbox_\S+\+3\.efi"
DENIED = r"(?i)access denied|security violation"
PANIC = r"Kernel panic - not syncing: dm-verity device corrupted"
GATE = r"reboot: Restarting|No loader found|No bootable option"


class Boot:
    """The checks over one build of the test flavour."""

    def __init__(self, binary=None):
        self.build = Build(FLAVOUR, binary=binary)
        if binary:
            self.build.run()
        self.summary = self.build.facts()
        self.tools = trees.tools()
        self.keys = Keys(self.tools)
        self.work = fresh(OUT / "boot")

    def machine(self, name, source=None):
        """A machine with a copy of the disk as it was built, or of another."""
        return Machine(self.tools, self.keys, name, source or self.build.disk)

    # --- looking into and changing a machine's disk ---------------------------------------------

    def offset(self, disk_file, number):
        """Where a partition begins, in bytes; numbers as in the table, from 1."""
        return disk.partition_table(self.tools, disk_file)[number - 1]["start"] * SECTOR

    def esp(self, disk_file):
        """The ESP for mtools."""
        return f"{disk_file}@@{self.offset(disk_file, 1)}"

    def entries(self, disk_file):
        """Names of the boot entries."""
        listed = self.tools.run("mdir", "-b", "-i", self.esp(disk_file), "::/EFI/Linux/").stdout
        return sorted(line.rsplit("/", 1)[-1] for line in listed.splitlines() if line.strip())

    def blessed_entry(self, disk_file):
        """The one entry, with a full counter and every byte of the UKI: a rename that a power cut met may lack them."""
        entries, wanted = self.entries(disk_file), self.summary["entry"]
        expect(entries == [wanted], f"the entry has no full counter again: {entries}")
        copy = self.work / "entry.efi"
        self.tools.run("mcopy", "-o", "-i", self.esp(disk_file), f"::/EFI/Linux/{wanted}", copy)
        expect(sha256(copy) == sha256(self.build.uki), "the power cut after the blessing damaged the boot entry")
        return wanted

    def put(self, disk_file, source, name):
        """Writes a file into the ESP."""
        self.tools.run("mcopy", "-o", "-i", self.esp(disk_file), source, f"::/{name}")

    def damage_root(self, disk_file):
        """Flips bytes of the first slot where every start reads: the file system's superblock and the root folder."""
        at = self.offset(disk_file, 2)
        for where in (1024 + 16, 1024 + 100):
            flip(disk_file, at + where)

    def in_data(self, disk_file, size):
        """The first bytes of the data partition as a file: LUKS2's header with all its keys."""
        at, to = self.offset(disk_file, 6), self.work / "luks-header"
        with disk_file.open("rb") as source, to.open("wb") as file:
            source.seek(at)
            file.write(source.read(size))
        return to

    def overwrite(self, disk_file, number, source):
        """Puts a file's bytes at the beginning of a partition."""
        at = self.offset(disk_file, number)
        with disk_file.open("r+b") as to, source.open("rb") as file:
            to.seek(at)
            shutil.copyfileobj(file, to, 2**20)

    def keep(self, box, name):
        """Keeps disk, firmware variables and TPM of a machine that is off, for the checks that go on from there."""
        folder = fresh(self.work / name)
        shutil.copytree(box.tpm, folder / "tpm")
        shutil.copyfile(box.vars, folder / "vars.fd")
        subprocess.run(["cp", "--sparse=always", box.disk, folder / "disk.raw"], check=True)

    def kept(self, name, tpm=True, source="healthy"):
        """A machine that goes on where another was switched off; `tpm=False` gives it a TPM without memory."""
        folder = self.work / source
        if not folder.exists():
            raise Failed(f"needs the machine '{source}' of an earlier check; remedy: run that check as well, and mend it")
        box = self.machine(name, folder / "disk.raw")
        shutil.copyfile(folder / "vars.fd", box.vars)
        if tpm:
            shutil.rmtree(box.tpm)
            shutil.copytree(folder / "tpm", box.tpm)
        return box

    # --- what must work ---------------------------------------------------------------------------

    def first_boot(self):
        """First start: partitions, encryption, health gate, blessing; then a study through it."""
        with Pacs(self.keys, self.work / "pacs") as pacs, self.machine("first") as box:
            box.start(pacs=pacs.port)
            found = box.wait(HEALTHY, BOOT, fatal=GATE)[0]
            healthy = box.seconds()
            box.wait(BLESSED, 60)
            status = box.wait(r"Lightbox \S+ \(test flavour[^\n]*Secure Boot on[^\n]*", 60)[0].strip()
            key = box.wait(r"(?:[cbdefghijklnrtuv]{8}-){7}[cbdefghijklnrtuv]{8}", 60)[0]
            (self.work / "recovery-key").write_text(key)
            line = self.study(box, pacs)
            report = inspect(self.build, self.keys, box, self.work / "inspection")
        # Off without a warning: what was blessed must be whole on the disk.
        self.keep(box, "healthy")
        entry = self.blessed_entry(box.disk)
        return f"healthy after {healthy} s; {status}; {found}; {line}; entry {entry}; report: {report}"

    def study(self, box, pacs):
        """C-ECHO, C-STORE and the SR, over mutual TLS through the machine's network."""
        modality = Modality(self.keys, box.dicom)
        echo = modality.echo()
        expect(modality.stranger(self.keys), "a certificate that the site does not name was let in")
        files = phantom(self.work / "phantom", 7)
        started = time.monotonic()
        count = modality.store(files)
        stored = round(time.monotonic() - started, 1)
        machine.wait_until(pacs.reports, 120, "an SR at the PACS")
        reported = round(time.monotonic() - started, 1)
        said = subprocess.run(["dsrdump", str(pacs.reports()[0])], capture_output=True, text=True, check=False)
        expect(said.returncode == 0, f"dsrdump does not take the SR:\n{said.stderr}")
        for mark in ("PRELIMINARY", "UNVERIFIED"):
            expect(mark in said.stdout, f"the SR is not marked {mark}:\n{said.stdout[:600]}")
        return f"C-ECHO {echo} s, {count} images stored in {stored} s, SR at the PACS after {reported} s, a stranger refused"

    def second_boot(self):
        """The blessed entry starts again, opens the same data, and gets its tries back, whatever another disk calls its
        partitions."""
        decoy, entry = self.decoy(), "lightbox_9.9.9+3.efi"
        with self.kept("second") as box:
            box.start(decoy=decoy)
            box.wait(HEALTHY, BOOT, fatal=GATE)
            healthy = box.seconds()
            box.wait(BLESSED, 60)
            floor = box.wait(r"floor \d+: the lowest of [^;\n]*", 60)[0]
            report = inspect(self.build, self.keys, box, self.work / "inspection-decoy")
            shown = box.text()
        expect("recovery key" not in shown, "a second recovery key was made")
        expect(entry not in shown, "the other disk's boot entries were looked at")
        self.blessed_entry(box.disk)
        return f"healthy after {healthy} s beside a disk with partitions of the same names, no new recovery key; {floor}; report: {report}"

    def decoy(self):
        """A disk with partitions that are called as the box's own; its boot partition names an image 9.9.9."""
        decoy, esp = self.work / "decoy.raw", self.work / "decoy-esp"
        esp.write_bytes(b"")
        os.truncate(esp, 34 * 2**20)
        self.tools.run("mkfs.vfat", "-F", "32", esp)
        self.tools.run("mmd", "-i", esp, "::/EFI", "::/EFI/Linux")
        self.tools.run("mcopy", "-i", esp, self.build.uki, "::/EFI/Linux/lightbox_9.9.9+3.efi")
        definitions = fresh(self.work / "decoy.d")
        for number, (kind, label, more) in enumerate((
                ("esp", "esp", f"CopyBlocks={esp}"), ("linux-generic", "data", "SizeMinBytes=16M\nSizeMaxBytes=16M"),
                ("root", "lightbox_9.9.9", "SizeMinBytes=2M\nSizeMaxBytes=2M"),
                ("root-verity", "lightbox_9.9.9_verity", "SizeMinBytes=1M\nSizeMaxBytes=1M"))):
            (definitions / f"{number}.conf").write_text(f"[Partition]\nType={kind}\nLabel={label}\n{more}\n")
        decoy.unlink(missing_ok=True)
        self.tools.run("systemd-repart", "--empty=create", "--size=64M", "--dry-run=no", "--offline=yes",
                       f"--definitions={definitions}", decoy)
        return decoy

    def recovery_key(self):
        """The key that the console showed opens the data, and another does not."""
        key = self.work / "recovery-key"
        if not key.exists():
            raise Failed("no machine has shown a recovery key; remedy: run the check 'first boot' as well")
        header = self.in_data(self.work / "healthy/disk.raw", 32 * 2**20)
        os.truncate(header, 64 * 2**20)
        said = self.tools.run("cryptsetup", "luksDump", header).stdout
        for word in ("systemd-tpm2", "systemd-recovery", "tpm2-hash-pcrs:   7", "tpm2-pubkey-pcrs: 11"):
            expect(word in said, f"LUKS2's header does not say {word}:\n{said}")
        open_ = ["cryptsetup", "open", "--test-passphrase", "--token-type", "none", "--key-slot", "1", "--key-file"]
        self.tools.run(*open_, key, header)
        wrong = self.work / "wrong-key"
        wrong.write_text(key.read_text()[::-1])
        expect(self.tools.run(*open_, wrong, header, check=False).returncode != 0, "any key opens the data")
        return "TPM2 token: PCR 7, signed PCR 11; the recovery key opens it, another does not"

    # --- what must be refused ---------------------------------------------------------------------

    def unsigned_loader(self):
        """The firmware takes no boot loader without our signature."""
        with self.machine("unsigned-loader") as box:
            unsigned = self.work / "unsigned.efi"
            shutil.copyfile(self.tools.tree / disk.STUB_LOADER.lstrip("/"), unsigned)
            for name in ("EFI/BOOT/BOOTX64.EFI", "EFI/systemd/systemd-bootx64.efi"):
                self.put(box.disk, unsigned, name)
            box.start()
            return f"{box.wait(DENIED, 120, fatal='systemd')[0]} after {box.seconds()} s"

    def strangers_uki(self):
        """The boot loader takes no UKI that somebody else signed."""
        with self.machine("strangers-uki") as box:
            signed = self.work / "stranger.efi"
            unsigned = self.build.path(f"lightbox_{self.build.version}.unsigned.efi")
            disk.sign(self.tools, self.keys, unsigned, signed, name="stranger")
            self.put(box.disk, signed, f"EFI/Linux/{self.summary['entry']}")
            box.start()
            return f"{box.wait(DENIED, 120, fatal=HEALTHY)[0]} after {box.seconds()} s"

    def tampered_uki(self):
        """The boot loader takes no UKI with a flipped byte."""
        with self.machine("tampered-uki") as box:
            bad = self.work / "tampered.efi"
            shutil.copyfile(self.build.uki, bad)
            flip(bad, bad.stat().st_size // 2)
            self.put(box.disk, bad, f"EFI/Linux/{self.summary['entry']}")
            box.start()
            return f"{box.wait(DENIED, 120, fatal=HEALTHY)[0]} after {box.seconds()} s"

    def flipped_root(self):
        """A byte of the root flipped on a fresh disk: the kernel panics, and the start is counted."""
        with self.machine("flipped-root") as box:
            self.damage_root(box.disk)
            box.start(reboot=False)
            seen = box.wait(PANIC, BOOT, fatal=HEALTHY)[0]
            after = box.seconds()
        entries = self.entries(box.disk)
        expect(entries == [self.summary["entry"].replace("+3", "+2-1")], f"the start was not counted: {entries}")
        return f"{seen} after {after} s; entry {entries[0]}"

    def swapped_verity(self):
        """Another root with a hash tree that fits it, under the signed root hash of the first: the kernel panics."""
        bad, tree = self.work / "other-root", self.work / "other-verity"
        shutil.copyfile(self.build.path("root.erofs"), bad)
        flip(bad, bad.stat().st_size // 2)
        other = disk.make_verity(self.tools, bad, tree, self.build.version)
        expect(other != self.summary["root_hash"], "the other root has the same hash")
        with self.machine("swapped-verity") as box:
            self.overwrite(box.disk, 2, bad)
            self.overwrite(box.disk, 3, tree)
            box.start(reboot=False)
            return f"{box.wait(PANIC, BOOT, fatal=HEALTHY)[0]} after {box.seconds()} s"

    def blessed_then_damaged(self):
        """A slot that was blessed and is damaged later: three panics, then the other slot, by itself."""
        older = Build(FLAVOUR, other_version="0.0.1", binary=self.build.binary)
        older.folder = OUT / f"{FLAVOUR}-0.0.1"
        facts = older.run()
        with self.kept("blessed-damaged") as box:
            root_uuid, verity_uuid = disk.partition_uuids(facts["root_hash"])
            for number, name, uuid in ((4, "root.erofs", root_uuid), (5, "root.verity", verity_uuid)):
                self.overwrite(box.disk, number, older.path(name))
                self.tools.run("sfdisk", "--quiet", "--no-reread", "--part-uuid", box.disk, number, uuid)
                label = f"lightbox_{older.version}" + ("_verity" if number == 5 else "")
                self.tools.run("sfdisk", "--quiet", "--no-reread", "--part-label", box.disk, number, label)
            self.put(box.disk, older.uki, f"EFI/Linux/{facts['entry']}")
            before = self.entries(box.disk)
            expect(before == [facts["entry"], self.summary["entry"]], f"entries: {before}")
            self.damage_root(box.disk)
            box.start()
            box.wait(HEALTHY, 3 * BOOT)
            after = box.seconds()
            panics = len(re.findall(PANIC, box.text()))
            box.wait(rf"blessed: lightbox_{re.escape(older.version)}\+3", 60)
            damaged = f"lightbox_{self.build.version} was started {disk.TRIES} times"

            def says_why():
                return [one for one in reasons(audit_log(self.keys, box, self.work / "audit"), "system-started") if damaged in one]

            why = wait_until(says_why, 60, "the audit log to say why the other slot runs")
        entries = self.entries(box.disk)
        expect(panics == disk.TRIES, f"{panics} panics instead of {disk.TRIES}")
        wanted = [facts["entry"], self.summary["entry"].replace("+3", "+0-3")]
        expect(entries == wanted, f"entries: {entries}")
        return f"{panics} panics, then {older.version} healthy after {after} s on the same data; entries {', '.join(entries)}; audit log: {why[0]}"

    def foreign_data(self):
        """A data partition that this machine's TPM does not open is refused, not formatted."""
        foreign, key = self.work / "foreign", self.work / "foreign-key"
        key.write_text("somebody else's key")
        foreign.write_bytes(b"")
        os.truncate(foreign, 64 * 2**20)
        self.tools.run("cryptsetup", "luksFormat", "--type", "luks2", "--batch-mode", "--pbkdf", "pbkdf2",
                       "--pbkdf-force-iterations", "1000", "--key-file", key, foreign)
        with self.kept("foreign-data") as box:
            self.overwrite(box.disk, 6, foreign)
            said = self.refused(box)
            left = self.in_data(box.disk, 16 * 2**20)
        with foreign.open("rb") as file:
            expect(left.read_bytes()[:4096] == file.read(4096), "the foreign data was changed")
        return f"{said}; left as it was"

    def cleared_tpm(self):
        """A TPM without memory has no rollback floor, and data without one is not even tried to be opened; with the old
        one back, all is as it was."""
        with self.kept("cleared-tpm", tpm=False) as box:
            box.start(reboot=False)
            said = box.wait(r"lightbox-floor: REFUSED: this machine has data[^\n]*", BOOT, fatal=HEALTHY)[0].strip()
            said = f"{said[:120]} after {box.seconds()} s"
            box.wait(GATE, 180, fatal=HEALTHY)
            box.off()
            shutil.rmtree(box.tpm)
            shutil.copytree(self.work / "healthy/tpm", box.tpm)
            box.mark()
            box.start()
            box.wait(HEALTHY, BOOT, fatal=GATE)
            return f"{said}; with the old TPM healthy again after {box.seconds()} s"

    def refused(self, box):
        """Starts a machine whose data must not open; yields the reason on the console."""
        box.start(reboot=False)
        box.wait(r"Failed to start \S*systemd-cryptsetup@data", BOOT, fatal=HEALTHY)
        box.wait(r"The start failed|Dependency failed for \S*var\.mount", 120, fatal=HEALTHY)
        after = box.seconds()
        box.wait(GATE, 180, fatal=HEALTHY)
        reasons = [line.strip() for line in box.text().splitlines() if re.search(UNSEALING, line)]
        expect(reasons, "the console does not say why the data was not opened")
        return f"{reasons[0][:160]} after {after} s"


# What systemd-cryptsetup says of a TPM that does not fit, and of a volume that only a passphrase would open.
UNSEALING = (r"(?i)(tpm2?\b.*(fail|error|integrity|not)|no .*tpm2 .*token|no valid tpm2|failed to (unseal|activate|query)|"
             r"password querying disabled via 'headless')")


CHECKS = (
    ("first boot: healthy, blessed, a study through it", Boot.first_boot),
    ("second boot of the blessed slot", Boot.second_boot),
    ("keys of the data", Boot.recovery_key),
    ("unsigned loader", Boot.unsigned_loader),
    ("UKI of a stranger", Boot.strangers_uki),
    ("tampered UKI", Boot.tampered_uki),
    ("flipped root byte, fresh slot", Boot.flipped_root),
    ("swapped root and verity tree", Boot.swapped_verity),
    ("flipped root byte, blessed slot", Boot.blessed_then_damaged),
    ("foreign data disk", Boot.foreign_data),
    ("cleared TPM", Boot.cleared_tpm),
)

def run(only=None, binary=None):
    """The checks whose names contain `only`, or all; yields the failed ones' names."""
    rows = Rows("test.json")
    boot = Boot(binary)
    updates = Updates(boot)
    checks = [(name, lambda check=check: check(boot)) for name, check in CHECKS]
    checks += [(name, lambda check=check: check(updates)) for name, check in UPDATES]
    for name, check in checks:
        if only and not any(part in name for part in only):
            rows.skip(name, "not asked for")
            continue
        rows.check(name, check)
    return rows.failed()
