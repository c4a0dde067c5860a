//! Running cells, and judging what they saw.

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use super::{Column, Expected, Libraries, MARK, Method, ROWS, Row};
use crate::child::{self, Ended};

/// A zombie must be unloaded so soon after its thread's end.
pub const LATEST: Duration = Duration::from_millis(100);

/// How often a cell is run at most when a zombie took longer than [`LATEST`]: on a machine that has no
/// processor for it, it is not the loader that is late.
const ATTEMPTS: usize = 3;

/// How long a process may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a plugin ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Out of the process at once.
    Unloaded,
    /// A zombie for that reason, and out of the process so long after what held it ended.
    Later(String, Duration),
    /// A zombie for that reason, still.
    Kept(String),
    /// Pinned for that reason.
    Pinned(String),
    /// Said to be closed, and still mapped.
    Mapped,
    /// The process was killed by that signal, or exited with an error, at that time.
    Died(&'static str, String),
    /// Out of the process, but not all of its destructors have run.
    Skipped,
    /// The cell did not do what it is for.
    Failed(String),
}

/// What became of one cell.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The row's place in [`ROWS`].
    pub row: usize,
    /// Its column.
    pub column: Column,
    /// How it was loaded.
    pub method: Method,
    /// How it ended.
    pub ending: Ending,
    /// The thread that acted.
    tid: u32,
    /// How often it was run.
    pub attempts: usize,
}

/// What the lines of a cell's process say.
#[derive(Debug, Default)]
struct Told {
    tid: u32,
    steps: Vec<String>,
    verdict: Option<(String, String)>,
    left: Option<Duration>,
    is_mapped: Option<bool>,
    destroyed: u32,
    failed: Option<String>,
}

impl Told {
    fn read(output: &str) -> Self {
        let mut told = Self::default();
        // A plugin's own words may stand before the mark, on a line that they did not end.
        let lines = output.lines().filter_map(|line| line.split_once(MARK));
        for (_, line) in lines {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let number = rest.parse().unwrap_or(0);
            match word {
                "tid" => told.tid = number,
                "verdict" => {
                    let (kind, why) = rest.split_once(' ').unwrap_or((rest, ""));
                    told.verdict = Some((kind.to_owned(), why.to_owned()));
                }
                "left" => told.left = Some(Duration::from_micros(number.into())),
                "mapped" => told.is_mapped = Some(number == 1),
                "destroyed" => told.destroyed = number,
                "failed" => told.failed = Some(rest.to_owned()),
                step => told.steps.push(step.to_owned()),
            }
        }
        told
    }

    fn ending(self, ended: &Ended, row: &Row) -> Ending {
        if let Some(why) = self.failed {
            return Ending::Failed(why);
        }
        if !ended.succeeded() {
            let has = |step: &str| self.steps.iter().any(|done| done == step);
            let when = match () {
                () if !has("acted") => "in the call",
                () if self.verdict.is_none() => "while it closes",
                () if self.is_mapped.is_none() => "soon after",
                () if !has("ended") => "when the thread ends",
                () => "when the process ends",
            };
            let how = match (ended.signal(), ended.status) {
                (Some(libc::SIGSEGV), _) => "SIGSEGV".to_owned(),
                (Some(libc::SIGABRT), _) => "SIGABRT".to_owned(),
                (Some(signal), _) => format!("signal {signal}"),
                (None, Some(status)) => format!("{status}: {}", ended.output),
                (None, None) => format!("hangs: {}", ended.output),
            };
            return Ending::Died(when, how);
        }
        let Some((kind, why)) = self.verdict else {
            return Ending::Failed(format!("says nothing: {}", ended.output));
        };
        let is_mapped = self.is_mapped == Some(true);
        match (&*kind, self.left) {
            ("unloaded", _) if is_mapped => Ending::Mapped,
            ("unloaded", _) if self.destroyed != row.destroyed => Ending::Skipped,
            ("unloaded", _) => Ending::Unloaded,
            ("zombie", Some(_)) if is_mapped => Ending::Mapped,
            ("zombie", Some(_)) if self.destroyed != row.destroyed => Ending::Skipped,
            ("zombie", Some(took)) => Ending::Later(why, took),
            ("zombie", None) => Ending::Kept(why),
            ("pinned", _) => Ending::Pinned(why),
            _ => Ending::Failed(format!("{kind} {why}")),
        }
    }
}

/// The command that runs one cell with `program`.
fn command(
    program: &Path,
    libraries: &Libraries,
    row: &Row,
    column: Column,
    method: Method,
) -> Command {
    let mut command = Command::new(program);
    command.args([method.name(), column.name()]);
    command
        .arg(libraries.path(row.library))
        .arg(row.what.to_string());
    // Whether, and how, the threads it leaves end.
    command.arg(match row.expected[0] {
        Expected::WhileRunning => "lingers",
        Expected::ForEver => "stays",
        _ => "goes",
    });
    command.args(row.beside.map(|library| libraries.path(library)));
    command.env("PLUG_MATRIX_LIBRARY", libraries.core("1"));
    command.env("RUST_BACKTRACE", if row.backtrace { "1" } else { "0" });
    command
}

/// Runs the cells of all rows that are wanted, two at a time.
pub fn run_all(
    program: &Path,
    libraries: &Libraries,
    method: Method,
    is_wanted: impl Fn(&Row) -> bool,
) -> Vec<Cell> {
    let wanted = ROWS.iter().enumerate().filter(|(_, row)| is_wanted(row));
    let mut todo: Vec<_> = wanted
        .flat_map(|(at, row)| Column::ALL.map(|column| (at, row, column)))
        .collect();
    todo.reverse();
    let (todo, done) = (Mutex::new(todo), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let next = todo.lock().expect("no panic").pop();
            let Some((at, row, column)) = next else {
                break;
            };
            let cell = run(program, libraries, (at, row), column, method);
            done.lock().expect("no panic").push(cell);
        }
    };
    thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
    done.into_inner().expect("no panic")
}

fn run(
    program: &Path,
    libraries: &Libraries,
    (at, row): (usize, &Row),
    column: Column,
    method: Method,
) -> Cell {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let mut command = command(program, libraries, row, column, method);
        let ended = child::finish(child::start(&mut command, "cell"), PATIENCE);
        let told = Told::read(&ended.output);
        let tid = told.tid;
        let ending = told.ending(&ended, row);
        let is_late = matches!(ending, Ending::Later(_, took) if took > LATEST);
        if is_late && attempts < ATTEMPTS {
            continue;
        }
        return Cell {
            row: at,
            column,
            method,
            ending,
            tid,
            attempts,
        };
    }
}

impl Cell {
    /// What is wrong with it, if anything is.
    pub fn wrong(&self) -> Option<String> {
        let row = &ROWS[self.row];
        let at = Column::ALL.iter().position(|column| *column == self.column);
        let expected = row.expected[at.expect("a column")];
        let is_right = match (expected, &self.ending) {
            (Expected::Unloaded | Expected::UnloadedOrAfterItsThread, Ending::Unloaded) => true,
            (
                Expected::AfterItsThread | Expected::UnloadedOrAfterItsThread,
                Ending::Later(why, took),
            ) => {
                let named = format!("thread {} (foreign) has ", self.tid);
                why.contains(&named) && *took <= LATEST
            }
            (Expected::WhileRunning, Ending::Later(why, took)) => {
                names_a_thread(why, "lingerer") && *took <= LATEST
            }
            (Expected::ForEver, Ending::Kept(why)) => names_a_thread(why, "pool"),
            (Expected::Pinned(words), Ending::Pinned(why)) => why.contains(words),
            _ => false,
        };
        (!is_right).then(|| {
            let (language, name, column) = (row.language.name(), row.name, self.column.name());
            format!(
                "{language}, {name}, on {column}: expected {expected:?}, found {:?}",
                self.ending
            )
        })
    }
}

/// Whether a reason names a thread of the plugin's: `its thread 12 (name), started at run, still runs`.
fn names_a_thread(why: &str, name: &str) -> bool {
    why.split("its thread ").skip(1).any(|text| {
        let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
        let start = rest.strip_prefix(&format!(" ({name}), started at "));
        let start = start.and_then(|start| start.split_once(", still runs"));
        rest.len() < text.len() && start.is_some_and(|(symbol, _)| !symbol.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(name: &str, column: Column, ending: Ending) -> bool {
        let row = ROWS.iter().position(|row| row.name == name);
        let cell = Cell {
            row: row.expect("a row"),
            column,
            method: Method::Plug,
            ending,
            tid: 12,
            attempts: 1,
        };
        cell.wrong().is_some()
    }

    fn later(why: &str, millis: u64) -> Ending {
        Ending::Later(why.to_owned(), Duration::from_millis(millis))
    }

    #[test]
    fn zombie_must_name_the_very_thread_and_leave_in_time() {
        let name = "thread_local with a destructor";
        let judge = |ending| wrong(name, Column::Foreign, ending);
        let named = "thread 12 (foreign) has 1 of its thread-locals to destroy";
        assert!(!judge(later(named, 100)));
        assert!(judge(later(named, 101)));
        assert!(judge(later("thread 13 (foreign) has 1", 1)));
        assert!(judge(later("thread 12 (other) has 1", 1)));
        assert!(judge(Ending::Unloaded));
        assert!(judge(Ending::Mapped));
        assert!(judge(Ending::Kept(named.to_owned())));
        assert!(wrong(name, Column::Busy, later(named, 1)));
    }

    #[test]
    fn running_thread_must_be_named_with_its_start() {
        let judge = |why| wrong("thread left running", Column::Main, later(why, 1));
        assert!(!judge(
            "its thread 7 (lingerer), started at run, still runs"
        ));
        assert!(judge("its thread 7 (lingerer), started at , still runs"));
        assert!(judge("its thread 7 (other), started at run, still runs"));
        assert!(judge("its thread (lingerer), started at run, still runs"));
        assert!(judge(
            "thread 12 (foreign) has 1 of its thread-locals to destroy"
        ));
    }

    #[test]
    fn death_and_silence_are_never_an_unload() {
        let row = &ROWS[0];
        let ended = |code: i32| Ended {
            status: Some(std::os::unix::process::ExitStatusExt::from_raw(code)),
            output: String::new(),
        };
        let all = "cell> acted\nx cell> verdict unloaded\ncell> mapped 0\ncell> ended\n";
        let judge = |text: &str, code| Told::read(text).ending(&ended(code), row);
        assert_eq!(judge(all, 0), Ending::Unloaded);
        let died = |when| Ending::Died(when, "SIGSEGV".to_owned());
        assert_eq!(judge(all, libc::SIGSEGV), died("when the process ends"));
        assert_eq!(judge("cell> acted", libc::SIGSEGV), died("while it closes"));
        assert_eq!(judge("", libc::SIGSEGV), died("in the call"));
        assert_eq!(
            judge(&all.replace("mapped 0", "mapped 1"), 0),
            Ending::Mapped
        );
        assert!(matches!(judge("", 0), Ending::Failed(_)));
        let more = format!("{all}cell> destroyed 1");
        assert_eq!(judge(&more, 0), Ending::Skipped);
    }
}
