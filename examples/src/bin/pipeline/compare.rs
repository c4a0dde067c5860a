//! Results against the outside tools and against the same filters linked statically.

use std::collections::BTreeMap;
use std::thread;

use plug_filter::FilterV1;

use crate::digest::Value;
use crate::fleet::Fleet;
use crate::input::Input;
use crate::stream::{Fault, Filters, Linked, Range, Stream};
use crate::tally::Tally;
use crate::tools;

/// How many results there were and how many of them are what they should be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Score {
    pub compared: u64,
    pub equal: u64,
}

impl Score {
    fn add(&mut self, times: u64, equal: bool) {
        self.compared += times;
        self.equal += if equal { times } else { 0 };
    }

    pub fn unequal(self) -> u64 {
        self.compared - self.equal
    }
}

/// Passes from the first block to the last, by filters, beside the outside tools' words.
#[derive(Debug)]
pub struct Passes {
    pub filters: Filters,
    /// The commands, or why there are none.
    pub tools: Result<String, String>,
    pub score: Score,
}

/// What the comparison says.
#[derive(Debug, Default)]
pub struct Comparison {
    pub passes: Vec<Passes>,
    /// Whole passes against the linked filters, too.
    pub linked: Score,
    /// Streams that began or ended inside the input, against the linked filters.
    pub partial: Score,
    /// Results of filters that nobody else has.
    pub without_reference: u64,
    pub faults: Vec<String>,
}

/// The linked filter of each plugin, where there is one.
pub fn linked(fleet: &Fleet) -> Vec<Option<&'static FilterV1>> {
    let linked = plug_example_plugins::linked_filters();
    let find = |name| {
        linked
            .iter()
            .find(|(of, _)| *of == name)
            .map(|(_, table)| *table)
    };
    fleet.names().map(find).collect()
}

/// Compares everything in `tally`, on `threads` threads.
pub fn compare(tally: &Tally, fleet: &Fleet, input: &Input, threads: usize) -> Comparison {
    let mut comparison = Comparison::default();
    let whole = |range: &Range| range.from == 0 && range.to == input.blocks();
    for (range, results) in tally.results.iter().filter(|(range, _)| whole(range)) {
        let names = range.filters.iter().map(|filter| fleet.name(filter));
        let Some(commands) = tools::pipeline(names) else {
            continue;
        };
        let said = tools::run(&commands, input.bytes());
        let mut score = Score::default();
        if let Ok(expected) = said {
            results
                .iter()
                .for_each(|(value, times)| score.add(*times, *value == expected));
        }
        comparison.passes.push(Passes {
            filters: range.filters,
            tools: said.map(|_| tools::line(&commands)),
            score,
        });
    }
    let tables = linked(fleet);
    let ranges: Vec<&Range> = tally.results.keys().collect();
    let expected = thread::scope(|scope| {
        let share = ranges.len().div_ceil(threads).max(1);
        let halves: Vec<_> = ranges
            .chunks(share)
            .map(|ranges| {
                let tables = &tables;
                scope.spawn(move || {
                    let each = ranges
                        .iter()
                        .map(|range| (**range, reference(range, tables, input)));
                    each.collect::<BTreeMap<_, _>>()
                })
            })
            .collect();
        let mut all = BTreeMap::new();
        for half in halves {
            all.extend(half.join().expect("linked filters do not panic"));
        }
        all
    });
    for (range, results) in &tally.results {
        let score = match whole(range) {
            true => &mut comparison.linked,
            false => &mut comparison.partial,
        };
        match &expected[range] {
            Some(Ok(expected)) => {
                results
                    .iter()
                    .for_each(|(value, times)| score.add(*times, value == expected));
            }
            Some(Err(fault)) => comparison.faults.push(format!("linked: {fault}")),
            None => comparison.without_reference += results.values().sum::<u64>(),
        }
    }
    comparison
}

/// What the linked filters make of `range`; none where one of them is not linked.
fn reference(
    range: &Range,
    tables: &[Option<&'static FilterV1>],
    input: &Input,
) -> Option<Result<Value, Fault>> {
    let gates: Option<Vec<_>> = range
        .filters
        .iter()
        .map(|filter| Some((filter, Linked(tables[filter]?))))
        .collect();
    let mut stream = match Stream::start(gates?, range.from) {
        Ok(stream) => stream,
        Err(fault) => return Some(Err(fault)),
    };
    for block in range.from..range.to {
        if let Err(fault) = stream.process(input.block(block)) {
            return Some(stream.end().and(Err(fault)));
        }
    }
    Some(stream.end().map(|(_, value)| value))
}
