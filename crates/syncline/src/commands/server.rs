//! `server` and `admin`.

use super::{Context, blocks};
use crate::arguments::{AdminOptions, AdminVerb, BlocksOptions, MetadataOptions, ServerOptions, ServerRole, UserVerb};
use crate::{log, output, password, signals};
use client::{Failure, FailureKind};
use serde::Serialize;
use server::{Config, ConfigError, Credentials, Devices, Overrides, ProcessRole, ServerError, Telemetry};
use std::net::SocketAddr;
use std::path::PathBuf;

/// The variable with the metadata database's password.
const PASSWORD_VARIABLE: &str = "SYNCLINE_METADATA_PASSWORD";

/// `server` once it listens.
#[derive(Serialize)]
struct Listening {
    address: String,
}

/// Runs a server until it is told to end.
pub(crate) fn serve(options: &ServerOptions, context: &Context) -> Result<(), Failure> {
    let ServerOptions { data, listen, config, metadata, blocks, cache, role, services, log_format } = options;
    let overrides = Overrides {
        cache: cache.clone(),
        role: role_of(*role),
        service_listen: services.service_listen.clone(),
        service_secret_file: services.service_secret_file.clone(),
        service_certificate_file: services.service_certificate_file.clone(),
        service_key_file: services.service_key_file.clone(),
        service_ca_file: services.service_ca_file.clone(),
        meta: services.meta.clone(),
        hubs: services.hubs.clone(),
        ..overrides(data.as_ref(), listen.as_ref(), metadata, blocks)
    };
    let config = Config::load(config.as_deref(), overrides).map_err(|error| config_failure(&error))?;
    let runtime = server::runtime().map_err(|error| server_failure(&error))?;
    let telemetry = Telemetry::start(&config, runtime.handle()).map_err(|error| server_failure(&error))?;
    log::to_stderr(*log_format, telemetry.as_ref());
    let is_new = config.role.opens_metadata() && has_no_accounts(&config)?;
    let where_to = same_settings(options, &config);
    let json = context.json;
    // For clients there is no TLS here. A hub tells its other address.
    let scheme = if config.role == ProcessRole::NotifyHub && config.services.tls.is_some() { "https" } else { "http" };
    let ready = move |address: SocketAddr| {
        let listening = Listening { address: format!("{scheme}://{address}") };
        let told = if json {
            output::json(&listening)
        } else {
            output::data(&format!("listening on {}\n", listening.address))
        };
        if let Err(failure) = told {
            tracing::warn!(%failure, "cannot say where the server listens");
        }
        if is_new {
            output::say(&format!("make the first account with: syncline admin {where_to} user add EMAIL"));
        }
    };
    let ended = runtime.block_on(async {
        server::run(config, signals::shutdown()?, ready).await.map_err(|error| server_failure(&error))
    });
    if let Some(telemetry) = telemetry {
        telemetry.end();
    }
    ended
}

const fn role_of(role: ServerRole) -> ProcessRole {
    match role {
        ServerRole::All => ProcessRole::All,
        ServerRole::Meta => ProcessRole::Meta,
        ServerRole::Block => ProcessRole::Block,
        ServerRole::NotifyHub => ProcessRole::NotifyHub,
        ServerRole::NotifyEdge => ProcessRole::NotifyEdge,
    }
}

/// The options by which `admin` finds the database that `server` works on.
fn same_settings(options: &ServerOptions, config: &Config) -> String {
    let mut words = match &options.config {
        Some(file) => format!("--config {}", file.display()),
        None => format!("--data {}", config.data_dir.display()),
    };
    let MetadataOptions { metadata, metadata_password_file } = &options.metadata;
    if let Some(url) = metadata {
        words += &format!(" --metadata {url}");
    }
    if let Some(file) = metadata_password_file {
        words += &format!(" --metadata-password-file {}", file.display());
    }
    // What the first account needs is in the database alone; the blocks are not named here.
    words
}

fn has_no_accounts(config: &Config) -> Result<bool, Failure> {
    let meta = server::open(config).map_err(|error| server_failure(&error))?;
    Ok(meta.list_users().map_err(|error| Failure::from_error(&error, None))?.is_empty())
}

/// One account, as `admin user list` shows it.
#[derive(Serialize)]
struct User {
    account: String,
    email: String,
    created: i64,
    devices: usize,
}

#[derive(Serialize)]
struct Users {
    users: Vec<User>,
}

#[derive(Serialize)]
struct Added {
    account: String,
    email: String,
    /// Whether there was no server before.
    new_server: bool,
}

#[derive(Serialize)]
struct PasswordChanged {
    email: String,
    unlinked: usize,
}

#[derive(Serialize)]
struct Raised {
    epoch: u64,
}

/// Administers the server of a data directory.
pub(crate) fn administer(options: &AdminOptions, context: &Context) -> Result<(), Failure> {
    let overrides = overrides(options.data.as_ref(), None, &options.metadata, &options.blocks);
    let config = Config::load(options.config.as_deref(), overrides).map_err(|error| config_failure(&error))?;
    let verb = match &options.verb {
        AdminVerb::User(verb) => verb,
        AdminVerb::RaiseEpoch => return raise_epoch(&config, context),
        AdminVerb::FindBlocks => return blocks::find(&config, context),
        AdminVerb::Gc { dry_run } => return blocks::clean_up(&config, *dry_run, context),
        AdminVerb::Verify => return blocks::verify(&config, context),
    };
    match verb {
        UserVerb::Add { email, password_stdin } => {
            let source = password::Source::from_flag(*password_stdin);
            let password = password::ask_new(source, &format!("Password for {}: ", output::safe(email)))?;
            let existing = server::open_existing(&config);
            let new_server = matches!(existing, Err(ServerError::NoServer { .. }));
            let meta = if new_server { server::open(&config) } else { existing };
            let meta = meta.map_err(|error| server_failure(&error))?;
            let account = meta.add_user(email, &password).map_err(|error| refusal(&error))?;
            let added = Added { account: account.to_string(), email: email.clone(), new_server };
            let place = if new_server { " to a new server: there was none before" } else { "" };
            context.show(&added, |added| format!("added {}{place}\n", output::safe(&added.email)))
        }
        UserVerb::Passwd { email, password_stdin, unlink_devices } => {
            let source = password::Source::from_flag(*password_stdin);
            let meta = server::open_existing(&config).map_err(|error| server_failure(&error))?;
            let password = password::ask_new(source, &format!("New password for {}: ", output::safe(email)))?;
            let devices = if *unlink_devices { Devices::End } else { Devices::Keep };
            let unlinked = meta.set_password(email, &password, devices).map_err(|error| refusal(&error))?;
            let changed = PasswordChanged { email: email.clone(), unlinked };
            context.show(&changed, |changed| {
                let devices = output::count(changed.unlinked as u64, "device was unlinked", "devices were unlinked");
                format!("{} has another password; {devices}\n", output::safe(&changed.email))
            })
        }
        UserVerb::List => {
            let meta = server::open_existing(&config).map_err(|error| server_failure(&error))?;
            let users = meta.list_users().map_err(|error| refusal(&error))?;
            let users = users.into_iter().map(|user| User {
                account: user.account.to_string(),
                email: user.email,
                created: user.created.0,
                devices: user.devices,
            });
            context.show(&Users { users: users.collect() }, users_text)
        }
    }
}

/// A new epoch: devices compare, and do not follow positions that have another meaning now.
fn raise_epoch(config: &Config, context: &Context) -> Result<(), Failure> {
    let meta = server::open_existing(config).map_err(|error| server_failure(&error))?;
    let epoch = meta.bump_epoch().map_err(|error| refusal(&error))?.0;
    context.show(&Raised { epoch }, |raised| format!("the epoch is now {}\n", raised.epoch))
}

fn overrides(
    data: Option<&PathBuf>,
    listen: Option<&String>,
    metadata: &MetadataOptions,
    blocks: &BlocksOptions,
) -> Overrides {
    Overrides {
        blocks: blocks.blocks.clone(),
        blocks_credentials_file: blocks.blocks_credentials_file.clone(),
        blocks_credentials: credentials_from_environment(),
        data_dir: data.cloned(),
        listen: listen.cloned(),
        metadata: metadata.metadata.clone(),
        metadata_password_file: metadata.metadata_password_file.clone(),
        metadata_password: std::env::var(PASSWORD_VARIABLE).ok().map(Into::into),
        ..Overrides::default()
    }
}

/// The variables that AWS's own tools use.
fn credentials_from_environment() -> Option<Credentials> {
    let variable = |name| std::env::var(name).ok();
    let (id, secret) = (variable("AWS_ACCESS_KEY_ID")?, variable("AWS_SECRET_ACCESS_KEY")?);
    Some(Credentials::new(id, secret, variable("AWS_SESSION_TOKEN")))
}

fn users_text(users: &Users) -> String {
    let row = |user: &User| {
        let devices = output::count(user.devices as u64, "device", "devices");
        [output::safe(&user.email), devices, format!("since {}", output::moment(user.created))]
    };
    output::table(&users.users.iter().map(row).collect::<Vec<_>>())
}

fn refusal(error: &api::ApiError) -> Failure {
    let failure = Failure::from_error(error, None);
    if error.code == api::ErrorCode::BadRequest {
        return Failure { kind: FailureKind::Usage, ..failure };
    }
    failure
}

/// A server's failure in words for its operator.
pub(crate) fn server_failure(error: &ServerError) -> Failure {
    Failure::from_error(error, Some(error.hint().into()))
}

fn config_failure(error: &ConfigError) -> Failure {
    Failure { kind: FailureKind::Usage, ..Failure::from_error(error, Some(error.hint().into())) }
}
