//! What is written is read back, whatever it is.

use std::net::IpAddr;
use std::path::Path;

use ipnet::Ipv4Net;
use minivmm_net::{Ipv6Mode, MacAddr, Transport};
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::config::{HostAccess, MaxFlows, NatConfig, PublishAddress, TapConfig};

/// An address that a guest may have.
fn mac() -> impl Strategy<Value = MacAddr> {
    any::<[u8; 6]>().prop_map(|mut octets| {
        octets[0] = octets[0] & 0xfc | 2;
        MacAddr(octets)
    })
}

fn nat() -> impl Strategy<Value = NetConfig> {
    let subnet = (any::<u32>(), 0u8..=32).prop_map(|(ip, len)| Ipv4Net::new_assert(ip.into(), len));
    let flows =
        (1..=MaxFlows::MOST, 1..=MaxFlows::MOST).prop_map(|(tcp, udp)| MaxFlows { tcp, udp });
    let host = select(vec![HostAccess::Deny, HostAccess::Allow]);
    let ipv6 = select(vec![Ipv6Mode::Auto, Ipv6Mode::On, Ipv6Mode::Off]);
    (of(subnet), of(68u16..), of(mac()), host, ipv6, of(flows)).prop_map(
        |(subnet, mtu, mac, host, ipv6, max_flows)| {
            NetConfig::Nat(NatConfig { subnet, mtu, mac, host, ipv6, max_flows })
        },
    )
}

fn tap() -> impl Strategy<Value = NetConfig> {
    (of("\\PC{0,16}"), any::<bool>(), of(3i32..), of(68u16..), of(mac())).prop_map(
        |(name, create, fd, mtu, mac)| NetConfig::Tap(TapConfig { name, create, fd, mtu, mac }),
    )
}

fn publish() -> impl Strategy<Value = PublishConfig> {
    let transport = select(vec![Transport::Tcp, Transport::Udp]);
    let address = prop_oneof![
        Just(PublishAddress::Any),
        Just(PublishAddress::Localhost),
        any::<IpAddr>().prop_map(PublishAddress::Ip),
    ];
    (address, any::<u16>(), 1u16.., 1u16.., transport).prop_map(
        |(address, host, guest, count, transport)| {
            let most = if host == 0 { 1 } else { u16::MAX - host.max(guest) };
            let count = count.min(most).max(1);
            PublishConfig { address, host, guest, count, transport }
        },
    )
}

/// Any machine that can be described, also one that no host could build.
fn machine() -> impl Strategy<Value = MachineConfig> {
    let path = || of("\\PC{0,12}".prop_map(PathBuf::from));
    let memory = (0u64..1 << 40).prop_map(|kib| format!("{kib}K").parse().unwrap());
    let console = select(CONSOLES).prop_map(|choice| choice.value);
    let transport = select(TRANSPORTS).prop_map(|choice| choice.value);
    let protocol = select(BOOT_PROTOCOLS).prop_map(|choice| choice.value);
    let lists = (
        proptest::collection::vec(publish(), 0..4),
        proptest::collection::vec(prop_oneof![nat(), tap()], 0..4),
    );
    (
        (of("\\PC{0,8}"), path(), path(), any::<String>(), any::<u32>(), memory),
        (of(console), transport, any::<String>(), protocol, any::<bool>()),
        lists,
    )
        .prop_map(
            |(
                (name, kernel, initrd, cmdline, cpus, memory),
                (console, transport, cpu_mask, boot_protocol, no_kernel_cache),
                (publish, net),
            )| MachineConfig {
                name,
                kernel,
                initrd,
                cmdline,
                cpus,
                memory,
                console,
                transport,
                cpu_mask,
                boot_protocol,
                no_kernel_cache,
                publish,
                net,
            },
        )
}

proptest! {
    #[test]
    fn what_is_written_is_read(config in machine()) {
        let json = serde_json::to_string(&config).unwrap();
        let read = MachineConfig::from_text(Path::new("vm.json"), &json);
        prop_assert_eq!(read.as_ref().ok(), Some(&config), "{:?}: {}", read, json);
        let toml = toml::to_string(&config).unwrap();
        let read = MachineConfig::from_text(Path::new("vm.toml"), &toml);
        prop_assert_eq!(read.as_ref().ok(), Some(&config), "{:?}: {}", read, toml);
    }

    /// The mode is what tells the keys: it comes first, before those that were given.
    #[test]
    fn an_interface_begins_with_its_mode(net in prop_oneof![nat(), tap()]) {
        let json = serde_json::to_string(&net).unwrap();
        prop_assert!(json.starts_with(&format!("{{\"mode\":\"{}\"", net.mode())), "{}", json);
        prop_assert!(!json.contains("null"), "{}", json);
    }
}

/// Linux's paths are bytes. A description can be shown all the same.
#[test]
fn a_path_that_is_no_text_is_shown_as_well_as_it_can_be() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let kernel = Some(Path::new(OsStr::from_bytes(b"/k\xff")).to_owned());
    let json = serde_json::to_value(MachineConfig { kernel, ..MachineConfig::default() }).unwrap();
    assert_eq!(json["kernel"], "/k\u{fffd}");
}
