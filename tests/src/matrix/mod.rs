//! The matrix of true unload: what a plugin does, by the thread that has it do so, and what becomes of
//! the plugin; by Plug, and by plain `dlopen` and `dlclose`.
//!
//! Each cell is a process of its own, the program `unload-cell`, which tells what it saw on lines of
//! [`MARK`]; what follows from them is judged here.

pub mod cells;
pub mod libraries;
pub mod page;
pub mod rows;

pub use libraries::{Libraries, Library};
pub use rows::ROWS;

/// What each line of a cell's begins with that is not the plugin's own.
pub const MARK: &str = "cell> ";

/// What a plugin is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Rust.
    Rust,
    /// C++.
    Cpp,
    /// C.
    C,
}

impl Language {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Rust, Self::Cpp, Self::C];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rust => "Rust",
            Self::Cpp => "C++",
            Self::C => "C",
        }
    }
}

/// The thread that has the plugin act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// The process's main thread, which also loads and unloads.
    Main,
    /// A worker that passes quiescent points all the time.
    Busy,
    /// A worker that sleeps and may be woken.
    Sleeping,
    /// A worker that has ended when the plugin is unloaded.
    Joined,
    /// A thread that the loader knows nothing of, asleep.
    Foreign,
}

impl Column {
    /// All of them, in the order of [`Row::expected`].
    pub const ALL: [Self; 5] = [
        Self::Main,
        Self::Busy,
        Self::Sleeping,
        Self::Joined,
        Self::Foreign,
    ];

    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Busy => "busy",
            Self::Sleeping => "sleeping",
            Self::Joined => "joined",
            Self::Foreign => "foreign",
        }
    }
}

/// What the plugin is loaded and unloaded with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Plug's loader.
    Plug,
    /// libloading, which is `dlopen` and `dlclose`.
    Plain,
}

impl Method {
    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plug => "plug",
            Self::Plain => "plain",
        }
    }
}

/// How a cell of Plug's must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Out of the process when the unload returns.
    Unloaded,
    /// A zombie that names the foreign thread, and unloaded within [`LATEST`](cells::LATEST) of that
    /// thread's end.
    AfterItsThread,
    /// One of both: what the standard library leaves on a thread is its own affair.
    UnloadedOrAfterItsThread,
    /// A zombie that names the thread that the plugin left running, by number, name and start function;
    /// unloaded when that ends.
    WhileRunning,
    /// As before, of a thread that never ends.
    ForEver,
    /// Pinned, for a reason with these words.
    Pinned(&'static str),
}

/// What a plugin does, and what must become of it.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What it is written in.
    pub language: Language,
    /// What it does.
    pub name: &'static str,
    /// The file.
    pub library: Library,
    /// The file of another plugin that is loaded as well, and must leave before this one has to: while
    /// this one is Live, or a zombie where its threads are left running.
    pub beside: Option<Library>,
    /// The number of what it does.
    pub what: u32,
    /// How many destructors of its own must have run when all threads have ended.
    pub destroyed: u32,
    /// `RUST_BACKTRACE`.
    pub backtrace: bool,
    /// How each column must end, in the order of [`Column::ALL`].
    pub expected: [Expected; 5],
}
