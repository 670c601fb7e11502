/* Makes calls of kvss fail, or of kvss_client. build.bash links this with kvss.c so that each call
 * in the table below comes here first (ld, --wrap): kvss's own calls, not those that libc or a
 * sanitizer makes itself.
 *
 * FAULTS names a file. Each line of it is a call, and how it fails:
 *
 *     fsync EIO          always
 *     malloc ENOMEM 7    the 7th time, counted from the start, and no other
 *     send ONE           it falls short: it takes one byte
 *     read NONE          or none
 *     pwrite64 HALF      it takes half, and the next call fails with ENOSPC
 *     pselect NONE       it says that nothing can be written
 *
 * The file is read at each call, so that a disk can break, and be well again, while kvss runs.
 * CLOCK names another, with the seconds by which the time of day is wrong, and those that have passed
 * since the start, beside the real ones. COUNTS names a third, with a record for each call of the table:
 * how often kvss and its children have made it. */
#define _GNU_SOURCE
#include <aio.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

/* FAILS(name, type, what it returns when it fails, parameters, arguments). CUTS: those with a len
 * that can fall short. The names have a 64 where a file can be over 2 GiB. The last argument of
 * open() and fcntl() is passed on, given or not. */
#define CALLS(FAILS, CUTS)                                                                         \
    FAILS(malloc, void *, NULL, (size_t size), (size))                                             \
    FAILS(calloc, void *, NULL, (size_t n, size_t size), (n, size))                                \
    FAILS(realloc, void *, NULL, (void *old, size_t size), (old, size))                            \
    FAILS(strdup, char *, NULL, (const char *s), (s))                                              \
    FAILS(realpath, char *, NULL, (const char *path, char *real), (path, real))                    \
    FAILS(fopen64, FILE *, NULL, (const char *path, const char *mode), (path, mode))               \
    FAILS(open64, int, -1, (const char *path, int flags, mode_t mode), (path, flags, mode))        \
    FAILS(fcntl64, int, -1, (int fd, int what, void *value), (fd, what, value))                    \
    FAILS(fstat64, int, -1, (int fd, struct stat64 *about), (fd, about))                           \
    FAILS(stat64, int, -1, (const char *path, struct stat64 *about), (path, about))                \
    FAILS(lstat64, int, -1, (const char *path, struct stat64 *about), (path, about))               \
    FAILS(fchown, int, -1, (int fd, uid_t user, gid_t group), (fd, user, group))                   \
    FAILS(fchmod, int, -1, (int fd, mode_t mode), (fd, mode))                                      \
    FAILS(unlink, int, -1, (const char *path), (path))                                             \
    FAILS(rename, int, -1, (const char *from, const char *to), (from, to))                         \
    FAILS(lseek64, off64_t, -1, (int fd, off64_t to, int from), (fd, to, from))                    \
    FAILS(ftruncate64, int, -1, (int fd, off64_t size), (fd, size))                                \
    FAILS(fsync, int, -1, (int fd), (fd))                                                          \
    CUTS(read, (int fd, void *bytes, size_t len), (fd, bytes, len))                                \
    CUTS(write, (int fd, const void *bytes, size_t len), (fd, bytes, len))                         \
    CUTS(pread64, (int fd, void *bytes, size_t len, off64_t at), (fd, bytes, len, at))             \
    CUTS(pwrite64, (int fd, const void *bytes, size_t len, off64_t at), (fd, bytes, len, at))      \
    CUTS(recv, (int fd, void *bytes, size_t len, int flags), (fd, bytes, len, flags))              \
    CUTS(send, (int fd, const void *bytes, size_t len, int flags), (fd, bytes, len, flags))        \
    FAILS(accept, int, -1, (int fd, struct sockaddr *address, socklen_t *len), (fd, address, len)) \
    FAILS(getaddrinfo, int, EAI_SYSTEM,                                                            \
          (const char *host, const char *port, const struct addrinfo *hints,                       \
           struct addrinfo **found),                                                               \
          (host, port, hints, found))                                                              \
    FAILS(connect, int, -1, (int fd, const struct sockaddr *address, socklen_t len),               \
          (fd, address, len))                                                                      \
    FAILS(socket, int, -1, (int domain, int type, int protocol), (domain, type, protocol))         \
    FAILS(setsockopt, int, -1, (int fd, int level, int option, const void *value, socklen_t len),  \
          (fd, level, option, value, len))                                                         \
    FAILS(getsockopt, int, -1, (int fd, int level, int option, void *value, socklen_t *len),       \
          (fd, level, option, value, len))                                                         \
    FAILS(bind, int, -1, (int fd, const struct sockaddr *address, socklen_t len),                  \
          (fd, address, len))                                                                      \
    FAILS(listen, int, -1, (int fd, int most), (fd, most))                                         \
    FAILS(getsockname, int, -1, (int fd, struct sockaddr *address, socklen_t *len),                \
          (fd, address, len))                                                                      \
    FAILS(getpeername, int, -1, (int fd, struct sockaddr *address, socklen_t *len),                \
          (fd, address, len))                                                                      \
    FAILS(shutdown, int, -1, (int fd, int how), (fd, how))                                         \
    FAILS(getrlimit64, int, -1, (int which, struct rlimit64 *limit), (which, limit))               \
    FAILS(setrlimit64, int, -1, (int which, const struct rlimit64 *limit), (which, limit))         \
    FAILS(socketpair, int, -1, (int domain, int type, int protocol, int ends[2]),                  \
          (domain, type, protocol, ends))                                                          \
    FAILS(fork, pid_t, -1, (void), ())                                                             \
    FAILS(poll, int, -1, (struct pollfd * about, nfds_t n, int ms), (about, n, ms))                \
    FAILS(link, int, -1, (const char *from, const char *to), (from, to))                           \
    FAILS(nice, int, -1, (int increment), (increment))                                             \
    FAILS(sigaction, int, -1, (int signal, const struct sigaction *action, struct sigaction *old), \
          (signal, action, old))                                                                   \
    FAILS(setitimer, int, -1,                                                                      \
          (__itimer_which_t which, const struct itimerval *value, struct itimerval *old),          \
          (which, value, old))                                                                     \
    FAILS(tcgetattr, int, -1, (int fd, struct termios *settings), (fd, settings))                  \
    FAILS(tcsetattr, int, -1, (int fd, int when, const struct termios *settings),                  \
          (fd, when, settings))                                                                    \
    FAILS(crypt, char *, NULL, (const char *password, const char *setting), (password, setting))

#define FAILS_INDEX(name, type, failure, parameters, arguments) CALL_##name,
#define CUTS_INDEX(name, parameters, arguments)                 CALL_##name,
enum call {
    CALLS(FAILS_INDEX, CUTS_INDEX) CALL_pselect,
    CALL_aio_fsync64,
    CALL_aio_error64,
    KINDS
};

#define FAILS_NAME(name, type, failure, parameters, arguments) {#name, 0},
#define CUTS_NAME(name, parameters, arguments)                 {#name, 0},
static struct record {
    char name[24];
    atomic_ullong count;
} own[KINDS] = {CALLS(FAILS_NAME, CUTS_NAME){"pselect", 0}, {"aio_fsync64", 0}, {"aio_error64", 0}},
  *records = own;

int __real_open64(const char *path, int flags, mode_t mode);
ssize_t __real_read(int fd, void *bytes, size_t len);
int __real_ftruncate64(int fd, off64_t size);

/* The records are moved into the file, which children have in common. */
__attribute__((constructor)) static void map_records(void) {
    const char *path = getenv("COUNTS");
    if (!path)
        return;
    int fd = __real_open64(path, O_RDWR | O_CREAT | O_TRUNC, S_IRUSR | S_IWUSR);
    if (fd < 0 || __real_ftruncate64(fd, sizeof own) < 0)
        abort();
    records = mmap(NULL, sizeof own, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (records == MAP_FAILED)
        abort();
    memcpy(records, own, sizeof own);
    close(fd);
}

/* A line that has no such error's name is a mistake of the test. */
static int error_named(const char *name) {
    for (int error = 1; error < 256; error++) {
        const char *other = strerrorname_np(error);
        if (other && strcmp(name, other) == 0)
            return error;
    }
    abort();
}

/* Without malloc(): a child may be here, made while another thread was in it. */
static void read_faults(char *text, size_t size) {
    const char *path = getenv("FAULTS");
    int fd = path ? __real_open64(path, O_RDONLY, 0) : -1;
    ssize_t n = fd < 0 ? 0 : __real_read(fd, text, size - 1);
    text[n < 0 ? 0 : n] = '\0';
    if (fd >= 0)
        close(fd);
}

/* True: the call is to fail, and errno says how. False: it is to be made, with the rest of len. */
static bool fault(enum call call, size_t *len) {
    static bool was_half[KINDS];
    char text[1024], name[24], how[24], *rest = text;
    unsigned long long nth = ++records[call].count;
    int before = errno, error = 0;
    read_faults(text, sizeof text);
    for (char *line; (line = strsep(&rest, "\n"));) {
        unsigned long long wanted = nth;
        if (sscanf(line, "%23s %23s %llu", name, how, &wanted) < 2)
            continue;
        if (strcmp(name, records[call].name) != 0)
            continue;
        bool half = strcmp(how, "HALF") == 0, one = strcmp(how, "ONE") == 0;
        bool none = strcmp(how, "NONE") == 0;
        if (half && was_half[call])
            error = ENOSPC;
        else if (wanted != nth)
            continue;
        else if (half || one || none)
            *len = half ? *len / 2 : one && *len > 0;
        else
            error = error_named(how);
        was_half[call] = half && !error;
    }
    errno = error ? error : before;
    return error != 0;
}

#define FAILS_WRAP(name, type, failure, parameters, arguments)                                     \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters;                                                                 \
    type __wrap_##name parameters {                                                                \
        return fault(CALL_##name, NULL) ? failure : __real_##name arguments;                       \
    }

#define CUTS_WRAP(name, parameters, arguments)                                                     \
    ssize_t __real_##name parameters;                                                              \
    ssize_t __wrap_##name parameters;                                                              \
    ssize_t __wrap_##name parameters {                                                             \
        return fault(CALL_##name, &len) ? -1 : __real_##name arguments;                            \
    }

CALLS(FAILS_WRAP, CUTS_WRAP)

int __real_clock_gettime(clockid_t clock, struct timespec *t);
int __wrap_clock_gettime(clockid_t clock, struct timespec *t);
int __wrap_clock_gettime(clockid_t clock, struct timespec *t) {
    const char *path = getenv("CLOCK");
    char text[64] = "";
    long wrong = 0, passed = 0;
    int fd = path ? __real_open64(path, O_RDONLY, 0) : -1;
    if (fd >= 0) {
        (void)!__real_read(fd, text, sizeof text - 1);
        close(fd);
    }
    (void)sscanf(text, "%ld %ld", &wrong, &passed);
    int status = __real_clock_gettime(clock, t);
    t->tv_sec += clock == CLOCK_REALTIME ? wrong : passed;
    return status;
}

int __real_pselect(int n, fd_set *readable, fd_set *writable, fd_set *other,
                   const struct timespec *limit, const sigset_t *signals);
int __wrap_pselect(int n, fd_set *readable, fd_set *writable, fd_set *other,
                   const struct timespec *limit, const sigset_t *signals);
int __wrap_pselect(int n, fd_set *readable, fd_set *writable, fd_set *other,
                   const struct timespec *limit, const sigset_t *signals) {
    size_t writes = SIZE_MAX;
    if (fault(CALL_pselect, &writes))
        return -1;
    int ready = __real_pselect(n, readable, writable, other, limit, signals);
    if (ready >= 0 && writable && writes == 0)
        FD_ZERO(writable);
    return ready;
}

/* The control block of an aio_fsync() is not to be used for another one before its aio_return(). How
 * one went is known when it is over: to ask for it again and again is one call. */

static bool aio_goes_on, aio_failed;

int __real_aio_fsync64(int operation, struct aiocb64 *job);
int __wrap_aio_fsync64(int operation, struct aiocb64 *job);
int __wrap_aio_fsync64(int operation, struct aiocb64 *job) {
    if (aio_goes_on)
        abort();
    if (fault(CALL_aio_fsync64, NULL))
        return -1;
    int status = __real_aio_fsync64(operation, job);
    aio_goes_on = status == 0;
    return status;
}

int __real_aio_error64(const struct aiocb64 *job);
int __wrap_aio_error64(const struct aiocb64 *job);
int __wrap_aio_error64(const struct aiocb64 *job) {
    int error = __real_aio_error64(job);
    if (error == EINPROGRESS)
        return error;
    aio_failed = fault(CALL_aio_error64, NULL);
    return aio_failed ? errno : error;
}

ssize_t __real_aio_return64(struct aiocb64 *job);
ssize_t __wrap_aio_return64(struct aiocb64 *job);
ssize_t __wrap_aio_return64(struct aiocb64 *job) {
    ssize_t n = __real_aio_return64(job);
    aio_goes_on = false;
    return aio_failed ? -1 : n;
}

#ifdef COVERAGE
/* gcov writes down what was run when a program exits; a crash that a test brings about, by SIGUSR2, is an
 * exit, too. No call of gcov's own must fail, and no memory limit of a test be its own. */
static void end_faults(void) {
    struct rlimit memory;
    (void)unsetenv("FAULTS");
    (void)getrlimit(RLIMIT_AS, &memory);
    memory.rlim_cur = memory.rlim_max;
    (void)setrlimit(RLIMIT_AS, &memory);
}

__attribute__((constructor)) static void take_crashes(void) {
    (void)atexit(end_faults);
    (void)signal(SIGUSR2, exit);
}
#endif
