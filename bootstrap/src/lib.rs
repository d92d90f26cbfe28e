//! What happens at first boot and at every boot: the device's identity, and the boot entry's counter of tries.
//!
//! Provisioning belongs here as well and comes later. The image that boots is made in `os-image/`.

pub mod boot_entry;
pub mod floor;
pub mod identity;
pub mod slot;
