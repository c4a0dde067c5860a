//! Key/value parameters of one instance.

use std::marker::PhantomData;
use std::ptr;

use plug_api::abi::Str;

plug_api::repr_c! {
    #[derive(Clone, Copy, Debug)]
    struct Pair("plug_param_pair") {
        key: Str,
        value: Str,
    }
}

plug_api::repr_c! {
    /// The parameters of one instance, borrowed for a call. Made by [`ParamList`] or by a host in C.
    #[derive(Debug)]
    pub struct Params("plug_params") {
        n_pairs: usize,
        pairs: *const Pair,
    }
}

impl Params {
    /// The value of `key`, if given.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter()
            .find_map(|(k, value)| (k == key).then_some(value))
    }

    /// All pairs in the order given; those that are not UTF-8 are left out.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs: &[Pair] = if self.n_pairs == 0 {
            &[]
        } else {
            // SAFETY: whoever made `self` keeps `n_pairs` pairs readable while it is borrowed.
            unsafe { std::slice::from_raw_parts(self.pairs, self.n_pairs) }
        };
        pairs.iter().filter_map(|pair| {
            // SAFETY: the text of a pair lives as long as the pair.
            let key = unsafe { pair.key.as_str() }?;
            // SAFETY: as for the key.
            let value = unsafe { pair.value.as_str() }?;
            Some((key, value))
        })
    }
}

/// A host's parameters for an instance.
#[derive(Debug, Default)]
pub struct ParamList<'a> {
    pairs: Vec<Pair>,
    text: PhantomData<&'a str>,
}

// SAFETY: the pairs only borrow text, for `'a`, and text may be read from every thread.
unsafe impl Send for ParamList<'_> {}

// SAFETY: as for Send.
unsafe impl Sync for ParamList<'_> {}

impl<'a> ParamList<'a> {
    /// The list with `pairs` in their order.
    pub fn new(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> ParamList<'a> {
        let pair = |(key, value)| Pair {
            key: Str::new(key),
            value: Str::new(value),
        };
        ParamList {
            pairs: pairs.into_iter().map(pair).collect(),
            text: PhantomData,
        }
    }

    /// Calls `f` with the form that crosses the border.
    pub fn with<R>(&self, f: impl FnOnce(&Params) -> R) -> R {
        let pairs = if self.pairs.is_empty() {
            ptr::null()
        } else {
            self.pairs.as_ptr()
        };
        f(&Params {
            n_pairs: self.pairs.len(),
            pairs,
        })
    }
}
