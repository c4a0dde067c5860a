//! State that a version of a plugin hands over to the one that replaces it.

use std::sync::Arc;

use plug_api::abi::{RESTORE_SYMBOL, SAVE_SYMBOL, STATUS_OK};
use plug_readside::index::SymbolKind;

use crate::calls::{self, By};
use crate::checkpoint;
use crate::deadline::Deadline;
use crate::error::{CallError, Error, ErrorKind};
use crate::executor::{Ending, Executor, Outcome};
use crate::record::Record;
use crate::sys::code;

/// Has `old`, which is Live and goes on, save its state and `new`, whose `init` ran, restore it.
/// Nothing is done where `old` saves none. The thread that ran code of `new` goes to `threads`.
///
/// # Errors
/// [`ErrorKind::HandOver`] where one of them refuses or ends its thread, or `new` cannot restore;
/// [`ErrorKind::Gone`] where `old` is not Live any more; [`ErrorKind::Deadline`] where it does not
/// answer; [`ErrorKind::Thread`].
pub(crate) fn run(
    old: &Arc<Record>,
    new: &Arc<Record>,
    threads: &mut Vec<Ending>,
    deadline: Deadline,
) -> Result<(), Error> {
    let Some(save) = exported(old, SAVE_SYMBOL) else {
        return Ok(());
    };
    let Some(restore) = exported(new, RESTORE_SYMBOL) else {
        let message = format!(
            "the old version saves its state; expected {RESTORE_SYMBOL} in the new one, found none"
        );
        return Err(Error::new(ErrorKind::HandOver, message));
    };
    checkpoint::pass("replace.save")?;
    let Some((version, state)) = saved(old, save, deadline)? else {
        return Ok(());
    };
    checkpoint::pass("replace.restore")?;
    let record = Arc::clone(new);
    let job = move || {
        // SAFETY: the plugin is constructed, and nobody unloads it while it is Coming.
        let status = unsafe { code::restore(restore, record.context.as_ptr(), version, &state) };
        (status, calls::take_raised())
    };
    let (outcome, thread) = Executor::start(c"plug-restore")?.run(None, job)?;
    threads.push(thread);
    match outcome {
        Outcome::Done((STATUS_OK, None)) => Ok(()),
        Outcome::Done((_, why)) => Err(refused(&format!("state {version}"), "new", why)),
        Outcome::Vanished | Outcome::Late => {
            let message = "the new version ended the loader's thread instead of restoring";
            Err(Error::new(ErrorKind::HandOver, message))
        }
    }
}

/// What `old` saves, as one call like any other.
fn saved(
    old: &Arc<Record>,
    save: usize,
    deadline: Deadline,
) -> Result<Option<(u32, Vec<u8>)>, Error> {
    let record = Arc::clone(old);
    let job = move || {
        let gate = calls::enter(None, record.id, By::Word(record.live_word()), save)?;
        // SAFETY: the gate keeps the plugin mapped, the record its context.
        let saved = calls::asking(|| unsafe { code::save(save, record.context.as_ptr()) });
        gate.finish().map(|()| saved)
    };
    let (outcome, thread) = Executor::start(c"plug-save")?.run(Some(deadline), job)?;
    // What the thread leaves behind is the unload's to wait for, like any thread's.
    drop(thread);
    match outcome {
        Outcome::Done(Ok((STATUS_OK, state))) => Ok(state),
        Outcome::Done(Ok(_)) => Err(refused("to save", "old", None)),
        Outcome::Done(Err(CallError::Raised(why))) => Err(refused("to save", "old", Some(why))),
        Outcome::Done(Err(_)) => {
            let message = "the version to be replaced is not Live any more";
            Err(Error::new(ErrorKind::Gone, message))
        }
        Outcome::Vanished => {
            let message = "the old version ended the loader's thread instead of saving";
            Err(Error::new(ErrorKind::HandOver, message))
        }
        Outcome::Late => {
            let message = "the old version has not saved its state when the deadline passed";
            Err(Error::new(ErrorKind::Deadline, message))
        }
    }
}

fn refused(what: &str, who: &str, why: Option<Box<str>>) -> Error {
    let why = why.unwrap_or_else(|| "no message given".into());
    let message = format!("the {who} version refuses {what}: {why}");
    Error::new(ErrorKind::HandOver, message)
}

fn exported(record: &Record, name: &str) -> Option<usize> {
    let symbol = record.index.view().by_name(name.as_bytes())?;
    (symbol.kind == SymbolKind::Func).then(|| code::run_time(record.bias, symbol.svma))
}
