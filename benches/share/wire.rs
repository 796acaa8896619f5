//! A wire between nodes on which everything takes a while longer: bytes leave it in the order in which they came, each of them so long after it came, and there is room for any number of them.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that are taken at a time.
const TAKEN_BYTES: usize = 64 << 10;

/// Carries connections to one address to another one, for as long as this process lives.
pub fn carry(from: SocketAddr, to: SocketAddr, delay: Duration) {
    let listener = TcpListener::bind(from).expect("the port is free");
    thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            // Who is not there yet is tried again by whoever connects.
            let Ok(far) = TcpStream::connect(to) else {
                continue;
            };
            for (from, to) in [(&near, &far), (&far, &near)] {
                to.set_nodelay(true).expect("it is open");
                let [from, to] = [from, to].map(|end| end.try_clone().expect("descriptors are left"));
                delay_bytes(from, to, delay);
            }
        }
    });
}

/// One direction, until either end is gone. Who waits for bytes, and who waits until they are due, sleeps.
fn delay_bytes(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (sender, taken) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut bytes = vec![0; TAKEN_BYTES];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            if sender
                .send((Instant::now() + delay, bytes[..count].to_vec()))
                .is_err()
            {
                break;
            }
        }
    });
    thread::spawn(move || {
        for (due, bytes) in taken {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both); // It may be gone already.
    });
}

/// Microseconds of so many round trips of a few bytes by such a wire, one after the other.
pub fn round_trips(delay: Duration, count: usize) -> Vec<f64> {
    let far = TcpListener::bind("127.0.0.1:0").expect("ports are left");
    let near = TcpListener::bind("127.0.0.1:0").expect("ports are left");
    let [near_address, far_address] = [&near, &far].map(|end| end.local_addr().expect("it is bound"));
    drop(near);
    carry(near_address, far_address, delay);
    let mut near = TcpStream::connect(near_address).expect("it listens");
    near.set_nodelay(true).expect("it is open");
    let (mut far, _) = far.accept().expect("it is carried");
    far.set_nodelay(true).expect("it is open");
    thread::spawn(move || {
        let mut bytes = [0; 64];
        while far.read_exact(&mut bytes).is_ok() && far.write_all(&bytes).is_ok() {}
    });
    let mut one = || {
        let begin = Instant::now();
        let mut bytes = [0; 64];
        near.write_all(&bytes).expect("the other end is there");
        near.read_exact(&mut bytes).expect("it answers");
        begin.elapsed().as_secs_f64() * 1e6
    };
    (0..count).map(|_| one()).collect()
}
