//! The engine's talk with the server: pulling the journal, committing, and living without it.

use super::local::Blame;
use super::transfer::RequestKind;
use super::{Engine, transfer};
use crate::io::{Activity, ActivityKind, Environment, Reply, Request, RequestError, RequestId};
use crate::plan::{CommitBuilder, Contents, Naming, PlannedCommit};
use crate::tree::{Content, FileContent};
use crate::verdict::Context;
use api::{ApiError, ChangesReply, ChangesRequest, ErrorCode, Notification, SentCommit, ServerReply};
use model::{
    Blocklist, Body, Commit, CommitKey, CommitOutcome, NamespaceId, NodeId, Operation, Position, Reason, Rejection,
    Timestamp,
};
use std::collections::{BTreeMap, BTreeSet};

/// The first wait after a failed call, in milliseconds; it doubles, and the wait is drawn at random below
/// it (full jitter).
const BACKOFF_BASE_MS: u64 = 1_000;
/// The longest wait, in milliseconds.
const BACKOFF_CAP_MS: u64 = 120_000;
/// The shortest wait, in milliseconds, so that chance never makes a hot loop.
const BACKOFF_FLOOR_MS: u64 = 50;
/// How long the news that a journal has grown as by the commit under way waits for that commit's answer, in
/// milliseconds: the two race, and mostly it is the echo of this very commit.
const ECHO_MS: u64 = 250;
/// How long a server that lacks, in the same epoch, what it has told this device may be one that is about to learn of
/// it, such as one that asks a replica, in milliseconds. After that it was restored, and nobody gave it a new epoch.
const BEHIND_PATIENCE_MS: u64 = 60_000;
/// Nodes of one namespace that are offered to one commit.
const COMMIT_CANDIDATES: usize = 4_000;

/// What goes on between this device and the server.
#[derive(Debug, Default)]
pub(super) struct ServerWork {
    /// Why the server could not be reached the last time.
    pub(super) offline: Option<String>,
    attempts: u32,
    pub(super) retry_at: Option<u64>,
    /// Uploads that the server refuses for now, as when its disk is full, while it answers all else.
    pub(super) uploads: Refusals,
    /// The same of downloads.
    pub(super) fetches: Refusals,
    /// The server does not know this device, or is another one.
    pub(super) unlinked: bool,
    /// It is asked once more whether that is still so.
    asks_once_more: bool,
    pub(super) pull_wanted: bool,
    /// Questions asked about the journal.
    asked: u64,
    /// The last question whose answer reached the journal's end.
    pub(super) pulls: u64,
    /// No commit before this question is answered: the last one was refused for what is in the journal.
    commit_after_pulls: u64,
    pulling: bool,
    asking: bool,
    /// Since when the server has known less than this device, in the same epoch.
    behind_since: Option<u64>,
    /// The ends of the journals as last heard of.
    pub(super) heads: BTreeMap<NamespaceId, Position>,
    /// Whether the journal was read to its end since the start and since the last namespace was added.
    journal_read: bool,
    /// Whether it ever was since the start, or since the server began a new epoch.
    caught_up: bool,
    committing: bool,
    /// What may be the echo of the commit under way: not asked about before then.
    echo: Option<Echo>,
    /// The call under way asks for the fate of an earlier one, without its blocks.
    resolving: bool,
    /// The commit in flight was accepted; the journal must be read up to here to know what came before.
    accepted: Option<(Position, Timestamp)>,
    /// The server found something malformed in an edit of a file: it may have another version before it than this
    /// device believes. From then on blocklists travel whole.
    whole_lists: bool,
}

/// Refusals in a row of one kind of transfer. Other answers do not end the row, since a transfer that is tried again in vain
/// costs what it is long.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    attempts: u32,
    pub(super) retry_at: Option<u64>,
    /// What the server said last.
    pub(super) reason: Option<String>,
}

impl Refusals {
    fn add(&mut self, refusal: &ApiError, now: u64, random: [u8; 16]) {
        self.reason = Some(RequestError::Refused(refusal.clone()).to_string());
        if self.retry_at.is_none() {
            self.retry_at = Some(now + backoff(self.attempts, advised_wait(refusal), random));
            self.attempts = self.attempts.saturating_add(1);
        }
    }

    fn end(&mut self) {
        *self = Self::default();
    }

    fn on_time(&mut self, now: u64) {
        self.retry_at = self.retry_at.filter(|at| *at > now);
    }
}

/// How long to wait after so many failures before the one now, in milliseconds: any time up to a ceiling that doubles
/// ("full jitter"), and no shorter than the server advised.
fn backoff(before: u32, advised: u64, random: [u8; 16]) -> u64 {
    let ceiling = (BACKOFF_BASE_MS << before.min(10)).min(BACKOFF_CAP_MS);
    let drawn = u64::from_le_bytes(first_eight(random)) % ceiling;
    drawn.max(BACKOFF_FLOOR_MS).max(advised.min(BACKOFF_CAP_MS))
}

/// In milliseconds.
fn advised_wait(refusal: &ApiError) -> u64 {
    refusal.retry_after().and_then(|wait| u64::try_from(wait.as_millis()).ok()).unwrap_or(0)
}

/// A journal that has grown as it would by the commit under way.
#[derive(Debug)]
struct Echo {
    namespace: NamespaceId,
    position: Position,
    until: u64,
}

impl ServerWork {
    pub(super) const fn journal_is_read(&self) -> bool {
        self.journal_read
    }

    /// Whether a commit is on its way.
    pub(super) const fn is_committing(&self) -> bool {
        self.committing
    }

    /// The next question about the journal: [`Self::pulls`] reaches it when all that the server has now
    /// has been read.
    pub(super) const fn next_pull(&self) -> u64 {
        self.asked + 1
    }

    pub(super) const fn is_idle(&self) -> bool {
        !self.pulling && !self.pull_wanted && !self.asking && !self.committing && self.offline.is_none()
    }

    /// What the server said when it refused a transfer the last time.
    pub(super) fn refusal(&self) -> Option<&str> {
        self.uploads.reason.as_deref().or(self.fetches.reason.as_deref())
    }

    /// When something is to be tried again.
    pub(super) fn next_retry(&self) -> Option<u64> {
        [self.retry_at, self.uploads.retry_at, self.fetches.retry_at].into_iter().flatten().min()
    }

    /// The connection to it is new: it may have been started again, and have room for what it refused. It may also know
    /// this device again, if it was started without its database.
    pub(super) fn is_back(&mut self) {
        self.pull_wanted = true;
        self.asks_once_more = true;
        self.uploads.end();
        self.fetches.end();
    }

    /// Does not wait for the backoff to end.
    pub(super) fn try_now(&mut self) {
        self.attempts = 0;
        self.uploads.end();
        self.fetches.end();
        if self.retry_at.take().is_some() {
            self.pull_wanted = true;
        }
    }

    /// No call is under way any more whose answer would mean something.
    fn forget_calls(&mut self) {
        self.pulling = false;
        self.asking = false;
        self.committing = false;
        self.resolving = false;
        self.accepted = None;
        self.echo = None;
    }

    /// When news is believed to be no echo.
    pub(super) fn echo_ends(&self) -> Option<u64> {
        self.echo.as_ref().map(|echo| echo.until)
    }

    pub(super) fn on_time(&mut self, now: u64) {
        if self.echo.take_if(|echo| echo.until <= now).is_some() {
            self.pull_wanted = true;
        }
        self.uploads.on_time(now);
        self.fetches.on_time(now);
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.pull_wanted = true;
        }
    }
}

impl Engine {
    pub(super) fn notified(&mut self, notification: Notification) {
        let Notification { namespace, position } = notification;
        let Some(known) = self.state.cursor.get(&namespace).copied().filter(|known| *known < position) else { return };
        let own =
            self.state.in_flight.as_ref().filter(|commit| self.server.committing && commit.namespace == namespace);
        if own.is_some_and(|commit| Some(position) == end_of(known, commit)) {
            self.server.echo.get_or_insert(Echo { namespace, position, until: self.now + ECHO_MS });
        } else {
            self.server.pull_wanted = true;
        }
    }

    /// The commit is answered: news that was its echo tells nothing new.
    fn hear_echo(&mut self) {
        if let Some(Echo { namespace, position, .. }) = self.server.echo.take()
            && self.state.cursor.get(&namespace).is_some_and(|known| *known < position)
        {
            self.server.pull_wanted = true;
        }
    }

    /// Whether calls other than the one that finds out whether the server is back may be made.
    pub(super) fn is_online(&self) -> bool {
        let server = &self.server;
        // Whoever is asked for its epoch has refused the one that every other call would name.
        !self.state.paused
            && !server.unlinked
            && server.offline.is_none()
            && !server.asking
            && server.retry_at.is_none()
    }

    pub(super) fn talk_to_server(&mut self, env: &mut Environment<'_>) {
        if self.state.paused || self.server.retry_at.is_some() {
            return;
        }
        if self.server.unlinked && !self.server.asks_once_more {
            return;
        }
        if self.server.pull_wanted && !self.server.pulling && !self.server.asking {
            self.pull();
        }
        if !self.is_online() {
            return;
        }
        self.resolve_commit(env);
        self.start_transfers(env);
    }

    fn pull(&mut self) {
        self.server.pull_wanted = false;
        self.server.asks_once_more = false;
        self.server.pulling = true;
        self.server.asked += 1;
        let request = ChangesRequest {
            instance: self.state.instance,
            epoch: self.state.epoch,
            cursor: self.state.cursor.clone(),
        };
        let id = self.send(if self.lacks_what_is_new() { Request::News(request) } else { Request::Changes(request) });
        self.transfers.requests.insert(id, RequestKind::Changes);
    }

    /// Whether new files in the journal are, as a rule, not here and wanted: a device that is being linked may have them all,
    /// and one that leaves something out does not want them all.
    fn lacks_what_is_new(&self) -> bool {
        self.tuning.contents_with_news && self.server.caught_up && self.state.excluded.is_empty()
    }

    pub(super) fn replied(&mut self, id: RequestId, result: Result<Reply, RequestError>, env: &mut Environment<'_>) {
        let Some(kind) = self.transfers.requests.remove(&id) else { return };
        let commit_is_answered = matches!(kind, RequestKind::Commit);
        match &kind {
            RequestKind::Changes => self.server.pulling = false,
            RequestKind::Server => self.server.asking = false,
            RequestKind::Commit => self.server.committing = false,
            RequestKind::Missing(_)
            | RequestKind::Upload(_)
            | RequestKind::Shift(_)
            | RequestKind::Fetch(_)
            | RequestKind::Announce
            | RequestKind::Coming(_)
            | RequestKind::Prefetch { .. } => {}
        }
        match result {
            Ok(reply) => {
                self.server.offline = None;
                self.server.attempts = 0;
                self.server.retry_at = None;
                if matches!(kind, RequestKind::Changes) {
                    self.server.unlinked = false;
                }
                match (&kind, &reply) {
                    // A commit without blocks that is rejected may lack just those that were refused.
                    (
                        _,
                        Reply::Changeset { .. } | Reply::Shifted { .. } | Reply::Commit(CommitOutcome::Accepted { .. }),
                    ) => self.server.uploads.end(),
                    (RequestKind::Fetch(_), Reply::Fetched { .. }) => self.server.fetches.end(),
                    _ => {}
                }
                self.take_reply(id, kind, reply, env);
            }
            Err(error) => self.call_failed(id, kind, error, env),
        }
        if commit_is_answered {
            self.hear_echo();
        }
    }

    fn take_reply(&mut self, id: RequestId, kind: RequestKind, reply: Reply, env: &mut Environment<'_>) {
        match (kind, reply) {
            (RequestKind::Changes, Reply::Changes(changes)) => self.take_changes(changes, env),
            (RequestKind::Server, Reply::Server(server)) => self.meet_server(&server, env),
            (RequestKind::Commit, Reply::Commit(outcome) | Reply::Changeset { outcome: Some(outcome) }) => {
                self.take_outcome(outcome, env);
            }
            (RequestKind::Commit, Reply::SourceChanged { .. }) => self.commit_was_not_sent(),
            (RequestKind::Missing(asked), Reply::Missing(missing)) => self.take_missing(asked, &missing),
            (RequestKind::Upload(upload), Reply::Changeset { .. }) => self.uploaded(&upload),
            (RequestKind::Upload(upload), Reply::SourceChanged { blocks }) => self.source_changed(&upload, &blocks),
            (RequestKind::Shift(asked), Reply::Shifted { made }) => self.end_shift(&asked, &made),
            (RequestKind::Fetch(fetch), Reply::Fetched { written, unavailable, disk }) => {
                self.take_blocks(id, fetch, &written, &unavailable, disk, env.now);
            }
            (RequestKind::Announce, Reply::Announced) => {}
            (RequestKind::Coming(namespace), Reply::Coming(reply)) => self.take_coming(namespace, reply),
            (RequestKind::Prefetch { asked, heard }, Reply::Fetched { written, disk, .. }) => {
                self.take_prefetched(id, asked, heard, &written, disk.as_ref());
            }
            // An answer to another question proves nothing about ours.
            (kind, _) => self.call_failed(id, kind, RequestError::NotSyncline("an answer to another call".into()), env),
        }
    }

    fn refusals_of(&mut self, kind: &RequestKind) -> Option<&mut Refusals> {
        match kind {
            RequestKind::Commit | RequestKind::Missing(_) | RequestKind::Upload(_) | RequestKind::Shift(_) => {
                Some(&mut self.server.uploads)
            }
            RequestKind::Fetch(_) => Some(&mut self.server.fetches),
            RequestKind::Changes
            | RequestKind::Server
            | RequestKind::Announce
            | RequestKind::Coming(_)
            | RequestKind::Prefetch { .. } => None,
        }
    }

    fn call_failed(&mut self, id: RequestId, kind: RequestKind, error: RequestError, env: &mut Environment<'_>) {
        if let RequestError::Refused(refusal) = &error
            && refusal.code.is_transient()
            // A question costs little, and its answer comes with the journal's.
            && !matches!(kind, RequestKind::Missing(_))
            && let Some(refusals) = self.refusals_of(&kind)
        {
            refusals.add(refusal, env.now, (env.random)());
        }
        match &error {
            RequestError::Refused(refusal) if !refusal.code.is_transient() => self.refused(&kind, refusal, env),
            RequestError::Unreachable(_) | RequestError::NotSyncline(_) | RequestError::Refused(_) => {
                self.back_off(&error, env);
            }
        }
        self.take_back(id, kind);
    }

    fn back_off(&mut self, error: &RequestError, env: &mut Environment<'_>) {
        self.server.offline = Some(error.to_string());
        if self.server.retry_at.is_some() {
            return;
        }
        let advised = match error {
            RequestError::Refused(refusal) => advised_wait(refusal),
            RequestError::Unreachable(_) | RequestError::NotSyncline(_) => 0,
        };
        self.server.retry_at = Some(env.now + backoff(self.server.attempts, advised, (env.random)()));
        self.server.attempts = self.server.attempts.saturating_add(1);
    }

    fn refused(&mut self, kind: &RequestKind, refusal: &ApiError, env: &mut Environment<'_>) {
        match refusal.code {
            ErrorCode::Unlinked | ErrorCode::WrongCredentials => self.server.unlinked = true,
            // Who is there does not depend on an epoch: what answers so is not in its right mind.
            ErrorCode::EpochChanged if matches!(kind, RequestKind::Server) => {
                self.back_off(&RequestError::Refused(refusal.clone()), env);
            }
            ErrorCode::EpochChanged => {
                if !self.server.asking {
                    self.server.asking = true;
                    let id = self.send(Request::Server);
                    self.transfers.requests.insert(id, RequestKind::Server);
                }
            }
            ErrorCode::BadRequest
            | ErrorCode::Forbidden
            | ErrorCode::NotFound
            | ErrorCode::AlreadyExists
            | ErrorCode::UnsupportedVersion
            | ErrorCode::Busy
            | ErrorCode::Unavailable
            | ErrorCode::NoSpace => {
                if matches!(kind, RequestKind::Commit) {
                    // The server says that it did nothing.
                    self.give_up_commit(&refusal.message, env.now);
                    self.server.pull_wanted = true;
                } else if matches!(kind, RequestKind::Changes | RequestKind::Server) {
                    self.back_off(&RequestError::Refused(refusal.clone()), env);
                } else if let Some(refusals) = self.refusals_of(kind) {
                    // The journal says, as a rule, why it may not be any more.
                    refusals.add(refusal, env.now, (env.random)());
                    self.server.pull_wanted = true;
                }
            }
        }
    }

    /// What a call that failed was about is tried again.
    fn take_back(&mut self, id: RequestId, kind: RequestKind) {
        match kind {
            RequestKind::Changes => self.server.pull_wanted = !self.server.asking,
            RequestKind::Server => self.server.pull_wanted = true,
            RequestKind::Commit => {}
            RequestKind::Missing(asked) => self.ask_again(&asked),
            RequestKind::Upload(upload) => self.upload_again(&upload),
            RequestKind::Shift(asked) => self.end_shift(&asked, &[]),
            RequestKind::Fetch(fetch) => self.fetch_again(id, fetch),
            RequestKind::Prefetch { asked, heard } => self.take_prefetched(id, asked, heard, &[], None),
            // Nothing depends on these.
            RequestKind::Announce | RequestKind::Coming(_) => {}
        }
    }

    /// Another instance or epoch: what both sides agreed on is void. Everything is compared again, and
    /// merged; nothing is deleted because it is not there.
    fn meet_server(&mut self, server: &ServerReply, env: &mut Environment<'_>) {
        let state = &mut self.state;
        if server.instance != state.instance {
            // An account of another server is not ours, whatever it holds.
            self.server.unlinked = true;
            return;
        }
        // It knew the device before it told of its epoch.
        self.server.unlinked = false;
        if server.epoch == state.epoch && state.cursor.values().all(|position| *position == Position::START) {
            // It refuses even those who know nothing yet. To forget once more would not help.
            self.back_off(&RequestError::NotSyncline("it refuses its own epoch".into()), env);
        } else if server.epoch == state.epoch {
            let since = *self.server.behind_since.get_or_insert(env.now);
            if env.now.saturating_sub(since) < BEHIND_PATIENCE_MS {
                self.server.pull_wanted = true;
                let error = "it does not know yet what it has told this device".into();
                return self.back_off(&RequestError::NotSyncline(error), env);
            }
        }
        self.server.behind_since = None;
        let state = &mut self.state;
        state.epoch = server.epoch;
        state.in_flight = None;
        // What both sides were about to agree on is void too.
        state.installing.clear();
        state.cursor = BTreeMap::from([(state.root, Position::START)]);
        state.roles.clear();
        self.server.forget_calls();
        self.server.heads.clear();
        self.server.journal_read = false;
        self.server.caught_up = false;
        self.server.pull_wanted = true;
        self.state_touched = true;
        self.transfers.forget_server();
        self.forget_prefetches();
        self.trees.forget_server();
        self.freeze();
        let detail = Some("the server's history changed (it was restored); all files are compared again".to_owned());
        self.report(Activity { kind: ActivityKind::ServerChanged, path: String::new(), detail });
    }

    fn take_changes(&mut self, changes: ChangesReply, env: &mut Environment<'_>) {
        self.server.behind_since = None;
        let before = self.state.cursor.clone();
        for part in changes.namespaces {
            let namespace = part.namespace;
            match part.role {
                None if namespace == self.state.root => self.server.unlinked = true,
                None => self.unfollow(namespace),
                Some(role) => {
                    if self.state.roles.insert(namespace, role) != Some(role) {
                        self.state_touched = true;
                        self.trees.wake_all();
                    }
                    self.read_journal(namespace, part.entries);
                    self.server.heads.insert(namespace, part.head);
                }
            }
        }
        let behind = self.state.cursor.iter().any(|(namespace, position)| match self.server.heads.get(namespace) {
            Some(head) => position < head,
            None => true,
        });
        if behind {
            self.server.journal_read = false;
            self.server.pull_wanted = true;
            // Nothing came, or not what comes next.
            if self.state.cursor == before {
                self.back_off(&RequestError::NotSyncline("the answer lacks what it announces".into()), env);
            }
        } else {
            self.server.journal_read = true;
            self.server.caught_up = true;
            self.server.pulls = self.server.asked;
        }
        self.finish_accepted_commit();
    }

    pub(super) fn start_commit(&mut self, env: &mut Environment<'_>) {
        let read_first = self.server.pulls < self.server.commit_after_pulls;
        if self.state.in_flight.is_some() || !self.is_online() || read_first {
            return;
        }
        let settling = env.now < self.deletions.settled_at() && self.deletions.count > 0;
        let hold_deletions = settling || self.deletions_held();
        for namespace in self.queues.namespaces(!hold_deletions) {
            let planned = self.plan_commit(namespace, hold_deletions, env);
            if !planned.operations.is_empty() {
                self.commit(namespace, planned, env);
                return;
            }
        }
    }

    fn plan_commit(&mut self, namespace: NamespaceId, hold_deletions: bool, env: &Environment<'_>) -> PlannedCommit {
        let candidates = self.queues.candidates(namespace, !hold_deletions, COMMIT_CANDIDATES);
        let context =
            Context { roles: &self.state.roles, frozen: &self.frozen, may_unload: self.excluding.may_unload() };
        let contents = KnownContents { engine: self, env };
        let naming = Naming { device: &self.device_name, date: env.today };
        let builder = CommitBuilder::new(&self.trees, &context, &contents, naming, hold_deletions);
        let plan = builder.build(candidates.into_iter());
        for (node, other) in plan.waiting {
            self.queues.forget(node);
            self.trees.wait(node, other);
            // As for local steps: what it is filed under may no longer hold.
            self.trees.decide_again(other);
        }
        for node in plan.to_hash {
            if let Some(mut local) = self.trees.local(node) {
                local.seen = crate::tree::Seen::File(None);
                self.trees.set_local(node, Some(local));
            }
        }
        for node in plan.to_upload {
            self.want_upload(node, env);
        }
        plan.commit
    }

    fn commit(&mut self, namespace: NamespaceId, planned: PlannedCommit, env: &mut Environment<'_>) {
        let commit = Commit {
            namespace,
            epoch: self.state.epoch,
            key: CommitKey((env.random)()),
            seen: self.state.cursor.get(&namespace).copied().unwrap_or_default(),
            operations: planned.operations,
        };
        let mut deleted = BTreeSet::new();
        for operation in &commit.operations {
            self.queues.forget(operation.node());
            if matches!(operation, Operation::Delete { .. }) {
                deleted.insert(operation.node());
                deleted.extend(self.trees.remote_subtree(operation.node()));
            }
        }
        if !deleted.is_empty() {
            self.observer.forget_departed(&deleted);
        }
        self.state.in_flight = Some(commit.clone());
        self.transfers.ahead.commit_begins();
        self.state_touched = true;
        self.freeze();
        // On disk before it is sent: after a crash its fate must be asked for under the same key.
        self.persist();
        let request = if planned.blocks.is_empty() {
            Request::Commit(self.sent_form(commit, env))
        } else {
            let blocks = transfer::without_repeats(planned.blocks);
            self.transfers.ahead.requested(&blocks);
            let former = self.former_of_edits(&commit, env);
            Request::Changeset { blocks, former, commit: Some(self.sent_form(commit, env)) }
        };
        self.server.committing = true;
        self.server.resolving = false;
        let id = self.send(request);
        self.transfers.requests.insert(id, RequestKind::Commit);
    }

    /// The commit as it travels: where the server's version of a file is the one that an edit was made against, only
    /// with what that one lacks.
    fn sent_form(&self, commit: Commit, env: &Environment<'_>) -> SentCommit {
        if self.server.whole_lists {
            return commit.into();
        }
        let before = |node, base_content| {
            let remote = self.trees.remote(node).filter(|remote| remote.content_rev == base_content)?;
            let Content::File(file) = remote.content else { return None };
            self.find_list(env, &file.hash).map(|(blocks, _)| Blocklist::clone(&blocks))
        };
        SentCommit::amending(commit, before, |blocks| blocks.kept() >= self.tuning.kept_blocks)
    }

    /// Asks again for the fate of a commit whose answer was lost. The server knows it by its key; blocks
    /// are not sent again, since a commit that never arrived may as well be refused for lack of them.
    fn resolve_commit(&mut self, env: &Environment<'_>) {
        if self.server.committing || self.server.accepted.is_some() {
            return;
        }
        if let Some(commit) = self.state.in_flight.clone() {
            self.server.committing = true;
            self.server.resolving = true;
            let id = self.send(Request::Commit(self.sent_form(commit, env)));
            self.transfers.requests.insert(id, RequestKind::Commit);
        }
    }

    fn take_outcome(&mut self, outcome: CommitOutcome, env: &mut Environment<'_>) {
        match outcome {
            CommitOutcome::Accepted { head, time } => {
                self.server.accepted = Some((head, time));
                self.finish_accepted_commit();
            }
            CommitOutcome::Rejected(rejections) => self.take_rejections(rejections, env),
        }
    }

    fn finish_accepted_commit(&mut self) {
        let (Some((head, time)), Some(commit)) = (self.server.accepted, self.state.in_flight.clone()) else { return };
        if !self.apply_own_commit(&commit, head, time) {
            self.server.pull_wanted = true;
            return;
        }
        self.server.accepted = None;
        self.state.in_flight = None;
        self.state_touched = true;
        let paths: Vec<String> =
            commit.operations.iter().map(|operation| self.trees.display_path(operation.node())).collect();
        self.agree_on_commit(&commit);
        for (operation, path) in commit.operations.iter().zip(paths) {
            self.items.remove(&operation.node());
            self.report_operation(operation, path);
        }
        self.transfers.committed(&commit);
        self.freeze();
    }

    fn report_operation(&mut self, operation: &Operation, path: String) {
        let kind = match operation {
            Operation::Create { body: Body::Directory, .. } => return,
            Operation::Create { .. } | Operation::Edit { .. } => ActivityKind::Uploaded,
            Operation::Move { .. } => ActivityKind::MovedRemotely,
            Operation::Delete { .. } => ActivityKind::DeletedRemotely,
        };
        self.report(Activity { kind, path, detail: None });
    }

    /// The commit lost a race, or broke a rule: read the journal, and plan again.
    fn take_rejections(&mut self, rejections: Vec<Rejection>, env: &mut Environment<'_>) {
        let Some(commit) = self.state.in_flight.take() else { return };
        self.state_touched = true;
        self.server.accepted = None;
        self.server.pull_wanted = true;
        self.server.commit_after_pulls = self.server.next_pull();
        for rejection in rejections {
            let index = usize::try_from(rejection.index).unwrap_or(usize::MAX);
            let Some(operation) = commit.operations.get(index) else { continue };
            let node = operation.node();
            match &rejection.reason {
                Reason::MissingBlocks(blocks) => {
                    self.transfers.must_send(blocks);
                    if self.server.resolving {
                        // The blocks were on their way with the call that got lost.
                        continue;
                    }
                    self.fail(node, rejection.reason.to_string(), env.now, Blame::Race);
                }
                Reason::Malformed
                    if !self.server.whole_lists
                        && matches!(operation, Operation::Edit { body: Body::File { .. }, .. }) =>
                {
                    self.server.whole_lists = true;
                    self.fail(node, rejection.reason.to_string(), env.now, Blame::Race);
                }
                Reason::Stale | Reason::ParentMissing | Reason::NameTaken | Reason::Cycle | Reason::SubtreeChanged => {
                    self.fail(node, rejection.reason.to_string(), env.now, Blame::Race);
                }
                Reason::NodeExists => {
                    let node = self.draw_another_id(node, env);
                    self.fail(node, rejection.reason.to_string(), env.now, Blame::Race);
                }
                Reason::Forbidden
                | Reason::Name(_)
                | Reason::TooDeep
                | Reason::NotADirectory
                | Reason::KindChange
                | Reason::HoldsMount
                | Reason::Quota
                | Reason::Malformed => self.fail(node, rejection.reason.to_string(), env.now, Blame::Lasting),
            }
        }
        self.freeze();
    }

    /// A node that only the disk has takes another id: it may be a namespace that this device does not follow that has this
    /// one. If it was a forgotten commit of its own, the journal brings what it made, which has the same name.
    fn draw_another_id(&mut self, node: NodeId, env: &mut Environment<'_>) -> NodeId {
        // In the middle of a look at the disk, what was seen so far is filed under this one: it is tried once more.
        let is_only_here = self.trees.has_local(node) && !self.trees.has_synced(node) && !self.trees.has_remote(node);
        if !is_only_here || self.observer.in_round() {
            return node;
        }
        let drawn = NodeId((env.random)());
        self.trees.relabel(node, drawn);
        self.follow_relabelled();
        if let Some(item) = self.items.remove(&node) {
            self.items.insert(drawn, item);
        }
        drawn
    }

    fn give_up_commit(&mut self, reason: &str, now: u64) {
        let Some(commit) = self.state.in_flight.take() else { return };
        self.state_touched = true;
        for operation in &commit.operations {
            self.fail(operation.node(), reason.to_owned(), now, Blame::Lasting);
        }
        self.freeze();
    }

    /// A file changed before its blocks could be sent with the commit.
    fn commit_was_not_sent(&mut self) {
        let Some(commit) = self.state.in_flight.take() else { return };
        self.state_touched = true;
        for operation in &commit.operations {
            self.look_at_node(operation.node());
        }
        self.local.scan_is_due = true;
        self.freeze();
    }
}

/// What the engine and the client database know about content.
struct KnownContents<'a, 'e> {
    engine: &'a Engine,
    env: &'a Environment<'e>,
}

impl Contents for KnownContents<'_, '_> {
    fn body(&self, content: &Content) -> Option<Body> {
        Some(match content {
            Content::Directory => Body::Directory,
            Content::Mount => Body::Mount,
            Content::Symlink(target) => Body::Symlink { target: target.to_string() },
            Content::File(file) => {
                let (blocks, _) = self.engine.find_list(self.env, &file.hash)?;
                Body::File {
                    blocks: Blocklist::clone(&blocks),
                    size: file.size,
                    executable: file.executable,
                    mtime: file.mtime,
                }
            }
        })
    }

    fn blocks(&self, node: NodeId, file: &FileContent) -> crate::plan::BlockPlan {
        self.engine.plan_blocks(self.env, node, file)
    }
}

/// The end of a journal to which nothing but the commit was added.
fn end_of(before: Position, commit: &Commit) -> Option<Position> {
    before.0.checked_add(commit.operations.len() as u64).map(Position)
}

fn first_eight(bytes: [u8; 16]) -> [u8; 8] {
    let mut first = [0; 8];
    first.copy_from_slice(&bytes[..8]);
    first
}
