//! What is still mapped of a load that was given back to ld.so, and why.

#![forbid(unsafe_code)]

use std::ffi::{CStr, CString};

use crate::record::Record;
use crate::sys::link_map::{self, Holder};

/// Looks which of the objects that ld.so called `names` it still has: one reason for each, with
/// whoever holds it as far as that can be seen; none where all are gone. Parts of the load that are
/// unmapped are no longer shown to readers.
pub(crate) fn of(record: Option<&Record>, names: &[CString]) -> Vec<String> {
    let names: Vec<&CStr> = names.iter().map(CString::as_c_str).collect();
    let still = link_map::still_mapped(&names);
    let Some(record) = record else {
        let all = still.iter().map(|name| name.to_string_lossy());
        return all
            .map(|name| format!("{name} is still mapped after dlclose"))
            .collect();
    };
    record.note_gone(&still);
    let mut reasons = Vec::new();
    for (n, part) in record.parts.iter().enumerate() {
        if part.gone.get().is_some() {
            continue;
        }
        let who = match n {
            0 => "still mapped after dlclose".to_owned(),
            _ => format!("its dependency {} is still mapped after dlclose", part.path),
        };
        let holders = link_map::holders(part.start..part.end, &names);
        let why = match holders.first() {
            Some(Holder { name, symbol }) => {
                let others = match holders.len() {
                    1 => String::new(),
                    n => format!(", as are {} others", n - 1),
                };
                let (name, symbol) = (name.to_string_lossy(), symbol.to_string_lossy());
                format!(": {name} is bound to its symbol {symbol}{others}")
            }
            // Said already.
            None if !record.pinned_because.is_empty() => String::new(),
            None => {
                ": a thread-local destructor, another object or a flag of the file holds it".into()
            }
        };
        reasons.push(who + &why);
    }
    if reasons.is_empty() && !still.is_empty() {
        reasons.push("ld.so still has the root by which it was opened".to_owned());
    }
    reasons
}
