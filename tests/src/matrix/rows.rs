//! The rows, as data.

use super::Expected::{
    AfterItsThread, ForEver, Pinned, Unloaded, UnloadedOrAfterItsThread, WhileRunning,
};
use super::{Expected, Language, Library, Row};

/// Leaves nothing anywhere, or only where it is undone at once.
const EVERYWHERE: [Expected; 5] = [Unloaded; 5];

/// Leaves something on the thread that runs it.
const OWED: [Expected; 5] = [Unloaded, Unloaded, Unloaded, Unloaded, AfterItsThread];

/// Whether it does is the standard library's affair.
const BY_STD: [Expected; 5] = [
    Unloaded,
    Unloaded,
    Unloaded,
    Unloaded,
    UnloadedOrAfterItsThread,
];

const ON_EXIT: [Expected; 5] = [Pinned("on_exit"); 5];

const NODELETE: [Expected; 5] = [Pinned("DF_1_NODELETE"); 5];

const fn row(
    language: Language,
    name: &'static str,
    library: Library,
    what: u32,
    destroyed: u32,
    expected: [Expected; 5],
) -> Row {
    Row {
        language,
        name,
        library,
        beside: None,
        what,
        destroyed,
        backtrace: false,
        expected,
    }
}

const fn rust(name: &'static str, what: u32, destroyed: u32, expected: [Expected; 5]) -> Row {
    row(
        Language::Rust,
        name,
        Library::Rust,
        what,
        destroyed,
        expected,
    )
}

const fn framework(name: &'static str, what: u32, expected: [Expected; 5]) -> Row {
    row(Language::Rust, name, Library::Frameworks, what, 0, expected)
}

const fn cpp(name: &'static str, what: u32, destroyed: u32, expected: [Expected; 5]) -> Row {
    row(Language::Cpp, name, Library::Cpp, what, destroyed, expected)
}

const fn c(name: &'static str, what: u32, destroyed: u32, expected: [Expected; 5]) -> Row {
    row(Language::C, name, Library::C, what, destroyed, expected)
}

const fn of(library: Library, row: Row) -> Row {
    Row { library, ..row }
}

/// All rows.
pub const ROWS: &[Row] = &[
    rust("plain", 0, 0, EVERYWHERE),
    rust("println", 1, 0, BY_STD),
    rust("eprintln", 15, 0, BY_STD),
    rust(
        "thread-local with Drop, whose drop makes another",
        2,
        2,
        OWED,
    ),
    rust("thread::current()", 3, 0, BY_STD),
    rust("caught panic", 4, 0, BY_STD),
    Row {
        backtrace: true,
        ..rust("caught panic, RUST_BACKTRACE=1", 4, 0, BY_STD)
    },
    rust("thread with a thread-local, joined", 5, 2, BY_STD),
    rust("detached thread that ends", 6, 0, BY_STD),
    rust("park_timeout", 7, 0, BY_STD),
    rust("thread left running", 8, 0, [WhileRunning; 5]),
    rust("thread that the plugin's exit ends", 9, 0, BY_STD),
    framework("tokio runtime, dropped", 0, BY_STD),
    framework("rayon pool, left", 1, [ForEver; 5]),
    framework("rayon pool, dropped", 2, BY_STD),
    framework("tracing subscriber installed", 3, BY_STD),
    of(
        Library::RustNodelete,
        rust("marked NODELETE", 0, 0, NODELETE),
    ),
    of(
        Library::RustStatics,
        rust("static constructor and destructor", 10, 1, EVERYWHERE),
    ),
    of(
        Library::RustLocalAtEnd,
        rust(
            "static destructor that uses a thread-local",
            0,
            2,
            EVERYWHERE,
        ),
    ),
    rust("atexit", 11, 1, EVERYWHERE),
    rust("pthread key with a value", 12, 1, OWED),
    rust("key destructor that makes a thread-local", 13, 2, OWED),
    rust("fork", 14, 0, BY_STD),
    rust("signal handler", 16, 0, EVERYWHERE),
    rust("timer that ticks on", 17, 0, BY_STD),
    cpp("plain", 0, 0, EVERYWHERE),
    cpp("std::cout", 1, 0, EVERYWHERE),
    cpp("thread_local with a destructor", 2, 1, OWED),
    cpp("exception", 3, 0, EVERYWHERE),
    of(
        Library::CppUnique,
        cpp("GNU_UNIQUE statics", 16, 0, EVERYWHERE),
    ),
    of(Library::CppNodelete, cpp("marked NODELETE", 0, 0, NODELETE)),
    of(
        Library::CppStatics,
        cpp("static constructor and destructor", 4, 1, EVERYWHERE),
    ),
    of(
        Library::CppLocalAtEnd,
        cpp(
            "static destructor that uses a thread_local",
            0,
            1,
            EVERYWHERE,
        ),
    ),
    cpp("atexit", 5, 1, EVERYWHERE),
    cpp("pthread key with a value", 6, 1, OWED),
    cpp("key destructor that makes a thread_local", 7, 1, OWED),
    cpp("std::thread with a thread_local, joined", 8, 1, EVERYWHERE),
    cpp("std::async", 9, 0, EVERYWHERE),
    cpp("pthread with a thread_local, joined", 10, 1, EVERYWHERE),
    cpp("pthread_exit in a thread of its own", 11, 1, EVERYWHERE),
    cpp("pthread_cancel of a thread of its own", 12, 1, EVERYWHERE),
    cpp("std::thread left running", 13, 0, [WhileRunning; 5]),
    cpp("std::thread that the plugin's exit ends", 14, 0, EVERYWHERE),
    // The child's thread-local is the child's.
    cpp("fork", 15, 0, EVERYWHERE),
    cpp("signal handler", 17, 0, EVERYWHERE),
    cpp("timer that ticks on", 18, 0, EVERYWHERE),
    c("plain", 0, 0, EVERYWHERE),
    c("puts", 1, 0, EVERYWHERE),
    of(Library::CNodelete, c("marked NODELETE", 0, 0, NODELETE)),
    of(
        Library::CStatics,
        c("static constructor and destructor", 2, 1, EVERYWHERE),
    ),
    c("atexit", 3, 1, EVERYWHERE),
    c("pthread key with a value", 4, 1, OWED),
    c("C11 key with a value", 5, 1, OWED),
    c("pthread joined", 6, 0, EVERYWHERE),
    c("pthread_exit in a thread of its own", 7, 0, EVERYWHERE),
    c("pthread_cancel of a thread of its own", 8, 0, EVERYWHERE),
    c("C11 thread joined", 9, 0, EVERYWHERE),
    c("thread left running", 10, 0, [WhileRunning; 5]),
    c("thread that the plugin's exit ends", 11, 0, EVERYWHERE),
    c("fork", 12, 0, EVERYWHERE),
    // The host forks when the plugin is gone: a handler that was left would crash or be counted.
    c("pthread_atfork", 13, 0, EVERYWHERE),
    c("signal handler", 14, 0, EVERYWHERE),
    c("timer that ticks on", 15, 0, EVERYWHERE),
    c("timer that sends a signal to a handler", 16, 0, EVERYWHERE),
    // It runs when the process ends.
    c("on_exit", 17, 0, ON_EXIT),
    c("dlopen of a library that stays open", 18, 0, EVERYWHERE),
    Row {
        beside: Some(Library::CSecond),
        ..of(
            Library::CFirst,
            c(
                "two plugins, each with its own libcore.so.1",
                19,
                0,
                EVERYWHERE,
            ),
        )
    },
    // The first one's thread runs on while the second comes, acts and goes.
    Row {
        beside: Some(Library::CVersion2),
        ..of(
            Library::CVersion1,
            c(
                "two versions, each with its own libcore.so.1, while a thread keeps the first",
                20,
                0,
                [WhileRunning; 5],
            ),
        )
    },
];
