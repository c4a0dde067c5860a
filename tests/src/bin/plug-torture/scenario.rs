//! What one run does: which part of the product it tortures, in which mode, and what is broken.

/// The part of the product that is tortured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Read sections, by the read side's own functions.
    Sections,
    /// Call gates and pins, by the read side's own functions.
    Gates,
    /// The loader with plugins that are loaded and unloaded.
    Plugins,
}

/// How a barrier gets into the other threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barriers {
    /// By membarrier.
    Membarrier,
    /// Readers fence, because they were told to.
    Fences,
    /// Readers fence, because a seccomp filter denies membarrier.
    Denied,
    /// By membarrier, which is given up half-way, under full load.
    Switch,
}

/// The one fault of a variant that must be found. All of it is in this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The writer sends no barrier while registered threads rely on one.
    NoBarrier,
    /// The writer frees without waiting for a grace period, or for those inside.
    NoWait,
    /// The caller looks at the state, then raises its count, and does not look again.
    NoRecheck,
    /// The writer looks at the gates first and at the pins afterwards.
    PinsLast,
    /// The host calls a plugin's function by its bare address.
    NoGate,
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub part: Part,
    pub barriers: Barriers,
    /// A plugin's code is made inaccessible while it is still mapped, so that a call that comes too
    /// late faults for certain.
    pub protects: bool,
    pub broken: Option<Broken>,
}

const fn real(name: &'static str, part: Part, barriers: Barriers) -> Scenario {
    Scenario {
        name,
        part,
        barriers,
        protects: false,
        broken: None,
    }
}

const fn broken(name: &'static str, part: Part, broken: Broken) -> Scenario {
    Scenario {
        name,
        part,
        barriers: Barriers::Membarrier,
        protects: true,
        broken: Some(broken),
    }
}

/// Every run there is; those that are real come first, and are what runs by default.
pub const ALL: [Scenario; 18] = [
    real("sections", Part::Sections, Barriers::Membarrier),
    real("sections-fences", Part::Sections, Barriers::Fences),
    real("sections-switch", Part::Sections, Barriers::Switch),
    real("gates", Part::Gates, Barriers::Membarrier),
    real("gates-fences", Part::Gates, Barriers::Fences),
    real("gates-switch", Part::Gates, Barriers::Switch),
    real("plugins", Part::Plugins, Barriers::Membarrier),
    real("plugins-fences", Part::Plugins, Barriers::Fences),
    real("plugins-switch", Part::Plugins, Barriers::Switch),
    real("plugins-denied", Part::Plugins, Barriers::Denied),
    Scenario {
        protects: true,
        ..real("plugins-protected", Part::Plugins, Barriers::Membarrier)
    },
    broken("sections-no-barrier", Part::Sections, Broken::NoBarrier),
    broken("sections-no-wait", Part::Sections, Broken::NoWait),
    broken("gates-no-barrier", Part::Gates, Broken::NoBarrier),
    broken("gates-no-wait", Part::Gates, Broken::NoWait),
    broken("gates-no-recheck", Part::Gates, Broken::NoRecheck),
    broken("gates-pins-last", Part::Gates, Broken::PinsLast),
    broken("plugins-no-gate", Part::Plugins, Broken::NoGate),
];
