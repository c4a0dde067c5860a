//! The ABI gate: a plugin's metadata against this host, field by field, before any of its code is
//! mapped.
//!
//! Thread context.

#![forbid(unsafe_code)]

use std::fmt;

use plug_api::__private::TARGET;
use plug_api::abi::ABI_VERSION;

use crate::error::{Error, ErrorKind};
use crate::image::{Facts, Info, contract};

/// One field of a plugin's metadata that does not fit this host.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mismatch {
    /// The field.
    pub field: &'static str,
    /// What this host expects.
    pub expected: String,
    /// What the plugin says.
    pub found: String,
    /// What to do about it.
    pub remedy: &'static str,
    /// Whether a forced load overlooks it. What decides how the plugin is entered cannot be
    /// overlooked.
    pub forceable: bool,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            field,
            expected,
            found,
            remedy,
            ..
        } = self;
        write!(
            f,
            "metadata: {field}: expected {expected}, found {found}; {remedy}"
        )
    }
}

/// All fields of a plugin's metadata that do not fit this host; none for a library without
/// metadata, which has no contract to break.
#[must_use]
pub fn mismatches(info: &Info) -> Vec<Mismatch> {
    let mut all = Vec::new();
    if info.is_foreign() {
        return all;
    }
    let api = info.api().unwrap_or("nothing");
    if api != ABI_VERSION.to_string() {
        all.push(Mismatch {
            field: "api",
            expected: ABI_VERSION.to_string(),
            found: api.to_owned(),
            remedy: "rebuild the plugin with this host's plug-api",
            forceable: false,
        });
    }
    if let Some(target) = info.get("target")
        && platform(target) != platform(TARGET)
    {
        all.push(Mismatch {
            field: "target",
            expected: TARGET.to_owned(),
            found: target.to_owned(),
            remedy: "build the plugin for this host's target, or force the load",
            forceable: true,
        });
    }
    if info.panic() == Some("abort") {
        all.push(Mismatch {
            field: "panic",
            expected: "unwind".to_owned(),
            found: "abort".to_owned(),
            remedy: "a panic of the plugin would end the host: build it with panic=unwind, or \
                     force the load",
            forceable: true,
        });
    }
    all
}

/// What of a target triple decides whether code fits: not the vendor.
fn platform(target: &str) -> (&str, &str) {
    let (architecture, rest) = target.split_once('-').unwrap_or((target, ""));
    // `vendor-os-env`; the vendor may be missing.
    match rest.split_once('-') {
        Some((_, system)) if rest.matches('-').count() == 2 => (architecture, system),
        _ => (architecture, rest),
    }
}

/// What passed the gate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pass {
    /// Link-time address and size of the descriptor; none for a foreign library.
    pub(crate) descriptor: Option<(u64, u64)>,
    /// Whether something was overlooked because the load was forced.
    pub(crate) is_forced: bool,
}

/// Refuses a plugin that does not fit this host; finds its descriptor.
pub(crate) fn admit(facts: &Facts, info: &Info, bytes: &[u8], force: bool) -> Result<Pass, Error> {
    let incompatible = |message: String| Error::new(ErrorKind::Incompatible, message);
    let mut mismatches = mismatches(info);
    let all = mismatches.len();
    mismatches.retain(|mismatch| !(force && mismatch.forceable));
    if !mismatches.is_empty() {
        let texts: Vec<String> = mismatches.iter().map(Mismatch::to_string).collect();
        return Err(incompatible(texts.join(", and ")));
    }
    let descriptor = contract::descriptor(facts, info, bytes).map_err(incompatible)?;
    Ok(Pass {
        descriptor,
        is_forced: mismatches.len() < all,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platform_leaves_the_vendor_out() {
        let gnu = platform("x86_64-unknown-linux-gnu");
        assert_eq!(gnu, ("x86_64", "linux-gnu"));
        assert_eq!(platform("x86_64-pc-linux-gnu"), gnu);
        assert_eq!(platform("x86_64-linux-gnu"), gnu);
        assert_ne!(platform("x86_64-unknown-linux-musl"), gnu);
        assert_ne!(platform("aarch64-unknown-linux-gnu"), gnu);
        assert_ne!(platform("unknown"), gnu);
    }
}
