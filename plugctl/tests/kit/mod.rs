//! Runs the real binary: hosts in a folder of their own, and clients that see only those.

#![allow(dead_code, reason = "each test file uses a part of the kit")]

pub(crate) mod told;

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A folder of sockets and files, gone when dropped.
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let n = MADE.fetch_add(1, Ordering::Relaxed);
        let dir = env::temp_dir().join(format!("plugctl-{}-{n}", std::process::id()));
        fs::create_dir_all(&dir).expect("folder");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("mode");
        Self { dir }
    }

    /// plugctl in this place.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plugctl"));
        command
            .args(args)
            .env("XDG_RUNTIME_DIR", &self.dir)
            .env_remove("NO_COLOR");
        command
    }

    /// Runs plugctl to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        Ended::of(self.command(args).output().expect("plugctl"))
    }

    /// Starts a host and waits until it is ready.
    pub(crate) fn serve(&self, name: &str, args: &[&str]) -> Host {
        let mut child = self
            .command(&["serve", "--name", name])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("serve");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a line");
        let pid = child.id();
        let socket = self.dir.join(format!("plug/{name}.{pid}.sock"));
        if line != format!("ready {}\n", socket.display()) {
            let mut stderr = String::new();
            let _read = child
                .stderr
                .take()
                .expect("stderr")
                .read_to_string(&mut stderr);
            panic!("serve said {line:?} and {stderr:?}");
        }
        Host { child, pid, socket }
    }

    /// Compiles a plugin in C.
    pub(crate) fn plugin(&self, name: &str, source: &str, flags: &[&str]) -> PathBuf {
        self.compile("gcc", &format!("{name}.c"), name, source, flags)
    }

    /// Compiles a plugin in C++.
    pub(crate) fn cpp_plugin(&self, name: &str, source: &str) -> PathBuf {
        self.compile("g++", &format!("{name}.cpp"), name, source, &[])
    }

    /// Builds a plugin in Rust, with plug-api and nothing else.
    pub(crate) fn rust_plugin(&self, name: &str, source: &str) -> PathBuf {
        let api = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin-api");
        let folder = self.dir.join(name);
        fs::create_dir_all(folder.join("src")).expect("folder");
        let manifest = format!(
            "[package]\nname = {name:?}\nversion = \"1.0.0\"\nedition = \"2024\"\n\n\
             [lib]\ncrate-type = [\"cdylib\"]\n\n\
             [dependencies]\nplug-api = {{ path = {api:?} }}\n\n[workspace]\n"
        );
        fs::write(folder.join("Cargo.toml"), manifest).expect("file");
        fs::write(folder.join("src/lib.rs"), source).expect("file");
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--offline", "--quiet", "--target-dir", "target"]);
        cargo.current_dir(&folder);
        // The environment of a test run is not the stranger's.
        for variable in [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "RUSTC_WORKSPACE_WRAPPER",
        ] {
            cargo.env_remove(variable);
        }
        let output = cargo.output().expect("cargo");
        assert!(output.status.success(), "{output:?}");
        folder.join(format!("target/debug/lib{name}.so"))
    }

    fn compile(
        &self,
        compiler: &str,
        file: &str,
        name: &str,
        source: &str,
        flags: &[&str],
    ) -> PathBuf {
        let path = self.dir.join(format!("lib{name}.so"));
        let file = self.dir.join(file);
        fs::write(&file, source).expect("source");
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("root");
        let output = Command::new(compiler)
            .args(["-shared", "-fPIC", "-O1", "-fvisibility=hidden", "-o"])
            .arg(&path)
            .arg(&file)
            .arg("-I")
            .arg(root.join("plugin-api/include"))
            .arg("-I")
            .arg(root.join("example-plugins/filter/include"))
            .args(flags)
            .output()
            .expect("gcc");
        assert!(output.status.success(), "{output:?}");
        path
    }

    /// Compiles a filter in C whose stream holds its worker while the file `hold` is there.
    pub(crate) fn holding_plugin(&self, name: &str, flags: &[&str]) -> Holding {
        let hold = self.dir.join(format!("{name}.hold"));
        let text = HOLDING
            .replace("@NAME@", name)
            .replace("@HOLD@", &hold.display().to_string());
        let path = self.plugin(name, &text, flags);
        Holding { path, hold }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.dir);
    }
}

/// A plugin that holds its worker on demand.
pub(crate) struct Holding {
    pub(crate) path: PathBuf,
    hold: PathBuf,
}

impl Holding {
    pub(crate) fn hold(&self) {
        fs::write(&self.hold, "").expect("file");
    }

    pub(crate) fn release(&self) {
        fs::remove_file(&self.hold).expect("file");
    }

    pub(crate) fn file(&self) -> &str {
        self.path.to_str().expect("text")
    }
}

/// A host that runs; killed when dropped.
pub(crate) struct Host {
    pub(crate) child: Child,
    pub(crate) pid: u32,
    pub(crate) socket: PathBuf,
}

impl Host {
    /// Ends it as an operator would.
    pub(crate) fn end(mut self) -> Ended {
        signal(self.pid, "TERM");
        let status = self.child.wait().expect("status");
        let mut stderr = String::new();
        let mut pipe = self.child.stderr.take().expect("stderr");
        pipe.read_to_string(&mut stderr).expect("text");
        Ended {
            code: status.code(),
            stdout: String::new(),
            stderr,
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

pub(crate) fn signal(pid: u32, signal: &str) {
    let status = Command::new("kill")
        .arg(format!("-{signal}"))
        .arg(pid.to_string())
        .status();
    assert!(status.expect("kill").success());
}

/// What a command did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// Checks all of it; in both texts runs of spaces count as one, addresses as `0x_`, durations
    /// and other numbers as `_`.
    #[track_caller]
    pub(crate) fn is(&self, code: i32, stdout: &str, stderr: &str) {
        let seen = (self.code, masked(&self.stdout), masked(&self.stderr));
        assert_eq!(
            seen,
            (Some(code), masked(stdout), masked(stderr)),
            "{self:?}"
        );
    }

    /// Without what a busy machine adds: that somebody is waited for.
    pub(crate) fn without_waits(mut self) -> Self {
        let lines = self.stderr.split_inclusive('\n');
        let lines = lines.filter(|line| !line.starts_with("plugctl: waiting for "));
        self.stderr = lines.collect();
        self
    }

    /// Checks the exit code alone.
    #[track_caller]
    pub(crate) fn code_is(&self, code: i32) {
        assert_eq!(self.code, Some(code), "{self:?}");
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{self:?}");
        serde_json::from_str(&self.stdout).expect("JSON")
    }
}

/// Texts with what differs from run to run taken out.
pub(crate) fn masked(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let words = line.split_whitespace().map(|word| {
            let bare = word.trim_matches(|c: char| "():,".contains(c));
            if bare.starts_with("0x") {
                return word.replace(bare, "0x_");
            }
            match bare.parse::<f64>() {
                Ok(_) => word.replace(bare, "_"),
                Err(_) if ["µs", "ms", "s"].contains(&bare) => word.replace(bare, "time"),
                Err(_) => word.to_owned(),
            }
        });
        words.collect::<Vec<_>>().join(" ")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Waits until `found` finds something.
#[track_caller]
pub(crate) fn eventually<T>(mut found: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "never happened");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The file of an example plugin.
pub(crate) fn example(name: &str) -> String {
    let path = plug_example_plugins::path(name).expect("built");
    path.to_str().expect("text").to_owned()
}

/// The file of a hostile example plugin.
pub(crate) fn hostile(name: &str) -> String {
    let path = plug_example_plugins::hostile(name).expect("built");
    path.to_str().expect("text").to_owned()
}

const HOLDING: &str = r#"
#define _GNU_SOURCE
#include "plug_filter.h"
#include <time.h>
#include <unistd.h>

static int instance;

static void *create(const plug_host_context *ctx, const plug_params *params) {
    (void)ctx, (void)params;
    return &instance;
}

static int32_t process(void *self, const uint8_t *input, size_t len, const plug_sink *out) {
    const struct timespec nap = {0, 1000000};
    (void)self, (void)input, (void)len, (void)out;
    while (access("@HOLD@", F_OK) == 0) {
        nanosleep(&nap, NULL);
    }
    return PLUG_OK;
}

static int32_t finish(void *self, const plug_sink *out) {
    (void)self, (void)out;
    return PLUG_OK;
}

static void destroy(void *self) { (void)self; }

static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
static void stop(void) {}

static const plug_filter_v1 TABLE = {create, process, finish, destroy};
PLUG_INTERFACES(PLUG_FILTER_V1(TABLE));
PLUG_PLUGIN_WITH_INTERFACES("@NAME@", "1.0.0", "holds its worker on demand", "MIT OR Apache-2.0",
                            init, stop);
"#;
