//! The tables, and the page that shows them.

use std::fmt::Write;

use super::cells::{Cell, Ending};
use super::{Column, Language, Method, ROWS};

/// The file, from the repository's root.
pub const FILE: &str = "docs/unload-matrix.md";

const TOP: &str = "\
# What leaves, and what does not

What a plugin does, in rows, by the thread that has it do so, in columns, and what then becomes of
the plugin: with Plug, and beside it with plain `dlopen` and `dlclose` (by libloading). Each cell is
a process of its own. Written by `PLUG_WRITE_MATRIX=1 cargo test -p plug-tests --test
unload_matrix`, which without the variable runs all cells, too, and fails where one of Plug's ends
otherwise than is said here.

The threads: *main* is the process's main thread, which also loads and unloads; *busy* is a worker
that passes quiescent points all the time; *sleeping* is a worker that sleeps and may be woken; *joined*
is a worker that has ended when the plugin is unloaded; *foreign* is a thread that the loader knows
nothing of, asleep. All but the joined one live on. To `dlopen` they are all just threads.

With Plug:

- **unloaded**: out of the process when the unload returns, all destructors run;
- *after its thread*: a zombie that names the foreign thread by number and name, and is unloaded within
  100 ms of that thread's end, its destructors run on that thread;
- *names its thread*: a zombie that names the thread which the plugin left running, by number, name and
  start function; unloaded within 100 ms of that thread's end;
- *for ever*: the same, with a thread that never ends;
- *pinned*: mapped for ever, and says why.

With `dlopen`:

- **unloaded**: out of the process when `dlclose` returns, all destructors run;
- *stays*: `dlclose` returns 0, and the object or its file stays mapped, whatever ends later;
- *wrong answer*: the plugin got the library of another one;
- *skips*: unloaded, and a destructor that was owed has not run;
- a signal's name: the process dies of it, and when: while it *closes*, *soon after*, at the *thread's
  end*, or at the *process's end*.

In both, all threads end at last, then the process; every cell of Plug's survives that.
";

fn word(ending: &Ending) -> String {
    match ending {
        Ending::Unloaded => "**unloaded**".to_owned(),
        Ending::Later(why, _) if why.contains("still runs") => "names its thread".to_owned(),
        Ending::Later(..) => "after its thread".to_owned(),
        Ending::Kept(_) => "for ever".to_owned(),
        Ending::Pinned(_) => "pinned".to_owned(),
        Ending::Mapped => "stays".to_owned(),
        Ending::Skipped => "skips".to_owned(),
        Ending::Died(when, how) => {
            let when = match *when {
                "while it closes" => "closes",
                "when the thread ends" => "thread's end",
                "when the process ends" => "process's end",
                other => other,
            };
            format!("{}, {when}", how.lines().next().unwrap_or_default())
        }
        Ending::Failed(why) => why.lines().next().unwrap_or_default().to_owned(),
    }
}

/// One method's table for one language.
pub fn table(cells: &[Cell], language: Language, method: Method) -> String {
    let mut text = String::from("| what the plugin does |");
    for column in Column::ALL {
        write!(text, " {} |", column.name()).expect("memory");
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(Column::ALL.len()));
    text.push('\n');
    for (at, row) in ROWS.iter().enumerate() {
        let mut cells = Column::ALL.iter().filter_map(|column| {
            let is = |c: &&Cell| c.row == at && c.column == *column && c.method == method;
            cells.iter().find(is)
        });
        if row.language != language {
            continue;
        }
        let first = cells.next();
        if first.is_none() {
            continue;
        }
        write!(text, "| {} |", row.name).expect("memory");
        for cell in first.into_iter().chain(cells) {
            write!(text, " {} |", word(&cell.ending)).expect("memory");
        }
        text.push('\n');
    }
    text
}

/// A table's heading.
pub fn heading(language: Language, method: Method) -> String {
    let method = match method {
        Method::Plug => "with Plug",
        Method::Plain => "with dlopen and dlclose",
    };
    format!("## {}, {method}\n", language.name())
}

/// The page as a whole.
pub fn page(machine: &str, cells: &[Cell]) -> String {
    let mut page = format!("{TOP}\nWritten on: {machine}.\n");
    for language in Language::ALL {
        for method in [Method::Plug, Method::Plain] {
            let (heading, table) = (heading(language, method), table(cells, language, method));
            write!(page, "\n{heading}\n{table}").expect("memory");
        }
    }
    page
}
