//! Network interfaces: from configuration to a segment and the device that joins it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Instant;

use minivmm_devices::virtio::VirtioDevice;
use minivmm_devices::virtio::net::{Net, NicConfig};
use minivmm_net::{
    Backend, DEFAULT_MTU, Gateway, GatewayConfig, HostNetwork, Known, MacAddr, OpenSegment,
    PlanRequest, Publish, Redirect, Tap, TapBackend, Transport,
};

use super::flows;
use super::stats::PortInfo;
use crate::config::{HostAccess, NatConfig, NetConfig, PublishConfig, TapConfig, Validated};
use crate::error::{Error, NetError};
use crate::probe::{Beyond, Peer};

/// The interfaces of a machine, opened; nothing runs yet.
#[derive(Default)]
pub struct Nics {
    /// One for each interface, in order.
    pub devices: Vec<Box<dyn VirtioDevice>>,
    /// The same.
    pub ports: Vec<OpenPort>,
    /// What the probe finds beyond each.
    pub beyond: Vec<Beyond>,
    /// The peer, to be kept while the machine is there.
    pub peer: Option<Peer>,
}

/// A segment, and what is told of the port that the guest's interface is on.
#[derive(Debug)]
pub struct OpenPort {
    pub segment: OpenSegment,
    pub info: PortInfo,
}

/// Opens sockets and TAPs.
///
/// # Errors
/// [`Error::Net`], or [`Error::Host`].
pub fn open(config: &Validated) -> Result<Nics, Error> {
    let mut nics = Nics::default();
    let flows = flows::default_limits(config)?;
    let mut publish = publications(&config.publish);
    if config.kernel.is_none() && config.net.iter().any(is_nat) {
        nics.peer = Peer::open().map_err(Error::host("start the probe's peer"))?;
    }
    let peer = nics.peer.as_ref().map(|peer| peer.address);
    let mut host = None;
    let mut macs: Vec<MacAddr> = config.net.iter().filter_map(NetConfig::mac).collect();
    for (index, net) in config.net.iter().enumerate() {
        let mac = match net.mac() {
            Some(mac) => mac,
            None => random_mac(&mut macs)?,
        };
        let mut beyond = Beyond::Unknown;
        let backend: Box<dyn Backend> = match net {
            NetConfig::Nat(nat) => {
                // Published ports are on the first NAT interface.
                let publish = std::mem::take(&mut publish);
                let host = match &mut host {
                    Some(host) => host,
                    None => host.insert(HostNetwork::read().map_err(NetError::Host)?),
                };
                let mut gateway = plan(config, nat, mac, publish, peer, host)?;
                gateway.limits = nat.max_flows.map_or(flows, flows::limits);
                beyond = Beyond::Nat(peer.map(|peer| (gateway.gateway4, peer.port()).into()));
                // Opens its published ports.
                Box::new(Gateway::new(gateway).map_err(NetError::Gateway)?)
            }
            NetConfig::Tap(tap) => Box::new(tap_of(tap)?),
        };
        let device = NicConfig { mac, mtu: backend.mtu(), tx_offloads: backend.tx_offloads() };
        let name = format!("net{index}");
        let segment = OpenSegment::new(&name, backend, Instant::now)
            .map_err(Error::host("open a network segment"))?;
        nics.devices.push(Box::new(Net::new(device, segment.handle())));
        let info =
            PortInfo { name, mode: net.mode().to_owned(), mac: mac.to_string(), mtu: device.mtu };
        nics.ports.push(OpenPort { segment, info });
        nics.beyond.push(beyond);
    }
    Ok(nics)
}

fn is_nat(net: &NetConfig) -> bool {
    matches!(net, NetConfig::Nat(_))
}

/// An address that no interface of this machine has.
fn random_mac(taken: &mut Vec<MacAddr>) -> Result<MacAddr, Error> {
    loop {
        let mut seed = [0; 4];
        getrandom(&mut seed)?;
        let mac = MacAddr::local(u32::from_ne_bytes(seed));
        if !taken.contains(&mac) {
            taken.push(mac);
            return Ok(mac);
        }
    }
}

fn getrandom(bytes: &mut [u8]) -> Result<(), Error> {
    let flags = rustix::rand::GetRandomFlags::empty();
    match rustix::rand::getrandom(&mut *bytes, flags) {
        Ok(n) if n == bytes.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(e) => Err(e.into()),
    }
    .map_err(Error::host("get random bytes"))
}

fn tap_of(config: &TapConfig) -> Result<TapBackend, Error> {
    let shown = match (&config.name, config.fd) {
        (Some(name), _) => format!("tap={name}"),
        (None, fd) => format!("tap,fd={}", fd.unwrap_or(-1)),
    };
    let refused = |source| NetError::Tap { device: shown, source };
    let tap = match (&config.name, config.fd) {
        (Some(name), _) => Tap::open(name),
        (None, fd) => Tap::from_fd(inherited(fd.unwrap_or(-1))?),
    }
    .map_err(refused)?;
    // A device that was handed over may be in another network namespace, where its MTU can't be
    // asked for.
    let mtu = match config.mtu {
        Some(mtu) => mtu,
        None if config.fd.is_some() => tap.mtu().unwrap_or(DEFAULT_MTU),
        None => tap.mtu().map_err(Error::host("read the TAP's MTU"))?,
    };
    Ok(TapBackend::new(tap, mtu))
}

/// A descriptor that was open when the process began; it is ours from here on.
#[expect(unsafe_code, reason = "an inherited descriptor has no owner in this process")]
fn inherited(fd: i32) -> Result<OwnedFd, Error> {
    // SAFETY: fcntl(F_GETFD) takes any number and only looks.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    // What was inherited survived an exec. All that this process opens would not.
    if fd <= 2 || flags < 0 || flags & libc::FD_CLOEXEC != 0 {
        return Err(NetError::NotInherited { fd }.into());
    }
    // SAFETY: the descriptor is open. The user names one that was inherited for this; `validate`
    // refuses a number that is named twice, and the flag set below one that was taken before.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // Cannot fail for an open descriptor.
    let _ = rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC);
    Ok(fd)
}

/// Published ports with their listening addresses: all of both families where none was named.
fn publications(config: &[PublishConfig]) -> Vec<Publish> {
    let six = rustix::net::socket(
        rustix::net::AddressFamily::INET6,
        rustix::net::SocketType::DGRAM,
        None,
    )
    .is_ok();
    let mut list = Vec::new();
    for p in config {
        let addresses: &[IpAddr] = match &p.address {
            Some(address) => std::slice::from_ref(address),
            None if six => &[IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
            None => &[IpAddr::V4(Ipv4Addr::UNSPECIFIED)],
        };
        list.extend(addresses.iter().map(|address| Publish {
            transport: p.transport,
            listen: SocketAddr::new(*address, p.host),
            guest_port: p.guest,
        }));
    }
    list
}

fn plan(
    config: &Validated,
    nat: &NatConfig,
    mac: MacAddr,
    publish: Vec<Publish>,
    peer: Option<SocketAddr>,
    host: &mut HostNetwork,
) -> Result<GatewayConfig, Error> {
    let request = PlanRequest {
        subnet: nat.subnet,
        ipv6: nat.ipv6,
        mtu: nat.mtu,
        guest_mac: Some(mac),
        hostname: Some(config.name.clone()),
        ..PlanRequest::default()
    };
    let mut gateway = GatewayConfig::plan(&request, host).map_err(NetError::Plan)?;
    // The machine's next interface must not get the same network.
    host.known.push(Known { net: gateway.subnet4.into(), interface: 0 });
    gateway.host_access = nat.host == HostAccess::Allow;
    gateway.publish = publish;
    gateway.redirects = peer
        .iter()
        .flat_map(|peer| {
            [Transport::Tcp, Transport::Udp].map(|transport| Redirect {
                transport,
                from: (gateway.gateway4, peer.port()).into(),
                to: *peer,
            })
        })
        .collect();
    Ok(gateway)
}
