//! What the loader warns of, for tests that say what is to be logged.

use std::fmt;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// The warnings of one target, as `field=value` in one line each.
#[derive(Clone, Debug)]
pub struct Warnings {
    target: &'static str,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Warnings {
    /// Collects those of `target` from now on; once a process.
    pub fn of(target: &'static str) -> Self {
        let lines = Arc::default();
        let own = Self { target, lines };
        tracing::subscriber::set_global_default(own.clone()).expect("first");
        own
    }

    /// All so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("no panic").clone()
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push_str(&format!("{}={value:?} ", field.name()));
    }
}

impl Subscriber for Warnings {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        if metadata.target() == self.target && *metadata.level() == Level::WARN {
            let mut line = Line(String::new());
            event.record(&mut line);
            self.lines.lock().expect("no panic").push(line.0);
        }
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
