//! What is read and sent before the commit that it is for.

use super::super::Engine;
use super::Upload;
use crate::io::{BlockSource, Environment};
use crate::tree::Seen;
use model::NodeId;
use std::collections::BTreeSet;

/// With so many files being uploaded no more small ones are sent ahead of their commit.
const AHEAD_WINDOW: usize = 1_000;

/// How far ahead reading and sending are.
#[derive(Debug, Default)]
pub(in crate::engine) struct Ahead {
    /// Nodes whose blocks were sent ahead of their commit during the commit under way, or need not be.
    seen: BTreeSet<NodeId>,
    /// Bytes of small files that were hashed and are in no request yet. What is never sent, since the server has it or
    /// the file has changed, is forgotten when nothing waits any more.
    hashed: u64,
}

impl Ahead {
    /// What waits for the commit that begins now may be sent ahead of the next one.
    pub(in crate::engine) fn commit_begins(&mut self) {
        self.seen.clear();
    }

    /// These blocks are in a request now.
    pub(in crate::engine) fn requested(&mut self, sources: &[BlockSource]) {
        let bytes: u64 = sources.iter().map(|source| u64::from(source.len)).sum();
        self.hashed = self.hashed.saturating_sub(bytes);
    }
}

impl Engine {
    /// While a commit is under way, the blocks of small files that wait for the next one go ahead of it, so that
    /// disk and network do not wait for its answer. The server is not asked whether it lacks them: they would
    /// have travelled with their commit unasked, too.
    pub(in crate::engine) fn send_ahead(&mut self, env: &Environment<'_>) {
        let waits = self.state.in_flight.is_none() || self.queues.push.is_empty();
        if waits
            || !self.is_online()
            || self.server.uploads.retry_at.is_some()
            || self.transfers.uploads.len() >= AHEAD_WINDOW
        {
            return;
        }
        for namespace in self.queues.namespaces(false) {
            let waiting = self.queues.candidates(namespace, false, AHEAD_WINDOW);
            if waiting.len() < self.tuning.ahead_from {
                continue;
            }
            // Those that are on the server by now wait here for the commit under way, and need one look only.
            for node in waiting {
                if self.transfers.ahead.seen.insert(node) {
                    self.send_file_ahead(node, env);
                }
            }
        }
    }

    /// A file was hashed, and is to be sent.
    pub(in crate::engine) fn note_hashed(&mut self, size: u64) {
        if size <= self.tuning.inline_file {
            self.transfers.ahead.hashed += size;
        }
    }

    /// Whether so much was hashed that it is better to send some of it first. A commit that is under way will be
    /// answered, and then this is asked again.
    pub(in crate::engine) fn is_hashed_far_ahead(&mut self) -> bool {
        if self.queues.push.is_empty() && self.transfers.uploads.is_empty() {
            self.transfers.ahead.hashed = 0;
        }
        self.server.is_committing() && self.transfers.ahead.hashed >= self.tuning.hashed_ahead
    }

    fn send_file_ahead(&mut self, node: NodeId, env: &Environment<'_>) {
        let Some(Seen::File(Some(content))) = self.trees.local(node).map(|local| local.seen) else { return };
        if content.size > self.tuning.inline_file || self.transfers.uploads.contains_key(&node) {
            return;
        }
        let wanted = self.wanted_blocks(env, node, &content);
        if wanted.is_empty() {
            return;
        }
        self.transfers.absent.extend(wanted.values());
        self.queues.forget(node);
        self.transfers.add_upload(node, Upload { content, wanted, announce: None });
    }
}
