"""The initrd: a selection of the root's own files (image.toml, [initrd]), packed by ourselves.

No initrd generator: what it would bring, a shell first of all, is not there, and two builds are the same by
construction. systemd runs in it as it does in the root: it checks dm-verity's root hash, mounts the root, goes on.
"""

import os
import re
import shutil
import stat
import subprocess

from .place import HERE, Failed, Tools, fresh, recipe

OVERLAY = HERE / "initrd"
MULTIARCH = "usr/lib/x86_64-linux-gnu"


class Initrd:
    """An initrd in the making, below `tree`; `root` is the finished root, `base` the tree that it was made of."""

    def __init__(self, tree, root, base, release, tools):
        self.tree = fresh(tree)
        self.root = root
        self.base = base
        self.release = release
        self.tools = tools
        self.made_of = recipe()["initrd"]
        self.units = set()

    def assemble(self):
        """All steps in order."""
        for name in ("bin", "sbin", "lib", "lib64"):
            (self.tree / "usr" / name).mkdir(parents=True)
            (self.tree / name).symlink_to(f"usr/{name}")
        for name in ("dev", "proc", "sys", "run", "tmp", "sysroot", "etc", "var"):
            (self.tree / name).mkdir()
        programs = [*self.made_of["programs"], *(f"usr/lib/systemd/{name}" for name in self.made_of["systemd"])]
        libraries = [f"{MULTIARCH}/{name}" for name in self.made_of["libraries"]]
        for path in [*programs, *libraries, *self.made_of["files"]]:
            self.take(path)
        # Our own program needs none that the others do not.
        theirs = [path for path in programs if (self.base / path).exists()]
        self.libraries_of([*theirs, *libraries, *(p for p in self.made_of["files"] if p.startswith("usr/lib/udev/") and not p.endswith(".rules"))])
        self.take_units()
        self.take_modules()
        for name in ("passwd", "group"):
            shutil.copyfile(self.root / "etc" / name, self.tree / "etc" / name)
        release = (self.root / "usr/lib/os-release").read_text()
        (self.tree / "etc/initrd-release").write_text(release)
        (self.tree / "etc/os-release").symlink_to("initrd-release")
        shutil.copytree(OVERLAY, self.tree, dirs_exist_ok=True)
        (self.tree / "init").symlink_to("usr/lib/systemd/systemd")
        self.tools.run("ldconfig", "-r", self.tree)
        shutil.rmtree(self.tree / "var/cache", ignore_errors=True)

    def take(self, path):
        """Copies a file of the root; a link with what it points to."""
        source, to = self.root / path, self.tree / path
        if not os.path.lexists(source):
            raise Failed(f"the root has no {path}, which the initrd needs; remedy: mend [initrd] in image.toml")
        if os.path.lexists(to):
            return
        to.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target = os.readlink(source)
            to.symlink_to(target)
            full = target.lstrip("/") if target.startswith("/") else os.path.normpath(os.path.join(os.path.dirname(path), target))
            self.take(re.sub(r"^(bin|sbin|lib|lib64)/", r"usr/\1/", full))
        else:
            shutil.copy2(source, to)

    def libraries_of(self, programs):
        """Copies all libraries that these name as needed, found by the dynamic loader itself."""
        script = 'for file; do /lib64/ld-linux-x86-64.so.2 --list "/$file" || exit 1; done'
        said = Tools(self.base).run("sh", "-c", script, "sh", *programs).stdout
        if missing := re.findall(r"^\s*(\S+) => not found", said, re.MULTILINE):
            raise Failed(f"libraries are missing: {', '.join(missing)}; remedy: add their packages to [packages.root]")
        found = set(re.findall(r"(?:=> |^\s+)(/\S+) \(0x", said, re.MULTILINE))
        for path in sorted(found):
            self.take(re.sub(r"^/(lib|lib64)/", r"usr/\1/", path).lstrip("/"))

    def take_units(self):
        """Copies units, and of what they want and require those that are there too."""
        folder = "usr/lib/systemd/system"
        for name in self.made_of["units"]:
            self.take(f"{folder}/{name}")
        self.take(f"{folder}/emergency.service")
        names = {entry.name for entry in (self.tree / folder).iterdir()}
        for wants in sorted((self.root / folder).iterdir()):
            if wants.suffix not in (".wants", ".requires") or wants.stem not in names:
                continue
            for link in sorted(wants.iterdir()):
                if link.name in names:
                    to = self.tree / folder / wants.name / link.name
                    to.parent.mkdir(exist_ok=True)
                    to.symlink_to(f"../{link.name}")

    def take_modules(self):
        """Copies modules with all that they depend on."""
        folder = self.root / "usr/lib/modules" / self.release
        depends, paths = {}, {}
        for line in (folder / "modules.dep").read_text().splitlines():
            path, _, needs = line.partition(":")
            name = module_name(path)
            paths[name] = path
            depends[name] = [module_name(need) for need in needs.split()]
        builtin = {module_name(line) for line in (folder / "modules.builtin").read_text().splitlines()}
        wanted, left = set(), [name.replace("-", "_") for name in self.made_of["modules"]]
        while left:
            name = left.pop()
            if name in wanted or name in builtin:
                continue
            if name not in paths:
                raise Failed(f"the kernel has no module {name}; remedy: mend [initrd] modules in image.toml")
            wanted.add(name)
            left += depends[name]
        for name in sorted(wanted):
            to = self.tree / "usr/lib/modules" / self.release / paths[name]
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / paths[name], to)
        for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
            shutil.copyfile(folder / name, self.tree / "usr/lib/modules" / self.release / name)
        self.tools.run("depmod", "-b", self.tree, self.release)

    def pack(self, output):
        """Writes the initrd: a cpio archive of one form, compressed by zstd."""
        archive = output.with_suffix(".cpio")
        with archive.open("wb") as file:
            write_cpio(file, self.tree)
        self.tools.run("zstd", "-q", "-f", "-12", "-T1", archive, "-o", output)
        archive.unlink()
        return sorted(str(path.relative_to(self.tree)) for path in self.tree.rglob("*") if path.is_file() and not path.is_symlink())


def module_name(path):
    """kernel/drivers/md/dm-verity.ko.xz -> dm_verity"""
    return path.rsplit("/", 1)[-1].split(".ko")[0].replace("-", "_")


def write_cpio(file, tree):
    """The tree as a cpio archive (newc): sorted, owned by root, without times or inode numbers of this machine."""
    def entry(number, name, mode, data):
        encoded = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = [number, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(encoded), 0]
        file.write(b"070701" + b"".join(b"%08x" % field for field in fields) + encoded)
        file.write(b"\0" * (-(110 + len(encoded)) % 4))
        file.write(data)
        file.write(b"\0" * (-len(data) % 4))

    for number, path in enumerate(sorted(tree.rglob("*")), start=1):
        name = str(path.relative_to(tree))
        if path.is_symlink():
            entry(number, name, stat.S_IFLNK | 0o777, os.readlink(path).encode())
        elif path.is_dir():
            entry(number, name, stat.S_IFDIR | 0o755, b"")
        else:
            mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            entry(number, name, stat.S_IFREG | mode, path.read_bytes())
    entry(0, "TRAILER!!!", 0, b"")
    file.write(b"\0" * (-file.tell() % 512))


def listing(tools, initrd):
    """The names in a packed initrd."""
    done = subprocess.run(tools.command("zstd", "-q", "-d", "-c", initrd), stdout=subprocess.PIPE, check=True)
    data, at, names = done.stdout, 0, []
    while True:
        size, length = int(data[at + 54:at + 62], 16), int(data[at + 94:at + 102], 16)
        name = data[at + 110:at + 110 + length - 1].decode()
        if name == "TRAILER!!!":
            return names
        names.append(name)
        at += 110 + length
        at += -at % 4
        at += size
        at += -at % 4
