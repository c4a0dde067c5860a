//! Entry points for fuzzers: each takes any bytes, and must come back.

#![forbid(unsafe_code)]

use std::hint::black_box;

use crate::authority::{Claims, Enforcement, Keys, SignaturePolicy};
#[cfg(feature = "directives")]
use crate::directives::Directives;
use crate::probe::report::Report;

/// A key made for this by the standard tool; its secret half is in no use.
const KEY: &str = "untrusted comment: minisign public key 33CFE7A357129B63\n\
                   RWRjmxJXo+fPM9aSTTh/C0nj0ACNsdvu8V91nRHB8vRAMRJ/KX41jWjx\n";

/// Signatures: `bytes` as a file that may have one appended, as a detached one, as a trusted comment
/// and as a public key.
pub fn signature(bytes: &[u8]) {
    let policy = SignaturePolicy::new(
        Enforcement::Enforce,
        Keys::from_text(KEY).unwrap_or_default(),
    );
    let _verdict = black_box(policy.verify(bytes, None));
    let _verdict = black_box(policy.verify(b"test", Some(bytes)));
    if let Ok(text) = str::from_utf8(bytes) {
        let _claims = black_box(Claims::parse(text));
        let _keys = black_box(Keys::from_text(text));
    }
}

/// A file of directives.
#[cfg(feature = "directives")]
pub fn directives(bytes: &[u8]) {
    match Directives::parse("/fuzzed.toml", bytes) {
        Ok(read) => {
            for directive in black_box(read.all()) {
                assert!(directive.place.line > 0 && !directive.value.contains('\0'));
            }
        }
        Err(error) => assert!(error.to_string().starts_with("/fuzzed.toml:")),
    }
}

/// What a probe says.
pub fn report(bytes: &[u8]) {
    let _text = black_box(Report::read_anything(bytes));
}
