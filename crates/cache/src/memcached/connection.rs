//! One connection, on which every wait ends at a moment that was set before.

use super::protocol::{self, ProtocolError};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

/// A connection to a server.
pub(super) struct Connection {
    stream: BufReader<Bounded>,
    run: u64,
}

/// A socket with a deadline for all that is read and written.
struct Bounded {
    socket: TcpStream,
    until: Instant,
}

impl Connection {
    /// Connects, and asks which run of the server this is.
    pub(super) fn open(address: SocketAddr, until: Instant) -> Result<Self, ProtocolError> {
        let left = left(until).map_err(ProtocolError::Connection)?;
        let opened = TcpStream::connect_timeout(&address, left).and_then(|socket| {
            socket.set_nodelay(true)?;
            Ok(socket)
        });
        let socket = opened.map_err(ProtocolError::Connection)?;
        let mut connection = Self { stream: BufReader::new(Bounded { socket, until }), run: 0 };
        connection.send(protocol::STATS).map_err(ProtocolError::Connection)?;
        connection.run = protocol::read_run(&mut connection.stream)?;
        Ok(connection)
    }

    /// Which run of the server it leads to.
    pub(super) const fn run(&self) -> u64 {
        self.run
    }

    pub(super) fn wait_until(&mut self, until: Instant) {
        self.stream.get_mut().until = until;
    }

    pub(super) fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(request)
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl BufRead for Connection {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.stream.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.stream.consume(amount);
    }
}

/// The time until a moment. None left is a time-out: to a socket 0 would mean "for ever".
fn left(until: Instant) -> io::Result<std::time::Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// A time-out of a socket comes under either name.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(left(self.until)?))?;
        self.socket.read(buffer).map_err(timed_out)
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(left(self.until)?))?;
        self.socket.write(bytes).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}
