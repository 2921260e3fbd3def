//! When the contents of small new files may come along with the news of them.

use crate::build::{A, ROOT, agreed_file, at_root, found_file, path, print};
use crate::script::{Script, state};
use api::Notification;
use model::Position;
use sync_engine::Tuning;
use sync_engine::io::{Command, Event, Request};

/// Whether the engine, which is told that the journal has grown, asks for contents too.
fn asks_for_contents(script: &mut Script) -> bool {
    script.tell(Event::Notified(Notification { namespace: ROOT, position: Position(99) }));
    let asked = script.request(|request| match request {
        Request::Changes(_) => Some(false),
        Request::News(_) => Some(true),
        _ => None,
    });
    asked.expect("asks").1
}

#[test]
fn a_device_that_has_read_the_journal_lacks_what_is_new() {
    let mut script = Script::at_rest(state(), Vec::new(), &[]);
    assert!(asks_for_contents(&mut script));
}

#[test]
fn one_that_reads_it_for_the_first_time_may_have_it_all() {
    let mut script = Script::start(state(), Vec::new());
    assert!(!asks_for_contents(&mut script));
}

#[test]
fn one_that_leaves_something_out_does_not_want_it_all() {
    let rows = vec![(A, agreed_file(&at_root("a"), "bytes", 11))];
    let mut script = Script::at_rest(state(), rows, &[found_file("a", print(11, 5))]);
    script.take();
    script.tell(Event::Command(Command::Exclude(path("a"))));
    assert!(!asks_for_contents(&mut script));
}

#[test]
fn nobody_asks_for_contents_where_that_is_off() {
    let mut script = Script::at_rest(state(), Vec::new(), &[]);
    script.engine.tune(Tuning { contents_with_news: false, ..Tuning::default() });
    assert!(!asks_for_contents(&mut script));
}
