//! What one or several events of the links asked for: actions, and the packets that they refer to.
//!
//! Headers, frames and checksums are composed here; payload that others share stays where it is, and a packet names it
//! ([`Piece::Shared`]): whoever sends lets the kernel gather it.

use std::sync::Arc;

use super::event::Action;

/// Part of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes to be copied.
    Own(&'a [u8]),
    /// Bytes that may be held instead.
    Shared(&'a Arc<[u8]>),
}

impl<'a> Piece<'a> {
    /// Its bytes.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

/// Shared payload inside of a packet.
#[derive(Clone, Debug)]
struct Shared {
    /// Its first byte, counted over all that was composed.
    start: u32,
    /// How many of [`Outbox::own`] are before it.
    own: usize,
    bytes: Arc<[u8]>,
}

/// See the module. Reused after [`Outbox::clear`], so that it allocates only until it has grown to what one turn needs.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    /// What is to be done, in order.
    pub actions: Vec<Action>,
    /// All bytes of packets except shared ones.
    own: Vec<u8>,
    shared: Vec<Shared>,
    /// Bytes that were composed, shared ones included.
    composed_bytes: u32,
}

impl Outbox {
    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.actions.clear();
        self.own.clear();
        self.shared.clear();
        self.composed_bytes = 0;
    }

    /// Bytes that were composed: where the next packet begins.
    pub(super) const fn composed_bytes(&self) -> u32 {
        self.composed_bytes
    }

    /// Bytes that there is memory for.
    #[cfg(test)]
    pub(super) const fn capacity(&self) -> usize {
        self.own.capacity()
    }

    /// Appends part of a packet.
    pub(super) fn push(&mut self, piece: Piece<'_>) {
        let start = self.composed_bytes;
        let bytes = u32::try_from(piece.bytes().len()).expect("a packet is short");
        if bytes == 0 {
            return;
        }
        self.composed_bytes = start.checked_add(bytes).expect("a turn composes less than 4 GiB");
        match piece {
            Piece::Own(bytes) => self.own.extend_from_slice(bytes),
            Piece::Shared(bytes) => self.shared.push(Shared {
                start,
                own: self.own.len(),
                bytes: Arc::clone(bytes),
            }),
        }
    }

    /// The packet of [`Action::Send`], piece by piece.
    pub fn pieces(&self, start: u32, end: u32) -> impl Iterator<Item = Piece<'_>> {
        let inside = |at: u32| self.shared.partition_point(|shared| shared.start < at);
        let (first, last) = (inside(start), inside(end));
        let own_at = |at: u32, before: usize| match before.checked_sub(1).map(|index| &self.shared[index]) {
            Some(shared) => shared.own + (at - shared.start) as usize - shared.bytes.len(),
            None => at as usize,
        };
        let (from, to) = (own_at(start, first), own_at(end, last));
        let shared = &self.shared[first..last];
        let starts = std::iter::once(from).chain(shared.iter().map(|shared| shared.own));
        let ends = shared
            .iter()
            .map(|shared| (shared.own, Some(&shared.bytes)))
            .chain([(to, None)]);
        starts.zip(ends).flat_map(|(from, (to, shared))| {
            let own = Piece::Own(&self.own[from..to]);
            std::iter::once(own).chain(shared.map(Piece::Shared))
        })
    }

    /// The packet of [`Action::Send`] in one piece, for those who do not gather.
    pub fn packet(&self, start: u32, end: u32) -> Vec<u8> {
        let mut packet = Vec::with_capacity((end - start) as usize);
        self.pieces(start, end)
            .for_each(|piece| packet.extend_from_slice(piece.bytes()));
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_out_as_they_were_composed() {
        let shared: [Arc<[u8]>; 3] = [b"one"[..].into(), b"two!"[..].into(), b""[..].into()];
        let mut out = Outbox::default();
        for _ in 0..2 {
            let mut packets = Vec::new();
            for number in 0..4u8 {
                let start = out.composed_bytes();
                let mut expected = Vec::new();
                for piece in 0..number {
                    let (own, shared) = ([number; 3], &shared[usize::from(piece % 3)]);
                    for piece in [Piece::Own(&own[..usize::from(piece)]), Piece::Shared(shared)] {
                        out.push(piece);
                        expected.extend_from_slice(piece.bytes());
                    }
                }
                if number % 2 == 0 {
                    out.push(Piece::Own(b"end"));
                    expected.extend_from_slice(b"end");
                }
                packets.push((start, out.composed_bytes(), expected));
            }
            for (start, end, expected) in packets {
                assert_eq!(out.packet(start, end), expected, "{start}..{end}");
                let held = out
                    .pieces(start, end)
                    .filter(|piece| matches!(piece, Piece::Shared(_)));
                let count = held.count();
                assert_eq!(count > 0, expected != b"end", "shared bytes are not copied");
            }
            out.clear();
        }
        assert_eq!(Arc::strong_count(&shared[0]), 1, "what was cleared holds nothing");
    }
}
