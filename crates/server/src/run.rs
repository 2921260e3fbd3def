//! A server's life from start to stop.

use crate::connections::{self, Purpose};
use crate::data_dir::DataDir;
use crate::health::service_health;
use crate::metrics::{Metrics, Side};
use crate::observe::observed;
use crate::roles::{self, Background, Part};
use crate::router::router;
use crate::{Config, ProcessRole, ServerError};
use meta_service::MetaService;
use notification_service::Hub;
use service_calls::{Admission, Renewal, ServiceTls, alive_routes, guard};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

/// Threads for work that blocks, mostly by waiting for a write that they share: twice the calls that
/// the meta service runs at once, so that those never keep uploads waiting for a thread.
const BLOCKING_THREADS: usize = 256;
/// How long uploads whose connections are gone may take to be stored when the server stops.
const TASK_DRAIN: Duration = Duration::from_secs(10);
/// How long one of several processes goes on accepting after it has said that it stops: longer than a
/// balancer and the other services need to ask twice.
const NOTICE: Duration = Duration::from_secs(3);
/// How often the files with the services' certificates are looked at.
const CERTIFICATES_INTERVAL: Duration = Duration::from_secs(5);
/// How long hubs may take to be told what is left.
const FLUSH: Duration = Duration::from_secs(2);

/// The runtime that a server runs well on.
///
/// # Errors
/// [`ServerError::Runtime`].
pub fn runtime() -> Result<Runtime, ServerError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().thread_name("syncline").max_blocking_threads(BLOCKING_THREADS);
    builder.build().map_err(|source| ServerError::Runtime { source })
}

/// The meta service of a configuration, for administration. Works beside a running server, whose
/// clients then hear of changes by their next poll.
///
/// # Errors
/// [`ServerError`].
pub fn open(config: &Config) -> Result<MetaService, ServerError> {
    let data_dir = DataDir::prepare(&config.data_dir)?;
    roles::open_meta(&data_dir, &config.metadata, Hub::new())
}

/// The same of a server that there is already.
///
/// # Errors
/// [`ServerError`]; `NoServer` where there is none.
pub fn open_existing(config: &Config) -> Result<MetaService, ServerError> {
    Ok(roles::existing(config)?.1)
}

/// Runs a server until `shutdown` completes. Tells `ready` on which address it listens, once it does: the one
/// for clients, or for other services where clients do not call.
///
/// # Errors
/// [`ServerError`]; only before `ready` is called.
pub async fn run(
    config: Config,
    shutdown: impl Future<Output = ()>,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServerError> {
    let (metrics, tasks) = (Arc::new(Metrics::default()), TaskTracker::new());
    let tls = config.services.tls.as_ref().map(ServiceTls::open).transpose();
    let tls = tls.map_err(|source| ServerError::ServiceTls { source })?;
    let for_clients = (config.role != ProcessRole::NotifyHub).then(|| bind(config.listen)).transpose()?;
    let for_services = config.services.listen.map(bind).transpose()?;
    let addresses = [&for_clients, &for_services].map(|bound| bound.as_ref().map(|(_, address)| *address));
    let mut part = Part::open(&config, &tasks, &metrics, tls.as_ref()).await?;
    part.background.extend(tls.clone().map(|tls| Box::pin(renew_certificates(tls)) as Background));
    let lock = part.lock.take();
    if let Some(address) = addresses[0].or(addresses[1]) {
        ready(address);
    }
    let for_services = for_services.map(|(listener, _)| (listener, tls));
    let [clients, services] = addresses.map(|address| address.map(|address| address.to_string()));
    tracing::info!(role = ?config.role, clients, services, data = %config.data_dir.display(), "the server is running");
    serve(&config, part, metrics, for_clients, for_services, shutdown).await;
    tasks.close();
    if timeout(TASK_DRAIN, tasks.wait()).await.is_err() {
        tracing::warn!(tasks = tasks.len(), "uploads were not stored in time");
    }
    drop(lock);
    tracing::info!("the server has stopped");
    Ok(())
}

/// Takes up new certificates when their files change. Never ends. Files that are no good, because only some of them have
/// been written yet perhaps, are told once and looked at again.
async fn renew_certificates(tls: ServiceTls) {
    let mut told = None;
    loop {
        sleep(CERTIFICATES_INTERVAL).await;
        let reading = tls.clone();
        match tokio::task::spawn_blocking(move || reading.renew()).await {
            Ok(Ok(Renewal::Unchanged)) => told = None,
            Ok(Ok(Renewal::Renewed)) => {
                told = None;
                tracing::info!(certificate = %tls.certificate().display(), "the services' certificates were read anew");
            }
            Ok(Err(error)) => {
                let words = error.to_string();
                if told.as_ref() != Some(&words) {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error, "new certificates are no good; those that were read before go on to count");
                    told = Some(words);
                }
            }
            Err(panic) => tracing::error!(%panic, "the certificates could not be looked at"),
        }
    }
}

fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServerError> {
    let listener = connections::listen(address)?;
    let address = listener.local_addr().map_err(|source| ServerError::Listen { address, source })?;
    Ok((listener, address))
}

/// Serves clients and other services until `shutdown`. Then, in this order: says that it stops, lets clients'
/// calls end, tells what is left to be told, lets other services' calls end.
async fn serve(
    config: &Config,
    part: Part,
    metrics: Arc<Metrics>,
    for_clients: Option<(TcpListener, SocketAddr)>,
    for_services: Option<(TcpListener, Option<ServiceTls>)>,
    shutdown: impl Future<Output = ()>,
) {
    let (draining, drains) = watch::channel(false);
    let (stop, stopped) = watch::channel(());
    let Part { for_clients: purpose, for_services: calls, need, notification, background, clean_up, lock: _ } = part;
    let purpose = purpose.zip(for_clients);
    let mut tasks = JoinSet::new();
    background.into_iter().for_each(|work| drop(tasks.spawn(work)));
    let clients = async {
        let until = async {
            shutdown.await;
            draining.send_replace(true);
            if config.role != ProcessRole::All {
                sleep(NOTICE).await;
            }
        };
        match purpose {
            Some((purpose, (listener, _))) => {
                let purpose = match purpose {
                    Purpose::Calls(calls) => Purpose::Calls(observed(router([calls]), Side::Clients, metrics.clone())),
                    other @ (Purpose::EncryptedCalls(..) | Purpose::Streams(_)) => other,
                };
                connections::serve(listener, purpose, (Side::Clients, metrics.clone()), until, || {
                    notification.say_farewell();
                })
                .await;
            }
            None => {
                until.await;
                notification.say_farewell();
            }
        }
        if timeout(FLUSH, notification.flush()).await.is_err() {
            tracing::warn!("the hubs were not told everything");
        }
        drop(stop);
    };
    let services = async {
        let Some((listener, tls)) = for_services else { return };
        let calls = calls.merge(alive_routes(drains.clone()));
        let certificate = tls.as_ref().is_some_and(ServiceTls::knows_callers);
        let guarded = guard(calls, Admission { secret: config.services.secret.clone(), certificate });
        let health = service_health(need, drains, metrics.clone());
        // Unknown calls are answered in no form that a caller could take for a service's word.
        let all = observed(guarded.merge(health), Side::Services, metrics.clone());
        let count = (Side::Services, metrics.clone());
        let mut stopped = stopped;
        // The sender says nothing, it only goes.
        let until = async { drop(stopped.changed().await) };
        let purpose = match tls {
            Some(tls) => Purpose::EncryptedCalls(all, tls),
            None => Purpose::Calls(all),
        };
        connections::serve(listener, purpose, count, until, || ()).await;
    };
    tokio::join!(clients, services);
    if let Some(clean_up) = clean_up {
        clean_up.stop();
    }
    // What never ends by itself ends here.
    tasks.shutdown().await;
}
