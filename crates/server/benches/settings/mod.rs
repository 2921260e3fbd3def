//! The settings of servers that are compared: one on SQLite, one on a MariaDB of their own.

use metadata_store_mysql::private_server::PrivateServer;
use server::{Config, Overrides, Secret};
use std::path::Path;

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
