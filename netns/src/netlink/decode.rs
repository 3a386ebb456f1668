//! Reading netlink messages. The kernel wrote them, and they are still checked byte by byte: a length that does not fit
//! ends the reading, it never panics.

use super::Error;

/// One message from the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// Whose request it answers or tells of: that socket's number.
    pub(crate) port: u32,
    /// What follows `struct nlmsghdr`.
    pub(crate) payload: &'a [u8],
}

/// The messages in what one `recv` returned. The first malformed one is an error and the end.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Result<Message<'_>, Error>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let Some((message, rest)) = split_message(bytes) else {
            bytes = &[];
            return Some(Err(Error::Malformed));
        };
        bytes = rest;
        Some(Ok(message))
    })
}

fn split_message(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    const HEADER: usize = 16;
    let length = usize::try_from(number(bytes)?).ok()?;
    let payload = bytes.get(HEADER..length)?;
    let message = Message {
        kind: short(bytes.get(4..)?)?,
        flags: short(bytes.get(6..)?)?,
        sequence: number(bytes.get(8..)?)?,
        port: number(bytes.get(12..)?)?,
        payload,
    };
    Some((message, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The attributes in `bytes`, as kind (without its flag bits) and value; ends at the first malformed one.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const KIND: u16 = 0x3fff; // NLA_TYPE_MASK
    std::iter::from_fn(move || {
        let length = usize::from(short(bytes)?);
        let kind = short(bytes.get(2..)?)?;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & KIND, value))
    })
}

/// The value of the first attribute of `kind`.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// The first four bytes as a number in the machine's byte order.
pub(crate) fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.first_chunk()?))
}

fn short(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.first_chunk()?))
}

/// A text, without the zero byte that ends it.
pub(crate) fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8(bytes[..end].to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::super::Request;
    use super::*;

    fn written() -> Vec<u8> {
        let mut request = Request::new(16, 0x400, &[1, 2, 3, 4]);
        request.text(3, "eth0").nest(18, |nested| {
            nested.attribute(1, &[9]).attribute(2, &7_u32.to_ne_bytes());
        });
        let mut bytes = Vec::new();
        request.write_to(&mut bytes, 5, 0x4).unwrap();
        bytes
    }

    #[test]
    fn what_is_written_reads_back() {
        let bytes = written();
        let message = messages(&bytes).next().unwrap().unwrap();
        assert_eq!((message.kind, message.flags, message.sequence), (16, 0x405, 5));
        let attrs = &message.payload[4..];
        assert_eq!(find(attrs, 3).and_then(text).unwrap(), "eth0");
        let nested = find(attrs, 18).unwrap();
        assert_eq!(find(nested, 1).unwrap(), [9]);
        assert_eq!(find(nested, 2).and_then(number).unwrap(), 7);
        assert_eq!(find(nested, 3), None);
        assert_eq!(messages(&bytes).count(), 1);
    }

    #[test]
    fn cut_or_lying_messages_end_the_reading() {
        let whole = written();
        for length in 0..whole.len() {
            let read: Vec<_> = messages(&whole[..length]).collect();
            assert!(read.iter().all(Result::is_err), "cut to {length}: {read:?}");
        }
        for byte in 0..whole.len() {
            for value in [0, 1, 3, 0x7f, 0xff] {
                let mut lying = whole.clone();
                lying[byte] = value;
                for message in messages(&lying).flatten() {
                    assert!(message.payload.len() <= lying.len());
                    let found = attributes(message.payload.get(4..).unwrap_or_default());
                    assert!(found.count() <= lying.len() / 4);
                }
            }
        }
    }

    #[test]
    fn an_attribute_over_64_kib_is_never_sent() {
        let cases = [
            ("as long as can be", u16::MAX as usize - 4, true),
            ("a byte more", u16::MAX as usize - 3, false),
            ("wraps to a small one", 1 << 16, false),
        ];
        for (what, length, good) in cases {
            let mut request = Request::new(16, 0, &[]);
            request.attribute(1, &vec![0; length]);
            assert_eq!(request.write_to(&mut Vec::new(), 0, 0).is_ok(), good, "{what}");
        }
    }
}
