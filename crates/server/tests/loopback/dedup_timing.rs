//! An uploader cannot tell by the clock whether others have stored a block.

use crate::support::{Device, TestServer};
use std::time::{Duration, Instant};

/// Uploads of each kind.
const UPLOADS: u64 = 2000;
/// The Mann-Whitney statistic beyond which two kinds of times differ, at p = 0.01.
const DIFFERENT: f64 = 2.58;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures time for half a minute; run it alone, with --ignored"]
async fn uploading_what_another_has_stored_takes_as_long_as_what_is_new() {
    let server = TestServer::start().await;
    let ann = server.device("ann@example.com").await;
    let bob = server.device("bob@example.com").await;
    for i in 0..UPLOADS {
        upload(&ann, "stored", i).await;
    }
    let (mut new, mut known) = (Vec::new(), Vec::new());
    for i in 0..UPLOADS {
        if i % 2 == 0 {
            new.push(upload(&bob, "new", i).await);
            known.push(upload(&bob, "stored", i).await);
        } else {
            known.push(upload(&bob, "stored", i).await);
            new.push(upload(&bob, "new", i).await);
        }
    }
    let z = mann_whitney(&new, &known);
    new.sort_unstable();
    known.sort_unstable();
    let middle = new.len() / 2;
    eprintln!("median of new {:?}, of known {:?}, z = {z:.2}", new[middle], known[middle]);
    assert!(z.abs() < DIFFERENT, "z = {z:.2}");
}

async fn upload(device: &Device, kind: &str, i: u64) -> Duration {
    let block = format!("{kind:>8} {i:>8}").repeat(60).into_bytes();
    let begun = Instant::now();
    device.changeset(&[&block], None).await.expect("stores");
    begun.elapsed()
}

/// How many standard deviations the ranks of `a` among all are from what chance would give.
fn mann_whitney(a: &[Duration], b: &[Duration]) -> f64 {
    let mut all: Vec<(Duration, bool)> = a.iter().map(|t| (*t, true)).chain(b.iter().map(|t| (*t, false))).collect();
    all.sort_unstable();
    let ranks: u64 = (1..).zip(&all).filter(|(_, (_, of_a))| *of_a).map(|(rank, _)| rank).sum();
    let count = |n: usize| u32::try_from(n).map_or(f64::INFINITY, f64::from);
    let (n, m) = (count(a.len()), count(b.len()));
    let expected = n * (n + m + 1.0) / 2.0;
    #[expect(clippy::cast_precision_loss, reason = "a sum of a few thousand ranks")]
    let ranks = ranks as f64;
    (ranks - expected) / (n * m * (n + m + 1.0) / 12.0).sqrt()
}
