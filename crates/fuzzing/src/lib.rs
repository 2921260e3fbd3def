//! One function for every parser that reads bytes from outside: what must hold whatever the bytes are.
//!
//! A function panics when a parser broke its word, and else says whether the bytes were understood. It is
//! called in two ways: `tests/corpus.rs` replays the inputs under `fuzz/corpus` with plain `cargo test`,
//! and the programs in `fuzz/fuzz_targets` let cargo-fuzz look for new ones.
//!
//! - [`wire`]: what travels between clients and servers, and between servers.
//! - [`text`]: names, paths, addresses, configuration, and lines of text.
//! - [`hostile_journal`]: an engine whose server says what no server should.
//! - [`stores`]: files that a program finds when it starts.

pub mod hostile_journal;
pub mod stores;
pub mod text;
pub mod wire;

/// What became of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Understood,
    Refused,
}

impl Verdict {
    fn of(understood: bool) -> Self {
        if understood { Self::Understood } else { Self::Refused }
    }
}

/// Whatever the bytes, it returns.
pub type Harness = fn(&[u8]) -> Verdict;

/// Every parser under test. The name is that of its corpus and of its program in `fuzz/fuzz_targets`.
pub const TARGETS: &[(&str, Harness)] = &[
    ("messages", wire::messages),
    ("block_stream", wire::block_stream),
    ("parcels", wire::parcels),
    ("news_bundles", wire::news_bundles),
    ("delta_scripts", wire::delta_scripts),
    ("stored_values", wire::stored_values),
    ("cache_answers", wire::cache_answers),
    ("hostile_journal", hostile_journal::hostile_journal),
    ("names", text::names),
    ("events", text::events),
    ("control_lines", text::control_lines),
    ("client_config", text::client_config),
    ("server_config", text::server_config),
    ("settings", text::settings),
    ("client_database", stores::client_database),
    ("block_packs", stores::block_packs),
    ("block_index", stores::block_index),
];
