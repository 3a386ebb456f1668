//! The little of the D-Bus protocol (D-Bus Specification 0.43) that the calls here take. Bytes only, nothing is sent.

/// The longest message that is read: the signals of a busy host are a few hundred bytes each.
pub(super) const LONGEST: usize = 1 << 20;
/// The part of a message that tells how long it is.
pub(super) const HEAD: usize = 16;

/// A message is not one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message: {0}")]
pub(crate) struct Malformed(&'static str);

/// A value of a property of a unit.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Text(&'a str),
    Bool(bool),
    I32(i32),
    U64(u64),
    /// One command: its program and all of its words.
    Command(&'a str, Vec<&'a str>),
}

/// Where a call goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) name: &'static str,
    pub(super) path: &'static str,
    pub(super) interface: &'static str,
}

/// The arguments of a call, with the signature of their types.
#[derive(Debug, Default)]
pub(super) struct Body {
    signature: &'static str,
    bytes: Writer,
}

impl Body {
    /// Some strings.
    pub(super) fn texts(texts: &[&str]) -> Self {
        let signature = ["", "s", "ss"].get(texts.len()).copied().unwrap_or("ss");
        let mut bytes = Writer::default();
        texts.iter().take(signature.len()).for_each(|text| bytes.text(text));
        Self { signature, bytes }
    }

    /// The arguments of `StartTransientUnit`.
    pub(super) fn unit(name: &str, mode: &str, properties: &[(&str, Value<'_>)]) -> Self {
        let mut bytes = Writer::default();
        bytes.text(name);
        bytes.text(mode);
        bytes.array(8, |bytes| {
            for (key, value) in properties {
                bytes.align(8);
                bytes.text(key);
                bytes.variant(value);
            }
        });
        // No further units.
        bytes.array(8, |_| {});
        Self { signature: "ssa(sv)a(sa(sv))", bytes }
    }
}

/// A method call, ready to be sent.
pub(super) fn call(serial: u32, target: Target, method: &str, body: &Body) -> Vec<u8> {
    let mut message = Writer(vec![b'l', 1, 0, 1]);
    message.u32(length(body.bytes.0.len()));
    message.u32(serial);
    message.array(8, |fields| {
        for (code, kind, text) in [
            (1, "o", target.path),
            (2, "s", target.interface),
            (3, "s", method),
            (6, "s", target.name),
        ] {
            fields.align(8);
            fields.0.push(code);
            fields.signature(kind);
            fields.text(text);
        }
        if !body.signature.is_empty() {
            fields.align(8);
            fields.0.push(8);
            fields.signature("g");
            fields.signature(body.signature);
        }
    });
    message.align(8);
    message.0.extend(&body.bytes.0);
    message.0
}

fn length(bytes: usize) -> u32 {
    // What is sent is made here, and short.
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[derive(Debug, Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn u32(&mut self, number: u32) {
        self.align(4);
        self.0.extend(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.u32(length(text.len()));
        self.0.extend(text.bytes().chain([0]));
    }

    fn signature(&mut self, signature: &str) {
        self.0.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
        self.0.extend(signature.bytes().chain([0]));
    }

    /// The length does not count the padding before the first element.
    fn array(&mut self, alignment: usize, elements: impl FnOnce(&mut Self)) {
        self.u32(0);
        let at = self.0.len();
        self.align(alignment);
        let first = self.0.len();
        elements(self);
        let bytes = length(self.0.len() - first).to_le_bytes();
        self.0[at - 4..at].copy_from_slice(&bytes);
    }

    fn variant(&mut self, value: &Value<'_>) {
        match value {
            Value::Text(text) => {
                self.signature("s");
                self.text(text);
            }
            Value::Bool(is_true) => {
                self.signature("b");
                self.u32((*is_true).into());
            }
            Value::I32(number) => {
                self.signature("i");
                self.align(4);
                self.0.extend(number.to_le_bytes());
            }
            Value::U64(number) => {
                self.signature("t");
                self.align(8);
                self.0.extend(number.to_le_bytes());
            }
            Value::Command(program, words) => {
                self.signature("a(sasb)");
                self.array(8, |bytes| {
                    bytes.align(8);
                    bytes.text(program);
                    bytes.array(4, |bytes| words.iter().for_each(|word| bytes.text(word)));
                    // A failure of it is one.
                    bytes.u32(0);
                });
            }
        }
    }
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Answer,
    Error,
    Signal,
    /// Calls, and what later versions of the protocol may have.
    Other,
}

/// A message that was received.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: Kind,
    /// The serial of the call that it answers.
    pub(super) answers: Option<u32>,
    pub(super) member: Option<String>,
    pub(super) error: Option<String>,
    body: Vec<u8>,
}

/// How long the message is that begins so; `head` is [`HEAD`] bytes.
pub(super) fn whole(head: &[u8]) -> Result<usize, Malformed> {
    if head.first() != Some(&b'l') {
        return Err(Malformed("not little-endian"));
    }
    let number = |at: usize| {
        let mut reader = Reader { bytes: head, at };
        reader.u32().map(|number| usize::try_from(number).unwrap_or(usize::MAX))
    };
    let (body, fields) = (number(4)?, number(12)?);
    let all = HEAD.saturating_add(fields).checked_next_multiple_of(8);
    let all = all.and_then(|ahead| ahead.checked_add(body)).filter(|all| *all <= LONGEST);
    all.ok_or(Malformed("too long"))
}

impl Message {
    /// Takes a whole message apart.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        if whole(bytes)? != bytes.len() {
            return Err(Malformed("of another length"));
        }
        let mut reader = Reader { bytes, at: 12 };
        let fields = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
        let end = HEAD + fields;
        let mut message = Self {
            kind: match bytes[1] {
                2 => Kind::Answer,
                3 => Kind::Error,
                4 => Kind::Signal,
                _ => Kind::Other,
            },
            answers: None,
            member: None,
            error: None,
            body: bytes[end.next_multiple_of(8)..].to_vec(),
        };
        while reader.at < end {
            reader.align(8);
            let code = reader.u8()?;
            match (code, reader.signature()?) {
                (3, b"s") => message.member = Some(reader.text()?),
                (4, b"s") => message.error = Some(reader.text()?),
                (5, b"u") => message.answers = Some(reader.u32()?),
                (_, b"s" | b"o") => drop(reader.text()?),
                (_, b"g") => drop(reader.signature()?),
                (_, b"u") => drop(reader.u32()?),
                _ => return Err(Malformed("a field of unknown type")),
            }
        }
        Ok(message)
    }

    /// The body, where it is one string or object path, or begins with one.
    pub(super) fn text(&self) -> Result<String, Malformed> {
        Reader { bytes: &self.body, at: 0 }.text()
    }

    /// Job and result, of systemd's signal `JobRemoved` (`uoss`).
    pub(super) fn removed_job(&self) -> Result<(String, String), Malformed> {
        let mut reader = Reader { bytes: &self.body, at: 0 };
        reader.u32()?;
        let job = reader.text()?;
        reader.text()?;
        Ok((job, reader.text()?))
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or(Malformed("cut short"))?;
        self.at += count;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.align(4);
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn text(&mut self) -> Result<String, Malformed> {
        let length = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        let text = self.take(length)?.to_vec();
        self.u8()?;
        String::from_utf8(text).map_err(|_| Malformed("text that is none"))
    }

    fn signature(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u8()?;
        let signature = self.take(length.into())?;
        self.u8()?;
        Ok(signature)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A message as systemd sends it: an answer (kind 2) or an error (3) to call 7, or a signal (4).
    pub(in crate::systemd) fn received(kind: u8, name: &str, texts: &[&str]) -> Vec<u8> {
        let mut body = Writer::default();
        if kind == 4 {
            body.u32(1);
        }
        texts.iter().for_each(|text| body.text(text));
        let mut message = Writer(vec![b'l', kind, 0, 1]);
        message.u32(length(body.0.len()));
        message.u32(99);
        message.array(8, |fields| {
            let named = if kind == 3 { 4 } else { 3 };
            fields.align(8);
            fields.0.push(named);
            fields.signature("s");
            fields.text(name);
            if kind != 4 {
                fields.align(8);
                fields.0.push(5);
                fields.signature("u");
                fields.u32(7);
            }
            // systemd names itself, which is no name that the specification allows here.
            fields.align(8);
            fields.0.push(7);
            fields.signature("s");
            fields.text("org.freedesktop.systemd1");
        });
        message.align(8);
        message.0.extend(body.0);
        message.0
    }

    #[test]
    fn a_call_is_written_as_the_specification_wants_it() {
        let target = Target { name: "n.n", path: "/p", interface: "i.i" };
        let bytes = call(7, target, "M", &Body::texts(&["ab", "c"]));
        let mut want: Vec<u8> = b"l\x01\0\x01\x0e\0\0\0\x07\0\0\0".to_vec();
        want.extend(b"\x47\0\0\0"); // the fields' length, without the padding after the last
        want.extend(b"\x01\x01o\0\x02\0\0\0/p\0\0\0\0\0\0");
        want.extend(b"\x02\x01s\0\x03\0\0\0i.i\0\0\0\0\0");
        want.extend(b"\x03\x01s\0\x01\0\0\0M\0\0\0\0\0\0\0");
        want.extend(b"\x06\x01s\0\x03\0\0\0n.n\0\0\0\0\0");
        want.extend(b"\x08\x01g\0\x02ss\0");
        want.extend(b"\x02\0\0\0ab\0\0\x01\0\0\0c\0");
        // The last field ends on a boundary by itself.
        want[12] = 0x48;
        assert_eq!(bytes, want);
    }

    #[test]
    fn what_is_received_is_taken_apart() {
        let answer = Message::parse(&received(2, "x", &["/job/1"])).unwrap();
        assert_eq!((answer.kind, answer.answers), (Kind::Answer, Some(7)));
        assert_eq!(answer.text().unwrap(), "/job/1");
        let error = Message::parse(&received(3, "a.NoSuchUnit", &["words"])).unwrap();
        assert_eq!(error.error.as_deref(), Some("a.NoSuchUnit"));
        let signal = Message::parse(&received(4, "JobRemoved", &["/job/1", "u", "done"])).unwrap();
        assert_eq!(signal.member.as_deref(), Some("JobRemoved"));
        assert_eq!(signal.removed_job().unwrap(), ("/job/1".to_owned(), "done".to_owned()));
    }

    #[test]
    fn no_message_of_any_length_or_content_is_trusted() {
        let good = received(4, "JobRemoved", &["/job/1", "unit", "done"]);
        for end in 0..good.len() {
            assert!(Message::parse(&good[..end]).is_err(), "{end} bytes");
        }
        for at in 0..good.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = byte;
                // Whatever comes of it, nothing panics.
                if let Ok(message) = Message::parse(&bad) {
                    message.removed_job().ok();
                }
            }
        }
        let mut long = good;
        long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(whole(&long), Err(Malformed("too long")));
    }
}
