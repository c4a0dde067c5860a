//! A client of the control socket on the bare socket, which can also misbehave.

use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

/// One connection.
#[derive(Debug)]
pub struct Client {
    /// The socket.
    pub socket: UnixStream,
    input: Vec<u8>,
}

impl Client {
    /// Connects; reads give up after a minute.
    pub fn connect(path: &Path) -> Self {
        let socket = UnixStream::connect(path).expect("somebody listens");
        let patience = Some(Duration::from_secs(60));
        socket.set_read_timeout(patience).expect("a timeout");
        socket.set_write_timeout(patience).expect("a timeout");
        let input = Vec::new();
        Self { socket, input }
    }

    /// Sends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// Sends bytes as they are, together with descriptors.
    pub fn raw_with(&mut self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(files)));
        let bytes = [IoSlice::new(bytes)];
        sendmsg(
            self.socket.as_fd(),
            &bytes,
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }

    /// Sends one call; `extra` is merged into it.
    pub fn send(&mut self, method: &str, parameters: &Value, extra: &Value) {
        self.raw(&message(method, parameters, extra)).expect("sent");
    }

    /// The next reply; none when the host has closed the connection.
    pub fn reply(&mut self) -> Option<Value> {
        let bytes = self.reply_bytes()?;
        Some(serde_json::from_slice(&bytes).expect("JSON"))
    }

    /// The bytes of the next reply without its NUL.
    pub fn reply_bytes(&mut self) -> Option<Vec<u8>> {
        let mut from = 0;
        loop {
            if let Some(at) = self.input.iter().skip(from).position(|byte| *byte == 0) {
                let rest = self.input.split_off(from + at + 1);
                let mut reply = std::mem::replace(&mut self.input, rest);
                reply.pop();
                return Some(reply);
            }
            from = self.input.len();
            let mut buffer = [0; 65536];
            match self.socket.read(&mut buffer) {
                Ok(0) => return None,
                Ok(n) => self.input.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no reply: {error}"),
            }
        }
    }

    /// Calls `dev.plug.Host`'s `method` and returns the parameters of its one reply.
    pub fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.send(&own(method), parameters, &json!({}));
        parameters_of(&self.reply().expect("a reply"))
    }

    /// Calls `dev.plug.Host`'s `method` and returns its error's name and parameters.
    pub fn fail(&mut self, method: &str, parameters: &Value) -> (String, Value) {
        self.send(&own(method), parameters, &json!({}));
        error_of(&self.reply().expect("a reply"))
    }

    /// Calls with `more` and collects the parameters of all replies.
    pub fn more(&mut self, method: &str, parameters: &Value) -> Vec<Value> {
        self.send(&own(method), parameters, &json!({"more": true}));
        let mut replies = Vec::new();
        loop {
            let reply = self.reply().expect("a reply");
            replies.push(parameters_of(&reply));
            if reply["continues"] != true {
                return replies;
            }
        }
    }
}

/// The full name of one of `dev.plug.Host`'s methods.
pub fn own(method: &str) -> String {
    format!("dev.plug.Host.{method}")
}

/// The bytes of one call, NUL included.
pub fn message(method: &str, parameters: &Value, extra: &Value) -> Vec<u8> {
    let mut call = json!({"method": method, "parameters": parameters});
    let call_map = call.as_object_mut().expect("an object");
    call_map.extend(extra.as_object().expect("an object").clone());
    let mut bytes = serde_json::to_vec(&call).expect("JSON");
    bytes.push(0);
    bytes
}

/// The parameters of a reply that is no error.
pub fn parameters_of(reply: &Value) -> Value {
    assert!(reply.get("error").is_none(), "{reply}");
    reply["parameters"].clone()
}

/// The name and parameters of an error.
pub fn error_of(reply: &Value) -> (String, Value) {
    let name = reply["error"]
        .as_str()
        .unwrap_or_else(|| panic!("no error: {reply}"));
    (name.to_owned(), reply["parameters"].clone())
}
