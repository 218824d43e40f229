//! Frames sent through a cable against what the agent at its other end says: all of them, each in its row, and the kernel's
//! own count of the interface.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    collections::BTreeMap,
    net::{TcpListener, TcpStream, UdpSocket},
};

use common::{
    Agent, Page, Scratch,
    frames::{
        ARP, Cable, ICMP, ICMPV6, IPV4, IPV6, Sender, TCP, UDP, configuration, ethernet, extension, fragment,
        ipv4, ipv6, tagged,
    },
};

/// A cable, or the test cannot run here.
macro_rules! cable {
    ($make:ident) => {
        match Cable::$make() {
            Ok(cable) => cable,
            Err(error) => skip!("no cable: {error}"),
        }
    };
}

/// An agent that counts at `cable1` when it is asked to.
fn agent(scratch: &Scratch, mode: &str) -> Agent {
    Agent::start(&["--config", &configuration(scratch, "[cable1]", mode), "--interval", "3600"])
}

/// What a frame adds to: protocol and IP version, and the other counters by metric and label.
type Expected = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const FRAGMENT4: (&str, &str) = ("fragments_total", "4");
const FRAGMENT6: (&str, &str) = ("fragments_total", "6");
const EXTENDED: (&str, &str) = ("ipv6_extended_total", "");
const MALFORMED: (&str, &str) = ("malformed_total", "");
const UNREAD: (&str, &str) = ("unread_total", "");
const ONE_TAG: (&str, &str) = ("vlan_total", "1");
const TAGS: (&str, &str) = ("vlan_total", "2+");

/// Frames and what they are, by the standards they follow or break.
fn frames() -> Vec<(Vec<u8>, Expected)> {
    let whole = |protocol: u8, length: usize| ethernet(IPV4, &ipv4(protocol, 0, &vec![0; length]));
    let whole6 = |next: u8, inside: &[u8]| ethernet(IPV6, &ipv6(next, inside));
    let cut = |mut frame: Vec<u8>, by: usize| {
        frame.truncate(frame.len() - by);
        frame
    };
    let with = |mut frame: Vec<u8>, at: usize, value: u8| {
        frame[at] = value;
        frame
    };
    let options =
        [vec![0x46, 0, 0, 32, 0, 0, 0, 0, 64, UDP, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0], vec![0; 8]];
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.resize(28, 0);
    let chain = [extension(60, 0), extension(43, 1), extension(UDP, 0), vec![0; 8]].concat();
    let long = [extension(60, 0).repeat(8), extension(UDP, 0), vec![0; 8]].concat();
    let authentication = [vec![TCP, 4], vec![0; 22], vec![0; 20]].concat();
    vec![
        (whole(TCP, 20), ("tcp", "4", &[])),
        (whole(TCP, 1400), ("tcp", "4", &[])),
        (whole(UDP, 8), ("udp", "4", &[])),
        (whole(ICMP, 64), ("icmp", "4", &[])),
        (whole(47, 50), ("other", "4", &[])),
        (whole(ICMPV6, 50), ("other", "4", &[])),
        (ethernet(IPV4, &options.concat()), ("udp", "4", &[])),
        // Padded to the smallest frame of Ethernet.
        ([whole(UDP, 8), vec![0; 18]].concat(), ("udp", "4", &[])),
        (whole6(TCP, &[0; 20]), ("tcp", "6", &[])),
        (whole6(UDP, &[0; 1000]), ("udp", "6", &[])),
        (whole6(ICMPV6, &[0; 64]), ("icmpv6", "6", &[])),
        (whole6(ICMP, &[0; 64]), ("other", "6", &[])),
        (whole6(59, &[]), ("other", "6", &[])),
        (whole6(50, &[0; 40]), ("other", "6", &[])),
        (ethernet(ARP, &arp), ("arp", "none", &[])),
        (ethernet(0x88cc, &[1; 60]), ("other", "none", &[])),
        // A spanning tree's frame tells its length where others have a type.
        (ethernet(38, &[0; 46]), ("other", "none", &[])),
        // Tags.
        (tagged(&[0x8100], IPV4, &ipv4(UDP, 0, &[0; 30])), ("udp", "4", &[ONE_TAG])),
        (tagged(&[0x88a8], IPV6, &ipv6(TCP, &[0; 30])), ("tcp", "6", &[ONE_TAG])),
        (tagged(&[0x88a8, 0x8100], IPV4, &ipv4(TCP, 0, &[0; 30])), ("tcp", "4", &[TAGS])),
        (tagged(&[0x9100, 0x8100], IPV6, &ipv6(UDP, &[0; 30])), ("udp", "6", &[TAGS])),
        (tagged(&[0x88a8, 0x8100, 0x8100, 0x8100], ARP, &arp), ("arp", "none", &[TAGS])),
        (tagged(&[0x8100; 5], IPV4, &ipv4(UDP, 0, &[0; 30])), ("other", "none", &[TAGS, UNREAD])),
        (cut(tagged(&[0x8100], IPV4, &[]), 1), ("other", "none", &[ONE_TAG, MALFORMED])),
        // Fragments.
        (ethernet(IPV4, &ipv4(UDP, 0x2000, &[0; 64])), ("udp", "4", &[FRAGMENT4])),
        (ethernet(IPV4, &ipv4(UDP, 0x2008, &[0; 64])), ("udp", "4", &[FRAGMENT4])),
        (ethernet(IPV4, &ipv4(TCP, 0x0010, &[0; 4])), ("tcp", "4", &[FRAGMENT4])),
        // "Don't fragment" makes no fragment.
        (ethernet(IPV4, &ipv4(TCP, 0x4000, &[0; 40])), ("tcp", "4", &[])),
        (whole6(44, &[fragment(UDP, 0, true), vec![0; 64]].concat()), ("udp", "6", &[EXTENDED, FRAGMENT6])),
        (whole6(44, &[fragment(UDP, 8, false), vec![0; 3]].concat()), ("udp", "6", &[EXTENDED, FRAGMENT6])),
        (whole6(44, &[fragment(60, 8, false), vec![0; 3]].concat()), ("other", "6", &[EXTENDED, FRAGMENT6])),
        (whole6(44, &[fragment(TCP, 0, false), vec![0; 20]].concat()), ("tcp", "6", &[EXTENDED])),
        // Extension headers.
        (whole6(0, &chain), ("udp", "6", &[EXTENDED])),
        (whole6(51, &authentication), ("tcp", "6", &[EXTENDED])),
        (whole6(0, &long), ("other", "6", &[EXTENDED, UNREAD])),
        (tagged(&[0x8100], IPV6, &ipv6(0, &chain)), ("udp", "6", &[ONE_TAG, EXTENDED])),
        (whole6(0, &extension(UDP, 3)[..30]), ("udp", "6", &[EXTENDED, MALFORMED])),
        (whole6(0, &extension(60, 0)[..6]), ("other", "6", &[EXTENDED, MALFORMED])),
        (whole6(0, &[extension(UDP, 0), vec![0; 7]].concat()), ("udp", "6", &[EXTENDED, MALFORMED])),
        // Shorter than they say.
        (cut(whole(TCP, 20), 1), ("tcp", "4", &[MALFORMED])),
        (cut(whole(UDP, 100), 50), ("udp", "4", &[MALFORMED])),
        (cut(whole(UDP, 0), 5), ("other", "4", &[MALFORMED])),
        (whole(TCP, 19), ("tcp", "4", &[MALFORMED])),
        (whole(UDP, 7), ("udp", "4", &[MALFORMED])),
        (whole6(UDP, &[0; 7]), ("udp", "6", &[MALFORMED])),
        (cut(whole6(TCP, &[0; 200]), 1), ("tcp", "6", &[MALFORMED])),
        (cut(whole6(TCP, &[]), 1), ("other", "6", &[MALFORMED])),
        (cut(ethernet(ARP, &arp), 1), ("arp", "none", &[MALFORMED])),
        (ethernet(ARP, &arp[..7]), ("arp", "none", &[MALFORMED])),
        (ethernet(1500, &[0; 100]), ("other", "none", &[MALFORMED])),
        // Contradictions: wrong version, impossible header length, total below the header.
        (with(whole(UDP, 30), 14, 0x65), ("other", "4", &[MALFORMED])),
        (with(whole(UDP, 30), 14, 0x44), ("other", "4", &[MALFORMED])),
        (with(whole(UDP, 30), 14, 0x4f), ("udp", "4", &[MALFORMED])),
        (with(with(whole(UDP, 30), 17, 10), 16, 0), ("udp", "4", &[MALFORMED])),
        (with(with(whole(UDP, 30), 17, 0), 16, 0), ("udp", "4", &[MALFORMED])),
        (with(whole6(UDP, &[0; 30]), 14, 0x45), ("other", "6", &[MALFORMED])),
    ]
}

/// Rows of the packet probe for one interface that are not zero, by name and labels.
fn rows(page: &Page, interface: &str) -> BTreeMap<String, u64> {
    let ours = page.samples.iter().filter(|sample| {
        sample.name.starts_with("sidecar_packet_") && sample.name != "sidecar_packet_interface_info"
    });
    let ours = ours.filter(|sample| sample.labels["interface"] == interface && sample.value != 0.0);
    ours.map(|sample| {
        let labels = sample.labels.iter().filter(|(name, _)| *name != "interface");
        let labels: Vec<&str> = labels.map(|(_, value)| value.as_str()).collect();
        // Labels in the order of their names: ip_version, protocol, tags.
        (format!("{} {}", &sample.name["sidecar_packet_".len()..], labels.join(" ")), sample.value as u64)
    })
    .collect()
}

/// The rows that these frames must give.
fn expected<'a>(sent: impl Iterator<Item = &'a (Vec<u8>, Expected)>) -> BTreeMap<String, u64> {
    let mut rows = BTreeMap::new();
    for (frame, (protocol, version, marks)) in sent {
        *rows.entry(format!("received_total {version} {protocol}")).or_default() += 1;
        *rows.entry(format!("received_bytes_total {version} {protocol}")).or_default() += frame.len() as u64;
        for (metric, label) in *marks {
            *rows.entry(format!("{metric} {label}")).or_default() += 1;
        }
    }
    rows
}

fn every_frame_is_in_its_row(mode: &str) {
    let cable = cable!(quiet);
    let scratch = Scratch::new();
    let sender = cable.near.run(|| Sender::new("cable0"));
    cable.far.run(|| {
        let agent = agent(&scratch, mode);
        let info = [("interface", "cable1"), ("mode", mode)];
        assert_eq!(agent.scrape().count("sidecar_packet_interface_info", &info), 1);
        let before = cable.received();
        let frames = frames();
        for (number, one) in frames.iter().enumerate() {
            sender.send(&one.0);
            let sent = number as u64 + 1;
            common::eventually("received", || cable.received() == before + sent);
            if number % 9 == 0 || number + 1 == frames.len() {
                let page = agent.scrape();
                assert_eq!(
                    rows(&page, "cable1"),
                    expected(frames[..=number].iter()),
                    "after {number}: {:02x?}",
                    one.0
                );
            }
        }
        agent.stop();
    });
}

#[test]
fn every_frame_is_in_its_row_when_counted_in_the_driver() {
    need_root!();
    every_frame_is_in_its_row("native");
}

#[test]
fn every_frame_is_in_its_row_when_counted_in_the_stack() {
    need_root!();
    every_frame_is_in_its_row("generic");
}

#[test]
fn a_burst_is_counted_to_the_last_frame() {
    need_root!();
    let cable = cable!(quiet);
    let scratch = Scratch::new();
    let sender = cable.near.run(|| Sender::new("cable0"));
    let frame = ethernet(IPV4, &ipv4(UDP, 0, &[7; 400]));
    let count = if common::is_slow() { 5_000 } else { 100_000 };
    cable.far.run(|| {
        let agent = agent(&scratch, "auto");
        let before = cable.received();
        for _ in 0..count {
            sender.send(&frame);
        }
        // What the cable itself drops is not received.
        std::thread::sleep(std::time::Duration::from_millis(300));
        let received = cable.received() - before;
        assert!(received > count / 2, "{received} of {count} arrived");
        let rows = rows(&agent.scrape(), "cable1");
        assert_eq!(rows["received_total 4 udp"], received);
        assert_eq!(rows["received_bytes_total 4 udp"], received * frame.len() as u64);
        assert_eq!(rows.len(), 2, "{rows:?}");
        agent.stop();
    });
}

#[test]
fn pings_and_streams_add_up_to_what_the_interface_received() {
    need_root!();
    let cable = cable!(with_ipv6);
    let Some(ping) = ["ping", "busybox"].into_iter().find(|name| common::program(name).is_some()) else {
        skip!("no ping");
    };
    // Busybox is told which of its programs to be.
    let ping = ping.replace("busybox", "busybox ping");
    let scratch = Scratch::new();
    cable.far.run(|| {
        let agent = agent(&scratch, "auto");
        let before = rows(&agent.scrape(), "cable1");
        let counted = |page: &Page| page.count("sidecar_packet_received_total", &[("interface", "cable1")]);
        let first = (counted(&agent.scrape()), cable.received());
        cable.near.tool(&format!("{ping} -c 5 -i 0.2 10.9.8.2")).unwrap();
        cable.near.tool(&format!("{ping} -6 -c 7 -i 0.2 fd00::2")).unwrap();
        let socket = cable.near.run(|| UdpSocket::bind("10.9.8.1:0").unwrap());
        for _ in 0..50 {
            socket.send_to(&[1; 333], "10.9.8.2:9").unwrap();
        }
        let listener = TcpListener::bind("10.9.8.2:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = cable.near.run(|| TcpStream::connect(address).unwrap());
        let (server, _) = listener.accept().unwrap();
        common::net::send(&client, &server, 300_000);
        drop((client, server));
        common::net::moment();
        // Neighbours may be asked for at any moment: between two equal readings there was none.
        let mut after = (0, 0);
        common::eventually("the interface's count holds still", || {
            let kernel = cable.received();
            after = (counted(&agent.scrape()), cable.received());
            kernel == after.1
        });
        assert_eq!(after.0 - first.0, after.1 - first.1, "as many frames as the interface received");
        let after = rows(&agent.scrape(), "cable1");
        let added = |row: &str| after.get(row).unwrap_or(&0) - before.get(row).unwrap_or(&0);
        assert_eq!(added("received_total 4 icmp"), 5);
        assert_eq!(added("received_bytes_total 4 icmp"), 5 * (14 + 20 + 8 + 56));
        assert!(added("received_total 6 icmpv6") >= 7, "{after:?}");
        assert_eq!(added("received_total 4 udp"), 50);
        assert_eq!(added("received_bytes_total 4 udp"), 50 * (14 + 20 + 8 + 333));
        let stream = added("received_bytes_total 4 tcp");
        // Payload, and for each segment at most 14 + 20 + 60 bytes of headers.
        let headers = stream - 300_000;
        let segments = added("received_total 4 tcp");
        assert!(
            (54 * segments..=94 * segments).contains(&headers),
            "{headers} bytes of headers, {segments} segments"
        );
        assert_eq!(added("malformed_total "), 0);
        agent.stop();
    });
}
