//! Numbers that look random and follow from a seed, so that a run can be repeated. Not for secrets.

/// The generator SplitMix64: one addition and a few multiplications a number.
///
/// Source: Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014, figure 17.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator that always gives the same numbers for this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`, uniformly but for a bias of `bound` in 2^64. Panics if that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "there is no number below 0");
        let product = u128::from(self.draw()) * u128::from(bound);
        u64::try_from(product >> 64).expect("the upper half of 128 bits has 64")
    }

    /// True in `percent` of 100 cases.
    pub fn percent(&mut self, percent: u8) -> bool {
        self.below(100) < u64::from(percent)
    }
}

/// Spreads every bit of `value` over all bits.
pub fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_repeat_with_the_seed_and_fill_their_range() {
        let (mut one, mut two) = (Random::new(1), Random::new(1));
        let mut seen = [0_u32; 10];
        for _ in 0..10_000 {
            let number = one.below(10);
            assert_eq!(number, two.below(10));
            seen[usize::try_from(number).unwrap()] += 1;
        }
        assert!(seen.iter().all(|count| (800..1200).contains(count)), "{seen:?}");
        assert_ne!(Random::new(1).draw(), Random::new(2).draw());
    }

    #[test]
    fn percents_are_exact_at_both_ends() {
        let mut random = Random::new(3);
        assert!((0..1000).all(|_| random.percent(100) && !random.percent(0)));
    }
}
