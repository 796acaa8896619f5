//! A table of what is known of resources, by their number.
//!
//! Owns slots that keep their index as long as they are used, so that a pass over the table can be interrupted, and chains of slots by a
//! hash of the resource. Its memory is laid out for a limit; it grows beyond that only if its owner puts more into it, which an arbiter does for
//! what its peers hold already.

use std::hash::{Hash, Hasher};

use super::name::Resource;

/// The end of a chain.
const NONE: u32 = u32::MAX;

#[derive(Clone, Debug)]
struct Place<T> {
    /// The next one in the chain of its bucket, or in the list of free ones.
    next: u32,
    used: Option<(Resource, T)>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Table<T> {
    buckets: Vec<u32>,
    places: Vec<Place<T>>,
    free: u32,
    count: usize,
    limit: usize,
}

impl<T> Table<T> {
    /// Memory of one place, its bucket included.
    #[cfg(test)]
    pub const PLACE_BYTES: usize = size_of::<Place<T>>() + 2 * size_of::<u32>();

    /// An empty table with room for `limit`. Panics unless that is in `1..2^31`.
    pub fn new(limit: usize) -> Self {
        assert!(limit > 0 && limit < 1 << 31, "a table has a size");
        Self {
            buckets: vec![NONE; limit.next_power_of_two()],
            places: Vec::with_capacity(limit),
            free: NONE,
            count: 0,
            limit,
        }
    }

    /// How many there are.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Whether there are as many as it was laid out for.
    pub const fn is_full(&self) -> bool {
        self.count >= self.limit
    }

    /// The end of all indices of [`Self::at`].
    pub const fn end(&self) -> usize {
        self.places.len()
    }

    /// What is at an index.
    pub fn at(&self, index: usize) -> Option<(Resource, &T)> {
        let (resource, value) = self.places.get(index)?.used.as_ref()?;
        Some((*resource, value))
    }

    /// What is at an index, to be changed.
    pub fn at_mut(&mut self, index: usize) -> Option<(Resource, &mut T)> {
        let (resource, value) = self.places.get_mut(index)?.used.as_mut()?;
        Some((*resource, value))
    }

    /// What is known of a resource.
    pub fn get(&self, resource: Resource) -> Option<&T> {
        let (_, value) = self.at(self.find(resource)?)?;
        Some(value)
    }

    /// What is known of a resource, to be changed.
    pub fn get_mut(&mut self, resource: Resource) -> Option<&mut T> {
        let index = self.find(resource)?;
        let (_, value) = self.at_mut(index)?;
        Some(value)
    }

    /// Everything, by index.
    pub fn iter(&self) -> impl Iterator<Item = (Resource, &T)> {
        (0..self.end()).filter_map(|index| self.at(index))
    }

    /// Adds what is known of a resource, of which nothing was known. Panics otherwise.
    pub fn insert(&mut self, resource: Resource, value: T) -> &mut T {
        assert!(self.find(resource).is_none(), "a resource is in a table once");
        let bucket = self.bucket(resource);
        let used = Some((resource, value));
        let next = self.buckets[bucket];
        let index = self.free;
        let index = if let Some(place) = self.places.get_mut(index as usize) {
            self.free = place.next;
            *place = Place { next, used };
            index
        } else {
            let index = u32::try_from(self.places.len()).expect("a table has fewer than 2^32 places");
            self.places.push(Place { next, used });
            index
        };
        self.buckets[bucket] = index;
        self.count += 1;
        let (_, value) = self.at_mut(index as usize).expect("it was put there");
        value
    }

    /// Forgets a resource.
    pub fn remove(&mut self, resource: Resource) -> Option<T> {
        let index = u32::try_from(self.find(resource)?).expect("a table has fewer than 2^32 places");
        let bucket = self.bucket(resource);
        let next = self.places[index as usize].next;
        if self.buckets[bucket] == index {
            self.buckets[bucket] = next;
        } else {
            let mut before = self.buckets[bucket] as usize;
            while self.places[before].next != index {
                before = self.places[before].next as usize;
            }
            self.places[before].next = next;
        }
        let place = &mut self.places[index as usize];
        place.next = self.free;
        self.free = index;
        self.count -= 1;
        place.used.take().map(|(_, value)| value)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.buckets.fill(NONE);
        self.places.clear();
        self.free = NONE;
        self.count = 0;
    }

    fn find(&self, resource: Resource) -> Option<usize> {
        let mut index = self.buckets[self.bucket(resource)];
        while let Some(place) = self.places.get(index as usize) {
            if place.used.as_ref().is_some_and(|(used, _)| *used == resource) {
                return Some(index as usize);
            }
            index = place.next;
        }
        None
    }

    fn bucket(&self, resource: Resource) -> usize {
        // A product with an odd number, of which the upper half is the most mixed.
        let mixed = resource.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        usize::try_from(mixed).expect("32 bits are an index") & (self.buckets.len() - 1)
    }
}

/// Two tables that know the same are the same, wherever in them it lies.
impl<T: Hash> Hash for Table<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut all: Vec<(Resource, &T)> = self.iter().collect();
        all.sort_unstable_by_key(|(resource, _)| *resource);
        all.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::hash::DefaultHasher;

    use super::*;
    use crate::icl::link::random::Random;

    fn digest(table: &Table<u64>) -> u64 {
        let mut hasher = DefaultHasher::new();
        table.hash(&mut hasher);
        hasher.finish()
    }

    #[test]
    fn it_is_a_map_whatever_is_put_in_and_taken_out() {
        let mut random = Random::new(1);
        let (mut table, mut map) = (Table::new(16), BTreeMap::new());
        for step in 0..20_000 {
            let resource = Resource(random.below(40) << (random.below(3) * 20));
            match (random.chance(550), table.get(resource).is_some()) {
                (true, false) => {
                    table.insert(resource, step);
                    map.insert(resource, step);
                }
                (true, true) => *table.get_mut(resource).unwrap() += 1,
                (false, _) => assert_eq!(table.remove(resource).is_some(), map.remove(&resource).is_some()),
            }
            if let Some(value) = table.get(resource) {
                map.insert(resource, *value);
            }
            assert_eq!((table.count(), table.is_full()), (map.len(), map.len() >= 16));
        }
        let mut found: Vec<(Resource, u64)> =
            table.iter().map(|(resource, value)| (resource, *value)).collect();
        found.sort_unstable();
        assert_eq!(found, map.into_iter().collect::<Vec<_>>());
        table.clear();
        assert_eq!((table.count(), table.iter().count()), (0, 0));
    }

    #[test]
    fn an_index_is_kept_and_used_again() {
        let mut table = Table::new(4);
        for number in 0..4 {
            table.insert(Resource(number), number);
        }
        table.remove(Resource(1));
        assert_eq!(table.at(2), Some((Resource(2), &2)));
        table.insert(Resource(77), 9);
        assert_eq!((table.at(1), table.end()), (Some((Resource(77), &9)), 4));
    }

    #[test]
    fn the_order_of_insertion_is_no_difference() {
        let (mut one, mut other) = (Table::new(4), Table::new(4));
        for number in 0..3 {
            one.insert(Resource(number), number);
            other.insert(Resource(2 - number), 2 - number);
        }
        assert_eq!(digest(&one), digest(&other));
        other.remove(Resource(0));
        assert_ne!(digest(&one), digest(&other));
    }
}
