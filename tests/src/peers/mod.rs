//! Real peers, each a process or a thread of its own on a port of its own.

pub mod announcer;
pub mod curl;
pub mod mirror;
pub mod mllp;
pub mod order_sender;
pub mod orthanc;
pub mod port;
pub mod power_cut;
pub mod proxy;
pub mod qr;
pub mod raw;
pub mod refusing;
pub mod scu;
pub mod server;
pub mod silent;
pub mod storescp;
pub mod storescu;
pub mod stow;
pub mod tls_client;
pub mod windowed;
