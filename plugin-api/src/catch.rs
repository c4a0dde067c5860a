//! Where panics stop: every way from the host into the author's code goes through here.
//!
//! No panic hook is installed: the hook is one per copy of std, and the default one prints to
//! the standard error, which is what an author expects while developing.

use core::mem::ManuallyDrop;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::abi::{HostContext, STATUS_CAUGHT, STATUS_FAILED, STATUS_OK};
use crate::context::{self, Context};
use crate::{Result, Value};

/// Runs `f`; a panic becomes `fallback`, and its text goes to the host through `context`.
///
/// For authors of tables written by hand; the macros do it by themselves. State that `f` was
/// changing when it panicked is the author's to distrust.
pub fn catch<R>(context: Option<&Context>, fallback: R, f: impl FnOnce() -> R) -> R {
    // AssertUnwindSafe: what `f` captured is not looked at again here; the docs hand the
    // question on to the author, who alone can answer it.
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(value) => value,
        Err(payload) => {
            caught(context, payload);
            fallback
        }
    }
}

/// The body of an exported function.
#[doc(hidden)]
#[inline]
pub fn export<R: Value>(f: impl FnOnce() -> R) -> R {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(value) => value,
        Err(payload) => {
            caught(context::current(), payload);
            R::ON_PANIC
        }
    }
}

/// The body of the descriptor's `init`.
///
/// # Safety
/// - `raw` is what the host passed to `init`.
#[doc(hidden)]
pub unsafe fn init(raw: *const HostContext, init: fn(&Context) -> Result) -> i32 {
    // SAFETY: the host's pointer is valid until `exit` has returned, by the contract of init.
    let Some(context) = (unsafe { Context::from_raw(raw) }) else {
        return STATUS_FAILED;
    };
    context::set_current(raw);
    let status = catch(Some(context), STATUS_CAUGHT, || match init(context) {
        Ok(()) => STATUS_OK,
        Err(error) => {
            context.raise(error.message());
            STATUS_FAILED
        }
    });
    if status != STATUS_OK {
        // A plugin that refused gets no `exit`, and the host may drop its context at once.
        context::set_current(core::ptr::null());
    }
    status
}

/// The body of the descriptor's `exit`.
#[doc(hidden)]
pub fn exit(exit: fn()) {
    catch(context::current(), (), exit);
    context::set_current(core::ptr::null());
}

#[cold]
fn caught(context: Option<&Context>, payload: Box<dyn Any + Send>) {
    if let Some(context) = context {
        let text = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("with a payload that is not text");
        context.raise(&format!("panicked: {text}"));
    }
    // A payload may panic when it is dropped; what that leaves is given up, so that the chain
    // ends here.
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        let _given_up = ManuallyDrop::new(again);
    }
}
