//! The function types a plugin may export.

use std::ffi::c_void;

use plug_api::portable::{self, Item, Portable};

mod sealed {
    pub trait Sealed {}
}

/// An `unsafe extern "C"` function type with up to eight arguments. Sealed.
///
/// Arguments and outputs are [`Portable`]; structs are declared by [`plug_api::repr_c!`].
pub trait Signature: Copy + sealed::Sealed + 'static {
    /// The arguments, as a tuple.
    type Args;
    /// What it returns.
    type Output;

    /// The signature as it is compared with what a plugin tells.
    fn text() -> String;

    /// Calls the function at `address`, letting a foreign unwind pass.
    ///
    /// # Safety
    /// - A function of this type is at `address` and stays mapped for the duration of the call.
    /// - The arguments are what it asks for.
    unsafe fn invoke(address: usize, args: Self::Args) -> Self::Output;
}

macro_rules! signature {
    ($abi:literal: $($arg:ident)*) => {
        impl<R: Portable + 'static, $($arg: Portable + 'static),*> sealed::Sealed for unsafe extern $abi fn($($arg),*) -> R {}

        impl<R: Portable + 'static, $($arg: Portable + 'static),*> Signature for unsafe extern $abi fn($($arg),*) -> R {
            type Args = ($($arg,)*);
            type Output = R;

            fn text() -> String {
                portable::signature(&[$(Item::of::<$arg>()),*], &Item::of::<R>())
            }

            #[inline]
            #[allow(
                clippy::allow_attributes,
                non_snake_case,
                reason = "the macro names values after their types, and one form serves all arities"
            )]
            unsafe fn invoke(address: usize, ($($arg,)*): Self::Args) -> R {
                // SAFETY: the caller vouches for the function; "C-unwind" differs from "C" only in
                // letting an unwind pass, which must not turn into an abort of the host here.
                let function = unsafe {
                    std::mem::transmute::<*const c_void, unsafe extern "C-unwind" fn($($arg),*) -> R>(
                        address as *const c_void,
                    )
                };
                // SAFETY: the caller vouches for the arguments.
                unsafe { function($($arg),*) }
            }
        }
    };
}

macro_rules! signatures {
    ($(($($arg:ident)*))*) => {
        $(signature!("C": $($arg)*); signature!("C-unwind": $($arg)*);)*
    };
}

signatures! {
    () (A) (A B) (A B C) (A B C D) (A B C D E) (A B C D E F) (A B C D E F G) (A B C D E F G H)
}
