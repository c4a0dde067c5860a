//! The table at the end, and what of it is a failure.

use std::collections::BTreeMap;
use std::time::Duration;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};
use plug_loader::Stage;

use crate::churn::{Moves, Times};
use crate::compare::{Comparison, Score};
use crate::fleet::Fleet;
use crate::input::{BLOCK, Input};
use crate::profiler::Profile;
use crate::sampler::Samples;
use crate::stream::Filters;
use crate::tally::Tally;
use crate::throughput::{ROUNDS, Throughput};

/// Everything that was seen.
pub struct Report<'a> {
    pub input: &'a Input,
    pub fleet: &'a Fleet,
    pub lanes: &'a [Vec<usize>],
    pub workers: usize,
    pub throughput: Throughput,
    /// Both phases, and the results of the throughput rounds.
    pub bench: Tally,
    pub churn: Tally,
    pub quiet: Tally,
    pub moves: Moves,
    pub comparison: Comparison,
    pub profile: Profile,
    pub samples: Samples,
    /// How each plugin ended: unloaded, or why not.
    pub verdicts: Vec<(String, Result<(), String>)>,
    /// Mappings of plugins that the kernel showed before they were unloaded at the end, and after.
    pub mapped: (usize, usize),
}

impl Report<'_> {
    /// Everything that must not be; empty when all is well.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        let mut must = |holds: bool, what: String| {
            if !holds {
                failures.push(what);
            }
        };
        let tallies = [&self.bench, &self.churn, &self.quiet];
        let lost: u64 = tallies.iter().map(|tally| tally.lost()).sum();
        must(lost == 0, format!("{lost} blocks lost"));
        for faults in [
            &self.bench.faults,
            &self.churn.faults,
            &self.quiet.faults,
            &self.moves.faults,
            &self.comparison.faults,
        ] {
            // One of a kind says it all; a broken plugin raises thousands.
            if let Some(first) = faults.first() {
                must(
                    false,
                    format!("{first} ({} faults of this kind)", faults.len()),
                );
            }
        }
        for passes in &self.comparison.passes {
            let name = self.name(passes.filters);
            match &passes.tools {
                Ok(_) => must(
                    passes.score.unequal() == 0,
                    format!(
                        "{name}: {} passes differ from the tools",
                        passes.score.unequal()
                    ),
                ),
                Err(why) => must(false, format!("{name}: not compared: {why}")),
            }
        }
        for (what, score) in [
            ("whole passes", self.comparison.linked),
            ("partial streams", self.comparison.partial),
        ] {
            let unequal = score.unequal();
            must(
                unequal == 0,
                format!("{unequal} {what} differ from the linked filters"),
            );
        }
        let known = plug_example_plugins::USEFUL;
        for lane in self.lanes {
            let lane: Filters = lane.iter().copied().collect();
            let has_tools = lane.iter().all(|at| known.contains(&self.fleet.name(at)));
            let compared = self.comparison.passes.iter().any(|p| p.filters == lane);
            must(
                compared || !has_tools,
                format!("{}: no pass was compared with the tools", self.name(lane)),
            );
        }
        must(self.samples.signals > 0, "no signal arrived".to_owned());
        let wrong = self.samples.wrong;
        must(wrong == 0, format!("{wrong} wrong answers in handlers"));
        must(
            self.profile.walks > 0,
            "the profiler never walked".to_owned(),
        );
        let mismatches = self.profile.mismatches;
        must(mismatches == 0, format!("{mismatches} mismatches in walks"));
        must(
            self.moves.loads.len() > 0,
            "nothing was loaded under load".to_owned(),
        );
        for (name, verdict) in &self.verdicts {
            if let Err(why) = verdict {
                must(false, format!("{name} was not unloaded: {why}"));
            }
        }
        let (before, after) = self.mapped;
        must(after == 0, format!("{after} mappings of plugins are left"));
        // Without memfd the staged files have other names, and nobody would see what is left.
        must(
            before > 0,
            "no mapping of a loaded plugin was found".to_owned(),
        );
        failures
    }

    fn name(&self, filters: Filters) -> String {
        let names: Vec<_> = filters.iter().map(|at| self.fleet.name(at)).collect();
        names.join(" > ")
    }

    /// The whole report as text.
    pub fn render(&self) -> String {
        let mut table = table();
        self.rows(&mut table);
        let mut stages = self::table();
        stages.set_header(["stage", "median", "longest"]);
        for (doing, times) in [
            ("load", &self.moves.load_stages),
            ("unload", &self.moves.unload_stages),
        ] {
            add_stages(&mut stages, doing, times);
        }
        format!("{table}\n{stages}")
    }

    fn rows(&self, table: &mut Table) {
        let Self { churn, quiet, .. } = self;
        let mut row = |what: &str, text: String| {
            table.add_row([what.to_owned(), text]);
        };
        let way = match self.lanes {
            [chain] if chain.len() > 1 => "in one chain",
            _ => "each filter by itself",
        };
        row(
            "input",
            format!(
                "{}: {} bytes, blocks of {} KiB, {way}, {} workers",
                self.input.name,
                self.input.bytes().len(),
                BLOCK / 1024,
                self.workers
            ),
        );
        row(
            "blocks",
            format!(
                "{} during loads and unloads, {} in quiet",
                churn.offered, quiet.offered
            ),
        );
        row(
            "bytes",
            format!(
                "{} during loads and unloads, {} in quiet",
                churn.bytes, quiet.bytes
            ),
        );
        row(
            "blocks lost",
            format!("{}", self.bench.lost() + churn.lost() + quiet.lost()),
        );
        row(
            "MB/s plugins",
            format!(
                "{:.1}, median of {ROUNDS} rounds in turns",
                self.throughput.plugins / 1e6
            ),
        );
        row(
            "MB/s linked",
            match self.throughput.linked {
                Some(linked) => format!("{:.1}", linked / 1e6),
                None => "not measured: not all of the filters are linked".to_owned(),
            },
        );
        for (what, ratio) in [
            ("plugins : linked", self.throughput.ratio),
            ("by processor time", self.throughput.cpu_ratio),
        ] {
            if let Some(ratio) = ratio {
                let off = (ratio - 1.0) * 100.0;
                row(what, format!("{ratio:.3} ({off:+.1} %)"));
            }
        }
        for passes in &self.comparison.passes {
            row(
                &format!("results of {}", self.name(passes.filters)),
                match &passes.tools {
                    Ok(line) => format!("{line}: {}", of(passes.score)),
                    Err(why) => format!("not compared: {why}"),
                },
            );
        }
        row(
            "whole passes",
            format!("linked filters: {}", of(self.comparison.linked)),
        );
        row(
            "partial streams",
            format!("linked filters: {}", of(self.comparison.partial)),
        );
        if self.comparison.without_reference > 0 {
            row(
                "without reference",
                format!("{}", self.comparison.without_reference),
            );
        }
        self.rows_of_readers(&mut row);
        self.rows_of_moves(&mut row);
    }

    fn rows_of_readers(&self, row: &mut impl FnMut(&str, String)) {
        let samples = &self.samples;
        let hits: Vec<_> = self
            .fleet
            .names()
            .zip(&samples.hits)
            .map(|(name, hits)| format!("{name} {hits}"))
            .collect();
        row(
            "signals",
            format!(
                "{}, in plugins {}: {}; in exported functions {}; wrong answers {}",
                samples.signals,
                samples.hits.iter().sum::<u64>(),
                hits.join(", "),
                samples.named,
                samples.wrong
            ),
        );
        let profile = &self.profile;
        row(
            "symbols walked",
            format!(
                "{} of {} plugins in {} walks; {} generations seen before their load returned",
                profile.symbols, profile.plugins, profile.walks, profile.early
            ),
        );
        row(
            "mismatches",
            format!(
                "{}, unknown generations {}",
                profile.mismatches, profile.unknown
            ),
        );
    }

    fn rows_of_moves(&self, row: &mut impl FnMut(&str, String)) {
        let Moves {
            loads,
            unloads,
            drained,
            idle,
            ..
        } = &self.moves;
        row("loads", format!("{}, {}", loads.len(), spread(loads)));
        row("unloads", format!("{}, {}", unloads.len(), spread(unloads)));
        row(
            "proofs",
            format!(
                "{idle} workers idle, {} drained, {}",
                drained.len(),
                spread(drained)
            ),
        );
        row(
            "refused calls",
            format!(
                "{} met a closed gate and were made under the pin",
                self.churn.refused
            ),
        );
        for (what, tally) in [("loads", &self.churn), ("quiet", &self.quiet)] {
            row(
                &format!("longest gap, {what}"),
                format!(
                    "{} between two calls of a worker, {} over 1 ms",
                    short(tally.longest_gap),
                    tally.long_gaps
                ),
            );
        }
        for (name, verdict) in &self.verdicts {
            row(
                name,
                match verdict {
                    Ok(()) => "unloaded".to_owned(),
                    Err(why) => why.clone(),
                },
            );
        }
        let (before, after) = self.mapped;
        row(
            "mappings",
            format!("{before} before the end, {after} after"),
        );
    }
}

fn table() -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn add_stages(table: &mut Table, doing: &str, stages: &BTreeMap<Stage, Times>) {
    for (stage, times) in stages {
        table.add_row([
            format!("{doing}: {stage}"),
            short(times.median()),
            short(times.max()),
        ]);
    }
}

fn of(score: Score) -> String {
    format!("{} compared, {} equal", score.compared, score.equal)
}

fn spread(times: &Times) -> String {
    format!(
        "median {}, longest {}",
        short(times.median()),
        short(times.max())
    )
}

fn short(time: Duration) -> String {
    format!("{time:.1?}")
}
