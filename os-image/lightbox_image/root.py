"""The root: Debian's packages, our files over them, and everything taken out that a box does not need.

Flavours:
  production  no site file: waits for provisioning
  test        production, with a site file and keys of a test hospital baked in
  debug       test, with shells, tools and a console login; it says so wherever it shows its name
"""

import os
import re
import shutil
from pathlib import Path

from .place import EPOCH, HERE, REPOSITORY, Failed, forget_repository, fresh, recipe, run

FLAVOURS = ("production", "test", "debug")
# As the product names it.
MACHINE = "x86_64"
# Where the image's own files come from: the overlay of all flavours, then of the flavour.
OVERLAY = HERE / "root"
LIGHTBOX = REPOSITORY / "target/release/lightbox"
# Beside it, from the same build.
FLOOR = "lightbox-floor"
ONNXRUNTIME = REPOSITORY / "target/parts/onnxruntime/libonnxruntime.so"
BUNDLES = (REPOSITORY / "models/reference/phantom-detector/bundle", REPOSITORY / "target/bundles/brain-tumour")
BUNDLE_NAMES = ("phantom-detector", "brain-tumour")


class Root:
    """A root in the making: `tree` is a folder that will become the file system."""

    def __init__(self, tree, flavour, version, tools, keys, lightbox, rollback=None, broken=False):
        self.tree = tree
        self.flavour = flavour
        self.version = version
        self.tools = tools
        self.keys = keys
        self.lightbox = lightbox
        self.removed_scripts = []
        self.made_of = recipe()
        self.rollback = self.made_of["rollback"] if rollback is None else rollback
        self.broken = broken

    def assemble(self, base, kernel, release):
        """All steps in order."""
        if self.tree.exists():
            shutil.rmtree(self.tree)
        run(["cp", "-a", "--reflink=auto", base, self.tree])
        forget_repository(self.tree)
        self.kernel_modules(kernel, release)
        self.overlay(OVERLAY)
        if self.flavour != "production":
            self.overlay(HERE / "flavours/test")
        if self.flavour == "debug":
            self.overlay(HERE / "flavours/debug")
        if self.broken:
            self.overlay(HERE / "flavours/broken")
        self.product()
        self.names()
        self.partitions()
        self.users_and_units()
        if self.flavour != "debug":
            self.take_out()
        self.finish()

    def kernel_modules(self, kernel, release):
        """Debian's signed modules, without what image.toml drops."""
        source = kernel / "usr/lib/modules" / release
        if not source.exists():
            source = kernel / "lib/modules" / release
        to = self.tree / "usr/lib/modules" / release
        drop = [f"./kernel/{path}" for path in self.made_of["kernel"]["drop"]]
        shutil.copytree(source, to, symlinks=True, dirs_exist_ok=True,
                        ignore=lambda folder, names: {
                            name for name in names
                            if "./" + str((Path(folder) / name).relative_to(source)) in drop or name in ("build", "source")})
        self.tools.run("depmod", "-b", self.tree, release)

    def overlay(self, folder):
        """Copies a folder of our files over the root."""
        for source in sorted(folder.rglob("*")):
            to = self.tree / source.relative_to(folder)
            # Modes by rule: those of a checkout depend on who made it.
            if source.is_dir():
                to.mkdir(mode=0o755, parents=True, exist_ok=True)
            else:
                shutil.copyfile(source, to)
                to.chmod(0o644)

    def product(self):
        """The daemon, ONNX Runtime and the reference bundles."""
        floor = self.lightbox.parent / FLOOR
        remedy = "cargo build --release -p lightbox -p lightbox-bootstrap"
        for path, remedy in ((self.lightbox, remedy), (floor, remedy), (ONNXRUNTIME, "./justw parts")):
            if not path.exists():
                raise Failed(f"{path} is missing; remedy: {remedy} (./justw image does it)")
        for source in (self.lightbox, floor):
            binary = self.tree / "usr/bin" / source.name
            self.tools.run("strip", "--strip-all", "-o", binary, source)
            binary.chmod(0o755)
        library = self.tree / "usr/lib/lightbox"
        library.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ONNXRUNTIME, library / "libonnxruntime.so")
        for source, name in zip(BUNDLES, BUNDLE_NAMES):
            if not (source / "manifest.toml").exists():
                raise Failed(f"{source.relative_to(REPOSITORY)} is missing; remedy: ./justw parts")
            shutil.copytree(source, library / "bundles" / name)
        share = self.tree / "usr/share/lightbox"
        share.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.keys.image_root(self.lightbox), share / "system-root.json")
        if self.flavour != "production":
            site = self.tree / "usr/share/lightbox/test-site"
            for name in ("ca.crt", "lightbox.crt", "lightbox.key"):
                shutil.copyfile(self.keys.site / name, site / name)
            file = site / "site.toml"
            text = file.read_text()
            for party in ("ct1", "pacs", "operator", "lightbox"):
                text = text.replace(f"@{party}@", self.keys.fingerprint(party))
            if left := re.findall(r"@\w+@", text):
                raise Failed(f"{file.name} of the test flavour has unknown placeholders: {', '.join(left)}")
            file.write_text(text)

    def names(self):
        """What the system calls itself."""
        note = {"production": "", "test": " (test flavour: not for clinical use)",
                "debug": " (DEBUG FLAVOUR: shells inside, not for clinical use)"}[self.flavour]
        # What the ledger becomes under this release; whoever publishes the image reads it from the boot entry.
        ledger = run([self.lightbox, "system", "ledger-schema"]).stdout.strip()
        text = (f'ID=lightbox\nID_LIKE=debian\nNAME=Lightbox\nVERSION_ID={self.version}\n'
                f'PRETTY_NAME="Lightbox {self.version}{note}"\nIMAGE_ID=lightbox\nIMAGE_VERSION={self.version}\n'
                f'VARIANT_ID={self.flavour}\nLIGHTBOX_ROLLBACK={self.rollback}\nLIGHTBOX_LEDGER={ledger}\n'
                f'LIGHTBOX_MACHINE={MACHINE}\n')
        (self.tree / "usr/lib/os-release").write_text(text)
        os_release = self.tree / "etc/os-release"
        os_release.unlink(missing_ok=True)
        os_release.symlink_to("../usr/lib/os-release")
        (self.tree / "etc/hostname").write_text("lightbox\n")
        (self.tree / "etc/issue").write_text(f"Lightbox {self.version}{note}\n\n")
        # Empty: the machine's own identifier is set anew at each start, the root being read-only.
        (self.tree / "etc/machine-id").write_text("")
        resolv = self.tree / "etc/resolv.conf"
        resolv.unlink(missing_ok=True)
        resolv.symlink_to("../run/systemd/resolve/resolv.conf")
        # The machine on which it was built has no place in it.
        for file in ("etc/hosts",):
            (self.tree / file).write_text("127.0.0.1 localhost lightbox\n::1 localhost\n")

    def partitions(self):
        """The sizes of image.toml, in what the box partitions itself by."""
        for file in sorted((self.tree / "usr/lib/repart.d").glob("*.conf")):
            text = file.read_text()
            for key, value in self.made_of["disk"].items():
                text = text.replace(f"@{key}@", str(value))
            file.write_text(text)

    def users_and_units(self):
        """Users of sysusers.d; units as our presets say; what must never start is masked."""
        self.tools.run("systemd-sysusers", f"--root={self.tree}")
        # No password opens anything: there is no login but the debug flavour's console.
        for file in ("etc/shadow-", "etc/passwd-", "etc/group-", "etc/gshadow-", "etc/.pwd.lock"):
            (self.tree / file).unlink(missing_ok=True)
        enabled = self.tree / "etc/systemd/system"
        for entry in enabled.iterdir() if enabled.exists() else []:
            if entry.is_dir() and entry.suffix in (".wants", ".requires") and not (OVERLAY / "etc/systemd/system" / entry.name).exists():
                shutil.rmtree(entry)
        self.tools.run("systemctl", f"--root={self.tree}", "preset-all", "--preset-mode=full")
        masks = (self.tree / "usr/lib/lightbox/masked-units").read_text().split("\n")
        for unit in (line.split("#")[0].strip() for line in masks):
            if unit:
                link = enabled / unit
                link.unlink(missing_ok=True)
                link.symlink_to("/dev/null")
        default = enabled / "default.target"
        default.unlink(missing_ok=True)
        default.symlink_to("/usr/lib/systemd/system/multi-user.target")

    def take_out(self):
        """Removes shells, interpreters, the package manager, and programs that nothing here runs."""
        strip = self.made_of["strip"]
        lists = self.tree / "var/lib/dpkg/info"
        ours = {path.relative_to(OVERLAY) for path in OVERLAY.rglob("*") if path.is_file()}
        for package in strip["packages"]:
            for file in [lists / f"{package}.list", lists / f"{package}:amd64.list"]:
                if not file.exists():
                    continue
                for line in file.read_text().splitlines():
                    # Debian's own lists still say /bin/x for what lies in /usr/bin.
                    path = re.sub(r"^(bin|sbin|lib|lib64)/", r"usr/\1/", line.lstrip("/"))
                    full = self.tree / path
                    if Path(path) not in ours and (full.is_symlink() or full.is_file()):
                        full.unlink()
        for path in strip["paths"]:
            full = self.tree / path
            if full.is_symlink() or full.is_file():
                full.unlink()
            elif full.exists():
                shutil.rmtree(full)
        keep = set(self.made_of["programs"])
        for folder in ("usr/bin", "usr/sbin"):
            for entry in sorted((self.tree / folder).iterdir()):
                if entry.name not in keep:
                    entry.unlink()
        for path in self.files():
            with path.open("rb") as file:
                if file.read(2) == b"#!":
                    self.removed_scripts.append(str(path.relative_to(self.tree)))
                    path.unlink()
                    continue
            # Debian's mount and dbus helper run with root's rights for whoever calls: nobody here needs that.
            path.chmod(path.stat().st_mode & 0o1777)
        self.unlink_dangling()

    def files(self):
        """Regular files."""
        return [path for path in sorted(self.tree.rglob("*")) if path.is_file() and not path.is_symlink()]

    def unlink_dangling(self):
        """Links into what was removed go too, links to the running system's folders stay."""
        for path in sorted(self.tree.rglob("*")):
            if not path.is_symlink():
                continue
            target = os.readlink(path)
            at = self.tree / target.lstrip("/") if target.startswith("/") else path.parent / target
            outside = re.match(r"(/|\.\./)*(run|proc|dev|sys|var)/", target)
            if not outside and not os.path.lexists(at):
                path.unlink()

    def finish(self):
        """Empties what is not part of the system, makes the mount points, and forgets times."""
        for folder in ("var", "run", "tmp", "dev", "proc", "sys", "root"):
            full = self.tree / folder
            if full.exists():
                shutil.rmtree(full)
            full.mkdir(mode=0o755)
        (self.tree / "root").chmod(0o700)
        (self.tree / "tmp").chmod(0o1777)
        for folder in ("efi", "boot", "mnt"):
            (self.tree / folder).mkdir(exist_ok=True)
        for release in (self.tree / "usr/lib/modules").iterdir():
            (release / "vmlinuz").unlink(missing_ok=True)
        self.tools.run("ldconfig", "-r", self.tree)
        (self.tree / "var/cache/ldconfig/aux-cache").unlink(missing_ok=True)
        fresh(self.tree / "var").chmod(0o755)
        # Services that start before the data is mounted get a private one.
        (self.tree / "var/tmp").mkdir()
        (self.tree / "var/tmp").chmod(0o1777)
        for path in [self.tree, *self.tree.rglob("*")]:
            os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)

    def report(self):
        """What is in it: bytes by topic, programs, what was removed for being a script."""
        sizes = {"lightbox": 0, "ONNX Runtime": 0, "reference bundles": 0, "kernel modules": 0, "libraries": 0,
                 "systemd": 0, "other": 0}
        for path in self.files():
            name = str(path.relative_to(self.tree))
            topic = next((topic for start, topic in (
                ("usr/bin/lightbox", "lightbox"), ("usr/lib/lightbox/libonnx", "ONNX Runtime"),
                ("usr/lib/lightbox/bundles", "reference bundles"), ("usr/lib/modules", "kernel modules"),
                ("usr/lib/x86_64-linux-gnu", "libraries"), ("usr/lib/systemd", "systemd"),
                ("usr/lib/udev", "systemd")) if name.startswith(start)), "other")
            sizes[topic] += path.stat().st_size
        programs = sorted(entry.name for folder in ("usr/bin", "usr/sbin") for entry in (self.tree / folder).iterdir())
        return {"bytes_by_topic": sizes, "programs": programs, "scripts_removed": sorted(self.removed_scripts)}


# Names that no production root may have anywhere: shells, interpreters, package managers.
FORBIDDEN = re.compile(
    r"(^|/)(sh|bash|dash|rbash|zsh|ksh|busybox|toybox|perl[0-9.]*|python[0-9.]*|lua[0-9.]*|awk|mawk|gawk|sed|ed|vi|nano|"
    r"dpkg[-a-z]*|apt[-a-z]*|pip[0-9.]*|gdb|strace|nc|ncat|socat|curl|wget|ssh|sshd|telnet|sulogin|su|sudo)$")


def violations(tree):
    """What a production root must not have: forbidden programs, scripts, set-uid files, writable files."""
    found = []
    for path in sorted(tree.rglob("*")):
        name = str(path.relative_to(tree))
        if path.is_symlink():
            if FORBIDDEN.search(name) and name.startswith("usr/"):
                found.append(f"{name}: a link by the name of a shell, interpreter or package manager")
            continue
        if not path.is_file():
            continue
        mode = path.stat().st_mode
        if mode & 0o111 and FORBIDDEN.search(name):
            found.append(f"{name}: a shell, interpreter or package manager")
        with path.open("rb") as file:
            if file.read(2) == b"#!":
                found.append(f"{name}: a script")
        if mode & 0o6000:
            found.append(f"{name}: runs with its owner's rights (set-uid or set-gid)")
        if mode & 0o002:
            found.append(f"{name}: writable by everybody")
    return found
