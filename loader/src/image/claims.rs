//! What a file says about itself that a signature is bound to.

#![forbid(unsafe_code)]

use std::path::Path;

use super::facts::Facts;
use super::info::{Info, foreign_name};
use crate::authority::Claims;

/// What a signature of the file at `path` must claim: its own name, or for a library without
/// metadata the one made of the file's, its version, ABI and build-id.
pub fn claims(facts: &Facts, info: &Info, path: &Path) -> Claims {
    let name = info
        .name()
        .map_or_else(|| foreign_name(path), str::to_owned);
    Claims::found(
        &name,
        info.version().unwrap_or_default(),
        info.api().unwrap_or_default(),
        facts.build_id.as_deref().unwrap_or_default(),
    )
}
