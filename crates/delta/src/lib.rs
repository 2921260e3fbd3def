//! What bytes have in common with other bytes that somebody else holds: the algorithm of rsync, in three
//! steps, each of them pure.
//!
//! 1. Who holds the old bytes, the *base*, cuts them into chunks and sums up each ([`sum_up`]).
//! 2. Who holds the new bytes finds these chunks in them, wherever they have moved ([`Chunks::find_in`]),
//!    looks at what is left with smaller chunks ([`gaps`]), and writes a [`Script`]: copy this, insert that.
//! 3. Whoever holds the base and the script has the new bytes ([`Script::apply`]).
//!
//! Sums are short and can be made to collide, so nothing here proves that the result is right. The caller
//! compares it with the SHA-256 that names it. What is held here: no script, however hostile, makes more
//! bytes than were declared or reads outside its bases.

mod gaps;
mod joined;
mod matching;
mod script;
mod sums;

pub use gaps::{Gap, gaps};
pub use joined::{join, split};
pub use matching::{Chunks, Match, Span};
pub use script::{Script, ScriptError, Writer};
pub use sums::{ChunkSum, Rolling, SUM_BYTES, sum_up, sums_from_bytes, sums_to_bytes};
