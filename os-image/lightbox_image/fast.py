"""The quick checks: no virtual machine. What was built is what was meant, and what is damaged is refused."""

import hashlib
import json
import re
import shutil
import struct
import subprocess
import uuid
import zlib

from . import disk, initrd, lock, root, trees
from .build import Build, root_hash_of, sha256
from .keys import Keys
from .machine import wait_until
from .place import HERE, OUT, REPOSITORY, Failed, fresh, recipe
from .rows import Rows, expect

SECTOR = 512


class Fast:
    """The checks of one flavour's build."""

    def __init__(self, build):
        self.flavour = build.flavour
        self.build = build
        self.summary = build.facts()
        self.tools = trees.tools()
        self.keys = Keys(self.tools)
        self.work = fresh(OUT / "fast")

    def run(self, rows):
        """All of them."""
        rows.check("size under 450 MB", self.size)
        rows.check("nothing forbidden in the root", self.forbidden)
        rows.check("nothing forbidden in the initrd", self.forbidden_initrd)
        rows.check("verity accepts the root and refuses one flipped byte", self.verity)
        rows.check("signatures hold, and only ours", self.signatures)
        rows.check("a UKI with one flipped byte is no longer signed", self.tampered)
        rows.check("the signed command line is the one meant", self.command_line)
        rows.check("partitions: types, PARTUUIDs from the root hash, contents", self.partitions)
        rows.check("units are sound", self.units)
        rows.check("the daemon's sandbox", self.sandbox)
        rows.check("the box partitions itself as meant", self.repart)
        rows.check("initrd, verity and UKI are the same when made again", self.again)
        rows.check("the anti-rollback floor, on an emulated TPM", self.floor)
        rows.check("a rename of a boot entry that a power cut broke off is mended before the ESP is mounted", self.cut_rename)
        rows.check("the lock holds what is asked for", self.lock)
        shutil.rmtree(self.work)

    def size(self):
        """What a slot has to hold, and an update to carry."""
        total = self.summary["bytes"]["total"]
        expect(total < 450e6, f"root + verity + UKI have {total / 1e6:.0f} MB")
        return f"{total / 1e6:.0f} MB"

    def unpacked(self):
        """The root's files, read back from the file system that is on the disk."""
        folder = self.work / "root"
        if not folder.exists():
            self.tools.run("fsck.erofs", f"--extract={folder}", self.build.path("root.erofs"))
        return folder

    def forbidden(self):
        """No shell, interpreter, package manager, script or set-uid file."""
        found = root.violations(self.unpacked())
        if self.flavour == "debug":
            expect(any("shell" in line for line in found), "the debug flavour has no shell: it is not what it says")
            return f"debug: {len(found)} things that a product must not have"
        expect(not found, "\n".join(found))
        ours = self.unpacked() / REPOSITORY.relative_to("/")
        expect(not ours.exists(), "a folder of the machine that built it is in the root")
        programs = len(self.summary["contents"]["programs"])
        return f"{programs} programs in PATH, {len(self.summary['contents']['scripts_removed'])} scripts were removed"

    def forbidden_initrd(self):
        """The same of the initrd."""
        names = initrd.listing(self.tools, self.build.path("initrd.zst"))
        found = [name for name in names if root.FORBIDDEN.search(name)]
        expect(not found, f"in the initrd: {', '.join(found)}")
        return f"{len(names)} entries"

    def verity(self):
        """The tree over the root, byte by byte."""
        hash_ = self.summary["root_hash"]
        good, tree = self.build.path("root.erofs"), self.build.path("root.verity")
        self.tools.run("veritysetup", "verify", good, tree, hash_)
        bad = self.work / "flipped"
        shutil.copyfile(good, bad)
        flip(bad, good.stat().st_size // 2)
        done = self.tools.run("veritysetup", "verify", bad, tree, hash_, check=False)
        expect(done.returncode != 0, "veritysetup accepts a root with a flipped byte")
        bad_tree = self.work / "flipped-tree"
        shutil.copyfile(tree, bad_tree)
        flip(bad_tree, tree.stat().st_size // 2)
        done_tree = self.tools.run("veritysetup", "verify", good, bad_tree, hash_, check=False)
        expect(done_tree.returncode != 0, "veritysetup accepts a flipped hash tree")
        return (done.stdout.strip().splitlines() or ["refused"])[-1]

    def signatures(self):
        """Secure Boot's signatures over loader and UKI."""
        ours, stranger = self.keys.certificate("secure-boot"), self.keys.certificate("stranger")
        for name in ("loader.efi", self.build.uki.name):
            self.tools.run("sbverify", "--cert", ours, self.build.path(name))
            other = self.tools.run("sbverify", "--cert", stranger, self.build.path(name), check=False)
            expect(other.returncode != 0, f"{name} is signed by somebody else")
        unsigned = self.tools.run("sbverify", "--cert", ours, disk.STUB_LOADER, check=False)
        expect(unsigned.returncode != 0, "sbverify accepts an unsigned file: it checks nothing")
        return "loader and UKI"

    def tampered(self):
        """A byte of the kernel flipped."""
        bad = self.work / "tampered.efi"
        shutil.copyfile(self.build.uki, bad)
        flip(bad, bad.stat().st_size // 2)
        done = self.tools.run("sbverify", "--cert", self.keys.certificate("secure-boot"), bad, check=False)
        expect(done.returncode != 0, "the signature still holds")
        return "refused"

    def command_line(self):
        """Inside the UKI, with what must stand in it."""
        line = section(self.build.uki, ".cmdline").decode().strip()
        expect(line == disk.command_line(self.summary["root_hash"], self.flavour), f"another command line: {line}")
        for word in ("systemd.verity_root_options=panic-on-corruption", "panic=5", "rd.shell=0", "lockdown=integrity",
                     "systemd.gpt_auto=0", "ro"):
            expect(word in line.split(), f"{word} is missing")
        if self.flavour != "debug":
            expect("forward_to_console=1" not in line, "the journal goes to the console (LIGHTBOX_IMAGE_JOURNAL): build anew")
        signed = json.loads(section(self.build.uki, ".pcrsig"))
        expect(len(signed["sha256"]) == len(disk.PHASES), "the UKI does not carry a signature for each phase")
        return f"{len(line)} characters, PCR 11 signed for {len(disk.PHASES)} phases"

    def partitions(self):
        """The table, and what lies in the partitions."""
        found = disk.partition_table(self.tools, self.build.disk)
        root_uuid, verity_uuid = disk.partition_uuids(root_hash_of(self.summary["command_line"]))
        kinds = ["C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
                 "2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5"]
        expect([one["type"] for one in found] == kinds, f"other types: {[one['type'] for one in found]}")
        expect(found[1]["uuid"].lower() == root_uuid, "the root's PARTUUID is not the root hash's first half")
        expect(found[2]["uuid"].lower() == verity_uuid, "the verity PARTUUID is not the root hash's second half")
        for partition, name in ((found[1], "root.erofs"), (found[2], "root.verity")):
            path = self.build.path(name)
            with self.build.disk.open("rb") as file:
                file.seek(partition["start"] * SECTOR)
                digest = hashlib.sha256(file.read(path.stat().st_size)).hexdigest()
            expect(digest == sha256(path), f"the partition does not hold {name}")
        at = f"{self.build.disk}@@{found[0]['start'] * SECTOR}"
        listed = self.tools.run("mdir", "-b", "-s", "-i", at, "::/").stdout
        for name in ("EFI/BOOT/BOOTX64.EFI", f"EFI/Linux/{self.summary['entry']}", "loader/loader.conf"):
            expect(f"::/{name}" in listed, f"the ESP has no {name}:\n{listed}")
        with self.build.disk.open("rb") as file:
            file.seek(found[0]["start"] * SECTOR + 11)
            bytes_per_sector = struct.unpack("<H", file.read(2))[0]
        expect(bytes_per_sector == SECTOR, f"the ESP has sectors of {bytes_per_sector} bytes, which firmware cannot read")
        return f"{len(found)} partitions; entry {self.summary['entry']}"

    def units(self):
        """systemd's own check of our units, in the root."""
        folder = self.unpacked()
        ours = sorted(path.name for path in (folder / "usr/lib/systemd/system").glob("lightbox*") if path.suffix in (".service", ".timer", ".path"))
        expect(len(ours) >= 6, "our units are missing")
        # It is unmounted when nobody looks for a while, and would take with it whatever requires it: a blessing that waits
        # for a slow gate, a slot that is being written.
        requiring = [name for name in ours
                     if re.search(r"^(RequiresMountsFor|Requires|BindsTo)=.*(/efi|efi\.mount)",
                                  (folder / "usr/lib/systemd/system" / name).read_text(), re.MULTILINE)]
        expect(not requiring, f"these require /efi, which comes and goes: {', '.join(requiring)}")
        done = self.tools.run("systemd-analyze", "verify", f"--root={folder}", "--man=no", "--recursive-errors=no", *ours,
                              check=False)
        problems = [line for line in done.stdout.splitlines() if "lightbox" in line]
        expect(done.returncode == 0 and not problems, done.stdout)
        return ", ".join(ours)

    def sandbox(self):
        """systemd's score of exposure, 0 best to 10."""
        done = self.tools.run("systemd-analyze", "security", "--offline=true", f"--root={self.unpacked()}", "--threshold=25",
                              "--no-pager", "lightbox.service", check=False)
        score = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
        expect(score is not None and done.returncode == 0, done.stdout[-400:])
        return f"exposure {score[1]} of 10"

    def repart(self):
        """The box's own definitions on a copy of the disk: what is there stays, the rest is added."""
        folder = self.unpacked()
        copy = self.work / "disk.raw"
        subprocess.run(["cp", "--sparse=always", self.build.disk, copy], check=True)
        definitions = fresh(self.work / "repart")
        for file in (folder / "usr/lib/repart.d").glob("*.conf"):
            # Without a TPM here: everything but the encryption.
            (definitions / file.name).write_text(file.read_text().replace("Encrypt=tpm2\n", "").replace("Format=ext4\n", ""))
        said = self.tools.run("systemd-repart", "--dry-run=yes", "--offline=yes", "--json=short", "--size=4G", "--pretty=no",
                              f"--definitions={definitions}", copy).stdout
        rows = json.loads(said[said.index("["):said.rindex("]") + 1])
        labels = [row["label"] for row in rows]
        version = self.build.version
        wanted = ["esp", f"lightbox_{version}", f"lightbox_{version}_verity", "_empty", "_empty", "data"]
        expect(labels == wanted, f"it would make {labels}")
        expect([row["activity"] for row in rows] == ["unchanged"] * 3 + ["create"] * 3,
               f"it would change what is there: {[row['activity'] for row in rows]}")
        expect("Encrypt=tpm2" in (folder / "usr/lib/repart.d/40-data.conf").read_text(), "the data would not be encrypted")
        return " ".join(labels)

    def again(self):
        """The small parts made a second time from the same root."""
        folder, base = self.unpacked(), trees.tree("root")
        kernel, release = trees.kernel()
        made = initrd.Initrd(self.work / "initrd", folder, base, release, self.tools)
        made.assemble()
        made.pack(self.work / "initrd.zst")
        expect(sha256(self.work / "initrd.zst") == self.summary["digests"]["initrd"], "the initrd differs")
        hash_ = disk.make_verity(self.tools, self.build.path("root.erofs"), self.work / "verity", self.build.version)
        expect(hash_ == self.summary["root_hash"], "the root hash differs")
        expect(sha256(self.work / "verity") == self.summary["digests"]["verity"], "the hash tree differs")
        uki = self.work / "uki.efi"
        disk.make_uki(self.tools, kernel / f"boot/vmlinuz-{release}", release, self.work / "initrd.zst",
                      folder / "usr/lib/os-release", self.summary["command_line"], self.keys, uki)
        expect(sha256(uki) == self.summary["digests"]["unsigned_uki"], "the UKI differs")
        return "bit-identical"

    def floor(self):
        """The program that the initrd runs: an older image is refused, and so is data without a floor."""
        program = self.build.binary.parent / root.FLOOR
        state = fresh(self.work / "tpm")
        empty = kernels_view(self.work / "sys", ["lightbox_0.1.0"], stick=["data"])
        disk_with_data = kernels_view(self.work / "sys-with-data", ["lightbox_0.1.0", "data"], stick=[])
        entries = fresh(self.work / "esp") / "EFI/Linux"
        entries.mkdir(parents=True)
        shutil.copyfile(self.build.uki, entries / self.summary["entry"])
        sock = self.work / "tpm.sock"
        emulator = subprocess.Popen(
            self.tools.command("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--server", f"type=unixio,path={sock}",
                               "--flags", "not-need-init,startup-clear"),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def ask(verb, number, blocks):
            names = self.work / "os-release"
            names.write_text(f"LIGHTBOX_ROLLBACK={number}\n")
            more = ["--sys", blocks] if verb == "check" else ["--esp", entries.parent.parent]
            more += ["--os-release", names]
            return self.tools.run(program, verb, "--tpm", f"unix:{sock}", "--note", self.work / "note", *more, check=False)

        try:
            wait_until(sock.exists, 20, "the TPM's socket")
            steps = [("check", 1, disk_with_data, "REFUSED: this machine has data"), ("check", 1, empty, "floor 0"),
                     ("raise", 0, empty, "floor 0: the lowest of 1 boot entries; the TPM's owner password is set"), ("raise", 1, empty, "floor 1"),
                     ("check", 0, disk_with_data, "starts none below"),
                     ("check", recipe()["rollback"], disk_with_data, "may start"), ("raise", 1, empty, "floor")]
            for verb, number, blocks, wanted in steps:
                said = ask(verb, number, blocks).stdout.strip()
                expect(wanted in said, f"{verb} of number {number} says '{said}' instead of '{wanted}'")
        finally:
            emulator.terminate()
            emulator.wait()
        return f"{len(steps)} steps; {said}"

    def cut_rename(self):
        """Linux renames on FAT in three writes; after the second, two names have the same clusters."""
        lines = (self.unpacked() / "etc/fstab").read_text().splitlines()
        esp = [line.split() for line in lines if " /efi vfat " in line]
        expect(len(esp) == 1 and esp[0][5] == "2", "the EFI system partition is not checked before it is mounted")
        image, uki = self.work / "cut.fat", self.work / "cut.uki"
        image.write_bytes(b"")
        with open(image, "r+b") as file:
            file.truncate(64 << 20)
        uki.write_bytes(hashlib.sha256(b"a boot entry").digest() * 100_000)
        old, new = "lightbox_1.2.0+2-1.efi", "lightbox_1.2.0+3.efi"
        self.tools.run("mkfs.fat", "-F", "32", image)
        self.tools.run("mmd", "-i", image, "::/EFI", "::/EFI/Linux")
        for name in (old, new):
            self.tools.run("mcopy", "-i", image, uki, f"::/EFI/Linux/{name}")
        # Both are files of their own so far: the second name gets the clusters of the first.
        data = bytearray(image.read_bytes())
        clusters = struct.unpack_from("<H", data, 14)[0] + data[16] * struct.unpack_from("<I", data, 36)[0]
        found = [at for at in range(clusters * SECTOR, len(data), 32)
                 if data[at + 11] == 0x20 and data[at:at + 6] == b"LIGHTB" and data[at + 8:at + 11] == b"EFI"]
        expect(len(found) == 2, f"{len(found)} entries where two were made")
        for field in (slice(20, 22), slice(26, 32)):
            first = slice(found[0] + field.start, found[0] + field.stop)
            data[found[1] + field.start:found[1] + field.stop] = data[first]
        image.write_bytes(data)
        done = self.tools.run("fsck.fat", "-a", image, check=False)
        # As systemd-fsck has it: 1 is mended, and lost clusters of the second file are no fault.
        expect(done.returncode in (0, 1), f"fsck.fat: {done.returncode}: {done.stdout}")
        sizes = {}
        for name in (old, new):
            back = self.work / "cut.back"
            self.tools.run("mcopy", "-n", "-o", "-i", image, f"::/EFI/Linux/{name}", back)
            sizes[name] = back.stat().st_size
            expect(sizes[name] in (0, uki.stat().st_size), f"{name} has {sizes[name]} bytes")
            if sizes[name]:
                expect(back.read_bytes() == uki.read_bytes(), f"{name} has other bytes")
        expect(sorted(map(bool, sizes.values())) == [False, True], f"not one whole file and one empty one: {sizes}")
        clean = self.tools.run("fsck.fat", "-n", image, check=False)
        expect(clean.returncode == 0, f"still not clean: {clean.stdout}")
        return "one name keeps the file, the other is empty, which the next blessing removes"

    def lock(self):
        """Every package of image.toml is in the lock, once."""
        packages = lock.read()
        names = {package.name for package in packages}
        asked = {name for name, set_ in recipe()["packages"].items() if name != "kernel" for name in set_}
        expect(asked <= names, f"not in the lock: {', '.join(sorted(asked - names))}")
        expect(len(names) == len(packages), "a package is in the lock twice")
        for package in packages:
            expect(re.fullmatch(r"[0-9a-f]{64}", package.sha256), f"{package.name} has no digest")
        text = (HERE / "packages.lock").read_text()
        expect("://" not in text, "the lock names a host")
        return f"{len(packages)} packages"


def kernels_view(folder, own, stick):
    """`/sys` as it shows a disk with the running root and partitions of these names, and a stick with others."""
    blocks = fresh(folder) / "class/block"
    for disk_, labels in (("vda", own), ("sda", stick)):
        for number, label in enumerate(labels, 1):
            place = blocks / disk_ / f"{disk_}{number}"
            place.mkdir(parents=True)
            (place / "partition").write_text(f"{number}\n")
            (place / "size").write_text("8\n")
            (place / "uevent").write_text(f"DEVNAME={place.name}\nPARTNAME={label}\n")
    slaves = blocks / "dm-0/slaves"
    slaves.mkdir(parents=True)
    (blocks / "dm-0/dm").mkdir()
    (blocks / "dm-0/dm/name").write_text("root\n")
    (slaves / "vda1").symlink_to(blocks / "vda/vda1")
    return folder


def section(path, name):
    """A section of an EFI program (PE/COFF), by its header."""
    data = path.read_bytes()
    header = struct.unpack_from("<I", data, 0x3C)[0]
    count, optional = struct.unpack_from("<H", data, header + 6)[0], struct.unpack_from("<H", data, header + 20)[0]
    for index in range(count):
        at = header + 24 + optional + 40 * index
        if data[at:at + 8].rstrip(b"\0") == name.encode():
            size, _, _, offset = struct.unpack_from("<IIII", data, at + 8)
            return data[offset:offset + size]
    raise Failed(f"{path.name} has no section {name}")


def root_of(path):
    """Where each partition of a disk begins, by PARTUUID: from the first copy of the table, or from the one at the end
    where the first is damaged, as firmware and a kernel with `gpt` on its command line do."""
    size = path.stat().st_size
    with path.open("rb") as file:
        for at in (SECTOR, size - SECTOR):
            file.seek(at)
            header = bytearray(file.read(SECTOR))
            if header[:8] != b"EFI PART":
                continue
            length, crc = struct.unpack_from("<I", header, 12)[0], struct.unpack_from("<I", header, 16)[0]
            header[16:20] = bytes(4)
            first, count, each = struct.unpack_from("<QII", header, 72)
            file.seek(first * SECTOR)
            entries = file.read(count * each)
            if zlib.crc32(header[:length]) == crc and zlib.crc32(entries) == struct.unpack_from("<I", header, 88)[0]:
                rows = [entries[row:row + each] for row in range(0, count * each, each)]
                return {str(uuid.UUID(bytes_le=row[16:32])): struct.unpack_from("<Q", row, 32)[0] * SECTOR
                        for row in rows if any(row[:16])}
    raise Failed(f"{path.name} has no partition table that is whole")


def flip(path, at):
    """Changes one byte of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 0xFF]))


def run(flavour, binary=None):
    """The quick checks of the image that was built, or of one that is built with another `binary` just for them;
    yields the failed ones' names."""
    rows = Rows("fast.json")
    build = Build(flavour, binary=binary)
    if binary:
        build.run()
    Fast(build).run(rows)
    return rows.failed()
