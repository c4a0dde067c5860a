//! Versions of one plugin that replace each other, and what handles of all of them lead to.
//!
//! Every function and table that somebody asked a version for has a route, shared by all its
//! handles, and every function that a plugin imports has one of its own. Routes are never given back to the allocator, since handles are copied freely and
//! outlive everything; those of a lineage that is forgotten serve another one, under a number that
//! no handle of the old one has.

#![forbid(unsafe_code)]

use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plug_readside::gate::GateRow;
use plug_readside::route::Route;

use crate::calls::{self, By, Entered};
use crate::deadline::{Deadline, lock_until};
use crate::error::CallError;
use crate::image::PluginImport;

/// The number of the lineage's use of the route, the place in force and the one that comes next.
type Words = [u64; 9];

/// Routes that no lineage uses, and the number of the last use of any.
static SPARE: Mutex<(Vec<&'static Route<9>>, u64)> = Mutex::new((Vec::new(), 0));

/// What a handle is to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    /// The function of this name, which handles call by the signature that is expected.
    Function {
        name: Box<str>,
        expected: Box<str>,
    },
    Table(Table),
    /// A function that another plugin imports.
    Import(Import),
}

/// A function as another plugin imports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Import {
    /// That plugin and its load.
    pub(crate) user: Box<str>,
    pub(crate) generation: u64,
    pub(crate) what: PluginImport,
}

/// A table of functions as a host knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// One of `KIND_INTERFACE` and its like.
    pub(crate) kind: u32,
    pub(crate) name: &'static str,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) size: usize,
    /// Its fields as they are compared, where the host tells them.
    pub(crate) fields: Option<Box<str>>,
}

/// Where it is in one version: everything that a call by a handle needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) id: u32,
    /// The state word of the version when it is Live; 0 for no place.
    pub(crate) word: u64,
    pub(crate) address: usize,
    /// The context of the version.
    pub(crate) context: usize,
}

/// The versions that replace each other. Shared by their records.
#[derive(Debug)]
pub(crate) struct Lineage(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    /// The version in force.
    generation: u64,
    ways: Vec<Way>,
    /// How often a way was made or given up.
    n_changes: u64,
    /// Names of plugins that are about to import something.
    expected: Vec<Box<str>>,
}

/// The load of a plugin that is about to be one, for [`Lineage::users`].
pub(crate) const EXPECTED: u64 = u64::MAX;

/// Counts as a user of a lineage until it is dropped.
#[derive(Debug)]
pub(crate) struct Expected {
    lineage: Arc<Lineage>,
    user: Box<str>,
}

impl Drop for Expected {
    fn drop(&mut self) {
        let mut inner = self.lineage.lock();
        if let Some(at) = inner.expected.iter().position(|it| *it == self.user) {
            inner.expected.swap_remove(at);
        }
    }
}

#[derive(Debug)]
struct Way {
    object: Object,
    place: Place,
    bearing: Bearing,
}

/// The way from a handle to the version in force. `Copy`, like the handle.
#[derive(Clone, Copy)]
pub(crate) struct Bearing {
    route: &'static Route<9>,
    number: u64,
}

impl fmt::Debug for Bearing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bearing({})", self.number)
    }
}

impl Lineage {
    /// A lineage of one version.
    pub(crate) fn new(generation: u64) -> Self {
        Self(Mutex::new(Inner {
            generation,
            ways: Vec::new(),
            n_changes: 0,
            expected: Vec::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps everybody out, for a fork.
    pub(crate) fn hold(&self, deadline: Deadline) -> Option<impl Sized> {
        lock_until(&self.0, deadline)
    }

    /// The bearing of handles to `object`, which the version `generation` has at `place`; none
    /// where another version is in force.
    pub(crate) fn bearing(&self, generation: u64, object: Object, place: Place) -> Option<Bearing> {
        let mut inner = self.lock();
        if inner.generation != generation {
            return None;
        }
        if let Some(way) = inner.ways.iter().find(|way| way.object == object) {
            return Some(way.bearing);
        }
        let bearing = Bearing::take(place);
        inner.n_changes += 1;
        inner.ways.push(Way {
            object,
            place,
            bearing,
        });
        Some(bearing)
    }

    /// Whether this version is the one that handles and imports lead to.
    pub(crate) fn is_in_force(&self, generation: u64) -> bool {
        self.lock().generation == generation
    }

    /// Has the plugin `user` count as one that imports something, before it does.
    pub(crate) fn expect(self: &Arc<Self>, user: &str) -> Expected {
        self.lock().expected.push(user.into());
        Expected {
            lineage: Arc::clone(self),
            user: user.into(),
        }
    }

    /// The plugins that import functions of it, by name and load; those that are about to as load
    /// [`EXPECTED`].
    pub(crate) fn users(&self) -> Vec<(Box<str>, u64)> {
        self.lock().users()
    }

    /// As [`Lineage::users`]; none where the lock is not to be had in time.
    pub(crate) fn users_until(&self, deadline: Deadline) -> Option<Vec<(Box<str>, u64)>> {
        lock_until(&self.0, deadline).map(|inner| inner.users())
    }
    /// Gives up what the load `user` imports, none of whose code runs any more.
    pub(crate) fn forget(&self, user: u64) {
        let mut inner = self.lock();
        let is_of = |way: &mut Way| matches!(&way.object, Object::Import(import) if import.generation == user);
        let given_up: Vec<Way> = inner.ways.extract_if(.., is_of).collect();
        inner.n_changes += 1;
        give_back(given_up);
    }

    /// Gives up what is imported by loads other than `these`, and whoever is about to import: in a
    /// forked child.
    pub(crate) fn keep_users(&self, these: &[u64]) {
        let mut inner = self.lock();
        let is_lost = |way: &mut Way| matches!(&way.object, Object::Import(import) if !these.contains(&import.generation));
        let given_up: Vec<Way> = inner.ways.extract_if(.., is_lost).collect();
        inner.n_changes += 1;
        inner.expected.clear();
        give_back(given_up);
    }

    /// What handles were asked for and what is imported, the oldest first, and a number that is
    /// another one whenever that has changed.
    pub(crate) fn objects(&self) -> (u64, Vec<Object>) {
        let inner = self.lock();
        let objects = inner.ways.iter().map(|way| way.object.clone());
        (inner.n_changes, objects.collect())
    }

    /// Leads all handles to the version `generation`, where the [objects](Lineage::objects) with that
    /// number are at `places`. `close` closes the gate of the version in force, and is the moment of
    /// the switch.
    ///
    /// False, and nothing is done, where the number is another one by now.
    pub(crate) fn switch(
        &self,
        generation: u64,
        (n_changes, places): (u64, &[Place]),
        close: impl FnOnce(),
    ) -> bool {
        let mut inner = self.lock();
        if inner.n_changes != n_changes || inner.ways.len() != places.len() {
            return false;
        }
        for (way, place) in inner.ways.iter().zip(places) {
            way.bearing.lead(way.place, *place);
        }
        close();
        for (way, place) in inner.ways.iter_mut().zip(places) {
            way.bearing.lead(*place, Place::default());
            way.place = *place;
        }
        inner.generation = generation;
        true
    }
}

impl Inner {
    fn users(&self) -> Vec<(Box<str>, u64)> {
        let users = self.ways.iter().filter_map(|way| match &way.object {
            Object::Import(import) => Some((import.user.clone(), import.generation)),
            Object::Function { .. } | Object::Table(_) => None,
        });
        let expected = self.expected.iter().map(|user| (user.clone(), EXPECTED));
        let mut users: Vec<_> = users.chain(expected).collect();
        users.sort();
        users.dedup();
        users
    }
}

impl Drop for Lineage {
    fn drop(&mut self) {
        let inner = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        give_back(mem::take(&mut inner.ways));
    }
}

/// Keeps the routes of `ways` for others; no handle of these finds anything there.
fn give_back(ways: Vec<Way>) {
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    for way in ways {
        way.bearing.route.set([0; 9]);
        spare.0.push(way.bearing.route);
    }
}

/// Keeps routes from being taken and given back, for a fork.
pub(crate) fn hold(deadline: Deadline) -> Option<impl Sized> {
    lock_until(&SPARE, deadline)
}

impl Bearing {
    /// A route that leads to `place`.
    fn take(place: Place) -> Self {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        spare.1 += 1;
        let number = spare.1;
        let route = spare.0.pop();
        drop(spare);
        // 232 bytes, kept for ever: see the head of the file.
        let route = route.unwrap_or_else(|| Box::leak(Box::new(Route::new([0; 9]))));
        let bearing = Self { route, number };
        bearing.lead(place, Place::default());
        bearing
    }

    fn lead(self, now: Place, next: Place) {
        let [a, b, c, d] = now.words();
        let [e, f, g, h] = next.words();
        self.route.set([self.number, a, b, c, d, e, f, g, h]);
    }

    /// Enters the version in force, after the handle's own refused, and tells where the object is.
    ///
    /// # Errors
    /// [`CallError::Gone`] where there is none.
    #[cold]
    #[inline(never)]
    pub(crate) fn enter<'a>(
        self,
        row: Option<&'a GateRow>,
    ) -> Result<(Entered<'a>, Place), CallError> {
        let enter = |words: Words| {
            let [number, a, b, c, d, e, f, g, h] = words;
            let places = [[a, b, c, d], [e, f, g, h]].map(Place::of);
            let mut places = places
                .into_iter()
                .filter(|place| number == self.number && place.word != 0);
            places.find_map(|place| {
                let entered = calls::enter(row, place.id, By::Word(place.word), place.address);
                entered.ok().map(|entered| (entered, place))
            })
        };
        self.route.follow(enter).ok_or(CallError::Gone)
    }
}

impl Place {
    fn words(self) -> [u64; 4] {
        [
            u64::from(self.id),
            self.word,
            self.address as u64,
            self.context as u64,
        ]
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "as they were put in; usize has 64 bits, asserted in readside"
    )]
    fn of([id, word, address, context]: [u64; 4]) -> Self {
        Self {
            id: id as u32,
            word,
            address: address as usize,
            context: context as usize,
        }
    }
}
