//! Answers the command line on the daemon's behalf.

use super::protocol::{Command, Failure, LINE_BYTES, Reply, Request, VERSION};
use super::socket::Address;
use crate::daemon::{Ask, DaemonError, Proxy};
use crate::home::Home;
use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at once; further ones wait.
const CONNECTIONS: usize = 64;
/// How often `watch` looks whether the status changed.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);
/// The pause after a failure to accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Opens the socket; the future serves it until it is cancelled. The caller holds the home's lock, so a
/// socket that is there is a dead daemon's.
pub(crate) fn listen(
    home: &Home,
    proxy: Proxy,
    cancelled: CancellationToken,
    tasks: TaskTracker,
) -> Result<impl Future<Output = ()> + use<>, DaemonError> {
    let path = home.socket();
    let listener = bind(home).map_err(|source| DaemonError::Socket { path, source })?;
    Ok(async move {
        tokio::select! {
            () = accept(listener, proxy, &tasks, &cancelled) => {}
            () = cancelled.cancelled() => {}
        }
    })
}

/// Binds beside the final name: nobody can connect before only the owner may.
fn bind(home: &Home) -> io::Result<UnixListener> {
    let path = home.socket();
    let unready = path.with_extension("new");
    for old in [&path, &unready] {
        match fs::remove_file(old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let address = Address::of(&unready)?;
    let listener = UnixListener::bind(address.path())?;
    fs::set_permissions(&unready, fs::Permissions::from_mode(0o600))?;
    fs::rename(&unready, &path)?;
    Ok(listener)
}

async fn accept(listener: UnixListener, proxy: Proxy, tasks: &TaskTracker, cancelled: &CancellationToken) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (proxy, cancelled) = (proxy.clone(), cancelled.clone());
                tasks.spawn(async move {
                    tokio::select! {
                        () = serve(stream, proxy) => {}
                        () = cancelled.cancelled() => {}
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to the control socket");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection until its end. An error means that the other side is gone, and is no news.
async fn serve(stream: UnixStream, proxy: Proxy) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    while let Some(request) = next_request(&mut reader).await {
        let served = match request {
            // These may take a day, or for ever. Others are done although nobody waits for the answer any more.
            Ok(command @ (Command::Watch | Command::Flush { .. })) => {
                tokio::select! {
                    served = perform(&proxy, command, &mut writer) => served,
                    () = end_of(&mut reader) => return,
                }
            }
            Ok(command) => perform(&proxy, command, &mut writer).await,
            Err(failure) => write_reply(&mut writer, &Reply::Error(failure)).await,
        };
        if served.is_err() {
            return;
        }
    }
}

async fn perform(proxy: &Proxy, command: Command, writer: &mut OwnedWriteHalf) -> io::Result<()> {
    if command == Command::Watch {
        return watch(proxy, writer).await;
    }
    let reply = proxy.answer(command).await.map_or_else(Reply::Error, Reply::Ok);
    write_reply(writer, &reply).await
}

/// Waits until the other side has hung up. Who asks for more before there is an answer has not.
async fn end_of(reader: &mut BufReader<OwnedReadHalf>) {
    if reader.fill_buf().await.is_ok_and(|bytes| !bytes.is_empty()) {
        std::future::pending::<()>().await;
    }
}

/// The next request; `None` at the end of the connection.
async fn next_request(reader: &mut BufReader<OwnedReadHalf>) -> Option<Result<Command, Failure>> {
    let mut line = Vec::new();
    let limit = u64::try_from(LINE_BYTES).unwrap_or(u64::MAX);
    reader.take(limit).read_until(b'\n', &mut line).await.ok()?;
    // What does not end in a line end is too long, or broke off.
    line.pop_if(|last| *last == b'\n')?;
    Some(parse(&line))
}

fn parse(line: &[u8]) -> Result<Command, Failure> {
    let other = || {
        Failure::failed("the daemon is of another version than this command")
            .with_hint("run `syncline stop` and `syncline start`")
    };
    let value: serde_json::Value = serde_json::from_slice(line).map_err(|_| Failure::usage("this is not a request"))?;
    // Whatever its version is, a command must be able to stop the daemon of the version before.
    if value.get("command").and_then(serde_json::Value::as_str) == Some("stop") {
        return Ok(Command::Stop);
    }
    if value.get("version").and_then(serde_json::Value::as_u64) != Some(VERSION.into()) {
        return Err(other());
    }
    serde_json::from_value(value).map(|request: Request| request.command).map_err(|_| other())
}

/// Writes the status whenever it changes, until the other side hangs up.
async fn watch(proxy: &Proxy, writer: &mut OwnedWriteHalf) -> io::Result<()> {
    let mut last = None;
    loop {
        match proxy.asks().ask(Ask::Status).await {
            Ok(status) => {
                if last.as_ref() != Some(&status) {
                    let value = serde_json::to_value(&status).map_err(io::Error::other)?;
                    write_reply(writer, &Reply::Ok(value)).await?;
                    last = Some(status);
                }
            }
            Err(failure) => return write_reply(writer, &Reply::Error(failure)).await,
        }
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

async fn write_reply(writer: &mut OwnedWriteHalf, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_told_from_nonsense() {
        assert_eq!(parse(br#"{"version":2,"command":"status"}"#), Ok(Command::Status));
        let message = |line: &[u8]| parse(line).expect_err("refused").message;
        assert!(message(br#"{"version":1,"command":"status"}"#).contains("another version"));
        assert!(message(br#"{"version":3,"command":"status"}"#).contains("another version"));
        assert!(message(br#"{"version":2,"command":"dance"}"#).contains("another version"));
        assert!(message(b"GET / HTTP/1.1").contains("not a request"));
        assert_eq!(parse(br#"{"version":1,"command":"stop"}"#), Ok(Command::Stop), "or nobody could stop it");
    }
}
