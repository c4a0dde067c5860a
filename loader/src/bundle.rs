//! The objects of a load, a plugin and its private dependencies, on their way from staged copies to
//! mapped parts: edited, named, indexed, opened at once, compared and patched.
//!
//! All of them are one load: its slot, its generation, its footprint and its verdict. Readers see a
//! row for each, since they lie apart and have symbols of their own; the rows share the plugin's
//! slot and generation, so that whatever asks for the owner of an address is led to the plugin.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoint;
use crate::error::{Error, ErrorKind, Stage};
use crate::footprint::account::Account;
use crate::footprint::{self, Owner, counting};
use crate::image::tables::Tables;
use crate::image::{
    Backing, Bundle, Bytes, Edit, Facts, ImageError, InScope, PLUGIN, RewritePolicy, Rule,
    StageLink, Staged, next_nonce, plan, root, stage_made, undo, unique_names,
};
use crate::index::OwnedIndex;
use crate::record::{Destructors, Part};
use crate::sys::{code, dl, link_map};

/// What becomes of what would pin a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Rules {
    pub(crate) nodelete: Rule,
    pub(crate) unique: Rule,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            nodelete: Rule::Honour,
            unique: Rule::Neutralise,
        }
    }
}

/// What is known of one object from its file.
#[derive(Debug)]
pub(crate) struct Piece {
    /// What readers call it.
    pub(crate) name: Box<str>,
    /// The original.
    pub(crate) path: Box<str>,
    pub(crate) version: Box<str>,
    pub(crate) facts: Facts,
}

/// An object whose copy is edited and sealed.
#[derive(Debug)]
pub(crate) struct Edited {
    piece: Piece,
    staged: Staged,
    edits: Vec<Edit>,
    undo: Vec<Edit>,
    /// The first bytes of the copy, to be found again in the mapping.
    header: Vec<u8>,
    tables: Tables,
    /// The words of the imports that are counted, by an account.
    counted: Vec<(u64, usize)>,
    /// GNU unique symbols that pin, since another object of the bundle defines them, too.
    shares: usize,
}

/// An object whose copy has its names.
#[derive(Debug)]
pub(crate) struct Linked {
    piece: Piece,
    pub(crate) link: Arc<StageLink>,
    bytes: Bytes,
    edits: Vec<Edit>,
    undo: Vec<Edit>,
    header: Vec<u8>,
    tables: Tables,
    counted: Vec<(u64, usize)>,
}

/// An object that readers can be shown the symbols of.
#[derive(Debug)]
pub(crate) struct Indexed {
    pub(crate) piece: Piece,
    link: Arc<StageLink>,
    pub(crate) index: Arc<OwnedIndex>,
    edits: Vec<Edit>,
    undo: Vec<Edit>,
    header: Vec<u8>,
    counted: Vec<(u64, usize)>,
}

/// Puts the plugin and what it brings side by side, the plugin first.
pub(crate) fn gather(bundle: &mut Bundle, plugin: Piece, staged: Staged) -> Vec<(Piece, Staged)> {
    let name = plugin.name.clone();
    let mut all = vec![(plugin, staged)];
    let members = bundle.objects.iter_mut();
    all.extend(
        members
            .filter_map(|object| object.member.take())
            .map(|member| {
                let piece = Piece {
                    name: format!("{name}/{}", file_name(&member.path)).into(),
                    path: member.path.display().to_string().into(),
                    version: Box::default(),
                    facts: member.facts,
                };
                (piece, member.staged)
            }),
    );
    all
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// Opens the libraries that a C++ plugin shares with others, before it is opened itself: one that it
/// were the first to bring in would be bound to the plugin's instances of templates and classes, and
/// keep it mapped for ever, since such libraries are seldom unmapped themselves. To be dropped once
/// the plugin is open.
///
/// It is as if somebody else had brought them in before. One that cannot be opened by itself is left
/// to the plugin.
///
/// # Safety
/// - The host vouched for the plugin through Trust, and with it for what that needs.
pub(crate) unsafe fn open_shared(bundle: &Bundle) -> Vec<dl::Shared> {
    const NOT_CPP: [&str; 7] = [
        "libc.so",
        "libgcc_s.so",
        "libm.so",
        "libdl.so",
        "librt.so",
        "libpthread.so",
        "ld-",
    ];
    let shared = bundle.scope.iter().filter_map(|place| match place {
        InScope::Shared(name) => Some(name.as_str()),
        InScope::Own(_) => None,
    });
    let is_runtime = |name: &str| ["libstdc++.so.6", "libc++.so.1"].contains(&name);
    if !shared.clone().any(is_runtime) {
        return Vec::new();
    }
    let others = shared.filter(|name| !NOT_CPP.iter().any(|known| name.starts_with(known)));
    let opened = others.filter_map(|name| {
        // SAFETY: our caller's word.
        let opened = unsafe { dl::Shared::open(name) };
        opened
            .inspect_err(|error| {
                tracing::debug!(target: "plug::load", library = name, %error, "not opened first");
            })
            .ok()
    });
    opened.collect()
}

/// Edits and seals the copies.
pub(crate) fn rewrite(
    bundle: &Bundle,
    pieces: Vec<(Piece, Staged)>,
    others: &[dl::Shared],
    rules: Rules,
    is_counted: bool,
) -> Result<Vec<Edited>, Error> {
    let shared = shared_with(&pieces, others);
    let split = shared_inside(&pieces);
    let objects = pieces.into_iter().zip(&bundle.objects);
    let edited = objects.map(|((piece, mut staged), object)| {
        checkpoint::pass("load.rewrite").map_err(|error| error.at(Stage::Rewrite))?;
        let mut policy = RewritePolicy::new(next_nonce());
        policy.unique = rules.unique;
        policy.nodelete = rules.nodelete;
        policy.shared = shared.union(&split).cloned().collect();
        let needs = object.needs.iter();
        policy.aliases = needs
            .map(|need| (need.name.clone(), need.alias.clone()))
            .collect();
        let edits = plan(&piece.facts, staged.bytes(), &policy);
        let undo = undo(&edits, staged.bytes());
        staged
            .edit(&edits)
            .and_then(|()| staged.seal())
            .map_err(|error| image_error(error, Stage::Rewrite))?;
        let is_split = |name: &[u8]| split.contains(name) && !shared.contains(name);
        let shares = if split.is_empty() {
            0
        } else {
            let names = unique_names(&piece.facts, staged.bytes());
            names.filter(|name| is_split(name)).count()
        };
        Ok(Edited {
            shares,
            header: header(&piece.facts, &staged),
            counted: if is_counted {
                counting::words(staged.bytes())
            } else {
                Vec::new()
            },
            tables: Tables::of(&piece.facts, staged.bytes()),
            piece,
            staged,
            edits,
            undo,
        })
    });
    edited.collect()
}

/// GNU unique symbols that libraries have which were opened before: ld.so takes theirs as long as the
/// plugin's are unique, too, and does not pin the plugin.
fn shared_with(pieces: &[(Piece, Staged)], others: &[dl::Shared]) -> HashSet<Box<[u8]>> {
    let mut shared = HashSet::new();
    for (piece, staged) in pieces.iter().filter(|_| !others.is_empty()) {
        let names = unique_names(&piece.facts, staged.bytes());
        shared.extend(names.filter(|name| {
            let name = CString::new(&**name);
            name.is_ok_and(|name| others.iter().any(|other| other.has_unique(&name)))
        }));
    }
    shared
}

/// GNU unique symbols that several objects of the bundle define of which one looks in itself first:
/// only as what they are do they stay one. Where none does, all are bound to the first, whatever
/// they are.
fn shared_inside(pieces: &[(Piece, Staged)]) -> HashSet<Box<[u8]>> {
    let mut shared = HashSet::new();
    if pieces.len() < 2 || !pieces.iter().any(|(piece, _)| piece.facts.is_symbolic()) {
        return shared;
    }
    let mut seen = HashSet::new();
    for (piece, staged) in pieces {
        let names: HashSet<Box<[u8]>> = unique_names(&piece.facts, staged.bytes()).collect();
        for name in names {
            if !seen.insert(name.clone()) {
                shared.insert(name);
            }
        }
    }
    shared
}

/// The first bytes of the staged copy.
fn header(facts: &Facts, staged: &Staged) -> Vec<u8> {
    let first = facts
        .segments
        .first()
        .map_or(0, |segment| segment.filesz.min(1024));
    let first = usize::try_from(first).unwrap_or(0);
    staged.bytes().get(..first).unwrap_or_default().to_vec()
}

/// Gives the copies paths that were never used before, and the aliases by which they need each
/// other.
pub(crate) fn link(bundle: &Bundle, edited: Vec<Edited>) -> Result<Vec<Linked>, Error> {
    let linked = edited.into_iter().enumerate().map(|(object, edited)| {
        checkpoint::pass("load.link").map_err(|error| error.at(Stage::Link))?;
        let failed = |error| image_error(error, Stage::Link);
        let Edited {
            piece,
            staged,
            edits,
            undo,
            header,
            tables,
            counted,
            ..
        } = edited;
        let own = piece
            .name
            .replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        let named = if object == PLUGIN {
            &*piece.name
        } else {
            &*own
        };
        let (mut link, bytes) = staged
            .link_and_keep(named, piece.facts.build_id.as_deref())
            .map_err(failed)?;
        let needs = bundle.objects.iter().flat_map(|asking| &asking.needs);
        for need in needs.filter(|need| need.object == object) {
            link.also_as(&need.alias).map_err(failed)?;
        }
        Ok(Linked {
            piece,
            link: Arc::new(link),
            bytes,
            edits,
            undo,
            header,
            tables,
            counted,
        })
    });
    linked.collect()
}

/// Makes readers' way to the symbols. The tables stay where they are: nothing is read here.
pub(crate) fn index(linked: Vec<Linked>) -> Result<Vec<Indexed>, Error> {
    let indexed = linked.into_iter().map(|linked| {
        checkpoint::pass("load.symbols").map_err(|error| error.at(Stage::Symbols))?;
        let Linked {
            piece,
            link,
            bytes,
            edits,
            undo,
            header,
            tables,
            counted,
        } = linked;
        let index = OwnedIndex::new(
            bytes,
            link.backing() == Backing::Memory,
            &tables,
            &piece.name,
            &piece.version,
            piece.facts.build_id.as_deref().unwrap_or_default(),
        );
        Ok(Indexed {
            piece,
            link,
            index: Arc::new(index),
            edits,
            undo,
            header,
            counted,
        })
    });
    indexed.collect()
}

/// What has been mapped, and what of the file system keeps it so.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) mapped: dl::Mapped,
    /// The load bias of each object; none of one that ld.so does not have.
    pub(crate) biases: Vec<Option<usize>>,
    /// The name that ld.so has for each object, and for the root, if there is one.
    pub(crate) names: Vec<CString>,
    /// The copies and their names: they stay for as long as anything is mapped.
    pub(crate) links: Vec<Arc<StageLink>>,
}

/// Has ld.so map and relocate all objects at once; none of their code runs.
///
/// # Safety
/// - The host vouched for the plugin through Trust, and with it for what that brings.
pub(crate) unsafe fn open(bundle: &Bundle, objects: &[Indexed]) -> Result<Opened, Error> {
    let failed = |kind, message: String| Err(Error::new(kind, message).at(Stage::Map));
    let links = objects.iter().map(|object| Arc::clone(&object.link));
    let mut links: Vec<Arc<StageLink>> = links.collect();
    let Some(plugin) = links.first().cloned() else {
        return failed(ErrorKind::Map, "nothing to open".to_owned());
    };
    let opened_by = if bundle.is_alone() {
        plugin
    } else {
        let root = Arc::new(make_root(bundle, &plugin, &links)?);
        links.push(Arc::clone(&root));
        root
    };
    // SAFETY: our caller's word; constructors are not run by ld.so.
    let mapped = match unsafe { dl::open(opened_by.as_path()) } {
        Ok(mapped) => mapped,
        Err(refusal) => return failed(ErrorKind::Map, refusal.to_string()),
    };
    let names: Vec<CString> = links.iter().map(|link| link.path().to_owned()).collect();
    let wanted: Vec<&CStr> = names.iter().map(CString::as_c_str).collect();
    let found = link_map::biases(&wanted);
    Ok(Opened {
        mapped,
        biases: found.into_iter().take(objects.len()).collect(),
        names,
        links,
    })
}

/// The file by which ld.so opens all objects of a bundle.
fn make_root(
    bundle: &Bundle,
    plugin: &StageLink,
    links: &[Arc<StageLink>],
) -> Result<StageLink, Error> {
    let failed = |what: String| Error::new(ErrorKind::Stage, what).at(Stage::Map);
    let Some(folder) = plugin.folder() else {
        let what = "the private stage folder: expected a path without $ and :";
        return Err(failed(what.to_owned()));
    };
    let mut needed = Vec::new();
    for place in &bundle.scope {
        match place {
            InScope::Shared(name) => needed.push(name.as_str()),
            // By its path, which ld.so will call it, then by every name by which it is asked for.
            InScope::Own(object) => {
                let path = links.get(*object).map(|link| link.path().to_str());
                needed.extend(path.and_then(Result::ok));
                let needs = bundle.objects.iter().flat_map(|asking| &asking.needs);
                let of = needs.filter(|need| need.object == *object);
                needed.extend(of.map(|need| need.alias.as_str()));
            }
        }
    }
    stage_made("bundle", &root(folder, &needed)).map_err(|error| image_error(error, Stage::Map))
}

/// Compares an object that was mapped with what was staged; its load bias.
pub(crate) fn check(object: &Indexed, bias: Option<usize>) -> Result<usize, Error> {
    let fail = |message: String| Err(Error::new(ErrorKind::Map, message).at(Stage::Describe));
    let (name, header) = (&object.piece.name, &object.header);
    let Some(bias) = bias else {
        let path = object.link.path();
        return fail(format!(
            "ld.so: expected the object {path:?} of {name}, found none"
        ));
    };
    let first = object.piece.facts.segments.first();
    let first = code::run_time(bias, first.map_or(0, |segment| segment.vaddr));
    // SAFETY: the first segment is mapped readable and has at least these bytes (validated).
    if unsafe { code::bytes(first, header.len()) } != header {
        return fail(format!(
            "ld.so: the mapped bytes of {name} are not the staged ones"
        ));
    }
    Ok(bias)
}

/// What there is to know of each object when one of them opens a library.
fn openers(bundle: &Bundle, objects: &[Indexed], biases: &[usize]) -> Vec<footprint::Object> {
    let originals = bundle.objects.iter().enumerate();
    let openers = originals.zip(objects.iter().zip(biases));
    let openers = openers.map(|((n, original), (object, &bias))| {
        let span = object.piece.facts.span;
        let end = span.vaddr.wrapping_add(span.size);
        footprint::Object {
            range: code::run_time(bias, span.vaddr)..code::run_time(bias, end),
            chain: bundle.chain(n).into_iter().cloned().collect(),
            names: bundle.names(n),
            path: PathBuf::from(&*object.piece.path),
            key: original.key,
            link_name: object.link.path().to_owned(),
        }
    });
    openers.collect()
}

/// Redirects the imports of every object but those whose copies were not edited: their code has run.
///
/// # Safety
/// - They were relocated just now, and none of the others' code has run.
pub(crate) unsafe fn redirect(
    bundle: &Bundle,
    objects: &[Indexed],
    biases: &[usize],
    owner: Owner,
    account: Option<Account>,
) -> Result<(), Error> {
    let opens = |object: &Indexed| footprint::opens_libraries(&object.piece.facts);
    if objects.iter().any(opens) {
        let known = openers(bundle, objects, biases);
        footprint::find_as_originals(owner.generation, known);
    }
    if let Some(account) = account {
        counting::begin(account);
        account.set_generation(owner.generation);
    }
    for (n, (object, &bias)) in objects.iter().zip(biases).enumerate() {
        let facts = &object.piece.facts;
        if facts.strange.is_some() {
            continue;
        }
        // Of several files the plugin's own is the one that its code maps, to name its frames.
        let staged = || (n == PLUGIN).then(|| object.link.key().ok()).flatten();
        // SAFETY: our caller's word, and the facts are its own.
        unsafe { footprint::redirect(facts, bias, owner, staged) }
            .map_err(|error| error.at(Stage::Describe))?;
        let Some(account) = account else {
            continue;
        };
        let protected = footprint::protected(facts, bias);
        // SAFETY: as above, and the words are its own.
        unsafe { counting::redirect(&object.counted, bias, protected, account) }
            .map_err(|error| error.at(Stage::Describe))?;
    }
    Ok(())
}

/// The objects as parts of a load, the plugin first.
pub(crate) fn parts(objects: Vec<Indexed>, biases: &[usize]) -> Vec<Part> {
    let parts = objects.into_iter().zip(biases).map(|(object, &bias)| {
        let span = object.piece.facts.span;
        Part {
            name: object.piece.name,
            path: object.piece.path,
            start: code::run_time(bias, span.vaddr),
            end: code::run_time(bias, span.vaddr.wrapping_add(span.size)),
            bias,
            index: object.index,
            link_name: object.link.path().to_owned(),
            link: Arc::downgrade(&object.link),
            edits: object.edits,
            undo: object.undo,
            strange: object.piece.facts.strange,
            gone: Default::default(),
        }
    });
    parts.collect()
}

/// Run-time addresses of all constructors, what is needed first.
pub(crate) fn constructors(bundle: &Bundle, objects: &[Indexed], biases: &[usize]) -> Vec<usize> {
    let mut all = Vec::new();
    for object in bundle.by_need() {
        let Some((object, &bias)) = objects.get(object).zip(biases.get(object)) else {
            continue;
        };
        let (facts, at) = (&object.piece.facts, |svma| code::run_time(bias, svma));
        // Those of a copy without edits were run by ld.so.
        if facts.strange.is_some() {
            continue;
        }
        all.extend(facts.init.map(at));
        if let Some(array) = facts.init_array {
            // SAFETY: the array lies inside the image and is relocated.
            all.extend(unsafe { code::entries(at(array.vaddr), array.size) });
        }
    }
    all
}

/// Run-time addresses of all destructors, in the reverse order.
pub(crate) fn destructors(bundle: &Bundle, objects: &[Indexed], biases: &[usize]) -> Destructors {
    let mut all = Destructors::default();
    for object in bundle.by_need().into_iter().rev() {
        let Some((object, &bias)) = objects.get(object).zip(biases.get(object)) else {
            continue;
        };
        let (facts, at) = (&object.piece.facts, |svma| code::run_time(bias, svma));
        if facts.strange.is_some() {
            continue;
        }
        if let Some(array) = facts.fini_array {
            // SAFETY: the array lies inside the image and is relocated.
            let entries = unsafe { code::entries(at(array.vaddr), array.size) };
            all.fini.extend(entries.into_iter().rev());
        }
        all.fini.extend(facts.fini.map(at));
        all.dso_handles
            .extend(facts.dso_handles.iter().map(|&handle| at(handle)));
    }
    all
}

/// Reasons known from the files why a load may stay mapped for ever.
pub(crate) fn pinned_because(edited: &[Edited], rules: Rules) -> Vec<String> {
    let mut reasons = Vec::new();
    for (n, Edited { piece, shares, .. }) in edited.iter().enumerate() {
        let who = if n == PLUGIN {
            "the file".to_owned()
        } else {
            format!("its dependency {}", piece.path)
        };
        let facts = &piece.facts;
        if facts.nodelete() && rules.nodelete == Rule::Honour {
            reasons.push(format!(
                "{who} is marked DF_1_NODELETE: its author says that unloading is unsafe"
            ));
        }
        if facts.n_unique > 0 && rules.unique == Rule::Honour {
            let n = facts.n_unique;
            reasons.push(format!(
                "{who} defines {n} GNU unique symbols, which the host wants honoured"
            ));
        }
        if *shares > 0 {
            reasons.push(format!(
                "{who} shares {shares} GNU unique statics with another object that it brings"
            ));
        }
    }
    reasons
}

/// An image's error in the loader's words.
pub(crate) fn image_error(error: ImageError, stage: Stage) -> Error {
    let kind = kind(&error);
    Error::new(kind, error.to_string()).because(error).at(stage)
}

fn kind(error: &ImageError) -> ErrorKind {
    match error {
        ImageError::Read { .. } | ImageError::NotRegular { .. } | ImageError::TooLarge { .. } => {
            ErrorKind::Open
        }
        ImageError::Damaged(_) => ErrorKind::Damaged,
        ImageError::Metadata(_) | ImageError::Name { .. } => ErrorKind::Incompatible,
        ImageError::Dependency { source, .. } => kind(source),
        _ => ErrorKind::Stage,
    }
}
