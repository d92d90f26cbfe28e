//! `lightbox conformance`: the DICOM conformance statement's tables, from the code that decides.

use std::fmt::Write as _;
use std::process::ExitCode;

use crate::dicom::{IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, services};

/// Print the DICOM conformance statement (Markdown), made from what the code accepts.
#[derive(Debug, clap::Args)]
pub struct Args {}

impl Args {
    /// Prints it.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        print!("{}", statement());
        Ok(ExitCode::SUCCESS)
    }
}

/// The statement, in the order of PS3.2 Annex N as far as there is something to state yet.
pub fn statement() -> String {
    let mut out = String::from(
        "# DICOM conformance statement\n\nGenerated from the source by `lightbox conformance`; a test keeps it true.\n\n",
    );
    let _ = write!(
        out,
        "## 1 Overview\n\n\
         Lightbox receives studies by C-STORE and STOW-RS, runs imaging-AI models on them, and sends the results as\n\
         Comprehensive 3D SR (TID 1500) by C-STORE or STOW-RS.\n\n\
         | service | SCU | SCP |\n|---|---|---|\n\
         | Verification ({}) | no | yes |\n\
         | Storage, all standard and private storage SOP classes | yes, forwarding | yes |\n\
         | Storage, Comprehensive 3D SR ({}) | yes | yes |\n\
         | Study Root Query/Retrieve, FIND ({}) | yes | no |\n\
         | Study Root Query/Retrieve, MOVE ({}) | yes | no |\n\
         | Study Root Query/Retrieve, GET ({}) | yes | no |\n\
         | Storage Commitment Push Model ({}) | yes | yes |\n\
         | Modality Performed Procedure Step ({}) | no | yes |\n\
         | Instance Availability Notification ({}) | no | yes |\n\n\
         Forwarded instances leave as they came: for each SOP class a presentation context for each of their\n\
         transfer syntaxes, and one each for Explicit and Implicit VR Little Endian. Only where the site file\n\
         says so they are decompressed (`transcode`; the SOP Instance UID stays) or elements change (`set`;\n\
         coercion with Original Attributes Sequence, PS3.3 C.12.1.1.9, reason COERCE).\n\n\
         `lightbox send` is a Storage SCU for every SOP class, for trying things.\n\n\
         ## 1.1.1 Structured reports created\n\n\
         | SOP class | root template |\n|---|---|\n| Comprehensive 3D SR | TID 1500 Measurement Report |\n\n\
         Completion Flag COMPLETE (PARTIAL where a model could not examine everything), Verification Flag\n\
         UNVERIFIED, Preliminary Flag PRELIMINARY. Nothing is ever marked verified or final.\n\n",
        services::VERIFICATION,
        services::COMPREHENSIVE_3D_SR,
        services::STUDY_ROOT_FIND,
        services::STUDY_ROOT_MOVE,
        services::STUDY_ROOT_GET,
        services::STORAGE_COMMITMENT,
        services::PROCEDURE_STEP,
        services::AVAILABILITY,
    );
    let _ = write!(
        out,
        "## 1.7 Character sets\n\n\
         Patient and study attributes are copied byte for byte with their Specific Character Set, so every\n\
         character set is supported in DICOM. For HL7 they are decoded from: ISO IR 6, 13, 100, 101, 109, 110,\n\
         126, 127, 138, 144, 148, 166, 192, GB18030, GBK, and ISO 2022 IR 6, 13, 58, 87, 100 to 166, 149, 159.\n\n\
         ## 7 Network details\n\n\
         | attribute | value |\n|---|---|\n\
         | Application Context | {} |\n| Implementation Class UID | {IMPLEMENTATION_CLASS_UID} |\n\
         | Implementation Version Name | {IMPLEMENTATION_VERSION_NAME} |\n\
         | Maximum PDU length | 131072 by default (`dicom.max_pdu_bytes`) |\n\
         | Asynchronous operations window | as acceptor: up to 8 operations invoked by the requestor (`dicom.operations_at_once`), answered in the order in which they are durable; 1 performed. As requestor: not proposed, but by `lightbox send` (8 invoked) |\n| SCP/SCU role selection | taken: for storage, SCU only; for storage commitment, as the peer's `may` says; proposed by us: SCP of the storage classes for C-GET |\n\n",
        crate::dicom::association::APPLICATION_CONTEXT,
    );
    out.push_str(
        "### Associations requested\n\n\
         C-FIND, C-MOVE and C-GET propose Explicit and Implicit VR Little Endian; keys are sent in ISO_IR 192. A\n\
         query takes at most `query.max_matches` answers and `query.deadline_seconds`, then C-CANCEL is sent. The\n\
         move destination is our own AE. C-GET proposes the storage classes of this table as SCP:\n\n\
         | storage class |\n|---|\n",
    );
    for class in services::GET_STORAGE {
        let _ = writeln!(out, "| {class} |");
    }
    out.push_str(
        "\n### Associations accepted\n\n\
         What a peer may do is in the site file (`may`). An abstract syntax is accepted if it is Verification,\n\
         Storage Commitment, Modality Performed Procedure Step or Instance Availability Notification (these in\n\
         Explicit and Implicit VR Little Endian), any UID under 1.2.840.10008.5.1.4.1.1, one of the\n\
         non-patient storage classes, or a private UID. Of the transfer syntaxes of a context the first that is\n\
         in this table is accepted, those of the peer's `transfer_syntaxes` before others; data sets are kept as\n\
         they come, without conversion.\n\n\
         | transfer syntax | UID |\n|---|---|\n",
    );
    for (uid, name) in services::transfer_syntaxes() {
        let _ = writeln!(out, "| {name} | {uid} |");
    }
    out.push_str(
        "\n### Rejections\n\n\
         | result/source/reason | when |\n|---|---|\n\
         | 1/1/2 | the application context is not DICOM's |\n\
         | 1/1/1 | the user identity that the site wants is missing, wrong or of an unsupported type |\n\
         | 1/1/3 | the calling AE title does not belong to the certificate, may not send, or calls from outside its `networks` (PS3.8 has no reason for an address) |\n\
         | 1/1/7 | the called AE title is not ours |\n\
         | 1/2/2 | the protocol version is not 1 |\n\
         | 2/3/1 | less of the disk is free than `store.congestion_mib` |\n\
         | 2/3/2 | more associations than `dicom.max_associations`, or than the peer's own `max_associations` |\n\n\
         Contexts of SOP classes outside a peer's `sop_classes` are refused with result 3; an association of\n\
         which no context is acceptable is accepted with all of them refused, and is shown as a refusal.\n\n\
         ### C-STORE response status\n\n\
         | status | meaning |\n|---|---|\n\
         | 0000 | the instance and its ledger entry are on disk; also for an identical instance received before, and for another instance under a known UID, which is kept beside the first and flagged |\n\
         | A700 | out of resources: the disk is full, nothing was kept |\n\
         | A900 | SOP class or instance UID of the data set differ from the request |\n\
         | C000 | the data set has no usable study or series UID |\n\
         | 0110 | storing failed, nothing was acknowledged |\n\
         | 0122 | the SOP class does not fit the presentation context |\n\n\
         ### Storage Commitment\n\n\
         As SCP: a request is on disk before N-ACTION is answered. An instance is committed to if it was\n\
         acknowledged and is still held, until the site's retention removes it; else the failure reason is 0112 (no\n\
         such instance) or 0119 (held under another SOP class). The report goes over the requester's association if it\n\
         keeps that open, else over a new one to the peer's `address`, on which SCP is proposed; it is tried with\n\
         growing waits up to `deliver.give_up_hours`. N-ACTION fails with 0112 (not the well-known instance), 0123\n\
         (not action type 1) or 0115 (no transaction UID, no references, or unusable ones). Action information of\n\
         more than 8 MiB is aborted; what is longer than 256 KiB is taken one after the other.\n\
         As SCU: a destination with `commit = true` is asked after each delivery; its report is accepted on the\n\
         same association for 5 s after the response, and at any time on one that it opens.\n\n\
         ### Modality Performed Procedure Step, Instance Availability Notification\n\n\
         Both are kept as evidence of a study's completeness and change nothing else.\n\n\
         | status | when |\n|---|---|\n\
         | 0000 | it is on disk |\n\
         | 0106 | N-CREATE with another status than IN PROGRESS, or an unknown status value |\n\
         | 0110, Error ID A710 | N-SET after COMPLETED or DISCONTINUED |\n\
         | 0111 | N-CREATE of a step that is known |\n\
         | 0112 | N-SET of a step that this peer did not create |\n\
         | 0117 | N-CREATE of a step without a usable SOP Instance UID |\n\
         | 0120 | a type 1 attribute is missing; for COMPLETED also a Performed Series Sequence |\n\
         | 0213 | the disk is full |\n\n\
         ## 7.2 DICOMweb\n\n\
         | service | user agent | origin server |\n|---|---|---|\n\
         | Studies service, Store (STOW-RS, PS3.18 10.5) | yes, results and forwarding | yes |\n\
         | Studies service, Search (QIDO-RS, PS3.18 10.6) | yes | no |\n\
         | Studies service, Retrieve (WADO-RS, PS3.18 10.4) | yes | no |\n\n\
         HTTP/1.1 over TLS with a client certificate; the origin server is off unless the site file turns it on\n\
         (`dicomweb.listen`). Resources: `{prefix}/studies` and `{prefix}/studies/{StudyInstanceUID}`, method POST.\n\
         Request: `multipart/related; type=\"application/dicom\"`, each part a Part 10 file with preamble and file\n\
         meta information; media type parameters of a part are ignored, the file meta information counts. SOP\n\
         classes and transfer syntaxes are those of C-STORE. Response: `application/dicom+json`; Retrieve URL is\n\
         empty, as nothing is served. An instance under Referenced SOP Sequence is on disk with its ledger entry.\n\n\
         | HTTP status | when |\n|---|---|\n\
         | 200 | every instance is stored, or was before |\n\
         | 202 | some are stored; the others are named with their Failure Reason |\n\
         | 400 | the body is no multipart body or holds no instance, the path names no UID |\n\
         | 403 | the peer may not send, calls from outside its `networks`, or must show a user identity |\n\
         | 404, 405 | another resource or method |\n\
         | 406, 415 | the response or the request is wanted in another media type |\n\
         | 408 | less than 16 KiB came within `dicom.idle_timeout_seconds` |\n\
         | 409 | no instance is stored, for reasons of the instances |\n\
         | 413 | more than `dicomweb.max_request_mib` or `dicomweb.max_instances` |\n\
         | 500 | storing failed: send again |\n\
         | 503, Retry-After | less of the disk is free than `store.congestion_mib`, or no place (`max_associations`) |\n\
         | 507, Retry-After | the disk is full, nothing is stored |\n\n\
         | Failure Reason | meaning |\n|---|---|\n\
         | A700 | out of resources: the disk is full; in Other Failures Sequence: the request is too long |\n\
         | A900 | SOP class or instance UID of the data set differ from the file meta information |\n\
         | A901 | the instance is of another study than the resource |\n\
         | C000 | no Part 10 file, no usable study or series UID, longer than `dicomweb.max_instance_mib`; in Other Failures Sequence also: the body ended or broke |\n\
         | C122 | the transfer syntax is not supported |\n\
         | 0110 | storing failed |\n\
         | 0122 | the SOP class is no storage class, or not among the peer's `sop_classes` |\n\n\
         As user agent: queries ask for `application/dicom+json` with `limit`, retrievals for\n\
         `multipart/related; type=\"application/dicom\"; transfer-syntax=*`. Redirects are not followed, cookies not\n\
         kept; our client certificate is shown, no other authentication is offered. Each request carries one instance, as it\n\
         came; it is delivered on 200 and\n\
         202 unless it is named as failed; 408, 425, 429, 5xx and Failure Reasons A7xx, 0110 and 0213 are tried\n\
         again, all else becomes a dead letter.\n\n\
         ## 8 Security\n\n\
         TLS 1.2 and 1.3 by the BCP 195 RFC 8996, 9325 Secure Transport Connection Profile (PS3.15 B.12), with a\n\
         client certificate required, on a port of its own. Calling AE titles are bound to certificates. DICOM\n\
         without TLS is off unless the site file turns it on.\n\n\
         User identity (PS3.7 D.3.3.7): types 1 (username) and 2 (username and passcode), inside TLS only, where the\n\
         site file names one for the peer; a positive response is sent where it is asked for. Other types, and\n\
         identities that the site does not want, are ignored.\n\n\
         Certificates are checked against the revocation lists of `appliance.tls.crl`, those known by a pin too;\n\
         a revoked one is refused by the alert certificate_revoked. OCSP is not asked.\n",
    );
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_committed_statement_is_what_the_source_says() {
        assert_eq!(
            include_str!("../../../CONFORMANCE.md"),
            super::statement(),
            "run `./justw generate` and commit CONFORMANCE.md"
        );
    }
}
