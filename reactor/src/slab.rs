//! A table whose keys carry a generation: a key that was removed never finds what took its place.

/// Names one value for as long as it is in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) index: u32,
    generation: u32,
}

impl Key {
    /// Both halves in one number, as the kernel carries it through a completion; bit 63 is zero.
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The reverse of `to_bits`.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the number is two halves of 32 bits"
    )]
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self {
            index: bits as u32,
            generation: (bits >> 32) as u32,
        }
    }
}

#[derive(Debug)]
enum Content<T> {
    Value(T),
    /// The index of the next free entry.
    Free(u32),
}

#[derive(Debug)]
struct Entry<T> {
    /// Counts the values that were removed from here; it wraps after `GENERATION_MASK`.
    generation: u32,
    content: Content<T>,
}

const NONE: u32 = u32::MAX;
/// Generations have 31 bits: the highest bit of a key's 64 is left to whoever carries keys around.
const GENERATION_MASK: u32 = u32::MAX >> 1;

/// Values of one type, at most `limit` of them. It allocates only when it holds more than ever before.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    entries: Vec<Entry<T>>,
    first_free: u32,
    len: u32,
    limit: u32,
}

impl<T> Slab<T> {
    pub(crate) fn new(limit: u32) -> Self {
        assert!(limit > 0 && limit < NONE);
        Self {
            entries: Vec::new(),
            first_free: NONE,
            len: 0,
            limit,
        }
    }

    /// Values in the table.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Puts `value` in, or gives it back when the table is full.
    pub(crate) fn insert(&mut self, value: T) -> Result<Key, T> {
        if self.len == self.limit {
            return Err(value);
        }
        self.len += 1;
        if self.first_free == NONE {
            let index = u32::try_from(self.entries.len()).expect("fewer than the limit");
            self.entries.push(Entry {
                generation: 0,
                content: Content::Value(value),
            });
            return Ok(Key { index, generation: 0 });
        }
        let index = self.first_free;
        let entry = &mut self.entries[index as usize];
        let Content::Free(next) = std::mem::replace(&mut entry.content, Content::Value(value)) else {
            unreachable!("the free list holds free entries");
        };
        self.first_free = next;
        Ok(Key {
            index,
            generation: entry.generation,
        })
    }

    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        match self.entries.get(key.index as usize)? {
            Entry {
                generation,
                content: Content::Value(value),
            } if *generation == key.generation => Some(value),
            Entry { .. } => None,
        }
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.entries.get_mut(key.index as usize)? {
            Entry {
                generation,
                content: Content::Value(value),
            } if *generation == key.generation => Some(value),
            Entry { .. } => None,
        }
    }

    /// Takes the value out; its key, and copies of it, find nothing from here on.
    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        let entry = &mut self.entries[key.index as usize];
        entry.generation = (entry.generation + 1) & GENERATION_MASK;
        let content = std::mem::replace(&mut entry.content, Content::Free(self.first_free));
        self.first_free = key.index;
        self.len -= 1;
        match content {
            Content::Value(value) => Some(value),
            Content::Free(_) => unreachable!("`get` found a value"),
        }
    }

    /// The keys of all values, in order of their places.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        (0..)
            .zip(&self.entries)
            .filter_map(|(index, entry)| match entry.content {
                Content::Value(_) => Some(Key {
                    index,
                    generation: entry.generation,
                }),
                Content::Free(_) => None,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_key_finds_nothing_although_its_place_is_taken() {
        let mut slab = Slab::new(2);
        let a = slab.insert('a').unwrap();
        let b = slab.insert('b').unwrap();
        assert_eq!(slab.insert('c'), Err('c'));
        assert_eq!(slab.remove(a), Some('a'));
        assert_eq!(slab.remove(a), None);
        let c = slab.insert('c').unwrap();
        assert_eq!(c.index, a.index);
        assert_eq!(
            (slab.get(a), slab.get(b), slab.get(c)),
            (None, Some(&'b'), Some(&'c'))
        );
        assert_eq!(slab.get_mut(a), None);
        assert_eq!(slab.len(), 2);
        assert_eq!(slab.keys().collect::<Vec<_>>(), [c, b]);
        assert_eq!(Key::from_bits(c.to_bits()), c);
    }
}
