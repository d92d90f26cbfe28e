//! A peer's whole conversation: A-ASSOCIATE-RQ, then messages, as the listener reads them.
#![no_main]

use std::io::Cursor;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use lightbox::dicom::association::{Incoming, Limits, Requested};
use lightbox::dicom::services;

fuzz_target!(|bytes: &[u8]| {
    let limits =
        Limits { max_pdu: 16_384, artim: Duration::from_millis(50), idle: Duration::from_millis(50) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let stream = tokio::io::join(Cursor::new(bytes.to_vec()), tokio::io::sink());
        let Ok(requested) = Requested::read(stream, limits).await else { return };
        if requested.fault().is_some() {
            return;
        }
        let Ok(mut association) = requested.accept(services::judge).await else { return };
        while let Ok(Incoming::Command(context, command)) = association.next().await {
            while command.has_data_set {
                match association.fragment(context).await {
                    Ok((_, false)) => {}
                    Ok((_, true)) => break,
                    Err(_) => return,
                }
            }
        }
    });
});
