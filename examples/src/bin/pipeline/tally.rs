//! What workers count, and what came out of their streams.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::digest::Value;
use crate::stream::{Fault, Range};

/// Results of one range; more than one is a mismatch.
type Results = BTreeMap<Value, u64>;

/// One worker's counts, or several workers' together.
#[derive(Debug, Default)]
pub struct Tally {
    /// Results by what they are results of, with how often each came out.
    pub results: BTreeMap<Range, Results>,
    /// Blocks given to streams; each stream of a filter counts its own.
    pub offered: u64,
    pub bytes: u64,
    /// Blocks of streams that gave a result.
    pub acknowledged: u64,
    /// Calls that the gate refused because an unload had just begun, made under the pin instead.
    pub refused: u64,
    pub faults: Vec<String>,
    /// The longest time between two calls of one worker.
    pub longest_gap: Duration,
    /// Times between calls of more than a millisecond.
    pub long_gaps: u64,
}

impl Tally {
    /// Keeps the result of a stream.
    pub fn note(&mut self, ended: Result<(Range, Value), Fault>) {
        match ended {
            Ok((range, value)) => {
                self.acknowledged += (range.to - range.from) as u64;
                *self
                    .results
                    .entry(range)
                    .or_default()
                    .entry(value)
                    .or_default() += 1;
            }
            Err(fault) => self.fault(&fault),
        }
    }

    pub fn fault(&mut self, fault: &Fault) {
        self.faults.push(fault.to_string());
    }

    pub fn lost(&self) -> u64 {
        self.offered.abs_diff(self.acknowledged)
    }

    /// Takes over the results, but not the counts.
    pub fn add_results(&mut self, other: &Self) {
        for (range, results) in &other.results {
            let mine = self.results.entry(*range).or_default();
            for (value, times) in results {
                *mine.entry(*value).or_default() += times;
            }
        }
    }

    pub fn add(&mut self, other: Self) {
        self.add_results(&other);
        self.offered += other.offered;
        self.bytes += other.bytes;
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.faults.extend(other.faults);
        self.longest_gap = self.longest_gap.max(other.longest_gap);
        self.long_gaps += other.long_gaps;
    }
}

/// The clock of one worker's calls.
#[derive(Debug, Default)]
pub struct Pace {
    last_end: Cell<Option<Instant>>,
    longest: Cell<Duration>,
    long: Cell<u64>,
    refused: Cell<u64>,
}

impl Pace {
    /// Times one call.
    pub fn call<R>(&self, call: impl FnOnce() -> R) -> R {
        if let Some(last) = self.last_end.get() {
            let gap = last.elapsed();
            self.longest.set(self.longest.get().max(gap));
            if gap > Duration::from_millis(1) {
                self.long.set(self.long.get() + 1);
            }
        }
        let output = call();
        self.last_end.set(Some(Instant::now()));
        output
    }

    /// There was nobody to call: the time until the next call is no gap.
    pub fn idle(&self) {
        self.last_end.set(None);
    }

    pub fn refused(&self) {
        self.refused.set(self.refused.get() + 1);
    }

    pub fn report(&self, tally: &mut Tally) {
        tally.longest_gap = self.longest.get();
        tally.long_gaps = self.long.get();
        tally.refused = self.refused.get();
    }
}
