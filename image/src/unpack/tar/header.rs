//! One header block: where its fields are depends on who wrote it.

use super::{Device, Field, TarError, Time, number};
use tar::{GnuHeader, UstarHeader};

/// The unit of an archive.
pub(super) type Block = [u8; 512];

/// Two of these end an archive.
pub(super) const ZEROS: Block = [0; 512];

/// The size of the unit, in bytes.
pub(super) const BLOCK: u64 = ZEROS.len() as u64;

/// The fields of a header block, checked on their own; what extended headers say about them is not in yet.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) kind: u8,
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    /// Any number: an extended header may replace it.
    pub(super) uid: i128,
    pub(super) gid: i128,
    pub(super) size: i128,
    pub(super) mtime: Time,
    /// None where there is none, or one that Linux does not have.
    pub(super) device: Option<Device>,
}

impl Header {
    pub(super) fn parse(block: &Block) -> Result<Self, TarError> {
        let header = tar::Header::from_byte_slice(block);
        let old = header.as_old();
        check_sum(block, &old.cksum)?;
        let number = |field, text: &[u8]| number::parse(text).ok_or(TarError::Number(field));
        let mode = number(Field::Mode, &old.mode)?;
        let mut name = until_nul(&old.name).to_vec();
        if let Some(prefix) = prefix(header).filter(|prefix| !prefix.is_empty()) {
            name = [prefix, b"/", &name].concat();
        }
        Ok(Self {
            kind: old.linkflag[0],
            name,
            link: until_nul(&old.linkname).to_vec(),
            mode: u32::try_from(mode & 0o7777).map_err(|_| TarError::Range(Field::Mode))?,
            uid: number(Field::Uid, &old.uid)?,
            gid: number(Field::Gid, &old.gid)?,
            size: number(Field::Size, &old.size)?,
            mtime: Time { seconds: clamp(number(Field::Mtime, &old.mtime)?), nanoseconds: 0 },
            device: device(header),
        })
    }
}

/// The text of a field: what stands before its first NUL.
pub(super) fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// The sum of all bytes, the sum's own field taken as blanks. Some old writers summed signed bytes.
fn check_sum(block: &Block, field: &[u8; 8]) -> Result<(), TarError> {
    const FIELD: std::ops::Range<usize> = 148..156;
    let want = number::parse(field).ok_or(TarError::Checksum)?;
    let blanks = 8 * u32::from(b' ');
    let others = || block[..FIELD.start].iter().chain(&block[FIELD.end..]);
    let unsigned = blanks + others().map(|&byte| u32::from(byte)).sum::<u32>();
    if want == i128::from(unsigned) {
        return Ok(());
    }
    let high = others().filter(|byte| **byte >= 0x80).count();
    let signed = i128::from(unsigned) - 256 * high as i128;
    if want == signed { Ok(()) } else { Err(TarError::Checksum) }
}

/// What stands before the name where that was too long for its field.
fn prefix(header: &tar::Header) -> Option<&[u8]> {
    if let Some(ustar) = header.as_ustar() {
        let is_star = header.as_bytes().ends_with(b"tar\0");
        // Star keeps two times in the last part of it.
        let field = if is_star { &ustar.prefix[..131] } else { &ustar.prefix[..] };
        return Some(until_nul(field));
    }
    // Go before 1.8 wrote headers that say GNU and have a prefix where GNU has times. Go's reader knows them by that.
    let gnu = header.as_gnu()?;
    let has_times = number::parse(&gnu.atime).is_some() && number::parse(&gnu.ctime).is_some();
    let prefix = until_nul(&header.as_bytes()[345..500]);
    (!has_times && prefix.is_ascii()).then_some(prefix)
}

fn device(header: &tar::Header) -> Option<Device> {
    let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
        (Some(UstarHeader { dev_major, dev_minor, .. }), _)
        | (None, Some(GnuHeader { dev_major, dev_minor, .. })) => (dev_major, dev_minor),
        (None, None) => return None,
    };
    // <linux/kdev_t.h>: 12 bits and 20.
    let part = |field: &[u8], bits: u32| {
        u32::try_from(number::parse(field)?).ok().filter(|&number| number < 1 << bits)
    };
    Some(Device { major: part(major, 12)?, minor: part(minor, 20)? })
}

fn clamp(seconds: i128) -> i64 {
    i64::try_from(seconds).unwrap_or(if seconds < 0 { i64::MIN } else { i64::MAX })
}
