//! The macro that declares a table.

/// Declares a versioned `repr(C)` table: an interface of plugins, or a service of the host.
///
/// Its fields are [`Portable`](crate::Portable); host and plugin compare them, by name, type and offset.
///
/// Published by whoever owns the interface, in a crate that both sides build against. A higher
/// minor only appends fields; anything else is another major, and so another type.
///
/// ```
/// plug_api::interface! {
///     /// Counts things.
///     #[derive(Clone, Copy, Debug)]
///     pub struct CounterV1("example.counter", 1, 0) {
///         /// Adds to the count and returns it.
///         pub add: unsafe extern "C-unwind" fn(amount: u64) -> u64,
///     }
/// }
///
/// use plug_api::abi::Interface;
/// assert_eq!((CounterV1::NAME, CounterV1::MAJOR, CounterV1::MINOR), ("example.counter", 1, 0));
/// ```
#[macro_export]
macro_rules! interface {
    (
        $(#[$attribute:meta])*
        $vis:vis struct $name:ident($text:expr, $major:expr, $minor:expr) {
            $($(#[$field_attribute:meta])* $field_vis:vis $field:ident: $ty:ty),* $(,)?
        }
    ) => {
        $(#[$attribute])*
        #[repr(C)]
        $vis struct $name {
            $($(#[$field_attribute])* $field_vis $field: $ty,)*
        }

        // SAFETY: the struct above is `repr(C)`; that minors only append is what the author of
        // the interface signs with its version.
        unsafe impl $crate::abi::Interface for $name {
            const NAME: &'static str = $text;
            const MAJOR: u32 = $major;
            const MINOR: u32 = $minor;
            const LAYOUT: ::core::option::Option<&'static $crate::portable::Layout> =
                ::core::option::Option::Some(&$crate::portable::Layout {
                    name: <Self as $crate::abi::Interface>::NAME,
                    size: ::core::mem::size_of::<Self>(),
                    fields: &[$($crate::portable::Field {
                        name: ::core::stringify!($field),
                        offset: ::core::mem::offset_of!($name, $field),
                        of: <$ty as $crate::portable::Portable>::TYPE,
                        layout: <$ty as $crate::portable::Portable>::LAYOUT,
                    }),*],
                });
        }
    };
}
