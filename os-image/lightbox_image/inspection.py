"""What a running machine says of itself, checked as anybody may check it, from outside: its signed report, its audit log."""

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


def audit_log(keys, box, folder, before=None):
    """The machine's audit log, whole by its own key's signature; `before`: one fetched earlier, of which nothing may be
    changed or gone. Yields the records by their numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    key, log = folder / "device.pub", folder / "audit.jsonl"
    fetched = fetch(keys, box, "/system/device.pub")
    expect(before is None or key.read_bytes() == fetched, "the device has another key")
    key.write_bytes(fetched)
    log.write_bytes(fetch(keys, box, "/system/audit.jsonl"))
    said = run([LIGHTBOX, "audit", "verify-file", log, "--public-key", key], check=False)
    expect(said.returncode == 0, f"the audit log is broken: {said.stdout} {said.stderr}")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    records = {line["record"]["record"]["seq"]: line["record"] for line in lines if "record" in line}
    expect(records, "the audit log is empty")
    for number, record in (before or {}).items():
        expect(records.get(number) == record, f"record {number} of the audit log is changed or gone")
    return records


def reasons(records, event):
    """What the records of an event say of why."""
    found = [one["record"] for one in records.values() if one["record"]["event"] == event]
    return [json.loads(one["detail"]).get("reason") or "" for one in found]
