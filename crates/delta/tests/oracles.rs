//! The whole way against two other implementations of the same algorithm: fast_rsync, and librsync's
//! `rdiff` where it is installed.

use delta::{Chunks, Match, Script, Span, Writer, gaps, sum_up};
use fast_rsync::{Signature, SignatureOptions};
use proptest::prelude::*;
use std::fs;
use std::process::Command;

/// The coarse chunks, then smaller ones for what these leave over, as an upload does it.
fn script(old: &[u8], new: &[u8], coarse: usize, fine: usize) -> Vec<u8> {
    let whole = Span { base: 0, offset: 0, len: old.len() };
    let mut chunks = Chunks::new(coarse);
    chunks.add(whole, &sum_up(old, coarse));
    let mut matches = chunks.find_in(new);
    for gap in gaps(new.len(), &matches, &[whole], coarse) {
        let mut chunks = Chunks::new(fine);
        for span in gap.old {
            chunks.add(span, &sum_up(&old[span.offset..span.offset + span.len], fine));
        }
        let inside = chunks.find_in(&new[gap.new.clone()]);
        matches.extend(inside.into_iter().map(|found| Match { at: found.at + gap.new.start, ..found }));
    }
    matches.sort_by_key(|found| found.at);
    let mut writer = Writer::default();
    let mut at = 0;
    for found in &matches {
        writer.insert(&new[at..found.at]);
        writer.copy(0, found.span.offset, found.span.len);
        at = found.range().end;
    }
    writer.insert(&new[at..]);
    writer.finish()
}

fn rebuilt(old: &[u8], script: &[u8], len: usize) -> Vec<u8> {
    Script::parse(script, len).expect("is a script").apply(|base| (base == 0).then_some(old)).expect("applies")
}

/// The length of fast_rsync's delta with chunks of `chunk` bytes.
fn fast_rsyncs(old: &[u8], new: &[u8], chunk: usize) -> usize {
    let options = SignatureOptions { block_size: u32::try_from(chunk).expect("fits"), crypto_hash_size: 8 };
    let signature = Signature::calculate(old, options);
    let mut delta = Vec::new();
    fast_rsync::diff(&signature.index(), new, &mut delta).expect("makes a delta");
    let mut made = Vec::new();
    fast_rsync::apply(old, &delta, &mut made).expect("applies");
    assert_eq!(made, new);
    delta.len()
}

#[derive(Debug, Clone)]
enum Edit {
    Overwrite(usize, Vec<u8>),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Double(usize, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let bytes = || proptest::collection::vec(any::<u8>(), 1..200);
    prop_oneof![
        (any::<usize>(), bytes()).prop_map(|(at, bytes)| Edit::Overwrite(at, bytes)),
        (any::<usize>(), bytes()).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (any::<usize>(), 1_usize..3_000).prop_map(|(at, len)| Edit::Remove(at, len)),
        (any::<usize>(), 1_usize..3_000).prop_map(|(at, len)| Edit::Double(at, len)),
    ]
}

fn edited(old: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut new = old.to_vec();
    for edit in edits {
        let place = |at: usize| at % (new.len() + 1);
        match edit {
            Edit::Overwrite(at, bytes) => {
                let at = place(*at);
                let end = (at + bytes.len()).min(new.len());
                new[at..end].copy_from_slice(&bytes[..end - at]);
            }
            Edit::Insert(at, bytes) => {
                let at = place(*at);
                new.splice(at..at, bytes.iter().copied());
            }
            Edit::Remove(at, len) => {
                let at = place(*at);
                let end = (at + len).min(new.len());
                new.drain(at..end);
            }
            Edit::Double(at, len) => {
                let at = place(*at);
                let end = (at + len).min(new.len());
                let piece = new[at..end].to_vec();
                new.splice(at..at, piece);
            }
        }
    }
    new
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn edited_bytes_are_rebuilt_and_the_script_is_no_longer_than_anothers(
        old in proptest::collection::vec(any::<u8>(), 0..30_000),
        edits in proptest::collection::vec(edit(), 0..6),
    ) {
        let new = edited(&old, &edits);
        let script = script(&old, &new, 1024, 128);
        prop_assert_eq!(rebuilt(&old, &script, new.len()), &new[..]);
        // With chunks of one size there as here, what the short last chunk saves apart.
        let ours = crate::script(&old, &new, 512, 512).len();
        prop_assert!(ours <= fast_rsyncs(&old, &new, 512) + 16, "{} bytes", ours);
    }
}

#[test]
fn an_edit_costs_as_much_in_a_large_file_as_in_a_small_one() {
    let old: Vec<u8> =
        (0..1_u32 << 20).flat_map(|i| i.wrapping_mul(0x9e37_79b9).rotate_left(7).to_le_bytes()).collect();
    let mut new = old.clone();
    new[2_000_000] ^= 0xff;
    let script = script(&old, &new, 32 * 1024, 256);
    assert!(script.len() < 300, "{} bytes", script.len());
    assert_eq!(rebuilt(&old, &script, new.len()), new);
}

#[test]
fn rdiff_needs_no_fewer_bytes() {
    if Command::new("rdiff").arg("--version").output().is_err() {
        println!("rdiff is not installed: not compared with it");
        return;
    }
    let old: Vec<u8> =
        (0..100_000_u32).flat_map(|i| i.wrapping_mul(0x9e37_79b9).rotate_left(9).to_le_bytes()).collect();
    let edits = [Edit::Overwrite(1000, vec![7; 50]), Edit::Insert(200_000, vec![9; 10]), Edit::Remove(300_001, 777)];
    let new = edited(&old, &edits);
    let place = tempfile::tempdir().expect("a directory");
    let path = |name: &str| place.path().join(name);
    fs::write(path("old"), &old).expect("writes");
    fs::write(path("new"), &new).expect("writes");
    let rdiff = |arguments: &[&str]| {
        let status = Command::new("rdiff").args(arguments).current_dir(place.path()).status().expect("runs");
        assert!(status.success(), "rdiff {arguments:?}");
    };
    rdiff(&["-b", "1024", "signature", "old", "signature"]);
    rdiff(&["delta", "signature", "new", "delta"]);
    let theirs = fs::metadata(path("delta")).expect("is there").len();
    let ours = script(&old, &new, 1024, 1024);
    assert!(ours.len() as u64 <= theirs, "{} bytes, rdiff {theirs}", ours.len());
    assert_eq!(rebuilt(&old, &ours, new.len()), new);
}
