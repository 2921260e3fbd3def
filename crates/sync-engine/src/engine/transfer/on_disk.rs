//! What the disk has of contents that are to be fetched.

use super::super::Engine;
use super::block_of;
use super::resembling::left_over;
use crate::io::{BlockSource, Environment, LocalPath};
use crate::tree::{FileContent, Seen};
use model::{Blocklist, NodeId};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Engine {
    /// Where local files have blocks of a content: the version that it replaces, or another file with the
    /// same content.
    pub(super) fn local_blocks(
        &self,
        env: &Environment<'_>,
        node: NodeId,
        content: &FileContent,
        blocks: &Blocklist,
    ) -> Vec<(u32, BlockSource)> {
        let mut found = BTreeMap::new();
        let same = self.trees.local_file_with(&content.hash);
        for holder in [Some(node), same].into_iter().flatten() {
            let Some((path, old, list)) = self.local_file(env, holder) else { continue };
            for (number, hash) in (0..).zip(&list.0) {
                found.entry(*hash).or_insert_with(|| block_of(&path, &old, number, *hash));
            }
        }
        let wanted = (0..).zip(&blocks.0);
        wanted.filter_map(|(number, hash)| Some((number, found.get(hash)?.clone()))).collect()
    }

    /// A local file whose content is known.
    pub(super) fn local_file(
        &self,
        env: &Environment<'_>,
        node: NodeId,
    ) -> Option<(LocalPath, FileContent, Arc<Blocklist>)> {
        let Seen::File(Some(content)) = self.trees.local(node)?.seen else { return None };
        let (blocks, _) = self.find_list(env, &content.hash)?;
        Some((self.trees.local_path(node)?, content, blocks))
    }

    /// What the disk has of the node, as far as blocks that are fetched may resemble it.
    pub(super) fn resembling(&self, env: &Environment<'_>, node: NodeId, numbers: &[u32]) -> Vec<BlockSource> {
        let Some((path, old, old_blocks)) = self.local_file(env, node) else { return Vec::new() };
        let Some(fetch) = self.transfers.fetches.get(&node) else { return Vec::new() };
        let left = left_over(&old_blocks, old.size, &fetch.blocks, numbers, self.tuning.near_blocks);
        left.into_iter().map(|block| block_of(&path, &old, block.number, block.hash)).collect()
    }
}
