//! The network between devices and server, and what it does to what it carries.

use super::{Checked, Moment, Violation, World, violation};
use crate::chance::Chance;
use crate::courier::Next;
use crate::disk::{Fault, SimFs, lock};
use crate::history::ServerEvent;
use crate::wire::{Answer, Answered, Call, Sent, damaged, parcels_at};
use api::{ApiError, HashStart, SentCommit, SentOperation};
use local_files::fs::FsError;
use model::{BlockHash, CommitOutcome, Cursor, NamespaceId, Reason};
use notification_service::News;
use parcels::Form;
use std::collections::BTreeSet;
use sync_engine::io::{Event, Reply, Request, RequestError, RequestId};

/// How long a client waits for an answer that does not come, in milliseconds.
const TIMEOUT_MS: u64 = 30_000;

/// A call on its way to the server, or a duplicate of one.
#[derive(Debug)]
pub(super) struct Travel {
    sent: Sent,
    /// Whom to answer; `None`: nobody waits (a duplicate, or an answer that will be lost).
    back: Option<Back>,
    /// The answer is a proxy's page.
    proxied: bool,
    /// Where the answer breaks off, as a number that its length divides.
    cut: Option<u64>,
    /// A bit of the answer's blocks is changed.
    damage: bool,
    /// The device's how-manieth request it is a call of.
    number: u64,
}

/// Who waits for an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Back {
    pub(super) life: u64,
    id: RequestId,
    number: u64,
    what: What,
}

/// What a request does with blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Sends,
    Fetches,
    Neither,
}

impl What {
    const fn of(request: &Request) -> Self {
        match request {
            Request::Changeset { .. } | Request::Shift { .. } => Self::Sends,
            Request::Fetch { .. } | Request::Prefetch { .. } => Self::Fetches,
            Request::Server
            | Request::Changes(_)
            | Request::News(_)
            | Request::Missing(_)
            | Request::Commit(_)
            | Request::Announce(_)
            | Request::Coming(_) => Self::Neither,
        }
    }
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

    fn fail(&mut self, device: usize, back: Back, after_ms: u64, error: RequestError) {
        self.at(after_ms, Moment::Land { device, back, answer: Err(error) });
    }

    /// A request begins: whatever the client does first, the network takes over when it calls.
    pub(super) fn depart(&mut self, device: usize, id: RequestId, request: Request) -> Checked<()> {
        let life = self.devices[device].life;
        let number = self.devices[device].requests;
        self.devices[device].requests += 1;
        let what = What::of(&request);
        let fs = SimFs::new(self.devices[device].disk.clone());
        let Some(courier) = &mut self.devices[device].courier else { return Ok(()) };
        let next = courier.begin(id, request, fs).map_err(violation)?;
        self.go_on(device, Back { life, id, number, what }, next)
    }

    fn go_on(&mut self, device: usize, back: Back, next: Next) -> Checked<()> {
        self.check_disk(device)?;
        match next {
            Next::Calls(calls, sent) => {
                self.trace.note(self.now, &format!("call {device} {} {calls} {} bytes", sent.call, sent.body.len()));
                self.note_call(&sent, calls);
                // A request's first call is named as the request, as long as stored histories are to mean the same.
                let names = [20, device as u64, back.number, calls];
                let chance = self.chance(if calls == 1 { &names[..3] } else { &names });
                if calls > 1 {
                    self.strike(device, &back, calls)?;
                }
                self.carry(device, back, calls, sent, chance);
                Ok(())
            }
            Next::Ends(result) => {
                if let Ok(Reply::SourceChanged { .. }) = result {
                    self.cover("source changed");
                }
                self.feed(device, Event::Replied(back.id, result))
            }
        }
    }

    /// Between two calls of a transfer, where the second relies on what the first was answered, the server may lose what it
    /// answered from.
    fn strike(&mut self, device: usize, back: &Back, calls: u64) -> Checked<()> {
        let mut chance = self.chance(&[26, device as u64, back.number, calls]);
        if self.calm || !self.server.up || !chance.happens(self.knobs.server.strike) {
            return Ok(());
        }
        self.cover("server struck in a transfer");
        match chance.below(8) {
            0 => self.server_event(&ServerEvent::Restart { down_ms: 0 }),
            1 => self.server_event(&ServerEvent::Empty),
            // Blocks go when they were seen to be unused two days in a row.
            2..4 => {
                for event in
                    [ServerEvent::CleanUp, ServerEvent::CleanUpDay, ServerEvent::CleanUp, ServerEvent::CleanUpDay]
                {
                    self.server_event(&event)?;
                }
                self.server_event(&ServerEvent::CleanUp)
            }
            _ => self.server_event(&ServerEvent::Restore),
        }
    }

    /// Decides what becomes of a call on its way.
    fn carry(&mut self, device: usize, back: Back, calls: u64, mut sent: Sent, mut chance: Chance) {
        let there_ms = self.delay(&mut chance);
        if self.is_cut(device) {
            return self.fail(device, back, 10, unreachable());
        }
        let net = if self.calm { crate::history::NetKnobs::default() } else { self.knobs.net };
        let lost = chance.happens(net.lose_request);
        let duplicated = chance.happens(net.duplicate);
        let (reply_lost, proxied, truncated) =
            (chance.happens(net.lose_reply), chance.happens(net.proxy_page), chance.happens(net.truncate));
        if lost {
            self.cover("request lost");
            return self.fail(device, back, TIMEOUT_MS, unreachable());
        }
        let damage = self.damage(device, &back, calls, &mut sent, net.damage);
        let number = back.number;
        let travel = |sent, back| Travel { sent, back, proxied, cut: None, damage, number };
        if duplicated {
            self.cover("request duplicated");
            let late_ms = there_ms + chance.below(20_000);
            self.at(late_ms, Moment::Arrive { device, travel: travel(sent.clone(), None) });
        }
        if proxied && chance.happens(500) {
            self.cover("proxy answered");
            let page = RequestError::NotSyncline("502 Bad Gateway, text/html".to_owned());
            return self.fail(device, back, there_ms, page);
        }
        let cut = truncated.then(|| chance.draw());
        if let (Some(cut), Some(at)) = (cut, parcels_at(&sent.body).filter(|_| sent.call == "changeset")) {
            self.cover("upload broke off");
            let kept = at + at_random(cut, sent.body.len() - at);
            sent = Sent { body: sent.body.slice(..kept), whole: false, ..sent };
            self.at(there_ms, Moment::Arrive { device, travel: travel(sent, None) });
            return self.fail(device, back, there_ms + 5, unreachable());
        }
        if reply_lost {
            self.cover("reply lost");
            self.note_unanswered(device, &sent);
            self.at(there_ms, Moment::Arrive { device, travel: travel(sent, None) });
            return self.fail(device, back, there_ms + TIMEOUT_MS, unreachable());
        }
        self.at(there_ms, Moment::Arrive { device, travel: Travel { cut, ..travel(sent, Some(back)) } });
    }

    /// Changes a bit of the blocks that go up, or says that one of those that come down is to be changed.
    fn damage(&mut self, device: usize, back: &Back, calls: u64, sent: &mut Sent, rate: u32) -> bool {
        let mut chance = self.chance(&[25, device as u64, back.number, calls]);
        if !chance.happens(rate) {
            return false;
        }
        if sent.call != "changeset" {
            return true;
        }
        if let Some(body) = damaged("changeset", &sent.body, |end| chance.index(end)) {
            self.cover("blocks damaged on their way up");
            sent.body = body;
        }
        false
    }

    fn note_unanswered(&mut self, device: usize, sent: &Sent) {
        if let Some(key) = sent.means().as_ref().and_then(commit_key) {
            self.unanswered.insert((self.devices[device].linked.identity.device, key));
        }
    }

    /// What a call shows of the ways in which blocks travel.
    fn note_call(&mut self, sent: &Sent, calls: u64) {
        for form in sent.forms() {
            match form {
                Form::Plain => {}
                Form::Zstd => self.cover("blocks sent compressed"),
                Form::Delta => self.cover("block sent as a delta"),
            }
        }
        if sent.is_bundle() {
            self.cover("files sent in a bundle");
        }
        let meaning = sent.means();
        if meaning.as_ref().and_then(commit_of).is_some_and(|commit| !amended(commit).is_empty()) {
            self.cover("edit amended");
        }
        match meaning {
            Some(Call::Changeset(head)) => *self.coverage.entry("blocks sent").or_default() += head.blocks.len() as u64,
            Some(Call::Blocks(request)) if calls > 1 && request.bases.is_empty() => {
                self.cover("delta led elsewhere on a device");
            }
            _ => {}
        }
    }

    /// What became of blocks that were taken for moved ones.
    fn note_shift(&mut self, blocks: usize, result: &Result<Answer, ApiError>) {
        let Ok(Answer::Changeset(reply)) = result else { return };
        if reply.unmade.len() < blocks {
            self.cover("moved block made at the server");
        }
        if !reply.unmade.is_empty() {
            self.cover("taken for moved and was not");
        }
    }

    /// What an answer shows of them.
    fn note_answer(&mut self, meaning: Option<&Call>, answered: &Answered, result: &Result<Answer, ApiError>) {
        if let (Some(commit), Some(outcome)) = (meaning.and_then(commit_of), outcome_of(result)) {
            self.note_amended(&amended(commit), outcome);
        }
        match (meaning, result) {
            (Some(Call::Blocks(request) | Call::Prefetch(request)), Ok(Answer::Blocks(_))) => {
                let foreign = |base: &BlockHash| !self.server.journals.names(request.namespace, *base);
                let goes_on = request.bases.iter().any(foreign);
                for form in answered.forms() {
                    match form {
                        Form::Plain => {}
                        Form::Zstd => self.cover("blocks handed out compressed"),
                        Form::Delta if goes_on => self.cover("download went on"),
                        Form::Delta => self.cover("delta handed on"),
                    }
                }
            }
            (Some(Call::Changes(_)), Ok(Answer::Changes(_, contents))) => {
                if answered.is_bundle_of_news() {
                    self.cover("contents came in the place of their names");
                }
                for content in contents {
                    let delta = !content.bases.is_empty();
                    self.cover(if delta { "small delta came along" } else { "small content came along" });
                }
            }
            (Some(Call::Changeset(head)), Ok(Answer::Changeset(reply))) => {
                if reply.unmade.is_empty() {
                    return;
                }
                self.cover("delta led elsewhere at the server");
                let is_gone = |base: &BlockHash, namespace| {
                    !self.server.holds(base) || !self.server.journals.names(namespace, *base)
                };
                if head.bases.iter().any(|bases| bases.blocks.iter().any(|base| is_gone(base, bases.namespace))) {
                    self.cover("base was gone before its use");
                }
            }
            (Some(Call::Sums(_)), Ok(Answer::Sums(reply))) if reply.sums.iter().any(|sums| !sums.is_empty()) => {
                self.cover("sums told");
            }
            _ => {}
        }
    }

    /// What became of edits that named the version before.
    fn note_amended(&mut self, amended: &BTreeSet<u32>, outcome: &CommitOutcome) {
        match outcome {
            CommitOutcome::Accepted { .. } if amended.is_empty() => {}
            CommitOutcome::Accepted { .. } => self.cover("amended edit accepted"),
            CommitOutcome::Rejected(rejections) => {
                for rejection in rejections.iter().filter(|rejection| amended.contains(&rejection.index)) {
                    self.cover(match rejection.reason {
                        Reason::Stale => "amended edit refused as stale",
                        Reason::Malformed => "amended edit refused as malformed",
                        _ => "amended edit refused otherwise",
                    });
                }
            }
        }
    }

    /// A call reaches the server.
    pub(super) fn arrive(&mut self, device: usize, travel: Travel) -> Checked<()> {
        if self.is_cut(device) {
            if let Some(back) = travel.back {
                self.fail(device, back, 5, unreachable());
            }
            return Ok(());
        }
        if travel.number < self.devices[device].arrived {
            self.cover("request overtaken");
        }
        self.devices[device].arrived = self.devices[device].arrived.max(travel.number);
        let token = self.devices[device].linked.token.clone();
        let sent = &travel.sent;
        let (meaning, shifted) = (sent.means(), sent.shifted());
        let (key, floor) = (meaning.as_ref().and_then(commit_key), self.floor(meaning.as_ref()));
        let asked = Asked::of(meaning.as_ref());
        self.server.weather.set_rate(if self.calm { 0 } else { self.knobs.server.store_error });
        let answered = self.server.answer(&token, sent).map_err(violation)?;
        self.server.weather.set_rate(0);
        for (what, times) in self.server.weather.take_met() {
            *self.coverage.entry(what).or_default() += times;
        }
        let result = answered.means(&sent.call);
        self.note_announcement(&asked, &result);
        self.check_access(device, &asked, &result)?;
        let brief = format!("server {device} {} in {} bytes", brief_answer(&result), answered.body.len());
        self.trace.note(self.now, &brief);
        self.trace.detail(|| format!("{result:?}"));
        self.check_answer(device, key, &floor, &result)?;
        self.after_server()?;
        match shifted {
            Some(blocks) => self.note_shift(blocks, &result),
            None => self.note_answer(meaning.as_ref(), &answered, &result),
        }
        let Some(back) = travel.back else { return Ok(()) };
        if let (What::Sends, Some(Call::Missing(asked)), Ok(Answer::Missing(reply))) = (back.what, &meaning, &result)
            && reply.missing.len() < asked.blocks.len()
        {
            self.cover("upload went on");
        }
        let number = self.devices[device].requests;
        let mut chance = self.chance(&[21, device as u64, number]);
        let after = self.delay(&mut chance);
        let answer = if travel.proxied { Answered::PAGE } else { self.on_the_way_back(&travel, answered, &mut chance) };
        self.at(after, Moment::Land { device, back, answer: Ok(answer) });
        Ok(())
    }

    fn on_the_way_back(&mut self, travel: &Travel, mut answered: Answered, chance: &mut Chance) -> Answered {
        let call = travel.sent.call.as_str();
        if travel.damage
            && answered.status == 200
            && let Some(body) = damaged(call, &answered.body, |end| chance.index(end))
        {
            self.cover("blocks damaged on their way down");
            answered.body = body;
        }
        let Some(cut) = travel.cut else { return answered };
        if matches!(call, "blocks" | "prefetch") && answered.status == 200 {
            self.cover("download broke off");
        }
        let kept = at_random(cut, answered.body.len());
        Answered { body: answered.body.slice(..kept), whole: false, ..answered }
    }

    /// The heads below which an answer would be old (I9).
    fn floor(&self, call: Option<&Call>) -> Vec<(NamespaceId, model::Position)> {
        match call {
            Some(Call::Changes(request)) => {
                request.cursor.keys().map(|namespace| (*namespace, self.server.journals.head(*namespace))).collect()
            }
            _ => Vec::new(),
        }
    }

    /// What is told and handed out, is to a member at this instant, and it is what the journal says (I13,
    /// I14).
    fn check_access(&self, device: usize, asked: &Asked, result: &Result<Answer, ApiError>) -> Checked<()> {
        let members = || {
            let account = self.devices[device].linked.identity.account;
            let memberships = self.server.memberships(account).map_err(violation)?;
            Ok::<BTreeSet<NamespaceId>, Violation>(memberships.into_iter().map(|(namespace, _)| namespace).collect())
        };
        match (result, asked) {
            (Ok(Answer::Changes(reply, contents)), Asked::Changes(cursor)) => {
                let members = members()?;
                let named = |hash: &BlockHash| members.iter().any(|one| self.server.journals.names(*one, *hash));
                for content in contents {
                    let blocks = content.blocks(reply).unwrap_or_default();
                    if blocks.is_empty() || blocks.iter().any(|block| !named(&block.hash)) {
                        return Err(violation(format!("I14: {blocks:?} came along to device {device}")));
                    }
                    let may_be =
                        |start: &HashStart| members.iter().any(|one| self.server.journals.may_name(*one, *start));
                    if let Some(base) = content.bases.iter().find(|base| !may_be(base)) {
                        return Err(violation(format!("I14: the base {base:?} came along to device {device}")));
                    }
                }
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
            (Ok(Answer::Blocks(head)), Asked::Blocks(namespace)) if !head.blocks.is_empty() => {
                let journals = &self.server.journals;
                let foreign = head.blocks.iter().find(|block| !journals.names(*namespace, block.hash));
                if let Some(block) = foreign {
                    return Err(violation(format!("I14: {:?} is no block of {namespace:?}", block.hash)));
                }
                if !members()?.contains(namespace) {
                    return Err(violation(format!("I14: device {device} got blocks of {namespace:?}")));
                }
            }
            (Ok(Answer::Blocks(head)), Asked::Prefetch(namespace)) if !head.blocks.is_empty() => {
                let strange = head.blocks.iter().find(|block| !self.announced.contains(&(*namespace, block.hash)));
                if let Some(block) = strange {
                    return Err(violation(format!("I14: {:?} was not announced for {namespace:?}", block.hash)));
                }
                if !members()?.contains(namespace) {
                    return Err(violation(format!("I14: device {device} got blocks that come to {namespace:?}")));
                }
            }
            (Ok(Answer::Sums(reply)), Asked::Sums(namespace, blocks)) => {
                let members = members()?;
                let told = reply.sums.iter().zip(blocks).filter(|(sums, _)| !sums.is_empty());
                for (_, block) in told {
                    if !members.contains(namespace) || !self.server.journals.names(*namespace, *block) {
                        return Err(violation(format!("I14: device {device} was told the sums of {block:?}")));
                    }
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
    fn note_announcement(&mut self, asked: &Asked, result: &Result<Answer, ApiError>) {
        if let (Ok(Answer::Announced), Asked::Announce(namespace, blocks)) = (result, asked) {
            self.cover("announced");
            self.announced.extend(blocks.iter().map(|hash| (*namespace, *hash)));
        }
        if let (Ok(Answer::Blocks(head)), Asked::Prefetch(_)) = (result, asked)
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
        result: &Result<Answer, ApiError>,
    ) -> Checked<()> {
        if let Ok(Answer::Changes(reply, _)) = result {
            for (namespace, head) in floor {
                let answered = reply.namespaces.iter().find(|one| one.namespace == *namespace && one.role.is_some());
                if answered.is_some_and(|one| one.head < *head) {
                    return Err(violation(format!("I9: a reply about {namespace:?} is older than {head}")));
                }
            }
        }
        let (Some(outcome), Some(key)) = (outcome_of(result), key) else { return Ok(()) };
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

    /// An answer reaches the device, or the client has waited long enough.
    pub(super) fn land(&mut self, device: usize, back: Back, answer: Result<Answered, RequestError>) -> Checked<()> {
        let mut fs = SimFs::new(self.devices[device].disk.clone());
        if back.what == What::Fetches && answer.is_ok() {
            let mut chance = self.chance(&[22, device as u64, self.devices[device].requests]);
            if !self.calm && chance.happens(self.knobs.local.error) {
                let call = u32::try_from(chance.below(6)).unwrap_or(0);
                fs = fs.failing(call, Fault::Error(FsError::NoSpace));
            }
        }
        let Some(courier) = &mut self.devices[device].courier else { return Ok(()) };
        match courier.answered(back.id, answer, fs).map_err(violation)? {
            Some(next) => self.go_on(device, back, next),
            None => Ok(()),
        }
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

/// A place below `end`, which is the same for the same number.
fn at_random(number: u64, end: usize) -> usize {
    usize::try_from(number % (end as u64).max(1)).unwrap_or(0)
}

/// What of a question the checks of its answer need.
enum Asked {
    Changes(Cursor),
    Blocks(NamespaceId),
    Prefetch(NamespaceId),
    Sums(NamespaceId, Vec<BlockHash>),
    Coming(NamespaceId),
    Announce(NamespaceId, Vec<BlockHash>),
    Other,
}

impl Asked {
    fn of(call: Option<&Call>) -> Self {
        match call {
            Some(Call::Changes(request)) => Self::Changes(request.cursor.clone()),
            Some(Call::Blocks(request)) => Self::Blocks(request.namespace),
            Some(Call::Prefetch(request)) => Self::Prefetch(request.namespace),
            Some(Call::Sums(request)) => {
                Self::Sums(request.namespace, request.stretches.iter().map(|stretch| stretch.block).collect())
            }
            Some(Call::Coming(request)) => Self::Coming(request.namespace),
            Some(Call::Announce(request)) => Self::Announce(request.namespace, request.file.blocks.clone()),
            Some(Call::Server | Call::Missing(_) | Call::Commit(_) | Call::Changeset(_)) | None => Self::Other,
        }
    }
}

fn commit_of(call: &Call) -> Option<&SentCommit> {
    match call {
        Call::Commit(commit) => Some(commit),
        Call::Changeset(head) => head.commit.as_ref(),
        Call::Server
        | Call::Changes(_)
        | Call::Missing(_)
        | Call::Blocks(_)
        | Call::Prefetch(_)
        | Call::Sums(_)
        | Call::Announce(_)
        | Call::Coming(_) => None,
    }
}

fn commit_key(call: &Call) -> Option<model::CommitKey> {
    commit_of(call).map(|commit| commit.key)
}

/// The operations that name the version before.
fn amended(commit: &SentCommit) -> BTreeSet<u32> {
    let operations = commit.operations.iter().zip(0..);
    let amended = operations.filter(|(operation, _)| matches!(operation, SentOperation::Amend { .. }));
    amended.map(|(_, index)| index).collect()
}

fn outcome_of(result: &Result<Answer, ApiError>) -> Option<&CommitOutcome> {
    match result {
        Ok(Answer::Commit(outcome)) => Some(outcome),
        Ok(Answer::Changeset(reply)) => reply.outcome.as_ref(),
        _ => None,
    }
}

fn brief_answer(result: &Result<Answer, ApiError>) -> String {
    if let Some(outcome) = outcome_of(result) {
        return match outcome {
            CommitOutcome::Accepted { head, .. } => format!("accepted at {head}"),
            CommitOutcome::Rejected(rejections) => format!("rejected {rejections:?}"),
        };
    }
    match result {
        Ok(Answer::Server(_)) => "server".to_owned(),
        Ok(Answer::Changes(reply, contents)) => {
            let entries: usize = reply.namespaces.iter().map(|one| one.entries.len()).sum();
            format!("changes {entries} with {} contents", contents.len())
        }
        Ok(Answer::Missing(reply)) => format!("missing {}", reply.missing.len()),
        Ok(Answer::Commit(_)) => "committed".to_owned(),
        Ok(Answer::Changeset(reply)) => format!("stored but for {}", reply.unmade.len()),
        Ok(Answer::Announced) => "announced".to_owned(),
        Ok(Answer::Coming(reply)) => format!("coming {}", reply.files.len()),
        Ok(Answer::Sums(reply)) => format!("sums {}", reply.sums.len()),
        Ok(Answer::Blocks(head)) => format!("blocks {} without {}", head.blocks.len(), head.unavailable.len()),
        Err(error) => format!("error {:?} {}", error.code, error.message),
    }
}
