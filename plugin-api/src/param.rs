//! Parameters as statics: declared with type, range, default and documentation, set by the host.

use core::fmt;
use core::time::Duration;
use std::sync::{PoisonError, RwLock};

use crate::abi::{HostContext, STATUS_CAUGHT, STATUS_FAILED, STATUS_OK, Str};
use crate::{Context, Error, Result, catch};

/// Units of a `duration`, in nanoseconds.
#[doc(hidden)]
pub const DURATIONS: &[(&str, i128)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Units of `bytes`.
#[doc(hidden)]
pub const SIZES: &[(&str, i128)] = &[
    ("", 1),
    ("B", 1),
    ("kB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
];

/// The sum of numbers with units, such as `1m30s`; none for any other text.
#[doc(hidden)]
pub fn measured(text: &str, units: &[(&str, i128)]) -> Option<i128> {
    let mut rest = text.trim();
    let mut sum: Option<i128> = None;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (number, behind) = rest.split_at(digits);
        let letters = behind
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(behind.len());
        let (unit, next) = behind.split_at(letters);
        let (_, size) = units.iter().find(|(name, _)| *name == unit.trim())?;
        let part = number.parse::<i128>().ok()?.checked_mul(*size)?;
        sum = Some(sum.unwrap_or(0).checked_add(part)?);
        rest = next;
    }
    sum
}

/// A type that a parameter can have.
pub trait ParamValue: Clone + Send + Sync + 'static {
    /// Reads what the host sends, and what the author wrote as the default.
    fn read(text: &str) -> Option<Self>;
}

macro_rules! parsed {
    ($($ty:ty),*) => {
        $(
            impl ParamValue for $ty {
                fn read(text: &str) -> Option<Self> {
                    text.trim().parse().ok()
                }
            }
        )*
    };
}

parsed!(bool, i64, f64);

impl ParamValue for u64 {
    fn read(text: &str) -> Option<Self> {
        measured(text, SIZES)?.try_into().ok()
    }
}

impl ParamValue for String {
    fn read(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl ParamValue for Duration {
    fn read(text: &str) -> Option<Self> {
        let nanos = match text.trim().parse() {
            Ok(nanos) => nanos,
            Err(_) => measured(text, DURATIONS)?.try_into().ok()?,
        };
        Some(Duration::from_nanos(nanos))
    }
}

impl<T: ParamValue> ParamValue for Vec<T> {
    fn read(text: &str) -> Option<Self> {
        if text.trim().is_empty() {
            return Some(Vec::new());
        }
        text.split(',').map(T::read).collect()
    }
}

/// A declared parameter: a static that [`params!`](crate::params) makes.
pub struct Param<T: 'static> {
    default: Option<&'static str>,
    check: Option<fn(&T) -> Result>,
    /// What the host set; none before that.
    value: RwLock<Option<T>>,
}

impl<T: ParamValue + fmt::Debug> fmt::Debug for Param<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Param").field(&self.value).finish()
    }
}

impl<T: ParamValue> Param<T> {
    /// What the macro makes.
    #[doc(hidden)]
    pub const fn new(default: Option<&'static str>, check: Option<fn(&T) -> Result>) -> Self {
        Self {
            default,
            check,
            value: RwLock::new(None),
        }
    }

    /// The value: what the host set last, before that the default; none for a parameter without
    /// a default that no host has set, as in a plugin that is linked statically.
    ///
    /// Thread context. Takes a lock that only a host's write holds, for the time of a copy, and
    /// copies the value.
    pub fn try_get(&self) -> Option<T> {
        let value = self.value.read().unwrap_or_else(PoisonError::into_inner);
        value.clone().or_else(|| T::read(self.default?))
    }

    /// The value, as [`Param::try_get`].
    ///
    /// # Panics
    /// Where that has none. Not in a plugin that a host has loaded: it refuses the load if a
    /// parameter without a default is not given.
    pub fn get(&self) -> T {
        self.try_get()
            .expect("a parameter without a default was not given")
    }

    /// The body of the setter.
    ///
    /// # Safety
    /// - `context` and `text` are what the host passed to the setter.
    #[doc(hidden)]
    pub unsafe fn set(&self, context: *const HostContext, text: Str) -> i32 {
        // SAFETY: the host's pointer is valid during the call.
        let context = unsafe { Context::from_raw(context) };
        // SAFETY: the host lends the text for the call.
        let text = unsafe { text.as_str() };
        catch(context, STATUS_CAUGHT, || {
            let checked = match text.and_then(T::read) {
                None => Err(Error::new("a text that its type cannot hold")),
                Some(value) => match self.check {
                    Some(check) => check(&value).map(|()| value),
                    None => Ok(value),
                },
            };
            match checked {
                Ok(value) => {
                    let mut held = self.value.write().unwrap_or_else(PoisonError::into_inner);
                    *held = Some(value);
                    STATUS_OK
                }
                Err(error) => {
                    if let Some(context) = context {
                        context.raise(error.message());
                    }
                    STATUS_FAILED
                }
            }
        })
    }
}

/// Declares the parameters of the plugin, once, each as a static of type [`Param`] named in capitals; the
/// host knows it by the same name in small letters.
///
/// The first line of documentation is what people are shown. The host refuses a load that gives an
/// unknown name, a value that does not fit, or none where there is no default. `writable` ones can
/// be set while the plugin is Live; `check` may refuse a value, which keeps the old one. Checks run
/// on a thread of the host's, before `init` and whenever the value is written.
///
/// | type | in Rust | texts |
/// |---|---|---|
/// | `bool` | `bool` | true, yes, on, y, 1 and their opposites |
/// | `int(MIN..=MAX)` | `i64` | decimal or `0x` |
/// | `uint(MIN..=MAX)` | `u64` | as `int` |
/// | `float(MIN..=MAX)` | `f64` | finite |
/// | `string` | `String` | any |
/// | `enum("one" \| "two")` | `String` | one of the words |
/// | `duration("1ms"..="1h")` | `Duration` | `1m30s` |
/// | `bytes("1KiB"..="1GiB")` | `u64` | `64KiB`, `17` |
/// | `list(TYPE)` | `Vec` | values separated by commas |
///
/// Ranges may be left out, and each of their ends.
///
/// ```standalone_crate
/// use std::time::Duration;
///
/// plug_api::params! {
///     /// How hard to try.
///     pub static LEVEL: int(0..=9) = 6;
///     /// How long to wait for an answer.
///     pub static PATIENCE: duration("1ms"..="1h") = "500ms", writable;
///     /// Ports to listen on.
///     pub static PORTS: list(uint(1..=65535)) = "80,443", writable, check: not_empty;
///     /// Where to write.
///     pub static TARGET: string;
/// }
///
/// fn not_empty(ports: &Vec<u64>) -> plug_api::Result {
///     match ports.is_empty() {
///         true => Err(plug_api::Error::new("there must be a port")),
///         false => Ok(()),
///     }
/// }
/// # fn main() {
/// assert_eq!(LEVEL.get(), 6);
/// assert_eq!(PATIENCE.get(), Duration::from_millis(500));
/// assert_eq!(PORTS.get(), [80, 443]);
/// assert_eq!(TARGET.try_get(), None);
/// # }
/// ```
#[macro_export]
macro_rules! params {
    ($(
        #[doc = $doc:literal]
        $(#[$attribute:meta])*
        $vis:vis static $name:ident: $kind:ident $(($($range:tt)*))? $(= $default:expr)?
            $(, $writable:ident $(, check: $check:expr)?)?;
    )*) => {
    $(
        #[doc = $doc]
        $(#[$attribute])*
        $vis static $name: $crate::Param<$crate::__param_type!($kind $(($($range)*))?)> =
            $crate::Param::new(
                $crate::__param_default!($kind $($default)?),
                $crate::__param_check!($($($check)?)?),
            );

        const _: () = {
            #[unsafe(export_name = concat!("plug_param_v1_", stringify!($name)))]
            pub unsafe extern "C-unwind" fn set(
                context: *const $crate::abi::HostContext,
                value: $crate::abi::Str,
            ) -> i32 {
                // SAFETY: what the host passed to this function.
                unsafe { $name.set(context, value) }
            }
        };
    )*

        // One text for all, since linkers keep no order between several.
        const _: () = {
            use $crate::__private::Part;

            const PARTS: &[Part<'_>] = &[$(
                Part::Text("param="), Part::Lower(stringify!($name)), Part::Text(":"),
                Part::Text(stringify!($kind)),
                $(Part::Text("("), Part::Text(stringify!($($range)*)), Part::Text(")"),)?
                $(Part::Text(" "), Part::Text(stringify!($writable)),)?
                Part::End,
                $(
                    Part::Text("param-default="), Part::Lower(stringify!($name)), Part::Text(":"),
                    Part::Text($crate::__param_text!($kind $default)), Part::End,
                )?
                Part::Text("param-doc="), Part::Lower(stringify!($name)), Part::Text(":"),
                Part::Text($doc), Part::End,
                Part::Text("param-set="), Part::Lower(stringify!($name)),
                Part::Text(concat!(":plug_param_v1_", stringify!($name))), Part::End,
            )*];

            #[unsafe(export_name = "plug_meta_v1_params")]
            #[unsafe(link_section = ".plug.meta")]
            pub static METADATA: [u8; $crate::__private::len(PARTS)] =
                $crate::__private::join(PARTS);
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __param_type {
    (bool) => { bool };
    (int $(($($range:tt)*))?) => { i64 };
    (uint $(($($range:tt)*))?) => { u64 };
    (float $(($($range:tt)*))?) => { f64 };
    (string) => { ::std::string::String };
    (enum ($($words:tt)*)) => { ::std::string::String };
    (duration $(($($range:tt)*))?) => { ::core::time::Duration };
    (bytes $(($($range:tt)*))?) => { u64 };
    (list ($kind:ident $(($($range:tt)*))?)) => {
        ::std::vec::Vec<$crate::__param_type!($kind $(($($range)*))?)>
    };
}

/// The text of a default: what is not text in the source is written out.
#[doc(hidden)]
#[macro_export]
macro_rules! __param_text {
    (bool $default:expr) => {
        stringify!($default)
    };
    (int $default:expr) => {
        stringify!($default)
    };
    (uint $default:expr) => {
        stringify!($default)
    };
    (float $default:expr) => {
        stringify!($default)
    };
    ($kind:ident $default:expr) => {
        $default
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __param_default {
    ($kind:ident) => { ::core::option::Option::None };
    ($kind:ident $default:expr) => {
        ::core::option::Option::Some($crate::__param_text!($kind $default))
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __param_check {
    () => {
        ::core::option::Option::None
    };
    ($check:expr) => {
        ::core::option::Option::Some($check)
    };
}
