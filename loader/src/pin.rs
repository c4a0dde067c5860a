//! Pins: the one kind of handle that keeps a plugin in the process.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use plug_api::abi::{HostContext, Interface};
use plug_readside::gate;
use plug_readside::state;

use crate::calls::By;
use crate::error::{CallError, HolderKind};
use crate::handles::PluginInterface;
use crate::pins::Ticket;
use crate::record::Record;
use crate::worker::Worker;

/// A counted promise that a plugin stays; an unload waits until it is dropped.
///
/// Take one for whatever outlives a call: objects the plugin made, callbacks, bare pointers.
#[must_use = "the promise ends when the pin is dropped"]
pub struct PluginPin {
    record: Arc<Record>,
    ticket: Ticket,
}

impl fmt::Debug for PluginPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PluginPin({}, generation {})",
            self.record.name, self.record.generation
        )
    }
}

impl PluginPin {
    /// A pin that was asked for at `place`; none unless the plugin is Live.
    pub(crate) fn take(record: &Arc<Record>, place: &'static Location<'static>) -> Option<Self> {
        let (pins, state) = (gate::pins(record.id), gate::state(record.id));
        gate::pin(pins, state, record.live_word()).then(|| Self {
            record: Arc::clone(record),
            ticket: record.pins.add(HolderKind::Pins, place),
        })
    }

    /// Tells what the pin was taken for.
    pub(crate) fn held_for(self, kind: HolderKind) -> Self {
        self.record.pins.set_kind(&self.ticket, kind);
        self
    }

    /// Another pin of the same plugin, whatever its state, that is asked for at `place`.
    pub(crate) fn again(&self, place: &'static Location<'static>) -> Self {
        gate::pin_again(gate::pins(self.record.id));
        Self {
            record: Arc::clone(&self.record),
            ticket: self.record.pins.add(HolderKind::Pins, place),
        }
    }

    pub(crate) fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// The pinned plugin's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// Whether an unload waits: give back what the plugin made, then drop the pin.
    ///
    /// # Contexts
    /// Async-signal-safe; one load.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        state::word(self.record.id).0 != self.record.live_word()
    }

    /// As [`PluginInterface::call_raw_on`], also while the plugin is Going: for giving back what
    /// the pin was taken for.
    ///
    /// # Errors
    /// [`CallError::Gone`] when `interface` belongs to another load; [`CallError::Raised`].
    ///
    /// # Safety
    /// As [`PluginInterface::call_raw_on`].
    #[inline]
    pub unsafe fn call_raw_on<T: Interface, R>(
        &self,
        worker: &Worker,
        interface: &PluginInterface<T>,
        call: impl FnOnce(&T, *const HostContext) -> R,
    ) -> Result<R, CallError> {
        if interface.word != self.record.live_word() || interface.id != self.record.id {
            return Err(CallError::Gone);
        }
        // SAFETY: passed on to our caller; the pin keeps the plugin mapped.
        unsafe { interface.enter_raw(Some(worker), By::Pin, call) }
    }
}

impl Clone for PluginPin {
    #[track_caller]
    fn clone(&self) -> Self {
        self.again(Location::caller())
    }
}

impl Drop for PluginPin {
    fn drop(&mut self) {
        self.record.pins.remove(&self.ticket);
        gate::unpin(gate::pins(self.record.id));
    }
}
