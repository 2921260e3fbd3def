//! What may be fetched before it is committed.

use super::{Bench, Person, create};
use api::service::{MetaForBlocks, StoredBlock};
use api::{AnnounceRequest, ComingFile, ComingRequest, ErrorCode};
use model::{BLOCK_SIZE, BlockHash, Blocklist, Body, Mtime, NamespaceId, NodeId, Role, limits};
use std::sync::atomic::Ordering;

const FILE: NodeId = NodeId([0xf1; 16]);

fn hash(n: u8) -> BlockHash {
    BlockHash([n; 32])
}

fn file(blocks: &[BlockHash]) -> ComingFile {
    let parent = NodeId([0xf0; 16]);
    ComingFile { node: FILE, parent, size: blocks.len() as u64 * BLOCK_SIZE, blocks: blocks.to_vec() }
}

fn announce(bench: &Bench, person: &Person, namespace: NamespaceId, blocks: &[BlockHash]) {
    bench.service.announce(person.who, AnnounceRequest { namespace, file: file(blocks) }).expect("is announced");
}

fn upload(bench: &Bench, person: &Person, blocks: &[BlockHash]) {
    let stored: Vec<StoredBlock> = blocks.iter().map(|hash| StoredBlock { hash: *hash, len: 1 }).collect();
    bench.service.stored(person.who, &stored, None).expect("is noted");
}

fn fetchable(bench: &Bench, person: &Person, namespace: NamespaceId, blocks: &[BlockHash]) -> Vec<bool> {
    MetaForBlocks::coming(&*bench.service, person.who, namespace, blocks).expect("answers")
}

#[test]
fn another_device_may_fetch_what_was_announced_and_has_arrived() {
    let bench = Bench::new();
    let ann = bench.user("ann@x");
    let other = bench.device("ann@x", "desk");
    let blocks = [hash(1), hash(2)];
    upload(&bench, &ann, &[hash(1), hash(3)]);
    assert_eq!(fetchable(&bench, &other, ann.root, &blocks), [false, false], "it was not announced");
    announce(&bench, &ann, ann.root, &blocks);
    assert_eq!(fetchable(&bench, &other, ann.root, &[hash(1), hash(2), hash(3)]), [true, false, false]);
    let reply = bench.service.coming(other.who, &ComingRequest { namespace: ann.root }).expect("answers");
    assert_eq!(reply.files, [file(&blocks)]);
    let own = bench.service.coming(ann.who, &ComingRequest { namespace: ann.root }).expect("answers");
    assert_eq!(own.files, [], "nobody is told of their own");
}

/// Who announces a hash that somebody else has uploaded would otherwise get the bytes by a second device.
#[test]
fn what_was_only_named_is_not_handed_out() {
    let bench = Bench::new();
    let (ann, eve) = (bench.user("ann@x"), bench.user("eve@x"));
    let eves_other = bench.device("eve@x", "desk");
    upload(&bench, &ann, &[hash(1)]);
    announce(&bench, &eve, eve.root, &[hash(1)]);
    assert_eq!(fetchable(&bench, &eves_other, eve.root, &[hash(1)]), [false]);
}

#[test]
fn who_is_no_member_learns_nothing_and_announces_nothing() {
    let bench = Bench::new();
    let (ann, eve) = (bench.user("ann@x"), bench.user("eve@x"));
    announce(&bench, &ann, ann.root, &[hash(1)]);
    let asked = bench.service.coming(eve.who, &ComingRequest { namespace: ann.root });
    assert_eq!(asked.map_err(|error| error.code), Err(ErrorCode::Forbidden));
    let fetched = MetaForBlocks::coming(&*bench.service, eve.who, ann.root, &[hash(1)]);
    assert_eq!(fetched.map_err(|error| error.code), Err(ErrorCode::Forbidden));
    let request = AnnounceRequest { namespace: ann.root, file: file(&[hash(1)]) };
    assert_eq!(bench.service.announce(eve.who, request).map_err(|error| error.code), Err(ErrorCode::Forbidden));
}

#[test]
fn a_commit_and_time_end_an_announcement() {
    let bench = Bench::new();
    let ann = bench.user("ann@x");
    let other = bench.device("ann@x", "desk");
    upload(&bench, &ann, &[hash(1)]);
    announce(&bench, &ann, ann.root, &[hash(1)]);
    let life = i64::try_from(limits::COMING_LIFE.as_millis()).expect("fits");
    bench.clock.fetch_add(life + 1, Ordering::Relaxed);
    assert_eq!(fetchable(&bench, &other, ann.root, &[hash(1)]), [false]);
    announce(&bench, &ann, ann.root, &[hash(1)]);
    assert_eq!(fetchable(&bench, &other, ann.root, &[hash(1)]), [true]);
    let blocks = Blocklist(vec![hash(1)]);
    let body = Body::File { blocks, size: BLOCK_SIZE, executable: false, mtime: Mtime(0) };
    bench.accept(&ann, ann.root, vec![create(FILE, ann.root.root(), "f", body)]);
    assert_eq!(fetchable(&bench, &other, ann.root, &[hash(1)]), [false]);
}

#[test]
fn the_others_hear_of_each_arrival() {
    let bench = Bench::new();
    let ann = bench.user("ann@x");
    upload(&bench, &ann, &[hash(9)]);
    assert_eq!(bench.heard.coming.lock().expect("no panic").len(), 0, "nothing was announced");
    announce(&bench, &ann, ann.root, &[hash(1), hash(2)]);
    upload(&bench, &ann, &[hash(1)]);
    upload(&bench, &ann, &[hash(9)]);
    upload(&bench, &ann, &[hash(2)]);
    let heard = bench.heard.coming.lock().expect("no panic").clone();
    assert_eq!(heard, [(ann.root, ann.who.device); 3]);
}

#[test]
fn a_member_who_may_only_read_fetches_and_does_not_announce() {
    let bench = Bench::new();
    let (ann, bob) = (bench.user("ann@x"), bench.user("bob@x"));
    let folder = bench.mkdir(&ann, ann.root, ann.root.root(), "s");
    let shared = bench.share(&ann, folder, &bob, Role::Viewer);
    upload(&bench, &ann, &[hash(1)]);
    announce(&bench, &ann, shared, &[hash(1)]);
    assert_eq!(fetchable(&bench, &bob, shared, &[hash(1)]), [true]);
    let request = AnnounceRequest { namespace: shared, file: file(&[hash(2)]) };
    assert_eq!(bench.service.announce(bob.who, request).map_err(|error| error.code), Err(ErrorCode::Forbidden));
}

#[test]
fn a_file_that_cannot_be_is_not_announced_and_no_device_announces_without_end() {
    let bench = Bench::new();
    let ann = bench.user("ann@x");
    let other = bench.device("ann@x", "desk");
    let bad = [
        ComingFile { size: 0, ..file(&[]) },
        ComingFile { size: 2 * BLOCK_SIZE + 1, ..file(&[hash(1), hash(2)]) },
        file(&vec![hash(1); limits::COMING_BLOCKS + 1]),
    ];
    for file in bad {
        let request = AnnounceRequest { namespace: ann.root, file };
        assert_eq!(bench.service.announce(ann.who, request).map_err(|error| error.code), Err(ErrorCode::BadRequest));
    }
    for n in 0..100 {
        let file = ComingFile { node: NodeId([n; 16]), ..file(&[hash(n)]) };
        bench.service.announce(ann.who, AnnounceRequest { namespace: ann.root, file }).expect("is announced");
    }
    let reply = bench.service.coming(other.who, &ComingRequest { namespace: ann.root }).expect("answers");
    assert_eq!(reply.files.len(), 16);
    assert_eq!(reply.files.last().map(|file| file.node), Some(NodeId([99; 16])), "the newest are kept");
}
