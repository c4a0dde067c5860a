//! Where a file's signature is: beside it, or appended to it.
//!
//! An appended one stands behind all that ELF describes, where ld.so never looks: the text of the
//! signature, its length as eight hexadecimal digits, and [`MARKER`].

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};

use super::minisign::MAX_TEXT;
use crate::error::{Error, ErrorKind};

/// The last bytes of a file with an appended signature.
pub(super) const MARKER: &[u8] = b"~plug signature appended~\n";

/// Digits of the length before the marker.
const DIGITS: usize = 8;

/// Splits `bytes` into what was signed and the text of an appended signature.
///
/// # Errors
/// [`ErrorKind::Signature`] for a trailer that is not of the form, or for two of them.
pub(super) fn split(bytes: &[u8]) -> Result<(&[u8], Option<&[u8]>), Error> {
    let malformed = |what: &str| {
        let message = format!("appended signature: {what}; sign the original file again");
        Err(Error::new(ErrorKind::Signature, message))
    };
    let Some(rest) = bytes.strip_suffix(MARKER) else {
        return Ok((bytes, None));
    };
    let Some((rest, digits)) = rest.split_last_chunk::<DIGITS>() else {
        return malformed("expected its length before the marker, found the file's beginning");
    };
    let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let digits = str::from_utf8(digits).ok();
    let len = digits.filter(|digits| digits.as_bytes().iter().all(is_hex));
    let len = len.and_then(|digits| usize::from_str_radix(digits, 16).ok());
    let Some(len) = len.filter(|len| *len <= MAX_TEXT) else {
        return malformed("expected its length in 8 hexadecimal digits before the marker");
    };
    let Some((payload, text)) = rest.len().checked_sub(len).map(|at| rest.split_at(at)) else {
        return malformed("expected it inside the file, found that it begins before it");
    };
    if payload.ends_with(MARKER) {
        return malformed("expected one, found two");
    }
    Ok((payload, Some(text)))
}

/// What is to be appended to a file to carry the signature `text`.
#[must_use]
pub fn trailer(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.extend_from_slice(format!("{:08x}", text.len()).as_bytes());
    bytes.extend_from_slice(MARKER);
    bytes
}

/// What of `bytes` an appended signature does not cover: a file with one loses it.
///
/// # Errors
/// [`ErrorKind::Signature`] for a trailer that is not of the form.
pub fn payload(bytes: &[u8]) -> Result<&[u8], Error> {
    split(bytes).map(|(payload, _)| payload)
}

/// Where the detached signature of the file at `path` is looked for: its name and `.minisig`.
#[must_use]
pub fn detached_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".minisig");
    name.into()
}

/// The detached signature of the file at `path`, if there is one.
///
/// # Errors
/// [`ErrorKind::Signature`] for one that cannot be read.
pub fn detached(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let path = detached_path(path);
    let mut text = Vec::new();
    // One more than is allowed, so that a longer one is refused and not cut.
    let most = u64::try_from(MAX_TEXT)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    // NONBLOCK, so that a pipe at that path does not hold the caller.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = open(&path, flags, Mode::empty()).map_err(io::Error::from);
    let read = file.and_then(|file| File::from(file).take(most).read_to_end(&mut text));
    match read {
        Ok(_) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let message = format!("signature: read {path:?}: {error}");
            Err(Error::new(ErrorKind::Signature, message).because(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_takes_back_what_trailer_appends() {
        let mut file = b"\x7fELF and so on".to_vec();
        assert_eq!(split(&file).unwrap(), (&file[..], None));
        let original = file.clone();
        file.extend(trailer("four lines\n"));
        let (payload, text) = split(&file).unwrap();
        assert_eq!((payload, text), (&original[..], Some(&b"four lines\n"[..])));
        let mut twice = file.clone();
        twice.extend(trailer("four lines\n"));
        assert!(split(&twice).unwrap_err().to_string().contains("found two"));
    }

    #[test]
    fn split_refuses_lengths_that_lie() {
        for head in [
            "", "1234567", "zzzzzzzz", "000000ff", "ffffffff", "0000000A",
        ] {
            let file = [head.as_bytes(), MARKER].concat();
            assert!(split(&file).is_err(), "{head:?}");
        }
        assert_eq!(split(MARKER.get(1..).unwrap()).unwrap().1, None);
    }
}
