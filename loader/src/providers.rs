//! The plugins that a load imports functions of: found, waited for and kept.

#![forbid(unsafe_code)]

use crate::deadline::Deadline;
use crate::error::Error;
use crate::image::PluginImport;
use crate::imports::{Binding, References};
use crate::lineage::{Import, Object};
use crate::process::Process;
use crate::witness;

/// Finds what the load `generation` of the plugin `user` imports, and keeps it for as long as the
/// references are there; one whose load is in flight is waited for. A rehearsal is alone and finds nothing.
///
/// # Errors
/// Those of [`Registry::provider`](crate::registry::Registry::provider); those of
/// [`Record::place_of`](crate::record::Record::place_of), with the import.
pub(crate) fn refer(
    process: &Process,
    user: &str,
    generation: u64,
    slots: Vec<(PluginImport, u64)>,
    deadline: Deadline,
) -> Result<(Vec<(Binding, u64)>, References), Error> {
    let mut references = References::of(generation);
    let mut bound = Vec::new();
    for (what, slot) in slots {
        let is_alone = witness::is_watched();
        // Whoever the loader blames, it is the load of `user` that is refused.
        let of = |error: Error| {
            let refused = Error::new(error.kind(), error.said()).plugin(user);
            refused.about(&format!("import {what}"))
        };
        let to = loop {
            if is_alone {
                break None;
            }
            let provider = process
                .registry
                .provider(&what.plugin, user, deadline)
                .map_err(of)?;
            let import = Import {
                user: user.into(),
                generation,
                what: what.clone(),
            };
            let place = provider
                .place_of(&Object::Import(import.clone()))
                .map_err(of)?;
            // Where it was replaced or unloaded meanwhile, the next look finds another one, or none.
            let referred = process.registry.refer(&provider, import, place);
            if let Some(bearing) = referred.map_err(of)? {
                references.add(&provider.lineage);
                break Some((place, bearing));
            }
        };
        bound.push((Binding::new(user, what, to), slot));
    }
    Ok((bound, references))
}
