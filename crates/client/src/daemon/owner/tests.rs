use super::*;
use crate::transport::Transport;
use crossbeam_channel::unbounded;
use local_files::disk::{Disk, RootId};
use local_files::watcher::{WatchOptions, Watcher};
use model::{AccountId, DeviceId, Epoch, InstanceId, NamespaceId};
use std::path::Path;
use sync_engine::io::EngineState;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const DEVICE: DeviceId = DeviceId([1; 16]);
const NAMESPACE: NamespaceId = NamespaceId([2; 16]);
const ROOT: RootId = RootId([3; 16]);

/// An owner of an empty folder, whose server nobody can reach.
fn owner(place: &Path) -> Owner {
    let state = EngineState::linked(InstanceId([4; 16]), Epoch(1), NAMESPACE);
    let config = Config {
        version: Config::VERSION,
        server: "http://127.0.0.1:1".into(),
        email: "alice@example.org".into(),
        account: AccountId([5; 16]),
        device: DEVICE,
        device_name: "a".into(),
        folder: place.join("folder"),
        root_id: ROOT,
        instance: state.instance,
        epoch: 1,
        namespace: NAMESPACE,
        bandwidth: Default::default(),
        thrift: Default::default(),
    };
    let database = Database::create(&place.join("client.sqlite"), DEVICE, &state).expect("created");
    let bandwidth = Arc::<Bandwidth>::default();
    let disk = Arc::new(Disk::open(&config.folder, ROOT));
    let server = config.server.parse().expect("an address");
    let transport = Transport::new(server, None, Arc::clone(&bandwidth)).expect("made");
    let (sender, events) = unbounded();
    let (tasks, cancelled) = (TaskTracker::new(), CancellationToken::new());
    let watcher = Watcher::start(disk.path(), WatchOptions::default(), |_| {}, |_| {}).expect("started");
    Owner::new(OwnerParts {
        engine: Engine::new(state, Vec::new(), "a".into()),
        database,
        config,
        home: Home::at(place),
        bandwidth,
        workers: Workers::start(&disk, &Arc::default(), &watcher, true, &sender).expect("started"),
        network: Network::new(transport, disk, Arc::default(), sender, tasks, cancelled),
        clock: Clock::start(),
        chance: Chance::from_system().expect("seeded"),
        events,
        asks: unbounded().1,
    })
}

/// The flush was put on the list, and the engine never heard of it: with nothing to wait for it was answered
/// as done as soon as the database could be written again, without a word with the server.
#[test]
fn a_flush_while_the_database_cannot_be_written_tries_again_at_once_and_asks_the_server() {
    let place = tempfile::tempdir().expect("made");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("built");
    let _entered = runtime.enter();
    let mut owner = owner(place.path());
    owner.blocked = Some(Blocked { retry_at: Instant::now() + PERSIST_RETRY, reason: "the disk is full".into() });
    let (answer, mut answered) = oneshot::channel();
    owner.begin_flush(None, answer).expect("begun");

    owner.on_time().expect("goes on");
    owner.answer_flushes();

    assert!(owner.blocked.is_none());
    assert!(answered.try_recv().is_err(), "the server was not asked");
}
