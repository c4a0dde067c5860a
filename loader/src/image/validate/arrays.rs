//! Constructors and destructors: every slot of their arrays is a function of the file's own or an
//! imported one.

#![forbid(unsafe_code)]

use super::View;
use crate::image::damage::Damage;
use crate::image::segment::{Extent, Segment};
use crate::image::tag;

/// The arrays, and how many of their slots relocations fill.
pub(super) struct Arrays {
    /// What all of them lie in, so that most targets are told from theirs at once.
    around: Extent,
    arrays: Vec<(i64, Extent, u64)>,
    /// File offset of the dynamic section.
    place: u64,
}

impl Arrays {
    pub(super) fn new(view: &View<'_>) -> Self {
        let arrays = [
            (tag::INIT_ARRAY, view.facts.init_array),
            (tag::FINI_ARRAY, view.facts.fini_array),
        ];
        let arrays: Vec<(i64, Extent, u64)> = arrays
            .into_iter()
            .filter_map(|(tag, array)| Some((tag, array?, 0)))
            .collect();
        let ends = arrays
            .iter()
            .map(|(_, array, _)| array.vaddr.saturating_add(array.size));
        let end = ends.max().unwrap_or(0);
        let starts = arrays.iter().map(|(_, array, _)| array.vaddr);
        let vaddr = starts.min().unwrap_or(0);
        Self {
            around: Extent {
                vaddr,
                size: end.saturating_sub(vaddr),
            },
            arrays,
            place: view.elf.dynamic.offset,
        }
    }

    /// What all of the arrays lie in.
    pub(super) fn around(&self) -> Extent {
        self.around
    }

    /// Notes that the word at `target` gets the link-time address `value`, or that of a symbol of
    /// another file.
    pub(super) fn fill(
        &mut self,
        view: &View<'_>,
        target: u64,
        value: Option<u64>,
    ) -> Result<(), Damage> {
        if target.wrapping_sub(self.around.vaddr) >= self.around.size {
            return Ok(());
        }
        let holds = |array: &Extent| target.wrapping_sub(array.vaddr) < array.size;
        let Some((tag, _, filled)) = self.arrays.iter_mut().find(|(_, array, _)| holds(array))
        else {
            return Ok(());
        };
        if let Some(value) = value
            && !view
                .elf
                .segment_of(value, 1)
                .is_some_and(Segment::is_executable)
        {
            let at = view.elf.offset_of(target, 8).unwrap_or(self.place);
            let found = format!("{value:#x}");
            return Err(Damage::new(tag::name(*tag), at, "functions in code", found));
        }
        *filled = filled.saturating_add(u64::from(target.is_multiple_of(8)));
        Ok(())
    }

    pub(super) fn check(&self) -> Result<(), Damage> {
        for (tag, array, filled) in &self.arrays {
            if *filled != array.size / 8 {
                let found = format!("{filled} of {}", array.size / 8);
                let expected = "a relocation for each slot";
                return Err(Damage::new(tag::name(*tag), self.place, expected, found));
            }
        }
        Ok(())
    }
}
