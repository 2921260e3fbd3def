//! A TCP proxy between a device and the server that can be told to fail.
//!
//! It works on bytes and knows nothing of HTTP, like the networks that it stands for.

use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

const BUFFER_BYTES: usize = 16 * 1024;
/// How often a held connection looks whether the weather has changed.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// A silent read ends after this, so that its thread can look around.
const READ_LIMIT: Duration = Duration::from_millis(50);

/// What the network does to all connections of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// All passes.
    Fair,
    /// New connections are closed at once, and old ones too.
    Refusing,
    /// Connections stay open and nothing passes any more.
    Silent,
    /// What the device sends passes, and no answer comes back: acknowledgements are lost.
    Deaf,
    /// Every piece comes late.
    Late(Duration),
    /// Each connection is cut after this many bytes of answers: bodies are truncated.
    Cut(usize),
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    weather: Mutex<Weather>,
    /// Counts changes of the weather that end all connections made before.
    generation: Mutex<u64>,
    ended: AtomicBool,
}

impl Shared {
    fn weather(&self) -> Weather {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn generation(&self) -> u64 {
        *self.generation.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A proxy that listens on a port of its own until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Proxy {
    /// Starts a proxy before a server.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(server: &str) -> Result<Self> {
        let server = server.parse().with_context(|| format!("`{server}` is no address"))?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Shared {
            server,
            weather: Mutex::new(Weather::Fair),
            generation: Mutex::new(0),
            ended: AtomicBool::new(false),
        };
        let shared = Arc::new(shared);
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting));
        Ok(Self { shared, address })
    }

    /// Where devices connect to.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Changes the weather. When it becomes fair, connections that suffered from the old one are reset, as
    /// they are when a device joins another network.
    pub fn set(&self, weather: Weather) {
        *self.shared.weather.lock().unwrap_or_else(PoisonError::into_inner) = weather;
        if matches!(weather, Weather::Fair | Weather::Refusing) {
            *self.shared.generation.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.set(Weather::Refusing);
        // Wakes the thread that waits for connections; if that fails it ends with the process.
        drop(TcpStream::connect(self.address));
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for device in listener.incoming() {
        if shared.ended.load(Ordering::Relaxed) {
            return;
        }
        let Ok(device) = device else { continue };
        if shared.weather() == Weather::Refusing {
            continue;
        }
        // A server that is down looks like a connection that ends at once.
        let Ok(server) = TcpStream::connect(shared.server) else { continue };
        drop(carry(device, server, shared));
    }
}

/// Carries both ways of a connection, each in a thread.
fn carry(device: TcpStream, server: TcpStream, shared: &Arc<Shared>) -> std::io::Result<()> {
    let generation = shared.generation();
    for (from, to, way) in
        [(device.try_clone()?, server.try_clone()?, Way::Up), (server.try_clone()?, device.try_clone()?, Way::Down)]
    {
        from.set_read_timeout(Some(READ_LIMIT))?;
        from.set_nodelay(true)?;
        let pipe = Pipe { from, to, way, generation, shared: Arc::clone(shared), carried: 0 };
        thread::spawn(move || pipe.run());
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// One way of a connection.
struct Pipe {
    from: TcpStream,
    to: TcpStream,
    way: Way,
    generation: u64,
    shared: Arc<Shared>,
    carried: usize,
}

impl Pipe {
    fn run(mut self) {
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Some(read) = self.next_piece(&mut buffer) {
            if !self.pass(&buffer[..read]) {
                break;
            }
        }
        // Both ends may be gone already.
        self.from.shutdown(Shutdown::Both).ok();
        self.to.shutdown(Shutdown::Both).ok();
    }

    /// `None` at the connection's end.
    fn next_piece(&mut self, buffer: &mut [u8]) -> Option<usize> {
        loop {
            if self.is_over() {
                return None;
            }
            match self.from.read(buffer) {
                Ok(0) => return None,
                Ok(read) => return Some(read),
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                }
                Err(_) => return None,
            }
        }
    }

    fn is_over(&self) -> bool {
        self.shared.generation() != self.generation || self.shared.ended.load(Ordering::Relaxed)
    }

    /// Lets a piece pass as the weather allows; `false` ends the connection.
    fn pass(&mut self, piece: &[u8]) -> bool {
        loop {
            if self.is_over() {
                return false;
            }
            match (self.shared.weather(), self.way) {
                (Weather::Fair, _) | (Weather::Deaf | Weather::Cut(_), Way::Up) => break,
                (Weather::Refusing, _) => return false,
                (Weather::Silent, _) | (Weather::Deaf, Way::Down) => thread::sleep(LOOK_AGAIN),
                (Weather::Late(delay), _) => {
                    thread::sleep(delay);
                    break;
                }
                (Weather::Cut(after), Way::Down) => {
                    let left = after.saturating_sub(self.carried);
                    let passed = piece.len().min(left);
                    self.carried += passed;
                    return self.to.write_all(&piece[..passed]).is_ok() && passed == piece.len();
                }
            }
        }
        self.carried += piece.len();
        self.to.write_all(piece).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that says back what it hears.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("has one");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut writer = stream.try_clone().expect("clones");
                    std::io::copy(&mut &stream, &mut writer).ok();
                });
            }
        });
        address
    }

    fn ask(proxy: &Proxy, question: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(proxy.address()).expect("connects");
        stream.set_read_timeout(Some(Duration::from_millis(300))).expect("sets");
        stream.write_all(question).ok();
        let mut answer = vec![0; question.len()];
        let mut got = 0;
        while got < answer.len() {
            match stream.read(&mut answer[got..]) {
                Ok(read) if read > 0 => got += read,
                _ => break,
            }
        }
        answer.truncate(got);
        answer
    }

    #[test]
    fn each_weather_does_what_it_says() {
        let proxy = Proxy::start(&echo().to_string()).expect("starts");
        for (weather, expected) in [
            (Weather::Fair, "question"),
            (Weather::Refusing, ""),
            (Weather::Silent, ""),
            (Weather::Deaf, ""),
            (Weather::Late(Duration::from_millis(5)), "question"),
            (Weather::Cut(3), "que"),
            (Weather::Fair, "question"),
        ] {
            proxy.set(weather);
            assert_eq!(ask(&proxy, b"question"), expected.as_bytes(), "{weather:?}");
        }
    }
}
