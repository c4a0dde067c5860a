//! The same object, kept by each of those who are compared.

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use arc_swap::ArcSwap;
use left_right::{Absorb, ReadHandle, ReadHandleFactory, WriteHandle};

/// What readers look at: the first word of a line.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
pub struct Object(pub [u64; 8]);

/// For left-right, which applies each change to two objects.
pub struct Put(Object);

impl Absorb<Put> for Object {
    fn absorb_first(&mut self, put: &mut Put, _: &Self) {
        *self = put.0;
    }

    fn sync_with(&mut self, first: &Self) {
        *self = *first;
    }
}

/// Every way to keep it.
pub struct Objects {
    /// liburcu's, and the one that is read without protection.
    pub head: AtomicPtr<Object>,
    pub arc_swap: ArcSwap<Object>,
    pub epoch: crossbeam_epoch::Atomic<Object>,
    pub seize: seize::Collector,
    pub seized: AtomicPtr<Object>,
    pub hazardous: haphazard::AtomicPtr<Object>,
    pub left: ReadHandleFactory<Object>,
    pub right: Mutex<WriteHandle<Object, Put>>,
    pub std_lock: RwLock<Object>,
    pub parking_lock: parking_lot::RwLock<Object>,
    pub arc: Arc<Object>,
    pub module: Module,
}

impl Objects {
    /// Makes them once and for all.
    pub fn make() -> &'static Self {
        let (write, read): (WriteHandle<Object, Put>, ReadHandle<Object>) = left_right::new();
        let leak = || ptr::from_mut(Box::leak(Box::new(Object::default())));
        Box::leak(Box::new(Self {
            head: AtomicPtr::new(leak()),
            arc_swap: ArcSwap::from_pointee(Object::default()),
            epoch: crossbeam_epoch::Atomic::new(Object::default()),
            seize: seize::Collector::new(),
            seized: AtomicPtr::new(leak()),
            hazardous: haphazard::AtomicPtr::from(Box::new(Object::default())),
            left: read.factory(),
            right: Mutex::new(write),
            std_lock: RwLock::default(),
            parking_lock: parking_lot::RwLock::default(),
            arc: Arc::default(),
            module: Module::default(),
        }))
    }

    /// The address of the pointer, as C takes it.
    pub fn c_head(&self) -> *const *const u64 {
        ptr::from_ref(&self.head).cast()
    }

    /// Left-right's change: the next one waits until nobody reads what this one replaced.
    pub fn put(&self) {
        let mut right = self.right.lock().expect("nobody panicked");
        right.append(Put(Object::default()));
        right.publish();
    }
}

/// A module as the kernel's `try_module_get` and `module_put` see it: a count that is not raised
/// from zero, and a state.
#[repr(align(64))]
pub struct Module {
    count: AtomicU64,
    state: AtomicU32,
}

const LIVE: u32 = 0;

impl Default for Module {
    fn default() -> Self {
        Self {
            // The module's own.
            count: AtomicU64::new(1),
            state: AtomicU32::new(LIVE),
        }
    }
}

impl Module {
    #[inline]
    pub fn try_get(&self) -> bool {
        if self.state.load(Ordering::Acquire) != LIVE {
            return false;
        }
        let mut count = self.count.load(Ordering::Relaxed);
        while count != 0 {
            let raised = self.count.compare_exchange_weak(
                count,
                count + 1,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            match raised {
                Ok(_) => return true,
                Err(now) => count = now,
            }
        }
        false
    }

    #[inline]
    pub fn put(&self) {
        self.count.fetch_sub(1, Ordering::Release);
    }
}
