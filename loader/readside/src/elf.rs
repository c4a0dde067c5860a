//! ELF's symbol entry as it stands in a file, and what of it a reader may name.

/// One entry of a symbol table (`Elf64_Sym`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawSymbol {
    /// Offset of the name in the string table.
    pub name: u32,
    /// Binding in the upper four bits, type in the lower.
    pub info: u8,
    /// Visibility in the lower two bits.
    pub other: u8,
    /// Section; 0 is undefined.
    pub section: u16,
    /// Link-time address.
    pub svma: u64,
    /// Size in bytes; 0 when the file does not say.
    pub size: u64,
}

const _: () = assert!(size_of::<RawSymbol>() == 24);

const UNDEFINED: u16 = 0;
const ABSOLUTE: u16 = 0xfff1;
const COMMON: u16 = 0xfff2;

const LOCAL: u8 = 0;
const WEAK: u8 = 2;

const NOTYPE: u8 = 0;
const OBJECT: u8 = 1;
const FUNC: u8 = 2;
const IFUNC: u8 = 10;

impl RawSymbol {
    /// Whether it names an address of its file: code or data, defined there.
    #[inline]
    #[must_use]
    pub fn is_named_address(&self) -> bool {
        !matches!(self.section, UNDEFINED | ABSOLUTE | COMMON)
            && matches!(self.info & 0xf, NOTYPE | OBJECT | FUNC | IFUNC)
            && self.name != 0
    }

    /// Whether other files may use it.
    #[inline]
    #[must_use]
    pub fn is_exported(&self) -> bool {
        // Internal and hidden ones stay in their file.
        self.info >> 4 != LOCAL && !matches!(self.other & 3, 1 | 2)
    }

    /// Whether it covers the link-time address `svma`; one without a size covers its very address.
    #[inline]
    #[must_use]
    pub fn covers(&self, svma: u64) -> bool {
        svma >= self.svma && svma.wrapping_sub(self.svma) < self.size.max(1)
    }

    /// Among symbols at one address the one with the greatest value is shown: code before data,
    /// strong before weak, exported before local, large before small.
    #[inline]
    #[must_use]
    pub fn preference(&self) -> (u8, bool, bool, u64) {
        let kind = match self.info & 0xf {
            FUNC => 3,
            IFUNC => 2,
            OBJECT => 1,
            _ => 0,
        };
        (
            kind,
            self.info >> 4 != LOCAL,
            self.info >> 4 != WEAK,
            self.size,
        )
    }
}
