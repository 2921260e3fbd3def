//! A server of several processes: real ones, behind a real balancer, on a real database.

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/collector.rs"]
mod collector;
mod support;

use block_store_s3::private_server::PrivateServer as Bucket;
use cache::private_server::PrivateServer as PrivateMemcached;
use cluster::{Cluster, More, Part, Sizes, get};
use collector::Collector;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::time::{Duration, Instant};
use support::{Device, eventually};

/// Two of each: the least of which one can be missing.
const PAIRS: Sizes = Sizes { meta: 2, hubs: 2, edges: 2 };
/// Longer than any part needs to notice that another is gone, and far shorter than the poll that stands
/// behind the notifications: what arrives within this was heard of.
const HEARD: Duration = Duration::from_secs(30);

/// A file that one device writes is on the other without its having to poll.
#[track_caller]
fn arrives(from: &Device, to: &Device, name: &str) {
    from.write(name, name);
    let begun = Instant::now();
    eventually(name, || to.has(name));
    assert!(begun.elapsed() < HEARD, "{name} took {:?}: nobody heard of it", begun.elapsed());
    assert_eq!(to.read(name), name);
}

fn signal(part: &Part, signal: Signal) {
    let pid = i32::try_from(part.running.child.id()).ok().and_then(Pid::from_raw).expect("a process");
    kill_process(pid, signal).expect("it is there");
}

#[test]
fn two_devices_sync_through_separate_processes_whichever_of_them_is_killed() {
    let mut cluster = Cluster::start(&PAIRS);
    let (a, b) = (cluster.running_device("a"), cluster.running_device("b"));
    arrives(&a, &b, "first");
    for name in ["meta1", "hub1", "edge1", "meta2", "hub2", "edge2"] {
        cluster.part(name).kill();
        arrives(&a, &b, &format!("without {name} one way"));
        arrives(&b, &a, &format!("without {name} the other way"));
        cluster.part(name).restart();
        arrives(&a, &b, &format!("with {name} again"));
    }
    cluster.part("block1").kill();
    a.write("while no block service is there", "kept");
    cluster.part("block1").restart();
    eventually("the only block service is back", || b.has("while no block service is there"));
    assert_eq!(a.tree(), b.tree());
    assert!(!cluster.parts["block1"].log().contains("meta.sqlite"));
}

#[test]
fn a_process_that_hangs_is_left_alone_by_the_others() {
    let mut cluster = Cluster::start(&PAIRS);
    let (a, b) = (cluster.running_device("a"), cluster.running_device("b"));
    for name in ["meta1", "hub1", "edge1", "meta2", "hub2", "edge2"] {
        signal(cluster.part(name), Signal::STOP);
        arrives(&a, &b, &format!("while {name} hangs"));
        signal(cluster.part(name), Signal::CONT);
        arrives(&b, &a, &format!("after {name} hung"));
    }
}

#[test]
fn a_process_that_is_told_to_stop_says_so_ends_what_it_has_begun_and_goes() {
    let mut cluster = Cluster::start(&PAIRS);
    let (a, b) = (cluster.running_device("a"), cluster.running_device("b"));
    for name in ["meta1", "hub1", "edge1", "block1"] {
        let part = cluster.part(name);
        assert_eq!((part.status("/healthz"), part.status("/readyz")), (Some(200), Some(200)), "{name}");
        signal(part, Signal::TERM);
        eventually("it says that it stops", || part.status("/readyz") == Some(404));
        let mut status = None;
        eventually("it is gone", || {
            status = part.running.child.try_wait().expect("is watched");
            status.is_some()
        });
        assert!(status.expect("is gone").success(), "{name}");
        part.restart();
        arrives(&a, &b, &format!("after {name} was stopped"));
    }
}

#[test]
fn a_call_has_one_id_in_the_logs_of_all_that_worked_for_it_and_is_counted() {
    let cluster = Cluster::start(&Sizes { meta: 1, hubs: 1, edges: 1 });
    let (a, b) = (cluster.running_device("a"), cluster.running_device("b"));
    arrives(&a, &b, "file");
    let (block, meta) = (&cluster.parts["block1"], &cluster.parts["meta1"]);
    let id = block.log().lines().find_map(|line| id_of(line, "changeset")).expect("the upload is in the log");
    assert!(meta.log().lines().any(|line| id_of(line, "stored").as_deref() == Some(&id)), "{id} is not known there");
    let figures = meta.get("/metrics").expect("answers");
    for figure in [
        "syncline_calls_total{side=\"services\",call=\"stored\",status=\"2xx\"} 1",
        "syncline_journals_grown_total 1",
        "syncline_connections{side=\"clients\"}",
        "syncline_call_seconds_count{side=\"clients\",call=\"link\"} 2",
    ] {
        assert!(figures.contains(figure), "no {figure} in\n{figures}");
    }
    let figures = cluster.parts["edge1"].get("/metrics").expect("answers");
    assert!(figures.contains("syncline_streams 2") && figures.contains("syncline_hubs_linked 1"), "{figures}");
}

/// The request's id in a line of the log that tells of the answer to this call.
fn id_of(line: &str, call: &str) -> Option<String> {
    let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let span = line.get("span")?;
    let told = line["message"] == "answered" && span["call"] == call;
    told.then(|| span["request"].as_str().expect("an id").to_owned())
}

#[test]
fn a_request_is_one_trace_in_all_processes_and_a_collector_that_hangs_is_not_missed() {
    let collector = Collector::start();
    let settings = tempfile::TempDir::new().expect("a temporary directory");
    let file = settings.path().join("settings.toml");
    fs::write(&file, format!("[telemetry]\notlp = \"{}\"\n", collector.url)).expect("written");
    let for_all = vec!["--config".to_owned(), support::text(&file).to_owned()];
    let cluster = Cluster::start_with(&Sizes { meta: 1, hubs: 1, edges: 1 }, &More { for_all, ..More::default() });
    let (a, b) = (cluster.running_device("a"), cluster.running_device("b"));
    arrives(&a, &b, "file");
    let mut trace = None;
    eventually("the upload is a trace with a span in each of two services", || {
        let spans = collector.spans();
        let of = |service: &str, name: &str| {
            let is_it = move |span: &&collector::Span| span.service == service && span.name == name;
            spans.iter().filter(is_it).cloned().collect::<Vec<_>>()
        };
        let (outer, inner) = (of("syncline-block", "changeset"), of("syncline-meta", "stored"));
        let mut pairs =
            outer.into_iter().flat_map(|outer| inner.iter().cloned().map(move |inner| (outer.clone(), inner)));
        trace = pairs.find(|(outer, inner)| outer.trace == inner.trace);
        trace.is_some()
    });
    let (outer, inner) = trace.expect("is found");
    assert_eq!((&inner.parent, outer.parent.len()), (&outer.id, 0), "one is in the other, and that in nothing");
    assert_eq!(outer.request, inner.request, "both have the id that the logs have");
    let known = |part: &str| cluster.parts[part].log().contains(&outer.request);
    assert!(known("block1") && known("meta1"));

    collector.hang();
    arrives(&b, &a, "while it hangs");
    eventually("it is told", || cluster.parts["meta1"].log().contains("traces are lost"));
    arrives(&a, &b, "while it hangs still");
    assert_eq!(cluster.parts["meta1"].log().matches("traces are lost").count(), 1, "once");
}

#[test]
fn the_service_address_takes_no_call_without_the_secret() {
    let cluster = Cluster::start(&Sizes { meta: 1, hubs: 1, edges: 1 });
    for (part, call) in [("meta1", "server"), ("meta1", "alive"), ("hub1", "relay"), ("hub1", "announce")] {
        let address = &cluster.parts[part].service;
        let client = |headers: &str| {
            let request = format!("/service/v1/{call}");
            cluster::post(address, &request, headers).expect("answers")
        };
        for headers in ["", "authorization: Service another-secret-of-some\r\n", "authorization: Bearer x\r\n"] {
            assert!(client(headers).starts_with("HTTP/1.1 401"), "{part} {call}");
        }
    }
    let listen = &cluster.parts["meta1"].listen;
    let answer = cluster::post(listen, "/service/v1/server", "").expect("answers");
    assert!(answer.starts_with("HTTP/1.1 404"), "clients cannot even ask: {answer}");
    assert!(get(listen, "/metrics", "").expect("answers").starts_with("HTTP/1.1 404"));
}

#[test]
fn with_certificates_everything_works_and_no_call_is_taken_from_who_has_none() {
    let mut cluster = Cluster::start_with(&PAIRS, &More { encrypted: true, ..More::default() });
    let (a, b) = (cluster.running_device("a"), cluster.running_device("b"));
    arrives(&a, &b, "first");
    for name in ["meta1", "hub1", "edge1"] {
        cluster.part(name).kill();
        arrives(&a, &b, &format!("without {name}"));
        cluster.part(name).restart();
        arrives(&b, &a, &format!("with {name} again"));
    }
    let plain = cluster::post(&cluster.parts["meta1"].service, "/service/v1/server", "").expect("answers");
    assert!(plain.starts_with("HTTP/1.1 400") && plain.contains("encrypted calls only"), "{plain}");
    eventually("it is in the log", || cluster.parts["meta1"].log().contains("a caller is refused"));
}

/// A figure of all meta services together.
fn figure(cluster: &Cluster, name: &str) -> u64 {
    let of = |part: &Part| -> u64 {
        let figures = part.get("/metrics").expect("answers");
        let line = figures.lines().find_map(|line| line.strip_prefix(name)).expect("is shown");
        line.trim().parse().expect("a number")
    };
    cluster.parts.iter().filter(|(name, _)| name.starts_with("meta")).map(|(_, part)| of(part)).sum()
}

#[test]
fn devices_that_link_late_read_what_others_have_read_before_and_miss_nothing_without_the_cache() {
    let mut memcached = PrivateMemcached::start();
    let cluster = {
        let for_meta = vec!["--cache".to_owned(), memcached.url()];
        Cluster::start_with(&PAIRS, &More { for_meta, ..More::default() })
    };
    let a = cluster.running_device("a");
    for number in 0..300 {
        a.write(&format!("folder/file {number}"), "content");
    }
    a.run(&["flush", "--timeout", support::FLUSH_SECONDS]).ok();
    let late = |name: &str| {
        let device = cluster.running_device(name);
        eventually(name, || device.tree() == a.tree());
    };
    // What `a` has read while it sent is a piece of the journal as it was then, of which no more is kept than that.
    memcached.flush();
    let before = figure(&cluster, "syncline_cache_fills ");
    late("b");
    assert!(figure(&cluster, "syncline_cache_fills ") >= before + 2);
    let before = figure(&cluster, "syncline_cache_hits ");
    late("c");
    assert!(figure(&cluster, "syncline_cache_hits ") >= before + 2);
    memcached.flush();
    late("d");
    memcached.kill();
    late("e");
    assert!(figure(&cluster, "syncline_cache_failures ") > 0);
    memcached.run();
    late("f");
}

#[test]
fn block_services_on_one_bucket_clean_it_up_by_themselves() {
    let bucket = Bucket::start();
    let settings = tempfile::TempDir::new().expect("a temporary directory");
    let file = |name: &str, text: &str| {
        let path = settings.path().join(name);
        fs::write(&path, text).expect("written");
        support::text(&path).to_owned()
    };
    let credentials = file("credentials", &Bucket::credentials_text());
    let times = file("times.toml", "[clean_up]\nfirst_seconds = 1\nevery_seconds = 1\n");
    let for_block = ["--blocks", &bucket.url("team"), "--blocks-credentials-file", &credentials, "--config", &times];
    let for_block = for_block.map(str::to_owned).to_vec();
    let cluster = Cluster::start_with(&PAIRS, &More { for_block, more_blocks: 1, ..More::default() });
    let a = cluster.running_device("a");
    for name in ["kept", "lost", "lost too"] {
        a.write(name, name);
    }
    a.flush();
    let object = |folder: &str, name: &str| bucket.objects().join("team").join(folder).join(&name[..2]).join(name);
    // In an object of its own, or in one that it shares.
    let is_there = |name: &str| {
        let hash = model::BlockHash::of(name.as_bytes()).to_string();
        let pack =
            format!("SELECT COALESCE(MAX(LOWER(HEX(pack))), '--') FROM syncline.packed_blocks WHERE hash = X'{hash}'");
        object("blocks", &hash).exists() || object("packs", &cluster.database.ask::<String>(&pack)).exists()
    };
    assert!(is_there("kept") && is_there("lost") && is_there("lost too"));
    // As if their uploads had never been followed by a commit, long ago.
    let forget = |table: &str, other_than: &str| {
        let hash = model::BlockHash::of(other_than.as_bytes());
        cluster.database.as_root(&format!("DELETE FROM syncline.{table} WHERE hash <> X'{hash}'"));
    };
    forget("namespace_blocks", "kept");
    forget("uploaded_blocks", "kept");
    eventually("they are marked", || cluster.database.ask::<u64>("SELECT COUNT(*) FROM syncline.unused_blocks") == 2);
    assert!(is_there("lost") && is_there("lost too"), "within the grace they stay");
    let days = 2 * 24 * 3600 * 1000;
    cluster.database.as_root(&format!("UPDATE syncline.unused_blocks SET since = since - {days}"));
    eventually("they are removed", || !is_there("lost") && !is_there("lost too"));
    eventually("and forgotten", || cluster.database.ask::<u64>("SELECT COUNT(*) FROM syncline.unused_blocks") == 0);
    assert!(is_there("kept"));
    for part in ["block1", "block2"] {
        eventually("both have looked", || cluster.parts[part].log().contains("blocks were cleaned up"));
    }
    let b = cluster.running_device("b");
    eventually("what is named can be read", || b.has("kept") && b.read("kept") == "kept");
}
