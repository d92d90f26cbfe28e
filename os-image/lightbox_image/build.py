"""Builds an image: `Build(flavour).run()` leaves it in target/image/FLAVOUR/.

  lightbox-VERSION.raw        the disk, to be written to a box (without a data partition)
  lightbox_VERSION.efi        the signed UKI; .unsigned.efi beside it, the same on every build
  root.erofs, root.verity     the root and its hash tree; roothash: the root hash
  initrd.zst, loader.efi      what else is signed
  summary.json, sbom.cdx.json sizes, digests, seconds; the parts by name and version
"""

import hashlib
import json
import os
import re
import shutil
import tomllib

from . import disk, lock, root, sbom, trees
from .initrd import Initrd
from .keys import IMAGES, Keys
from .place import KEYS, OUT, REPOSITORY, Failed, Stopwatch, fresh, need_root, run, say, write_json


def version():
    """LIGHTBOX_IMAGE_VERSION, else the workspace's."""
    if named := os.environ.get("LIGHTBOX_IMAGE_VERSION"):
        return named
    return tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["workspace"]["package"]["version"]


def sha256(path):
    """A file's digest."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Build:
    """One build of one flavour."""

    def __init__(self, flavour, again=False, other_version=None, binary=None, rollback=None, broken=False):
        need_root()
        self.flavour = flavour
        self.version = other_version or version()
        self.again = again
        # What is built for a comparison or as another version lies beside the image itself.
        self.beside = "again" if again else "checked" if binary else other_version
        self.binary = binary or root.LIGHTBOX
        self.rollback = rollback
        self.broken = broken
        self.folder = OUT / (f"{flavour}-{self.beside}" if self.beside else flavour)
        self.watch = Stopwatch()

    def path(self, name):
        """A file of this build."""
        return self.folder / name

    @property
    def disk(self):
        """The disk."""
        return self.path(f"lightbox-{self.version}.raw")

    @property
    def uki(self):
        """The signed UKI."""
        return self.path(f"lightbox_{self.version}.efi")

    def facts(self):
        """summary.json of the finished build; `Failed` where there is none."""
        if not self.path("summary.json").exists() or not self.disk.exists():
            raise Failed(f"there is no {self.flavour} image {self.version}; remedy: ./justw image {self.flavour}")
        return json.loads(self.path("summary.json").read_text())

    def run(self):
        """All steps. `again` makes root tree and kernel anew, too, so that two builds have nothing in common."""
        work = fresh(self.folder / "work")
        tools = trees.tools()
        keys = Keys(tools)
        self.watch.lap("tools")
        base = trees.tree("root", again=self.again)
        kernel, release = trees.kernel(again=self.again)
        self.watch.lap("packages")

        made = root.Root(work / "root", self.flavour, self.version, tools, keys, self.binary, self.rollback, self.broken)
        made.assemble(base, kernel, release)
        report = made.report()
        problems = [] if self.flavour == "debug" else root.violations(made.tree)
        self.watch.lap("root tree")
        initrd = Initrd(work / "initrd", made.tree, base, release, tools)
        initrd.assemble()
        in_initrd = initrd.pack(self.path("initrd.zst"))
        self.watch.lap("initrd")
        disk.make_root(tools, made.tree, self.path("root.erofs"))
        self.watch.lap("erofs")
        root_hash = disk.make_verity(tools, self.path("root.erofs"), self.path("root.verity"), self.version)
        self.path("roothash").write_text(root_hash + "\n")
        self.watch.lap("verity")
        unsigned = self.path(f"lightbox_{self.version}.unsigned.efi")
        line = disk.command_line(root_hash, self.flavour)
        disk.make_uki(tools, kernel / f"boot/vmlinuz-{release}", release, self.path("initrd.zst"),
                      made.tree / "usr/lib/os-release", line, keys, unsigned)
        disk.sign(tools, keys, unsigned, self.uki)
        disk.sign(tools, keys, disk.STUB_LOADER, self.path("loader.efi"))
        self.watch.lap("signed UKI")
        entry = disk.make_esp(work / "esp", self.path("loader.efi"), self.uki, self.version)
        disk.make_disk(tools, work, self.disk, work / "esp", self.path("root.erofs"), self.path("root.verity"),
                       root_hash, self.version)
        self.watch.lap("disk")
        write_json(self.path("sbom.cdx.json"), sbom.make(self.version, self.flavour, lock.read(), made.tree))
        units = sorted(path.name for path in (made.tree / "etc/systemd/system").rglob("*") if path.is_symlink())
        shutil.rmtree(work)
        summary = self.summary(root_hash, release, entry, line, report, in_initrd, units, problems)
        write_json(self.path("summary.json"), summary)
        if not self.beside:
            shutil.copyfile(self.path("summary.json"), OUT / "summary.json")
        say(f"{self.flavour} {self.version}: root + verity + UKI {summary['bytes']['total'] / 2**20:.0f} MiB "
            f"in {summary['seconds']} s")
        return summary

    def summary(self, root_hash, release, entry, line, report, in_initrd, units, problems):
        """summary.json."""
        sizes = {"root": self.path("root.erofs").stat().st_size, "verity": self.path("root.verity").stat().st_size,
                 "uki": self.uki.stat().st_size, "initrd": self.path("initrd.zst").stat().st_size}
        digests = {name: sha256(self.path(file)) for name, file in (
            ("root", "root.erofs"), ("verity", "root.verity"), ("initrd", "initrd.zst"),
            ("unsigned_uki", f"lightbox_{self.version}.unsigned.efi"))}
        text = json.dumps(digests, sort_keys=True).encode()
        return {
            "version": self.version, "flavour": self.flavour,
            "bytes": {**sizes, "total": sizes["root"] + sizes["verity"] + sizes["uki"]},
            # Over everything but the signatures: the same for two builds of the same sources.
            "digest": hashlib.sha256(text).hexdigest(), "digests": digests,
            "root_hash": root_hash, "kernel": release, "command_line": line, "entry": entry,
            "seconds": self.watch.total(), "steps": self.watch.steps,
            "contents": report, "initrd_files": in_initrd, "enabled_units": units, "violations": problems,
        }


def publish(build, repository=IMAGES):
    """Adds a built image to the signed repository of images, by the verb that publishers use."""
    keys = [part for name in ("vendor-lightbox-system", "snapshot", "timestamp")
            for part in ("--key", KEYS / "images" / f"{name}.pem")]
    run([build.binary, "system", "publish", "--root-fs", build.path("root.erofs"), "--hash-tree", build.path("root.verity"),
         "--uki", build.uki, "--repository", repository, *keys])
    say(f"{build.flavour} {build.version} is in {repository}")


def load(flavour):
    """The summary of a finished build."""
    path = OUT / flavour / "summary.json"
    return json.loads(path.read_text()) if path.exists() else None


def compare(flavour):
    """Whether two builds from nothing are the same but for the signatures; yields a sentence."""
    first, second = load(flavour), load(f"{flavour}-again")
    if first is None or second is None:
        raise Failed(f"there are no two builds to compare; remedy: ./justw image-twice {flavour}")
    differ = [name for name in first["digests"] if first["digests"][name] != second["digests"][name]]
    if differ:
        raise Failed(f"the two builds differ in {', '.join(differ)}; remedy: unpack both with fsck.erofs --extract and "
                     "compare; what differs depends on time, order or this machine")
    return f"{flavour} {first['version']}: {', '.join(first['digests'])} are bit-identical ({first['digest']})"


def built(flavour):
    """A finished build of the flavour, made if there is none."""
    build = Build(flavour)
    found = load(flavour)
    if found is None or not build.disk.exists() or found["version"] != build.version:
        build.run()
    return build


def root_hash_of(line):
    """The root hash in a command line."""
    return re.search(r"\broothash=([0-9a-f]{64})", line)[1]
