"""The command line."""

import argparse
import os
import signal
import sys
from pathlib import Path

from . import boot, build, ci, fast, inspect_image, lock, machine, root, trees
from .keys import Keys
from .place import Failed


def main(arguments=None):
    """Runs one verb; yields the exit code."""
    parser = argparse.ArgumentParser(prog="image.py", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("lock", help="ask the mirror for the newest packages and write packages.lock")
    building = verbs.add_parser("build", help="build the image")
    building.add_argument("--flavour", choices=root.FLAVOURS, default="production")
    building.add_argument("--again", action="store_true", help="beside the last build, from nothing, to be compared")
    publishing = verbs.add_parser("publish", help="add what was built to the signed repository, target/image/repository")
    publishing.add_argument("--flavour", choices=root.FLAVOURS, default="production")
    quick = verbs.add_parser("fast", help="check what was built, without a virtual machine")
    quick.add_argument("--flavour", choices=root.FLAVOURS, default="production")
    quick.add_argument("--binary", type=Path, metavar="FILE",
                       help="build an image with this lightbox for the checks, beside the real one")
    booting = verbs.add_parser("boot", help="boot what was built in a virtual machine, its console here")
    booting.add_argument("--flavour", choices=root.FLAVOURS, default="test")
    testing = verbs.add_parser("test", help="boot and damage the test flavour: every fault must be refused")
    testing.add_argument("--binary", type=Path, metavar="FILE",
                         help="build the image with this lightbox for the checks, beside the real one")
    testing.add_argument("only", nargs="*", metavar="WORDS", help="only checks whose names contain one of these")
    integrating = verbs.add_parser("ci", help="the quick checks and one emulated first start; left out loudly where this machine cannot")
    integrating.add_argument("--binary", type=Path, metavar="FILE", required=True, help="the lightbox to build images with")
    inspecting = verbs.add_parser("inspect", help="what is in the image, why, how big")
    inspecting.add_argument("--flavour", choices=root.FLAVOURS, default="production")
    comparing = verbs.add_parser("compare", help="compare a build with the one made --again")
    comparing.add_argument("--flavour", choices=root.FLAVOURS, default="production")
    chosen = parser.parse_args(arguments)
    os.umask(0o022)
    # A verb that is told to end switches its virtual machines off first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if chosen.verb == "lock":
            for line in lock.renew():
                print(line)
        elif chosen.verb == "build":
            build.Build(chosen.flavour, again=chosen.again).run()
        elif chosen.verb == "publish":
            build.publish(build.built(chosen.flavour))
        elif chosen.verb == "compare":
            print(build.compare(chosen.flavour))
        elif chosen.verb == "fast":
            return verdict(fast.run(chosen.flavour, chosen.binary and chosen.binary.resolve()))
        elif chosen.verb == "boot":
            made = build.built(chosen.flavour)
            tools = trees.tools()
            with machine.Machine(tools, Keys(tools), f"by-hand-{chosen.flavour}", made.disk) as box:
                box.start(echo=True)
        elif chosen.verb == "test":
            return verdict(boot.run(chosen.only, chosen.binary and chosen.binary.resolve()))
        elif chosen.verb == "ci":
            return verdict(ci.checks(chosen.binary.resolve()))
        elif chosen.verb == "inspect":
            inspect_image.show(chosen.flavour)
    except Failed as failed:
        print(f"image: {failed}", file=sys.stderr)
        return 1
    return 0


def verdict(failed):
    """The exit code of checks."""
    if failed:
        print(f"image: FAILED: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0
