//! Messages, the frames of blocks, and the values that a metadata store keeps.

use crate::Verdict;
use api::codec::{check_headers, decode, encode, encode_head, head_len};
use api::{BlockHeader, BlocksHead, ChangesetHead};
use model::{Body, Change, CommitOutcome, limits};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// A message that can be read can be written, and then reads as the same.
fn message<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> bool {
    let Ok(message) = decode::<T>(bytes) else { return false };
    assert_eq!(decode::<T>(&encode(&message)).as_ref(), Ok(&message));
    true
}

/// Every message, in both directions.
pub fn messages(bytes: &[u8]) -> Verdict {
    // A password must not be printed, so this one has no `Debug`.
    let link = decode::<api::LinkRequest>(bytes).is_ok();
    let understood = [
        link,
        message::<api::LinkReply>(bytes),
        message::<api::ChangesRequest>(bytes),
        message::<api::ChangesReply>(bytes),
        message::<api::ServerReply>(bytes),
        message::<api::MissingRequest>(bytes),
        message::<api::MissingReply>(bytes),
        message::<api::ChangesetReply>(bytes),
        message::<api::BlocksRequest>(bytes),
        message::<api::DevicesReply>(bytes),
        message::<api::UnlinkRequest>(bytes),
        message::<api::RevisionsRequest>(bytes),
        message::<api::RevisionsReply>(bytes),
        message::<api::HistoryRequest>(bytes),
        message::<api::HistoryReply>(bytes),
        message::<api::RestoreRequest>(bytes),
        message::<api::RestoreReply>(bytes),
        message::<api::ShareRequest>(bytes),
        message::<api::ShareReply>(bytes),
        message::<api::SharesReply>(bytes),
        message::<api::LeaveRequest>(bytes),
        message::<api::RemoveMemberRequest>(bytes),
        message::<model::Commit>(bytes),
        message::<CommitOutcome>(bytes),
        message::<api::ApiError>(bytes),
    ];
    Verdict::of(understood.contains(&true))
}

/// The head of an upload or a download, and what its headers promise.
pub fn block_stream(bytes: &[u8]) -> Verdict {
    let Some((prefix, rest)) = bytes.split_first_chunk::<4>() else { return Verdict::Refused };
    let Ok(len) = head_len(*prefix) else { return Verdict::Refused };
    assert!(len <= limits::MESSAGE_BYTES);
    let Some(head) = rest.get(..len) else { return Verdict::Refused };
    let upload = decode::<ChangesetHead>(head).is_ok_and(|head| framed(&head, &head.blocks));
    let download = decode::<BlocksHead>(head).is_ok_and(|head| framed(&head, &head.blocks));
    Verdict::of(upload || download)
}

/// A head that is accepted promises a bounded number of bytes, and is framed as it was.
fn framed<T: Serialize>(head: &T, headers: &[BlockHeader]) -> bool {
    if check_headers(headers).is_err() {
        return false;
    }
    assert!(headers.len() <= limits::BLOCKS_PER_REQUEST);
    assert!(headers.iter().map(|header| u64::from(header.len)).sum::<u64>() <= limits::BLOCK_BYTES_PER_REQUEST);
    let frame = encode_head(head);
    let (prefix, body) = frame.split_first_chunk::<4>().expect("a frame has a prefix");
    assert_eq!(head_len(*prefix), Ok(body.len()));
    true
}

/// Bodies, changes and outcomes as a metadata store keeps them.
pub fn stored_values(bytes: &[u8]) -> Verdict {
    let understood = [stored::<Body>(bytes), stored::<Change>(bytes), stored::<CommitOutcome>(bytes)];
    Verdict::of(understood.contains(&true))
}

fn stored<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> bool {
    use metadata_store::format::{from_bytes, to_bytes};
    let Ok(value) = from_bytes::<T>("value", bytes) else { return false };
    let written = to_bytes("value", &value).expect("what was read can be written");
    assert_eq!(from_bytes::<T>("value", &written).expect("what was written can be read"), value);
    true
}
