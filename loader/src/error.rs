//! What can go wrong, one kind a cause, and who stands in the way.

#![forbid(unsafe_code)]

use std::error;
use std::fmt;
use std::panic::Location;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use plug_readside::phase::Phase;

/// The step of a load or unload at which something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Stage {
    /// The file is opened and identified.
    Open,
    /// The bytes are copied into a private file.
    Stage,
    /// The ELF structures are read.
    Facts,
    /// The author's metadata is read and compared with the host.
    Metadata,
    /// The name is reserved.
    Claim,
    /// The private copy is edited and sealed.
    Rewrite,
    /// The copy gets its never-reused name.
    Link,
    /// Readers' way to the symbols is made.
    Symbols,
    /// ld.so maps and relocates it; no code of the plugin runs.
    Map,
    /// What was mapped is compared with what was staged; the descriptor is read.
    Describe,
    /// Readers see the plugin as Coming.
    Publish,
    /// Its constructors run.
    Constructors,
    /// Its `init` runs.
    Init,
    /// It becomes Live.
    Activate,
    /// New calls and pins are refused.
    Going,
    /// Pins, calls and sections are waited for.
    Drain,
    /// Its `exit` runs.
    Exit,
    /// Its destructors run.
    Destructors,
    /// Readers no longer see it, and those that did have left.
    Unpublish,
    /// ld.so unmaps it.
    Close,
    /// The process is asked whether it is gone.
    Observe,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Stage => "stage",
            Self::Facts => "facts",
            Self::Metadata => "metadata",
            Self::Symbols => "symbols",
            Self::Claim => "claim",
            Self::Rewrite => "rewrite",
            Self::Link => "link",
            Self::Map => "map",
            Self::Describe => "describe",
            Self::Publish => "publish",
            Self::Constructors => "constructors",
            Self::Init => "init",
            Self::Activate => "activate",
            Self::Going => "going",
            Self::Drain => "drain",
            Self::Exit => "exit",
            Self::Destructors => "destructors",
            Self::Unpublish => "unpublish",
            Self::Close => "close",
            Self::Observe => "observe",
        })
    }
}

/// What went wrong, for hosts to match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The process already has its loader.
    AlreadyInitialised,
    /// The loader was shut down.
    ShutDown,
    /// The file could not be opened or is not a regular file.
    Open,
    /// The private copy could not be made.
    Stage,
    /// The file is damaged or not for this machine; nothing of it ran.
    Damaged,
    /// The host's policy does not admit the file; nothing of it ran.
    NotAdmitted,
    /// The plugin and the host do not fit together; nothing of it ran.
    Incompatible,
    /// A plugin of this name is Live.
    AlreadyLoaded,
    /// A plugin of this name is Coming or Going, or the plugin may not be unloaded right now.
    Busy,
    /// No plugin of this name.
    NotFound,
    /// Every slot is in use.
    TooManyPlugins,
    /// ld.so refused the file.
    Map,
    /// `init` refused, panicked or threw.
    InitFailed,
    /// A thread could not be started.
    Thread,
    /// The control socket could not be made.
    Control,
    /// The symbol is not exported.
    NoSymbol,
    /// The symbol is exported but is not a function.
    NotAFunction,
    /// The plugin does not export the interface.
    NoInterface,
    /// The plugin exports another version of the interface.
    InterfaceVersion,
    /// The plugin this handle belongs to is not Live any more.
    Gone,
    /// The wait would be for the calling thread itself: it is inside a plugin's code or a read
    /// section.
    SelfDeadlock,
    /// The plugin is permanent, by its author's word or the host's.
    Permanent,
    /// The deadline passed; the holders are listed.
    Deadline,
    /// This process is a fork of one whose loader was at work just then; it cannot go on here.
    Forked,
    /// A memory barrier failed after start; nothing can be proved.
    Barrier,
    /// The crash handler could not be installed.
    CrashHandler,
    /// A test asked for this failure.
    Injected,
}

/// What keeps a plugin from leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HolderKind {
    /// A worker is inside a call.
    Call,
    /// Threads that are not workers are inside calls. Those that are blocked there are told one
    /// by one when a deadline passes, of others only the number is known.
    UnregisteredCalls,
    /// Pins are held.
    Pins,
    /// A reader is inside a section.
    Section,
}

/// One holder of a plugin at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// What it holds by.
    pub kind: HolderKind,
    /// Name of the worker, or of the thread that took the pins; empty where unknown.
    pub thread: Box<str>,
    /// Its thread id; 0 where unknown.
    pub tid: u32,
    /// The plugin's function the worker is in; empty where unknown.
    pub function: Box<str>,
    /// How many calls or pins.
    pub count: u64,
    /// How long it has held at least; of several pins the oldest.
    pub since: Duration,
    /// Where in the host's source the pins were taken.
    pub place: Option<&'static Location<'static>>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.since;
        match self.kind {
            HolderKind::Call => {
                write!(f, "worker {} (tid {})", self.thread, self.tid)?;
                if !self.function.is_empty() {
                    write!(f, " in {}", self.function)?;
                }
                write!(f, " since at least {since:.1?}")
            }
            HolderKind::UnregisteredCalls if self.tid != 0 => {
                write!(f, "unregistered thread {} (tid {})", self.thread, self.tid)?;
                if !self.function.is_empty() {
                    write!(f, " in {}", self.function)?;
                }
                write!(f, " since at least {since:.1?}")
            }
            HolderKind::UnregisteredCalls => {
                let s = if self.count == 1 { "" } else { "s" };
                write!(f, "{} call{s} from unregistered threads", self.count)?;
                write!(f, " since at least {since:.1?}")
            }
            HolderKind::Pins => {
                let s = if self.count == 1 { "" } else { "s" };
                write!(f, "{} pin{s} held", self.count)?;
                let Some(place) = self.place else {
                    return Ok(());
                };
                write!(f, ", taken at {}:{}", place.file(), place.line())?;
                write!(f, " by {} (tid {})", self.thread, self.tid)?;
                write!(f, " since {since:.1?}")
            }
            HolderKind::Section => write!(f, "a reader inside a section (tid {})", self.tid),
        }
    }
}

/// Why a closed plugin is still mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lingering {
    /// The plugin's name.
    pub plugin: Box<str>,
    /// The load it was.
    pub generation: u64,
    /// What holds it, as far as it is known.
    pub reasons: Vec<String>,
}

impl fmt::Display for Lingering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is closed but still mapped: {}",
            self.plugin,
            self.reasons.join("; ")
        )
    }
}

/// Where a thread is that asks for what would wait for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Within {
    /// A call of the function, or of one in the table, at this address.
    Call(usize),
    /// A call that the loader makes of this load.
    Phase(u64, Phase),
    /// A call that the loader makes; of which plugin was not noted.
    Job,
    /// A read section.
    Section,
}

/// Tells which plugin, and what of it, a thread is inside of.
pub(crate) type Whereabouts = fn(Within) -> Option<String>;

/// Set by whoever knows the plugins.
static WHEREABOUTS: OnceLock<Whereabouts> = OnceLock::new();

/// Lets errors tell where a thread is. The first one counts.
pub(crate) fn set_whereabouts(whereabouts: Whereabouts) {
    let _first = WHEREABOUTS.set(whereabouts);
}

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::Section {
            return f.write_str("a read section; leave it first");
        }
        match WHEREABOUTS.get().and_then(|whereabouts| whereabouts(*self)) {
            Some(plugin) => write!(f, "{plugin}; return from it first"),
            None => f.write_str("a plugin's code; return from it first"),
        }
    }
}

/// Why an operation of the loader failed. Cheap to clone: callers that shared a load share it.
#[derive(Clone)]
pub struct Error(Repr);

#[derive(Clone)]
enum Repr {
    Made(Arc<Inner>),
    /// What was asked for, and where. By value, since a signal handler that asks must not
    /// allocate; put into words by whoever shows it.
    SelfDeadlock(&'static str, Within),
}

struct Inner {
    kind: ErrorKind,
    stage: Option<Stage>,
    plugin: Box<str>,
    message: Box<str>,
    holders: Vec<Holder>,
    lingering: Option<Lingering>,
    source: Option<Box<dyn error::Error + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Box<str>>) -> Self {
        Self(Repr::Made(Arc::new(Inner {
            kind,
            stage: None,
            plugin: Box::default(),
            message: message.into(),
            holders: Vec::new(),
            lingering: None,
            source: None,
        })))
    }

    /// `what` would wait for the thread that asks for it, which is `within`. Async-signal-safe.
    pub(crate) const fn self_deadlock(what: &'static str, within: Within) -> Self {
        Self(Repr::SelfDeadlock(what, within))
    }

    /// What was made with [`Error::new`].
    fn made(&self) -> Option<&Inner> {
        match &self.0 {
            Repr::Made(inner) => Some(inner),
            Repr::SelfDeadlock(..) => None,
        }
    }

    /// Changes an error that has not been shared yet; one that has been stays as it is.
    fn with(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        if let Repr::Made(inner) = &mut self.0
            && let Some(inner) = Arc::get_mut(inner)
        {
            change(inner);
        }
        self
    }

    pub(crate) fn at(self, stage: Stage) -> Self {
        self.with(|inner| {
            inner.stage.get_or_insert(stage);
        })
    }

    pub(crate) fn plugin(self, name: &str) -> Self {
        self.with(|inner| {
            if inner.plugin.is_empty() {
                inner.plugin = name.into();
            }
        })
    }

    pub(crate) fn holders(self, holders: Vec<Holder>) -> Self {
        self.with(|inner| inner.holders = holders)
    }

    pub(crate) fn lingering_as(self, lingering: Option<Lingering>) -> Self {
        self.with(|inner| inner.lingering = lingering)
    }

    pub(crate) fn because(self, source: impl error::Error + Send + Sync + 'static) -> Self {
        self.with(|inner| inner.source = Some(Box::new(source)))
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.made()
            .map_or(ErrorKind::SelfDeadlock, |inner| inner.kind)
    }

    /// The step at which it went wrong, if it was inside a load or unload.
    #[must_use]
    pub fn stage(&self) -> Option<Stage> {
        self.made().and_then(|inner| inner.stage)
    }

    /// The plugin it is about: its name, or the file as it was given. Empty for
    /// [`ErrorKind::SelfDeadlock`], which is about the caller.
    #[must_use]
    pub fn plugin_name(&self) -> &str {
        self.made().map_or("", |inner| &inner.plugin)
    }

    /// Who stood in the way when a deadline passed.
    #[must_use]
    pub fn blockers(&self) -> &[Holder] {
        self.made().map_or(&[], |inner| &inner.holders)
    }

    /// What a failed load left mapped, if anything.
    #[must_use]
    pub fn lingering(&self) -> Option<&Lingering> {
        self.made().and_then(|inner| inner.lingering.as_ref())
    }
}

/// As text with its causes: what `main` prints when it returns one.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self:#}", self.kind())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = match &self.0 {
            Repr::Made(inner) => &**inner,
            Repr::SelfDeadlock(what, within) => {
                return write!(f, "{what} asked for from inside {within}");
            }
        };
        if !inner.plugin.is_empty() {
            write!(f, "{}: ", inner.plugin)?;
        }
        if let Some(stage) = inner.stage {
            write!(f, "{stage}: ")?;
        }
        f.write_str(&inner.message)?;
        for (n, holder) in inner.holders.iter().enumerate() {
            f.write_str(if n == 0 { ": " } else { ", " })?;
            write!(f, "{holder}")?;
        }
        if f.alternate() {
            let mut source = error::Error::source(self);
            while let Some(cause) = source {
                let text = cause.to_string();
                // A message made of its cause does not need it again.
                if !inner.message.contains(&text) {
                    write!(f, ": {text}")?;
                }
                source = cause.source();
            }
        }
        Ok(())
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.made()?.source.as_ref().map(|source| {
            let source: &(dyn error::Error + 'static) = source.as_ref();
            source
        })
    }
}

/// Why a call into a plugin gave no value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallError {
    /// The plugin is not Live any more, or never was: its code was not entered.
    Gone,
    /// The plugin caught a panic or an exception, or raised an error; its message.
    Raised(Box<str>),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the plugin is gone; load it again and take a new handle"),
            Self::Raised(message) => write!(f, "the plugin raised: {message}"),
        }
    }
}

impl error::Error for CallError {}
