//! A worker: streams the whole input as passes of its own, again and again, through whatever
//! plugins are Live.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use plug_api::abi::HostContext;
use plug_filter::FilterV1;
use plug_loader::{CallError, PluginInterface, PluginPin, Worker};

use crate::fleet::{Fleet, Live};
use crate::input::Input;
use crate::sampler::Timer;
use crate::stream::{Gate, Stream};
use crate::tally::{Pace, Tally};

/// A filter of a plugin, which stays for as long as this does.
pub struct Pinned<'w> {
    pin: PluginPin,
    filter: PluginInterface<FilterV1>,
    worker: &'w Worker,
    pace: &'w Pace,
}

impl<'w> Pinned<'w> {
    /// None when the plugin is not Live any more.
    pub fn new(live: &Live, worker: &'w Worker, pace: &'w Pace) -> Option<Self> {
        Some(Self {
            pin: live.plugin.pin().ok()?,
            filter: live.filter,
            worker,
            pace,
        })
    }
}

impl Gate for Pinned<'_> {
    fn enter<R>(
        &self,
        mut call: impl FnMut(&FilterV1, *const HostContext) -> R,
    ) -> Result<R, CallError> {
        let entered = self.pace.call(|| {
            // SAFETY: what `call` makes stays in a stream that holds this pin.
            unsafe { self.filter.call_raw_on(self.worker, &mut call) }
        });
        match entered {
            // An unload began since the last look: it waits for the pin, and with it for the
            // block in hand.
            Err(CallError::Gone) => {
                self.pace.refused();
                self.give_back(call)
            }
            entered => entered,
        }
    }

    fn give_back<R>(
        &self,
        call: impl FnMut(&FilterV1, *const HostContext) -> R,
    ) -> Result<R, CallError> {
        self.pace.call(|| {
            // SAFETY: as in enter().
            unsafe { self.pin.call_raw_on(self.worker, &self.filter, call) }
        })
    }

    fn is_leaving(&self) -> bool {
        self.pin.is_leaving()
    }
}

/// What the workers of a phase share.
#[derive(Debug)]
pub struct Floor<'a> {
    pub input: &'a Input,
    pub fleet: &'a Fleet,
    /// Filters of each stream: one each, or all in one chain.
    pub lanes: &'a [Vec<usize>],
    /// Whether passes are ended in the middle when it is time to stop.
    pub may_cut: bool,
    /// Set when it is time to stop (Relaxed: nothing is read because of it but the flag).
    pub stop: AtomicBool,
    /// For the progress line (Relaxed).
    pub blocks: AtomicU64,
}

/// Works until the floor stops, with a timer signal on this thread.
pub fn work(floor: &Floor<'_>, name: &str) -> Result<Tally, String> {
    let worker = floor
        .fleet
        .loader
        .worker(name)
        .map_err(|error| format!("worker {name}: {error}"))?;
    let _timer = Timer::start().map_err(|error| format!("timer of {name}: {error}"))?;
    let pace = Pace::default();
    let mut line = Line {
        floor,
        worker: &worker,
        pace: &pace,
        version: 0,
        live: vec![None; floor.fleet.len()],
        streams: floor.lanes.iter().map(|_| None).collect(),
        tally: Tally::default(),
    };
    while !floor.stop.load(Ordering::Relaxed) {
        line.pass();
    }
    let mut tally = line.tally;
    pace.report(&mut tally);
    Ok(tally)
}

/// One worker's streams.
struct Line<'f, 'w> {
    floor: &'f Floor<'f>,
    worker: &'w Worker,
    pace: &'w Pace,
    /// The fleet's version that `live` was taken from.
    version: u64,
    /// What can be picked up; a plugin that refused its pin is crossed off.
    live: Vec<Option<Live>>,
    /// One for each lane, where any of its filters is Live.
    streams: Vec<Option<Stream<Pinned<'w>>>>,
    tally: Tally,
}

impl Line<'_, '_> {
    /// The input once from its beginning to its end. Every stream ends here at the latest, so
    /// that none wraps around.
    fn pass(&mut self) {
        let floor = self.floor;
        self.look(0);
        for block in 0..floor.input.blocks() {
            loop {
                if floor.may_cut && floor.stop.load(Ordering::Relaxed) {
                    return self.end_all();
                }
                self.worker.quiescent();
                self.look(block);
                if self.streams.iter().any(Option::is_some) {
                    break;
                }
                if floor.stop.load(Ordering::Relaxed) {
                    return;
                }
                self.pace.idle();
                thread::sleep(Duration::from_micros(50));
            }
            self.process(floor.input.block(block));
        }
        self.end_all();
    }

    fn process(&mut self, bytes: &[u8]) {
        for slot in &mut self.streams {
            let Some(stream) = slot else { continue };
            self.tally.offered += 1;
            self.tally.bytes += bytes.len() as u64;
            if let Err(fault) = stream.process(bytes) {
                self.tally.fault(&fault);
                // Its result would be wrong: what it was offered stays without acknowledgement.
                if let Some(Err(fault)) = slot.take().map(Stream::end) {
                    self.tally.fault(&fault);
                }
            }
            self.floor.blocks.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lets go of plugins that wait to leave, and picks up those that came, from `block` on.
    fn look(&mut self, block: usize) {
        let version = self.floor.fleet.version();
        if version != self.version {
            self.version = version;
            self.live = self.floor.fleet.live();
        }
        for (slot, lane) in self.streams.iter_mut().zip(self.floor.lanes) {
            if let Some(stream) = slot {
                let joins =
                    |&filter: &usize| self.live[filter].is_some() && !stream.filters().has(filter);
                if stream.is_leaving() || lane.iter().any(joins) {
                    self.tally
                        .note(slot.take().map(Stream::end).expect("it is there"));
                }
            }
            if slot.is_none() {
                let mut gates = Vec::new();
                for &filter in lane {
                    let Some(live) = &self.live[filter] else {
                        continue;
                    };
                    match Pinned::new(live, self.worker, self.pace) {
                        Some(gate) => gates.push((filter, gate)),
                        None => self.live[filter] = None,
                    }
                }
                if !gates.is_empty() {
                    match Stream::start(gates, block) {
                        Ok(stream) => *slot = Some(stream),
                        Err(fault) => self.tally.fault(&fault),
                    }
                }
            }
        }
    }

    fn end_all(&mut self) {
        for slot in &mut self.streams {
            if let Some(stream) = slot.take() {
                self.tally.note(stream.end());
            }
        }
    }
}
