//! Whether the server still has what was sent long ago and not committed yet.

use super::Engine;
use crate::io::Environment;
use model::{BlockHash, NodeId};
use std::collections::BTreeMap;

/// How long it is believed that the server keeps a block for an upload that goes on, in milliseconds. It keeps what was
/// sent or asked about within the last day ([`UNCOMMITTED_BLOCK_LIFE`](model::limits::UNCOMMITTED_BLOCK_LIFE)), and a
/// device may be asleep for most of that.
const BELIEVED_MS: u64 = 4 * 3600 * 1000;

impl Engine {
    /// Asks once more about the blocks of uploads that go on for hours, which renews them. Or a file that takes longer than
    /// the server keeps what no commit names would never be complete: its first blocks would have to be sent again while
    /// the next ones run out.
    pub(in crate::engine) fn doubt_what_was_sent(&mut self, env: &Environment<'_>) {
        if self.transfers.uploads.is_empty() {
            self.transfers.believed_since = self.now;
        }
        if self.now.saturating_sub(self.transfers.believed_since) < BELIEVED_MS {
            return;
        }
        self.transfers.believed_since = self.now;
        self.transfers.present.clear();
        let uploads = self.transfers.uploads.iter();
        let wanted: Vec<(NodeId, BTreeMap<u32, BlockHash>)> =
            uploads.map(|(node, upload)| (*node, self.wanted_blocks(env, *node, &upload.content))).collect();
        for (node, wanted) in wanted {
            if let Some(upload) = self.transfers.uploads.get_mut(&node) {
                upload.wanted = wanted;
            }
        }
        self.transfers.stirred = true;
        // Somebody else may have committed the same content.
        self.finish_uploads();
    }
}
