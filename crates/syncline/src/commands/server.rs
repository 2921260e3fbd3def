//! `server` and `admin`.

use super::Context;
use crate::arguments::{AdminOptions, AdminVerb, ServerOptions, ServerRole, UserVerb};
use crate::{log, output, password, signals};
use client::{Failure, FailureKind};
use serde::Serialize;
use server::{Config, ConfigError, Overrides, ServerError};
use std::net::SocketAddr;

/// `server` once it listens.
#[derive(Serialize)]
struct Listening {
    address: String,
}

/// Runs a server until it is told to end.
pub(crate) fn serve(options: &ServerOptions, context: &Context) -> Result<(), Failure> {
    let ServerOptions { data, listen, config, role: ServerRole::All } = options;
    log::to_stderr();
    let overrides = Overrides { data_dir: data.clone(), listen: listen.clone() };
    let config = Config::load(config.as_deref(), overrides).map_err(|error| config_failure(&error))?;
    let is_new = has_no_accounts(&config)?;
    let data_dir = config.data_dir.clone();
    let runtime = server::runtime().map_err(|error| server_failure(&error))?;
    let json = context.json;
    let ready = move |address: SocketAddr| {
        let listening = Listening { address: format!("http://{address}") };
        let told = if json {
            output::json(&listening)
        } else {
            output::data(&format!("listening on {}\n", listening.address))
        };
        if let Err(failure) = told {
            tracing::warn!(%failure, "cannot say where the server listens");
        }
        if is_new {
            let data = data_dir.display();
            output::say(&format!("make the first account with: syncline admin --data {data} user add EMAIL"));
        }
    };
    runtime.block_on(async {
        server::run(config, signals::shutdown()?, ready).await.map_err(|error| server_failure(&error))
    })
}

fn has_no_accounts(config: &Config) -> Result<bool, Failure> {
    let meta = server::open(&config.data_dir).map_err(|error| server_failure(&error))?;
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
}

/// Administers the server of a data directory.
pub(crate) fn administer(options: &AdminOptions, context: &Context) -> Result<(), Failure> {
    let overrides = Overrides { data_dir: options.data.clone(), listen: None };
    let config = Config::load(options.config.as_deref(), overrides).map_err(|error| config_failure(&error))?;
    let AdminVerb::User(verb) = &options.verb;
    match verb {
        UserVerb::Add { email, password_stdin } => {
            let source = password::Source::from_flag(*password_stdin);
            let password = password::ask_new(source, &format!("Password for {}: ", output::safe(email)))?;
            let meta = server::open(&config.data_dir).map_err(|error| server_failure(&error))?;
            let account = meta.add_user(email, &password).map_err(|error| refusal(&error))?;
            let added = Added { account: account.to_string(), email: email.clone() };
            context.show(&added, |added| format!("added {}\n", output::safe(&added.email)))
        }
        UserVerb::List => {
            let meta = server::open(&config.data_dir).map_err(|error| server_failure(&error))?;
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
