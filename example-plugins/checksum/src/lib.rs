//! The POSIX checksum of a stream, as `cksum` prints it: the CRC of the bytes followed by their
//! count, and the count.

use plug_api::{Context, Error};
use plug_filter::{Filter, FilterV1, Output, Params};

plug_api::plugin! {
    name: "checksum",
    version: env!("CARGO_PKG_VERSION"),
    description: "the POSIX checksum of a stream, as cksum prints it",
    license: "MIT OR Apache-2.0",
    init: init,
    exit: exit,
    interfaces: [FilterV1 => FilterV1::of::<Checksum>()],
}

plug_api::export! {
    /// The checksum of the `len` bytes at `ptr`.
    ///
    /// # Safety
    /// - `ptr` points to `len` readable bytes, or `len` is 0.
    pub unsafe fn checksum_of(ptr: *const u8, len: usize) -> u64 {
        let bytes = if len == 0 {
            &[]
        } else {
            // SAFETY: the caller promises `len` readable bytes.
            unsafe { std::slice::from_raw_parts(ptr, len) }
        };
        let mut checksum = Checksum::new();
        checksum.update(bytes);
        u64::from(checksum.value())
    }
}

fn init(ctx: &Context) -> plug_api::Result {
    ctx.debug("checksum is ready");
    Ok(())
}

fn exit() {}

/// The CRC-32 polynomial of POSIX, most significant bit first.
const POLYNOMIAL: u32 = 0x04c1_1db7;

/// Bytes taken at once.
const STEP: usize = 16;

/// `TABLES[k][b]`: what byte `b` contributes when `k` more bytes follow it in its step.
static TABLES: [[u32; 256]; STEP] = tables();

const fn tables() -> [[u32; 256]; STEP] {
    let mut tables = [[0; 256]; STEP];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000_0000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ POLYNOMIAL
            };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut k = 1;
    while k < STEP {
        let mut byte = 0;
        while byte < 256 {
            let crc = tables[k - 1][byte];
            tables[k][byte] = (crc << 8) ^ tables[0][(crc >> 24) as usize];
            byte += 1;
        }
        k += 1;
    }
    tables
}

/// The checksum of a stream so far.
#[derive(Clone, Debug, Default)]
pub struct Checksum {
    crc: u32,
    len: u64,
}

impl Checksum {
    /// Of nothing.
    pub const fn new() -> Checksum {
        Checksum { crc: 0, len: 0 }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let mut crc = self.crc;
        let mut steps = bytes.chunks_exact(STEP);
        for step in &mut steps {
            let mut block: [u8; STEP] = step.try_into().expect("chunks_exact gives whole steps");
            for (byte, state) in block.iter_mut().zip(crc.to_be_bytes()) {
                *byte ^= state;
            }
            crc = 0;
            for (k, byte) in block.into_iter().enumerate() {
                crc ^= TABLES[STEP - 1 - k][usize::from(byte)];
            }
        }
        for &byte in steps.remainder() {
            crc = next(crc, byte);
        }
        self.crc = crc;
        self.len += bytes.len() as u64;
    }

    /// The checksum of all bytes taken.
    pub fn value(&self) -> u32 {
        let (mut crc, mut rest) = (self.crc, self.len);
        while rest > 0 {
            crc = next(crc, rest.to_le_bytes()[0]);
            rest >>= 8;
        }
        !crc
    }
}

fn next(crc: u32, byte: u8) -> u32 {
    let [high, ..] = crc.to_be_bytes();
    (crc << 8) ^ TABLES[0][usize::from(high ^ byte)]
}

impl Filter for Checksum {
    fn create(_: &Params) -> Result<Self, Error> {
        Ok(Checksum::new())
    }

    fn process(&mut self, input: &[u8], _: &mut Output<'_>) -> plug_api::Result {
        self.update(input);
        Ok(())
    }

    fn finish(&mut self, out: &mut Output<'_>) -> plug_api::Result {
        out.write(format!("{} {}\n", self.value(), self.len).as_bytes())
    }
}
