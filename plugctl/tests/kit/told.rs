//! Hosts that do what a test says: the test's own binary again, told by lines on its standard input.

use std::env;
use std::io::{self, BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use plug_loader::control::Options;
use plug_loader::{Config, Loader, Policy, Trust};

use super::Place;

/// Set in hosts, to the host's name.
const HOST: &str = "PLUGCTL_TEST_HOST";

/// Whether this process is to be a host.
pub(crate) fn is_host() -> bool {
    env::var_os(HOST).is_some()
}

/// Tells the test, on a line of its own among those of the test runner.
pub(crate) fn say(what: &str) {
    writeln!(io::stdout(), "\n{what}").expect("the test listens");
}

/// A host that has `act` do what each line of its standard input says, until that ends.
pub(crate) fn host(mut act: impl FnMut(&Loader, &Trust, &[&str])) {
    let Ok(name) = env::var(HOST) else {
        panic!("not a host");
    };
    let mut config = Config::default();
    config.stall_warning = Some(Duration::from_millis(100));
    let loader = Loader::new(config).expect("first");
    // SAFETY: the tests load their own plugins.
    let trust = unsafe { Trust::new(Policy::default()) };
    let mut options = Options::default();
    options.name = Some(name);
    let _server = loader.serve_control(&trust, options).expect("socket");
    say("ready");
    for line in io::stdin().lines() {
        let line = line.expect("text");
        let words: Vec<&str> = line.split(' ').collect();
        act(&loader, &trust, &words);
        say("done");
    }
}

/// A host that is told what to do; killed when dropped.
pub(crate) struct Told {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Told {
    /// A host in `place`, run by the test of this name.
    pub(crate) fn new(place: &Place, test: &str) -> Self {
        let mut child = Command::new(env::current_exe().expect("own binary"))
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(HOST, "told")
            .env("XDG_RUNTIME_DIR", &place.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("host");
        let orders = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut told = Self {
            child,
            orders,
            answers,
        };
        told.wait_for("ready");
        told
    }

    /// What it said before it said this.
    fn wait_for(&mut self, answer: &str) -> Vec<String> {
        let mut before = Vec::new();
        loop {
            let line = self.answers.next().and_then(Result::ok);
            let line = line.unwrap_or_else(|| panic!("the host ended before it was {answer}"));
            if line == answer {
                return before;
            }
            before.push(line);
        }
    }

    /// Has it do this, and gives the last line that it said meanwhile.
    pub(crate) fn tell(&mut self, order: &str) -> String {
        writeln!(self.orders, "{order}").expect("the host listens");
        let mut said = self.wait_for("done").into_iter();
        said.rfind(|line| !line.is_empty()).unwrap_or_default()
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}
