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

/// Comes before a verdict that one process tells another.
pub const PREFIX: &str = "=verdict ";

/// What was found, as the line that says so.
pub struct Verdicts([Option<String>; LIMITS.len()]);

impl Verdicts {
    pub fn new() -> Self {
        Self([const { None }; LIMITS.len()])
    }

    /// Takes over the line that another process printed with [`tell`].
    pub fn take(&mut self, line: &str) {
        let name = line.split(' ').nth(1).unwrap_or_default();
        let at = LIMITS.iter().position(|limit| limit.0 == name);
        self.0[at.expect("a name of the list")] = Some(line.to_owned());
    }

    /// One line each.
    pub fn print(&self) {
        println!();
        for ((name, _), line) in LIMITS.iter().zip(&self.0) {
            match line {
                Some(line) => println!("{line}"),
                None => println!("skipped {name} not measured"),
            }
        }
    }
}

/// Tells the process that collects verdicts what one is.
pub fn tell(name: &str, value: Result<f64, String>) {
    let limit = LIMITS.iter().find(|limit| limit.0 == name);
    let limit = limit.expect("a name of the list").1;
    match value {
        Ok(value) => println!("{PREFIX}ratio {name} {} {limit}", short(value)),
        Err(reason) => println!("{PREFIX}skipped {name} {reason}"),
    }
}

/// As many digits as count.
fn short(value: f64) -> String {
    match value {
        v if v < 0.1 => format!("{v:.5}"),
        v if v < 100.0 => format!("{v:.3}"),
        v => format!("{v:.1}"),
    }
}
