//! Links over TLS, seen from the wire: through a proxy that records what it passes on, and may damage it.

use std::net::Shutdown;
use std::sync::Arc;
use std::thread;

use super::*;

/// What a proxy does to the byte at a place of what goes to who was dialled, on the first connection alone.
#[derive(Clone, Copy, Debug)]
enum Damage {
    None,
    Flip(usize),
    Cut(usize),
}

/// Everything that passed, both ways, mixed.
type Record = Arc<Mutex<Vec<u8>>>;

/// A proxy before `behind`, for as long as the test lasts.
fn proxy(behind: SocketAddr, damage: Damage) -> (SocketAddr, Record) {
    let front = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    let address = front.local_addr().expect("it is bound");
    let record = Record::default();
    let kept = Arc::clone(&record);
    thread::spawn(move || {
        let mut damage = damage;
        while let Ok((dialling, _)) = front.accept() {
            let Ok(dialled) = TcpStream::connect(behind) else {
                continue;
            };
            let twin = |socket: &TcpStream| socket.try_clone().expect("descriptors are left");
            let (back, forth) = ((twin(&dialled), twin(&dialling)), (dialling, dialled));
            for ((from, to), damage) in [(forth, damage), (back, Damage::None)] {
                let record = Arc::clone(&kept);
                thread::spawn(move || pass(from, to, damage, &record));
            }
            damage = Damage::None;
        }
    });
    (address, record)
}

fn pass(mut from: TcpStream, mut to: TcpStream, damage: Damage, record: &Mutex<Vec<u8>>) {
    let (mut bytes, mut passed) = ([0; 4096], 0);
    while let Ok(taken @ 1..) = from.read(&mut bytes) {
        let mut part = &mut bytes[..taken];
        let here = |at: usize| at.checked_sub(passed).filter(|at| *at < taken);
        let mut is_cut = false;
        match damage {
            Damage::Flip(at) => {
                if let Some(at) = here(at) {
                    part[at] ^= 0x40;
                }
            }
            Damage::Cut(at) => {
                if let Some(at) = here(at) {
                    (part, is_cut) = (&mut part[..at], true);
                }
            }
            Damage::None => {}
        }
        record
            .lock()
            .expect("nobody panics with it")
            .extend_from_slice(part);
        passed += taken;
        if to.write_all(part).is_err() || is_cut {
            break;
        }
    }
    for socket in [from, to] {
        let _ = socket.shutdown(Shutdown::Both); // The other way may have done so.
    }
}

fn has(record: &Record, wanted: &[u8]) -> bool {
    let record = record.lock().expect("nobody panics with it");
    record.windows(wanted.len()).any(|window| window == wanted)
}

const SECRET: &[u8] = b"what a host has written";

#[test]
fn the_wire_shows_what_is_said_only_if_nothing_encrypts_it() {
    for encryption in BOTH {
        let mut record = Record::default();
        let (first, second, _) = pair_over(encryption, |bound| {
            let (address, kept) = proxy(bound, Damage::None);
            record = kept;
            address
        });
        let payload = SECRET.repeat(1000);
        second.order(Order::Say(0, 1, payload.clone()));
        first.awaits(&Said::Message(1, 1, payload.clone()));
        first.order(Order::Say(1, 2, payload.clone()));
        second.awaits(&Said::Message(0, 2, payload));
        let is_open = encryption == Encryption::None;
        assert_eq!(has(&record, SECRET), is_open);
        assert_eq!(has(&record, b"BHEL"), is_open, "nor the handshake of nodes");
        assert_eq!(has(&record, b"BICL"), is_open, "nor where packets begin");
        first.stop();
        second.stop();
    }
}

#[test]
fn announcements_are_not_seen_on_the_wire_either() {
    let (listener, bound) = listen();
    let (address, record) = proxy(bound, Damage::None);
    let first = start(life(0, 10), Some(listener), &[(1, bound)], 1, Encryption::Tls);
    let second = start(life(1, 11), None, &[(0, address)], 1, Encryption::Tls);
    first.order(Order::Announce(0x77));
    second.order(Order::Announce(0x78));
    second.awaits(&Said::Announcement(life(0, 10), 0x77));
    first.awaits(&Said::Announcement(life(1, 11), 0x78));
    assert!(!has(&record, &[0x77; 16]) && !has(&record, &[0x78; 16]));
    first.stop();
    second.stop();
}

#[test]
fn a_node_that_encrypts_and_one_that_does_not_refuse_each_other_and_say_why() {
    for [acceptor, initiator] in [
        [Encryption::None, Encryption::Tls],
        [Encryption::Tls, Encryption::None],
    ] {
        let (listener, address) = listen();
        let first = start(life(0, 10), Some(listener), &[(1, address)], 1, acceptor);
        let second = start(life(1, 11), None, &[(0, address)], 1, initiator);
        for node in [&first, &second] {
            node.order(Order::Announce(9));
        }
        let end = Instant::now() + PATIENCE;
        let last = |node: &Started| loop {
            let refusals = node.refusals();
            if refusals.count > 2 {
                break refusals.last;
            }
            assert!(Instant::now() < end, "they refuse each other again and again");
            thread::yield_now();
        };
        let expected = if acceptor == Encryption::None {
            [HelloError::Encrypted, HelloError::Unencrypted]
        } else {
            [
                HelloError::Unencrypted,
                HelloError::ByPeer(RefusalCode::Encryption),
            ]
        };
        assert_eq!([last(&first), last(&second)], expected.map(Some));
        assert!(first.heard.try_recv().is_err() && second.heard.try_recv().is_err());
        first.stop();
        second.stop();
    }
}

/// Goal: whatever is damaged on the wire, and wherever a connection is cut, nothing wrong is heard, and the next connection goes on.
#[test]
fn what_is_damaged_or_cut_ends_its_connection_and_the_next_one_goes_on() {
    // In the first greeting, in its answer, and in records of packets.
    for damage in [
        Damage::Cut(3),
        Damage::Cut(100),
        Damage::Flip(2),
        Damage::Flip(60),
        Damage::Flip(400),
        Damage::Cut(20_000),
        Damage::Flip(20_000),
        Damage::Cut(40_001),
    ] {
        let (first, second, _) = pair_over(Encryption::Tls, |bound| proxy(bound, damage).0);
        for number in 0..20u16 {
            second.order(Order::Say(0, number, vec![number.to_le_bytes()[0]; 3000]));
        }
        for number in 0..20u16 {
            let awaited = Said::Message(1, number, vec![number.to_le_bytes()[0]; 3000]);
            let mut said = first.hears();
            while !matches!(said, Said::Message(..)) {
                said = first.hears();
            }
            assert_eq!(said, awaited, "{damage:?}");
        }
        first.stop();
        second.stop();
    }
}
