//! Each test in a process of its own, since a process has one loader.
//!
//! The test re-runs its own binary for itself alone, so that it works the same under plain
//! `cargo test` (threads) and nextest (processes), and a crash or hang has a clear owner.

use std::env;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::panic;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Set in the child, to the name of what it is to run.
const ROLE: &str = "PLUG_TEST_ROLE";

/// How a child ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status; none when it was killed because it took too long.
    pub status: Option<ExitStatus>,
    /// What it printed, both streams.
    pub output: String,
}

impl Ended {
    /// Whether it exited by itself with 0.
    pub fn succeeded(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// The signal that killed it.
    pub fn signal(&self) -> Option<i32> {
        self.status.and_then(|status| status.signal())
    }
}

/// Runs `body` in a child process and fails if that fails.
///
/// `test` is the test function's own path as libtest prints it.
pub fn isolated(test: &str, body: impl FnOnce()) {
    isolated_for(Duration::from_secs(120), test, body);
}

/// As [`isolated`], for at most `time`.
pub fn isolated_for(time: Duration, test: &str, body: impl FnOnce()) {
    if role().as_deref() == Some(test) {
        body();
        return;
    }
    let ended = run(test, test, time);
    assert!(
        ended.succeeded(),
        "{test} failed in its process: {:?}\n{}",
        ended.status,
        ended.output
    );
    // Shown with --nocapture, like what any test prints; libtest's own lines would be shown twice.
    let own = format!("test {test} ... ");
    let lines = ended.output.lines();
    for line in lines.map(|line| line.strip_prefix(&own).unwrap_or(line)) {
        let of_libtest = ["", "ok", "running 1 test"].contains(&line);
        if !of_libtest && !line.starts_with("test result: ") {
            println!("{line}");
        }
    }
}

/// What this process was made to run, if it is a child.
pub fn role() -> Option<String> {
    env::var(ROLE).ok()
}

/// Runs the test function `test` of this binary again, as a child in the given role.
pub fn run(test: &str, role: &str, time: Duration) -> Ended {
    finish(spawn(test, role), time)
}

/// Starts a child; see [`run`].
pub fn spawn(test: &str, role: &str) -> Child {
    let program = env::current_exe().expect("a test knows its own binary");
    let mut command = Command::new(program);
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    start(&mut command, role)
}

/// Starts `command` as a child in the given role.
pub fn start(command: &mut Command, role: &str) -> Child {
    command
        .env(ROLE, role)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a test binary can run itself")
}

/// Waits for a child; kills it after `time`.
pub fn finish(mut child: Child, time: Duration) -> Ended {
    let mut out = child.stdout.take().expect("piped");
    let mut err = child.stderr.take().expect("piped");
    let out = thread::spawn(move || read(&mut out));
    let err = thread::spawn(move || read(&mut err));
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("own child") {
            break Some(status);
        }
        if began.elapsed() > time {
            child.kill().expect("own child");
            child.wait().expect("own child");
            break None;
        }
        thread::sleep(Duration::from_millis(2));
    };
    let output = out.join().expect("reader") + &err.join().expect("reader");
    Ended { status, output }
}

fn read(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    // A child that was killed may leave a broken pipe; what came before it counts.
    let _ = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Runs `body` in a forked child; the child's status and how long the fork took here.
///
/// The child dies by SIGALRM when it hangs, and ends with 1 when `body` panics.
pub fn forked(body: impl FnOnce()) -> (i32, Duration) {
    let before = Instant::now();
    // SAFETY: the child runs `body` and ends.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork");
    let took = before.elapsed();
    if pid == 0 {
        // SAFETY: plain numbers.
        unsafe { libc::alarm(60) };
        let outcome = panic::catch_unwind(panic::AssertUnwindSafe(body));
        // SAFETY: ends this process.
        unsafe { libc::_exit(i32::from(outcome.is_err())) };
    }
    let mut status = 0;
    // SAFETY: own child.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(waited, pid);
    (status, took)
}

/// Runs the enclosing test function's body in a process of its own.
#[macro_export]
macro_rules! isolated {
    ($body:block) => {{
        fn here() {}
        let name = std::any::type_name_of_val(&here);
        // `binary::path::to::test::here` without both ends.
        let name = name.strip_suffix("::here").unwrap_or(name);
        let name = name.split_once("::").map_or(name, |(_, rest)| rest);
        $crate::child::isolated(name, || $body);
    }};
}
