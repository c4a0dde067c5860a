//! The page with the tables.

use std::fmt::Write;

use crate::WORKERS;
use crate::rows::{ALL, Row, What};

const TOP: &str = "\
# What loading does to workers

Plug's claim is that a load stops, signals and waits for no worker, so that workers can hardly
tell whether plugins are being loaded. This page is that claim measured, by one command, which also writes
it: `cargo bench -p benches --bench claim`.

Workers do pieces of work of some 80 ns and read the list of plugins before each. A *gap* is a pause
of more than 0.5 us between two pieces: an interrupt, a wait, a turn on the processor lost to
somebody else. The loader has one processor to itself and the workers have the others, so that what
is counted is what a load does to them and not that two threads want one processor. 16 plugins are
loaded throughout. Everything is measured in windows of 0.4 s, in turns, eleven times; figures
are medians, with the least and the most in brackets. Where somebody else on the machine took a tenth
of a window's processors, it is repeated, twice at the most, and the least disturbed one counts; the
last table says how much was still lost. Gaps are counted over a second of the workers' own processor
time, all workers together.

What the rows are:

- *nothing*: what the machine does to workers anyway, its own clock and everybody else on it included;
- *Plug: publish*: what every load of Plug's does to readers, alone and as often as said. Replaced
  lists are freed by the background drainer all the while;
- *publish and one membarrier*: the same, if each load waited for a grace period and freed at once;
- *arc-swap: store*: a copy of the list is stored, and workers read by `ArcSwap::load`;
- *stop the world*: each publication stops all workers, which look before each piece of work;
- *dlopen*, *Plug: load*: real libraries, another one each time, and none is unloaded in the window;
- *failing*: a library that needs a symbol nobody defines. ld.so notices when it has mapped it and
  relocated most of it, and Plug leaves that to ld.so.

A row with arc-swap's readers or with stoppable workers is to be compared with the *nothing* of the
same readers; a load of Plug's with *dlopen* at the same rate, since mapping a library into a process
interrupts its threads whoever asks for it: translations that changed must be forgotten everywhere.

A publication of Plug's interrupts nobody: it makes no system call that another processor notices.
The first piece of work after one still has the new list to fetch, from the loader's processor. That
some publications count as gaps, with Plug as with arc-swap, is thought to be that fetch, which comes
near half a microsecond on this machine; it was not measured by itself. What it costs is seen in the
second table.
";

/// The page as a whole.
pub fn page(machine: &str, rows: &[Row]) -> String {
    let mut page = format!("{TOP}\nMeasured on: {machine}.\n\n![the plot](claim.svg)\n");
    let mut table = |title: &str, cell: fn(&Row) -> String| {
        write!(page, "\n## {title}\n\n| a second | what |").expect("memory");
        for n in WORKERS {
            let word = if n == 1 { "worker" } else { "workers" };
            write!(page, " {n} {word} |").expect("memory");
        }
        page.push_str("\n|---|---|");
        page.push_str(&"---|".repeat(WORKERS.len()));
        page.push('\n');
        for (what, (kind, rate)) in ALL.iter().enumerate() {
            write!(page, "| {} | {} |", often(*rate), kind.name()).expect("memory");
            for n in WORKERS {
                let mut found = rows.iter().filter(|r| r.workers == n && r.what == what);
                write!(page, " {} |", found.next().map_or("-".into(), cell)).expect("memory");
            }
            page.push('\n');
        }
    };
    table("Gaps in a second of work", |row| {
        let [median, least, most] = row.gaps.map(grouped);
        format!("{median} ({least} to {most})")
    });
    table("Processor time for a piece of work, in ns", |row| {
        let [median, least, most] = row.work;
        format!("{median:.1} ({least:.1} to {most:.1})")
    });
    table("How often it was done, a second", |row| grouped(row.rate));
    table("Resident memory at the most, in MiB", |row| {
        format!("{:.0}", row.resident)
    });
    table("What strangers took of the processors, in %", |row| {
        format!("{:.0}", row.lost)
    });
    page
}

/// How often something is to be done.
fn often(rate: f64) -> String {
    if rate == 0.0 {
        String::new()
    } else {
        grouped(rate)
    }
}

/// A whole number with commas.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A row's name in the plot.
pub fn label((kind, rate): What) -> String {
    match rate {
        0.0 => kind.name().to_owned(),
        rate => format!("{}, {} a second", kind.name(), grouped(rate)),
    }
}
