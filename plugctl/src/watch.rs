//! `plugctl watch`: whenever a plugin's file has changed and stopped changing, it takes the plugin's
//! place.
//!
//! The file's folder is watched and not the file, since linkers and editors write another one and give
//! it the name.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{self, Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher, recommended_watcher};
use plug_loader::Digest;
use plug_loader::authority::detached_path;
use plug_loader::control::messages::{InfoReply, NameCall};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::args;
use crate::failure::{FAILED, Failure, NOT_FOUND, Outcome};
use crate::hosts;
use crate::load::{Wanted, load};
use crate::render::Render;
use crate::replace::{replace, tell};

/// A file has stopped changing when nothing has happened to it for so long: a linker that writes a
/// large file pauses for less, and nobody waits much longer for what was built.
const SETTLED: Duration = Duration::from_millis(200);

/// How often what nobody tells of is looked at: whether a folder that went is back, or a host is free.
const LOOK: Duration = Duration::from_secs(1);

/// Watches until a signal ends it.
pub(crate) fn run(args: &args::Watch, host: Option<&str>, render: &Render) -> Outcome {
    // Before any thread, so that no signal ends the process half-way.
    let mut signals = Signals::new([SIGTERM, SIGINT])
        .map_err(|error| Failure::new(FAILED, "signals", format!("no signal handler: {error}")))?;
    // Whether there is one is known at once; one that goes later may come back.
    drop(hosts::connect(host)?);
    let (end, ended) = mpsc::channel();
    let by_signal = end.clone();
    start("signals", move || {
        let signal = signals.forever().next().unwrap_or(SIGTERM);
        // As shells tell of programs that a signal ended.
        let code = u8::try_from(128 + signal).unwrap_or(FAILED);
        let _heard = by_signal.send(Ok(code));
    })?;
    let (host, render) = (host.map(str::to_owned), *render);
    let watch = Watch::new(args.clone(), host, render)?;
    start("watch", move || {
        let _heard = end.send(Err(watch.run()));
    })?;
    ended.recv().unwrap_or(Ok(FAILED))
}

fn start(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let builder = thread::Builder::new().name(name.to_owned());
    let started = builder.spawn(run).map(drop);
    started.map_err(|error| Failure::new(FAILED, "thread", format!("no thread: {error}")))
}

type Told = notify::Result<notify::Event>;

struct Watch {
    args: args::Watch,
    host: Option<String>,
    render: Render,
    /// What is watched; absolute, as it is told of.
    folder: PathBuf,
    /// Whether the folder was given, and not the file.
    is_folder: bool,
    /// For the next watcher.
    teller: Sender<Told>,
    told: Receiver<Told>,
    /// What tells; none while the folder is gone.
    watcher: Option<RecommendedWatcher>,
}

/// What tells one state of a file from another.
type Stamp = (u64, u64, u64, i64, i64);

impl Watch {
    fn new(args: args::Watch, host: Option<String>, render: Render) -> Result<Self, Failure> {
        let is_folder = args.path.is_dir();
        let path = path::absolute(&args.path).map_err(|error| Failure::file(&args.path, &error))?;
        let folder = match path.parent() {
            Some(parent) if !is_folder => parent.to_owned(),
            _ => path,
        };
        let (teller, told) = mpsc::channel();
        let mut watch = Self {
            args,
            host,
            render,
            folder,
            is_folder,
            teller,
            told,
            watcher: None,
        };
        watch.listen().map_err(|error| {
            let is_missing = matches!(&error.kind, notify::ErrorKind::PathNotFound)
                || matches!(&error.kind, notify::ErrorKind::Io(e) if e.kind() == io::ErrorKind::NotFound);
            let code = if is_missing { NOT_FOUND } else { FAILED };
            let message = format!("{}: not watched: {error}", watch.folder.display());
            Failure::new(code, "watch", message)
        })?;
        Ok(watch)
    }

    fn listen(&mut self) -> notify::Result<()> {
        let teller = self.teller.clone();
        let mut watcher = recommended_watcher(move |told| {
            // Nobody listens any more when the program ends.
            let _heard = teller.send(told);
        })?;
        watcher.watch(&self.folder, RecursiveMode::NonRecursive)?;
        self.watcher = Some(watcher);
        Ok(())
    }

    /// Goes on until nobody tells anything any more.
    fn run(mut self) -> Failure {
        self.render.watching(&self.args.path.display().to_string());
        // What lies there may be newer than what is in force.
        let mut is_due = true;
        loop {
            if is_due {
                self.settle();
                is_due = self.take_up();
            }
            let next = match is_due || self.watcher.is_none() {
                true => self.told.recv_timeout(LOOK),
                false => self.told.recv().map_err(RecvTimeoutError::from),
            };
            match next {
                Ok(told) => is_due |= self.concerns(&told),
                // Again what could not be done, or what came while the folder was gone.
                Err(RecvTimeoutError::Timeout) => {
                    is_due |= self.watcher.is_none() && self.listen().is_ok();
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Failure::new(FAILED, "watch", "nothing tells of changes any more");
                }
            }
        }
    }

    /// Whether something happened to the file or its signature.
    fn concerns(&mut self, told: &Told) -> bool {
        let Ok(event) = told else {
            // Some may have been lost.
            return true;
        };
        let is_change = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
            EventKind::Access(_) => false,
            _ => true,
        };
        let is_gone =
            event.kind.is_remove() || matches!(event.kind, EventKind::Modify(ModifyKind::Name(_)));
        if is_gone && event.paths.contains(&self.folder) {
            self.watcher = None;
        }
        let mut names = event.paths.iter().filter_map(|path| path.file_name());
        is_change && (event.need_rescan() || names.any(|name| self.is_ours(name)))
    }

    /// Whether a file of the folder is the plugin's, or its signature.
    fn is_ours(&self, name: &OsStr) -> bool {
        let is_same = |file: &OsStr| {
            let signature = detached_path(Path::new(file));
            name == file || name == signature.as_os_str()
        };
        match self.args.path.file_name() {
            Some(file) if !self.is_folder => is_same(file),
            _ => self.names().iter().any(|file| is_same(OsStr::new(file))),
        }
    }

    /// What the plugin's file is called in a folder that is watched, the likeliest name first.
    fn names(&self) -> [String; 4] {
        let name = &self.args.name;
        let plain = name.replace('-', "_");
        [
            format!("lib{plain}.so"),
            format!("lib{name}.so"),
            format!("{plain}.so"),
            format!("{name}.so"),
        ]
    }

    /// The file, if it is there.
    fn file(&self) -> Option<PathBuf> {
        if !self.is_folder {
            return Some(self.args.path.clone()).filter(|file| file.is_file());
        }
        let files = self.names().map(|name| self.folder.join(name));
        files.into_iter().find(|file| file.is_file())
    }

    fn stamp(&self) -> Option<Stamp> {
        let stat = fs::metadata(self.file()?).ok()?;
        let size = stat.size();
        Some((
            stat.dev(),
            stat.ino(),
            size,
            stat.mtime(),
            stat.mtime_nsec(),
        ))
    }

    /// Waits until the file has stopped changing.
    fn settle(&mut self) {
        let mut last = (Instant::now(), self.stamp());
        loop {
            let rest = SETTLED.saturating_sub(last.0.elapsed());
            if rest.is_zero() {
                // What is written through a mapping is told by nobody.
                let stamp = self.stamp();
                if stamp == last.1 {
                    return;
                }
                last = (Instant::now(), stamp);
                continue;
            }
            if let Ok(told) = self.told.recv_timeout(rest)
                && self.concerns(&told)
            {
                last = (Instant::now(), self.stamp());
            }
        }
    }

    /// Loads the file, or puts it in the plugin's place, unless that is what is in force; whether to
    /// try again.
    fn take_up(&self) -> bool {
        let Some(file) = self.file() else {
            return false;
        };
        match self.load_or_replace(&file) {
            Ok(()) => false,
            Err(failure) => {
                // What may be otherwise a moment later: a plugin that leaves just now, and a host that
                // is started anew.
                let is_busy = matches!(
                    &*failure.kind,
                    "busy" | "already_loaded" | "gone" | "not_found" | "no_host" | "host_gone"
                );
                match is_busy {
                    true => self.render.waiting(&self.args.name, &failure.message),
                    false => self.render.failure(&failure.of(&self.args.name)),
                }
                is_busy
            }
        }
    }

    fn load_or_replace(&self, file: &Path) -> Result<(), Failure> {
        let args::Watch { name, how, .. } = &self.args;
        let (host, render) = (self.host.as_deref(), &self.render);
        let call = NameCall { name: name.clone() };
        let found = hosts::connect(host)?.call::<InfoReply>("Info", &call);
        let in_force = match found {
            // One that is closed and still mapped is told, too, and has given its name up.
            Ok(info) if matches!(info.plugin.state.as_str(), "Zombie" | "Pinned") => None,
            Ok(info) => Some(info.sha256),
            Err(failure) if failure.code == NOT_FOUND => None,
            Err(failure) => return Err(failure),
        };
        let digest = Digest::of_file(file).map_err(|error| Failure::file(file, &error))?;
        if in_force.as_deref() == Some(&digest.to_string()) {
            return Ok(());
        }
        let wanted = Wanted::open(file)?;
        match in_force {
            Some(_) => {
                let wait = Duration::from_secs_f64(self.args.wait);
                let reply = replace(name, &wanted, how, (wait, None), host, render)?;
                let _code = tell(&reply, wait, render);
            }
            None => {
                let reply = load(&wanted, Some(name.clone()), how, host, render)?;
                render.loaded(&reply);
            }
        }
        Ok(())
    }
}
