"""A modality that asks for storage commitment and prints, as JSON, what it was told.

    commitment_scu.py HOST:PORT CERTIFICATE KEY CA HOW LISTEN_PORT [CLASS INSTANCE]...

HOW is `stay` (it waits for the report on its own association) or `leave` (it releases, and takes the
report on an association that the other side opens to LISTEN_PORT).
"""

import json
import ssl
import sys
import threading

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

address, certificate, key, ca, how, listen, *names = sys.argv[1:]
host, port = address.rsplit(":", 1)

reports = []
came = threading.Event()


def uids(sequence, *more):
    return [[str(item.ReferencedSOPInstanceUID)] + [int(item[tag].value) for tag in more] for item in sequence]


def on_report(event):
    told = event.event_information
    reports.append(
        {
            "type": event.event_type,
            "transaction": str(told.TransactionUID),
            "committed": [uid for [uid] in uids(told.get("ReferencedSOPSequence", []))],
            "failed": uids(told.get("FailedSOPSequence", []), "FailureReason"),
        }
    )
    came.set()
    return 0x0000, None


def tls(purpose):
    context = ssl.create_default_context(purpose, cafile=ca)
    context.load_cert_chain(certificate, key)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    return context


ae = AE(ae_title="CT1")
ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
handlers = [(evt.EVT_N_EVENT_REPORT, on_report)]
ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
server = None
if how == "leave":
    server = ae.start_server(
        ("127.0.0.1", int(listen)), block=False, ssl_context=tls(ssl.Purpose.CLIENT_AUTH), evt_handlers=handlers
    )

ae.add_requested_context(StorageCommitmentPushModel)
assoc = ae.associate(
    host, int(port), ae_title="LIGHTBOX", evt_handlers=handlers, tls_args=(tls(ssl.Purpose.SERVER_AUTH), "localhost")
)
assert assoc.is_established, "no association"
request = Dataset()
request.TransactionUID = generate_uid()
request.ReferencedSOPSequence = []
for sop_class, instance in zip(names[::2], names[1::2]):
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class
    item.ReferencedSOPInstanceUID = instance
    request.ReferencedSOPSequence.append(item)
status, _ = assoc.send_n_action(request, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
if how == "stay":
    came.wait(15)
assoc.release()
if how == "leave":
    came.wait(15)
    server.shutdown()
same = all(report["transaction"] == request.TransactionUID for report in reports)
print(json.dumps({"status": status.get("Status"), "reports": reports, "same_transaction": same}))
