//! Directories that a layer has something in and says nothing about.
//!
//! An archive may have `etc/app.conf` without `etc/`. Overlayfs shows the attributes that the topmost layer has for a
//! directory, so the one that is made for the file must look as it does in the layers below; without them it is root's,
//! 0755, of 1970. containerd does the same; access control lists and other extended attributes are not taken along.
//!
//! A directory below what an earlier layer has as a symbolic link hides the link: layers are unpacked at the same time,
//! each on its own.

use super::area::store;
use super::{LayerError, Layers, Staged, lowers};
use crate::digest::ChainId;
use rustix::fs::{AtFlags, FileType, OFlags, statat};

/// What a directory is to look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Like {
    /// Permission bits with set-id and sticky.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Time of modification, in seconds since 1970.
    pub seconds: i64,
    /// And nanoseconds after that.
    pub nanoseconds: u32,
}

/// Gives the directories that `staged` leaves out what they have in the layers `below`, lowest first.
///
/// # Errors
///
/// [`LayerError::Missing`] when one of those is not here, [`LayerError::Store`] when they cannot be looked into; the
/// staged layer must not be committed then.
pub fn inherit(
    staged: &mut dyn Staged,
    layers: &dyn Layers,
    below: &[ChainId],
) -> Result<(), LayerError> {
    if staged.omitted().is_empty() || below.is_empty() {
        return Ok(());
    }
    let lowers = lowers(layers, below)?;
    let Some(view) = sys::overlay::merged(lowers).map_err(store("look into the layers below"))?
    else {
        return Ok(());
    };
    for omitted in staged.omitted().to_vec() {
        // Not there, or something else: then there is nothing to look like.
        let Ok(dir) = sys::tree::open_below(&view, &omitted.path, OFlags::PATH) else { continue };
        let about = statat(&dir, "", AtFlags::EMPTY_PATH)
            .map_err(store("look at a directory of the layers below"))?;
        if FileType::from_raw_mode(about.st_mode) != FileType::Directory {
            continue;
        }
        let like = Like {
            mode: about.st_mode & 0o7777,
            uid: about.st_uid,
            gid: about.st_gid,
            seconds: about.st_mtime,
            nanoseconds: u32::try_from(about.st_mtime_nsec).unwrap_or(0),
        };
        staged.adopt(&omitted, &like)?;
    }
    Ok(())
}
