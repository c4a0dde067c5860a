//! What a file must pass beside being intact and fitting the host: deny lists, quarantine, signature
//! and probe.
//!
//! Thread context. Nothing here runs code of the plugin's in this process.

#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;

use crate::authority::{self, Enforcement, Signed};
use crate::config::Config;
use crate::deadline::Deadline;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind};
use crate::events::EventKind;
use crate::image::{Facts, Info, claims};
use crate::probe::client;
use crate::probe::plan::Probe;
use crate::probe::report::{Report, Verdict};
use crate::probe::request::Request;
use crate::process::Process;
use crate::suspects::{Entry, Loading, Quarantine};
use crate::taint::{Taint, Taints};

/// The signature that came with a source.
pub(crate) type Given = Option<Vec<u8>>;

/// A file whose signature was looked at.
#[derive(Debug)]
pub(crate) struct Screened {
    /// Known where somebody needs it: it costs a walk over all bytes.
    digest: Option<Digest>,
    signed: Option<Signed>,
    pub(crate) taints: Taints,
}

/// The detached signature for the file at `path`, where signatures are asked for and the path is
/// what was opened.
pub(crate) fn detached(config: &Config, path: &Path) -> Result<Given, Error> {
    match config.signatures.enforcement {
        Enforcement::Off => Ok(None),
        _ => authority::detached(path),
    }
}

/// Looks at the staged original, before anything in it is believed.
pub(crate) fn verify(
    process: &Process,
    bytes: &[u8],
    given: Option<&[u8]>,
) -> Result<Screened, Error> {
    let config = &process.config;
    let policy = &config.signatures;
    let needs_digest =
        policy.denied.needs_digest() || process.quarantine.is_some() || config.probe.is_some();
    let digest = needs_digest.then(|| Digest::of(bytes));
    if let Some(digest) = &digest {
        policy.denied.check(digest)?;
        if let Some(quarantine) = &process.quarantine {
            quarantine.check(digest)?;
        }
    }
    let signed = policy.verify(bytes, given)?;
    let mut taints = Taints::default();
    if signed.is_none() && policy.enforcement != Enforcement::Off {
        taints.add(Taint::Unsigned);
    }
    Ok(Screened {
        digest,
        signed,
        taints,
    })
}

impl Screened {
    /// Compares what was signed with what the file says about itself.
    pub(crate) fn compare(&self, facts: &Facts, info: &Info, path: &Path) -> Result<(), Error> {
        match &self.signed {
            Some(signed) => signed.compare(&claims(facts, info, path)),
            None => Ok(()),
        }
    }

    /// Has the file probed, if that is asked for and was not done before.
    pub(crate) fn probe(
        &self,
        process: &Process,
        name: &str,
        bytes: &[u8],
        deadline: Deadline,
        request: impl FnOnce() -> Request,
    ) -> Result<(), Error> {
        let (Some(plan), Some(digest)) = (&process.config.probe, self.digest) else {
            return Ok(());
        };
        let quarantine = process.quarantine.as_ref();
        let report = process.probes.ask(digest, deadline, || {
            ask(process, plan, quarantine, digest, name, bytes, &request())
        })?;
        match &report.verdict {
            // Why a load is refused in an orderly way, this process's own says as well, or better.
            Verdict::Passed | Verdict::Refused(_) => Ok(()),
            Verdict::Broken(_) | Verdict::Lost => {
                let message = format!("probe: it {report}; load it again");
                Err(Error::new(ErrorKind::Probe, message))
            }
            _ => {
                let message = format!(
                    "in quarantine: it {report}; repair it, or let it in by plugctl quarantine \
                     clear {digest}"
                );
                Err(Error::new(ErrorKind::Quarantined, message))
            }
        }
    }

    /// Writes down that code of the plugin's is about to run in this process.
    pub(crate) fn begin(
        &self,
        process: &Process,
        name: &str,
        path: &Path,
    ) -> Result<Option<Loading>, Error> {
        let (Some(quarantine), Some(digest)) = (&process.quarantine, self.digest) else {
            return Ok(None);
        };
        let path = path.display().to_string();
        quarantine.begin(digest, name, &path).map(Some)
    }
}

/// What was kept about a file, or what a probe says now, and whether this process is to keep it.
fn ask(
    process: &Process,
    plan: &Probe,
    quarantine: Option<&Quarantine>,
    digest: Digest,
    name: &str,
    bytes: &[u8],
    request: &Request,
) -> Result<(Arc<Report>, bool), Error> {
    if let Some(report) = quarantine.and_then(|q| Report::kept(&q.probed(&digest)?)) {
        return Ok((Arc::new(report), true));
    }
    let report = client::run(plan, bytes, request)?;
    let kind = EventKind::Probed(report.to_string().into());
    process.events.push(name, 0, kind);
    let is_passed = report.verdict == Verdict::Passed;
    if let Some(quarantine) = quarantine {
        let kept = if is_passed {
            quarantine.keep_probed(&digest, &report.text())
        } else if report.is_fatal() {
            quarantine.add(Entry {
                digest,
                plugin: name.to_owned(),
                path: request.path.clone(),
                why: format!("it {report}"),
            })
        } else {
            Ok(())
        };
        if let Err(error) = kept {
            tracing::warn!(target: "plug::probe", plugin = name, %error, "not written down");
        }
    }
    // The folder decides about plugins that are refused, so that they can be let in from outside.
    let is_kept = is_passed || report.is_fatal() && quarantine.is_none();
    Ok((Arc::new(report), is_kept))
}
