//! The host's routes and addresses, as the kernel lists them (rtnetlink(7)).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::net::{SocketFlags, SocketType, netdevice, socket_with};

/// `RT_TABLE_LOCAL`: the host's own addresses as routes.
const LOCAL_TABLE: u8 = 255;
/// Listings that were cut across by a change are begun anew this often.
const ATTEMPTS: usize = 4;

/// Why the host's network is not known.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The kernel refused, or rtnetlink is not to be had.
    #[error("cannot list the host's {what} by rtnetlink: {source}")]
    Netlink {
        /// What was to be listed.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// A network that the host knows a way to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The network; for an address of the host's own its network.
    pub net: IpNet,
    /// The interface that it is behind; 0 where the route leads nowhere, on purpose.
    pub interface: u32,
}

/// The host's routes and addresses at one time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostNetwork {
    /// All routes but defaults, in any table, and the networks of all addresses.
    pub known: Vec<Known>,
}

impl HostNetwork {
    /// Asks the kernel.
    ///
    /// # Errors
    /// [`ListError`]
    pub fn read() -> Result<Self, ListError> {
        let mut known = Vec::new();
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        list("addresses", &request, &mut |message| {
            if let RouteNetlinkMessage::NewAddress(message) = message {
                known.extend(address(&message));
            }
        })?;
        let request = RouteNetlinkMessage::GetRoute(RouteMessage::default());
        list("routes", &request, &mut |message| {
            if let RouteNetlinkMessage::NewRoute(message) = message {
                known.extend(route(&message));
            }
        })?;
        Ok(Self { known })
    }
}

/// An interface's name, or its index where it has none any more.
pub fn interface_name(index: u32) -> String {
    let flags = SocketFlags::CLOEXEC;
    socket_with(rustix::net::AddressFamily::UNIX, SocketType::DGRAM, flags, None)
        .and_then(|socket| netdevice::index_to_name(&socket, index))
        .unwrap_or_else(|_| format!("#{index}"))
}

fn address(message: &AddressMessage) -> impl Iterator<Item = Known> {
    let of = |want_local| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) if want_local => Some(*ip),
            AddressAttribute::Address(ip) if !want_local => Some(*ip),
            _ => None,
        })
    };
    let (local, address) = (of(true), of(false));
    // On a point-to-point link `Address` is the peer, whose network it is; the host's own address
    // need not lie in that.
    let net = address.or(local).and_then(|ip| IpNet::new(ip, message.header.prefix_len).ok());
    let own = local.filter(|ip| net.is_some_and(|net| !net.contains(ip))).map(IpNet::from);
    let interface = message.header.index;
    net.into_iter().chain(own).map(move |net| Known { net: net.trunc(), interface })
}

fn route(message: &RouteMessage) -> Option<Known> {
    if message.header.table == LOCAL_TABLE
        || matches!(message.header.kind, RouteType::Multicast | RouteType::Broadcast)
    {
        return None;
    }
    let any = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut ip, mut interface) = (any, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => ip = (*v4).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => ip = (*v6).into(),
            RouteAttribute::Oif(index) => interface = *index,
            RouteAttribute::MultiPath(hops) => {
                interface = hops.first().map_or(0, |hop| hop.interface_index);
            }
            _ => {}
        }
    }
    let net = IpNet::new(ip, message.header.destination_prefix_length).ok()?.trunc();
    // A pair of /1 is a default route in two halves, as VPN clients make it.
    (net.prefix_len() > 1).then_some(Known { net, interface })
}

/// Hands every message of a listing to `each`; where a change makes one inconsistent, those of
/// the next as well: what was known for a moment is no harm.
fn list(
    what: &'static str,
    request: &RouteNetlinkMessage,
    each: &mut dyn FnMut(RouteNetlinkMessage),
) -> Result<(), ListError> {
    let error = |source| ListError::Netlink { what, source };
    for _ in 0..ATTEMPTS {
        if dump(request, each).map_err(error)? {
            return Ok(());
        }
    }
    tracing::warn!("the host's {what} change too fast to be listed; the list may lack some");
    Ok(())
}

/// One listing. False when it was cut across by a change (`NLM_F_DUMP_INTR`).
fn dump(
    request: &RouteNetlinkMessage,
    each: &mut dyn FnMut(RouteNetlinkMessage),
) -> io::Result<bool> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request.clone()));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let mut whole = true;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = &datagram[..];
        if rest.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while rest.len() >= 16 {
            let len = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            if len < 16 || len > rest.len() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let (one, after) = rest.split_at(len);
            rest = &after[(len.next_multiple_of(4) - len).min(after.len())..];
            // What this version of the parser does not know is not a route that matters.
            let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(one) else {
                continue;
            };
            whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(whole),
                NetlinkPayload::Error(e) => return Err(e.to_io()),
                NetlinkPayload::InnerMessage(message) => each(message),
                _ => {}
            }
        }
    }
}
