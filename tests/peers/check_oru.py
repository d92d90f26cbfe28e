"""Validates an ORU^R01 at STRICT with hl7apy and prints its PID-5 as JSON.

    check_oru.py FILE

hl7apy calls a message valid in spite of values that are in no table, and only writes "Warning:" lines
into its report. Those lines fail here too, but for table 0396: it lists coding systems, and hl7apy's
copy is older than SNOMED CT's and UCUM's place in it.
"""

import json
import os
import re
import sys
import tempfile

from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message

with open(sys.argv[1], encoding="utf-8", newline="") as file:
    text = file.read()

message = parse_message(text, validation_level=VALIDATION_LEVEL.STRICT)
with tempfile.TemporaryDirectory() as folder:
    report = os.path.join(folder, "report")
    valid = message.validate(report_file=report)
    lines = [line.strip() for line in open(report, encoding="utf-8") if line.strip()]

bad = [line for line in lines if not re.search(r"HL7?0?396\b", line)]
if not valid or bad:
    print("\n".join(bad or ["not valid"]), file=sys.stderr)
    sys.exit(1)

print(
    json.dumps(
        {
            "structure": message.name,
            "warnings": lines,
            "names": [
                [component.to_er7() for component in repetition.children] if repetition.children else []
                for repetition in message.oru_r01_patient_result.oru_r01_patient.pid.pid_5
            ],
            "name_text": [r.to_er7() for r in message.oru_r01_patient_result.oru_r01_patient.pid.pid_5],
        }
    )
)
