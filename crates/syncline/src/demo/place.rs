//! Where a demonstration keeps its things.
//!
//! ```text
//! Laptop/  Desktop/    the two synced folders
//! .demo/               server, homes, log and the account's password
//! ```

use super::DEVICES;
use crate::commands::server::server_failure;
use crate::output;
use client::clock::Chance;
use client::{Failure, Home};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The account of the demonstration.
pub(super) const EMAIL: &str = "demo@example.org";

/// The directory of one demonstration.
pub(super) struct Place {
    base: PathBuf,
    /// Whether it was made for this demonstration alone.
    temporary: bool,
}

impl Place {
    /// The given directory, or a new temporary one.
    pub(super) fn prepare(given: Option<&Path>) -> Result<Self, Failure> {
        let place = match given {
            Some(given) => Self { base: given.to_path_buf(), temporary: false },
            None => {
                let made = tempfile::Builder::new().prefix("syncline-demo-").tempdir();
                let made = made.map_err(|error| unusable(&std::env::temp_dir(), &error))?;
                Self { base: made.keep(), temporary: true }
            }
        };
        let base = make(&place.base).map_err(|error| unusable(&place.base, &error))?;
        Ok(Self { base, ..place })
    }

    pub(super) const fn is_temporary(&self) -> bool {
        self.temporary
    }

    pub(super) fn folder(&self, device: &str) -> PathBuf {
        self.base.join(device)
    }

    pub(super) fn home(&self, device: &str) -> Home {
        Home::at(self.own(&device.to_lowercase()))
    }

    pub(super) fn server(&self) -> PathBuf {
        self.own("server")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.own("demo.log")
    }

    fn own(&self, name: &str) -> PathBuf {
        self.base.join(".demo").join(name)
    }

    /// Makes the account if there is none yet; gives its password.
    pub(super) fn account(&self) -> Result<String, Failure> {
        let path = self.own("password");
        if let Ok(password) = fs::read_to_string(&path) {
            return Ok(password);
        }
        let mut chance = Chance::from_system().map_err(|error| Failure::from_error(&error, None))?;
        let password = format!("{:032x}", u128::from_be_bytes(chance.bytes()));
        let meta = server::open(&server::Config::embedded(self.server(), super::ANY_LOCAL_PORT))
            .map_err(|error| server_failure(&error))?;
        meta.add_user(EMAIL, &password).map_err(|error| Failure::from_error(&error, None))?;
        let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(password.as_bytes())).map_err(|error| unusable(&path, &error))?;
        Ok(password)
    }

    /// Removes what was made for this demonstration alone, and says so.
    pub(super) fn clean_up(&self) {
        if !self.temporary {
            output::say(&format!("everything is kept in {}", self.base.display()));
            return;
        }
        match fs::remove_dir_all(&self.base) {
            Ok(()) => output::say(&format!("removed {} with {}", self.base.display(), DEVICES.join(" and "))),
            Err(error) => output::say(&format!("warning: cannot remove {}: {error}", self.base.display())),
        }
    }
}

/// Makes the directory; gives its path free of symlinks.
fn make(base: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(base.join(".demo"))?;
    base.canonicalize()
}

fn unusable(path: &Path, error: &io::Error) -> Failure {
    let mut failure = Failure::failed(format!("cannot use {}", path.display()));
    failure.causes.push(error.to_string());
    failure
}
