use super::super::hmac;
use super::*;

const KEY: [u8; MAC_BYTES] = [0x5a; MAC_BYTES];

fn node_slot(number: u8) -> Slot {
    Slot::new(number).expect("there is such a slot")
}

fn config(slot: u8) -> HelloConfig {
    HelloConfig {
        array: ArrayId([9; 16]),
        local: Node {
            slot: node_slot(slot),
            incarnation: Incarnation(100 + u64::from(slot)),
        },
        epoch: Epoch(7 + u32::from(slot)),
        terms: 5,
        key: KEY,
        hmac: hmac::portable,
        over: PastLives::default(),
    }
}

type Ended = Result<Option<Greeted>, HelloError>;

/// Runs a handshake of two nodes in cuts of this many bytes; what each side has at the end, the initiator first.
fn meet(initiator: HelloConfig, acceptor: HelloConfig, cut: usize) -> [Ended; 2] {
    let mut wires = [Vec::new(), Vec::new()];
    let mut sides = [
        Handshake::initiate(
            initiator,
            node_slot(2),
            Lane(4),
            PathId(1),
            [1; 32],
            &mut wires[0],
        ),
        Handshake::accept(acceptor, [2; 32]),
    ];
    let mut ended: [Ended; 2] = [Ok(None), Ok(None)];
    for turn in 0..40_000 {
        let (from, to) = (turn % 2, 1 - turn % 2);
        let bytes: Vec<u8> = {
            let length = wires[from].len().min(cut);
            wires[from].drain(..length).collect()
        };
        if ended[to] == Ok(None) && !bytes.is_empty() {
            let mut input = &bytes[..];
            ended[to] = sides[to].receive(&mut input, &mut wires[to]);
            assert!(input.is_empty(), "nothing follows");
        }
    }
    ended
}

#[test]
fn two_nodes_with_one_key_know_each_other_whatever_the_cuts() {
    for cut in [1, 2, 3, 7, 8, 79, 80, 81, 111, 112, 1000] {
        let [initiator, acceptor] = meet(config(1), config(2), cut);
        assert_eq!(
            initiator,
            Ok(Some(Greeted {
                peer: config(2).local,
                epoch: Epoch(9),
                lane: Lane(4),
                path: PathId(1),
            }))
        );
        assert_eq!(
            acceptor,
            Ok(Some(Greeted {
                peer: config(1).local,
                epoch: Epoch(8),
                lane: Lane(4),
                path: PathId(1),
            }))
        );
    }
}

#[test]
fn another_key_is_refused_by_both_and_never_proved_to() {
    let stranger = HelloConfig {
        key: [0x5b; MAC_BYTES],
        ..config(2)
    };
    let [initiator, acceptor] = meet(config(1), stranger, 1000);
    assert_eq!(initiator, Err(HelloError::Key));
    assert_eq!(
        acceptor,
        Err(HelloError::ByPeer(RefusalCode::Key)),
        "no proof was shown to it"
    );
}

#[test]
fn an_initiator_without_the_key_is_refused() {
    let mut wire = Vec::new();
    let mut acceptor = Handshake::accept(config(2), [2; 32]);
    Handshake::initiate(config(1), node_slot(2), Lane(0), PathId(0), [1; 32], &mut wire);
    let mut answer = Vec::new();
    assert_eq!(acceptor.receive(&mut &wire[..], &mut answer), Ok(None));
    let mut proof = start(Kind::Proof).to_vec();
    proof.extend_from_slice(&[0; MAC_BYTES]);
    answer.clear();
    assert_eq!(
        acceptor.receive(&mut &proof[..], &mut answer),
        Err(HelloError::Key)
    );
    assert_eq!(answer, verdict(RefusalCode::Key.wire()));
}

#[test]
fn each_mismatch_is_refused_with_its_reason_on_both_sides() {
    let of = |change: fn(&mut HelloConfig)| {
        let mut acceptor = config(2);
        change(&mut acceptor);
        meet(config(1), acceptor, 1000)
    };
    let array = of(|config| config.array = ArrayId([8; 16]));
    assert_eq!(array[1], Err(HelloError::Array));
    assert_eq!(array[0], Err(HelloError::ByPeer(RefusalCode::Array)));
    let old = of(|acceptor| acceptor.over.add(config(1).local));
    assert_eq!(old[1], Err(HelloError::OldIncarnation { slot: 1, found: 101 }));
    assert_eq!(old[0], Err(HelloError::ByPeer(RefusalCode::OldIncarnation)));
    let other = of(|config| config.local.slot = node_slot(3));
    assert_eq!(
        other[1],
        Err(HelloError::WrongSlot {
            found: 2,
            expected: 3
        })
    );
    let terms = of(|config| config.terms = 6);
    assert_eq!(terms[1], Err(HelloError::Terms));
    assert_eq!(terms[0], Err(HelloError::ByPeer(RefusalCode::Terms)));
    let own = of(|config| config.local.slot = node_slot(1));
    assert_eq!(own[1], Err(HelloError::OwnSlot { slot: 1 }));
    assert_eq!(own[0], Err(HelloError::ByPeer(RefusalCode::Slot)));
}

/// H10 begins here: an acceptor that is a dead life of the wanted node is refused by who initiates, too.
#[test]
fn an_acceptor_in_an_old_life_is_refused() {
    let mut initiator = config(1);
    initiator.over.add(config(2).local);
    let [initiator, acceptor] = meet(initiator, config(2), 1000);
    assert_eq!(initiator, Err(HelloError::OldIncarnation { slot: 2, found: 102 }));
    assert_eq!(acceptor, Err(HelloError::ByPeer(RefusalCode::OldIncarnation)));
}

#[test]
fn a_proof_cannot_be_sent_back_to_who_made_it() {
    // Node 1 is told its own words, by one who has no key: first as an acceptor's, then on a second connection.
    let mut wire = Vec::new();
    let mut victim = Handshake::initiate(config(1), node_slot(2), Lane(0), PathId(0), [1; 32], &mut wire);
    let mut second = Handshake::accept(config(1), [3; 32]);
    let mut challenge = Vec::new();
    assert_eq!(
        second.receive(&mut &wire[..], &mut challenge),
        Err(HelloError::OwnSlot { slot: 1 }),
        "it does not even prove anything about itself"
    );
    // An honest acceptor's proof, sent back to it as the initiator's.
    let mut acceptor = Handshake::accept(config(2), [2; 32]);
    challenge.clear();
    assert_eq!(acceptor.receive(&mut &wire[..], &mut challenge), Ok(None));
    let mut reflected = start(Kind::Proof).to_vec();
    reflected.extend_from_slice(&challenge[INTRODUCTION_BYTES..]);
    assert_eq!(
        acceptor.receive(&mut &reflected[..], &mut Vec::new()),
        Err(HelloError::Key)
    );
    // The proof of an earlier connection does not fit this one: the nonces differ.
    let mut earlier = Vec::new();
    let mut other = Handshake::accept(config(2), [4; 32]);
    assert_eq!(other.receive(&mut &wire[..], &mut earlier), Ok(None));
    challenge[INTRODUCTION_BYTES..].copy_from_slice(&earlier[INTRODUCTION_BYTES..]);
    assert_eq!(
        victim.receive(&mut &challenge[..], &mut Vec::new()),
        Err(HelloError::Key)
    );
}

#[test]
fn no_byte_of_a_message_can_be_changed_without_being_noticed() {
    for at in 0..INTRODUCTION_BYTES + CHALLENGE_BYTES + PROOF_BYTES {
        let mut wire = Vec::new();
        let mut initiator =
            Handshake::initiate(config(1), node_slot(2), Lane(0), PathId(0), [1; 32], &mut wire);
        let mut acceptor = Handshake::accept(config(2), [2; 32]);
        let mut total = 0;
        let mut change = |bytes: &mut [u8]| {
            if (total..total + bytes.len()).contains(&at) {
                bytes[at - total] ^= 1;
            }
            total += bytes.len();
        };
        let mut ended = [Ok(None), Ok(None)];
        for _ in 0..2 {
            change(&mut wire);
            let mut answer = Vec::new();
            ended[1] = acceptor.receive(&mut &wire[..], &mut answer);
            if ended[1] != Ok(None) {
                break;
            }
            change(&mut answer);
            wire.clear();
            ended[0] = initiator.receive(&mut &answer[..], &mut wire);
            if ended[0] != Ok(None) {
                break;
            }
        }
        // Bytes 6 and 7 of the proof's message mean nothing.
        let means_nothing = [198, 199].contains(&at);
        assert_eq!(
            ended.iter().any(Result::is_err),
            !means_nothing,
            "{at}: {ended:?}"
        );
    }
}

#[test]
fn garbage_and_other_versions_are_refused_early() {
    let mut out = Vec::new();
    let mut acceptor = Handshake::accept(config(2), [2; 32]);
    assert_eq!(
        acceptor.receive(&mut &b"G"[..], &mut out),
        Err(HelloError::NoHello)
    );
    assert!(out.is_empty(), "a stranger is told nothing");
    let mut acceptor = Handshake::accept(config(2), [2; 32]);
    assert_eq!(
        acceptor.receive(&mut &b"BHEL\x01\x01\0\0"[..], &mut out),
        Err(HelloError::Version { found: 1 })
    );
    assert_eq!(out, verdict(RefusalCode::Version.wire()));
    let mut acceptor = Handshake::accept(config(2), [2; 32]);
    assert_eq!(
        acceptor.receive(&mut &start(Kind::Proof)[..], &mut out),
        Err(HelloError::Order { found: 3 })
    );
    let mut initiator = Handshake::initiate(config(1), node_slot(2), Lane(0), PathId(0), [1; 32], &mut out);
    assert_eq!(
        initiator.receive(&mut &verdict(0)[..], &mut out),
        Err(HelloError::Order { found: 4 }),
        "nobody is accepted before both have proved the key"
    );
}

#[test]
fn what_follows_the_handshake_is_left_for_the_stream() {
    let mut wire = Vec::new();
    let mut initiator = Handshake::initiate(config(1), node_slot(2), Lane(0), PathId(0), [1; 32], &mut wire);
    let mut acceptor = Handshake::accept(config(2), [2; 32]);
    let mut answer = Vec::new();
    assert_eq!(acceptor.receive(&mut &wire[..], &mut answer), Ok(None));
    wire.clear();
    assert_eq!(initiator.receive(&mut &answer[..], &mut wire), Ok(None));
    answer.clear();
    assert!(matches!(
        acceptor.receive(&mut &wire[..], &mut answer),
        Ok(Some(_))
    ));
    answer.extend_from_slice(b"BICL and so on");
    let mut input = &answer[..];
    assert!(matches!(initiator.receive(&mut input, &mut wire), Ok(Some(_))));
    assert_eq!(input, b"BICL and so on");
}

#[test]
fn a_peer_that_encrypts_is_told_that_this_node_does_not() {
    let mut acceptor = Handshake::accept(config(2), [2; NONCE_BYTES]);
    let mut out = Vec::new();
    let hello = [TLS_HANDSHAKE, 3, 1, 0, 200];
    assert_eq!(
        acceptor.receive(&mut &hello[..], &mut out),
        Err(HelloError::Encrypted)
    );
    assert_eq!(out, verdict(RefusalCode::Encryption.wire()));
    assert!(is_unencrypted(&out) && !is_unencrypted(&hello) && !is_unencrypted(&[]));
    assert_eq!(RefusalCode::from_wire(out[CODE_AT]), RefusalCode::Encryption);
}
