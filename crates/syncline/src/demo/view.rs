//! What a demonstration shows: two columns on a terminal, else a line for everything that happens.

use super::Device;
use crate::commands::status::{activity_subject, kind_text, phase_text};
use crate::output::{self, count};
use client::control::protocol::{ActivityReply, StatusReply};
use client::database::ActivityEntry;
use client::{Command, Control, Failure};
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Stylize;
use ratatui::text::Line;
use ratatui::widgets::{Block, Paragraph};
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// How often the devices are asked.
const INTERVAL: Duration = Duration::from_millis(200);
/// Activities that are shown for each device; plain lines may miss some when more happen between two looks.
const SHOWN: usize = 200;

/// Whether the demonstration is over.
#[derive(Debug, Clone, Default)]
pub(super) struct Ended(Arc<AtomicBool>);

impl Ended {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Shows what the devices do until it is over, or the person says so.
pub(super) fn show(devices: &[Device], introduction: &[String], ended: &Ended) -> Result<(), Failure> {
    if io::stdout().is_terminal() && io::stdin().is_terminal() {
        show_columns(devices, introduction, ended)
    } else {
        show_lines(devices, ended)
    }
}

/// A device at one moment.
struct Snapshot {
    status: StatusReply,
    activity: Vec<ActivityEntry>,
}

fn look(device: &Device) -> Result<Snapshot, Failure> {
    let mut control = Control::connect(&device.home).map_err(|error| error.failure())?;
    let status = control.ask(Command::Status)?;
    let ActivityReply { activity } = control.ask(Command::Activity { limit: SHOWN })?;
    Ok(Snapshot { status, activity })
}

fn show_lines(devices: &[Device], ended: &Ended) -> Result<(), Failure> {
    let mut seen: Vec<Vec<ActivityEntry>> = vec![Vec::new(); devices.len()];
    let mut states = vec![String::new(); devices.len()];
    while !ended.is_set() {
        for ((device, seen), state) in devices.iter().zip(&mut seen).zip(&mut states) {
            let snapshot = look(device)?;
            for entry in new_entries(seen, &snapshot.activity) {
                output::data(&format!(
                    "{}: {} {}\n",
                    device.name,
                    kind_text(entry.activity.kind),
                    activity_subject(entry)
                ))?;
            }
            let now = phase_text(&snapshot.status.status.phase);
            if *state != now {
                output::data(&format!("{}: {now}\n", device.name))?;
                *state = now;
            }
            *seen = snapshot.activity;
        }
        thread::sleep(INTERVAL);
    }
    Ok(())
}

/// The entries that came after those that were seen.
fn new_entries<'a>(seen: &[ActivityEntry], now: &'a [ActivityEntry]) -> &'a [ActivityEntry] {
    let fresh_from = (0..=now.len()).find(|&from| {
        let overlap = &now[..now.len() - from];
        seen.ends_with(overlap)
    });
    &now[now.len() - fresh_from.unwrap_or(now.len())..]
}

fn show_columns(devices: &[Device], introduction: &[String], ended: &Ended) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::from_error(&error, None);
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let result = loop {
        let snapshots = match devices.iter().map(look).collect::<Result<Vec<_>, _>>() {
            Ok(snapshots) => snapshots,
            Err(failure) => break Err(failure),
        };
        if let Err(error) = terminal.draw(|frame| draw(frame, devices, introduction, &snapshots)) {
            break Err(failed(error));
        }
        match wants_to_end() {
            Ok(false) if !ended.is_set() => {}
            Ok(_) => break Ok(()),
            Err(error) => break Err(failed(error)),
        }
    };
    ratatui::restore();
    result
}

/// Waits for the next look, or for a key.
fn wants_to_end() -> io::Result<bool> {
    if !event::poll(INTERVAL)? {
        return Ok(false);
    }
    let Event::Key(KeyEvent { code, modifiers, .. }) = event::read()? else { return Ok(false) };
    let interrupt = code == KeyCode::Char('c') && modifiers.contains(KeyModifiers::CONTROL);
    Ok(interrupt || matches!(code, KeyCode::Char('q') | KeyCode::Esc))
}

fn draw(frame: &mut Frame<'_>, devices: &[Device], introduction: &[String], snapshots: &[Snapshot]) {
    let header = u16::try_from(introduction.len()).unwrap_or(u16::MAX);
    let [top, main] = Layout::vertical([Constraint::Length(header), Constraint::Fill(1)]).areas(frame.area());
    let lines: Vec<Line<'_>> = introduction.iter().map(|line| Line::from(line.as_str())).collect();
    frame.render_widget(Paragraph::new(lines), top);
    let columns = Layout::horizontal(vec![Constraint::Fill(1); devices.len()]).split(main);
    for ((device, snapshot), area) in devices.iter().zip(snapshots).zip(columns.iter()) {
        draw_device(frame, device, snapshot, *area);
    }
}

fn draw_device(frame: &mut Frame<'_>, device: &Device, snapshot: &Snapshot, area: Rect) {
    let status = &snapshot.status.status;
    let mut lines = vec![
        Line::from(format!("{}, {}", phase_text(&status.phase), count(status.synced_files, "file", "files"))).bold(),
        Line::default(),
    ];
    let room = usize::from(area.height).saturating_sub(lines.len() + 2);
    let newest = snapshot.activity.iter().rev().take(room);
    lines.extend(
        newest.map(|entry| Line::from(format!("{:16}  {}", kind_text(entry.activity.kind), activity_subject(entry)))),
    );
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(device.name)), area);
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::{Activity, ActivityKind};

    fn entry(time: i64) -> ActivityEntry {
        ActivityEntry { time, activity: Activity { kind: ActivityKind::Uploaded, path: String::new(), detail: None } }
    }

    #[test]
    fn only_what_is_new_is_shown() {
        let all: Vec<ActivityEntry> = (0..5).map(entry).collect();
        assert_eq!(new_entries(&[], &all), &all[..]);
        assert_eq!(new_entries(&all[..3], &all), &all[3..]);
        assert_eq!(new_entries(&all[1..3], &all[2..]), &all[3..], "the oldest may be dropped");
        assert!(new_entries(&all, &all).is_empty());
    }
}
