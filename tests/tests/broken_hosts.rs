//! What the probe's report says on hosts that are broken in one way each: the sentence that names
//! the cause, and no other. Each host is a set of namespaces of its own.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::time::Duration;

use minivmm_tests::cli::{Minivmm, Outcome};

/// A host with an interface to a router at 192.0.2.1, that is not there.
const WAN: &str = "ip link set lo up
ip link add wan type veth peer name far
ip addr add 192.0.2.2/24 dev wan
ip link set wan up
ip link set far up";
/// The way to it.
const DEFAULT: &str = "ip route add default via 192.0.2.1";
/// The router's address is known, so that nobody misses it.
const KNOWN: &str = "ip neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev wan";
/// The router is there: a namespace that forwards, with a server's address, and all that runs in it
/// ends with the run.
const ROUTER: &str = "unshare --net sleep 60 &
until [ \"$(readlink /proc/$!/ns/net)\" != \"$(readlink /proc/self/ns/net)\" ]; do sleep 0.01; done
ip link set far netns $!
router=\"nsenter --target $! --net\"
$router sh -ec 'ip link set lo up; ip link set far up; ip addr add 192.0.2.1/24 dev far
  ip addr add 198.51.100.1/32 dev lo; echo 1 > /proc/sys/net/ipv4/ip_forward
  ip route add default via 192.0.2.2'";
/// A resolver and a peer beyond it.
const RESOLVER: &str = "nameserver 198.51.100.2";
const PEER: &str = "probe.peer=198.51.100.1:7777";

/// A host as `script` makes it, as root of its namespaces, with this `resolv.conf`.
fn host(script: &[&str], resolv_conf: &str, cmdline: &str) -> Outcome {
    let script = script.join("\n");
    let script = format!(
        "set -e
mount -t tmpfs tmp /run
printf '{resolv_conf}' > /run/resolv.conf
mount --bind /run/resolv.conf /etc/resolv.conf
{script}
exec \"$@\""
    );
    let bed = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork"];
    let shell = ["--kill-child", "--mount-proc", "sh", "-c", &*script, "sh"];
    let bed = [&bed[..], &shell].concat();
    let cmdline = format!("probe.without=bulk {cmdline}");
    let run = Minivmm::run().args(["--net", "nat", "--json", "--cmdline", &cmdline]).under(&bed);
    run.finish().unwrap()
}

/// Each of `lines`: a check, its state, and its detail, where `*` stands for anything.
fn says(outcome: &Outcome, status: i32, lines: &[(&str, &str, &str)]) {
    assert_eq!(outcome.status, Some(status), "{outcome}");
    let report = outcome.json();
    for (check, state, detail) in lines {
        let line = report.iter().find(|line| line["check"] == *check);
        let line = line.unwrap_or_else(|| panic!("no {check} in {outcome}"));
        let said = line["detail"].as_str().unwrap();
        let fits = match detail.split_once('*') {
            Some((begin, end)) => said.starts_with(begin) && said.ends_with(end),
            None => said == *detail,
        };
        assert!(fits, "{check} says {said:?}, not {detail:?}: {outcome}");
        assert_eq!(line["state"], *state, "{check} in {outcome}");
    }
}

/// A peer beyond is told to be `why`, what is outside to be `outside`.
fn unreachable(script: &[&str], why: &str, outside: &str) {
    let outcome = host(script, RESOLVER, PEER);
    let peer = format!("198.51.100.1:7777: {why}");
    let lines = [
        ("dns", "ok", "*"),
        ("udp", "failed", &*peer),
        ("tcp", "failed", &*peer),
        ("latency", "absent", "the peer was not reached"),
        ("outside", "absent", outside),
    ];
    says(&outcome, 1, &lines);
}

/// As on a machine that is only used to build: nothing is wrong, but what is not there is said and
/// counted.
#[test]
fn no_network() {
    let outside = "the host has no route to the internet; no nameserver in /etc/resolv.conf";
    let outcome = host(&["ip link set lo up"], "", "");
    says(&outcome, 0, &[("tcp", "ok", "*"), ("outside", "absent", outside)]);
    let report = outcome.json();
    let summary = report.iter().find(|line| line["check"] == "summary").unwrap();
    // Two transfers, IPv6 and the outside.
    assert_eq!((&summary["checks"], &summary["absent"]), (&9.into(), &4.into()), "{outcome}");
    let wanted = host(&["ip link set lo up"], "", "probe.want=outside");
    says(&wanted, 1, &[("outside", "failed", outside)]);
}

#[test]
fn no_default_route() {
    unreachable(
        &[WAN],
        "no route, says the gateway",
        "the host has no route to the internet; the host has no route to 198.51.100.2",
    );
}

#[test]
fn an_interface_that_is_down() {
    unreachable(
        &[WAN, DEFAULT, "ip link set wan down"],
        "no route, says the gateway",
        "the host has no route to the internet; the host has no route to 198.51.100.2",
    );
}

#[test]
fn an_unreachable_route() {
    unreachable(
        &[WAN, "ip route add unreachable default"],
        "host unreachable, says the gateway",
        "the host's route to the internet is an unreachable one; 198.51.100.2 is unreachable",
    );
}

#[test]
fn a_blackhole() {
    unreachable(
        &[WAN, "ip route add blackhole default"],
        "no route, says the gateway",
        "the host has no route to the internet; the host has no route to 198.51.100.2",
    );
}

#[test]
fn a_prohibited_route() {
    unreachable(
        &[WAN, "ip route add prohibit default"],
        "prohibited, says the gateway",
        "a firewall or a route of the host prohibits the internet; \
         a firewall or a route of the host prohibits 198.51.100.2",
    );
}

/// A policy of the host's that drops what is sent is, to who sends, like a firewall's rule: EPERM.
#[test]
fn a_policy_that_drops() {
    unreachable(
        &[WAN, DEFAULT, "ip xfrm policy add dir out dst 0.0.0.0/0 dev wan action block"],
        "prohibited, says the gateway",
        "a firewall or a route of the host prohibits the internet; \
         a firewall or a route of the host prohibits 198.51.100.2",
    );
}

#[test]
fn a_dead_router() {
    unreachable(
        &[WAN, DEFAULT],
        "host unreachable, says * s",
        "the host's router does not answer (host unreachable, says * s); 198.51.100.2 does not answer",
    );
}

#[test]
fn a_router_without_a_route() {
    let without = "$router ip route del default; $router ip addr flush dev lo";
    let outcome = host(&[WAN, ROUTER, DEFAULT, without], RESOLVER, PEER);
    let lines = [
        ("udp", "failed", "198.51.100.1:7777: no route, says 192.0.2.1"),
        ("tcp", "failed", "198.51.100.1:7777: no route, says the gateway"),
        ("outside", "absent", "no route, says 192.0.2.1; 198.51.100.2 does not answer"),
    ];
    says(&outcome, 1, &lines);
}

#[test]
fn no_carrier() {
    let outcome = host(&[WAN, DEFAULT, "ip link set far down"], RESOLVER, "");
    let outside = "the host's router does not answer (host unreachable, says * s); 198.51.100.2 does not answer";
    says(&outcome, 0, &[("outside", "absent", outside)]);
}

/// Silence is said to be silence, and only that.
#[test]
fn a_drop_on_the_way() {
    let outcome = host(&[WAN, DEFAULT, KNOWN], RESOLVER, PEER);
    let lines = [
        ("udp", "failed", "198.51.100.1:7777: no echo"),
        ("tcp", "failed", "198.51.100.1:7777: no answer to the SYN in 4 s"),
        ("outside", "absent", "the host's router says nothing; 198.51.100.2 does not answer"),
    ];
    says(&outcome, 1, &lines);
}

/// The host tells a datagram's sender who forbids it; a connection only that it can't be.
#[test]
fn a_router_that_forbids() {
    let outcome = host(
        &[WAN, ROUTER, DEFAULT, "$router ip route add prohibit 203.0.113.0/24"],
        "nameserver 203.0.113.1",
        "probe.peer=203.0.113.1:7777",
    );
    let lines = [
        ("udp", "failed", "203.0.113.1:7777: prohibited, says 192.0.2.1"),
        ("tcp", "failed", "203.0.113.1:7777: host unreachable, says the gateway"),
        ("outside", "absent", "192.0.2.1 routes on; 203.0.113.1 is unreachable"),
    ];
    says(&outcome, 1, &lines);
}

/// The one that refuses is the peer.
#[test]
fn nobody_listens() {
    let outcome = host(&[WAN, ROUTER, DEFAULT], "nameserver 127.0.0.53", PEER);
    let lines = [
        ("udp", "failed", "198.51.100.1:7777: port unreachable, says 198.51.100.1"),
        ("tcp", "failed", "198.51.100.1:7777: connection refused"),
        ("outside", "absent", "192.0.2.1 routes on; nobody listens at 127.0.0.53"),
    ];
    says(&outcome, 1, &lines);
}

/// A resolver that is dead costs its time, and no more: the next one answers.
#[test]
fn one_resolver_of_two() {
    let peer = env!("CARGO_BIN_EXE_minivmm-peer");
    let serve = format!(
        "$router ip addr add 198.51.100.3/32 dev lo
$router {peer} serve dns=198.51.100.3:53 record=www.example.test,203.0.113.5 &
sleep 0.3"
    );
    let resolvers = "nameserver 127.0.0.53\\nnameserver 192.0.2.99\\nnameserver 198.51.100.3\\n";
    let script = [WAN, ROUTER, DEFAULT, &serve];
    let outcome = host(&script, resolvers, "probe.name=www.example.test probe.want=outside");
    let lines = [
        ("dns", "ok", "10.77.0.1: www.example.test is 203.0.113.5, * us"),
        ("outside", "ok", "192.0.2.1 routes on; the host's resolver answers, * us"),
    ];
    says(&outcome, 0, &lines);
    assert!(outcome.elapsed > Duration::from_millis(1500), "{outcome}");
    let outcome = host(&script, resolvers, "probe.name=no.example.test");
    let detail = "10.77.0.1: no.example.test does not exist (NXDOMAIN)";
    says(&outcome, 1, &[("dns", "failed", detail)]);
}

/// Names, each cause of which is the host's.
#[test]
fn no_resolver() {
    for (resolv_conf, why) in [
        ("", "no nameserver in /etc/resolv.conf"),
        ("nameserver 127.0.0.53", "nobody listens at 127.0.0.53"),
        ("nameserver 198.51.100.2", "the host has no route to 198.51.100.2"),
        (
            "nameserver 127.0.0.53\\nnameserver 198.51.100.2",
            "nobody listens at 127.0.0.53; the host has no route to 198.51.100.2",
        ),
    ] {
        let outcome = host(&[WAN], resolv_conf, "probe.name=example.com");
        let detail = format!("10.77.0.1: example.com is not resolved (SERVFAIL): {why}");
        says(&outcome, 1, &[("dns", "failed", &detail)]);
    }
}

/// IPv6 is offered where the host has a way; the peer is named as it can be given again.
#[test]
fn a_peer_over_ipv6() {
    let peer = "probe.peer=[2001:db8:1::1]:7777";
    let outcome = host(&[WAN], "", &format!("{peer} probe.want=tcp"));
    says(&outcome, 1, &[("udp", "failed", "no IPv6 address"), ("tcp", "failed", "*")]);
    let way = "ip addr add 2001:db8::2/64 dev wan nodad
ip -6 route add default via 2001:db8::1
ip -6 route add prohibit 2001:db8:1::/48";
    let outcome = host(&[WAN, way], "", peer);
    let said = "[2001:db8:1::1]:7777: prohibited, says the gateway";
    says(&outcome, 1, &[("udp", "failed", said), ("tcp", "failed", said)]);
}

/// Down from the start, or taken down with its address.
#[test]
fn no_loopback() {
    for script in ["true", "ip link set lo up; ip link set lo down"] {
        let outcome = host(&[script], "", "");
        let down = "the host's loopback is down (ip link set lo up)";
        says(&outcome, 0, &[("udp", "absent", down), ("tcp", "absent", down)]);
        assert!(outcome.stderr.contains("ip link set lo up"), "{outcome}");
    }
}
