//! What a trace says of events, actions and results, in a few words.

use sync_engine::io::{Action, ActivityKind, Event, HashResult, Job, JobResult, Request};

pub(super) const fn activity_name(kind: ActivityKind) -> &'static str {
    match kind {
        ActivityKind::Uploaded => "uploaded",
        ActivityKind::Downloaded => "downloaded",
        ActivityKind::MovedLocally => "moved locally",
        ActivityKind::MovedRemotely => "moved remotely",
        ActivityKind::DeletedLocally => "deleted locally",
        ActivityKind::DeletedRemotely => "deleted remotely",
        ActivityKind::Conflict => "conflict copy made",
        ActivityKind::KeptBeside => "kept beside",
        ActivityKind::Held => "deletions held",
        ActivityKind::Refilled => "filled again",
        ActivityKind::ServerChanged => "server change noticed",
    }
}

pub(super) fn brief_event(event: &Event) -> String {
    match event {
        Event::Started => "started".to_owned(),
        Event::JobDone(id, result) => format!("job {} {}", id.0, brief_result(result)),
        Event::Replied(id, Ok(_)) => format!("reply {}", id.0),
        Event::Replied(id, Err(error)) => format!("reply {} {error}", id.0),
        Event::Hints(hints) => format!("{} hints", hints.len()),
        Event::Notified(notification) => format!("notified {notification}"),
        Event::Coming(namespace) => format!("coming {namespace}"),
        Event::StreamOpened => "stream".to_owned(),
        Event::Woken => "woken".to_owned(),
        Event::Command(command) => format!("{command:?}"),
    }
}

pub(super) fn brief_action(action: &Action) -> String {
    match action {
        Action::Persist(writes) => format!("persist {}", writes.len()),
        Action::Job(id, job) => format!("job {} {}", id.0, brief_job(job)),
        Action::Send(id, request) => format!("send {} {}", id.0, brief_request(request)),
        Action::Report(activity) => format!("report {:?} {}", activity.kind, activity.path),
    }
}

fn brief_job(job: &Job) -> String {
    match job {
        Job::Scan(targets) => format!("scan {}", targets.len()),
        Job::Hash(tasks) => format!("hash {}", tasks.len()),
        Job::Apply(steps) => format!("apply {}", steps.len()),
        Job::Settle => "settle".to_owned(),
        Job::MarkExcluded(nodes) => format!("mark {} excluded", nodes.len()),
        Job::Prepare(temps) => format!("prepare {}", temps.len()),
        Job::Probe { temp, .. } => format!("probe {}", temp.0),
        Job::CleanTemps { keep } => format!("clean but {}", keep.len()),
    }
}

pub(super) fn brief_result(result: &JobResult) -> String {
    match result {
        JobResult::Scanned { root, directories } => format!("{root:?} {}", directories.len()),
        JobResult::Hashed(results) => {
            let done = results.iter().filter(|(_, result)| matches!(result, HashResult::Hashed { .. })).count();
            format!("hashed {done} of {}", results.len())
        }
        JobResult::Applied { root, results } => {
            let done = results.iter().filter(|result| result.is_ok()).count();
            format!("{root:?} applied {done} of {}", results.len())
        }
        JobResult::Settled { root, result } => format!("{root:?} settled {}", result.is_ok()),
        JobResult::Marked { root, result } => format!("{root:?} marked {}", result.is_ok()),
        JobResult::Prepared { root, files } => {
            format!("{root:?} prepared {}", files.as_ref().map_or(0, Vec::len))
        }
        JobResult::Probed { present, .. } => format!("present {}", present.len()),
        JobResult::NoRoom => "no room".to_owned(),
        JobResult::Cleaned => "cleaned".to_owned(),
    }
}

pub(super) fn brief_request(request: &Request) -> String {
    match request {
        Request::Server => "server".to_owned(),
        Request::Changes(request) => format!("changes {}", request.cursor.len()),
        Request::News(request) => format!("news {}", request.cursor.len()),
        Request::Missing(request) => format!("missing {}", request.blocks.len()),
        Request::Commit(commit) => format!("commit {:?} {}", commit.key, commit.operations.len()),
        Request::Changeset { blocks, commit, .. } => {
            format!(
                "changeset {} {:?}",
                blocks.len(),
                commit.as_ref().map(|commit| (commit.key, commit.operations.len()))
            )
        }
        Request::Fetch { blocks, .. } => format!("fetch {}", blocks.len()),
        Request::Shift { blocks, by, .. } => format!("shift {} by {by}", blocks.len()),
        Request::Prefetch { blocks, .. } => format!("prefetch {}", blocks.len()),
        Request::Announce(request) => format!("announce {} of {}", request.file.node, request.file.blocks.len()),
        Request::Coming(_) => "coming".to_owned(),
    }
}
