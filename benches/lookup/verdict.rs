//! What this benchmark ends with.

use benches::verdict::Limits;

/// Every verdict in the order in which it is printed, and its limit.
pub const LIMITS: Limits = Limits(&[
    ("addr_vs_dlfo_1000x1000", 0.75),
    ("addr_vs_dladdr_1000x1000", 0.004),
    ("addr_vs_vec_10k", 0.5),
    ("addr_vs_vec_500k", 0.12),
    ("addr_cold_vs_vec_10k", 0.25),
    ("index_bytes_per_symbol", 11.5),
    ("name_vs_dlsym_1k", 0.5),
    ("dlsym_2thread_speedup_vs_ours", 0.6),
    ("load_vs_dlopen_plus_staging_100", 1.12),
    ("load_vs_dlopen_plus_staging_500k", 1.12),
    ("crash_report_us", 2000.0),
]);

/// Tells the process that collects verdicts what one is.
pub fn tell(name: &str, value: Result<f64, String>) {
    LIMITS.tell(name, value);
}
