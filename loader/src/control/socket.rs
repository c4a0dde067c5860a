//! The system calls of the socket: listening, accepting, bytes and descriptors.
//!
//! Nothing here waits.

#![forbid(unsafe_code)]

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::cmsg_space;
use rustix::fs::{Mode, chmod};
use rustix::io::{Errno, Result};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen as listen_on,
    recvmsg, send as send_to, socket_with,
};
use rustix::process::geteuid;

/// Descriptors that one message may bring.
pub(super) const MAX_DESCRIPTORS: usize = 2;

/// Connections that the kernel keeps for us; further ones wait in their `connect`.
const BACKLOG: i32 = 64;

fn stream() -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Listens at `path`, where nothing may be. Only this user and root may connect.
pub(super) fn listen(path: &Path) -> Result<OwnedFd> {
    let socket = stream()?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    // Nobody can connect before listen(), so that nobody does under the mode of the umask.
    chmod(path, Mode::RUSR | Mode::WUSR)?;
    listen_on(&socket, BACKLOG)?;
    Ok(socket)
}

/// Whether there is a socket at `path` that nobody listens on.
pub(super) fn is_deserted(path: &Path) -> bool {
    let attempt = || connect(stream()?, &SocketAddrUnix::new(path)?);
    attempt() == Err(Errno::CONNREFUSED)
}

/// The next connection whose other end is this user's or root's; others are closed.
///
/// # Errors
/// `Errno::WOULDBLOCK` when there is none, `Errno::PERM` when it was closed; others.
pub(super) fn accept(listener: &OwnedFd) -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = accept_with(listener, flags)?;
    let peer = socket_peercred(&socket)?;
    if peer.uid == geteuid() || peer.uid.is_root() {
        return Ok(socket);
    }
    tracing::warn!(
        target: "plug::control",
        uid = peer.uid.as_raw(),
        pid = peer.pid.as_raw_nonzero().get(),
        "another user was turned away"
    );
    Err(Errno::PERM)
}

/// Reads what there is, up to the length of `buffer`; descriptors that came along are added.
///
/// The kernel ends a read behind the bytes that descriptors were sent with, so that they belong
/// to the message that the last of the bytes read belongs to.
///
/// # Errors
/// `Errno::MSGSIZE` when more descriptors came than a message may bring; they are closed.
pub(super) fn receive(
    socket: &OwnedFd,
    buffer: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let came = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let came: Vec<OwnedFd> = came.flatten().collect();
    if received.flags.contains(ReturnFlags::CTRUNC) || came.len() > MAX_DESCRIPTORS {
        return Err(Errno::MSGSIZE);
    }
    descriptors.extend(came);
    Ok(received.bytes)
}

/// Writes as much of `bytes` as the kernel takes.
pub(super) fn send(socket: impl AsFd, bytes: &[u8]) -> Result<usize> {
    send_to(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}
