//! A buddy allocator over pages: blocks are powers of two, aligned to their size, joined again when both halves are free.

use super::PAGE_BYTES;

/// Orders 0 (one page, 4 KiB) to 14 (16,384 pages, 64 MiB).
const ORDERS: usize = 15;
/// Bytes of the largest block.
pub(super) const BLOCK_BYTES_MAX: u32 = PAGE_BYTES << (ORDERS - 1);
/// Order of a huge page, the unit in which an arena grows.
const ORDER_HUGE: usize = 9;
/// No page: the end of a list.
const NONE: u32 = u32::MAX;
/// `Page::allocated` of a page that is in no allocated block.
const FREE: u8 = 0;

#[derive(Clone, Copy)]
struct Page {
    /// In an allocated block: its order and one. Otherwise `FREE`.
    allocated: u8,
    /// In the first page of a free block: its order and one. Otherwise 0.
    free_head: u8,
    /// In the first page of a free block: its neighbours in the list of its order.
    previous: u32,
    next: u32,
}

/// Which pages are allocated. All its memory is laid out at the start; both operations are O(`ORDERS`) and O(pages).
pub(super) struct Buddy {
    pages: Vec<Page>,
    /// The first free block of each order.
    heads: [u32; ORDERS],
    used_pages: u32,
}

impl Buddy {
    /// All `page_count` pages free; whole huge pages.
    pub(super) fn new(page_count: u32) -> Self {
        assert!(page_count.is_multiple_of(1 << ORDER_HUGE));
        let page = Page {
            allocated: FREE,
            free_head: 0,
            previous: NONE,
            next: NONE,
        };
        let mut buddy = Self {
            pages: vec![page; page_count as usize],
            heads: [NONE; ORDERS],
            used_pages: 0,
        };
        let mut first = 0;
        while first < page_count {
            let fits = |order: &usize| first.is_multiple_of(1 << order) && page_count - first >= 1 << order;
            let order = (ORDER_HUGE..ORDERS)
                .rev()
                .find(fits)
                .expect("whole huge pages are left");
            buddy.push(first, order);
            first += 1 << order;
        }
        buddy
    }

    /// Pages in allocated blocks.
    pub(super) fn used_pages(&self) -> u32 {
        self.used_pages
    }

    /// The first page of a block of at least `page_count` pages.
    pub(super) fn alloc(&mut self, page_count: u32) -> Option<u32> {
        let wanted = order_of(page_count);
        let found = (wanted..ORDERS).find(|&order| self.heads[order] != NONE)?;
        let page = self.heads[found];
        self.remove(page, found);
        for order in (wanted..found).rev() {
            self.push(page + (1 << order), order);
        }
        self.mark(page, wanted, order_tag(wanted));
        self.used_pages += 1 << wanted;
        Some(page)
    }

    /// Frees the block of `page_count` pages at `page`. Panics unless exactly that block is allocated.
    pub(super) fn free(&mut self, page: u32, page_count: u32) {
        let mut order = order_of(page_count);
        let mut page = page;
        assert_eq!(
            self.pages[page as usize].allocated,
            order_tag(order),
            "only an allocated block is freed, as a whole"
        );
        assert!(page.is_multiple_of(1 << order), "a block is aligned to its size");
        self.mark(page, order, FREE);
        self.used_pages -= 1 << order;
        while order < ORDERS - 1 {
            let buddy = page ^ (1 << order);
            let is_free = |page: &Page| page.free_head == order_tag(order);
            if !self.pages.get(buddy as usize).is_some_and(is_free) {
                break;
            }
            self.remove(buddy, order);
            page = page.min(buddy);
            order += 1;
        }
        self.push(page, order);
    }

    /// Whether `count` pages from `first` lie in one allocated block.
    pub(super) fn is_allocated(&self, first: usize, count: usize) -> bool {
        let Some(page) = self.pages.get(first) else {
            return false;
        };
        if page.allocated == FREE {
            return false;
        }
        let block_pages = 1_usize << (page.allocated - 1);
        first % block_pages + count <= block_pages
    }

    fn mark(&mut self, page: u32, order: usize, tag: u8) {
        let page = page as usize;
        for page in &mut self.pages[page..page + (1 << order)] {
            page.allocated = tag;
        }
    }

    fn push(&mut self, page: u32, order: usize) {
        let next = self.heads[order];
        let entry = &mut self.pages[page as usize];
        assert_eq!(entry.free_head, 0, "a block is in one list");
        *entry = Page {
            allocated: FREE,
            free_head: order_tag(order),
            previous: NONE,
            next,
        };
        if next != NONE {
            self.pages[next as usize].previous = page;
        }
        self.heads[order] = page;
    }

    fn remove(&mut self, page: u32, order: usize) {
        let Page {
            previous,
            next,
            free_head,
            ..
        } = self.pages[page as usize];
        assert_eq!(free_head, order_tag(order), "the block is in this list");
        self.pages[page as usize].free_head = 0;
        if next != NONE {
            self.pages[next as usize].previous = previous;
        }
        if previous == NONE {
            assert_eq!(self.heads[order], page);
            self.heads[order] = next;
        } else {
            self.pages[previous as usize].next = next;
        }
    }
}

/// The order of the smallest block that holds `page_count` pages.
fn order_of(page_count: u32) -> usize {
    assert!(page_count > 0 && page_count <= BLOCK_BYTES_MAX / PAGE_BYTES);
    page_count.next_power_of_two().trailing_zeros() as usize
}

fn order_tag(order: usize) -> u8 {
    u8::try_from(order + 1).expect("orders are less than ten")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const BLOCK_PAGES_MAX: u32 = 1 << ORDER_HUGE;

    fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    /// Goal: blocks never overlap, are aligned, and everything joins again.
    /// Method: random allocations against a map of what is allocated.
    #[test]
    fn blocks_never_overlap_and_join_again() {
        let page_count = 4 * BLOCK_PAGES_MAX;
        for seed in 1..20_u64 {
            let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mut buddy = Buddy::new(page_count);
            let mut held: BTreeMap<u32, u32> = BTreeMap::new();
            for _ in 0..3000 {
                if random(&mut state).is_multiple_of(2) {
                    let wanted = 1 + u32::try_from(
                        random(&mut state) % u64::from(BLOCK_PAGES_MAX >> (random(&mut state) % 10)),
                    )
                    .unwrap();
                    let size = wanted.next_power_of_two();
                    let Some(page) = buddy.alloc(wanted) else {
                        assert!(
                            !(0..page_count / size).any(|at| free_between(&held, at * size, size)),
                            "a block was free"
                        );
                        continue;
                    };
                    assert!(page.is_multiple_of(size) && free_between(&held, page, size));
                    held.insert(page, wanted);
                } else if let Some((&page, &wanted)) = held
                    .range(u32::try_from(random(&mut state) % 2048).unwrap()..)
                    .next()
                {
                    held.remove(&page);
                    buddy.free(page, wanted);
                }
                let used: u32 = held.values().map(|wanted| wanted.next_power_of_two()).sum();
                assert_eq!(buddy.used_pages(), used);
            }
            for (page, wanted) in std::mem::take(&mut held) {
                buddy.free(page, wanted);
            }
            for _ in 0..4 {
                assert!(
                    buddy.alloc(BLOCK_PAGES_MAX).is_some(),
                    "everything joined to the largest blocks"
                );
            }
            assert_eq!(buddy.alloc(1), None);
        }
    }

    fn free_between(held: &BTreeMap<u32, u32>, page: u32, count: u32) -> bool {
        held.iter()
            .all(|(&at, wanted)| at + wanted.next_power_of_two() <= page || page + count <= at)
    }

    #[test]
    fn allocated_means_inside_of_one_block() {
        let mut buddy = Buddy::new(BLOCK_PAGES_MAX);
        let a = buddy.alloc(4).unwrap() as usize;
        let b = buddy.alloc(4).unwrap() as usize;
        assert_eq!(a + 4, b);
        assert!(buddy.is_allocated(a, 4));
        assert!(buddy.is_allocated(a + 1, 3));
        assert!(!buddy.is_allocated(a + 1, 4), "the end is in the next block");
        buddy.free(u32::try_from(a).unwrap(), 4);
        assert!(!buddy.is_allocated(a, 1));
        assert!(!buddy.is_allocated(1 << 20, 1), "outside of the arena");
    }

    #[test]
    #[should_panic(expected = "only an allocated block")]
    fn freeing_twice_panics() {
        let mut buddy = Buddy::new(BLOCK_PAGES_MAX);
        let page = buddy.alloc(2).unwrap();
        buddy.free(page, 2);
        buddy.free(page, 2);
    }
}
