//! The adapter for memcached: several servers, each key on one of them, any of which may be gone.
//!
//! A server that is gone takes its keys along until it is back: they are missing then, and no other server
//! takes them over, since that would have yesterday's values when the first one returns and leaves again.
//!
//! Leases are memcached's own: a get that may create what it does not find (`mg ... N`) makes an empty item
//! and tells its version; a set that names the version (`ms ... C`) succeeds only on that very item. Versions
//! begin anew in a server that was restarted, so a lease also names the run of its server.

mod breaker;
mod connection;
mod protocol;
mod server;

pub use protocol::{Got, ProtocolError, read_got};

use crate::{Cache, Counts, Found, Lease, is_key, is_value};
use server::Server;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// The port of a memcached when nobody says otherwise.
const DEFAULT_PORT: u16 = 11211;
/// Servers of one cache.
const SERVERS: usize = 64;
/// Keys that are asked for in one go: their commands must fit into a socket's buffer.
const KEYS_AT_ONCE: usize = 64;
/// The longest that a call may wait for a server, connecting included. A server on the same network needs
/// a fraction of a millisecond, so that whoever needs this long is in trouble.
const PATIENCE: Duration = Duration::from_millis(100);
/// The longest patience that may be set: a call holds a connection to the database meanwhile.
const LONGEST_PATIENCE: Duration = Duration::from_secs(10);
/// How often names are resolved anew.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);

/// Which servers, and how long they are waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Servers {
    /// Each a host and a port. All processes must be given the same names; their order does not matter.
    names: Vec<String>,
    patience: Duration,
}

/// Why a URL names no servers.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadServers {
    #[error("`{text}` is not a URL like memcached://HOST:PORT,HOST:PORT")]
    Url { text: String },
    #[error("`{text}` is not a host and a port of a memcached")]
    Server { text: String },
    #[error("memcached servers are named twice, or more than {SERVERS} of them")]
    TooMany,
    #[error("`{text}` is no setting of a cache")]
    Setting { text: String },
}

impl BadServers {
    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Url { .. } | Self::Server { .. } | Self::TooMany => {
                "write it like memcached://cache1.example.org:11211,cache2.example.org:11211"
            }
            Self::Setting { .. } => "the only setting is patience_ms, from 1 to 10000: how long a server is waited for",
        }
    }
}

impl Servers {
    /// Reads `memcached://HOST[:PORT],HOST[:PORT]...[?patience_ms=N]`.
    ///
    /// # Errors
    /// [`BadServers`].
    pub fn from_url(text: &str) -> Result<Self, BadServers> {
        let bad_url = || BadServers::Url { text: text.to_owned() };
        let list = text.strip_prefix("memcached://").ok_or_else(bad_url)?;
        let (list, settings) = list.split_once('?').map_or((list, None), |(list, settings)| (list, Some(settings)));
        let patience = settings.map_or(Ok(PATIENCE), patience)?;
        let mut names = list.trim_end_matches('/').split(',').map(server_name).collect::<Result<Vec<_>, _>>()?;
        let count = names.len();
        names.sort();
        names.dedup();
        if names.len() < count || count > SERVERS {
            return Err(BadServers::TooMany);
        }
        Ok(Self { names, patience })
    }

    /// Where the cache is, for messages.
    #[must_use]
    pub fn place(&self) -> String {
        self.names.join(", ")
    }
}

fn patience(setting: &str) -> Result<Duration, BadServers> {
    let millis = setting.strip_prefix("patience_ms=").and_then(|value| value.parse().ok());
    let patience = millis.map(Duration::from_millis).filter(|time| !time.is_zero() && *time <= LONGEST_PATIENCE);
    patience.ok_or_else(|| BadServers::Setting { text: setting.to_owned() })
}

/// A host and a port; an address of IPv6 stands in brackets.
fn server_name(text: &str) -> Result<String, BadServers> {
    let bad = || BadServers::Server { text: text.to_owned() };
    let end_of_host = text.rfind(']').map_or(0, |end| end + 1);
    let (host, port) = match text[end_of_host..].rfind(':') {
        Some(colon) => (&text[..end_of_host + colon], text[end_of_host + colon + 1..].parse().map_err(|_| bad())?),
        None => (text, DEFAULT_PORT),
    };
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match inner {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)),
    };
    if is_host { Ok(format!("{host}:{port}")) } else { Err(bad()) }
}

/// A cache on memcached servers.
pub struct MemcachedCache {
    servers: Arc<[Server]>,
    patience: Duration,
    counts: Counts,
    /// When it goes, the thread that resolves names ends.
    _resolving: Sender<()>,
}

impl MemcachedCache {
    /// A cache on these servers. None of them needs to be there, now or later.
    #[must_use]
    pub fn new(servers: &Servers) -> Self {
        let patience = servers.patience;
        let servers: Arc<[Server]> = servers.names.iter().map(|name| Server::new(name)).collect();
        Self { _resolving: resolve(servers.clone()), servers, patience, counts: Counts::default() }
    }

    /// The server of a key, by rendezvous hashing: with a server more or less only that one's keys move.
    fn server_of(&self, key: &str) -> usize {
        let weight = |server: &Server| -> [u8; 32] {
            Sha256::new().chain_update(server.name()).chain_update([0]).chain_update(key).finalize().into()
        };
        (0..self.servers.len()).max_by_key(|&index| weight(&self.servers[index])).unwrap_or_default()
    }

    /// Asks one server for keys in one go.
    fn get_from(&self, server: usize, keys: &[&str], until: Instant) -> Vec<Found> {
        let request: String = keys.iter().map(|key| protocol::get(key)).collect();
        let asked = self.servers[server].call(until, None, request.as_bytes(), |connection| {
            let run = connection.run();
            keys.iter().map(|_| read_got(connection).map(|got| found(got, run))).collect::<Result<Vec<_>, _>>()
        });
        self.count(server, asked).flatten().unwrap_or_else(|| vec![Found::Nothing; keys.len()])
    }

    fn count<T>(&self, server: usize, asked: Result<T, server::NoAnswer>) -> Option<T> {
        let name = self.servers[server].name();
        match asked {
            Ok(answer) => return Some(answer),
            Err(server::NoAnswer::LeftAlone) => {}
            Err(server::NoAnswer::Failed(error)) => {
                Counts::add(&self.counts.failures);
                tracing::warn!(
                    server = name,
                    error = &error as &dyn std::error::Error,
                    "a cache server did not answer"
                );
            }
        }
        None
    }
}

impl Cache for MemcachedCache {
    fn get(&self, keys: &[String]) -> Vec<Found> {
        let until = Instant::now() + self.patience;
        let mut by_server: Vec<Vec<usize>> = vec![Vec::new(); self.servers.len()];
        for (index, key) in keys.iter().enumerate().filter(|(_, key)| is_key(key)) {
            by_server[self.server_of(key)].push(index);
        }
        let mut answers = vec![Found::Nothing; keys.len()];
        for (server, indexes) in by_server.iter().enumerate() {
            for some in indexes.chunks(KEYS_AT_ONCE) {
                let asked: Vec<&str> = some.iter().map(|&index| keys[index].as_str()).collect();
                for (&index, found) in some.iter().zip(self.get_from(server, &asked, until)) {
                    answers[index] = found;
                }
            }
        }
        for found in &answers {
            let hit = matches!(found, Found::Value(_));
            Counts::add(if hit { &self.counts.hits } else { &self.counts.misses });
        }
        answers
    }

    fn fill(&self, key: &str, lease: Lease, value: &[u8], life: Duration) {
        if !is_key(key) || !is_value(value) || life.is_zero() {
            Counts::add(&self.counts.refused);
            return;
        }
        let until = Instant::now() + self.patience;
        let server = self.server_of(key);
        let request = protocol::fill(key, lease.token, value, life);
        let filled = self.servers[server].call(until, Some(lease.run), &request, protocol::read_done);
        match self.count(server, filled) {
            Some(Some(true)) => Counts::add(&self.counts.fills),
            // The lease was void, or of another run of the server.
            Some(Some(false) | None) => Counts::add(&self.counts.refused),
            None => {}
        }
    }

    fn invalidate(&self, key: &str) {
        if is_key(key) {
            let until = Instant::now() + self.patience;
            let server = self.server_of(key);
            let done = self.servers[server].call(until, None, protocol::delete(key).as_bytes(), protocol::read_done);
            self.count(server, done);
        }
    }

    fn counts(&self) -> &Counts {
        &self.counts
    }
}

fn found(got: Got, run: u64) -> Found {
    match got {
        Got::Value(value) => Found::Value(value.into()),
        Got::Leased { token } => Found::Missing(Lease { token, run }),
        Got::Taken => Found::Nothing,
    }
}

/// Resolves the servers' names, at once and then regularly, on a thread of its own: a name server that is
/// slow must not keep a call waiting. The thread ends when the sender that is returned goes.
fn resolve(servers: Arc<[Server]>) -> Sender<()> {
    let (alive, ended) = channel();
    if servers.iter().all(Server::is_address) {
        return alive;
    }
    let resolving = thread::Builder::new().name("cache names".to_owned()).spawn(move || {
        loop {
            servers.iter().for_each(Server::resolve);
            if let Ok(()) | Err(RecvTimeoutError::Disconnected) = ended.recv_timeout(RESOLVE_INTERVAL) {
                return;
            }
        }
    });
    if let Err(error) = resolving {
        tracing::error!(error = &error as &dyn std::error::Error, "the names of cache servers cannot be resolved");
    }
    alive
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(names: &[&str]) -> MemcachedCache {
        let url = format!("memcached://{}", names.join(","));
        MemcachedCache::new(&Servers::from_url(&url).expect("is one"))
    }

    #[test]
    fn a_url_names_the_servers_in_any_order() {
        let servers = Servers::from_url("memcached://b.example.org:1,a,[::1]:2,10.0.0.1/").expect("is one");
        assert_eq!(servers.place(), "10.0.0.1:11211, [::1]:2, a:11211, b.example.org:1");
        assert_eq!(servers.patience, PATIENCE);
        let patient = Servers::from_url("memcached://a?patience_ms=7").expect("is one");
        assert_eq!(patient.patience, Duration::from_millis(7));
    }

    #[test]
    fn what_names_no_server_is_refused_and_said() {
        let refused = |url: &str| Servers::from_url(url).expect_err("is refused");
        assert!(matches!(refused("redis://a"), BadServers::Url { .. }));
        for text in ["", "a:", "a:b", "a b", ":1", "a,,b", "[::x]", "a@b", "a/b", "a:70000"] {
            assert!(matches!(refused(&format!("memcached://{text}")), BadServers::Server { .. }), "{text}");
        }
        assert_eq!(refused("memcached://a,a:11211"), BadServers::TooMany);
        for setting in ["patience_ms=0", "patience_ms=10001", "patience=1", ""] {
            assert!(matches!(refused(&format!("memcached://a?{setting}")), BadServers::Setting { .. }), "{setting}");
        }
    }

    #[test]
    fn with_a_server_more_only_its_own_keys_move() {
        let (two, three) =
            (cache(&["127.0.0.1:1", "127.0.0.1:2"]), cache(&["127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:1"]));
        let name = |cache: &MemcachedCache, key: &str| cache.servers[cache.server_of(key)].name().to_owned();
        let mut moved = 0;
        for n in 0..3000 {
            let key = format!("key/{n}");
            let after = name(&three, &key);
            if name(&two, &key) != after {
                assert_eq!(after, "127.0.0.1:3");
                moved += 1;
            }
        }
        assert!((800..1200).contains(&moved), "{moved} of 3000");
    }
}
