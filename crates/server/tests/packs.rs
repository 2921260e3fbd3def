//! Many servers at once note, move and forget places of blocks in packs: none leads into a pack that has ended. On
//! SQLite and on a real MariaDB.

use api::service::{InsteadOf, NewPlace, PackIndex, PackState};
use meta_service::{Environment, MetaService};
use metadata_store::{MetadataStore, SqliteStore};
use metadata_store_mysql::private_server::PrivateServer;
use metadata_store_mysql::{MysqlStore, Pauses};
use model::{BlockHash, PackId, Timestamp};
use notification_service::Hub;
use std::sync::Arc;

const SERVERS: u8 = 4;
const ROUNDS: u8 = 40;
const BLOCKS: u8 = 12;

fn block(n: u8) -> BlockHash {
    BlockHash([n; 32])
}

fn index(store: &Arc<dyn MetadataStore>) -> MetaService {
    let environment = Environment::new(|| Timestamp(1_800_000_000_000), |bytes| bytes.fill(7));
    MetaService::new(store.clone(), Hub::new(), environment).expect("starts")
}

/// What one server does: it uploads a few of the blocks into a pack of its own, moves others there, removes some, and
/// ends packs; what it was told to remove is returned.
fn work(index: &dyn PackIndex, server: u8) -> Vec<PackId> {
    let mut ended = Vec::new();
    for round in 0..ROUNDS {
        let draw = |n: u8| (server.wrapping_mul(31) ^ round.wrapping_mul(17) ^ n.wrapping_mul(59)) % BLOCKS;
        let pack = PackId([server * ROUNDS + round; 16]);
        let others = PackId([(server + 1) % SERVERS * ROUNDS + round; 16]);
        let place = |n, instead_of| NewPlace { block: block(draw(n)), offset: 0, len: 1, instead_of };
        let places = [
            place(0, InsteadOf::Anything),
            place(1, InsteadOf::Anything),
            place(2, InsteadOf::Nothing),
            place(3, InsteadOf::Pack(others)),
        ];
        // Refused when somebody has ended the pack meanwhile.
        let _refused = index.note_packed(pack, &places);
        ended.extend(index.forget_packed(&[block(draw(4)), block(draw(5))]).expect("forgets"));
        if index.end_pack(others).expect("answers") {
            ended.push(others);
        }
    }
    ended
}

fn check(store: &Arc<dyn MetadataStore>) {
    let ended: Vec<PackId> = std::thread::scope(|scope| {
        let servers = (0..SERVERS).map(|n| scope.spawn(move || work(&index(store), n))).collect::<Vec<_>>();
        servers.into_iter().flat_map(|server| server.join().expect("no panic")).collect()
    });
    let index = index(store);
    assert!(ended.len() > usize::from(ROUNDS), "packs end all the time");
    assert!(index.packs(&ended).expect("answers").iter().all(|state| *state == PackState::Ended));
    let all: Vec<BlockHash> = (0..BLOCKS).map(block).collect();
    for place in index.find_packed(&all).expect("answers").into_iter().flatten() {
        assert!(!ended.contains(&place.pack), "{place:?}");
    }
}

#[test]
fn no_place_is_in_a_pack_that_has_ended_on_sqlite() {
    let folder = tempfile::tempdir().expect("is made");
    check(&(Arc::new(SqliteStore::open(&folder.path().join("meta.sqlite")).expect("opens")) as Arc<dyn MetadataStore>));
}

#[test]
fn no_place_is_in_a_pack_that_has_ended_on_mariadb() {
    let server = PrivateServer::start();
    let options = server.new_database("syncline_packs");
    let pauses = Pauses::new(std::thread::sleep, |n| n / 2);
    check(
        &(Arc::new(MysqlStore::open(&options, Some(PrivateServer::PASSWORD), pauses).expect("opens"))
            as Arc<dyn MetadataStore>),
    );
}
