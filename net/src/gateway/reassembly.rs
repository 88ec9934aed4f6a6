//! The guest's fragments are put together again.
//!
//! Datagrams are reassembled (RFC 791 §3.2, RFC 8200 §4.5) in a bounded number of buffers. Pieces that overlap make the whole datagram void (RFC 5722), exact repetitions don't.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::context::Ctx;
use super::icmp::{self, Why};
use super::packet::Packet;
use crate::addr::MacAddr;
use crate::frame::{HEAD_MAX, Offload};
use crate::scatter::Scatter;
use crate::stats::DropReason;
use crate::wire::ip::{Extensions, FRAGMENT_LEN, FRAGMENT_UNIT as UNIT, IPV6_LEN};

/// Datagrams in the making at once: 8 buffers of 64 KiB.
const SLOTS: usize = 8;

/// Bytes of a datagram's buffer.
const BUFFER: usize = 65536;

/// How long a datagram may take (RFC 791 §3.2: at least 15 s; RFC 8200 §4.5 allows 60 s).
const TIMEOUT: Duration = Duration::from_secs(30);

const WORDS: usize = BUFFER / UNIT / 64;

/// What the pieces of one datagram share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DatagramKey {
    src: IpAddr,
    dst: IpAddr,
    id: u32,
    /// IPv4 counts identifications by protocol (RFC 791 §2.3), IPv6 does not.
    protocol: Option<u8>,
}

/// What a datagram in the making needs: its bytes, and which units of them have come.
type Memory = (Box<[u8]>, Box<[u64; WORDS]>);

/// A datagram in the making.
#[derive(Debug)]
struct Incomplete {
    key: DatagramKey,
    due: Instant,
    parts: Parts,
    /// Overlapping or contradictory: what else comes of it is void too.
    void: bool,
}

/// The pieces of a datagram, or all of it.
#[derive(Debug)]
pub struct Parts {
    src_mac: MacAddr,
    /// A piece was sent to a group.
    group: bool,
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    protocol_at: usize,
    hop_limit: u8,
    traffic_class: u8,
    header: [u8; HEAD_MAX],
    /// 0 until the first piece came.
    header_len: usize,
    buffer: Box<[u8]>,
    /// Which units have come.
    seen: Box<[u64; WORDS]>,
    /// Bytes that have come.
    have: usize,
    /// The end of the piece that reaches furthest.
    reach: usize,
    /// The datagram's length, once the last piece has come.
    len: Option<usize>,
    /// Bytes of extension headers that were cut with the rest, and belong to `header` now.
    extensions: usize,
}

/// How a piece fits what is there.
enum Fit {
    New,
    Again,
    Contradicts,
}

impl Parts {
    fn new(packet: &Packet<'_>, mut buffer: Box<[u8]>, mut seen: Box<[u64; WORDS]>) -> Self {
        seen.fill(0);
        if buffer.is_empty() {
            buffer = vec![0; BUFFER].into_boxed_slice();
        }
        Self {
            src_mac: packet.src_mac,
            group: false,
            src: packet.src,
            dst: packet.dst,
            protocol: packet.protocol,
            protocol_at: packet.protocol_at,
            hop_limit: packet.hop_limit,
            traffic_class: packet.traffic_class,
            header: [0; HEAD_MAX],
            header_len: 0,
            buffer,
            seen,
            have: 0,
            reach: 0,
            len: None,
            extensions: 0,
        }
    }

    /// How the bytes `at..at + len` fit, the last ones of the datagram if not `more`.
    fn fit(&self, packet: &Packet<'_>, at: usize, len: usize, more: bool) -> Fit {
        let end = at + len;
        let beyond = match self.len {
            Some(total) => end > total || (!more && end != total),
            None => !more && end < self.reach,
        };
        if beyond {
            return Fit::Contradicts;
        }
        let (mut some, mut all) = (false, true);
        for unit in at / UNIT..end.div_ceil(UNIT) {
            let seen = self.seen[unit / 64] >> (unit % 64) & 1 != 0;
            some |= seen;
            all &= seen;
        }
        match (some, all) {
            (false, _) => Fit::New,
            (true, true) if self.same(packet, at) => Fit::Again,
            _ => Fit::Contradicts,
        }
    }

    /// True when the piece's bytes are those that are there.
    fn same(&self, packet: &Packet<'_>, at: usize) -> bool {
        let have = &self.buffer[at..at + packet.len];
        let (head, rest) = have.split_at(packet.head.len());
        head == packet.head && Scatter::new(packet.tail).equals(0, rest)
    }

    fn add(&mut self, packet: &Packet<'_>, at: usize, more: bool) -> Result<(), DropReason> {
        let end = at + packet.len;
        packet.payload(0)?.copy_to(&mut self.buffer[at..end]);
        for unit in at / UNIT..end.div_ceil(UNIT) {
            self.seen[unit / 64] |= 1 << (unit % 64);
        }
        self.have += packet.len;
        self.group |= packet.group;
        self.reach = self.reach.max(end);
        if !more {
            self.len = Some(end);
        }
        if at == 0 {
            let n = packet.ip_header.len().min(HEAD_MAX);
            self.header[..n].copy_from_slice(&packet.ip_header[..n]);
            self.header_len = n;
            self.protocol = packet.protocol;
            self.protocol_at = packet.protocol_at;
            self.hop_limit = packet.hop_limit;
            self.traffic_class = packet.traffic_class;
        }
        Ok(())
    }

    /// Reads the extension headers that were cut with the rest, when all of it is there.
    fn unwrap_extensions(&mut self) -> Result<(), DropReason> {
        if self.src.is_ipv4() {
            return Ok(());
        }
        // They go behind the header that the first piece had, as they stood before the cut.
        let (at, len) = (self.header_len, self.len.unwrap_or(self.reach));
        let n = len.min(HEAD_MAX - at);
        self.header[at..at + n].copy_from_slice(&self.buffer[..n]);
        let it = Extensions::parse_from(&self.header[..at + n], at, self.protocol_at)?;
        if it.fragment.is_some() {
            return Err(DropReason::Malformed);
        }
        (self.protocol, self.protocol_at) = (it.protocol, it.protocol_at);
        (self.header_len, self.extensions) = (it.end, it.end - at);
        Ok(())
    }

    /// As a packet like any other: all of it lies in the head. It may be fragmented again.
    pub fn packet(&self) -> Packet<'_> {
        let len = self.len.unwrap_or(self.reach);
        Packet {
            src_mac: self.src_mac,
            group: self.group,
            src: self.src,
            dst: self.dst,
            protocol: self.protocol,
            hop_limit: self.hop_limit,
            traffic_class: self.traffic_class,
            dont_fragment: false,
            fragment: None,
            fragmented: true,
            protocol_at: self.protocol_at,
            ip_header: &self.header[..self.header_len],
            head: &self.buffer[self.extensions..len],
            tail: &[],
            len: len - self.extensions,
            offload: Offload::default(),
        }
    }
}

/// The guest's datagrams in the making.
#[derive(Debug, Default)]
pub struct Reassembly {
    /// Oldest first.
    slots: Vec<Incomplete>,
    spare: Vec<Memory>,
}

impl Reassembly {
    /// None yet; memory comes with the first.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a fragment. `Some` is the whole datagram, to be given back with
    /// [`recycle`](Self::recycle).
    ///
    /// # Errors
    /// The reason to drop it, or the datagram.
    pub fn input(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        packet: &Packet<'_>,
    ) -> Result<Option<Parts>, DropReason> {
        let fragment = packet.fragment.ok_or(DropReason::Malformed)?;
        let (at, more) = (fragment.offset as usize, fragment.more);
        // Every piece but the last is whole units, and none is empty.
        if packet.len == 0 || (more && !packet.len.is_multiple_of(UNIT)) {
            return Err(DropReason::BadFragment);
        }
        // The whole must be a packet again: IPv4's length counts its header (RFC 791 §3.1), IPv6's
        // the extensions, of which the fragment header goes (RFC 8200 §4.5).
        let headers = match packet.src {
            IpAddr::V4(_) => packet.ip_header.len(),
            IpAddr::V6(_) => packet.ip_header.len().saturating_sub(IPV6_LEN + FRAGMENT_LEN),
        };
        if at + packet.len + headers > 65535 {
            return Err(DropReason::BadFragment);
        }
        let key = DatagramKey {
            src: packet.src,
            dst: packet.dst,
            id: fragment.id,
            protocol: packet.src.is_ipv4().then_some(packet.protocol),
        };
        let i = match self.slots.iter().position(|slot| slot.key == key) {
            Some(i) => i,
            None => self.open(ctx, key, packet),
        };
        let slot = &mut self.slots[i];
        if slot.void {
            return Err(DropReason::BadFragment);
        }
        match slot.parts.fit(packet, at, packet.len, more) {
            Fit::New => slot.parts.add(packet, at, more)?,
            Fit::Again => return Ok(None),
            Fit::Contradicts => {
                slot.void = true;
                return Err(DropReason::BadFragment);
            }
        }
        if slot.parts.len == Some(slot.parts.have) {
            let mut parts = self.slots.remove(i).parts;
            return match parts.unwrap_extensions() {
                Ok(()) => Ok(Some(parts)),
                Err(reason) => {
                    self.recycle(parts);
                    Err(reason)
                }
            };
        }
        Ok(None)
    }

    fn open(&mut self, ctx: &mut Ctx<'_, '_>, key: DatagramKey, packet: &Packet<'_>) -> usize {
        if self.slots.len() == SLOTS {
            ctx.io.stats.dropped(DropReason::FragmentMemory);
            let oldest = self.slots.remove(0);
            self.recycle(oldest.parts);
        }
        let (buffer, seen) =
            self.spare.pop().unwrap_or_else(|| (Box::default(), Box::new([0; WORDS])));
        let parts = Parts::new(packet, buffer, seen);
        self.slots.push(Incomplete { key, due: ctx.io.now + TIMEOUT, parts, void: false });
        self.slots.len() - 1
    }

    /// Takes a datagram's memory back.
    pub fn recycle(&mut self, parts: Parts) {
        if self.spare.len() < SLOTS {
            self.spare.push((parts.buffer, parts.seen));
        }
    }

    /// When [`expire`](Self::expire) is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.slots.first().map(|slot| slot.due)
    }

    /// Gives up what has taken too long, and tells the guest where the first piece had come.
    pub fn expire(&mut self, ctx: &mut Ctx<'_, '_>) {
        while self.slots.first().is_some_and(|slot| slot.due <= ctx.io.now) {
            let slot = self.slots.remove(0);
            ctx.io.stats.dropped(DropReason::BadFragment);
            if !slot.void && slot.parts.header_len > 0 {
                icmp::unreachable(ctx, &slot.parts.packet(), Why::Reassembly);
            }
            self.recycle(slot.parts);
        }
    }

    /// The guest is gone.
    pub fn detached(&mut self) {
        self.slots.clear();
        self.spare.clear();
    }
}

#[cfg(test)]
mod tests;
