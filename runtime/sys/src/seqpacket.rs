//! Messages with descriptors over `SOCK_SEQPACKET` unix sockets (`unix(7)`).

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// The most descriptors that one message can carry: the kernel's `SCM_MAX_FD`, with a margin.
pub const MAX_DESCRIPTORS: usize = 250;

const CONTROL: usize = rustix::cmsg_space!(ScmRights(253));

/// A message as it came in.
#[derive(Debug)]
pub struct Message {
    /// How many bytes of the buffer it takes.
    pub bytes: usize,
    /// The descriptors that came with it, close-on-exec.
    pub descriptors: Vec<OwnedFd>,
}

/// Listens as `name` in the directory `dir`, in place of whatever has that name.
///
/// # Errors
///
/// Those of `socket(2)`, `bind(2)` and `listen(2)`.
pub fn listen(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    let socket = socket()?;
    match rustix::fs::unlinkat(dir, name, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(err) => return Err(err),
    }
    net::bind(&socket, &address(dir, name)?)?;
    net::listen(&socket, 128)?;
    Ok(socket)
}

/// Connects to the socket `name` in the directory `dir`, and waits no longer than `patience` here and in each later
/// send or receive.
///
/// # Errors
///
/// Those of `socket(2)` and `connect(2)`: `ENOENT` and `ECONNREFUSED` where nobody listens, `EAGAIN` after `patience`.
pub fn connect(dir: BorrowedFd<'_>, name: &str, patience: Duration) -> Result<OwnedFd, Errno> {
    let socket = socket()?;
    set_patience(&socket, patience)?;
    net::connect(&socket, &address(dir, name)?)?;
    Ok(socket)
}

/// Sets how long a send or a receive waits; it fails with `EAGAIN` then.
///
/// # Errors
///
/// Those of `setsockopt(2)`.
pub fn set_patience(socket: impl AsFd, patience: Duration) -> Result<(), Errno> {
    use net::sockopt::{Timeout, set_socket_timeout};
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(patience))
}

/// Takes a waiting connection; `None` where there is none. It does not block, and neither does what it returns.
///
/// # Errors
///
/// Those of `accept(2)`.
pub fn accept(listener: impl AsFd) -> Result<Option<OwnedFd>, Errno> {
    match net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
        Ok(socket) => Ok(Some(socket)),
        Err(Errno::AGAIN | Errno::CONNABORTED) => Ok(None),
        Err(err) => Err(err),
    }
}

/// Two connected sockets. The first does not block.
///
/// # Errors
///
/// Those of `socketpair(2)`.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (ours, theirs) =
        net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

/// Sends one message, whole or not at all.
///
/// # Errors
///
/// Those of `sendmsg(2)`: `EPIPE` where the peer is gone, `EAGAIN` where it does not read, `EMSGSIZE`; `EINVAL` for more
/// than [`MAX_DESCRIPTORS`].
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    if descriptors.len() > MAX_DESCRIPTORS {
        return Err(Errno::INVAL);
    }
    let mut space = [MaybeUninit::uninit(); CONTROL];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::INVAL);
    }
    let iov = [IoSlice::new(bytes)];
    rustix::io::retry_on_intr(|| {
        net::sendmsg(&socket, &iov, &mut control, SendFlags::NOSIGNAL).map(drop)
    })
}

/// Receives one message; `None` at the end of the connection. No message of ours is empty.
///
/// # Errors
///
/// Those of `recvmsg(2)`; `EMSGSIZE` for one that does not fit, or whose descriptors did not all arrive.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<Option<Message>, Errno> {
    let mut space = [MaybeUninit::uninit(); CONTROL];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        let mut iov = [IoSliceMut::new(buffer)];
        net::recvmsg(&socket, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(Errno::MSGSIZE);
    }
    Ok((received.bytes > 0).then_some(Message { bytes: received.bytes, descriptors }))
}

/// Waits until one of `descriptors` is readable or has reached its end. Gives which are; none after `patience`.
///
/// # Errors
///
/// Those of `poll(2)`.
pub fn wait(descriptors: &[BorrowedFd<'_>], patience: Duration) -> Result<Vec<bool>, Errno> {
    let until = std::time::Instant::now() + patience;
    let mut polled: Vec<_> = descriptors.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    loop {
        let left = until.saturating_duration_since(std::time::Instant::now());
        let left = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        match rustix::event::poll(&mut polled, Some(&left)) {
            Ok(_) => return Ok(polled.iter().map(|fd| !fd.revents().is_empty()).collect()),
            Err(Errno::INTR) => {}
            Err(err) => return Err(err),
        }
    }
}

/// Opens a directory as a place to resolve names from.
///
/// # Errors
///
/// Those of `open(2)`.
pub fn directory(path: &std::path::Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn socket() -> Result<OwnedFd, Errno> {
    net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// A socket's path can have 107 bytes only; by way of the directory's descriptor it is short, however deep that is.
fn address(dir: BorrowedFd<'_>, name: &str) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_whole_with_its_descriptors() {
        let (ours, theirs) = pair().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        send(&theirs, b"hello", &[writer.as_fd()]).unwrap();
        drop(writer);
        let mut buffer = [0; 16];
        let message = receive(&ours, &mut buffer).unwrap().unwrap();
        assert_eq!(&buffer[..message.bytes], b"hello");
        rustix::io::write(&message.descriptors[0], b"x").unwrap();
        let mut got = [0; 2];
        assert_eq!(rustix::io::read(&reader, &mut got).unwrap(), 1);
    }

    #[test]
    fn as_many_descriptors_as_we_promise_fit_one_message() {
        let (ours, theirs) = pair().unwrap();
        let descriptors = vec![ours.as_fd(); MAX_DESCRIPTORS];
        send(&theirs, b"x", &descriptors).unwrap();
        let message = receive(&ours, &mut [0; 4]).unwrap().unwrap();
        assert_eq!(message.descriptors.len(), MAX_DESCRIPTORS);
        assert_eq!(
            send(&theirs, b"x", &vec![ours.as_fd(); MAX_DESCRIPTORS + 1]),
            Err(Errno::INVAL)
        );
    }

    #[test]
    fn a_message_too_long_for_the_buffer_is_an_error_not_a_part() {
        let (ours, theirs) = pair().unwrap();
        send(&theirs, b"too long", &[]).unwrap();
        assert_eq!(receive(&ours, &mut [0; 3]).unwrap_err(), Errno::MSGSIZE);
        drop(theirs);
        assert!(receive(&ours, &mut [0; 3]).unwrap().is_none());
    }

    #[test]
    fn a_deep_directory_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(200));
        std::fs::create_dir(&deep).unwrap();
        let deep = directory(&deep).unwrap();
        let listener = listen(deep.as_fd(), "a.sock").unwrap();
        drop(listener);
        let listener = listen(deep.as_fd(), "a.sock").unwrap();
        let client = connect(deep.as_fd(), "a.sock", Duration::from_secs(1)).unwrap();
        let server = accept(&listener).unwrap().unwrap();
        send(&client, b"x", &[]).unwrap();
        assert_eq!(receive(&server, &mut [0; 1]).unwrap().unwrap().bytes, 1);
    }
}
