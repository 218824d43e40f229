// SPDX-License-Identifier: MIT OR GPL-2.0
//! From the bytes of a frame to the counters it adds to: bounded arithmetic without a kernel, so that hostile frames can
//! be tried in user space. Each side brings its own way to look at bytes.

/// Frames and bytes of one class.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Frames.
    pub frames: u64,
    /// From the Ethernet header on.
    pub bytes: u64,
}

/// One interface's counters on one CPU: the value of the map `COUNTERS`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Each frame is in exactly one.
    pub classes: [Count; CLASS_SLOTS],
    /// What else a frame is, by the bits of a verdict from [`FIRST_MARK`] on.
    pub marks: [u64; MARKS],
}

/// A power of two, so that a mask keeps an index in bounds.
pub const CLASS_SLOTS: usize = 16;
/// Kinds of marks.
pub const MARKS: usize = 7;

/// Classes: the low bits of a verdict.
pub const IPV4: u32 = 0;
/// Classes of IPv6 begin here.
pub const IPV6: u32 = 4;
/// Address resolution.
pub const ARP: u32 = 8;
/// Neither IP nor ARP.
pub const OTHER: u32 = 9;
/// Of an IP version.
pub const TCP: u32 = 0;
/// Of an IP version.
pub const UDP: u32 = 1;
/// ICMP of that version.
pub const ICMP: u32 = 2;
/// IPv4 with another protocol, or one that cannot be seen.
pub const OTHER4: u32 = IPV4 + 3;
/// The same of IPv6.
pub const OTHER6: u32 = IPV6 + 3;

/// First bit of a verdict that is a mark.
pub const FIRST_MARK: u32 = 8;
/// One VLAN tag.
pub const TAGGED: u32 = 1 << FIRST_MARK;
/// More than one.
pub const STACKED: u32 = 1 << (FIRST_MARK + 1);
/// A fragment of an IPv4 packet.
pub const FRAGMENT4: u32 = 1 << (FIRST_MARK + 2);
/// A fragment of an IPv6 packet.
pub const FRAGMENT6: u32 = 1 << (FIRST_MARK + 3);
/// IPv6 with extension headers.
pub const EXTENDED: u32 = 1 << (FIRST_MARK + 4);
/// Shorter than a header says, or a header that contradicts itself.
pub const MALFORMED: u32 = 1 << (FIRST_MARK + 5);
/// Headers go on where the program could not look.
pub const UNREAD: u32 = 1 << (FIRST_MARK + 6);

/// Tags followed; what is behind more is not looked at.
pub const MAX_TAGS: u32 = 4;
/// IPv6 extension headers followed.
pub const MAX_EXTENSIONS: u32 = 8;
/// Longest length an IP header can tell. Receive offloads build longer packets, which say zero.
const MAX_TOLD: u64 = 65_535;

const ETHERNET: u64 = 14;
const ETHERTYPE: usize = 12;
const TAG: u64 = 4;
/// Below this an ethertype is the length of an IEEE 802.3 frame.
const MIN_ETHERTYPE: u16 = 0x600;

/// A frame whose bytes can be looked at.
pub trait Frame {
    /// Some of its bytes, known to be there.
    type View: Copy;
    /// Length of the whole frame.
    fn length(&self) -> u64;
    /// `len` bytes from `at` on, if they are there.
    fn view(&self, at: u64, len: u64) -> Option<Self::View>;
    /// The byte at a constant place of a view.
    fn byte(view: Self::View, at: usize) -> u8;
    /// The big-endian number there.
    fn word(view: Self::View, at: usize) -> u16;
    /// Four bytes there, as they lie in memory.
    fn quad(view: Self::View, at: usize) -> u32;
    /// [`tagged`], in the kernel as a function of its own: the frames without tags are the many.
    fn tagged(&self, kind: u16) -> u32;
    /// [`extended`], likewise.
    fn extended(&self, next: u8, at: u64, end: u64) -> u32;
}

/// Where a class's counters lie behind the first one's, in bytes.
pub const fn place(class: u32) -> usize {
    class as usize * size_of::<Count>()
}

/// The [`place`] of what nearly every frame is, whole UDP and TCP without tags, options and extension headers, in as few
/// instructions as possible; none if it is anything else.
#[inline(always)]
pub fn quick<F: Frame>(frame: &F) -> Option<usize> {
    /// Ethertype, version and header length.
    const KIND: u32 = u32::from_ne_bytes([0xff, 0xff, 0xff, 0]);
    const PLAIN4: u32 = u32::from_ne_bytes([0x08, 0x00, 0x45, 0]);
    /// All of the place in a fragmented packet but "don't fragment", and the protocol.
    const INSIDE: u32 = u32::from_ne_bytes([0x3f, 0xff, 0, 0xff]);
    const UDP4: u32 = u32::from_ne_bytes([0, 0, 0, 17]);
    const TCP4: u32 = u32::from_ne_bytes([0, 0, 0, 6]);
    /// Ethertype and version.
    const KIND6: u32 = u32::from_ne_bytes([0xff, 0xff, 0xf0, 0]);
    const PLAIN6: u32 = u32::from_ne_bytes([0x86, 0xdd, 0x60, 0]);

    let header = frame.view(0, 34)?;
    if F::quad(header, ETHERTYPE) & KIND == PLAIN4 {
        let (place, least) = match F::quad(header, 20) & INSIDE {
            UDP4 => (place(IPV4 + UDP), 28),
            TCP4 => (place(IPV4 + TCP), 40),
            _ => return None,
        };
        let total = u64::from(F::word(header, 16));
        (least <= total && total + ETHERNET <= frame.length()).then_some(place)
    } else if F::quad(header, ETHERTYPE) & KIND6 == PLAIN6 {
        let (place, least) = match F::byte(header, 20) {
            17 => (place(IPV6 + UDP), 8),
            6 => (place(IPV6 + TCP), 20),
            _ => return None,
        };
        let payload = u64::from(F::word(header, 18));
        (least <= payload && payload + ETHERNET + 40 <= frame.length()).then_some(place)
    } else {
        None
    }
}

/// Which counters a frame adds to: a class and marks.
#[inline(always)]
pub fn verdict<F: Frame>(frame: &F) -> u32 {
    let Some(header) = frame.view(0, ETHERNET) else { return OTHER | cut(frame, ETHERNET) };
    let kind = F::word(header, ETHERTYPE);
    if is_tag(kind) { frame.tagged(kind) } else { network(frame, ETHERNET, kind) }
}

/// Follows VLAN tags, the first of which has this ethertype.
#[inline(always)]
pub fn tagged<F: Frame>(frame: &F, mut kind: u16) -> u32 {
    let (mut at, mut tags) = (ETHERNET, 0);
    while tags < MAX_TAGS && is_tag(kind) {
        tags += 1;
        let Some(tag) = frame.view(at, TAG) else { return OTHER | tag_mark(tags) | cut(frame, at + TAG) };
        kind = F::word(tag, 2);
        at += TAG;
    }
    if is_tag(kind) { OTHER | STACKED | UNREAD } else { network(frame, at, kind) | tag_mark(tags) }
}

#[inline(always)]
fn tag_mark(tags: u32) -> u32 {
    if tags > 1 { STACKED } else { TAGGED }
}

/// IEEE 802.1Q, 802.1ad, and what was used for stacked tags before there was 802.1ad.
#[inline(always)]
fn is_tag(kind: u16) -> bool {
    matches!(kind, 0x8100 | 0x88a8 | 0x9100)
}

/// What the view of a header at a place in the frame failed for: the frame ends there, or only what we can see of it.
#[inline(always)]
fn cut<F: Frame>(frame: &F, end: u64) -> u32 {
    if end > frame.length() { MALFORMED } else { UNREAD }
}

#[inline(always)]
fn network<F: Frame>(frame: &F, at: u64, kind: u16) -> u32 {
    match kind {
        0x0800 => ipv4(frame, at),
        0x86dd => ipv6(frame, at),
        0x0806 => arp(frame, at),
        // The length of what follows.
        0..MIN_ETHERTYPE if at + u64::from(kind) > frame.length() => OTHER | MALFORMED,
        _ => OTHER,
    }
}

#[inline(always)]
fn ipv4<F: Frame>(frame: &F, at: u64) -> u32 {
    let Some(header) = frame.view(at, 20) else { return OTHER4 | cut(frame, at + 20) };
    let first = F::byte(header, 0);
    let own = u64::from(first & 15) * 4;
    if first >> 4 != 4 || own < 20 {
        return OTHER4 | MALFORMED;
    }
    let there = frame.length().wrapping_sub(at);
    let total = u64::from(F::word(header, 2));
    let (class, least) = match F::byte(header, 9) {
        6 => (IPV4 + TCP, 20),
        17 => (IPV4 + UDP, 8),
        1 => (IPV4 + ICMP, 8),
        _ => (OTHER4, 0),
    };
    // More fragments, or an offset.
    let fragment = F::word(header, 6) & 0x3fff;
    // The header of what is inside is in the first fragment only.
    let offset = fragment & 0x1fff;
    let least = if offset == 0 { own + least } else { own };
    let fits = least <= total && total <= there || total == 0 && there > MAX_TOLD;
    class | if fits { 0 } else { MALFORMED } | if fragment == 0 { 0 } else { FRAGMENT4 }
}

#[inline(always)]
fn ipv6<F: Frame>(frame: &F, at: u64) -> u32 {
    let Some(header) = frame.view(at, 40) else { return OTHER6 | cut(frame, at + 40) };
    if F::byte(header, 0) >> 4 != 6 {
        return OTHER6 | MALFORMED;
    }
    let start = at + 40;
    let there = frame.length().wrapping_sub(start);
    let told = u64::from(F::word(header, 4));
    let payload = if told == 0 && there > MAX_TOLD - 40 { there } else { told };
    let next = F::byte(header, 6);
    if payload > there {
        // Where its headers end cannot be trusted either.
        return upper(next).0 | MALFORMED;
    }
    if is_extension(next) {
        return frame.extended(next, start, start + payload);
    }
    let (class, least) = upper(next);
    if payload < least { class | MALFORMED } else { class }
}

/// The class of what is inside IPv6, and the length of its header.
#[inline(always)]
fn upper(next: u8) -> (u32, u64) {
    match next {
        6 => (IPV6 + TCP, 20),
        17 => (IPV6 + UDP, 8),
        58 => (IPV6 + ICMP, 8),
        _ => (OTHER6, 0),
    }
}

/// Hop-by-hop options, routing, fragment, authentication, destination options, mobility, host identity, shim. What is
/// encrypted (ESP) and what is nothing (59) are the end of the chain.
#[inline(always)]
fn is_extension(next: u8) -> bool {
    matches!(next, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140)
}

/// Follows extension headers from `at` on up to `end`, where the packet ends.
#[inline(always)]
pub fn extended<F: Frame>(frame: &F, mut next: u8, mut at: u64, end: u64) -> u32 {
    let mut marks = EXTENDED;
    for _ in 0..MAX_EXTENSIONS {
        if !is_extension(next) {
            break;
        }
        if at.wrapping_add(8) > end {
            return OTHER6 | marks | MALFORMED;
        }
        let Some(header) = frame.view(at, 8) else { return OTHER6 | marks | UNREAD };
        let units = u64::from(F::byte(header, 1));
        let length = match next {
            44 => 8,
            51 => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        at += length;
        let is_fragment = next == 44;
        next = F::byte(header, 0);
        if is_fragment {
            // An offset, or more fragments: without either it is a whole packet that carries the header.
            let fragment = F::word(header, 2);
            if fragment & 0xfff9 != 0 {
                marks |= FRAGMENT6;
            }
            if fragment & 0xfff8 != 0 {
                // What the header is followed by is in the first fragment.
                return upper(next).0 | marks;
            }
        }
    }
    if is_extension(next) {
        return OTHER6 | marks | UNREAD;
    }
    let (class, least) = upper(next);
    if at + least > end { class | marks | MALFORMED } else { class | marks }
}

/// Fixed part, then two pairs of addresses of the lengths it tells.
#[inline(always)]
fn arp<F: Frame>(frame: &F, at: u64) -> u32 {
    let Some(header) = frame.view(at, 8) else { return ARP | cut(frame, at + 8) };
    let addresses = u64::from(F::byte(header, 4)) + u64::from(F::byte(header, 5));
    if at + 8 + 2 * addresses > frame.length() { ARP | MALFORMED } else { ARP }
}

/// For user space: the bytes themselves.
impl<'a> Frame for &'a [u8] {
    type View = &'a [u8];

    fn length(&self) -> u64 {
        self.len() as u64
    }

    fn view(&self, at: u64, len: u64) -> Option<&'a [u8]> {
        self.get(at as usize..at.checked_add(len)? as usize)
    }

    fn byte(view: &'a [u8], at: usize) -> u8 {
        view[at]
    }

    fn word(view: &'a [u8], at: usize) -> u16 {
        u16::from_be_bytes([view[at], view[at + 1]])
    }

    fn quad(view: &'a [u8], at: usize) -> u32 {
        u32::from_ne_bytes([view[at], view[at + 1], view[at + 2], view[at + 3]])
    }

    fn tagged(&self, kind: u16) -> u32 {
        tagged(self, kind)
    }

    fn extended(&self, next: u8, at: u64, end: u64) -> u32 {
        extended(self, next, at, end)
    }
}
