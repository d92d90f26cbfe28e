"""Updates of a booted image: v1 -> v2 -> broken v3 -> back on v2, the floor, and power cuts while a slot is written.

One chain of machines on one disk, since each start costs a minute or two when it is emulated.
"""

import random
import re
import shutil
import subprocess

from . import build, disk
from .build import Build, sha256
from .fast import SECTOR, root_of
from .inspection import audit_log, fetch, reasons
from .machine import wait_until
from .peers import Modality, Pacs, phantom
from .place import OUT, Failed, fresh
from .rows import expect
from .writes import Log

# Each has a rollback number of its own; the first image has 1.
NEXT, BROKEN = "0.90.0", "0.91.0"
START = 900
# Bytes a second of a slow disk.
SLOW = 4 * 10**6
CUTS, BOOTED = 24, 5
# Longest write to the boot partition that changes a folder and not a file.
FOLDER_BYTES = 4096
HEALTHY = r"healthy: exact: (\d+) of \1 disks found"


def blessed(version):
    """What the console shows of a good start."""
    return rf"blessed: lightbox_{re.escape(version)}\+3\.efi"


def written(version):
    """What the console shows when a slot has been written."""
    return rf"written: lightbox_{re.escape(version)}\+3\.efi"


class Updates:
    """The checks; `boot` has the tools, the keys and the first image."""

    def __init__(self, boot):
        self.boot = boot
        self.tools = boot.tools
        self.keys = boot.keys
        self.work = fresh(OUT / "updates")
        self.repository = self.work / "repository"
        self.next = self.broken = None

    def image(self, version, rollback, broken=False):
        """Another version of the image."""
        made = Build("test", other_version=version, rollback=rollback, broken=broken, binary=self.boot.build.binary)
        made.folder = OUT / f"test-{version}"
        made.run()
        return made

    def stick(self, name, made):
        """A stick with the signed repository after another image was published."""
        if not self.repository.exists():
            self.keys.image_root(made.binary)
            shutil.copytree(self.keys.folder / "images/empty", self.repository)
        build.publish(made, self.repository)
        stick = self.work / f"{name}.img"
        size = sum(path.stat().st_size for path in self.repository.rglob("*") if path.is_file())
        with stick.open("wb") as file:
            file.truncate(size + size // 20 + 64 * 2**20)
        self.tools.run("mkfs.vfat", "-F", "32", "-n", "LIGHTBOX", stick)
        self.tools.run("mcopy", "-s", "-i", stick, self.repository / "metadata", self.repository / "targets", "::/")
        return stick

    def page(self, box, path="/system"):
        """A page of the administration, as the operator sees it, without its markup."""
        return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", fetch(self.keys, box, path).decode()))

    def page_says(self, box, pattern, seconds=120):
        """Waits until the system page shows something."""
        last = []

        def shows():
            last[:] = [self.page(box)]
            return re.search(pattern, last[0])

        try:
            wait_until(shows, seconds, f"the system page to show '{pattern}'")
        except Failed as failed:
            raise Failed(f"{failed}; it shows: {last[0][:1500] if last else 'nothing'}") from failed
        return re.search(pattern, last[0])[0]

    # --- the checks, in the order in which one goes on from the other --------------------------------

    def update(self):
        """v1 takes v2 from a stick by itself, with a study in flight, and passes its health gate with it."""
        self.next = self.image(NEXT, 2)
        stick = self.stick("next", self.next)
        before = self.boot.build.version
        with Pacs(self.keys, self.work / "pacs") as pacs, self.boot.kept("update") as box:
            box.start(pacs=pacs.port, stick=stick, writes=self.work / "writes.log")
            box.wait(blessed(before), START)
            good = box.seconds()
            box.wait(r"floor 1:", 60)
            early = audit_log(self.keys, box, self.work / "audit")
            # On its way in while the box fetches and writes; its report must not get lost over the restart.
            count = Modality(self.keys, box.dicom).store(phantom(self.work / "phantom", 11))
            progress = self.page_says(box, rf"{re.escape(NEXT)} (fetching|writing|ready)[^.]*", 300)
            box.wait(written(NEXT), START)
            in_slot = box.seconds()
            box.wait(r"reboot: Restarting system", START)
            self.cut_at = (self.work / "writes.log").stat().st_size
            box.wait(blessed(NEXT), START)
            after = box.seconds()
            wait_until(pacs.reports, 120, "the SR of the study that was in flight")
            box.wait(r"floor 1:(?s:.*)floor 1:", 60)
            says = self.page_says(box, rf"{re.escape(NEXT)} installed")
            studies = self.page(box, "/studies")
            expect("done" in studies, f"the study is not in the ledger: {studies[:400]}")
            self.records = audit_log(self.keys, box, self.work / "audit", before=early)
            starts = len(reasons(self.records, "system-started"))
            expect(starts >= 2, f"{starts} starts of the machine are on record")
        self.boot.keep(box, "updated")
        entries = self.boot.entries(box.disk)
        expect(entries == [f"lightbox_{before}+3.efi", f"lightbox_{NEXT}+3.efi"], f"entries: {entries}")
        return (f"{before} blessed after {good} s, {NEXT} in its slot after {in_slot} s, blessed after {after} s; "
                f"{count} images sent meanwhile, their SR came; page: {progress} … {says}; floor 1; audit log whole, {len(early)} then {len(self.records)} records")

    def fall_back(self):
        """v2 takes v3, which is broken: three tries, then v2 again by itself; v3 is not tried again."""
        self.broken = self.image(BROKEN, 3, broken=True)
        stick = self.stick("broken", self.broken)
        with self.boot.kept("broken", source="updated") as box:
            # So slow that the boot partition is unmounted, for nobody looks at it, while the slot is written.
            box.start(stick=stick, slow=SLOW)
            box.wait(written(BROKEN), START)
            box.wait(r"reboot: Restarting system", START)
            box.mark()
            box.wait(blessed(NEXT), 3 * START)
            after = box.seconds()
            shown = box.text()
            tries = len(re.findall(r"reboot: Restarting system", shown))
            box.wait(r"floor 2:", 60)
            console = box.wait(r"FELL BACK: [^\n]*", 60)[0].strip()
            says = self.page_says(box, rf"fell back from {re.escape(BROKEN)}[^;]*")
            records = audit_log(self.keys, box, self.work / "audit", before=self.records)
            why = [one for one in reasons(records, "system-update") if "came back from" in one]
            expect(why, "the audit log does not say that the box fell back")
            box.mark()
            # Longer than the box takes to look at the stick again.
            wait_until(lambda: box.seconds() > after + 90, 120, "the next look at the stick")
            expect("written:" not in box.text(), "the broken image was installed again")
        self.boot.keep(box, "fell-back")
        entries = self.boot.entries(box.disk)
        expect(entries == [f"lightbox_{NEXT}+3.efi", f"lightbox_{BROKEN}+0-3.efi"], f"entries: {entries}")
        return f"{tries} tries of {BROKEN}, then {NEXT} blessed after {after} s; console: {console}; page: {says}; not tried again; floor 2; audit log whole, {len(records)} records, and says so"

    def floor(self):
        """The first image, signed and whole, below the floor: refused before the data is opened, on every try."""
        first = self.boot.build
        facts = first.facts()
        with self.boot.kept("floor", source="fell-back") as box:
            root_uuid, verity_uuid = disk.partition_uuids(facts["root_hash"])
            numbers = {one["name"]: index for index, one in enumerate(disk.partition_table(self.tools, box.disk), 1)}
            for name, label, uuid in (("root.erofs", f"lightbox_{BROKEN}", root_uuid),
                                      ("root.verity", f"lightbox_{BROKEN}_verity", verity_uuid)):
                self.boot.overwrite(box.disk, numbers[label], first.path(name))
                self.tools.run("sfdisk", "--quiet", "--no-reread", "--part-uuid", box.disk, numbers[label], uuid)
            keep = self.work / "entry.efi"
            esp = self.boot.esp(box.disk)
            self.tools.run("mcopy", "-o", "-i", esp, f"::/EFI/Linux/lightbox_{NEXT}+3.efi", keep)
            for name in self.boot.entries(box.disk):
                self.tools.run("mdel", "-i", esp, f"::/EFI/Linux/{name}")
            self.boot.put(box.disk, first.uki, f"EFI/Linux/{facts['entry']}")
            box.start(reboot=False)
            said = box.wait(r"REFUSED: this system has the rollback number 1[^.]*", START, fatal=r"healthy:|blessed:")[0]
            after = box.seconds()
            box.wait(r"reboot: Restarting system|rebooting", 120, fatal=r"healthy:|blessed:")
            expect("Started systemd-cryptsetup" not in box.text(), "the data was opened")
            box.off()
            self.boot.put(box.disk, keep, f"EFI/Linux/lightbox_{NEXT}+3.efi")
            box.mark()
            box.start()
            box.wait(blessed(NEXT), START)
            again = box.seconds()
        return f"{' '.join(said.split())} after {after} s; with the newer entry back, {NEXT} blessed after {again} s"

    def stuck(self):
        """An image that does not pass its gate, and nothing else to try: the machine stays up and says why, instead of
        restarting for ever."""
        with self.boot.kept("stuck", source="fell-back") as box:
            esp = self.boot.esp(box.disk)
            self.tools.run("mdel", "-i", esp, f"::/EFI/Linux/lightbox_{NEXT}+3.efi")
            box.start()
            told = box.wait(r"NOT healthy yet: [^\n]*no boot entry has a try left[^\n]*", START, fatal=r"blessed:|reboot: Restarting")[0]
            after = box.seconds()
            # Longer than the gate waits, and than the watch would take to restart a daemon.
            wait_until(lambda: box.seconds() > after + 120, 150, "two minutes")
            shown = box.text()
            expect("reboot: Restarting" not in shown and "blessed:" not in shown, f"it did not stay as it was:\n{shown[-1500:]}")
            page = self.page(box)
        expect(BROKEN in page, f"the page does not name what runs: {page[:400]}")
        entries = self.boot.entries(box.disk)
        # The boot loader goes on counting.
        expect(len(entries) == 1 and re.fullmatch(rf"lightbox_{re.escape(BROKEN)}\+0-\d+\.efi", entries[0]), f"entries: {entries}")
        return f"{told[:160]} after {after} s; it stays up, its page answers, it is not blessed"

    # --- power cuts ------------------------------------------------------------------------------------

    def cuts(self):
        """The disk as power cuts would have left it while the update ran: each holds a slot that starts, and the boot
        loader's first choice is one."""
        log = Log(self.work / "writes.log")
        base = self.boot.work / "healthy/disk.raw"
        table = disk.partition_table(self.tools, base)
        other = [(one["start"] * SECTOR, (one["start"] + one["size"]) * SECTOR) for one in table[3:5]]
        slot = [index for first, last in other for index in log.touching(first, last)]
        size = base.stat().st_size
        tables = log.touching(0, 34 * SECTOR) + log.touching(size - 33 * SECTOR, size)
        esp = [index for index in log.touching(table[0]["start"] * SECTOR, (table[0]["start"] + table[0]["size"]) * SECTOR)
               if index > min(slot)]
        expect(slot and tables and esp, "the log does not hold an update")
        # A third anywhere in the slot's contents, a third around the tables and in the boot partition's files, a third around
        # the changes of its folders, which make the switch.
        chance = random.Random(20260101)
        tables = [index for index in tables if min(slot) < index <= max(esp)]
        folders = [index for index in esp if index > max(slot) and log.entries[index][1] <= FOLDER_BYTES]
        expect(tables and folders, "the log holds no change of the partition table, or none of the boot entries")
        points = [chance.choice(slot) for _ in range(CUTS // 3)]
        points += [chance.choice(some) + chance.randint(0, 1) for _ in range(CUTS // 6) for some in (tables, esp)]
        points += [chance.choice(folders) + chance.randint(0, 1) for _ in range(CUTS - len(points))]
        seen, self.states = {}, []
        for number, point in enumerate(sorted(points)):
            state = self.work / "state.raw"
            subprocess.run(["cp", "--sparse=always", "--reflink=auto", base, state], check=True)
            log.apply(state, point, seed=number if number % 2 else None)
            first = self.judge(state)
            seen[first] = seen.get(first, 0) + 1
            self.states.append((point, number if number % 2 else None, first))
        expect(len(seen) == 2, f"the cuts did not meet both sides of the switch: {seen}")
        told = ", ".join(f"{count} start {version}" for version, count in sorted(seen.items()))
        return f"{len(points)} states of {len(log.entries)} writes (every second one without what was not flushed): {told}; each slot whole"

    def judge(self, state):
        """Which version a disk starts; `Failed` if there is none, or if its slot is not whole."""
        builds = {one.version: one for one in (self.boot.build, self.next)}
        partitions = root_of(state)
        esp = self.boot.esp(state)
        usable = []
        for name in self.boot.entries(state):
            found = re.fullmatch(r"(?i)lightbox_([0-9.]+)\+(\d+)(-\d+)?\.efi", name)
            if not found:
                continue
            version, tries = found[1], int(found[2])
            copy = self.work / "state.efi"
            self.tools.run("mcopy", "-o", "-i", esp, f"::/EFI/Linux/{name}", copy)
            if copy.stat().st_size == 0:
                # The boot loader takes no empty file for an entry.
                continue
            made = builds[version]
            expect(sha256(copy) == sha256(made.uki), f"the entry {name} is torn")
            for file, uuid in zip(("root.erofs", "root.verity"), disk.partition_uuids(made.facts()["root_hash"])):
                expect(uuid in partitions, f"the entry {name} is there, and no partition {uuid}")
                with state.open("rb") as disk_file:
                    disk_file.seek(partitions[uuid])
                    same = disk_file.read(made.path(file).stat().st_size) == made.path(file).read_bytes()
                expect(same, f"the entry {name} is there, and {file} in its slot is not whole")
            if tries:
                usable.append(tuple(int(part) for part in version.split(".")))
        expect(usable, f"no entry would start: {self.boot.entries(state)}")
        return ".".join(str(part) for part in max(usable))

    def cuts_booted(self):
        """Some of these disks started: healthy on the slot that was meant."""
        if not getattr(self, "states", None):
            raise Failed("needs the states of the check before; remedy: run it as well")
        log = Log(self.work / "writes.log")
        # From both sides of the switch, and torn ones among them.
        chance = random.Random(7)
        old = [one for one in self.states if one[2] == self.boot.build.version]
        new = [one for one in self.states if one[2] == NEXT]
        chosen = chance.sample(old, min(3, len(old))) + chance.sample(new, min(2, len(new)))
        chosen += [one for one in self.states if one not in chosen][:BOOTED - len(chosen)]
        told = []
        for number, (point, seed, version) in enumerate(chosen):
            with self.boot.kept(f"cut-{number}") as box:
                log.apply(box.disk, point, seed)
                box.start()
                box.wait(blessed(version), START)
                told.append(f"{version} after {box.seconds()} s")
                audit_log(self.keys, box, self.work / f"audit-{number}")
        return f"{len(told)} booted, each with its audit log whole: {', '.join(told)}"


CHECKS = (
    ("update: v1 takes v2 from a stick", Updates.update),
    ("update: broken v3 falls back to v2", Updates.fall_back),
    ("no entry with a try left: the machine stays up", Updates.stuck),
    ("older signed image below the floor", Updates.floor),
    ("power cuts during an update: disks checked", Updates.cuts),
    ("power cuts during an update: disks booted", Updates.cuts_booted),
)
