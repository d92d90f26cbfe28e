//! What happens at first boot and at every boot. So far: the device's identity.
//!
//! Provisioning, sealing, self-test and the bless-or-fall-back decision belong here as well and
//! come with the operating system image (see `os-image/README.md`).

pub mod identity;
