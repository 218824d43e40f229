//! Writes BTF by hand, as `include/uapi/linux/btf.h` describes it, for what no real kernel holds.
#![allow(dead_code, reason = "each test binary uses its own part")]

/// Numbers of `BTF_KIND_*`.
pub(crate) mod kind {
    pub(crate) const INT: u32 = 1;
    pub(crate) const PTR: u32 = 2;
    pub(crate) const ARRAY: u32 = 3;
    pub(crate) const STRUCT: u32 = 4;
    pub(crate) const UNION: u32 = 5;
    pub(crate) const ENUM: u32 = 6;
    pub(crate) const FWD: u32 = 7;
    pub(crate) const TYPEDEF: u32 = 8;
    pub(crate) const VOLATILE: u32 = 9;
    pub(crate) const CONST: u32 = 10;
    pub(crate) const RESTRICT: u32 = 11;
    pub(crate) const FUNC: u32 = 12;
    pub(crate) const FUNC_PROTO: u32 = 13;
    pub(crate) const VAR: u32 = 14;
    pub(crate) const DATASEC: u32 = 15;
    pub(crate) const FLOAT: u32 = 16;
    pub(crate) const DECL_TAG: u32 = 17;
    pub(crate) const TYPE_TAG: u32 = 18;
    pub(crate) const ENUM64: u32 = 19;
}

pub(crate) struct Builder {
    pub(crate) types: Vec<u8>,
    pub(crate) strings: Vec<u8>,
    next: u32,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self { types: vec![], strings: vec![0], next: 1 }
    }

    pub(crate) fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend(text.as_bytes());
        self.strings.push(0);
        at
    }

    /// A record with `count` elements made of the words in `tail`; answers its id.
    pub(crate) fn add(&mut self, kind: u32, name: &str, count: u32, size_or_type: u32, tail: &[u32]) -> u32 {
        let name = self.string(name);
        for word in [name, kind << 24 | count, size_or_type].iter().chain(tail) {
            self.types.extend(word.to_le_bytes());
        }
        self.next += 1;
        self.next - 1
    }

    pub(crate) fn int(&mut self, name: &str, size: u32) -> u32 {
        self.add(kind::INT, name, 0, size, &[size * 8])
    }

    pub(crate) fn refer(&mut self, kind: u32, name: &str, to: u32) -> u32 {
        self.add(kind, name, 0, to, &[])
    }

    pub(crate) fn array(&mut self, of: u32, length: u32) -> u32 {
        self.add(kind::ARRAY, "", 0, 0, &[of, of, length])
    }

    /// `members`: name, type and place (bits, or bits with the bitfield's width in the top byte when `flag`).
    pub(crate) fn aggregate(
        &mut self,
        kind: u32,
        name: &str,
        size: u32,
        flag: bool,
        members: &[(&str, u32, u32)],
    ) -> u32 {
        let mut tail = vec![];
        for &(name, of, place) in members {
            tail.extend([self.string(name), of, place]);
        }
        self.add(kind, name, u32::from(flag) << 31 | members.len() as u32, size, &tail)
    }

    pub(crate) fn structure(&mut self, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        self.aggregate(kind::STRUCT, name, size, false, members)
    }

    pub(crate) fn function(&mut self, name: &str, parameters: &[u32]) -> u32 {
        let tail: Vec<u32> = parameters.iter().flat_map(|&of| [0, of]).collect();
        let prototype = self.add(kind::FUNC_PROTO, "", parameters.len() as u32, 0, &tail);
        self.refer(kind::FUNC, name, prototype)
    }

    /// How many types were added.
    pub(crate) fn count(&self) -> u32 {
        self.next - 1
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        let mut file = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, types, types, strings] {
            file.extend(u32::to_le_bytes(word));
        }
        [&file[..], &self.types, &self.strings].concat()
    }

    pub(crate) fn btf(&self) -> sidecar_btf::Btf {
        sidecar_btf::Btf::parse(self.bytes()).expect("what was built is sound")
    }
}

/// A file with every kind of type, and names to ask for.
pub(crate) fn every_kind() -> Builder {
    let mut b = Builder::new();
    let int = b.int("int", 4);
    let long = b.int("long", 8);
    let pointer = b.refer(kind::PTR, "", int);
    let array = b.array(long, 3);
    let volatile = b.refer(kind::VOLATILE, "", int);
    let constant = b.refer(kind::CONST, "", volatile);
    let restrict = b.refer(kind::RESTRICT, "", pointer);
    let tagged = b.refer(kind::TYPE_TAG, "user", constant);
    let typedef = b.refer(kind::TYPEDEF, "tagged_t", tagged);
    let float = b.add(kind::FLOAT, "double", 0, 8, &[]);
    let one = b.string("ONE");
    let small = b.add(kind::ENUM, "small", 1, 4, &[one, 1]);
    let wide = b.add(kind::ENUM64, "wide", 1, 8, &[one, 2, 3]);
    let union = b.aggregate(kind::UNION, "", 8, false, &[("word", int, 0), ("double_word", long, 0)]);
    let outer = b.aggregate(
        kind::STRUCT,
        "outer",
        112,
        true,
        &[
            ("", union, 0),
            ("pointer", restrict, 64),
            ("array", array, 128),
            ("typedef", typedef, 320),
            ("bits", int, (3 << 24) + 352),
            ("float", float, 384),
            ("small", small, 448),
            ("wide", wide, 512),
        ],
    );
    b.add(kind::FWD, "elsewhere", 0, 0, &[]);
    let void = b.refer(kind::PTR, "", 0);
    b.function("function", &[void, int, 0]);
    let prototype = b.add(kind::FUNC_PROTO, "", 3, 0, &[0, void, 0, outer, 0, int]);
    let pointer = b.refer(kind::PTR, "", prototype);
    b.refer(kind::TYPEDEF, "btf_trace_event", pointer);
    let variable = b.add(kind::VAR, "variable", 0, outer, &[1]);
    b.add(kind::DATASEC, ".data", 1, 112, &[variable, 0, 112]);
    b.add(kind::DECL_TAG, "tag", 0, outer, &[u32::MAX]);
    b
}

/// Asks everything there is to ask; for damaged files, where any answer will do but a panic.
pub(crate) fn ask_everything(btf: &sidecar_btf::Btf, names: &[&str], paths: &[&str]) {
    use sidecar_btf::Kind;
    for path in paths {
        if let Ok(member) = btf.member(path) {
            assert_ne!(member.offset, sidecar_common::field::MISSING, "{path}");
            let size = path.split('.').next().and_then(|root| btf.struct_size(root));
            // Two of one name may differ in size and still agree about the member.
            assert!(size.is_none_or(|size| member.offset + member.size <= size), "{path} lies outside");
        }
    }
    for name in names {
        btf.struct_size(name);
        btf.has_function(name);
        btf.parameters(name);
        btf.tracepoint_parameters(name);
        btf.enum_values(name);
        btf.type_id(Kind::Struct, name);
        btf.type_id(Kind::Func, name);
    }
}
