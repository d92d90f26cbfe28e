//! End-to-end tests of Lightbox.
