"""A STOW-RS client by dicomweb-client, over TLS with a client certificate.

    stow.py REQUEST

REQUEST is JSON: url, ca, certificate, key, files, and study where the target is a study. One line of JSON
tells how it went: status, and the SOP Instance UIDs that the response names as stored and as failed, these
with their Failure Reason.
"""

import json
import sys

import pydicom
import requests
from dicomweb_client.api import DICOMwebClient

request = json.loads(sys.argv[1])
statuses = []


class Session(requests.Session):
    """Remembers the statuses."""

    def send(self, *arguments, **keywords):
        response = super().send(*arguments, **keywords)
        statuses.append(response.status_code)
        return response


session = Session()
session.verify = request["ca"]
session.trust_env = False
if request.get("certificate"):
    session.cert = (request["certificate"], request["key"])
client = DICOMwebClient(url=request["url"], session=session)
client.set_http_retry_params(retry=False)
data_sets = [pydicom.dcmread(path, force=True) for path in request["files"]]
told = {}
try:
    response = client.store_instances(datasets=data_sets, study_instance_uid=request.get("study"))
    told["stored"] = [item.ReferencedSOPInstanceUID for item in response.get("ReferencedSOPSequence", [])]
    told["failed"] = [
        [item.ReferencedSOPInstanceUID, item.FailureReason] for item in response.get("FailedSOPSequence", [])
    ]
except requests.HTTPError as error:
    told["error"] = error.response.text
except requests.RequestException as error:
    told["error"] = type(error).__name__
told["status"] = statuses[-1] if statuses else None
print(json.dumps(told))
