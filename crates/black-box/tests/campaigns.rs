//! A short part of each campaign, from fixed seeds. The long ones are commands of their own.

#[cfg(target_arch = "x86_64")]
use black_box::crash_points;
use black_box::program::Program;
use black_box::{fsx, mysteries};

#[test]
fn random_histories_of_three_devices_are_explained() {
    let program = Program::find_or_build().expect("a program");
    let options = mysteries::Options { seed: 1, histories: Some(16), time: None, keep: false, keep_going: false };
    let outcome = mysteries::run(&program, options).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(outcome.failures, Vec::<String>::new());
    assert_eq!(outcome.histories, 16);
    assert!(outcome.kills > 0 && outcome.weathers > 0, "{outcome:?}");
}

#[test]
fn random_writes_arrive_as_versions_that_the_writer_closed() {
    let program = Program::find_or_build().expect("a program");
    let outcome = fsx::run(&program, 1, 300).unwrap_or_else(|error| panic!("{error:#}"));
    assert!(outcome.seen > 0, "{outcome:?}");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn faults_at_system_calls_leave_nothing_torn_and_all_converges() {
    let program = Program::find_or_build().expect("a program");
    let time = Some(std::time::Duration::from_secs(8));
    let tracer = env!("CARGO_BIN_EXE_black-box").into();
    let (keep_going, faults, keep, only, done) = Default::default();
    let options =
        crash_points::Options { operations: 1, time, seed: 1, lanes: 1, keep_going, faults, keep, only, done, tracer };
    match crash_points::run(&program, &options) {
        Ok(outcome) => {
            assert_eq!(outcome.failures, Vec::<String>::new());
            assert!(outcome.points.values().sum::<u64>() > 0, "{outcome:?}");
        }
        // Where no process may be traced, the campaign says so and proves nothing.
        Err(error) if format!("{error:#}").contains("cannot attach") => {}
        Err(error) => panic!("{error:#}"),
    }
}
