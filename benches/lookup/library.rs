//! Synthetic libraries: what a stripped Rust plugin of a given number of symbols looks like.

use std::fmt::Write;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use fastrand::Rng;
use object::read::elf::ElfFile64;
use object::{Object, ObjectSymbol, SymbolKind};

/// Part of each file's name; raised when what is generated changes.
const EDITION: u32 = 3;

/// A function of every library that crashes at once.
pub const CRASH: &str = "crash_at_once";

/// A library on disk, and its symbols as an outside reader sees them.
pub struct Library {
    pub path: PathBuf,
    /// Sorted by address.
    pub symbols: Vec<Symbol>,
    names: String,
}

/// A function.
pub struct Symbol {
    /// Link-time address.
    pub svma: u64,
    pub size: u64,
    name: Range<usize>,
}

impl Library {
    /// The library of `n` functions, made unless an earlier run left it.
    pub fn with_functions(n: usize) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("lookup-{EDITION}-{n}.so"));
        if !path.exists() {
            make(&path, n);
        }
        Self::read(path)
    }

    fn read(path: PathBuf) -> Self {
        let bytes = fs::read(&path).expect("library");
        let file: ElfFile64<'_> = ElfFile64::parse(&*bytes).expect("ELF");
        let mut names = String::new();
        let mut symbols: Vec<Symbol> = file
            .dynamic_symbols()
            .filter(|symbol| symbol.is_definition() && symbol.kind() == SymbolKind::Text)
            .filter(|symbol| symbol.size() != 0)
            .map(|symbol| {
                let start = names.len();
                names.push_str(symbol.name().expect("text"));
                let name = start..names.len();
                names.push('\0');
                Symbol {
                    svma: symbol.address(),
                    size: symbol.size(),
                    name,
                }
            })
            .collect();
        symbols.sort_unstable_by_key(|symbol| symbol.svma);
        Self {
            path,
            symbols,
            names,
        }
    }

    pub fn name_of(&self, symbol: &Symbol) -> &str {
        &self.names[symbol.name.clone()]
    }

    /// The name with the zero byte that ends it.
    pub fn c_name_of(&self, symbol: &Symbol) -> &[u8] {
        &self.names.as_bytes()[symbol.name.start..=symbol.name.end]
    }

    /// What a table of addresses costs an outside reader to make: one pass over the dynamic
    /// symbols and a sort.
    pub fn address_table(&self) -> Vec<(u64, u32)> {
        let bytes = fs::read(&self.path).expect("library");
        let file: ElfFile64<'_> = ElfFile64::parse(&*bytes).expect("ELF");
        let mut table: Vec<(u64, u32)> = file
            .dynamic_symbols()
            .filter(|symbol| symbol.is_definition() && symbol.size() != 0)
            .map(|symbol| {
                let number = u32::try_from(symbol.index().0).expect("32 bits");
                (symbol.address(), number)
            })
            .collect();
        table.shrink_to_fit();
        table.sort_unstable();
        table
    }
}

/// Assembles and links. All but the one that crashes are filled with returns: nobody calls them.
fn make(path: &Path, n: usize) {
    println!("making {}", path.display());
    let mut random = Rng::with_seed(n as u64);
    let mut text = String::from(".section .note.GNU-stack,\"\",@progbits\n.text\n");
    writeln!(
        text,
        ".p2align 4\n.globl {CRASH}\n.type {CRASH},@function\n{CRASH}:\npush %rbp\n\
         mov %rsp,%rbp\nmovl $0,0\npop %rbp\nret\n.size {CRASH},.-{CRASH}"
    )
    .expect("memory");
    for number in 1..n {
        let name = mangled(&mut random, number);
        let size = 12 + random.usize(..249);
        writeln!(
            text,
            ".p2align 4\n.globl {name}\n.type {name},@function\n{name}:\n.skip {size},0xc3\n\
             .size {name},{size}"
        )
        .expect("memory");
    }
    let source = path.with_extension("s");
    let unfinished = path.with_extension("unfinished");
    fs::write(&source, text).expect("assembler source");
    let status = Command::new("gcc")
        .args(["-shared", "-s", "-Wl,--hash-style=gnu", "-Wl,--build-id"])
        .arg("-o")
        .args([&unfinished, &source])
        .status()
        .expect("gcc");
    assert!(status.success(), "gcc: {status}");
    fs::remove_file(source).expect("assembler source");
    fs::rename(unfinished, path).expect("library");
}

/// A name of 40 to 45 bytes as rustc mangles it.
fn mangled(random: &mut Rng, number: usize) -> String {
    let length = 2 + random.usize(..6);
    let word: String = (0..length)
        .map(|_| char::from(b'a' + u8::try_from(random.usize(..26)).expect("a letter")))
        .collect();
    // The number makes it unique.
    let hash = (random.u64(..) << 20) | number as u64;
    format!("_ZN5codec7decoder{length}{word}17h{hash:016x}E")
}
