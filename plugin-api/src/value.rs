//! What an exported function may return: plain values with a stand-in for a caught panic.

use crate::{Result, abi, context};

/// Type of a value that an exported function returns.
pub trait Value: Sized {
    /// Returned in place of the value when the function panicked.
    ///
    /// The host does not need to tell it from a real one: it has been told by the message.
    const ON_PANIC: Self;
}

/// A status as the tables and the descriptor use it: 0 ok, 1 caught, negative an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Status(pub i32);

impl Status {
    /// Success.
    pub const OK: Status = Status(abi::STATUS_OK);
    /// A panic was caught.
    pub const CAUGHT: Status = Status(abi::STATUS_CAUGHT);
    /// The function returned an error.
    pub const FAILED: Status = Status(abi::STATUS_FAILED);

    /// Turns a result into a status, and tells the host the message of an error.
    pub fn report(result: Result) -> Status {
        match result {
            Ok(()) => Status::OK,
            Err(error) => {
                context::with_context(|context| context.raise(error.message()));
                Status::FAILED
            }
        }
    }
}

impl Value for Status {
    const ON_PANIC: Self = Status::CAUGHT;
}

impl Value for () {
    const ON_PANIC: Self = ();
}

impl Value for bool {
    const ON_PANIC: Self = false;
}

impl<T> Value for *const T {
    const ON_PANIC: Self = core::ptr::null();
}

impl<T> Value for *mut T {
    const ON_PANIC: Self = core::ptr::null_mut();
}

macro_rules! values {
    ($($ty:ty = $value:expr),* $(,)?) => {
        $(
            impl Value for $ty {
                const ON_PANIC: Self = $value;
            }
        )*
    };
}

values!(
    u8 = 0,
    u16 = 0,
    u32 = 0,
    u64 = 0,
    usize = 0,
    i8 = 0,
    i16 = 0,
    i32 = 0,
    i64 = 0,
    isize = 0,
    f32 = f32::NAN,
    f64 = f64::NAN,
);
