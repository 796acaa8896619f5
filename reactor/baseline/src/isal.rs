//! ISA-L, Intel's storage library, opened at run time: nothing of ours links with it.

use std::ffi::{CStr, c_int, c_uint, c_void};

/// Where Debian and Ubuntu (package libisal2) and Fedora put it: on the loader's path.
const NAME: &CStr = c"libisal.so.2";

/// Vectors of one `xor_gen`, the target among them, at most.
const VECTORS_MAX: usize = 65;

/// Bytes of tables for one factor.
const TABLE_BYTES: usize = 32;

/// Source: ISA-L 2.30, include/raid.h, `xor_gen`: targets and sources are aligned to 32 bytes.
const XOR_ALIGNMENT: usize = 32;

/// Source: ISA-L 2.30, include/raid.h, `int xor_gen(int vects, int len, void **array)`.
type XorGen = unsafe extern "C" fn(vectors: c_int, length: c_int, array: *mut *mut c_void) -> c_int;
/// Source: ISA-L 2.30, include/raid.h, `int pq_gen(int vects, int len, void **array)`: P and Q are the last two vectors, all
/// aligned to 32 bytes, and so is the length.
type PqGen = XorGen;
/// Source: ISA-L 2.30, include/erasure_code.h, `void ec_init_tables(int k, int rows, unsigned char *a, unsigned char *gftbls)`:
/// 32 bytes of tables for each of `k * rows` coefficients.
type EcInitTables = unsafe extern "C" fn(sources: c_int, rows: c_int, factors: *mut u8, tables: *mut u8);
/// Source: ISA-L 2.30, include/erasure_code.h, `void ec_encode_data(int len, int k, int rows, unsigned char *gftbls, unsigned
/// char **data, unsigned char **coding)`.
type EcEncodeData = unsafe extern "C" fn(
    length: c_int,
    sources: c_int,
    rows: c_int,
    tables: *mut u8,
    data: *mut *mut u8,
    coding: *mut *mut u8,
);
/// Source: ISA-L 2.30, include/erasure_code.h, `void ec_encode_data_update(int len, int k, int rows, int vec_i, unsigned char
/// *g_tbls, unsigned char *data, unsigned char **coding)`: adds source `vec_i` of `k` to what `coding` holds.
type EcEncodeDataUpdate = unsafe extern "C" fn(
    length: c_int,
    sources: c_int,
    rows: c_int,
    index: c_int,
    tables: *mut u8,
    data: *mut u8,
    coding: *mut *mut u8,
);
/// Source: ISA-L 2.30, include/crc.h, `unsigned int crc32_iscsi(unsigned char *, int, unsigned int)`.
type Crc32Iscsi = unsafe extern "C" fn(buffer: *mut u8, length: c_int, initial: c_uint) -> c_uint;

/// The functions of the library that benches compare with. It stays loaded for the life of the process.
#[derive(Clone, Copy)]
pub struct Isal {
    xor_gen: XorGen,
    pq_gen: PqGen,
    ec_init_tables: EcInitTables,
    ec_encode_data: EcEncodeData,
    ec_encode_data_update: EcEncodeDataUpdate,
    crc32_iscsi: Crc32Iscsi,
}

impl Isal {
    /// Opens the library; `None` where it is not installed.
    pub fn load() -> Option<Self> {
        // SAFETY: the name ends in a nul; the library's initialisers only look at the CPU.
        let library = unsafe { libc::dlopen(NAME.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if library.is_null() {
            return None;
        }
        let xor_gen = symbol(library, c"xor_gen")?;
        let pq_gen = symbol(library, c"pq_gen")?;
        let ec_init_tables = symbol(library, c"ec_init_tables")?;
        let ec_encode_data = symbol(library, c"ec_encode_data")?;
        let ec_encode_data_update = symbol(library, c"ec_encode_data_update")?;
        let crc32_iscsi = symbol(library, c"crc32_iscsi")?;
        // SAFETY: the header gives the symbol this type, and the library is never closed.
        let xor_gen = unsafe { std::mem::transmute::<*mut c_void, XorGen>(xor_gen) };
        // SAFETY: as above.
        let pq_gen = unsafe { std::mem::transmute::<*mut c_void, PqGen>(pq_gen) };
        // SAFETY: as above.
        let ec_init_tables = unsafe { std::mem::transmute::<*mut c_void, EcInitTables>(ec_init_tables) };
        // SAFETY: as above.
        let ec_encode_data = unsafe { std::mem::transmute::<*mut c_void, EcEncodeData>(ec_encode_data) };
        // SAFETY: as above.
        let ec_encode_data_update =
            unsafe { std::mem::transmute::<*mut c_void, EcEncodeDataUpdate>(ec_encode_data_update) };
        // SAFETY: as above.
        let crc32_iscsi = unsafe { std::mem::transmute::<*mut c_void, Crc32Iscsi>(crc32_iscsi) };
        Some(Self {
            xor_gen,
            pq_gen,
            ec_init_tables,
            ec_encode_data,
            ec_encode_data_update,
            crc32_iscsi,
        })
    }

    /// Makes each byte of `target` the exclusive or of those of `sources`.
    ///
    /// Panics unless all have the same length, start at multiples of 32, and there are 2 to 64 sources.
    pub fn xor(&self, target: &mut [u8], sources: &[&[u8]]) {
        self.raid(self.xor_gen, &mut [target], sources);
    }

    /// Makes `check[0]` P and `check[1]` Q of `sources`.
    ///
    /// Panics unless all have the same length, a multiple of 32, start at multiples of 32, and there are 2 to 63 sources.
    pub fn pq(&self, check: &mut [&mut [u8]], sources: &[&[u8]]) {
        assert_eq!(check.len(), 2, "P and Q");
        assert!(check[0].len().is_multiple_of(XOR_ALIGNMENT));
        self.raid(self.pq_gen, check, sources);
    }

    /// Hands sources and, after them, targets to a function of raid.h.
    fn raid(&self, function: XorGen, targets: &mut [&mut [u8]], sources: &[&[u8]]) {
        assert!(
            sources.len() >= 2 && sources.len() + targets.len() <= VECTORS_MAX,
            "what the library takes"
        );
        let bytes = sources[0].len();
        let mut array = [std::ptr::null_mut::<c_void>(); VECTORS_MAX];
        let (first, rest) = array.split_at_mut(sources.len());
        for (pointer, source) in first.iter_mut().zip(sources) {
            assert_eq!(source.len(), bytes, "operands of one length");
            assert!(source.as_ptr().addr().is_multiple_of(XOR_ALIGNMENT));
            *pointer = source.as_ptr().cast_mut().cast();
        }
        for (pointer, target) in rest.iter_mut().zip(targets.iter_mut()) {
            assert_eq!(target.len(), bytes, "operands of one length");
            assert!(target.as_ptr().addr().is_multiple_of(XOR_ALIGNMENT));
            *pointer = target.as_mut_ptr().cast();
        }
        let vectors = c_int::try_from(sources.len() + targets.len()).expect("checked above");
        let length = c_int::try_from(bytes).expect("strips are below 2 GiB");
        // SAFETY: all vectors are valid for the length and aligned, and the function writes to the last ones only.
        let status = unsafe { function(vectors, length, array.as_mut_ptr()) };
        assert_eq!(status, 0, "the library accepts what was checked above");
    }

    /// Tables for `encode` with these factors: one a source for the first target, then those for the second, and so on.
    pub fn tables(&self, sources: usize, factors: &[u8]) -> EncodeTables {
        assert!(factors.len().is_multiple_of(sources), "a factor for each source");
        let rows = factors.len() / sources;
        let mut factors = factors.to_vec();
        let mut tables = vec![0; factors.len() * TABLE_BYTES];
        let count = |number| c_int::try_from(number).expect("a row has few strips");
        // SAFETY: there are `sources * rows` factors, and 32 bytes for the tables of each.
        unsafe {
            (self.ec_init_tables)(
                count(sources),
                count(rows),
                factors.as_mut_ptr(),
                tables.as_mut_ptr(),
            );
        }
        EncodeTables {
            tables,
            sources,
            rows,
        }
    }

    /// Makes each target the sum of `sources`, each times the factor that the tables were made of.
    ///
    /// Panics unless all have the same length, and there are as many as the tables are for.
    pub fn encode(&self, targets: &mut [&mut [u8]], sources: &[&[u8]], tables: &mut EncodeTables) {
        assert_eq!((targets.len(), sources.len()), (tables.rows, tables.sources));
        let bytes = sources[0].len();
        let mut array = [std::ptr::null_mut::<u8>(); VECTORS_MAX];
        let (data, coding) = array.split_at_mut(sources.len());
        for (pointer, source) in data.iter_mut().zip(sources) {
            assert_eq!(source.len(), bytes, "operands of one length");
            *pointer = source.as_ptr().cast_mut();
        }
        for (pointer, target) in coding.iter_mut().zip(targets.iter_mut()) {
            assert_eq!(target.len(), bytes, "operands of one length");
            *pointer = target.as_mut_ptr();
        }
        let count = |number| c_int::try_from(number).expect("strips are below 2 GiB");
        // SAFETY: sources and targets are valid for the length, the tables have the size that their counts ask for, and the
        // function writes to the targets only.
        unsafe {
            (self.ec_encode_data)(
                count(bytes),
                count(sources.len()),
                count(targets.len()),
                tables.tables.as_mut_ptr(),
                data.as_mut_ptr(),
                coding.as_mut_ptr(),
            );
        }
    }

    /// Adds `source`, times the factor of the only source that the tables were made for, to each target.
    ///
    /// Panics unless all have the same length, and there are as many targets as the tables are for.
    pub fn update(&self, targets: &mut [&mut [u8]], source: &[u8], tables: &mut EncodeTables) {
        assert_eq!((targets.len(), 1), (tables.rows, tables.sources));
        let mut coding = [std::ptr::null_mut::<u8>(); VECTORS_MAX];
        for (pointer, target) in coding.iter_mut().zip(targets.iter_mut()) {
            assert_eq!(target.len(), source.len(), "operands of one length");
            *pointer = target.as_mut_ptr();
        }
        let count = |number| c_int::try_from(number).expect("strips are below 2 GiB");
        // SAFETY: source and targets are valid for the length, the tables are for one source and so many targets, and the
        // function writes to the targets only.
        unsafe {
            (self.ec_encode_data_update)(
                count(source.len()),
                1,
                count(targets.len()),
                0,
                tables.tables.as_mut_ptr(),
                source.as_ptr().cast_mut(),
                coding.as_mut_ptr(),
            );
        }
    }

    /// CRC-32C of `bytes` continued from `crc`; starts at 0, as zlib's convention has it.
    pub fn crc32c(&self, crc: u32, bytes: &[u8]) -> u32 {
        let length = c_int::try_from(bytes.len()).expect("data below 2 GiB");
        // SAFETY: the function reads `length` bytes and writes none, whatever its prototype says.
        !unsafe { (self.crc32_iscsi)(bytes.as_ptr().cast_mut(), length, !crc) }
    }
}

/// What `Isal::encode` looks products up in.
pub struct EncodeTables {
    tables: Vec<u8>,
    sources: usize,
    rows: usize,
}

/// The address of a symbol; `None` if the library has none of that name.
fn symbol(library: *mut c_void, name: &CStr) -> Option<*mut c_void> {
    // SAFETY: `library` was opened and is never closed, and the name ends in a nul.
    let address = unsafe { libc::dlsym(library, name.as_ptr()) };
    (!address.is_null()).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Buffer;

    /// Goal: the wrapper passes lengths, order and conventions on as the library means them. Says so if it is absent.
    #[test]
    fn the_library_computes_what_its_names_say() {
        let Some(isal) = Isal::load() else {
            return println!("libisal.so.2 is not installed: nothing to check");
        };
        assert_eq!(isal.crc32c(0, b"123456789"), 0xe306_9283);
        assert_eq!(isal.crc32c(isal.crc32c(0, b"1234"), b"56789"), 0xe306_9283);
        let sources = Buffer::new(3 * 4096);
        let mut target = Buffer::new(4096);
        let strips: Vec<&[u8]> = sources.chunks(4096).collect();
        isal.xor(&mut target, &strips);
        for (at, byte) in target.iter().enumerate() {
            assert_eq!(*byte, strips[0][at] ^ strips[1][at] ^ strips[2][at]);
        }
        let (mut p, mut q) = (Buffer::new(4096), Buffer::new(4096));
        isal.pq(&mut [&mut p, &mut q], &strips);
        assert_eq!(*p, *target);
        let mut both = (Buffer::new(4096), Buffer::new(4096));
        let mut tables = isal.tables(3, &[1, 1, 1, 1, 2, 4]);
        isal.encode(&mut [&mut both.0, &mut both.1], &strips, &mut tables);
        assert_eq!((&*both.0, &*both.1), (&*p, &*q));
        // What is added twice is gone: Q without the last strip is what the first two make.
        let mut without = isal.tables(2, &[1, 1, 1, 2]);
        isal.encode(&mut [&mut p, &mut q], &strips[..2], &mut without);
        let mut last = isal.tables(1, &[1, 4]);
        isal.update(&mut [&mut both.0, &mut both.1], strips[2], &mut last);
        assert_eq!((&*both.0, &*both.1), (&*p, &*q));
    }
}
