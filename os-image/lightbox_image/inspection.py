"""The signed report of a running machine, checked as anybody may check it: from outside, by `lightbox inspect verify`."""

import json
import secrets
import ssl
import time
import urllib.request

from .peers import LIGHTBOX
from .place import Failed, fresh, run
from .rows import expect

# What a test image cannot be.
NOT_THE_PRODUCT = "image"


def fetch(keys, box, path):
    """What the administration answers to the test hospital's operator."""
    context = ssl.create_default_context(cafile=keys.site / "ca.crt")
    context.load_cert_chain(keys.site / "operator.crt", keys.site / "operator.key")
    with urllib.request.urlopen(f"https://127.0.0.1:{box.admin}{path}", timeout=60, context=context) as answer:
        return answer.read()


def inspect(build, keys, box, folder):
    """Everything must be good but that the image is no product; yields what was seen."""
    fresh(folder)
    key, report = folder / "device.pub", folder / "report.json"
    key.write_bytes(fetch(keys, box, "/system/device.pub"))
    until = time.monotonic() + 240
    while True:
        nonce = secrets.token_hex(16)
        report.write_bytes(fetch(keys, box, f"/system/report?nonce={nonce}"))
        said = run([LIGHTBOX, "inspect", "verify", report, "--public-key", key, "--nonce", nonce, "--image",
                    build.path("summary.json"), "--json"], check=False)
        if said.returncode not in (0, 3):
            raise Failed(f"the report is not genuine: {said.stdout}")
        found = json.loads(said.stdout)
        wrong = {one["name"]: one["note"] for one in found["checks"] if one["verdict"] != "good"}
        wrong.pop(NOT_THE_PRODUCT, None)
        # The unit that collects runs every two minutes; what it saw may be older than the blessing.
        if not wrong or time.monotonic() > until:
            break
        time.sleep(5)
    expect(not wrong, "\n".join(f"{name}: {note}" for name, note in wrong.items()))
    facts = found["report"]["facts"]
    return (f"{len(found['checks']) - 1} of {len(found['checks'])} checks good, the other says that it is a test image; "
            f"{len(facts['listeners'])} sockets, {len(facts['units'])} units, {len(facts['mounts'])} mounts, "
            f"PCR 11 {facts['registers']['11'][:12]}")
