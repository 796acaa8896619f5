//! Finding out what this machine has while a core is set up; what is missing becomes a note.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use io_uring::{cqueue, opcode, types};

use crate::arena::Arena;
use crate::buffers::{Buffers, GROUP};
use crate::memory::Pages;
use crate::options::{Facts, Options};
use crate::ring::{Completion, Ring};

/// Completions are awaited this often, for a tenth of a second each, before the ring counts as broken.
const PATIENCE: usize = 50;

pub(crate) fn note_pages(pages: Pages, options: &Options, arena: &Arena, facts: &mut Facts) {
    let mib = arena.capacity_bytes() >> 20;
    match pages {
        Pages::Huge => facts.huge_pages = true,
        Pages::Ordinary if options.without.huge_pages => {}
        Pages::Advised => facts.notes.push(format!(
            "{mib} MiB of memory lie on transparent huge pages at best: reserve {} huge pages a core (vm.nr_hugepages)",
            mib / 2
        )),
        Pages::Ordinary => facts.notes.push(format!(
            "{mib} MiB of memory lie on 4 KiB pages: reserve {} huge pages a core (vm.nr_hugepages)",
            mib / 2
        )),
    }
}

pub(crate) fn register_arena(ring: &Ring, options: &Options, arena: &Arena, facts: &mut Facts) {
    if options.without.registered_buffers {
        return;
    }
    let pieces = arena.registrations();
    // SAFETY: the pieces are the arena's mapping, which is unmapped after the ring is gone.
    match unsafe { ring.submitter().register_buffers(&pieces) } {
        Ok(()) => facts.registered_buffers = true,
        Err(error) => facts.notes.push(format!(
            "{} MiB of memory could not be registered for I/O ({error}): raise the limit of locked memory (ulimit -l)",
            arena.capacity_bytes() >> 20
        )),
    }
}

pub(crate) fn register_files(ring: &Ring, options: &Options, facts: &mut Facts) {
    if options.without.registered_files {
        return;
    }
    match ring.submitter().register_files_sparse(options.files_max) {
        Ok(()) => facts.registered_files = true,
        Err(error) => facts.notes.push(format!(
            "{} descriptors could not be registered ({error}): raise the limit of open files (ulimit -n)",
            options.files_max
        )),
    }
}

/// Tries one multishot receive: no probe of the kernel tells whether it is there.
pub(crate) fn multishot_receive(
    ring: &mut Ring,
    buffers: &mut Buffers,
    options: &Options,
    facts: &mut Facts,
) -> io::Result<()> {
    if options.without.multishot_receive {
        return Ok(());
    }
    let (mut near, far) = UnixStream::pair()?;
    io::Write::write_all(&mut near, b"x")?;
    let entry = opcode::RecvMulti::new(types::Fd(far.as_raw_fd()), GROUP).build();
    // SAFETY: the buffers outlive the ring; the socket is not closed before the last completion.
    unsafe { ring.push(entry) };
    let first = next(ring)?;
    if let Some(buffer) = cqueue::buffer_select(first.flags) {
        buffers.recycle(buffer);
    }
    facts.multishot_receive = first.result == 1 && cqueue::more(first.flags);
    drop(near); // Ends the stream, and with it the receive.
    if cqueue::more(first.flags) {
        let last = next(ring)?;
        if let Some(buffer) = cqueue::buffer_select(last.flags) {
            buffers.recycle(buffer);
        }
        if cqueue::more(last.flags) {
            return Err(io::Error::other("a receive did not end with its stream"));
        }
    }
    if !facts.multishot_receive {
        facts
            .notes
            .push("the kernel has no multishot receive (Linux 6.0): receives are armed one by one".into());
    }
    Ok(())
}

fn next(ring: &mut Ring) -> io::Result<Completion> {
    let mut completions = Vec::with_capacity(1);
    for _ in 0..PATIENCE {
        ring.enter();
        ring.wait(Duration::from_millis(100));
        if ring.drain(&mut completions, 1) == 1 {
            return Ok(completions[0]);
        }
    }
    Err(io::Error::from_raw_os_error(libc::ETIMEDOUT))
}
