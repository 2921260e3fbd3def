//! What the admin commands do with blocks in a bucket: what a server does by itself.

use block_store::contract::block;
use block_store::{Block, BlockStore};
use block_store_s3::S3BlockStore;
use block_store_s3::private_server::PrivateServer as Bucket;
use model::BlockHash;
use server::{CleanUpMode, CleanUpReport, Config, Overrides};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

fn config(folder: &TempDir, bucket: &Bucket) -> Config {
    let overrides = Overrides {
        data_dir: Some(folder.path().to_owned()),
        blocks: Some(bucket.url("")),
        blocks_credentials: Some(Bucket::credentials()),
        ..Overrides::default()
    };
    Config::load(None, overrides).expect("is valid")
}

/// How many objects there are below a folder of the bucket.
fn objects(bucket: &Bucket, folder: &str) -> usize {
    let below = |folder: PathBuf| folder.read_dir().into_iter().flatten().map(|entry| entry.expect("reads").path());
    below(bucket.objects().join(folder)).flat_map(below).filter(|path: &PathBuf| Path::is_file(path)).count()
}

#[test]
fn a_clean_up_by_command_puts_small_blocks_together_and_gives_back_what_is_mostly_unused() {
    let (folder, bucket) = (TempDir::new().expect("is made"), Bucket::start());
    let config = config(&folder, &bucket);
    let meta = Arc::new(server::open(&config).expect("opens"));
    let instance = meta.server().expect("answers").instance;
    let draws = std::sync::atomic::AtomicU64::new(0);
    let below = move |n: u64| draws.fetch_add(0x9e37_79b9, std::sync::atomic::Ordering::Relaxed) % n;
    let options = bucket.options("");
    let store = S3BlockStore::open(&options, Bucket::credentials(), instance, meta, below).expect("opens");
    let (alone, together): (Vec<Block>, Vec<Block>) =
        ((0..300).map(|n| block(n, 50)).collect(), (1000..1020).map(|n| block(n, 10_000)).collect());
    alone.iter().for_each(|block| store.put(std::slice::from_ref(block)).expect("puts"));
    store.put(&together).expect("puts");
    let gone: Vec<BlockHash> = together[2..].iter().map(Block::hash).collect();
    store.remove(&gone).expect("removes");
    assert_eq!((objects(&bucket, "blocks"), objects(&bucket, "packs")), (300, 1));

    let look = server::clean_up(&config, CleanUpMode::Look).expect("looks");
    assert_eq!((look.marked, look.gathered, objects(&bucket, "blocks")), (302, 0, 300), "a look changes nothing");
    let CleanUpReport { gathered, compacted_bytes, damaged, .. } =
        server::clean_up(&config, CleanUpMode::Act).expect("cleans up");
    assert_eq!((gathered, damaged), (300, 0));
    assert!(compacted_bytes > 17 * 10_000, "{compacted_bytes}");
    assert_eq!((objects(&bucket, "blocks"), objects(&bucket, "packs")), (0, 2));
    for block in alone.iter().chain(&together[..2]) {
        assert_eq!(store.get(&block.hash()).expect("answers").as_ref(), Some(block.bytes()));
    }
}
