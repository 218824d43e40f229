//! Cuts a kernel's BTF (4 to 6 MB) down to what the tests ask for, so that the layouts of several kernels can be kept
//! in the repository and checked without booting them. Not part of the agent.

use crate::Btf;
use crate::record::{Kind, Record, Records};
use crate::walk::fields;
use std::collections::{BTreeMap, HashMap, HashSet};

/// A raw BTF section that holds the structs, unions, enums, typedefs and functions named in `keep` with everything
/// they are made of. What they only point to becomes a forward declaration; function pointers in structs and pointers
/// to unnamed structs become `void *`. Names the kernel does not have are left out.
pub fn reduce(btf: &Btf, keep: &[&str]) -> Vec<u8> {
    let mut closure =
        Closure { records: &btf.records, kept: BTreeMap::new(), seen: HashSet::new(), left: vec![] };
    for name in keep {
        for (id, record) in btf.named(name) {
            if record.kind.is_aggregate()
                || matches!(record.kind, Kind::Enum | Kind::Enum64 | Kind::Typedef | Kind::Func)
            {
                closure.add_root(id, &record);
            }
        }
    }
    closure.follow();
    Writer::new(&btf.records, &closure.kept).write()
}

/// How a type is reached from what must be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Reach {
    /// It is part of the layout.
    Value,
    /// Only its name matters.
    Pointer,
}

/// How a type is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Whole,
    Forward,
}

struct Closure<'a> {
    records: &'a Records,
    kept: BTreeMap<u32, Form>,
    seen: HashSet<(u32, Reach)>,
    left: Vec<(u32, Reach)>,
}

impl Closure<'_> {
    fn add_root(&mut self, id: u32, root: &Record) {
        self.left.push((id, Reach::Value));
        // `btf_trace_*` are typedefs of pointers to prototypes, and the prototype is what is wanted of them.
        let pointer =
            self.records.get(root.size_or_type).filter(|r| root.kind == Kind::Typedef && r.kind == Kind::Ptr);
        if let Some(pointer) = pointer
            && self.records.get(pointer.size_or_type).is_some_and(|target| target.kind == Kind::FuncProto)
        {
            self.left.push((pointer.size_or_type, Reach::Value));
        }
    }

    fn follow(&mut self) {
        while let Some((id, reach)) = self.left.pop() {
            if let Some(record) = self.records.get(id)
                && self.seen.insert((id, reach))
            {
                self.visit(id, reach, &record);
            }
        }
    }

    fn visit(&mut self, id: u32, reach: Reach, record: &Record) {
        match (record.kind, reach) {
            (Kind::Struct | Kind::Union, Reach::Pointer) => {
                if self.records.name_of(id) != 0 {
                    self.kept.entry(id).or_insert(Form::Forward);
                }
                return;
            }
            (Kind::FuncProto, Reach::Pointer) => return,
            (Kind::Struct | Kind::Union, Reach::Value) => {
                self.left.extend(fields(self.records, record).map(|field| (field.type_id, Reach::Value)));
            }
            (Kind::FuncProto, Reach::Value) => {
                self.left.push((record.size_or_type, Reach::Value));
                let parameters = (0..record.count).map(|index| record.tail + 8 * index + 4);
                self.left.extend(parameters.map(|at| (self.records.word(at), Reach::Value)));
            }
            (Kind::Array, _) => {
                self.left.push((self.records.word(record.tail), Reach::Value));
                self.left.push((self.records.word(record.tail + 4), Reach::Value));
            }
            (Kind::Ptr, _) => self.left.push((record.size_or_type, Reach::Pointer)),
            (Kind::Func, _) => self.left.push((record.size_or_type, Reach::Value)),
            (kind, reach) if kind.is_transparent() => self.left.push((record.size_or_type, reach)),
            _ => {}
        }
        self.kept.insert(id, Form::Whole);
    }
}

struct Writer<'a> {
    records: &'a Records,
    kept: &'a BTreeMap<u32, Form>,
    ids: HashMap<u32, u32>,
    types: Vec<u8>,
    strings: Vec<u8>,
    placed: HashMap<&'a [u8], u32>,
}

impl<'a> Writer<'a> {
    fn new(records: &'a Records, kept: &'a BTreeMap<u32, Form>) -> Self {
        let ids = kept.keys().copied().zip(1..).collect();
        Self { records, kept, ids, types: vec![], strings: vec![0], placed: HashMap::new() }
    }

    fn write(mut self) -> Vec<u8> {
        for (&id, &form) in self.kept {
            if let Some(record) = self.records.get(id) {
                self.string(self.records.name_of(id));
                match form {
                    Form::Whole => self.whole(&record),
                    Form::Forward => {
                        let is_union = u32::from(record.kind == Kind::Union);
                        self.raw(is_union << 31 | (Kind::Fwd as u32) << 24);
                        self.raw(0);
                    }
                }
            }
        }
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        let mut file = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, types, types, strings] {
            file.extend(u32::to_le_bytes(word));
        }
        [file, self.types, self.strings].concat()
    }

    fn whole(&mut self, record: &Record) {
        self.raw(self.records.word(record.tail - 8));
        let names_a_type =
            record.kind.is_transparent() || matches!(record.kind, Kind::Ptr | Kind::Func | Kind::FuncProto);
        if names_a_type {
            self.id(record.size_or_type);
        } else {
            self.raw(record.size_or_type);
        }
        let words = record.kind.tail(record.count) / 4;
        for (index, at) in (0..words).map(|index| (index, record.tail + 4 * index)) {
            let word = self.records.word(at);
            match (record.kind, index) {
                (Kind::Struct | Kind::Union, index) if index % 3 == 0 => self.string(word),
                (Kind::Struct | Kind::Union, index) if index % 3 == 1 => self.id(word),
                (Kind::Enum | Kind::FuncProto, index) if index % 2 == 0 => self.string(word),
                (Kind::FuncProto, _) | (Kind::Array, 0 | 1) => self.id(word),
                (Kind::Enum64, index) if index % 3 == 0 => self.string(word),
                _ => self.raw(word),
            }
        }
    }

    fn raw(&mut self, word: u32) {
        self.types.extend(word.to_le_bytes());
    }

    /// Types that were not kept become `void`.
    fn id(&mut self, old: u32) {
        self.raw(self.ids.get(&old).copied().unwrap_or(0));
    }

    fn string(&mut self, old: u32) {
        let text = self.records.string(old);
        let place = if text.is_empty() {
            0
        } else {
            *self.placed.entry(text).or_insert_with(|| {
                let place = self.strings.len() as u32;
                self.strings.extend(text);
                self.strings.push(0);
                place
            })
        };
        self.raw(place);
    }
}
