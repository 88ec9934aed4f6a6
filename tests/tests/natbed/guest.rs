//! What a guest does first: an address, the gateway, the world.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use minivmm_net::DropReason;
use minivmm_tests::natbed::{Bed, GATEWAY4, GUEST4, Options, SERVER4, SERVER6, test, tool};
use rustix::process::{Pid, Signal, kill_process};

use crate::{echo_udp, pair, plain, udp, until};

/// Applies what udhcpc tells it, and logs it then.
const SCRIPT: &str = r#"#!/bin/sh
case "$1" in
bound|renew)
    ip addr replace "$ip/$mask" dev "$interface"
    ip route replace default via "$router" dev "$interface" ;;
esac
echo "$1 $ip/$mask router=$router dns=$dns mtu=$mtu hostname=$hostname lease=$lease" >> LOG
"#;

#[test]
fn udhcpc_gets_a_lease_and_renews_it() {
    test("guest::udhcpc_gets_a_lease_and_renews_it", || {
        let busybox = tool("busybox")?;
        let bed = Bed::start(&Options { static_guest: false, ..Options::default() }, |_| {})?;
        let (script, log) = (bed.dir().join("script"), bed.dir().join("log"));
        fs::write(&script, SCRIPT.replace("LOG", log.to_str().expect("a plain path")))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        let command = format!(
            "exec {} udhcpc -i tap0 -O mtu -f -t 10 -T 1 -s {}",
            busybox.display(),
            script.display()
        );
        let mut client = bed.guest.start_sh(&command)?;
        let logged = |what: &str| Ok(fs::read_to_string(&log).unwrap_or_default().contains(what));
        until("a lease", || logged("bound "))?;
        let text = fs::read_to_string(&log)?;
        for what in [
            format!("{GUEST4}/24"),
            format!("router={GATEWAY4}"),
            format!("dns={GATEWAY4}"),
            "mtu=1500".into(),
            "hostname=guest".into(),
        ] {
            ensure!(text.contains(&what), "{what} is not in {text}");
        }
        // With no static neighbour this needs ARP.
        bed.guest_sh(&format!("ping -c 1 -W 10 {GATEWAY4}"))?;
        kill_process(Pid::from_child(&client), Signal::USR1)?;
        until("a renewal", || logged("renew "))?;
        client.kill()?;
        client.wait()?;
        Ok(())
    });
}

#[test]
fn the_gateway_answers_ping_of_any_size() {
    test("guest::the_gateway_answers_ping_of_any_size", || {
        tool("ping")?;
        let bed = plain()?;
        for size in [0, 56, 1472, 1473, 4000, 65507] {
            bed.guest_sh(&format!("ping -c 1 -W 10 -s {size} {GATEWAY4}"))?;
        }
        bed.guest_sh(&format!("ping -c 1 -W 10 -s 20000 {}", bed.config.gateway6))?;
        Ok(())
    });
}

#[test]
fn ping_goes_beyond_where_the_host_lets_us() {
    test("guest::ping_goes_beyond_where_the_host_lets_us", || {
        tool("ping")?;
        let bed = plain()?;
        // First by raw sockets, which the gateway may have here, then by ICMP sockets, which a new
        // namespace gives to nobody.
        for icmp_sockets in [false, true] {
            if icmp_sockets {
                bed.host.sysctl("net/ipv4/ping_group_range", "0 0")?;
            }
            for size in [56, 3000] {
                bed.guest_sh(&format!("ping -c 2 -i 0.2 -W 10 -s {size} {SERVER4}"))?;
                bed.guest_sh(&format!("ping -c 2 -i 0.2 -W 10 -s {size} {SERVER6}"))?;
            }
            // Nobody is there, and a router says so.
            let (ok, text) = bed.guest.try_sh("ping -c 1 -W 10 192.0.2.99")?;
            ensure!(!ok && text.contains("Unreachable"), "{text}");
        }
        Ok(())
    });
}

#[test]
fn the_gateway_is_a_hop() {
    test("guest::the_gateway_is_a_hop", || {
        tool("ping")?;
        let bed = plain()?;
        let (_, text) = bed.guest.try_sh(&format!("ping -c 1 -W 10 -t 1 {SERVER4}"))?;
        ensure!(text.contains("From 10.0.2.2") && text.contains("Time to live"), "{text}");
        let (_, text) = bed.guest.try_sh("ping -c 1 -W 10 -t 1 2001:db8::1")?;
        ensure!(text.contains("Time exceeded"), "{text}");
        Ok(())
    });
}

#[test]
fn flows_survive_a_change_of_the_hosts_address_and_routes() {
    test("guest::flows_survive_a_change_of_the_hosts_address_and_routes", || {
        let bed = plain()?;
        echo_udp(&bed.internet, &format!("{SERVER4}:7"))?;
        let socket = udp(&bed.guest, "0.0.0.0:0")?;
        socket.connect((SERVER4, 7))?;
        let ask = || -> Result<bool> {
            socket.send(b"still there?")?;
            Ok(socket.recv(&mut [0; 32]).is_ok_and(|n| n == 12))
        };
        ensure!(ask()?);
        bed.host
            .sh("ip addr del 192.0.2.2/24 dev veth0 && ip addr add 192.0.2.77/24 dev veth0 &&
             ip route replace default via 192.0.2.1")?;
        ensure!(ask()?, "after a new address");
        // A connection from the old address is the old address's; a new one is not.
        let (mut client, mut server) = pair(&bed, &format!("{SERVER4}:80"))?;
        bed.host.sh("ip route del default")?;
        socket.send(b"x")?;
        until("no route", || Ok(bed.stats().drops(DropReason::NoRoute) >= 1))?;
        client.write_all(b"to the server")?;
        server.write_all(b"to the client")?;
        bed.host.sh("ip route add default via 192.0.2.1")?;
        ensure!(ask()?, "after a new route");
        for (stream, want) in [(&mut server, b"to the server"), (&mut client, b"to the client")] {
            let mut got = [0; 13];
            stream.read_exact(&mut got).context("a connection from before the new route")?;
            ensure!(&got == want);
        }
        pair(&bed, &format!("{SERVER4}:81")).context("a connection after the new route")?;
        Ok(())
    });
}
