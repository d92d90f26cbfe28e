//! Who may act: the role, and the proof that the request came from a form of ours.
//!
//! A client certificate is sent with every request, wanted or not, so a page elsewhere could make
//! an operator's browser act. Two independent checks stop that: the browser's own word on where
//! the request comes from, and a token that only our pages hold.

use axum::http::{HeaderMap, header};
use lightbox_bootstrap::identity::DeviceIdentity;
use lightbox_provisioning::site::Role;

use super::{AdminError, Operator};
use crate::audit::chain::hex;

/// Why an action was refused. The texts go to the operator and to the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A viewer.
    #[error("your role is viewer: only an operator may act")]
    Role,
    /// The browser says that another site sent the request, or says nothing.
    #[error("the request did not come from this page")]
    CrossSite,
    /// No token, another operator's, or one from before a restart.
    #[error("the form is out of date: open the page again and repeat the action")]
    Token,
}

/// Makes and checks the tokens of one run of the daemon.
pub struct Tokens {
    secret: [u8; 32],
}

impl Tokens {
    /// With a secret of this run.
    pub fn new() -> Result<Self, AdminError> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|_| AdminError::Random)?;
        Ok(Tokens { secret })
    }

    /// The token of an operator: keyed by the device, bound to this run and to the name.
    pub fn issue(&self, identity: &DeviceIdentity, operator: &Operator) -> String {
        let mut bound = self.secret.to_vec();
        bound.extend(operator.name.as_bytes());
        hex(&identity.derive("admin form token", &bound))
    }

    /// Whether an operator may act, with this request.
    pub fn check(
        &self,
        identity: &DeviceIdentity,
        operator: &Operator,
        headers: &HeaderMap,
        token: &str,
    ) -> Result<(), Refused> {
        if operator.role != Role::Operator {
            return Err(Refused::Role);
        }
        if !same_origin(headers) {
            return Err(Refused::CrossSite);
        }
        if !equal(token.as_bytes(), self.issue(identity, operator).as_bytes()) {
            return Err(Refused::Token);
        }
        Ok(())
    }
}

/// Compares without telling by its duration where the difference is.
fn equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

/// What the browser says of the request's origin. Every browser in support sends at least one of
/// the two headers with a POST; a request with neither is not from a form of ours.
fn same_origin(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("unreadable"));
    let site = text(header::HeaderName::from_static("sec-fetch-site"));
    let origin = text(header::ORIGIN);
    if site.is_none() && origin.is_none() {
        return false;
    }
    let host = text(header::HOST).unwrap_or_default();
    site.is_none_or(|site| site == "same-origin")
        && origin.is_none_or(|origin| origin.strip_prefix("https://") == Some(host))
}

/// Whether another site's page makes the browser ask, with the operator's certificate. Programs send no such header.
pub fn is_cross_site(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(|value| value.to_str().unwrap_or("unreadable"));
    site.is_some_and(|site| !matches!(site, "same-origin" | "none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (header::HeaderName::from_static(name), header::HeaderValue::from_static(value))
            })
            .collect()
    }

    #[test]
    fn only_our_own_pages_count_as_the_same_origin() {
        let host = ("host", "box:8443");
        for (good, pairs) in [
            (true, vec![host, ("origin", "https://box:8443")]),
            (true, vec![host, ("sec-fetch-site", "same-origin")]),
            (true, vec![host, ("sec-fetch-site", "same-origin"), ("origin", "https://box:8443")]),
            (false, vec![host]),
            (false, vec![host, ("origin", "null")]),
            (false, vec![host, ("origin", "http://box:8443")]),
            (false, vec![host, ("origin", "https://box:8443.evil.example")]),
            (false, vec![host, ("sec-fetch-site", "cross-site"), ("origin", "https://box:8443")]),
            (false, vec![host, ("sec-fetch-site", "same-site")]),
            (false, vec![host, ("sec-fetch-site", "none")]),
        ] {
            assert_eq!(same_origin(&headers(&pairs)), good, "{pairs:?}");
        }
    }

    #[test]
    fn a_token_is_good_for_one_operator_and_one_run() {
        let folder = tempfile::tempdir().expect("temp dir");
        let identity = DeviceIdentity::open_or_create(&folder.path().join("key")).expect("key");
        let olaf = Operator { name: "olaf".into(), role: Role::Operator };
        let other = Operator { name: "other".into(), role: Role::Operator };
        let own = headers(&[("host", "box"), ("origin", "https://box")]);
        let tokens = Tokens::new().expect("random");
        let token = tokens.issue(&identity, &olaf);
        assert_eq!(tokens.check(&identity, &olaf, &own, &token), Ok(()));
        assert_eq!(tokens.check(&identity, &other, &own, &token), Err(Refused::Token));
        assert_eq!(tokens.check(&identity, &olaf, &own, ""), Err(Refused::Token));
        let restarted = Tokens::new().expect("random");
        assert_eq!(restarted.check(&identity, &olaf, &own, &token), Err(Refused::Token));
    }
}
