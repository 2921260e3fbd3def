//! Every limit that more than one part must agree on, with its unit and its reason.

use std::time::Duration;

/// Bytes of one name: what ext4, XFS, APFS and NTFS can all hold.
pub const NAME_BYTES: usize = 255;
/// UTF-16 units of one name: what NTFS and exFAT can hold.
pub const NAME_UTF16: usize = 255;
/// Bytes of a path below its namespace's root: Linux's PATH_MAX.
pub const PATH_BYTES: usize = 4096;
/// Folders between a node and its namespace's root; bounds every walk towards the root.
pub const TREE_DEPTH: usize = 128;
/// Bytes of a symlink's target: Linux's PATH_MAX less its terminator.
pub const SYMLINK_BYTES: usize = 4095;

/// Operations in one commit.
pub const COMMIT_OPERATIONS: usize = 1000;
/// Blocks that all operations of one commit may name together: 1 TiB of content.
pub const COMMIT_BLOCKS: usize = 262_144;
/// Blocks in one file: 1 TiB.
pub const FILE_BLOCKS: usize = 262_144;
/// Live nodes in one namespace; ends a peer's attempt to drown the others in tiny files.
pub const NAMESPACE_NODES: u64 = 10_000_000;
/// Waiting commits of all namespaces that share one database transaction.
pub const GROUP_COMMIT: usize = 256;

/// Journal entries in one answer to "what changed".
pub const CHANGES_PAGE_ENTRIES: usize = 2000;
/// Blocks named by the entries of one page, so that a page of large files stays small.
pub const CHANGES_PAGE_BLOCKS: usize = 65_536;
/// Hashes in one question "which of these are missing", and blocks in one download.
pub const BLOCKS_PER_REQUEST: usize = 4096;
/// Bytes of blocks in one upload or download.
pub const BLOCK_BYTES_PER_REQUEST: u64 = 16 * 1024 * 1024;
/// Bytes of one block that travels without its name. What arrived of a larger one when its transfer broke off is worth
/// keeping, and to name that costs little beside it.
pub const NAMELESS_BLOCK: u32 = 256 * 1024;
/// Blocks in one pack: as many as one transaction notes without holding others up.
pub const PACK_BLOCKS: usize = 1024;
/// Blocks that the deltas of one upload or download may copy from.
pub const BASES_PER_REQUEST: usize = 256;
/// Blocks that the delta of one block may copy from; all of them are in memory while it is made.
pub const BASES_PER_BLOCK: usize = 8;
/// Blocks that are sent together as what has moved of others: a quarter of a gigabyte, which a server makes long before
/// anybody takes it for silent.
pub const SHIFT_BLOCKS: usize = 64;
/// Bytes of the script that says how they moved, with what was inserted.
pub const SHIFT_SCRIPT_BYTES: usize = 64 * 1024;
/// What arrived of a block when its transfer broke off counts in multiples of this many bytes.
pub const BEGINNING_BYTES: usize = 256 * 1024;
/// The smallest chunk, in bytes, that a server sums up: the sums are a sixteenth of it then.
pub const SUMS_CHUNK_MIN: u32 = 128;
/// Stretches of blocks in one request for sums.
pub const SUMS_STRETCHES: usize = 256;
/// Chunks in one answer with sums: half a megabyte.
pub const SUMS_PER_REQUEST: usize = 65_536;
/// Bytes of a request or answer that is not made of blocks.
pub const MESSAGE_BYTES: usize = 32 * 1024 * 1024;

/// How long an uploaded block that no commit names stays in its uploader's account.
pub const UNCOMMITTED_BLOCK_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Blocks of a file whose content is announced while it is uploaded: 32 GiB. A larger file is fetched when
/// it is committed.
pub const COMING_BLOCKS: usize = 8192;
/// How long an announced upload may bring nothing before it is forgotten: longer than a client waits after
/// a lost connection, as a rule.
pub const COMING_LIFE: Duration = Duration::from_secs(300);
/// How long a block that nobody names stays in the block store, from when the clean-up first finds it so.
/// Far more than lies between storing a block and naming it, and than the clocks of servers may differ.
pub const UNUSED_BLOCK_GRACE: Duration = Duration::from_secs(24 * 3600);
/// The longest that may lie between an upload's first block and its commit, so that the grace above is
/// enough. No upload comes near it: the block service gives up those that are slow.
pub const LONGEST_UPLOAD: Duration = Duration::from_secs(6 * 3600);
/// How often the notification service writes a comment, so that proxies keep the connection.
pub const SSE_KEEP_ALIVE: Duration = Duration::from_secs(20);
/// A client gives up a notification stream that was silent for this long: two keep-alives and a margin.
pub const SSE_SILENCE: Duration = Duration::from_secs(50);
/// The poll behind the notifications, before its jitter of up to as much again.
pub const POLL_INTERVAL: Duration = Duration::from_secs(60);

/// Bytes of an e-mail address (RFC 5321, 4.5.3.1.3).
pub const EMAIL_BYTES: usize = 254;
/// Bytes of a password: bounds the work of hashing it.
pub const PASSWORD_BYTES: usize = 1024;
/// Characters of a device's name, which also appears in the names of conflicted copies.
pub const DEVICE_NAME_CHARS: usize = 64;
