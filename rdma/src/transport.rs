//! What an RDMA transport does for NVMe queue pairs, and what it tells them.
//!
//! One [`Transport`] serves the queue pairs of one core. Everything is asynchronous: a call posts
//! work and names it with a [`WorkTag`], an [`Event`] with the same tag ends it, exactly once, also
//! when the queue pair is torn down. Data moves between host memory, named by [`HostMemory`], and
//! [`Span`]s of the core's registered memory; it never passes through the seam itself.
//!
//! Ordering that callers rely on: what is posted on one queue pair is carried out in the order of
//! posting, but a read may still be under way when later work is carried out. So a response may
//! be posted right after the writes of its data, while the data of a read counts only from its event.

use nvme::command::{CQE_BYTES, SQE_BYTES, Sgl};
use thiserror::Error;

use crate::connect::{ConnectAccept, ConnectRequest, Reject};

/// Names a queue pair of one transport from its connect request to its `Closed` event, then is used anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueuePairId(pub u32);

/// Names a posted receive, which is occupied from its `Capsule` event until it is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReceiveSlot(pub u16);

/// Chosen by the caller, comes back with the event that ends the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkTag(pub u64);

/// Bytes of the core's registered memory, counted from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub offset_bytes: u32,
    /// Number of bytes.
    pub length_bytes: u32,
}

/// Memory of a host that a command lets the controller read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMemory {
    /// Address as the host's key understands it.
    pub address: u64,
    /// Number of bytes, `1..=0xff_ffff`.
    pub length_bytes: u32,
    /// Remote key.
    pub key: u32,
    /// Whether the host wants the key invalidated by the response (Send with Invalidate).
    pub invalidate: bool,
}

/// Why a data pointer names no host memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SglError {
    /// The descriptor is of a type that is not used over RDMA.
    #[error("the SGL descriptor is not a keyed data block")]
    NotKeyed,
    /// Address and length run over the end of the address space.
    #[error("the keyed data block runs over the end of the address space")]
    Overflow,
}

impl HostMemory {
    /// The host memory that a command's data pointer names; `None` if it moves no bytes. In-capsule
    /// data is no host memory: look for it first.
    pub fn from_sgl(sgl: Sgl) -> Result<Option<Self>, SglError> {
        match sgl {
            Sgl::Keyed { length_bytes: 0, .. } => Ok(None),
            Sgl::Keyed {
                address,
                length_bytes,
                key,
                invalidate,
            } => {
                if address.checked_add(u64::from(length_bytes)).is_none() {
                    return Err(SglError::Overflow);
                }
                Ok(Some(Self {
                    address,
                    length_bytes,
                    key,
                    invalidate,
                }))
            }
            Sgl::InCapsule { .. } | Sgl::Transport { .. } | Sgl::Other { .. } => Err(SglError::NotKeyed),
        }
    }

    /// The part that starts `offset_bytes` in. Panics if it is empty or not all inside.
    pub fn part(&self, offset_bytes: u32, length_bytes: u32) -> Self {
        let end = offset_bytes
            .checked_add(length_bytes)
            .expect("parts are cut from at most 16 MiB");
        assert!(length_bytes > 0, "an empty part is never moved");
        assert!(end <= self.length_bytes, "a part lies inside the whole");
        Self {
            address: self.address + u64::from(offset_bytes),
            length_bytes,
            ..*self
        }
    }
}

/// How a piece of work, and with it its queue pair, failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WorkFault {
    /// The host's key, address or length did not permit the access.
    #[error("remote access error")]
    RemoteAccess,
    /// The host has not answered, in spite of repetitions.
    #[error("retries exceeded")]
    RetriesExceeded,
    /// Other work had failed before, so that this was not carried out (flush error).
    #[error("flushed")]
    Flushed,
    /// Anything else, as the verbs completion status has it.
    #[error("work completion status {0}")]
    Other(u32),
}

/// Why work was not posted. The caller waits for an event of the queue pair, then tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PostError {
    /// The send queue is full.
    #[error("the send queue is full")]
    QueueFull,
    /// The queue pair is being torn down: its events follow, and nothing new is taken.
    #[error("the queue pair is closing")]
    Closing,
}

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A host asks for a queue pair: answer with [`Transport::accept`] or [`Transport::reject`].
    /// Requests that do not parse were rejected already.
    ConnectRequested {
        /// Its name from here on.
        queue_pair: QueuePairId,
        /// What the host wants.
        request: ConnectRequest,
    },
    /// The host has taken the acceptance.
    Established {
        /// Which.
        queue_pair: QueuePairId,
    },
    /// A command capsule, which may come before `Established`.
    Capsule {
        /// On which queue pair.
        queue_pair: QueuePairId,
        /// Where it lies, until [`Transport::release`].
        receive: ReceiveSlot,
        /// The submission queue entry.
        entry: &'a [u8; SQE_BYTES],
        /// In-capsule data.
        data: &'a [u8],
    },
    /// The host's data is in its span.
    ReadDone {
        /// On which queue pair.
        queue_pair: QueuePairId,
        /// Which read.
        work: WorkTag,
    },
    /// The host has the data; the span is free again.
    WriteDone {
        /// On which queue pair.
        queue_pair: QueuePairId,
        /// Which write.
        work: WorkTag,
    },
    /// The host has the response.
    ResponseSent {
        /// On which queue pair.
        queue_pair: QueuePairId,
        /// Which response.
        work: WorkTag,
    },
    /// The work was not carried out, or not wholly. The queue pair takes no more.
    Failed {
        /// On which queue pair.
        queue_pair: QueuePairId,
        /// Which work.
        work: WorkTag,
        /// Why.
        fault: WorkFault,
    },
    /// All work has ended, all receives are taken back, the name may be used anew.
    Closed {
        /// Which.
        queue_pair: QueuePairId,
    },
}

/// A transport for the queue pairs of one core.
pub trait Transport {
    /// Accepts a connection that was requested.
    fn accept(&mut self, queue_pair: QueuePairId, answer: ConnectAccept) -> Result<(), PostError>;

    /// Rejects a connection that was requested. `Closed` follows.
    fn reject(&mut self, queue_pair: QueuePairId, reason: Reject);

    /// Reads host memory into a span of the same length: data of a write command.
    fn read(
        &mut self,
        queue_pair: QueuePairId,
        work: WorkTag,
        from: HostMemory,
        into: Span,
    ) -> Result<(), PostError>;

    /// Writes a span to host memory of the same length: data of a read command.
    fn write(
        &mut self,
        queue_pair: QueuePairId,
        work: WorkTag,
        from: Span,
        into: HostMemory,
    ) -> Result<(), PostError>;

    /// Sends a response capsule, and has the host's adapter invalidate a key with it.
    fn respond(
        &mut self,
        queue_pair: QueuePairId,
        work: WorkTag,
        completion: &[u8; CQE_BYTES],
        invalidate: Option<u32>,
    ) -> Result<(), PostError>;

    /// Gives back a receive whose capsule has been dealt with, so that another may come in.
    fn release(&mut self, queue_pair: QueuePairId, receive: ReceiveSlot);

    /// Tears a queue pair down: work under way ends with its events, then `Closed` follows.
    fn close(&mut self, queue_pair: QueuePairId);

    /// Hands over at most `events_max` events and returns how many there were.
    fn poll(&mut self, events_max: usize, handle: &mut dyn FnMut(Event<'_>)) -> usize;
}

// One binary may serve several kinds of adapter, so the seam must do as a trait object.
const _: Option<&mut dyn Transport> = None;

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: HostMemory = HostMemory {
        address: 0x1000,
        length_bytes: 8192,
        key: 7,
        invalidate: true,
    };

    fn keyed(address: u64, length_bytes: u32) -> Sgl {
        Sgl::Keyed {
            address,
            length_bytes,
            key: 7,
            invalidate: true,
        }
    }

    #[test]
    fn a_keyed_data_block_names_host_memory() {
        assert_eq!(HostMemory::from_sgl(keyed(0x1000, 8192)), Ok(Some(MEMORY)));
        assert_eq!(HostMemory::from_sgl(keyed(u64::MAX, 0)), Ok(None));
    }

    #[test]
    fn host_memory_does_not_wrap_around() {
        assert_eq!(
            HostMemory::from_sgl(keyed(u64::MAX - 4095, 4096)),
            Err(SglError::Overflow)
        );
        assert!(HostMemory::from_sgl(keyed(u64::MAX - 4096, 4096)).is_ok());
    }

    #[test]
    fn other_descriptors_name_no_host_memory() {
        for sgl in [
            Sgl::InCapsule {
                offset_bytes: 0,
                length_bytes: 1,
            },
            Sgl::Transport { length_bytes: 1 },
            Sgl::Other { identifier: 0 },
        ] {
            assert_eq!(HostMemory::from_sgl(sgl), Err(SglError::NotKeyed));
        }
    }

    #[test]
    fn a_part_keeps_the_key_and_moves_the_address() {
        let part = MEMORY.part(4096, 4096);
        assert_eq!(
            part,
            HostMemory {
                address: 0x2000,
                length_bytes: 4096,
                ..MEMORY
            }
        );
        assert_eq!(MEMORY.part(0, 8192), MEMORY);
    }

    #[test]
    #[should_panic(expected = "inside the whole")]
    fn a_part_never_leaves_the_whole() {
        let _ = MEMORY.part(4097, 4096);
    }
}
