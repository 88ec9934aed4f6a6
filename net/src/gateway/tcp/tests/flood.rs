//! Whatever the guest sends.

use proptest::prelude::*;

use super::*;

/// A segment near to what is expected, or far from it.
#[derive(Debug, Clone)]
struct Shot {
    port: u16,
    flags: u8,
    seq: i32,
    ack: i32,
    window: u16,
    options: Vec<u8>,
    len: usize,
    wait: u16,
}

fn shot() -> impl Strategy<Value = Shot> {
    let near = prop_oneof![3 => Just(0), 3 => -3i32..2000, 1 => any::<i32>()];
    let flags = prop_oneof![
        3 => Just(SYN),
        6 => Just(ACK),
        2 => Just(ACK | FIN),
        1 => Just(RST),
        1 => Just(SYN | ACK),
        1 => any::<u8>()
    ];
    let options = proptest::collection::vec(any::<u8>(), 0..=40).prop_map(|mut o| {
        o.truncate(o.len() & !3);
        o
    });
    (0u16..3, flags, near.clone(), near, any::<u16>(), options, 0usize..3000, 0u16..2000).prop_map(
        |(port, flags, seq, ack, window, options, len, wait)| Shot {
            port,
            flags,
            seq,
            ack,
            window,
            options,
            len,
            wait,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_segments_are_survived(shots in proptest::collection::vec(shot(), 1..60)) {
        let (mut guest, listener) = Guest::with_server(0);
        listener.set_nonblocking(true).unwrap();
        let mut servers = Vec::new();
        for shot in shots {
            guest.local.set_port(1000 + shot.port);
            let fields = Fields {
                seq: Seq::new(guest.seq.bits().wrapping_add_signed(shot.seq)),
                ack: Seq::new(guest.ack.bits().wrapping_add_signed(shot.ack)),
                window: shot.window,
                ..guest.fields(shot.flags)
            };
            guest.raw(fields, &shot.options, &pattern(shot.len));
            guest.events(Duration::ZERO);
            if let Ok((mut server, _)) = listener.accept() {
                server.set_nonblocking(true).unwrap();
                let _ = server.write(&pattern(5000));
                servers.push(server);
            }
            guest.poll();
            // The guest believes what it hears.
            if let Some(got) = guest.inbox.drain(..).next_back() {
                guest.seq = got.h.fields.ack;
                guest.ack = got.h.fields.seq + got.payload.len() as u32;
                if got.h.has(SYN | FIN) {
                    guest.ack += 1;
                }
            }
            guest.bed.advance(Duration::from_millis(shot.wait.into()));
        }
        let tcp = &guest.bed.gateway.tcp;
        prop_assert!(tcp.flows() <= 3);
        // All that is left goes in its time.
        drop(servers);
        while guest.events(Duration::ZERO) {}
        guest.bed.advance(Duration::from_secs(3 * 3600));
        let tcp = &guest.bed.gateway.tcp;
        let pending = tcp.flows.pending();
        prop_assert_eq!((tcp.flows(), pending.connecting, pending.alarm), (0, 0, None));
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut guest = Guest::new(config(), "10.0.2.2:1000", "198.51.100.1:80");
        let envelope = Envelope::new(GATEWAY_MAC, guest.local.ip(), guest.remote.ip(), protocol::TCP);
        let mut frame = vec![0; envelope.header_len()];
        envelope.write(GUEST_MAC, bytes.len(), &mut frame);
        frame.extend(bytes);
        let head = &frame[..frame.len().min(HEAD_MAX)];
        let mut rest = frame[head.len()..].to_vec();
        let tail = [VolatileSlice::from(&mut rest[..])];
        // No checksum is in the way.
        let offload = Offload { validated: true, ..Offload::default() };
        let frame = TxFrame { head, tail: &tail, len: frame.len(), offload };
        guest.bed.run(|gateway, io| gateway.send(io, &frame));
    }
}

#[test]
fn flows_that_come_and_go_without_receive_buffers_leave_nothing() {
    let (mut guest, listener) = Guest::with_server(0);
    listener.set_nonblocking(true).unwrap();
    guest.bed.ring.full = true;
    // A reset waits in front of all.
    let local = guest.local;
    guest.local.set_port(5);
    guest.send(ACK, b"");
    guest.local = local;
    let syn = guest.fields(SYN);
    for _ in 0..500 {
        guest.raw(syn, &[], b"");
        guest.events(Duration::ZERO);
        guest.raw(Fields { seq: syn.seq + 1, ..guest.fields(RST) }, &[], b"");
        while listener.accept().is_ok() {}
    }
    let tcp = &guest.bed.gateway.tcp;
    assert_eq!(tcp.flows(), 0);
    let pending = tcp.flows.pending();
    assert!(pending.to_flush <= 2 && pending.to_deliver <= 2 && pending.resets <= RESETS_MAX);
}
