//! Damaged copies of shared objects: every structure, every way in which bytes get lost.

use std::ops::Range;

/// xorshift64*: small and seeded.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed, which may be any number.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.number() % n.max(1) as u64).expect("below n")
    }
}

/// The names of structures, in the order of a file and then of what is done to all of it.
pub const STRUCTURES: [&str; 23] = [
    "ehdr",
    "phdr",
    ".dynamic",
    ".dynsym",
    ".dynstr",
    ".gnu.hash",
    ".hash",
    ".rela.dyn",
    ".rela.plt",
    ".relr.dyn",
    "versym",
    "verneed",
    "verdef",
    "init/fini_array",
    "eh_frame_hdr",
    "eh_frame",
    "notes, sections",
    "data",
    "code",
    "truncation",
    "zeroed tail",
    "page or sector",
    "1-4 flips",
];

/// An intact file, and where its structures are.
#[derive(Debug)]
pub struct Sample {
    /// What it is.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Structures by their index in [`STRUCTURES`]; some several times.
    pub regions: Vec<(usize, Range<usize>)>,
    /// One past the last byte that is loaded.
    pub loaded: usize,
}

fn field(bytes: &[u8], at: usize, width: usize) -> usize {
    let mut word = [0; 8];
    word[..width].copy_from_slice(&bytes[at..at + width]);
    usize::try_from(u64::from_le_bytes(word)).expect("64 bits")
}

fn structure(name: &str) -> usize {
    let found = STRUCTURES.iter().position(|structure| *structure == name);
    found.expect("a known structure")
}

/// The structure of a section.
fn of_section(name: &str) -> usize {
    structure(match name {
        ".gnu.version" => "versym",
        ".gnu.version_r" => "verneed",
        ".gnu.version_d" => "verdef",
        ".init_array" | ".fini_array" => "init/fini_array",
        ".eh_frame_hdr" => "eh_frame_hdr",
        ".eh_frame" => "eh_frame",
        name if STRUCTURES[2..10].contains(&name) => name,
        ".init" | ".fini" | ".text" | ".plt" | ".plt.got" | ".plt.sec" => "code",
        ".data" | ".got" | ".got.plt" | ".data.rel.ro" | ".tdata" | ".rodata" => "data",
        _ => "notes, sections",
    })
}

impl Sample {
    /// Finds the structures of an intact file by its section headers.
    pub fn new(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        let (table, count) = (field(&bytes, 40, 8), field(&bytes, 60, 2));
        let section = |index: usize| &bytes[table + index * 64..][..64];
        let names = field(section(field(&bytes, 62, 2)), 24, 8);
        let headers = field(&bytes, 32, 8);
        let n_headers = field(&bytes, 56, 2);
        let mut regions = vec![
            (structure("ehdr"), 0..64),
            (structure("phdr"), headers..headers + n_headers * 56),
            (structure("notes, sections"), table..table + count * 64),
        ];
        for index in 1..count {
            let header = section(index);
            let (kind, at, size) = (
                field(header, 4, 4),
                field(header, 24, 8),
                field(header, 32, 8),
            );
            let name = &bytes[names + field(header, 0, 4)..];
            let end = name.iter().position(|byte| *byte == 0).expect("NUL");
            let name = String::from_utf8_lossy(&name[..end]);
            // NOBITS has no bytes.
            if kind != 8 && size > 0 {
                regions.push((of_section(&name), at..at + size));
            }
        }
        let loads = (0..n_headers).map(|n| &bytes[headers + n * 56..][..56]);
        let loads = loads.filter(|header| field(header, 0, 4) == 1);
        let loaded = loads.map(|header| field(header, 8, 8) + field(header, 32, 8));
        let loaded = loaded.max().expect("a segment");
        Self {
            name: name.into(),
            bytes,
            regions,
            loaded,
        }
    }

    /// The structures that this file has and the ones that are made of all of it.
    pub fn structures(&self) -> Vec<usize> {
        let mut found: Vec<usize> = self.regions.iter().map(|region| region.0).collect();
        found.extend(structure("truncation")..STRUCTURES.len());
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Whether a byte of code differs.
    pub fn differs_in_code(&self, mutant: &[u8]) -> bool {
        let code = self
            .regions
            .iter()
            .filter(|region| STRUCTURES[region.0] == "code");
        code.into_iter()
            .any(|(_, range)| mutant.get(range.clone()) != Some(&self.bytes[range.clone()]))
    }

    /// The mutant with nothing that ld.so calls while it relocates: functions that choose functions
    /// become ordinary ones. What still crashes is not their doing.
    pub fn without_resolvers(&self, mutant: &[u8]) -> Vec<u8> {
        let mut bytes = mutant.to_vec();
        for (structure, range) in &self.regions {
            let (size, at, from, to) = match STRUCTURES[*structure] {
                ".dynsym" => (24, 4, 10, 2),
                ".rela.dyn" | ".rela.plt" => (24, 8, 37, 8),
                _ => continue,
            };
            let mask = if from == 10 { 0xf } else { 0xff };
            for entry in bytes[range.clone()].chunks_exact_mut(size) {
                if entry[at] & mask == from {
                    entry[at] = entry[at] & !mask | to;
                }
            }
        }
        bytes
    }

    /// The `n`th damaged copy in one structure; its number decides together with `random`.
    pub fn mutant(&self, structure: usize, n: usize, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let len = bytes.len();
        match STRUCTURES[structure] {
            "truncation" => {
                // At every page, and one byte to either side.
                let page = n / 3 % len.div_ceil(4096);
                let at = (page * 4096 + n % 3).saturating_sub(1);
                bytes.truncate(at.min(len - 1));
            }
            // Only where loaded bytes get lost, which a copy that was cut short does.
            "zeroed tail" => bytes[random.below(self.loaded)..].fill(0),
            "page or sector" => {
                let size = if random.below(3) == 0 { 512 } else { 4096 };
                let at = random.below(self.loaded) / size * size;
                let fill = random.below(2) == 0;
                for byte in bytes[at..].iter_mut().take(size) {
                    *byte = if fill { 0 } else { random.number() as u8 };
                }
            }
            "1-4 flips" => {
                for _ in 0..=random.below(4) {
                    let at = random.below(self.loaded);
                    bytes[at] ^= 1 << random.below(8);
                }
            }
            _ => {
                let regions: Vec<_> = self
                    .regions
                    .iter()
                    .filter(|region| region.0 == structure)
                    .collect();
                let (_, range) = regions[random.below(regions.len())];
                damage(&mut bytes, range.clone(), random);
            }
        }
        bytes
    }
}

/// Changes something in `range`: a bit, a field to a telling value, or a few bytes.
fn damage(bytes: &mut [u8], range: Range<usize>, random: &mut Random) {
    let (start, size) = (range.start, range.len());
    match random.below(8) {
        0..=2 => bytes[start + random.below(size)] ^= 1 << random.below(8),
        3..=6 => {
            let width = [1, 2, 4, 8][random.below(4)].min(size);
            let at = start + random.below(size / width) * width;
            let mut word = [0; 8];
            word[..width].copy_from_slice(&bytes[at..at + width]);
            let old = u64::from_le_bytes(word);
            let values = [
                0,
                1,
                u64::MAX,
                u64::MAX >> 1,
                old.wrapping_add(1),
                old.wrapping_sub(1),
                old.wrapping_add(8),
                old.wrapping_sub(8),
                old.wrapping_add(0x1000),
                old.wrapping_sub(0x1000),
                old << 1,
                old ^ 1 << 31,
                bytes.len() as u64,
                random.number(),
            ];
            let new = values[random.below(values.len())].to_le_bytes();
            bytes[at..at + width].copy_from_slice(&new[..width]);
        }
        kind => {
            let at = start + random.below(size);
            let end = (at + 1 + random.below(64)).min(range.end);
            for byte in &mut bytes[at..end] {
                *byte = if kind == 7 && size % 2 == 0 {
                    0
                } else {
                    random.number() as u8
                };
            }
        }
    }
}
