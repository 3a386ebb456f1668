//! Header blocks: name and value pairs, compressed with one zlib stream a direction for the life of the connection.

use super::Broken;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// The most of a block once it is inflated. Ours are a hundred bytes.
const MOST: usize = 64 << 10;
/// The most pairs of a block.
const MOST_PAIRS: u32 = 64;

/// The names and values of SPDY/3's dictionary that are written with their length before them.
const WORDS: [&str; 64] = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
];
/// The rest of the dictionary. "origin" is the last of the words.
const TEXT: &str = "\0\0\0\x06origin100101201202205206300302303304305306307402405406407408409410411412413414415416\
    417502504505203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
    403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May \
    Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,\
    image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,\
    sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// The text that both ends have seen before the first block (SPDY/3, section 2.6.10.1).
fn dictionary() -> Vec<u8> {
    let mut all = Vec::new();
    for word in WORDS {
        push_text(&mut all, word);
    }
    all.extend_from_slice(TEXT.as_bytes());
    all
}

fn push_text(into: &mut Vec<u8>, text: &str) {
    // Texts of ours are short; the peer would refuse a wrong length.
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    into.extend_from_slice(&length.to_be_bytes());
    into.extend_from_slice(text.as_bytes());
}

/// Compresses the blocks of one direction.
#[derive(Debug)]
pub(super) struct Packer(Compress);

impl Packer {
    pub(super) fn new() -> Self {
        let mut stream = Compress::new(Compression::default(), true);
        // Fails only once something was compressed; then the peer could not read it, and says so.
        stream.set_dictionary(&dictionary()).ok();
        Self(stream)
    }

    pub(super) fn pack(&mut self, headers: &[(String, String)]) -> Result<Vec<u8>, Broken> {
        let mut plain = u32::try_from(headers.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
        for (name, value) in headers {
            push_text(&mut plain, &name.to_ascii_lowercase());
            push_text(&mut plain, value);
        }
        let mut packed = Vec::with_capacity(plain.len() + 64);
        let before = self.0.total_in();
        loop {
            let done = usize::try_from(self.0.total_in() - before).unwrap_or(plain.len());
            let room = packed.capacity() - packed.len();
            self.0
                .compress_vec(&plain[done..], &mut packed, FlushCompress::Sync)
                .map_err(|_| Broken::Headers("compress"))?;
            // With room left over, everything is out.
            let all = self.0.total_in() - before == plain.len() as u64;
            if all && packed.len() < packed.capacity() && room > 0 {
                return Ok(packed);
            }
            packed.reserve(1024);
        }
    }
}

/// Inflates the blocks of one direction.
#[derive(Debug)]
pub(super) struct Unpacker(Decompress);

impl Unpacker {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub(super) fn unpack(&mut self, packed: &[u8]) -> Result<Vec<(String, String)>, Broken> {
        let plain = self.inflate(packed)?;
        let mut rest = plain.as_slice();
        let count = number(&mut rest)?;
        if count > MOST_PAIRS {
            return Err(Broken::Headers("there are too many"));
        }
        let pairs = (0..count).map(|_| Ok((text(&mut rest)?, text(&mut rest)?))).collect();
        if rest.is_empty() { pairs } else { Err(Broken::Headers("they have a tail")) }
    }

    fn inflate(&mut self, packed: &[u8]) -> Result<Vec<u8>, Broken> {
        let mut plain = Vec::with_capacity(1024);
        let before = self.0.total_in();
        loop {
            let done = usize::try_from(self.0.total_in() - before).unwrap_or(packed.len());
            let (input, had) = (&packed[done..], plain.len());
            match self.0.decompress_vec(input, &mut plain, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => return Err(Broken::Headers("their stream has ended")),
                Ok(Status::Ok | Status::BufError) => {
                    let read = self.0.total_in() - before == packed.len() as u64;
                    if read && plain.len() < plain.capacity() {
                        return Ok(plain);
                    }
                    if plain.len() < plain.capacity() && plain.len() == had {
                        return Err(Broken::Headers("inflate"));
                    }
                }
                Err(err) if err.needs_dictionary().is_some() => {
                    self.0
                        .set_dictionary(&dictionary())
                        .map_err(|_| Broken::Headers("another dictionary"))?;
                    continue;
                }
                Err(_) => return Err(Broken::Headers("inflate")),
            }
            if plain.len() >= MOST {
                return Err(Broken::Headers("they are too long"));
            }
            plain.reserve(4096);
        }
    }
}

fn number(rest: &mut &[u8]) -> Result<u32, Broken> {
    let (number, after) = rest.split_first_chunk().ok_or(Broken::Headers("they are cut short"))?;
    *rest = after;
    Ok(u32::from_be_bytes(*number))
}

fn text(rest: &mut &[u8]) -> Result<String, Broken> {
    let length = usize::try_from(number(rest)?).unwrap_or(usize::MAX);
    let (text, after) =
        rest.split_at_checked(length).ok_or(Broken::Headers("they are cut short"))?;
    *rest = after;
    String::from_utf8(text.to_vec()).map_err(|_| Broken::Headers("they are no text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
        of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_dictionary_is_that_of_spdy_3() {
        // The checksum that every peer sends at the beginning of its first block.
        let mut packer = Packer::new();
        let packed = packer.pack(&[]).unwrap();
        assert_eq!(packed[2..6], [0xe3, 0xc6, 0xa7, 0xc2]);
        assert_eq!(dictionary().len(), 1423);
    }

    #[test]
    fn blocks_come_back_as_they_were_one_after_the_other() {
        let (mut packer, mut unpacker) = (Packer::new(), Unpacker::new());
        let long = "x".repeat(20_000);
        let blocks = [
            pairs(&[("streamtype", "error")]),
            pairs(&[]),
            pairs(&[("streamtype", "data"), ("port", "80"), ("requestid", "0")]),
            pairs(&[("long", &long)]),
            pairs(&[("streamtype", "stdout")]),
        ];
        for block in blocks {
            let packed = packer.pack(&block).unwrap();
            assert_eq!(unpacker.unpack(&packed).unwrap(), block);
        }
    }

    #[test]
    fn names_are_written_small() {
        let packed = Packer::new().pack(&pairs(&[("streamType", "Error")])).unwrap();
        assert_eq!(Unpacker::new().unpack(&packed).unwrap(), pairs(&[("streamtype", "Error")]));
    }

    /// CVE-2026-35469: counts and lengths are the peer's to claim, and nothing is allocated for them.
    #[test]
    fn claims_are_not_believed() {
        let block = |plain: &[u8]| {
            let mut packed = Vec::with_capacity(1 << 20);
            let mut stream = Compress::new(Compression::best(), true);
            stream.set_dictionary(&dictionary()).unwrap();
            stream.compress_vec(plain, &mut packed, FlushCompress::Sync).unwrap();
            packed
        };
        let cases: [(&str, Vec<u8>); 6] = [
            ("two thousand million pairs", block(&[0x7f, 255, 255, 255])),
            (
                "a name of two thousand million bytes",
                block(&[0, 0, 0, 1, 0x7f, 255, 255, 255, b'x']),
            ),
            ("a tail", block(&[0, 0, 0, 0, 1])),
            ("cut short", block(&[0, 0, 0])),
            ("a bomb", block(&vec![0; 50 << 20])),
            ("no zlib", b"nonsense".to_vec()),
        ];
        for (name, packed) in cases {
            assert!(Unpacker::new().unpack(&packed).is_err(), "{name}");
        }
    }
}
