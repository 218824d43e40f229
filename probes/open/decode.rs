//! From the kernel's records to events.

use std::{borrow::Cow, fmt::Write as _, mem::offset_of, time::Duration};

use sidecar_common::{event::EventHeader, owner::Owner};
use sidecar_core::{CollectError, EventField, EventSpec, EventValue, Events, FieldKind, probe::Names};

use super::{
    collect::result,
    shared::{CUT, OPEN_EVENT, OPENED_HEAD, Opened, RELATIVE},
};

const fn field(name: &'static str, kind: FieldKind, width: u8, help: &'static str) -> EventField {
    EventField { name, kind, optional: false, width, help }
}

const fn optional(name: &'static str, kind: FieldKind, width: u8, help: &'static str) -> EventField {
    EventField { name, kind, optional: true, width, help }
}

/// An open has ended.
pub(super) static OPEN: EventSpec = EventSpec {
    kind: "open",
    summary: "A process has opened a file or directory, or tried to",
    fields: &[
        field("pid", FieldKind::Number, 7, "Process id in the initial pid namespace"),
        field("ppid", FieldKind::Number, 0, "Process id of the parent"),
        field("uid", FieldKind::Number, 6, "User id of the process, in the initial user namespace"),
        field("comm", FieldKind::Text, 15, "Name of the process"),
        field("cgroup", FieldKind::Text, 0, "cgroup of the process, as in /proc/PID/cgroup"),
        field("result", FieldKind::Text, 8, "ok, the name of the errno, or interrupted by a signal"),
        optional("latency_seconds", FieldKind::Seconds, 9, "How long it took"),
        field("flags", FieldKind::Text, 18, "Flags, as in the manual of open"),
        optional(
            "mode",
            FieldKind::Text,
            5,
            "Permissions of a new file, octal; only with flags that make files",
        ),
        optional(
            "dfd",
            FieldKind::Number,
            0,
            "Descriptor of the directory a relative path begins at; unknown if that is the working directory",
        ),
        optional(
            "path",
            FieldKind::Text,
            40,
            "The path that was asked for, from the process's root directory; bytes that are not UTF-8 as \\xNN",
        ),
        field("path_cut", FieldKind::Bool, 0, "Whether the beginning or the end of the path is missing"),
        field(
            "path_relative",
            FieldKind::Bool,
            0,
            "Whether the path is relative to a directory that is not known",
        ),
    ],
};

/// Hands over the event in a record, which is as long as its path.
pub(super) fn record(bytes: &[u8], names: &dyn Names, out: &mut Events<'_>) -> Result<(), CollectError> {
    let is_sound = bytes.len() >= OPENED_HEAD
        && bytes.len() <= size_of::<Opened>()
        && u32_at(bytes, offset_of!(EventHeader, kind)) == OPEN_EVENT;
    if !is_sound {
        return Err(CollectError::Malformed(format!("an event of {} bytes makes no sense", bytes.len())));
    }
    let (head, path) = bytes.split_at(OPENED_HEAD);
    let owner = offset_of!(Opened, owner);
    let result_value = u32_at(head, offset_of!(Opened, result)) as i32;
    let flags = u64_at(head, offset_of!(Opened, flags));
    let nanos = u64_at(head, offset_of!(Opened, nanos));
    let dfd = u32_at(head, offset_of!(Opened, dfd)) as i32;
    let path_flags = u32_at(head, offset_of!(Opened, path_flags));
    let length = (u32_at(head, offset_of!(EventHeader, extra)) as usize).min(path.len());
    let known = |is_known: bool, value: EventValue| if is_known { value } else { EventValue::Unknown };
    let values = vec![
        EventValue::Number(u32_at(head, owner + offset_of!(Owner, pid)).into()),
        EventValue::Number(u32_at(head, offset_of!(Opened, parent)).into()),
        EventValue::Number(u32_at(head, offset_of!(Opened, uid)).into()),
        EventValue::Text(text_of(&head[owner + offset_of!(Owner, comm)..][..16]).into_owned()),
        EventValue::Text(names.cgroup(u64_at(head, owner + offset_of!(Owner, cgroup)))),
        EventValue::Word(result(if result_value < 0 { result_value.unsigned_abs() } else { 0 })),
        known(nanos > 0, EventValue::Seconds(Duration::from_nanos(nanos))),
        EventValue::Text(flags_text(flags)),
        known(
            flags & (CREAT | TMPFILE) != 0,
            EventValue::Text(format!("{:04o}", u32_at(head, offset_of!(Opened, mode)) & 0o7777)),
        ),
        known(dfd != libc::AT_FDCWD, EventValue::Number(dfd.into())),
        known(length > 0, EventValue::Text(escaped(&path[..length]))),
        EventValue::Bool(path_flags & CUT != 0),
        EventValue::Bool(path_flags & RELATIVE != 0),
    ];
    out.push(&OPEN, u64_at(head, offset_of!(EventHeader, time)), values);
    Ok(())
}

/// Numbers of a record. The caller has checked the length.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_ne_bytes)
}

/// Text up to its terminating zero.
pub(super) fn text_of(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default())
}

/// A path as text: what is not UTF-8 as `\xNN`, and a backslash as two, so that nothing is lost.
pub(super) fn escaped(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        text.push_str(&chunk.valid().replace('\\', "\\\\"));
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

const CREAT: u64 = libc::O_CREAT as u64;
/// `__O_TMPFILE`, without the `O_DIRECTORY` that goes with it.
const TMPFILE: u64 = (libc::O_TMPFILE & !libc::O_DIRECTORY) as u64;

/// Flags that may be combined, the larger ones before those they contain.
const FLAGS: &[(i32, &str)] = &[
    (libc::O_CREAT, "O_CREAT"),
    (libc::O_EXCL, "O_EXCL"),
    (libc::O_NOCTTY, "O_NOCTTY"),
    (libc::O_TRUNC, "O_TRUNC"),
    (libc::O_APPEND, "O_APPEND"),
    (libc::O_NONBLOCK, "O_NONBLOCK"),
    (libc::O_SYNC, "O_SYNC"),
    (libc::O_DSYNC, "O_DSYNC"),
    (libc::O_ASYNC, "O_ASYNC"),
    (libc::O_DIRECT, "O_DIRECT"),
    (libc::O_TMPFILE, "O_TMPFILE"),
    (libc::O_DIRECTORY, "O_DIRECTORY"),
    (libc::O_NOFOLLOW, "O_NOFOLLOW"),
    (libc::O_NOATIME, "O_NOATIME"),
    (libc::O_CLOEXEC, "O_CLOEXEC"),
    (libc::O_PATH, "O_PATH"),
];

/// What the C library calls 0 on 64-bit machines, and the kernel adds by itself.
const LARGEFILE: u64 = if cfg!(target_arch = "aarch64") { 0o400_000 } else { 0o100_000 };

/// Flags as the manual writes them; the rest as a number.
pub(super) fn flags_text(flags: u64) -> String {
    let access = match flags & 3 {
        0 => "O_RDONLY",
        1 => "O_WRONLY",
        2 => "O_RDWR",
        _ => "O_ACCMODE",
    };
    let mut text = access.to_owned();
    let mut rest = flags & !3 & !LARGEFILE;
    for (flag, name) in FLAGS {
        let flag = u64::from(flag.cast_unsigned());
        if flag != 0 && rest & flag == flag {
            rest &= !flag;
            text.push('|');
            text.push_str(name);
        }
    }
    if rest != 0 {
        let _ = write!(text, "|{rest:#x}");
    }
    text
}
