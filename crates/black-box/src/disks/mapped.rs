//! A file that a program changes through a memory mapping.

use super::volume::Volume;
use super::{CONFLICTED, Trial, is_equal, shown};
use crate::site::Device;
use crate::tree::ContentHash;
use anyhow::{Context, Result};
use std::fs::{self, File};
use write_back::mapping::Mapping;

const DISK_MEGABYTES: u64 = 64;
const NAME: &str = "mapped";
const LEN: usize = 8192;

/// A program stores a byte, and once that was sent another one into the same page, of which the kernel tells nobody. When
/// another device has changed the file meanwhile, both are kept. The folder has a disk of its own: whoever makes
/// anything durable on a disk has it write the page, and then the store shows.
pub(super) fn what_is_stored_through_a_mapping_is_not_replaced(trial: &mut Trial<'_>) -> Result<()> {
    let server = trial.site.start_server()?;
    let disk = Volume::make(&trial.site.path("disk"), DISK_MEGABYTES)?;
    let a = trial.site.start_device_in("a", server.address(), &trial.site.path("a-home"), &disk.path("folder"))?;
    let b = trial.site.start_device("b", server.address())?;
    let path = a.folder().join(NAME);
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    file.set_len(LEN as u64)?;
    trial.note(NAME, &[0; LEN]);
    let mapping = Mapping::of(&file, LEN).context("cannot map a file")?;
    let sent = stored(trial, &mapping, 1);
    trial.wait_for("what was stored first", &b, || Ok(shown(&b, NAME) == Some(sent)))?;

    let unseen = stored(trial, &mapping, 2);
    let theirs = trial.save(&b, NAME, LEN)?;

    trial.wait_for("both versions", &a, || {
        let at_name = shown(&a, NAME);
        Ok(at_name == Some(theirs) && has_copy(&a, unseen)? || at_name == Some(unseen) && has_copy(&a, theirs)?)
    })?;
    drop(mapping);
    drop(file);
    trial.wait_for("the same on both devices", &b, || Ok(is_equal(&a, &b)))
}

/// Stores a byte at the file's beginning; what the file holds then.
fn stored(trial: &mut Trial<'_>, mapping: &Mapping, byte: u8) -> ContentHash {
    let mut content = [0; LEN];
    content[0] = byte;
    let hash = trial.note(NAME, &content);
    mapping.store(0, byte);
    hash
}

/// Whether a conflicted copy of the file has this content.
fn has_copy(device: &Device, content: ContentHash) -> Result<bool> {
    for entry in fs::read_dir(device.folder())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(&format!("{NAME}{CONFLICTED}")) && shown(device, &name) == Some(content) {
            return Ok(true);
        }
    }
    Ok(false)
}
