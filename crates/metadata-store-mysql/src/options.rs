//! Where the database is, and how to reach it.

use percent_encoding::percent_decode_str;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use url::{Host, Url};

/// The port of a MySQL server when nobody says otherwise.
const DEFAULT_PORT: u16 = 3306;
/// The longest that making a connection may take; a server on the same network needs milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that one answer may take: more than a lock is waited for, and a page of a journal needs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Prepared statements kept by a connection: more than there are in this adapter.
const STATEMENTS: usize = 256;

/// Where the database is. The password is apart, since a URL ends up in process lists and logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MysqlOptions {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// A socket on this machine, in place of host and port.
    pub(crate) socket: Option<PathBuf>,
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) tls: Tls,
}

/// Whether the connection is encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    Off,
    /// The server must show a certificate for its name, from a public authority or from this file.
    On {
        authority: Option<PathBuf>,
    },
}

/// Why a URL names no database.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadOptions {
    #[error("`{url}` is not a URL like mysql://USER@HOST/DATABASE")]
    Url { url: String },
    #[error("the URL of the database holds a password")]
    Password,
    #[error("the URL of the database names no {part}")]
    Missing { part: &'static str },
    #[error("the URL of the database has an unknown setting `{name}`")]
    Unknown { name: String },
    #[error("the URL of the database sets `{name}` to `{value}`")]
    Value { name: String, value: String },
}

impl BadOptions {
    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Password => "take it out, and put it into a file that only the server can read",
            Self::Url { .. } | Self::Missing { .. } => {
                "write it like mysql://syncline@db.example.org:3306/syncline, or with ?socket=PATH"
            }
            Self::Unknown { .. } | Self::Value { .. } => "the settings are tls=on|off, ca=FILE and socket=PATH",
        }
    }
}

impl MysqlOptions {
    /// Reads `mysql://USER@HOST[:PORT]/DATABASE[?tls=on|off&ca=FILE&socket=PATH]`. TLS is off on this
    /// machine and on elsewhere unless the URL says so.
    ///
    /// # Errors
    /// [`BadOptions`].
    pub fn from_url(text: &str) -> Result<Self, BadOptions> {
        let url = Url::parse(text).ok().filter(|url| url.scheme() == "mysql");
        let Some(url) = url else { return Err(BadOptions::Url { url: without_password(text) }) };
        if url.password().is_some() {
            return Err(BadOptions::Password);
        }
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let given = |part, text: String| if text.is_empty() { Err(BadOptions::Missing { part }) } else { Ok(text) };
        let user = given("user", decoded(url.username()))?;
        let database = given("database", decoded(url.path().trim_start_matches('/')))?;
        let host = given("host", url.host().map(|host| plain_host(&host)).unwrap_or_default())?;
        let (mut socket, mut authority, mut switch) = (None, None, None);
        for (name, value) in url.query_pairs() {
            match (&*name, &*value) {
                ("tls", "on") => switch = Some(true),
                ("tls", "off") => switch = Some(false),
                ("ca", file) if !file.is_empty() => authority = Some(PathBuf::from(file)),
                ("socket", path) if !path.is_empty() => socket = Some(PathBuf::from(path)),
                ("tls" | "ca" | "socket", value) => {
                    return Err(BadOptions::Value { name: name.into(), value: value.into() });
                }
                (name, _) => return Err(BadOptions::Unknown { name: name.into() }),
            }
        }
        let local = socket.is_some() || is_this_machine(&host);
        let tls = if switch.unwrap_or(!local) { Tls::On { authority } } else { Tls::Off };
        Ok(Self { host, port: url.port().unwrap_or(DEFAULT_PORT), socket, user, database, tls })
    }

    /// Where the database is, for messages.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.socket {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", self.host, self.port),
        }
    }

    /// The driver's options for connections whose sessions begin with `init`.
    pub(crate) fn driver(&self, password: Option<&str>, init: Vec<String>) -> mysql::Opts {
        let tls = match &self.tls {
            Tls::Off => None,
            Tls::On { authority } => Some(mysql::SslOpts::default().with_root_cert_path(authority.clone())),
        };
        let socket = self.socket.as_ref().map(|path| path.to_string_lossy().into_owned());
        mysql::OptsBuilder::new()
            .ip_or_hostname(Some(self.host.clone()))
            .tcp_port(self.port)
            .socket(socket)
            .prefer_socket(false)
            .user(Some(self.user.clone()))
            .pass(password)
            .db_name(Some(self.database.clone()))
            .ssl_opts(tls)
            .tcp_nodelay(true)
            .tcp_connect_timeout(Some(CONNECT_TIMEOUT))
            .read_timeout(Some(ANSWER_TIMEOUT))
            .write_timeout(Some(ANSWER_TIMEOUT))
            .stmt_cache_size(STATEMENTS)
            .init(init)
            .into()
    }
}

/// How the adapter waits before it tries again, passed in so that a test need not wait.
#[derive(Clone)]
pub struct Pauses {
    sleep: Arc<dyn Fn(Duration) + Send + Sync>,
    below: Arc<dyn Fn(u64) -> u64 + Send + Sync>,
}

impl Pauses {
    /// `below(n)` is a random number below `n`, which is not 0.
    #[must_use]
    pub fn new(
        sleep: impl Fn(Duration) + Send + Sync + 'static,
        below: impl Fn(u64) -> u64 + Send + Sync + 'static,
    ) -> Self {
        Self { sleep: Arc::new(sleep), below: Arc::new(below) }
    }

    /// Waits a random time below `longest`, so that those who met do not meet again.
    pub(crate) fn jittered(&self, longest: Duration) {
        let micros = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX).max(1);
        (self.sleep)(Duration::from_micros((self.below)(micros)));
    }
}

fn plain_host(host: &Host<&str>) -> String {
    match host {
        Host::Domain(name) => percent_decode_str(name).decode_utf8_lossy().into_owned(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    }
}

fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

/// The text up to where a password could begin: it may be one that somebody mistyped.
fn without_password(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((before, after)) => match before.rsplit_once(':').filter(|(scheme, _)| scheme.contains("//")) {
            Some((user, _)) => format!("{user}:...@{after}"),
            None => text.to_owned(),
        },
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_everything_but_the_password() {
        let options =
            MysqlOptions::from_url("mysql://sync%40line@db.example.org:3307/meta?ca=/etc/ca.pem").expect("is one");
        assert_eq!((options.user.as_str(), options.database.as_str()), ("sync@line", "meta"));
        assert_eq!(options.place(), "db.example.org:3307");
        assert_eq!(options.tls, Tls::On { authority: Some("/etc/ca.pem".into()) });
    }

    #[test]
    fn the_network_is_encrypted_and_this_machine_is_not() {
        let tls = |url| MysqlOptions::from_url(url).expect("is one").tls;
        for url in ["mysql://a@127.0.0.1/b", "mysql://a@localhost/b", "mysql://a@[::1]/b", "mysql://a@x/b?socket=/s"] {
            assert_eq!(tls(url), Tls::Off, "{url}");
        }
        assert_eq!(tls("mysql://a@10.0.0.1/b"), Tls::On { authority: None });
        assert_eq!(tls("mysql://a@10.0.0.1/b?tls=off"), Tls::Off);
        assert_eq!(tls("mysql://a@localhost/b?tls=on"), Tls::On { authority: None });
    }

    #[test]
    fn what_is_missing_or_unknown_is_said() {
        let refused = |url| MysqlOptions::from_url(url).expect_err("is refused");
        assert_eq!(refused("mysql://a:secret@h/b"), BadOptions::Password);
        assert_eq!(refused("mysql://h/b"), BadOptions::Missing { part: "user" });
        assert_eq!(refused("mysql://a@h"), BadOptions::Missing { part: "database" });
        assert_eq!(refused("mysql://a@h/b?tsl=on"), BadOptions::Unknown { name: "tsl".into() });
        assert!(matches!(refused("mysql://a@h/b?tls=maybe"), BadOptions::Value { .. }));
        assert!(matches!(refused("postgres://a@h/b"), BadOptions::Url { .. }));
    }

    #[test]
    fn a_message_never_holds_a_password() {
        let message = MysqlOptions::from_url("msql://a:secret@h/b").expect_err("is refused").to_string();
        assert!(!message.contains("secret"), "{message}");
    }
}
