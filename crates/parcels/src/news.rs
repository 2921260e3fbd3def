//! The reply to `bundle`.

use crate::{Frame, Opened, ParcelError, open};
use api::{BlockHeader, ChangesReply, DecodeError, NewsBundle, SmallContent, decode_first};
use bytes::Bytes;
use model::BlockHash;

/// What changed, and the contents that came with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    pub changes: ChangesReply,
    /// Blocks that are what their names say.
    pub blocks: Vec<(BlockHeader, Bytes)>,
    /// Others, of which that is not known.
    pub contents: Vec<SmallContent>,
}

/// A reply that is none, or whose contents are not those that the journal names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NewsError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Parcel(#[from] ParcelError),
}

/// Opens a reply to `bundle`: names the blocks that follow its head, and puts these names where they belong.
///
/// # Errors
/// [`NewsError`]; never more memory than the head promises.
pub fn open_news(reply: &Bytes) -> Result<News, NewsError> {
    let (head, rest): (NewsBundle, _) = decode_first(reply)?;
    let headers = head.headers()?;
    let (mut outstanding, mut at) = (headers.as_slice(), reply.len() - rest.len());
    let mut plain = Vec::with_capacity(headers.len());
    while !outstanding.is_empty() {
        let frame = reply.get(at..).and_then(|rest| rest.first_chunk()).ok_or(DecodeError::Malformed)?;
        let (frame, _) = Frame::parse(*frame, outstanding)?;
        let begin = at + Frame::BYTES;
        at = begin + frame.len as usize;
        if at > reply.len() {
            return Err(DecodeError::Malformed.into());
        }
        let (these, others) = outstanding.split_at(frame.blocks.into());
        // There is nothing here that a delta could copy from.
        let Opened::Blocks(blocks) = open(frame.form, these, reply.slice(begin..at))? else {
            return Err(ParcelError::Frame.into());
        };
        plain.extend(blocks);
        outstanding = others;
    }
    if at < reply.len() {
        return Err(DecodeError::TrailingBytes.into());
    }
    let hashes = BlockHash::of_each(&plain.iter().map(|bytes| &**bytes).collect::<Vec<_>>());
    let named: Vec<BlockHeader> =
        headers.iter().zip(hashes).map(|(header, hash)| BlockHeader { hash, ..*header }).collect();
    let contents = head.contents.clone();
    let changes = head.open(&named)?;
    Ok(News { changes, blocks: named.into_iter().zip(plain).collect(), contents })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Compressors, Effort, Form};
    use api::NamespaceChanges;
    use model::{Blocklist, Body, Change, JournalEntry, Mtime, Name, NamespaceId, NodeId, Position, Role, Timestamp};

    fn told(contents: &[&[u8]]) -> ChangesReply {
        let entry = |(n, bytes): (u8, &&[u8])| {
            let blocks = Blocklist(vec![BlockHash::of(bytes)]);
            let body = Body::File { blocks, size: bytes.len() as u64, executable: false, mtime: Mtime(1) };
            let name = Name::parse(&n.to_string()).expect("legal");
            let change = Change::Create { parent: NodeId([1; 16]), name, body };
            let position = Position(n.into());
            JournalEntry { position, node: NodeId([n; 16]), change, device: None, time: Timestamp(1) }
        };
        let entries = (1..).zip(contents).map(entry).collect();
        let head = Position(contents.len() as u64);
        let page = NamespaceChanges { namespace: NamespaceId([1; 16]), role: Some(Role::Owner), entries, head };
        ChangesReply { namespaces: vec![page] }
    }

    fn framed(form: Form, blocks: u16, bytes: &[u8]) -> Vec<u8> {
        let frame = Frame { form, blocks, len: u32::try_from(bytes.len()).expect("short") };
        [frame.to_bytes().as_slice(), bytes].concat()
    }

    fn head(contents: &[&[u8]]) -> Vec<u8> {
        api::encode(&NewsBundle::of(told(contents), |_, _| true).0)
    }

    fn reply(contents: &[&[u8]], parcels: &[Vec<u8>]) -> Result<News, NewsError> {
        open_news(&[head(contents), parcels.concat()].concat().into())
    }

    #[test]
    fn contents_get_the_names_that_the_journal_has_for_them() {
        let text = b"text ".repeat(100);
        let compressed = Compressors::default().compress(Effort::Quick, &[&text]).expect("shrinks");
        let contents: [&[u8]; 3] = [b"one", b"three", &text];
        let parcels = [framed(Form::Plain, 2, b"onethree"), framed(Form::Zstd, 1, &compressed)];
        let news = reply(&contents, &parcels).expect("opens");
        assert_eq!(news.changes, told(&contents));
        let blocks: Vec<(BlockHash, &[u8])> =
            news.blocks.iter().map(|(header, bytes)| (header.hash, &**bytes)).collect();
        assert_eq!(blocks, contents.map(|bytes| (BlockHash::of(bytes), bytes)));
        assert_eq!(reply(&[], &[]).expect("opens").changes, told(&[]));
    }

    #[test]
    fn other_contents_are_refused() {
        let contents: [&[u8]; 2] = [b"one", b"three"];
        let good = framed(Form::Plain, 2, b"onethree");
        assert!(reply(&contents, std::slice::from_ref(&good)).is_ok());
        let script = framed(Form::Delta, 1, b"s");
        for bad in [framed(Form::Plain, 2, b"onethrEe"), framed(Form::Plain, 1, b"one"), script, Vec::new()] {
            assert!(reply(&contents, std::slice::from_ref(&bad)).is_err(), "{bad:?}");
        }
        assert!(reply(&contents, &[good.clone(), vec![0]]).is_err());
        for len in 0..good.len() {
            assert!(reply(&contents, &[good[..len].to_vec()]).is_err(), "cut at {len}");
        }
    }
}
