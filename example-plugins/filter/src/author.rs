//! The author's side: a trait, and the table made from it.

use plug_api::abi::{HostContext, STATUS_CAUGHT, STATUS_FAILED, STATUS_OK};
use plug_api::{Context, Error, Result};

use crate::{FilterV1, Opaque, Params, Sink};

/// A filter in Rust; [`FilterV1::of`] makes the table that the plugin exports.
///
/// ```
/// use plug_filter::{Filter, FilterV1, Output, Params};
///
/// struct Upper;
///
/// impl Filter for Upper {
///     fn create(_: &Params) -> Result<Self, plug_api::Error> {
///         Ok(Upper)
///     }
///     fn process(&mut self, input: &[u8], out: &mut Output<'_>) -> plug_api::Result {
///         out.write(&input.to_ascii_uppercase())
///     }
///     fn finish(&mut self, _: &mut Output<'_>) -> plug_api::Result {
///         Ok(())
///     }
/// }
///
/// static UPPER: FilterV1 = FilterV1::of::<Upper>(); // interfaces: [FilterV1 => UPPER]
/// ```
pub trait Filter: Send + Sized + 'static {
    /// A filter at the beginning of a stream.
    fn create(params: &Params) -> core::result::Result<Self, Error>;

    /// Takes the next block.
    fn process(&mut self, input: &[u8], out: &mut Output<'_>) -> Result;

    /// Ends the stream.
    fn finish(&mut self, out: &mut Output<'_>) -> Result;
}

/// Where a [`Filter`] writes.
#[derive(Debug)]
pub struct Output<'a> {
    sink: &'a Sink,
}

impl Output<'_> {
    /// Hands `bytes` to the host; an error means that it wants no more, and is to be passed on.
    pub fn write(&mut self, bytes: &[u8]) -> Result {
        // SAFETY: the sink is the host's, for the call in progress, and `bytes` is readable.
        let status = unsafe { (self.sink.write)(self.sink.state, bytes.as_ptr(), bytes.len()) };
        if status == 0 {
            Ok(())
        } else {
            Err("the host takes no more output".into())
        }
    }
}

impl FilterV1 {
    /// The table of `F`, whose functions catch its panics.
    pub const fn of<F: Filter>() -> FilterV1 {
        FilterV1 {
            create: create::<F>,
            process: process::<F>,
            finish: finish::<F>,
            destroy: destroy::<F>,
        }
    }
}

/// What an [`Opaque`] of `F` really is.
struct Held<F> {
    context: *const HostContext,
    /// Set by a panic, which may have left `filter` half changed; it is not entered again.
    broken: bool,
    filter: F,
}

impl<F> Held<F> {
    fn run(&mut self, f: impl FnOnce(&mut F) -> Result) -> i32 {
        // SAFETY: the context stays valid until `destroy`, by the contract of `create`.
        let context = unsafe { Context::from_raw(self.context) };
        if self.broken {
            raise(context, "the filter panicked before");
            return STATUS_FAILED;
        }
        let filter = &mut self.filter;
        let status = plug_api::catch(context, STATUS_CAUGHT, || match f(filter) {
            Ok(()) => STATUS_OK,
            Err(error) => {
                raise(context, error.message());
                STATUS_FAILED
            }
        });
        self.broken = status == STATUS_CAUGHT;
        status
    }
}

fn raise(context: Option<&Context>, message: &str) {
    if let Some(context) = context {
        context.raise(message);
    }
}

unsafe extern "C-unwind" fn create<F: Filter>(
    raw: *const HostContext,
    params: *const Params,
) -> *mut Opaque {
    // SAFETY: null, or valid until `destroy`, by the contract of `create`.
    let context = unsafe { Context::from_raw(raw) };
    plug_api::catch(context, std::ptr::null_mut(), || {
        // SAFETY: `params` is valid for the call.
        match F::create(unsafe { &*params }) {
            Ok(filter) => Box::into_raw(Box::new(Held {
                context: raw,
                broken: false,
                filter,
            })),
            Err(error) => {
                raise(context, error.message());
                std::ptr::null_mut()
            }
        }
        .cast()
    })
}

unsafe extern "C-unwind" fn process<F: Filter>(
    instance: *mut Opaque,
    input: *const u8,
    len: usize,
    out: *const Sink,
) -> i32 {
    // SAFETY: made by create::<F>, not destroyed, and on one worker at a time.
    let held: &mut Held<F> = unsafe { &mut *instance.cast() };
    let input = if len == 0 {
        &[]
    } else {
        // SAFETY: the host passes `len` readable bytes.
        unsafe { std::slice::from_raw_parts(input, len) }
    };
    // SAFETY: the sink is valid for the call.
    let sink = unsafe { &*out };
    held.run(|filter| filter.process(input, &mut Output { sink }))
}

unsafe extern "C-unwind" fn finish<F: Filter>(instance: *mut Opaque, out: *const Sink) -> i32 {
    // SAFETY: made by create::<F>, not destroyed, and on one worker at a time.
    let held: &mut Held<F> = unsafe { &mut *instance.cast() };
    // SAFETY: the sink is valid for the call.
    let sink = unsafe { &*out };
    held.run(|filter| filter.finish(&mut Output { sink }))
}

unsafe extern "C-unwind" fn destroy<F: Filter>(instance: *mut Opaque) {
    // SAFETY: made by create::<F>, and nobody uses it again.
    let held: Box<Held<F>> = unsafe { Box::from_raw(instance.cast()) };
    // SAFETY: the context is valid until this function has returned.
    let context = unsafe { Context::from_raw(held.context) };
    plug_api::catch(context, (), || drop(held));
}
