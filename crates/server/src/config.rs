//! The server's settings.

use block_service::Thrift as ServerThrift;
use block_store_s3::{Credentials, S3Options};
use cache::{BadServers, Servers};
use metadata_store_mysql::{BadOptions, MysqlOptions};
use serde::Deserialize;
use service_calls::{BadSecret, ServiceSecret, TlsFiles};
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where a server listens when nobody says otherwise: this machine only.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:8420";

/// The longest file with a password or with credentials that is read; anything longer is another file.
const PASSWORD_FILE_BYTES: u64 = 4096;

/// Valid settings of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The directory of everything that the server keeps; empty for a role that keeps nothing.
    pub data_dir: PathBuf,
    /// The address and port on which it listens for clients; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Where the metadata database is.
    pub metadata: Metadata,
    /// What saves bytes on the way to clients: all of it, unless the file's table `thrift` says otherwise.
    pub thrift: ServerThrift,
    /// Where the blocks are.
    pub blocks: Blocks,
    /// Where the meta service keeps what it has read of journals.
    pub cache: CacheKind,
    /// When blocks are cleaned up.
    pub clean_up: CleanUpTimes,
    /// Where traces go.
    pub telemetry: TelemetrySettings,
    /// Which part of the server this process is.
    pub role: ProcessRole,
    /// How it meets the other parts.
    pub services: ServiceSettings,
}

/// The parts of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProcessRole {
    /// Everything in one process.
    #[default]
    All,
    /// Accounts, journals, changes and commits; the only part that opens the metadata database.
    Meta,
    /// Takes and hands out blocks.
    Block,
    /// Hears which journals grew, and passes it on to edges.
    NotifyHub,
    /// Holds the clients' notification streams.
    NotifyEdge,
}

impl ProcessRole {
    /// As the command line has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Meta => "meta",
            Self::Block => "block",
            Self::NotifyHub => "notify-hub",
            Self::NotifyEdge => "notify-edge",
        }
    }

    /// Whether it keeps something in a directory.
    const fn keeps_data(self) -> bool {
        match self {
            Self::All | Self::Meta | Self::Block => true,
            Self::NotifyHub | Self::NotifyEdge => false,
        }
    }

    /// Whether it opens the metadata database.
    #[must_use]
    pub const fn opens_metadata(self) -> bool {
        match self {
            Self::All | Self::Meta => true,
            Self::Block | Self::NotifyHub | Self::NotifyEdge => false,
        }
    }

    /// Whether it asks the meta service in another process.
    const fn asks_meta(self) -> bool {
        match self {
            Self::Block | Self::NotifyEdge => true,
            Self::All | Self::Meta | Self::NotifyHub => false,
        }
    }

    /// Whether other processes call it.
    const fn is_called(self) -> bool {
        match self {
            Self::Meta | Self::NotifyHub => true,
            Self::All | Self::Block | Self::NotifyEdge => false,
        }
    }
}

/// How the processes of one server meet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceSettings {
    /// The address for other services, balancers and monitoring; no client may reach it.
    pub listen: Option<SocketAddr>,
    /// What every call between services carries. Without it, callers must show certificates or the address must be
    /// this machine's own.
    pub secret: Option<ServiceSecret>,
    /// The certificate and key of this process, if calls between services are encrypted.
    pub tls: Option<TlsFiles>,
    /// The meta services, as `host:port` each of their service addresses.
    pub meta: Vec<String>,
    /// The hubs, as `host:port` each of their service addresses, alike in every process.
    pub hubs: Vec<String>,
}

/// Instances or names of one service.
const TARGETS: usize = 64;

/// Where the metadata database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Metadata {
    /// A file in the data directory.
    InDataDir,
    /// A database that other servers can share.
    Mysql { options: MysqlOptions, password: Option<Secret> },
}

/// Where the blocks are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocks {
    /// A folder in the data directory.
    InDataDir,
    /// A bucket that other servers can share.
    S3 { options: S3Options, credentials: Credentials },
}

/// Where the meta service keeps what it has read of journals.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum CacheKind {
    /// Nowhere: every reader asks the database.
    Off,
    /// In the process's own memory.
    #[default]
    Memory,
    /// On servers that all meta services share.
    Memcached(Servers),
}

impl CacheKind {
    /// Reads `off`, `memory` or a URL like `memcached://HOST:PORT,HOST:PORT`.
    fn parse(text: &str) -> Result<Self, BadServers> {
        match text {
            "off" => Ok(Self::Off),
            "memory" => Ok(Self::Memory),
            url => Servers::from_url(url).map(Self::Memcached),
        }
    }
}

/// When blocks are cleaned up. A block goes a day or two after its last use anyway, and each run lists all of
/// them. Up to as much again is added at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CleanUpTimes {
    /// From the start of the process to the first run, and from a run that failed to the next.
    first_seconds: NonZeroU32,
    /// From one run to the next.
    every_seconds: NonZeroU32,
}

impl CleanUpTimes {
    const STANDARD: Self = Self {
        first_seconds: NonZeroU32::new(20 * 60).expect("is not 0"),
        every_seconds: NonZeroU32::new(6 * 3600).expect("is not 0"),
    };

    pub(crate) fn first(self) -> Duration {
        Duration::from_secs(self.first_seconds.get().into())
    }

    pub(crate) fn every(self) -> Duration {
        Duration::from_secs(self.every_seconds.get().into())
    }
}

impl Default for CleanUpTimes {
    fn default() -> Self {
        Self::STANDARD
    }
}

/// Where traces go, and how many.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetrySettings {
    /// The address of a collector that takes OTLP over HTTP, without `/v1/traces`.
    pub otlp: Option<String>,
    /// Of a thousand requests that begin here.
    pub per_thousand: u16,
}

impl TelemetrySettings {
    const ALL: u16 = 1000;

    fn checked(self) -> Result<Self, ConfigError> {
        let Some(text) = &self.otlp else { return Ok(self) };
        let bad = || ConfigError::BadCollector { text: text.clone() };
        let url: reqwest::Url = text.parse().map_err(|_| bad())?;
        let whole = url.has_host() && url.query().is_none() && url.fragment().is_none();
        if !whole || !matches!(url.scheme(), "http" | "https") || self.per_thousand > Self::ALL {
            return Err(bad());
        }
        Ok(Self { otlp: Some(url.as_str().trim_end_matches('/').to_owned()), ..self })
    }
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self { otlp: None, per_thousand: Self::ALL }
    }
}

/// A password, which no log and no message shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Settings from the command line and the environment, which come before those of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    pub data_dir: Option<PathBuf>,
    pub listen: Option<String>,
    /// The URL of a database.
    pub metadata: Option<String>,
    pub metadata_password_file: Option<PathBuf>,
    /// From the environment: the command line is for all to see.
    pub metadata_password: Option<Secret>,
    /// The URL of a bucket.
    pub blocks: Option<String>,
    pub blocks_credentials_file: Option<PathBuf>,
    /// From the environment.
    pub blocks_credentials: Option<Credentials>,
    /// `off`, `memory` or the URL of memcached servers.
    pub cache: Option<String>,
    pub role: ProcessRole,
    pub service_listen: Option<String>,
    pub service_secret_file: Option<PathBuf>,
    pub service_certificate_file: Option<PathBuf>,
    pub service_key_file: Option<PathBuf>,
    pub service_ca_file: Option<PathBuf>,
    /// Empty: as the file says.
    pub meta: Vec<String>,
    /// Empty: as the file says.
    pub hubs: Vec<String>,
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
    #[error("the metadata database is not named as it must be")]
    BadMetadata { source: BadOptions },
    #[error("cannot read the database's password from {path}")]
    UnreadablePassword { path: PathBuf, source: io::Error },
    #[error("a password for the metadata database is given, and no URL")]
    PasswordAlone,
    #[error("the bucket for the blocks is not named as it must be")]
    BadBlocks { source: block_store_s3::BadOptions },
    #[error("cannot read the bucket's credentials from {path}")]
    UnreadableCredentials { path: PathBuf, source: io::Error },
    #[error("a bucket for the blocks is given, and no credentials")]
    NoCredentials,
    #[error("credentials for a bucket are given, and no URL")]
    CredentialsAlone,
    #[error("the cache is not named as it must be")]
    BadCache { source: BadServers },
    #[error("`{text}` is no collector for traces, or `per_thousand` is more than 1000")]
    BadCollector { text: String },
    #[error("cannot read the services' secret from {path}")]
    UnreadableSecret { path: PathBuf, source: io::Error },
    #[error("the services' secret in {path} is none")]
    BadSecret { path: PathBuf, source: BadSecret },
    #[error("of the services' certificate and its key only one is named, or an authority and neither")]
    IncompleteTls,
    #[error("this role is called by other services and has no address for that")]
    NoServiceListen,
    #[error("this role asks the meta service, and none is named")]
    NoMeta,
    #[error("this role needs a hub, and none is named")]
    NoHubs,
    #[error("`{text}` is not a host and a port")]
    BadTarget { text: String },
    #[error("more than {TARGETS} instances of one service are named")]
    TooManyTargets,
    #[error("{address} can be reached from other machines, and the services have no secret and no authority")]
    OpenServiceAddress { address: SocketAddr },
}

impl ConfigError {
    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "check that the file exists and that this user may read it",
            Self::Invalid { .. } => {
                "the settings are `data`, `listen`, `metadata`, `metadata_password_file`, `blocks`, \
                 `blocks_credentials_file`, `cache`, `service_listen`, `service_secret_file`, `service_certificate_file`, \
                 `service_key_file` and `service_ca_file`, each a text in quotes, and `meta` and `hubs`, each a list of \
                 such texts; the tables are `thrift`, `clean_up` and `telemetry`"
            }
            Self::UnreadableSecret { .. } => "the file holds the secret alone, readable for this user",
            Self::BadSecret { .. } => "make one with `openssl rand -hex 32`, the same for all processes of the server",
            Self::BadCollector { .. } => "write it like otlp = \"http://collector.example.org:4318\"",
            Self::IncompleteTls => {
                "set `service_certificate_file` and `service_key_file`, and `service_ca_file` if callers are to show one too"
            }
            Self::NoServiceListen => "pass `--service-listen ADDR`, or set `service_listen` in the configuration file",
            Self::NoMeta => "pass `--meta HOST:PORT,...` with the service addresses of the meta services",
            Self::NoHubs => "pass `--hubs HOST:PORT,...` with the service addresses of all hubs",
            Self::BadTarget { .. } => "write it like meta.example.org:8430, 10.0.0.7:8430 or [::1]:8430",
            Self::TooManyTargets => "give them one name with many addresses",
            Self::OpenServiceAddress { .. } => {
                "pass `--service-secret-file FILE`, the same secret for all processes of the server, or give them certificates"
            }
            Self::NoDataDir => "pass `--data DIR`, or set `data` in the configuration file",
            Self::BadMetadata { source } => source.hint(),
            Self::UnreadablePassword { .. } => "the file holds the password alone, in UTF-8, readable for this user",
            Self::PasswordAlone => "set `metadata` to a URL like mysql://syncline@db.example.org/syncline",
            Self::BadBlocks { source } => source.hint(),
            Self::UnreadableCredentials { .. } => "check that the file exists and that this user may read it",
            Self::NoCredentials => {
                "name a file with them, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
            }
            Self::BadCache { source } => source.hint(),
            Self::CredentialsAlone => "set `blocks` to a URL like s3://BUCKET/PREFIX?endpoint=https://s3.example.org",
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
    metadata: Option<String>,
    /// Relative to the file's own directory.
    metadata_password_file: Option<PathBuf>,
    #[serde(default)]
    thrift: ServerThrift,
    #[serde(default)]
    clean_up: CleanUpTimes,
    #[serde(default)]
    telemetry: TelemetrySettings,
    blocks: Option<String>,
    /// Relative to the file's own directory.
    blocks_credentials_file: Option<PathBuf>,
    cache: Option<String>,
    service_listen: Option<String>,
    /// Relative to the file's own directory, as the next three.
    service_secret_file: Option<PathBuf>,
    service_certificate_file: Option<PathBuf>,
    service_key_file: Option<PathBuf>,
    service_ca_file: Option<PathBuf>,
    #[serde(default)]
    meta: Vec<String>,
    #[serde(default)]
    hubs: Vec<String>,
}

impl Config {
    /// Settings of a server that keeps everything in its data directory.
    #[must_use]
    pub fn embedded(data_dir: PathBuf, listen: SocketAddr) -> Self {
        let (metadata, blocks) = (Metadata::InDataDir, Blocks::InDataDir);
        let (services, thrift) = (ServiceSettings::default(), ServerThrift::ALL);
        let (cache, clean_up, role) = (CacheKind::default(), CleanUpTimes::default(), ProcessRole::All);
        let telemetry = TelemetrySettings::default();
        Self { data_dir, listen, metadata, blocks, thrift, cache, clean_up, telemetry, role, services }
    }

    /// The settings that the command line and the file (if there is one) give together.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(file: Option<&Path>, overrides: Overrides) -> Result<Self, ConfigError> {
        let read = file.map_or_else(|| Ok(ConfigFile::default()), read)?;
        let role = overrides.role;
        let services = ServiceSettings::load(&read, &overrides)?;
        let credentials_file = overrides.blocks_credentials_file.or(read.blocks_credentials_file);
        let blocks = blocks(overrides.blocks.or(read.blocks), credentials_file, overrides.blocks_credentials)?;
        let data_dir = match overrides.data_dir.or(read.data) {
            None if role.keeps_data() => return Err(ConfigError::NoDataDir),
            data_dir => data_dir.unwrap_or_default(),
        };
        let listen = address(overrides.listen.or(read.listen).unwrap_or_else(|| DEFAULT_LISTEN.to_owned()))?;
        let password_file = overrides.metadata_password_file.or(read.metadata_password_file);
        let password = match (overrides.metadata_password, password_file) {
            (Some(password), _) => Some(password),
            (None, Some(file)) => Some(read_password(&file)?),
            (None, None) => None,
        };
        let metadata = match (overrides.metadata.or(read.metadata), password) {
            (Some(url), password) => {
                let options = MysqlOptions::from_url(&url).map_err(|source| ConfigError::BadMetadata { source })?;
                Metadata::Mysql { options, password }
            }
            (None, None) => Metadata::InDataDir,
            (None, Some(_)) => return Err(ConfigError::PasswordAlone),
        };
        let cache = overrides.cache.or(read.cache).map_or(Ok(CacheKind::default()), |text| CacheKind::parse(&text));
        let cache = cache.map_err(|source| ConfigError::BadCache { source })?;
        let (thrift, clean_up, telemetry) = (read.thrift, read.clean_up, read.telemetry.checked()?);
        Ok(Self { data_dir, listen, metadata, blocks, thrift, cache, clean_up, telemetry, role, services })
    }
}

/// The bucket of a URL, with credentials from its file or, where none is named, from the environment. There
/// they may be meant for others, so that alone they mean nothing.
fn blocks(url: Option<String>, file: Option<PathBuf>, environment: Option<Credentials>) -> Result<Blocks, ConfigError> {
    let bad = |source| ConfigError::BadBlocks { source };
    let Some(url) = url else {
        return if file.is_some() { Err(ConfigError::CredentialsAlone) } else { Ok(Blocks::InDataDir) };
    };
    let options = S3Options::from_url(&url).map_err(bad)?;
    let credentials = match (file, environment) {
        (Some(path), _) => {
            let text = read_bounded(&path)
                .map_err(|source| ConfigError::UnreadableCredentials { path: path.clone(), source })?;
            Credentials::from_text(&text).map_err(bad)?
        }
        (None, Some(credentials)) => credentials,
        (None, None) => return Err(ConfigError::NoCredentials),
    };
    Ok(Blocks::S3 { options, credentials })
}

impl ServiceSettings {
    fn load(file: &ConfigFile, overrides: &Overrides) -> Result<Self, ConfigError> {
        let role = overrides.role;
        let listen = overrides.service_listen.as_ref().or(file.service_listen.as_ref());
        let listen = listen.map(|text| address(text.clone())).transpose()?;
        let secret = overrides.service_secret_file.as_deref().or(file.service_secret_file.as_deref());
        let secret = secret.map(read_secret).transpose()?;
        let tls = tls_files(file, overrides)?;
        let knows_callers = secret.is_some() || tls.as_ref().is_some_and(|files| files.authority.is_some());
        let meta = targets(&overrides.meta, &file.meta)?;
        let hubs = targets(&overrides.hubs, &file.hubs)?;
        match listen {
            None if role.is_called() => return Err(ConfigError::NoServiceListen),
            Some(address) if role != ProcessRole::All && !knows_callers && !address.ip().is_loopback() => {
                return Err(ConfigError::OpenServiceAddress { address });
            }
            None | Some(_) => {}
        }
        if role.asks_meta() && meta.is_empty() {
            return Err(ConfigError::NoMeta);
        }
        if matches!(role, ProcessRole::Meta | ProcessRole::NotifyEdge) && hubs.is_empty() {
            return Err(ConfigError::NoHubs);
        }
        Ok(Self { listen, secret, tls, meta, hubs })
    }
}

fn address(text: String) -> Result<SocketAddr, ConfigError> {
    text.parse().map_err(|_| ConfigError::BadListen { text })
}

/// The targets of a service, each a host and a port.
fn targets(overrides: &[String], file: &[String]) -> Result<Vec<String>, ConfigError> {
    let targets = if overrides.is_empty() { file } else { overrides };
    if targets.len() > TARGETS {
        return Err(ConfigError::TooManyTargets);
    }
    let port_of = |target: &String| target.rsplit_once(':').filter(|(host, _)| !host.is_empty())?.1.parse::<u16>().ok();
    match targets.iter().find(|target| port_of(target).is_none()) {
        Some(text) => Err(ConfigError::BadTarget { text: text.clone() }),
        None => Ok(targets.to_vec()),
    }
}

/// The files for TLS between services: all that it takes, or none.
fn tls_files(file: &ConfigFile, overrides: &Overrides) -> Result<Option<TlsFiles>, ConfigError> {
    let chosen = |first: &Option<PathBuf>, second: &Option<PathBuf>| first.clone().or_else(|| second.clone());
    let certificate = chosen(&overrides.service_certificate_file, &file.service_certificate_file);
    let key = chosen(&overrides.service_key_file, &file.service_key_file);
    match (certificate, key, chosen(&overrides.service_ca_file, &file.service_ca_file)) {
        (Some(certificate), Some(key), authority) => Ok(Some(TlsFiles { certificate, key, authority })),
        (None, None, None) => Ok(None),
        (Some(_), None, _) | (None, Some(_), _) | (None, None, Some(_)) => Err(ConfigError::IncompleteTls),
    }
}

fn read_secret(path: &Path) -> Result<ServiceSecret, ConfigError> {
    let text = read_line(path).map_err(|source| ConfigError::UnreadableSecret { path: path.to_owned(), source })?;
    ServiceSecret::parse(&text).map_err(|source| ConfigError::BadSecret { path: path.to_owned(), source })
}

fn read_password(path: &Path) -> Result<Secret, ConfigError> {
    let text = read_line(path).map_err(|source| ConfigError::UnreadablePassword { path: path.to_owned(), source })?;
    Ok(Secret(text))
}

/// The file's only line.
fn read_line(path: &Path) -> io::Result<String> {
    Ok(read_bounded(path)?.trim_end_matches(['\r', '\n']).to_owned())
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(PASSWORD_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn read(path: &Path) -> Result<ConfigFile, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    let mut file: ConfigFile = toml::from_str(&text)
        .map_err(|source| ConfigError::Invalid { path: path.to_owned(), source: Box::new(source) })?;
    let base = path.parent().unwrap_or(Path::new(""));
    file.data = file.data.map(|data| base.join(data));
    file.metadata_password_file = file.metadata_password_file.map(|file| base.join(file));
    file.blocks_credentials_file = file.blocks_credentials_file.map(|file| base.join(file));
    file.service_secret_file = file.service_secret_file.map(|file| base.join(file));
    file.service_certificate_file = file.service_certificate_file.map(|file| base.join(file));
    file.service_key_file = file.service_key_file.map(|file| base.join(file));
    file.service_ca_file = file.service_ca_file.map(|file| base.join(file));
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
        let overrides =
            Overrides { data_dir: Some("/e".into()), listen: Some("[::1]:2".into()), ..Overrides::default() };
        let config = load("data = \"d\"\nlisten = \"0.0.0.0:1\"", overrides).expect("is valid");
        assert_eq!((config.data_dir, config.listen.to_string()), ("/e".into(), "[::1]:2".into()));
    }

    #[test]
    fn without_a_listen_setting_only_this_machine_is_served() {
        let overrides = Overrides { data_dir: Some("/d".into()), ..Overrides::default() };
        assert!(Config::load(None, overrides).expect("is valid").listen.ip().is_loopback());
    }

    #[test]
    fn a_database_is_named_by_a_url_and_its_password_stands_in_a_file_or_the_environment() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("password");
        fs::write(&file, "from the file\n").expect("writes");
        let text = format!("data = \"d\"\nmetadata = \"mysql://s@db/m\"\nmetadata_password_file = {file:?}");
        let password = |overrides| match load(&text, overrides).expect("is valid").metadata {
            Metadata::Mysql { password, .. } => password.map(|password| password.expose().to_owned()),
            Metadata::InDataDir => panic!("the URL is lost"),
        };
        assert_eq!(password(Overrides::default()).as_deref(), Some("from the file"));
        let environment = Overrides { metadata_password: Some(Secret("other".into())), ..Overrides::default() };
        assert_eq!(password(environment).as_deref(), Some("other"));
        let config = load(&text, Overrides::default()).expect("is valid");
        assert!(!format!("{config:?}").contains("from the file"), "no log shows it");
    }

    #[test]
    fn a_bucket_is_named_by_a_url_and_its_credentials_stand_in_a_file_or_the_environment() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("credentials");
        fs::write(&file, "aws_access_key_id = AK\naws_secret_access_key = from the file\n").expect("writes");
        let credentials = |id: &str, secret: &str| Credentials::new(id.into(), secret.into(), None);
        let environment =
            || Overrides { blocks_credentials: Some(credentials("E", "from outside")), ..Overrides::default() };
        let found = |text: &str, overrides| match load(text, overrides).expect("is valid").blocks {
            Blocks::S3 { credentials, .. } => credentials,
            Blocks::InDataDir => panic!("the URL is lost"),
        };
        let named = format!("data = \"d\"\nblocks = \"s3://b/p\"\nblocks_credentials_file = {file:?}");
        assert_eq!(found(&named, environment()), credentials("AK", "from the file"), "what is named comes first");
        assert_eq!(found("data = \"d\"\nblocks = \"s3://b/p\"", environment()), credentials("E", "from outside"));
        let config = load(&named, Overrides::default()).expect("is valid");
        assert!(!format!("{config:?}").contains("from the file"), "no log shows it");
        let without = load("data = \"d\"", environment()).expect("is valid");
        assert_eq!(without.blocks, Blocks::InDataDir, "what stands in the environment may be meant for others");
    }

    #[test]
    fn a_bucket_that_cannot_be_meant_is_an_error() {
        let refused = |text| load(text, Overrides::default()).expect_err("is refused");
        assert!(matches!(refused("data = \"d\"\nblocks = \"b\""), ConfigError::BadBlocks { .. }));
        assert!(matches!(refused("data = \"d\"\nblocks = \"s3://b\""), ConfigError::NoCredentials));
        let missing = "data = \"d\"\nblocks = \"s3://b\"\nblocks_credentials_file = \"none\"";
        assert!(matches!(refused(missing), ConfigError::UnreadableCredentials { .. }));
        let alone = "data = \"d\"\nblocks_credentials_file = \"none\"";
        assert!(matches!(refused(alone), ConfigError::CredentialsAlone));
    }

    #[test]
    fn a_database_that_cannot_be_meant_is_an_error() {
        let refused = |text| load(text, Overrides::default()).expect_err("is refused");
        assert!(matches!(refused("data = \"d\"\nmetadata = \"mysql://s:p@db/m\""), ConfigError::BadMetadata { .. }));
        let missing = "data = \"d\"\nmetadata = \"mysql://s@db/m\"\nmetadata_password_file = \"none\"";
        assert!(matches!(refused(missing), ConfigError::UnreadablePassword { .. }));
        let alone = Overrides { metadata_password: Some(Secret("p".into())), ..Overrides::default() };
        assert!(matches!(load("data = \"d\"", alone), Err(ConfigError::PasswordAlone)));
    }

    #[test]
    fn a_cache_is_in_memory_or_on_servers_or_left_off() {
        let cache = |text: &str| load(&format!("data = \"d\"\n{text}"), Overrides::default());
        assert_eq!(cache("").expect("is valid").cache, CacheKind::Memory);
        assert_eq!(cache("cache = \"memory\"").expect("is valid").cache, CacheKind::Memory);
        assert_eq!(cache("cache = \"off\"").expect("is valid").cache, CacheKind::Off);
        let url = "memcached://h1:1,h2:2";
        let servers = CacheKind::Memcached(Servers::from_url(url).expect("is one"));
        assert_eq!(cache(&format!("cache = {url:?}")).expect("is valid").cache, servers);
        let overrides = Overrides { cache: Some("off".into()), ..Overrides::default() };
        assert_eq!(load(&format!("data = \"d\"\ncache = {url:?}"), overrides).expect("is valid").cache, CacheKind::Off);
        assert!(matches!(cache("cache = \"h1:1\""), Err(ConfigError::BadCache { .. })));
    }

    #[test]
    fn the_clean_up_has_its_times() {
        let times = |text: &str| load(&format!("data = \"d\"\n[clean_up]\n{text}"), Overrides::default());
        let hours = |times: CleanUpTimes| (times.first().as_secs(), times.every().as_secs());
        assert_eq!(hours(times("").expect("is valid").clean_up), (1200, 21_600));
        assert_eq!(hours(times("first_seconds = 1\nevery_seconds = 2").expect("is valid").clean_up), (1, 2));
        for wrong in ["first_seconds = 0", "every_seconds = -1", "often = 3"] {
            assert!(matches!(times(wrong), Err(ConfigError::Invalid { .. })), "{wrong}");
        }
    }

    #[test]
    fn a_collector_is_an_address_of_http() {
        let with = |text: &str| load(&format!("data = \"d\"\n[telemetry]\n{text}"), Overrides::default());
        let settings = with("otlp = \"http://collector:4318/\"\nper_thousand = 10").expect("is valid").telemetry;
        assert_eq!(settings, TelemetrySettings { otlp: Some("http://collector:4318".into()), per_thousand: 10 });
        assert_eq!(with("").expect("is valid").telemetry.otlp, None);
        for wrong in [
            "otlp = \"collector:4318\"",
            "otlp = \"grpc://c:4317\"",
            "otlp = \"http://c?x\"",
            "otlp = \"http://c\"\nper_thousand = 1001",
        ] {
            assert!(matches!(with(wrong), Err(ConfigError::BadCollector { .. })), "{wrong}");
        }
    }

    fn of_role(role: ProcessRole, text: &str) -> Result<Config, ConfigError> {
        load(text, Overrides { role, ..Overrides::default() })
    }

    #[test]
    fn each_role_needs_what_it_works_with_and_no_more() {
        let hub = of_role(ProcessRole::NotifyHub, "service_listen = \"127.0.0.1:1\"").expect("needs no directory");
        assert_eq!((hub.data_dir.as_os_str().len(), hub.services.listen), (0, Some(([127, 0, 0, 1], 1).into())));
        let edge =
            of_role(ProcessRole::NotifyEdge, "meta = [\"m:1\"]\nhubs = [\"h:1\", \"[::1]:2\"]").expect("is valid");
        assert_eq!(edge.services.hubs, ["h:1", "[::1]:2"]);
        assert!(matches!(of_role(ProcessRole::NotifyHub, ""), Err(ConfigError::NoServiceListen)));
        assert!(matches!(of_role(ProcessRole::NotifyEdge, "meta = [\"m:1\"]"), Err(ConfigError::NoHubs)));
        assert!(matches!(of_role(ProcessRole::Block, "data = \"d\""), Err(ConfigError::NoMeta)));
        assert!(matches!(of_role(ProcessRole::Block, "meta = [\"m:1\"]"), Err(ConfigError::NoDataDir)));
        let listen = "service_listen = \"127.0.0.1:1\"";
        assert!(matches!(of_role(ProcessRole::Meta, &format!("data = \"d\"\n{listen}")), Err(ConfigError::NoHubs)));
        for target in ["m", ":1", "m:x", "m:70000"] {
            let refused = of_role(ProcessRole::Block, &format!("data = \"d\"\nmeta = [\"{target}\"]"));
            assert!(matches!(refused, Err(ConfigError::BadTarget { .. })), "{target}");
        }
    }

    #[test]
    fn an_address_that_others_reach_needs_a_secret() {
        let open = "service_listen = \"0.0.0.0:1\"";
        assert!(matches!(of_role(ProcessRole::NotifyHub, open), Err(ConfigError::OpenServiceAddress { .. })));
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("secret");
        let with = || of_role(ProcessRole::NotifyHub, &format!("{open}\nservice_secret_file = {file:?}"));
        assert!(matches!(with(), Err(ConfigError::UnreadableSecret { .. })));
        fs::write(&file, "short\n").expect("writes");
        assert!(matches!(with(), Err(ConfigError::BadSecret { .. })));
        fs::write(&file, "a secret of some length".replace(' ', "-") + "\n").expect("writes");
        let config = with().expect("is valid");
        assert!(config.services.secret.is_some() && !format!("{config:?}").contains("some-length"));
    }

    #[test]
    fn a_certificate_needs_its_key_and_an_authority_knows_callers_without_a_secret() {
        let open = "service_listen = \"0.0.0.0:1\"";
        let with = |files: &[&str]| {
            let lines = files.iter().map(|name| format!("\nservice_{name}_file = \"{name}.pem\""));
            of_role(ProcessRole::NotifyHub, &format!("{open}{}", lines.collect::<String>()))
        };
        for incomplete in [&["certificate"][..], &["key"], &["ca"], &["ca", "key"], &["ca", "certificate"]] {
            assert!(matches!(with(incomplete), Err(ConfigError::IncompleteTls)), "{incomplete:?}");
        }
        let encrypted_alone = with(&["certificate", "key"]);
        assert!(matches!(encrypted_alone, Err(ConfigError::OpenServiceAddress { .. })), "anybody could call");
        let tls = with(&["certificate", "key", "ca"]).expect("is valid").services.tls.expect("is kept");
        assert!(tls.key.is_absolute() && tls.authority.is_some_and(|file| file.ends_with("ca.pem")));
    }

    #[test]
    fn each_saving_can_be_left_off() {
        let thrift = |text| load(text, Overrides::default()).expect("is valid").thrift;
        assert_eq!(thrift("data = \"d\""), ServerThrift::default());
        let without = ServerThrift { compress: false, ..ServerThrift::default() };
        assert_eq!(thrift("data = \"d\"\n[thrift]\ncompress = false"), without);
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
