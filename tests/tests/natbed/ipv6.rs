//! IPv6 as a guest finds it.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use minivmm_tests::natbed::{Bed, GATEWAY4, GUEST4, Options, SERVER4, SERVER6, test, tool};

use crate::{connect, echo_udp, listen, udp, until};

fn addresses(bed: &Bed) -> Result<String> {
    bed.guest.sh("ip -6 addr show dev tap0 scope global; ip -6 route show default")
}

#[test]
fn a_guest_configures_itself_and_reaches_the_world() {
    test("ipv6::a_guest_configures_itself_and_reaches_the_world", || {
        tool("ping")?;
        let bed = Bed::start(&Options { static_guest: false, ..Options::default() }, |_| {})?;
        until("an address and a route", || {
            let text = addresses(&bed)?;
            Ok(text.contains("fd00:6d76:6d00:0:") && text.contains("default via fe80::"))
        })?;
        let gateway6 = bed.config.gateway6;
        bed.guest_sh(&format!("ping -c 1 -W 10 {gateway6}"))?;
        bed.host.sysctl("net/ipv4/ping_group_range", "0 0")?;
        bed.guest_sh(&format!("ping -c 1 -W 10 {SERVER6}"))?;
        echo_udp(&bed.internet, &format!("[{SERVER6}]:7"))?;
        let socket = udp(&bed.guest, "[::]:0")?;
        socket.connect((SERVER6, 7))?;
        socket.send(b"x")?;
        ensure!(socket.recv(&mut [0; 8])? == 1);
        let at: std::net::SocketAddr = format!("[{SERVER6}]:80").parse()?;
        let _listener = listen(&bed.internet, at)?;
        connect(&bed.guest, at)?;
        Ok(())
    });
}

#[test]
fn nothing_is_offered_where_the_host_has_no_way_out() {
    test("ipv6::nothing_is_offered_where_the_host_has_no_way_out", || {
        let options = Options { static_guest: false, host_ipv6: false, ..Options::default() };
        let bed = Bed::start(&options, |_| {})?;
        // Linux solicits three times, four seconds apart (RFC 4861 §10).
        thread::sleep(Duration::from_secs(4));
        let text = addresses(&bed)?;
        ensure!(!text.contains("inet6") && !text.contains("default"), "{text}");
        // It is not that the gateway says nothing at all.
        bed.guest_sh(&format!(
            "ip addr add {GUEST4}/24 dev tap0 && ip route add default via {GATEWAY4}"
        ))?;
        echo_udp(&bed.internet, &format!("{SERVER4}:7"))?;
        let socket = udp(&bed.guest, "0.0.0.0:0")?;
        socket.connect((SERVER4, 7))?;
        socket.send(b"x")?;
        ensure!(socket.recv(&mut [0; 8])? == 1);
        Ok(())
    });
}
