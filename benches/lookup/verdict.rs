//! The lines the benchmark ends with.

/// Every verdict in the order in which it is printed, and its limit.
const LIMITS: [(&str, f64); 11] = [
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
];

/// What was found.
pub struct Verdicts([Result<f64, String>; LIMITS.len()]);

impl Verdicts {
    pub fn new() -> Self {
        Self([const { Err(String::new()) }; LIMITS.len()])
    }

    pub fn set(&mut self, name: &str, value: Result<f64, String>) {
        let at = LIMITS.iter().position(|limit| limit.0 == name);
        self.0[at.expect("a name of the list")] = value;
    }

    /// One line each.
    pub fn print(&self) {
        println!();
        for ((name, limit), value) in LIMITS.iter().zip(&self.0) {
            match value {
                Ok(value) => println!("ratio {name} {} {limit}", short(*value)),
                Err(reason) if reason.is_empty() => println!("skipped {name} not measured"),
                Err(reason) => println!("skipped {name} {reason}"),
            }
        }
    }
}

/// Three digits that count; never rounded so far that a miss looks like a hit.
fn short(value: f64) -> String {
    match value {
        v if v < 0.1 => format!("{v:.5}"),
        v if v < 100.0 => format!("{v:.3}"),
        v => format!("{v:.1}"),
    }
}
