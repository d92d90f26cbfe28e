//! One compressed frame, as a decoder of dicom-rs wants to see an object: it then neither copies all fragments
//! for each frame nor guesses at their borders.

use std::borrow::Cow;

use dicom_core::value::C;
use dicom_encoding::adapters::{PixelDataObject, RawPixelData};

/// A frame and what its header says of it.
pub(crate) struct OneFrame<'a> {
    /// The codestream.
    pub(crate) coded: &'a [u8],
    /// How it is encoded.
    pub(crate) transfer_syntax: &'a str,
    /// Pixels in a row.
    pub(crate) columns: u32,
    /// Rows.
    pub(crate) rows: u32,
    /// Samples per Pixel (0028,0002).
    pub(crate) samples: u32,
    /// Bits Allocated (0028,0100).
    pub(crate) bits_allocated: u32,
    /// Bits Stored (0028,0101).
    pub(crate) bits_stored: u32,
}

impl PixelDataObject for OneFrame<'_> {
    fn transfer_syntax_uid(&self) -> &str {
        self.transfer_syntax
    }
    fn rows(&self) -> Option<u16> {
        u16::try_from(self.rows).ok()
    }
    fn cols(&self) -> Option<u16> {
        u16::try_from(self.columns).ok()
    }
    fn samples_per_pixel(&self) -> Option<u16> {
        u16::try_from(self.samples).ok()
    }
    fn bits_allocated(&self) -> Option<u16> {
        u16::try_from(self.bits_allocated).ok()
    }
    fn bits_stored(&self) -> Option<u16> {
        u16::try_from(self.bits_stored).ok()
    }
    fn photometric_interpretation(&self) -> Option<&str> {
        None
    }
    fn number_of_frames(&self) -> Option<u32> {
        Some(1)
    }
    fn number_of_fragments(&self) -> Option<u32> {
        Some(1)
    }
    fn fragment(&self, fragment: usize) -> Option<Cow<'_, [u8]>> {
        (fragment == 0).then_some(Cow::Borrowed(self.coded))
    }
    fn offset_table(&self) -> Option<Cow<'_, [u32]>> {
        Some(Cow::Borrowed(&[]))
    }
    fn raw_pixel_data(&self) -> Option<RawPixelData> {
        Some(RawPixelData { fragments: C::from_vec(vec![self.coded.to_vec()]), offset_table: C::new() })
    }
}
