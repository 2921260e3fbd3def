//! Calls and their answers as bytes, and what they mean.

use api::{
    AnnounceRequest, ApiError, BlocksHead, BlocksRequest, ChangesReply, ChangesRequest, ChangesetHead, ChangesetReply,
    ComingReply, ComingRequest, ErrorCode, MissingReply, MissingRequest, NewsBundle, NewsBundleRequest, NewsReply,
    SentCommit, SentHead, ServerReply, SmallContent, SumsReply, SumsRequest, codec,
};
use bytes::{Bytes, BytesMut};
use model::CommitOutcome;
use parcels::{Form, Frame};
use serde::de::DeserializeOwned;

/// A call on its way to the server.
#[derive(Debug, Clone)]
pub struct Sent {
    pub call: String,
    pub body: Bytes,
    /// Whether the body ends where it should.
    pub whole: bool,
}

/// What comes back.
#[derive(Debug, Clone)]
pub struct Answered {
    pub status: u16,
    pub content_type: &'static str,
    pub body: Bytes,
    /// Whether the body ends where it should.
    pub whole: bool,
}

/// What a call asks.
#[derive(Debug, Clone)]
pub enum Call {
    Server,
    Changes(ChangesRequest),
    Missing(MissingRequest),
    Commit(SentCommit),
    Changeset(ChangesetHead),
    Blocks(BlocksRequest),
    Prefetch(BlocksRequest),
    Sums(SumsRequest),
    Announce(AnnounceRequest),
    Coming(ComingRequest),
}

/// What is answered.
#[derive(Debug, Clone)]
pub enum Answer {
    Server(ServerReply),
    /// With the contents that came along.
    Changes(ChangesReply, Vec<SmallContent>),
    Missing(MissingReply),
    Commit(CommitOutcome),
    Changeset(ChangesetReply),
    Blocks(BlocksHead),
    Sums(SumsReply),
    Announced,
    Coming(ComingReply),
}

impl Sent {
    /// What it asks; `None` when its body broke off before it said so.
    #[must_use]
    pub fn means(&self) -> Option<Call> {
        let body = &self.body;
        match self.call.as_str() {
            "server" => Some(Call::Server),
            "changes" | "news" => decoded(body).map(Call::Changes),
            "bundle" => decoded::<NewsBundleRequest>(body).map(|request| Call::Changes(request.changes)),
            "missing" => decoded(body).map(Call::Missing),
            "commit" => decoded(body).map(Call::Commit),
            "changeset" => changeset(body).map(|(head, _)| Call::Changeset(head)),
            "blocks" => decoded(body).map(Call::Blocks),
            "prefetch" => decoded(body).map(Call::Prefetch),
            "sums" => decoded(body).map(Call::Sums),
            "announce" => decoded(body).map(Call::Announce),
            "coming" => decoded(body).map(Call::Coming),
            _ => None,
        }
    }

    /// Whether its blocks are not named.
    #[must_use]
    pub fn is_bundle(&self) -> bool {
        self.call == "changeset" && matches!(head(&self.body), Some((SentHead::Bundle(_) | SentHead::Nameless(_), _)))
    }

    /// Whether it is of blocks that are made of what moved, and how many they are.
    #[must_use]
    pub fn shifted(&self) -> Option<usize> {
        match head(&self.body).filter(|_| self.call == "changeset")? {
            (SentHead::Shift(shift), _) => Some(shift.blocks.len()),
            (SentHead::Named(_) | SentHead::Bundle(_) | SentHead::Nameless(_), _) => None,
        }
    }

    /// The forms of the blocks in it.
    #[must_use]
    pub fn forms(&self) -> Vec<Form> {
        let Some((head, at)) = changeset(&self.body).filter(|_| self.call == "changeset") else {
            return Vec::new();
        };
        forms(&head.blocks, self.body.get(at..).unwrap_or_default())
    }
}

impl Answered {
    /// A proxy's page.
    pub(crate) const PAGE: Self = Self {
        status: 200,
        content_type: "text/html",
        body: Bytes::from_static(b"<html>Please log in to the network</html>"),
        whole: true,
    };

    /// What a service says.
    pub(crate) fn of<T: serde::Serialize>(answer: Result<T, ApiError>) -> Self {
        let (status, body) = match answer {
            Ok(answer) => (200, codec::encode(&answer)),
            Err(error) => (error.code.http_status(), codec::encode(&error)),
        };
        Self { status, content_type: api::CONTENT_TYPE, body: body.into(), whole: true }
    }

    /// What it says to a call.
    pub(crate) fn means(&self, call: &str) -> Result<Answer, ApiError> {
        let body = &self.body;
        if self.status != 200 {
            return Err(decoded(body).unwrap_or_else(unreadable));
        }
        let answer = match call {
            "server" => decoded(body).map(Answer::Server),
            "changes" => decoded(body).map(|changes| Answer::Changes(changes, Vec::new())),
            "news" => decoded(body).map(|NewsReply { changes, contents }| Answer::Changes(changes, contents)),
            "bundle" => parcels::open_news(body).ok().map(|news| Answer::Changes(news.changes, news.contents)),
            "missing" => decoded(body).map(Answer::Missing),
            "commit" => decoded(body).map(Answer::Commit),
            "changeset" => decoded(body).map(Answer::Changeset),
            "blocks" | "prefetch" => head(body).map(|(head, _)| Answer::Blocks(head)),
            "sums" => decoded(body).map(Answer::Sums),
            "announce" => Some(Answer::Announced),
            "coming" => decoded(body).map(Answer::Coming),
            _ => None,
        };
        answer.ok_or_else(unreadable)
    }

    /// Whether contents stand in it in the place of their names.
    pub(crate) fn is_bundle_of_news(&self) -> bool {
        parcels::open_news(&self.body).is_ok_and(|news| !news.blocks.is_empty())
    }

    /// The forms of the blocks in it, if it is an answer of blocks.
    pub(crate) fn forms(&self) -> Vec<Form> {
        let Some((head, at)) = head::<BlocksHead>(&self.body) else { return Vec::new() };
        forms(&head.blocks, self.body.get(at..).unwrap_or_default())
    }
}

/// Where the parcels begin in a body of blocks.
pub(crate) fn parcels_at(body: &[u8]) -> Option<usize> {
    let prefix = body.first_chunk::<4>()?;
    Some(4 + codec::head_len(*prefix).ok()?).filter(|at| *at < body.len())
}

/// The body with one bit of a parcel, or of a content that came along, changed; `None`: there is none.
pub(crate) fn damaged(call: &str, body: &Bytes, mut place: impl FnMut(usize) -> usize) -> Option<Bytes> {
    match call {
        "changeset" | "blocks" | "prefetch" => {
            let at = parcels_at(body)?;
            let mut bytes = BytesMut::from(&body[..]);
            let at = at + place(bytes.len() - at);
            bytes[at] ^= 1 << place(8);
            Some(bytes.freeze())
        }
        "bundle" => {
            let (_, parcels) = codec::decode_first::<NewsBundle>(body).ok()?;
            let at = (!parcels.is_empty()).then(|| body.len() - parcels.len())?;
            let mut bytes = BytesMut::from(&body[..]);
            let at = at + place(bytes.len() - at);
            bytes[at] ^= 1 << place(8);
            Some(bytes.freeze())
        }
        "news" => {
            let mut reply: NewsReply = decoded(body)?;
            let content = reply.contents.last_mut().filter(|content| !content.bytes.is_empty())?;
            let at = place(content.bytes.len());
            content.bytes[at] ^= 1 << place(8);
            Some(codec::encode(&reply).into())
        }
        _ => None,
    }
}

fn forms(blocks: &[api::BlockHeader], parcels: &[u8]) -> Vec<Form> {
    let (mut outstanding, mut rest, mut forms) = (blocks, parcels, Vec::new());
    while let Some(frame) = rest.first_chunk::<{ Frame::BYTES }>().filter(|_| !outstanding.is_empty()) {
        let Ok((frame, _)) = Frame::parse(*frame, outstanding) else { break };
        forms.push(frame.form);
        outstanding = &outstanding[usize::from(frame.blocks)..];
        rest = rest.get(Frame::BYTES + frame.len as usize..).unwrap_or_default();
    }
    forms
}

/// The head of an upload, without the hashes that it leaves out, and where it ends.
fn changeset(body: &[u8]) -> Option<(ChangesetHead, usize)> {
    let (sent, end) = head::<SentHead>(body)?;
    Some((sent.outline().ok()?, end))
}

/// The head of a body of blocks, and where it ends.
fn head<T: DeserializeOwned>(body: &[u8]) -> Option<(T, usize)> {
    let end = 4 + codec::head_len(*body.first_chunk::<4>()?).ok()?;
    Some((decoded(body.get(4..end)?)?, end))
}

fn decoded<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    codec::decode(bytes).ok()
}

fn unreadable() -> ApiError {
    ApiError::new(ErrorCode::BadRequest, "the answer cannot be read")
}
