//! What the commands do.

pub(crate) mod account;
pub(crate) mod blocks;
pub(crate) mod device;
pub(crate) mod documents;
pub(crate) mod server;
pub(crate) mod settings;
pub(crate) mod share;
pub(crate) mod start;
pub(crate) mod status;

use crate::output;
use client::control::protocol::{Done, WirePath};
use client::{Command, Config, Control, Failure, Home, LocalPath, folder};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// What all commands share.
pub(crate) struct Context {
    /// `--home` or SYNCLINE_HOME.
    pub(crate) home: Option<PathBuf>,
    /// `--json`.
    pub(crate) json: bool,
}

impl Context {
    /// The device's home.
    pub(crate) fn home(&self) -> Result<Home, Failure> {
        match &self.home {
            Some(path) => {
                let path = std::path::absolute(path).map_err(|error| Failure::from_error(&error, None))?;
                Ok(Home::at(path))
            }
            None => Home::default_for_user().map_err(|error| Failure::from_error(&error, error.hint())),
        }
    }

    /// The configuration of the linked device.
    pub(crate) fn config(&self) -> Result<Config, Failure> {
        self.home()?.load_config().map_err(|error| Failure::from_error(&error, error.hint()))
    }

    /// Lets the daemon do a command, or does it on the home when none runs.
    pub(crate) fn perform<A: DeserializeOwned>(&self, command: Command) -> Result<A, Failure> {
        let home = self.home()?;
        if let Ok(mut control) = Control::connect(&home) {
            return control.ask(command);
        }
        let value = client::device::perform_offline(&home, command)?;
        serde_json::from_value(value).map_err(|error| Failure::from_error(&error, None))
    }

    /// Does a command that has nothing to show.
    pub(crate) fn order(&self, command: Command) -> Result<(), Failure> {
        let done: Done = self.perform(command)?;
        self.done(&done)
    }

    /// Ends a command that has nothing to show: silence, or an object for programs.
    pub(crate) fn done<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        if self.json { output::json(value) } else { Ok(()) }
    }

    /// Shows data as JSON or as text.
    pub(crate) fn show<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        if self.json { output::json(value) } else { output::data(&text(value)) }
    }

    /// The path below the synced folder that the user means; `None` for one outside.
    pub(crate) fn inside(&self, path: &Path) -> Result<Option<LocalPath>, Failure> {
        let config = self.config()?;
        let current = std::env::current_dir().map_err(|error| Failure::from_error(&error, None))?;
        Ok(folder::resolve(&config.folder, &current, path))
    }

    /// The same for commands that make no sense outside.
    pub(crate) fn wire(&self, path: &Path) -> Result<WirePath, Failure> {
        let outside = || Failure::usage(format!("{} is outside the synced folder", path.display()));
        Ok(WirePath::from(&self.inside(path)?.ok_or_else(outside)?))
    }
}
