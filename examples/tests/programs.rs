//! The example programs, run as a user would, in short form.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const PIPELINE: &str = env!("CARGO_BIN_EXE_pipeline");
const MINIMAL_HOST: &str = env!("CARGO_BIN_EXE_minimal-host");
const FOREIGN: &str = env!("CARGO_BIN_EXE_foreign");

fn run(command: &mut Command) -> (Output, String) {
    let output = command.output().expect("built by cargo");
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text += &String::from_utf8_lossy(&output.stderr);
    (output, text)
}

fn pipeline(arguments: &[&str]) -> Command {
    let mut command = Command::new(PIPELINE);
    command.args(["--seconds", "1"]).args(arguments);
    command
}

/// What the table says of `what`.
fn row<'t>(table: &'t str, what: &str) -> &'t str {
    let mut rows = table.lines().filter_map(|line| {
        let (name, text) = line.strip_prefix('│')?.split_once('┆')?;
        (name.trim() == what).then(|| text.trim_end_matches('│').trim())
    });
    rows.next_back()
        .unwrap_or_else(|| panic!("no row {what:?}\n{table}"))
}

/// The first number in the table's row `what`.
fn number(table: &str, what: &str) -> u64 {
    let text = row(table, what);
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    digits
        .parse()
        .unwrap_or_else(|_| panic!("no number in {what}: {text:?}"))
}

/// Fails unless every number in `text` before " compared" is the one before " equal".
fn assert_equal(table: &str, what: &str) {
    let text = row(table, what);
    let (_, score) = text.rsplit_once(": ").expect("commands, then counts");
    let (compared, equal) = score.split_once(" compared, ").expect("two counts");
    assert_eq!(Some(compared), equal.strip_suffix(" equal"), "{what}");
    assert_ne!(compared, "0", "{what}");
}

fn assert_sound(output: &Output, table: &str) {
    assert!(output.status.success(), "{}\n{table}", output.status);
    assert_eq!(row(table, "blocks lost"), "0");
    assert_eq!(row(table, "mismatches"), "0, unknown generations 0");
    for plugin in plug_example_plugins::USEFUL {
        assert_eq!(row(table, plugin), "unloaded");
    }
    for what in [
        "blocks",
        "bytes",
        "loads",
        "unloads",
        "signals",
        "symbols walked",
    ] {
        assert!(number(table, what) > 0, "{what}\n{table}");
    }
    assert_equal(table, "whole passes");
}

#[test]
fn pipeline_of_its_own_text_is_sound() {
    let (output, table) = run(&mut pipeline(&[]));
    assert_sound(&output, &table);
    for plugin in plug_example_plugins::USEFUL {
        assert_equal(&table, &format!("results of {plugin}"));
    }
    assert_equal(&table, "partial streams");
}

#[test]
fn pipeline_of_standard_input_is_sound() {
    let scratch = Scratch::new("stdin");
    let file = scratch.0.join("input");
    // Not text, without a newline at the end, and not a whole number of blocks or groups.
    let bytes: Vec<u8> = (0u32..200_000)
        .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect();
    fs::write(&file, bytes).expect("scratch is ours");
    let stdin = File::open(&file).expect("just written");
    let (output, table) = run(pipeline(&["-"]).stdin(stdin));
    assert_sound(&output, &table);
    assert!(row(&table, "input").starts_with("standard input: 200000 bytes"));
}

#[test]
fn pipeline_of_nothing_is_sound() {
    let (output, table) = run(pipeline(&["-"]).stdin(Stdio::null()));
    assert!(output.status.success(), "{table}");
    assert_equal(&table, "results of checksum");
}

#[test]
fn pipeline_chain_is_sound() {
    let (output, table) = run(&mut pipeline(&["--chain"]));
    assert_sound(&output, &table);
    assert_equal(&table, "results of base64 > wordcount > checksum");
}

#[test]
fn pipeline_of_one_plugin_and_worker_is_sound() {
    let plugin = plug_example_plugins::path("wordcount").expect("built");
    let plugin = plugin.to_str().expect("UTF-8");
    let (output, table) = run(&mut pipeline(&["--workers", "1", "--plugin", plugin]));
    assert!(output.status.success(), "{table}");
    assert_eq!(row(&table, "wordcount"), "unloaded");
    assert_equal(&table, "results of wordcount");
}

#[test]
fn pipeline_without_the_outside_tools_fails_and_says_so() {
    let (output, table) = run(pipeline(&[]).env("PATH", "/nonexistent"));
    assert_eq!(output.status.code(), Some(1), "{table}");
    assert!(row(&table, "results of checksum").starts_with("not compared: tool missing: cksum"));
    assert_eq!(row(&table, "checksum"), "unloaded");
}

#[test]
fn pipeline_of_a_plugin_without_a_filter_fails() {
    let plugin = plug_example_plugins::hostile("never-returns").expect("built");
    let (output, text) = run(&mut pipeline(&[
        "--plugin",
        plugin.to_str().expect("UTF-8"),
    ]));
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("the plugin exports no interface plug.filter"),
        "{text}"
    );
}

#[test]
fn pipeline_of_a_filter_that_writes_nonsense_fails() {
    let scratch = Scratch::new("nonsense");
    let plugin = changed_base64(&scratch.0, "\"ABC", "\"BAC");
    let (output, table) = run(&mut pipeline(&["--plugin", &plugin]));
    assert_eq!(output.status.code(), Some(1), "{table}");
    assert!(table.contains("differ from the tools"), "{table}");
    assert!(table.contains("differ from the linked filters"), "{table}");
    assert_eq!(row(&table, "base64"), "unloaded");
}

#[test]
fn pipeline_of_a_filter_that_refuses_blocks_fails() {
    let scratch = Scratch::new("refuses");
    let plugin = changed_base64(
        &scratch.0,
        "    self->n_carry = len % 3;\n",
        "    if (len < 4096) return refused(self);\n    self->n_carry = len % 3;\n",
    );
    let (output, table) = run(&mut pipeline(&["--plugin", &plugin]));
    assert_eq!(output.status.code(), Some(1), "{table}");
    assert!(number(&table, "blocks lost") > 0, "{table}");
    assert!(table.contains("the host takes no more output"), "{table}");
    assert_eq!(row(&table, "base64"), "unloaded");
}

#[test]
fn minimal_host_calls_hello_and_unloads_it() {
    let scratch = Scratch::new("hello");
    let (output, text) = run(Command::new(MINIMAL_HOST).arg(hello(&scratch.0)));
    assert!(output.status.success(), "{text}");
    assert_eq!(text, "2 + 3 = 5\nhello is unloaded\n");
}

#[test]
fn foreign_lists_and_calls_a_system_library() {
    let libc = system("libc.so.6");
    let (output, text) = run(Command::new(FOREIGN).arg(&libc));
    assert!(output.status.success(), "{text}");
    assert!(text.lines().any(|line| line.ends_with(" abs")), "{text}");
    let (output, text) = run(Command::new(FOREIGN).arg(&libc).args(["abs", "-5"]));
    assert!(output.status.success(), "{text}");
    assert_eq!(text, "5 0x5\nunloaded\n");
    let call = ["gnu_get_libc_version", "--string"];
    let (output, text) = run(Command::new(FOREIGN).arg(&libc).args(call));
    assert!(output.status.success(), "{text}");
    assert!(
        text.starts_with("2.") && text.ends_with("\nunloaded\n"),
        "{text}"
    );
    let (output, text) = run(Command::new(FOREIGN).arg(&libc).arg("no_such_function"));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text.contains("no exported symbol \"no_such_function\""),
        "{text}"
    );
}

/// A library of the system's, which this very process uses.
fn system(name: &str) -> PathBuf {
    let maps = fs::read_to_string("/proc/self/maps").expect("procfs");
    let path = maps.lines().find_map(|line| {
        line.find('/')
            .map(|at| &line[at..])
            .filter(|path| path.ends_with(name))
    });
    PathBuf::from(path.expect("mapped into every process"))
}

/// Builds the package hello into `target`: it is nobody's dependency, so that a test run of this
/// package alone has not built it.
fn hello(target: &Path) -> PathBuf {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([
        "build",
        "--offline",
        "--quiet",
        "--package",
        "hello",
        "--target-dir",
    ]);
    cargo.arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
    let (output, text) = run(&mut cargo);
    assert!(output.status.success(), "{text}");
    target.join("debug/libhello.so")
}

/// Builds base64 in `folder` with a mistake: `good` replaced by `bad` in its source.
fn changed_base64(folder: &Path, good: &str, bad: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let source = fs::read_to_string(root.join("example-plugins/base64/base64.c")).expect("ours");
    assert!(source.contains(good), "{good:?} is in the source");
    let file = folder.join("base64.c");
    fs::write(&file, source.replace(good, bad)).expect("scratch is ours");
    let library = folder.join("libbase64.so");
    let mut gcc = Command::new("gcc");
    for include in ["plugin-api/include", "example-plugins/filter/include"] {
        gcc.arg("-I").arg(root.join(include));
    }
    gcc.args(["-std=c11", "-shared", "-fPIC", "-O2"]);
    gcc.arg(file).arg("-o").arg(&library);
    let (output, text) = run(&mut gcc);
    assert!(output.status.success(), "{text}");
    library.to_str().expect("UTF-8").to_owned()
}

/// A folder that is gone when this is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&dir).expect("the target directory is ours");
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
