//! The three address spaces. There is deliberately no `From` between them: only `vdisk` and `amf` translate.

/// Size of a logical block in bytes. Every namespace, group and drive of an array agrees on one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlockSize {
    /// 512 bytes, for hosts that know nothing else.
    B512,
    /// 4096 bytes, the default.
    B4096,
}

impl BlockSize {
    /// The size in bytes.
    pub const fn bytes(self) -> u32 {
        1 << self.shift()
    }

    /// The size as a power of two: LBA Data Size (LBADS) of the namespace's LBA format.
    pub const fn shift(self) -> u32 {
        match self {
            Self::B512 => 9,
            Self::B4096 => 12,
        }
    }

    /// The block size of this many bytes, if there is one.
    pub const fn from_bytes(bytes: u32) -> Option<Self> {
        match bytes {
            512 => Some(Self::B512),
            4096 => Some(Self::B4096),
            _ => None,
        }
    }
}

/// A block of one namespace, counted from its start: SLBA of a host's command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespaceLba(pub u64);

/// A block of user data of a redundancy group, counted from the group's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupLba(pub u64);

/// A block of one member drive, counted from the start of the drive (metadata included).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberLba(pub u64);
