//! State that a version of a plugin leaves to the one that replaces it.

use core::ffi::c_void;

use crate::abi::{HostContext, STATUS_CAUGHT, STATUS_FAILED, STATUS_OK};
use crate::{Context, Error, Result, catch};

/// State in bytes, and which form of it they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The author's number of the form, which other versions of the plugin know or refuse.
    pub version: u32,
    /// The bytes, which outlive the plugin that saved them.
    pub bytes: Vec<u8>,
}

/// Exports the two functions by which one version of the plugin takes over from another, when the
/// host replaces it.
///
/// `save` is a `fn() -> Result<State, Error>` of the old version, which goes on being called meanwhile and
/// afterwards: what it changes after that is not in the state. `restore` is a `fn(&State) -> Result`
/// of the new version, called after its `init` and before anybody else calls it. Where one of them
/// refuses or panics, nothing is replaced.
///
/// ```standalone_crate
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use plug_api::State;
///
/// static SEEN: AtomicU64 = AtomicU64::new(0);
///
/// plug_api::hand_over! { save: save, restore: restore }
///
/// fn save() -> Result<State, plug_api::Error> {
///     let bytes = SEEN.load(Ordering::Relaxed).to_le_bytes().to_vec();
///     Ok(State { version: 1, bytes })
/// }
///
/// fn restore(state: &State) -> plug_api::Result {
///     match (state.version, <[u8; 8]>::try_from(&*state.bytes)) {
///         (1, Ok(bytes)) => SEEN.store(u64::from_le_bytes(bytes), Ordering::Relaxed),
///         (version, _) => return Err(format!("state {version} is unknown").into()),
///     }
///     Ok(())
/// }
/// # fn main() {
/// # let saved = save().unwrap();
/// # assert!(restore(&saved).is_ok());
/// # assert!(restore(&State::default()).is_err());
/// # }
/// ```
#[macro_export]
macro_rules! hand_over {
    (save: $save:expr, restore: $restore:expr $(,)?) => {
        const _: () = {
            #[unsafe(export_name = "plug_save_v1")]
            pub unsafe extern "C-unwind" fn __plug_save(
                context: *const $crate::abi::HostContext,
                put: unsafe extern "C" fn(*mut ::core::ffi::c_void, u32, *const u8, usize),
                to: *mut ::core::ffi::c_void,
            ) -> i32 {
                // SAFETY: what the host passed to this function.
                unsafe { $crate::__private::save(context, put, to, $save) }
            }

            #[unsafe(export_name = "plug_restore_v1")]
            pub unsafe extern "C-unwind" fn __plug_restore(
                context: *const $crate::abi::HostContext,
                version: u32,
                bytes: *const u8,
                len: usize,
            ) -> i32 {
                // SAFETY: what the host passed to this function.
                unsafe { $crate::__private::restore(context, version, bytes, len, $restore) }
            }
        };
    };
}

/// The body of the exported `plug_save_v1`.
///
/// # Safety
/// - `raw`, `put` and `to` are what the host passed.
#[doc(hidden)]
pub unsafe fn save(
    raw: *const HostContext,
    put: unsafe extern "C" fn(*mut c_void, u32, *const u8, usize),
    to: *mut c_void,
    save: fn() -> core::result::Result<State, Error>,
) -> i32 {
    // SAFETY: the host's pointer is valid until `exit` has returned.
    let Some(context) = (unsafe { Context::from_raw(raw) }) else {
        return STATUS_FAILED;
    };
    catch(Some(context), STATUS_CAUGHT, || match save() {
        Ok(state) => {
            // SAFETY: the host's own function; it copies the bytes before it returns.
            unsafe { put(to, state.version, state.bytes.as_ptr(), state.bytes.len()) };
            STATUS_OK
        }
        Err(error) => {
            context.raise(error.message());
            STATUS_FAILED
        }
    })
}

/// The body of the exported `plug_restore_v1`.
///
/// # Safety
/// - `raw`, and `len` bytes at `bytes`, are what the host passed.
#[doc(hidden)]
pub unsafe fn restore(
    raw: *const HostContext,
    version: u32,
    bytes: *const u8,
    len: usize,
    restore: fn(&State) -> Result,
) -> i32 {
    // SAFETY: the host's pointer is valid until `exit` has returned.
    let Some(context) = (unsafe { Context::from_raw(raw) }) else {
        return STATUS_FAILED;
    };
    let bytes = match len {
        0 => Vec::new(),
        // SAFETY: the host lends so many bytes for the call.
        _ => unsafe { core::slice::from_raw_parts(bytes, len) }.to_vec(),
    };
    let state = State { version, bytes };
    catch(Some(context), STATUS_CAUGHT, || match restore(&state) {
        Ok(()) => STATUS_OK,
        Err(error) => {
            context.raise(error.message());
            STATUS_FAILED
        }
    })
}
