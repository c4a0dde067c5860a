//! What a signature says about the plugin it is of, in its trusted comment.
//!
//! `name=NAME version=VERSION abi=ABI build-id=HEX`: each once, in any order, between single
//! spaces. What a file does not have is signed as empty: a library without metadata has neither
//! version nor abi, and is named after its file.

#![forbid(unsafe_code)]

use std::fmt;

use crate::error::{Error, ErrorKind};

/// What a signature is bound to, beside the bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Values in the order of [`KEYS`]; none where it was not given.
    values: [Option<String>; 4],
}

/// The keys, in the order in which they are written.
const KEYS: [&str; 4] = ["name", "version", "abi", "build-id"];

impl Claims {
    /// Claims to be signed.
    ///
    /// # Errors
    /// [`ErrorKind::Signature`] for a value that cannot be written in a trusted comment.
    pub fn new(name: &str, version: &str, abi: &str, build_id: &[u8]) -> Result<Self, Error> {
        let claims = Self::found(name, version, abi, build_id);
        for (key, value) in KEYS.iter().zip(&claims.values) {
            let value = value.as_deref().unwrap_or_default();
            if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
                let message = format!(
                    "trusted comment: {key}: expected printable characters without spaces, found \
                     {value:?}"
                );
                return Err(Error::new(ErrorKind::Signature, message));
            }
        }
        Ok(claims)
    }

    /// What a file says about itself, to be compared.
    pub(crate) fn found(name: &str, version: &str, abi: &str, build_id: &[u8]) -> Self {
        let build_id = build_id.iter().map(|byte| format!("{byte:02x}"));
        let values = [name.into(), version.into(), abi.into(), build_id.collect()];
        Self {
            values: values.map(Some),
        }
    }

    /// Reads a trusted comment.
    ///
    /// # Errors
    /// [`ErrorKind::Signature`].
    pub(crate) fn parse(comment: &str) -> Result<Self, Error> {
        let malformed = |what: String| {
            let message = format!(
                "trusted comment: {what}; sign the file with plugctl sign, or with the comment it \
                 prints"
            );
            Err(Error::new(ErrorKind::Signature, message))
        };
        let mut claims = Self::default();
        for pair in comment.split(' ') {
            let Some((key, value)) = pair.split_once('=') else {
                return malformed(format!("expected key=value, found {pair:?}"));
            };
            let mut places = KEYS.iter().zip(&mut claims.values);
            let Some((_, place)) = places.find(|(known, _)| **known == key) else {
                let keys = KEYS.join(", ");
                return malformed(format!("expected one of {keys}, found {key:?}"));
            };
            if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
                return malformed(format!(
                    "{key}: expected printable characters without spaces, found {value:?}"
                ));
            }
            if place.replace(value.to_owned()).is_some() {
                return malformed(format!("expected one {key}, found two"));
            }
        }
        let mut missing = KEYS.iter().zip(&claims.values);
        if let Some((key, _)) = missing.find(|(_, value)| value.is_none()) {
            return malformed(format!("expected {key}=, found none"));
        }
        Ok(claims)
    }

    /// Compares what was signed with what the file says.
    ///
    /// # Errors
    /// [`ErrorKind::Signature`] with the first field that differs.
    pub(super) fn compare(&self, found: &Self) -> Result<(), Error> {
        for ((key, signed), found) in KEYS.iter().zip(&self.values).zip(&found.values) {
            if signed != found {
                let show = |value: &Option<String>| match value.as_deref() {
                    None | Some("") => "none".to_owned(),
                    Some(value) => value.to_owned(),
                };
                let (signed, found) = (show(signed), show(found));
                let message = format!(
                    "signature: {key}: expected {signed}, found {found}; it was made for another \
                     file"
                );
                return Err(Error::new(ErrorKind::Signature, message));
            }
        }
        Ok(())
    }
}

/// The trusted comment.
impl fmt::Display for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (key, value)) in KEYS.iter().zip(&self.values).enumerate() {
            let space = if n == 0 { "" } else { " " };
            write!(f, "{space}{key}={}", value.as_deref().unwrap_or_default())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_read_as_they_are_written() {
        let claims = Claims::new("hello", "1.0.0", "1", &[0xab, 0x01]).unwrap();
        let text = "name=hello version=1.0.0 abi=1 build-id=ab01";
        assert_eq!(claims.to_string(), text);
        assert_eq!(Claims::parse(text).unwrap(), claims);
        let other = "abi=1 build-id=ab01 version=1.0.0 name=hello";
        assert_eq!(Claims::parse(other).unwrap(), claims);
        let foreign = Claims::new("z", "", "", &[]).unwrap();
        assert_eq!(Claims::parse(&foreign.to_string()).unwrap(), foreign);
    }

    #[test]
    fn parse_refuses_what_is_not_exactly_the_four() {
        for bad in [
            "",
            "timestamp:1633700835\tfile:test\tprehashed",
            "name=a version=1 abi=1",
            "name=a name=b version=1 abi=1 build-id=",
            "name=a  version=1 abi=1 build-id=",
            "name=a version=1 abi=1 build-id= ",
            "name=a version=1 abi=1 build-id= more=1",
            "name=a version=1\t abi=1 build-id=",
        ] {
            assert!(Claims::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Claims::new("a", "1 beta", "1", &[]).is_err());
    }
}
