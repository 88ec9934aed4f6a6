use std::path::Path;

use super::*;
use crate::gateway::config::{Ipv6Mode, Redirect};
use crate::gateway::emit::Envelope;
use crate::gateway::testing::{Bed, GATEWAY_MAC, GUEST_MAC, config};
use crate::wire::protocol;
use crate::wire::seq::Seq;
use crate::wire::tcp::{Fields, TCP_LEN};

const FORBIDDEN: Result<SocketAddr, DropReason> = Err(DropReason::DestinationForbidden);

fn to(bed: &mut Bed, transport: Transport, dst: &str) -> Result<SocketAddr, DropReason> {
    let dst: SocketAddr = dst.parse().unwrap();
    bed.run(|gateway, io| {
        let ctx = &mut Ctx { io, shared: &mut gateway.shared };
        let to = Destination::of(&ctx.shared.config, dst.ip());
        resolve(ctx, transport, dst, to)
    })
}

#[test]
fn what_is_out_of_reach() {
    let mut bed = Bed::new();
    let table = [
        // Loopback and what connect takes for it.
        "127.0.0.1",
        "127.255.1.2",
        "0.0.0.0",
        "0.1.2.3",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:8.8.8.8]",
        "[::127.0.0.1]",
        "[::8.8.8.8]",
        "[::ffff:0:127.0.0.1]",
        // Link-local and metadata.
        "169.254.169.254",
        "169.254.1.1",
        "[fe80::1]",
        "[fe80::a9fe:a9fe]",
        "[febf::1]",
        "[fec0::1]",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "[fd00:ec2::254]",
        "[fd00:c1::a9fe:a9fe]",
        "[fd20:ce::254]",
        // Groups.
        "224.0.0.251",
        "239.1.1.1",
        "255.255.255.255",
        "[ff02::1]",
        "[ff0e::1]",
        // The guest's own link.
        "10.0.2.2",
        "10.0.2.255",
        "10.0.2.0",
        "[fd00:2::2]",
        // IPv4 in disguise.
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b::169.254.169.254]",
        "[64:ff9b:1::7f00:1]",
        "[64:ff9b::10.0.2.1]",
        "[64:ff9b::224.0.0.1]",
        "[2002:7f00:1::1]",
        "[2002:a9fe:a9fe::1]",
        "[2001:0:102:304::80ff:fffe]",
        "[2001:db8::5efe:127.0.0.1]",
        "[2001:db8::200:5efe:169.254.169.254]",
        // The gateway, as long as the host is not to be reached.
        "10.0.2.1",
        "[fd00:2::1]",
        "[fe80::504d:ff:fe00:1]",
    ];
    for ip in table {
        for transport in [Transport::Tcp, Transport::Udp] {
            assert_eq!(to(&mut bed, transport, &format!("{ip}:80")), FORBIDDEN, "{ip}");
        }
    }
}

#[test]
fn what_is_within_reach() {
    let mut bed = Bed::new();
    let table = [
        "1.1.1.1",
        "10.0.3.1",
        "192.168.1.1",
        "172.16.0.1",
        "100.64.0.1",
        "240.0.0.1",
        "169.253.255.255",
        "126.255.255.255",
        "128.0.0.1",
        "1.0.0.0",
        "[2001:db8::1]",
        "[fd00:3::1]",
        "[fd00:2:0:1::1]",
        "[64:ff9b::8.8.8.8]",
        "[2002:808:808::1]",
        "[2001:0:102:304::f7f7:f7f7]",
        "[2001:1::80ff:fffe]",
        "[2001:db8::5efe:8.8.8.8]",
    ];
    for ip in table {
        let dst = format!("{ip}:443");
        assert_eq!(to(&mut bed, Transport::Tcp, &dst), Ok(dst.parse().unwrap()), "{ip}");
    }
}

#[test]
fn the_gateway_stands_for_the_hosts_loopback_where_allowed() {
    let mut bed = Bed::with(GatewayConfig { host_access: true, ..config() });
    let table = [
        ("10.0.2.1:80", "127.0.0.1:80"),
        ("[fd00:2::1]:81", "[::1]:81"),
        ("[fe80::504d:ff:fe00:1]:82", "[::1]:82"),
    ];
    for (dst, want) in table {
        assert_eq!(to(&mut bed, Transport::Tcp, dst), Ok(want.parse().unwrap()));
    }
    assert_eq!(to(&mut bed, Transport::Tcp, "127.0.0.1:80"), FORBIDDEN);
}

#[test]
fn dns_over_tcp_goes_to_the_resolver_that_answers() {
    for host_access in [true, false] {
        let mut bed = Bed::with(GatewayConfig {
            host_access,
            resolv_conf: Path::new("/nonexistent").into(),
            ..config()
        });
        let none = Err(DropReason::NoRoute);
        assert_eq!(to(&mut bed, Transport::Tcp, "10.0.2.1:53"), none);
        let servers = ["127.0.0.53:53".parse().unwrap(), "9.9.9.9:53".parse().unwrap()];
        bed.resolvers(&servers);
        for dst in ["10.0.2.1:53", "[fd00:2::1]:53"] {
            assert_eq!(to(&mut bed, Transport::Tcp, dst), Ok(servers[0]));
        }
        bed.gateway.shared.resolvers.answered(servers[1]);
        assert_eq!(to(&mut bed, Transport::Tcp, "10.0.2.1:53"), Ok(servers[1]));
    }
}

#[test]
fn ipv6_leads_nowhere_while_it_is_not_offered() {
    let mut bed = Bed::with(GatewayConfig { ipv6: Ipv6Mode::Auto, ..config() });
    bed.reach(false);
    let none = Err(DropReason::NoRoute);
    for transport in [Transport::Tcp, Transport::Udp] {
        assert_eq!(to(&mut bed, transport, "[2001:db8::1]:80"), none);
        assert_eq!(to(&mut bed, transport, "[::1]:80"), FORBIDDEN);
        assert!(to(&mut bed, transport, "192.0.2.1:80").is_ok());
    }
    bed.reach(true);
    assert!(to(&mut bed, Transport::Tcp, "[2001:db8::1]:80").is_ok());
}

#[test]
fn a_redirect_is_past_all_policy() {
    let from = "169.254.169.254:80".parse().unwrap();
    let target = "127.0.0.1:8080".parse().unwrap();
    let redirects = vec![Redirect { transport: Transport::Tcp, from, to: target }];
    let mut bed = Bed::with(GatewayConfig { redirects, ..config() });
    let text = "169.254.169.254:80";
    assert_eq!(to(&mut bed, Transport::Tcp, text), Ok(target));
    assert_eq!(to(&mut bed, Transport::Udp, text), FORBIDDEN);
    assert_eq!(to(&mut bed, Transport::Tcp, "169.254.169.254:81"), FORBIDDEN);
}

#[test]
fn each_address_is_in_one_place() {
    let config = config();
    let table = [
        ("10.0.2.1", Destination::Gateway),
        ("fd00:2::1", Destination::Gateway),
        ("fe80::504d:ff:fe00:1", Destination::Gateway),
        ("10.0.2.255", Destination::Group),
        ("255.255.255.255", Destination::Group),
        ("224.0.0.1", Destination::Group),
        ("ff02::1:2", Destination::Group),
        ("10.0.2.2", Destination::Guest),
        ("10.0.2.0", Destination::Guest),
        ("fd00:2::2", Destination::Guest),
        ("fe80::1", Destination::Guest),
        ("10.0.3.1", Destination::Beyond),
        ("127.0.0.1", Destination::Beyond),
        ("169.254.169.254", Destination::Beyond),
        ("2001:db8::1", Destination::Beyond),
        ("::1", Destination::Beyond),
    ];
    for (ip, want) in table {
        assert_eq!(Destination::of(&config, ip.parse().unwrap()), want, "{ip}");
    }
}

#[test]
fn an_echo_request_goes_where_flows_go_but_by_no_redirect() {
    let from = "169.254.169.254:7".parse().unwrap();
    let redirects =
        vec![Redirect { transport: Transport::Udp, from, to: "127.0.0.1:7".parse().unwrap() }];
    let config = GatewayConfig { redirects, host_access: true, ..config() };
    let shared = Shared::new(GatewayConfig { ipv6: Ipv6Mode::Off, ..config.clone() });
    for (ip, want) in [
        ("1.1.1.1", Ok(())),
        ("169.254.169.254", Err(DropReason::DestinationForbidden)),
        ("10.0.2.9", Err(DropReason::DestinationForbidden)),
        ("224.0.0.1", Err(DropReason::DestinationForbidden)),
        ("::1", Err(DropReason::DestinationForbidden)),
        ("2001:db8::1", Err(DropReason::NoRoute)),
    ] {
        let ip = ip.parse().unwrap();
        assert_eq!(allow(&shared, ip, Destination::of(&config, ip)), want, "{ip}");
    }
}

#[test]
fn the_hosts_resolvers_are_looked_at_for_dns_and_for_nothing_else() {
    let file = std::env::temp_dir().join(format!("minivmm-resolv-{}", std::process::id()));
    std::fs::write(&file, "nameserver 192.0.2.53\n").unwrap();
    let config = GatewayConfig { host_access: true, resolv_conf: file.clone(), ..config() };
    let mut bed = Bed::with(config);
    let known = |bed: &Bed| !bed.shared().resolvers.conf().servers.is_empty();
    for dst in ["10.0.2.1:80", "[fd00:2::1]:52", "192.0.2.1:53"] {
        assert!(to(&mut bed, Transport::Tcp, dst).is_ok());
        assert!(!known(&bed), "{dst}");
    }
    assert!(to(&mut bed, Transport::Udp, "10.0.2.1:53").is_ok());
    // Segments of flows that there are, or of none, are nobody's question.
    for (port, flags) in [(80, 0x10), (53, 0x10), (53, 0x04)] {
        bed.send(&segment(port, flags));
        assert!(!known(&bed), "port {port}, flags {flags}");
    }
    let servers = ["192.0.2.53:53".parse().unwrap()];
    assert_eq!(to(&mut bed, Transport::Tcp, "10.0.2.1:53"), Ok(servers[0]));
    assert!(known(&bed));
    std::fs::remove_file(file).unwrap();
}

/// A segment of the guest's to the gateway.
fn segment(dst_port: u16, flags: u8) -> Vec<u8> {
    let (src, dst) = ([10, 0, 2, 2].into(), [10, 0, 2, 1].into());
    let envelope = Envelope::new(GATEWAY_MAC, src, dst, protocol::TCP);
    let fields =
        Fields { src_port: 4000, dst_port, seq: Seq::new(1), ack: Seq::new(1), flags, window: 100 };
    let mut frame = vec![0; envelope.header_len()];
    let at = envelope.write(GUEST_MAC, TCP_LEN, &mut frame);
    frame.extend(fields.bytes());
    envelope.complete(&mut frame[at..]);
    frame
}
