//! Fuzzes the parser of command lines, and completion requests with the same words.

#![no_main]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::Once;

use docker_regpush::cli::argv::parse;
use docker_regpush::command::complete::Request;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    static NOWHERE: Once = Once::new();
    // SAFETY: the fuzzer has only one thread, so no other thread reads the environment.
    NOWHERE.call_once(|| unsafe {
        std::env::set_var("DOCKER_HOST", "unix:///nowhere");
        std::env::set_var("DOCKER_CONFIG", "/nowhere");
    });
    let words = bytes.split(|byte| *byte == b'\n').map(|word| OsString::from_vec(word.to_vec()));
    let args = |before: &[&str]| -> Vec<OsString> {
        before.iter().map(OsString::from).chain(words.clone()).collect()
    };
    let _ = parse(&args(&["docker-regpush", "regpush"]));
    let _ = parse(&args(&["docker-regpush"]));
    let asked = Request::read(&args(&["docker-regpush", "__complete", "regpush"]));
    let mut answer = Vec::new();
    asked.expect("it is a completion request").answer(&mut answer).expect("memory takes it");
    let last = answer.strip_suffix(b"\n").and_then(|lines| lines.rsplit(|byte| *byte == b'\n').next());
    assert!(matches!(last, Some(b":0" | b":4" | b":16")), "{answer:?}");
});
