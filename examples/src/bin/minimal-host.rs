use plug_loader::{Config, Deadline, Loader, Params, Policy, Source, Trust};
use std::{env, error::Error, time::Duration};

fn main() -> Result<(), Box<dyn Error>> {
    let file = env::args().nth(1).ok_or("usage: minimal-host PLUGIN")?;
    // SAFETY: whoever runs this vouches for the file and for the signature of its `add`.
    let trust = unsafe { Trust::new(Policy::default()) };
    let loader = Loader::new(Config::default())?;
    let plugin = loader.load(&trust, Source::path(file), &Params::new())?;
    let add = plugin.function::<unsafe extern "C" fn(u64, u64) -> u64>("add")?;
    println!("2 + 3 = {}", unsafe { add.call((2, 3)) }?);
    let verdict = loader.unload(plugin.name(), Deadline::after(Duration::from_secs(5)))?;
    println!("{verdict}");
    Ok(())
}
