//! Truncated, self-referring and randomly changed files: an error or an answer, never a panic, never an endless walk.

mod synthetic;

use sidecar_btf::{Btf, BtfError, PathError};
use synthetic::{Builder, ask_everything, every_kind, kind};

const NAMES: &[&str] = &["outer", "function", "event", "small", "wide", "int", "tagged_t", "elsewhere", ""];
const PATHS: &[&str] = &[
    "outer.word",
    "outer.pointer",
    "outer.array",
    "outer.typedef",
    "outer.bits",
    "outer.wide",
    "outer.nowhere",
    "outer.array.x",
];
const KERNEL_NAMES: &[&str] =
    &["sock", "inet_csk_accept", "sys_enter", "skb_drop_reason", "task_struct", "net"];
const KERNEL_PATHS: &[&str] = &[
    "tcp_sock.srtt_us",
    "tcp_sock.inet_conn.icsk_accept_queue.fastopenq",
    "sock.__sk_common.skc_dport",
    "file.f_path.dentry",
    "task_struct.se.sum_exec_runtime",
    "net.ns.inum",
    "filename.name",
    "dentry.d_name.name",
    "mm_struct.rss_stat",
];

fn fixture() -> Vec<u8> {
    std::fs::read(format!("{}/fixtures/7.2.btf", env!("CARGO_MANIFEST_DIR"))).expect("the fixture is there")
}

#[test]
fn a_file_cut_at_any_length_is_refused() {
    let small = every_kind().bytes();
    for length in 0..small.len() {
        assert!(Btf::parse(small[..length].to_vec()).is_err(), "{length} of {} bytes", small.len());
    }
    let kernel = fixture();
    for length in 0..kernel.len() {
        // The parser never looks further once a section does not fit, so this is quick.
        assert!(Btf::parse(kernel[..length].to_vec()).is_err(), "{length} of {} bytes", kernel.len());
    }
}

#[test]
fn sections_cut_at_any_length_are_read_only_up_to_a_whole_type() {
    let whole = every_kind();
    let mut readable = 0;
    for length in 0..whole.types.len() {
        let mut cut = every_kind();
        cut.types.truncate(length);
        match Btf::parse(cut.bytes()) {
            Ok(btf) => {
                ask_everything(&btf, NAMES, PATHS);
                readable += 1;
            }
            Err(error) => assert!(matches!(error, BtfError::Damaged { .. }), "{length}: {error}"),
        }
    }
    assert_eq!(readable, whole.count(), "cut before each type");
    for length in 0..whole.strings.len() {
        let mut cut = every_kind();
        cut.strings.truncate(length);
        assert!(Btf::parse(cut.bytes()).is_err(), "names beyond {length} bytes of strings");
    }
}

#[test]
fn a_file_larger_than_any_kernels_is_refused() {
    let error = Btf::parse(vec![0; (64 << 20) + 1]).err().expect("too large");
    assert!(matches!(error, BtfError::TooLarge(limit) if limit == 64 << 20));
}

/// xorshift64*: the same damage in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

/// Changes some bytes many times over; answers how many files were still readable.
fn damage(whole: &[u8], rounds: usize, names: &[&str], paths: &[&str]) -> usize {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut readable = 0;
    for _ in 0..rounds {
        let mut bytes = whole.to_vec();
        for _ in 0..=random.below(6) {
            let at = random.below(bytes.len());
            bytes[at] = random.below(256) as u8;
        }
        if let Ok(btf) = Btf::parse(bytes) {
            ask_everything(&btf, names, paths);
            readable += 1;
        }
    }
    readable
}

#[test]
fn random_damage_causes_no_panic() {
    assert!(
        damage(&every_kind().bytes(), 50_000, NAMES, PATHS) > 5_000,
        "some damaged files are still walked"
    );
    assert!(damage(&fixture(), 500, KERNEL_NAMES, KERNEL_PATHS) > 100, "some damaged files are still walked");
}

#[test]
fn types_that_contain_themselves_end_the_walk() {
    let mut b = Builder::new();
    // Ids count from 1 in the order of the calls.
    b.refer(kind::TYPEDEF, "endless", 1);
    b.structure("holder", 8, &[("member", 1, 0), ("array", 3, 0)]);
    b.array(3, 1);
    b.structure("nested", 8, &[("", 4, 0)]);
    let btf = b.btf();
    let damaged = |path| matches!(btf.member(path), Err(PathError::Damaged(_)));
    assert!(damaged("holder.member"));
    assert!(damaged("holder.array"));
    assert!(damaged("nested.nowhere"));
    assert_eq!(btf.member("holder.member.x"), Err(PathError::NotAggregate("holder.member".to_owned())));
}

#[test]
fn anonymous_members_that_multiply_end_the_walk() {
    let mut b = Builder::new();
    // Each of twelve levels holds the next one 200 times: 200^12 members in a file of some 30 KB.
    for level in 1..=12 {
        let members = vec![("", level + 1, 0); 200];
        b.structure(if level == 1 { "bomb" } else { "" }, 8, &members);
    }
    b.structure("", 8, &[]);
    let started = std::time::Instant::now();
    assert!(matches!(b.btf().member("bomb.nowhere"), Err(PathError::Damaged(_))));
    assert!(started.elapsed() < std::time::Duration::from_secs(5));
}

#[test]
fn many_structs_of_one_name_share_one_walk() {
    let mut b = Builder::new();
    let name = b.string("x");
    let wide = b.add(kind::STRUCT, "", 60_000, 8, &[name, 0, 0].repeat(60_000));
    for _ in 0..20_000 {
        b.structure("many", 8, &[("", wide, 0)]);
    }
    let started = std::time::Instant::now();
    assert_eq!(b.btf().member("many.nowhere"), Err(PathError::Ambiguous("many".to_owned())));
    assert!(started.elapsed() < std::time::Duration::from_secs(5));
}

#[test]
fn an_enum_longer_than_any_kernels_is_not_copied() {
    let mut b = Builder::new();
    let name = b.string("VALUE");
    b.add(kind::ENUM, "longest", 10_000, 4, &[name, 1].repeat(10_000));
    b.add(kind::ENUM, "too_long", 10_001, 4, &[name, 1].repeat(10_001));
    let btf = b.btf();
    assert_eq!(btf.enum_values("longest").map(|values| values.len()), Some(10_000));
    assert_eq!(btf.enum_values("too_long"), None);
}

#[test]
fn a_member_outside_of_its_struct_is_refused() {
    let mut b = Builder::new();
    let int = b.int("int", 4);
    let huge = b.array(int, u32::MAX);
    b.structure(
        "short",
        4,
        &[("inside", int, 0), ("outside", int, 8), ("huge", huge, 0), ("far", int, u32::MAX - 7)],
    );
    let btf = b.btf();
    assert!(btf.member("short.inside").is_ok());
    for path in ["short.outside", "short.huge", "short.far"] {
        assert!(matches!(btf.member(path), Err(PathError::Damaged(_))), "{path}");
    }
}
