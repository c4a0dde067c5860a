//! A plugin in Rust, and a library in C of the same size.

use std::ffi::{CString, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Part of each file's name; raised when what is generated changes.
const EDITION: u32 = 1;

/// Does what Rust does everywhere: a thread-local with a destructor, the running thread's handle, the
/// heap, a lock; and, for calls that leave nothing on their thread, `add`.
const RUST: &str = "
use std::cell::RefCell;
use std::sync::Mutex;

struct Local(Vec<u64>);
impl Drop for Local { fn drop(&mut self) { SUM.lock().unwrap().push(self.0.len() as u64); } }
static SUM: Mutex<Vec<u64>> = Mutex::new(Vec::new());
thread_local! { static LOCAL: RefCell<Local> = const { RefCell::new(Local(Vec::new())) }; }

#[unsafe(no_mangle)]
pub extern \"C\" fn work(n: u64) -> u64 {
    let named = std::thread::current().name().is_some();
    LOCAL.with(|local| local.borrow_mut().0.push(n));
    let text = format!(\"{n} {named}\");
    if n == u64::MAX { eprintln!(\"{text}\"); }
    n + 1
}

#[unsafe(no_mangle)]
pub extern \"C\" fn add(n: u64) -> u64 { n + 1 }
";

/// Takes blocks and gives them back.
const PAIRS: &str = "
#include <stdlib.h>
static void *volatile sink;
unsigned long pairs(unsigned long n) {
    for (unsigned long i = 0; i < n; i++) { sink = malloc(16 + i % 200); free(sink); }
    return n + 1;
}
";

/// The two files, and one in C that allocates.
pub struct Files {
    pub rust: PathBuf,
    pub pairs: PathBuf,
    pub c: CString,
    pub bytes: u64,
}

impl Files {
    pub fn make() -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("unload-{EDITION}"));
        fs::create_dir_all(&folder).expect("a folder");
        let rust = folder.join("librust.so");
        if !rust.exists() {
            let source = folder.join("rust.rs");
            fs::write(&source, RUST).expect("source");
            let flags = [
                "--crate-type=cdylib",
                "--edition=2024",
                "-O",
                "-Cstrip=symbols",
            ];
            compile("rustc", &flags, &source, &rust);
        }
        let bytes = fs::metadata(&rust).expect("built").len();
        let c = folder.join("libc.so");
        if !c.exists() {
            // What the library is without it takes some pages.
            let filling = bytes.saturating_sub(14 * 1024);
            let text = format!(
                "__attribute__((used)) static const char filling[{filling}] = {{1}};\n\
                 unsigned long add(unsigned long n) {{ return n + 1; }}\n"
            );
            let source = folder.join("c.c");
            fs::write(&source, text).expect("source");
            compile("gcc", &["-O2", "-fPIC", "-shared", "-s"], &source, &c);
        }
        let c_bytes = fs::metadata(&c).expect("built").len();
        assert!(
            c_bytes.abs_diff(bytes) * 50 < bytes,
            "{c_bytes} and {bytes}"
        );
        let c = CString::new(c.into_os_string().into_encoded_bytes()).expect("text");
        let pairs = folder.join("libpairs.so");
        if !pairs.exists() {
            let source = folder.join("pairs.c");
            fs::write(&source, PAIRS).expect("source");
            compile("gcc", &["-O2", "-fPIC", "-shared"], &source, &pairs);
        }
        Self {
            rust,
            pairs,
            c,
            bytes,
        }
    }
}

fn compile(compiler: &str, flags: &[&str], source: &Path, to: &Path) {
    let unfinished = to.with_extension("unfinished");
    let compiler = match compiler {
        "rustc" => std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()),
        other => OsString::from(other),
    };
    let mut command = Command::new(compiler);
    command.args(flags).arg("-o").args([&unfinished, source]);
    let status = command.status().expect("a compiler");
    assert!(status.success(), "{command:?}: {status}");
    fs::rename(unfinished, to).expect("library");
}
