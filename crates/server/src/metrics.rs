//! Figures for operators, in the text format of Prometheus: `GET /metrics` on the service address.
//!
//! Few names and few labels, each bounded by what the program has: a call's name is one of its routes.

use api::service::Announce;
use model::{AccountId, DeviceId, NamespaceId, Position};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Upper ends of the latency's buckets, in milliseconds: from a call that asks nobody to one that waits for a
/// database's failover.
const BUCKETS_MS: [u64; 12] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 5000, 30_000];

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Side {
    Clients,
    Services,
}

impl Side {
    const ALL: [Self; 2] = [Self::Clients, Self::Services];

    const fn label(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Services => "services",
        }
    }
}

/// The figures of one process.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    calls: Mutex<BTreeMap<(Side, String), Call>>,
    connections: [AtomicI64; Side::ALL.len()],
    journals_grown: AtomicU64,
    gauges: Mutex<Vec<Gauge>>,
}

#[derive(Debug, Default, Clone)]
struct Call {
    /// By the hundreds of the status: 2, 4 or 5.
    by_class: BTreeMap<u16, u64>,
    buckets: [u64; BUCKETS_MS.len()],
    count: u64,
    micros: u64,
}

/// A figure that is read when it is asked for.
struct Gauge {
    name: &'static str,
    help: &'static str,
    read: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl std::fmt::Debug for Gauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct CountedConnection(Arc<Metrics>, Side);

impl Metrics {
    pub(crate) fn gauge(&self, name: &'static str, help: &'static str, read: impl Fn() -> u64 + Send + Sync + 'static) {
        lock(&self.gauges).push(Gauge { name, help, read: Box::new(read) });
    }

    pub(crate) fn connection(self: &Arc<Self>, side: Side) -> CountedConnection {
        self.connections[side as usize].fetch_add(1, Ordering::Relaxed);
        CountedConnection(self.clone(), side)
    }

    pub(crate) fn call(&self, side: Side, call: &str, status: u16, took: Duration) {
        let mut calls = lock(&self.calls);
        let call = calls.entry((side, call.to_owned())).or_default();
        *call.by_class.entry(status / 100).or_default() += 1;
        call.count += 1;
        call.micros += u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        for (bucket, end) in call.buckets.iter_mut().zip(BUCKETS_MS) {
            *bucket += u64::from(took <= Duration::from_millis(end));
        }
    }

    /// All figures as text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).ok();
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let calls = lock(&self.calls).clone();
        head(out, "syncline_calls_total", "counter", "Calls that were answered, by the hundreds of their status")?;
        for ((side, name), call) in &calls {
            for (class, count) in &call.by_class {
                let side = side.label();
                writeln!(out, "syncline_calls_total{{side=\"{side}\",call=\"{name}\",status=\"{class}xx\"}} {count}")?;
            }
        }
        let name = "syncline_call_seconds";
        head(out, name, "histogram", "Time from a call's head to its answer's head")?;
        for ((side, call_name), call) in &calls {
            let labels = format!("side=\"{}\",call=\"{call_name}\"", side.label());
            for (count, end) in call.buckets.iter().zip(BUCKETS_MS) {
                writeln!(out, "{name}_bucket{{{labels},le=\"{}\"}} {count}", seconds(end * 1000))?;
            }
            writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", call.count)?;
            writeln!(out, "{name}_sum{{{labels}}} {}", seconds(call.micros))?;
            writeln!(out, "{name}_count{{{labels}}} {}", call.count)?;
        }
        head(out, "syncline_connections", "gauge", "Open connections")?;
        for side in Side::ALL {
            let open = self.connections[side as usize].load(Ordering::Relaxed);
            writeln!(out, "syncline_connections{{side=\"{}\"}} {open}", side.label())?;
        }
        head(out, "syncline_journals_grown_total", "counter", "Times that a transaction made a journal longer")?;
        writeln!(out, "syncline_journals_grown_total {}", self.journals_grown.load(Ordering::Relaxed))?;
        for gauge in lock(&self.gauges).iter() {
            head(out, gauge.name, "gauge", gauge.help)?;
            writeln!(out, "{} {}", gauge.name, (gauge.read)())?;
        }
        Ok(())
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) -> std::fmt::Result {
    writeln!(out, "# HELP {name} {help}.\n# TYPE {name} {kind}")
}

/// Millionths as a decimal fraction, without the detour over a float.
fn seconds(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.0.connections[self.1 as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts what is announced on its way.
pub(crate) struct CountedAnnounce {
    pub(crate) inner: Arc<dyn Announce>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Announce for CountedAnnounce {
    fn reached(&self, namespace: NamespaceId, position: Position) {
        self.metrics.journals_grown.fetch_add(1, Ordering::Relaxed);
        self.inner.reached(namespace, position);
    }

    fn reached_by(&self, namespace: NamespaceId, position: Position, from: DeviceId) {
        self.metrics.journals_grown.fetch_add(1, Ordering::Relaxed);
        self.inner.reached_by(namespace, position, from);
    }

    fn coming(&self, namespace: NamespaceId, from: DeviceId) {
        self.inner.coming(namespace, from);
    }

    fn memberships_changed(&self, account: AccountId) {
        self.inner.memberships_changed(account);
    }

    fn unlinked(&self, device: DeviceId) {
        self.inner.unlinked(device);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_what_was_counted() {
        let metrics = Arc::new(Metrics::default());
        metrics.call(Side::Clients, "commit", 200, Duration::from_micros(1500));
        metrics.call(Side::Clients, "commit", 503, Duration::from_secs(40));
        metrics.gauge("syncline_streams", "Open streams", || 3);
        let connection = metrics.connection(Side::Services);
        let text = metrics.text();
        for line in [
            "syncline_calls_total{side=\"clients\",call=\"commit\",status=\"2xx\"} 1",
            "syncline_call_seconds_bucket{side=\"clients\",call=\"commit\",le=\"0.001000\"} 0",
            "syncline_call_seconds_bucket{side=\"clients\",call=\"commit\",le=\"0.002000\"} 1",
            "syncline_call_seconds_bucket{side=\"clients\",call=\"commit\",le=\"+Inf\"} 2",
            "syncline_call_seconds_sum{side=\"clients\",call=\"commit\"} 40.001500",
            "syncline_connections{side=\"services\"} 1",
            "syncline_streams 3",
        ] {
            assert!(text.lines().any(|other| other == line), "no {line} in\n{text}");
        }
        drop(connection);
        assert!(metrics.text().contains("syncline_connections{side=\"services\"} 0"));
    }
}
