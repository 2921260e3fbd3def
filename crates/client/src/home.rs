//! A device's home directory: who it is, what it may use, and the lock that keeps it to one daemon.
//!
//! | file | what | mode |
//! |---|---|---|
//! | `config.toml` | server, account, device, folder, bandwidth; its presence means "linked" | 0600 |
//! | `token` | the device's secret | 0600 |
//! | `client.sqlite` | the client database (module `database`) | 0600 |
//! | `daemon.lock` | locked while a daemon or a changing command works on this home | 0600 |
//! | `control.sock` | where the daemon answers commands (module `control`) | 0600 |
//! | `daemon.log`, `daemon.log.1` | what the daemon did, and what it did before | 0600 |
//! | `daemon.err` | what a daemon in the background said on its standard error | 0600 |
//! | `client.sqlite.damaged-N` | a database that was set aside | 0600 |

use crate::bandwidth::Limits;
use crate::transport::Thrift;
use api::Token;
use local_files::disk::RootId;
use model::{AccountId, DeviceId, Epoch, InstanceId, NamespaceId};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The version of `config.toml`'s form.
const CONFIG_VERSION: u32 = 1;
/// Bytes of `config.toml` and of `token` that are read at most.
const CONFIG_BYTES: u64 = 1024 * 1024;

/// What can be wrong with a home.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    #[error("there is no home directory to keep this device's state in")]
    NoHome,
    #[error("this device is not linked")]
    NotLinked,
    #[error("another syncline process works on {home}")]
    Locked { home: PathBuf },
    #[error("cannot use {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is not a valid configuration")]
    Config { path: PathBuf, source: toml::de::Error },
    #[error("{path} was written by a newer version of syncline")]
    NewerConfig { path: PathBuf },
    #[error("{path} does not hold a device token")]
    Token { path: PathBuf },
}

impl HomeError {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoHome => "name one with `--home DIR` or SYNCLINE_HOME".into(),
            Self::NotLinked => "run `syncline link SERVER_URL --email E --folder DIR`".into(),
            Self::Locked { .. } => "run `syncline stop` first, or name another home with `--home DIR`".into(),
            Self::Io { .. } => return None,
            Self::Config { .. } => "repair the line that is named above".into(),
            Self::NewerConfig { .. } => "install the newer version again".into(),
            Self::Token { .. } => "run `syncline unlink`, then `syncline link` again; your files stay".into(),
        })
    }
}

/// Ids as the hexadecimal text that people see everywhere else.
mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::fmt::Display;
    use std::str::FromStr;

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(d: D) -> Result<T, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

/// `config.toml`: who this device is and where it works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub version: u32,
    /// The server's address, without a slash at the end.
    pub server: String,
    pub email: String,
    #[serde(with = "text")]
    pub account: AccountId,
    #[serde(with = "text")]
    pub device: DeviceId,
    pub device_name: String,
    /// The synced folder, absolute and free of symlinks.
    pub folder: PathBuf,
    /// What the marker in the folder's `.syncline/root` holds.
    #[serde(with = "text")]
    pub root_id: RootId,
    #[serde(with = "text")]
    pub instance: InstanceId,
    pub epoch: u64,
    /// The account's root namespace.
    #[serde(with = "text")]
    pub namespace: NamespaceId,
    #[serde(default)]
    pub bandwidth: Limits,
    /// What saves bytes: all of it, unless a table `thrift` says otherwise.
    #[serde(default, skip_serializing_if = "is_default")]
    pub thrift: Thrift,
}

fn is_default(thrift: &Thrift) -> bool {
    *thrift == Thrift::default()
}

impl Config {
    /// The current version of the form.
    pub const VERSION: u32 = CONFIG_VERSION;

    /// The epoch of the server when the device was linked.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        Epoch(self.epoch)
    }
}

/// One device's home directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    path: PathBuf,
}

/// Holds a home for one process; the lock ends with it, however it ends.
#[derive(Debug)]
pub struct HomeLock {
    _file: File,
}

impl Home {
    /// The home at `path`, which need not exist yet.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The user's default home: `$XDG_DATA_HOME/syncline`, else `~/.local/share/syncline`.
    ///
    /// # Errors
    /// [`HomeError::NoHome`] when the environment names neither.
    pub fn default_for_user() -> Result<Self, HomeError> {
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let data = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
        Ok(Self::at(data.ok_or(HomeError::NoHome)?.join("syncline")))
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The client database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.path.join("client.sqlite")
    }

    /// The daemon's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// The daemon's log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.path.join("daemon.log")
    }

    /// What a daemon in the background said on its standard error.
    #[must_use]
    pub fn startup_errors(&self) -> PathBuf {
        self.path.join("daemon.err")
    }

    fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    fn token(&self) -> PathBuf {
        self.path.join("token")
    }

    /// Makes the directory, for its owner alone.
    ///
    /// # Errors
    /// [`HomeError::Io`].
    pub fn create(&self) -> Result<(), HomeError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path);
        made.map_err(|source| HomeError::Io { path: self.path.clone(), source })
    }

    /// Whether a device was linked here.
    #[must_use]
    pub fn is_linked(&self) -> bool {
        self.config().exists()
    }

    /// Takes the home for this process.
    ///
    /// # Errors
    /// [`HomeError::Locked`] when another process has it; [`HomeError::Io`].
    pub fn lock(&self) -> Result<HomeLock, HomeError> {
        let path = self.path.join("daemon.lock");
        let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = open.map_err(|source| HomeError::Io { path: path.clone(), source })?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(HomeLock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(HomeError::Locked { home: self.path.clone() }),
            Err(errno) => Err(HomeError::Io { path, source: errno.into() }),
        }
    }

    /// Reads `config.toml`.
    ///
    /// # Errors
    /// [`HomeError::NotLinked`] when there is none, else what is wrong with it.
    pub fn load_config(&self) -> Result<Config, HomeError> {
        let path = self.config();
        let text = match read_bounded(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(HomeError::NotLinked),
            Err(source) => return Err(HomeError::Io { path, source }),
        };
        let version = toml::from_str::<toml::Table>(&text)
            .ok()
            .and_then(|table| table.get("version").and_then(toml::Value::as_integer));
        if version.is_some_and(|version| version > i64::from(CONFIG_VERSION)) {
            return Err(HomeError::NewerConfig { path });
        }
        toml::from_str(&text).map_err(|source| HomeError::Config { path, source })
    }

    /// Writes `config.toml`, whole or not at all.
    ///
    /// # Errors
    /// [`HomeError::Io`].
    pub fn save_config(&self, config: &Config) -> Result<(), HomeError> {
        let path = self.config();
        let text = toml::to_string_pretty(config)
            .map_err(|error| HomeError::Io { path: path.clone(), source: io::Error::other(error) })?;
        write_atomically(&path, text.as_bytes()).map_err(|source| HomeError::Io { path, source })
    }

    /// Reads the device's secret.
    ///
    /// # Errors
    /// [`HomeError::Token`], [`HomeError::Io`].
    pub fn load_token(&self) -> Result<Token, HomeError> {
        let path = self.token();
        let text = read_bounded(&path).map_err(|source| HomeError::Io { path: path.clone(), source })?;
        Token::from_hex(text.trim()).ok_or(HomeError::Token { path })
    }

    /// Writes the device's secret, readable by its owner alone.
    ///
    /// # Errors
    /// [`HomeError::Io`].
    pub fn save_token(&self, token: &Token) -> Result<(), HomeError> {
        let path = self.token();
        write_atomically(&path, token.to_hex().as_bytes()).map_err(|source| HomeError::Io { path, source })
    }

    /// Removes what makes this a linked device. The configuration goes first: without it the rest is
    /// litter, never a half-linked device.
    ///
    /// # Errors
    /// [`HomeError::Io`].
    pub fn forget_device(&self) -> Result<(), HomeError> {
        let database = self.database();
        let beside = |suffix: &str| with_suffix(&database, suffix);
        let files = [self.config(), self.token(), database.clone(), beside("-wal"), beside("-shm"), self.socket()];
        for path in files {
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(HomeError::Io { path, source }),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The path with a suffix behind its last component.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn read_bounded(path: &Path) -> io::Result<String> {
    use io::Read as _;
    let mut text = String::new();
    File::open(path)?.take(CONFIG_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// Writes a temporary file beside `path`, syncs it, renames it over `path` and syncs the directory:
/// after a crash `path` holds the old bytes or the new ones.
fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temp = with_suffix(path, ".new");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temp)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temp, path)?;
    let parent = path.parent().unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A configuration for tests.
    pub(crate) fn sample_config() -> Config {
        Config {
            version: CONFIG_VERSION,
            server: "http://127.0.0.1:8400".into(),
            email: "alice@example.org".into(),
            account: AccountId([1; 16]),
            device: DeviceId([2; 16]),
            device_name: "laptop".into(),
            folder: "/home/alice/Syncline".into(),
            root_id: RootId([0xab; 16]),
            instance: InstanceId([3; 16]),
            epoch: 1,
            namespace: NamespaceId([4; 16]),
            bandwidth: Limits { upload: Some(1_000_000), download: None },
            thrift: Thrift { delta: false, ..Thrift::default() },
        }
    }

    fn home() -> (tempfile::TempDir, Home) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let home = Home::at(directory.path().join("home"));
        home.create().expect("created");
        (directory, home)
    }

    #[test]
    fn a_configuration_reads_back() {
        let (_directory, home) = home();
        assert!(matches!(home.load_config(), Err(HomeError::NotLinked)));
        home.save_config(&sample_config()).expect("saved");
        assert_eq!(home.load_config().expect("loaded"), sample_config());
    }

    #[test]
    fn a_misspelled_setting_is_named_and_never_ignored() {
        let (_directory, home) = home();
        home.save_config(&sample_config()).expect("saved");
        let text = fs::read_to_string(home.config()).expect("read").replace("email", "e_mail");
        fs::write(home.config(), text).expect("written");
        let error = home.load_config().expect_err("refused");
        assert!(std::error::Error::source(&error).expect("a cause").to_string().contains("e_mail"));
    }

    #[test]
    fn a_newer_configuration_is_left_alone() {
        let (_directory, home) = home();
        fs::write(home.config(), "version = 2\nnew_key = true\n").expect("written");
        assert!(matches!(home.load_config(), Err(HomeError::NewerConfig { .. })));
    }

    #[test]
    fn secrets_are_for_their_owner_alone() {
        let (_directory, home) = home();
        home.save_token(&Token([7; 32])).expect("saved");
        assert_eq!(home.load_token().expect("loaded"), Token([7; 32]));
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&home.token()), 0o600);
        assert_eq!(mode(home.path()), 0o700);
    }

    #[test]
    fn a_home_has_one_holder_at_a_time() {
        let (_directory, home) = home();
        let held = home.lock().expect("free");
        assert!(matches!(home.lock(), Err(HomeError::Locked { .. })));
        drop(held);
        assert!(home.lock().is_ok());
    }

    #[test]
    fn a_damaged_token_is_told() {
        let (_directory, home) = home();
        fs::write(home.token(), "nonsense").expect("written");
        assert!(matches!(home.load_token(), Err(HomeError::Token { .. })));
    }
}
