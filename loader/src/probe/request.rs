//! What a probe is asked: fields of two texts each, ended by zeros, in a sealed memory file.

#![forbid(unsafe_code)]

use std::env;
use std::sync::atomic::{AtomicBool, Ordering};

use super::VARIABLE;
use super::plan::Probe;
use crate::error::{Error, ErrorKind};
use crate::params::Params;

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    /// Where the plugin comes from; only for messages, and what a foreign library is named after.
    pub(crate) path: String,
    /// The name to load it under, unless its own.
    pub(crate) name: Option<String>,
    /// Whether the load is forced.
    pub(crate) force: bool,
    /// The load's parameters.
    pub(crate) params: Params,
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
        let mut add = |key: &str, value: &str| {
            for text in [key, value] {
                // No text of the loader's has a zero inside; one of the caller's loses it.
                bytes.extend(text.bytes().filter(|byte| *byte != 0));
                bytes.push(0);
            }
        };
        add("path", &self.path);
        if let Some(name) = &self.name {
            add("name", name);
        }
        if self.force {
            add("force", "");
        }
        add("processor", &limits.processor.to_string());
        add("memory", &limits.memory.to_string());
        add("descriptors", &limits.descriptors.to_string());
        for (key, value) in self.params.iter() {
            add("param", key);
            add("", value);
        }
        bytes
    }

    /// None for what [`Request::write`] does not make.
    pub(super) fn read(bytes: &[u8]) -> Option<(Self, Limits)> {
        let text = str::from_utf8(bytes).ok()?.strip_suffix('\0')?;
        let mut fields = text.split('\0');
        let (mut request, mut limits) = (Self::default(), Limits::default());
        while let (Some(key), Some(value)) = (fields.next(), fields.next()) {
            match key {
                "path" => request.path = value.to_owned(),
                "name" => request.name = Some(value.to_owned()),
                "force" => request.force = true,
                "processor" => limits.processor = value.parse().ok()?,
                "memory" => limits.memory = value.parse().ok()?,
                "descriptors" => limits.descriptors = value.parse().ok()?,
                "param" => {
                    let ("", of_key) = (fields.next()?, fields.next()?) else {
                        return None;
                    };
                    request.params = request.params.with(value, of_key);
                }
                _ => return None,
            }
        }
        Some((request, limits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_they_are_written() {
        let request = Request {
            path: "/a b\n/lib.so".into(),
            name: Some("codec".into()),
            force: true,
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
        assert_eq!(Request::read(b"what\0is this\0"), None);
    }
}
