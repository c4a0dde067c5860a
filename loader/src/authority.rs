//! Who may sign what is loaded: trusted keys, deny lists, and what is asked of signatures.
//!
//! Signatures are minisign's, made by the standard tool or by `plugctl sign`: Ed25519 over the
//! file's `BLAKE2b` hash, with a trusted comment that binds them to the plugin's name, version, ABI
//! and build-id. They are verified over the bytes of the private copy before anything in these is
//! believed. A signature tells who made a file; a signed plugin has all rights of its host.
//!
//! Thread context.

#![forbid(unsafe_code)]

mod claims;
mod envelope;
mod minisign;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::geteuid;

use crate::digest::Digest;
use crate::error::{Error, ErrorKind};

pub use claims::Claims;
pub use envelope::{detached, detached_path, payload, trailer};
pub use minisign::{KeyId, NotAKeyId};

use minisign::{Key, Letter};

/// What is asked of signatures: of a plugin's, and of those of the libraries that it brings, each of
/// which has its own, beside it or appended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Enforcement {
    /// Nothing: no signature is read.
    #[default]
    Off,
    /// A plugin without a signature by a trusted key gets a taint. A signature that does not fit is
    /// refused all the same: somebody changed the file.
    Permissive,
    /// A plugin without a signature by a trusted key is refused, and so is one that brings a library
    /// without.
    Enforce,
}

/// Trusted keys, deny lists, and what is asked of signatures. The default asks nothing.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SignaturePolicy {
    /// What is asked.
    pub enforcement: Enforcement,
    /// The keys whose signatures count.
    pub keys: Keys,
    /// What is refused whatever else is said for it; the digests even where nothing is asked of
    /// signatures.
    pub denied: DenyList,
}

impl SignaturePolicy {
    /// Asks `enforcement` of signatures by `keys`.
    #[must_use]
    pub fn new(enforcement: Enforcement, keys: Keys) -> Self {
        Self {
            enforcement,
            keys,
            denied: DenyList::default(),
        }
    }

    /// Refuses what is on the list.
    #[must_use]
    pub fn deny(mut self, list: DenyList) -> Self {
        self.denied = list;
        self
    }

    /// Verifies the signature of `bytes`: the detached one if there is one, which is of all of
    /// them, else the appended one. `None` where there is none by a trusted key and none is needed.
    ///
    /// # Errors
    /// [`ErrorKind::Unsigned`], [`ErrorKind::Signature`], [`ErrorKind::Denied`].
    pub fn verify(&self, bytes: &[u8], detached: Option<&[u8]>) -> Result<Option<Signed>, Error> {
        if self.enforcement == Enforcement::Off {
            return Ok(None);
        }
        let (payload, text) = match detached {
            Some(text) => (bytes, Some(text)),
            None => envelope::split(bytes)?,
        };
        let unsigned = |found: String| match self.enforcement {
            Enforcement::Enforce => {
                let message = format!("signature: expected one by a trusted key, found {found}");
                Err(Error::new(ErrorKind::Unsigned, message))
            }
            _ => Ok(None),
        };
        let Some(text) = text else {
            return unsigned("none; sign the file with plugctl sign".to_owned());
        };
        let letter = Letter::parse(text)?;
        let id = letter.id;
        // Before the signature is verified: nothing of a denied key's counts, not even in its favour.
        if self.denied.keys.contains(&id) {
            let message = format!("signature: by key {id}, which is on the deny list");
            return Err(Error::new(ErrorKind::Denied, message));
        }
        let Some(key) = self.keys.0.get(&id) else {
            return unsigned(format!(
                "one by key {id}; put its public key among the trusted ones"
            ));
        };
        let comment = letter.verify(key, payload)?;
        let claims = Claims::parse(comment)?;
        Ok(Some(Signed { key: id, claims }))
    }
}

/// A signature that was verified.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Signed {
    /// Whose it is.
    pub key: KeyId,
    /// What it was made for.
    pub claims: Claims,
}

impl Signed {
    /// Compares what was signed with what the file says about itself.
    ///
    /// # Errors
    /// [`ErrorKind::Signature`] with field, expected and found.
    pub fn compare(&self, found: &Claims) -> Result<(), Error> {
        self.claims.compare(found)
    }
}

/// Trusted public keys.
#[derive(Clone, Debug, Default)]
pub struct Keys(BTreeMap<KeyId, Key>);

impl Keys {
    /// Reads all `*.pub` of a folder.
    ///
    /// Whoever can write there decides what this process runs, so folder and files must belong to
    /// root or to this user and be writable by nobody else.
    ///
    /// # Errors
    /// [`ErrorKind::Keys`].
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self, Error> {
        let dir = dir.as_ref();
        must_be_private(dir)?;
        let mut keys = Self::default();
        let entries = fs::read_dir(dir).map_err(|error| unreadable(dir, error))?;
        for entry in entries {
            let path = entry.map_err(|error| unreadable(dir, error))?.path();
            if path.extension().is_none_or(|extension| extension != "pub") {
                continue;
            }
            must_be_private(&path)?;
            let text = fs::read_to_string(&path).map_err(|error| unreadable(&path, error))?;
            keys.add(&text).map_err(|what| bad(&path, &what))?;
        }
        Ok(keys)
    }

    /// Reads the public key in the file at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::Keys`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let text = fs::read_to_string(path).map_err(|error| unreadable(path, error))?;
        let mut keys = Self::default();
        keys.add(&text).map_err(|what| bad(path, &what))?;
        Ok(keys)
    }

    /// Reads a public key as it is written in a file.
    ///
    /// # Errors
    /// [`ErrorKind::Keys`].
    pub fn from_text(text: &str) -> Result<Self, Error> {
        let mut keys = Self::default();
        keys.add(text)
            .map_err(|what| Error::new(ErrorKind::Keys, format!("public key: {what}")))?;
        Ok(keys)
    }

    fn add(&mut self, text: &str) -> Result<(), String> {
        let key = Key::parse(text)?;
        let id = key.id;
        match self.0.insert(id, key.clone()) {
            // Two keys with one id: which one made a signature could not be told.
            Some(other) if other != key => Err(format!("expected one key {id}, found two")),
            _ => Ok(()),
        }
    }

    /// Their ids.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> {
        self.0.keys().copied()
    }
}

/// Keys and files that are refused.
#[derive(Clone, Debug, Default)]
pub struct DenyList {
    keys: BTreeSet<KeyId>,
    digests: BTreeSet<Digest>,
}

impl DenyList {
    /// Reads a file with an entry a line: `key ID`, or `sha256 DIGEST`. Empty lines and those that
    /// begin with `#` are for people.
    ///
    /// # Errors
    /// [`ErrorKind::Keys`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        must_be_private(path)?;
        let text = fs::read_to_string(path).map_err(|error| unreadable(path, error))?;
        let mut list = Self::default();
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let added = match line.split_once(' ') {
                Some(("key", id)) => id.parse().map(|id| list.keys.insert(id)).ok(),
                Some(("sha256", digest)) => {
                    let digest = digest.parse();
                    digest.map(|digest| list.digests.insert(digest)).ok()
                }
                _ => None,
            };
            if added.is_none() {
                let n = n + 1;
                let what = format!("line {n}: expected \"key ID\" or \"sha256 DIGEST\"");
                return Err(bad(path, &format!("{what}, found {line:?}")));
            }
        }
        Ok(list)
    }

    /// Refuses what is signed by this key.
    #[must_use]
    pub fn key(mut self, id: KeyId) -> Self {
        self.keys.insert(id);
        self
    }

    /// Refuses this file.
    #[must_use]
    pub fn digest(mut self, digest: Digest) -> Self {
        self.digests.insert(digest);
        self
    }

    /// Whether any file is denied by its digest.
    pub(crate) fn needs_digest(&self) -> bool {
        !self.digests.is_empty()
    }

    /// Whether this file may be.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`].
    pub fn check(&self, digest: &Digest) -> Result<(), Error> {
        if self.digests.contains(digest) {
            let message = format!("sha256 {digest} is on the deny list");
            return Err(Error::new(ErrorKind::Denied, message));
        }
        Ok(())
    }
}

fn must_be_private(path: &Path) -> Result<(), Error> {
    let metadata = fs::metadata(path).map_err(|error| unreadable(path, error))?;
    match exposure(&metadata) {
        Some(what) => Err(bad(path, &what)),
        None => Ok(()),
    }
}

/// Why others than root and this user could change the file; none where they cannot.
pub(crate) fn exposure(metadata: &Metadata) -> Option<String> {
    let (owner, own) = (metadata.uid(), geteuid().as_raw());
    if owner != 0 && owner != own {
        return Some(format!(
            "expected it to belong to user 0 or {own}, found {owner}"
        ));
    }
    let mode = metadata.mode() & 0o7777;
    (mode & 0o022 != 0).then(|| {
        format!(
            "expected it to be writable by its owner alone, found mode {mode:04o}; chmod go-w it"
        )
    })
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    bad(path, &error.to_string()).because(error)
}

fn bad(path: &Path, what: &str) -> Error {
    Error::new(ErrorKind::Keys, format!("{}: {what}", path.display()))
}
