//! Finds packets in a stream of bytes that comes in arbitrary cuts.
//!
//! Owns the part of one packet whose rest has not come yet: never more than [`PACKET_BYTES_MAX`] bytes, laid out at the
//! start. A packet that one cut has whole is not copied. Garbage is refused by its first bytes, a wrong length by the
//! CRC of the header, before anything waits for it. What the packets say is for [`super::Links`] to judge.

use nvme::crc32c::Crc32c;

use super::packet::{self, HEADER_BYTES, Header, PACKET_BYTES_MAX, PacketError};

/// See the module.
#[derive(Debug)]
pub struct Stream {
    crc: Crc32c,
    /// The beginning of a packet; all of one, if `handed_out`.
    partial: Vec<u8>,
    /// Length of the packet, once its header is there.
    packet_bytes: Option<usize>,
    handed_out: bool,
}

impl Stream {
    /// The stream of a connection that begins with a packet.
    pub fn new(crc: Crc32c) -> Self {
        Self {
            crc,
            partial: Vec::with_capacity(PACKET_BYTES_MAX),
            packet_bytes: None,
            handed_out: false,
        }
    }

    /// The connection begins anew; the memory is kept.
    pub fn reset(&mut self) {
        self.partial.clear();
        self.packet_bytes = None;
        self.handed_out = false;
    }

    /// Takes bytes from the front of `input` up to the end of the next packet and returns that packet; `None` once all
    /// of `input` is taken. To be called until then.
    ///
    /// Errs if the stream does not go on with a packet; the connection must end then. That the header of a returned
    /// packet is right is known, all else is checked by [`packet::Packet::parse`].
    pub fn next<'a, 'b: 'a>(&'a mut self, input: &mut &'b [u8]) -> Result<Option<&'a [u8]>, PacketError> {
        if self.handed_out {
            self.reset();
        }
        if self.partial.is_empty() && input.len() >= HEADER_BYTES {
            let (_, packet_bytes) = Header::parse(input, self.crc)?;
            if let Some((whole, rest)) = input.split_at_checked(packet_bytes) {
                *input = rest;
                return Ok(Some(whole));
            }
        }
        let wanted = self.packet_bytes.unwrap_or(HEADER_BYTES);
        self.take(input, wanted);
        if self.packet_bytes.is_none() {
            if self.partial.len() < HEADER_BYTES {
                assert!(
                    input.is_empty(),
                    "a header waits only for bytes that have not come"
                );
                packet::check_prefix(&self.partial)?;
                return Ok(None);
            }
            let (_, packet_bytes) = Header::parse(&self.partial, self.crc)?;
            self.packet_bytes = Some(packet_bytes);
            self.take(input, packet_bytes);
        }
        if Some(self.partial.len()) < self.packet_bytes {
            assert!(
                input.is_empty(),
                "a packet waits only for bytes that have not come"
            );
            return Ok(None);
        }
        self.handed_out = true;
        Ok(Some(&self.partial))
    }

    /// Takes what is there of the bytes up to `wanted`.
    fn take(&mut self, input: &mut &[u8], wanted: usize) {
        assert!(
            self.partial.len() <= wanted && wanted <= PACKET_BYTES_MAX,
            "one packet is kept at most"
        );
        let (taken, rest) = input.split_at(input.len().min(wanted - self.partial.len()));
        self.partial.extend_from_slice(taken);
        *input = rest;
    }

    /// Bytes that wait for the rest of their packet.
    pub fn waiting_bytes(&self) -> usize {
        if self.handed_out { 0 } else { self.partial.len() }
    }
}

#[cfg(test)]
mod tests {
    use nvme::crc32c::portable;

    use super::super::packet::PACKET_BYTES_MIN;
    use super::super::packet::tests::{encode, header, sample};
    use super::*;

    /// The packets that a stream yields from cuts of these lengths.
    fn packets(bytes: &[u8], mut cut: impl FnMut() -> usize) -> Result<Vec<Vec<u8>>, PacketError> {
        let mut stream = Stream::new(portable);
        let mut found = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let end = (at + cut().max(1)).min(bytes.len());
            let mut input = &bytes[at..end];
            while let Some(packet) = stream.next(&mut input)? {
                found.push(packet.to_vec());
            }
            assert!(stream.partial.capacity() <= PACKET_BYTES_MAX, "memory is bounded");
            at = end;
        }
        Ok(found)
    }

    #[test]
    fn packets_are_found_in_cuts_of_every_length() {
        let sent = [sample(0), sample(1), sample(9), sample(2)];
        let bytes = sent.concat();
        for length in 1..=bytes.len() {
            assert_eq!(packets(&bytes, || length).expect("all is well"), sent, "{length}");
        }
    }

    /// M1: what is cut off at any byte is not delivered, and what was before it is.
    #[test]
    fn a_stream_that_ends_within_a_packet_never_yields_it() {
        let whole = sample(3);
        let bytes = [whole.clone(), sample(4)].concat();
        for end in 0..bytes.len() {
            let found = packets(&bytes[..end], || 17).expect("nothing is wrong so far");
            assert_eq!(found.len(), usize::from(end >= whole.len()), "{end}");
        }
    }

    #[test]
    fn garbage_is_refused_by_its_first_byte_and_a_wrong_length_by_its_header() {
        assert_eq!(packets(b"GET / HTTP/1.1", || 1), Err(PacketError::Magic));
        assert_eq!(packets(b"BICX", || 1), Err(PacketError::Magic));
        assert_eq!(packets(b"BICL\x07", || 1), Err(PacketError::Version { found: 7 }));
        let mut long = sample(2);
        long[98] ^= 3;
        assert_eq!(
            packets(&long[..HEADER_BYTES], || 5),
            Err(PacketError::HeaderCrc),
            "before it waits for what the length says"
        );
    }

    #[test]
    fn the_longest_packet_fits_and_a_reset_forgets_the_rest_of_one() {
        let frame =
            packet::encode_frame_header(super::super::name::Address::Node, 1, packet::PAYLOAD_BYTES_MAX);
        let payload = vec![5; packet::PAYLOAD_BYTES_MAX];
        let bytes = encode(&header(1, 1), &[&frame[..], &payload].concat());
        assert_eq!(bytes.len(), PACKET_BYTES_MAX);
        assert_eq!(
            packets(&bytes, || 9000).expect("all is well"),
            std::slice::from_ref(&bytes)
        );

        let mut stream = Stream::new(portable);
        let mut input = &bytes[..1000];
        assert_eq!(stream.next(&mut input), Ok(None));
        assert_eq!(stream.waiting_bytes(), 1000);
        stream.reset();
        let short = sample(0);
        let mut input = &short[..];
        assert_eq!(stream.next(&mut input), Ok(Some(&short[..])));
        assert_eq!((short.len(), input.len()), (PACKET_BYTES_MIN, 0));
    }
}
