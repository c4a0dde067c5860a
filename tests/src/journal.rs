//! A file into which plugins compiled by a test write what of them ran, so that it is still known
//! when the plugin or the process is gone.

use std::fs;
use std::path::{Path, PathBuf};

/// To be put before a fixture's own text: `note("…")` appends a line to the journal.
pub const PRELUDE: &str = r#"
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "plugin_api.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void note(const char *line) {
    int fd = open(getenv("PLUG_JOURNAL"), O_WRONLY | O_APPEND | O_CREAT, 0600);
    char text[128];
    size_t len = strlen(line);
    if (fd < 0 || len > sizeof text - 1) {
        abort();
    }
    memcpy(text, line, len);
    text[len] = '\n';
    if (write(fd, text, len + 1) != (ssize_t)(len + 1) || close(fd) != 0) {
        abort();
    }
}
"#;

/// The name of the variable that tells fixtures where the journal is.
pub const VARIABLE: &str = "PLUG_JOURNAL";

/// The journal at a path.
#[derive(Clone, Debug)]
pub struct Journal {
    path: PathBuf,
}

impl Journal {
    /// The journal at `path`, which need not exist.
    pub fn at(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
        }
    }

    /// Makes it the one that fixtures in this process write to.
    ///
    /// # Safety
    /// - No other thread reads or changes the environment meanwhile.
    pub unsafe fn use_here(&self) {
        // SAFETY: passed on to our caller.
        unsafe { std::env::set_var(VARIABLE, &self.path) };
    }

    /// The lines since the last time, in the order written.
    pub fn take(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        // It may not have been written at all.
        let _ = fs::remove_file(&self.path);
        text.lines().map(str::to_owned).collect()
    }
}
