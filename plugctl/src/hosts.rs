//! `plugctl hosts`, and how the other commands find their host.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plug_loader::control::directories;
use rustix::process::geteuid;
use serde::Serialize;

use crate::client::{Client, Nothing};
use crate::failure::{FAILED, Failure, NOT_FOUND, Outcome, USAGE};
use crate::render::Render;
use plug_loader::control::messages::DescribeReply;

/// How long a host may take to say who it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// A socket as its name tells.
#[derive(Clone, Debug)]
struct Address {
    socket: PathBuf,
    name: String,
    pid: u32,
}

/// A live host. In JSON: what `Describe` tells, and the socket.
#[derive(Debug, Serialize)]
pub(crate) struct LiveHost {
    pub(crate) name: String,
    pub(crate) pid: u32,
    pub(crate) version: String,
    pub(crate) membarrier: bool,
    pub(crate) workers: u64,
    pub(crate) plugins: u64,
    pub(crate) socket: String,
}

impl Address {
    /// The address that `NAME.PID.sock` tells.
    fn of(socket: PathBuf) -> Option<Self> {
        let file = socket.file_name()?.to_str()?;
        let (name, pid) = file.strip_suffix(".sock")?.rsplit_once('.')?;
        let (name, pid) = (name.to_owned(), pid.parse().ok()?);
        Some(Self { socket, name, pid })
    }

    fn label(&self) -> String {
        format!("host {} (pid {})", self.name, self.pid)
    }

    fn is_called(&self, text: &str) -> bool {
        self.name == text || self.pid.to_string() == text
    }
}

/// Where hosts are looked for: in `$XDG_RUNTIME_DIR` only where that is set, since it says where
/// they are; else in all folders that a host of this user may have chosen.
fn folders() -> Vec<PathBuf> {
    let mut folders = directories();
    if env::var_os("XDG_RUNTIME_DIR").is_some() {
        folders.truncate(1);
    }
    folders
}

/// The sockets of this user's hosts that somebody listens on, connected.
fn live() -> Vec<(Address, Client)> {
    let mut found = Vec::new();
    for folder in folders() {
        // Nobody else can have put a socket there, or it is not looked at.
        let own = fs::symlink_metadata(&folder).is_ok_and(|metadata| {
            metadata.is_dir()
                && metadata.uid() == geteuid().as_raw()
                && metadata.mode() & 0o022 == 0
        });
        if !own {
            continue;
        }
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let addresses = entries.filter_map(|entry| Address::of(entry.path()));
        found.extend(addresses.filter_map(|address| {
            let client = Client::connect(&address.socket, address.label()).ok()?;
            Some((address, client))
        }));
    }
    found.sort_by(|(a, _), (b, _)| (&a.name, a.pid).cmp(&(&b.name, b.pid)));
    found
}

/// Connects to the host that `--host` names, or to the only live one.
pub(crate) fn connect(host: Option<&str>) -> Result<Client, Failure> {
    if let Some(socket) = host.filter(|host| host.contains('/')) {
        let label = format!("host at {socket}");
        return Client::connect(Path::new(socket), label).map_err(|error| {
            let code = match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => NOT_FOUND,
                _ => FAILED,
            };
            Failure::new(code, "no_host", format!("no host at {socket}: {error}"))
        });
    }
    let mut found = live();
    if let Some(name) = host {
        found.retain(|(address, _)| address.is_called(name));
    }
    let called = host.map_or_else(String::new, |name| format!(" called {name}"));
    if found.len() > 1 {
        let each: Vec<String> = found
            .iter()
            .map(|(address, _)| format!("{} (pid {})", address.name, address.pid))
            .collect();
        let message = format!(
            "several live hosts{called}: {}; choose one with --host PID",
            each.join(", ")
        );
        return Err(Failure::new(USAGE, "several_hosts", message));
    }
    match found.pop() {
        Some((_, client)) => Ok(client),
        None => {
            let message = format!("no live host{called}");
            Err(Failure::new(NOT_FOUND, "no_host", message))
        }
    }
}

/// Lists the live hosts; sockets that nobody answers on are left out.
pub(crate) fn run(render: &Render) -> Outcome {
    let hosts: Vec<LiveHost> = live()
        .into_iter()
        .filter_map(|(address, mut client)| {
            client.set_patience(PATIENCE).ok()?;
            let told: DescribeReply = client.call("Describe", &Nothing {}).ok()?;
            Some(LiveHost {
                name: told.name,
                pid: told.pid,
                version: told.version,
                membarrier: told.membarrier,
                workers: told.workers,
                plugins: told.plugins,
                socket: address.socket.display().to_string(),
            })
        })
        .collect();
    render.hosts(&hosts);
    Ok(if hosts.is_empty() { FAILED } else { 0 })
}
