//! One line that says what is going on, while it goes on.

use std::cell::Cell;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a line is printed where it cannot be overwritten.
const PLAIN_PERIOD: Duration = Duration::from_secs(2);

/// The progress line on standard error.
pub struct Progress {
    /// None where standard error is no terminal.
    bar: Option<ProgressBar>,
    last: Cell<Option<Instant>>,
}

impl Progress {
    pub fn new() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {elapsed} {msg}");
            let bar = ProgressBar::new_spinner();
            bar.with_style(style.expect("the template is well formed"))
        });
        Self {
            bar,
            last: Cell::new(None),
        }
    }

    /// A new phase begins.
    pub fn phase(&self, text: &str) {
        self.last.set(None);
        self.tell(text);
    }

    /// What is to be seen of the phase right now; to be called a few times a second.
    pub fn tell(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
            bar.tick();
        } else if self
            .last
            .get()
            .is_none_or(|last| last.elapsed() > PLAIN_PERIOD)
        {
            self.last.set(Some(Instant::now()));
            eprintln!("{text}");
        }
    }

    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
