//! What a probe says, line by line while it works, and what that amounts to.
//!
//! ```text
//! hello 1                     it is a probe
//! passed STAGE                a stage of the load or unload has ended
//! time STAGE MICROSECONDS
//! refused TEXT                the load failed, in an orderly way, before any of the plugin ran
//! failed TEXT                 its constructors or `init` failed, in an orderly way
//! lacked SERVICE              it asked for a service that the probe does not offer
//! calling FUNCTION            a documented function is being called
//! called FUNCTION             it has returned
//! caught FUNCTION TEXT        the same, and a panic or an exception was caught
//! unloaded yes | TEXT         whether it left the process, or why not
//! left TEXT                   something that it left behind
//! broken TEXT                 the probe itself could not work
//! end
//! ```
//!
//! A crash report comes between them as one line of JSON.

#![forbid(unsafe_code)]

use std::fmt;
use std::time::Duration;

/// How a probe ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The plugin was loaded and unloaded, and the process ended as it should.
    Passed,
    /// The load was refused in an orderly way, by the loader or by what the plugin says to a
    /// parameter; a load in a host would say why itself.
    Refused(String),
    /// Its constructors or `init` failed in an orderly way. Where the plugin asked for a service that
    /// the probe lacks ([`Report::lacked`]), a host that offers it may fare better.
    Failed(String),
    /// A signal killed it: its name, and the function that it was in where that is known.
    Killed {
        /// The signal's name.
        signal: String,
        /// The function; empty where it is not known.
        symbol: String,
    },
    /// The plugin ended the process, with this status.
    Exited(i32),
    /// It was killed when its time was over.
    Hung(Duration),
    /// What it said is not what a probe says: this instead.
    Garbled(String),
    /// It could not do its work, for a reason of its own.
    Broken(String),
    /// How it ended is not known: something else in this process waited for it.
    Lost,
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// How it ended.
    pub verdict: Verdict,
    /// The last stage of the load or unload that ended; none if it did not come that far.
    pub passed: Option<String>,
    /// How long each stage took.
    pub times: Vec<(String, Duration)>,
    /// The first service that the plugin asked for and the probe does not offer; `plugin NAME` for a
    /// plugin of which it called an imported function.
    pub lacked: Option<String>,
    /// Its functions that were called, where that was asked for.
    pub calls: Vec<Call>,
    /// Whether the plugin left the process, and why not; `None` if it did not come that far.
    pub unloaded: Option<Result<(), String>>,
    /// What it left behind: threads, descriptors, signal handlers, child processes.
    pub left: Vec<String>,
    /// How long the whole probe took.
    pub took: Duration,
}

/// A function that was called.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call {
    /// Its name.
    pub function: String,
    /// Whether it has returned.
    pub returned: bool,
    /// The panic or exception that was caught in it.
    pub caught: Option<String>,
}

/// Bytes that a report may have.
pub(super) const MAX_REPORT: usize = 256 << 10;

/// How the process ended, as the system says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Status(i32),
    Signal(i32),
    /// Killed because its time was over.
    Late(Duration),
    /// Killed because it said too much.
    Verbose,
    /// Somebody else waited for it.
    Lost,
}

impl Report {
    /// Whether it called an imported function of another plugin, which a probe has not: what it did
    /// since says little of what it does with that plugin.
    #[must_use]
    pub fn lacks_a_plugin(&self) -> bool {
        let lacked = self.lacked.as_deref();
        lacked.is_some_and(|what| what.starts_with("plugin "))
    }

    /// Whether the plugin did what no host would survive, as far as it can be told.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        !self.lacks_a_plugin()
            && !matches!(
                self.verdict,
                Verdict::Passed
                    | Verdict::Refused(_)
                    | Verdict::Failed(_)
                    | Verdict::Broken(_)
                    | Verdict::Lost
            )
    }

    /// What a probe said, and how it ended.
    pub(super) fn read(said: &[u8], exit: Exit, took: Duration) -> Self {
        let mut report = Self {
            verdict: Verdict::Lost,
            passed: None,
            times: Vec::new(),
            lacked: None,
            calls: Vec::new(),
            unloaded: None,
            left: Vec::new(),
            took,
        };
        let mut crash = None;
        let (mut greeted, mut ended) = (false, false);
        let (mut refused, mut failed, mut broken, mut garbled) = (None, None, None, None);
        for line in said.split_inclusive(|byte| *byte == b'\n') {
            let text = line
                .strip_suffix(b"\n")
                .and_then(|line| str::from_utf8(line).ok());
            let known = text.is_some_and(|text| {
                let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
                match word {
                    "hello" if rest == "1" => greeted = true,
                    "passed" => report.passed = Some(rest.to_owned()),
                    "time" => return report.time(rest),
                    "refused" => refused = Some(rest.to_owned()),
                    "failed" => failed = Some(rest.to_owned()),
                    "lacked" => report.lacked = Some(rest.to_owned()),
                    "calling" => report.calls.push(Call {
                        function: rest.to_owned(),
                        returned: false,
                        caught: None,
                    }),
                    "called" => return report.called(rest, None),
                    "caught" => {
                        let (function, text) = rest.split_once(' ').unwrap_or((rest, ""));
                        return report.called(function, Some(text.to_owned()));
                    }
                    "broken" => broken = Some(rest.to_owned()),
                    "unloaded" if rest == "yes" => report.unloaded = Some(Ok(())),
                    "unloaded" => report.unloaded = Some(Err(rest.to_owned())),
                    "left" => report.left.push(rest.to_owned()),
                    "end" if rest.is_empty() => ended = true,
                    _ if text.starts_with("{\"signal\":") => crash = Some(text.to_owned()),
                    _ => return false,
                }
                true
            });
            if !known && garbled.is_none() {
                let shown = line.get(..line.len().min(60)).unwrap_or_default();
                garbled = Some(format!("{:?}", String::from_utf8_lossy(shown)));
            }
        }
        report.verdict = match exit {
            // The report of a crash may have been cut off by it.
            Exit::Signal(signal) => Verdict::Killed {
                signal: signal_name(signal),
                symbol: crash.as_deref().and_then(symbol).unwrap_or_default(),
            },
            Exit::Late(after) => Verdict::Hung(after),
            Exit::Verbose => Verdict::Garbled(format!("more than {MAX_REPORT} bytes")),
            _ if garbled.is_some() => Verdict::Garbled(garbled.unwrap_or_default()),
            Exit::Status(0) if !greeted => Verdict::Garbled("nothing".to_owned()),
            Exit::Status(0) if ended => match (broken, refused, failed) {
                (Some(why), ..) => Verdict::Broken(why),
                (None, Some(why), _) => Verdict::Refused(why),
                (None, None, Some(why)) => Verdict::Failed(why),
                (None, None, None) => Verdict::Passed,
            },
            Exit::Status(status) => Verdict::Exited(status),
            Exit::Lost if ended && refused.or(failed).or(broken).is_none() => Verdict::Passed,
            Exit::Lost => Verdict::Lost,
        };
        report
    }

    /// The function that was called last has returned; false if that is another.
    fn called(&mut self, function: &str, caught: Option<String>) -> bool {
        let call = self.calls.last_mut();
        let Some(call) = call.filter(|call| call.function == function && !call.returned) else {
            return false;
        };
        call.returned = true;
        call.caught = caught;
        true
    }

    fn time(&mut self, rest: &str) -> bool {
        let Some((stage, micros)) = rest.rsplit_once(' ') else {
            return false;
        };
        let Ok(micros) = micros.parse() else {
            return false;
        };
        let time = Duration::from_micros(micros);
        self.times.push((stage.to_owned(), time));
        true
    }

    /// The report of a probe that found nothing wrong, to be kept.
    pub(crate) fn text(&self) -> String {
        let mut text = String::from("hello 1\n");
        for (stage, time) in &self.times {
            text.push_str(&format!("time {stage} {}\n", time.as_micros()));
        }
        match &self.unloaded {
            Some(Ok(())) => text.push_str("unloaded yes\n"),
            Some(Err(why)) => text.push_str(&format!("unloaded {why}\n")),
            None => {}
        }
        for left in &self.left {
            text.push_str(&format!("left {left}\n"));
        }
        text + "end\n"
    }

    /// Reads anything at all, for fuzzing.
    #[cfg(feature = "testing")]
    pub(crate) fn read_anything(said: &[u8]) -> String {
        // A report of a crash is read only where there was one.
        [Exit::Status(0), Exit::Signal(11), Exit::Lost]
            .map(|exit| Self::read(said, exit, Duration::ZERO).to_string())
            .concat()
    }

    /// What was kept; none if it is not that.
    pub(crate) fn kept(text: &str) -> Option<Self> {
        let report = Self::read(text.as_bytes(), Exit::Status(0), Duration::ZERO);
        (report.verdict == Verdict::Passed).then_some(report)
    }

    /// The stage in which it ended.
    fn place(&self) -> String {
        match self.calls.last() {
            Some(call) if !call.returned => format!("in its function {}", call.function),
            _ => self.stage().to_owned(),
        }
    }

    fn stage(&self) -> &'static str {
        let passed = self.passed.as_deref();
        let Some(passed) = passed else {
            return "at its start";
        };
        // What comes after each stage that can run code of the plugin's, or of ld.so's.
        match passed {
            "open" | "stage" | "verify" | "facts" | "metadata" | "probe" | "claim" | "rewrite" => {
                "before it was mapped"
            }
            "link" | "symbols" => "while it was mapped",
            "map" | "describe" => "when it was mapped",
            "publish" => "in its constructors",
            "constructors" => "in its init",
            "init" | "activate" => "after its init",
            "going" | "drain" => "in its exit",
            "exit" => "in its destructors",
            "destructors" | "unpublish" => "while it was unmapped",
            _ => "after it was unloaded",
        }
    }
}

/// In words that follow "it" or the plugin's name.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.place();
        match &self.verdict {
            Verdict::Passed => f.write_str("passed its probe"),
            Verdict::Refused(why) => write!(f, "was refused by its probe: {why}"),
            Verdict::Failed(why) => match &self.lacked {
                Some(lacked) => {
                    let what = if self.lacks_a_plugin() {
                        ""
                    } else {
                        "service "
                    };
                    write!(
                        f,
                        "failed in its probe: {why}; it asked for the {what}{lacked}, which a probe \
                         does not offer"
                    )
                }
                None => write!(f, "failed in its probe: {why}"),
            },
            Verdict::Killed { signal, symbol } if symbol.is_empty() => {
                write!(f, "ended its probe {place}: {signal}")
            }
            Verdict::Killed { signal, symbol } => {
                write!(f, "ended its probe {place}: {signal} in {symbol}")
            }
            Verdict::Exited(status) => {
                write!(
                    f,
                    "ended its probe {place}: it ended the process with status {status}"
                )
            }
            Verdict::Hung(after) => {
                write!(f, "ended its probe {place}: killed after {after:?}")
            }
            Verdict::Garbled(found) => {
                write!(
                    f,
                    "ended its probe {place}: expected a report, found {found}"
                )
            }
            Verdict::Broken(why) => write!(f, "could not be probed: {why}"),
            Verdict::Lost => f.write_str("ended its probe unseen: something else waited for it"),
        }
    }
}

/// The function that a crash report names first: the crash's own, or the innermost of the plugin's
/// in the backtrace.
fn symbol(json: &str) -> Option<String> {
    let at = json.find("\"where\":")?;
    let (_, rest) = json.get(at..)?.split_once("\"symbol\":\"")?;
    let (symbol, _) = rest.split_once('"')?;
    Some(symbol.to_owned())
}

/// The name of a signal as people know it.
pub(super) fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU, its processor time was over",
        libc::SIGXFSZ => "SIGXFSZ",
        libc::SIGSYS => "SIGSYS",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(said: &str, exit: Exit) -> Report {
        Report::read(said.as_bytes(), exit, Duration::from_millis(3))
    }

    #[test]
    fn read_takes_a_whole_report_only() {
        let said = "hello 1\npassed map\ntime map 12\nunloaded yes\nleft 1 thread\nend\n";
        let report = read(said, Exit::Status(0));
        assert_eq!(report.verdict, Verdict::Passed);
        assert_eq!(report.times, [("map".into(), Duration::from_micros(12))]);
        assert_eq!(report.left, ["1 thread"]);
        let kept = Report::kept(&report.text()).unwrap();
        assert_eq!((&kept.times, &kept.left), (&report.times, &report.left));

        assert_eq!(
            read("hello 1\n", Exit::Status(0)).verdict,
            Verdict::Exited(0)
        );
        assert!(matches!(
            read("", Exit::Status(0)).verdict,
            Verdict::Garbled(_)
        ));
        for garbage in [
            "hello 1\n\u{1b}[2J\nend\n",
            "hello 1\nend",
            "hello 1\ntime x y\nend\n",
        ] {
            let verdict = read(garbage, Exit::Status(0)).verdict;
            assert!(matches!(verdict, Verdict::Garbled(_)), "{garbage:?}");
        }
    }

    #[test]
    fn display_names_signal_place_and_symbol() {
        let said = "hello 1\npassed publish\n{\"signal\":\"SIGSEGV\",\"where\":{\"pc\":\"0x1\",\
                    \"plugin\":\"x\",\"symbol\":\"boom\"}}\n";
        let report = read(said, Exit::Signal(libc::SIGSEGV));
        let text = "ended its probe in its constructors: SIGSEGV in boom";
        assert_eq!(report.to_string(), text);
        let report = read(
            "hello 1\npassed constructors\n",
            Exit::Late(Duration::from_secs(5)),
        );
        assert_eq!(
            report.to_string(),
            "ended its probe in its init: killed after 5s"
        );
    }
}
