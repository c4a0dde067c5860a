//! What a command could not do: one kind, one exit code, and who stood in the way.

use std::fmt;
use std::io;
use std::path::Path;

use plug_loader::image::ImageError;
use plug_loader::{Error, ErrorKind};
use serde::Serialize;

use crate::render::{micros, plural};
use plug_loader::control::messages::{HolderRow, LingeringRow, Refused};

/// How a command that ran ended: 0, or the first failure's exit code where several were told.
pub(crate) type Outcome = Result<u8, Failure>;

/// Failed, or nothing was found.
pub(crate) const FAILED: u8 = 1;
/// The command line does not say what to do.
pub(crate) const USAGE: u8 = 2;
/// No such host, plugin or file.
pub(crate) const NOT_FOUND: u8 = 3;
/// Refused at once.
pub(crate) const BUSY: u8 = 4;
/// The file is damaged or does not fit.
pub(crate) const INCOMPATIBLE: u8 = 5;
/// The deadline passed.
pub(crate) const DEADLINE: u8 = 6;
/// The plugin is closed but still mapped.
pub(crate) const LINGERING: u8 = 7;

/// Why a command failed. In JSON: stage, kind, message, holders.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Failure {
    /// The exit code.
    #[serde(skip)]
    pub(crate) code: u8,
    /// The plugin of several that it is about.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) name: Box<str>,
    pub(crate) stage: Box<str>,
    pub(crate) kind: Box<str>,
    pub(crate) message: Box<str>,
    pub(crate) holders: Vec<HolderRow>,
    /// Why a plugin that was closed before is still mapped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lingering: Option<Box<LingeringRow>>,
}

impl Failure {
    pub(crate) fn new(code: u8, kind: &str, message: impl Into<Box<str>>) -> Self {
        Self {
            code,
            name: Box::default(),
            stage: Box::default(),
            kind: kind.into(),
            message: message.into(),
            holders: Vec::new(),
            lingering: None,
        }
    }

    /// About the plugin `name`.
    pub(crate) fn of(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// No plugin of this name.
    pub(crate) fn no_plugin(name: &str) -> Self {
        Self::new(NOT_FOUND, "not_found", format!("no plugin named {name}"))
    }

    /// A file that cannot be read or written.
    pub(crate) fn file(path: &Path, error: &io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::NotFound => NOT_FOUND,
            _ => FAILED,
        };
        Self::new(code, "open", format!("{}: {error}", path.display()))
    }

    /// A file that the image reader refuses.
    pub(crate) fn image(path: &Path, error: &ImageError) -> Self {
        let (code, kind) = match error {
            ImageError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                (NOT_FOUND, "open")
            }
            ImageError::Damaged(_) => (INCOMPATIBLE, "damaged"),
            ImageError::Metadata(_) | ImageError::Name { .. } => (INCOMPATIBLE, "incompatible"),
            _ => (FAILED, "open"),
        };
        let why = match error {
            ImageError::Read { source, .. } => source.to_string(),
            error => error.to_string(),
        };
        Self::new(code, kind, format!("{}: {why}", path.display()))
    }

    /// A refusal of the loader in this process.
    pub(crate) fn loader(error: &Error) -> Self {
        let code = match error.kind() {
            ErrorKind::Open | ErrorKind::NotFound | ErrorKind::NoFile | ErrorKind::NoProvider => {
                NOT_FOUND
            }
            ErrorKind::Busy | ErrorKind::AlreadyLoaded | ErrorKind::Vetoed | ErrorKind::InUse => {
                BUSY
            }
            ErrorKind::Damaged
            | ErrorKind::Incompatible
            | ErrorKind::Parameter
            | ErrorKind::Map
            | ErrorKind::NoSymbol
            | ErrorKind::NotAFunction
            | ErrorKind::SignatureMismatch
            | ErrorKind::ProviderVersion
            | ErrorKind::Cycle
            | ErrorKind::Unbound
            | ErrorKind::Unsigned
            | ErrorKind::Signature
            | ErrorKind::Denied
            | ErrorKind::Directives
            | ErrorKind::Quarantined
            | ErrorKind::NoInterface
            | ErrorKind::InterfaceVersion => INCOMPATIBLE,
            ErrorKind::Deadline => DEADLINE,
            _ => FAILED,
        };
        let mut failure = Self::new(code, &format!("{:?}", error.kind()), format!("{error:#}"));
        failure.stage = error
            .stage()
            .map_or_else(Box::default, |stage| stage.to_string().into());
        failure
    }

    /// A refusal of the loader in this process, about a file.
    pub(crate) fn file_refused(path: &Path, error: &Error) -> Self {
        let mut failure = Self::loader(error);
        failure.message = format!("{}: {}", path.display(), failure.message).into();
        failure
    }

    /// What a host refused.
    pub(crate) fn refused(refused: Refused) -> Self {
        let code = match refused.kind.as_str() {
            "not_found" | "no_file" | "no_provider" | "gone" => NOT_FOUND,
            "permanent" | "busy" | "already_loaded" | "too_many_plugins" | "vetoed"
            | "self_deadlock" | "in_use" => BUSY,
            "damaged" | "not_admitted" | "incompatible" | "parameter" | "map" | "unsigned"
            | "signature" | "denied" | "quarantined" | "no_symbol" | "not_a_function"
            | "signature_mismatch" | "no_interface" | "interface_version" | "provider_version"
            | "cycle" | "unbound" => INCOMPATIBLE,
            "deadline" => DEADLINE,
            "zombie" | "pinned" => LINGERING,
            _ => FAILED,
        };
        Self {
            code,
            name: Box::default(),
            stage: refused.stage.into(),
            kind: refused.kind.into(),
            message: refused.message.into(),
            holders: refused.holders,
            lingering: refused.lingering.map(Box::new),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Who holds a plugin, in words.
pub(crate) fn holders(holders: &[HolderRow]) -> String {
    let texts: Vec<String> = holders.iter().map(holder).collect();
    texts.join(", ")
}

fn holder(holder: &HolderRow) -> String {
    let since = micros(holder.micros);
    match holder.kind.as_str() {
        "call" => {
            let mut text = format!("worker {} (tid {})", holder.thread, holder.tid);
            if !holder.function.is_empty() {
                text.push_str(&format!(" in {}", holder.function));
            }
            text + &format!(" since {since}")
        }
        "pins" => {
            let mut text = format!("{} held", plural(holder.count, "pin"));
            if !holder.place.is_empty() {
                text.push_str(&format!(
                    ", taken at {} by {} (tid {}) since {since}",
                    holder.place, holder.thread, holder.tid
                ));
            }
            text
        }
        "section" => format!("a reader inside a section (tid {})", holder.tid),
        _ => format!(
            "{} from threads that are no workers since {since}",
            plural(holder.count, "call")
        ),
    }
}
