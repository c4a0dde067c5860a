//! `include/plug_reader.h` says the same as [`Resolved`]: compiled, run and compared.

use core::mem::offset_of;

use super::{Resolved, State, Text};

extern crate std;
use std::path::Path;
use std::process::Command;
use std::string::String;
use std::{env, format, fs, process};

const PROGRAM: &str = r#"
#include "plug_reader.h"
#include <stdio.h>
#define AT(field) printf(#field " %zu\n", offsetof(plug_resolved, field))
int main(void) {
    AT(address); AT(plugin_start); AT(plugin_end); AT(bias); AT(generation);
    AT(symbol_start); AT(symbol_size); AT(offset); AT(state); AT(build_id_len);
    AT(build_id); AT(plugin); AT(version); AT(symbol);
    printf("truncated %zu\n", offsetof(plug_text_252, truncated));
    printf("bytes %zu\n", offsetof(plug_text_252, bytes));
    printf("size %zu\n", sizeof(plug_resolved));
    printf("states %d %d %d %d %d %d\n", PLUG_STATE_EMPTY, PLUG_STATE_UNFORMED,
           PLUG_STATE_COMING, PLUG_STATE_LIVE, PLUG_STATE_GOING, PLUG_STATE_ZOMBIE);
    return 0;
}
"#;

fn expected() -> String {
    let mut text = String::new();
    macro_rules! at {
        ($($field:ident)*) => {
            $(text += &format!("{} {}\n", stringify!($field), offset_of!(Resolved, $field));)*
        };
    }
    at!(address plugin_start plugin_end bias generation symbol_start symbol_size offset);
    at!(state build_id_len build_id plugin version symbol);
    text += &format!("truncated {}\n", offset_of!(Text<252>, truncated));
    text += &format!("bytes {}\n", offset_of!(Text<252>, bytes));
    text += &format!("size {}\n", size_of::<Resolved>());
    text += &format!(
        "states {} {} {} {} {} {}\n",
        State::Empty as u8,
        State::Unformed as u8,
        State::Coming as u8,
        State::Live as u8,
        State::Going as u8,
        State::Zombie as u8,
    );
    text
}

/// Compiles and runs the program as `language` and compares what it prints.
fn compare(compiler: &str, language: &str, standard: &str) {
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../include");
    let folder = env::temp_dir().join(format!("plug-reader-h-{}-{standard}", process::id()));
    fs::create_dir_all(&folder).expect("a folder for the program");
    let (source, program) = (folder.join("layout.src"), folder.join("layout"));
    fs::write(&source, PROGRAM).expect("the program is written");
    let built = Command::new(compiler)
        .args([&format!("-std={standard}"), "-x", language])
        .args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"])
        .arg(&include)
        .arg(&source)
        .arg("-o")
        .arg(&program)
        .status()
        .expect("the system compiler runs");
    assert!(built.success(), "{compiler} as {standard}");
    let output = Command::new(&program).output().expect("the program runs");
    fs::remove_dir_all(&folder).expect("the folder goes");
    let printed = String::from_utf8(output.stdout).expect("ASCII");
    assert_eq!(printed, expected(), "{compiler} as {standard}");
}

#[test]
fn header_as_c11_has_the_layout_of_resolved() {
    compare("gcc", "c", "c11");
}

#[test]
fn header_as_cpp17_has_the_layout_of_resolved() {
    compare("g++", "c++", "c++17");
}
