//! The plugins' files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use crate::standalone::{self, STRICT, Scratch, include, repository};

/// A file of `tests/plugins`, compiled in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// `matrix.rs`.
    Rust,
    /// The same, linked with `-z nodelete`.
    RustNodelete,
    /// The same, with a static destructor.
    RustStatics,
    /// The same, with a static destructor that uses a thread-local.
    RustLocalAtEnd,
    /// The package `frameworks`, which cargo builds.
    Frameworks,
    /// `matrix.cpp`, without a GNU_UNIQUE symbol.
    Cpp,
    /// The same, with such symbols.
    CppUnique,
    /// As [`Library::Cpp`], linked with `-z nodelete`.
    CppNodelete,
    /// As [`Library::Cpp`], with a static object.
    CppStatics,
    /// As [`Library::Cpp`], with a static object whose destructor uses a thread-local.
    CppLocalAtEnd,
    /// With such symbols and a static object.
    CppUniqueStatics,
    /// `matrix.c`.
    C,
    /// The same, linked with `-z nodelete`.
    CNodelete,
    /// The same, with a static destructor.
    CStatics,
    /// The same, with a private library `libcore.so.1`.
    CFirst,
    /// Another plugin, with another library of that name.
    CSecond,
    /// As [`Library::CFirst`], as the first version of a plugin.
    CVersion1,
    /// As [`Library::CSecond`], as the second version of that plugin.
    CVersion2,
}

use Library::{
    C, CFirst, CNodelete, CSecond, CStatics, CVersion1, CVersion2, Cpp, CppLocalAtEnd, CppNodelete,
    CppStatics, CppUnique, CppUniqueStatics, Frameworks, Rust, RustLocalAtEnd, RustNodelete,
    RustStatics,
};

/// What the compiler is told in addition.
const FLAGS: [(Library, &[&str]); 17] = [
    (Rust, &[]),
    (RustNodelete, &["-Clink-arg=-Wl,-z,nodelete"]),
    (RustStatics, &["--cfg", "statics"]),
    (RustLocalAtEnd, &["--cfg", "local_at_end"]),
    (Cpp, &["-fno-gnu-unique"]),
    (CppUnique, &["-DUNIQUE"]),
    (CppNodelete, &["-fno-gnu-unique", "-Wl,-z,nodelete"]),
    (CppStatics, &["-fno-gnu-unique", "-DSTATICS"]),
    (CppLocalAtEnd, &["-fno-gnu-unique", "-DLOCAL_AT_END"]),
    (CppUniqueStatics, &["-DUNIQUE", "-DSTATICS"]),
    (C, &[]),
    (CNodelete, &["-Wl,-z,nodelete"]),
    (CStatics, &["-DSTATICS"]),
    (CFirst, &["-DCORE=1", "-DNAME=\"first\"", FIRST]),
    (CSecond, &["-DCORE=2", "-DNAME=\"second\"", SECOND]),
    (CVersion1, &["-DCORE=1", "-DNAME=\"version\"", FIRST]),
    (CVersion2, &["-DCORE=2", "-DNAME=\"version\"", SECOND]),
];

/// The private library's file and its name for ld.so.
const CORE: &str = "libcore.so.1";

/// Where plugins find their private library; it is linked by its place beside them.
const FIRST: &str = "-Wl,-rpath,$ORIGIN/core1";
const SECOND: &str = "-Wl,-rpath,$ORIGIN/core2";

/// All files, built.
#[derive(Debug)]
pub struct Libraries {
    scratch: Scratch,
}

impl Libraries {
    /// Builds those that are wanted, two at a time.
    pub fn build(is_wanted: impl Fn(Library) -> bool) -> Self {
        let new = Self {
            scratch: Scratch::new("matrix"),
        };
        let wanted = FLAGS.into_iter().filter(|(library, _)| is_wanted(*library));
        let (rust, native): (Vec<_>, Vec<_>) =
            wanted.partition(|(library, _)| language(*library) == "rs");
        new.cores();
        // Cargo builds in one folder and thus one at a time; meanwhile the others.
        let native = Mutex::new(native);
        let compile = || {
            while let Some((library, flags)) = next(&native) {
                new.compile(library, flags);
            }
        };
        thread::scope(|scope| {
            scope.spawn(compile);
            for (library, flags) in rust {
                new.cargo(library, flags);
            }
            compile();
        });
        new
    }

    /// Where a file is.
    pub fn path(&self, library: Library) -> PathBuf {
        match library {
            Frameworks => plug_example_plugins::path("frameworks").expect("built by the workspace"),
            _ => self.scratch.path().join(format!("lib{library:?}.so")),
        }
    }

    fn cargo(&self, library: Library, flags: &[&str]) {
        let source = fs::read_to_string(source(library)).expect("source");
        // As plugins are shipped: it is the private copies of debugging information that would take
        // most of the time.
        let flags = [&["-Copt-level=2", "-Cstrip=debuginfo"], flags].concat();
        let built = standalone::rust_plugin_with(&self.scratch, "matrix", &source, &flags);
        fs::rename(built, self.path(library)).expect("own folder");
    }

    fn compile(&self, library: Library, flags: &[&str]) {
        let (compiler, standard) = match language(library) {
            "cpp" => ("g++", "-std=c++17"),
            _ => ("gcc", "-std=c11"),
        };
        let mut command = Command::new(compiler);
        command.args([standard, "-shared", "-fPIC", "-O2"]);
        command.args(STRICT).args(flags).arg("-I").arg(include());
        command.arg(source(library));
        if let Some(answer) = flags.iter().find_map(|flag| flag.strip_prefix("-DCORE=")) {
            command.arg(self.core(answer));
        }
        command.arg("-o").arg(self.path(library));
        standalone::run(&mut command);
    }

    /// A library that gives this answer; all of them have one `DT_SONAME`.
    pub fn core(&self, answer: &str) -> PathBuf {
        let folder = format!("core{answer}");
        self.scratch.path().join(folder).join(CORE)
    }

    fn cores(&self) {
        for answer in ["1", "2"] {
            let output = self.core(answer);
            let folder = output.parent().expect("below");
            fs::create_dir_all(folder).expect("own folder");
            let mut command = Command::new("gcc");
            command.args(["-shared", "-fPIC", &format!("-DANSWER={answer}")]);
            command.arg(format!("-Wl,-soname,{CORE}"));
            command.arg(repository().join("tests/plugins/core.c"));
            command.arg("-o").arg(output);
            standalone::run(&mut command);
        }
    }
}

fn next<T>(list: &Mutex<Vec<T>>) -> Option<T> {
    list.lock().expect("no panic").pop()
}

fn language(library: Library) -> &'static str {
    match library {
        Rust | RustNodelete | RustStatics | RustLocalAtEnd | Frameworks => "rs",
        Cpp | CppUnique | CppNodelete | CppStatics | CppLocalAtEnd | CppUniqueStatics => "cpp",
        C | CNodelete | CStatics | CFirst | CSecond | CVersion1 | CVersion2 => "c",
    }
}

fn source(library: Library) -> PathBuf {
    let file = Path::new("tests/plugins/matrix").with_extension(language(library));
    repository().join(file)
}
