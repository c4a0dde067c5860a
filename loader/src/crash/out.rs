//! Text on its way to a descriptor, by `write` alone.

#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;

use plug_readside::line::Line;
use rustix::io::{self, Errno};

/// Collects up to a line's worth and writes it when told to, or when it is full.
///
/// Async-signal-safe.
#[derive(Debug)]
pub(crate) struct Out<'fd> {
    fd: BorrowedFd<'fd>,
    line: Line<1024>,
}

impl<'fd> Out<'fd> {
    pub(crate) fn to(fd: BorrowedFd<'fd>) -> Self {
        Self {
            fd,
            line: Line::new(),
        }
    }

    /// Writes what was collected. What cannot be written is given up.
    pub(crate) fn flush(&mut self) {
        let mut rest = self.line.as_bytes();
        let mut tries = 0;
        while !rest.is_empty() && tries < 64 {
            tries += 1;
            match io::write(self.fd, rest) {
                Ok(0) => break,
                Ok(n) => rest = rest.get(n..).unwrap_or(&[]),
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        self.line.clear();
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        for part in bytes.chunks(256) {
            if self.line.room() < part.len() {
                self.flush();
            }
            self.line.bytes(part);
        }
        self
    }

    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    pub(crate) fn number(&mut self, number: u64) -> &mut Self {
        self.bytes(Line::<24>::new().number(number).as_bytes())
    }

    pub(crate) fn zeros(&mut self, number: u64, digits: usize) -> &mut Self {
        self.bytes(Line::<24>::new().zeros(number, digits).as_bytes())
    }

    pub(crate) fn hex(&mut self, number: u64) -> &mut Self {
        self.bytes(Line::<24>::new().hex(number).as_bytes())
    }

    pub(crate) fn address(&mut self, address: usize) -> &mut Self {
        self.bytes(Line::<24>::new().address(address).as_bytes())
    }

    pub(crate) fn hex_bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes(Line::<128>::new().hex_bytes(bytes).as_bytes())
    }

    /// A time of the wall clock, such as `2026-05-01T12:00:00.123Z`.
    ///
    /// # Source
    /// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
    pub(crate) fn time(&mut self, (seconds, nanoseconds): (u64, u64)) -> &mut Self {
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        // Days since the first of March of the year 0, from which on leap days come last.
        let shifted = days.wrapping_add(719_468);
        let (era, day) = (shifted / 146_097, shifted % 146_097);
        let leaps = day / 1_460;
        let year = (day.wrapping_sub(leaps))
            .wrapping_add(day / 36_524)
            .wrapping_sub(day / 146_096)
            / 365;
        let day = day.wrapping_sub((365 * year).wrapping_add(year / 4).wrapping_sub(year / 100));
        let month = (5 * day).wrapping_add(2) / 153;
        let day = day
            .wrapping_sub((153 * month).wrapping_add(2) / 5)
            .wrapping_add(1);
        let january = u64::from(month >= 10);
        let month = if month < 10 {
            month.wrapping_add(3)
        } else {
            month.wrapping_sub(9)
        };
        let year = era
            .wrapping_mul(400)
            .wrapping_add(year)
            .wrapping_add(january);
        self.zeros(year, 4)
            .text("-")
            .zeros(month, 2)
            .text("-")
            .zeros(day, 2);
        self.text("T").zeros(second / 3_600, 2).text(":");
        self.zeros(second / 60 % 60, 2)
            .text(":")
            .zeros(second % 60, 2);
        self.text(".").zeros(nanoseconds / 1_000_000, 3).text("Z")
    }

    /// How long ago something was.
    pub(crate) fn ago(&mut self, nanoseconds: u64) -> &mut Self {
        match nanoseconds / 1_000_000 {
            ms @ 0..1_000 => self.number(ms).text(" ms ago"),
            ms => self.number(ms / 1_000).text(" s ago"),
        }
    }
}
