//! `plugctl symbols`: dynamic symbols as nm shows them.

use std::path::Path;

use plug_loader::image::{Inspection, SymbolKind};

use crate::args::{self, Target};
use crate::failure::{FAILED, Failure, Outcome};
use crate::hosts;
use crate::render::Render;
use plug_loader::control::messages::{NameCall, SymbolRow, SymbolsReply};

/// Shows the defined dynamic symbols by name.
pub(crate) fn run(args: &args::Symbols, host: Option<&str>, render: &Render) -> Outcome {
    let mut symbols = match Target::of(&args.target) {
        Target::File(path) => of_file(&path)?,
        Target::Plugin(name) => of_plugin(name, host)?,
    };
    if symbols.is_empty() {
        let message = format!("{} exports no symbols", args.target);
        return Err(Failure::new(FAILED, "no_symbols", message));
    }
    symbols.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    render.symbols(&symbols);
    Ok(0)
}

fn of_file(path: &Path) -> Result<Vec<SymbolRow>, Failure> {
    let seen = Inspection::of_file(path).map_err(|error| Failure::image(path, &error))?;
    let symbols = seen.symbols.into_iter();
    Ok(symbols
        .filter(|symbol| symbol.kind != SymbolKind::Other)
        .map(|symbol| SymbolRow {
            name: symbol.name,
            version: symbol.version,
            default: symbol.is_default,
            address: format!("{:#x}", symbol.value),
            size: symbol.size,
            kind: symbol.letter.to_string(),
        })
        .collect())
}

fn of_plugin(name: &str, host: Option<&str>) -> Result<Vec<SymbolRow>, Failure> {
    let call = NameCall {
        name: name.to_owned(),
    };
    let mut client = hosts::connect(host)?;
    client.collect("Symbols", &call, |reply: SymbolsReply| reply.symbols)
}
