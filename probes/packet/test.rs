//! Counters → rows over interfaces that come and go, and hostile bytes → verdicts.

use std::time::SystemTime;

use sidecar_core::{Collector as _, Interface, Options, Rows, Snapshot, Start, Value, XdpMode, probe::Names};

use super::{
    collect::Frames,
    shared::{
        ARP, Counters, FIRST_MARK, FRAGMENT4, MALFORMED, MARKS, OTHER, STACKED, TAGGED, UNREAD, place, quick,
        verdict,
    },
};
use crate::{fake::FakeKernel, plain::as_bytes};

struct NoNames;

impl Names for NoNames {
    fn cgroup(&self, id: u64) -> String {
        id.to_string()
    }
}

fn collector() -> Frames {
    Frames::new(&Start {
        names: std::sync::Arc::new(NoNames),
        options: Options::default(),
        labels: Vec::new(),
        max_series: 2000,
        max_connections: 0,
        filtered: false,
        event_bytes: 0,
    })
}

/// An interface with two CPUs that have seen these many UDP frames of 100 bytes, each with one tag.
fn interface(name: &str, attachment: u64, gone: bool, frames: [u64; 2]) -> (Interface, Vec<u8>) {
    let mut values = Vec::new();
    for frames in frames {
        let mut counters = Counters::default();
        counters.classes[1].frames = frames;
        counters.classes[1].bytes = frames * 100;
        counters.marks[0] = frames;
        values.extend_from_slice(as_bytes(&counters));
    }
    (Interface { name: name.into(), attachment, mode: XdpMode::Native, gone }, values)
}

fn tick(collector: &mut Frames, interfaces: Vec<(Interface, Vec<u8>)>) -> Snapshot {
    let mut kernel = FakeKernel { interfaces, ..FakeKernel::default() };
    let mut rows = Rows::default();
    collector.collect(&mut kernel, &mut rows).unwrap();
    rows.finish(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH)
}

/// Frames, bytes and tagged frames of UDP over IPv4; none if there is no such row.
fn udp(snapshot: &Snapshot, interface: &str) -> Option<[u64; 3]> {
    let value = |metric: &str| {
        let rows = &snapshot.family(&format!("sidecar_packet_{metric}"))?.rows;
        let row = rows.iter().find(|row| {
            let is = |name: &str, value: &str| row.labels.get(name).is_none_or(|own| own == value);
            is("interface", interface)
                && is("protocol", "udp")
                && is("ip_version", "4")
                && row.extra.is_none_or(|extra| extra.1 == "1")
        })?;
        if let Value::Counter(count) = row.value { Some(count) } else { None }
    };
    Some([value("received_total")?, value("received_bytes_total")?, value("vlan_total")?])
}

#[test]
fn the_cpus_counters_are_added_up() {
    let snapshot = tick(&mut collector(), vec![interface("eth0", 1, false, [3, 4])]);
    assert_eq!(udp(&snapshot, "eth0"), Some([7, 700, 7]));
    let rows = &snapshot.family("sidecar_packet_received_total").unwrap().rows;
    assert_eq!(rows.len(), 10, "a row for each protocol");
}

#[test]
fn a_vanished_interface_keeps_its_counts_and_one_of_the_same_name_adds_to_them() {
    let mut frames = collector();
    tick(&mut frames, vec![interface("eth0", 1, false, [5, 0])]);
    let snapshot = tick(&mut frames, vec![interface("eth0", 1, true, [6, 1])]);
    assert_eq!(udp(&snapshot, "eth0"), Some([7, 700, 7]));
    assert!(snapshot.family("sidecar_packet_interface_info").is_none());
    assert_eq!(udp(&tick(&mut frames, vec![]), "eth0"), Some([7, 700, 7]));
    let snapshot = tick(&mut frames, vec![interface("eth0", 2, false, [2, 0])]);
    assert_eq!(udp(&snapshot, "eth0"), Some([9, 900, 9]));
}

#[test]
fn an_interface_that_is_replaced_within_one_tick_loses_nothing() {
    let mut frames = collector();
    tick(&mut frames, vec![interface("eth0", 1, false, [5, 0])]);
    let both = vec![interface("eth0", 2, false, [2, 0]), interface("eth0", 1, true, [6, 0])];
    assert_eq!(udp(&tick(&mut frames, both), "eth0"), Some([8, 800, 8]));
    let snapshot = tick(&mut frames, vec![interface("eth0", 2, false, [2, 0])]);
    assert_eq!(udp(&snapshot, "eth0"), Some([8, 800, 8]));
}

#[test]
fn a_new_name_begins_where_the_old_one_ends() {
    let mut frames = collector();
    tick(&mut frames, vec![interface("eth0", 1, false, [5, 0])]);
    let snapshot = tick(&mut frames, vec![interface("wan", 1, false, [8, 0])]);
    assert_eq!(udp(&snapshot, "eth0"), Some([5, 500, 5]));
    assert_eq!(udp(&snapshot, "wan"), Some([3, 300, 3]));
}

#[test]
fn names_of_the_past_are_bounded_and_those_of_the_present_are_not() {
    let mut frames = collector();
    let live: Vec<_> =
        (0..100).map(|number| interface(&format!("live{number}"), number, false, [1, 0])).collect();
    for number in 0..500 {
        let mut now = live.clone();
        now.push(interface(&format!("veth{number}"), 1000 + number, true, [1, 0]));
        tick(&mut frames, now);
    }
    let snapshot = tick(&mut frames, live);
    assert!((0..100).all(|number| udp(&snapshot, &format!("live{number}")) == Some([1, 100, 1])));
    let past: Vec<u32> =
        (0..500).filter(|number| udp(&snapshot, &format!("veth{number}")).is_some()).collect();
    assert_eq!(past, (436..500).collect::<Vec<_>>(), "the latest ones");
}

#[test]
fn a_value_of_another_size_is_an_error_and_no_panic() {
    let (eth0, mut values) = interface("eth0", 1, false, [1, 1]);
    values.pop();
    let mut kernel = FakeKernel { interfaces: vec![(eth0, values)], ..FakeKernel::default() };
    assert!(collector().collect(&mut kernel, &mut Rows::default()).is_err());
}

/// A verdict is one of the classes and known marks, and fits together.
fn is_sound(frame: &[u8]) {
    agrees(frame);
    let verdict = verdict(&frame);
    let class = verdict & 15;
    assert!(
        class <= OTHER && verdict >> (FIRST_MARK as usize + MARKS) == 0 && verdict & 0xf0 == 0,
        "{verdict:x} {frame:02x?}"
    );
    assert!(verdict & (TAGGED | STACKED) != TAGGED | STACKED, "one tag and several: {frame:02x?}");
    assert!(verdict & FRAGMENT4 == 0 || class < 4, "a fragment of what is not IPv4: {frame:02x?}");
    // All bytes of a slice can be looked at, so only what is deliberately not followed is left.
    if verdict & UNREAD != 0 {
        assert!(verdict & STACKED != 0 || (4..8).contains(&class), "{frame:02x?}");
    }
}

#[test]
fn whatever_the_bytes_a_verdict_is_sound_also_of_every_beginning_of_them() {
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    };
    let kinds = [[8u8, 0], [0x86, 0xdd], [8, 6], [0x81, 0], [0x88, 0xa8], [0, 40]];
    let nexts = [0u8, 6, 17, 43, 44, 51, 58, 60, 135];
    for _ in 0..20_000 {
        let length = next() as usize % 160;
        let mut frame: Vec<u8> = (0..length).map(|_| next() as u8).collect();
        // Now and then what leads deeper.
        for (at, byte) in frame.iter_mut().enumerate().skip(12) {
            let roll = next();
            *byte = match roll % 4 {
                0 => kinds[roll as usize / 8 % kinds.len()][at % 2],
                1 => nexts[roll as usize / 8 % nexts.len()],
                2 => [0x45, 0x60, 0, 1][roll as usize / 8 % 4],
                _ => *byte,
            };
        }
        for end in 0..=length {
            is_sound(&frame[..end]);
        }
    }
}

#[test]
fn an_empty_frame_and_one_of_a_few_bytes_are_malformed() {
    for length in 0..14 {
        assert_eq!(verdict(&[0u8; 14][..length].as_ref()), OTHER | MALFORMED);
    }
}

#[test]
fn what_offload_merged_beyond_what_a_header_can_tell_is_whole() {
    let mut merged = vec![0u8; 14 + 20 + 70_000];
    merged[12..15].copy_from_slice(&[8, 0, 0x45]);
    merged[23] = 6;
    assert_eq!(verdict(&merged.as_slice()), 0);
    merged.truncate(14 + 20 + 60_000);
    assert_eq!(verdict(&merged.as_slice()), MALFORMED, "a length of zero that would fit");
    let mut merged = vec![0u8; 14 + 40 + 70_000];
    merged[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
    merged[20] = 17;
    assert_eq!(verdict(&merged.as_slice()), 5);
}

#[test]
fn an_address_resolution_of_other_lengths_must_fit_its_frame() {
    let mut frame = vec![0u8; 14 + 8 + 2 * (8 + 16)];
    frame[12..14].copy_from_slice(&[8, 6]);
    frame[18..20].copy_from_slice(&[8, 16]);
    assert_eq!(verdict(&frame.as_slice()), ARP);
    frame.pop();
    assert_eq!(verdict(&frame.as_slice()), ARP | MALFORMED);
}

#[test]
fn what_is_recognised_quickly_is_what_a_closer_look_finds() {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([0x45, 0, 0, 128, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    frame.resize(14 + 128, 0);
    assert_eq!(quick(&frame.as_slice()), Some(place(1)));
    // Every value of every byte of the headers, and every length.
    for at in 12..34 {
        for value in 0..=255 {
            for length in [20, 33, 34, 41, 42, 53, 54, 61, 62, 141, 142] {
                let mut frame = frame.clone();
                frame[at] = value;
                agrees(&frame[..length]);
            }
        }
    }
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x6a, 1, 2, 3, 0, 60, 6];
    frame.resize(14 + 40 + 60, 0);
    assert_eq!(quick(&frame.as_slice()), Some(place(4)));
    for at in 12..54 {
        for value in 0..=255 {
            for length in [34, 53, 54, 61, 62, 73, 74, 113, 114] {
                let mut frame = frame.clone();
                frame[at] = value;
                agrees(&frame[..length]);
            }
        }
    }
}

fn agrees(frame: &[u8]) {
    if let Some(found) = quick(&frame) {
        assert_eq!(found, place(verdict(&frame)), "{frame:02x?}");
    }
}
