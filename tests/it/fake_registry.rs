//! Tests the fake registry that the tests of the relay rely on.

#![expect(clippy::unwrap_used, reason = "all of it is a test")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use docker_regpush::oci::sha256;

use crate::support::client::blob;
use crate::support::registry::{FakeRegistry, Fault, Limits};

const MIB: usize = 1 << 20;

/// Starts an upload, and sends data: the method, the value of `Content-Range`, and the data. Returns the statuses and the
/// registry's `Range` of each answer.
fn statuses(registry: &FakeRegistry, requests: &[(&str, &str, &[u8])]) -> Vec<(u16, String)> {
    let ask = |request: &str, body: &[u8]| {
        let mut stream = TcpStream::connect(&registry.domain).unwrap();
        let head = format!("{request}Content-Length: {}\r\n\r\n", body.len());
        let mut answer = Vec::new();
        // An error means that the registry has cut the connection.
        let _ = stream.write_all(&[head.as_bytes(), body].concat());
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    };
    let header = |answer: &str, name: &str| {
        answer.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
    };
    let path = header(&ask("POST http://ghcr.io/v2/a/blobs/uploads/ HTTP/1.1\r\n", b""), "Location:");
    let content: Vec<u8> = requests
        .iter()
        .filter(|(method, ..)| *method != "GET")
        .flat_map(|(.., data)| data.to_vec())
        .collect();
    let digest = format!("?digest=sha256%3A{}", sha256(&content));
    let answers = requests.iter().map(|(method, range, data)| {
        let range = if range.is_empty() { String::new() } else { format!("Content-Range: {range}\r\n") };
        let query = if *method == "PUT" { digest.as_str() } else { "" };
        let answer = ask(&format!("{method} {path}{query} HTTP/1.1\r\n{range}"), data);
        let status = answer.split(' ').nth(1).map_or(0, |status| status.parse().unwrap());
        (status, header(&answer, "Range:"))
    });
    answers.collect()
}

#[test]
fn refuses_wrong_chunks() {
    let registry = FakeRegistry::start(&[]);
    let content = blob(10);
    let table = [
        // Content-Range, data, status, range of the upload
        ("0-4", &content[..5], (202, "0-4")),
        ("5-9", &content[..4], (400, "")),
        ("bytes 5-9", &content[5..], (400, "")),
        ("5-9/10", &content[5..], (400, "")),
        ("6-9", &content[6..], (416, "0-4")),
        ("4-9", &content[4..], (416, "0-4")),
        ("5-9", &content[5..], (202, "0-9")),
    ];
    let requests: Vec<(&str, &str, &[u8])> =
        table.iter().map(|(range, data, _)| ("PATCH", *range, *data)).collect();
    let want: Vec<(u16, String)> =
        table.iter().map(|(.., (status, range))| (*status, (*range).to_owned())).collect();
    assert_eq!(statuses(&registry, &requests), want);
    assert_eq!(registry.state.lock().unwrap().hosts, ["ghcr.io"]);
}

#[test]
fn has_the_limits_of_known_registries() {
    const FIRST: &str = "0-5242879";
    let large = blob(21_000_000);
    let (five, one): (&[u8], &[u8]) = (&large[..5 * MIB], &large[..MIB]);
    let body = Limits::Body { most: 1 << 20, is_buffering: true };
    let cut = Fault::Cut { after: 5 * MIB + 7, kept: 5 * MIB + 7 };
    type Requests<'a> = &'a [(&'a str, &'a str, &'a [u8])];
    type Answers<'a> = &'a [(u16, &'a str)];
    let table: [(Limits, &[Fault], Requests, Answers); 11] = [
        // limits, faults, requests, answers
        (Limits::None, &[], &[("PATCH", "", five), ("PUT", "", b"")], &[(202, FIRST), (201, "")]),
        (Limits::None, &[], &[("PUT", "", &large)], &[(201, "")]),
        (body, &[], &[("PATCH", "", five), ("PATCH", "", one)], &[(413, ""), (202, "0-1048575")]),
        (
            Limits::MinLength(1 << 20),
            &[],
            &[("PATCH", "0-4", &large[..5]), ("PATCH", "5-1048580", one)],
            &[(202, "0-4"), (416, "0-4")],
        ),
        (Limits::MaxLength(1 << 20), &[], &[("PUT", "", five)], &[(413, "")]),
        (
            Limits::Chunk(4 << 20),
            &[],
            &[("PATCH", FIRST, five), ("PATCH", "", five)],
            &[(416, "0-0"), (202, FIRST)],
        ),
        (
            Limits::Ecr,
            &[],
            &[("PATCH", FIRST, five), ("PATCH", "5242880-10485759", five), ("PUT", "10485760-11534335", one)],
            &[(201, FIRST), (201, FIRST), (201, "")],
        ),
        (Limits::Ecr, &[], &[("PATCH", FIRST, five), ("PUT", "", b"")], &[(201, FIRST), (400, FIRST)]),
        (
            Limits::Ecr,
            &[cut],
            &[
                ("PATCH", FIRST, five),
                ("PATCH", "5242880-10485759", five),
                ("GET", "", b""),
                ("PATCH", "5242880-10485759", five),
            ],
            &[(201, FIRST), (0, ""), (204, FIRST), (404, "")],
        ),
        (
            Limits::Acr,
            &[],
            &[("PUT", "", &large), ("PATCH", "0-1048575", one), ("PATCH", "", five), ("PATCH", "", five)],
            &[(413, ""), (416, "0-0"), (202, FIRST), (416, FIRST)],
        ),
        (Limits::Google, &[], &[("PATCH", FIRST, five), ("PUT", "", b"")], &[(416, "0-0"), (400, "")]),
    ];
    for (number, (limits, faults, requests, want)) in table.into_iter().enumerate() {
        let registry = FakeRegistry::with_limits(limits, faults);
        let want: Vec<(u16, String)> =
            want.iter().map(|(status, range)| (*status, (*range).to_owned())).collect();
        assert_eq!(statuses(&registry, requests), want, "row {number}: {limits:?}");
    }
}
