//! The contract of the port, on a real MariaDB.

use metadata_store::contract;
use metadata_store_mysql::private_server::PrivateServer;
use metadata_store_mysql::{MysqlStore, Pauses};
use std::cell::Cell;
use std::sync::Arc;

fn pauses() -> Pauses {
    Pauses::new(std::thread::sleep, |n| n / 2)
}

#[test]
fn a_store_on_mariadb_keeps_the_contract() {
    let server = PrivateServer::start();
    let number = Cell::new(0);
    contract::check(&|| {
        number.set(number.get() + 1);
        let options = server.new_database(&format!("syncline_{}", number.get()));
        Arc::new(MysqlStore::open(&options, Some(PrivateServer::PASSWORD), pauses()).expect("opens"))
    });
}
