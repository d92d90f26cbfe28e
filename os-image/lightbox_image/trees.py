"""Trees of Debian packages: made by mmdebstrap from exactly the packages of the lock, kept by digest.

mmdebstrap reads a local repository that holds the locked packages and no others, so what is installed is
what the lock says, with no choice left.
"""

import hashlib
import os
import shutil

from . import lock
from .place import ARCHITECTURE, CACHE, Failed, Tools, fresh, need, need_root, recipe, run, say

# Part of every tree's key: raise it when what is done below changes.
FORM = "2"


def repository(name, packages):
    """A folder that apt can read, with these packages only."""
    folder = fresh(CACHE / f"repository-{name}")
    index = []
    for package in packages:
        source = CACHE / "debs" / f"{package.sha256}.deb"
        file = f"{package.name}_{package.architecture}.deb"
        os.link(source, folder / file)
        control = run(["dpkg-deb", "--field", source]).stdout.strip("\n")
        index.append(f"{control}\nFilename: ./{file}\nSize: {package.size}\nSHA256: {package.sha256}\n")
    text = "\n".join(index)
    (folder / "Packages").write_text(text)
    suite = recipe()["suite"]
    digest = hashlib.sha256(text.encode()).hexdigest()
    (folder / "Release").write_text(
        f"Suite: {suite}\nCodename: {suite}\nArchitectures: {ARCHITECTURE}\nComponents: main\n"
        f"SHA256:\n {digest} {len(text.encode())} Packages\n")
    return folder


def key(name, wanted, packages):
    """What a tree depends on."""
    text = "\n".join([FORM, name, *sorted(wanted), *(package.line() for package in packages)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def tree(name, again=False):
    """The tree of a set of packages, from the cache or new; `again` makes it anew beside the cached one."""
    need_root()
    need("mmdebstrap", "mmdebstrap")
    made_of = recipe()
    wanted = list(made_of["packages"][name])
    packages = lock.of_set(name)
    if not packages:
        raise Failed(f"the lock has no packages of set {name}; remedy: ./justw image-lock")
    folder = CACHE / f"tree-{name}-{key(name, wanted, packages)}{'-again' if again else ''}"
    if folder.exists() and not again:
        return folder
    lock.fetch(packages)
    say(f"installing {len(packages)} packages into the {name} tree")
    source = repository(name, packages)
    making = folder.with_suffix(".making")
    if making.exists():
        shutil.rmtree(making)
    without = ["/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"]
    if name == "root":
        without.append("/usr/share/doc/*")
    options = [f"--dpkgopt=path-exclude={path}" for path in without]
    if name == "root":
        options.append("--dpkgopt=path-include=/usr/share/doc/*/copyright")
    run(["mmdebstrap", "--variant=essential", f"--include={','.join(wanted)}", "--dpkgopt=force-unsafe-io",
         '--aptopt=APT::Install-Recommends "false"', '--aptopt=APT::Sandbox::User "root"', *options,
         f"--architectures={ARCHITECTURE}", made_of["suite"], making, f"deb [trusted=yes] copy:{source} ./"])
    if folder.exists():
        shutil.rmtree(folder)
    making.rename(folder)
    shutil.rmtree(source)
    return folder


def tools():
    """The tools tree."""
    return Tools(tree("tools"))


def kernel(again=False):
    """The kernel's files, unpacked: a folder with boot/ and usr/lib/modules/, and the kernel's release."""
    packages = lock.of_set("kernel")
    if len(packages) != 1:
        raise Failed("the lock must name exactly one kernel; remedy: ./justw image-lock")
    folder = CACHE / f"kernel-{packages[0].sha256[:12]}"
    if not folder.exists() or again:
        lock.fetch(packages)
        making = fresh(folder.with_suffix(".making"))
        run(["dpkg-deb", "-x", CACHE / "debs" / f"{packages[0].sha256}.deb", making])
        if folder.exists():
            shutil.rmtree(folder)
        making.rename(folder)
    modules = folder / "usr/lib/modules"
    releases = [entry.name for entry in (modules if modules.exists() else folder / "lib/modules").iterdir()]
    return folder, releases[0]
