//! Linking and unlinking a device, and what a home can do while no daemon runs on it.

use crate::clock::{Chance, NoRandomness};
use crate::control::NotRunning;
use crate::control::protocol::{ActivityReply, Command, Done, ExcludedReply, Failure, SettingsReply, WirePath};
use crate::database::{Database, DatabaseError, salvage_state, set_aside};
use crate::folder::{self, FolderError};
use crate::home::{Config, Home, HomeError};
use crate::settings::{Setting, Settings};
use crate::transport::{ServerUrl, Transport, TransportError};
use api::{LinkReply, LinkRequest, UnlinkRequest};
use local_files::disk::RootId;
use model::limits;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;
use sync_engine::Engine;
use sync_engine::io as engine_io;
use sync_engine::io::{Action, EngineState, Environment, Event, LocalPath, Write};

/// Further than any delay after which the engine persists what it has.
const DUE_MS: u64 = 3_600_000;

/// Why a device cannot be linked or unlinked.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("this home is linked already: {email} on {server}, syncing {folder}")]
    AlreadyLinked { email: String, server: String, folder: PathBuf },
    #[error("`{email}` is not an e-mail address")]
    Email { email: String },
    #[error("the password is empty or longer than {max} bytes", max = limits::PASSWORD_BYTES)]
    Password,
    #[error("a device's name has 1 to {max} characters, none of them a control character", max = limits::DEVICE_NAME_CHARS)]
    Name,
    #[error(transparent)]
    Home(#[from] HomeError),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("cannot link this device")]
    Link(#[source] TransportError),
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
}

impl DeviceError {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::AlreadyLinked { .. } => {
                Some("run `syncline unlink` first, or name another home with `--home DIR`".into())
            }
            Self::Email { .. } => Some("it looks like alice@example.org".into()),
            Self::Name => Some("choose one with `--name NAME`".into()),
            Self::Home(error) => error.hint(),
            Self::Folder(error) => Some(error.hint()),
            Self::Link(error) | Self::Transport(error) => error.hint(),
            Self::Database(error) => error.hint(),
            Self::Password | Self::Randomness(_) => None,
        }
    }
}

/// What `link` needs to know.
#[derive(Clone)]
pub struct LinkOptions {
    pub server: ServerUrl,
    pub email: String,
    pub password: String,
    pub folder: PathBuf,
    pub device_name: String,
}

impl LinkOptions {
    fn check(&self) -> Result<(), DeviceError> {
        let email = self.email.trim();
        if email.len() > limits::EMAIL_BYTES || !email.contains('@') || email.contains(char::is_whitespace) {
            return Err(DeviceError::Email { email: self.email.clone() });
        }
        if self.password.is_empty() || self.password.len() > limits::PASSWORD_BYTES {
            return Err(DeviceError::Password);
        }
        let name = self.device_name.trim();
        if name.is_empty() || name.chars().count() > limits::DEVICE_NAME_CHARS || name.contains(char::is_control) {
            return Err(DeviceError::Name);
        }
        Ok(())
    }
}

/// Links a home: makes it a device of the account, and the folder its synced folder. A folder with
/// files in it is merged, never replaced. Until the configuration is written at the end, the home is
/// not linked, and what was made on the way is taken back.
///
/// # Errors
/// [`DeviceError`].
pub async fn link(home: &Home, options: LinkOptions) -> Result<Config, DeviceError> {
    options.check()?;
    home.create()?;
    // A daemon that runs has the lock, so this says what is the case before who is at fault.
    refuse_if_linked(home)?;
    let _lock = home.lock()?;
    home.forget_device()?;
    let folder = folder::prepare(&options.folder, home.path())?;
    let linked = link_to(home, options, folder.path.clone()).await;
    if linked.is_err() {
        folder.take_back();
    }
    linked
}

/// Asks the server, and writes down what it says.
async fn link_to(home: &Home, options: LinkOptions, folder: PathBuf) -> Result<Config, DeviceError> {
    let LinkOptions { server, email, password, device_name, .. } = options;
    let request = LinkRequest { email: email.clone(), password, device_name: device_name.clone() };
    let transport = Transport::new(server.clone(), None, Arc::default())?;
    let root_id = RootId(Chance::from_system()?.bytes());
    let reply: LinkReply = transport.call("link", &request).await.map_err(DeviceError::Link)?;
    let config = Config {
        version: Config::VERSION,
        server: server.to_string(),
        email,
        account: reply.account,
        device: reply.device,
        device_name,
        folder,
        root_id,
        instance: reply.instance,
        epoch: reply.epoch.0,
        namespace: reply.root,
        bandwidth: crate::bandwidth::Limits::default(),
        thrift: crate::transport::Thrift::default(),
    };
    if let Err(error) = write_device(home, &config, &reply) {
        take_back(home, &config, &reply).await;
        return Err(error);
    }
    Ok(config)
}

/// Refuses a home that is linked already.
///
/// # Errors
/// [`DeviceError::AlreadyLinked`], or what is wrong with the configuration.
pub fn refuse_if_linked(home: &Home) -> Result<(), DeviceError> {
    match home.load_config() {
        Ok(Config { email, server, folder, .. }) => Err(DeviceError::AlreadyLinked { email, server, folder }),
        Err(HomeError::NotLinked) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn write_device(home: &Home, config: &Config, reply: &LinkReply) -> Result<(), DeviceError> {
    Database::create(
        &home.database(),
        config.device,
        &EngineState::linked(config.instance, config.epoch(), config.namespace),
    )?
    .close()?;
    home.save_token(&reply.token)?;
    folder::mark(&config.folder, config.root_id)?;
    home.save_config(config)?;
    Ok(())
}

/// Undoes a link that could not be finished, as far as that goes.
async fn take_back(home: &Home, config: &Config, reply: &LinkReply) {
    if let Err(error) = folder::unmark(&config.folder, config.root_id) {
        tracing::warn!(%error, "cannot remove the folder's marker");
    }
    if let Err(error) = home.forget_device() {
        tracing::warn!(%error, "cannot remove what linking left behind");
    }
    if let Err(error) = tell_unlinked(config, reply.token.clone()).await {
        tracing::warn!(%error, "the server keeps a device that is not in use");
    }
}

async fn tell_unlinked(config: &Config, token: api::Token) -> Result<(), TransportError> {
    let server = config.server.parse().map_err(|_| TransportError::Unreachable("it has no address".into()))?;
    Transport::new(server, Some(token), Arc::default())?.call("unlink", &UnlinkRequest { device: None }).await
}

/// How an unlink went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unlinked {
    /// Where the files are that stay.
    pub folder: PathBuf,
    /// Why the server could not be told, if it could not: it still lists the device then.
    pub server_not_told: Option<String>,
}

/// Unlinks a home on which no daemon runs. The files stay; token and database go.
///
/// # Errors
/// [`DeviceError`].
pub async fn unlink(home: &Home) -> Result<Unlinked, DeviceError> {
    let config = home.load_config()?;
    let _lock = home.lock()?;
    let told = match home.load_token() {
        Ok(token) => tell_unlinked(&config, token).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = folder::unmark(&config.folder, config.root_id) {
        tracing::warn!(%error, "cannot remove the folder's marker");
    }
    home.forget_device()?;
    Ok(Unlinked { folder: config.folder, server_not_told: told.err() })
}

/// How the index was rebuilt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rebuilt {
    /// Where the old database is now, if it was of no use.
    pub set_aside: Option<PathBuf>,
}

/// Rebuilds the index of a home on which no daemon runs. A sound database only forgets the hashes of
/// local files. A damaged or missing one is set aside, and the device starts again from its files and
/// the server: they are merged, and nothing is deleted on either side.
///
/// # Errors
/// [`DeviceError`].
pub fn rebuild_index(home: &Home) -> Result<Rebuilt, DeviceError> {
    let config = home.load_config()?;
    let _lock = home.lock()?;
    // A row that cannot be read is a reason to set the database aside too.
    match Database::open(&home.database(), config.device, |_, _| ()) {
        Ok((mut database, ())) => {
            database.forget_local_hashes()?;
            database.close()?;
            Ok(Rebuilt { set_aside: None })
        }
        Err(error) if !error.is_unsafe_to_continue() => Err(error.into()),
        Err(error) => {
            tracing::info!(%error, "the client database is set aside");
            start_over(home, &config)
        }
    }
}

/// Builds the index of a home on which no daemon runs anew, also where the database is sound: it is set aside, and the
/// device starts again as above. For a folder that is another one than the database tells of, such as a copy.
///
/// # Errors
/// [`DeviceError`].
pub fn rebuild_index_anew(home: &Home) -> Result<Rebuilt, DeviceError> {
    let config = home.load_config()?;
    let _lock = home.lock()?;
    start_over(home, &config)
}

fn start_over(home: &Home, config: &Config) -> Result<Rebuilt, DeviceError> {
    let path = home.database();
    let salvaged = salvage_state(&path).filter(|state| state.instance == config.instance);
    let fresh = EngineState::linked(config.instance, config.epoch(), config.namespace);
    let state = match salvaged {
        Some(old) => EngineState { excluded: old.excluded, paused: old.paused, guard: old.guard, ..fresh },
        None => fresh,
    };
    let set_aside = set_aside(&path)?;
    Database::create(&path, config.device, &state)?.close()?;
    Ok(Rebuilt { set_aside })
}

/// Does a command on a home on which no daemon runs, if that is possible.
///
/// # Errors
/// [`Failure`]; [`NotRunning`] in its form for commands that need the daemon.
pub fn perform_offline(home: &Home, command: Command) -> Result<serde_json::Value, Failure> {
    let done = |()| json(Done { done: true });
    match command {
        Command::Pause => change_state(home, |state| state.paused = true).and_then(done),
        Command::Resume => change_state(home, |state| state.paused = false).and_then(done),
        Command::Settings => json(settings(home)?),
        Command::Set { setting } => set(home, setting).and_then(done),
        Command::Activity { limit } => {
            let (database, _) = open_state(home)?;
            json(ActivityReply { activity: database.activities(limit).cloned().collect() })
        }
        Command::ExcludeList => {
            let (_, engine) = open_engine(home)?;
            json(ExcludedReply { excluded: engine.excluded() })
        }
        Command::ExcludeAdd { path } => exclude(home, &path, engine_io::Command::Exclude).and_then(done),
        Command::ExcludeRemove { path } => exclude(home, &path, engine_io::Command::Include).and_then(done),
        Command::RebuildIndex => {
            let rebuilt = rebuild_index(home).map_err(|error| Failure::from_error(&error, error.hint()))?;
            json(rebuilt)
        }
        Command::Status
        | Command::Watch
        | Command::Flush { .. }
        | Command::FileStatus { .. }
        | Command::Why { .. }
        | Command::ConfirmDeletions
        | Command::UndoDeletions
        | Command::Stop
        | Command::Devices
        | Command::UnlinkDevice { .. }
        | Command::History { .. }
        | Command::Revisions { .. }
        | Command::Restore { .. }
        | Command::Share { .. }
        | Command::Shares
        | Command::Leave { .. }
        | Command::RemoveMember { .. } => {
            home.load_config().map_err(|error| home_failure(&error))?;
            Err(NotRunning.failure())
        }
    }
}

fn open_state(home: &Home) -> Result<(Database, EngineState), Failure> {
    let config = home.load_config().map_err(|error| home_failure(&error))?;
    Database::open_state(&home.database(), config.device).map_err(|error| database_failure(&error))
}

fn open_engine(home: &Home) -> Result<(Database, Engine), Failure> {
    let config = home.load_config().map_err(|error| home_failure(&error))?;
    let opened =
        Database::open(&home.database(), config.device, |state, rows| Engine::new(state, rows, config.device_name));
    opened.map_err(|error| database_failure(&error))
}

fn change_state(home: &Home, change: impl FnOnce(&mut EngineState)) -> Result<(), Failure> {
    let _lock = locked(home)?;
    let (mut database, mut state) = open_state(home)?;
    change(&mut state);
    let persisted = database.persist(&[Write::State(Box::new(state))]);
    persisted.and_then(|()| database.close()).map_err(|error| database_failure(&error))
}

fn settings(home: &Home) -> Result<SettingsReply, Failure> {
    let config = home.load_config().map_err(|error| home_failure(&error))?;
    let (_, state) = open_state(home)?;
    let settings = Settings { guard: state.guard, bandwidth: config.bandwidth, thrift: config.thrift };
    Ok(settings.into())
}

fn set(home: &Home, setting: Setting) -> Result<(), Failure> {
    if let Setting::DeleteGuard(guard) = setting {
        return change_state(home, |state| state.guard = guard);
    }
    let _lock = locked(home)?;
    let mut config = home.load_config().map_err(|error| home_failure(&error))?;
    setting.write_into(&mut config.bandwidth, &mut config.thrift);
    home.save_config(&config).map_err(|error| home_failure(&error))
}

/// Lets the engine take the command and keeps what it wants kept; the work that follows from it is
/// derived at the next start.
fn exclude(home: &Home, path: &WirePath, command: impl FnOnce(LocalPath) -> engine_io::Command) -> Result<(), Failure> {
    let path = path.parse()?;
    let _lock = locked(home)?;
    let (mut database, mut engine) = open_engine(home)?;
    let command = command(path.clone());
    let known = match &command {
        engine_io::Command::Exclude(path) => {
            !path.is_root() && engine.locate(path).is_some_and(|location| location.node.is_some())
        }
        _ => engine.excluded().contains(&path.to_string()),
    };
    if !known {
        return Err(
            Failure::failed(format!("nothing is known of `{path}`")).with_hint("run `syncline start`, then try again")
        );
    }
    let mut chance = Chance::from_system().map_err(|error| Failure::from_error(&error, None))?;
    let today = crate::clock::today();
    // The second event finds everything due that the engine would have saved a little later.
    for (now, event) in [(0, Event::Command(command)), (DUE_MS, Event::Woken)] {
        let mut environment = Environment { now, today: &today, random: &mut || chance.bytes(), blocklists: &database };
        for action in engine.handle(event, &mut environment) {
            if let Action::Persist(writes) = action {
                database.persist(&writes).map_err(|error| database_failure(&error))?;
            }
        }
    }
    database.close().map_err(|error| database_failure(&error))
}

fn locked(home: &Home) -> Result<crate::home::HomeLock, Failure> {
    home.load_config().map_err(|error| home_failure(&error))?;
    home.lock().map_err(|error| home_failure(&error))
}

fn home_failure(error: &HomeError) -> Failure {
    Failure::from_error(error, error.hint())
}

fn database_failure(error: &DatabaseError) -> Failure {
    let failure = Failure::from_error(error, error.hint());
    if error.is_unsafe_to_continue() {
        return Failure { kind: crate::control::FailureKind::Unsafe, ..failure };
    }
    failure
}

fn json<T: Serialize>(value: T) -> Result<serde_json::Value, Failure> {
    serde_json::to_value(value).map_err(|error| Failure::from_error(&error, None))
}

/// The name that a device gets when the user gives none: the machine's.
#[must_use]
pub fn default_device_name() -> String {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    let name: String = name.chars().filter(|c| !c.is_control()).take(limits::DEVICE_NAME_CHARS).collect();
    if name.trim().is_empty() { "computer".to_owned() } else { name }
}
