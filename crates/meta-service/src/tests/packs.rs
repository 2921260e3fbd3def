//! Places of blocks in packs.

use super::*;
use api::service::{InsteadOf, NewPlace, PackIndex, PackState};
use api::{ApiError, ErrorCode};
use model::{PackId, PackedBlock, limits};
use std::time::Duration;

const ONE: PackId = PackId([1; 16]);
const TWO: PackId = PackId([2; 16]);

fn block(n: u8) -> BlockHash {
    BlockHash([n; 32])
}

fn new(n: u8, instead_of: InsteadOf) -> NewPlace {
    NewPlace { block: block(n), offset: u32::from(n) * 100, len: 10, instead_of }
}

fn place(n: u8, pack: PackId) -> Option<PackedBlock> {
    Some(PackedBlock { hash: block(n), pack, offset: u32::from(n) * 100, len: 10 })
}

impl Bench {
    fn note(&self, pack: PackId, blocks: &[u8], instead_of: InsteadOf) -> Result<(), ApiError> {
        let blocks: Vec<NewPlace> = blocks.iter().map(|n| new(*n, instead_of)).collect();
        self.service.note_packed(pack, &blocks)
    }

    fn find(&self, n: u8) -> Option<PackedBlock> {
        self.service.find_packed(&[block(n)]).expect("answers").pop().flatten()
    }

    fn state(&self, pack: PackId) -> PackState {
        self.service.packs(&[pack]).expect("answers").pop().expect("has a state")
    }
}

#[test]
fn a_place_takes_the_place_only_of_what_it_says() {
    let bench = Bench::new();
    bench.note(ONE, &[1, 2], InsteadOf::Anything).expect("notes");
    bench.note(TWO, &[1, 3], InsteadOf::Nothing).expect("notes");
    assert_eq!([1, 2, 3].map(|n| bench.find(n)), [place(1, ONE), place(2, ONE), place(3, TWO)]);
    bench.note(TWO, &[2, 3, 4], InsteadOf::Pack(ONE)).expect("notes");
    assert_eq!([2, 3, 4].map(|n| bench.find(n)), [place(2, TWO), place(3, TWO), None]);
    bench.note(ONE, &[3, 4], InsteadOf::Anything).expect("notes");
    assert_eq!([3, 4].map(|n| bench.find(n)), [place(3, ONE), place(4, ONE)]);
    assert_eq!(bench.state(ONE), PackState::Live { blocks: 3, bytes: 30 });
    assert_eq!(bench.service.places_in(TWO).expect("answers"), [place(2, TWO).expect("is one")]);
    assert_eq!(bench.service.list_packed(Some(block(1)), 2).expect("answers"), [block(2), block(3)]);
}

#[test]
fn a_pack_ends_with_its_last_place_and_takes_none_afterwards() {
    let bench = Bench::new();
    bench.note(ONE, &[1, 2], InsteadOf::Anything).expect("notes");
    bench.note(TWO, &[3], InsteadOf::Anything).expect("notes");
    assert_eq!(bench.service.forget_packed(&[block(1), block(3), block(9)]).expect("forgets"), [TWO]);
    assert!(!bench.service.end_pack(ONE).expect("answers"), "there is a place in it");
    assert_eq!(bench.service.forget_packed(&[block(2)]).expect("forgets"), [ONE]);
    assert_eq!(bench.service.forget_packed(&[block(2)]).expect("forgets"), [], "it has been told");
    assert!(bench.service.end_pack(ONE).expect("answers"));
    for instead_of in [InsteadOf::Anything, InsteadOf::Nothing] {
        let late = bench.note(ONE, &[1], instead_of).expect_err("comes too late");
        assert_eq!(late.code, ErrorCode::Unavailable);
    }
    assert_eq!((bench.find(1), bench.state(ONE)), (None, PackState::Ended));
}

#[test]
fn that_a_pack_has_ended_is_remembered_for_a_month() {
    let bench = Bench::new();
    bench.note(ONE, &[1], InsteadOf::Anything).expect("notes");
    assert_eq!(bench.service.forget_packed(&[block(1)]).expect("forgets"), [ONE]);
    let day = i64::try_from(Duration::from_secs(24 * 3600).as_millis()).expect("fits");
    bench.clock.fetch_add(29 * day, Ordering::Relaxed);
    bench.service.clean_up().expect("cleans up");
    assert_eq!(bench.state(ONE), PackState::Ended);
    bench.clock.fetch_add(2 * day, Ordering::Relaxed);
    bench.service.clean_up().expect("cleans up");
    assert_eq!(bench.state(ONE), PackState::Unknown);
}

#[test]
fn more_places_than_a_pack_has_are_refused() {
    let bench = Bench::new();
    let many = vec![new(1, InsteadOf::Anything); limits::PACK_BLOCKS + 1];
    assert_eq!(bench.service.note_packed(ONE, &many).expect_err("is refused").code, ErrorCode::BadRequest);
    assert_eq!(bench.state(ONE), PackState::Unknown);
}
