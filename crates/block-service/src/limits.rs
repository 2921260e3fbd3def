//! The block service's own limits, with their units and reasons.

use std::time::Duration;

/// Bytes of uploaded blocks in memory, of all requests together.
pub(crate) const UPLOAD_BYTES_IN_FLIGHT: u64 = 128 * 1024 * 1024;
/// Bytes of blocks on their way out in memory, of all requests together.
pub(crate) const DOWNLOAD_BYTES_IN_FLIGHT: u64 = 128 * 1024 * 1024;
/// Bytes of heads of uploads in memory; the largest head fits a few times. They have a budget of their
/// own, since an upload holds its head while it waits for room for its blocks.
pub(crate) const HEAD_BYTES_IN_FLIGHT: u64 = 128 * 1024 * 1024;
/// How long a request waits for its share of these before it is answered `Busy`.
pub(crate) const BUDGET_WAIT: Duration = Duration::from_secs(20);
/// What a client that was answered `Busy` is asked to wait, in milliseconds.
pub(crate) const BUSY_RETRY_MS: u32 = 3000;

/// Bytes of an upload that are stored together: half of the largest upload, so that one half is
/// stored while the other arrives.
pub(crate) const STORE_BYTES: u64 = 8 * 1024 * 1024;
/// Blocks that have waited this long for the rest of their group are stored without it, so that a
/// slow upload that breaks off has not been for nothing.
pub(crate) const STORE_AFTER: Duration = Duration::from_secs(2);
/// How long an upload may take before what has come of it is written to a file, in case that this process is killed.
pub(crate) const UNFINISHED_AFTER: Duration = Duration::from_millis(100);
/// An upload that has brought more bytes than this by then is over soon, and gets no file: 32 MiB/s. Most of what one
/// device uploads to a server on its own machine is that fast, and pays nothing.
pub(crate) const UNFINISHED_SWIFT: u64 = 3_355_443;
/// Bytes that are written to such a file at once; so many may be lost of each upload.
pub(crate) const UNFINISHED_STEP: u64 = 64 * 1024;
/// Pieces of a body that wait to be written at once; the smallest that a network brings are a thousand bytes.
pub(crate) const UNFINISHED_PIECES: usize = 4096;
/// Bytes of all these files. An upload for which there is no room goes without.
pub(crate) const UNFINISHED_BYTES: u64 = 256 * 1024 * 1024;
/// Bytes of blocks in the form in which they were uploaded, kept for those who fetch them next: enough for
/// 256 MiB of text, or for thousands of edits.
pub(crate) const RECENT_FORM_BYTES: usize = 64 * 1024 * 1024;
/// Plain bytes of blocks that came compressed together, from which on they are handed out as they came: half of what
/// shares a parcel.
pub(crate) const FULL_PARCEL: u64 = parcels::SHARED_PARCEL / 2;
/// Bytes of blocks that deltas were made over, kept for the deltas of their neighbours: those that the uploads of one
/// device at a time name, so that a block which is summed up for one of them need not be read again for the next.
pub(crate) const RECENT_BASE_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of what is remembered of blocks that could not be handed out: some thousands of them.
pub(crate) const DAMAGED_BYTES: usize = 1024 * 1024;
/// How long they are told to be unavailable before they are tried again.
pub(crate) const DAMAGED_FOR: Duration = Duration::from_secs(300);
/// Bodies up to this many plain bytes are put together before they are sent, which spares the framing.
pub(crate) const SMALL_BODY: u64 = 64 * 1024;

/// The largest block that goes along with the change that names it, in bytes, and the largest delta: to ask for it
/// would cost half a kilobyte and a round trip, to send it in vain what it is long.
pub(crate) const ALONG_BLOCK: u32 = 4 * 1024;
/// Blocks of a file that go along as one delta: as many as may have been uploaded as one.
pub(crate) const ALONG_RUN: usize = model::limits::SHIFT_BLOCKS;
/// Bytes of contents that go along with one reply.
pub(crate) const ALONG_BYTES: usize = 32 * 1024;
/// With more changes in a reply nothing goes along: they are fetched together.
pub(crate) const ALONG_ENTRIES: usize = 32;

/// Bytes of new files that come along with one reply to `bundle`: what one commit brings, as a rule.
pub(crate) const NEWS_BYTES: u64 = 8 * 1024 * 1024;
/// Small blocks that are remembered as having come a moment ago: some seconds of what a device uploads.
pub(crate) const FRESH_BLOCKS: usize = 32 * 1024;
/// Blocks of which it is looked whether they may go along.
pub(crate) const ALONG_LOOKED_AT: usize = 8 * 1024;

/// Bytes of a request for news: a cursor of ten thousand namespaces, and a margin.
pub(crate) const NEWS_REQUEST_BYTES: usize = 320 * 1024;
/// Bytes of a request for blocks: the most hashes it may name, and a margin.
pub(crate) const BLOCKS_REQUEST_BYTES: usize =
    40 * (model::limits::BLOCKS_PER_REQUEST + model::limits::BASES_PER_REQUEST);
/// Bytes of a request for sums: the most stretches it may name, and a margin.
pub(crate) const SUMS_REQUEST_BYTES: usize = 48 * model::limits::SUMS_STRETCHES;
/// Bytes of a refused request that are still read, so that the client gets to see the answer.
pub(crate) const DISCARD_BYTES: u64 = model::limits::BLOCK_BYTES_PER_REQUEST + 1024 * 1024;
/// How long the rest of a refused request is read.
pub(crate) const DISCARD_TIME: Duration = Duration::from_secs(10);

/// A body that brings nothing for this long is given up.
pub(crate) const BODY_STALL: Duration = Duration::from_secs(30);
/// The least that a client must send on average, in bytes per second: 64 kbit/s.
pub(crate) const BODY_BYTES_PER_SECOND: u64 = 8 * 1024;
