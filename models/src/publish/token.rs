//! Keys in a PKCS #11 token: the private key never leaves it.
//!
//! The token must know Ed25519 (`CKK_EC_EDWARDS`, mechanism `CKM_EDDSA` of PKCS #11 3.0): pure
//! Ed25519 over the metadata's canonical form, as [`super::FileKey`] signs.

use std::fmt;
use std::path::Path;

use cryptoki::context::{CInitializeArgs, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;

use super::{PublicKey, PublishError, Signer};

/// A PKCS #11 module: the library of a token's maker.
#[derive(Clone, Debug)]
pub struct Module(Pkcs11);

impl Module {
    /// Loads a module; once in a process, as the standard has it.
    pub fn load(path: &Path) -> Result<Module, PublishError> {
        let module = Pkcs11::new(path).map_err(failed("loading the module"))?;
        module.initialize(CInitializeArgs::OsThreads).map_err(failed("starting the module"))?;
        Ok(Module(module))
    }
}

/// A key in a token.
pub struct TokenKey {
    session: Session,
    private: ObjectHandle,
    public: PublicKey,
}

impl TokenKey {
    /// Opens the token of this label with its user's PIN, and in it the key pair of this label.
    pub fn open(module: &Module, token: &str, pin: &str, key: &str) -> Result<TokenKey, PublishError> {
        let slots = module.0.get_slots_with_token().map_err(failed("listing tokens"))?;
        let slot = slots
            .into_iter()
            .find(|slot| module.0.get_token_info(*slot).is_ok_and(|info| info.label() == token))
            .ok_or_else(|| PublishError::Token(format!("no token has the label {token:?}")))?;
        let session = module.0.open_ro_session(slot).map_err(failed("opening a session"))?;
        session.login(UserType::User, Some(&AuthPin::new(pin.into()))).map_err(failed("logging in"))?;
        let find = |class| {
            let wanted = [
                Attribute::Class(class),
                Attribute::KeyType(KeyType::EC_EDWARDS),
                Attribute::Label(key.as_bytes().to_vec()),
            ];
            let found = session.find_objects(&wanted).map_err(failed("looking for the key"))?;
            match found[..] {
                [handle] => Ok(handle),
                [] => Err(PublishError::Token(format!("no Ed25519 key pair has the label {key:?}"))),
                _ => Err(PublishError::Token(format!("several keys have the label {key:?}"))),
            }
        };
        let private = find(ObjectClass::PRIVATE_KEY)?;
        let public = find(ObjectClass::PUBLIC_KEY)?;
        let point = session
            .get_attributes(public, &[AttributeType::EcPoint])
            .map_err(failed("reading the public key"))?;
        let public = match point.first() {
            Some(Attribute::EcPoint(point)) => edwards_point(point),
            _ => None,
        };
        let public = public.ok_or_else(|| PublishError::Token("its public key is not Ed25519".into()))?;
        Ok(TokenKey { session, private, public })
    }
}

/// The 32 bytes of a point: as a DER octet string (PKCS #11 3.0) or bare (3.1).
fn edwards_point(point: &[u8]) -> Option<PublicKey> {
    point.strip_prefix(&[0x04, 0x20]).unwrap_or(point).try_into().ok().map(PublicKey)
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKey({})", self.public)
    }
}

impl Signer for TokenKey {
    fn public(&self) -> PublicKey {
        self.public
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], PublishError> {
        let mechanism = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure));
        let signature = self.session.sign(&mechanism, self.private, message).map_err(failed("signing"))?;
        signature.try_into().map_err(|_| PublishError::Token("its signature is not Ed25519".into()))
    }
}

fn failed(what: &'static str) -> impl Fn(cryptoki::error::Error) -> PublishError {
    move |error| PublishError::Token(format!("{what}: {error}"))
}
