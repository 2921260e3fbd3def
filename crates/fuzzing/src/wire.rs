//! Messages, the frames of blocks, the values that a metadata store keeps, and what a cache answers.

use crate::Verdict;
use api::codec::{check_headers, decode, encode, encode_head, head_len};
use api::{BlockHeader, BlocksHead, SentHead};
use bytes::Bytes;
use cache::memcached::{Got, read_got};
use delta::Script;
use model::{BlockHash, Body, Change, CommitOutcome, limits};
use parcels::{Frame, Opened, open, open_news};
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
        message::<api::NewsReply>(bytes),
        message::<api::ServerReply>(bytes),
        message::<api::MissingRequest>(bytes),
        message::<api::MissingReply>(bytes),
        message::<api::ChangesetReply>(bytes),
        message::<api::BlocksRequest>(bytes),
        message::<api::SumsRequest>(bytes),
        message::<api::SumsReply>(bytes),
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
        message::<api::SentCommit>(bytes),
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
    let upload =
        decode::<SentHead>(head).is_ok_and(|head| head.outline().is_ok_and(|whole| framed(&head, &whole.blocks)));
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

/// A parcel of two blocks, of 300 and of 5 bytes, behind its frame.
pub fn parcels(bytes: &[u8]) -> Verdict {
    let headers = [300, 5].map(|len| BlockHeader { hash: BlockHash([7; 32]), len });
    let Some((frame, rest)) = bytes.split_first_chunk() else { return Verdict::Refused };
    let Ok((frame, plain)) = Frame::parse(*frame, &headers) else { return Verdict::Refused };
    assert!(frame.len as u64 <= plain && plain <= 305);
    let Some(rest) = rest.get(..frame.len as usize) else { return Verdict::Refused };
    let these = &headers[..frame.blocks.into()];
    match open(frame.form, these, rest.to_vec().into()) {
        Ok(Opened::Blocks(blocks)) => {
            assert!(blocks.iter().zip(these).all(|(block, header)| block.len() == header.len as usize));
            Verdict::Understood
        }
        Ok(Opened::Script(_)) => Verdict::Understood,
        Err(_) => Verdict::Refused,
    }
}

/// The reply to `bundle`: whatever is understood names the blocks that came, and leaves no file without its own.
pub fn news_bundles(bytes: &[u8]) -> Verdict {
    let Ok(news) = open_news(&Bytes::copy_from_slice(bytes)) else { return Verdict::Refused };
    assert!(news.blocks.len() <= limits::BLOCKS_PER_REQUEST);
    assert!(news.blocks.iter().all(|(header, bytes)| BlockHash::of(bytes) == header.hash));
    for entry in news.changes.namespaces.iter().flat_map(|page| &page.entries) {
        if let Change::Create { body: Body::File { blocks, size, .. }, .. }
        | Change::Edit { body: Body::File { blocks, size, .. } } = &entry.change
        {
            assert!(*size == 0 || !blocks.0.is_empty());
        }
    }
    Verdict::Understood
}

/// A script that should make 300 bytes of two bases.
pub fn delta_scripts(bytes: &[u8]) -> Verdict {
    let bases = [[1; 200].as_slice(), &[2; 50]];
    let Ok(script) = Script::parse(bytes, 300) else { return Verdict::Refused };
    let made = script.apply(|base| bases.get(base).copied());
    assert!(made.as_ref().is_ok_and(|made| made.len() == 300) || made.is_err());
    let same = script.renumbered(Some).expect("every base keeps its number");
    let again = Script::parse(&same, 300).expect("is a script still").apply(|base| bases.get(base).copied());
    assert_eq!(again, made);
    Verdict::of(made.is_ok())
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

/// Answers of a memcached, one after the other.
pub fn cache_answers(mut bytes: &[u8]) -> Verdict {
    let mut understood = false;
    while let Ok(got) = read_got(&mut bytes) {
        understood = true;
        if let Got::Value(value) = got {
            assert!(!value.is_empty() && value.len() <= cache::VALUE_BYTES);
        }
    }
    Verdict::of(understood)
}
