//! How blocks travel: as they are, compressed, or as what they have in common with blocks that the other
//! side has.
//!
//! Behind the head of a body of blocks (`api::codec::encode_head`) come parcels, in the order of the
//! head's headers. A parcel has a frame of [`Frame::BYTES`] bytes that says its form, how many of the next
//! blocks it holds, and how many bytes follow. Small blocks share one, which compresses better.
//!
//! Nothing here trusts the bytes: what a parcel may grow to is known from the headers before it is
//! opened. Whether a block is the one that its header names, the caller checks by its hash.

mod compression;
mod frame;
mod news;
mod open;

pub use compression::{Compressors, Effort, inflate};
pub use frame::{Form, Frame};
pub use news::{News, NewsError, open_news};
pub use open::{Opened, ParcelError, open};

/// Blocks below this many bytes travel together.
pub const SMALL_BLOCK: u32 = 128 * 1024;
/// Plain bytes of small blocks in one parcel.
pub const SHARED_PARCEL: u64 = 512 * 1024;

/// How many of the next blocks go into one parcel: a large one, or small ones up to [`SHARED_PARCEL`].
#[must_use]
pub fn share_parcel(lens: impl IntoIterator<Item = u32>) -> usize {
    let mut total = 0_u64;
    let mut count = 0;
    for len in lens {
        total += u64::from(len);
        if count > 0 && (len >= SMALL_BLOCK || total > SHARED_PARCEL) {
            break;
        }
        count += 1;
        if len >= SMALL_BLOCK {
            break;
        }
    }
    count
}
