//! What a probe is asked: fields of two texts each, ended by zeros, in a sealed memory file.

#![forbid(unsafe_code)]

use std::env;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use super::VARIABLE;
use super::plan::Probe;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind};
use crate::image::{FileKey, Original, Rule};
use crate::params::Params;
use crate::policy::{Policy, Rules};
use crate::trust::Source;

/// Whether this process answers as a probe. Set by the first thread at its start (SeqCst: cold).
static ANSWERS: AtomicBool = AtomicBool::new(false);

/// This process answers as a probe.
pub(super) fn answer() {
    ANSWERS.store(true, Ordering::SeqCst);
}

/// Refuses to go on as a host in a process that was started as a probe: it would load plugins of
/// its own, and have them probed by more of its kind.
///
/// # Errors
/// [`ErrorKind::Probe`].
pub(crate) fn must_be_answered() -> Result<(), Error> {
    if env::var_os(VARIABLE).is_none() || ANSWERS.load(Ordering::SeqCst) {
        return Ok(());
    }
    let message = "this process was started as a probe; begin main with plug_loader::probe::serve, \
                   or name another program in Config::probe";
    Err(Error::new(ErrorKind::Probe, message))
}

/// What a probe is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Where the plugin comes from; only for messages, and what a foreign library is named after.
    pub(crate) path: String,
    /// The file that the bytes were copied from, if they were.
    pub(crate) original: Option<Original>,
    /// The name to load it under, unless its own.
    pub(crate) name: Option<String>,
    /// Whether the load is forced.
    pub(crate) force: bool,
    /// Whether functions that take nothing are called.
    pub(crate) calls: bool,
    /// Which files are admitted.
    pub(crate) policy: Policy,
    /// What becomes of what would pin it.
    pub(crate) nodelete: Rule,
    pub(crate) unique: Rule,
    /// What the load brings, where that is known: nothing else may come in its place meanwhile.
    pub(crate) brought: Option<Vec<Digest>>,
    /// The load's parameters.
    pub(crate) params: Params,
}

impl Default for Request {
    fn default() -> Self {
        let Source {
            nodelete, unique, ..
        } = Source::path("");
        Self {
            path: String::new(),
            original: None,
            name: None,
            force: false,
            calls: false,
            policy: Policy::default(),
            nodelete,
            unique,
            brought: None,
            params: Params::default(),
        }
    }
}

/// What the probe allows itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// Seconds.
    pub(super) processor: u64,
    /// Bytes.
    pub(super) memory: u64,
    pub(super) descriptors: u64,
}

impl Limits {
    pub(super) fn of(plan: &Probe) -> Self {
        let whole = u64::from(plan.processor.subsec_nanos() > 0);
        Self {
            processor: plan.processor.as_secs().saturating_add(whole),
            memory: plan.memory,
            descriptors: plan.descriptors,
        }
    }
}

impl Request {
    pub(super) fn write(&self, limits: Limits) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut add = |key: &str, value: &[u8]| {
            for text in [key.as_bytes(), value] {
                // No text of the loader's has a zero inside; one of the caller's loses it.
                bytes.extend(text.iter().filter(|byte| **byte != 0));
                bytes.push(0);
            }
        };
        add("path", self.path.as_bytes());
        if let Some(Original {
            key,
            folder,
            location,
        }) = &self.original
        {
            add("original", format!("{}:{}", key.dev, key.ino).as_bytes());
            for (key, path) in [("folder", folder), ("location", location)] {
                if let Some(path) = path {
                    add(key, path.as_os_str().as_bytes());
                }
            }
        }
        if let Some(name) = &self.name {
            add("name", name.as_bytes());
        }
        if self.force {
            add("force", b"");
        }
        if self.calls {
            add("calls", b"");
        }
        add("rules", self.policy.everywhere().letters().as_bytes());
        for (folder, rules) in self.policy.folders() {
            add("below", folder.as_os_str().as_bytes());
            add("", rules.letters().as_bytes());
        }
        for (key, rule) in [("nodelete", self.nodelete), ("unique", self.unique)] {
            let word: &[u8] = match rule {
                Rule::Honour => b"honour",
                Rule::Neutralise => b"neutralise",
            };
            add(key, word);
        }
        if let Some(brought) = &self.brought {
            let digests: Vec<String> = brought.iter().map(Digest::to_string).collect();
            add("brought", digests.join(" ").as_bytes());
        }
        add("processor", limits.processor.to_string().as_bytes());
        add("memory", limits.memory.to_string().as_bytes());
        add("descriptors", limits.descriptors.to_string().as_bytes());
        for (key, value) in self.params.iter() {
            add("param", key.as_bytes());
            add("", value.as_bytes());
        }
        bytes
    }

    /// None for what [`Request::write`] does not make.
    pub(super) fn read(bytes: &[u8]) -> Option<(Self, Limits)> {
        let text = |bytes| str::from_utf8(bytes).ok();
        let path = |bytes| PathBuf::from(OsStr::from_bytes(bytes));
        let mut fields = bytes.strip_suffix(b"\0")?.split(|byte| *byte == 0);
        let (mut request, mut limits) = (Self::default(), Limits::default());
        while let (Some(key), Some(value)) = (fields.next(), fields.next()) {
            match text(key)? {
                "path" => request.path = text(value)?.to_owned(),
                "original" => {
                    let (dev, ino) = text(value)?.split_once(':')?;
                    let (dev, ino) = (dev.parse().ok()?, ino.parse().ok()?);
                    request.original = Some(Original {
                        key: FileKey { dev, ino },
                        folder: None,
                        location: None,
                    });
                }
                "folder" => request.original.as_mut()?.folder = Some(path(value)),
                "location" => request.original.as_mut()?.location = Some(path(value)),
                "name" => request.name = Some(text(value)?.to_owned()),
                "force" => request.force = true,
                "calls" => request.calls = true,
                "rules" => request.policy = Policy::of_rules(Rules::from_letters(text(value)?)?),
                "below" => {
                    let ([], letters) = (fields.next()?, fields.next()?) else {
                        return None;
                    };
                    let rules = Rules::from_letters(text(letters)?)?;
                    request.policy = request.policy.in_folder(path(value), rules);
                }
                "nodelete" => request.nodelete = rule(value)?,
                "unique" => request.unique = rule(value)?,
                "brought" => {
                    let digests = text(value)?.split_whitespace().map(str::parse);
                    request.brought = Some(digests.collect::<Result<_, _>>().ok()?);
                }
                "processor" => limits.processor = text(value)?.parse().ok()?,
                "memory" => limits.memory = text(value)?.parse().ok()?,
                "descriptors" => limits.descriptors = text(value)?.parse().ok()?,
                "param" => {
                    let ([], of_key) = (fields.next()?, fields.next()?) else {
                        return None;
                    };
                    request.params = request.params.with(text(value)?, text(of_key)?);
                }
                _ => return None,
            }
        }
        Some((request, limits))
    }
}

fn rule(word: &[u8]) -> Option<Rule> {
    match word {
        b"honour" => Some(Rule::Honour),
        b"neutralise" => Some(Rule::Neutralise),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Action, Matter};

    #[test]
    fn requests_are_read_as_they_are_written() {
        let request = Request {
            path: "/a b\n/lib.so".into(),
            original: Some(Original {
                key: FileKey { dev: 1, ino: 2 },
                folder: Some("/a b\n".into()),
                location: Some(OsStr::from_bytes(b"/\xff/lib.so").into()),
            }),
            name: Some("codec".into()),
            force: true,
            calls: true,
            policy: Policy::default()
                .with(Matter::ExecutableStack, Action::Taint)
                .in_folder("/opt", Rules::default().with(Matter::Path, Action::Refuse))
                .in_folder("/opt", Rules::default()),
            nodelete: Rule::Neutralise,
            unique: Rule::Honour,
            brought: Some(vec![Digest::of(b"one"), Digest::of(b"two")]),
            params: Params::new().with("level", "9").with("empty", ""),
        };
        let limits = Limits {
            processor: 4,
            memory: 5,
            descriptors: 6,
        };
        let written = request.write(limits);
        assert_eq!(Request::read(&written), Some((request, limits)));
        assert_eq!(Request::read(b""), None);
        for bad in [
            "what\0is this\0",
            "rules\0aaa\0",
            "folder\0/\0",
            "unique\0?\0",
        ] {
            assert_eq!(Request::read(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
