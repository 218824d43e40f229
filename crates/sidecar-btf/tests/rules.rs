//! Rules of the format and of the walker that no fixture shows on its own: every kind of type, both ways of writing
//! bitfields, duplicated names, signs.

mod synthetic;

use sidecar_btf::{Btf, BtfError, Kind, Member, PathError};
use synthetic::{Builder, every_kind, kind};

fn at(offset: u32, size: u32) -> Member {
    Member { offset, size }
}

#[test]
fn members_of_every_kind_have_offset_and_size() {
    let btf = every_kind().btf();
    assert_eq!(btf.member("outer.word"), Ok(at(0, 4)));
    assert_eq!(btf.member("outer.double_word"), Ok(at(0, 8)));
    assert_eq!(btf.member("outer.pointer"), Ok(at(8, 8)));
    assert_eq!(btf.member("outer.array"), Ok(at(16, 24)));
    assert_eq!(btf.member("outer.typedef"), Ok(at(40, 4)));
    assert_eq!(btf.member("outer.float"), Ok(at(48, 8)));
    assert_eq!(btf.member("outer.small"), Ok(at(56, 4)));
    assert_eq!(btf.member("outer.wide"), Ok(at(64, 8)));
    assert_eq!(btf.struct_size("outer"), Some(112));
}

#[test]
fn a_forward_declaration_is_not_a_struct() {
    let btf = every_kind().btf();
    assert_eq!(btf.member("elsewhere.x"), Err(PathError::NoType("elsewhere".to_owned())));
    assert_eq!(btf.struct_size("elsewhere"), None);
}

#[test]
fn a_variadic_function_counts_only_its_named_parameters() {
    assert_eq!(every_kind().btf().parameters("function"), Some(2));
}

#[test]
fn a_tracepoint_has_one_argument_less_than_its_prototype() {
    assert_eq!(every_kind().btf().tracepoint_parameters("event"), Some(2));
}

#[test]
fn both_ways_of_writing_a_bitfield_are_refused() {
    let mut b = Builder::new();
    let int = b.int("int", 4);
    let three_bits = b.add(kind::INT, "three", 0, 4, &[3]);
    let shifted = b.add(kind::INT, "shifted", 0, 4, &[8 << 16 | 32]);
    b.aggregate(kind::STRUCT, "flagged", 8, true, &[("whole", int, 0), ("bits", int, 32 << 24 | 32)]);
    b.structure("plain", 16, &[("bits", three_bits, 0), ("shifted", shifted, 32), ("odd", int, 65)]);
    let btf = b.btf();
    assert_eq!(btf.member("flagged.whole"), Ok(at(0, 4)));
    for path in ["flagged.bits", "plain.bits", "plain.shifted", "plain.odd"] {
        assert_eq!(btf.member(path), Err(PathError::Bitfield(path.to_owned())));
    }
}

#[test]
fn same_named_structs_answer_only_where_they_agree() {
    let mut b = Builder::new();
    let int = b.int("int", 4);
    b.structure("adapter", 16, &[("same", int, 0), ("moved", int, 32), ("only_here", int, 64)]);
    b.structure("adapter", 24, &[("same", int, 0), ("moved", int, 64)]);
    let btf = b.btf();
    let ambiguous = Err(PathError::Ambiguous("adapter".to_owned()));
    assert_eq!(btf.member("adapter.same"), Ok(at(0, 4)));
    assert_eq!(btf.member("adapter.moved"), ambiguous);
    assert_eq!(btf.member("adapter.only_here"), ambiguous);
    assert!(matches!(btf.member("adapter.nowhere"), Err(PathError::NoMember { .. })));
    assert_eq!(btf.struct_size("adapter"), None);
    assert_eq!(btf.type_id(Kind::Struct, "adapter"), None);
}

#[test]
fn same_named_functions_answer_only_where_they_agree() {
    let mut b = Builder::new();
    let int = b.int("int", 4);
    b.function("alike", &[int, int]);
    b.function("alike", &[int, int]);
    b.function("unlike", &[int]);
    b.function("unlike", &[int, int]);
    let btf = b.btf();
    assert_eq!(btf.parameters("alike"), Some(2));
    assert_eq!(btf.parameters("unlike"), None);
    assert!(btf.has_function("unlike"));
    assert_eq!(btf.type_id(Kind::Func, "alike"), None);
}

#[test]
fn enumerators_keep_their_sign() {
    let mut b = Builder::new();
    let (low, high) = (b.string("LOW"), b.string("HIGH"));
    let minus_one = u32::MAX;
    b.add(kind::ENUM, "signed", 1 << 31 | 2, 4, &[low, minus_one, high, 7]);
    b.add(kind::ENUM, "unsigned", 1, 4, &[low, minus_one]);
    b.add(kind::ENUM64, "wide", 1 << 31 | 2, 8, &[low, minus_one, minus_one, high, 0, 1]);
    b.add(kind::ENUM, "forward", 0, 4, &[]);
    let btf = b.btf();
    let values =
        |name| btf.enum_values(name).map(|values| values.into_iter().map(|(_, v)| v).collect::<Vec<_>>());
    assert_eq!(btf.enum_values("signed"), Some(vec![("LOW".to_owned(), -1), ("HIGH".to_owned(), 7)]));
    assert_eq!(values("unsigned"), Some(vec![4_294_967_295]));
    assert_eq!(values("wide"), Some(vec![-1, 1 << 32]));
    assert_eq!(values("forward"), None);
}

#[test]
fn a_longer_header_of_a_newer_format_is_skipped() {
    let plain = every_kind().bytes();
    let mut longer = plain[..24].to_vec();
    longer[4] = 32;
    longer.extend([0; 8]);
    longer.extend(&plain[24..]);
    assert_eq!(Btf::parse(longer).unwrap().member("outer.float"), Ok(at(48, 8)));
}

fn parse_error(bytes: Vec<u8>) -> BtfError {
    Btf::parse(bytes).err().expect("the file is not usable")
}

#[test]
fn what_is_not_btf_is_said_so() {
    assert_eq!(parse_error(vec![]).to_string(), "not BTF: shorter than a BTF header");
    let elf = [b"\x7fELF", &[0; 60][..]].concat();
    assert!(parse_error(elf).to_string().contains("raw .BTF section"));
    let mut other_order = every_kind().bytes();
    other_order.swap(0, 1);
    assert!(parse_error(other_order).to_string().contains("other byte order"));
    let mut version = every_kind().bytes();
    version[2] = 2;
    assert!(parse_error(version).to_string().contains("version"));
}

#[test]
fn an_unknown_kind_of_type_is_named() {
    let mut b = every_kind();
    let id = b.add(20, "future", 0, 0, &[]);
    assert!(matches!(parse_error(b.bytes()), BtfError::UnknownKind { id: found, kind: 20 } if found == id));
    let mut void = Builder::new();
    void.add(0, "", 0, 0, &[]);
    assert!(matches!(parse_error(void.bytes()), BtfError::UnknownKind { id: 1, kind: 0 }));
}
