//! ISA-L, Intel's storage library, opened at run time: nothing of ours links with it.

use std::ffi::{CStr, c_int, c_uint, c_void};

/// Where Debian and Ubuntu (package libisal2) and Fedora put it: on the loader's path.
const NAME: &CStr = c"libisal.so.2";

/// Vectors of one `xor_gen`, the target among them, at most.
const VECTORS_MAX: usize = 65;

/// Source: ISA-L 2.30, include/raid.h, `xor_gen`: targets and sources are aligned to 32 bytes.
const XOR_ALIGNMENT: usize = 32;

/// Source: ISA-L 2.30, include/raid.h, `int xor_gen(int vects, int len, void **array)`.
type XorGen = unsafe extern "C" fn(vectors: c_int, length: c_int, array: *mut *mut c_void) -> c_int;
/// Source: ISA-L 2.30, include/crc.h, `unsigned int crc32_iscsi(unsigned char *, int, unsigned int)`.
type Crc32Iscsi = unsafe extern "C" fn(buffer: *mut u8, length: c_int, initial: c_uint) -> c_uint;

/// The functions of the library that benches compare with. It stays loaded for the life of the process.
#[derive(Clone, Copy)]
pub struct Isal {
    xor_gen: XorGen,
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
        let crc32_iscsi = symbol(library, c"crc32_iscsi")?;
        // SAFETY: the header gives the symbol this type, and the library is never closed.
        let xor_gen = unsafe { std::mem::transmute::<*mut c_void, XorGen>(xor_gen) };
        // SAFETY: as above.
        let crc32_iscsi = unsafe { std::mem::transmute::<*mut c_void, Crc32Iscsi>(crc32_iscsi) };
        Some(Self { xor_gen, crc32_iscsi })
    }

    /// Makes each byte of `target` the exclusive or of those of `sources`.
    ///
    /// Panics unless all have the same length, start at multiples of 32, and there are 2 to 64 sources.
    pub fn xor(&self, target: &mut [u8], sources: &[&[u8]]) {
        assert!((2..VECTORS_MAX).contains(&sources.len()), "what xor_gen takes");
        let mut array = [std::ptr::null_mut::<c_void>(); VECTORS_MAX];
        for (pointer, source) in array.iter_mut().zip(sources) {
            assert_eq!(source.len(), target.len(), "operands of one length");
            assert!(source.as_ptr().addr().is_multiple_of(XOR_ALIGNMENT));
            *pointer = source.as_ptr().cast_mut().cast();
        }
        assert!(target.as_ptr().addr().is_multiple_of(XOR_ALIGNMENT));
        array[sources.len()] = target.as_mut_ptr().cast();
        let vectors = c_int::try_from(sources.len() + 1).expect("checked above");
        let length = c_int::try_from(target.len()).expect("strips are below 2 GiB");
        // SAFETY: all vectors are valid for the length and aligned, and the function writes to the last one only.
        let status = unsafe { (self.xor_gen)(vectors, length, array.as_mut_ptr()) };
        assert_eq!(status, 0, "xor_gen accepts what was checked above");
    }

    /// CRC-32C of `bytes` continued from `crc`; starts at 0, as zlib's convention has it.
    pub fn crc32c(&self, crc: u32, bytes: &[u8]) -> u32 {
        let length = c_int::try_from(bytes.len()).expect("data below 2 GiB");
        // SAFETY: the function reads `length` bytes and writes none, whatever its prototype says.
        !unsafe { (self.crc32_iscsi)(bytes.as_ptr().cast_mut(), length, !crc) }
    }
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
    }
}
