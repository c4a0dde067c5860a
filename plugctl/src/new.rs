//! `plugctl new`: the files of a plugin that builds, passes `check`, and has a test.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::args::{self, Lang};
use crate::failure::{Failure, Outcome, USAGE};
use crate::render::Render;

/// A file's name and its text, with places to fill in.
type Template = (&'static str, &'static str);

const RUST: &[Template] = &[
    ("Cargo.toml", include_str!("../templates/Cargo.toml.in")),
    ("src/lib.rs", include_str!("../templates/lib.rs.in")),
];

const C: &[Template] = &[
    ("build.sh", include_str!("../templates/build.sh.in")),
    ("@NAME@.c", include_str!("../templates/plugin.c.in")),
    ("test.c", include_str!("../templates/test.c.in")),
];

const CPP: &[Template] = &[
    ("build.sh", include_str!("../templates/build.sh.in")),
    ("@NAME@.cpp", include_str!("../templates/plugin.cpp.in")),
    ("test.cpp", include_str!("../templates/test.c.in")),
];

/// Writes a new plugin into a folder of its name; a folder that is there is left alone.
pub(crate) fn run(args: &args::New, render: &Render) -> Outcome {
    let name = args.name.as_str();
    if !is_name(name) {
        let message = format!(
            "{name}: expected a name of lower-case letters, digits, - and _ that begins with a letter"
        );
        return Err(Failure::new(USAGE, "usage", message));
    }
    let dir = args.dir.clone().unwrap_or_else(|| PathBuf::from(name));
    let failed = |error: io::Error| Failure::file(&dir, &error);
    fs::create_dir(&dir).map_err(failed)?;
    let templates = match args.lang {
        Lang::Rust => RUST,
        Lang::C => C,
        Lang::Cpp => CPP,
    };
    let api = api(args.api.as_deref()).map_err(failed)?;
    for (path, text) in templates {
        write(
            &dir,
            &fill(path, name, &api, args.lang),
            &fill(text, name, &api, args.lang),
        )?;
    }
    if args.lang != Lang::Rust {
        write(&dir, "plugin_api.h", plug_api::HEADER)?;
    }
    let shown = dir.display();
    let (built, build, test) = match args.lang {
        Lang::Rust => (
            format!("{shown}/target/release/lib{}.so", identifier(name)),
            format!("cargo build --release --manifest-path {shown}/Cargo.toml"),
            format!("cargo test --manifest-path {shown}/Cargo.toml"),
        ),
        Lang::C | Lang::Cpp => (
            format!("{shown}/{name}.so"),
            format!("sh {shown}/build.sh"),
            format!("sh {shown}/build.sh test"),
        ),
    };
    render.lines(&[
        format!("build: {build}"),
        format!("test:  {test}"),
        format!("check: plugctl check --probe {built}"),
    ]);
    Ok(0)
}

/// Whether files, packages and plugins may be called so.
fn is_name(name: &str) -> bool {
    let is_inside =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    name.starts_with(|first: char| first.is_ascii_lowercase()) && name.bytes().all(is_inside)
}

/// The name as functions may have it.
fn identifier(name: &str) -> String {
    name.replace('-', "_")
}

/// Where a crate finds `plug-api`, in Cargo's words.
fn api(folder: Option<&Path>) -> io::Result<String> {
    Ok(match folder {
        None => format!("{:?}", env!("CARGO_PKG_VERSION")),
        // Text of Cargo's is escaped as Rust's debug output is.
        Some(folder) => format!("{{ path = {:?} }}", fs::canonicalize(folder)?),
    })
}

fn fill(text: &str, name: &str, api: &str, lang: Lang) -> String {
    let (compiler, default, standard, extension) = match lang {
        Lang::Cpp => ("CXX", "g++", "c++17", "cpp"),
        Lang::C | Lang::Rust => ("CC", "gcc", "c11", "c"),
    };
    text.replace("@NAME@", name)
        .replace("@IDENT@", &identifier(name))
        .replace("@API@", api)
        .replace("@COMPILER@", compiler)
        .replace("@DEFAULT@", default)
        .replace("@STD@", standard)
        .replace("@EXT@", extension)
}

fn write(dir: &Path, name: &str, text: &str) -> Result<(), Failure> {
    let path = dir.join(name);
    let parent = path.parent().unwrap_or(dir);
    fs::create_dir_all(parent).map_err(|error| Failure::file(parent, &error))?;
    let written = File::create_new(&path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| Failure::file(&path, &error))
}
