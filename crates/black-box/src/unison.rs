//! A second opinion on whether two folders are equal: Unison, a synchronizer by others.

use crate::site;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::{Command, Stdio};

/// What Unison said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opinion {
    NothingToDo,
    /// Unison is not installed here (Debian's package `unison`).
    NotAsked,
}

/// Asks Unison to compare two folders. It may change nothing: whatever it would do is a finding.
///
/// # Errors
/// When it finds something to do, with what that is.
pub fn compare(a: &Path, b: &Path, scratch: &Path) -> Result<Opinion> {
    if !site::is_installed("unison", "-version") {
        return Ok(Opinion::NotAsked);
    }
    let mut command = Command::new("unison");
    command.arg(a).arg(b).args(["-ui", "text", "-batch", "-auto", "-times", "-perms", "64", "-contactquietly"]);
    command.args(["-ignorearchives", "-ignore", "Path .syncline"]);
    for root in [a, b] {
        for refusal in ["-nocreation", "-nodeletion", "-noupdate"] {
            command.arg(refusal).arg(root);
        }
    }
    let output = command.env("UNISON", scratch).stdin(Stdio::null()).output().context("cannot run unison")?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() && said.to_lowercase().contains("nothing to do") {
        return Ok(Opinion::NothingToDo);
    }
    bail!("unison has something to do ({}):\n{said}", output.status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn equal_folders_leave_nothing_to_do_and_others_are_told_and_left_alone() {
        let place = tempfile::tempdir().expect("made");
        let [a, b, scratch] = ["a", "b", "scratch"].map(|name| place.path().join(name));
        for folder in [&a, &b] {
            fs::create_dir_all(folder.join(".syncline")).expect("made");
            fs::write(folder.join("same"), "same").expect("written");
        }
        fs::File::open(a.join("same"))
            .and_then(|file| {
                fs::File::options().write(true).open(b.join("same"))?.set_modified(file.metadata()?.modified()?)
            })
            .expect("the same time");
        fs::write(a.join(".syncline/own"), "own").expect("written");
        if compare(&a, &b, &scratch).expect("equal") == Opinion::NotAsked {
            return;
        }
        fs::write(a.join("new"), "new").expect("written");
        assert!(compare(&a, &b, &scratch).is_err());
        assert!(!b.join("new").exists());
    }
}
