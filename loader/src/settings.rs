//! Values of a plugin's declared parameters: checked against the declarations before the plugin is
//! mapped, handed to it before `init`, and written while it is Live.
//!
//! Thread context.

#![forbid(unsafe_code)]

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::deadline::{Deadline, lock_until};
use crate::error::{Error, ErrorKind};
use crate::image::{Info, Param, canonical_name};
use crate::params::Params;

/// How alike two names must be for one to be taken for the other, misspelt.
const ALIKE: f64 = 0.6;

/// The declared parameters of one load and their values.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    declared: Vec<Param>,
    /// In the order of the declarations, as [`ParamKind::canonical`](crate::image::ParamKind)
    /// gives them.
    values: Mutex<Vec<String>>,
    /// Held while one value is written, so that what the plugin holds and what is shown agree.
    writing: Mutex<()>,
}

/// One declared parameter and its value.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ParamSetting {
    /// What the author declared.
    pub param: Param,
    /// The value, with its unit.
    pub value: String,
}

impl Settings {
    /// Checks what is `given` against what `info` declares. The second part is what the plugin
    /// is told: all declared ones, defaults included. A plugin that declares none is told what is
    /// given, whatever it is.
    ///
    /// # Errors
    /// [`ErrorKind::Parameter`] for the first one that is unknown, does not fit, or is missing.
    pub(crate) fn resolve(info: &Info, given: &Params) -> Result<(Self, Params), Error> {
        let declared: Vec<Param> = info.params().collect();
        if declared.is_empty() {
            return Ok((Self::default(), given.clone()));
        }
        for (key, _) in given.iter() {
            if find(&declared, key).is_none() {
                return Err(unknown(&declared, key));
            }
        }
        let mut told = Params::new();
        let mut values = Vec::new();
        for param in &declared {
            let given = given
                .iter()
                .filter(|(key, _)| is_same(key, &param.name))
                .last();
            let Some(text) = given.map(|(_, text)| text).or(param.default.as_deref()) else {
                return Err(bad(param, "a value", "none given"));
            };
            let value = fit(param, text)?;
            told = told.with(param.name.clone(), value.clone());
            values.push(value);
        }
        let settings = Self {
            declared,
            values: Mutex::new(values),
            writing: Mutex::default(),
        };
        Ok((settings, told))
    }

    /// The parameters with a setter, and what they are to be set to.
    pub(crate) fn to_set(&self) -> Vec<(Param, String)> {
        let values = self.values();
        let all = self.declared.iter().zip(values.iter());
        all.filter(|(param, _)| param.setter.is_some())
            .map(|(param, value)| (param.clone(), value.clone()))
            .collect()
    }

    /// All of them, by name.
    pub(crate) fn shown(&self) -> Vec<ParamSetting> {
        let values = self.values();
        let all = self.declared.iter().zip(values.iter());
        all.map(|(param, value)| ParamSetting {
            param: param.clone(),
            value: param.kind.human(value),
        })
        .collect()
    }

    /// Checks a new value of the parameter `name`; the second part is what the plugin is told.
    ///
    /// # Errors
    /// [`ErrorKind::Parameter`] where it is unknown, not writable, or does not fit.
    pub(crate) fn writable(&self, name: &str, text: &str) -> Result<(&Param, String), Error> {
        let param = find(&self.declared, name).ok_or_else(|| unknown(&self.declared, name))?;
        if !param.is_writable || param.setter.is_none() {
            let message = format!(
                "parameter {}: expected one that is declared writable, found one that is set at \
                 the load only: {param}; load the plugin anew with it",
                param.name
            );
            return Err(Error::new(ErrorKind::Parameter, message));
        }
        Ok((param, fit(param, text)?))
    }

    /// Keeps everybody out, for a fork.
    pub(crate) fn hold(&self, deadline: Deadline) -> Option<impl Sized> {
        Some((
            lock_until(&self.writing, deadline)?,
            lock_until(&self.values, deadline)?,
        ))
    }

    /// One write at a time.
    pub(crate) fn begin_write(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plugin took `value`.
    pub(crate) fn wrote(&self, name: &str, value: String) {
        let place = self.declared.iter().position(|p| p.name == name);
        let mut values = self.values();
        if let Some(held) = place.and_then(|at| values.get_mut(at)) {
            *held = value;
        }
    }

    fn values(&self) -> MutexGuard<'_, Vec<String>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one of `names` that `name` is most likely to mean, misspelt.
pub(crate) fn nearest<'a>(names: impl Iterator<Item = &'a str>, name: &str) -> Option<&'a str> {
    names
        .map(|known| (strsim::normalized_damerau_levenshtein(known, name), known))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, known)| known)
}

fn is_same(one: &str, other: &str) -> bool {
    canonical_name(one) == canonical_name(other)
}

fn find<'a>(declared: &'a [Param], name: &str) -> Option<&'a Param> {
    declared.iter().find(|param| is_same(&param.name, name))
}

/// The value of `param` that `text` stands for.
fn fit(param: &Param, text: &str) -> Result<String, Error> {
    let kind = &param.kind;
    kind.canonical(text)
        .ok_or_else(|| bad(param, &kind.to_string(), &format!("{text:?}")))
}

fn bad(param: &Param, expected: &str, found: &str) -> Error {
    let message = format!(
        "parameter {}: expected {expected}, found {found}; declared as {param}",
        param.name
    );
    Error::new(ErrorKind::Parameter, message)
}

fn unknown(declared: &[Param], name: &str) -> Error {
    let meant = nearest(declared.iter().map(|param| param.name.as_str()), name);
    let hint = match meant.and_then(|meant| find(declared, meant)) {
        Some(param) => format!("did you mean {}? declared as {param}", param.name),
        None => "leave it out".to_owned(),
    };
    let names: Vec<&str> = declared.iter().map(|param| param.name.as_str()).collect();
    let message = match names.is_empty() {
        true => format!("parameter {name}: expected none, since the plugin declares none"),
        false => format!(
            "parameter {name}: expected one of {}, found no such parameter; {hint}",
            names.join(", ")
        ),
    };
    Error::new(ErrorKind::Parameter, message)
}
