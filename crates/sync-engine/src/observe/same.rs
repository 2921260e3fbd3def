//! What tells whether a file is the one that was seen.

use crate::io::Fingerprint;
use crate::tree::{Local, Seen};

/// Whether the fingerprint is of the file that was seen: the same inode, and not a reused one.
pub(super) fn same_file(local: &Local, print: &Fingerprint) -> bool {
    let was = &local.print;
    if (was.device, was.inode) != (print.device, print.inode) {
        return false;
    }
    match (was.birth, print.birth) {
        (Some(before), Some(now)) => before == now,
        _ => local.seen == Seen::Directory || (was.size == print.size && was.mtime == print.mtime),
    }
}

/// Whether the fingerprint may be of the file that was seen, with other bytes: without birth times nothing tells.
pub(super) fn may_be_edited(local: &Local, print: &Fingerprint) -> bool {
    let was = &local.print;
    (was.device, was.inode) == (print.device, print.inode) && (was.birth.is_none() || print.birth.is_none())
}

/// Whether a folder is the one that was seen, and only its file system has another number: some get one anew when the
/// machine starts, or when a disk is plugged in again. Without birth times it must lie on the file system of the folder
/// `around` it: then nothing is mounted over it.
pub(super) fn is_renumbered(local: &Local, print: &Fingerprint, around: &Fingerprint) -> bool {
    let told_by_birth = local.print.birth.is_some() && print.birth.is_some();
    let under_its_former_number = Fingerprint { device: local.print.device, ..*print };
    same_file(local, &under_its_former_number) && (told_by_birth || print.device == around.device)
}
