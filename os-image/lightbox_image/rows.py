"""Rows of test.json: what was checked, whether it held, how long it took, and what was seen."""

import time
import traceback

from .place import OUT, Failed, say, write_json


# Longest note; what is longer stands in the console's log.
LONGEST = 3000


class Rows:
    """The rows of one run; a check that fails does not stop the others."""

    def __init__(self, name):
        self.rows = []
        self.file = OUT / name

    def check(self, name, work):
        """Runs one check; `work` yields the note, or raises `Failed`."""
        started = time.monotonic()
        try:
            passed, note = True, work()
        except Failed as failed:
            passed, note = False, str(failed)
        except Exception:  # A fault of the check itself is a failed check, with its place.
            passed, note = False, traceback.format_exc(limit=4)
        note = note if len(note) <= LONGEST else note[:LONGEST] + " …"
        row = {"check": name, "pass": passed, "seconds": round(time.monotonic() - started, 1), "note": note}
        self.rows.append(row)
        say(f"{'ok    ' if passed else 'FAILED'} {name} ({row['seconds']} s): {note}")
        write_json(self.file, self.rows)
        return passed

    def skip(self, name, why):
        """A check that this run leaves out, loudly: neither passed nor silent."""
        self.rows.append({"check": name, "pass": None, "seconds": 0, "note": f"SKIPPED: {why}"})
        say(f"SKIPPED {name}: {why}")
        write_json(self.file, self.rows)

    def failed(self):
        """Names of the failed checks."""
        return [row["check"] for row in self.rows if row["pass"] is False]


def expect(condition, what):
    """A check's single claim."""
    if not condition:
        raise Failed(what)
