//! Dirty data of one row on its way from the node that wrote it to the next writer.
//!
//! Owns nothing but the data itself: which blocks of the row are newer than on the drives, and what they hold. Small, so that it fits a message of the link with
//! room for others; what is more is destaged. Deliberately knows neither locks nor journals.
//!
//! As bytes, little-endian: block size as a power of two 0, number of extents 1, zeroes 2..8; 12 bytes for each extent: start 0..4, blocks 4..8, 1 for a piece of
//! the data or 2 for zeroes 8, zeroes 9..12; then the pieces, in the order of their extents.

use thiserror::Error;

use crate::drive::block::BlockSize;

/// Most extents.
pub const EXTENTS_MAX: usize = 8;
/// Most bytes of data: an eighth of a packet of the link.
pub const DATA_BYTES_MAX: usize = 32 << 10;
/// Most bytes of all of it.
pub const HANDED_OVER_BYTES_MAX: usize = HEAD_BYTES + EXTENTS_MAX * EXTENT_BYTES + DATA_BYTES_MAX;

const HEAD_BYTES: usize = 8;
const EXTENT_BYTES: usize = 12;

/// What the blocks of an extent hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The next piece of the data.
    Piece,
    /// Zeroes.
    Zeroes,
}

/// Adjacent blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// From the start of the row's user data.
    pub start_blocks: u32,
    /// Length, at least 1.
    pub blocks: u32,
    /// What they hold.
    pub content: Content,
}

/// Why something cannot be handed over, or bytes are nothing that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HandOverError {
    /// There is no such block size.
    #[error("blocks of 2^{0} bytes")]
    BlockSize(u8),
    /// None, or more than [`EXTENTS_MAX`].
    #[error("{0} extents: there are 1 to {EXTENTS_MAX}")]
    Extents(usize),
    /// It is empty, or ends beyond all rows, or begins before the end of the one before it.
    #[error("extent {0} is empty, too long or out of order")]
    Order(usize),
    /// A byte that is none of its meanings.
    #[error("extent {0} holds what nobody knows")]
    Content(usize),
    /// More than [`DATA_BYTES_MAX`], or not what the extents say.
    #[error("{found} bytes of data: the extents say {expected}, and {DATA_BYTES_MAX} is the most")]
    Data {
        /// So many there are.
        found: usize,
        /// So many the extents say.
        expected: u64,
    },
    /// It is none of this group's.
    #[error(
        "blocks of {block_bytes} bytes, {blocks} in all and up to {end_blocks} of the row: the group has {fit}"
    )]
    Unfit {
        /// Size of its blocks.
        block_bytes: u32,
        /// Blocks of all extents.
        blocks: u64,
        /// Where the last one ends.
        end_blocks: u32,
        /// What the group has.
        fit: Fit,
    },
    /// It ends within its head.
    #[error("{0} bytes are too few")]
    Short(usize),
    /// A reserved byte is not zero.
    #[error("a reserved byte is not zero")]
    Reserved,
}

/// What nodes hand over of a group's rows, the same for all of them: what they have room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// The size of its blocks.
    pub block_size: BlockSize,
    /// Blocks of user data of a row.
    pub row_blocks: u32,
    /// Most blocks of all extents.
    pub blocks_max: u32,
}

impl std::fmt::Display for Fit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            block_size,
            row_blocks,
            blocks_max,
        } = self;
        let bytes = block_size.bytes();
        write!(f, "{bytes}, {blocks_max} at most and {row_blocks}")
    }
}

impl Fit {
    /// Whether a node may have handed this over: whoever takes it relies on that.
    pub fn check(&self, data: &HandedOver) -> Result<(), HandOverError> {
        let blocks = data.extents.iter().map(|extent| u64::from(extent.blocks)).sum();
        let end_blocks = data.end_blocks();
        let is_little = blocks <= u64::from(self.blocks_max) && end_blocks <= self.row_blocks;
        if data.block_size == self.block_size && is_little {
            return Ok(());
        }
        Err(HandOverError::Unfit {
            block_bytes: data.block_size.bytes(),
            blocks,
            end_blocks,
            fit: *self,
        })
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandedOver {
    block_size: BlockSize,
    extents: Vec<Extent>,
    bytes: Vec<u8>,
}

impl HandedOver {
    /// The extents in order of their blocks, none of which is in two of them, and the data of those that are pieces, one after the other.
    pub fn new(block_size: BlockSize, extents: Vec<Extent>, bytes: Vec<u8>) -> Result<Self, HandOverError> {
        if extents.is_empty() || extents.len() > EXTENTS_MAX {
            return Err(HandOverError::Extents(extents.len()));
        }
        let (mut end, mut expected) = (0, 0);
        for (at, extent) in extents.iter().enumerate() {
            let is_sound = extent.blocks > 0 && extent.start_blocks >= end;
            let extent_end = extent.start_blocks.checked_add(extent.blocks);
            end = extent_end.filter(|_| is_sound).ok_or(HandOverError::Order(at))?;
            expected += piece_bytes(block_size, extent);
        }
        let found = bytes.len();
        if found > DATA_BYTES_MAX || u64::try_from(found) != Ok(expected) {
            return Err(HandOverError::Data { found, expected });
        }
        Ok(Self {
            block_size,
            extents,
            bytes,
        })
    }

    /// The size of its blocks.
    pub const fn block_size(&self) -> BlockSize {
        self.block_size
    }

    /// The end of the last extent, in blocks from the start of the row's user data.
    pub fn end_blocks(&self) -> u32 {
        let last = self.extents.last().expect("there is an extent");
        last.start_blocks + last.blocks
    }

    /// Bytes of data.
    pub const fn data_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// All extents in order, with the data of those that are not zeroes.
    pub fn extents(&self) -> impl Iterator<Item = (Extent, Option<&[u8]>)> {
        let mut rest = &self.bytes[..];
        self.extents.iter().map(move |extent| {
            let length = usize::try_from(piece_bytes(self.block_size, extent));
            let (piece, behind) = rest.split_at(length.expect("its data is bounded"));
            rest = behind;
            let is_piece = matches!(extent.content, Content::Piece);
            (*extent, is_piece.then_some(piece))
        })
    }

    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let shift = u8::try_from(self.block_size.shift()).expect("a shift is small");
        let count = u8::try_from(self.extents.len()).expect("they are few");
        out.extend([shift, count, 0, 0, 0, 0, 0, 0]);
        for extent in &self.extents {
            out.extend(extent.start_blocks.to_le_bytes());
            out.extend(extent.blocks.to_le_bytes());
            let content = match extent.content {
                Content::Piece => 1,
                Content::Zeroes => 2,
            };
            out.extend([content, 0, 0, 0]);
        }
        out.extend(&self.bytes);
    }

    /// Reads it. Errs for everything that [`Self::encode`] would not have made.
    pub fn parse(bytes: &[u8]) -> Result<Self, HandOverError> {
        let short = HandOverError::Short(bytes.len());
        let (&[shift, count, reserved @ ..], rest) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(short)?;
        if reserved != [0; HEAD_BYTES - 2] {
            return Err(HandOverError::Reserved);
        }
        let block_bytes = 1_u32.checked_shl(u32::from(shift)).unwrap_or(0);
        let block_size = BlockSize::from_bytes(block_bytes).ok_or(HandOverError::BlockSize(shift))?;
        let count = usize::from(count);
        if count > EXTENTS_MAX {
            return Err(HandOverError::Extents(count));
        }
        let (extents, data) = rest.split_at_checked(count * EXTENT_BYTES).ok_or(short)?;
        let extents = extents.as_chunks::<EXTENT_BYTES>().0.iter().enumerate();
        let extents: Result<Vec<Extent>, HandOverError> = extents.map(parse_extent).collect();
        Self::new(block_size, extents?, data.to_vec())
    }
}

fn parse_extent((at, bytes): (usize, &[u8; EXTENT_BYTES])) -> Result<Extent, HandOverError> {
    let [s0, s1, s2, s3, b0, b1, b2, b3, content, reserved @ ..] = *bytes;
    if reserved != [0; 3] {
        return Err(HandOverError::Reserved);
    }
    Ok(Extent {
        start_blocks: u32::from_le_bytes([s0, s1, s2, s3]),
        blocks: u32::from_le_bytes([b0, b1, b2, b3]),
        content: match content {
            1 => Content::Piece,
            2 => Content::Zeroes,
            _ => return Err(HandOverError::Content(at)),
        },
    })
}

fn piece_bytes(block_size: BlockSize, extent: &Extent) -> u64 {
    match extent.content {
        Content::Piece => u64::from(extent.blocks) << block_size.shift(),
        Content::Zeroes => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::icl::link::random::Random;

    fn extent(start_blocks: u32, blocks: u32, content: Content) -> Extent {
        Extent {
            start_blocks,
            blocks,
            content,
        }
    }

    fn sample() -> HandedOver {
        let extents = vec![
            extent(3, 1, Content::Piece),
            extent(4, 5, Content::Zeroes),
            extent(20, 2, Content::Piece),
        ];
        let bytes = (0..3_u8).flat_map(|block| [block + 1; 512]).collect();
        HandedOver::new(BlockSize::B512, extents, bytes).unwrap()
    }

    fn bytes(data: &HandedOver) -> Vec<u8> {
        let mut bytes = Vec::new();
        data.encode(&mut bytes);
        bytes
    }

    #[test]
    fn what_is_written_is_read_and_its_pieces_are_found() {
        let data = sample();
        assert_eq!(HandedOver::parse(&bytes(&data)), Ok(data.clone()));
        let extents: Vec<_> = data.extents().collect();
        assert_eq!(extents[0], (extent(3, 1, Content::Piece), Some(&[1; 512][..])));
        assert_eq!(extents[1], (extent(4, 5, Content::Zeroes), None));
        assert_eq!(extents[2].1, Some(&[[2; 512], [3; 512]].concat()[..]));
        assert_eq!(
            (data.end_blocks(), data.data_bytes(), data.block_size()),
            (22, 1536, BlockSize::B512)
        );
    }

    #[test]
    fn the_longest_fits() {
        let extents = (0..8).map(|at| extent(at * 2, 1, Content::Piece)).collect();
        let data = HandedOver::new(BlockSize::B4096, extents, vec![7; DATA_BYTES_MAX]).unwrap();
        assert_eq!(bytes(&data).len(), HANDED_OVER_BYTES_MAX);
        assert_eq!(HandedOver::parse(&bytes(&data)), Ok(data));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let new = |extents: &[Extent], bytes: usize| {
            HandedOver::new(BlockSize::B512, extents.to_vec(), vec![0; bytes]).unwrap_err()
        };
        let zero = extent(0, 1, Content::Zeroes);
        assert_eq!(new(&[], 0), HandOverError::Extents(0));
        let nine: Vec<Extent> = (0..9).map(|at| extent(at, 1, Content::Zeroes)).collect();
        assert_eq!(new(&nine, 0), HandOverError::Extents(9));
        assert_eq!(new(&[extent(0, 0, Content::Zeroes)], 0), HandOverError::Order(0));
        assert_eq!(new(&[zero, zero], 0), HandOverError::Order(1), "twice");
        assert_eq!(
            new(&[extent(u32::MAX, 1, Content::Zeroes)], 0),
            HandOverError::Order(0)
        );
        let wrong = |found, expected| HandOverError::Data { found, expected };
        assert_eq!(new(&[zero], 512), wrong(512, 0));
        assert_eq!(new(&[extent(0, 2, Content::Piece)], 512), wrong(512, 1024));
        let long = DATA_BYTES_MAX + 512;
        assert_eq!(new(&[extent(0, 65, Content::Piece)], long), wrong(long, 65 * 512));
        let endless = extent(0, u32::MAX, Content::Piece);
        assert_eq!(new(&[endless], 0), wrong(0, u64::from(u32::MAX) * 512));
    }

    #[test]
    fn bad_bytes_say_what_is_wrong() {
        let change = |at: usize, to: u8| {
            let mut bytes = bytes(&sample());
            bytes[at] = to;
            HandedOver::parse(&bytes)
        };
        assert_eq!(change(0, 10), Err(HandOverError::BlockSize(10)));
        assert_eq!(change(0, 255), Err(HandOverError::BlockSize(255)));
        assert_eq!(change(1, 9), Err(HandOverError::Extents(9)));
        assert_eq!(change(7, 1), Err(HandOverError::Reserved));
        assert_eq!(change(8 + 8, 3), Err(HandOverError::Content(0)));
        assert_eq!(change(8 + 11, 3), Err(HandOverError::Reserved));
        assert_eq!(HandedOver::parse(&[9, 0, 0]), Err(HandOverError::Short(3)));
        assert_eq!(
            HandedOver::parse(&[9, 0, 0, 0, 0, 0, 0, 0]),
            Err(HandOverError::Extents(0))
        );
    }

    /// PROTOCOL H12: what has other blocks, is more than others have room for or goes beyond a row is none of the group's.
    #[test]
    fn what_does_not_fit_a_group_is_refused() {
        let fit = Fit {
            block_size: BlockSize::B512,
            row_blocks: 22,
            blocks_max: 8,
        };
        let sample = sample();
        assert_eq!(
            fit.check(&sample),
            Ok(()),
            "8 blocks, zeroes among them, up to block 22"
        );
        let unfit = |fit: Fit| {
            let unfit = HandOverError::Unfit {
                block_bytes: 512,
                blocks: 8,
                end_blocks: 22,
                fit,
            };
            assert_eq!(fit.check(&sample), Err(unfit));
        };
        unfit(Fit {
            row_blocks: 21,
            ..fit
        });
        unfit(Fit { blocks_max: 7, ..fit });
        let block_size = BlockSize::B4096;
        unfit(Fit { block_size, ..fit });
    }

    /// Every cut, every byte too many and most changes are refused; what is read is what would have been written.
    #[test]
    fn changed_bytes_are_refused_or_mean_what_they_say() {
        let sound = bytes(&sample());
        for end in 0..sound.len() {
            assert!(HandedOver::parse(&sound[..end]).is_err(), "{end}");
        }
        let longer = [&sound[..], &[0]].concat();
        assert!(HandedOver::parse(&longer).is_err());
        let mut random = Random::new(3);
        for _ in 0..20_000 {
            let mut changed = sound.clone();
            let at = random.index(8 + 3 * 12 + 4);
            changed[at] = u8::try_from(random.below(256)).unwrap();
            if let Ok(data) = HandedOver::parse(&changed) {
                assert_eq!(bytes(&data), changed);
            }
        }
    }
}
