//! `link` and `unlink`.

use super::Context;
use super::start::{runtime, stop_running};
use crate::arguments::LinkOptions;
use crate::{output, password};
use client::device::{self, DeviceError};
use client::{Control, Failure, FailureKind};
use serde::Serialize;

/// A linked device, as `link` reports it.
#[derive(Serialize)]
struct Linked {
    device: String,
    device_name: String,
    folder: String,
    server: String,
    email: String,
}

/// Links this device.
pub(crate) fn link(options: LinkOptions, context: &Context) -> Result<(), Failure> {
    let home = context.home()?;
    let server = options.server.parse().map_err(|error: client::transport::BadServerUrl| Failure {
        kind: FailureKind::Usage,
        ..Failure::from_error(&error, Some(error.hint()))
    })?;
    // Before a password is asked for in vain.
    device::refuse_if_linked(&home).map_err(|error| failure(&error))?;
    let source = password::Source::from_flag(options.password_stdin);
    let password = password::ask(source, &format!("Password of {}: ", output::safe(&options.email)))?;
    let options = client::LinkOptions {
        server,
        email: options.email,
        password,
        folder: options.folder,
        device_name: options.name.unwrap_or_else(device::default_device_name),
    };
    let config = runtime()?.block_on(device::link(&home, options)).map_err(|error| failure(&error))?;
    let linked = Linked {
        device: config.device.to_string(),
        device_name: config.device_name,
        folder: config.folder.display().to_string(),
        server: config.server,
        email: config.email,
    };
    output::say("run `syncline start` to begin syncing");
    context.show(&linked, |linked| {
        format!("linked {} as `{}`\n", output::safe(&linked.folder), output::safe(&linked.device_name))
    })
}

/// Unlinks this device.
pub(crate) fn unlink(context: &Context) -> Result<(), Failure> {
    let home = context.home()?;
    if let Ok(control) = Control::connect(&home) {
        stop_running(&home, control)?;
    }
    let unlinked = runtime()?.block_on(device::unlink(&home)).map_err(|error| failure(&error))?;
    if let Some(reason) = &unlinked.server_not_told {
        output::say(&format!("warning: the server still lists this device: {}", output::safe(reason)));
    }
    context.show(&unlinked, |unlinked| {
        format!("unlinked; your files stay in {}\n", output::safe(&unlinked.folder.display().to_string()))
    })
}

fn failure(error: &DeviceError) -> Failure {
    let failure = Failure::from_error(error, error.hint());
    match error {
        DeviceError::Email { .. } | DeviceError::Password | DeviceError::Name => {
            Failure { kind: FailureKind::Usage, ..failure }
        }
        _ => failure,
    }
}
