//! Network interfaces: from configuration to a segment and the device that joins it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Instant;

use minivmm_devices::virtio::VirtioDevice;
use minivmm_devices::virtio::net::{Net, NicConfig};
use minivmm_net::{
    Backend, DEFAULT_MTU, GatewayConfig, HostNetwork, Known, MacAddr, OpenSegment, PlanError,
    PlanRequest, Redirect, Tap, TapBackend, Transport, check_interface_name, interface_exists,
    interface_names,
};

use super::stats::PortInfo;
use super::{flows, publish};
use crate::config::{HostAccess, NatConfig, NetConfig, TapConfig, Validated, nearest};
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
    let mut publish = &config.publish[..];
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
        let mut published = Vec::new();
        let backend: Box<dyn Backend> = match net {
            NetConfig::Nat(nat) => {
                // Published ports are on the first NAT interface.
                let ports = std::mem::take(&mut publish);
                let host = match &mut host {
                    Some(host) => host,
                    None => host.insert(HostNetwork::read().map_err(NetError::Host)?),
                };
                let mut gateway = plan(config, nat, mac, peer, host)
                    .map_err(|source| NetError::Plan { index, source })?;
                gateway.limits = nat.max_flows.map_or(flows, flows::limits);
                beyond = Beyond::Nat(peer.map(|peer| (gateway.gateway4, peer.port()).into()));
                let (gateway, bound) =
                    publish::gateway(&gateway, ports).map_err(NetError::Gateway)?;
                published = bound;
                Box::new(gateway)
            }
            NetConfig::Tap(tap) => Box::new(tap_of(index, tap)?),
        };
        let device = NicConfig { mac, mtu: backend.mtu(), tx_offloads: backend.tx_offloads() };
        let name = format!("net{index}");
        let segment = OpenSegment::new(&name, backend, Instant::now)
            .map_err(Error::host("open a network segment"))?;
        nics.devices.push(Box::new(Net::new(device, segment.handle())));
        let info = PortInfo {
            name,
            mode: net.mode().to_owned(),
            mac: mac.to_string(),
            mtu: device.mtu,
            published,
        };
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

fn tap_of(index: usize, config: &TapConfig) -> Result<TapBackend, Error> {
    let refused = |source| NetError::Tap { index, source };
    let tap = match (&config.name, config.fd) {
        (Some(name), _) => {
            check_interface_name(name).map_err(refused)?;
            if !config.create && !interface_exists(name) {
                return Err(no_tap(index, name).into());
            }
            Tap::open(name)
        }
        (None, fd) => Tap::from_fd(inherited(index, fd.unwrap_or(-1))?),
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

/// What to say of a device that isn't there.
fn no_tap(index: usize, name: &str) -> NetError {
    let names = interface_names();
    let near = nearest(name, names.iter().map(String::as_str)).map(str::to_owned);
    NetError::NoTap { index, name: name.to_owned(), near }
}

/// A descriptor that was open when the process began; it is ours from here on.
#[expect(unsafe_code, reason = "an inherited descriptor has no owner in this process")]
fn inherited(index: usize, fd: i32) -> Result<OwnedFd, Error> {
    // SAFETY: fcntl(F_GETFD) takes any number and only looks.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    // What was inherited survived an exec. All that this process opens would not.
    if fd <= 2 || flags < 0 || flags & libc::FD_CLOEXEC != 0 {
        return Err(NetError::NotInherited { index, fd }.into());
    }
    // SAFETY: the descriptor is open. The user names one that was inherited for this; `validate`
    // refuses a number that is named twice, and the flag set below one that was taken before.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // Cannot fail for an open descriptor.
    let _ = rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC);
    Ok(fd)
}

fn plan(
    config: &Validated,
    nat: &NatConfig,
    mac: MacAddr,
    peer: Option<SocketAddr>,
    host: &mut HostNetwork,
) -> Result<GatewayConfig, PlanError> {
    let request = PlanRequest {
        subnet: nat.subnet,
        ipv6: nat.ipv6,
        mtu: nat.mtu,
        guest_mac: Some(mac),
        hostname: Some(config.name.clone()),
        ..PlanRequest::default()
    };
    let mut known = host.clone();
    if nat.subnet.is_none() {
        // Nor one that another interface of this machine is to have.
        let nets = config.net.iter().filter_map(NetConfig::subnet);
        known.known.extend(nets.map(|net| Known { net: net.into(), interface: 0 }));
    }
    let mut gateway = GatewayConfig::plan(&request, &known)?;
    // The machine's next interface must not get the same network.
    host.known.push(Known { net: gateway.subnet4.into(), interface: 0 });
    gateway.host_access = nat.host == HostAccess::Allow;
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
