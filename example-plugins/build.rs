//! Builds the plugins that cargo does not: C and C++ by the system's compiler, and the hostile
//! Rust ones by rustc itself, so that each of them need not be a package.
//!
//! Shared libraries land where cargo puts its own, `<target>/<profile>/lib<name>.so`, hostile
//! ones in `hostile/` there. base64 and wordcount are also linked into this package, so that a
//! host can run the same filters without loading anything.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// Headers that C and C++ plugins include, relative to this package.
const INCLUDES: [&str; 2] = ["../plugin-api/include", "filter/include"];

/// The same layout of hot loops in a plugin and in the copy that is linked in: where a scanning
/// loop falls is worth 6 % on one machine, and would be taken for the price of loading.
const LAYOUT: [&str; 2] = ["-falign-functions=64", "-falign-loops=32"];

struct Build {
    out_dir: PathBuf,
    /// When the youngest source changed: outputs get this time, because cargo would run this
    /// script again each time if a file that it watches were younger than the run.
    sources_changed: SystemTime,
}

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    // OUT_DIR is <target>/<profile>/build/<package>-<hash>/out.
    let profile = out_dir
        .ancestors()
        .nth(3)
        .expect("OUT_DIR lies in the profile's directory");
    let hostile = profile.join("hostile");
    fs::create_dir_all(&hostile).expect("the target directory is writable");
    env::set_current_dir(&manifest).expect("the package has a directory");
    println!("cargo::rustc-env=PLUG_PLUGIN_DIR={}", profile.display());

    let watched = [
        "build.rs",
        "base64",
        "wordcount",
        "mime",
        "reading",
        "hostile",
        "filter/include",
        "../plugin-api/include",
        "../plugin-api/src",
    ];
    for path in watched {
        println!("cargo::rerun-if-changed={path}");
    }
    let changed = watched.iter().map(|path| changed(Path::new(path))).max();
    let build = Build {
        out_dir: out_dir.clone(),
        sources_changed: changed.expect("not empty"),
    };

    build.native("base64/base64.c", &profile.join("libbase64.so"));
    build.native("wordcount/wordcount.cpp", &profile.join("libwordcount.so"));
    // What these import is bound by a loader alone, so they are linked into nothing.
    build.native("mime/mime.c", &profile.join("libmime.so"));
    build.native("reading/reading.cpp", &profile.join("libreading.so"));
    linked("base64/base64.c", "base64");
    linked("wordcount/wordcount.cpp", "wordcount");

    let api = build.plug_api();
    let mut sources: Vec<PathBuf> = fs::read_dir("hostile")
        .expect("the package has a directory hostile")
        .map(|entry| entry.expect("it is readable").path())
        .collect();
    sources.sort();
    for source in sources {
        let name = source
            .file_stem()
            .and_then(|stem| stem.to_str())
            .expect("names are UTF-8");
        let output = hostile.join(format!("lib{name}.so"));
        match source.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => build.rust(&source, &api, &output),
            Some("c" | "cpp") => build.native(&source, &output),
            _ => {}
        }
    }
}

impl Build {
    /// Compiles one C or C++ source to a shared library.
    fn native(&self, source: impl AsRef<Path>, output: &Path) {
        let source = source.as_ref();
        let cpp = source
            .extension()
            .is_some_and(|extension| extension == "cpp");
        // Only asked for the compiler: cargo's profile must not change what a plugin is.
        let tool = cc::Build::new()
            .cpp(cpp)
            .opt_level(2)
            .debug(false)
            .get_compiler();
        let mut command = Command::new(tool.path());
        command.arg(if cpp { "-std=c++17" } else { "-std=c11" });
        command.args(["-shared", "-fPIC", "-O2", "-g1", "-fvisibility=hidden"]);
        command.args(LAYOUT);
        command.args(["-Wall", "-Wextra", "-Werror"]);
        command.args(INCLUDES.map(|include| format!("-I{include}")));
        command.arg(source);
        self.write(output, |partial| {
            command.arg("-o").arg(partial);
            run(&mut command);
        });
    }

    /// Compiles plug-api for the hostile plugins in Rust; returns the library's path.
    fn plug_api(&self) -> PathBuf {
        let output = self.out_dir.join("libplug_api.rlib");
        let mut command = rustc();
        command.args(["--crate-name", "plug_api", "--crate-type", "rlib"]);
        command
            .arg("../plugin-api/src/lib.rs")
            .arg("-o")
            .arg(&output);
        run(&mut command);
        output
    }

    /// Compiles one Rust source to a shared library.
    fn rust(&self, source: &Path, api: &Path, output: &Path) {
        let name = source
            .file_stem()
            .and_then(|stem| stem.to_str())
            .expect("names are UTF-8");
        let mut command = rustc();
        command.args([
            "--crate-name",
            &name.replace('-', "_"),
            "--crate-type",
            "cdylib",
        ]);
        let mut dependency = OsString::from("plug_api=");
        dependency.push(api);
        command.arg("--extern").arg(dependency).arg(source);
        self.write(output, |partial| {
            command.arg("-o").arg(partial);
            run(&mut command);
        });
    }

    /// Lets `write` make a file under a temporary name and puts it in its place, so that nobody
    /// maps a half-written one, and who has the old one mapped keeps it.
    fn write(&self, output: &Path, write: impl FnOnce(&Path)) {
        let name = output.file_name().expect("outputs are files");
        let mut partial = output
            .with_file_name(format!(".{}.", std::process::id()))
            .into_os_string();
        partial.push(name);
        let partial = PathBuf::from(partial);
        write(&partial);
        File::options()
            .append(true)
            .open(&partial)
            .and_then(|file| file.set_modified(self.sources_changed))
            .expect("the new library is ours");
        fs::rename(&partial, output).expect("the target directory is writable");
        println!("cargo::rerun-if-changed={}", output.display());
    }
}

/// Compiles a plugin into an archive for this package's own library.
fn linked(source: &str, name: &str) {
    cc::Build::new()
        .file(source)
        .cpp(source.ends_with(".cpp"))
        .std(if source.ends_with(".cpp") {
            "c++17"
        } else {
            "c11"
        })
        .includes(INCLUDES)
        .define("PLUG_STATIC_NAME", name)
        .opt_level(2)
        .flags(LAYOUT)
        .warnings(true)
        .extra_warnings(true)
        .warnings_into_errors(true)
        .compile(&format!("plug_linked_{name}"));
}

fn rustc() -> Command {
    let mut command = Command::new(env::var_os("RUSTC").expect("set by cargo"));
    // Optimized and able to unwind in every profile: that is how plugins are shipped.
    command.args(["--edition", "2024", "-O", "-Cpanic=unwind", "-Cdebuginfo=1"]);
    let target = env::var("TARGET").expect("set by cargo");
    if env::var("HOST").as_ref() != Ok(&target) {
        command.args(["--target", &target]);
    }
    command.env("PLUG_API_TARGET", target);
    let version = Command::new(command.get_program())
        .arg("--version")
        .output();
    if let Some(version) = version
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
    {
        command.env("PLUG_API_TOOLCHAIN", version.trim());
    }
    command
}

fn run(command: &mut Command) {
    let status = command
        .status()
        .unwrap_or_else(|error| panic!("run {command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

/// When `path`, or the youngest file below it, changed last.
fn changed(path: &Path) -> SystemTime {
    let metadata = fs::metadata(path).expect("the sources are readable");
    if !metadata.is_dir() {
        return metadata.modified().expect("files have a time");
    }
    fs::read_dir(path)
        .expect("the sources are readable")
        .map(|entry| changed(&entry.expect("the sources are readable").path()))
        .max()
        .unwrap_or(SystemTime::UNIX_EPOCH)
}
