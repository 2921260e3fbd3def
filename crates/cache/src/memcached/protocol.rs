//! Memcached's meta commands, as many as are needed: what is sent, and how the answers are read.
//!
//! ```text
//! mg KEY v c N5            VA LENGTH cVERSION [W|Z]     a value; empty with W: yours to fill in; with Z: another's
//! ms KEY LENGTH CVERSION T60    HD | EX | NF | NS       stored, or not: the item is another one, or none
//! md KEY                   HD | NF
//! stats                    STAT NAME VALUE ... END
//! ```
//!
//! What comes is bounded before it is read.

use crate::{LEASE_LIFE, VALUE_BYTES};
use std::io::{self, BufRead, Read};
use std::time::Duration;

/// Bytes of an answer's line: more than any that is understood here.
const LINE_BYTES: u64 = 2048;
/// Lines of the answer to `stats`: there are about a hundred.
const STATS_LINES: usize = 1000;
/// The longest life that is told: longer ones memcached takes for a date.
const LONGEST_LIFE_S: u64 = 30 * 24 * 3600;

/// The answer to a get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Got {
    Value(Vec<u8>),
    /// Nothing was there; the caller may fill it in.
    Leased {
        token: u64,
    },
    /// Nothing was there; another may fill it in.
    Taken,
}

/// Why an answer could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    #[error("the connection to the cache server failed")]
    Connection(#[source] io::Error),
    #[error("the cache server sent something that is no answer")]
    NoAnswer,
    #[error("the cache server refused the command: {0}")]
    Refused(String),
}

pub(super) fn get(key: &str) -> String {
    format!("mg {key} v c N{}\r\n", LEASE_LIFE.as_secs())
}

pub(super) fn delete(key: &str) -> String {
    format!("md {key}\r\n")
}

/// A part of a second counts as one: a life of 0 would be for ever.
pub(super) fn fill(key: &str, token: u64, value: &[u8], life: Duration) -> Vec<u8> {
    let seconds = life.as_secs().clamp(1, LONGEST_LIFE_S);
    let mut request = format!("ms {key} {} C{token} T{seconds}\r\n", value.len()).into_bytes();
    request.extend_from_slice(value);
    request.extend_from_slice(b"\r\n");
    request
}

pub(super) const STATS: &[u8] = b"stats\r\n";

/// Reads the answer to a get.
///
/// # Errors
/// [`ProtocolError`]; nothing more can be read from the connection then.
pub fn read_got(from: &mut impl BufRead) -> Result<Got, ProtocolError> {
    let line = read_line(from)?;
    let mut words = line.split(' ');
    let (Some("VA"), Some(length)) = (words.next(), words.next()) else { return Err(refusal(&line)) };
    let length = length.parse().ok().filter(|length| *length <= VALUE_BYTES).ok_or(ProtocolError::NoAnswer)?;
    let flags: Vec<&str> = words.collect();
    let mut value = vec![0; length + 2];
    from.read_exact(&mut value).map_err(ProtocolError::Connection)?;
    if value.split_off(length) != b"\r\n" {
        return Err(ProtocolError::NoAnswer);
    }
    let token = flags.iter().find_map(|flag| flag.strip_prefix('c')?.parse().ok());
    match (length, flags.contains(&"W"), token) {
        (1.., _, _) => Ok(Got::Value(value)),
        (0, true, Some(token)) => Ok(Got::Leased { token }),
        (0, _, _) => Ok(Got::Taken),
    }
}

/// Reads the answer to a set or a deletion: whether it was done.
pub(super) fn read_done(from: &mut impl BufRead) -> Result<bool, ProtocolError> {
    let line = read_line(from)?;
    match line.split(' ').next() {
        Some("HD") => Ok(true),
        Some("NF" | "EX" | "NS") => Ok(false),
        Some(_) | None => Err(refusal(&line)),
    }
}

/// Reads from the statistics which run of the server this is: another process, or another start, is another.
pub(super) fn read_run(from: &mut impl BufRead) -> Result<u64, ProtocolError> {
    let (mut pid, mut time, mut uptime): (Option<u64>, Option<u64>, Option<u64>) = (None, None, None);
    for _ in 0..STATS_LINES {
        let line = read_line(from)?;
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["END"] => {
                let (Some(pid), Some(time), Some(uptime)) = (pid, time, uptime) else { break };
                let started = time.wrapping_sub(uptime);
                return Ok(started << 32 | pid & 0xffff_ffff);
            }
            ["STAT", "pid", value] => pid = value.parse().ok(),
            ["STAT", "time", value] => time = value.parse().ok(),
            ["STAT", "uptime", value] => uptime = value.parse().ok(),
            ["STAT", ..] => {}
            _ => return Err(refusal(&line)),
        }
    }
    Err(ProtocolError::NoAnswer)
}

fn read_line(from: &mut impl BufRead) -> Result<String, ProtocolError> {
    let mut line = Vec::new();
    from.take(LINE_BYTES).read_until(b'\n', &mut line).map_err(ProtocolError::Connection)?;
    if line.is_empty() {
        return Err(ProtocolError::Connection(io::ErrorKind::UnexpectedEof.into()));
    }
    let line = line.strip_suffix(b"\r\n").ok_or(ProtocolError::NoAnswer)?;
    String::from_utf8(line.to_vec()).map_err(|_| ProtocolError::NoAnswer)
}

fn refusal(line: &str) -> ProtocolError {
    match line.split(' ').next() {
        Some("ERROR" | "CLIENT_ERROR" | "SERVER_ERROR") => ProtocolError::Refused(line.to_owned()),
        Some(_) | None => ProtocolError::NoAnswer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn got(mut bytes: &[u8]) -> Result<Got, ProtocolError> {
        read_got(&mut bytes)
    }

    #[test]
    fn an_answer_is_a_value_a_lease_or_anothers() {
        assert_eq!(got(b"VA 5 c7\r\na\r\nbc\r\n").expect("is one"), Got::Value(b"a\r\nbc".to_vec()));
        assert_eq!(got(b"VA 0 c18446744073709551615 W\r\n\r\n").expect("is one"), Got::Leased { token: u64::MAX });
        assert_eq!(got(b"VA 0 c7 Z\r\n\r\n").expect("is one"), Got::Taken);
        assert_eq!(got(b"VA 0 W\r\n\r\n").expect("is one"), Got::Taken, "a lease without a token is none");
    }

    #[test]
    fn what_is_no_answer_is_told_and_nothing_is_made_room_for_unasked() {
        let no_answers: [&[u8]; 9] = [
            b"VA 99999999999999999999 c1\r\n",
            b"VA 1000001 c1\r\n",
            b"VA -1 c1\r\n",
            b"VA 1 c1\r\nabc\r\n",
            b"VA\r\n",
            b"EN\r\n",
            b"\r\n",
            b"VA 1 c1\n",
            b"\xff\r\n",
        ];
        for bytes in no_answers {
            assert!(matches!(got(bytes), Err(ProtocolError::NoAnswer)), "{bytes:?}");
        }
        for bytes in [&b""[..], b"VA 5 c1\r\nab"] {
            assert!(matches!(got(bytes), Err(ProtocolError::Connection(_))), "{bytes:?}");
        }
        assert!(matches!(got(b"CLIENT_ERROR bad\r\n"), Err(ProtocolError::Refused(_))));
        assert!(matches!(got(&[b'a'; 100_000]), Err(ProtocolError::NoAnswer)));
    }

    #[test]
    fn a_run_is_known_by_its_process_and_its_start() {
        let run = |text: &str| read_run(&mut text.as_bytes());
        let first = run("STAT pid 7\r\nSTAT uptime 10\r\nSTAT time 1000\r\nSTAT libevent 2\r\nEND\r\n").expect("one");
        assert_eq!(first, run("STAT pid 7\r\nSTAT uptime 500\r\nSTAT time 1490\r\nEND\r\n").expect("the same"));
        assert_ne!(first, run("STAT pid 7\r\nSTAT uptime 2\r\nSTAT time 1000\r\nEND\r\n").expect("another start"));
        assert_ne!(first, run("STAT pid 8\r\nSTAT uptime 10\r\nSTAT time 1000\r\nEND\r\n").expect("another process"));
        assert!(matches!(run("STAT pid 7\r\nEND\r\n"), Err(ProtocolError::NoAnswer)));
    }

    #[test]
    fn commands_are_what_memcached_takes() {
        assert_eq!(get("a/b"), "mg a/b v c N5\r\n");
        assert_eq!(delete("a/b"), "md a/b\r\n");
        assert_eq!(fill("a", 7, b"xyz", Duration::from_secs(60)), b"ms a 3 C7 T60\r\nxyz\r\n");
        assert_eq!(fill("a", 7, b"x", Duration::from_millis(1)), b"ms a 1 C7 T1\r\nx\r\n");
        assert_eq!(fill("a", 7, b"x", Duration::from_secs(u64::MAX)), b"ms a 1 C7 T2592000\r\nx\r\n");
    }
}
