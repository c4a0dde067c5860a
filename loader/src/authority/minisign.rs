//! Keys and signatures in minisign's formats.
//!
//! # Source
//! <https://jedisct1.github.io/minisign/#signature-format>

#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use minisign_verify::{Error as Refusal, PublicKey, Signature};

use crate::error::{Error, ErrorKind};

/// Bytes that the text of a signature may have: the standard tool allows comments of 8 KiB.
pub(super) const MAX_TEXT: usize = 16 << 10;

/// What minisign calls a key's id: the same in the public key and in what was signed with it.
/// Written as minisign does, as 16 uppercase hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(u64);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// The text is not the id of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAKeyId;

impl fmt::Display for NotAKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected 16 hexadecimal digits")
    }
}

impl std::error::Error for NotAKeyId {}

impl FromStr for KeyId {
    type Err = NotAKeyId;

    fn from_str(text: &str) -> Result<Self, NotAKeyId> {
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = u64::from_str_radix(text, 16).ok().filter(|_| is_hex);
        id.map(Self).ok_or(NotAKeyId)
    }
}

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) id: KeyId,
    key: PublicKey,
}

impl Key {
    /// Reads what `minisign -G` writes: a comment and 56 characters.
    ///
    /// # Errors
    /// What was expected where.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let lines = lines(text);
        let [comment, encoded] = lines.as_slice() else {
            return Err(format!("expected 2 lines, found {}", lines.len()));
        };
        if !comment.starts_with(UNTRUSTED) {
            return Err(format!("line 1: expected \"{UNTRUSTED}\""));
        }
        let key = PublicKey::from_base64(encoded).ok();
        let (Some((_, id)), Some(key)) = (head(encoded), key) else {
            return Err("line 2: expected a public key of minisign's in base64".to_owned());
        };
        Ok(Self { id, key })
    }
}

/// A signature that was read and not yet verified.
pub(super) struct Letter {
    /// Whose it says it is.
    pub(super) id: KeyId,
    signature: Signature,
}

const UNTRUSTED: &str = "untrusted comment:";
const TRUSTED: &str = "trusted comment: ";

impl Letter {
    /// Reads what `minisign -S` writes: four lines and nothing else.
    ///
    /// # Errors
    /// [`ErrorKind::Signature`].
    pub(super) fn parse(text: &[u8]) -> Result<Self, Error> {
        let malformed = |what: String| {
            let message = format!("signature: {what}; sign the file again");
            Err(Error::new(ErrorKind::Signature, message))
        };
        if text.len() > MAX_TEXT {
            let found = text.len();
            return malformed(format!("expected at most {MAX_TEXT} bytes, found {found}"));
        }
        let Ok(text) = str::from_utf8(text) else {
            return malformed("expected text in UTF-8".to_owned());
        };
        let lines = lines(text);
        let [untrusted, encoded, trusted, global] = lines.as_slice() else {
            return malformed(format!("expected 4 lines, found {}", lines.len()));
        };
        for (line, text, prefix) in [(1, untrusted, UNTRUSTED), (3, trusted, TRUSTED)] {
            if !text.starts_with(prefix) {
                return malformed(format!("line {line}: expected {prefix:?}"));
            }
        }
        // 74 and 64 bytes.
        for (line, text, expected) in [(2, encoded, 100), (4, global, 88)] {
            if text.len() != expected {
                let found = text.len();
                return malformed(format!(
                    "line {line}: expected {expected} characters, found {found}"
                ));
            }
        }
        let Some((algorithm, id)) = head(encoded) else {
            return malformed("line 2: expected base64".to_owned());
        };
        match &algorithm {
            b"ED" => {}
            // Signed as a whole: the standard tool has not made such ones by itself since 0.10.
            b"Ed" => {
                return malformed(
                    "expected a signature of the file's hash (ED), found a legacy one (Ed)"
                        .to_owned(),
                );
            }
            _ => {
                let found = String::from_utf8_lossy(&algorithm).into_owned();
                return malformed(format!("algorithm: expected \"ED\", found {found:?}"));
            }
        }
        match Signature::decode(text) {
            Ok(signature) => Ok(Self { id, signature }),
            Err(_) => malformed("lines 2 and 4: expected base64".to_owned()),
        }
    }

    /// Verifies that `key` signed `payload` and the trusted comment, which is returned.
    ///
    /// # Errors
    /// [`ErrorKind::Signature`].
    pub(super) fn verify(&self, key: &Key, payload: &[u8]) -> Result<&str, Error> {
        match key.key.verify(payload, &self.signature, false) {
            Ok(()) => Ok(self.signature.trusted_comment()),
            Err(refusal) => {
                let id = key.id;
                let why = match refusal {
                    Refusal::InvalidSignature => format!(
                        "signature: expected one of this file and this trusted comment by key {id}, \
                         found another; the file or its signature was changed"
                    ),
                    other => format!("signature: by key {id}: {other}"),
                };
                Err(Error::new(ErrorKind::Signature, why))
            }
        }
    }
}

/// The lines of a text, of which the last one may or may not have an end.
fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

/// The algorithm and the key's id with which encoded keys and signatures begin.
fn head(encoded: &str) -> Option<([u8; 2], KeyId)> {
    let mut bytes = [0; 12];
    let groups = encoded.as_bytes().get(..16)?.chunks_exact(4);
    for (three, four) in bytes.chunks_exact_mut(3).zip(groups) {
        let bits = four.iter().try_fold(0_u32, |bits, character| {
            let value = match character {
                b'A'..=b'Z' => character - b'A',
                b'a'..=b'z' => character - b'a' + 26,
                b'0'..=b'9' => character - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            Some(bits << 6 | u32::from(value))
        })?;
        three.copy_from_slice(bits.to_be_bytes().get(1..)?);
    }
    let (algorithm, rest) = bytes.split_first_chunk::<2>()?;
    let id = rest.first_chunk::<8>()?;
    Some((*algorithm, KeyId(u64::from_le_bytes(*id))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_is_what_minisign_shows() {
        // Made by minisign 0.11.
        let key = "untrusted comment: minisign public key 33CFE7A357129B63\n\
                   RWRjmxJXo+fPM9aSTTh/C0nj0ACNsdvu8V91nRHB8vRAMRJ/KX41jWjx\n";
        let key = Key::parse(key).unwrap();
        assert_eq!(key.id.to_string(), "33CFE7A357129B63");
        assert_eq!("33CFE7A357129B63".parse(), Ok(key.id));
        for bad in [
            "",
            "33CFE7A357129B6",
            "+3CFE7A357129B63",
            "33CFE7A357129B63 ",
        ] {
            assert_eq!(bad.parse::<KeyId>(), Err(NotAKeyId));
        }
    }
}
