//! Files with holes, as GNU tar stores them: in the header itself (type `S`), or in extended headers of three versions.

use super::header::{BLOCK, Block};
use super::pax::Sparse;
use super::{Archive, Field, Kind, TarError, number};
use std::io::BufRead;

/// Segments of one file.
const MAX_SEGMENTS: usize = 4096;

/// A part of a file that has data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// A regular file, with what its extended header says about holes.
pub(super) fn from_pax<R: BufRead>(
    archive: &mut Archive<R>,
    sparse: &Sparse,
) -> Result<Kind, TarError> {
    let numbers = match (sparse.major, sparse.minor, &sparse.map) {
        (Some(1), Some(0), _) => map_in_data(archive)?,
        (None, None, None) => return Ok(Kind::File { size: archive.unread, map: None }),
        (Some(0), Some(0 | 1), Some(map)) | (None, None, Some(map)) => map.clone(),
        _ => return Err(TarError::SparseMap),
    };
    let announced = sparse.blocks.filter(|&blocks| blocks != numbers.len() as u64 / 2);
    if announced.is_some() || !numbers.len().is_multiple_of(2) {
        return Err(TarError::SparseMap);
    }
    let segments = numbers.chunks_exact(2).map(|pair| Segment { offset: pair[0], length: pair[1] });
    checked(archive, sparse.size.ok_or(TarError::SparseMap)?, segments.collect())
}

/// A file of type `S`: four segments in the header, 21 in each block that follows it.
pub(super) fn from_gnu<R: BufRead>(
    archive: &mut Archive<R>,
    block: &Block,
) -> Result<Kind, TarError> {
    let header = tar::Header::from_byte_slice(block);
    let gnu = header.as_gnu().ok_or(TarError::SparseMap)?;
    let size = field(&gnu.realsize)?;
    let mut segments = Vec::new();
    let mut add = |offset: &[u8; 12], length: &[u8; 12]| -> Result<(), TarError> {
        // Unused places are empty.
        if offset[0] != 0 && length[0] != 0 {
            segments.push(Segment { offset: field(offset)?, length: field(length)? });
        }
        if segments.len() > MAX_SEGMENTS { Err(TarError::SparseMap) } else { Ok(()) }
    };
    gnu.sparse.iter().try_for_each(|place| add(&place.offset, &place.numbytes))?;
    let mut more = gnu.isextended[0] != 0;
    let mut blocks = 0;
    while more {
        let block = archive.block()?.ok_or(TarError::Truncated)?;
        let (places, rest) = block.split_at(21 * 24);
        for place in places.chunks_exact(24) {
            let (offset, length) = place.split_at(12);
            let twelve = |bytes: &[u8]| <[u8; 12]>::try_from(bytes).expect("half of 24 is 12");
            add(&twelve(offset), &twelve(length))?;
        }
        more = rest[0] != 0;
        blocks += 1;
        if blocks > MAX_SEGMENTS {
            return Err(TarError::SparseMap);
        }
    }
    checked(archive, size, segments)
}

/// Version 1.0: the data begin with the number of segments, then their offsets and lengths, each on a line, filled up to
/// a whole block.
fn map_in_data<R: BufRead>(archive: &mut Archive<R>) -> Result<Vec<u64>, TarError> {
    let mut numbers = Vec::new();
    let mut wanted = None;
    let mut line = Vec::new();
    let mut read = 0;
    while wanted.is_none_or(|wanted| numbers.len() < wanted) {
        let &[byte, ..] = archive.data()? else { return Err(TarError::SparseMap) };
        archive.consume(1);
        read += 1;
        if byte != b'\n' {
            line.push(byte);
            // The longest number of 64 bits has 20 digits.
            if line.len() > 20 {
                return Err(TarError::SparseMap);
            }
            continue;
        }
        let number = number::decimal(&line).ok_or(TarError::SparseMap)?;
        line.clear();
        if wanted.is_some() {
            numbers.push(number);
        } else {
            let segments =
                usize::try_from(number).ok().filter(|&segments| segments <= MAX_SEGMENTS);
            wanted = Some(2 * segments.ok_or(TarError::SparseMap)?);
        }
    }
    for _ in 0..u64::wrapping_neg(read) % BLOCK {
        if archive.data()?.is_empty() {
            return Err(TarError::SparseMap);
        }
        archive.consume(1);
    }
    Ok(numbers)
}

/// The file, if its segments follow each other within `size` and are as long as the data together.
fn checked<R>(archive: &Archive<R>, size: u64, segments: Vec<Segment>) -> Result<Kind, TarError> {
    let mut end = 0;
    let mut total = 0;
    for segment in &segments {
        if segment.offset < end {
            return Err(TarError::SparseMap);
        }
        end = segment.offset.checked_add(segment.length).ok_or(TarError::SparseMap)?;
        total += segment.length;
    }
    if segments.len() > MAX_SEGMENTS
        || end > size
        || size > i64::MAX.cast_unsigned()
        || total != archive.unread
    {
        return Err(TarError::SparseMap);
    }
    Ok(Kind::File { size, map: Some(segments) })
}

fn field(text: &[u8; 12]) -> Result<u64, TarError> {
    let number = number::parse(text).ok_or(TarError::Number(Field::Sparse))?;
    u64::try_from(number).map_err(|_| TarError::Range(Field::Sparse))
}
