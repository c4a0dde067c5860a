//! Everything the loader has: one a process, never dropped.

use std::sync::OnceLock;

use plug_readside::phase::Phase;
use plug_readside::section::LINES;
use plug_readside::snapshot;
use plug_readside::state::MAX_PLUGINS;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::audit;
use crate::calls;
use crate::config::{Capabilities, Config};
use crate::context::Services;
use crate::error::{Within, set_whereabouts};
use crate::events::Events;
use crate::flights::Flights;
use crate::history::History;
use crate::indexer::Indexer;
use crate::presence::Presence;
use crate::probe::cache::Probes;
use crate::registry::Registry;
use crate::suspects::Quarantine;
use crate::sys::{membarrier, objects, task};
use crate::worker::Workers;

/// The loader's parts.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) config: Config,
    capabilities: Capabilities,
    pub(crate) registry: Registry,
    pub(crate) flights: Flights,
    pub(crate) workers: Workers,
    pub(crate) presence: Presence,
    pub(crate) services: Services,
    pub(crate) events: Events,
    pub(crate) history: History,
    pub(crate) indexer: Indexer,
    pub(crate) probes: Probes,
    pub(crate) quarantine: Option<Quarantine>,
}

static PROCESS: OnceLock<Process> = OnceLock::new();

impl Process {
    /// Makes the parts; none the second time.
    pub(crate) fn start(config: Config, quarantine: Option<Quarantine>) -> Option<&'static Self> {
        let mut made = false;
        let process = PROCESS.get_or_init(|| {
            made = true;
            Self {
                history: History::new(config.history),
                indexer: Indexer::default(),
                config,
                capabilities: probe(),
                registry: Registry::new(),
                flights: Flights::default(),
                workers: Workers::default(),
                presence: Presence::default(),
                services: Services::default(),
                events: Events::default(),
                probes: Probes::default(),
                quarantine,
            }
        });
        if made {
            set_whereabouts(whereabouts);
            calls::set_note(note_fault);
        }
        made.then_some(process)
    }

    /// What was found at start, and what has been given up since.
    pub(crate) fn capabilities(&self) -> Capabilities {
        Capabilities {
            membarrier: snapshot::sections().needs_barrier(),
            ..self.capabilities
        }
    }

    /// The parts, if there are any.
    pub(crate) fn get() -> Option<&'static Self> {
        PROCESS.get()
    }
}

/// Notes that a call of what is at `address` failed, with the plugin that it is of.
fn note_fault(address: usize, message: &str) {
    let Some(process) = Process::get() else {
        return;
    };
    let mut records = process.registry.records().into_iter();
    if let Some(record) = records.find(|record| record.part_at(address).is_some()) {
        record.context.faults().note(address, message);
    }
}

/// Which plugin, and what of it, a thread is inside of.
fn whereabouts(within: Within) -> Option<String> {
    let process = Process::get()?;
    match within {
        Within::Call(address) => {
            let mut records = process.registry.records().into_iter();
            let record = records.find(|record| record.part_at(address).is_some())?;
            let function = record.symbol_at(address);
            Some(match &*function {
                "" => format!("{}, in one of its functions", record.name),
                function => format!("{}, in {function}", record.name),
            })
        }
        Within::Phase(generation, phase) => {
            let record = process.registry.load(generation)?;
            let phase = match phase {
                Phase::Constructor => "a constructor of its own",
                Phase::Init => "its init",
                Phase::Exit => "its exit",
                Phase::Destructor => "a destructor of its own",
            };
            Some(format!("{}, in {phase}", record.name))
        }
        Within::Job | Within::Section => None,
    }
}

/// Looks at what the system offers, and sets the read side up for it.
fn probe() -> Capabilities {
    let sections = snapshot::sections();
    let distance = task::distance_of_id();
    if let Some(at) = distance {
        audit::know_ids(at);
        // SAFETY: compared with what the kernel says on two threads; glibc's layout is the same in
        // all. Workers register through a `Process`, which this is called to make the first of.
        unsafe { sections.know_tids(at) };
    }
    Capabilities {
        // SAFETY: as above.
        membarrier: unsafe { membarrier::prepare(sections) },
        memfd: memfd_create("plug-probe", MemfdFlags::CLOEXEC).is_ok(),
        dl_find_object: objects::prepare(),
        dead_readers: distance.is_some(),
        max_plugins: MAX_PLUGINS,
        reader_lines: LINES,
    }
}
