//! Ceilings: how far a count may rise before it is a regression.

use gungraun::{Callgrind, EventKind, LibraryBenchmarkConfig};

/// The release of rustc that all counts were taken with.
const COUNTED_WITH: &str = "1.95";
/// Margin above a count, in percent, with that compiler. The same program always takes the same number of instructions:
/// the margin allows for changes elsewhere that affect inlining.
const MARGIN_PERCENT: u64 = 5;
/// Margin with any other compiler, which makes its own choices of inlining and vectorization.
const OTHER_COMPILER_MARGIN_PERCENT: u64 = 20;
/// Smallest margin, for counts that are so low that a percentage is meaningless.
const MARGIN_INSTRUCTIONS_MIN: u64 = 20;

/// Returns a configuration that fails the run if the benchmark exceeds this count by more than the margin.
pub fn counted(instructions: u64) -> LibraryBenchmarkConfig {
    let mut config = LibraryBenchmarkConfig::default();
    // Other architectures have other instructions, so their counts are shown but not compared.
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
