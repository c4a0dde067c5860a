//! The objects that ld.so has, as it lists them.
//!
//! Thread context: ld.so's list lock is held while it is walked.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ops::Range;
use std::slice;

use super::dl;

/// One object that ld.so has.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    /// The name under which ld.so knows it; empty for the program.
    pub(crate) name: CString,
    /// `DT_SONAME`.
    pub(crate) soname: Option<CString>,
}

/// Calls `look` with every object that ld.so has, until it answers false.
fn walk(mut look: impl FnMut(&libc::dl_phdr_info) -> bool) {
    unsafe extern "C" fn pass<F: FnMut(&libc::dl_phdr_info) -> bool>(
        info: *mut libc::dl_phdr_info,
        _: usize,
        data: *mut c_void,
    ) -> c_int {
        // SAFETY: `data` is the function that the call below passes, alive for its duration.
        let look = unsafe { &mut *data.cast::<F>() };
        // SAFETY: ld.so passes a valid record for the duration of the callback.
        let info = unsafe { &*info };
        c_int::from(!look(info))
    }
    /// The callback for a function whose type has no name.
    fn callback<F: FnMut(&libc::dl_phdr_info) -> bool>(
        _: &F,
    ) -> unsafe extern "C" fn(*mut libc::dl_phdr_info, usize, *mut c_void) -> c_int {
        pass::<F>
    }
    let callback = callback(&look);
    let _inside = dl::enter();
    // SAFETY: the callback only reads and does not call back into ld.so.
    unsafe { libc::dl_iterate_phdr(Some(callback), (&raw mut look).cast()) };
}

/// The name that ld.so lists an object under.
fn name(info: &libc::dl_phdr_info) -> &CStr {
    if info.dlpi_name.is_null() {
        return c"";
    }
    // SAFETY: a terminated name, which lives while ld.so's lock is held, as it is in walk().
    unsafe { CStr::from_ptr(info.dlpi_name) }
}

fn bias(info: &libc::dl_phdr_info) -> usize {
    // 64 bits, asserted in readside.
    usize::try_from(info.dlpi_addr).unwrap_or(0)
}

/// All objects that ld.so has, in its order.
pub(crate) fn loaded() -> Vec<Object> {
    let mut objects = Vec::new();
    walk(|info| {
        objects.push(Object {
            name: name(info).to_owned(),
            soname: soname(info),
        });
        true
    });
    objects
}

/// The load biases of the objects with these never-reused names; none for one that is not there.
pub(crate) fn biases(names: &[&CStr]) -> Vec<Option<usize>> {
    let mut found = vec![None; names.len()];
    walk(|info| {
        let at = names.iter().position(|wanted| *wanted == name(info));
        if let Some(place) = at.and_then(|at| found.get_mut(at)) {
            *place = Some(bias(info));
        }
        found.contains(&None)
    });
    found
}

/// Which of these never-reused names ld.so still has an object of.
pub(crate) fn still_mapped<'a>(names: &[&'a CStr]) -> Vec<&'a CStr> {
    let found = biases(names);
    let still = names.iter().zip(found).filter(|(_, bias)| bias.is_some());
    still.map(|(name, _)| *name).collect()
}

/// One entry of a dynamic section (`<link.h>`, `ElfW(Dyn)`).
#[derive(Clone, Copy)]
#[repr(C)]
struct Entry {
    tag: i64,
    value: usize,
}

const DT_NULL: i64 = 0;
const DT_PLTRELSZ: i64 = 2;
const DT_STRTAB: i64 = 5;
const DT_SYMTAB: i64 = 6;
const DT_RELA: i64 = 7;
const DT_RELASZ: i64 = 8;
const DT_SONAME: i64 = 14;
const DT_JMPREL: i64 = 23;

/// The entries of an object's dynamic section, up to `DT_NULL`.
fn entries(info: &libc::dl_phdr_info) -> impl Iterator<Item = Entry> {
    let headers = if info.dlpi_phdr.is_null() {
        &[]
    } else {
        // SAFETY: the object's program headers, as many as ld.so says.
        unsafe { slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) }
    };
    let dynamic = headers
        .iter()
        .find(|header| header.p_type == libc::PT_DYNAMIC);
    let start = dynamic.map_or(0, |header| {
        let vaddr = usize::try_from(header.p_vaddr).unwrap_or(0);
        bias(info).wrapping_add(vaddr)
    });
    (0..)
        .map_while(move |n| {
            let entry = (start as *const Entry).wrapping_add(n);
            // SAFETY: mapped readable up to DT_NULL, which ends the walk; ld.so read it, too.
            (start != 0).then(|| unsafe { entry.read() })
        })
        .take_while(|entry| entry.tag != DT_NULL)
}

/// The value of an entry; 0 where there is none.
fn value(info: &libc::dl_phdr_info, tag: i64) -> usize {
    entries(info)
        .find(|entry| entry.tag == tag)
        .map_or(0, |entry| entry.value)
}

/// The run-time address that an entry gives; 0 where there is none.
fn address(info: &libc::dl_phdr_info, tag: i64) -> usize {
    let (value, bias) = (value(info, tag), bias(info));
    // ld.so adds the bias in place where the section is writable, as it is but for the vDSO's.
    if value != 0 && value < bias {
        bias.wrapping_add(value)
    } else {
        value
    }
}

/// A string of an object's table.
fn text(info: &libc::dl_phdr_info, offset: usize) -> CString {
    let text = address(info, DT_STRTAB).wrapping_add(offset) as *const c_char;
    // SAFETY: a terminated string of the object's table, which ld.so compares names with.
    unsafe { CStr::from_ptr(text) }.to_owned()
}

fn soname(info: &libc::dl_phdr_info) -> Option<CString> {
    let soname = entries(info).find(|entry| entry.tag == DT_SONAME)?;
    Some(text(info, soname.value))
}

/// An object that is bound to a symbol of another.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    /// What ld.so calls the object that is bound.
    pub(crate) name: CString,
    /// The symbol.
    pub(crate) symbol: CString,
}

/// The objects, but for those with these names, that ld.so bound to something in `range`.
///
/// Reads the relocations of every object: for whoever must say why something stays.
pub(crate) fn holders(range: Range<usize>, but: &[&CStr]) -> Vec<Holder> {
    let mut holders = Vec::new();
    walk(|info| {
        if !but.contains(&name(info)) {
            let bound = bound_symbol(info, &range);
            holders.extend(bound.map(|symbol| Holder {
                name: name(info).to_owned(),
                symbol,
            }));
        }
        true
    });
    holders
}

/// `Elf64_Rela`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Rela {
    offset: usize,
    info: u64,
    addend: i64,
}

/// The first symbol of an object whose word holds an address in `range`.
fn bound_symbol(info: &libc::dl_phdr_info, range: &Range<usize>) -> Option<CString> {
    for (table, size) in [(DT_RELA, DT_RELASZ), (DT_JMPREL, DT_PLTRELSZ)] {
        let start = address(info, table) as *const Rela;
        let count = value(info, size) / size_of::<Rela>();
        for n in (0..count).filter(|_| !start.is_null()) {
            // SAFETY: inside the table, which is mapped as long as its object, and ld.so's lock
            // keeps that in place.
            let rela = unsafe { start.wrapping_add(n).read_unaligned() };
            let symbol = usize::try_from(rela.info >> 32).unwrap_or(0);
            if symbol == 0 || !is_word(rela.info) {
                continue;
            }
            let word = bias(info).wrapping_add(rela.offset) as *const usize;
            // SAFETY: ld.so wrote this word when it bound the symbol; aligned or not.
            if range.contains(&unsafe { word.read_unaligned() }) {
                // st_name, the first of the symbol's 24 bytes.
                let entry = address(info, DT_SYMTAB).wrapping_add(symbol * 24) as *const u32;
                // SAFETY: a symbol that a relocation names is in the table.
                let offset = unsafe { entry.read_unaligned() };
                return Some(text(info, offset as usize));
            }
        }
    }
    None
}

/// Whether a relocation stores the address of a symbol in a word.
fn is_word(info: u64) -> bool {
    // R_X86_64_64, GLOB_DAT and JUMP_SLOT; R_AARCH64_ABS64, GLOB_DAT and JUMP_SLOT.
    let kind = info & 0xffff_ffff;
    if cfg!(target_arch = "x86_64") {
        [1, 6, 7].contains(&kind)
    } else {
        [257, 1025, 1026].contains(&kind)
    }
}
