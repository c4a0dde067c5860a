//! Loads any shared library, plugin or not: lists what it exports, or calls one function.
//!
//! `foreign /lib/x86_64-linux-gnu/libz.so.1 zlibVersion --string`

use std::error::Error;
use std::ffi::{CStr, c_char};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use plug_loader::{
    CallError, Config, Deadline, Loader, Params, Plugin, Policy, Source, Trust, Unloaded,
};

/// Lists the exports of a shared library, or calls one of its functions.
#[derive(Debug, Parser)]
struct Options {
    /// The library.
    file: PathBuf,
    /// The function to call; without one the exports are listed.
    function: Option<String>,
    /// Up to six integers, decimal or 0x-hexadecimal, maybe negative.
    #[arg(value_parser = integer, allow_negative_numbers = true, num_args = 0..=6)]
    arguments: Vec<u64>,
    /// The function returns a C string.
    #[arg(long, requires = "function")]
    string: bool,
}

fn integer(text: &str) -> Result<u64, String> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let parsed = match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => digits.parse(),
    };
    match parsed {
        Ok(number) if negative => Ok(number.wrapping_neg()),
        Ok(number) => Ok(number),
        Err(error) => Err(error.to_string()),
    }
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("foreign: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    // SAFETY: whoever runs this names the library and the function, and vouches for both.
    let trust = unsafe { Trust::new(Policy::default()) };
    let loader = Loader::new(Config::default())?;
    let library = loader.load(&trust, Source::path(&options.file), &Params::new())?;
    let mut out = io::stdout().lock();
    match &options.function {
        None => {
            for (name, address) in library.symbols() {
                writeln!(out, "{address:#018x} {}", String::from_utf8_lossy(&name))?;
            }
        }
        Some(function) => {
            // Whatever a string points at may lie in the library: the pin keeps it until printed.
            let pin = library.pin()?;
            let value = call(&library, function, &options.arguments)?;
            match options.string {
                true if value == 0 => writeln!(out, "null")?,
                true => {
                    // SAFETY: the caller says that the function returns a C string.
                    let text = unsafe { CStr::from_ptr(value as *const c_char) };
                    writeln!(out, "{}", text.to_string_lossy())?;
                }
                false => writeln!(out, "{value} {value:#x}")?,
            }
            drop(pin);
        }
    }
    match loader.unload(library.name(), Deadline::after(Duration::from_secs(5)))? {
        Unloaded::Gone(_) => writeln!(out, "unloaded")?,
        Unloaded::Zombie(left) | Unloaded::Pinned(left) => writeln!(out, "{left}")?,
    }
    Ok(())
}

/// Calls `function` with as many arguments as there are.
fn call(library: &Plugin, function: &str, arguments: &[u64]) -> Result<u64, Box<dyn Error>> {
    macro_rules! call {
        ($($argument:ident)*) => {{
            type Function = unsafe extern "C" fn($(call!(@type $argument)),*) -> u64;
            let function = library.function::<Function>(function)?;
            // SAFETY: whoever runs this vouches for the number and kind of the arguments.
            unsafe { function.call(($(*$argument,)*)) }
        }};
        (@type $argument:ident) => { u64 };
    }
    let returned: Result<u64, CallError> = match arguments {
        [] => call!(),
        [a] => call!(a),
        [a, b] => call!(a b),
        [a, b, c] => call!(a b c),
        [a, b, c, d] => call!(a b c d),
        [a, b, c, d, e] => call!(a b c d e),
        [a, b, c, d, e, f] => call!(a b c d e f),
        more => return Err(format!("expected at most 6 arguments, found {}", more.len()).into()),
    };
    Ok(returned?)
}
