//! What a file and the libraries that it brings must pass beside being intact and fitting the host:
//! deny lists, quarantine, signature and probe.
//!
//! Thread context. Nothing here runs code of the plugin's in this process.

#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;

use crate::authority::{self, Enforcement, Signed};
use crate::bundle::Rules;
use crate::config::Config;
use crate::deadline::Deadline;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind};
use crate::events::EventKind;
use crate::image::{Bundle, Facts, Info, Member, claims};
use crate::probe::cache::Rehearsed;
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
    /// The digests of what it brings, in that order, where its own is known.
    brought: Vec<Digest>,
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
    let policy = &process.config.signatures;
    let digest = needs_digest(process).then(|| Digest::of(bytes));
    if let Some(digest) = &digest {
        policy.denied.check(digest)?;
        process.config.directives.may_be_file(digest)?;
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
        brought: Vec::new(),
        signed,
        taints,
    })
}

/// Whether anybody asks for digests.
fn needs_digest(process: &Process) -> bool {
    let config = &process.config;
    config.signatures.denied.needs_digest()
        || config.directives.needs_digest()
        || process.quarantine.is_some()
        || config.probe.is_some()
}

/// The detached signature of a private dependency: beside the path by which it was found, or beside
/// the file that a link there leads to.
fn detached_of(config: &Config, member: &Member) -> Result<Given, Error> {
    match (detached(config, &member.path)?, &member.location) {
        (None, Some(location)) => detached(config, location),
        (given, _) => Ok(given),
    }
}

impl Screened {
    /// Looks at what the plugin brings as at the plugin itself: each library's digest, and its own
    /// signature, detached or appended. Where `expected` is given, each must be one of these.
    ///
    /// # Errors
    /// Those of [`verify`] and [`Screened::compare`], naming the library; [`ErrorKind::Probe`] for
    /// one that is not expected.
    pub(crate) fn bring(
        &mut self,
        process: &Process,
        bundle: &Bundle,
        expected: Option<&[Digest]>,
    ) -> Result<(), Error> {
        for member in bundle.members() {
            self.bring_one(process, member, expected)
                .map_err(|error| error.about(&member.describe()))?;
        }
        Ok(())
    }

    fn bring_one(
        &mut self,
        process: &Process,
        member: &Member,
        expected: Option<&[Digest]>,
    ) -> Result<(), Error> {
        let bytes = member.staged.bytes();
        if let Some(expected) = expected
            && !expected.contains(&Digest::of(bytes))
        {
            let message = "it changed since the host looked at it; load the plugin again";
            return Err(Error::new(ErrorKind::Probe, message));
        }
        let given = detached_of(&process.config, member)?;
        let screened = verify(process, bytes, given.as_deref())?;
        if screened.signed.is_some() {
            let info = Info::read(&member.facts, bytes).map_err(|malformed| {
                Error::new(ErrorKind::Incompatible, malformed.to_string()).because(malformed)
            })?;
            screened.compare(&member.facts, &info, &member.path)?;
        }
        self.brought.extend(screened.digest);
        self.taints.join(screened.taints);
        Ok(())
    }

    /// The digests of what the plugin brings, where anybody asks for them.
    pub(crate) fn brought(&self) -> &[Digest] {
        &self.brought
    }

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
        rules: Rules,
        request: impl FnOnce() -> Request,
    ) -> Result<(), Error> {
        let (Some(plan), Some(digest)) = (&process.config.probe, self.digest) else {
            return Ok(());
        };
        let quarantine = process.quarantine.as_ref();
        let rehearsed = Rehearsed {
            file: digest,
            whole: self.whole(digest, rules),
        };
        let report = process.probes.ask(rehearsed, deadline, || {
            ask(
                process,
                plan,
                quarantine,
                rehearsed,
                name,
                bytes,
                &request(),
            )
        })?;
        match &report.verdict {
            // Why a load is refused in an orderly way, this process's own says as well, or better.
            Verdict::Passed | Verdict::Refused(_) => Ok(()),
            // This process may offer it.
            Verdict::Failed(_) if report.lacked.is_some() => Ok(()),
            // What it does without a plugin that it uses says nothing of what it does here.
            _ if report.lacks_a_plugin() => Ok(()),
            Verdict::Failed(_) => {
                let message = format!(
                    "it {report}; nothing of it ran in this process; repair it, or raise the limits \
                     in Config::probe if they are what it wants"
                );
                Err(Error::new(ErrorKind::InitFailed, message))
            }
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

    /// The digest of all that a rehearsal depends on; the plugin's own for one that brings nothing
    /// and is loaded by the usual rules, so that this is what is kept of it.
    fn whole(&self, file: Digest, rules: Rules) -> Digest {
        if self.brought.is_empty() && rules == Rules::default() {
            return file;
        }
        let parts = [&file].into_iter().chain(&self.brought);
        let mut text: String = parts.map(|digest| format!("{digest}\n")).collect();
        text.push_str(&format!("{rules:?}"));
        Digest::of(text.as_bytes())
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
    rehearsed: Rehearsed,
    name: &str,
    bytes: &[u8],
    request: &Request,
) -> Result<(Arc<Report>, bool), Error> {
    if let Some(report) = quarantine.and_then(|q| Report::kept(&q.probed(&rehearsed.whole)?)) {
        return Ok((Arc::new(report), true));
    }
    let report = client::run(plan, bytes, request)?;
    let kind = EventKind::Probed(report.to_string().into());
    process.events.push(name, 0, kind);
    let is_passed = report.verdict == Verdict::Passed;
    if let Some(quarantine) = quarantine {
        let kept = if is_passed {
            quarantine.keep_probed(&rehearsed.whole, &report.text())
        } else if report.is_fatal() {
            quarantine.add(Entry {
                digest: rehearsed.file,
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
