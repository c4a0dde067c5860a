//! Varlink's wire format: JSON objects, each ended by a NUL.

#![forbid(unsafe_code)]

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::messages::{INTERFACE, NotFound, Refused};

/// One call as a client wrote it.
#[derive(Debug)]
pub(super) struct Call {
    /// Interface and method.
    pub(super) method: String,
    pub(super) parameters: Parameters,
    /// Several replies are welcome.
    pub(super) more: bool,
    /// No reply is.
    pub(super) oneway: bool,
    /// Another protocol is to follow, of which there is none here.
    pub(super) upgrade: bool,
}

#[derive(Deserialize)]
struct Envelope {
    method: String,
    #[serde(default)]
    parameters: Option<Map<String, Value>>,
    #[serde(default)]
    more: Option<bool>,
    #[serde(default)]
    oneway: Option<bool>,
    #[serde(default)]
    upgrade: Option<bool>,
}

impl Call {
    /// Reads one message without its NUL; none if it is not a call.
    pub(super) fn parse(message: &[u8]) -> Option<Self> {
        // Through a map, since a structure would also be read from a list of its values.
        let object: Map<String, Value> = serde_json::from_slice(message).ok()?;
        let envelope: Envelope = serde_json::from_value(Value::Object(object)).ok()?;
        Some(Self {
            method: envelope.method,
            parameters: Parameters(envelope.parameters.unwrap_or_default()),
            more: envelope.more.unwrap_or(false),
            oneway: envelope.oneway.unwrap_or(false),
            upgrade: envelope.upgrade.unwrap_or(false),
        })
    }
}

/// The parameters of a call, taken out one by one so that a bad one can be named.
#[derive(Debug)]
pub(super) struct Parameters(Map<String, Value>);

impl Parameters {
    /// Takes out the parameter `name`; one that is absent counts as null.
    pub(super) fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, Fault> {
        let value = self.0.remove(name).unwrap_or(Value::Null);
        serde_json::from_value(value).map_err(|_| Fault::InvalidParameter(name.to_owned()))
    }

    /// All were taken.
    pub(super) fn end(self) -> Result<(), Fault> {
        match self.0.into_iter().next() {
            Some((name, _)) => Err(Fault::InvalidParameter(name)),
            None => Ok(()),
        }
    }
}

/// Why a call gets no answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// No interface of this name.
    InterfaceNotFound(String),
    /// No method of this name in its interface.
    MethodNotFound(String),
    /// No method here can be called in this way.
    MethodNotImplemented(String),
    /// This parameter is missing, unknown or not what it should be.
    InvalidParameter(String),
    /// The answer is too long for one reply.
    ExpectedMore,
    /// No plugin of this name.
    NotFound(String),
    /// The message came without the descriptor it names.
    NoDescriptor,
    /// The loader refused.
    Refused(Box<Refused>),
}

/// The text of an error, with its NUL.
pub(super) fn error(fault: &Fault) -> Vec<u8> {
    let service = |error: &str, key: &str, value: &str| {
        failure(
            &format!("org.varlink.service.{error}"),
            &Map::from_iter([(key.to_owned(), Value::from(value))]),
        )
    };
    let own = |error: &str| format!("{INTERFACE}.{error}");
    match fault {
        Fault::InterfaceNotFound(name) => service("InterfaceNotFound", "interface", name),
        Fault::MethodNotFound(method) => service("MethodNotFound", "method", method),
        Fault::MethodNotImplemented(method) => service("MethodNotImplemented", "method", method),
        Fault::InvalidParameter(name) => service("InvalidParameter", "parameter", name),
        Fault::ExpectedMore => failure("org.varlink.service.ExpectedMore", &Map::new()),
        Fault::NotFound(name) => failure(&own("NotFound"), &NotFound { name: name.clone() }),
        Fault::NoDescriptor => failure(&own("NoDescriptor"), &Map::new()),
        Fault::Refused(refused) => failure(&own("Refused"), &**refused),
    }
}

fn failure<T: Serialize>(error: &str, parameters: &T) -> Vec<u8> {
    #[derive(Serialize)]
    struct Failure<'a, T> {
        error: &'a str,
        parameters: &'a T,
    }
    ended(text(&Failure { error, parameters }))
}

/// The text of a reply, with its NUL.
pub(super) fn reply<T: Serialize>(parameters: &T, continues: bool) -> Vec<u8> {
    framed(&text(parameters), continues)
}

/// The text of a reply whose one parameter `key` is the list of `rows`, each JSON already.
pub(super) fn list(key: &str, rows: &[String], continues: bool) -> Vec<u8> {
    framed(&format!("{{\"{key}\":[{}]}}", rows.join(",")), continues)
}

fn framed(parameters: &str, continues: bool) -> Vec<u8> {
    let continues = if continues { ",\"continues\":true" } else { "" };
    ended(format!("{{\"parameters\":{parameters}{continues}}}"))
}

/// A value as JSON.
pub(super) fn text<T: Serialize>(value: &T) -> String {
    // Our own types have text keys and derived implementations: nothing of them can fail.
    serde_json::to_string(value).unwrap_or_else(|_| "{}".to_owned())
}

/// JSON has no NUL of its own: control characters are escaped in it.
fn ended(text: String) -> Vec<u8> {
    let mut bytes = text.into_bytes();
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_accepts_calls_and_nothing_else() {
        let call = Call::parse(br#"{"method":"a.B","more":true,"other":[1]}"#).expect("a call");
        assert!(call.more && !call.oneway && call.method == "a.B");
        assert!(Call::parse(br#"{"method":"a.B","parameters":null,"more":null}"#).is_some());
        let deep = [
            b"{\"method\":\"a.B\",\"parameters\":{\"a\":".as_slice(),
            &[b'['; 60_000],
        ]
        .concat();
        for bad in [
            b"".as_slice(),
            b"{}",
            b"null",
            b"[\"method\"]",
            br#"{"method":1}"#,
            br#"{"method":"a.B","parameters":[]}"#,
            br#"{"method":"a.B","more":1}"#,
            br#"{"method":"a.B"}{"#,
            b"\xff\xfe",
            &deep,
        ] {
            assert!(
                Call::parse(bad).is_none(),
                "{:?}",
                String::from_utf8_lossy(bad)
            );
        }
    }

    #[test]
    fn parameters_name_the_one_at_fault() {
        let call = |text: &str| Call::parse(text.as_bytes()).expect("a call").parameters;
        let mut taken = call(r#"{"method":"a.B","parameters":{"n":-1,"x":1}}"#);
        assert!(
            matches!(taken.take::<u64>("n"), Err(Fault::InvalidParameter(name)) if name == "n")
        );
        assert!(
            matches!(taken.take::<String>("m"), Err(Fault::InvalidParameter(name)) if name == "m")
        );
        assert!(matches!(taken.take::<Option<String>>("m"), Ok(None)));
        assert!(matches!(taken.end(), Err(Fault::InvalidParameter(name)) if name == "x"));
    }

    #[test]
    fn replies_are_json_that_ends_in_the_only_nul() {
        let own = NotFound {
            name: "a\0b\"".into(),
        };
        for bytes in [
            reply(&own, true),
            list("x", &[text(&own), text(&1)], false),
            error(&Fault::NotFound("\0".into())),
        ] {
            let (last, json) = bytes.split_last().expect("not empty");
            assert!(*last == 0 && !json.contains(&0));
            serde_json::from_slice::<Value>(json).expect("JSON");
        }
    }
}
