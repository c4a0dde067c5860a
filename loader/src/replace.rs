//! One version of a plugin in the place of another one, under calls.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Instant;

use plug_readside::state::{self, State};

use crate::deadline::Deadline;
use crate::departure::Departure;
use crate::error::{Error, ErrorKind, Stage};
use crate::fork;
use crate::load;
use crate::params::Params;
use crate::plugin::Plugin;
use crate::policy::Policy;
use crate::process::Process;
use crate::record::Record;
use crate::trust::Source;
use crate::verdict::Unloaded;

/// What a replace did.
#[derive(Debug)]
#[non_exhaustive]
pub struct Replaced {
    /// The new version, which all handles lead to.
    pub plugin: Plugin,
    /// The old one: what it was, whatever became of it.
    pub old: Plugin,
    /// What became of the old one; [`ErrorKind::Deadline`], with the holders, of one that is still
    /// in use: it leaves by itself.
    pub former: Result<Unloaded, Error>,
    /// When the new one took the place, or a little later.
    pub(crate) switched: Instant,
}

/// See [`Loader::replace`](crate::Loader::replace); only the load `only`, if that is given.
pub(crate) fn replace(
    process: &'static Process,
    policy: &Policy,
    (name, only): (&str, Option<u64>),
    source: Source,
    params: &Params,
    deadline: Deadline,
) -> Result<Replaced, Error> {
    let old = replaceable(process, (name, only))?;
    let (plugin, leaving) = load::replace(process, policy, &old, source, params, deadline)?;
    let (old, switched) = (Plugin::new(old), Instant::now());
    let former = Departure::of_replaced(process, leaving).wait_replaced(deadline);
    Ok(Replaced {
        plugin,
        old,
        former,
        switched,
    })
}

/// The version that is to be replaced, if it can be.
pub(crate) fn replaceable(
    process: &'static Process,
    (name, only): (&str, Option<u64>),
) -> Result<Arc<Record>, Error> {
    let of = |error: Error| error.at(Stage::Claim).plugin(name);
    fork::settle(process).map_err(of)?;
    let found = process.registry.record(name);
    let missing = || Error::new(ErrorKind::NotFound, "no plugin of this name");
    let old = found.ok_or_else(missing).map_err(of)?;
    if let Some(wanted) = only.filter(|wanted| *wanted != old.generation) {
        let found = old.generation;
        let message =
            format!("expected generation {wanted}, found {found}: another load has its name");
        return Err(of(Error::new(ErrorKind::Gone, message)));
    }
    if let Some(reason) = &old.permanent {
        let message = format!("it is permanent: {reason}; it stays until the process ends");
        return Err(of(Error::new(ErrorKind::Permanent, message)));
    }
    let now = state::word(old.id).state();
    if now != State::Live {
        let message = format!("the plugin is {}, not Live", now.name());
        return Err(of(Error::new(ErrorKind::Busy, message)));
    }
    Ok(old)
}
