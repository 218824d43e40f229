//! The walker against real kernels, 5.10 to 7.2. The expected numbers come from bpftool and GCC (fixtures/README.md).

use sidecar_btf::{Btf, Kind, Member, PathError};
use sidecar_common::field::{FieldSpec, MISSING};

const KERNELS: [&str; 5] = ["5.10", "6.1", "6.12", "6.18", "7.2"];

fn kernel(version: &str) -> Btf {
    let path = format!("{}/fixtures/{version}.btf", env!("CARGO_MANIFEST_DIR"));
    Btf::from_file(path).expect("the fixture is whole")
}

/// Calls `check` for each cell of a table with one column per kernel.
fn each_cell(table: &str, mut check: impl FnMut(&Btf, &str, &str, &str)) -> usize {
    let kernels = KERNELS.map(kernel);
    let mut cells = 0;
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let mut columns = line.split_whitespace();
        let name = columns.next().expect("a row starts with a name");
        let values: Vec<&str> = columns.collect();
        assert_eq!(values.len(), KERNELS.len(), "{line}");
        for ((btf, version), expected) in kernels.iter().zip(KERNELS).zip(values) {
            check(btf, name, expected, version);
            cells += 1;
        }
    }
    cells
}

#[test]
fn every_member_lies_where_the_c_compiler_puts_it() {
    let cells = each_cell(include_str!("../fixtures/members.txt"), |btf, path, expected, version| {
        let found = match btf.member(path) {
            Ok(Member { offset, size }) => format!("{offset}:{size}"),
            Err(PathError::NoMember { .. }) => "-".to_owned(),
            Err(PathError::Bitfield(_)) => "bitfield".to_owned(),
            Err(other) => other.to_string(),
        };
        assert_eq!(found, expected, "{path} in {version}");
    });
    assert!(cells > 300, "the table was read: {cells}");
}

#[test]
fn sizes_and_parameter_counts_are_those_bpftool_prints() {
    let cells = each_cell(include_str!("../fixtures/counts.txt"), |btf, name, expected, version| {
        let found = match name.split_once(':').unwrap() {
            ("size", name) => btf.struct_size(name),
            ("function", name) => btf.parameters(name),
            ("tracepoint", name) => btf.tracepoint_parameters(name),
            (what, _) => panic!("unknown row {what}"),
        };
        assert_eq!(found, Some(expected.parse().unwrap()), "{name} in {version}");
    });
    assert!(cells > 100, "the table was read: {cells}");
}

fn offset_of(version: &str, spec: FieldSpec) -> u32 {
    kernel(version).resolve(&[spec]).expect("the field exists")[0]
}

#[test]
fn a_renamed_member_is_found_by_its_other_name() {
    let state =
        FieldSpec { name: "state", paths: &["task_struct.__state", "task_struct.state"], optional: false };
    assert_eq!(KERNELS.map(|version| offset_of(version, state)), [16, 24, 24, 24, 24]);
    let parent =
        FieldSpec { name: "parent", paths: &["kernfs_node.__parent", "kernfs_node.parent"], optional: false };
    assert_eq!(KERNELS.map(|version| offset_of(version, parent)), [8; 5]);
    let disk = FieldSpec { name: "disk", paths: &["bio.bi_bdev", "bio.bi_disk"], optional: false };
    assert_eq!(KERNELS.map(|version| offset_of(version, disk)), [8; 5]);
}

#[test]
fn offsets_come_in_the_order_of_the_table() {
    sidecar_common::fields! {
        struct Fields {
            srtt: "tcp_sock.srtt_us",
            optional disk: "request.rq_disk",
            port: "sock.__sk_common.skc_dport",
        }
    }
    assert_eq!(kernel("5.10").resolve(Fields::SPECS), Ok(vec![1624, 160, 12]));
    assert_eq!(kernel("7.2").resolve(Fields::SPECS), Ok(vec![1784, MISSING, 12]));
}

#[test]
fn a_missing_required_field_is_reported_with_every_path_tried() {
    let spec = FieldSpec {
        name: "disk",
        paths: &["request.rq_disk", "gendisk.first_minor", "request.in_flight", "task_struct.in_execve"],
        optional: false,
    };
    let error = kernel("6.12").resolve(&[spec]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kernel field `disk` not found; tried request.rq_disk: `request` has no member `rq_disk`; \
         gendisk.first_minor: no struct or union `gendisk`; request.in_flight: `request` has no member `in_flight`; \
         task_struct.in_execve: `task_struct.in_execve` is a bitfield"
    );
}

#[test]
fn a_malformed_path_is_an_error_even_when_optional() {
    for path in [
        "tcp_sock",
        "",
        ".",
        "tcp_sock.",
        ".srtt_us",
        "sock..skc_dport",
        "sock.__sk_common.",
        "no_such_struct.",
    ] {
        let paths: &'static [&'static str] = Box::leak(Box::new([path]));
        let error = kernel("6.1").resolve(&[FieldSpec { name: "x", paths, optional: true }]).unwrap_err();
        assert_eq!(error.tried, [(path, PathError::Malformed)]);
    }
}

#[test]
fn a_path_does_not_lead_through_pointers() {
    let error = kernel("6.1").member("sock.sk_socket.file").unwrap_err();
    assert_eq!(error, PathError::NotAggregate("sock.sk_socket".to_owned()));
}

#[test]
fn functions_are_known_by_name() {
    for version in KERNELS {
        let btf = kernel(version);
        assert!(btf.has_function("tcp_sendmsg"), "{version}");
        assert!(!btf.has_function("tcp_sendms"), "{version}");
        assert!(!btf.has_function("tcp_sock"), "a struct is not a function, {version}");
        assert_eq!(btf.parameters("no_such_function"), None);
        assert_eq!(btf.tracepoint_parameters("no_such_tracepoint"), None);
    }
}

#[test]
fn type_ids_are_those_bpftool_prints() {
    let btf = kernel("6.12");
    assert_eq!(btf.type_id(Kind::Struct, "sock"), Some(733));
    assert_eq!(btf.type_id(Kind::Typedef, "btf_trace_sys_exit"), Some(871));
    assert_eq!(btf.type_id(Kind::Func, "inet_csk_accept"), Some(1036));
    assert_eq!(btf.type_id(Kind::Struct, "inet_csk_accept"), None);
}

#[test]
fn drop_reasons_are_numbered_as_in_their_kernel() {
    let reasons = |version| kernel(version).enum_values("skb_drop_reason");
    assert_eq!(reasons("5.10"), None);
    for (version, count, consumed) in
        [("6.1", 66, None), ("6.12", 102, Some(1)), ("6.18", 130, Some(1)), ("7.2", 128, Some(1))]
    {
        let values = reasons(version).unwrap();
        assert_eq!(values.len(), count, "{version}");
        assert_eq!(values[0], ("SKB_NOT_DROPPED_YET".to_owned(), 0));
        let value = |name| values.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
        assert_eq!(value("SKB_CONSUMED"), consumed, "{version}");
        assert_eq!(value("SKB_DROP_REASON_NOT_SPECIFIED"), Some(1 + consumed.unwrap_or(0)), "{version}");
        let mask = consumed.map(|_| 0xffff_0000);
        assert_eq!(value("SKB_DROP_REASON_SUBSYS_MASK"), mask, "{version}");
    }
}

#[test]
fn the_running_kernel_is_readable_or_says_what_it_lacks() {
    match Btf::from_kernel() {
        Ok(btf) => {
            // As in all five fixtures.
            assert_eq!(btf.member("sock.__sk_common.skc_dport"), Ok(Member { offset: 12, size: 2 }));
            assert_eq!(btf.tracepoint_parameters("sys_enter"), Some(2));
        }
        Err(error) => assert!(error.to_string().contains("CONFIG_DEBUG_INFO_BTF"), "{error}"),
    }
}

#[test]
fn an_absent_file_is_named() {
    let error = Btf::from_file("/nonexistent/kernel.btf").err().unwrap();
    assert!(error.to_string().starts_with("cannot read BTF from /nonexistent/kernel.btf: "), "{error}");
}
