//! Interfaces that come, go, change their names or are somebody else's while the agent counts at them; what it leaves behind;
//! and that whatever bytes a frame has, it passes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use common::{
    Agent, Page, Scratch, bpf,
    frames::{Cable, IPV4, Sender, UDP, configuration, ethernet, ipv4},
};
use sidecar_probes::packet::shared::{self, FIRST_MARK};

macro_rules! cable {
    () => {
        match Cable::quiet() {
            Ok(cable) => cable,
            Err(error) => skip!("no cable: {error}"),
        }
    };
}

const INTERVAL: [&str; 2] = ["--interval", "3600"];

fn start(scratch: &Scratch, interfaces: &str, mode: &str) -> Agent {
    Agent::start(
        &[["--config", &configuration(scratch, interfaces, mode)], INTERVAL, ["--no-probe", "exec"]].concat(),
    )
}

fn frame() -> Vec<u8> {
    ethernet(IPV4, &ipv4(UDP, 0, &[1; 100]))
}

fn udp(page: &Page, interface: &str) -> u64 {
    page.count("sidecar_packet_received_total", &[("interface", interface), ("protocol", "udp")])
}

fn via(page: &Page, interface: &str) -> Option<String> {
    let labels = [("probe", "packet"), ("hook", interface)];
    page.rows("sidecar_probe_hook_info", &labels).next().map(|row| row.labels["via"].clone())
}

/// Sends frames and waits until the kernel has received them all.
fn send(cable: &Cable, sender: &Sender, count: u64) {
    let before = cable.received();
    (0..count).for_each(|_| sender.send(&frame()));
    common::eventually("received", || cable.received() == before + count);
}

/// An XDP program of somebody else's that lets everything pass, and its id.
fn stranger() -> (OwnedFd, u32) {
    // `r0 = XDP_PASS; exit`
    let code: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];
    let mut load = [0u64; 16];
    load[0] = 6 | (code.len() as u64) << 32;
    load[1] = code.as_ptr() as u64;
    load[2] = c"GPL".as_ptr() as u64;
    load[6] = u64::from_ne_bytes(*b"stranger");
    let program = bpf::command(5, &mut load).unwrap() as i32;
    // SAFETY: the kernel has just given us this descriptor.
    let program = unsafe { OwnedFd::from_raw_fd(program) };
    let id = bpf::program_id(&program);
    (program, id)
}

/// Attaches it to an interface of the thread's namespace as long as the descriptor is open.
fn attach(program: &OwnedFd, interface: &str) -> OwnedFd {
    let name = std::ffi::CString::new(interface).unwrap();
    // SAFETY: a valid name.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    // `BPF_XDP`, `XDP_FLAGS_SKB_MODE`
    let mut link = [program.as_raw_fd() as u64 | u64::from(index) << 32, 0x25 | 2 << 32];
    let link = bpf::command(28, &mut link).unwrap() as i32;
    // SAFETY: the kernel has just given us this descriptor.
    unsafe { OwnedFd::from_raw_fd(link) }
}

#[test]
fn an_interface_with_another_program_is_left_alone_and_it_says_whose_that_is() {
    need_root!();
    let cable = cable!();
    let scratch = Scratch::new();
    let sender = cable.near.run(|| Sender::new("cable0"));
    cable.far.run(|| {
        let (program, id) = stranger();
        let link = attach(&program, "cable1");
        let agent = start(&scratch, "[cable1]", "auto");
        let (_, probes) = agent.get("/api/v1/probes").unwrap();
        let own = format!("another XDP program is attached: program {id} (stranger), held by ");
        assert!(probes.contains(&own), "no {own:?} in {probes}");
        assert!(probes.contains(&format!("(pid {})", std::process::id())), "{probes}");
        let page = agent.scrape();
        assert_eq!(page.count("sidecar_probe_state", &[("probe", "packet"), ("state", "degraded")]), 1);
        assert_eq!(via(&page, "cable1").as_deref(), Some("none"));
        assert_eq!(bpf::xdp_of(&link), Some(id), "it was replaced");
        send(&cable, &sender, 10);
        assert_eq!(udp(&agent.scrape(), "cable1"), 0);
        // Once the other is gone, ours is attached.
        drop(link);
        common::eventually("attached", || {
            std::thread::sleep(std::time::Duration::from_millis(500));
            via(&agent.scrape(), "cable1").is_some_and(|via| via.starts_with("xdp/"))
        });
        send(&cable, &sender, 10);
        assert_eq!(udp(&agent.scrape(), "cable1"), 10);
        agent.stop();
    });
}

#[test]
fn interfaces_that_appear_are_followed_and_those_that_vanish_keep_their_counts() {
    need_root!();
    let cable = cable!();
    let scratch = Scratch::new();
    let sender = cable.near.run(|| Sender::new("cable0"));
    cable.far.run(|| {
        let agent = start(&scratch, "[cab*, other?, -*.*]", "auto");
        send(&cable, &sender, 5);
        assert_eq!(udp(&agent.scrape(), "cable1"), 5);
        // By now the agent has given up what it does not need.
        cable.far.tool("ip link add other7 type veth peer name peer7").unwrap();
        cable.far.tool("ip link add unmeant7 type veth peer name peer8").unwrap();
        cable.far.tool("ip link set other7 up").unwrap();
        cable.far.tool("ip link set peer7 up").unwrap();
        let page = agent.scrape();
        assert_eq!(via(&page, "other7").as_deref(), Some("xdp/native"), "{}", agent.log());
        assert_eq!((via(&page, "unmeant7"), via(&page, "lo")), (None, None));
        let other = Sender::new("peer7");
        (0..8).for_each(|_| other.send(&frame()));
        common::eventually("counted", || udp(&agent.scrape(), "other7") == 8);
        (0..4).for_each(|_| other.send(&frame()));
        cable.far.tool("ip link set peer7 down").unwrap();
        cable.far.tool("ip link del other7").unwrap();
        let page = agent.scrape();
        assert_eq!((udp(&page, "other7"), via(&page, "other7")), (12, None), "{}", agent.log());
        assert_eq!(page.rows("sidecar_packet_interface_info", &[("interface", "other7")]).count(), 0);
        // Another interface of that name goes on where the first one ended.
        cable.far.tool("ip link add other7 type veth peer name peer7").unwrap();
        cable.far.tool("ip link set other7 up").unwrap();
        cable.far.tool("ip link set peer7 up").unwrap();
        assert_eq!(udp(&agent.scrape(), "other7"), 12);
        let other = Sender::new("peer7");
        (0..3).for_each(|_| other.send(&frame()));
        common::eventually("counted", || udp(&agent.scrape(), "other7") == 15);
        assert_eq!(udp(&agent.scrape(), "cable1"), 5);
        agent.stop();
    });
}

#[test]
fn a_renamed_interface_counts_under_its_new_name_from_then_on() {
    need_root!();
    let cable = cable!();
    let scratch = Scratch::new();
    let sender = cable.near.run(|| Sender::new("cable0"));
    cable.far.run(|| {
        let agent = start(&scratch, "[cable?, wire*]", "auto");
        send(&cable, &sender, 6);
        assert_eq!(udp(&agent.scrape(), "cable1"), 6);
        let rename = |from: &str, to: &str| {
            cable.far.tool(&format!("ip link set {from} down")).unwrap();
            cable.far.tool(&format!("ip link set {from} name {to}")).unwrap();
            cable.far.tool(&format!("ip link set {to} up")).unwrap();
        };
        rename("cable1", "wire1");
        let page = agent.scrape();
        assert_eq!((udp(&page, "cable1"), udp(&page, "wire1")), (6, 0));
        (0..4).for_each(|_| sender.send(&frame()));
        common::eventually("counted", || udp(&agent.scrape(), "wire1") == 4);
        assert_eq!(udp(&agent.scrape(), "cable1"), 6);
        let held = bpf::held_by(agent.pid());
        rename("wire1", "unmeant1");
        assert_eq!(via(&agent.scrape(), "unmeant1"), None);
        let now = bpf::held_by(agent.pid());
        assert!(now.1.len() < held.1.len(), "the link was kept: {now:?}");
        (0..4).for_each(|_| sender.send(&frame()));
        let page = agent.scrape();
        assert_eq!((udp(&page, "cable1"), udp(&page, "wire1"), udp(&page, "unmeant1")), (6, 4, 0));
        agent.stop();
    });
}

#[test]
fn an_interface_moved_to_another_namespace_is_let_go_of() {
    need_root!();
    let cable = cable!();
    let scratch = Scratch::new();
    cable.far.run(|| {
        let agent = start(&scratch, "[cable1]", "auto");
        let held = bpf::held_by(agent.pid());
        assert_eq!(held.1.len(), 1, "{held:?}");
        cable.far.tool(&format!("ip link set cable1 netns {}", cable.near.path())).unwrap();
        assert_eq!(via(&agent.scrape(), "cable1"), None);
        common::eventually("detached", || bpf::links().is_disjoint(&held.1));
        agent.stop();
    });
}

#[test]
fn an_agent_without_interfaces_waits_for_one_and_killed_it_leaves_none_attached() {
    need_root!();
    let cable = cable!();
    let scratch = Scratch::new();
    cable.far.run(|| {
        let agent = start(&scratch, "[later*]", "auto");
        let (_, probes) = agent.get("/api/v1/probes").unwrap();
        assert!(probes.contains("no interface here is called later*: waiting for one"), "{probes}");
        cable.far.tool("ip link add later0 type veth peer name peer0").unwrap();
        agent.scrape();
        let (_, probes) = agent.get("/api/v1/probes").unwrap();
        assert!(probes.contains("xdp/native") && !probes.contains("waiting"), "{probes}");
        let held = bpf::held_by(agent.pid());
        assert!(!held.0.is_empty() && held.1.len() == 1, "{held:?}");
        agent.signal(libc::SIGKILL);
        agent.wait();
        common::eventually("nothing is left in the kernel", || {
            bpf::programs().is_disjoint(&held.0) && bpf::links().is_disjoint(&held.1)
        });
    });
}

#[test]
fn a_frame_of_whatever_bytes_passes_the_program_and_the_kernel_counts_as_user_space_does() {
    need_root!();
    let cable = cable!();
    let scratch = Scratch::new();
    cable.far.run(|| {
        let agent = start(&scratch, "[cable1]", "native");
        let (programs, _) = bpf::held_by(agent.pid());
        let program = bpf::named(&programs, "count_").expect("the agent's program");
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let rounds = if common::is_slow() { 3_000 } else { 20_000 };
        let (mut classes, mut marks, mut bytes) = ([0u64; shared::CLASS_SLOTS], [0u64; shared::MARKS], 0);
        for round in 0..rounds {
            let frame = random.frame();
            let verdict = shared::verdict(&frame.as_slice());
            classes[verdict as usize % shared::CLASS_SLOTS] += 1;
            for (bit, mark) in marks.iter_mut().enumerate() {
                *mark += u64::from(verdict >> (FIRST_MARK as usize + bit) & 1);
            }
            bytes += frame.len() as u64;
            // `XDP_PASS`
            assert_eq!(bpf::test_run(&program, &frame).unwrap(), 2, "round {round}: {frame:02x?}");
        }
        let page = agent.scrape();
        let sum = |metric: &str| page.count(&format!("sidecar_packet_{metric}"), &[]);
        assert_eq!((sum("received_total"), sum("received_bytes_total")), (rounds, bytes));
        for (class, protocol, version) in [
            (0, "tcp", "4"),
            (1, "udp", "4"),
            (2, "icmp", "4"),
            (3, "other", "4"),
            (4, "tcp", "6"),
            (5, "udp", "6"),
            (6, "icmpv6", "6"),
            (7, "other", "6"),
            (8, "arp", "none"),
            (9, "other", "none"),
        ] {
            let labels = [("protocol", protocol), ("ip_version", version)];
            assert_eq!(page.count("sidecar_packet_received_total", &labels), classes[class], "{labels:?}");
            assert!(classes[class] > 0, "no frame was {labels:?}");
        }
        assert_eq!(sum("vlan_total"), marks[0] + marks[1]);
        assert_eq!(sum("fragments_total"), marks[2] + marks[3]);
        assert_eq!(sum("ipv6_extended_total"), marks[4]);
        assert_eq!(sum("malformed_total"), marks[5]);
        assert_eq!(sum("unread_total"), marks[6]);
        assert!(marks.iter().all(|mark| *mark > 0), "{marks:?}");
        agent.stop();
    });
}

/// xorshift64*: the same frames each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.next() as usize % from.len()]
    }

    /// Random bytes with a taste for what leads deeper into the program.
    fn frame(&mut self) -> Vec<u8> {
        let length = 14 + self.next() as usize % 200;
        let mut frame: Vec<u8> = (0..length).map(|_| self.next() as u8).collect();
        let mut at = 12;
        for _ in 0..self.next() % 7 {
            if self.next().is_multiple_of(3) {
                put(&mut frame, at, &self.pick(&[0x8100u16, 0x88a8, 0x9100]).to_be_bytes());
                at += 4;
            }
        }
        let kind = self.pick(&[0x0800u16, 0x86dd, 0x86dd, 0x0806, 0x0026, 0x88cc]);
        put(&mut frame, at, &kind.to_be_bytes());
        at += 2;
        let rest = length.saturating_sub(at);
        let protocols = [0, 1, 6, 17, 43, 44, 51, 58, 59, 60, 135, 200];
        match kind {
            0x0800 => {
                put(&mut frame, at, &[self.pick(&[0x45, 0x45, 0x46, 0x4f, 0x44, 0x60])]);
                let total = self.pick(&[rest, rest.saturating_sub(1), rest + 1, 20, 0]) as u16;
                put(&mut frame, at + 2, &total.to_be_bytes());
                put(&mut frame, at + 6, &self.pick(&[[0u8, 0], [0x40, 0], [0x20, 0], [0, 9]]));
                put(&mut frame, at + 9, &[self.pick(&protocols)]);
            }
            0x86dd => {
                put(&mut frame, at, &[self.pick(&[0x60, 0x60, 0x6f, 0x45])]);
                let payload =
                    self.pick(&[rest.saturating_sub(40), rest.saturating_sub(40), rest, 8, 0]) as u16;
                put(&mut frame, at + 4, &payload.to_be_bytes());
                put(&mut frame, at + 6, &[self.pick(&protocols)]);
                // A chain of short headers, long enough to be left at times.
                for number in 0..12 {
                    put(
                        &mut frame,
                        at + 40 + 8 * number,
                        &[self.pick(&protocols), 0, 0, self.pick(&[0, 1, 8])],
                    );
                }
            }
            0x0806 => put(&mut frame, at + 4, &[self.pick(&[6, 6, 200]), self.pick(&[4, 4, 255])]),
            _ => {}
        }
        frame
    }
}

fn put(frame: &mut [u8], at: usize, bytes: &[u8]) {
    for (number, byte) in bytes.iter().enumerate() {
        if let Some(to) = frame.get_mut(at + number) {
            *to = *byte;
        }
    }
}
