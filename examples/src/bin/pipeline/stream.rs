//! A run of blocks through one filter, or through several in a row.
//!
//! The same code drives filters in plugins and filters linked statically, so that what differs
//! between the two is the way in: their [`Gate`].

use std::fmt;
use std::mem;

use plug_api::abi::HostContext;
use plug_filter::{FilterV1, Instance, ParamList};
use plug_loader::CallError;

use crate::digest::{Digest, Value};

/// The way into one filter.
pub trait Gate {
    /// Runs `call` with the filter's table.
    fn enter<R>(
        &self,
        call: impl FnMut(&FilterV1, *const HostContext) -> R,
    ) -> Result<R, CallError>;

    /// As [`Gate::enter`], also while the plugin waits to leave: for giving back what it made.
    fn give_back<R>(
        &self,
        call: impl FnMut(&FilterV1, *const HostContext) -> R,
    ) -> Result<R, CallError>;

    /// Whether the plugin waits to leave.
    fn is_leaving(&self) -> bool;
}

/// A filter of this program.
#[derive(Clone, Copy, Debug)]
pub struct Linked(pub &'static FilterV1);

impl Gate for Linked {
    fn enter<R>(
        &self,
        mut call: impl FnMut(&FilterV1, *const HostContext) -> R,
    ) -> Result<R, CallError> {
        Ok(call(self.0, std::ptr::null()))
    }

    fn give_back<R>(
        &self,
        call: impl FnMut(&FilterV1, *const HostContext) -> R,
    ) -> Result<R, CallError> {
        self.enter(call)
    }

    fn is_leaving(&self) -> bool {
        false
    }
}

/// Which filters a stream went through, one bit each, in their order on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Filters(u64);

impl Filters {
    /// The most filters there can be.
    pub const MAX: usize = 64;

    pub fn has(self, filter: usize) -> bool {
        self.0 >> filter & 1 == 1
    }

    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..Self::MAX).filter(move |&filter| self.has(filter))
    }
}

impl FromIterator<usize> for Filters {
    fn from_iter<I: IntoIterator<Item = usize>>(filters: I) -> Self {
        Self(
            filters
                .into_iter()
                .fold(0, |bits, filter| bits | 1 << filter),
        )
    }
}

/// Filters and the blocks `from..to` that they were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    pub filters: Filters,
    pub from: usize,
    pub to: usize,
}

/// Why a stream has no result.
#[derive(Debug)]
pub struct Fault {
    filter: usize,
    doing: &'static str,
    why: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { filter, doing, why } = self;
        write!(f, "{doing} of filter {filter}: {why}")
    }
}

struct Stage<G> {
    filter: usize,
    gate: G,
    instance: Instance,
}

/// Blocks on their way; to be ended with [`Stream::end`], which gives the instances back.
#[must_use]
pub struct Stream<G: Gate> {
    stages: Vec<Stage<G>>,
    range: Range,
    digest: Digest,
    /// What one stage wrote for the next.
    between: (Vec<u8>, Vec<u8>),
}

impl<G: Gate> Stream<G> {
    /// Begins at block `from`, the filters feeding each other in the order of `gates`.
    pub fn start(gates: Vec<(usize, G)>, from: usize) -> Result<Self, Fault> {
        let mut stream = Self {
            range: Range {
                filters: gates.iter().map(|(filter, _)| *filter).collect(),
                from,
                to: from,
            },
            stages: Vec::with_capacity(gates.len()),
            digest: Digest::new(),
            between: <_>::default(),
        };
        let params = ParamList::default();
        for (filter, gate) in gates {
            let created = gate.enter(|table, context| {
                // SAFETY: the gate keeps the table in place; a plugin's context stays valid
                // until its `exit`, which waits for the pin that the gate holds.
                unsafe { Instance::create(table, context, &params) }
            });
            let why = match created {
                Ok(Some(instance)) => {
                    stream.stages.push(Stage {
                        filter,
                        gate,
                        instance,
                    });
                    continue;
                }
                Ok(None) => "refused without a reason".to_owned(),
                Err(error) => error.to_string(),
            };
            stream.destroy()?;
            let doing = "create";
            return Err(Fault { filter, doing, why });
        }
        Ok(stream)
    }

    pub fn filters(&self) -> Filters {
        self.range.filters
    }

    /// Whether one of its plugins waits for this stream to end.
    pub fn is_leaving(&self) -> bool {
        self.stages.iter().any(|stage| stage.gate.is_leaving())
    }

    /// Gives the next block to the first filter, what that writes to the second, and so on.
    pub fn process(&mut self, block: &[u8]) -> Result<(), Fault> {
        self.push(0, block)?;
        self.range.to += 1;
        Ok(())
    }

    /// Ends every filter, gives the instances back, and says what was written for which blocks.
    pub fn end(mut self) -> Result<(Range, Value), Fault> {
        let finished = self.finish();
        self.destroy()?;
        finished?;
        Ok((self.range, self.digest.value()))
    }

    fn finish(&mut self) -> Result<(), Fault> {
        for at in 0..self.stages.len() {
            let last = at + 1 == self.stages.len();
            let (digest, stage) = (&mut self.digest, &mut self.stages[at]);
            let mut written = mem::take(&mut self.between.1);
            written.clear();
            let mut out = |bytes: &[u8]| match last {
                true => digest.update(bytes),
                false => written.extend_from_slice(bytes),
            };
            let Stage { gate, instance, .. } = stage;
            // SAFETY: the table is the instance's, which is finished here and never again.
            let status = gate.give_back(|table, _| unsafe { instance.finish(table, &mut out) });
            check(stage.filter, "finish", status)?;
            if !last {
                self.push(at + 1, &written)?;
            }
            self.between.1 = written;
        }
        Ok(())
    }

    fn destroy(&mut self) -> Result<(), Fault> {
        let mut result = Ok(());
        for stage in self.stages.drain(..) {
            let Stage {
                filter,
                gate,
                instance,
            } = stage;
            let mut instance = Some(instance);
            let destroyed = gate.give_back(|table, _| {
                if let Some(instance) = instance.take() {
                    // SAFETY: the table is the instance's.
                    unsafe { instance.destroy(table) };
                }
                0
            });
            result = result.and(check(filter, "destroy", destroyed));
        }
        result
    }

    fn push(&mut self, first: usize, input: &[u8]) -> Result<(), Fault> {
        let (mut given, mut written) = mem::take(&mut self.between);
        let last = self.stages.len() - 1;
        for (at, stage) in self.stages.iter_mut().enumerate().skip(first) {
            let input = if at == first { input } else { &given };
            written.clear();
            let mut out = |bytes: &[u8]| match at == last {
                true => self.digest.update(bytes),
                false => written.extend_from_slice(bytes),
            };
            let Stage { gate, instance, .. } = stage;
            // SAFETY: the table is the instance's.
            let status = gate.enter(|table, _| unsafe { instance.process(table, input, &mut out) });
            check(stage.filter, "process", status)?;
            if written.is_empty() {
                break;
            }
            mem::swap(&mut given, &mut written);
        }
        self.between = (given, written);
        Ok(())
    }
}

fn check(filter: usize, doing: &'static str, status: Result<i32, CallError>) -> Result<(), Fault> {
    let why = match status {
        Ok(0) => return Ok(()),
        Ok(status) => format!("status {status}"),
        Err(error) => error.to_string(),
    };
    Err(Fault { filter, doing, why })
}
