//! How the box reaches its own daemon, and what is no answer.

use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use lightbox_provisioning::site::{Peer, SELF_TEST_PEER};

use super::{Unwell, site_lacks};
use crate::cli::place::Place;
use crate::dicom::association::AssociationError;
use crate::dicom::scu::Target;
use crate::dicom::tls::{self, OwnIdentity};

/// Time for each answer of the daemon.
const ANSWER: Duration = Duration::from_secs(20);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(300);

/// The daemon as the peer `self-test` reaches it: on this machine, known by its own certificate.
pub fn target(place: &Place) -> Result<Target, Unwell> {
    let file = &place.site.file;
    let peer: &Peer = file.peer.iter().find(|peer| peer.name == SELF_TEST_PEER).ok_or_else(|| {
        site_lacks(&format!("there is no peer \"{SELF_TEST_PEER}\", by which the box sends to itself"))
    })?;
    let own = OwnIdentity::load(&file.appliance.tls.certificate, &file.appliance.tls.key)
        .context("appliance.tls cannot be used")?;
    let known = own.known().ok_or_else(|| anyhow!("appliance.tls.certificate holds no certificate"))?;
    Ok(Target {
        address: local(&file.dicom.listen)?,
        called: file.appliance.ae_title.clone(),
        calling: peer.ae_title.clone(),
        tls: Some(tls::client_config(known, None, Some(&own)).context("appliance.tls cannot be used")?),
        wait: ANSWER,
        window: 1,
    })
}

/// Where a listener is reached from this machine.
fn local(listen: &str) -> anyhow::Result<String> {
    let (host, port) =
        listen.rsplit_once(':').ok_or_else(|| anyhow!("dicom.listen is no address with a port"))?;
    Ok(match host.trim_matches(['[', ']']) {
        // "::" listens for IPv4 too, and the peer's usual network is 127.0.0.1.
        "0.0.0.0" | "::" | "" => format!("127.0.0.1:{port}"),
        _ => listen.to_owned(),
    })
}

/// C-ECHO, tried again until the daemon is up.
pub async fn echo(target: &Target, deadline: Instant) -> anyhow::Result<()> {
    loop {
        let error = match target.send(&[], true, &mut |_| {}).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        if Instant::now() >= deadline {
            return Err(error.context("the daemon does not answer C-ECHO"));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether the daemon answered, only not as we would like: it rejected the association, or our certificate.
pub fn is_refusal(error: &anyhow::Error) -> bool {
    let rejected = matches!(error.downcast_ref(), Some(AssociationError::Rejected(_)));
    rejected
        || error.chain().any(|cause| {
            let io = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
            let tls = io.and_then(|inner| inner.downcast_ref::<rustls::Error>());
            matches!(tls, Some(rustls::Error::AlertReceived(_)))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_and_an_alert_are_answers_and_a_closed_port_is_none() {
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateUnknown);
        let io = |inner: rustls::Error| std::io::Error::new(std::io::ErrorKind::InvalidData, inner);
        assert!(is_refusal(&anyhow::Error::new(io(alert.clone())).context("the handshake failed")));
        assert!(is_refusal(&anyhow::Error::new(AssociationError::Io(io(alert)))));
        let closed = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert!(!is_refusal(&anyhow::Error::new(closed)));
        assert_eq!(local("[::]:2762").expect("an address"), "127.0.0.1:2762");
        assert_eq!(local("192.0.2.2:2762").expect("an address"), "192.0.2.2:2762");
    }
}
