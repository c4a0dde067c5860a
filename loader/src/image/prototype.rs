//! Signatures of exported functions as a plugin tells them, brought to the form in which both sides
//! compare them.
//!
//! Rust tells them in that form; C can only tell its own words. Types that C names and nobody
//! describes make a function that cannot be compared.

#![forbid(unsafe_code)]

use std::ffi::c_char;

use super::info::Info;

/// Nested declarations that are followed.
const MAX_DEPTH: u32 = 8;
/// Structs that one plugin may describe.
const MAX_STRUCTS: usize = 256;
/// Bytes of one struct's fields in words: each that holds the last one twice would double them.
const MAX_LAYOUT: usize = 16 * 1024;

/// The signature of the exported function `name` as it is compared; none where the plugin tells none,
/// or one whose types it does not describe.
pub(super) fn signature(info: &Info, name: &str) -> Option<String> {
    told_by(info, "signature", name)
}

/// The signature that the fields `key` tell of `name`; as [`signature`].
pub(super) fn told_by(info: &Info, key: &str, name: &str) -> Option<String> {
    let text = info.all(key).find_map(|field| {
        let (of, text) = field.split_once(':')?;
        (of == name).then_some(text)
    })?;
    if text.starts_with("fn(") {
        return Some(text.to_owned());
    }
    let structs = structs(info);
    let mut words = Words::new(text, &structs);
    let output = words.of()?;
    let args = words.parameters(0)?;
    words.is_at_end().then(|| told(&args, &output))
}

/// The fields of the table `offer` as they are compared; none where the plugin does not tell them.
pub(super) fn table(info: &Info, offer: &str) -> Option<String> {
    let text = info.all("table").find_map(|field| {
        let (of, text) = field.split_once(':')?;
        (of == offer).then_some(text)
    })?;
    if text.contains('{') {
        return Some(text.to_owned());
    }
    let described = structs(info);
    let table = described.iter().find(|of| of.name == text.trim())?;
    Some(table.layout.clone())
}

/// Whether a table of the fields `found` can stand for one of the fields `expected`, which it may
/// have more than.
pub(crate) fn extends(expected: &str, found: &str) -> bool {
    match (fields(expected), fields(found)) {
        (Some(expected), Some(found)) => alike(found)
            .strip_prefix(alike(expected).trim_end_matches('\0'))
            .is_some_and(|rest| rest.starts_with([',', '\0'])),
        _ => false,
    }
}

/// What stands between the braces of a layout.
fn fields(layout: &str) -> Option<&str> {
    let (_, rest) = layout.split_once(" {")?;
    Some(rest.rsplit_once("} of ")?.0)
}

/// Whether functions of the two signatures are called in the same way on this machine.
pub(crate) fn agree(expected: &str, found: &str) -> bool {
    expected == found || alike(expected) == alike(found)
}

/// A signature without what makes no difference here: `usize` has a name of its own, and what bytes
/// and characters are pointed to differ only in their sign.
fn alike(text: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    for c in text.chars().chain(['\0']) {
        if c.is_ascii_alphanumeric() || c == '_' {
            word.push(c);
            continue;
        }
        let is_pointee = out.ends_with("*const ") || out.ends_with("*mut ");
        out.push_str(match word.as_str() {
            "usize" if cfg!(target_pointer_width = "64") => "u64",
            "isize" if cfg!(target_pointer_width = "64") => "i64",
            "i8" if is_pointee => "u8",
            other => other,
        });
        word.clear();
        out.push(c);
    }
    out
}

/// A struct that the plugin describes.
#[derive(Debug)]
struct Struct {
    name: String,
    size: usize,
    align: usize,
    layout: String,
}

/// A type of C's.
#[derive(Clone, Debug, Default)]
struct Of {
    text: String,
    /// None for what has no value of its own, or one that is not known.
    size: Option<usize>,
    align: usize,
    /// Its own fields.
    layout: Option<String>,
    /// Its own fields, or those of what it points to.
    reached: Option<String>,
}

impl Of {
    fn plain(text: &str, size: usize) -> Self {
        Self {
            text: text.to_owned(),
            size: Some(size),
            align: size.min(8),
            ..Self::default()
        }
    }

    fn pointer(self, constant: bool) -> Self {
        let kind = if constant { "*const" } else { "*mut" };
        Self {
            reached: self.layout,
            ..Self::plain(&format!("{kind} {}", self.text), size_of::<usize>())
        }
    }
}

/// The signature of these parameters, as `plug_api::portable` writes it.
fn told(args: &[Of], output: &Of) -> String {
    let mut text = function(args, output);
    let mut layouts: Vec<&str> = Vec::new();
    for of in args.iter().chain([output]) {
        if let Some(layout) = of.reached.as_deref()
            && !layouts.contains(&layout)
        {
            layouts.push(layout);
        }
    }
    if !layouts.is_empty() {
        text.push_str(" where ");
        text.push_str(&layouts.join("; "));
    }
    text
}

fn function(args: &[Of], output: &Of) -> String {
    let args: Vec<&str> = args.iter().map(|of| of.text.as_str()).collect();
    let mut text = format!("fn({})", args.join(", "));
    if output.text != "void" {
        text.push_str(" -> ");
        text.push_str(&output.text);
    }
    text
}

/// What the plugin says of its structs; one may stand in another once all that it holds is known.
fn structs(info: &Info) -> Vec<Struct> {
    let mut left: Vec<(&str, &str)> = info
        .all("layout")
        .filter_map(|field| field.split_once(':'))
        .take(MAX_STRUCTS)
        .collect();
    let mut known = Vec::new();
    // Compilers keep no order between declarations.
    loop {
        let before = left.len();
        left.retain(|(name, fields)| {
            let found = described(name, fields, &known);
            let is_left = found.is_none();
            known.extend(found);
            is_left
        });
        if left.is_empty() || left.len() == before {
            return known;
        }
    }
}

/// The struct `name`, whose fields are told as C declares them.
fn described(name: &str, fields: &str, known: &[Struct]) -> Option<Struct> {
    let (mut told, mut end, mut align) = (Vec::new(), 0_usize, 1);
    let mut n_bytes = 0_usize;
    for field in fields.split(';').filter(|field| !field.trim().is_empty()) {
        let mut words = Words::new(field, known);
        words.itself = name;
        let (of, called) = words.declaration(0)?;
        let (size, called) = (of.size?, called?);
        if !words.is_at_end() {
            return None;
        }
        let offset = end.checked_next_multiple_of(of.align)?;
        let text = of.layout.unwrap_or(of.text);
        let text = format!("{called}: {text} @{offset}");
        n_bytes = n_bytes.saturating_add(text.len());
        if n_bytes > MAX_LAYOUT {
            return None;
        }
        told.push(text);
        end = offset.checked_add(size)?;
        align = align.max(of.align);
    }
    let size = end.checked_next_multiple_of(align)?;
    Some(Struct {
        name: name.to_owned(),
        size,
        align,
        layout: format!("{name} {{{}}} of {size} bytes", told.join(", ")),
    })
}

/// Text of C's, word by word.
struct Words<'a> {
    words: Vec<&'a str>,
    at: usize,
    known: &'a [Struct],
    /// The struct that is being described, which may point to its like.
    itself: &'a str,
}

impl<'a> Words<'a> {
    fn new(text: &'a str, known: &'a [Struct]) -> Self {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let mut words = Vec::new();
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let len = match rest.find(|c| !is_part(c)) {
                Some(0) => first.len_utf8(),
                Some(len) => len,
                None => rest.len(),
            };
            let (word, after) = rest.split_at(len);
            words.push(word);
            rest = after.trim_start();
        }
        Self {
            words,
            at: 0,
            known,
            itself: "",
        }
    }

    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.at).copied()
    }

    fn take(&mut self, word: &str) -> bool {
        let is_next = self.peek() == Some(word);
        self.at += usize::from(is_next);
        is_next
    }

    fn is_at_end(&self) -> bool {
        self.at == self.words.len()
    }

    /// A type without what is declared of it, with its pointers.
    fn of(&mut self) -> Option<Of> {
        let mut constant = false;
        let mut basic: Vec<&str> = Vec::new();
        let mut named = None;
        while let Some(word) = self.peek() {
            match word {
                "const" => constant = true,
                "struct" => {}
                "unsigned" | "signed" | "long" | "short" | "int" | "char" => basic.push(word),
                _ if named.is_none() && basic.is_empty() && is_word(word) => named = Some(word),
                _ => break,
            }
            self.at += 1;
        }
        let mut of = match named {
            Some(name) => self.named(name)?,
            None => integer(&basic)?,
        };
        while self.take("*") {
            of = of.pointer(constant);
            constant = false;
            while let Some("const" | "restrict" | "__restrict") = self.peek() {
                constant |= self.peek() == Some("const");
                self.at += 1;
            }
        }
        Some(of)
    }

    fn named(&self, name: &str) -> Option<Of> {
        let word = size_of::<usize>();
        if let Some(of) = self.known.iter().find(|of| of.name == name) {
            return Some(Of {
                text: name.to_owned(),
                size: Some(of.size),
                align: of.align,
                layout: Some(of.layout.clone()),
                reached: Some(of.layout.clone()),
            });
        }
        let (text, size) = match name {
            "uint8_t" => ("u8", 1),
            "uint16_t" => ("u16", 2),
            "uint32_t" => ("u32", 4),
            "uint64_t" => ("u64", 8),
            "int8_t" => ("i8", 1),
            "int16_t" => ("i16", 2),
            "int32_t" => ("i32", 4),
            "int64_t" => ("i64", 8),
            "size_t" | "uintptr_t" => ("usize", word),
            "ssize_t" | "intptr_t" | "ptrdiff_t" => ("isize", word),
            "float" => ("f32", 4),
            "double" => ("f64", 8),
            "bool" | "_Bool" => ("bool", 1),
            "plug_str" | "plug_task" | "plug_waker" => {
                let mut of = Of::plain(name, word * 2);
                of.align = word;
                return Some(of);
            }
            "plug_host_context"
            | "plug_interface_entry"
            | "plug_descriptor"
            | "plug_task_vtable"
            | "plug_waker_vtable"
            | "void" => (name, 0),
            _ if name == self.itself => (name, 0),
            _ => return None,
        };
        let of = Of::plain(text, size);
        Some(match size {
            0 => Of { size: None, ..of },
            _ => of,
        })
    }

    /// A type and what is declared of it: a parameter, or a field.
    fn declaration(&mut self, depth: u32) -> Option<(Of, Option<&'a str>)> {
        if depth > MAX_DEPTH {
            return None;
        }
        let mut of = self.of()?;
        let mut name = None;
        if self.take("(") {
            if !self.take("*") {
                return None;
            }
            name = self.name();
            if !self.take(")") {
                return None;
            }
            let args = self.parameters(depth.saturating_add(1))?;
            of = Of::plain(&function(&args, &of), size_of::<usize>());
        } else {
            name = self.name().or(name);
        }
        if self.take("[") {
            let n: usize = self.peek()?.parse().ok()?;
            self.at += 1;
            if depth > 0 || self.itself.is_empty() || !self.take("]") || of.layout.is_some() {
                // As a parameter an array is a pointer, and its length says nothing.
                return None;
            }
            of.size = Some(of.size?.checked_mul(n)?);
            of.text = format!("[{}; {n}]", of.text);
        }
        Some((of, name))
    }

    fn name(&mut self) -> Option<&'a str> {
        let name = self.peek().filter(|word| is_word(word))?;
        self.at += 1;
        Some(name)
    }

    /// What stands in parentheses behind a function's name.
    fn parameters(&mut self, depth: u32) -> Option<Vec<Of>> {
        if !self.take("(") {
            return None;
        }
        if self.take(")") {
            return Some(Vec::new());
        }
        let mut args = Vec::new();
        loop {
            let (of, _) = self.declaration(depth)?;
            if self.take(")") {
                let is_void = of.text == "void" && args.is_empty();
                if !is_void {
                    of.size?;
                    args.push(of);
                }
                return Some(args);
            }
            of.size?;
            args.push(of);
            if !self.take(",") {
                return None;
            }
        }
    }
}

fn is_word(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

/// The integer that C calls by these words.
fn integer(words: &[&str]) -> Option<Of> {
    let has = |word: &str| words.contains(&word);
    let n_long = words.iter().filter(|word| **word == "long").count();
    let bits = match n_long {
        _ if words.is_empty() => return None,
        _ if has("char") => 8,
        _ if has("short") => 16,
        0 => 32,
        1 if cfg!(target_pointer_width = "32") => 32,
        _ => 64,
    };
    let is_unsigned = match bits {
        8 if !has("signed") && !has("unsigned") => c_char::MIN == 0,
        _ => has("unsigned"),
    };
    let sign = if is_unsigned { "u" } else { "i" };
    Some(Of::plain(&format!("{sign}{bits}"), bits / 8))
}
