//! The adapter that keeps blocks in a bucket of an S3 server: AWS, Ceph, Garage and others.
//!
//! ```text
//! s3://bucket/prefix
//!   instance               the format and the server that the bucket belongs to
//!   blocks/ab/abcd…        a block, under its hash
//!   packs/ab/abcd…         small blocks
//! ```
//!
//! A block's name is the SHA-256 of its bytes, so putting it twice changes nothing, and no promise of the
//! server's beyond "what was put is kept" is needed: conditional writes, which some servers ignore and some
//! refuse, are not used for blocks at all. Every block is checked against its name when it is read.
//!
//! Any number of servers may use one bucket at the same time, as long as they share a metadata database.
//! The two letters in front spread the names, so that servers which divide their work by name can do so.
//! Blocks are far below the size from which an upload in parts pays (100 MB by AWS's own advice), so each is
//! one request. Small ones share a request, and an object (`pack.rs`); where they lie in it is known by an index
//! that all servers share ([`api::service::PackIndex`]), and each pack says it too.

mod bucket;
mod compaction;
mod gathering;
mod leaving;
mod options;
mod pack;
#[cfg(test)]
mod packs_tests;
#[cfg(feature = "private-server")]
pub mod private_server;
mod retry;
mod seen;
mod store;
#[cfg(test)]
mod tests;
mod width;

pub use options::{BadOptions, Credentials, S3Options};
pub use store::S3BlockStore;
