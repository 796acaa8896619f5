//! Arithmetic of check data: GF(2^8), and the factors that regenerate lost strips.
//!
//! Check strip `i` of a row is the sum of `g^(i * c) * d_c` over the data columns `c`, with `g` = 2 and bytes as
//! polynomials over GF(2) modulo x^8 + x^4 + x^3 + x^2 + 1 (11Dh): the first one is plain parity, the first two are those of
//! RAID 6. Scalar and portable: the vector kernels are the runtime's, this says what they have to give.
//!
//! Source: H. Peter Anvin, "The mathematics of RAID-6" (20 December 2011), section 1 and its application to RAID-6.

use super::MEMBERS_MAX;

/// The field's polynomial without its leading term.
const POLYNOMIAL: u8 = 0x1D;

/// Most check strips of a row.
pub const CHECKS_MAX: usize = 3;

/// Powers of 2 and their exponents.
struct Tables {
    /// `exp[i]` is 2^i; twice round, so that a sum of two logarithms needs no remainder.
    exp: [u8; 510],
    /// `log[x]` for x > 0.
    log: [u8; 256],
}

static TABLES: Tables = Tables::new();

impl Tables {
    const fn new() -> Self {
        let mut exp = [0; 510];
        let mut log = [0; 256];
        let mut power = 1_u8;
        let mut exponent = 0_u8;
        while exponent < 255 {
            exp[exponent as usize] = power;
            exp[exponent as usize + 255] = power;
            log[power as usize] = exponent;
            power = double(power);
            exponent += 1;
        }
        Self { exp, log }
    }
}

const fn double(x: u8) -> u8 {
    let carry = if x & 0x80 == 0 { 0 } else { POLYNOMIAL };
    x << 1 ^ carry
}

/// The product of two elements.
pub fn mul(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        return 0;
    }
    let sum = usize::from(TABLES.log[usize::from(a)]) + usize::from(TABLES.log[usize::from(b)]);
    TABLES.exp[sum]
}

/// The element that gives 1 when multiplied with this one.
///
/// Panics for 0, which has none.
pub fn inverse(a: u8) -> u8 {
    assert_ne!(a, 0, "zero has no inverse");
    TABLES.exp[255 - usize::from(TABLES.log[usize::from(a)])]
}

/// The factor of data column `column` in check strip `check`: `2^(check * column)`.
pub fn factor(check: u8, column: u8) -> u8 {
    let exponent = usize::from(check) * usize::from(column);
    TABLES.exp[exponent % 255]
}

/// `into ^= factor * from`, byte by byte.
///
/// Panics if the lengths differ.
pub fn mul_add_bytes(into: &mut [u8], from: &[u8], factor: u8) {
    assert_eq!(into.len(), from.len(), "both sides have one length");
    if factor == 1 {
        for (into, from) in into.iter_mut().zip(from) {
            *into ^= from;
        }
        return;
    }
    let mut products = [0; 256];
    for (product, value) in products.iter_mut().zip(0..=u8::MAX) {
        *product = mul(factor, value);
    }
    for (into, from) in into.iter_mut().zip(from) {
        *into ^= products[usize::from(*from)];
    }
}

/// How lost data columns of a row come from its other strips: a factor for each pair of a lost column and a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solution {
    /// The lost columns, ascending, in the first `count` places.
    columns: [u8; CHECKS_MAX],
    /// The check strips that are read in their place.
    checks: [u8; CHECKS_MAX],
    count: usize,
    /// Row `i` gives lost column `i` from the sums that the check strips leave when the live columns are taken out.
    weights: [[u8; CHECKS_MAX]; CHECKS_MAX],
}

impl Solution {
    /// Solves for the data columns in `lost` by the first check strips in `live_checks`; both are masks. `None` if there are fewer
    /// check strips than lost columns.
    ///
    /// Panics if more than three columns are lost or a column is 31 or more: no level with check strips has such.
    pub fn new(lost: u32, live_checks: u8) -> Option<Self> {
        assert!(
            lost >> (MEMBERS_MAX - 1) == 0,
            "a row with check strips has at most 31 data columns"
        );
        let mut columns = [0; CHECKS_MAX];
        let mut checks = [0; CHECKS_MAX];
        let count = lost.count_ones() as usize;
        if count > (live_checks.count_ones() as usize).min(CHECKS_MAX) {
            return None;
        }
        for (place, column) in columns.iter_mut().zip((0..32).filter(|c| lost >> c & 1 == 1)) {
            *place = column;
        }
        for (place, check) in checks
            .iter_mut()
            .zip((0..8).filter(|c| live_checks >> c & 1 == 1))
        {
            *place = check;
        }
        let mut matrix = [[0; CHECKS_MAX]; CHECKS_MAX];
        for (line, check) in matrix.iter_mut().zip(&checks[..count]) {
            for (cell, column) in line.iter_mut().zip(&columns[..count]) {
                *cell = factor(*check, *column);
            }
        }
        Some(Self {
            columns,
            checks,
            count,
            weights: invert(matrix, count),
        })
    }

    /// The lost columns, ascending.
    pub fn columns(&self) -> &[u8] {
        &self.columns[..self.count]
    }

    /// The check strips that are read, ascending: as many as columns are lost.
    pub fn checks(&self) -> &[u8] {
        &self.checks[..self.count]
    }

    /// The factor of the check strip `checks()[source]` in lost column `columns()[lost]`; may be 0.
    pub fn check_factor(&self, lost: usize, source: usize) -> u8 {
        assert!(lost < self.count && source < self.count, "a square of factors");
        self.weights[lost][source]
    }

    /// The factor of a live data column in lost column `columns()[lost]`; may be 0.
    pub fn column_factor(&self, lost: usize, column: u8) -> u8 {
        assert!(!self.columns().contains(&column), "a lost column is no source");
        let terms = self.weights[lost].iter().zip(self.checks());
        terms.fold(0, |sum, (weight, check)| {
            sum ^ mul(*weight, factor(*check, column))
        })
    }
}

/// Gauss and Jordan, on the upper left `size` by `size` cells.
///
/// Panics if there is no inverse. Rows `i` of powers `x^i` for up to three different `x`, of which any are left out: all
/// determinants of up to three columns below 31 are products of sums of different powers of 2, none of them zero.
fn invert(mut matrix: [[u8; CHECKS_MAX]; CHECKS_MAX], size: usize) -> [[u8; CHECKS_MAX]; CHECKS_MAX] {
    let mut inverse_of = [[0; CHECKS_MAX]; CHECKS_MAX];
    for (at, line) in inverse_of.iter_mut().enumerate() {
        line[at] = 1;
    }
    for pivot in 0..size {
        let found = (pivot..size).find(|line| matrix[*line][pivot] != 0);
        let line = found.expect("different columns have independent factors");
        matrix.swap(pivot, line);
        inverse_of.swap(pivot, line);
        let scale = inverse(matrix[pivot][pivot]);
        for at in 0..size {
            matrix[pivot][at] = mul(matrix[pivot][at], scale);
            inverse_of[pivot][at] = mul(inverse_of[pivot][at], scale);
        }
        for other in (0..size).filter(|other| *other != pivot) {
            let weight = matrix[other][pivot];
            for at in 0..size {
                matrix[other][at] ^= mul(weight, matrix[pivot][at]);
                inverse_of[other][at] ^= mul(weight, inverse_of[pivot][at]);
            }
        }
    }
    inverse_of
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Multiplication bit by bit, as the polynomial says.
    fn slow_mul(mut a: u8, mut b: u8) -> u8 {
        let mut sum = 0;
        while b != 0 {
            if b & 1 == 1 {
                sum ^= a;
            }
            a = double(a);
            b >>= 1;
        }
        sum
    }

    #[test]
    fn products_are_those_of_the_polynomial() {
        for a in 0..=255 {
            for b in 0..=255 {
                assert_eq!(mul(a, b), slow_mul(a, b), "{a} * {b}");
            }
            if a != 0 {
                assert_eq!(mul(a, inverse(a)), 1);
            }
        }
        assert_eq!((mul(0x80, 2), factor(1, 8), factor(2, 4)), (0x1D, 0x1D, 0x1D));
    }

    #[test]
    fn bytes_are_multiplied_one_by_one() {
        let from: Vec<u8> = (0..=255).collect();
        for factor in 0..=255 {
            let mut into: Vec<u8> = (0..=255).rev().collect();
            mul_add_bytes(&mut into, &from, factor);
            for value in 0..=255_u8 {
                assert_eq!(into[usize::from(value)], (255 - value) ^ slow_mul(factor, value));
            }
        }
    }

    /// CHECKLIST D2: every loss of up to three columns of up to 31, by every choice of check strips that are left.
    #[test]
    fn every_loss_has_a_solution() {
        let data: Vec<u8> = (0..31).map(|c: u8| c.wrapping_mul(89) ^ 0xA5).collect();
        let checks: Vec<u8> = (0..3)
            .map(|i| (0..31).fold(0, |sum, c| sum ^ mul(factor(i, c), data[usize::from(c)])))
            .collect();
        let check = |lost: u32| {
            for live in 0..8_u8 {
                let solution = Solution::new(lost, live);
                if live.count_ones() < lost.count_ones() {
                    assert_eq!(solution, None);
                    continue;
                }
                let solution = solution.expect("enough check strips");
                for (i, column) in solution.columns().iter().enumerate() {
                    let mut sum = 0;
                    for (j, check) in solution.checks().iter().enumerate() {
                        sum ^= mul(solution.check_factor(i, j), checks[usize::from(*check)]);
                    }
                    for live in (0..31).filter(|c| lost >> c & 1 == 0) {
                        sum ^= mul(solution.column_factor(i, live), data[usize::from(live)]);
                    }
                    assert_eq!(sum, data[usize::from(*column)]);
                }
            }
        };
        for a in 0..31 {
            for b in a..31 {
                for c in b..31 {
                    check(1 << a | 1 << b | 1 << c);
                }
            }
        }
        check(0);
    }
}
