"""packages.lock: every Debian package of image and tools, by version and SHA-256.

A line is `sets name version architecture sha256 bytes path`: `sets` says what the package is for (root,
tools, kernel; joined by commas), `path` where it lies below the mirror, `security:` before it for Debian's
security archive. Making the lock asks the mirror that the host's own apt uses; LIGHTBOX_DEBIAN_MIRROR and
LIGHTBOX_DEBIAN_SECURITY name others. A mirror drops versions that were followed by newer ones: then point
both at snapshot.debian.org with the date in the lock's first lines.
"""

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from .place import ARCHITECTURE, CACHE, HERE, Failed, Lacking, fresh, need, recipe, run, say

LOCK = HERE / "packages.lock"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
HELPER = Path("/usr/lib/apt/apt-helper")


@dataclass(frozen=True)
class Package:
    """A line of the lock."""

    sets: tuple
    name: str
    version: str
    architecture: str
    sha256: str
    size: int
    path: str

    def line(self):
        """As it stands in the file."""
        return " ".join([",".join(self.sets), self.name, self.version, self.architecture, self.sha256,
                         str(self.size), self.path])


def read():
    """The lock's packages."""
    if not LOCK.exists():
        raise Failed(f"{LOCK.name} is missing; remedy: ./justw image-lock")
    packages = []
    for line in LOCK.read_text().splitlines():
        if line and not line.startswith("#"):
            sets, name, version, architecture, sha256, size, path = line.split()
            packages.append(Package(tuple(sets.split(",")), name, version, architecture, sha256, int(size), path))
    return packages


def of_set(name):
    """The packages of one set."""
    return [package for package in read() if name in package.sets]


def mirrors():
    """The two archives: of the environment, else of the host's apt."""
    named = [os.environ.get("LIGHTBOX_DEBIAN_MIRROR"), os.environ.get("LIGHTBOX_DEBIAN_SECURITY")]
    found = configured()
    mirror = named[0] or next((uri for uri in found if not is_security(uri)), None)
    security = named[1] or next((uri for uri in found if is_security(uri)), None)
    if not mirror or not security:
        raise Lacking(
            "apt's sources name no Debian mirror or no security archive; remedy: set LIGHTBOX_DEBIAN_MIRROR and "
            "LIGHTBOX_DEBIAN_SECURITY, e.g. http://deb.debian.org/debian and http://deb.debian.org/debian-security")
    return mirror.rstrip("/"), security.rstrip("/")


def is_security(uri):
    """Whether it is Debian's security archive."""
    return "security" in uri


def configured():
    """URIs of Debian archives in the host's apt sources."""
    folder = Path("/etc/apt")
    text = ""
    for file in [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]:
        if file.is_file() and file.suffix in (".list", ".sources"):
            text += "\n".join(line for line in file.read_text().splitlines() if not line.startswith("#")) + "\n"
    uris = re.findall(r"\b(?:https?|ftp|file|mirror\+\w+)://\S+", text)
    return [uri for uri in uris if re.search(r"/debian(-security)?/?$", uri)]


def apt(root, *arguments):
    """apt with folders of its own and the host's proxy settings."""
    options = {
        "Dir::State": root / "state", "Dir::State::status": root / "status", "Dir::Cache": root / "cache",
        "Dir::Etc::SourceList": root / "sources.list", "Dir::Etc::SourceParts": "-",
        "Dir::Etc::Preferences": "-", "Dir::Etc::PreferencesParts": "-", "APT::Architecture": ARCHITECTURE,
        "APT::Install-Recommends": "false", "Acquire::Languages": "none", "Acquire::ForceHash": "SHA256",
        "APT::Sandbox::User": "root",
    }
    settings = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
    settings += ["-o", f"APT::Architectures::={ARCHITECTURE}"]
    return run([arguments[0], *settings, *arguments[1:]]).stdout


def wanted(root, packages):
    """What apt would fetch to install these on an empty system: path, bytes and digest of each."""
    said = apt(root, "apt-get", "--print-uris", "-qq", "-y", "install", "?essential", *packages)
    return re.findall(r"^'([^']+)' (\S+) (\d+) SHA256:([0-9a-f]{64})$", said, re.MULTILINE)


def renew():
    """Asks the mirror for the newest versions and writes the lock."""
    need("apt-get", "apt")
    if not KEYRING.exists():
        raise Failed(f"{KEYRING} is missing; remedy: apt-get install debian-archive-keyring")
    made_of = recipe()
    suite = made_of["suite"]
    mirror, security = mirrors()
    root = fresh(CACHE / "apt")
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (root / folder).mkdir(parents=True)
    (root / "status").write_text("")
    signed = f"[signed-by={KEYRING} arch={ARCHITECTURE}]"
    (root / "sources.list").write_text(
        f"deb {signed} {mirror} {suite} main\ndeb {signed} {security} {suite}-security main\n")
    say(f"asking the mirror for {suite}")
    apt(root, "apt-get", "-qq", "update")

    sets, facts = {}, {}
    for name in ("root", "tools", "kernel"):
        # Of the kernel only the package itself is unpacked: its scripts and their needs stay out.
        only = re.compile(r"linux-image-\d") if name == "kernel" else re.compile("")
        for uri, file, size, digest in wanted(root, made_of["packages"][name]):
            if not only.match(file):
                continue
            base = security if uri.startswith(security + "/") else mirror
            path = ("security:" if base == security else "") + uri.removeprefix(base + "/")
            package, version, architecture = file.removesuffix(".deb").split("_")
            sets.setdefault(file, []).append(name)
            facts[file] = (package, version.replace("%3a", ":"), architecture, digest, int(size), path)
    if not any("kernel" in names for names in sets.values()):
        raise Failed("the mirror's linux-image-amd64 names no kernel; remedy: look at [packages.kernel]")
    packages = sorted((Package(tuple(sets[file]), *facts[file]) for file in facts), key=lambda one: one.name)
    when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    head = (f"# Debian packages of the image and its tools, made by ./justw image-lock: do not edit.\n"
            f"# suite {suite}, archive as of {when} (snapshot.debian.org/archive/debian/{when})\n"
            f"# sets name version architecture sha256 bytes path\n")
    before = {package.name: package.version for package in read()} if LOCK.exists() else {}
    LOCK.write_text(head + "".join(package.line() + "\n" for package in packages))
    changed = [f"{one.name} {before.get(one.name, 'new')} -> {one.version}" for one in packages
               if before.get(one.name) != one.version]
    say(f"{LOCK.name}: {len(packages)} packages, {len(changed)} of them changed")
    return changed


def fetch(packages):
    """Fetches what is not in the cache; each file is named by its digest. Yields seconds of fetching."""
    if not HELPER.exists():
        raise Lacking(f"{HELPER} is missing; remedy: this needs a Debian or Ubuntu host with apt")
    folder = CACHE / "debs"
    folder.mkdir(parents=True, exist_ok=True)
    missing = [package for package in packages if not (folder / f"{package.sha256}.deb").exists()]
    started = time.monotonic()
    if missing:
        mirror, security = mirrors()
        say(f"fetching {len(missing)} packages, {sum(one.size for one in missing) // 2**20} MiB")
    for at in range(0, len(missing), 40):
        part = []
        for package in missing[at:at + 40]:
            base, path = (security, package.path.removeprefix("security:")) if package.path.startswith("security:") \
                else (mirror, package.path)
            part += [f"{base}/{path}", str(folder / f"{package.sha256}.part"), f"SHA256:{package.sha256}"]
        done = run([HELPER, "-o", "APT::Sandbox::User=root", "download-file", *part], check=False)
        for package in missing[at:at + 40]:
            got = folder / f"{package.sha256}.part"
            if not got.exists():
                last = "\n".join(done.stdout.splitlines()[-5:])
                raise Lacking(f"{package.name} {package.version} could not be fetched; remedy: renew the lock by "
                              f"./justw image-lock, or name a mirror that still has it (see lock.py)\n{last}")
            got.rename(folder / f"{package.sha256}.deb")
    return round(time.monotonic() - started, 1)
