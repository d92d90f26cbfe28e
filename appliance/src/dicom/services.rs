//! Which SOP classes and transfer syntaxes we accept. `lightbox conformance` prints it.

use dicom_encoding::TransferSyntaxIndex;
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;
use dicom_ul::pdu::PresentationContextResultReason;

use super::association::Judgement;

/// Verification SOP class.
pub const VERIFICATION: &str = "1.2.840.10008.1.1";
/// Comprehensive 3D SR Storage, the class of our results.
pub const COMPREHENSIVE_3D_SR: &str = "1.2.840.10008.5.1.4.1.1.88.34";
/// Explicit VR Little Endian.
pub const EXPLICIT_VR_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2.1";
/// Implicit VR Little Endian.
pub const IMPLICIT_VR_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2";

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

/// Whether it is a storage SOP class: every standard one, and every private one. What a PACS
/// sends must not be lost because a list here is old; what cannot be used is kept as received.
pub fn is_storage(abstract_syntax: &str) -> bool {
    abstract_syntax.starts_with("1.2.840.10008.5.1.4.1.1.")
        || OTHER_STORAGE.contains(&abstract_syntax)
        || !abstract_syntax.starts_with("1.2.840.10008.")
}

/// The refusal of a context whose SOP class may not be used.
pub fn not_supported() -> PresentationContextResultReason {
    PresentationContextResultReason::AbstractSyntaxNotSupported
}

/// Judges a proposed presentation context. Of the transfer syntaxes the first that we know is
/// taken: the order is the sender's wish, and data sets are kept as they come.
pub fn judge(abstract_syntax: &str, transfer_syntaxes: &[String]) -> Judgement {
    if abstract_syntax != VERIFICATION && !is_storage(abstract_syntax) {
        return Err(PresentationContextResultReason::AbstractSyntaxNotSupported);
    }
    transfer_syntaxes
        .iter()
        .map(|uid| uid.trim_end_matches(['\0', ' ']))
        .find(|uid| TransferSyntaxRegistry.get(uid).is_some())
        .map(str::to_owned)
        .ok_or(PresentationContextResultReason::TransferSyntaxesNotSupported)
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
