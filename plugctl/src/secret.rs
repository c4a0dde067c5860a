//! Secret keys in minisign's format, and their passwords.

use std::fs;
use std::path::Path;

use ct_codecs::{Base64, Decoder};
use minisign::{PError, SecretKey, SecretKeyBox};

use crate::args::Password;
use crate::failure::{FAILED, Failure};

/// What went wrong with a key.
pub(crate) fn failure(path: &Path, error: &PError) -> Failure {
    let message = format!("{}: {}", path.display(), error.to_string().to_lowercase());
    Failure::new(FAILED, "key", message)
}

/// The password to use, or none to have it asked for.
pub(crate) fn password(args: &Password) -> Result<Option<String>, Failure> {
    let Some(path) = &args.password_file else {
        return Ok(None);
    };
    let text = fs::read_to_string(path).map_err(|error| Failure::file(path, &error))?;
    Ok(Some(text.lines().next().unwrap_or_default().to_owned()))
}

/// Reads a secret key.
pub(crate) fn read(path: &Path, args: &Password) -> Result<SecretKey, Failure> {
    let text = fs::read_to_string(path).map_err(|error| Failure::file(path, &error))?;
    let boxed = || SecretKeyBox::from_string(&text).map_err(|error| failure(path, &error));
    if let Some(key) = unprotected(&text) {
        return Ok(key);
    }
    if args.no_password {
        let key = boxed()?.into_unencrypted_secret_key();
        return key.map_err(|error| failure(path, &error));
    }
    let key = boxed()?.into_secret_key(password(args)?);
    key.map_err(|error| failure(path, &error))
}

/// A key without a password. The standard tool leaves its checksum at zero, which the crate would
/// call damaged.
fn unprotected(text: &str) -> Option<SecretKey> {
    // Algorithm, derivation and checksum of two bytes each, then salt and so on.
    const NO_DERIVATION: &[u8] = &[0, 0];
    let bytes = Base64::decode_to_vec(text.lines().nth(1)?, None).ok()?;
    if bytes.get(2..4)? != NO_DERIVATION {
        return None;
    }
    SecretKey::from_bytes(&bytes).ok()
}
