//! The programs everybody has, which say what the filters should have written.

use std::io::{self, Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;

use crate::digest::{Digest, Value};

/// The commands whose output the filter `name` claims to give.
fn commands(name: &str) -> Option<&'static [&'static [&'static str]]> {
    Some(match name {
        "checksum" => &[&["cksum"]],
        "base64" => &[&["base64", "-w0"]],
        // White space at the very beginning would leave an empty line, which is no word.
        "wordcount" => &[
            &["tr", "-s", "[:space:]", "\\n"],
            &["sed", "1{/^$/d}"],
            &["sort"],
            &["uniq", "-c"],
        ],
        _ => return None,
    })
}

/// The commands of several filters in a row; none where a filter is nobody's tool.
pub fn pipeline<'n>(names: impl Iterator<Item = &'n str>) -> Option<Vec<&'static [&'static str]>> {
    let all: Option<Vec<_>> = names.map(commands).collect();
    Some(all?.concat())
}

/// The commands as one would type them.
pub fn line(commands: &[&[&str]]) -> String {
    let typed: Vec<String> = commands.iter().map(|words| words.join(" ")).collect();
    typed.join(" | ")
}

/// Runs `commands` on `input`, one feeding the next, and says what came out.
pub fn run(commands: &[&[&str]], input: &[u8]) -> Result<Value, String> {
    let mut children: Vec<(&str, Child)> = Vec::new();
    for words in commands {
        let (program, arguments) = words.split_first().expect("a command has a name");
        let before = children
            .last_mut()
            .and_then(|(_, child)| child.stdout.take());
        let child = Command::new(program)
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(before.map_or_else(Stdio::piped, Stdio::from))
            .stdout(Stdio::piped())
            .spawn();
        match child {
            Ok(child) => children.push((program, child)),
            Err(error) => {
                for (_, child) in &mut children {
                    // Whoever is left gets the end of its input and is not waited for in vain.
                    drop(child.stdin.take());
                    let _ended = child.kill().and_then(|()| child.wait());
                }
                return Err(format!("tool missing: {program}: {error}"));
            }
        }
    }
    let mut stdin = children
        .first_mut()
        .and_then(|(_, child)| child.stdin.take());
    let stdout = children
        .last_mut()
        .and_then(|(_, child)| child.stdout.take());
    let digest = thread::scope(|scope| {
        scope.spawn(move || {
            // A tool that stops reading has its own status to say why.
            let _written = stdin.as_mut().map(|stdin| stdin.write_all(input));
        });
        digest_of(stdout)
    });
    for (program, child) in &mut children {
        match child.wait() {
            Ok(status) if status.success() => {}
            Ok(status) => return Err(format!("{program}: {status}")),
            Err(error) => return Err(format!("{program}: {error}")),
        }
    }
    digest.map_err(|error| format!("output of {}: {error}", line(commands)))
}

fn digest_of(from: Option<impl Read>) -> io::Result<Value> {
    let mut digest = Digest::new();
    if let Some(mut from) = from {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => digest.update(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(digest.value())
}
