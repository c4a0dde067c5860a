//! Handles to a plugin's functions and tables: what hosts call it by. They keep nothing alive.

use std::fmt;
use std::marker::PhantomData;

use plug_api::abi::{HostContext, Interface};
use plug_readside::state::StateWord;

use crate::calls::{self, By};
use crate::error::CallError;
use crate::lineage::{Bearing, Place};
use crate::signature::Signature;
use crate::worker::Worker;

/// An exported function. `Copy`; keeps nothing alive; every call passes a gate that compares the
/// generation, so that a stale handle never reaches the code of another plugin in its place. Where its
/// plugin was [replaced](crate::Loader::replace), it leads to the version in force.
pub struct PluginFn<F> {
    address: usize,
    word: u64,
    id: u32,
    /// Whether the plugin told its signature.
    compared: bool,
    /// Where calls go that the version refuses; nothing that others look at.
    bearing: Bearing,
    _signature: PhantomData<F>,
}

impl<F> Clone for PluginFn<F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for PluginFn<F> {}

impl<F> fmt::Debug for PluginFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PluginFn({:#x}, generation {})",
            self.address,
            StateWord(self.word).generation()
        )
    }
}

impl<F: Signature> PluginFn<F> {
    /// The handle to what is at `place`.
    pub(crate) fn new(place: Place, bearing: Bearing, compared: bool) -> Self {
        Self {
            address: place.address,
            word: place.word,
            id: place.id,
            bearing,
            compared,
            _signature: PhantomData,
        }
    }

    /// Whether the plugin told the function's signature, so that it was compared with `F`.
    #[must_use]
    pub fn is_compared(&self) -> bool {
        self.compared
    }

    /// Calls it on a worker's thread, counted in the worker's own row.
    ///
    /// # Contexts
    /// Thread context. One plain store and one load over a bare call.
    ///
    /// # Errors
    /// [`CallError::Gone`] after an unload; [`CallError::Raised`] when the plugin caught a panic
    /// or an exception, or raised an error.
    ///
    /// # Safety
    /// - The function has the signature `F` and the arguments are what it asks for.
    #[inline]
    pub unsafe fn call_on(&self, worker: &Worker, args: F::Args) -> Result<F::Output, CallError> {
        let entered = calls::enter(
            Some(worker.gate()),
            self.id,
            By::Word(self.word),
            self.address,
        );
        let Ok(gate) = entered else {
            // SAFETY: passed on to our caller.
            return unsafe { self.call_successor(Some(worker), args) };
        };
        // SAFETY: the gate keeps the plugin mapped; the caller vouches for the signature.
        let output = unsafe { F::invoke(self.address, args) };
        gate.finish()?;
        Ok(output)
    }

    /// Calls it on any thread.
    ///
    /// # Contexts
    /// Thread context. One locked addition and subtraction where the thread is no worker.
    ///
    /// # Errors
    /// As [`PluginFn::call_on`].
    ///
    /// # Safety
    /// As [`PluginFn::call_on`].
    #[inline]
    pub unsafe fn call(&self, args: F::Args) -> Result<F::Output, CallError> {
        let Ok(gate) = calls::enter(None, self.id, By::Word(self.word), self.address) else {
            // SAFETY: passed on to our caller.
            return unsafe { self.call_successor(None, args) };
        };
        // SAFETY: as in call_on().
        let output = unsafe { F::invoke(self.address, args) };
        gate.finish()?;
        Ok(output)
    }

    /// Calls it in the version that replaced the handle's.
    ///
    /// # Safety
    /// As [`PluginFn::call_on`].
    #[cold]
    #[inline(never)]
    unsafe fn call_successor(
        &self,
        worker: Option<&Worker>,
        args: F::Args,
    ) -> Result<F::Output, CallError> {
        let (gate, place) = self.bearing.enter(worker.map(Worker::gate))?;
        // SAFETY: the gate keeps the successor mapped, which has this function there; the caller
        // vouches for the signature, which a replace does not change.
        let output = unsafe { F::invoke(place.address, args) };
        gate.finish()?;
        Ok(output)
    }
}

/// A plugin's table of functions. `Copy`; keeps nothing alive. Follows a
/// [replace](crate::Loader::replace), as [`PluginFn`] does.
pub struct PluginInterface<T> {
    table: *const T,
    context: *const HostContext,
    pub(crate) word: u64,
    pub(crate) id: u32,
    bearing: Bearing,
}

// SAFETY: the pointers are only followed inside a gate or under a pin, on any thread; the table
// is immutable by the interface's contract.
unsafe impl<T: Sync> Send for PluginInterface<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for PluginInterface<T> {}

impl<T> Clone for PluginInterface<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for PluginInterface<T> {}

impl<T> fmt::Debug for PluginInterface<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PluginInterface({:p})", self.table)
    }
}

impl<T: Interface> PluginInterface<T> {
    /// The handle to the table at `place`.
    pub(crate) fn new(place: Place, bearing: Bearing) -> Self {
        Self {
            table: place.address as *const T,
            context: place.context as *const HostContext,
            word: place.word,
            id: place.id,
            bearing,
        }
    }

    /// Runs `call` with the table, inside the gate, on a worker's thread. The second argument is
    /// the context that the plugin got at `init`.
    ///
    /// # Errors
    /// As [`PluginFn::call_on`].
    ///
    /// # Safety
    /// - What `call` does with the functions is what the interface allows.
    /// - No function pointer and nothing the plugin made leaves `call`, unless a [`PluginPin`](crate::PluginPin)
    ///   is held for as long as it is used.
    #[inline]
    pub unsafe fn call_raw_on<R>(
        &self,
        worker: &Worker,
        call: impl FnOnce(&T, *const HostContext) -> R,
    ) -> Result<R, CallError> {
        // SAFETY: passed on to our caller.
        unsafe { self.enter_raw(Some(worker), By::Word(self.word), call) }
    }

    /// As [`PluginInterface::call_raw_on`], from any thread.
    ///
    /// # Errors
    /// As [`PluginFn::call_on`].
    ///
    /// # Safety
    /// As [`PluginInterface::call_raw_on`].
    #[inline]
    pub unsafe fn call_raw<R>(
        &self,
        call: impl FnOnce(&T, *const HostContext) -> R,
    ) -> Result<R, CallError> {
        // SAFETY: passed on to our caller.
        unsafe { self.enter_raw(None, By::Word(self.word), call) }
    }

    /// Runs `call` inside the gate that `by` opens.
    ///
    /// # Safety
    /// As [`PluginInterface::call_raw_on`].
    #[inline]
    pub(crate) unsafe fn enter_raw<R>(
        &self,
        worker: Option<&Worker>,
        by: By,
        call: impl FnOnce(&T, *const HostContext) -> R,
    ) -> Result<R, CallError> {
        let row = worker.map(Worker::gate);
        let Ok(gate) = calls::enter(row, self.id, by, self.table as usize) else {
            // SAFETY: passed on to our caller.
            return unsafe { self.enter_successor(worker, call) };
        };
        // SAFETY: the gate, or the pin behind `by`, keeps the plugin and with it the table mapped.
        let table = unsafe { &*self.table };
        let output = call(table, self.context);
        gate.finish()?;
        Ok(output)
    }
    /// Runs `call` inside the gate of the version that replaced the handle's.
    ///
    /// # Safety
    /// As [`PluginInterface::call_raw_on`].
    #[cold]
    #[inline(never)]
    unsafe fn enter_successor<R>(
        &self,
        worker: Option<&Worker>,
        call: impl FnOnce(&T, *const HostContext) -> R,
    ) -> Result<R, CallError> {
        let (gate, place) = self.bearing.enter(worker.map(Worker::gate))?;
        // SAFETY: the gate keeps the successor mapped, whose table of this interface is there.
        let table = unsafe { &*(place.address as *const T) };
        let output = call(table, place.context as *const HostContext);
        gate.finish()?;
        Ok(output)
    }
}
