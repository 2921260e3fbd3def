//! The network between devices and server, and what it does to what it carries.

use super::{Checked, Moment, Violation, World, call_of, violation};
use crate::chance::Chance;
use crate::disk::{SimFs, lock};
use crate::server::{Answer, Call};
use api::BlockHeader;
use bytes::Bytes;
use local_files::temps::{read_blocks, write_block};
use model::{CommitOutcome, Cursor, NamespaceId, Reason};
use notification_service::News;
use std::collections::BTreeSet;
use sync_engine::io::{Event, FetchBlock, Reply, Request, RequestError, RequestId};

/// How long a client waits for an answer that does not come, in milliseconds.
const TIMEOUT_MS: u64 = 30_000;

/// A request on its way to the server, or a duplicate of one.
#[derive(Debug)]
pub(super) struct Travel {
    call: Call,
    /// Whom to answer; `None`: nobody waits (a duplicate, or an answer that will be lost).
    back: Option<Back>,
    /// The answer is a proxy's page.
    proxied: bool,
    /// Blocks of the answer that arrive.
    truncate_to: Option<u64>,
    /// The device's how-manieth request it is.
    number: u64,
}

#[derive(Debug)]
struct Back {
    life: u64,
    id: RequestId,
    request: Request,
}

fn unreachable() -> RequestError {
    RequestError::Unreachable("no answer".to_owned())
}

impl World {
    pub(super) fn partition(&mut self, device: usize, until: u64) {
        self.devices[device].partitioned_until = until;
        self.devices[device].stream = None;
        let life = self.devices[device].life;
        self.at(until.saturating_sub(self.now) + 50, Moment::Connect { device, life });
    }

    /// Cuts a device off, until [`World::reconnect`].
    pub fn cut_off(&mut self, device: usize) {
        self.devices[device].partitioned_until = u64::MAX;
        self.devices[device].stream = None;
    }

    /// Ends a partition.
    pub fn reconnect(&mut self, device: usize) {
        self.devices[device].partitioned_until = 0;
        let life = self.devices[device].life;
        self.at(0, Moment::Connect { device, life });
    }

    fn is_cut(&self, device: usize) -> bool {
        self.devices[device].partitioned_until > self.now || !self.server.up
    }

    fn reply(&mut self, device: usize, life: u64, id: RequestId, after_ms: u64, result: Result<Reply, RequestError>) {
        let event = Event::Replied(id, result);
        self.at(after_ms, Moment::Feed { device, life, event });
    }

    /// A request leaves the device: blocks are read and checked, then the network takes over.
    pub(super) fn depart(&mut self, device: usize, id: RequestId, request: Request) {
        let life = self.devices[device].life;
        let number = self.devices[device].requests;
        self.devices[device].requests += 1;
        let mut call = call_of(&request);
        if let (Request::Changeset { blocks, .. }, Call::Changeset { blocks: bytes, .. }) = (&request, &mut call) {
            let fs = SimFs::new(self.devices[device].disk.clone());
            match read_blocks(&fs, blocks) {
                Ok(read) => {
                    *self.coverage.entry("blocks sent").or_default() += read.len() as u64;
                    *bytes = read.into_iter().map(Bytes::from).collect();
                }
                Err(missing) => {
                    self.cover("source changed");
                    return self.reply(device, life, id, 0, Ok(Reply::SourceChanged { blocks: missing }));
                }
            }
        }
        let chance = self.chance(&[20, device as u64, number]);
        self.carry(device, Back { life, id, request }, call, number, chance);
    }

    /// Decides what becomes of a request on its way.
    fn carry(&mut self, device: usize, back: Back, mut call: Call, number: u64, mut chance: Chance) {
        let there_ms = self.delay(&mut chance);
        let (life, id) = (back.life, back.id);
        if self.is_cut(device) {
            return self.reply(device, life, id, 10, Err(unreachable()));
        }
        let net = if self.calm { crate::history::NetKnobs::default() } else { self.knobs.net };
        let lost = chance.happens(net.lose_request);
        let duplicated = chance.happens(net.duplicate);
        let (reply_lost, proxied, truncated) =
            (chance.happens(net.lose_reply), chance.happens(net.proxy_page), chance.happens(net.truncate));
        if lost {
            self.cover("request lost");
            return self.reply(device, life, id, TIMEOUT_MS, Err(unreachable()));
        }
        if duplicated {
            self.cover("request duplicated");
            let copy = Travel { call: call.clone(), back: None, proxied: false, truncate_to: None, number };
            let late_ms = there_ms + chance.below(20_000);
            self.at(late_ms, Moment::Arrive { device, travel: copy });
        }
        if proxied && chance.happens(500) {
            self.cover("proxy answered");
            let page = RequestError::NotSyncline("502 Bad Gateway, text/html".to_owned());
            return self.reply(device, life, id, there_ms, Err(page));
        }
        let truncate_to = truncated.then(|| chance.below(4));
        if let (Call::Changeset { blocks, .. }, Some(kept)) = (&mut call, truncate_to)
            && !blocks.is_empty()
        {
            self.cover("upload broke off");
            blocks.truncate(usize::try_from(kept).unwrap_or(0).min(blocks.len() - 1));
            self.at(
                there_ms,
                Moment::Arrive { device, travel: Travel { call, back: None, proxied, truncate_to, number } },
            );
            return self.reply(device, life, id, there_ms + 5, Err(unreachable()));
        }
        if reply_lost {
            self.cover("reply lost");
            self.note_unanswered(device, &call);
            self.at(
                there_ms,
                Moment::Arrive { device, travel: Travel { call, back: None, proxied, truncate_to, number } },
            );
            return self.reply(device, life, id, there_ms + TIMEOUT_MS, Err(unreachable()));
        }
        self.at(
            there_ms,
            Moment::Arrive { device, travel: Travel { call, back: Some(back), proxied, truncate_to, number } },
        );
    }

    fn note_unanswered(&mut self, device: usize, call: &Call) {
        let (Call::Commit(commit) | Call::Changeset { head: api::ChangesetHead { commit: Some(commit), .. }, .. }) =
            call
        else {
            return;
        };
        self.unanswered.insert((self.devices[device].linked.identity.device, commit.key));
    }

    /// A request reaches the server.
    pub(super) fn arrive(&mut self, device: usize, travel: Travel) -> Checked<()> {
        if self.is_cut(device) {
            if let Some(Back { life, id, .. }) = travel.back {
                self.reply(device, life, id, 5, Err(unreachable()));
            }
            return Ok(());
        }
        if travel.number < self.devices[device].arrived {
            self.cover("request overtaken");
        }
        self.devices[device].arrived = self.devices[device].arrived.max(travel.number);
        let token = self.devices[device].linked.token.clone();
        let (key, floor) = (commit_key(&travel.call), self.floor(&travel.call));
        let asked = Asked::of(&travel.call);
        self.server.weather.set_rate(if self.calm { 0 } else { self.knobs.server.store_error });
        let result = self.server.answer(&token, travel.call);
        self.server.weather.set_rate(0);
        for (what, times) in self.server.weather.take_met() {
            *self.coverage.entry(what).or_default() += times;
        }
        self.note_announcement(&asked, &result);
        self.check_access(device, &asked, &result)?;
        self.trace.note(self.now, &format!("server {device} {}", brief_answer(&result)));
        self.trace.detail(|| format!("{result:?}"));
        self.check_answer(device, key, &floor, &result)?;
        self.after_server()?;
        let Some(Back { life, id, request }) = travel.back else { return Ok(()) };
        let number = self.devices[device].requests;
        let mut chance = self.chance(&[21, device as u64, number]);
        let after = self.delay(&mut chance);
        let result = match result {
            _ if travel.proxied => Err(RequestError::NotSyncline("200 OK, text/html".to_owned())),
            Ok(Answer::Blocks(mut head, mut blocks)) => {
                if let Some(kept) = travel.truncate_to {
                    self.cover("download broke off");
                    let kept = usize::try_from(kept).unwrap_or(0);
                    head.blocks.truncate(kept);
                    blocks.truncate(kept);
                }
                Ok(Answer::Blocks(head, blocks))
            }
            Ok(_) if travel.truncate_to.is_some() => Err(RequestError::Unreachable("the answer broke off".to_owned())),
            Ok(answer) => Ok(answer),
            Err(error) => Err(RequestError::Refused(error)),
        };
        self.at(after, Moment::Land { device, life, id, request, result });
        Ok(())
    }

    /// The heads below which an answer would be old (I9).
    fn floor(&self, call: &Call) -> Vec<(NamespaceId, model::Position)> {
        match call {
            Call::Changes(request) => {
                request.cursor.keys().map(|namespace| (*namespace, self.server.journals.head(*namespace))).collect()
            }
            _ => Vec::new(),
        }
    }

    /// What is told and handed out, is to a member at this instant, and it is what the journal says (I13,
    /// I14).
    fn check_access(&self, device: usize, asked: &Asked, result: &Result<Answer, api::ApiError>) -> Checked<()> {
        let members = || {
            let account = self.devices[device].linked.identity.account;
            let memberships = self.server.memberships(account).map_err(violation)?;
            Ok::<BTreeSet<NamespaceId>, Violation>(memberships.into_iter().map(|(namespace, _)| namespace).collect())
        };
        match (result, asked) {
            (Ok(Answer::Changes(reply)), Asked::Changes(cursor)) => {
                let members = members()?;
                for part in reply.namespaces.iter().filter(|part| part.role.is_some()) {
                    let namespace = part.namespace;
                    if !members.contains(&namespace) {
                        return Err(violation(format!("I14: device {device} was told of {namespace:?}")));
                    }
                    let after = cursor.get(&namespace).copied().unwrap_or_default();
                    if !self.server.journals.continues(namespace, after, &part.entries) {
                        return Err(violation(format!(
                            "I13: device {device} was told {:?} behind {after} in {namespace:?}",
                            part.entries
                        )));
                    }
                }
            }
            (Ok(Answer::Blocks(head, _)), Asked::Blocks(namespace)) if !head.blocks.is_empty() => {
                let journals = &self.server.journals;
                let foreign = head.blocks.iter().find(|block| !journals.names(*namespace, block.hash));
                if let Some(block) = foreign {
                    return Err(violation(format!("I14: {:?} is no block of {namespace:?}", block.hash)));
                }
                if !members()?.contains(namespace) {
                    return Err(violation(format!("I14: device {device} got blocks of {namespace:?}")));
                }
            }
            (Ok(Answer::Blocks(head, _)), Asked::Prefetch(namespace)) if !head.blocks.is_empty() => {
                let strange = head.blocks.iter().find(|block| !self.announced.contains(&(*namespace, block.hash)));
                if let Some(block) = strange {
                    return Err(violation(format!("I14: {:?} was not announced for {namespace:?}", block.hash)));
                }
                if !members()?.contains(namespace) {
                    return Err(violation(format!("I14: device {device} got blocks that come to {namespace:?}")));
                }
            }
            (Ok(Answer::Coming(reply)), Asked::Coming(namespace))
                if !reply.files.is_empty() && !members()?.contains(namespace) =>
            {
                return Err(violation(format!("I14: device {device} was told what comes to {namespace:?}")));
            }
            _ => {}
        }
        Ok(())
    }

    /// What was announced from here on may be handed out to the members of the namespace.
    fn note_announcement(&mut self, asked: &Asked, result: &Result<Answer, api::ApiError>) {
        if let (Ok(Answer::Announced), Asked::Announce(namespace, blocks)) = (result, asked) {
            self.cover("announced");
            self.announced.extend(blocks.iter().map(|hash| (*namespace, *hash)));
        }
        if let (Ok(Answer::Blocks(head, _)), Asked::Prefetch(_)) = (result, asked)
            && !head.blocks.is_empty()
        {
            self.cover("fetched before the commit");
        }
    }

    fn check_answer(
        &mut self,
        device: usize,
        key: Option<model::CommitKey>,
        floor: &[(NamespaceId, model::Position)],
        result: &Result<Answer, api::ApiError>,
    ) -> Checked<()> {
        if let Ok(Answer::Changes(reply)) = result {
            for (namespace, head) in floor {
                let answered = reply.namespaces.iter().find(|one| one.namespace == *namespace && one.role.is_some());
                if answered.is_some_and(|one| one.head < *head) {
                    return Err(violation(format!("I9: a reply about {namespace:?} is older than {head}")));
                }
            }
        }
        let (Ok(Answer::Commit(outcome) | Answer::Changeset(Some(outcome))), Some(key)) = (result, key) else {
            return Ok(());
        };
        self.note_outcome(outcome);
        let name = (self.devices[device].linked.identity.device, key);
        if let Some(first) = self.outcomes.get(&name) {
            // A refusal need not be stored: the same commit may be accepted later, never twice.
            let accepted = matches!(first, CommitOutcome::Accepted { .. });
            if accepted && first != outcome {
                return Err(violation(format!("I10: {key:?} was answered {first:?}, then {outcome:?}")));
            }
            if accepted && self.unanswered.remove(&name) {
                self.cover("lost answer resolved");
            }
        }
        self.outcomes.insert(name, outcome.clone());
        Ok(())
    }

    fn note_outcome(&mut self, outcome: &CommitOutcome) {
        let CommitOutcome::Rejected(rejections) = outcome else { return };
        for rejection in rejections {
            self.cover(match rejection.reason {
                Reason::Stale => "refused as stale",
                Reason::ParentMissing => "refused without parent",
                Reason::NameTaken => "refused for its name",
                Reason::Cycle => "refused as a cycle",
                Reason::SubtreeChanged => "refused for its subtree",
                Reason::NodeExists => "refused as existing",
                Reason::MissingBlocks(_) => "refused without blocks",
                Reason::Malformed => "refused as malformed",
                Reason::Forbidden => "refused as forbidden",
                Reason::Name(_)
                | Reason::TooDeep
                | Reason::NotADirectory
                | Reason::KindChange
                | Reason::HoldsMount
                | Reason::Quota => "refused otherwise",
            });
        }
    }

    /// An answer reaches the device.
    pub(super) fn land(
        &mut self,
        device: usize,
        id: RequestId,
        request: &Request,
        result: Result<Answer, RequestError>,
    ) -> Checked<()> {
        let result = match (result, request) {
            (Ok(Answer::Blocks(head, bytes)), Request::Fetch { blocks, .. } | Request::Prefetch { blocks, .. }) => {
                Ok(self.write_blocks(device, &head.blocks, &bytes, blocks, head.unavailable))
            }
            (Ok(answer), _) => reply_of(answer),
            (Err(error), _) => Err(error),
        };
        self.check_disk(device)?;
        self.feed(device, Event::Replied(id, result))
    }

    fn write_blocks(
        &mut self,
        device: usize,
        headers: &[BlockHeader],
        bytes: &[Bytes],
        wanted: &[FetchBlock],
        unavailable: Vec<model::BlockHash>,
    ) -> Reply {
        let mut fs = SimFs::new(self.devices[device].disk.clone());
        let mut chance = self.chance(&[22, device as u64, self.devices[device].requests]);
        if !self.calm && chance.happens(self.knobs.local.error) {
            let call = u32::try_from(chance.below(6)).unwrap_or(0);
            fs = fs.failing(call, crate::disk::Fault::Error(local_files::fs::FsError::NoSpace));
        }
        let mut written = Vec::new();
        for (header, bytes) in headers.iter().zip(bytes) {
            for block in wanted.iter().filter(|block| block.hash == header.hash) {
                for target in &block.to {
                    if let Err(error) = write_block(&fs, target, bytes) {
                        return Reply::Fetched { written, unavailable, disk: Some(error) };
                    }
                }
            }
            written.push(header.hash);
        }
        Reply::Fetched { written, unavailable, disk: None }
    }

    /// The server did something: journals are checked, streams are read.
    pub(super) fn after_server(&mut self) -> Checked<()> {
        let gain = self.server.check_journals().map_err(violation)?;
        let mut users = lock(&self.users);
        for (device, content) in gain.moved {
            let by = self.devices.iter().position(|one| one.linked.identity.device == device);
            users.ghost.moved(by.unwrap_or(usize::MAX), &[content]);
        }
        for content in gain.contents {
            if !users.ghost.knows(&content) {
                return Err(violation(format!("I3: the server has content {content:?}, which no file ever had")));
            }
            users.ghost.sent(content);
        }
        drop(users);
        for device in 0..self.devices.len() {
            self.read_stream(device);
        }
        Ok(())
    }

    fn read_stream(&mut self, device: usize) {
        let Some(stream) = &self.devices[device].stream else { return };
        let life = self.devices[device].life;
        match self.server.news(stream, self.devices[device].linked.identity) {
            Some(News::Reached(notifications)) => {
                let mut chance = self.chance(&[23, device as u64, self.now]);
                for notification in notifications {
                    if self.calm || !chance.happens(self.knobs.net.lose_notification) {
                        let after = self.delay(&mut chance);
                        self.at(after, Moment::Feed { device, life, event: Event::Notified(notification) });
                    } else {
                        self.cover("notification lost");
                    }
                }
            }
            Some(News::Coming(namespaces)) => {
                let mut chance = self.chance(&[24, device as u64, self.now]);
                for namespace in namespaces {
                    if self.calm || !chance.happens(self.knobs.net.lose_notification) {
                        let after = self.delay(&mut chance);
                        self.at(after, Moment::Feed { device, life, event: Event::Coming(namespace) });
                    }
                }
            }
            Some(News::Ended(_)) => {
                self.devices[device].stream = None;
                self.at(1000, Moment::Connect { device, life });
            }
            Some(News::MembershipsChanged) | None => {}
        }
    }

    pub(super) fn drop_streams(&mut self) {
        for device in 0..self.devices.len() {
            if self.devices[device].stream.take().is_some() {
                let life = self.devices[device].life;
                self.at(500, Moment::Connect { device, life });
            }
        }
    }

    /// The device opens its notification stream, or tries again later.
    pub(super) fn connect(&mut self, device: usize) -> Checked<()> {
        if self.devices[device].stream.is_some() {
            return Ok(());
        }
        let life = self.devices[device].life;
        let token = self.devices[device].linked.token.clone();
        let opened = if self.is_cut(device) { None } else { self.server.open_stream(&token).ok() };
        match opened {
            Some(stream) => {
                self.devices[device].stream = Some(stream);
                self.feed(device, Event::StreamOpened)?;
                self.read_stream(device);
            }
            None if self.devices[device].partitioned_until == u64::MAX => {}
            None => self.at(2000, Moment::Connect { device, life }),
        }
        Ok(())
    }
}

/// What of a question the checks of its answer need.
enum Asked {
    Changes(Cursor),
    Blocks(NamespaceId),
    Prefetch(NamespaceId),
    Coming(NamespaceId),
    Announce(NamespaceId, Vec<model::BlockHash>),
    Other,
}

impl Asked {
    fn of(call: &Call) -> Self {
        match call {
            Call::Changes(request) => Self::Changes(request.cursor.clone()),
            Call::Blocks(request) => Self::Blocks(request.namespace),
            Call::Prefetch(request) => Self::Prefetch(request.namespace),
            Call::Coming(request) => Self::Coming(request.namespace),
            Call::Announce(request) => Self::Announce(request.namespace, request.file.blocks.clone()),
            Call::Server | Call::Missing(_) | Call::Commit(_) | Call::Changeset { .. } => Self::Other,
        }
    }
}

fn commit_key(call: &Call) -> Option<model::CommitKey> {
    match call {
        Call::Commit(commit) => Some(commit.key),
        Call::Changeset { head, .. } => head.commit.as_ref().map(|commit| commit.key),
        Call::Server
        | Call::Changes(_)
        | Call::Missing(_)
        | Call::Blocks(_)
        | Call::Prefetch(_)
        | Call::Announce(_)
        | Call::Coming(_) => None,
    }
}

fn reply_of(answer: Answer) -> Result<Reply, RequestError> {
    Ok(match answer {
        Answer::Server(reply) => Reply::Server(reply),
        Answer::Changes(reply) => Reply::Changes(reply),
        Answer::Missing(reply) => Reply::Missing(reply),
        Answer::Commit(outcome) => Reply::Commit(outcome),
        Answer::Changeset(outcome) => Reply::Changeset { outcome },
        Answer::Announced => Reply::Announced,
        Answer::Coming(reply) => Reply::Coming(reply),
        Answer::Blocks(..) => return Err(RequestError::NotSyncline("an answer to another question".to_owned())),
    })
}

fn brief_answer(result: &Result<Answer, api::ApiError>) -> String {
    match result {
        Ok(Answer::Server(_)) => "server".to_owned(),
        Ok(Answer::Changes(reply)) => {
            let entries: usize = reply.namespaces.iter().map(|one| one.entries.len()).sum();
            format!("changes {entries}")
        }
        Ok(Answer::Missing(reply)) => format!("missing {}", reply.missing.len()),
        Ok(Answer::Commit(outcome) | Answer::Changeset(Some(outcome))) => match outcome {
            CommitOutcome::Accepted { head, .. } => format!("accepted at {head}"),
            CommitOutcome::Rejected(rejections) => format!("rejected {rejections:?}"),
        },
        Ok(Answer::Changeset(None)) => "stored".to_owned(),
        Ok(Answer::Announced) => "announced".to_owned(),
        Ok(Answer::Coming(reply)) => format!("coming {}", reply.files.len()),
        Ok(Answer::Blocks(head, _)) => format!("blocks {} without {}", head.blocks.len(), head.unavailable.len()),
        Err(error) => format!("error {:?} {}", error.code, error.message),
    }
}
