//! What people and programs see: data on standard output, talk on standard error.

use client::{Failure, FailureKind};
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

/// The exit code of a command that was stopped for safety.
const EXIT_UNSAFE: u8 = 7;

/// Prints data.
pub(crate) fn data(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // Whoever read it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::from_error(&error, None)),
        Ok(()) => Ok(()),
    }
}

/// Prints an object as one line of JSON.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let line = serde_json::to_string(value).map_err(|error| Failure::from_error(&error, None))?;
    data(&(line + "\n"))
}

/// Says something to the person.
pub(crate) fn say(text: &str) {
    // Standard error that is gone leaves nobody to tell.
    drop(writeln!(io::stderr(), "{text}"));
}

/// Reports an error, and gives the exit code for it.
pub(crate) fn report(failure: &Failure) -> ExitCode {
    say(&error_text(failure, Style::for_stderr()));
    match failure.kind {
        FailureKind::Failed => ExitCode::from(1),
        FailureKind::Usage => ExitCode::from(2),
        FailureKind::Unsafe => ExitCode::from(EXIT_UNSAFE),
    }
}

/// Whether colours are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Colour,
}

impl Style {
    fn for_stderr() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if !refused && io::stderr().is_terminal() { Self::Colour } else { Self::Plain }
    }

    fn paint(self, word: &str, code: &str) -> String {
        match self {
            Self::Plain => word.to_owned(),
            Self::Colour => format!("\x1b[{code}m{word}\x1b[0m"),
        }
    }
}

fn error_text(failure: &Failure, style: Style) -> String {
    let mut text = format!("{} {}", style.paint("error:", "1;31"), safe(&failure.message));
    let mut last = failure.message.as_str();
    for cause in &failure.causes {
        // Layers that only pass on what the one below said add nothing.
        if !last.contains(cause.as_str()) {
            let cause = safe(cause).replace("\\n", "\n    ");
            text += &format!("\n  {} {}", style.paint("caused by:", "1"), cause.trim_end());
        }
        last = cause;
    }
    if let Some(hint) = &failure.hint {
        text += &format!("\n{} {}", style.paint("hint:", "1;36"), safe(hint));
    }
    text
}

/// A text that others may have written, such as a file's name, without what would act on a terminal or
/// disguise it.
pub(crate) fn safe(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => safe.push_str("\\n"),
            '\t' => safe.push_str("\\t"),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => safe.extend(c.escape_unicode()),
            c if c.is_control() => safe.extend(c.escape_unicode()),
            c => safe.push(c),
        }
    }
    safe
}

/// A moment where the person is.
pub(crate) fn moment(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(
        |_| "?".to_owned(),
        |time| time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

/// A number of bytes, to three digits.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// `1 file`, `2 files`.
pub(crate) fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// Lines of columns, each as wide as its widest cell; the last is not padded.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            // Writing to a string does not fail.
            write!(line, "{cell:width$}  ").ok();
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_act_on_the_terminal() {
        assert_eq!(safe("a\x1b[2Jb\r\n\u{9b}"), "a\\u{1b}[2Jb\\u{d}\\n\\u{9b}");
        assert_eq!(safe("gpj.\u{202e}exe"), "gpj.\\u{202e}exe");
        assert_eq!(safe("Ünïcode 日本"), "Ünïcode 日本");
    }

    #[test]
    fn an_error_has_its_causes_and_a_hint() {
        let mut failure = Failure::failed("cannot link this device").with_hint("try again");
        failure.causes = vec!["the server cannot be reached: refused".into(), "refused".into(), "deeper".into()];
        assert_eq!(
            error_text(&failure, Style::Plain),
            "error: cannot link this device\n  caused by: the server cannot be reached: refused\n  caused by: \
             deeper\nhint: try again"
        );
        assert!(error_text(&failure, Style::Colour).starts_with("\x1b[1;31merror:\x1b[0m "));
    }

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (12_345, "12.3 kB"),
            (999_600, "1.00 MB"),
            (4_194_304, "4.19 MB"),
            (123_456_789_012, "123 GB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn columns_line_up() {
        let rows = [["a".into(), "b".into()], ["longer".into(), "c".into()]];
        assert_eq!(table(&rows), "a       b\nlonger  c\n");
    }
}
