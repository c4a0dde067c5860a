//! A parameter as the author declared it in the metadata: name, type, range, default and a line of
//! documentation; and the texts that hosts give for it.
//!
//! Thread context; read from the file's bytes, so that a bad value refuses a load before a byte of
//! the plugin runs.

#![forbid(unsafe_code)]

use std::fmt::{self, Write};
use std::str::FromStr;

use plug_api::__private::{DURATIONS, SIZES, measured};

/// What a parameter can be, with the range it may have.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ParamKind {
    /// `bool`: true, yes, on, y or 1, and their opposites.
    Bool,
    /// `int(MIN..=MAX)`: a signed number of 64 bits, decimal or `0x`.
    Int(Range<i128>),
    /// `uint(MIN..=MAX)`: an unsigned number of 64 bits, decimal or `0x`.
    Uint(Range<i128>),
    /// `float(MIN..=MAX)`: a finite number.
    Float(Range<f64>),
    /// `string`: any text.
    String,
    /// `enum(ONE|TWO|…)`: one of these words.
    Enum(Vec<String>),
    /// `duration(MIN..=MAX)`: numbers with ns, us, ms, s, m or h, such as `1m30s`; held in nanoseconds.
    Duration(Range<i128>),
    /// `bytes(MIN..=MAX)`: a number of bytes, or numbers with KiB, MiB, GiB, kB, MB or GB.
    Bytes(Range<i128>),
    /// `list(TYPE)`: values separated by commas.
    List(Box<ParamKind>),
}

/// Both ends belong to it; an absent one is the type's own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range<T> {
    /// The least value.
    pub min: Option<T>,
    /// The greatest.
    pub max: Option<T>,
}

impl<T: PartialOrd + Copy> Range<T> {
    fn holds(&self, value: T) -> bool {
        self.min.is_none_or(|min| min <= value) && self.max.is_none_or(|max| value <= max)
    }
}

/// One declared parameter.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Param {
    /// Its name: letters, digits, `_` and `-`.
    pub name: String,
    /// Its type and range.
    pub kind: ParamKind,
    /// Whether it can be written while the plugin is Live.
    pub is_writable: bool,
    /// Its value where none is given, as the author wrote it; without one a value must be given.
    pub default: Option<String>,
    /// The exported function that sets it, if it is not only asked for.
    pub setter: Option<String>,
    /// The author's line about it.
    pub doc: String,
}

const TRUE: &[&str] = &["true", "yes", "on", "y", "1"];
const FALSE: &[&str] = &["false", "no", "off", "n", "0"];

/// `value` with the greatest unit that divides it.
fn shown(value: i128, units: &[(&str, i128)]) -> String {
    let fitting = units
        .iter()
        .filter(|(_, size)| value % size == 0 && value >= *size)
        .max_by_key(|(_, size)| *size);
    match fitting.or_else(|| units.first()) {
        Some((unit, size)) => format!("{}{unit}", value / size),
        None => value.to_string(),
    }
}

fn whole(text: &str) -> Option<i128> {
    let text = text.trim();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let number = match digits.strip_prefix("0x") {
        Some(hex) => i128::from_str_radix(hex, 16)
            .ok()
            .filter(|_| !hex.starts_with(['+', '-'])),
        None => digits.replace('_', "").parse().ok(),
    };
    number.map(|number: i128| sign * number)
}

fn number(text: &str) -> Option<f64> {
    text.trim()
        .parse()
        .ok()
        .filter(|number: &f64| number.is_finite())
}

/// Reads `MIN..=MAX`, of which either end may be absent; none for anything else.
fn range<T>(text: Option<&str>, read: impl Fn(&str) -> Option<T>) -> Option<Range<T>> {
    let Some(text) = text else {
        return Some(Range {
            min: None,
            max: None,
        });
    };
    let (min, max) = text.split_once("..")?;
    let max = match max.trim() {
        "" => None,
        max => Some(read(max.strip_prefix('=')?)?),
    };
    let min = match min.trim() {
        "" => None,
        min => Some(read(min)?),
    };
    Some(Range { min, max })
}

fn within(range: Option<Range<i128>>, min: i128, max: i128) -> Option<Range<i128>> {
    let range = range?;
    let (low, high) = (range.min.unwrap_or(min), range.max.unwrap_or(max));
    (min <= low && low <= high && high <= max).then_some(range)
}

const MAX_U64: i128 = u64::MAX as i128;

/// How deep lists may stand in lists.
const MAX_DEPTH: usize = 4;

impl ParamKind {
    /// The kind that a declaration's text names.
    fn read(text: &str, depth: usize) -> Option<Self> {
        let text = text.trim();
        let (word, inner) = match text.split_once('(') {
            Some((word, inner)) => (word.trim(), Some(inner.strip_suffix(')')?.trim())),
            None => (text, None),
        };
        match (word, inner) {
            ("bool", None) => Some(Self::Bool),
            ("string", None) => Some(Self::String),
            ("int", inner) => {
                within(range(inner, whole), i64::MIN.into(), i64::MAX.into()).map(Self::Int)
            }
            ("uint", inner) => within(range(inner, whole), 0, MAX_U64).map(Self::Uint),
            ("float", inner) => range(inner, number)
                .filter(|range| range.min.zip(range.max).is_none_or(|(min, max)| min <= max))
                .map(Self::Float),
            ("duration", inner) => {
                let read = |text: &str| measured(text.trim_matches([' ', '"']), DURATIONS);
                within(range(inner, read), 0, MAX_U64).map(Self::Duration)
            }
            ("bytes", inner) => {
                let read = |text: &str| measured(text.trim_matches([' ', '"']), SIZES);
                within(range(inner, read), 0, MAX_U64).map(Self::Bytes)
            }
            ("enum", Some(words)) => {
                let words: Vec<String> = words
                    .split('|')
                    .map(|word| word.trim_matches([' ', '"']).to_owned())
                    .collect();
                (!words.iter().any(String::is_empty)).then_some(Self::Enum(words))
            }
            ("list", Some(of)) if depth < MAX_DEPTH => {
                Self::read(of, depth + 1).map(|of| Self::List(Box::new(of)))
            }
            _ => None,
        }
    }

    /// The value that `text` stands for, as the plugin gets it: `true` or `false`, decimal digits,
    /// nanoseconds, bytes, or the text itself; values of a list with commas between them. None
    /// where the text is not of this type or out of its range.
    #[must_use]
    pub fn canonical(&self, text: &str) -> Option<String> {
        let held = |range: &Range<i128>, min, max, value: Option<i128>| {
            let value = value.filter(|value| (min..=max).contains(value) && range.holds(*value))?;
            Some(value.to_string())
        };
        match self {
            Self::Bool => {
                let lower = text.trim().to_ascii_lowercase();
                let is = |words: &[&str]| words.contains(&lower.as_str());
                (is(TRUE) || is(FALSE)).then(|| is(TRUE).to_string())
            }
            Self::Int(range) => held(range, i64::MIN.into(), i64::MAX.into(), whole(text)),
            Self::Uint(range) => held(range, 0, MAX_U64, whole(text)),
            Self::Float(range) => number(text)
                .filter(|value| range.holds(*value))
                .map(|value| value.to_string()),
            Self::String => Some(text.to_owned()),
            Self::Enum(words) => words.iter().find(|word| *word == text.trim()).cloned(),
            Self::Duration(range) => held(range, 0, MAX_U64, measured(text, DURATIONS)),
            Self::Bytes(range) => held(range, 0, MAX_U64, measured(text, SIZES)),
            Self::List(of) if text.trim().is_empty() => {
                let _of = of;
                Some(String::new())
            }
            Self::List(of) => {
                let values: Option<Vec<String>> =
                    text.split(',').map(|value| of.canonical(value)).collect();
                values.map(|values| values.join(","))
            }
        }
    }

    /// What a value that [`ParamKind::canonical`] gave looks like to people: with its unit.
    #[must_use]
    pub fn human(&self, canonical: &str) -> String {
        let with = |units: &[(&str, i128)]| {
            canonical
                .parse()
                .map_or_else(|_| canonical.to_owned(), |value| shown(value, units))
        };
        match self {
            Self::Duration(_) => with(DURATIONS),
            Self::Bytes(_) => with(SIZES.get(1..).unwrap_or_default()),
            Self::List(of) => {
                let values: Vec<String> = canonical.split(',').map(|v| of.human(v)).collect();
                values.join(",")
            }
            _ => canonical.to_owned(),
        }
    }
}

impl fmt::Display for ParamKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn ranged<T: Copy>(
            f: &mut fmt::Formatter<'_>,
            word: &str,
            range: &Range<T>,
            show: impl Fn(T) -> String,
        ) -> fmt::Result {
            f.write_str(word)?;
            if range.min.is_none() && range.max.is_none() {
                return Ok(());
            }
            let min = range.min.map(&show).unwrap_or_default();
            let max = range.max.map(|max| format!("={}", show(max)));
            write!(f, "({min}..{})", max.unwrap_or_default())
        }
        match self {
            Self::Bool => f.write_str("bool"),
            Self::String => f.write_str("string"),
            Self::Int(range) => ranged(f, "int", range, |v| v.to_string()),
            Self::Uint(range) => ranged(f, "uint", range, |v| v.to_string()),
            Self::Float(range) => ranged(f, "float", range, |v| v.to_string()),
            Self::Duration(range) => ranged(f, "duration", range, |v| shown(v, DURATIONS)),
            Self::Bytes(range) => {
                let units = SIZES.get(1..).unwrap_or_default();
                ranged(f, "bytes", range, |v| shown(v, units))
            }
            Self::Enum(words) => write!(f, "enum({})", words.join("|")),
            Self::List(of) => write!(f, "list({of})"),
        }
    }
}

impl FromStr for Param {
    type Err = &'static str;

    /// Reads `NAME:TYPE`, or `NAME:TYPE writable`; default and documentation are fields of their own.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, kind) = text.split_once(':').ok_or("NAME:TYPE")?;
        let is_word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        if name.is_empty() || name.len() > 64 || !name.bytes().all(is_word) {
            return Err("a name of 1 to 64 of A-Z a-z 0-9 _ -");
        }
        let (kind, is_writable) = match kind.trim().strip_suffix("writable") {
            Some(kind) => (kind, true),
            None => (kind, false),
        };
        let kind = ParamKind::read(kind, 0).ok_or(
            "a type: bool, int(A..=B), uint(A..=B), float(A..=B), string, enum(A|B), \
             duration(A..=B), bytes(A..=B) or list(TYPE)",
        )?;
        Ok(Self {
            name: name.to_owned(),
            kind,
            is_writable,
            default: None,
            setter: None,
            doc: String::new(),
        })
    }
}

impl fmt::Display for Param {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.kind)?;
        if let Some(default) = &self.default {
            f.write_str(" = ")?;
            match self.kind {
                ParamKind::String | ParamKind::Enum(_) => write!(f, "{default:?}")?,
                _ => f.write_str(default)?,
            }
        }
        if self.is_writable {
            f.write_str(", writable")?;
        }
        if !self.doc.is_empty() {
            f.write_char(';')?;
            write!(f, " {}", self.doc)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> ParamKind {
        ParamKind::read(text, 0).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn values_are_read_checked_and_made_canonical() {
        for (of, text, expected) in [
            ("bool", "Yes", Some("true")),
            ("bool", "0", Some("false")),
            ("bool", "2", None),
            ("int(0..=9)", "0x9", Some("9")),
            ("int(0..=9)", "10", None),
            ("int(-3..)", "-3", Some("-3")),
            ("int(-3..)", "-4", None),
            ("int", "9223372036854775807", Some("9223372036854775807")),
            ("int", "9223372036854775808", None),
            ("int", "--1", None),
            ("int", "0x-1", None),
            ("int", "", None),
            ("uint", "18446744073709551615", Some("18446744073709551615")),
            ("uint", "-1", None),
            ("float(0..=1)", "0.50", Some("0.5")),
            ("float", "nan", None),
            ("float(0..=1)", "1.01", None),
            ("string", " a b ", Some(" a b ")),
            ("enum(fast|best)", "best", Some("best")),
            ("enum(fast|best)", "Best", None),
            ("duration", "1m30s", Some("90000000000")),
            ("duration", "1.5s", None),
            ("duration", "15", None),
            ("duration(1ms..=1h)", "999us", None),
            ("bytes", "4KiB", Some("4096")),
            ("bytes", "17", Some("17")),
            ("bytes", "4kib", None),
            ("bytes(..=1MiB)", "2MiB", None),
            ("list(int)", "1, 2,0x3", Some("1,2,3")),
            ("list(int)", "", Some("")),
            ("list(int)", "1,,2", None),
            ("list(enum(a|b))", "a,b,a", Some("a,b,a")),
        ] {
            let found = kind(of).canonical(text);
            assert_eq!(found.as_deref(), expected, "{of} from {text:?}");
            if let Some(canonical) = found {
                let again = kind(of).canonical(&kind(of).human(&canonical));
                assert_eq!(again, Some(canonical), "{of}: what is shown is read again");
            }
        }
    }

    #[test]
    fn declarations_are_shown_as_they_are_read() {
        for text in [
            "bool",
            "int",
            "int(0..=9)",
            "int(-3..)",
            "uint(..=7)",
            "float(0.5..=2)",
            "string",
            "enum(a|b)",
            "duration(1ms..=1h)",
            "bytes(4KiB..=2GiB)",
            "list(list(int(0..=1)))",
        ] {
            assert_eq!(kind(text).to_string(), text);
        }
        for bad in [
            "",
            "number",
            "int(",
            "int(9..=0)",
            "int(0..9)",
            "uint(-1..)",
            "int(..=9223372036854775808)",
            "enum()",
            "enum(a||b)",
            "duration(1..=2)",
            "list",
            "list()",
            "bool()",
            "string(1..=2)",
            "list(list(list(list(list(int)))))",
            "float(2..=1)",
            "float(nan..)",
        ] {
            assert_eq!(ParamKind::read(bad, 0), None, "{bad}");
        }
    }
}
