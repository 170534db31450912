/*
 * What libfaketime 0.9.10 gets wrong when the clock is moved by an offset and CLOCK_MONOTONIC stays real.
 *
 * A wait until a time of CLOCK_MONOTONIC fails with EINVAL: time.sleep of Python 3.11 is one. And while a process waits
 * in one of the other calls, its signal handlers read the real time: Postgres's timeouts never come, if the clock was
 * moved forward. A length of time is the same at every date, so these calls go straight to the kernel. Loaded before
 * libfaketime.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SIGNALS (_NSIG / 8)

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *time, struct timespec *left)
{
    int before = errno;
    if (syscall(SYS_clock_nanosleep, clock, flags, time, left) == 0)
        return 0;
    int error = errno;
    errno = before;
    return error;
}

int nanosleep(const struct timespec *time, struct timespec *left)
{
    return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, time, left);
}

int epoll_pwait(int epoll, struct epoll_event *events, int most, int timeout, const sigset_t *mask)
{
    return syscall(SYS_epoll_pwait, epoll, events, most, timeout, mask, SIGNALS);
}

int epoll_wait(int epoll, struct epoll_event *events, int most, int timeout)
{
    return epoll_pwait(epoll, events, most, timeout, NULL);
}

int ppoll(struct pollfd *files, nfds_t count, const struct timespec *timeout, const sigset_t *mask)
{
    struct timespec left;
    if (timeout)
        left = *timeout; /* the kernel writes into it */
    return syscall(SYS_ppoll, files, count, timeout ? &left : NULL, mask, SIGNALS);
}

int poll(struct pollfd *files, nfds_t count, int timeout)
{
    struct timespec left = {timeout / 1000, timeout % 1000 * 1000000L};
    return ppoll(files, count, timeout < 0 ? NULL : &left, NULL);
}

int pselect(int count, fd_set *readable, fd_set *writable, fd_set *odd, const struct timespec *timeout,
            const sigset_t *mask)
{
    struct timespec left;
    struct { const sigset_t *mask; size_t size; } blocked = {mask, SIGNALS};
    if (timeout)
        left = *timeout;
    return syscall(SYS_pselect6, count, readable, writable, odd, timeout ? &left : NULL, &blocked);
}

int select(int count, fd_set *readable, fd_set *writable, fd_set *odd, struct timeval *timeout)
{
    struct timespec left;
    if (timeout) {
        left.tv_sec = timeout->tv_sec + timeout->tv_usec / 1000000;
        left.tv_nsec = timeout->tv_usec % 1000000 * 1000;
    }
    return pselect(count, readable, writable, odd, timeout ? &left : NULL, NULL);
}
