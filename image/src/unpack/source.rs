//! The layer's uncompressed bytes, made and hashed on a thread of their own while the entries before them are unpacked.

use image::layer::Compression;
use sha2::{Digest as _, Sha256};
use std::io::{self, BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::thread;

/// Bytes handed over at a time, and how many of these may wait: less than 2 MiB in all.
const CHUNK: usize = 256 << 10;
const WAITING: usize = 4;

/// Bytes of compressed data read at a time.
const READ: usize = 128 << 10;

/// The largest Zstandard window, as a power of two: 128 MiB.
const WINDOW_LOG: u32 = 27;

/// Why there are no more bytes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("more than {0} uncompressed bytes")]
    TooLarge(u64),
    #[error("the compressed data are damaged")]
    Corrupt(#[source] io::Error),
    #[error("read the layer")]
    Read(#[source] io::Error),
    #[error("decompression ended without a word")]
    Died,
}

/// A stream that is decompressed ahead.
#[derive(Debug)]
pub(crate) struct Source {
    chunk: Vec<u8>,
    at: usize,
    next: Receiver<Message>,
    empty: Sender<Vec<u8>>,
    digest: Option<[u8; 32]>,
}

#[derive(Debug)]
enum Message {
    Chunk(Vec<u8>),
    End([u8; 32]),
    Failed(SourceError),
}

/// A decompressor that waits to be let off: it was started before the process was shut in, because afterwards no thread
/// can be, and reads nothing until it is told to.
#[derive(Debug)]
pub(crate) struct Waiting {
    go: SyncSender<()>,
    source: Source,
}

/// Starts the thread for a stream of at most `limit` uncompressed bytes.
pub(crate) fn start(
    input: impl Read + Send + 'static,
    compression: Compression,
    limit: u64,
) -> io::Result<Waiting> {
    let (go, wait) = sync_channel(1);
    let (ready, is_ready) = sync_channel(1);
    let (full, next) = sync_channel(WAITING);
    let (empty, recycled) = channel();
    let run = move || {
        if ready.send(()).is_err() || wait.recv().is_err() {
            return;
        }
        let pump = Pump { full, recycled, hasher: Sha256::new(), left: limit, limit };
        pump.run(input, compression);
    };
    thread::Builder::new().name("decompress".into()).spawn(run)?;
    // A thread that is still being set up makes system calls that it will not be allowed later.
    is_ready.recv().map_err(io::Error::other)?;
    Ok(Waiting { go, source: Source { chunk: Vec::new(), at: 0, next, empty, digest: None } })
}

impl Waiting {
    /// Lets the thread read.
    pub(crate) fn go(self) -> Source {
        // Full is impossible, and a thread that is gone shows when the first bytes are wanted.
        match self.go.try_send(()) {
            Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => self.source,
        }
    }
}

impl Source {
    /// SHA-256 of the whole stream, once it was read to its end.
    pub(crate) fn digest(&self) -> Option<[u8; 32]> {
        self.digest
    }
}

impl Read for Source {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.chunk.len() && self.digest.is_none() {
            let used = std::mem::take(&mut self.chunk);
            self.at = 0;
            if used.capacity() > 0 {
                // Nobody takes them back at the end of the stream.
                self.empty.send(used).ok();
            }
            match self.next.recv().unwrap_or(Message::Failed(SourceError::Died)) {
                Message::Chunk(chunk) => self.chunk = chunk,
                Message::End(digest) => self.digest = Some(digest),
                Message::Failed(err) => return Err(io::Error::other(err)),
            }
        }
        Ok(&self.chunk[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

/// The thread's side.
struct Pump {
    full: SyncSender<Message>,
    recycled: Receiver<Vec<u8>>,
    hasher: Sha256,
    left: u64,
    limit: u64,
}

impl Pump {
    fn run(mut self, input: impl Read, compression: Compression) {
        let mut input = BufReader::with_capacity(READ, Marked(input));
        let result = match compression {
            Compression::Plain => self.copy(input),
            Compression::Gzip => self.copy(flate2::bufread::MultiGzDecoder::new(input)),
            Compression::Zstd => zstd::Decoder::with_buffer(&mut input)
                .and_then(|mut decoder| decoder.window_log_max(WINDOW_LOG).map(|()| decoder))
                .map_err(SourceError::Corrupt)
                .and_then(|decoder| self.copy(decoder)),
        };
        let last = match result {
            Ok(()) => Message::End(self.hasher.finalize().into()),
            Err(err) => Message::Failed(err),
        };
        // Nobody listens any more when an entry was refused.
        self.full.send(last).ok();
    }

    fn copy(&mut self, mut decoder: impl Read) -> Result<(), SourceError> {
        loop {
            let mut chunk = self.recycled.try_recv().unwrap_or_default();
            chunk.resize(CHUNK, 0);
            let mut filled = 0;
            while filled < CHUNK {
                match decoder.read(&mut chunk[filled..]) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                    Err(err) => return Err(unmark(err)),
                }
            }
            if filled == 0 {
                return Ok(());
            }
            self.left =
                self.left.checked_sub(filled as u64).ok_or(SourceError::TooLarge(self.limit))?;
            chunk.truncate(filled);
            self.hasher.update(&chunk);
            if self.full.send(Message::Chunk(chunk)).is_err() {
                return Ok(());
            }
        }
    }
}

/// Marks the errors of the pipe, so that they are not taken for damaged data behind a decompressor.
struct Marked<R>(R);

impl<R: Read> Read for Marked<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into).map_err(|err| {
            if err.kind() == io::ErrorKind::Interrupted {
                return err;
            }
            io::Error::other(SourceError::Read(err))
        })
    }
}

fn unmark(err: io::Error) -> SourceError {
    err.downcast::<SourceError>().unwrap_or_else(SourceError::Corrupt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn read(
        bytes: Vec<u8>,
        compression: Compression,
        limit: u64,
    ) -> Result<(Vec<u8>, [u8; 32]), String> {
        let mut source = start(io::Cursor::new(bytes), compression, limit).unwrap().go();
        let mut data = Vec::new();
        source.read_to_end(&mut data).map_err(|err| err.to_string())?;
        Ok((data, source.digest().unwrap()))
    }

    #[test]
    fn every_compression_gives_and_hashes_the_same_bytes() {
        let data: Vec<u8> = (0..1_000_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let (first, second) = data.split_at(data.len() / 3);
        let zstd = |data: &[u8]| zstd::encode_all(data, 1).unwrap();
        let skippable = [&0x184d_2a50u32.to_le_bytes()[..], &4u32.to_le_bytes(), b"skip"].concat();
        let cases = [
            ("plain", Compression::Plain, data.clone()),
            ("gzip", Compression::Gzip, gzip(&data)),
            ("two gzip members", Compression::Gzip, [gzip(first), gzip(second)].concat()),
            ("zstd", Compression::Zstd, zstd(&data)),
            ("two zstd frames", Compression::Zstd, [zstd(first), skippable, zstd(second)].concat()),
        ];
        let want: [u8; 32] = Sha256::digest(&data).into();
        for (name, compression, bytes) in cases {
            let (got, digest) = read(bytes, compression, u64::MAX).unwrap();
            assert!(got == data, "{name}");
            assert_eq!(digest, want, "{name}");
        }
    }

    #[test]
    fn damaged_and_oversized_streams_are_refused() {
        let data = vec![7; 1 << 20];
        let mut flipped = gzip(&data);
        let middle = flipped.len() - 6;
        flipped[middle] ^= 1;
        let short = |bytes: Vec<u8>| bytes[..bytes.len() - 5].to_vec();
        let cases = [
            (
                "bit flipped",
                Compression::Gzip,
                flipped,
                u64::MAX,
                "the compressed data are damaged",
            ),
            (
                "gzip cut",
                Compression::Gzip,
                short(gzip(&data)),
                u64::MAX,
                "the compressed data are damaged",
            ),
            (
                "zstd cut",
                Compression::Zstd,
                short(zstd::encode_all(&data[..], 1).unwrap()),
                u64::MAX,
                "the compressed data are damaged",
            ),
            (
                "rubbish behind",
                Compression::Gzip,
                [gzip(&data), b"rubbish".to_vec()].concat(),
                u64::MAX,
                "the compressed data are damaged",
            ),
            (
                "the wrong one",
                Compression::Zstd,
                gzip(&data),
                u64::MAX,
                "the compressed data are damaged",
            ),
            (
                "too large",
                Compression::Gzip,
                gzip(&data),
                (1 << 20) - 1,
                "more than 1048575 uncompressed bytes",
            ),
        ];
        for (name, compression, bytes, limit, want) in cases {
            assert_eq!(read(bytes, compression, limit).unwrap_err(), want, "{name}");
        }
    }

    #[test]
    fn a_window_of_more_than_128_mib_is_refused() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(28).unwrap();
        encoder.write_all(&[0; 1000]).unwrap();
        let err = read(encoder.finish().unwrap(), Compression::Zstd, u64::MAX).unwrap_err();
        assert_eq!(err, "the compressed data are damaged");
    }
}
