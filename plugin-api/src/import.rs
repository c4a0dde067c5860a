//! Functions of other plugins, and the macro that imports them.

use core::ffi::c_void;

use crate::Error;
use crate::abi::{ImportCall, ImportSlot, STATUS_OK, Str};

/// Imports functions of another plugin, of which the host takes care.
///
/// Each becomes an `unsafe fn` of this name that returns `Result<R, plug_api::Error>`: an error is what
/// the other plugin raised, its panic for one. The host loads this plugin only where the other one is
/// Live, its version meets the requirement, and it exports functions with these signatures; keeps that
/// from being unloaded for as long as this plugin is there; and leads calls to a version that replaces
/// it. Before `init`, in constructors that is, calls are refused, and so is the load then.
///
/// The requirement is one of Cargo's: `^1.2`, `>=1.2, <3`, `*`. A plugin without a version that has the
/// form `1.2.3` meets `*` alone. `unsafe` is the author's word that the functions do what their
/// documentation says; parameters and returned types are [`Portable`](crate::Portable).
///
/// Cost: a call through the host's gate, as one of the host's own, and two calls through pointers.
///
/// ```standalone_crate
/// plug_api::import! {
///     unsafe plugin "base64" version "^1.2" {
///         /// Bytes that `len` bytes become.
///         pub fn base64_len(len: usize) -> usize;
///     }
/// }
///
/// # fn main() {
/// // No host has bound it here.
/// let refused = unsafe { base64_len(3) }.unwrap_err();
/// assert_eq!(refused.to_string(), "base64_len is not bound: no loader loaded this plugin");
/// # }
/// ```
#[macro_export]
macro_rules! import {
    (unsafe plugin $plugin:literal version $version:literal { $($functions:tt)* }) => {
        $crate::__import_functions! { $plugin $version $($functions)* }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __import_functions {
    ($plugin:literal $version:literal) => {};
    (
        $plugin:literal $version:literal
        $(#[$attribute:meta])*
        $vis:vis fn $name:ident($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)?;
        $($rest:tt)*
    ) => {
        $(#[$attribute])*
        ///
        /// # Errors
        /// What the other plugin raised.
        ///
        /// # Safety
        /// - What the other plugin's documentation asks for.
        $vis unsafe fn $name(
            $($arg: $ty),*
        ) -> ::core::result::Result<$crate::__output!($($ret)?), $crate::Error> {
            const _: () = {
                use $crate::__private::Part;

                const PARTS: &[Part<'_>] = &[
                    Part::Text("import="),
                    Part::Text($crate::__private::name($plugin)),
                    Part::Text(concat!(":", stringify!($name), ":", $version)),
                    Part::End,
                    Part::Text(concat!("import-signature=", stringify!($name), ":")),
                    Part::Signature(
                        &[$($crate::portable::Item::of::<$ty>()),*],
                        $crate::portable::Item::of::<$crate::__output!($($ret)?)>(),
                    ),
                    Part::End,
                ];

                #[unsafe(export_name = concat!("plug_meta_v1_import_", stringify!($name)))]
                #[unsafe(link_section = ".plug.meta")]
                pub static METADATA: [u8; $crate::__private::len(PARTS)] =
                    $crate::__private::join(PARTS);
            };

            #[unsafe(export_name = concat!("plug_import_v1_", stringify!($name)))]
            pub static SLOT: $crate::abi::ImportSlot = $crate::abi::ImportSlot::new();

            let call = |function: *const ::core::ffi::c_void| {
                // SAFETY: what the host enters has this signature: it compared them.
                let function = unsafe {
                    ::core::mem::transmute::<
                        *const ::core::ffi::c_void,
                        unsafe extern "C-unwind" fn($($ty),*) $(-> $ret)?,
                    >(function)
                };
                // SAFETY: passed on to the caller.
                unsafe { function($($arg),*) }
            };
            // SAFETY: the slot above is written by nobody but the host, and `call` calls nothing else.
            unsafe { $crate::__private::imported(&SLOT, stringify!($name), call) }
        }

        $crate::__import_functions! { $plugin $version $($rest)* }
    };
}

/// Runs `call` with the address of the function that `slot` is for, inside its plugin.
///
/// # Errors
/// What that raised, or why it was not called.
///
/// # Safety
/// - `slot` is as [`ImportSlot`] says.
/// - `call` does nothing with the address but to call it.
#[inline]
pub unsafe fn imported<R>(
    slot: &'static ImportSlot,
    name: &str,
    call: impl FnOnce(*const c_void) -> R,
) -> Result<R, Error> {
    // SAFETY: written before this plugin's code ran, and by nobody since.
    let host = unsafe { *slot.host.get() };
    let (Some(enter), Some(leave)) = (host.enter, host.leave) else {
        return Err(unbound(name));
    };
    let mut noted = ImportCall::new();
    // SAFETY: the host's function, with what it wrote beside it.
    let function = unsafe { enter(host.binding, &raw mut noted) };
    if function.is_null() {
        return Err(taken(slot));
    }
    let left = Leave {
        leave,
        noted: &raw mut noted,
    };
    let output = call(function);
    match left.now() {
        STATUS_OK => Ok(output),
        _ => Err(taken(slot)),
    }
}

/// Leaves, also where the function unwinds.
struct Leave {
    leave: unsafe extern "C" fn(*mut ImportCall) -> i32,
    noted: *mut ImportCall,
}

impl Leave {
    #[inline]
    fn now(self) -> i32 {
        let left = core::mem::ManuallyDrop::new(self);
        // SAFETY: entered on this thread, and left once.
        unsafe { (left.leave)(left.noted) }
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        // SAFETY: as in now(), which did not run.
        unsafe { (self.leave)(self.noted) };
    }
}

#[cold]
fn unbound(name: &str) -> Error {
    Error::new(format_args!(
        "{name} is not bound: no loader loaded this plugin"
    ))
}

/// The error of the last imported function on this thread.
#[cold]
fn taken(slot: &'static ImportSlot) -> Error {
    unsafe extern "C" fn put(to: *mut c_void, message: Str) {
        // SAFETY: what taken() passes below, on the same thread.
        let to = unsafe { &mut *to.cast::<String>() };
        // SAFETY: the host's text, valid during this call.
        to.push_str(unsafe { message.as_str() }.unwrap_or_default());
    }
    let mut text = String::new();
    // SAFETY: as in imported().
    if let Some(take) = unsafe { (*slot.host.get()).take } {
        // SAFETY: `put` gets the string that it expects.
        unsafe { take(put, (&raw mut text).cast()) };
    }
    Error::from(text)
}
