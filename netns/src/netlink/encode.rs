//! Writing netlink requests.

use super::Error;
use super::flag;

/// The bytes of `struct nlmsghdr`.
const HEADER: usize = 16;

/// One message to the kernel: a header of its family, then attributes.
///
/// Lengths of attributes are 16 bits wide (CVE-2021-43784 is what happens when they wrap), so one that does not fit marks
/// the whole request, and it is never sent.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    kind: u16,
    flags: u16,
    payload: Vec<u8>,
    too_long: bool,
}

impl Request {
    /// Starts a request with its family's own fixed `header`.
    pub(crate) fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut payload = Vec::with_capacity(256);
        payload.extend_from_slice(header);
        Self { kind, flags: flags | flag::REQUEST, payload, too_long: false }
    }

    /// Adds an attribute.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.nest_raw(kind, |request| request.payload.extend_from_slice(value))
    }

    /// Adds an attribute that is a text, which the kernel wants to end in a zero byte.
    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.nest_raw(kind, |request| {
            request.payload.extend_from_slice(value.as_bytes());
            request.payload.push(0);
        })
    }

    /// Adds an attribute made of attributes.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        const NESTED: u16 = 0x8000;
        self.nest_raw(kind | NESTED, fill)
    }

    /// Adds an attribute made of whatever `fill` writes.
    pub(crate) fn nest_raw(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.payload.len();
        self.payload.extend_from_slice(&[0; 2]);
        self.payload.extend_from_slice(&kind.to_ne_bytes());
        fill(self);
        match u16::try_from(self.payload.len() - start) {
            Ok(length) => self.payload[start..start + 2].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => self.too_long = true,
        }
        self.payload.resize(self.payload.len().next_multiple_of(4), 0);
        self
    }

    /// Adds bytes that are no attribute: a header inside a nested attribute.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.payload.extend_from_slice(bytes);
        self
    }

    pub(super) fn add_flags(&mut self, flags: u16) {
        self.flags |= flags;
    }

    /// Appends the whole message to `out`.
    pub(super) fn write_to(
        &self,
        out: &mut Vec<u8>,
        sequence: u32,
        flags: u16,
    ) -> Result<(), Error> {
        let length = u32::try_from(HEADER + self.payload.len()).map_err(|_| Error::TooLong)?;
        if self.too_long {
            return Err(Error::TooLong);
        }
        out.extend_from_slice(&length.to_ne_bytes());
        out.extend_from_slice(&self.kind.to_ne_bytes());
        out.extend_from_slice(&(self.flags | flags).to_ne_bytes());
        out.extend_from_slice(&sequence.to_ne_bytes());
        out.extend_from_slice(&[0; 4]); // from: the kernel knows
        out.extend_from_slice(&self.payload);
        out.resize(out.len().next_multiple_of(4), 0);
        Ok(())
    }
}
