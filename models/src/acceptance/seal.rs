//! Sealing a file to devices: the age format, version 1, with X25519 recipients
//! (`age-encryption.org/v1`), so that a vendor may use any implementation of age.
//!
//! Own code for the format, because the `age` crate brings a translation system and some sixty other
//! crates; all cryptography is aws-lc's, which the box has for TLS. Both directions stream: memory is
//! one chunk of 64 KiB, whatever the file's length.
//!
//! A reader must not trust what [`open`] wrote before it returned `Ok`: only then has the last
//! chunk been seen.

use std::io::{self, Read, Write};

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::{hkdf, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;

const VERSION: &str = "age-encryption.org/v1\n";
/// What begins a recipient's part of the header.
const RECIPIENT_STANZA: &str = "-> X25519 ";
/// What begins the part that names a set by its digest.
const SET_STANZA: &str = "-> lightbox-acceptance-set ";
const CHUNK: usize = 64 << 10;
const TAG: usize = 16;
/// Longest header that is read, in bytes.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// Longest line of a header, in bytes.
const LINE_BYTES_MAX: usize = 4096;

/// Why a file could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Not in the age format.
    #[error("not a sealed file; remedy: seal the acceptance set with `age` to this device's recipient")]
    NotSealed,
    /// Sealed to others.
    #[error(
        "sealed, but not to this device; remedy: ask the vendor for one sealed to this device's recipient"
    )]
    NotForThisDevice,
    /// Altered or cut.
    #[error("the sealed file was altered or is not whole; remedy: fetch it again")]
    Altered,
    /// A recipient is none.
    #[error("not a recipient; remedy: give what the device shows, `age1` and 58 letters and digits")]
    Recipient,
    /// A key that the library does not take.
    #[error("the key cannot be used")]
    Key,
    /// Reading or writing failed.
    #[error("reading or writing the sealed file failed")]
    Io(#[from] io::Error),
}

/// Whom a file is sealed to: an X25519 public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient([u8; 32]);

impl Recipient {
    /// The recipient of a secret: what the device shows.
    pub fn of(secret: &[u8; 32]) -> Result<Recipient, SealError> {
        Ok(Recipient(public(&private(secret)?)?))
    }
}

impl std::str::FromStr for Recipient {
    type Err = SealError;

    fn from_str(text: &str) -> Result<Recipient, SealError> {
        let (prefix, bytes) = bech32::decode(text).map_err(|_| SealError::Recipient)?;
        let key = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| SealError::Recipient)?;
        // What is written again must be the same: `decode` also takes Bech32m, age does not.
        let recipient = Recipient(key);
        if prefix.to_lowercase() == "age" && recipient.to_string() == text.to_lowercase() {
            Ok(recipient)
        } else {
            Err(SealError::Recipient)
        }
    }
}

impl std::fmt::Display for Recipient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        bech32::encode_lower_to_fmt::<bech32::Bech32, _>(f, bech32::Hrp::parse_unchecked("age"), &self.0)
            .map_err(|_| std::fmt::Error)
    }
}

/// Seals a file. `random` fills what it is given with random bytes from the system.
pub fn seal(
    from: impl Read,
    to: impl Write,
    recipients: &[Recipient],
    random: impl FnMut(&mut [u8]) -> io::Result<()>,
) -> Result<(), SealError> {
    seal_as(None, from, to, recipients, random)
}

/// Seals a set, whose digest the sealed file bears in the open, so that whoever publishes it need not open
/// it: in a stanza of our own, which other implementations of age pass over as the format asks.
pub fn seal_set(
    digest: &str,
    from: impl Read,
    to: impl Write,
    recipients: &[Recipient],
    random: impl FnMut(&mut [u8]) -> io::Result<()>,
) -> Result<(), SealError> {
    seal_as(Some(digest), from, to, recipients, random)
}

/// The digest that a sealed set bears in the open, where it bears one. Nothing vouches for it: the box compares the
/// set's own with what the plan names.
pub fn set_digest(mut from: impl Read) -> Result<Option<String>, SealError> {
    let (lines, _) = header_lines(&mut from)?;
    let named = lines.iter().find_map(|line| line.strip_prefix(SET_STANZA));
    Ok(named.map(|digest| digest.trim_end_matches('\n').to_owned()))
}

/// To how many a file is sealed.
pub fn recipients(mut from: impl Read) -> Result<usize, SealError> {
    let (lines, _) = header_lines(&mut from)?;
    Ok(lines.iter().filter(|line| line.starts_with(RECIPIENT_STANZA)).count())
}

fn seal_as(
    digest: Option<&str>,
    mut from: impl Read,
    mut to: impl Write,
    recipients: &[Recipient],
    mut random: impl FnMut(&mut [u8]) -> io::Result<()>,
) -> Result<(), SealError> {
    if recipients.is_empty() {
        return Err(SealError::Recipient);
    }
    let mut file_key = [0; 16];
    random(&mut file_key)?;
    let mut header = VERSION.to_owned();
    for recipient in recipients {
        let mut ephemeral = [0; 32];
        random(&mut ephemeral)?;
        let ephemeral = private(&ephemeral)?;
        let share = public(&ephemeral)?;
        let key = wrapping_key(&ephemeral, &recipient.0, &share, &recipient.0)?;
        let mut body = file_key.to_vec();
        cipher(&key)?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), &mut body)
            .map_err(|_| SealError::Key)?;
        header.push_str(&format!("{RECIPIENT_STANZA}{}\n{}\n", BASE64.encode(share), BASE64.encode(body)));
    }
    if let Some(digest) = digest {
        // Its body is empty, and so one empty line.
        header.push_str(&format!("{SET_STANZA}{digest}\n\n"));
    }
    header.push_str("---");
    let mac = hmac::sign(&header_key(&file_key)?, header.as_bytes());
    to.write_all(format!("{header} {}\n", BASE64.encode(mac.as_ref())).as_bytes())?;

    let mut nonce = [0; 16];
    random(&mut nonce)?;
    to.write_all(&nonce)?;
    let payload = cipher(&derived(&nonce, &file_key, b"payload")?)?;
    let (mut chunk, mut next) = (fill(&mut from, CHUNK)?, Vec::new());
    let mut counter = 0;
    loop {
        let last = chunk.len() < CHUNK || {
            next = fill(&mut from, CHUNK)?;
            next.is_empty()
        };
        payload
            .seal_in_place_append_tag(chunk_nonce(counter, last), Aad::empty(), &mut chunk)
            .map_err(|_| SealError::Key)?;
        to.write_all(&chunk)?;
        if last {
            return Ok(to.flush()?);
        }
        chunk = std::mem::take(&mut next);
        counter += 1;
    }
}

/// Opens a sealed file by the device's secret.
pub fn open(mut from: impl Read, mut to: impl Write, secret: &[u8; 32]) -> Result<(), SealError> {
    let file_key = header(&mut from, secret)?;
    let nonce = <[u8; 16]>::try_from(fill(&mut from, 16)?).map_err(|_| SealError::Altered)?;
    let payload = cipher(&derived(&nonce, &file_key, b"payload")?)?;
    let (mut chunk, mut next) = (fill(&mut from, CHUNK + TAG)?, Vec::new());
    let mut counter = 0;
    loop {
        let last = chunk.len() < CHUNK + TAG || {
            next = fill(&mut from, CHUNK + TAG)?;
            next.is_empty()
        };
        let plain = payload
            .open_in_place(chunk_nonce(counter, last), Aad::empty(), &mut chunk)
            .map_err(|_| SealError::Altered)?;
        // Only an empty file ends in an empty chunk; one after others would be a second form.
        if plain.is_empty() && counter > 0 {
            return Err(SealError::Altered);
        }
        to.write_all(plain)?;
        if last {
            return Ok(to.flush()?);
        }
        chunk = std::mem::take(&mut next);
        counter += 1;
    }
}

/// Reads the header, finds this device's part, and checks the whole.
fn header(from: &mut impl Read, secret: &[u8; 32]) -> Result<[u8; 16], SealError> {
    let (lines, mac) = header_lines(from)?;
    let text = format!("{}---", lines.concat());
    let secret = private(secret)?;
    let own = public(&secret)?;
    let mut found = None;
    for pair in lines.windows(2) {
        let Some(share) = pair[0].strip_prefix(RECIPIENT_STANZA) else { continue };
        let decode =
            |text: &str| BASE64.decode(text.trim_end_matches('\n')).map_err(|_| SealError::NotSealed);
        let share = <[u8; 32]>::try_from(decode(share)?).map_err(|_| SealError::NotSealed)?;
        let mut body = decode(&pair[1])?;
        if body.len() != 16 + TAG {
            return Err(SealError::NotSealed);
        }
        let key = wrapping_key(&secret, &share, &share, &own)?;
        let opened =
            cipher(&key)?.open_in_place(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), &mut body);
        if let Ok(plain) = opened {
            found = <[u8; 16]>::try_from(&*plain).ok();
            break;
        }
    }
    let file_key = found.ok_or(SealError::NotForThisDevice)?;
    hmac::verify(&header_key(&file_key)?, text.as_bytes(), &mac).map_err(|_| SealError::Altered)?;
    Ok(file_key)
}

/// The header's lines, each with its end, up to the last one, whose code is apart.
fn header_lines(from: &mut impl Read) -> Result<(Vec<String>, Vec<u8>), SealError> {
    let (mut lines, mut length) = (Vec::new(), 0);
    loop {
        let line = line(from)?;
        if lines.is_empty() && line != VERSION {
            return Err(SealError::NotSealed);
        }
        if let Some(mac) = line.strip_prefix("--- ") {
            let mac = BASE64.decode(mac.trim_end_matches('\n')).map_err(|_| SealError::NotSealed)?;
            return Ok((lines, mac));
        }
        length += line.len();
        if length > HEADER_BYTES_MAX {
            return Err(SealError::NotSealed);
        }
        lines.push(line);
    }
}

/// A line with its end; byte by byte, as what follows the header must not be taken.
fn line(from: &mut impl Read) -> Result<String, SealError> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') {
        if line.len() >= LINE_BYTES_MAX || from.read(&mut byte)? == 0 {
            return Err(SealError::NotSealed);
        }
        line.push(byte[0]);
    }
    String::from_utf8(line).map_err(|_| SealError::NotSealed)
}

/// As many bytes as there are, up to a number.
fn fill(from: &mut impl Read, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(most + TAG);
    from.by_ref().take(most as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn private(secret: &[u8; 32]) -> Result<PrivateKey, SealError> {
    PrivateKey::from_private_key(&X25519, secret).map_err(|_| SealError::Key)
}

fn public(key: &PrivateKey) -> Result<[u8; 32], SealError> {
    let public = key.compute_public_key().map_err(|_| SealError::Key)?;
    <[u8; 32]>::try_from(public.as_ref()).map_err(|_| SealError::Key)
}

fn wrapping_key(
    key: &PrivateKey,
    peer: &[u8; 32],
    share: &[u8; 32],
    recipient: &[u8; 32],
) -> Result<[u8; 32], SealError> {
    let salt = [share.as_slice(), recipient].concat();
    // The library refuses a shared secret of zeros, as the format demands.
    agreement::agree(key, UnparsedPublicKey::new(&X25519, peer), SealError::NotSealed, |shared| {
        derived(&salt, shared, b"age-encryption.org/v1/X25519")
    })
}

fn derived(salt: &[u8], secret: &[u8], purpose: &[u8]) -> Result<[u8; 32], SealError> {
    let mut key = [0; 32];
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(secret)
        .expand(&[purpose], hkdf::HKDF_SHA256)
        .and_then(|expanded| expanded.fill(&mut key))
        .map_err(|_| SealError::Key)?;
    Ok(key)
}

fn header_key(file_key: &[u8; 16]) -> Result<hmac::Key, SealError> {
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &derived(b"", file_key, b"header")?))
}

fn cipher(key: &[u8; 32]) -> Result<LessSafeKey, SealError> {
    Ok(LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).map_err(|_| SealError::Key)?))
}

/// Eleven bytes of counter, one that marks the last chunk.
fn chunk_nonce(counter: u64, last: bool) -> Nonce {
    let mut nonce = [0; 12];
    nonce[3..11].copy_from_slice(&counter.to_be_bytes());
    nonce[11] = u8::from(last);
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(plain: &[u8], to: &[Recipient]) -> Vec<u8> {
        let mut sealed = Vec::new();
        let mut next = 0_u8;
        seal(plain, &mut sealed, to, |bytes| {
            bytes.fill_with(|| {
                next = next.wrapping_mul(31).wrapping_add(7);
                next
            });
            Ok(())
        })
        .expect("sealed");
        sealed
    }

    fn opened(sealed: &[u8], secret: &[u8; 32]) -> Result<Vec<u8>, SealError> {
        let mut plain = Vec::new();
        open(sealed, &mut plain, secret).map(|()| plain)
    }

    #[test]
    fn what_is_sealed_opens_at_each_length_around_a_chunk() {
        let (one, two) = ([7; 32], [9; 32]);
        let to = [Recipient::of(&one).expect("key"), Recipient::of(&two).expect("key")];
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 5] {
            let plain: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let sealed = sealed(&plain, &to);
            assert!(opened(&sealed, &one).expect("opens") == plain, "{length}");
            assert!(opened(&sealed, &two).expect("opens") == plain, "{length}");
            assert!(matches!(opened(&sealed, &[8; 32]), Err(SealError::NotForThisDevice)));
        }
    }

    #[test]
    fn each_altered_byte_and_each_cut_is_refused() {
        let secret = [7; 32];
        let whole = sealed(b"a short set", &[Recipient::of(&secret).expect("key")]);
        for at in 0..whole.len() {
            let mut altered = whole.clone();
            altered[at] ^= 1;
            assert!(opened(&altered, &secret).is_err(), "byte {at}");
            assert!(opened(&whole[..at], &secret).is_err(), "cut at {at}");
        }
        assert!(opened(&[whole.as_slice(), b"x"].concat(), &secret).is_err());
        // Cut at a chunk's end: the last chunk is marked as the last.
        let long = sealed(&vec![1; CHUNK + 1], &[Recipient::of(&secret).expect("key")]);
        assert!(matches!(opened(&long[..long.len() - 1 - TAG], &secret), Err(SealError::Altered)));
    }

    #[test]
    fn a_sealed_set_bears_its_digest_in_the_open() {
        let (secret, digest) = ([7; 32], "ab".repeat(32));
        let to = [Recipient::of(&secret).expect("key"), Recipient::of(&[9; 32]).expect("key")];
        let mut sealed = Vec::new();
        seal_set(&digest, &b"a set"[..], &mut sealed, &to, |bytes| {
            bytes.fill(3);
            Ok(())
        })
        .expect("sealed");
        assert_eq!(set_digest(sealed.as_slice()).expect("reads"), Some(digest.clone()));
        assert_eq!(recipients(sealed.as_slice()).expect("reads"), 2);
        assert_eq!(opened(&sealed, &secret).expect("opens"), b"a set");
        let at = sealed.windows(4).position(|bytes| bytes == b"abab").expect("it is there");
        sealed[at] = b'c';
        assert!(matches!(opened(&sealed, &secret), Err(SealError::Altered)), "the name is sealed too");
        let plain = super::tests::sealed(b"x", &to);
        assert_eq!(set_digest(plain.as_slice()).expect("reads"), None);
        assert!(matches!(set_digest(&b"not sealed\n"[..]), Err(SealError::NotSealed)));
    }

    #[test]
    fn recipients_are_read_as_age_writes_them() {
        let shown = Recipient::of(&[7; 32]).expect("key").to_string();
        assert!(shown.starts_with("age1") && shown.len() == 62, "{shown}");
        assert_eq!(shown.parse::<Recipient>().expect("reads"), Recipient::of(&[7; 32]).expect("key"));
        for wrong in ["", "age1", &shown[..61], &shown.replace("age1", "agf1")] {
            assert!(wrong.parse::<Recipient>().is_err(), "{wrong}");
        }
    }
}
