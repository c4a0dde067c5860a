//! The thread of a column.

use plug_loader::Loader;
use plug_tests::actors::{Act, Actor};
use plug_tests::matrix::Column;

use crate::say;

/// The thread that has the plugin act.
pub enum Crew {
    /// The main thread itself.
    Main,
    /// Another.
    Other(Actor),
}

impl Crew {
    /// Starts it; without a loader it is no worker.
    pub fn start(column: Column, loader: Option<&Loader>) -> Self {
        let crew = match column {
            Column::Main => Self::Main,
            Column::Busy | Column::Joined => Self::Other(Actor::busy(loader)),
            Column::Sleeping => Self::Other(Actor::asleep(loader)),
            Column::Foreign => Self::Other(Actor::foreign()),
        };
        if let Self::Other(actor) = &crew {
            say("tid", actor.tid());
        }
        crew
    }

    /// Has the plugin act; whether it did.
    pub fn act(&self, act: Act, what: u32) -> bool {
        let said = match self {
            // SAFETY: the plugin is loaded until the caller closes it.
            Self::Main => unsafe { act(what) },
            Self::Other(actor) => actor.act(act, what),
        };
        said == 1
    }

    /// Ends the thread, but for the main one.
    pub fn end(&mut self) {
        if let Self::Other(actor) = std::mem::replace(self, Self::Main) {
            actor.end();
        }
    }
}
