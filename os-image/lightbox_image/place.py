"""Where things lie, what the image is made of (image.toml), and how programs are run.

Programs of the host are few (mmdebstrap, apt, dpkg-deb, cp). All others run in the tools tree: a Debian
of the image's own release, at locked versions, entered by chroot in a mount namespace of its own.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
REPOSITORY = HERE.parent
OUT = REPOSITORY / "target/image"
CACHE = OUT / "cache"
KEYS = OUT / "keys"

# The same bytes on every day: every file of the image carries this time (2026-01-01).
EPOCH = 1767225600

# The machine that the image is for.
ARCHITECTURE = "amd64"


class Failed(Exception):
    """What stopped us, in words with a remedy."""


class Lacking(Failed):
    """What this machine, or the mirror that it is given, has not: no fault of the image."""


def recipe():
    """image.toml."""
    return tomllib.loads((HERE / "image.toml").read_text())


def say(text):
    """Progress, for people."""
    print(f"image: {text}", file=sys.stderr, flush=True)


def need(program, package):
    """Refuses to go on without a program of the host."""
    if shutil.which(program) is None:
        raise Lacking(f"{program} is missing; remedy: apt-get install {package}, or run the verb by ./justw")


def need_root():
    """Trees of a Debian hold files of several owners, and programs run in them by chroot."""
    if os.geteuid() != 0:
        raise Lacking("trees of Debian packages are made as root; remedy: run the verb by sudo, e.g. sudo ./justw image")


def run(command, *, check=True, named=None):
    """Runs a command; its output is shown only if it fails, by the name `named`. Yields the process, its output as text."""
    command = [str(part) for part in command]
    done = subprocess.run(
        command, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env={**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH), "LC_ALL": "C.UTF-8"})
    if check and done.returncode != 0:
        last = "\n".join(done.stdout.splitlines()[-25:])
        raise Failed(f"this failed with exit code {done.returncode}: {named or ' '.join(command)}\n{last}")
    return done


# $1: the tree, $2: the repository, which keeps its path inside; the rest: the command.
ENTER = """
set -e
tree=$1 repository=$2
shift 2
mount --rbind /proc "$tree/proc"
mount --rbind /dev "$tree/dev"
mount -t tmpfs -o mode=1777 tmpfs "$tree/tmp"
mkdir -p "$tree$repository"
mount --rbind "$repository" "$tree$repository"
exec chroot "$tree" /usr/bin/env -i -C "$repository" HOME=/tmp LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 \
    PATH=/usr/sbin:/usr/bin:/usr/lib/systemd SOURCE_DATE_EPOCH="$EPOCH" "$@"
"""


# Folders that Debian has, whatever lies below them on the machine that builds.
DEBIANS = {Path("/"), *(Path("/") / name for name in ("home", "media", "mnt", "opt", "root", "run", "srv", "tmp", "usr", "var"))}


def forget_repository(tree):
    """Removes from a copy of a tree the empty folders on which the repository was mounted when a program ran in it: they
    are this machine's, and the first build from nothing has none."""
    for folder in (REPOSITORY, *REPOSITORY.parents):
        inside = Path(tree) / folder.relative_to("/")
        if folder in DEBIANS or (inside.exists() and any(inside.iterdir())):
            return
        if inside.exists():
            inside.rmdir()


class Tools:
    """The tools tree, or any other tree that a program is to run in."""

    def __init__(self, tree):
        self.tree = tree

    def command(self, *command):
        """The command line that runs `command` inside the tree, as the same process."""
        enter = ["unshare", "--mount", "--propagation", "private", "env", f"EPOCH={EPOCH}", "sh", "-c", ENTER]
        return [*enter, "enter", str(self.tree), str(REPOSITORY), *[str(part) for part in command]]

    def run(self, *command, **options):
        """Runs a command inside the tree; see `run`."""
        return run(self.command(*command), named=" ".join(str(part) for part in command), **options)


class Stopwatch:
    """Seconds a step, for summary.json."""

    def __init__(self):
        self.started = time.monotonic()
        self.last = self.started
        self.steps = {}

    def lap(self, step):
        """Ends a step."""
        now = time.monotonic()
        self.steps[step] = round(now - self.last, 1)
        self.last = now
        say(f"{step}: {self.steps[step]} s")

    def total(self):
        """Seconds since the beginning."""
        return round(time.monotonic() - self.started, 1)


def write_json(path, value):
    """Writes JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps(value, indent=2) + "\n")
    aside.rename(path)


def fresh(folder):
    """An empty folder of that name."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder
