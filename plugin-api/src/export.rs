//! The macro that exports functions.

/// Exports functions to the host under their own names, with their signatures in the metadata.
///
/// Each becomes an `extern "C" fn` that never unwinds: a panic is caught, its text goes to the
/// host, and the caller gets [`Value::ON_PANIC`](crate::Value::ON_PANIC) of the return type. It
/// may be called before `init`, or linked statically without one; the text is dropped then.
/// A thread must not be ended inside by `pthread_exit` or `pthread_cancel`: Rust cannot let that
/// through a catch, and the process aborts. Parameters and returned types are
/// [`Portable`](crate::Portable). `unsafe fn` is for those that take pointers, and their bodies need `unsafe` blocks as usual.
///
/// ```standalone_crate
/// plug_api::export! {
///     /// Adds two numbers; an overflow is a panic, which the host is told.
///     pub fn add(a: u64, b: u64) -> u64 {
///         a.checked_add(b).expect("the sum does not fit")
///     }
///
///     /// Adds up the bytes at `ptr`.
///     ///
///     /// # Safety
///     /// - `ptr` points to `len` readable bytes.
///     pub unsafe fn sum(ptr: *const u8, len: usize) -> u64 {
///         // SAFETY: the caller promises `len` readable bytes.
///         let bytes = unsafe { core::slice::from_raw_parts(ptr, len) };
///         bytes.iter().map(|&b| u64::from(b)).sum()
///     }
/// }
/// # fn main() {
/// assert_eq!(add(1, 2), 3);
/// assert_eq!(add(u64::MAX, 1), 0);
/// assert_eq!(unsafe { sum([1, 2, 3].as_ptr(), 3) }, 6);
/// # }
/// ```
#[macro_export]
macro_rules! export {
    () => {};
    (
        $(#[$attribute:meta])*
        pub fn $name:ident($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? { $($body:tt)* }
        $($rest:tt)*
    ) => {
        $(#[$attribute])*
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($($arg: $ty),*) $(-> $ret)? {
            $crate::__private::export(move || $(-> $ret)? { $($body)* })
        }

        $crate::__export_metadata!($name, "fn", ($($ty),*), $($ret)?);
        $crate::export! { $($rest)* }
    };
    (
        $(#[$attribute:meta])*
        pub unsafe fn $name:ident($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? { $($body:tt)* }
        $($rest:tt)*
    ) => {
        $(#[$attribute])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $ty),*) $(-> $ret)? {
            $crate::__private::export(move || $(-> $ret)? { $($body)* })
        }

        $crate::__export_metadata!($name, "unsafe fn", ($($ty),*), $($ret)?);
        $crate::export! { $($rest)* }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_metadata {
    ($name:ident, $keyword:literal, ($($ty:ty),*), $($ret:ty)?) => {
        const _: () = {
            use $crate::__private::Part;

            const PARTS: &[Part<'_>] = &[
                Part::Text(concat!("export=", stringify!($name), ":", $keyword, "(")),
                Part::Text(stringify!($($ty),*)),
                Part::Text(")"),
                $(Part::Text(concat!(" -> ", stringify!($ret))),)?
                Part::End,
                Part::Text(concat!("signature=", stringify!($name), ":")),
                Part::Signature(
                    &[$($crate::portable::Item::of::<$ty>()),*],
                    $crate::portable::Item::of::<$crate::__output!($($ret)?)>(),
                ),
                Part::End,
            ];

            #[unsafe(export_name = concat!("plug_meta_v1_export_", stringify!($name)))]
            #[unsafe(link_section = ".plug.meta")]
            pub static METADATA: [u8; $crate::__private::len(PARTS)] =
                $crate::__private::join(PARTS);
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __output {
    () => {
        ()
    };
    ($ret:ty) => {
        $ret
    };
}
