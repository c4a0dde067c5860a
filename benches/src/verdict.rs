//! The lines a benchmark ends with: `ratio NAME VALUE LIMIT`, `count NAME VALUE LIMIT`, or
//! `skipped NAME reason`.

/// Comes before a verdict that one process tells another.
pub const PREFIX: &str = "=verdict ";

/// Every verdict of a benchmark in the order in which it is printed, and its limit.
#[derive(Clone, Copy)]
pub struct Limits(pub &'static [(&'static str, f64)]);

impl Limits {
    /// Tells the process that collects verdicts what one is.
    ///
    /// # Panics
    /// If the benchmark has no verdict of that name.
    pub fn tell(self, name: &str, value: Result<f64, String>) {
        let limit = self.0.iter().find(|limit| limit.0 == name);
        let limit = limit.expect("a name of the list").1;
        match value {
            Ok(value) => println!("{PREFIX}ratio {name} {} {limit}", short(value)),
            Err(reason) => println!("{PREFIX}skipped {name} {reason}"),
        }
    }
}

impl Limits {
    /// As [`Limits::tell`], of a count.
    ///
    /// # Panics
    /// As there.
    pub fn tell_count(self, name: &str, value: u64) {
        let limit = self.0.iter().find(|limit| limit.0 == name);
        let limit = limit.expect("a name of the list").1;
        println!("{PREFIX}count {name} {value} {limit}");
    }
}

/// What was found, as the line that says so.
pub struct Verdicts {
    limits: Limits,
    lines: Vec<Option<String>>,
}

impl Verdicts {
    pub fn new(limits: Limits) -> Self {
        let lines = vec![None; limits.0.len()];
        Self { limits, lines }
    }

    /// Takes over the line that another process printed with [`Limits::tell`].
    ///
    /// # Panics
    /// If the line names no verdict of the list.
    pub fn take(&mut self, line: &str) {
        let name = line.split(' ').nth(1).unwrap_or_default();
        let at = self.limits.0.iter().position(|limit| limit.0 == name);
        self.lines[at.expect("a name of the list")] = Some(line.to_owned());
    }

    /// One line each.
    pub fn print(&self) {
        println!();
        for ((name, _), line) in self.limits.0.iter().zip(&self.lines) {
            match line {
                Some(line) => println!("{line}"),
                None => println!("skipped {name} not measured"),
            }
        }
    }
}

/// As many digits as count.
pub fn short(value: f64) -> String {
    match value {
        v if v < 0.1 => format!("{v:.5}"),
        v if v < 100.0 => format!("{v:.3}"),
        v => format!("{v:.1}"),
    }
}
