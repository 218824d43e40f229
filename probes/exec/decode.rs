//! From the kernel's records to events.

use sidecar_common::{event::EventHeader, owner::Owner};
use sidecar_core::{CollectError, EventField, EventSpec, EventValue, Events, FieldKind, probe::Names};

use super::{
    collect::{errno, signal},
    redact,
    shared::{EXEC_EVENT, EXEC_HEAD, EXIT_EVENT, Exec, Exit},
};
use crate::plain::view;

const fn field(name: &'static str, kind: FieldKind, width: u8, help: &'static str) -> EventField {
    EventField { name, kind, optional: false, width, help }
}

const fn optional(name: &'static str, kind: FieldKind, width: u8, help: &'static str) -> EventField {
    EventField { name, kind, optional: true, width, help }
}

const PID: EventField = field("pid", FieldKind::Number, 7, "Process id in the initial pid namespace");
const PPID: EventField = field("ppid", FieldKind::Number, 7, "Process id of the parent");
const UID: EventField =
    field("uid", FieldKind::Number, 6, "User id of the process, in the initial user namespace");
const CGROUP: EventField =
    field("cgroup", FieldKind::Text, 0, "cgroup of the process, as in /proc/PID/cgroup");

/// A program is started, or is not.
pub(super) static EXEC: EventSpec = EventSpec {
    kind: "exec",
    summary: "A process has executed a program, or tried to",
    fields: &[
        PID,
        PPID,
        UID,
        field("comm", FieldKind::Text, 15, "Name of the process: the new one, or if it failed the old one"),
        CGROUP,
        field("result", FieldKind::Text, 8, "ok, or the name of the errno"),
        optional(
            "path",
            FieldKind::Text,
            24,
            "The file as it was named; relative ones are relative to the process's working directory",
        ),
        field("args", FieldKind::List, 40, "The arguments, the program's own name first"),
        field("args_cut", FieldKind::Bool, 0, "Whether there were more arguments than fit, or longer ones"),
    ],
};

/// A process has ended.
pub(super) static EXIT: EventSpec = EventSpec {
    kind: "exec_exit",
    summary: "A process has ended, that is, the last of its threads",
    fields: &[
        PID,
        PPID,
        UID,
        field("comm", FieldKind::Text, 15, "Name of the process"),
        CGROUP,
        optional("code", FieldKind::Number, 5, "Exit code; unknown if a signal ended it"),
        optional("signal", FieldKind::Text, 10, "Name of the signal that ended it"),
        field("core_dumped", FieldKind::Bool, 0, "Whether it left a core dump"),
        field("lifetime_seconds", FieldKind::Seconds, 12, "How long it lived, from its fork"),
        field("peak_memory_bytes", FieldKind::Number, 14, "Most memory it had resident at a time, in bytes"),
    ],
};

/// Hands over the event in a record.
pub(super) fn record(
    bytes: &[u8],
    redacted: bool,
    names: &dyn Names,
    out: &mut Events<'_>,
) -> Result<(), CollectError> {
    let malformed = || CollectError::Malformed(format!("an event of {} bytes makes no sense", bytes.len()));
    let kind = bytes.get(..size_of::<EventHeader>()).map(|head| u32_at(head, 8));
    match kind {
        Some(EXEC_EVENT) if bytes.len() >= EXEC_HEAD && bytes.len() <= size_of::<Exec>() => {
            exec(bytes, redacted, names, out);
            Ok(())
        }
        Some(EXIT_EVENT) => {
            exit(view(bytes).ok_or_else(malformed)?, names, out);
            Ok(())
        }
        _ => Err(malformed()),
    }
}

/// A number of a record. The caller has checked the length.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_ne_bytes)
}

/// A record that is shorter than its type, so it is read member by member.
fn exec(bytes: &[u8], redacted: bool, names: &dyn Names, out: &mut Events<'_>) {
    use core::mem::offset_of;
    let (head, text) = bytes.split_at(EXEC_HEAD);
    let owner = offset_of!(Exec, owner);
    let comm = &head[owner + offset_of!(Owner, comm)..][..16];
    let path = (u32_at(head, offset_of!(EventHeader, extra)) as usize).min(text.len());
    let (path, arguments) = text.split_at(path);
    let result = u32_at(head, offset_of!(Exec, result)) as i32;
    let there = u32_at(head, offset_of!(Exec, args)) as usize;
    let mut args = arguments_of(arguments);
    if redacted {
        redact::arguments(&mut args);
    }
    let path = until_zero(path);
    let values = vec![
        EventValue::Number(u32_at(head, owner + offset_of!(Owner, pid)).into()),
        EventValue::Number(u32_at(head, offset_of!(Exec, parent)).into()),
        EventValue::Number(u32_at(head, offset_of!(Exec, uid)).into()),
        EventValue::Text(text_of(comm)),
        EventValue::Text(names.cgroup(u64_at(head, owner + offset_of!(Owner, cgroup)))),
        EventValue::Word(if result == 0 { "ok" } else { errno(result.unsigned_abs()) }),
        if path.is_empty() { EventValue::Unknown } else { EventValue::Text(text_of(path)) },
        EventValue::List(args),
        EventValue::Bool(there > arguments.len()),
    ];
    out.push(&EXEC, u64_at(head, offset_of!(EventHeader, time)), values);
}

/// Arguments as they lie in memory: each ends with a zero byte, but for one that was cut.
fn arguments_of(bytes: &[u8]) -> Vec<String> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let whole = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    whole.split(|byte| *byte == 0).map(|argument| String::from_utf8_lossy(argument).into_owned()).collect()
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(until_zero(bytes)).into_owned()
}

fn exit(record: &Exit, names: &dyn Names, out: &mut Events<'_>) {
    let (status, owner) = (record.header.extra, &record.owner);
    let number = status & 0x7f;
    let (code, signal) = if number == 0 {
        (EventValue::Number((status >> 8 & 0xff).into()), EventValue::Unknown)
    } else {
        (EventValue::Unknown, EventValue::Word(signal(number)))
    };
    let values = vec![
        EventValue::Number(owner.pid.into()),
        EventValue::Number(record.parent.into()),
        EventValue::Number(record.uid.into()),
        EventValue::Text(text_of(&owner.comm)),
        EventValue::Text(names.cgroup(owner.cgroup)),
        code,
        signal,
        EventValue::Bool(status & 0x80 != 0),
        EventValue::Seconds(std::time::Duration::from_nanos(record.lifetime)),
        EventValue::Number(i64::try_from(record.pages.saturating_mul(page_size())).unwrap_or(i64::MAX)),
    ];
    out.push(&EXIT, record.header.time, values);
}

/// Bytes of a page of this kernel.
fn page_size() -> u64 {
    use std::sync::OnceLock;
    static SIZE: OnceLock<u64> = OnceLock::new();
    // SAFETY: no pointers involved.
    *SIZE.get_or_init(|| u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096))
}
