// Stands before the C library in a process that callgrind runs: sleeping for a ring becomes poll(2) on it.
//
// Valgrind 3.19 runs one thread at a time, and does not know that io_uring_enter(2) may sleep: a core that waits there would keep all other threads from
// running. That poll(2) sleeps it knows, and a ring is ready to be read when a completion is there or can be fetched.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/syscall.h>

typedef long (*call_t)(long, ...);

long syscall(long number, ...) {
    static call_t next;
    if (!next) next = (call_t)dlsym(RTLD_NEXT, "syscall");
    long of[6];
    va_list list;
    va_start(list, number);
    for (int at = 0; at < 6; at++) of[at] = va_arg(list, long);
    va_end(list);
    // The ring, how much to submit, how many completions to wait for, flags, and what the flags say about the last two.
    if (number != SYS_io_uring_enter || of[2] == 0) return next(number, of[0], of[1], of[2], of[3], of[4], of[5]);
    int wait_ms = -1;
    if (of[3] & IORING_ENTER_EXT_ARG) {
        const struct io_uring_getevents_arg *more = (const void *)of[4];
        const struct __kernel_timespec *time = (const void *)(unsigned long)more->ts;
        if (time) wait_ms = (int)(time->tv_sec * 1000 + (time->tv_nsec + 999999) / 1000000);
    }
    long flags = of[3] & ~(long)IORING_ENTER_EXT_ARG;
    long submitted = next(number, of[0], of[1], 0L, flags, 0L, 0L);
    if (submitted < 0) return submitted;
    struct pollfd ring = {.fd = (int)of[0], .events = POLLIN};
    poll(&ring, 1, wait_ms);
    next(number, of[0], 0L, 0L, flags, 0L, 0L);
    return submitted;
}
