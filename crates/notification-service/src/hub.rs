//! Who follows what, and which positions they have yet to hear of. No sockets, no clock.

use api::Notification;
use api::service::{Announce, Identity};
use model::{AccountId, DeviceId, NamespaceId, Position};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::sync::Notify;

/// Streams of one account; the oldest ends when there would be more (a stolen or looping
/// client must not eat the server's sockets).
pub(crate) const STREAMS_PER_ACCOUNT: usize = 20;
/// Announcements that are remembered, so that a subscriber misses none between reading the heads and
/// following their namespaces.
const REMEMBERED: usize = 4096;

/// Knows the subscriptions and passes announcements on to them. Nothing in it waits.
///
/// Whoever opened a subscription of an ordinary hub reads its heads ([`Subscription::follow`]). A hub whose
/// streams are [reviewed](Hub::with_reviews) keeps a queue of those whose heads are to be read, for whoever
/// reads them for many at once.
#[derive(Debug, Default)]
pub struct Hub {
    state: Mutex<State>,
    /// Streams are due for a review.
    due: Notify,
}

/// What changes in the set of all namespaces that anybody follows.
#[derive(Debug, Default)]
pub(crate) struct Interest {
    /// Whether it is followed now, for each namespace for which that has changed.
    changes: Mutex<BTreeMap<NamespaceId, bool>>,
    changed: Notify,
}

/// A stream that is due for a review.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    id: u64,
    pub(crate) who: Identity,
    /// Which review of the stream it is.
    review: u64,
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    streams: BTreeMap<u64, Stream>,
    /// The streams that follow a namespace.
    followers: BTreeMap<NamespaceId, BTreeSet<u64>>,
    /// The streams of an account, the oldest first.
    accounts: BTreeMap<AccountId, BTreeSet<u64>>,
    /// The last announcements.
    recent: VecDeque<Notification>,
    /// Announcements that are no longer in `recent`.
    forgotten: u64,
    /// Set once: new streams end at once.
    closed: bool,
    /// Whether streams are reviewed, and those that are due.
    reviews: bool,
    due: VecDeque<u64>,
    /// Who wants to know which namespaces are followed.
    interests: Vec<Arc<Interest>>,
}

#[derive(Debug)]
struct Stream {
    who: Identity,
    /// It stands in the queue of those that are due.
    due: bool,
    /// Reviews that have begun. Only the last counts: an earlier one may end later, and knows less.
    reviews: u64,
    /// What it follows, and the last position that its reader has taken.
    namespaces: BTreeMap<NamespaceId, Option<Position>>,
    /// What the reader has not taken yet: one position per namespace at most.
    pending: BTreeMap<NamespaceId, Position>,
    /// Namespaces into which blocks of announced uploads arrived, and that were not told yet.
    coming: BTreeSet<NamespaceId>,
    memberships_changed: bool,
    ending: Option<Ending>,
    /// The number of announcements made before the reader began to read heads.
    mark: u64,
    waker: Option<Waker>,
}

/// Why a subscription ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The device was unlinked.
    Unlinked,
    /// The account opened too many newer streams.
    Displaced,
    /// The server is shutting down.
    Shutdown,
}

/// What a subscriber hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Namespaces reached positions; at most one per namespace, in the order of the namespaces.
    Reached(Vec<Notification>),
    /// Blocks of announced uploads into these namespaces have arrived.
    Coming(Vec<NamespaceId>),
    /// The account follows other namespaces now: read the heads and call [`Subscription::follow`].
    MembershipsChanged,
    /// Nothing more will come.
    Ended(Ending),
}

/// Whether a subscriber may go on with the heads that it has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// Nothing was missed.
    Complete,
    /// So much was announced meanwhile that the heads may be old: read them again.
    ReadAgain,
}

/// One connection's view of the hub; dropping it ends it.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    id: u64,
}

impl Hub {
    /// A hub without subscribers.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A hub whose streams are reviewed: each stands in the queue when it begins, and when its memberships
    /// have changed.
    #[must_use]
    pub fn with_reviews() -> Arc<Self> {
        let state = State { reviews: true, ..State::default() };
        Arc::new(Self { state: Mutex::new(state), due: Notify::new() })
    }

    /// A subscription that follows nothing yet. Made before the heads are read, so that a change of
    /// memberships or an unlinking meanwhile is not missed; then comes [`Subscription::follow`].
    #[must_use]
    pub fn open(self: &Arc<Self>, who: Identity) -> Subscription {
        let mut state = self.state();
        let id = state.open(who);
        if state.reviews {
            state.set_due(id);
            self.due.notify_one();
        }
        Subscription { hub: self.clone(), id }
    }

    /// A subscription that follows these namespaces, whose heads are its first news.
    #[must_use]
    pub fn subscribe(self: &Arc<Self>, who: Identity, heads: &[(NamespaceId, Position)]) -> Subscription {
        let subscription = self.open(who);
        subscription.follow(heads);
        subscription
    }

    /// How many subscriptions there are.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.state().streams.len()
    }

    /// Ends all subscriptions, and those that come from now on.
    pub fn shut_down(&self) {
        let mut state = self.state();
        state.closed = true;
        state.streams.values_mut().for_each(|stream| stream.end(Ending::Shutdown));
    }

    /// Waits for streams that are due, and takes some of them out of the queue. What is announced from now
    /// on they do not miss.
    pub(crate) async fn due(&self, most: usize) -> Vec<Due> {
        loop {
            let due = self.state().take_due(most);
            if !due.is_empty() {
                return due;
            }
            self.due.notified().await;
        }
    }

    /// Lets a stream follow what its review has found; `None`: its device is no longer linked.
    pub(crate) fn reviewed(&self, due: Due, heads: Option<&[(NamespaceId, Position)]>) {
        let mut state = self.state();
        if state.streams.get(&due.id).is_none_or(|stream| stream.reviews != due.review) {
            return;
        }
        match heads {
            None => {
                if let Some(stream) = state.streams.get_mut(&due.id) {
                    stream.end(Ending::Unlinked);
                }
            }
            Some(heads) if state.follow(due.id, heads) == Follow::Complete => {}
            Some(_) => self.enqueue(&mut state, [due.id]),
        }
    }

    /// The review came to nothing.
    pub(crate) fn not_reviewed(&self, due: impl IntoIterator<Item = Due>) {
        self.enqueue(&mut self.state(), due.into_iter().map(|due| due.id));
    }

    /// All streams are due: something may have been missed.
    pub(crate) fn review_all(&self) {
        let mut state = self.state();
        let all: Vec<_> = state.streams.keys().copied().collect();
        self.enqueue(&mut state, all);
    }

    /// The streams that follow these namespaces are due.
    pub(crate) fn review_followers(&self, namespaces: &[NamespaceId]) {
        let mut state = self.state();
        let of = |namespace| state.followers.get(namespace).into_iter().flatten().copied();
        let ids: BTreeSet<u64> = namespaces.iter().flat_map(of).collect();
        self.enqueue(&mut state, ids);
    }

    fn enqueue(&self, state: &mut State, ids: impl IntoIterator<Item = u64>) {
        ids.into_iter().for_each(|id| state.set_due(id));
        self.due.notify_one();
    }

    /// From now on `interest` hears of changes to what is followed.
    pub(crate) fn register(&self, interest: Arc<Interest>) {
        self.state().interests.push(interest);
    }

    /// All that is followed now; `interest` hears of what changes after that.
    pub(crate) fn followed(&self, interest: &Interest) -> Vec<NamespaceId> {
        let state = self.state();
        interest.changes().clear();
        state.followers.keys().copied().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Interest {
    /// Waits for changes: the namespaces that are followed now, and those that are not any more.
    pub(crate) async fn changed(&self) -> (Vec<NamespaceId>, Vec<NamespaceId>) {
        loop {
            let changes = std::mem::take(&mut *self.changes());
            if !changes.is_empty() {
                let (add, remove): (Vec<_>, Vec<_>) = changes.into_iter().partition(|(_, followed)| *followed);
                let names = |changes: Vec<(NamespaceId, bool)>| changes.into_iter().map(|(name, _)| name).collect();
                return (names(add), names(remove));
            }
            self.changed.notified().await;
        }
    }

    fn note(&self, namespace: NamespaceId, followed: bool) {
        self.changes().insert(namespace, followed);
        self.changed.notify_one();
    }

    fn changes(&self) -> MutexGuard<'_, BTreeMap<NamespaceId, bool>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Announce for Hub {
    fn reached(&self, namespace: NamespaceId, position: Position) {
        self.state().announce(Notification { namespace, position }, None);
    }

    fn reached_by(&self, namespace: NamespaceId, position: Position, from: DeviceId) {
        self.state().announce(Notification { namespace, position }, Some(from));
    }

    fn coming(&self, namespace: NamespaceId, from: DeviceId) {
        let mut state = self.state();
        let State { followers, streams, .. } = &mut *state;
        for id in followers.get(&namespace).into_iter().flatten() {
            if let Some(stream) = streams.get_mut(id).filter(|stream| stream.who.device != from) {
                stream.coming.insert(namespace);
                stream.wake();
            }
        }
    }

    fn memberships_changed(&self, account: AccountId) {
        let mut state = self.state();
        if state.reviews {
            let ids = state.accounts.get(&account).cloned().unwrap_or_default();
            return self.enqueue(&mut state, ids);
        }
        let State { accounts, streams, .. } = &mut *state;
        for id in accounts.get(&account).into_iter().flatten() {
            if let Some(stream) = streams.get_mut(id) {
                stream.memberships_changed = true;
                stream.wake();
            }
        }
    }

    fn unlinked(&self, device: DeviceId) {
        let mut state = self.state();
        state.streams.values_mut().filter(|s| s.who.device == device).for_each(|s| s.end(Ending::Unlinked));
    }
}

impl State {
    fn open(&mut self, who: Identity) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let ending = self.closed.then_some(Ending::Shutdown);
        let mark = self.announced();
        self.streams.insert(id, Stream::new(who, ending, mark));
        let ids = self.accounts.entry(who.account).or_default();
        ids.insert(id);
        // Those that were displaced and have not been dropped yet still stand here; they are the oldest.
        let surplus = ids.len().saturating_sub(STREAMS_PER_ACCOUNT);
        for old in ids.iter().take(surplus) {
            if let Some(stream) = self.streams.get_mut(old) {
                stream.end(Ending::Displaced);
            }
        }
        id
    }

    fn close(&mut self, id: u64) {
        let Some(stream) = self.streams.remove(&id) else { return };
        for namespace in stream.namespaces.keys() {
            self.leave(*namespace, id);
        }
        remove(&mut self.accounts, &stream.who.account, id);
    }

    fn join(&mut self, namespace: NamespaceId, id: u64) {
        let followers = self.followers.entry(namespace).or_default();
        if followers.is_empty() {
            self.interests.iter().for_each(|interest| interest.note(namespace, true));
        }
        followers.insert(id);
    }

    fn leave(&mut self, namespace: NamespaceId, id: u64) {
        remove(&mut self.followers, &namespace, id);
        if !self.followers.contains_key(&namespace) {
            self.interests.iter().for_each(|interest| interest.note(namespace, false));
        }
    }

    fn set_due(&mut self, id: u64) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !std::mem::replace(&mut stream.due, true)
        {
            self.due.push_back(id);
        }
    }

    fn take_due(&mut self, most: usize) -> Vec<Due> {
        let announced = self.announced();
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(id) = self.due.pop_front()
        {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.due = false;
                stream.mark = announced;
                stream.reviews += 1;
                taken.push(Due { id, who: stream.who, review: stream.reviews });
            }
        }
        taken
    }

    fn announced(&self) -> u64 {
        self.forgotten + self.recent.len() as u64
    }

    /// `from`: who need not be told.
    fn announce(&mut self, notification: Notification, from: Option<DeviceId>) {
        for id in self.followers.get(&notification.namespace).into_iter().flatten() {
            if let Some(stream) = self.streams.get_mut(id).filter(|stream| Some(stream.who.device) != from) {
                stream.hear(notification);
                stream.wake();
            }
        }
        self.recent.push_back(notification);
        if self.recent.len() > REMEMBERED {
            self.recent.pop_front();
            self.forgotten += 1;
        }
    }

    fn follow(&mut self, id: u64, heads: &[(NamespaceId, Position)]) -> Follow {
        let announced = self.announced();
        let Some(stream) = self.streams.get_mut(&id) else { return Follow::Complete };
        let before = std::mem::take(&mut stream.namespaces);
        for &(namespace, position) in heads {
            let told = before.get(&namespace).copied().flatten();
            stream.namespaces.insert(namespace, told);
            // A position before what was told may be that of a database which was restored.
            if told != Some(position) {
                stream.hear_anew(Notification { namespace, position });
            }
        }
        stream.pending.retain(|namespace, _| stream.namespaces.contains_key(namespace));
        stream.coming.retain(|namespace| stream.namespaces.contains_key(namespace));
        let heard_of = usize::try_from(stream.mark.saturating_sub(self.forgotten)).unwrap_or(usize::MAX);
        for notification in self.recent.iter().skip(heard_of) {
            if stream.namespaces.contains_key(&notification.namespace) {
                stream.hear(*notification);
            }
        }
        let complete = stream.mark >= self.forgotten;
        stream.mark = announced;
        stream.wake();
        let not_in = |one: &BTreeMap<NamespaceId, _>, other: &BTreeMap<NamespaceId, _>| -> Vec<NamespaceId> {
            one.keys().filter(|namespace| !other.contains_key(namespace)).copied().collect()
        };
        let (joined, left) = (not_in(&stream.namespaces, &before), not_in(&before, &stream.namespaces));
        joined.into_iter().for_each(|namespace| self.join(namespace, id));
        left.into_iter().for_each(|namespace| self.leave(namespace, id));
        if complete { Follow::Complete } else { Follow::ReadAgain }
    }
}

impl Stream {
    fn new(who: Identity, ending: Option<Ending>, mark: u64) -> Self {
        let (namespaces, pending, coming) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let (due, reviews, memberships_changed) = (false, 0, false);
        Self { who, due, reviews, namespaces, pending, coming, memberships_changed, ending, mark, waker: None }
    }

    /// Positions only rise: what the reader has been told, or a later one, makes it no wiser.
    fn hear(&mut self, notification: Notification) {
        let told = self.namespaces.get(&notification.namespace).copied().flatten();
        if told < Some(notification.position) {
            self.hear_anew(notification);
        }
    }

    /// Of two positions for one namespace the later is enough.
    fn hear_anew(&mut self, Notification { namespace, position }: Notification) {
        let known = self.pending.entry(namespace).or_insert(position);
        *known = position.max(*known);
    }

    /// The first reason counts.
    fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn take(&mut self) -> Option<News> {
        if let Some(ending) = self.ending {
            return Some(News::Ended(ending));
        }
        if std::mem::take(&mut self.memberships_changed) {
            return Some(News::MembershipsChanged);
        }
        let pending = std::mem::take(&mut self.pending);
        for (namespace, position) in &pending {
            if let Some(told) = self.namespaces.get_mut(namespace) {
                *told = Some(*position);
            }
        }
        let reached = pending.into_iter().map(|(namespace, position)| Notification { namespace, position });
        let reached: Vec<_> = reached.collect();
        if !reached.is_empty() {
            return Some(News::Reached(reached));
        }
        let coming: Vec<_> = std::mem::take(&mut self.coming).into_iter().collect();
        (!coming.is_empty()).then_some(News::Coming(coming))
    }
}

impl Subscription {
    /// What there is to hear now, if anything.
    #[must_use]
    pub fn take(&self) -> Option<News> {
        match self.hub.state().streams.get_mut(&self.id) {
            Some(stream) => stream.take(),
            None => Some(News::Ended(Ending::Shutdown)),
        }
    }

    /// Like [`Self::take`]; wakes the task when there is something.
    pub fn poll_news(&self, context: &mut Context<'_>) -> Poll<News> {
        let mut state = self.hub.state();
        let Some(stream) = state.streams.get_mut(&self.id) else {
            return Poll::Ready(News::Ended(Ending::Shutdown));
        };
        match stream.take() {
            Some(news) => Poll::Ready(news),
            None => {
                stream.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Waits until there is something to hear.
    pub async fn news(&self) -> News {
        std::future::poll_fn(|context| self.poll_news(context)).await
    }

    /// To be called before the heads are read again: what is announced from now on is not missed.
    pub fn before_reading_heads(&self) {
        let mut state = self.hub.state();
        let announced = state.announced();
        if let Some(stream) = state.streams.get_mut(&self.id) {
            stream.mark = announced;
        }
    }

    /// Follows exactly these namespaces from now on. The heads of those that are new to it are news.
    pub fn follow(&self, heads: &[(NamespaceId, Position)]) -> Follow {
        self.hub.state().follow(self.id, heads)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.state().close(self.id);
    }
}

/// Takes an id out of a set of sets, in which no set is empty.
fn remove<K: Ord>(sets: &mut BTreeMap<K, BTreeSet<u64>>, key: &K, id: u64) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(&id);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: NamespaceId = NamespaceId([1; 16]);
    const TWO: NamespaceId = NamespaceId([2; 16]);

    fn who(device: u8) -> Identity {
        Identity { account: AccountId([1; 16]), device: DeviceId([device; 16]) }
    }

    fn reached(what: &[(NamespaceId, u64)]) -> Option<News> {
        let notification =
            |(namespace, position): &(_, u64)| Notification { namespace: *namespace, position: Position(*position) };
        Some(News::Reached(what.iter().map(notification).collect()))
    }

    #[test]
    fn a_subscriber_hears_its_heads_first_and_then_what_happens() {
        let hub = Hub::new();
        let subscription = hub.subscribe(who(1), &[(ONE, Position(5)), (TWO, Position(0))]);
        assert_eq!(subscription.take(), reached(&[(ONE, 5), (TWO, 0)]));
        assert_eq!(subscription.take(), None);
        hub.reached(ONE, Position(6));
        assert_eq!(subscription.take(), reached(&[(ONE, 6)]));
    }

    #[test]
    fn a_device_is_not_told_what_the_answer_to_its_commit_tells_it() {
        let hub = Hub::new();
        let heads = [(ONE, Position(5))];
        let (own, other) = (hub.subscribe(who(1), &heads), hub.subscribe(who(2), &heads));
        assert_eq!((own.take(), other.take()), (reached(&[(ONE, 5)]), reached(&[(ONE, 5)])));
        hub.reached_by(ONE, Position(6), who(1).device);
        assert_eq!((own.take(), other.take()), (None, reached(&[(ONE, 6)])));
        hub.reached(ONE, Position(7));
        assert_eq!((own.take(), other.take()), (reached(&[(ONE, 7)]), reached(&[(ONE, 7)])));
        hub.reached_by(ONE, Position(9), who(1).device);
        hub.reached_by(ONE, Position(8), who(2).device);
        assert_eq!(own.take(), reached(&[(ONE, 8)]), "what came before its own may be another's");
    }

    #[test]
    fn what_others_follow_is_not_heard() {
        let hub = Hub::new();
        let subscription = hub.subscribe(who(1), &[]);
        hub.reached(ONE, Position(6));
        assert_eq!(subscription.take(), None);
    }

    #[test]
    fn a_slow_reader_keeps_one_position_per_namespace() {
        let hub = Hub::new();
        let subscription = hub.subscribe(who(1), &[(ONE, Position(0)), (TWO, Position(0))]);
        for position in 1..1000 {
            hub.reached(ONE, Position(position));
            hub.reached(TWO, Position(1000 - position));
        }
        assert_eq!(subscription.take(), reached(&[(ONE, 999), (TWO, 999)]));
        assert_eq!(subscription.take(), None);
    }

    #[test]
    fn nothing_is_missed_between_reading_heads_and_following() {
        let hub = Hub::new();
        let subscription = hub.open(who(1));
        hub.reached(ONE, Position(7));
        assert_eq!(subscription.follow(&[(ONE, Position(6))]), Follow::Complete);
        assert_eq!(subscription.take(), reached(&[(ONE, 7)]));
    }

    #[test]
    fn heads_that_may_be_too_old_are_read_again() {
        let hub = Hub::new();
        let subscription = hub.open(who(1));
        for position in 0..=REMEMBERED as u64 {
            hub.reached(ONE, Position(position));
        }
        assert_eq!(subscription.follow(&[(ONE, Position(0))]), Follow::ReadAgain);
        subscription.before_reading_heads();
        assert_eq!(subscription.follow(&[(ONE, Position(0))]), Follow::Complete);
    }

    #[test]
    fn a_change_of_memberships_changes_what_is_followed() {
        let hub = Hub::new();
        let subscription = hub.subscribe(who(1), &[(ONE, Position(1))]);
        hub.memberships_changed(who(1).account);
        assert_eq!(subscription.take(), Some(News::MembershipsChanged));
        subscription.before_reading_heads();
        subscription.follow(&[(TWO, Position(4))]);
        hub.reached(ONE, Position(2));
        assert_eq!(subscription.take(), reached(&[(TWO, 4)]));
        drop(subscription);
        assert!(hub.state().followers.is_empty() && hub.state().accounts.is_empty());
    }

    #[test]
    fn unlinking_ends_the_devices_streams_and_no_others() {
        let hub = Hub::new();
        let (first, second) = (hub.subscribe(who(1), &[]), hub.subscribe(who(2), &[]));
        hub.unlinked(who(1).device);
        assert_eq!(first.take(), Some(News::Ended(Ending::Unlinked)));
        assert_eq!(second.take(), None);
    }

    #[test]
    fn an_accounts_oldest_stream_gives_way_to_its_newest() {
        let hub = Hub::new();
        let mut streams: Vec<_> = (0..STREAMS_PER_ACCOUNT).map(|_| hub.subscribe(who(1), &[])).collect();
        assert!(streams.iter().all(|stream| stream.take().is_none()));
        streams.push(hub.subscribe(who(1), &[]));
        assert_eq!(streams[0].take(), Some(News::Ended(Ending::Displaced)));
        assert!(streams[1..].iter().all(|stream| stream.take().is_none()));
    }

    #[test]
    fn a_shutdown_ends_what_is_there_and_what_comes() {
        let hub = Hub::new();
        let before = hub.subscribe(who(1), &[]);
        hub.shut_down();
        assert_eq!(before.take(), Some(News::Ended(Ending::Shutdown)));
        assert_eq!(hub.subscribe(who(1), &[]).take(), Some(News::Ended(Ending::Shutdown)));
    }

    /// The streams that are due, of which there are some.
    async fn due(hub: &Hub) -> Vec<Due> {
        hub.due(10).await
    }

    #[tokio::test]
    async fn a_new_stream_is_due_and_misses_nothing_until_its_review_is_there() {
        let hub = Hub::with_reviews();
        let subscription = hub.open(who(1));
        let asked = due(&hub).await;
        assert_eq!(asked.iter().map(|due| due.who).collect::<Vec<_>>(), [who(1)]);
        hub.reached(ONE, Position(7));
        hub.reviewed(asked[0], Some(&[(ONE, Position(6)), (TWO, Position(1))]));
        assert_eq!(subscription.take(), reached(&[(ONE, 7), (TWO, 1)]));
    }

    #[tokio::test]
    async fn a_review_tells_what_announcements_did_not_and_nothing_twice() {
        let hub = Hub::with_reviews();
        let subscription = hub.open(who(1));
        hub.reviewed(due(&hub).await[0], Some(&[(ONE, Position(6)), (TWO, Position(1))]));
        assert_eq!(subscription.take(), reached(&[(ONE, 6), (TWO, 1)]));
        hub.review_followers(&[TWO]);
        hub.review_all();
        let asked = due(&hub).await;
        assert_eq!(asked.len(), 1, "it stands in the queue once");
        hub.reviewed(asked[0], Some(&[(ONE, Position(6)), (TWO, Position(2))]));
        assert_eq!(subscription.take(), reached(&[(TWO, 2)]));
        hub.reached(ONE, Position(6));
        assert_eq!(subscription.take(), None);
    }

    /// A slow meta service answered with the memberships from before a folder was shared, and the device heard nothing of
    /// that folder for minutes.
    #[tokio::test]
    async fn a_review_that_ends_after_a_later_one_takes_nothing_back() {
        let hub = Hub::with_reviews();
        let subscription = hub.open(who(1));
        let early = due(&hub).await[0];
        hub.memberships_changed(who(1).account);
        let late = due(&hub).await[0];
        hub.reviewed(late, Some(&[(ONE, Position(6)), (TWO, Position(1))]));
        hub.reviewed(early, Some(&[(ONE, Position(6))]));
        assert_eq!(subscription.take(), reached(&[(ONE, 6), (TWO, 1)]));
        hub.reached(TWO, Position(2));
        assert_eq!(subscription.take(), reached(&[(TWO, 2)]));
        hub.reviewed(early, None);
        assert_eq!(subscription.take(), None);
    }

    #[tokio::test]
    async fn a_database_that_was_restored_is_told_although_it_is_behind() {
        let hub = Hub::with_reviews();
        let subscription = hub.open(who(1));
        hub.reviewed(due(&hub).await[0], Some(&[(ONE, Position(6))]));
        assert_eq!(subscription.take(), reached(&[(ONE, 6)]));
        hub.review_all();
        hub.reviewed(due(&hub).await[0], Some(&[(ONE, Position(2))]));
        assert_eq!(subscription.take(), reached(&[(ONE, 2)]));
        hub.reached(ONE, Position(3));
        assert_eq!(subscription.take(), reached(&[(ONE, 3)]));
    }

    #[tokio::test]
    async fn changed_memberships_are_the_reviews_business() {
        let hub = Hub::with_reviews();
        let subscription = hub.open(who(1));
        hub.reviewed(due(&hub).await[0], Some(&[(ONE, Position(6))]));
        assert_eq!(subscription.take(), reached(&[(ONE, 6)]));
        hub.memberships_changed(who(1).account);
        assert_eq!(subscription.take(), None);
        hub.reviewed(due(&hub).await[0], Some(&[(TWO, Position(4))]));
        hub.reached(ONE, Position(7));
        assert_eq!(subscription.take(), reached(&[(TWO, 4)]));
    }

    #[tokio::test]
    async fn a_review_that_failed_is_due_again_and_one_that_finds_no_device_ends_the_stream() {
        let hub = Hub::with_reviews();
        let subscription = hub.open(who(1));
        hub.not_reviewed(due(&hub).await);
        assert_eq!(subscription.take(), None);
        hub.reviewed(due(&hub).await[0], None);
        assert_eq!(subscription.take(), Some(News::Ended(Ending::Unlinked)));
    }

    #[tokio::test]
    async fn interest_is_told_of_the_first_who_follows_and_of_the_last_who_leaves() {
        let (hub, interest) = (Hub::new(), Arc::new(Interest::default()));
        hub.register(interest.clone());
        let first = hub.subscribe(who(1), &[(ONE, Position(1))]);
        assert_eq!(interest.changed().await, (vec![ONE], vec![]));
        let second = hub.subscribe(who(2), &[(ONE, Position(1)), (TWO, Position(1))]);
        drop(first);
        assert_eq!(interest.changed().await, (vec![TWO], vec![]));
        assert_eq!(hub.followed(&interest), [ONE, TWO]);
        drop(second);
        assert_eq!(interest.changed().await, (vec![], vec![ONE, TWO]));
    }
}
