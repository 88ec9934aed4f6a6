//! Counters of a segment: frames, bytes, and one counter for every reason a frame is dropped.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter with one writer (the segment's worker) and any number of readers.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the worker calls this: with one writer a locked instruction is not needed.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A level with one writer and any number of readers.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets the value.
    pub fn set(&self, n: usize) {
        self.0.store(n as u64, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a frame, or what would have been one, did not go on. Each has a counter in [`Stats`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum DropReason { $($(#[$doc])* $name,)* }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The reason's name in `stats` and in messages.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

drop_reasons! {
    /// The frame ends before its headers do, or a length field says more than there is.
    Truncated = "truncated",
    /// The headers do not fit the part of the frame that is parsed.
    HeadersTooLong = "headers_too_long",
    /// The virtio-net header contradicts the frame (Virtio 1.2 §5.1.6.2).
    BadOffload = "bad_offload",
    /// A descriptor chain that is no frame: too long, too short, writable where it must not be.
    BadChain = "bad_chain",
    /// No protocol of ours has this EtherType.
    UnknownEtherType = "unknown_ethertype",
    /// Not addressed to the gateway or to a group it listens to.
    NotForUs = "not_for_us",
    /// The source address is not one that this station may use.
    BadSource = "bad_source",
    /// A header field has a value that the protocol forbids.
    Malformed = "malformed",
    /// The header checksum is wrong.
    BadChecksum = "bad_checksum",
    /// An IP protocol that the gateway does not carry.
    UnknownProtocol = "unknown_protocol",
    /// A destination that policy keeps from the guest: host loopback, link-local, metadata.
    DestinationForbidden = "destination_forbidden",
    /// The host has no route to the destination.
    NoRoute = "no_route",
    /// Hop limit reached zero here.
    HopLimit = "hop_limit",
    /// A fragment that overlaps, is too large, or whose datagram was never complete in time.
    BadFragment = "bad_fragment",
    /// The reassembly memory is used up.
    FragmentMemory = "fragment_memory",
    /// The guest has no receive buffers.
    NoRxBuffers = "no_rx_buffers",
    /// The guest's receive buffers together are smaller than the frame.
    RxBufferTooSmall = "rx_buffer_too_small",
    /// The flow table is full and no flow was idle enough to go.
    FlowTableFull = "flow_table_full",
    /// A host socket could not be made.
    SocketFailed = "socket_failed",
    /// The host socket has no room.
    SendBufferFull = "send_buffer_full",
    /// The host refused the datagram for another reason.
    SendFailed = "send_failed",
    /// A segment that belongs to no connection.
    NoConnection = "no_connection",
    /// A TCP segment outside the window (RFC 9293 §3.10.7.4).
    OutOfWindow = "out_of_window",
    /// A TCP segment within the window, but after one that did not come.
    OutOfOrder = "out_of_order",
    /// From an address that the guest has not sent anything to.
    Unsolicited = "unsolicited",
    /// An ICMP message that calls for nothing.
    IcmpIgnored = "icmp_ignored",
    /// Larger than the path takes, and it may not be fragmented.
    TooBig = "too_big",
    /// More messages of this kind than are sent in a second.
    RateLimited = "rate_limited",
    /// The link-layer address of the destination is not known.
    NoNeighbor = "no_neighbor",
    /// The other side of the segment is not there (the guest has reset its device).
    Detached = "detached",
    /// The TAP device refused the frame.
    TapFailed = "tap_failed",
}

/// The counters of one segment. `tx` is what the station sent, `rx` what was delivered to it.
#[derive(Debug)]
pub struct Stats {
    /// Frames taken from the station.
    pub tx_frames: Counter,
    /// Bytes taken from the station, Ethernet header on.
    pub tx_bytes: Counter,
    /// Frames delivered to the station.
    pub rx_frames: Counter,
    /// Bytes delivered to the station, Ethernet header on.
    pub rx_bytes: Counter,
    /// Wake-ups of the worker.
    pub wakeups: Counter,
    /// TCP connections that there are.
    pub tcp_flows: Gauge,
    /// UDP flows that there are.
    pub udp_flows: Gauge,
    /// ICMP echo identifiers in use.
    pub ping_flows: Gauge,
    drops: Vec<Counter>,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            tx_frames: Counter::default(),
            tx_bytes: Counter::default(),
            rx_frames: Counter::default(),
            rx_bytes: Counter::default(),
            wakeups: Counter::default(),
            tcp_flows: Gauge::default(),
            udp_flows: Gauge::default(),
            ping_flows: Gauge::default(),
            drops: DropReason::ALL.iter().map(|_| Counter::default()).collect(),
        }
    }
}

impl Stats {
    /// Counts one drop.
    pub fn dropped(&self, reason: DropReason) {
        self.drops[reason as usize].add(1);
    }

    /// How often frames were dropped for `reason`.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].get()
    }

    /// The drops of every reason together.
    pub fn total_drops(&self) -> u64 {
        self.drops.iter().map(Counter::get).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_name() {
        let stats = Stats::default();
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
            stats.dropped(*reason);
            assert_eq!(stats.drops(*reason), 1);
        }
        assert_eq!(stats.total_drops(), DropReason::ALL.len() as u64);
        let mut names: Vec<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::ALL.len());
    }
}
