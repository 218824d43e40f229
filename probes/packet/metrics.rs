//! The probe's metrics.

use sidecar_core::{Kind, Metric, Unit};

const BY_PROTOCOL: &[&str] = &["interface", "protocol", "ip_version"];
const BY_VERSION: &[&str] = &["interface", "ip_version"];
const BY_TAGS: &[&str] = &["interface", "tags"];
const BY_INTERFACE: &[&str] = &["interface"];
const WITH_MODE: &[&str] = &["interface", "mode"];

macro_rules! metrics {
    ($($name:ident = $metric:literal $kind:ident $labels:ident $help:literal;)+) => {
        $(pub(super) static $name: Metric = Metric {
            name: concat!("sidecar_packet_", $metric),
            help: $help,
            kind: Kind::$kind,
            unit: Unit::None,
            labels: $labels,
        };)+
        /// Every metric of the probe.
        pub(super) static ALL: &[&Metric] = &[$(&$name),+];
    };
}

metrics! {
    RECEIVED = "received_total" Counter BY_PROTOCOL "Frames received, each in one row: tcp, udp, icmp, icmpv6, arp, other";
    BYTES = "received_bytes_total" Counter BY_PROTOCOL "Their bytes, from the Ethernet header on";
    VLAN = "vlan_total" Counter BY_TAGS "Frames received with one VLAN tag, or with several (QinQ)";
    FRAGMENTS = "fragments_total" Counter BY_VERSION "Fragments of IP packets received, first and later ones";
    EXTENDED = "ipv6_extended_total" Counter BY_INTERFACE "IPv6 packets received that have extension headers";
    MALFORMED = "malformed_total" Counter BY_INTERFACE "Frames received that are shorter than their headers say, or whose headers contradict themselves";
    UNREAD = "unread_total" Counter BY_INTERFACE "Frames received whose headers go on deeper than the program follows: more than four VLAN tags or eight extension headers, or headers outside the first buffer";
    INTERFACE = "interface_info" Info WITH_MODE "Interfaces counted at, and whether in their driver or in the network stack";
}
