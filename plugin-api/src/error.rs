//! The error of an author's function: a message, which is all that crosses the border.

use std::borrow::Cow;
use std::fmt;

/// What an author's function returns.
pub type Result = core::result::Result<(), Error>;

/// Why a plugin's function failed, in words for the operator of the host.
///
/// It implements [`std::error::Error`] itself, so it cannot be made from every error by `?`:
/// the common ones of the standard library convert, [`Error::new`] takes anything printable.
///
/// ```
/// fn port(text: &str) -> Result<u16, plug_api::Error> {
///     let port: u16 = text.parse()?;
///     if port == 0 { Err("port 0 is reserved".into()) } else { Ok(port) }
/// }
/// assert_eq!(port("0").unwrap_err().to_string(), "port 0 is reserved");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    message: Cow<'static, str>,
}

impl Error {
    /// An error with the text of `message`: a string, or another error.
    pub fn new(message: impl fmt::Display) -> Error {
        Error {
            message: Cow::Owned(message.to_string()),
        }
    }

    /// The text.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<&str> for Error {
    fn from(message: &str) -> Error {
        Error::new(message)
    }
}

impl From<String> for Error {
    fn from(message: String) -> Error {
        Error {
            message: Cow::Owned(message),
        }
    }
}

macro_rules! from_errors {
    ($($error:ty),* $(,)?) => {
        $(
            impl From<$error> for Error {
                fn from(error: $error) -> Error {
                    Error::new(error)
                }
            }
        )*
    };
}

from_errors!(
    Box<dyn std::error::Error>,
    Box<dyn std::error::Error + Send + Sync>,
    fmt::Error,
    std::io::Error,
    std::ffi::NulError,
    std::env::VarError,
    core::char::TryFromCharError,
    core::num::ParseFloatError,
    core::num::ParseIntError,
    core::num::TryFromIntError,
    core::str::ParseBoolError,
    core::str::Utf8Error,
    std::string::FromUtf8Error,
);
