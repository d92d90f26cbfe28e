//! Which SOP classes and transfer syntaxes we accept. `lightbox conformance` prints it.

use dicom_dictionary_std::uids;
use dicom_encoding::TransferSyntaxIndex;
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;
use dicom_ul::pdu::PresentationContextResultReason;

use lightbox_provisioning::site::{Capability, Destination, Peer, Site};

use super::association::{Judgement, Roles};
use super::{data_set, header};

/// Verification SOP class.
pub const VERIFICATION: &str = "1.2.840.10008.1.1";
/// Comprehensive 3D SR Storage, the class of our results.
pub const COMPREHENSIVE_3D_SR: &str = "1.2.840.10008.5.1.4.1.1.88.34";
/// Study Root Query/Retrieve, FIND.
pub const STUDY_ROOT_FIND: &str = "1.2.840.10008.5.1.4.1.2.2.1";
/// Study Root Query/Retrieve, MOVE.
pub const STUDY_ROOT_MOVE: &str = "1.2.840.10008.5.1.4.1.2.2.2";
/// Study Root Query/Retrieve, GET.
pub const STUDY_ROOT_GET: &str = "1.2.840.10008.5.1.4.1.2.2.3";
/// Storage Commitment Push Model.
pub const STORAGE_COMMITMENT: &str = "1.2.840.10008.1.20.1";
/// The well-known instance of Storage Commitment Push Model (PS3.4 J.3.5).
pub const STORAGE_COMMITMENT_INSTANCE: &str = "1.2.840.10008.1.20.1.1";
/// Modality Performed Procedure Step.
pub const PROCEDURE_STEP: &str = "1.2.840.10008.3.1.2.3.3";
/// Instance Availability Notification.
pub const AVAILABILITY: &str = "1.2.840.10008.5.1.4.33";
/// Explicit VR Little Endian.
pub const EXPLICIT_VR_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2.1";
/// Implicit VR Little Endian.
pub const IMPLICIT_VR_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2";

/// The storage classes that a C-GET proposes: an association has room for 128 contexts, and a C-GET must
/// name beforehand what may come.
pub const GET_STORAGE: &[&str] = &[
    uids::COMPUTED_RADIOGRAPHY_IMAGE_STORAGE,
    uids::DIGITAL_X_RAY_IMAGE_STORAGE_FOR_PRESENTATION,
    uids::DIGITAL_X_RAY_IMAGE_STORAGE_FOR_PROCESSING,
    uids::DIGITAL_MAMMOGRAPHY_X_RAY_IMAGE_STORAGE_FOR_PRESENTATION,
    uids::DIGITAL_MAMMOGRAPHY_X_RAY_IMAGE_STORAGE_FOR_PROCESSING,
    uids::BREAST_TOMOSYNTHESIS_IMAGE_STORAGE,
    uids::CT_IMAGE_STORAGE,
    uids::ENHANCED_CT_IMAGE_STORAGE,
    uids::MR_IMAGE_STORAGE,
    uids::ENHANCED_MR_IMAGE_STORAGE,
    uids::MR_SPECTROSCOPY_STORAGE,
    uids::ULTRASOUND_IMAGE_STORAGE,
    uids::ULTRASOUND_MULTI_FRAME_IMAGE_STORAGE,
    uids::X_RAY_ANGIOGRAPHIC_IMAGE_STORAGE,
    uids::ENHANCED_XA_IMAGE_STORAGE,
    uids::X_RAY_RADIOFLUOROSCOPIC_IMAGE_STORAGE,
    uids::NUCLEAR_MEDICINE_IMAGE_STORAGE,
    uids::POSITRON_EMISSION_TOMOGRAPHY_IMAGE_STORAGE,
    uids::ENHANCED_PET_IMAGE_STORAGE,
    uids::RT_IMAGE_STORAGE,
    uids::RT_STRUCTURE_SET_STORAGE,
    uids::RT_DOSE_STORAGE,
    uids::RT_PLAN_STORAGE,
    uids::SECONDARY_CAPTURE_IMAGE_STORAGE,
    uids::MULTI_FRAME_GRAYSCALE_BYTE_SECONDARY_CAPTURE_IMAGE_STORAGE,
    uids::MULTI_FRAME_GRAYSCALE_WORD_SECONDARY_CAPTURE_IMAGE_STORAGE,
    uids::MULTI_FRAME_TRUE_COLOR_SECONDARY_CAPTURE_IMAGE_STORAGE,
    uids::SEGMENTATION_STORAGE,
    uids::PARAMETRIC_MAP_STORAGE,
    uids::GRAYSCALE_SOFTCOPY_PRESENTATION_STATE_STORAGE,
    uids::KEY_OBJECT_SELECTION_DOCUMENT_STORAGE,
    uids::BASIC_TEXT_SR_STORAGE,
    uids::ENHANCED_SR_STORAGE,
    uids::COMPREHENSIVE_SR_STORAGE,
    COMPREHENSIVE_3D_SR,
    uids::X_RAY_RADIATION_DOSE_SR_STORAGE,
    uids::ENCAPSULATED_PDF_STORAGE,
];
/// The transfer syntaxes that a C-GET proposes for them, the one wanted most first: what every PACS can
/// send, then compressed ones for a PACS that does not convert.
pub const GET_TRANSFER_SYNTAXES: &[&str] = &[
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    uids::JPEG_LOSSLESS_SV1,
    uids::JPEGLS_LOSSLESS,
    uids::JPEG2000_LOSSLESS,
    uids::RLE_LOSSLESS,
    uids::JPEG_BASELINE8_BIT,
    uids::JPEG2000,
];

/// Storage classes whose UIDs lie outside 1.2.840.10008.5.1.4.1.1: hanging protocols, color palettes,
/// implant templates, RT beams delivery instructions and protocols (PS3.4 B.5 and GG.3).
const OTHER_STORAGE: &[&str] = &[
    "1.2.840.10008.5.1.4.34.7",
    "1.2.840.10008.5.1.4.34.10",
    "1.2.840.10008.5.1.4.38.1",
    "1.2.840.10008.5.1.4.39.1",
    "1.2.840.10008.5.1.4.43.1",
    "1.2.840.10008.5.1.4.44.1",
    "1.2.840.10008.5.1.4.45.1",
];

/// Whether it is a storage SOP class: every standard one, and every private one that is a UID at all. What a PACS
/// sends must not be lost because a list here is old; what cannot be used is kept as received.
pub fn is_storage(abstract_syntax: &str) -> bool {
    header::is_uid(abstract_syntax)
        && (abstract_syntax.starts_with("1.2.840.10008.5.1.4.1.1.")
            || OTHER_STORAGE.contains(&abstract_syntax)
            || !abstract_syntax.starts_with("1.2.840.10008."))
}

/// The refusal of a context whose SOP class may not be used.
pub fn not_supported() -> PresentationContextResultReason {
    PresentationContextResultReason::AbstractSyntaxNotSupported
}

/// What a peer that opens an association may do in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Store instances (C-STORE).
    pub store: bool,
    /// Tell of performed procedure steps and of the availability of instances.
    pub announce: bool,
    /// Ask us to commit to instances (N-ACTION).
    pub commit: bool,
    /// Report to us what it commits to (N-EVENT-REPORT), as SCP on an association that it opens.
    pub report: bool,
}

impl Permissions {
    /// All of them.
    pub const ALL: Permissions = Permissions { store: true, announce: true, commit: true, report: true };

    /// What the site file lets a peer do. Who may send may also tell of what it sends and ask us to
    /// commit to it; who is asked for studies sends them; who is asked to commit reports.
    pub fn of(site: &Site, peer: &Peer) -> Self {
        let may = |capability| peer.may.contains(&capability);
        let asked_to_commit = |destination: &Destination| {
            destination.dicom.as_ref().is_some_and(|dicom| dicom.commit && dicom.peer == peer.name)
        };
        Permissions {
            store: may(Capability::Send) || may(Capability::Retrieve),
            announce: may(Capability::Send) || may(Capability::Announce),
            commit: may(Capability::Send) || may(Capability::Commit),
            report: site.file.destination.iter().any(asked_to_commit),
        }
    }

    /// Whether it may open an association at all.
    pub fn any(self) -> bool {
        self != Permissions::default()
    }

    /// Judges a proposed presentation context. Of the transfer syntaxes the first that we know is
    /// taken: the order is the sender's wish, and instances are kept as they come. The data sets of
    /// the other services are read here, in Explicit or Implicit VR Little Endian.
    pub fn judge(self, abstract_syntax: &str, transfer_syntaxes: &[String]) -> Judgement {
        let known: fn(&str) -> bool = match abstract_syntax {
            VERIFICATION => |uid| TransferSyntaxRegistry.get(uid).is_some(),
            STORAGE_COMMITMENT if self.commit || self.report => data_set::is_supported,
            PROCEDURE_STEP | AVAILABILITY if self.announce => data_set::is_supported,
            class if self.store && is_storage(class) => |uid| TransferSyntaxRegistry.get(uid).is_some(),
            _ => return Err(PresentationContextResultReason::AbstractSyntaxNotSupported),
        };
        transfer_syntaxes
            .iter()
            .map(|uid| uid.trim_end_matches(['\0', ' ']))
            .find(|uid| known(uid))
            .map(str::to_owned)
            .ok_or(PresentationContextResultReason::TransferSyntaxesNotSupported)
    }

    /// Which of the proposed roles the requestor gets: `None` where there is nothing to negotiate.
    pub fn judge_roles(self, abstract_syntax: &str, proposed: Roles) -> Option<Roles> {
        match abstract_syntax {
            STORAGE_COMMITMENT => {
                Some(Roles { scu: proposed.scu && self.commit, scp: proposed.scp && self.report })
            }
            // We never send over an association that somebody else opened.
            class if is_storage(class) => Some(Roles { scu: proposed.scu, scp: false }),
            _ => None,
        }
    }
}

/// Judges a proposed presentation context of a peer that may do everything.
pub fn judge(abstract_syntax: &str, transfer_syntaxes: &[String]) -> Judgement {
    Permissions::ALL.judge(abstract_syntax, transfer_syntaxes)
}

/// The transfer syntaxes that we accept, with their names, by UID.
pub fn transfer_syntaxes() -> Vec<(&'static str, &'static str)> {
    let mut all: Vec<_> = TransferSyntaxRegistry.iter().map(|syntax| (syntax.uid(), syntax.name())).collect();
    all.sort_unstable();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_is_wide_and_query_is_not_storage() {
        assert!(is_storage("1.2.840.10008.5.1.4.1.1.2"));
        assert!(is_storage("1.3.12.2.1107.5.9.1"));
        assert!(!is_storage("1.2.840.10008.5.1.4.1.2.2.1"));
        assert!(!is_storage(VERIFICATION));
    }

    #[test]
    fn each_service_needs_its_permission_and_a_syntax_that_it_reads() {
        let offered = ["1.2.840.10008.1.2.2".to_owned(), EXPLICIT_VR_LITTLE_ENDIAN.to_owned()];
        let explicit = Ok(EXPLICIT_VR_LITTLE_ENDIAN.to_owned());
        let refused = Err(PresentationContextResultReason::AbstractSyntaxNotSupported);
        let announcer = Permissions { announce: true, ..Permissions::default() };
        assert_eq!(announcer.judge(PROCEDURE_STEP, &offered), explicit);
        assert_eq!(announcer.judge(STORAGE_COMMITMENT, &offered), refused);
        assert_eq!(announcer.judge("1.2.840.10008.5.1.4.1.1.2", &offered), refused);
        assert_eq!(announcer.judge(VERIFICATION, &offered), Ok(offered[0].clone()));
        let reporter = Permissions { report: true, ..Permissions::default() };
        assert_eq!(reporter.judge(STORAGE_COMMITMENT, &offered), explicit);
        assert_eq!(reporter.judge_roles(STORAGE_COMMITMENT, Roles::SCP), Some(Roles::SCP));
        let none = Roles { scu: false, scp: false };
        assert_eq!(announcer.judge_roles(STORAGE_COMMITMENT, Roles::SCP), Some(none));
        assert_eq!(judge(STUDY_ROOT_FIND, &offered), refused);
    }

    #[test]
    fn compressed_syntaxes_are_taken_as_offered() {
        let offered = ["1.2.840.10008.1.2.4.80".to_owned(), EXPLICIT_VR_LITTLE_ENDIAN.to_owned()];
        assert_eq!(judge("1.2.840.10008.5.1.4.1.1.2", &offered), Ok(offered[0].clone()));
        let unknown = ["1.2.3".to_owned()];
        assert_eq!(
            judge("1.2.840.10008.5.1.4.1.1.2", &unknown),
            Err(PresentationContextResultReason::TransferSyntaxesNotSupported)
        );
    }
}
