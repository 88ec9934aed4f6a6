//! The kernel command line: `probe.key=value` words among others that are not ours.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::dns;
use crate::names::{NAMES, Names};

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Configure the network, run every check, print the table and end.
    Report,
    /// Stay up with the echo, sink and source services.
    Serve,
    /// Stay up with the echo service.
    Echo,
    /// Stay up with the sink service.
    Sink,
    /// Stay up with the source service.
    Source,
    /// Stay up and answer ARP, neighbour solicitations and pings.
    Hold,
    /// Touch no device, end at once.
    None,
}

impl Mode {
    /// Whether the probe stays up in this mode.
    pub fn stays(self) -> bool {
        !matches!(self, Self::Report | Self::None)
    }

    /// What it offers, for people.
    pub fn services(self) -> &'static str {
        match self {
            Self::Serve => "echo 7, sink 5001, source 5002, identify 5003",
            Self::Echo => "echo 7",
            Self::Sink => "sink 5001",
            Self::Source => "source 5002",
            Self::Hold => "answering pings",
            Self::Report | Self::None => "nothing",
        }
    }
}

/// How to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// ACPI S5.
    PowerOff,
    /// ACPI reset register, then the i8042.
    Reboot,
    /// A triple fault.
    TripleFault,
    /// Stop the CPU with interrupts off and stay.
    Halt,
    /// Execute an undefined instruction in ring 3.
    Crash,
}

/// Features to leave alone, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Without {
    /// No checksum offload in either direction (implies no TSO).
    pub csum: bool,
    /// No segmentation offload in either direction.
    pub tso: bool,
    /// No mergeable receive buffers.
    pub mrg: bool,
    /// No event index.
    pub event_idx: bool,
    /// No router solicitation, no IPv6 address.
    pub ipv6: bool,
    /// No DHCP: `probe.ip` or nothing.
    pub dhcp: bool,
    /// No bulk transfers.
    pub bulk: bool,
    /// No device interrupts: poll on the timer.
    pub irq: bool,
}

/// A static address: `probe.ip=10.0.0.2/24,10.0.0.1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticIp {
    /// Our address.
    pub address: Ipv4Addr,
    /// Its prefix length.
    pub prefix: u8,
    /// Default router.
    pub gateway: Option<Ipv4Addr>,
}

/// Addresses that stand for the internet: `probe.outside=192.0.2.1,2001:db8::1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outside {
    /// Over IPv4.
    pub ipv4: Option<Ipv4Addr>,
    /// Over IPv6.
    pub ipv6: Option<Ipv6Addr>,
}

/// The parsed command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options<'a> {
    /// `probe=`
    pub mode: Mode,
    /// `probe.end=`
    pub end: End,
    /// `probe.json`: JSON lines instead of a table.
    pub json: bool,
    /// `probe.crlf`: lines end as a raw terminal wants it.
    pub crlf: bool,
    /// `probe.peer=ADDR:PORT`, `[ADDR]:PORT` for IPv6.
    pub peer: Option<SocketAddr>,
    /// `probe.peer=loopback-down`: there is none, because the host's loopback is down.
    pub loopback_down: bool,
    /// `probe.outside=`; neither address: that is not checked.
    pub outside: Outside,
    /// `probe.ip=`
    pub ip: Option<StaticIp>,
    /// `probe.name=`: the name to look up.
    pub name: Option<&'a str>,
    /// `probe.expect=`: the checks that must be `ok`, else the run fails.
    pub expect: Names,
    /// `probe.want=`: the same, but for what the user leaves out. See [`Options::expected`].
    pub want: Names,
    /// `probe.seconds=`: how long each bulk transfer takes, in milliseconds here.
    pub bulk_ms: u32,
    /// `probe.bytes=`: how much each bulk transfer moves at most, 0 for no bound but the time.
    pub bulk_bytes: u64,
    /// `probe.wait=`: how long to wait for a lease, in milliseconds here.
    pub wait_ms: u32,
    /// `probe.spin=`: microseconds of busy polling before going to sleep.
    pub spin_us: u32,
    /// `probe.rxbuf=`: bytes of each receive buffer, 0 for the choice of the driver.
    pub rx_buffer: u32,
    /// `probe.nic=`: which NIC, from 0.
    pub nic: u32,
    /// `probe.without=a,b`
    pub without: Without,
    /// The first word of ours that was not understood.
    pub unknown: Option<&'a str>,
}

impl<'a> Options<'a> {
    /// The defaults.
    pub const fn new() -> Self {
        Self {
            mode: Mode::Report,
            end: End::PowerOff,
            json: false,
            crlf: false,
            peer: None,
            loopback_down: false,
            outside: Outside { ipv4: None, ipv6: None },
            ip: None,
            name: None,
            expect: Names::NONE,
            want: Names::NONE,
            bulk_ms: 300,
            bulk_bytes: 0,
            wait_ms: 5000,
            spin_us: 50,
            rx_buffer: 0,
            nic: 0,
            without: Without {
                csum: false,
                tso: false,
                mrg: false,
                event_idx: false,
                ipv6: false,
                dhcp: false,
                bulk: false,
                irq: false,
            },
            unknown: None,
        }
    }

    /// Parses a command line. Words that do not start with `probe` are skipped, of a repeated key the last one counts;
    /// lists of names add up.
    pub fn parse(line: &'a str) -> Self {
        let mut options = Self::new();
        for word in line.split_ascii_whitespace() {
            let known = match word.strip_prefix("probe") {
                Some("") => true,
                Some(rest) if rest.starts_with(['.', '=']) => options.word(rest).is_some(),
                _ => true,
            };
            if !known {
                options.unknown = options.unknown.or(Some(word));
            }
        }
        options
    }

    fn word(&mut self, rest: &'a str) -> Option<()> {
        let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
        match key {
            "" => {
                self.mode = match value {
                    "report" => Mode::Report,
                    "serve" => Mode::Serve,
                    "echo" => Mode::Echo,
                    "sink" => Mode::Sink,
                    "source" => Mode::Source,
                    "hold" => Mode::Hold,
                    "none" => Mode::None,
                    _ => return None,
                }
            }
            ".end" => {
                self.end = match value {
                    "poweroff" => End::PowerOff,
                    "reboot" => End::Reboot,
                    "triplefault" => End::TripleFault,
                    "halt" => End::Halt,
                    "crash" => End::Crash,
                    _ => return None,
                }
            }
            ".json" => self.json = switch(value)?,
            ".crlf" => self.crlf = switch(value)?,
            ".peer" => {
                self.loopback_down = value == "loopback-down";
                self.peer = if self.loopback_down { None } else { Some(value.parse().ok()?) };
            }
            ".outside" => self.outside = outside(value)?,
            ".ip" => self.ip = Some(static_ip(value)?),
            ".name" if value.is_empty() => self.name = None,
            ".name" if dns::is_name(value) => self.name = Some(value),
            ".expect" => self.expect = self.expect.with(Names::parse(value)?),
            ".want" => self.want = self.want.with(Names::parse(value)?),
            ".seconds" => self.bulk_ms = millis(value)?,
            ".bytes" => self.bulk_bytes = value.parse().ok()?,
            ".wait" => self.wait_ms = millis(value)?,
            ".spin" => self.spin_us = value.parse().ok()?,
            ".rxbuf" => self.rx_buffer = value.parse().ok().filter(|n| *n <= 65_562)?,
            ".nic" => self.nic = value.parse().ok()?,
            ".without" => {
                for item in value.split(',') {
                    match item {
                        "csum" => self.without.csum = true,
                        "tso" => self.without.tso = true,
                        "mrg" => self.without.mrg = true,
                        "eventidx" => self.without.event_idx = true,
                        "ipv6" => self.without.ipv6 = true,
                        "dhcp" => self.without.dhcp = true,
                        "bulk" => self.without.bulk = true,
                        "irq" => self.without.irq = true,
                        _ => return None,
                    }
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// The checks that must be `ok`: what is expected, and of what is wanted that which the mode and `probe.without=` have not
    /// taken the ground from.
    pub fn expected(&self) -> Names {
        let left_out = [
            (self.mode != Mode::Report, &NAMES[..]),
            (self.without.dhcp, &["lease", "gateway", "mtu", "dns", "udp", "tcp"]),
            (self.without.ipv6, &["ipv6"]),
            (self.without.dhcp && self.without.ipv6, &["outside"]),
            (self.without.bulk, &["upload", "download"]),
        ];
        let mut want = self.want;
        for (_, names) in left_out.iter().filter(|(left_out, _)| *left_out) {
            names.iter().for_each(|name| want.remove(name));
        }
        self.expect.with(want)
    }
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// `SIZE@BASE:IRQ`, the first three fields of Linux's `virtio_mmio.device=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioDevice {
    /// Guest-physical address of the registers.
    pub base: u64,
    /// Global system interrupt.
    pub gsi: u32,
}

/// The `virtio_mmio.device=` words in order.
pub fn mmio_devices(line: &str) -> impl Iterator<Item = MmioDevice> {
    line.split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix("virtio_mmio.device="))
        .filter_map(mmio_device)
}

fn mmio_device(value: &str) -> Option<MmioDevice> {
    let (_size, place) = value.split_once('@')?;
    let mut fields = place.split(':');
    let base = number(fields.next()?)?;
    let gsi = u32::try_from(number(fields.next()?)?).ok()?;
    Some(MmioDevice { base, gsi })
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn switch(value: &str) -> Option<bool> {
    match value {
        "" | "1" | "on" => Some(true),
        "0" | "off" => Some(false),
        _ => None,
    }
}

fn static_ip(value: &str) -> Option<StaticIp> {
    let (cidr, gateway) = match value.split_once(',') {
        Some((cidr, gateway)) => (cidr, Some(gateway.parse().ok()?)),
        None => (value, None),
    };
    let (address, prefix) = cidr.split_once('/')?;
    let prefix: u8 = prefix.parse().ok().filter(|n| *n <= 32)?;
    Some(StaticIp { address: address.parse().ok()?, prefix, gateway })
}

/// One address or one of each version, or `off`.
fn outside(value: &str) -> Option<Outside> {
    let mut outside = Outside::default();
    for item in value.split(',').filter(|_| value != "off") {
        match item.parse().ok()? {
            IpAddr::V4(ip) => outside.ipv4 = Some(ip),
            IpAddr::V6(ip) => outside.ipv6 = Some(ip),
        }
    }
    Some(outside)
}

/// Decimal seconds with up to three decimals, at most an hour.
fn millis(value: &str) -> Option<u32> {
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let whole: u32 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut thousandths = 0;
    let mut weight = 100;
    if fraction.len() > 3 {
        return None;
    }
    for digit in fraction.chars() {
        thousandths += digit.to_digit(10)? * weight;
        weight /= 10;
    }
    (whole <= 3600).then(|| whole * 1000 + thousandths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_foreign_words() {
        let options = Options::parse("console=ttyS0 quiet probes=1 root=/dev/vda");
        assert_eq!(options, Options::new());
    }

    #[test]
    fn every_key() {
        let o = Options::parse(
            "probe=serve probe.end=reboot probe.json probe.peer=10.0.2.2:4711 probe.ip=10.0.2.15/24,10.0.2.2 \
             probe.name=a.test probe.expect=dns,tcp probe.seconds=1.25 probe.bytes=1000 probe.wait=2 probe.spin=9 \
             probe.rxbuf=4096 probe.nic=1 probe.without=tso,irq",
        );
        assert_eq!(o.mode, Mode::Serve);
        assert_eq!(o.end, End::Reboot);
        assert!(o.json);
        assert_eq!(o.peer.map(|p| p.port()), Some(4711));
        let ip = o.ip.expect("given");
        assert_eq!((ip.prefix, ip.gateway), (24, Some(Ipv4Addr::new(10, 0, 2, 2))));
        assert_eq!(o.name, Some("a.test"));
        assert_eq!(Some(o.expect), Names::parse("dns,tcp"));
        assert_eq!((o.bulk_ms, o.bulk_bytes, o.wait_ms, o.spin_us), (1250, 1000, 2000, 9));
        assert_eq!((o.rx_buffer, o.nic), (4096, 1));
        assert!(o.without.tso && o.without.irq && !o.without.csum);
        assert_eq!(o.unknown, None);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for word in [
            "probe=maybe",
            "probe.end=now",
            "probe.peer=host:1",
            "probe.ip=1.2.3.4",
            "probe.x",
            "probe.seconds=x",
            "probe.rxbuf=70000",
            "probe.without=all",
            "probe.ip=1.2.3.4/33",
            "probe.seconds=4000",
            "probe.wait=99999999",
            "probe.wait=0.0001",
            "probe.name=a..b",
            "probe.expect=dsn",
            "probe.expect=",
            "probe.want=dsn",
        ] {
            assert_eq!(Options::parse(word).unknown, Some(word));
        }
    }

    #[test]
    fn lists_add_up() {
        let o =
            Options::parse("probe.expect=dns probe.without=tso probe.expect=tcp probe.without=irq");
        assert_eq!(Some(o.expect), Names::parse("dns,tcp"));
        assert!(o.without.tso && o.without.irq);
    }

    #[test]
    fn what_is_wanted_yields_to_what_is_left_out() {
        for (line, expected) in [
            ("probe.want=link,dns,ipv6 probe.expect=tcp", "link,dns,tcp,ipv6"),
            ("probe.want=link,dns,ipv6 probe.without=dhcp,ipv6", "link"),
            ("probe.want=link,dns,ipv6 probe.without=dhcp,ipv6 probe.expect=dns", "link,dns"),
            ("probe.want=link,upload probe.without=bulk,tso", "link"),
            ("probe.want=link,dns probe=hold probe.expect=lease", "lease"),
        ] {
            assert_eq!(Some(Options::parse(line).expected()), Names::parse(expected), "{line}");
        }
    }

    #[test]
    fn outside_and_no_peer() {
        let (v4, v6) = ("192.0.2.1".parse().ok(), "2001:db8::1".parse().ok());
        let outside = |line| Options::parse(line).outside;
        assert_eq!(outside("probe.outside=192.0.2.1"), Outside { ipv4: v4, ipv6: None });
        assert_eq!(outside("probe.outside=2001:db8::1,192.0.2.1"), Outside { ipv4: v4, ipv6: v6 });
        assert_eq!(outside("probe.outside=192.0.2.1 probe.outside=off"), Outside::default());
        assert_eq!(
            Options::parse("probe.outside=192.0.2.1,off").unknown,
            Some("probe.outside=192.0.2.1,off")
        );
        let none = Options::parse("probe.peer=10.0.0.1:7 probe.peer=loopback-down");
        assert!(none.loopback_down && none.peer.is_none() && none.unknown.is_none());
        let some = Options::parse("probe.peer=loopback-down probe.peer=10.0.0.1:7");
        assert!(!some.loopback_down && some.peer.is_some());
    }

    #[test]
    fn ipv6_peer() {
        let peer = Options::parse("probe.peer=[fd00::1]:80").peer.expect("parses");
        assert!(peer.is_ipv6());
    }

    #[test]
    fn mmio_words() {
        let line = "x virtio_mmio.device=512@0xfeb00e00:12 virtio_mmio.device=4K@0xd0000000:5:1 virtio_mmio.device=bad";
        let devices: Vec<_> = mmio_devices(line).collect();
        assert_eq!(
            devices,
            [MmioDevice { base: 0xfeb0_0e00, gsi: 12 }, MmioDevice { base: 0xd000_0000, gsi: 5 },]
        );
    }
}
