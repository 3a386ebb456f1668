//! Frames (RFC 6455, section 5): heads are read and written here, what they carry passes through in pieces.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

/// A frame's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) last: bool,
    pub(super) opcode: Opcode,
    pub(super) mask: Option<[u8; 4]>,
    pub(super) length: u64,
}

/// The longest control frame.
pub(super) const MOST_CONTROL: u64 = 125;

/// Why a connection came to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("read or write")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Protocol(&'static str),
}

impl Opcode {
    fn code(self) -> u8 {
        match self {
            Opcode::Continuation => 0,
            Opcode::Text => 1,
            Opcode::Binary => 2,
            Opcode::Close => 8,
            Opcode::Ping => 9,
            Opcode::Pong => 10,
        }
    }

    fn of(code: u8) -> Result<Self, Broken> {
        let all = [
            Opcode::Continuation,
            Opcode::Text,
            Opcode::Binary,
            Opcode::Close,
            Opcode::Ping,
            Opcode::Pong,
        ];
        let found = all.into_iter().find(|opcode| opcode.code() == code);
        found.ok_or(Broken::Protocol("a frame of no known kind"))
    }

    pub(super) fn is_control(self) -> bool {
        self.code() >= 8
    }
}

/// Reads a head, and refuses what no peer of ours may send. `masked` is whether the peer has to mask: clients do.
pub(super) async fn head(io: &mut (impl AsyncRead + Unpin), masked: bool) -> Result<Head, Broken> {
    let [first, second] = io.read_u16().await?.to_be_bytes();
    if first & 0x70 != 0 {
        return Err(Broken::Protocol("an extension that was not agreed on"));
    }
    let (last, opcode) = (first & 0x80 != 0, Opcode::of(first & 0x0f)?);
    let length = match second & 0x7f {
        126 => io.read_u16().await?.into(),
        127 => io.read_u64().await?,
        short => short.into(),
    };
    if opcode.is_control() && (!last || length > MOST_CONTROL) {
        return Err(Broken::Protocol("a control frame that is cut or too long"));
    }
    if (second & 0x80 != 0) != masked {
        return Err(Broken::Protocol("a frame with the wrong mask"));
    }
    let mask = if masked { Some(io.read_u32().await?.to_be_bytes()) } else { None };
    Ok(Head { last, opcode, mask, length })
}

/// Writes a whole frame. `mask` is there where we are the client.
pub(super) fn write(opcode: Opcode, mask: Option<[u8; 4]>, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut frame = Vec::with_capacity(length + 14);
    frame.push(0x80 | opcode.code());
    let masked = if mask.is_some() { 0x80 } else { 0 };
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => frame.push(masked | short),
        (_, Ok(middle)) => {
            frame.push(masked | 126);
            frame.extend_from_slice(&middle.to_be_bytes());
        }
        (_, Err(_)) => {
            frame.push(masked | 127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend(mask.into_iter().flatten());
    let start = frame.len();
    parts.iter().for_each(|part| frame.extend_from_slice(part));
    if let Some(mask) = mask {
        apply(mask, 0, &mut frame[start..]);
    }
    frame
}

/// Masks or unmasks bytes that begin `at` in the frame.
pub(super) fn apply(mask: [u8; 4], at: u64, bytes: &mut [u8]) {
    let shift = usize::try_from(at % 4).unwrap_or(0);
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte ^= mask[(place + shift) % 4];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn heads_come_back_as_they_were() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            for mask in [None, Some([1, 2, 3, 4])] {
                let content = vec![7; length];
                let frame = write(Opcode::Binary, mask, &[&content]);
                let mut rest = frame.as_slice();
                let got = head(&mut rest, mask.is_some()).await.unwrap();
                let want = Head { last: true, opcode: Opcode::Binary, mask, length: length as u64 };
                assert_eq!(got, want);
                let mut carried = rest.to_vec();
                mask.into_iter().for_each(|mask| apply(mask, 0, &mut carried));
                assert_eq!(carried, content);
            }
        }
    }

    #[tokio::test]
    async fn what_no_client_may_send_is_refused() {
        let cases: [(&str, &[u8]); 5] = [
            ("not masked", &[0x82, 1, b'x']),
            ("compressed", &[0xc2, 0x80, 0, 0, 0, 0]),
            ("no such kind", &[0x83, 0x80, 0, 0, 0, 0]),
            ("a ping in parts", &[0x09, 0x80, 0, 0, 0, 0]),
            ("a long ping", &[0x89, 0xfe, 0, 200, 0, 0, 0, 0]),
        ];
        for (name, bytes) in cases {
            let refused = head(&mut &*bytes, true).await;
            assert!(matches!(refused, Err(Broken::Protocol(_))), "{name}: {refused:?}");
        }
    }
}
