//! What can go wrong, one kind a cause, and who stands in the way.

#![forbid(unsafe_code)]

use std::error;
use std::fmt;
use std::panic::Location;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use plug_readside::phase::Phase;

use crate::lingering::Lingering;

/// The step of a load or unload at which something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Stage {
    /// The file is opened and identified.
    Open,
    /// The bytes are copied into a private file.
    Stage,
    /// Deny lists, quarantine and signature are asked.
    Verify,
    /// The ELF structures are read.
    Facts,
    /// The author's metadata is read and compared with the signature and the host.
    Metadata,
    /// What it needs is found, and copied where it alone has it.
    Needed,
    /// Another process rehearses the load.
    Probe,
    /// The name is reserved.
    Claim,
    /// The plugins that it imports functions of are found, and kept.
    Imports,
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
    /// Its imports lead to the functions of the other plugins.
    Bind,
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
    /// It is mapped still, and its code is inaccessible.
    Quarantine,
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
            Self::Verify => "verify",
            Self::Facts => "facts",
            Self::Metadata => "metadata",
            Self::Probe => "probe",
            Self::Symbols => "symbols",
            Self::Needed => "needed",
            Self::Claim => "claim",
            Self::Imports => "imports",
            Self::Rewrite => "rewrite",
            Self::Link => "link",
            Self::Map => "map",
            Self::Describe => "describe",
            Self::Publish => "publish",
            Self::Constructors => "constructors",
            Self::Bind => "bind",
            Self::Init => "init",
            Self::Activate => "activate",
            Self::Going => "going",
            Self::Drain => "drain",
            Self::Exit => "exit",
            Self::Destructors => "destructors",
            Self::Quarantine => "quarantine",
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
    /// A parameter is unknown, missing, not writable or does not fit, or the plugin refused it.
    Parameter,
    /// The plugin has no signature by a trusted key; nothing of it ran.
    Unsigned,
    /// The plugin's signature is not one of this file; nothing of it ran.
    Signature,
    /// The plugin, or who signed it, is on a deny list; nothing of it ran.
    Denied,
    /// A subscriber of the host's vetoed the plugin; its constructors did not run.
    Vetoed,
    /// The plugin crashed a host or a probe before; nothing of it ran in this process.
    Quarantined,
    /// The rehearsal of the load could not be made.
    Probe,
    /// A trusted key, or a deny list, cannot be used.
    Keys,
    /// A file of directives cannot be used.
    Directives,
    /// The state folder cannot be used.
    State,
    /// A plugin of this name is Live.
    AlreadyLoaded,
    /// A plugin of this name is Coming or Going, or the plugin may not be unloaded right now.
    Busy,
    /// No plugin of this name.
    NotFound,
    /// The directives tell no file for this name.
    NoFile,
    /// A plugin that another one imports functions of is not there, or its load failed.
    NoProvider,
    /// A plugin that another one imports functions of has a version that will not do.
    ProviderVersion,
    /// Plugins would import functions of each other in a circle.
    Cycle,
    /// Other plugins import its functions.
    InUse,
    /// An imported function was called before `init`.
    Unbound,
    /// Every slot is in use.
    TooManyPlugins,
    /// ld.so refused the file.
    Map,
    /// `init` refused, panicked or threw: in this process, or in its rehearsal.
    InitFailed,
    /// The state of a version could not be handed over to the one that was to replace it.
    HandOver,
    /// A thread could not be started.
    Thread,
    /// The control socket could not be made.
    Control,
    /// The symbol is not exported.
    NoSymbol,
    /// The symbol is exported but is not a function.
    NotAFunction,
    /// The function has another signature than the host expects; it was not called.
    SignatureMismatch,
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
    /// A thread that the plugin had the host start, and that has been told to stop.
    Thread,
    /// Tasks of the plugin's that have not ended.
    Tasks,
    /// Wakers of the plugin's own, which futures of the host's keep.
    Wakers,
    /// A thread has the plugin's code on its stack, without a call through the loader.
    Stack,
    /// A thread may have the plugin's code on its stack; why that cannot be told.
    PerhapsStack(Doubt),
}

/// Why a thread cannot be told to be outside a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Doubt {
    /// It runs and did not come to rest, nor answer a signal.
    Runs,
    /// It runs and blocks the signal by which it could be asked.
    BlocksSignal,
    /// It runs under a filter of system calls that the thread that asks is not under: to be asked
    /// could end it.
    Confined,
    /// It is not on the stack that it was started with: on a fiber's, or one that is not known.
    ForeignStack,
    /// Something there looks like a call from the plugin, and the frames cannot be followed past it.
    UnclearFrames,
    /// The kernel does not let its stack be read.
    Unreadable,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Runs => "it runs and gave no answer",
            Self::BlocksSignal => "it runs and blocks the signal that asks where",
            Self::Confined => "it runs under a filter of its own and cannot be asked where",
            Self::ForeignStack => "it is on a stack that is not its own",
            Self::UnclearFrames => "its frames cannot be followed",
            Self::Unreadable => "its stack cannot be read",
        })
    }
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
    /// The plugin's function the worker is in, or the plugin's thread was started at; empty where
    /// unknown.
    pub function: Box<str>,
    /// How many calls, pins, tasks or wakers.
    pub count: u64,
    /// How long it has held at least; of several pins the oldest.
    pub since: Duration,
    /// Where in the host's source the pins were taken, or the tasks were made.
    pub place: Option<&'static Location<'static>>,
}

impl HolderKind {
    /// The kind in one word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::UnregisteredCalls => "unregistered_calls",
            Self::Pins => "pins",
            Self::Section => "section",
            Self::Thread => "thread",
            Self::Tasks => "tasks",
            Self::Wakers => "wakers",
            Self::Stack => "stack",
            Self::PerhapsStack(_) => "perhaps_stack",
        }
    }

    /// Whether it holds by a promise and not by a thread that is inside.
    pub(crate) const fn is_promise(self) -> bool {
        matches!(self, Self::Pins | Self::Tasks | Self::Wakers)
    }
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
            HolderKind::Pins | HolderKind::Tasks | HolderKind::Wakers => {
                let s = if self.count == 1 { "" } else { "s" };
                let (what, came) = match self.kind {
                    HolderKind::Tasks => (format!("task{s} in flight"), "made"),
                    HolderKind::Wakers => (
                        format!("waker{s} of its own held by the host"),
                        "by a future lent",
                    ),
                    _ => (format!("pin{s} held"), "taken"),
                };
                write!(f, "{} {what}", self.count)?;
                let Some(place) = self.place else {
                    return Ok(());
                };
                write!(f, ", {came} at {}:{}", place.file(), place.line())?;
                write!(f, " by {} (tid {})", self.thread, self.tid)?;
                write!(f, " since {since:.1?}")
            }
            HolderKind::Thread => {
                write!(f, "its thread {} (tid {})", self.thread, self.tid)?;
                write!(f, ", started at {}, still runs", self.function)?;
                match since {
                    Duration::ZERO => Ok(()),
                    since => write!(f, " {since:.1?} after it was told to stop"),
                }
            }
            HolderKind::Section => write!(f, "a reader inside a section (tid {})", self.tid),
            HolderKind::Stack | HolderKind::PerhapsStack(_) => {
                write!(f, "thread {} (tid {})", self.thread, self.tid)?;
                if let HolderKind::PerhapsStack(doubt) = self.kind {
                    write!(f, " may be inside, as {doubt}")?;
                } else {
                    f.write_str(" has its code on the stack")?;
                }
                if !self.function.is_empty() {
                    write!(f, ", in {}", self.function)?;
                }
                Ok(())
            }
        }
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

    /// It is about a part of the plugin, which is named before the message.
    pub(crate) fn about(self, part: &str) -> Self {
        self.with(|inner| inner.message = format!("{part}: {}", inner.message).into())
    }

    /// The message alone.
    pub(crate) fn said(&self) -> Box<str> {
        self.made()
            .map_or_else(Box::default, |inner| inner.message.clone())
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
    /// The task was given up by the unload that was asked to cancel it.
    Cancelled,
    /// What the plugin returned is not a task of its own; why.
    NoTask(&'static str),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the plugin is gone; load it again and take a new handle"),
            Self::Raised(message) => write!(f, "the plugin raised: {message}"),
            Self::Cancelled => f.write_str("the task was cancelled, since its plugin leaves"),
            Self::NoTask(why) => write!(f, "the plugin returned no task: {why}"),
        }
    }
}

impl error::Error for CallError {}
