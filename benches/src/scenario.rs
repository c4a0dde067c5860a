//! One process for each group of measurements.
//!
//! backtrace-rs reads which objects are loaded once in a process's life, so that a plugin it shall
//! name must be there before; and what one group leaves behind must not slow down the next.

use std::env;
use std::io::{self, BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::verdict::{PREFIX, Verdicts};

/// Comes before a group's name on the command line.
pub const FLAG: &str = "--group";

/// The group that this process shall measure; none for the process that was started by hand.
pub fn asked() -> Option<String> {
    let mut arguments = env::args().skip_while(|argument| argument != FLAG);
    arguments.nth(1)
}

/// Measures a group in a process of its own and takes over its verdicts.
pub fn run(group: &str, verdicts: &mut Verdicts) -> io::Result<()> {
    let mut child = Command::new(env::current_exe()?)
        .args([FLAG, group])
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().expect("piped");
    for line in BufReader::new(output).lines() {
        let line = line?;
        match line.strip_prefix(PREFIX) {
            Some(verdict) => verdicts.take(verdict),
            None => println!("{line}"),
        }
    }
    let status = child.wait()?;
    if !status.success() {
        return Err(io::Error::other(format!("group {group}: {status}")));
    }
    Ok(())
}
