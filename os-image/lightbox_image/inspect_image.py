"""What is in a built image, why, and how big: for a person who wants to know before it is written to a box."""

from . import build, lock
from .place import OUT, Failed, recipe


def mib(count):
    """Bytes for people."""
    return f"{count / 2**20:8.1f} MiB"


def show(flavour):
    """Prints it."""
    facts = build.load(flavour)
    if facts is None:
        raise Failed(f"there is no {flavour} image; remedy: ./justw image {flavour}")
    made_of = recipe()
    print(f"Lightbox image {facts['version']}, flavour {flavour}, kernel {facts['kernel']}")
    print(f"built in {facts['seconds']} s: " + ", ".join(f"{step} {seconds} s" for step, seconds in facts["steps"].items()))
    print(f"digest over all but the signatures: {facts['digest']}\nroot hash: {facts['root_hash']}\n")
    print("Sizes")
    for name, count in facts["bytes"].items():
        print(f"  {mib(count)}  {name}")
    print("\nThe root before compression")
    for topic, count in sorted(facts["contents"]["bytes_by_topic"].items(), key=lambda item: -item[1]):
        print(f"  {mib(count)}  {topic}")
    print("\nCommand line, signed with the UKI\n  " + facts["command_line"].replace(" ", "\n  "))
    print("\nDebian packages asked for, and why")
    versions = {package.name: package.version for package in lock.read()}
    for name, why in made_of["packages"]["root"].items():
        print(f"  {name} {versions.get(name, '?')}: {why}")
    print(f"  with all that they need: {len(lock.of_set('root'))} packages")
    print("\nPrograms in the root's PATH, and why")
    for name in facts["contents"]["programs"]:
        print(f"  {name}: {made_of['programs'].get(name, 'debug flavour')}" if flavour != "debug" else f"  {name}")
    print(f"\nScripts removed: {len(facts['contents']['scripts_removed'])}. Files in the initrd: {len(facts['initrd_files'])}.")
    print("Units switched on or masked in /etc: " + ", ".join(facts["enabled_units"]))
    if facts["violations"]:
        print("\nWHAT A PRODUCT MUST NOT HAVE\n  " + "\n  ".join(facts["violations"]))
    print(f"\nBill of materials (CycloneDX): {OUT.relative_to(OUT.parent.parent) / flavour}/sbom.cdx.json")
