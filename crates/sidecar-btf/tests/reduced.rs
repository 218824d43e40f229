//! What the reducer writes must answer like the file it was made from.
#![cfg(feature = "reduce")]

mod synthetic;

use sidecar_btf::{Btf, PathError, reduce};
use synthetic::every_kind;

#[test]
fn a_kept_struct_answers_as_before_and_the_rest_is_gone() {
    let full = every_kind().btf();
    let reduced = Btf::parse(reduce(&full, &["outer", "btf_trace_event", "no_such_type"])).unwrap();
    for member in
        ["word", "double_word", "pointer", "array", "typedef", "bits", "float", "small", "wide", "none"]
    {
        let path = format!("outer.{member}");
        assert_eq!(reduced.member(&path), full.member(&path), "{path}");
    }
    assert_eq!(reduced.enum_values("wide"), full.enum_values("wide"));
    assert_eq!(reduced.tracepoint_parameters("event"), Some(2));
    assert!(!reduced.has_function("function"));
}

#[test]
fn structs_only_pointed_to_become_forward_declarations() {
    let path = format!("{}/fixtures/6.12.btf", env!("CARGO_MANIFEST_DIR"));
    let full = Btf::from_file(path).unwrap();
    let bytes = reduce(&full, &["socket"]);
    assert!(bytes.len() < 4_000, "{} bytes", bytes.len());
    let reduced = Btf::parse(bytes).unwrap();
    assert_eq!(reduced.member("socket.sk"), full.member("socket.sk"));
    assert_eq!(reduced.member("sock.sk_protocol"), Err(PathError::NoType("sock".to_owned())));
}

#[test]
fn reducing_again_changes_nothing() {
    let path = format!("{}/fixtures/7.2.btf", env!("CARGO_MANIFEST_DIR"));
    let names: Vec<&str> = include_str!("../fixtures/keep.txt").lines().collect();
    let once = std::fs::read(path).unwrap();
    assert!(reduce(&Btf::parse(once.clone()).unwrap(), &names) == once);
}
