//! The one place that names atomics, so that the loom models run the very code of the product.
//!
//! In the product these are the atomics of `core`. In a model they are loom's, wrapped so that
//! two things hold which loom alone does not give: a signal can be delivered before every single
//! operation (see [`signal`]), and SeqCst accesses have their total order.

#[cfg(not(plug_loom))]
pub(crate) use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, compiler_fence, fence,
};

#[cfg(plug_loom)]
pub(crate) use modelled::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, compiler_fence, fence,
};

#[cfg(all(test, plug_loom))]
pub(crate) use modelled::signal;

#[cfg(plug_loom)]
#[expect(
    clippy::allow_attributes,
    reason = "what is unused or unreachable differs between the types"
)]
#[allow(dead_code, unreachable_pub, reason = "one macro serves three types")]
mod modelled {
    use std::cell::{Cell, RefCell};

    use loom::sync::atomic;

    /// Not modelled: the one flag of this type never changes in a model.
    pub(crate) use std::sync::atomic::AtomicBool;

    pub(crate) use loom::sync::atomic::Ordering;

    /// Delivery of signals in a model.
    pub(crate) mod signal {
        use super::RefCell;

        type Handler = Box<dyn FnOnce()>;

        loom::thread_local! {
            static PENDING: RefCell<Option<(usize, Handler)>> = RefCell::new(None);
        }

        #[cfg(test)]
        /// Lets `handler` interrupt this thread at its `after`-th point from here.
        pub(crate) fn arm(after: usize, handler: impl FnOnce() + 'static) {
            PENDING.with(|pending| *pending.borrow_mut() = Some((after, Box::new(handler))));
        }

        #[cfg(test)]
        /// Whether an armed handler has not run yet; it is disarmed.
        pub(crate) fn disarm() -> bool {
            PENDING.with(|pending| pending.borrow_mut().take().is_some())
        }

        /// A place where a signal may arrive: before every atomic operation and fence, and
        /// wherever a model says so.
        pub(crate) fn point() {
            let due = PENDING.with(|pending| {
                let mut pending = pending.borrow_mut();
                match pending.take() {
                    Some((0, handler)) => Some(handler),
                    Some((after, handler)) => {
                        *pending = Some((after.wrapping_sub(1), handler));
                        None
                    }
                    None => None,
                }
            });
            if let Some(handler) = due {
                handler();
            }
        }
    }

    loom::thread_local! {
        /// Whether the thread made a SeqCst write that no fence of the model follows yet.
        static WROTE: Cell<bool> = Cell::new(false);
    }

    /// Loom takes SeqCst accesses for AcqRel ones. What the total order adds, and all that the
    /// product uses of it, is that a SeqCst write stays before a later SeqCst load of the same
    /// thread. A fence between the two says the same, and only a pair that is SeqCst on both
    /// sides gets it.
    fn before_load(order: Ordering) {
        if order == Ordering::SeqCst && WROTE.with(|wrote| wrote.replace(false)) {
            atomic::fence(Ordering::SeqCst);
        }
    }

    fn after_write(order: Ordering) {
        if order == Ordering::SeqCst {
            WROTE.with(|wrote| wrote.set(true));
        }
    }

    pub(crate) fn fence(order: Ordering) {
        signal::point();
        atomic::fence(order);
        WROTE.with(|wrote| wrote.set(false));
    }

    /// Models run in fence mode, where the compiler fence has no part to play.
    pub(crate) fn compiler_fence(_order: Ordering) {}

    macro_rules! modelled {
        ($name:ident, $int:ty) => {
            #[derive(Debug)]
            pub struct $name(atomic::$name);

            impl $name {
                pub(crate) fn new(value: $int) -> Self {
                    Self(atomic::$name::new(value))
                }

                pub(crate) fn load(&self, order: Ordering) -> $int {
                    signal::point();
                    before_load(order);
                    self.0.load(order)
                }

                pub(crate) fn store(&self, value: $int, order: Ordering) {
                    signal::point();
                    self.0.store(value, order);
                    after_write(order);
                }

                pub(crate) fn swap(&self, value: $int, order: Ordering) -> $int {
                    signal::point();
                    let old = self.0.swap(value, order);
                    after_write(order);
                    old
                }

                pub(crate) fn fetch_add(&self, value: $int, order: Ordering) -> $int {
                    signal::point();
                    let old = self.0.fetch_add(value, order);
                    after_write(order);
                    old
                }

                pub(crate) fn fetch_sub(&self, value: $int, order: Ordering) -> $int {
                    signal::point();
                    let old = self.0.fetch_sub(value, order);
                    after_write(order);
                    old
                }

                pub(crate) fn compare_exchange(
                    &self,
                    current: $int,
                    new: $int,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$int, $int> {
                    signal::point();
                    let result = self.0.compare_exchange(current, new, success, failure);
                    if result.is_ok() {
                        after_write(success);
                    }
                    result
                }
            }
        };
    }

    modelled!(AtomicU32, u32);
    modelled!(AtomicU64, u64);
    modelled!(AtomicUsize, usize);
}
