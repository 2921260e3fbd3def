//! Small contents that came along with what the server told of changes: they need not be asked for.

use super::blocks::{BlockFiles, Writer, Written};
use super::resume::Places;
use super::{Transport, TransportError};
use api::{ApiError, ChangesRequest, ErrorCode, NewsReply, SmallContent};
use bytes::Bytes;
use model::BlockHash;
use parcels::Form;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use sync_engine::io::{BlockSource, FetchBlock, Reply};

/// Bytes of contents that are kept until somebody wants them; most are wanted at once.
const KEPT_BYTES: usize = 128 * 1024;
/// ... and how many contents.
const KEPT: usize = 256;

/// What came along and was not wanted yet, the newest last.
#[derive(Debug, Default)]
pub(super) struct Along {
    contents: Mutex<VecDeque<SmallContent>>,
    /// The server, or the proxy before it, knows no such call.
    unknown: AtomicBool,
}

impl Along {
    fn keep(&self, new: Vec<SmallContent>) {
        let mut contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        contents.extend(new);
        let bytes =
            |contents: &VecDeque<SmallContent>| contents.iter().map(|content| content.bytes.len()).sum::<usize>();
        while contents.len() > KEPT || bytes(&contents) > KEPT_BYTES {
            contents.pop_front();
        }
    }

    /// What is there of the wanted blocks; it serves once.
    fn take(&self, wanted: &BTreeMap<BlockHash, FetchBlock>) -> Vec<SmallContent> {
        let mut contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        let is_wanted = |content: &SmallContent| {
            wanted.get(&content.block.hash).is_some_and(|block| block.len == content.block.len)
        };
        let (taken, kept) = contents.drain(..).partition(is_wanted);
        *contents = kept;
        Vec::from(taken)
    }
}

impl Transport {
    /// `news`, or `changes` where that is all there is.
    pub(super) async fn changes(&self, request: ChangesRequest) -> Result<Reply, TransportError> {
        if self.thrift().small_contents && !self.along.unknown.load(Ordering::Relaxed) {
            match self.call::<_, NewsReply>("news", &request).await {
                Err(TransportError::Refused(ApiError { code: ErrorCode::NotFound, .. })) => {
                    self.along.unknown.store(true, Ordering::Relaxed);
                }
                reply => {
                    let NewsReply { changes, contents } = reply?;
                    self.along.keep(contents);
                    return Ok(Reply::Changes(changes));
                }
            }
        }
        self.call("changes", &request).await.map(Reply::Changes)
    }

    /// Writes those of the wanted blocks that came along. Whatever does not open, or copies from what is not
    /// here, is fetched like anything else.
    pub(super) async fn write_along(
        &self,
        wanted: &BTreeMap<BlockHash, FetchBlock>,
        bases: &[BlockSource],
        files: &Arc<dyn BlockFiles>,
    ) -> Result<Written, TransportError> {
        let contents = self.along.take(wanted);
        if contents.is_empty() {
            return Ok(Written::default());
        }
        let wanted = Arc::new(wanted.clone());
        let (bases, files, places) = (bases.to_vec(), Arc::clone(files), Arc::clone(&self.places));
        let write = move || {
            let mut written = Written::default();
            for content in contents {
                write_one(content, &wanted, &bases, &files, &places, &mut written);
                if written.disk.is_some() {
                    break;
                }
            }
            written.forget_unmade();
            written
        };
        self.way.blocking(write).await
    }
}

fn write_one(
    content: SmallContent,
    wanted: &Arc<BTreeMap<BlockHash, FetchBlock>>,
    bases: &[BlockSource],
    files: &Arc<dyn BlockFiles>,
    places: &Arc<Places>,
    written: &mut Written,
) {
    let here = |hash: &BlockHash| bases.iter().find(|base| base.hash == *hash).cloned();
    let (Some(form), Some(bases)) = (Form::of_code(content.form), content.bases.iter().map(here).collect()) else {
        return;
    };
    let mut writer = Writer::new(Arc::clone(wanted), bases, Arc::clone(files), Arc::clone(places));
    writer.take_parcel(vec![content.block], form, Bytes::from(content.bytes), written);
}
