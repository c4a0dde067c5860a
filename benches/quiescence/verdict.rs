//! What this benchmark ends with.

use benches::verdict::Limits;

/// Every verdict in the order in which it is printed, and its limit.
pub const LIMITS: Limits = Limits(&[
    ("handler_read_vs_arcswap", 0.6),
    ("registered_read_vs_arcswap", 0.2),
    ("registered_read_vs_urcu_memb", 0.6),
    ("gate_vs_try_module_get", 0.15),
    ("gate_extra_ns", 2.5),
    ("reader_1_to_2_threads", 1.25),
    ("grace_128_idle_vs_urcu_memb", 1.3),
    ("quiesce_128_busy_vs_urcu_memb", 0.8),
    ("quiesce_128_busy_vs_qsbr", 0.0002),
    ("publish_gaps_50k_vs_none", 1.3),
    ("publish_cpu_50k_vs_none", 1.02),
    ("load_gaps_1k_vs_bare_dlopen", 1.3),
    ("failing_load_gaps_1k_vs_bare_dlopen", 1.3),
    ("load_gaps_growth_1_to_128_workers", 1.3),
]);

/// Tells the process that collects verdicts what one is.
pub fn tell(name: &str, value: Result<f64, String>) {
    LIMITS.tell(name, value);
}
