//! Subscribers in the host: what they are told and when, what they may refuse, and that nothing they do
//! harms a load. Tests of races that the kernel's notifiers had are named by the year.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use plug_loader::{
    Config, Deadline, ErrorKind, Event, EventKind, Loader, Params, Source, Stage, State,
    Subscription, Vote,
};
use plug_tests::host::{Host, hostile, seconds, useful};
use plug_tests::isolated;

/// A host that waits so long for a subscriber that only one that never answers is late.
fn patient() -> Host {
    let mut config = Config::default();
    config.subscriber_patience = Duration::from_secs(60);
    Host::with(config)
}

/// What a subscriber was told: plugin and kind.
type Log = Arc<Mutex<Vec<(String, &'static str)>>>;

/// Subscribes one that notes all it is told, and vetoes the plugin `vetoes`.
fn noting(loader: &Loader, name: &str, vetoes: &'static str) -> (Log, Subscription) {
    let log = Log::default();
    let own = Arc::clone(&log);
    let call = move |event: &Event| {
        let told = (event.plugin.to_string(), event.kind.name());
        own.lock().expect("log").push(told);
        match *event.plugin == *vetoes {
            true => Vote::Veto("not on my watch".into()),
            false => Vote::Go,
        }
    };
    (log, loader.subscribe(name, call).expect("a subscriber"))
}

/// The kinds that were told of `plugin` by the time that `last` is among all.
fn kinds(log: &Log, plugin: &str, last: (&str, &'static str)) -> Vec<&'static str> {
    let deadline = seconds(60);
    loop {
        let all = log.lock().expect("log").clone();
        if all.iter().any(|(of, kind)| (of.as_str(), *kind) == last) {
            let own = all.into_iter().filter(|(of, _)| of == plugin);
            return own.map(|(_, kind)| kind).collect();
        }
        assert!(!deadline.has_passed(), "{last:?} was not told: {all:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn kernel_2015_going_is_told_to_those_who_were_told_of_coming_and_to_nobody_else() {
    isolated!({
        let host = patient();
        let (first, _first) = noting(&host.loader, "first", "");
        let (second, _second) = noting(&host.loader, "second", "checksum");
        let (third, _third) = noting(&host.loader, "third", "");
        let error = host.load(useful("checksum")).expect_err("vetoed");
        assert_eq!(error.kind(), ErrorKind::Vetoed);
        assert_eq!(
            error.to_string(),
            "checksum: publish: vetoed by the subscriber second: not on my watch"
        );
        assert!(host.loader.plugins().is_empty());
        host.useful("base64");
        let last = ("base64", "live");
        assert_eq!(
            kinds(&first, "checksum", last),
            ["coming", "going", "failed"]
        );
        assert_eq!(kinds(&second, "checksum", last), ["coming", "failed"]);
        assert_eq!(kinds(&third, "checksum", last), ["failed"]);
        // The ring has all of it.
        let events = host.loader.events(0, Deadline::now()).into_iter();
        let ring: Vec<_> = events
            .filter(|event| *event.plugin == *"checksum")
            .map(|event| event.kind.name())
            .collect();
        assert_eq!(ring, ["coming", "going", "failed"]);
        // Nothing of it is left: neither its name nor its mapping.
        let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
        assert!(!maps.contains("checksum"), "{maps}");
    });
}

#[test]
fn kernel_2015_whoever_is_told_finds_the_plugin_in_the_state_it_is_told() {
    isolated!({
        let host = patient();
        let loader = host.loader.clone();
        let (tell, told) = mpsc::channel();
        let _subscription = host
            .loader
            .subscribe("looker", move |event| {
                let plugin = loader.plugin(&event.plugin);
                let is_it = |one: &plug_loader::Plugin| one.generation() == event.generation;
                let plugin = plugin.filter(is_it);
                let state = plugin.as_ref().map(plug_loader::Plugin::state);
                // As a profiler would: by an address, while it may be on its way out.
                thread::sleep(Duration::from_millis(100));
                let start = plugin.map(|plugin| plugin.range().0);
                let is_seen = start.is_some_and(|at| {
                    let seen = loader.reader().locate(at);
                    seen.is_some_and(|seen| seen.generation == event.generation)
                });
                let _told = tell.send((event.kind.name(), state, is_seen));
                Vote::Go
            })
            .expect("a subscriber");
        host.useful("checksum");
        host.unload("checksum");
        host.hostile("init-fails").expect_err("its init fails");
        let told: Vec<_> = (0..7)
            .map(|_| told.recv_timeout(Duration::from_secs(60)).expect("told"))
            .collect();
        let here = |kind, state| (kind, Some(state), true);
        assert_eq!(told[0], here("coming", State::Coming));
        assert_eq!((told[1].0, told[1].2), ("live", true));
        assert_ne!(told[1].1, Some(State::Coming));
        assert_eq!(told[2], here("going", State::Going));
        assert_eq!(told[3].0, "unloaded");
        assert_eq!(told[4], here("coming", State::Coming));
        assert_eq!(told[5], here("going", State::Going));
        assert_eq!(told[6], ("failed", None, false));
    });
}

#[test]
fn kernel_2010_a_subscriber_that_loads_and_unloads_meets_no_lock() {
    isolated!({
        let host = patient();
        let loader = host.loader.clone();
        // SAFETY: the example plugins of this repository.
        let trust = unsafe { plug_loader::Trust::new(plug_loader::Policy::default()) };
        let (tell, told) = mpsc::channel();
        let _subscription = host
            .loader
            .subscribe("busy", move |event| {
                if *event.plugin == *"checksum" && event.kind == EventKind::Coming {
                    let source = Source::path(useful("base64"));
                    let loaded = loader.load(&trust, source, &Params::new());
                    let unloaded = loader.unload("base64", seconds(60));
                    let all = (loader.plugins().len(), loader.workers().len());
                    loader.reclaim();
                    let is_done = loaded.is_ok() && unloaded.is_ok() && all.0 == 1;
                    tell.send(is_done).expect("somebody waits");
                }
                Vote::Go
            })
            .expect("a subscriber");
        host.useful("checksum");
        assert_eq!(told.try_recv(), Ok(true), "it was not waited for");
        host.unload("checksum");
    });
}

#[test]
fn kernel_2021_ready_is_told_only_after_init_succeeded() {
    isolated!({
        let host = patient();
        let (log, _subscription) = noting(&host.loader, "one", "");
        let error = host.hostile("init-fails").expect_err("its init fails");
        let name = error.plugin_name().to_owned();
        let told = kinds(&log, &name, (&name, "failed"));
        assert_eq!(told, ["coming", "going", "failed"]);
        let plugin = host.useful("checksum");
        let events = host.loader.events(0, Deadline::now());
        let live = events.iter().find(|event| event.kind == EventKind::Live);
        let live = live.expect("told");
        assert_eq!(live.generation, plugin.generation());
        assert_eq!(*live.stages, *plugin.load_times());
    });
}

#[test]
fn kernel_2021_nobody_hears_that_a_plugin_goes_before_it_is_ready() {
    isolated!({
        const ROUNDS: usize = 60;
        let host = patient();
        let (log, _subscription) = noting(&host.loader, "one", "");
        thread::scope(|scope| {
            let unloader = scope.spawn(|| {
                let mut gone = 0;
                while gone < ROUNDS {
                    gone += usize::from(host.loader.unload("checksum", seconds(60)).is_ok());
                }
            });
            for _ in 0..ROUNDS {
                while host.load(useful("checksum")).is_err() {
                    thread::yield_now();
                }
            }
            unloader.join().expect("no panic");
        });
        let mut by_load = BTreeMap::<u64, Vec<&str>>::new();
        for event in host.loader.events(0, Deadline::now()) {
            let own = by_load.entry(event.generation).or_default();
            own.push(event.kind.name());
        }
        // Those that were refused at once, since the name was taken.
        by_load.remove(&0);
        let whole = ["coming", "live", "going", "unloaded"];
        assert_eq!(by_load.len(), ROUNDS);
        assert!(by_load.values().all(|kinds| *kinds == whole), "{by_load:?}");
        // A subscriber heard them in that order, too.
        host.useful("base64");
        let heard = kinds(&log, "checksum", ("base64", "live"));
        let heard: Vec<_> = heard.into_iter().filter(|kind| *kind != "failed").collect();
        assert_eq!(heard, whole.repeat(ROUNDS));
    });
}

#[test]
fn kernel_2021_a_version_that_replaces_another_is_ready_before_anybody_hears_of_either_going() {
    isolated!({
        const ROUNDS: usize = 20;
        let host = patient();
        let (log, _subscription) = noting(&host.loader, "one", "");
        let is_over = AtomicBool::new(false);
        let by = |file| {
            let source = Source::path(useful(file)).named("codec");
            let (trust, params) = (&host.trust, Params::new());
            let replaced = host
                .loader
                .replace(trust, "codec", source, &params, seconds(60));
            replaced.is_ok()
        };
        thread::scope(|scope| {
            // Takes whatever replaced another one, at once.
            let first = useful("checksum").display().to_string();
            scope.spawn(|| {
                let first = first;
                while !is_over.load(Ordering::SeqCst) {
                    let found = host.loader.plugin("codec");
                    if let Some(plugin) = found.filter(|plugin| plugin.origin() != first) {
                        let _gone = host.loader.unload_exactly(&plugin, seconds(60));
                    }
                }
            });
            let mut replaced = 0;
            while replaced < ROUNDS {
                let source = Source::path(useful("checksum")).named("codec");
                let _loaded = host.loader.load(&host.trust, source, &Params::new());
                replaced += usize::from(by("base64"));
                // The ring keeps the last of them.
                replaced += usize::from(by("wordcount"));
            }
            is_over.store(true, Ordering::SeqCst);
        });
        let mut by_load = BTreeMap::<u64, Vec<&str>>::new();
        let mut before = None;
        let mut heard = 0;
        for event in host.loader.events(0, Deadline::now()) {
            let own = by_load.entry(event.generation).or_default();
            own.push(event.kind.name());
            if let EventKind::Replaced(by) = event.kind {
                heard += 1;
                assert!(by > event.generation, "{event:?}");
                // Told in one step: nobody comes in between.
                assert_eq!(before, Some((by, EventKind::Live)), "{event:?}");
            }
            before = Some((event.generation, event.kind.clone()));
        }
        assert!(heard > 0);
        // Those that were refused before they had a number, and the two whose beginning is forgotten.
        by_load.remove(&0);
        by_load.pop_first();
        by_load.pop_first();
        for (load, kinds) in &by_load {
            let is_right = match kinds.as_slice() {
                ["coming", "live", "replaced", "going", "unloaded"] => true,
                ["coming", "live", "going", "unloaded"] => true,
                // What it was to replace had left.
                ["coming", "going", "failed"] | ["failed"] => true,
                // The one that was left at the end.
                ["coming", "live"] => by_load.range(load + 1..).all(|(_, k)| k.len() < 4),
                _ => false,
            };
            assert!(is_right, "{load}: {kinds:?}");
        }
        // Subscribers hear it in that order, too.
        host.useful("checksum");
        let told = kinds(&log, "codec", ("checksum", "live"));
        let ready = told.iter().zip(told.iter().skip(1));
        assert!(ready.clone().any(|(_, kind)| *kind == "replaced"));
        let mut ready = ready.filter(|(_, kind)| **kind == "replaced");
        assert!(ready.all(|(before, _)| *before == "live"), "{told:?}");
    });
}

#[test]
fn kernel_2023_loads_that_share_a_result_are_announced_once() {
    isolated!({
        let host = patient();
        let file = hostile("constructor-slow");
        let (log, _subscription) = noting(&host.loader, "one", "");
        let loaded = thread::scope(|scope| {
            let loads: Vec<_> = (0..4).map(|_| scope.spawn(|| host.load(&file))).collect();
            let loads = loads.into_iter().map(|load| load.join().expect("no panic"));
            loads.flatten().collect::<Vec<_>>()
        });
        let plugin = loaded.first().expect("one is the pilot");
        assert!(
            loaded
                .iter()
                .all(|other| other.generation() == plugin.generation())
        );
        host.useful("base64");
        let told = kinds(&log, plugin.name(), ("base64", "live"));
        let told: Vec<_> = told.into_iter().filter(|kind| *kind != "failed").collect();
        assert_eq!(told, ["coming", "live"]);
    });
}

#[test]
fn every_event_has_its_load_and_the_times_of_its_stages() {
    isolated!({
        let host = patient();
        host.useful("checksum");
        host.unload("checksum");
        host.hostile("init-fails").expect_err("its init fails");
        let before = [Stage::Stage, Stage::Verify, Stage::Facts, Stage::Map];
        let ran = [Stage::Constructors, Stage::Init];
        for event in host.loader.events(0, Deadline::now()) {
            let stages: Vec<_> = event.stages.iter().map(|(stage, _)| *stage).collect();
            let has = |wanted: &[Stage]| wanted.iter().all(|stage| stages.contains(stage));
            assert_ne!(event.generation, 0, "{event:?}");
            let is_right = match event.kind {
                EventKind::Coming => has(&before) && !has(&ran),
                EventKind::Unloaded => has(&[Stage::Going, Stage::Drain]) && !has(&before),
                EventKind::Live => has(&before) && has(&ran),
                EventKind::Going | EventKind::Failed(..) => has(&before),
                _ => false,
            };
            assert!(is_right, "{event:?}");
        }
    });
}

#[test]
fn a_subscriber_that_blocks_is_waited_for_once_and_has_no_say() {
    isolated!({
        let mut config = Config::default();
        config.subscriber_patience = Duration::from_secs(3);
        let host = Host::with(config);
        let (release, released) = mpsc::channel::<()>();
        let heard = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&heard);
        let subscription = host
            .loader
            .subscribe("blocked", move |_| {
                if counted.fetch_add(1, Ordering::SeqCst) == 0 {
                    // Ends when the other side is dropped.
                    let _over = released.recv();
                }
                Vote::Veto("too late".into())
            })
            .expect("a subscriber");
        // Were it waited for each time, this would not come to an end in the time that a test has.
        for _ in 0..30 {
            host.useful("checksum");
            host.unload("checksum");
        }
        assert_eq!(heard.load(Ordering::SeqCst), 1);
        assert!(!subscription.end(Deadline::after(Duration::from_millis(10))));
        drop(release);
        // It has been told its last.
        host.useful("checksum");
        host.unload("checksum");
        assert_eq!(heard.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_subscriber_that_came_back_has_its_say_again() {
    isolated!({
        let mut config = Config::default();
        config.subscriber_patience = Duration::from_millis(300);
        let host = Host::with(config);
        let (release, released) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let _subscription = host
            .loader
            .subscribe("slow", move |event| {
                if event.kind == EventKind::Coming && *event.plugin == *"checksum" {
                    let _over = released.recv();
                }
                let _told = tell.send(event.kind.clone());
                match &*event.plugin {
                    "base64" => Vote::Veto("seen".into()),
                    _ => Vote::Go,
                }
            })
            .expect("a subscriber");
        host.useful("checksum");
        drop(release);
        // Until it has come back from all that it was told meanwhile.
        while told.recv_timeout(Duration::from_secs(60)).expect("told") != EventKind::Live {}
        // Within its patience or later, as the machine has time for it; then it is late once more.
        let deadline = seconds(60);
        let error = loop {
            match host.load(useful("base64")) {
                Ok(_) => host.unload("base64"),
                Err(error) => break error,
            };
            assert!(!deadline.has_passed(), "it has no say");
        };
        assert_eq!(error.kind(), ErrorKind::Vetoed);
    });
}

#[test]
fn a_subscriber_that_panics_is_told_nothing_any_more_and_harms_nobody() {
    isolated!({
        let host = patient();
        let heard = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&heard);
        let subscription = host
            .loader
            .subscribe("nervous", move |_| {
                counted.fetch_add(1, Ordering::SeqCst);
                panic!("too much for it");
            })
            .expect("a subscriber");
        let (log, _other) = noting(&host.loader, "calm", "");
        host.useful("checksum");
        host.unload("checksum");
        let told = kinds(&log, "checksum", ("checksum", "unloaded"));
        assert_eq!(told, ["coming", "live", "going", "unloaded"]);
        assert!(subscription.end(seconds(60)));
        assert_eq!(heard.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_forked_child_waits_for_none_of_its_parents_subscribers() {
    isolated!({
        // Whoever waited would not live to see the end of it.
        let mut config = Config::default();
        config.subscriber_patience = Duration::from_secs(3600);
        let host = Host::with(config);
        let (_log, subscription) = noting(&host.loader, "parent", "checksum");
        // SAFETY: the child loads, which it may, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let loaded = host.load(useful("checksum")).is_ok();
            drop(subscription);
            // SAFETY: nothing of the parent's is to be run at the end.
            unsafe { libc::_exit(i32::from(!loaded)) };
        }
        let mut status = 0;
        // SAFETY: a child of this process, and a place for its status.
        let ended = unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!((ended, status), (child, 0));
        let error = host.load(useful("checksum")).expect_err("vetoed here");
        assert_eq!(error.kind(), ErrorKind::Vetoed);
    });
}
