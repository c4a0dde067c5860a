//! Types that may cross the border, and the signatures by which both sides compare them.

use core::ffi::c_void;

use crate::abi::{Descriptor, HostContext, InterfaceEntry, Str};
use crate::task::{RawTask, TaskVtable, TaskWaker, WakerVtable};
use crate::{Status, Task};

/// A type whose layout is the same for whoever calls a function and whoever wrote it.
///
/// Integers, floats, pointers to such types, `extern "C"` functions of up to eight of them, and the
/// structs of [`repr_c!`](crate::repr_c).
///
/// # Safety
/// - [`Portable::TYPE`] and [`Portable::LAYOUT`] tell what the type is, and two types that tell the
///   same can stand for each other in the signature of an `extern "C"` function.
pub unsafe trait Portable {
    /// What it is called in a signature.
    const TYPE: Type;
    /// The fields of a struct.
    const LAYOUT: Option<&'static Layout> = None;
    /// The fields of what a signature with this type is about: of itself, or of what it points to.
    const REACHED: Option<&'static Layout> = Self::LAYOUT;
}

/// A type as a signature tells it.
#[derive(Clone, Copy, Debug)]
pub enum Type {
    /// By its name.
    Named(&'static str),
    /// A pointer that is not written through.
    Const(&'static Type),
    /// A pointer that may be written through.
    Mut(&'static Type),
    /// A function, with its parameters and what it returns.
    Function(&'static [Type], &'static Type),
    /// So many in a row.
    Array(&'static Type, usize),
}

/// The fields of a `repr(C)` struct.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Its name on both sides.
    pub name: &'static str,
    /// In bytes.
    pub size: usize,
    /// In the order of their offsets.
    pub fields: &'static [Field],
}

/// One field of a struct.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// In bytes from the struct's start.
    pub offset: usize,
    /// Its type.
    pub of: Type,
    /// The fields of its type, where that is a struct; not of what it points to.
    pub layout: Option<&'static Layout>,
}

/// One parameter of a function, or what it returns.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    of: Type,
    layout: Option<&'static Layout>,
}

impl Item {
    /// The item of that type.
    #[must_use]
    pub const fn of<T: Portable>() -> Self {
        Self {
            of: T::TYPE,
            layout: T::REACHED,
        }
    }
}

/// Text that is written where there is room, and measured where there is none.
struct Text<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl Text<'_> {
    const fn put(&mut self, text: &str) {
        let (bytes, mut i) = (text.as_bytes(), 0);
        while i < bytes.len() {
            if self.len < self.out.len() {
                self.out[self.len] = bytes[i];
            }
            self.len += 1;
            i += 1;
        }
    }

    const fn put_number(&mut self, number: usize) {
        if number >= 10 {
            self.put_number(number / 10);
        }
        let digits = "0123456789".as_bytes();
        if self.len < self.out.len() {
            self.out[self.len] = digits[number % 10];
        }
        self.len += 1;
    }

    const fn put_type(&mut self, of: &Type) {
        match of {
            Type::Named(name) => self.put(name),
            Type::Const(to) => {
                self.put("*const ");
                self.put_type(to);
            }
            Type::Mut(to) => {
                self.put("*mut ");
                self.put_type(to);
            }
            Type::Function(args, output) => {
                self.put("fn(");
                let mut i = 0;
                while i < args.len() {
                    if i > 0 {
                        self.put(", ");
                    }
                    self.put_type(&args[i]);
                    i += 1;
                }
                self.put(")");
                self.put_output(output);
            }
            Type::Array(of, n) => {
                self.put("[");
                self.put_type(of);
                self.put("; ");
                self.put_number(*n);
                self.put("]");
            }
        }
    }

    const fn put_output(&mut self, output: &Type) {
        if !matches!(output, Type::Named(name) if is_same(name, "void")) {
            self.put(" -> ");
            self.put_type(output);
        }
    }

    const fn put_layout(&mut self, layout: &Layout) {
        self.put(layout.name);
        self.put(" {");
        let mut i = 0;
        while i < layout.fields.len() {
            let field = &layout.fields[i];
            self.put(if i > 0 { ", " } else { "" });
            self.put(field.name);
            self.put(": ");
            match field.layout {
                Some(inner) => self.put_layout(inner),
                None => self.put_type(&field.of),
            }
            self.put(" @");
            self.put_number(field.offset);
            i += 1;
        }
        self.put("} of ");
        self.put_number(layout.size);
        self.put(" bytes");
    }

    const fn put_signature(&mut self, args: &[Item], output: &Item) {
        self.put("fn(");
        let mut i = 0;
        while i < args.len() {
            self.put(if i > 0 { ", " } else { "" });
            self.put_type(&args[i].of);
            i += 1;
        }
        self.put(")");
        self.put_output(&output.of);
        let mut n_told = 0;
        i = 0;
        while i <= args.len() {
            let item = if i < args.len() { &args[i] } else { output };
            if let Some(layout) = item.layout
                && !is_told(layout, args, i)
            {
                self.put(if n_told == 0 { " where " } else { "; " });
                self.put_layout(layout);
                n_told += 1;
            }
            i += 1;
        }
    }
}

/// Whether one of the first `n` parameters has told that struct.
const fn is_told(layout: &Layout, args: &[Item], n: usize) -> bool {
    let mut i = 0;
    while i < n {
        if let Some(earlier) = args[i].layout
            && is_same(earlier.name, layout.name)
        {
            return true;
        }
        i += 1;
    }
    false
}

const fn is_same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}

/// Bytes of the signature of a function with these parameters.
#[must_use]
pub const fn signature_len(args: &[Item], output: &Item) -> usize {
    let mut text = Text {
        out: &mut [],
        len: 0,
    };
    text.put_signature(args, output);
    text.len
}

/// Writes that signature to the start of `out`, as far as it has room.
pub const fn write_signature(out: &mut [u8], args: &[Item], output: &Item) {
    let mut text = Text { out, len: 0 };
    text.put_signature(args, output);
}

/// The signature of a function with these parameters, as both sides compare it.
#[must_use]
pub fn signature(args: &[Item], output: &Item) -> String {
    let mut text = vec![0; signature_len(args, output)];
    write_signature(&mut text, args, output);
    String::from_utf8_lossy(&text).into_owned()
}

/// Bytes of a struct's fields in words.
#[must_use]
pub const fn layout_len(layout: &Layout) -> usize {
    let mut text = Text {
        out: &mut [],
        len: 0,
    };
    text.put_layout(layout);
    text.len
}

/// Writes them to the start of `out`, as far as it has room.
pub const fn write_layout(out: &mut [u8], layout: &Layout) {
    let mut text = Text { out, len: 0 };
    text.put_layout(layout);
}

/// A struct's fields in words, as both sides compare them.
#[must_use]
pub fn layout(layout: &Layout) -> String {
    let mut text = vec![0; layout_len(layout)];
    write_layout(&mut text, layout);
    String::from_utf8_lossy(&text).into_owned()
}

macro_rules! named {
    ($($ty:ty = $name:literal),* $(,)?) => {
        $(
            // SAFETY: the name stands for one layout, of the target's C or of this contract's version.
            unsafe impl Portable for $ty {
                const TYPE: Type = Type::Named($name);
            }
        )*
    };
}

named! {
    u8 = "u8", u16 = "u16", u32 = "u32", u64 = "u64", usize = "usize",
    i8 = "i8", i16 = "i16", i32 = "i32", i64 = "i64", isize = "isize",
    f32 = "f32", f64 = "f64", bool = "bool", () = "void", c_void = "void",
    Status = "i32", Str = "plug_str", HostContext = "plug_host_context",
    InterfaceEntry = "plug_interface_entry", Descriptor = "plug_descriptor",
    RawTask = "plug_task", TaskVtable = "plug_task_vtable", TaskWaker = "plug_waker",
    WakerVtable = "plug_waker_vtable",
}

// SAFETY: a task is a `RawTask`, whose vtable tells the size of the output.
unsafe impl<T> Portable for Task<T> {
    const TYPE: Type = RawTask::TYPE;
}

// SAFETY: told as what it is.
unsafe impl<T: Portable> Portable for *const T {
    const TYPE: Type = Type::Const(&T::TYPE);
    const REACHED: Option<&'static Layout> = T::LAYOUT;
}

// SAFETY: told as what it is.
unsafe impl<T: Portable> Portable for *mut T {
    const TYPE: Type = Type::Mut(&T::TYPE);
    const REACHED: Option<&'static Layout> = T::LAYOUT;
}

// SAFETY: told as what it is.
unsafe impl<T: Portable, const N: usize> Portable for [T; N] {
    const TYPE: Type = Type::Array(&T::TYPE, N);
}

macro_rules! functions {
    (@one $function:ty, $($arg:ident)*) => {
        // SAFETY: told as what it is; both ABIs are C's.
        unsafe impl<R: Portable, $($arg: Portable),*> Portable for $function {
            const TYPE: Type = Type::Function(&[$($arg::TYPE),*], &R::TYPE);
        }

        // SAFETY: as above; a null pointer is none.
        unsafe impl<R: Portable, $($arg: Portable),*> Portable for Option<$function> {
            const TYPE: Type = <$function>::TYPE;
        }
    };
    ($(($($arg:ident)*))*) => {
        $(
            functions!(@one unsafe extern "C" fn($($arg),*) -> R, $($arg)*);
            functions!(@one extern "C" fn($($arg),*) -> R, $($arg)*);
            functions!(@one unsafe extern "C-unwind" fn($($arg),*) -> R, $($arg)*);
            functions!(@one extern "C-unwind" fn($($arg),*) -> R, $($arg)*);
        )*
    };
}

functions! {
    () (A) (A B) (A B C) (A B C D) (A B C D E) (A B C D E F) (A B C D E F G) (A B C D E F G H)
}

/// Declares a `repr(C)` struct that may stand in signatures, under the name that it has in C.
///
/// Both sides tell its fields, with names, types and offsets, beside the signature; where they
/// differ, the function is not called.
///
/// ```
/// plug_api::repr_c! {
///     /// A point.
///     #[derive(Clone, Copy, Debug)]
///     pub struct Point("example_point") {
///         /// To the right.
///         pub x: i32,
///         /// Upwards.
///         pub y: f64,
///     }
/// }
///
/// use plug_api::portable::{Item, signature};
/// assert_eq!(
///     signature(&[Item::of::<*const Point>()], &Item::of::<f64>()),
///     "fn(*const example_point) -> f64 where example_point {x: i32 @0, y: f64 @8} of 16 bytes"
/// );
/// ```
#[macro_export]
macro_rules! repr_c {
    (
        $(#[$attribute:meta])*
        $vis:vis struct $name:ident($text:literal) {
            $($(#[$field_attribute:meta])* $field_vis:vis $field:ident: $ty:ty),* $(,)?
        }
    ) => {
        $(#[$attribute])*
        #[repr(C)]
        $vis struct $name {
            $($(#[$field_attribute])* $field_vis $field: $ty,)*
        }

        // SAFETY: the struct above is `repr(C)`, and all its fields are told.
        unsafe impl $crate::portable::Portable for $name {
            const TYPE: $crate::portable::Type = $crate::portable::Type::Named($text);
            const LAYOUT: ::core::option::Option<&'static $crate::portable::Layout> =
                ::core::option::Option::Some(&$crate::portable::Layout {
                    name: $text,
                    size: ::core::mem::size_of::<$name>(),
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
