//! First-in first-out lists threaded through a slab, so that waiting takes no memory.

/// No entry.
const NONE: u32 = u32::MAX;

/// The links of one slab: each entry can be in one list at a time.
#[derive(Debug)]
pub struct Links(Box<[Link]>);

#[derive(Clone, Copy, Debug)]
struct Link {
    previous: u32,
    next: u32,
    listed: bool,
}

/// One list; its entries are indices of the slab.
#[derive(Clone, Copy, Debug)]
pub struct List {
    head: u32,
    tail: u32,
}

impl List {
    pub const EMPTY: Self = Self {
        head: NONE,
        tail: NONE,
    };

    pub fn first(&self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }

    pub fn is_empty(&self) -> bool {
        self.head == NONE
    }
}

impl Links {
    pub fn new(entries: u32) -> Self {
        assert!(entries < NONE, "the last index means no entry");
        Self(
            (0..entries)
                .map(|_| Link {
                    previous: NONE,
                    next: NONE,
                    listed: false,
                })
                .collect(),
        )
    }

    pub fn is_listed(&self, entry: u32) -> bool {
        self.0[entry as usize].listed
    }

    pub fn next(&self, entry: u32) -> Option<u32> {
        let next = self.0[entry as usize].next;
        (next != NONE).then_some(next)
    }

    pub fn push_back(&mut self, list: &mut List, entry: u32) {
        self.insert(entry, list.tail, NONE);
        match list.tail {
            NONE => list.head = entry,
            tail => self.0[tail as usize].next = entry,
        }
        list.tail = entry;
    }

    pub fn push_front(&mut self, list: &mut List, entry: u32) {
        self.insert(entry, NONE, list.head);
        match list.head {
            NONE => list.tail = entry,
            head => self.0[head as usize].previous = entry,
        }
        list.head = entry;
    }

    /// Takes an entry out. Panics if it is in no list; that it is in this one is for the caller to know.
    pub fn remove(&mut self, list: &mut List, entry: u32) {
        let Link {
            previous,
            next,
            listed,
        } = self.0[entry as usize];
        assert!(listed, "an entry that is taken out is in a list");
        match previous {
            NONE => list.head = next,
            previous => self.0[previous as usize].next = next,
        }
        match next {
            NONE => list.tail = previous,
            next => self.0[next as usize].previous = previous,
        }
        self.0[entry as usize] = Link {
            previous: NONE,
            next: NONE,
            listed: false,
        };
    }

    fn insert(&mut self, entry: u32, previous: u32, next: u32) {
        let link = &mut self.0[entry as usize];
        assert!(!link.listed, "an entry is in one list at a time");
        *link = Link {
            previous,
            next,
            listed: true,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(links: &Links, list: &List) -> Vec<u32> {
        let mut entries = Vec::new();
        let mut next = list.first();
        while let Some(entry) = next {
            entries.push(entry);
            next = links.next(entry);
        }
        entries
    }

    #[test]
    fn entries_come_out_in_order_and_from_the_middle() {
        let mut links = Links::new(5);
        let mut list = List::EMPTY;
        for entry in [3, 1, 4] {
            links.push_back(&mut list, entry);
        }
        links.push_front(&mut list, 0);
        assert_eq!(all(&links, &list), [0, 3, 1, 4]);
        links.remove(&mut list, 1);
        assert_eq!(all(&links, &list), [0, 3, 4]);
        links.remove(&mut list, 4);
        links.push_back(&mut list, 1);
        links.remove(&mut list, 0);
        assert_eq!(all(&links, &list), [3, 1]);
        links.remove(&mut list, 3);
        links.remove(&mut list, 1);
        assert!(list.is_empty() && !links.is_listed(1));
    }
}
