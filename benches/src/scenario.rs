//! One process for each group of measurements.
//!
//! backtrace-rs reads which objects are loaded once in a process's life, so that a plugin it shall
//! name must be there before; a process has one loader; and what one group leaves behind must not
//! slow down the next.

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use crate::measure::Plan;
use crate::verdict::{Limits, PREFIX, Verdicts};

/// Comes before a group's name on the command line.
pub const FLAG: &str = "--group";

/// Measures the group that this process was asked for, or all `groups`, each in a process of its
/// own, and ends with the verdicts.
pub fn run_all(groups: &[&str], limits: Limits, measure: impl FnOnce(Plan, &str)) -> ExitCode {
    let plan = Plan::from_environment();
    if let Some(group) = asked() {
        measure(plan, &group);
        return ExitCode::SUCCESS;
    }
    println!("machine: {}", machine());
    if plan.quick {
        println!("quick: small sizes and one round; the ratios mean nothing");
    }
    let mut verdicts = Verdicts::new(limits);
    let mut code = ExitCode::SUCCESS;
    for group in groups {
        println!("\n== {group}");
        if let Err(error) = run(group, &mut verdicts) {
            println!("{error}");
            code = ExitCode::FAILURE;
        }
    }
    verdicts.print();
    code
}

/// The group that this process shall measure; none for the process that was started by hand.
pub fn asked() -> Option<String> {
    let mut arguments = env::args().skip_while(|argument| argument != FLAG);
    arguments.nth(1)
}

/// Measures a group in a process of its own and takes over its verdicts.
fn run(group: &str, verdicts: &mut Verdicts) -> io::Result<()> {
    lines(group, |line| match line.strip_prefix(PREFIX) {
        Some(verdict) => verdicts.take(verdict),
        None => println!("{line}"),
    })
}

/// Measures a group in a process of its own and shows each line it prints to `visit`.
///
/// # Errors
/// When the process cannot be started, or fails.
pub fn lines(group: &str, mut visit: impl FnMut(&str)) -> io::Result<()> {
    let mut child = Command::new(env::current_exe()?)
        .args([FLAG, group])
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    for line in BufReader::new(output).lines() {
        visit(&line?);
    }
    let status = child.wait()?;
    if !status.success() {
        return Err(io::Error::other(format!("group {group}: {status}")));
    }
    Ok(())
}

/// What it runs on, and who else does.
pub fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("?", |rest| rest.trim_start_matches(['\t', ':', ' ']));
    let cores = thread::available_parallelism().map_or(0, |n| n.get());
    format!(
        "{model}, {cores} cores, Linux {}, load average {}",
        read("/proc/sys/kernel/osrelease").trim(),
        read("/proc/loadavg").trim()
    )
}
