"""A PACS (pynetdicom) that answers C-FIND in an odd way.

    odd_qr_scp.py PORT CERTIFICATE KEY CA HOW

HOW is `endless` (pending responses without end), `silent` (no response), `garbage` (an identifier that is
no data set), `abort` (A-ABORT after the first response), `refuse` (a failure with a comment), `echo` (a
failure whose comment is what was asked for) or `move` (every C-MOVE fails: the destination is unknown).
"""

import ssl
import sys
import time

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelMove

port, certificate, key, ca, how = sys.argv[1:]

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
context.load_verify_locations(ca)
context.verify_mode = ssl.CERT_REQUIRED

ae = AE(ae_title="ODD")
ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
ae.add_supported_context(StudyRootQueryRetrieveInformationModelMove)
ae.network_timeout = 60

if how == "garbage":
    # The identifier goes out as bytes that no data set begins with.
    import pynetdicom.service_class

    pynetdicom.service_class.encode = lambda *_, **__: b"\x08\x00\x52\x00CS\xff\xff"


def match():
    found = Dataset()
    found.QueryRetrieveLevel = "STUDY"
    found.StudyInstanceUID = "1.2.3.4"
    found.PatientID = "4711"
    return found


def find(event):
    if how == "silent":
        time.sleep(30)
    if how == "refuse":
        status = Dataset()
        status.Status = 0xA700
        status.ErrorComment = "Archive is being backed up"
        yield status, None
        return
    if how == "echo":
        status = Dataset()
        status.Status = 0xC001
        status.ErrorComment = str(event.identifier.StudyInstanceUID)[-64:]
        yield status, None
        return
    yield 0xFF00, match()
    if how == "abort":
        event.assoc.abort()
        return
    while how == "endless" and not event.is_cancelled:
        yield 0xFF00, match()
    if event.is_cancelled:
        yield 0xFE00, None


def move(event):
    # No destination: pynetdicom answers 0xA801.
    yield None, None


handlers = [(evt.EVT_C_FIND, find), (evt.EVT_C_MOVE, move)]
ae.start_server(("127.0.0.1", int(port)), ssl_context=context, evt_handlers=handlers)
