//! What this benchmark ends with.

use benches::verdict::Limits;

/// Every verdict in the order in which it is printed, and its limit.
pub const LIMITS: Limits = Limits(&[
    ("load_with_footprint_vs_without", 1.15),
    ("rust_cycle_vs_plain_c_dlopen_dlclose_same_size", 3.0),
    ("unload_128_workers_vs_1", 4.0),
    ("zombies", 0.0),
    ("still_mapped", 0.0),
    ("rss_growth_kb", 1024.0),
]);

/// Tells the process that collects verdicts what a ratio is.
pub fn ratio(name: &str, value: Result<f64, String>) {
    LIMITS.tell(name, value);
}

/// Tells it what a count is.
pub fn count(name: &str, value: u64) {
    LIMITS.tell_count(name, value);
}
