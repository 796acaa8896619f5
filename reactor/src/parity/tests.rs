//! Every kernel against the obvious loop, and strips that are lost and come back.

use super::*;

/// The product in GF(2^8), as the definition has it: multiply polynomials over GF(2), then reduce by 0x11D. It shares
/// nothing with the kernels' tables.
fn product(a: u8, b: u8) -> u8 {
    let mut product = 0_u16;
    for bit in 0..8 {
        if b >> bit & 1 == 1 {
            product ^= u16::from(a) << bit;
        }
    }
    for bit in (8..15).rev() {
        if product >> bit & 1 == 1 {
            product ^= 0x11D << (bit - 8);
        }
    }
    u8::try_from(product).expect("reduced below degree 8")
}

fn pattern(seed: usize, length: usize) -> Vec<u8> {
    let mut state = (seed as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

const GUARD: u8 = 0xA5;

/// One case: what goes in, where the outputs start in a line of 64 bytes, and how they are computed.
struct Case<'a> {
    kernels: Kernels,
    sources: &'a [&'a [u8]],
    factors: &'a [u8],
    align: usize,
}

/// All products: the obvious loop would take minutes to compute them one by one.
fn products() -> Vec<[u8; 256]> {
    (0..=255)
        .map(|a| {
            let mut row = [0; 256];
            row.iter_mut()
                .zip(0..=255)
                .for_each(|(place, b)| *place = product(a, b));
            row
        })
        .collect()
}

/// What the outputs of `case` have to be, by the obvious loop.
fn expected(case: &Case<'_>, products: &[[u8; 256]]) -> Vec<Vec<u8>> {
    let rows = case.factors.chunks_exact(case.sources.len());
    rows.map(|factors| {
        let mut sum = vec![0; case.sources[0].len()];
        for (source, factor) in case.sources.iter().zip(factors) {
            let times = &products[usize::from(*factor)];
            for (sum, byte) in sum.iter_mut().zip(*source) {
                *sum ^= times[usize::from(*byte)];
            }
        }
        sum
    })
    .collect()
}

/// Overwrites, then accumulates: outputs must be `sums`, then zero, and the bytes around them must stay.
fn check(case: &Case<'_>, sums: &[Vec<u8>], rooms: &mut [Vec<u8>]) {
    let length = sums[0].len();
    let places: Vec<usize> = rooms
        .iter()
        .enumerate()
        .map(|(index, room)| room.as_ptr().align_offset(64) + (case.align * (index + 1)) % 64)
        .collect();
    rooms.iter_mut().for_each(|room| room.fill(GUARD));
    for accumulate in [false, true] {
        let mut outputs: Vec<&mut [u8]> = rooms
            .iter_mut()
            .take(sums.len())
            .zip(&places)
            .map(|(room, place)| &mut room[*place..*place + length])
            .collect();
        case.kernels
            .combine(&mut outputs, case.sources, case.factors, accumulate);
        for ((room, place), sum) in rooms.iter().zip(&places).zip(sums) {
            let output = &room[*place..*place + length];
            let right = if accumulate {
                output.iter().all(|byte| *byte == 0)
            } else {
                output == sum
            };
            let around = room[..*place].iter().chain(&room[*place + length..]);
            assert!(
                right && around.copied().all(|byte| byte == GUARD),
                "{:?}, {length} bytes at {}, {} outputs, {} sources, factors {:?}, accumulate {accumulate}",
                case.kernels,
                case.align,
                sums.len(),
                case.sources.len(),
                case.factors,
            );
        }
    }
}

/// Every kernel and its streaming sibling, which has the same name. Says which ones this CPU lacks.
fn all() -> Vec<Kernels> {
    let kernels = Kernels::all_supported();
    for name in ["portable", "avx2", "avx512+gfni"] {
        if kernels.iter().all(|kernels| kernels.name() != name) {
            println!("skipped: this CPU has no {name}");
        }
    }
    let streaming = kernels.iter().map(|kernels| Kernels {
        combine: kernels.combine_streaming,
        ..*kernels
    });
    streaming.chain(kernels.iter().copied()).collect()
}

#[test]
fn the_scalar_field_is_the_one_that_its_definition_says() {
    for a in 0..=255 {
        assert_eq!(field::double(a), product(a, 2));
        for b in 0..=255 {
            assert_eq!(field::multiply(a, b), product(a, b), "{a} * {b}");
        }
    }
}

/// Goal: every factor times every byte is right, in each of the three outputs and in the last bytes of a length.
/// Method: one source holds all bytes five times and a few more, and goes through all 256 factors.
#[test]
fn every_kernel_multiplies_every_byte_by_every_factor() {
    let products = products();
    let source: Vec<u8> = (0..=255).cycle().take(256 * 5 + 13).collect();
    let mut rooms = vec![vec![0; 1500]; OUTPUTS_MAX];
    for kernels in all() {
        for factor in 0..=255_u8 {
            let others = [factor, factor.wrapping_add(85), factor.wrapping_mul(167)];
            for outputs in 1..=OUTPUTS_MAX {
                let case = Case {
                    kernels,
                    sources: &[&source],
                    factors: &others[..outputs],
                    align: 0,
                };
                check(&case, &expected(&case, &products), &mut rooms);
            }
        }
    }
}

/// Goal: each kernel equals the obvious loop for all numbers of sources and outputs, whatever the factors: plain sums first,
/// which kernels treat on their own, those of check strips, any, and none.
#[test]
fn every_kernel_takes_every_number_of_sources_and_outputs() {
    let products = products();
    let data: Vec<Vec<u8>> = (0..SOURCES_MAX).map(|index| pattern(index, 2048)).collect();
    let mut rooms = vec![vec![0; 1800]; OUTPUTS_MAX];
    for kernels in all() {
        for count in 1..=SOURCES_MAX {
            let length = 1024 + count * 7;
            let sources: Vec<&[u8]> = data[..count]
                .iter()
                .enumerate()
                .map(|(index, source)| &source[index * 37 % 64..][..length])
                .collect();
            for outputs in 1..=OUTPUTS_MAX {
                let any = pattern(count, count * outputs);
                let mut plain_first = any.clone();
                plain_first[..count].fill(1);
                let mut sparse = any.clone();
                sparse.iter_mut().step_by(2).for_each(|factor| *factor = 0);
                let check_strips: Vec<u8> = (0..outputs)
                    .flat_map(|check| (0..count).map(move |column| coefficient(check, column)))
                    .collect();
                let (ones, none) = (vec![1; any.len()], vec![0; any.len()]);
                for factors in [&any, &plain_first, &sparse, &check_strips, &ones, &none] {
                    let case = Case {
                        kernels,
                        sources: &sources,
                        factors,
                        align: count * 5 % 64,
                    };
                    check(&case, &expected(&case, &products), &mut rooms);
                }
            }
        }
    }
}

/// Goal: no length and no alignment of outputs or sources is special.
#[test]
fn every_kernel_takes_every_length_and_alignment() {
    let products = products();
    let data: Vec<Vec<u8>> = (0..3).map(|index| pattern(index, 2048)).collect();
    let mut rooms = vec![vec![0; 1500]; OUTPUTS_MAX];
    let factors = [1, 1, 1, 1, 2, 4, 1, 4, 16, 77, 0, 200];
    for kernels in all() {
        for length in 0..=1100 {
            let sources = [
                &data[0][length % 64..][..length],
                &data[1][13..][..length],
                &data[2][..length],
            ];
            let aligns = if length % 64 < 2 { 0..64 } else { 0..2 };
            for align in aligns {
                let outputs = 1 + (length + align) % OUTPUTS_MAX;
                let first = if align % 2 == 0 { 0 } else { 3 };
                let case = Case {
                    kernels,
                    sources: &sources,
                    factors: &factors[first..first + 3 * outputs],
                    align,
                };
                check(&case, &expected(&case, &products), &mut rooms);
            }
        }
    }
}

/// Goal: large operations, which take the streaming path by themselves, are right as well, aligned or not.
#[test]
fn large_operations_stream() {
    let products = products();
    let length = STREAM_FROM_BYTES / 6 + 1000;
    let data: Vec<Vec<u8>> = (0..3).map(|index| pattern(index, length)).collect();
    let sources: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let mut rooms = vec![vec![0; length + 200]; OUTPUTS_MAX];
    for kernels in Kernels::all_supported() {
        for align in [0, 1, 32] {
            let case = Case {
                kernels,
                sources: &sources,
                factors: &[1, 1, 1, 1, 2, 4, 1, 4, 16],
                align,
            };
            check(&case, &expected(&case, &products), &mut rooms);
        }
    }
}

/// What factor a check strip has for a data column: 1, g^c or g^2c.
fn coefficient(check: usize, column: usize) -> u8 {
    (0..check * column).fold(1, |power, _| product(power, 2))
}

/// The inverse of a square matrix, by Gauss's elimination. Panics if there is none.
fn inverse(mut matrix: Vec<Vec<u8>>, products: &[[u8; 256]]) -> Vec<Vec<u8>> {
    let times = |a: u8, b: u8| products[usize::from(a)][usize::from(b)];
    let size = matrix.len();
    for (index, row) in matrix.iter_mut().enumerate() {
        row.extend((0..size).map(|column| u8::from(column == index)));
    }
    for pivot in 0..size {
        let found = (pivot..size).find(|row| matrix[*row][pivot] != 0);
        matrix.swap(pivot, found.expect("the rows are independent"));
        let scale = (1..=255).find(|scale| times(*scale, matrix[pivot][pivot]) == 1);
        let scale = scale.expect("the pivot is not zero");
        let pivot_row: Vec<u8> = matrix[pivot].iter().map(|cell| times(*cell, scale)).collect();
        for row in &mut matrix {
            let factor = row[pivot];
            let changes = row.iter_mut().zip(&pivot_row);
            changes.for_each(|(cell, other)| *cell ^= times(*other, factor));
        }
        matrix[pivot] = pivot_row;
    }
    matrix.iter().map(|row| row[size..].to_vec()).collect()
}

/// How the strips `lost` follow from the others of a row: which survivors are used, and for each lost strip their factors.
///
/// As many check strips as data strips are lost make a system of equations for these; a lost check strip is then made of
/// all data, what was lost of it replaced by what it follows from.
fn solve(coefficients: &[Vec<u8>], lost: &[usize], products: &[[u8; 256]]) -> (Vec<usize>, Vec<Vec<u8>>) {
    let times = |a: u8, b: u8| products[usize::from(a)][usize::from(b)];
    let columns = coefficients[0].len();
    let lost_data: Vec<usize> = lost.iter().copied().filter(|strip| *strip < columns).collect();
    let used_checks: Vec<usize> = (0..coefficients.len())
        .filter(|check| !lost.contains(&(columns + check)))
        .take(lost_data.len())
        .collect();
    let kept: Vec<usize> = (0..columns).filter(|column| !lost.contains(column)).collect();
    let system = used_checks.iter().map(|check| {
        lost_data
            .iter()
            .map(|column| coefficients[*check][*column])
            .collect()
    });
    let solution = inverse(system.collect(), products);
    // For each lost data strip the factors of the kept ones, then those of the used check strips.
    let of_data: Vec<Vec<u8>> = solution
        .iter()
        .map(|row| {
            let of_kept = kept.iter().map(|column| {
                let terms = row.iter().zip(&used_checks);
                terms.fold(0, |sum, (cell, check)| {
                    sum ^ times(*cell, coefficients[*check][*column])
                })
            });
            of_kept.chain(row.iter().copied()).collect()
        })
        .collect();
    let of_check = |check: usize| -> Vec<u8> {
        let direct = kept.iter().map(|column| coefficients[check][*column]);
        let mut factors: Vec<u8> = direct.chain(used_checks.iter().map(|_| 0)).collect();
        for (column, row) in lost_data.iter().zip(&of_data) {
            let share = coefficients[check][*column];
            factors
                .iter_mut()
                .zip(row)
                .for_each(|(sum, cell)| *sum ^= times(*cell, share));
        }
        factors
    };
    let factors = lost
        .iter()
        .map(|strip| match lost_data.iter().position(|data| data == strip) {
            Some(index) => of_data[index].clone(),
            None => of_check(strip - columns),
        });
    let factors = factors.collect();
    let used = used_checks.iter().map(|check| columns + check);
    (kept.iter().copied().chain(used).collect(), factors)
}

/// Goal: every strip of a row comes back from the others, whichever 1, 2 or 3 are lost, at every width up to 32 members.
/// Method: all combinations; each kernel does a share of them, and makes the check strips too.
#[test]
fn lost_strips_come_back() {
    const BYTES: usize = 64;
    let (kernels, products) = (all(), products());
    let mut turn = 0;
    for members in 2..=32 {
        for checks in 1..=OUTPUTS_MAX.min(members - 1) {
            let columns = members - checks;
            let mut strips: Vec<Vec<u8>> = (0..columns).map(|column| pattern(column, BYTES)).collect();
            let coefficients: Vec<Vec<u8>> = (0..checks)
                .map(|check| (0..columns).map(|column| coefficient(check, column)).collect())
                .collect();
            let mut made = vec![vec![0; BYTES]; checks];
            let sources: Vec<&[u8]> = strips.iter().map(Vec::as_slice).collect();
            let mut outputs: Vec<&mut [u8]> = made.iter_mut().map(Vec::as_mut_slice).collect();
            kernels[members % kernels.len()].combine(&mut outputs, &sources, &coefficients.concat(), false);
            strips.append(&mut made);
            for lost in losses(members, checks) {
                let (used, factors) = solve(&coefficients, &lost, &products);
                let sources: Vec<&[u8]> = used.iter().map(|strip| strips[*strip].as_slice()).collect();
                let kernels = kernels[turn % kernels.len()];
                turn += 1;
                let mut found = vec![vec![GUARD; BYTES]; lost.len()];
                let mut outputs: Vec<&mut [u8]> = found.iter_mut().map(Vec::as_mut_slice).collect();
                kernels.combine(&mut outputs, &sources, &factors.concat(), false);
                for (strip, found) in lost.iter().zip(&found) {
                    assert!(
                        *found == strips[*strip],
                        "{kernels:?}: {members} members, {lost:?} lost"
                    );
                }
            }
        }
    }
    assert!(
        turn > 41_000,
        "all pairs and triples were tried: {turn} combinations"
    );
}

/// All combinations of 1 to `checks` of `members`.
fn losses(members: usize, checks: usize) -> Vec<Vec<usize>> {
    let mut all: Vec<Vec<usize>> = vec![Vec::new()];
    for strip in 0..members {
        let more: Vec<Vec<usize>> = all
            .iter()
            .filter(|lost| lost.len() < checks)
            .map(|lost| [lost.as_slice(), &[strip]].concat())
            .collect();
        all.extend(more);
    }
    all.split_off(1)
}

#[test]
fn the_best_kernels_are_chosen() {
    let all = Kernels::all_supported();
    assert_eq!(all[0].name(), "portable");
    assert_eq!(Kernels::detect().name(), all.last().unwrap().name());
}

#[test]
#[should_panic(expected = "one source at least")]
fn no_source_is_a_mistake() {
    Kernels::detect().combine(&mut [&mut [0; 8]], &[], &[], false);
}

#[test]
#[should_panic(expected = "one output at least")]
fn no_output_is_a_mistake() {
    Kernels::detect().combine(&mut [], &[&[]], &[], false);
}

#[test]
#[should_panic(expected = "operands of one length")]
fn lengths_must_agree() {
    Kernels::detect().mul_add(&mut [0; 8], &[0; 7], 3);
}

#[test]
#[should_panic(expected = "a factor for each source of each output")]
fn factors_must_be_complete() {
    Kernels::detect().combine(&mut [&mut [0; 8], &mut [0; 8]], &[&[0; 8]], &[1], false);
}
