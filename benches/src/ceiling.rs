//! How far a count may rise before it is a regression.

use gungraun::{Callgrind, EventKind, LibraryBenchmarkConfig};

/// The release of rustc with which all counts were taken.
const COUNTED_WITH: &str = "1.95";
/// What is allowed above a count, in percent, with that compiler. The same program takes the same instructions each
/// time; this is room for what a change next door does to inlining.
const MARGIN_PERCENT: u64 = 5;
/// The same with any other compiler, which decides anew what to inline and what to vectorize.
const OTHER_COMPILER_MARGIN_PERCENT: u64 = 20;
/// Too few instructions for percents of them to mean anything.
const MARGIN_INSTRUCTIONS_MIN: u64 = 20;

/// This many instructions were counted. A few percent more fail the run.
pub fn counted(instructions: u64) -> LibraryBenchmarkConfig {
    let mut config = LibraryBenchmarkConfig::default();
    // Other processors have other instructions: there the counts are shown, and mean nothing to these ceilings.
    if cfg!(target_arch = "x86_64") {
        config.tool(Callgrind::default().hard_limits([(EventKind::Ir, ceiling(instructions))]));
    }
    config
}

fn ceiling(instructions: u64) -> u64 {
    let percent =
        if env!("COUNTED_BY") == COUNTED_WITH { MARGIN_PERCENT } else { OTHER_COMPILER_MARGIN_PERCENT };
    instructions + (instructions * percent / 100).max(MARGIN_INSTRUCTIONS_MIN)
}
