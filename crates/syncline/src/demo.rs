//! `demo`: a server and two devices in one process, and a view of what they do.

mod place;
mod view;

use crate::arguments::DemoOptions;
use crate::commands::server::server_failure;
use crate::commands::start::failure as daemon_failure;
use crate::{log, output, signals};
use client::{Daemon, Failure, Home, LinkOptions};
use place::{EMAIL, Place};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use view::Ended;

/// Where the demonstration's server listens: the system chooses the port.
const ANY_LOCAL_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// The names of the two devices and of their folders.
const DEVICES: [&str; 2] = ["Laptop", "Desktop"];

/// A device of the demonstration, as it is shown.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    pub(crate) name: &'static str,
    pub(crate) home: Home,
    pub(crate) folder: PathBuf,
}

/// Runs the demonstration until the person ends it.
pub(crate) fn run(options: &DemoOptions) -> Result<(), Failure> {
    let place = Place::prepare(options.dir.as_deref())?;
    log::to_file(&place.log())?;
    let runtime = server::runtime().map_err(|error| server_failure(&error))?;
    let result = runtime.block_on(demonstrate(&place));
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    place.clean_up();
    result
}

async fn demonstrate(place: &Place) -> Result<(), Failure> {
    let shutdown = signals::shutdown()?;
    let password = place.account()?;
    let (stop, stopped) = watch::channel(false);
    let (address, server) = start_server(place, stopped.clone()).await?;
    let mut devices = Vec::new();
    let mut daemons = Vec::new();
    for name in DEVICES {
        let device = link(place, name, address, &password).await?;
        let daemon = Daemon::start(device.home.clone()).await.map_err(|error| daemon_failure(&error))?;
        let until = wait_for_stop(stopped.clone());
        daemons.push(tokio::spawn(async move { daemon.run_until(until).await }));
        devices.push(device);
    }
    let introduction = introduction(place, address, &devices);
    output::say(&introduction.join("\n"));
    let shown = show(devices, introduction, shutdown).await;

    // The devices first: they say goodbye to a server that is still there.
    stop.send(true).ok();
    for daemon in daemons {
        let ended = daemon.await.map_err(|error| Failure::from_error(&error, None))?;
        ended.map_err(|error| daemon_failure(&error))?;
    }
    server.await.map_err(|error| Failure::from_error(&error, None))??;
    shown
}

/// Starts the server on a free port of this machine.
async fn start_server(
    place: &Place,
    stopped: watch::Receiver<bool>,
) -> Result<(SocketAddr, JoinHandle<Result<(), Failure>>), Failure> {
    let (tell, told) = oneshot::channel();
    let config = server::Config::embedded(place.server(), ANY_LOCAL_PORT);
    // Nobody waits any more when the person has ended the demonstration already.
    let ready = move |address| {
        tell.send(address).ok();
    };
    let server = tokio::spawn(async move {
        server::run(config, wait_for_stop(stopped), ready).await.map_err(|error| server_failure(&error))
    });
    match told.await {
        Ok(address) => Ok((address, server)),
        Err(_) => {
            let ended = server.await.map_err(|error| Failure::from_error(&error, None))?;
            Err(ended.err().unwrap_or_else(|| Failure::failed("the server ended at once")))
        }
    }
}

async fn wait_for_stop(mut stopped: watch::Receiver<bool>) {
    // The sender is gone only when the demonstration is over, too.
    drop(stopped.wait_for(|stopped| *stopped).await);
}

/// Links a device, or points one that an earlier demonstration linked to where the server is now.
async fn link(place: &Place, name: &'static str, address: SocketAddr, password: &str) -> Result<Device, Failure> {
    let device = Device { name, home: place.home(name), folder: place.folder(name) };
    let server = format!("http://{address}");
    if device.home.is_linked() {
        let loaded = device.home.load_config();
        let saved = loaded.and_then(|config| device.home.save_config(&client::Config { server, ..config }));
        saved.map_err(|error| Failure::from_error(&error, error.hint()))?;
        return Ok(device);
    }
    let options = LinkOptions {
        server: server
            .parse()
            .map_err(|error| Failure::from_error(&error as &client::transport::BadServerUrl, None))?,
        email: EMAIL.into(),
        password: password.into(),
        folder: device.folder.clone(),
        device_name: name.into(),
    };
    let linked = client::device::link(&device.home, options).await;
    linked.map_err(|error| Failure::from_error(&error, error.hint()))?;
    Ok(device)
}

/// What a person needs to know to play with it.
fn introduction(place: &Place, address: SocketAddr, devices: &[Device]) -> Vec<String> {
    let mut lines = vec![format!("a server runs on http://{address}, and two devices of {EMAIL} with these folders:")];
    lines.extend(devices.iter().map(|device| format!("  {:8} {}", device.name, device.folder.display())));
    lines.push("change files in one, and watch the other; in another terminal, for example:".into());
    for device in devices.iter().take(1) {
        lines.push(format!("  echo hello > {}", device.folder.join("hello.txt").display()));
        lines.push(format!("  syncline --home {} status --watch", device.home.path().display()));
    }
    let fate = if place.is_temporary() { "everything above is removed at the end" } else { "everything is kept" };
    lines.push(format!("Ctrl-C ends it; {fate}"));
    lines
}

/// Shows what happens until the person or a signal ends it.
async fn show(
    devices: Vec<Device>,
    introduction: Vec<String>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let ended = Ended::default();
    let view = {
        let ended = ended.clone();
        tokio::task::spawn_blocking(move || view::show(&devices, &introduction, &ended))
    };
    let mut view = std::pin::pin!(view);
    tokio::select! {
        shown = &mut view => return shown.map_err(|error| Failure::from_error(&error, None))?,
        () = shutdown => ended.set(),
    }
    view.await.map_err(|error| Failure::from_error(&error, None))?
}
