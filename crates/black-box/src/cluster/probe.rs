//! Asks for the shared address's state again and again, and notes for how long there was no answer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Between the beginnings of two questions.
const EVERY: Duration = Duration::from_millis(5);
/// What has not been answered by then never is.
const TIME_OUT: Duration = Duration::from_millis(100);
/// When there is no point in asking further.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);
/// A call that goes through a balancer to a meta service and needs no account.
const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: cluster\r\nconnection: close\r\n\r\n";

/// The longest time between two answers, until told to end and answered once more.
pub(super) fn longest_silence(address: SocketAddr, ended: &Arc<AtomicBool>) -> Duration {
    let (mut longest, mut answered) = (Duration::ZERO, Instant::now());
    loop {
        let asked = Instant::now();
        if is_answered(address) {
            longest = longest.max(answered.elapsed());
            answered = Instant::now();
            if ended.load(Ordering::Relaxed) {
                return longest;
            }
        } else if answered.elapsed() > LONGEST_SILENCE {
            return answered.elapsed();
        }
        thread::sleep(EVERY.saturating_sub(asked.elapsed()));
    }
}

/// Whether a service answers that it is well.
pub(super) fn is_answered(address: SocketAddr) -> bool {
    status_of(address, REQUEST).is_some_and(|status| status == 200)
}

/// Whether a service says on its own address that it can work.
pub(super) fn is_ready(address: SocketAddr) -> bool {
    status_of(address, b"GET /readyz HTTP/1.1\r\nhost: cluster\r\nconnection: close\r\n\r\n") == Some(200)
}

/// Whether somebody speaks first at an address, as databases do.
pub(super) fn greets(address: SocketAddr) -> bool {
    let read = TcpStream::connect_timeout(&address, TIME_OUT).and_then(|mut stream| {
        stream.set_read_timeout(Some(TIME_OUT))?;
        stream.read(&mut [0])
    });
    read.is_ok_and(|read| read > 0)
}

fn status_of(address: SocketAddr, request: &[u8]) -> Option<u16> {
    let mut stream = TcpStream::connect_timeout(&address, TIME_OUT).ok()?;
    stream.set_read_timeout(Some(TIME_OUT)).ok()?;
    stream.write_all(request).ok()?;
    let mut answer = [0; 64];
    let read = stream.read(&mut answer).ok()?;
    String::from_utf8_lossy(&answer[..read]).split(' ').nth(1)?.parse().ok()
}
