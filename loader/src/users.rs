//! Who uses whom: loads that find, wait for and keep the plugins that they import functions of, and the
//! order in which plugins end.
//!
//! Part of the registry: all of it is under the writer's lock, by which unloads begin, too.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use plug_readside::state::{self, State};

use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind};
use crate::lineage::{Bearing, EXPECTED, Expected, Import, Object, Place};
use crate::record::Record;
use crate::registry::{Entry, Registry, Writer, canonical};

impl Registry {
    /// The Live plugin `name`, of which the load `user` imports something; one that is on its way in is
    /// waited for, with the lock free.
    ///
    /// # Errors
    /// [`ErrorKind::NoProvider`], [`ErrorKind::Busy`], [`ErrorKind::Cycle`], [`ErrorKind::Deadline`].
    pub(crate) fn provider(
        &self,
        name: &str,
        user: &str,
        deadline: Deadline,
    ) -> Result<Arc<Record>, Error> {
        let (name, user) = (canonical(name), canonical(user));
        let mut writer = self.lock();
        let mut waited_for = None;
        let found = loop {
            if let Err(round) = writer.no_round(&user, &name) {
                break Err(round);
            }
            let entry = writer.find(&name);
            let Some((entry, now)) = entry.map(|it| (it, state::word(it.id).state())) else {
                let message = match waited_for {
                    None => format!("no plugin {name} is loaded; load it first, or with its users"),
                    Some(_) => format!("{name} was waited for, and its load failed"),
                };
                break Err(Error::new(ErrorKind::NoProvider, message));
            };
            match (now, &entry.record) {
                (State::Live, Some(record)) => break Ok(Arc::clone(record)),
                (State::Unformed | State::Coming, _) => {
                    let generation = entry.generation;
                    if deadline.has_passed() {
                        let message = format!("{name} is still {}", now.name());
                        break Err(Error::new(ErrorKind::Deadline, message));
                    }
                    if waited_for.is_none() {
                        waited_for = Some(generation);
                        writer.waits.push((user.clone(), name.clone()));
                        // Those that wait already may be a part of the circle.
                        continue;
                    }
                    writer = self
                        .changed
                        .wait_timeout(writer, deadline.remaining().min(Duration::from_secs(1)))
                        .map_or_else(|poison| poison.into_inner().0, |(writer, _)| writer);
                }
                _ if waited_for == Some(entry.generation) => {
                    let message = format!("{name} was waited for, and its load failed");
                    break Err(Error::new(ErrorKind::NoProvider, message));
                }
                _ => {
                    let message = format!("{name} is {}, not Live; load it again", now.name());
                    break Err(Error::new(ErrorKind::Busy, message));
                }
            }
        };
        if waited_for.is_some() {
            writer.wait_no_more(&user, &name);
        }
        found
    }

    /// Has it known that the load `waiter`, whose code the running thread is in, waits for a load of
    /// `name`, until that has ended.
    pub(crate) fn wait_for(&self, waiter: u64, name: &str) -> Option<Waiting<'_>> {
        let mut writer = self.lock();
        let mut entries = writer.entries.iter();
        let waiter = entries.find(|entry| entry.generation == waiter)?;
        let wait = (waiter.canonical.clone(), canonical(name));
        writer.waits.push(wait.clone());
        drop(writer);
        // Whoever waits for the waiter looks again.
        self.changed.notify_all();
        let registry = self;
        Some(Waiting { registry, wait })
    }

    /// Has the plugin `user` count as one that imports functions of the Live plugin `name`; none where
    /// there is none.
    pub(crate) fn expect(&self, name: &str, user: &str) -> Option<Expected> {
        let writer = self.lock();
        let record = writer.find(&canonical(name))?.record.as_ref()?;
        let is_live = state::word(record.id).0 == record.live_word();
        is_live.then(|| record.lineage.expect(user))
    }

    /// The Live load `generation` is wanted for itself from here on, and not only for its users; false
    /// where it is not Live any more.
    pub(crate) fn want(&self, generation: u64) -> bool {
        // No unload begins meanwhile.
        let writer = self.lock();
        let mut entries = writer.entries.iter();
        let entry = entries.find(|entry| entry.generation == generation);
        let record = entry.and_then(|entry| entry.record.as_ref());
        let live = record.filter(|record| state::word(record.id).0 == record.live_word());
        if let Some(record) = live {
            record.automatic.store(false, Ordering::Relaxed);
        }
        live.is_some()
    }

    /// As [`Registry::want`], of the plugin of this name.
    pub(crate) fn want_named(&self, name: &str) {
        if let Some(record) = self.record(name) {
            let _is_live = self.want(record.generation);
        }
    }

    /// Has no lineage keep anything for a load that a fork has made an end of.
    pub(crate) fn forget_lost_users(&self) {
        let writer = self.lock();
        let here: Vec<u64> = writer.mapped().map(|record| record.generation).collect();
        for record in writer.mapped() {
            record.lineage.keep_users(&here);
        }
    }

    /// Keeps `provider` for what is imported of it, and leads that there; none where it is not the
    /// Live plugin of its name any more.
    ///
    /// # Errors
    /// [`ErrorKind::Cycle`].
    pub(crate) fn refer(
        &self,
        provider: &Record,
        import: Import,
        place: Place,
    ) -> Result<Option<Bearing>, Error> {
        // No unload begins meanwhile: it looks for users under this lock.
        let writer = self.lock();
        let (lineage, generation) = (&provider.lineage, provider.generation);
        let entry = writer.find(&provider.canonical);
        let is_in_force = entry.is_some_and(|entry| entry.generation == generation)
            && state::word(provider.id).0 == provider.live_word();
        if !is_in_force {
            return Ok(None);
        }
        writer.no_round(&canonical(&import.user), &provider.canonical)?;
        Ok(lineage.bearing(generation, Object::Import(import), place))
    }
}

impl Writer {
    /// The plugins that import functions of it, by name and load. A load that a fork has made an end
    /// of is none.
    pub(crate) fn users(&self, entry: &Entry) -> Vec<(Box<str>, u64)> {
        let Some(record) = &entry.record else {
            return Vec::new();
        };
        let is_there = |(_, user): &(Box<str>, u64)| {
            let mut zombies = self.zombies.iter();
            *user == EXPECTED
                || self.entries.iter().any(|entry| entry.generation == *user)
                || zombies.any(|zombie| zombie.record.generation == *user)
        };
        let users = record.users();
        users.into_iter().filter(is_there).collect()
    }

    /// A user in words.
    pub(crate) fn told(&self, (name, generation): &(Box<str>, u64)) -> String {
        let mut zombies = self.zombies.iter();
        let mut entries = self.entries.iter();
        let entry = entries.find(|entry| entry.generation == *generation);
        if zombies.any(|zombie| zombie.record.generation == *generation) {
            format!("{name} (closed, and kept by its holders)")
        } else if entry.is_some_and(Entry::is_former) {
            format!("{name} (replaced, and on its way out)")
        } else {
            name.to_string()
        }
    }

    /// Refuses that `user` imports of, or waits for, `provider`, where that leads back to it.
    ///
    /// Looks at who uses whom: a reference counts from when it is made, that of a version which is about
    /// to replace another one included.
    pub(crate) fn no_round(&self, user: &str, provider: &str) -> Result<(), Error> {
        let mut ways: Vec<Vec<Box<str>>> = vec![vec![user.into()]];
        let mut seen: Vec<Box<str>> = Vec::new();
        while let Some(way) = ways.pop() {
            let Some(at) = way.last() else { continue };
            if &**at == provider {
                let round: Vec<&str> = way.iter().rev().map(|name| &**name).collect();
                let round = round.join(" -> ");
                let message = format!("plugins would import of each other: {user} -> {round}");
                return Err(Error::new(ErrorKind::Cycle, message));
            }
            if seen.contains(at) {
                continue;
            }
            seen.push(at.clone());
            let waits = self.waits.iter().filter(|(_, awaited)| awaited == at);
            let waiters = waits.map(|(waiter, _)| waiter.clone());
            let users = self.find(at).map(|entry| self.users(entry));
            let users = users
                .into_iter()
                .flatten()
                .map(|(name, _)| canonical(&name));
            ways.extend(users.chain(waiters).map(|next| [&*way, &[next]].concat()));
        }
        Ok(())
    }

    pub(crate) fn wait_no_more(&mut self, waiter: &str, awaited: &str) {
        let mut waits = self.waits.iter();
        let is_it = |wait: &(Box<str>, Box<str>)| &*wait.0 == waiter && &*wait.1 == awaited;
        if let Some(at) = waits.position(is_it) {
            self.waits.swap_remove(at);
        }
    }

    /// Places of the entries: last loaded first, but none before those that import functions of it.
    pub(crate) fn users_first(&self, deadline: Deadline) -> Vec<usize> {
        let mut left: Vec<usize> = (0..self.entries.len()).collect();
        // A lineage whose lock is not to be had is taken for one without users.
        let users = |entry: &Entry| {
            let record = entry.record.as_ref()?;
            record.lineage.users_until(deadline)
        };
        let users: Vec<Option<Vec<_>>> = self.entries.iter().map(users).collect();
        let mut order = Vec::new();
        while let Some(last) = left.len().checked_sub(1) {
            let generation = |at: &usize| self.entries.get(*at).map(|entry| entry.generation);
            let is_free = |at: &usize| {
                let mut users = users.get(*at).into_iter().flatten().flatten();
                !users.any(|(_, user)| left.iter().any(|it| generation(it) == Some(*user)))
            };
            // There are no circles; were there one, the last of it would do.
            let next = left.iter().rposition(is_free).unwrap_or(last);
            order.push(left.remove(next));
        }
        order
    }
}

/// A load that waits for another one, until this is dropped.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    registry: &'a Registry,
    wait: (Box<str>, Box<str>),
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let (waiter, awaited) = &self.wait;
        self.registry.lock().wait_no_more(waiter, awaited);
    }
}
