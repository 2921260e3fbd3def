//! The server's settings.

use serde::Deserialize;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Where a server listens when nobody says otherwise: this machine only.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:8420";

/// Valid settings of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The directory of everything that the server keeps.
    pub data_dir: PathBuf,
    /// The address and port on which it listens; port 0 lets the system choose.
    pub listen: SocketAddr,
}

/// Settings from the command line, which come before those of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    pub data_dir: Option<PathBuf>,
    pub listen: Option<String>,
}

/// Why there are no valid settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {path}")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the configuration file {path} is not valid")]
    Invalid { path: PathBuf, source: Box<toml::de::Error> },
    #[error("no data directory is given")]
    NoDataDir,
    #[error("`{text}` is not an address and a port")]
    BadListen { text: String },
}

impl ConfigError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "check that the file exists and that this user may read it",
            Self::Invalid { .. } => "the settings are `data = \"DIRECTORY\"` and `listen = \"ADDRESS:PORT\"`",
            Self::NoDataDir => "pass `--data DIR`, or set `data` in the configuration file",
            Self::BadListen { .. } => "write it like 127.0.0.1:8420, 0.0.0.0:8420 or [::]:8420",
        }
    }
}

/// The configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    /// Relative to the file's own directory.
    data: Option<PathBuf>,
    listen: Option<String>,
}

impl Config {
    /// The settings that the command line and the file (if there is one) give together.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(file: Option<&Path>, overrides: Overrides) -> Result<Self, ConfigError> {
        let read = file.map_or_else(|| Ok(ConfigFile::default()), read)?;
        let data_dir = overrides.data_dir.or(read.data).ok_or(ConfigError::NoDataDir)?;
        let listen = overrides.listen.or(read.listen).unwrap_or_else(|| DEFAULT_LISTEN.to_owned());
        let listen = listen.parse().map_err(|_| ConfigError::BadListen { text: listen })?;
        Ok(Self { data_dir, listen })
    }
}

fn read(path: &Path) -> Result<ConfigFile, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    let mut file: ConfigFile = toml::from_str(&text)
        .map_err(|source| ConfigError::Invalid { path: path.to_owned(), source: Box::new(source) })?;
    let base = path.parent().unwrap_or(Path::new(""));
    file.data = file.data.map(|data| base.join(data));
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, overrides: Overrides) -> Result<Config, ConfigError> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("server.toml");
        fs::write(&path, text).expect("writes");
        let mut config = Config::load(Some(&path), overrides)?;
        if let Ok(relative) = config.data_dir.strip_prefix(directory.path()) {
            config.data_dir = Path::new("BASE").join(relative);
        }
        Ok(config)
    }

    #[test]
    fn a_file_gives_what_the_command_line_leaves_open() {
        let config = load("data = \"d\"\nlisten = \"0.0.0.0:1\"", Overrides::default()).expect("is valid");
        assert_eq!((config.data_dir, config.listen), ("BASE/d".into(), ([0, 0, 0, 0], 1).into()));
        let overrides = Overrides { data_dir: Some("/e".into()), listen: Some("[::1]:2".into()) };
        let config = load("data = \"d\"\nlisten = \"0.0.0.0:1\"", overrides).expect("is valid");
        assert_eq!((config.data_dir, config.listen.to_string()), ("/e".into(), "[::1]:2".into()));
    }

    #[test]
    fn without_a_listen_setting_only_this_machine_is_served() {
        let overrides = Overrides { data_dir: Some("/d".into()), listen: None };
        assert!(Config::load(None, overrides).expect("is valid").listen.ip().is_loopback());
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        assert!(matches!(load("dada = \"d\"", Overrides::default()), Err(ConfigError::Invalid { .. })));
        assert!(matches!(
            load("listen = \"here\"\ndata = \"d\"", Overrides::default()),
            Err(ConfigError::BadListen { .. })
        ));
        assert!(matches!(load("", Overrides::default()), Err(ConfigError::NoDataDir)));
        let nowhere = Config::load(Some(Path::new("/nowhere/at/all")), Overrides::default());
        assert!(matches!(nowhere, Err(ConfigError::Unreadable { .. })));
    }
}
