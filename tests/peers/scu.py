"""A DICOM sender with every knob of the association request, by pynetdicom over TLS.

    scu.py REQUEST

REQUEST is JSON (see tests/src/peers/scu.rs). One line of JSON tells how the request was answered; with
"hold" the association then stays open until standard input ends, and a second line tells how a C-ECHO on
it went.
"""

import json
import ssl
import sys
import warnings

from pydicom import dcmread
from pynetdicom import AE, build_context
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassCommonExtendedNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)

warnings.filterwarnings("ignore")
request = json.loads(sys.argv[1])


def extended(asked):
    items = []
    if identity := asked.get("identity"):
        item = UserIdentityNegotiation()
        item.user_identity_type = identity["type"]
        item.positive_response_requested = identity["positive_response"]
        item.primary_field = identity["primary"].encode()
        if "secondary" in identity:
            item.secondary_field = identity["secondary"].encode()
        items.append(item)
    if window := asked.get("async_window"):
        item = AsynchronousOperationsWindowNegotiation()
        item.maximum_number_operations_invoked, item.maximum_number_operations_performed = window
        items.append(item)
    for uid in asked.get("roles", []):
        item = SCP_SCU_RoleSelectionNegotiation()
        item.sop_class_uid, item.scu_role, item.scp_role = uid, True, True
        items.append(item)
    for uid in asked.get("extended", []):
        item = SOPClassExtendedNegotiation()
        item.sop_class_uid, item.service_class_application_information = uid, b"\x02\x00\x03\x00\x01\x00"
        items.append(item)
        item = SOPClassCommonExtendedNegotiation()
        item.sop_class_uid, item.service_class_uid = uid, "1.2.840.10008.4.2"
        items.append(item)
    return items


tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
tls.check_hostname = False
tls.load_verify_locations(request["ca"])
tls.load_cert_chain(request["certificate"], request["key"])

ae = AE(ae_title=request["calling"])
ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
contexts = [build_context(uid, syntaxes) for uid, syntaxes in request["contexts"]]
association = ae.associate(
    "127.0.0.1",
    request["port"],
    contexts,
    ae_title=request["called"],
    max_pdu=request.get("max_pdu", 16382),
    ext_neg=extended(request) or None,
    tls_args=(tls, None),
)

answer = association.acceptor.primitive
told = {
    "established": association.is_established,
    "rejected": None,
    "identity_confirmed": None,
    "max_pdu": None,
    "contexts": [],
    "async_window": None,
    "answered": [],
    "statuses": [],
}
if association.is_rejected:
    told["rejected"] = [answer.result, answer.result_source, answer.diagnostic]
elif answer is not None:
    told["max_pdu"] = association.acceptor.maximum_length
    told["identity_confirmed"] = any(
        isinstance(item, UserIdentityNegotiation) for item in answer.user_information
    )
    for item in answer.user_information:
        if isinstance(item, AsynchronousOperationsWindowNegotiation):
            told["async_window"] = [
                item.maximum_number_operations_invoked, item.maximum_number_operations_performed]
    told["answered"] = sorted({type(item).__name__ for item in answer.user_information})
    for context in association.accepted_contexts + association.rejected_contexts:
        syntax = context.transfer_syntax[0] if context.result == 0 else None
        told["contexts"].append([context.context_id, context.abstract_syntax, context.result, syntax])
if association.is_established:
    for file in request.get("send", []):
        told["statuses"].append(association.send_c_store(dcmread(file)).get("Status"))
print(json.dumps(told), flush=True)
if association.is_established:
    if request.get("hold"):
        sys.stdin.read()
        print(json.dumps({"echo": association.send_c_echo().get("Status")}), flush=True)
    association.release()
