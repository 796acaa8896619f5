//! Reading, writing, syncing and zeroing files, with O_DIRECT.

use std::fs::{self, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use reactor::{Arena, Errno, FileId, Options, Span, Token, Without};

use crate::support::{Bench, Happened, options, pattern};

/// A file in a place where O_DIRECT works, removed at the end.
struct TemporaryFile(PathBuf);

impl TemporaryFile {
    fn new(name: &str, bytes: u64) -> Self {
        let path = PathBuf::from(format!("/var/tmp/reactor-{name}-{}", std::process::id()));
        let file = fs::File::create(&path).expect("/var/tmp can be written to");
        file.set_len(bytes).expect("the file can grow");
        Self(path)
    }

    fn open(&self) -> OwnedFd {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_DIRECT);
        options.open(&self.0).expect("/var/tmp takes O_DIRECT").into()
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // It may be gone.
    }
}

fn bench_with_file(name: &str, bytes: u64, options: Options) -> (Bench, FileId, TemporaryFile) {
    let temporary = TemporaryFile::new(name, bytes);
    let fd = temporary.open();
    let bench = Bench::start(options);
    let file = bench.on_core(move |io| io.add_file(fd).expect("there is room"));
    (bench, file, temporary)
}

fn alloc(bench: &Bench, bytes: u32) -> Span {
    bench.on_core(move |io| io.arena_mut().alloc(bytes).expect("there is room"))
}

/// Goal: what is written is what is read, on all paths, with and without registered memory and descriptors.
#[test]
fn written_bytes_are_read_back() {
    let none = Without::default();
    for without in [
        none,
        Without {
            registered_buffers: true,
            ..none
        },
        Without {
            registered_files: true,
            huge_pages: true,
            ..none
        },
        Without {
            defer_taskrun: true,
            ..none
        },
    ] {
        let (bench, file, temporary) = bench_with_file("round", 1 << 20, Options { without, ..options() });
        let (from, to) = (alloc(&bench, 128 << 10), alloc(&bench, 128 << 10));
        for round in 0..8_u64 {
            let bytes = pattern(usize::try_from(round).expect("small"), 128 << 10);
            let expected = bytes.clone();
            bench.on_core(move |io| {
                io.arena_mut().copy_in(from, 0, &bytes);
                io.write(file, Token(1), from, round * (128 << 10), round % 2 == 0);
            });
            assert_eq!(bench.file_done(), (Token(1), Ok(128 << 10)));
            bench.on_core(move |io| io.read(file, Token(2), to, round * (128 << 10)));
            assert_eq!(bench.file_done(), (Token(2), Ok(128 << 10)));
            assert!(bench.on_core(move |io| io.arena().equal(from, to)));
            let mut on_disk = vec![0; 128 << 10];
            fs::File::open(&temporary.0)
                .expect("there")
                .read_exact_at(&mut on_disk, round * (128 << 10))
                .expect("long");
            assert!(on_disk == expected);
        }
        bench.on_core(move |io| io.sync(file, Token(3)));
        assert_eq!(bench.file_done(), (Token(3), Ok(0)));
        bench.on_core(move |io| io.zero(file, Token(4), 4096, 8192));
        assert_eq!(bench.file_done(), (Token(4), Ok(0)));
        bench.on_core(move |io| io.read(file, Token(5), to.part(0, 16 << 10), 0));
        assert_eq!(bench.file_done(), (Token(5), Ok(16 << 10)));
        bench.on_core(move |io| {
            let arena = io.arena();
            assert!(arena.is_zero(to.part(4096, 8192)));
            assert!(!arena.is_zero(to.part(0, 4096)));
            assert!(!arena.is_zero(to.part(12 << 10, 4096)));
        });
        bench.on_core(move |io| io.remove_file(file, Token(6)));
        assert_eq!(bench.closed(), Token(6));
    }
}

/// Goal: more operations in one turn than the ring holds are all done, each once.
#[test]
fn a_small_ring_takes_many_operations() {
    for sqpoll in [false, true] {
        let options = Options {
            ring_entries: 8,
            sqpoll,
            ..options()
        };
        let (bench, file, temporary) = bench_with_file("many", 2 << 20, options);
        let spans: Vec<Span> = (0..256).map(|_| alloc(&bench, 4096)).collect();
        let to_write = spans.clone();
        bench.on_core(move |io| {
            for (index, span) in (0..).zip(&to_write) {
                io.arena_mut()
                    .copy_in(*span, 0, &pattern(usize::try_from(index).expect("small"), 4096));
                io.write(file, Token(index), *span, index * 4096, false);
            }
        });
        let mut done: Vec<u64> = (0..256)
            .map(|_| {
                let (token, result) = bench.file_done();
                assert_eq!(result, Ok(4096));
                token.0
            })
            .collect();
        done.sort_unstable();
        assert!(done.into_iter().eq(0..256));
        bench.on_core(move |io| {
            for (index, span) in (0..).zip(&spans) {
                io.arena_mut().zero(*span);
                io.read(file, Token(index), *span, index * 4096);
            }
            assert_eq!(io.arena().used_bytes(), 256 * 4096);
        });
        for _ in 0..256 {
            assert_eq!(bench.file_done().1, Ok(4096));
        }
        let mut got = vec![0; 4096];
        for index in [0, 100, 255] {
            fs::File::open(&temporary.0)
                .expect("there")
                .read_exact_at(&mut got, index * 4096)
                .expect("long");
            assert_eq!(got, pattern(usize::try_from(index).expect("small"), 4096));
        }
    }
}

/// Goal: errors are errors: past the end, on stale names, when too many are in flight.
#[test]
fn file_errors() {
    let options = Options {
        operations_max: 16,
        ..options()
    };
    let (bench, file, temporary) = bench_with_file("errors", 8192, options);
    let span = alloc(&bench, 16 << 10);
    bench.on_core(move |io| io.read(file, Token(1), span, 0));
    assert_eq!(
        bench.file_done(),
        (Token(1), Err(Errno::FILE_ENDED)),
        "half of it is there"
    );
    bench.on_core(move |io| io.read(file, Token(2), span, 1 << 30));
    assert_eq!(bench.file_done(), (Token(2), Err(Errno::FILE_ENDED)));
    let write_only = OpenOptions::new()
        .write(true)
        .open(&temporary.0)
        .expect("it is there");
    let write_only = bench.on_core(move |io| io.add_file(write_only.into()).expect("there is room"));
    bench.on_core(move |io| io.read(write_only, Token(3), span, 0));
    assert_eq!(
        bench.file_done(),
        (Token(3), Err(Errno(libc::EBADF))),
        "it was opened for writing only"
    );
    bench.on_core(move |io| {
        for token in 0..100 {
            io.sync(file, Token(token));
        }
    });
    let results: Vec<_> = (0..100).map(|_| bench.file_done().1).collect();
    let refused = results
        .iter()
        .filter(|result| **result == Err(Errno::TOO_MANY))
        .count();
    assert_eq!(refused, 100 - 15, "the doorbell is the sixteenth");
    assert_eq!(results.iter().filter(|result| **result == Ok(0)).count(), 15);
    bench.on_core(move |io| {
        io.remove_file(file, Token(1));
        io.read(file, Token(2), span, 0);
        io.arena_mut().free(span); // The read was refused, so nothing is lent.
    });
    let mut happened = [bench.next(), bench.next()];
    happened.sort_by_key(|happened| matches!(happened, Happened::Closed(_)));
    assert!(matches!(
        happened,
        [
            Happened::FileDone(Token(2), Err(Errno::STALE)),
            Happened::Closed(Token(1))
        ]
    ));
}

/// Goal: a file that is removed with operations in flight closes after them.
#[test]
fn removed_files_close_after_their_operations() {
    let (bench, file, _temporary) = bench_with_file("removed", 1 << 20, options());
    let span = alloc(&bench, 512 << 10);
    for _ in 0..1 {
        bench.on_core(move |io| {
            for token in 0..8 {
                io.write(
                    file,
                    Token(token),
                    span.part(token_bytes(token), 64 << 10),
                    0,
                    true,
                );
            }
            io.remove_file(file, Token(100));
            assert!(io.file_fd(file).is_none());
        });
        for _ in 0..8 {
            assert_eq!(bench.file_done().1, Ok(64 << 10));
        }
        assert_eq!(bench.closed(), Token(100));
    }
}

fn token_bytes(token: u64) -> u32 {
    u32::try_from(token).expect("small") * (64 << 10)
}

/// Goal: memory that the kernel uses can be neither freed nor, while it writes, looked at.
#[test]
fn lent_memory_is_guarded() {
    type Misuse = fn(&mut Arena, Span);
    let misuses: [Misuse; 3] = [
        |arena, span| arena.free(span),
        |arena, span| arena.with_bytes(span, |_| ()),
        |arena, span| arena.zero(span),
    ];
    for misuse in misuses {
        let (bench, file, _temporary) = bench_with_file("guard", 8192, options());
        let span = alloc(&bench, 4096);
        let panicked = bench.on_core(move |io| {
            io.read(file, Token(1), span, 0);
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| misuse(io.arena_mut(), span))).is_err()
        });
        assert!(panicked);
        assert_eq!(bench.file_done().1, Ok(4096));
        bench.on_core(move |io| misuse(io.arena_mut(), span)); // Nothing is lent any more.
    }
}

/// The reading end of a pipe into which nobody writes: a file that does not answer. The other end keeps it open.
fn silent_file() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = std::io::pipe().expect("the system has room for a pipe");
    (reader.into(), writer.into())
}

/// Goal: what is in flight on a file that is given up ends where the kernel can end it, other files go on, and the memory
/// is the program's again.
#[test]
fn a_file_that_does_not_answer_can_be_given_up() {
    let (bench, good, temporary) = bench_with_file("forsaken", 1 << 20, options());
    let (reader, _writer) = silent_file();
    let silent = bench.on_core(move |io| io.add_file(reader).expect("there is room"));
    let (waits, works) = (alloc(&bench, 4096), alloc(&bench, 4096));
    bench.on_core(move |io| io.read(silent, Token(1), waits, 0));
    bench.on_core(move |io| io.read(good, Token(2), works, 0));
    assert_eq!(bench.file_done(), (Token(2), Ok(4096)));
    bench.on_core(move |io| io.forsake_file(silent));
    assert_eq!(bench.file_done(), (Token(1), Err(Errno(libc::ECANCELED))));
    bench.on_core(move |io| io.arena_mut().free(waits));
    bench.on_core(move |io| io.read(good, Token(3), works, 0));
    assert_eq!(bench.file_done(), (Token(3), Ok(4096)));
    drop(temporary);
}

/// Goal: stopping waits for a file that does not answer only until the program has given it up.
#[test]
fn stopping_does_not_wait_for_a_file_that_was_given_up() {
    let bench = Bench::start(options());
    let (reader, _writer) = silent_file();
    let silent = bench.on_core(move |io| io.add_file(reader).expect("there is room"));
    let waits = alloc(&bench, 4096);
    let began = std::time::Instant::now();
    bench.on_core(move |io| {
        io.read(silent, Token(1), waits, 0);
        io.forsake_file(silent);
        io.stop();
    });
    bench.running.join().expect("it ends as it should");
    assert!(
        began.elapsed() < std::time::Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}
