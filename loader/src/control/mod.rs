//! The control socket: operators see and change a live host from outside.
//!
//! Off unless the host calls [`Loader::serve_control`]. Speaks varlink over a Unix socket that
//! only this user and root reach; any varlink client will do. The interface is
//! `dev.plug.Host.varlink` ([`messages::DESCRIPTION`]); [`messages`] has its types.
//!
//! # What clients cannot do
//! - Hold up a worker, a signal handler or the loader: one thread serves all of them, waits for
//!   none, and works at most a quarter of the time; loads and unloads run on threads of their own.
//! - Make the host keep much: 16 clients; 64 KiB and two descriptors a message, which must arrive
//!   within 5 seconds; answers are made as fast as they are read.
//! - Stay for nothing: 30 seconds without a call, an answer or a stream, or with an answer that is
//!   not read, and the connection is closed. Where all places are taken, whoever has been idle
//!   longest, at least a second, makes room for a newcomer; else that one waits to be let in.
//!
//! A client that goes while the host works for it loses only the answer.

#![forbid(unsafe_code)]

use std::env;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::thread::{self, JoinHandle};

use rustix::io::Errno;

use crate::error::{Error, ErrorKind};
use crate::image::is_name;
use crate::loader::Loader;
use crate::trust::Trust;

mod bell;
mod connection;
mod directory;
mod guard;
mod jobs;
mod listing;
mod loading;
pub mod messages;
mod methods;
mod rows;
mod server;
mod socket;
mod wire;

pub use directory::directories;

use bell::Bell;
use methods::Host;
use server::Serving;

/// How the control socket is made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The host's name, 1 to 64 of `A-Z a-z 0-9 _ -`. Default: the executable's file name.
    pub name: Option<String>,
    /// Where the socket is. Default: `NAME.PID.sock` in the first of [`directories`], which is
    /// made with mode 0700, or checked. A path given here is taken as it is: its folder must
    /// exist, and keeping others out of it is the host's task.
    pub socket: Option<PathBuf>,
    /// Bytes of the largest file that is loaded for a client. Default 256 MiB.
    pub max_file: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: None,
            socket: None,
            max_file: 256 << 20,
        }
    }
}

/// A control socket that is open. Dropping it removes the socket and ends the thread; loads and
/// unloads that clients began are finished.
#[must_use = "the socket is closed when this is dropped"]
pub struct Server {
    path: PathBuf,
    /// The process that made it: a forked child has neither the thread nor a right to the socket.
    process: u32,
    stop: Arc<AtomicBool>,
    bell: Arc<Bell>,
    waker: Waker,
    loader: Loader,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("path", &self.path).finish()
    }
}

impl Server {
    /// Where the socket is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.process != process::id() {
            return;
        }
        // First, so that nobody finds a socket without a server.
        directory::remove(&self.path);
        // SeqCst: read behind the bell; cold.
        self.stop.store(true, Ordering::SeqCst);
        self.bell.ring();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!(target: "plug::control", "the server's thread had panicked");
        }
        self.loader.process.events.remove_waker(&self.waker);
    }
}

impl Loader {
    /// Opens the control socket, served by one thread until the value is dropped.
    ///
    /// Clients load with the word that `trust` gives; sockets that dead hosts left in the same
    /// folder are removed.
    ///
    /// # Errors
    /// [`ErrorKind::Control`] when the socket cannot be made: a bad name, a folder that is not
    /// this user's alone, a path that is too long or taken; [`ErrorKind::Thread`].
    pub fn serve_control(&self, trust: &Trust, options: Options) -> Result<Server, Error> {
        let Options {
            name,
            socket,
            max_file,
        } = options;
        let name = match name {
            Some(name) if is_name(&name) => name,
            Some(name) => {
                return Err(refusal(format!(
                    "name: expected 1 to 64 of A-Z a-z 0-9 _ -, found {name:?}"
                )));
            }
            None => default_name(),
        };
        let path = match socket {
            Some(path) => path,
            None => {
                let folder = directory::prepare().map_err(refusal)?;
                directory::sweep(&folder);
                folder.join(format!("{name}.{}.sock", process::id()))
            }
        };
        let listener = listen(&path)?;
        let made = Made { path: Some(path) };
        let bell = Bell::new().map_err(|error| {
            refusal("no descriptor to wake the server by".to_owned()).because(error)
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let host = Host {
            loader: self.clone(),
            trust: trust.again(),
            name,
            max_file,
            guards: Arc::default(),
        };
        let serving = Serving::new(
            Arc::new(host),
            listener,
            Arc::clone(&bell),
            Arc::clone(&stop),
        );
        let thread = thread::Builder::new()
            .name("plug-control".into())
            .spawn(move || serving.run())
            .map_err(|error| {
                Error::new(ErrorKind::Thread, "no thread for the control socket").because(error)
            })?;
        let waker = Waker::from(Arc::clone(&bell));
        self.process.events.add_waker(waker.clone());
        Ok(Server {
            path: made.keep(),
            process: process::id(),
            stop,
            bell,
            waker,
            loader: self.clone(),
            thread: Some(thread),
        })
    }
}

/// A socket that is removed again unless it is kept.
struct Made {
    path: Option<PathBuf>,
}

impl Made {
    fn keep(mut self) -> PathBuf {
        self.path.take().unwrap_or_default()
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            directory::remove(path);
        }
    }
}

/// Listens at `path`; a socket left there that nobody listens on makes room.
fn listen(path: &Path) -> Result<OwnedFd, Error> {
    let mut listener = socket::listen(path);
    if matches!(listener, Err(Errno::ADDRINUSE)) && socket::is_deserted(path) {
        directory::remove(path);
        listener = socket::listen(path);
    }
    listener.map_err(|error| {
        let shown = path.display().to_string();
        refusal(match error {
            Errno::NAMETOOLONG => format!(
                "socket {shown:?}: expected at most 107 bytes, found {}; choose a shorter name or \
                 path",
                shown.len()
            ),
            Errno::ADDRINUSE => format!("socket {shown:?}: something is there; choose another"),
            _ => format!("socket {shown:?}: not made"),
        })
        .because(error)
    })
}

fn refusal(message: String) -> Error {
    Error::new(ErrorKind::Control, message)
}

/// The executable's file name, with what a name may not have replaced.
fn default_name() -> String {
    let executable = env::current_exe().unwrap_or_default();
    let file = executable.file_name().unwrap_or_default().to_string_lossy();
    let name: String = file
        .chars()
        .map(|c| match c {
            'A'..='Z' | 'a'..='z' | '0'..='9' | '-' | '_' => c,
            _ => '_',
        })
        .take(64)
        .collect();
    if name.is_empty() {
        "host".to_owned()
    } else {
        name
    }
}
