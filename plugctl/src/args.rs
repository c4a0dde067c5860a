//! The command line, parsed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use plug_loader::{Action, Matter};

/// Operates the plugins of running hosts, and runs one.
///
/// Exit codes: 0 done, 1 failed or nothing found, 2 usage, 3 not found, 4 refused at once (busy),
/// 5 incompatible or damaged, 6 deadline passed, 7 zombie or pinned, 128 and its number where a signal
/// ended a watch. Of several names all are attempted; the code is the first failure's.
#[derive(Debug, Parser)]
#[command(name = "plugctl", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// The host to talk to: its name, process id or socket; default the only live one.
    #[arg(long, global = true, value_name = "NAME|PID|SOCKET")]
    pub(crate) host: Option<String>,
    /// Print JSON, one array or object a call.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Show names of symbols as files have them; JSON always does.
    #[arg(long, global = true)]
    pub(crate) no_demangle: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a host that works on an input through whatever filters are loaded.
    Serve(Serve),
    /// List the live hosts and what they can do.
    Hosts,
    /// Load a plugin: the host gets the very file that is opened here, or finds one by its directives.
    Load(Load),
    /// Put another version in a plugin's place under calls, and tell what became of the old one.
    Replace(Replace),
    /// Watch a plugin's file, for developers: whenever it has changed, it takes the plugin's place, or
    /// is loaded. Ctrl-C ends it, with 130.
    Watch(Watch),
    /// Unload plugins and tell how nobody was proved to be inside.
    Unload(Unload),
    /// Check files without a host.
    Check(Check),
    /// Show what files of directives say, with the file and the line of each value.
    Config(Config),
    /// Write a new plugin that builds, passes check and has a test.
    New(New),
    /// Make a key pair for signatures, in minisign's formats.
    Keygen(Keygen),
    /// Sign files for their name, version, ABI and build-id, as minisign does.
    Sign(Sign),
    /// Verify the signatures of files.
    Verify(Verify),
    /// Show or clear the plugins that are refused because they crashed a host or a probe.
    Quarantine {
        /// The hosts' state folder.
        #[arg(long, value_name = "DIR", global = true, required = false)]
        state: Option<PathBuf>,
        #[command(subcommand)]
        command: Quarantine,
    },
    /// List plugins: name, size and users first, as lsmod does.
    List,
    /// Show what a file or a loaded plugin says about itself, as modinfo does.
    Info(Info),
    /// Show the parameters that a file or a loaded plugin declares, or set one of a loaded plugin.
    Params(Params),
    /// Show dynamic symbols in nm's columns: link-time addresses of a file, run-time ones of a
    /// loaded plugin.
    Symbols(Symbols),
    /// Say which plugin and symbol addresses belong to.
    Resolve(Resolve),
    /// List worker threads and the plugins they are inside of.
    Workers,
    /// Show what happened to plugins.
    Events(Events),
    /// List plugins that left, the last one first.
    History,
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Write the manual pages into a folder.
    Man {
        /// The folder.
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Where to listen; default the folder of this user's hosts.
    #[arg(long, value_name = "S")]
    pub(crate) socket: Option<PathBuf>,
    /// The host's name.
    #[arg(long, default_value = "plugctl")]
    pub(crate) name: String,
    /// How many worker threads.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) workers: usize,
    /// The file to work on; default a built-in text.
    #[arg(long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// Feed what one filter writes to the next.
    #[arg(long)]
    pub(crate) chain: bool,
    /// Do not pause between blocks.
    #[arg(long)]
    pub(crate) full_speed: bool,
    /// What is asked of signatures; without one, permissive hosts taint a plugin.
    #[arg(long, value_enum, default_value_t = Signatures::Off)]
    pub(crate) signatures: Signatures,
    /// A folder of trusted public keys, *.pub.
    #[arg(long, value_name = "DIR")]
    pub(crate) keys: Option<PathBuf>,
    /// A file of denied keys and digests.
    #[arg(long, value_name = "FILE")]
    pub(crate) deny: Option<PathBuf>,
    /// Rehearse each file in another process before its first load.
    #[arg(long)]
    pub(crate) probe: bool,
    /// A folder to remember plugins in that crashed a host or a probe.
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// A folder of directives, *.toml: search paths, aliases, options, policies, what is denied and
    /// what is loaded first; may come several times, the later ones over the former.
    #[arg(long, value_name = "DIR")]
    pub(crate) config: Vec<PathBuf>,
    /// Files to load at start, or names that the directives know.
    #[arg(value_name = "PLUGIN")]
    pub(crate) plugins: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Load {
    /// The file; or a name without a slash that is no file here, for the host's directives to tell
    /// which.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) how: Loading,
    /// Load it under this name instead of its own.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Load nothing; print what --with-deps would load, in its order.
    #[arg(long, conflicts_with_all = ["params", "permanent", "force", "account", "leaks"])]
    pub(crate) dry_run: bool,
}

/// How a file is loaded.
#[derive(Clone, Debug, Args)]
pub(crate) struct Loading {
    /// Parameters for the plugin.
    #[arg(value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) params: Vec<(String, String)>,
    /// Load the plugins that it imports functions of as well, before it: those that are not there, by
    /// their names, as the host's directives tell their files.
    #[arg(long)]
    pub(crate) with_deps: bool,
    /// Never unload it.
    #[arg(long)]
    pub(crate) permanent: bool,
    /// Load it although its metadata does not fit the host; damage and signatures still count.
    #[arg(long)]
    pub(crate) force: bool,
    /// Count what it takes: heap, mappings and descriptors, for list, info and unload to show.
    #[arg(long)]
    pub(crate) account: bool,
    /// Count, and note which function allocates each block, for unload to name those that stay;
    /// some microseconds an allocation.
    #[arg(long)]
    pub(crate) leaks: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Replace {
    /// The plugin.
    pub(crate) name: String,
    /// The new version's file; or a name without a slash that is no file here, for the host's
    /// directives to tell which.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) how: Loading,
    /// Wait for so long, and where a call of the new version fails in that time, put the old one back:
    /// its very bytes, as a new generation. Ends with 1 then. The host does that by itself, also where
    /// this program is ended.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) roll_back_within: Option<Duration>,
    /// How long the old version may take to save its state, and its users to leave it.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = seconds)]
    pub(crate) wait: f64,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Watch {
    /// The plugin.
    pub(crate) name: String,
    /// Its file; or the folder in which that is called after the plugin, libNAME.so or NAME.so. A link
    /// is watched where it lies, and not where it leads.
    #[arg(value_name = "FILE|DIR")]
    pub(crate) path: PathBuf,
    #[command(flatten)]
    pub(crate) how: Loading,
    /// How long the old version may take to save its state, and its users to leave it.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = seconds)]
    pub(crate) wait: f64,
}

/// What a host asks of signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Signatures {
    Off,
    Permissive,
    Enforce,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The files.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Load and unload each in a process of its own, and tell what its author should know of that.
    #[arg(long)]
    pub(crate) probe: bool,
    /// With --probe: also call each documented function that takes nothing and returns nothing or a
    /// number, to see whether panics and exceptions are caught.
    #[arg(long, requires = "probe")]
    pub(crate) calls: bool,
    /// Overlook what a forced load would.
    #[arg(long)]
    pub(crate) force: bool,
    /// What to do about a trait such as nodelete or path: allow, taint or refuse; may come several
    /// times.
    #[arg(long, value_name = "TRAIT=ACTION", value_parser = rule)]
    pub(crate) rule: Vec<(Matter, Action)>,
}

#[derive(Debug, Args)]
pub(crate) struct Config {
    /// The folders, the later ones over the former; default /usr/lib/plug.d, /run/plug.d and
    /// /etc/plug.d, those that are there.
    #[arg(value_name = "DIR")]
    pub(crate) folders: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct New {
    /// The plugin's name: lower-case letters, digits, - and _.
    pub(crate) name: String,
    /// The language it is written in.
    #[arg(long, value_enum, default_value_t = Lang::Rust)]
    pub(crate) lang: Lang,
    /// The folder to make; default one of the plugin's name.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Where the crate plug-api lies, for plugins in Rust; default the version of this program from
    /// the registry.
    #[arg(long, value_name = "DIR")]
    pub(crate) api: Option<PathBuf>,
}

/// What a plugin is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lang {
    Rust,
    C,
    #[value(name = "c++", alias = "cpp")]
    Cpp,
}

#[derive(Debug, Args)]
pub(crate) struct Keygen {
    /// Where to write the public key.
    #[arg(short, long, value_name = "FILE", default_value = "plug.pub")]
    pub(crate) public: PathBuf,
    /// Where to write the secret key.
    #[arg(short, long, value_name = "FILE", default_value = "plug.key")]
    pub(crate) secret: PathBuf,
    #[command(flatten)]
    pub(crate) password: Password,
}

/// How the password of a secret key is learnt; by default it is asked for.
#[derive(Debug, Args)]
pub(crate) struct Password {
    /// The secret key has no password.
    #[arg(short = 'W', long)]
    pub(crate) no_password: bool,
    /// The first line of this file is the password.
    #[arg(long, value_name = "FILE", conflicts_with = "no_password")]
    pub(crate) password_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Sign {
    /// The files.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// The secret key.
    #[arg(short, long, value_name = "FILE", default_value = "plug.key")]
    pub(crate) secret: PathBuf,
    /// Append the signature to the file instead of writing it beside it.
    #[arg(long)]
    pub(crate) append: bool,
    #[command(flatten)]
    pub(crate) password: Password,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The files.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// A trusted public key.
    #[arg(
        short,
        long,
        value_name = "FILE",
        required_unless_present = "keys",
        conflicts_with = "keys"
    )]
    pub(crate) public: Option<PathBuf>,
    /// A folder of trusted public keys, *.pub.
    #[arg(long, value_name = "DIR")]
    pub(crate) keys: Option<PathBuf>,
    /// A file of denied keys and digests.
    #[arg(long, value_name = "FILE")]
    pub(crate) deny: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Quarantine {
    /// List the plugins that are refused.
    List,
    /// Let plugins in again.
    Clear {
        /// Their digests, or the files.
        #[arg(required = true, value_name = "DIGEST|FILE")]
        plugins: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Unload {
    /// The plugins.
    #[arg(required_unless_present = "unused", value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Then unload those that were loaded by --with-deps and that no plugin imports functions of any
    /// more.
    #[arg(long)]
    pub(crate) unused: bool,
    /// Unload it only if it is this load, as list and info tell it.
    #[arg(long, value_name = "GENERATION")]
    pub(crate) generation: Option<u64>,
    /// How long to wait for users; 0 refuses at once.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    pub(crate) wait: f64,
}

#[derive(Debug, Args)]
pub(crate) struct Info {
    /// A file if it contains a slash, or has ".so" in its name and exists; else a plugin.
    #[arg(value_name = "FILE|NAME")]
    pub(crate) target: String,
    /// Print the values of this field only.
    #[arg(short = 'F', long)]
    pub(crate) field: Option<String>,
    /// End each line by NUL instead of a newline.
    #[arg(short = '0', long)]
    pub(crate) null: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Params {
    /// A file if it contains a slash, or has ".so" in its name and exists; else a plugin.
    #[arg(value_name = "FILE|NAME")]
    pub(crate) target: String,
    /// Show the value of this parameter, or set it if a value is given.
    #[arg(value_name = "KEY[=VALUE]")]
    pub(crate) param: Option<String>,
    /// How long to wait for the plugin's answer to a new value.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = seconds)]
    pub(crate) wait: f64,
}

#[derive(Debug, Args)]
pub(crate) struct Symbols {
    /// A file if it contains a slash, or has ".so" in its name and exists; else a plugin.
    #[arg(value_name = "FILE|NAME")]
    pub(crate) target: String,
}

#[derive(Debug, Args)]
pub(crate) struct Resolve {
    /// Addresses, hexadecimal with or without 0x.
    #[arg(required = true, value_name = "ADDRESS", value_parser = address)]
    pub(crate) addresses: Vec<u64>,
    /// Say what they were to the load of this generation, which may have left since.
    #[arg(long, value_name = "GENERATION")]
    pub(crate) at: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Keep waiting for more, until the host ends.
    #[arg(short, long)]
    pub(crate) follow: bool,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected key=value".to_owned()),
    }
}

fn rule(text: &str) -> Result<(Matter, Action), String> {
    let (name, action) = text.split_once('=').ok_or("expected TRAIT=ACTION")?;
    let mut all = Matter::ALL.into_iter();
    let matter = all.find(|matter| matter.name() == name).ok_or_else(|| {
        let names = Matter::ALL.map(Matter::name).join(", ");
        format!("expected one of {names}")
    })?;
    let action = match action {
        "allow" => Action::Allow,
        "taint" => Action::Taint,
        "refuse" => Action::Refuse,
        _ => return Err("expected allow, taint or refuse".to_owned()),
    };
    Ok((matter, action))
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected seconds from 0 to 3600".to_owned()),
    }
}

/// A time such as `5s`, `500ms` or, in seconds, `5`.
fn time(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let expected = |_| "expected a time up to an hour, such as 5s or 500ms".to_owned();
    let number = number.parse::<f64>().map_err(|_| String::new());
    number
        .and_then(|number| seconds(&(number * unit).to_string()))
        .map(Duration::from_secs_f64)
        .map_err(expected)
}

fn address(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).map_err(|_| "expected a hexadecimal address".to_owned())
}

/// What a FILE|NAME argument means.
#[derive(Debug)]
pub(crate) enum Target<'a> {
    File(PathBuf),
    Plugin(&'a str),
}

/// The name of a plugin for which a host is to find the file: without a slash, and no file here.
pub(crate) fn bare(file: &Path) -> Option<&str> {
    let name = file.to_str()?;
    (!name.contains('/') && !file.exists()).then_some(name)
}

impl<'a> Target<'a> {
    /// A file if it contains a slash, or has ".so" in its name and exists; else a plugin.
    pub(crate) fn of(text: &'a str) -> Self {
        let path = PathBuf::from(text);
        if text.contains('/') || text.contains(".so") && path.is_file() {
            Self::File(path)
        } else {
            Self::Plugin(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn targets_with_a_slash_are_files_and_bare_names_plugins() {
        assert!(matches!(Target::of("./codec"), Target::File(_)));
        assert!(matches!(Target::of("codec"), Target::Plugin("codec")));
        assert!(matches!(Target::of("none.so"), Target::Plugin("none.so")));
    }
}
