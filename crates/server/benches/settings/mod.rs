//! What benchmarks share that compare servers: the settings of one on SQLite and of one on a MariaDB of its own,
//! and the processor time that both processes take.

use metadata_store_mysql::private_server::PrivateServer;
use server::{Config, Overrides, Secret};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// What the kernel counts processor time in, in /proc.
const TICK: Duration = Duration::from_millis(10);

pub(crate) fn embedded(folder: &Path) -> Config {
    Config::embedded(folder.join("sqlite"), ([127, 0, 0, 1], 0).into())
}

pub(crate) fn shared(folder: &Path, database: &PrivateServer) -> Config {
    let overrides = Overrides {
        data_dir: Some(folder.join("mariadb")),
        metadata: Some(database.url(PrivateServer::DATABASE)),
        metadata_password: Some(Secret::from(PrivateServer::PASSWORD.to_owned())),
        ..Overrides::default()
    };
    Config::load(None, overrides).expect("valid settings")
}

/// Processor time of this process, and of the database that it has started.
pub(crate) fn cpu() -> (Duration, Duration) {
    let of = |process: &str| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let (_, fields) = stat.rsplit_once(") ").unwrap_or_default();
        let fields: Vec<u32> = fields.split(' ').map(|field| field.parse().unwrap_or(0)).collect();
        // Behind the name: state, parent; user and system time are the 12th and 13th.
        fields.get(11..13).map_or(0, |times| times.iter().sum::<u32>())
    };
    let me = std::process::id().to_string();
    let children = fs::read_to_string(format!("/proc/{me}/task/{me}/children")).unwrap_or_default();
    let is_database =
        |pid: &&str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "mariadbd\n");
    let database = children.split_whitespace().find(is_database).unwrap_or("none");
    (TICK * of(&me), TICK * of(database))
}
