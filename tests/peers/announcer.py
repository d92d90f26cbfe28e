"""A modality that tells of what it does, by MPPS and Instance Availability Notification.

    announcer.py HOST:PORT CERTIFICATE KEY CA < STEPS

STEPS is a JSON list; each step is [kind, SOP instance UID, attributes], where kind is `create-step`,
`set-step` or `announce`, and attributes are in the DICOM JSON model's short form (keyword: value). It
prints a JSON list with the status, error ID and attribute identifiers of each response.
"""

import json
import ssl
import sys

from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import InstanceAvailabilityNotification, ModalityPerformedProcedureStep

address, certificate, key, ca = sys.argv[1:]
host, port = address.rsplit(":", 1)


def data_set(attributes):
    made = Dataset()
    for keyword, value in attributes.items():
        if isinstance(value, list) and (not value or isinstance(value[0], dict)):
            value = [data_set(item) for item in value]
        setattr(made, keyword, value)
    return made


context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca)
context.load_cert_chain(certificate, key)
ae = AE(ae_title="CT1")
ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
ae.add_requested_context(ModalityPerformedProcedureStep)
ae.add_requested_context(InstanceAvailabilityNotification)
assoc = ae.associate(host, int(port), ae_title="LIGHTBOX", tls_args=(context, "localhost"))
assert assoc.is_established, "no association"
answers = []
for kind, uid, attributes in json.load(sys.stdin):
    if kind == "create-step":
        status, _ = assoc.send_n_create(data_set(attributes), ModalityPerformedProcedureStep, uid)
    elif kind == "set-step":
        status, _ = assoc.send_n_set(data_set(attributes), ModalityPerformedProcedureStep, uid)
    else:
        status, _ = assoc.send_n_create(data_set(attributes), InstanceAvailabilityNotification, uid)
    answers.append({"status": status.get("Status"), "error_id": status.get("ErrorID")})
assoc.release()
print(json.dumps(answers))
