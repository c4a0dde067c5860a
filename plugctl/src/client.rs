//! The varlink client: one connection to one host, calls and streams of replies.

use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::{FAILED, Failure};
use plug_loader::control::messages::{INTERFACE, NotFound, Refused};

/// Longest reply believed; hosts send 64 KiB at most where there is more.
const LONGEST: usize = 16 << 20;

/// The kind of failure that is only a wait; what came so far is kept.
const SILENT: &str = "silent";

/// A connection to a host.
#[derive(Debug)]
pub(crate) struct Client {
    stream: UnixStream,
    /// Bytes that came and do not belong to a reply taken already.
    buffer: Vec<u8>,
    /// The host in words.
    label: String,
}

#[derive(Serialize)]
struct Call<'a, P> {
    method: String,
    parameters: &'a P,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    more: bool,
}

#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    parameters: Option<Value>,
    #[serde(default)]
    continues: bool,
    #[serde(default)]
    error: Option<String>,
}

/// No parameters.
#[derive(Debug, Serialize)]
pub(crate) struct Nothing {}

/// Whether one reply or several are welcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replies {
    One,
    More,
}

impl Client {
    /// Connects; `label` is what messages call the host.
    pub(crate) fn connect(socket: &Path, label: String) -> io::Result<Self> {
        Ok(Self {
            stream: UnixStream::connect(socket)?,
            buffer: Vec::new(),
            label,
        })
    }

    /// How long to wait for bytes at most; for ever by default.
    pub(crate) fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(patience))?;
        self.stream.set_write_timeout(Some(patience))
    }

    /// One call with one reply.
    pub(crate) fn call<R: DeserializeOwned>(
        &mut self,
        method: &str,
        parameters: &impl Serialize,
    ) -> Result<R, Failure> {
        self.send(method, parameters, Replies::One, None)?;
        Ok(self.reply()?.0)
    }

    /// One call whose answer comes in as many replies as it takes.
    pub(crate) fn collect<R: DeserializeOwned, T>(
        &mut self,
        method: &str,
        parameters: &impl Serialize,
        rows: impl Fn(R) -> Vec<T>,
    ) -> Result<Vec<T>, Failure> {
        self.send(method, parameters, Replies::More, None)?;
        let mut all = Vec::new();
        loop {
            let (reply, continues) = self.reply()?;
            all.extend(rows(reply));
            if !continues {
                return Ok(all);
            }
        }
    }

    /// Sends a call, and a descriptor with its first byte.
    pub(crate) fn send(
        &mut self,
        method: &str,
        parameters: &impl Serialize,
        replies: Replies,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<(), Failure> {
        let call = Call {
            method: format!("{INTERFACE}.{method}"),
            parameters,
            more: replies == Replies::More,
        };
        let mut message = serde_json::to_vec(&call)
            .map_err(|error| Failure::new(FAILED, "protocol", format!("{method}: {error}")))?;
        message.push(0);
        let sent = match file {
            Some(file) => self.send_with(&message, file),
            None => Ok(0),
        };
        sent.and_then(|sent| {
            self.stream
                .write_all(message.get(sent..).unwrap_or_default())
        })
        .map_err(|error| self.lost(&error))
    }

    fn send_with(&self, message: &[u8], file: BorrowedFd<'_>) -> io::Result<usize> {
        let files = [file];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        // One descriptor fits: the space is for one.
        let _fits = control.push(SendAncillaryMessage::ScmRights(&files));
        let parts = [IoSlice::new(message)];
        Ok(sendmsg(
            &self.stream,
            &parts,
            &mut control,
            SendFlags::NOSIGNAL,
        )?)
    }

    /// The one reply of a call that may take long; `tell` is called after every second of silence
    /// with their number.
    pub(crate) fn long_reply<R: DeserializeOwned>(
        &mut self,
        mut tell: impl FnMut(u64),
    ) -> Result<R, Failure> {
        self.set_patience(Duration::from_secs(1))
            .map_err(|error| self.lost(&error))?;
        let mut seconds = 0;
        loop {
            match self.reply() {
                Err(failure) if &*failure.kind == SILENT => {
                    seconds += 1;
                    tell(seconds);
                }
                reply => return reply.map(|(reply, _)| reply),
            }
        }
    }

    /// The next reply, and whether another one follows.
    pub(crate) fn reply<R: DeserializeOwned>(&mut self) -> Result<(R, bool), Failure> {
        let message = self.message()?;
        let strange = |error: serde_json::Error| {
            Failure::new(
                FAILED,
                "protocol",
                format!("{} answered nonsense: {error}", self.label),
            )
        };
        let reply: Reply = serde_json::from_slice(&message).map_err(strange)?;
        let parameters = reply
            .parameters
            .unwrap_or_else(|| Value::Object(Default::default()));
        if let Some(error) = reply.error {
            return Err(self.fault(&error, parameters));
        }
        let parameters = serde_json::from_value(parameters).map_err(strange)?;
        Ok((parameters, reply.continues))
    }

    /// The bytes up to the next NUL.
    fn message(&mut self) -> Result<Vec<u8>, Failure> {
        let mut searched = 0;
        loop {
            let rest = self.buffer.get(searched..).unwrap_or_default();
            if let Some(at) = rest.iter().position(|byte| *byte == 0) {
                let after = self.buffer.split_off(searched + at + 1);
                let mut message = std::mem::replace(&mut self.buffer, after);
                message.pop();
                return Ok(message);
            }
            searched = self.buffer.len();
            if searched > LONGEST {
                let message = format!("{} sends a reply without end", self.label);
                return Err(Failure::new(FAILED, "protocol", message));
            }
            let mut piece = [0; 16 * 1024];
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(self.gone()),
                Ok(n) => self
                    .buffer
                    .extend_from_slice(piece.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.lost(&error)),
            }
        }
    }

    fn gone(&self) -> Failure {
        let message = format!("{} closed the connection before it answered", self.label);
        Failure::new(FAILED, "host_gone", message)
    }

    fn lost(&self, error: &io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => self.gone(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                Failure::new(FAILED, SILENT, format!("{} does not answer", self.label))
            }
            _ => Failure::new(FAILED, "connection", format!("{}: {error}", self.label)),
        }
    }

    fn fault(&self, error: &str, parameters: Value) -> Failure {
        let own = error
            .strip_prefix(INTERFACE)
            .and_then(|rest| rest.strip_prefix('.'));
        let known = match own {
            Some("NotFound") => serde_json::from_value::<NotFound>(parameters.clone())
                .ok()
                .map(|unknown| Failure::no_plugin(&unknown.name)),
            Some("Refused") => serde_json::from_value::<Refused>(parameters.clone())
                .ok()
                .map(Failure::refused),
            _ => None,
        };
        known.unwrap_or_else(|| {
            let message = format!("{} answered {error} {parameters}", self.label);
            Failure::new(FAILED, "protocol", message)
        })
    }
}
