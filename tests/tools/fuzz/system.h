/* The system as kvss.c sees it here: memory, clock, files and sockets, all of them in this process
 * and all as the harness says. So nothing waits, every run of an input is the same, and whatever
 * can fail in a real system can fail here. kvss.c is as it is: macros lead its calls to these
 * functions. */
#define _XOPEN_SOURCE     700
#define _FILE_OFFSET_BITS 64

#include <aio.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sanitizer/asan_interface.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#include <wctype.h>

/* What is new for libFuzzer is what is new in kvss.c, and nothing of the harness. */
#pragma clang attribute push(__attribute__((no_sanitize("coverage"))), apply_to = function)

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition))                                                                          \
            must_fail(__FILE__, __LINE__, #condition);                                             \
    } while (0)

static void must_fail(const char *file, int line, const char *condition) {
    fprintf(stderr, "%s:%d: this must be so: %s\n", file, line, condition);
    abort();
}

/* Bytes of the harness itself, at the end of which more can be put. To add none is to be sure that
 * at is not NULL. */
struct bytes {
    char *at;
    size_t len, size;
};

static void bytes_add(struct bytes *b, const void *more, size_t len) {
    if (!b->at || b->len + len > b->size) {
        b->size = 2 * (b->len + len) + 64;
        b->at = realloc(b->at, b->size);
        MUST(b->at);
    }
    memcpy(b->at + b->len, more, len);
    b->len += len;
}

enum { FDS = 32, INODES = 8, PEERS = 3 };

static const uint64_t FOR_EVER = UINT64_MAX;
static const uint64_t EPOCH_MS = 1763719200000; /* the time of day when a run begins */

enum fd_kind { FD_FREE, FD_OTHER, FD_FILE, FD_LISTENER, FD_PEER, FD_CHILD };

struct inode {
    struct bytes data;
    int links, opened;
};

/* The other end of a connection, or what is left of it. */
struct peer {
    int fd;                  /* the server's; -1: closed */
    bool waits;              /* to be accepted */
    struct bytes sent, got;  /* by the peer */
    size_t read;             /* of sent, by the server */
    struct bytes reads;      /* a size_t each: what recv() brought */
    bool ends, ended, reset; /* it will send no more; the server has read that; connection lost */
    bool shut;               /* the server sends no more */
    size_t room;             /* that its socket has for what the server sends */
    char host[16], port[8];
};

static struct {
    uint64_t now, began; /* ms */
    uint64_t until;      /* a wait does not take longer than until then, and then is idle */
    bool idle, ticking;
    struct block *blocks; /* of memory */
    long memory;          /* allocations that are left; -1: any number */
    bool disk_full, sync_fails;
    long steps; /* changes of files that are left before the process is killed; -1: any number */
    size_t read_most;
    struct inode inodes[INODES];
    struct name {
        const char *path;
        struct inode *inode;
    } names[3];
    struct {
        enum fd_kind kind;
        struct inode *inode;
        int number; /* of a peer; of the wire of a listener */
    } fds[FDS];
    struct peer peers[PEERS];
    int wires[PEERS];
    bool in_child, child_reported;
    int report, polls;
    jmp_buf parent, end;
} sys = {.names = {{"/data", NULL}, {"/data.kvss-new", NULL}, {"/data.bad", NULL}}};

/* Memory. Each block has a head, in a list of all that were not freed. The head is poisoned: only these
 * functions may read it. */
struct block {
    struct block *prev, *next;
    size_t len, unused;
};

#define OF_HEADS __attribute__((no_sanitize("address")))

OF_HEADS static void *sys_malloc(size_t len) {
    if (sys.memory == 0)
        return NULL;
    if (sys.memory > 0)
        sys.memory--;
    struct block *b = malloc(sizeof *b + len);
    MUST(b);
    b->prev = NULL;
    b->next = sys.blocks;
    b->len = len;
    if (b->next)
        b->next->prev = b;
    sys.blocks = b;
    ASAN_POISON_MEMORY_REGION(b, sizeof *b);
    return b + 1;
}

OF_HEADS static void sys_free(void *p) {
    if (!p)
        return;
    struct block *b = (struct block *)p - 1;
    if (b->next)
        b->next->prev = b->prev;
    if (b->prev)
        b->prev->next = b->next;
    else
        sys.blocks = b->next;
    ASAN_UNPOISON_MEMORY_REGION(b, sizeof *b);
    free(b);
}

static void *sys_calloc(size_t n, size_t len) {
    void *p = sys_malloc(n * len);
    return p ? memset(p, 0, n * len) : NULL;
}

/* Always moves. */
OF_HEADS static void *sys_realloc(void *p, size_t len) {
    void *moved = sys_malloc(len);
    if (!moved || !p)
        return moved;
    const struct block *b = (struct block *)p - 1;
    memcpy(moved, p, b->len < len ? b->len : len);
    sys_free(p);
    return moved;
}

static char *sys_strdup(const char *s) {
    char *copy = sys_malloc(strlen(s) + 1);
    return copy ? strcpy(copy, s) : NULL;
}

/* The process, and its child, which is this process, too, until it ends: see fork() below. */
static void sys_exit(int code) __attribute__((noreturn));
static void sys_exit(int code) {
    longjmp(sys.end, code + 1);
}
static void sys_child_exit(int code) __attribute__((noreturn));
static void sys_child_exit(int code) {
    (void)code;
    longjmp(sys.parent, 1);
}

static void save_parent(void); /* what the child changes is not changed for its parent */
static void restore_parent(void);

static pid_t sys_child(void) {
    save_parent();
    sys.in_child = true;
    return 0;
}

static pid_t sys_parent(void) {
    restore_parent();
    sys.in_child = false;
    return 2;
}

/* Time. */
static int sys_clock(clockid_t clock, struct timespec *t) {
    uint64_t ms = clock == CLOCK_MONOTONIC ? sys.now : EPOCH_MS + sys.now - sys.began;
    *t = (struct timespec){(time_t)(ms / 1000), (long)(ms % 1000 * 1000000)};
    return 0;
}

static int sys_nanosleep(const struct timespec *t) {
    sys.now += (uint64_t)t->tv_sec * 1000 + (uint64_t)t->tv_nsec / 1000000;
    return 0;
}

static int sys_setitimer(const struct itimerval *timer) {
    sys.ticking = timer->it_value.tv_usec != 0;
    return 0;
}

/* A hash that takes no time. */
static char *sys_crypt(const char *password, const char *setting) {
    static char text[16];
    unsigned sum = (unsigned char)*setting;
    while (*password)
        sum = sum * 31 + (unsigned char)*password++;
    snprintf(text, sizeof text, "$%08x", sum);
    return text;
}

/* Files. */
static int fd_new(enum fd_kind kind) {
    for (int fd = 3; fd < FDS; fd++) {
        if (sys.fds[fd].kind != FD_FREE)
            continue;
        memset(&sys.fds[fd], 0, sizeof sys.fds[fd]);
        sys.fds[fd].kind = kind;
        return fd;
    }
    errno = EMFILE;
    return -1;
}

static int fail(int error) {
    errno = error;
    return -1;
}

static struct name *name_find(const char *path) {
    for (size_t i = 0; i < 3; i++)
        if (strcmp(path, sys.names[i].path) == 0)
            return &sys.names[i];
    return NULL;
}

static struct inode *fd_inode(int fd) {
    MUST(fd >= 0 && fd < FDS && sys.fds[fd].kind == FD_FILE);
    return sys.fds[fd].inode;
}

static void inode_drop(struct inode *inode) {
    if (inode->links || inode->opened)
        return;
    inode->data.len = 0;
}

/* Each change of a file may be the last. */
static bool killed(void) {
    return sys.steps >= 0 && sys.steps-- == 0;
}
static void step(void) {
    if (killed())
        longjmp(sys.end, -1);
}

static struct inode *inode_new(void) {
    for (size_t i = 0; i < INODES; i++)
        if (!sys.inodes[i].links && !sys.inodes[i].opened)
            return &sys.inodes[i];
    MUST(false);
    return NULL;
}

static int sys_open(const char *path, int flags, ...) {
    struct name *name = name_find(path);
    if (!name)
        return fd_new(FD_OTHER);
    if (!name->inode && !(flags & O_CREAT))
        return fail(ENOENT);
    if (name->inode && flags & O_EXCL)
        return fail(EEXIST);
    if (!name->inode) {
        step();
        name->inode = inode_new();
        name->inode->links = 1;
        bytes_add(&name->inode->data, "", 0);
    }
    int fd = fd_new(FD_FILE);
    if (fd < 0)
        return fd;
    sys.fds[fd].inode = name->inode;
    name->inode->opened++;
    return fd;
}

static int sys_close(int fd) {
    if (fd < 0 || sys.in_child)
        return 0;
    MUST(fd < FDS && sys.fds[fd].kind != FD_FREE);
    if (sys.fds[fd].kind == FD_PEER)
        sys.peers[sys.fds[fd].number].fd = -1;
    if (sys.fds[fd].kind == FD_FILE) {
        sys.fds[fd].inode->opened--;
        inode_drop(sys.fds[fd].inode);
    }
    sys.fds[fd].kind = FD_FREE;
    return 0;
}

static int sys_unlink(const char *path) {
    struct name *name = name_find(path);
    if (!name->inode)
        return fail(ENOENT);
    step();
    name->inode->links--;
    inode_drop(name->inode);
    name->inode = NULL;
    return 0;
}

static int sys_rename(const char *from, const char *to) {
    struct name *a = name_find(from), *b = name_find(to);
    if (!a->inode)
        return fail(ENOENT);
    step();
    if (b->inode)
        b->inode->links--, inode_drop(b->inode);
    b->inode = a->inode;
    a->inode = NULL;
    return 0;
}

static ssize_t inode_write(struct inode *inode, const void *bytes, size_t len, size_t at) {
    size_t over = inode->data.len - at < len ? inode->data.len - at : len;
    memcpy(inode->data.at + at, bytes, over);
    bytes_add(&inode->data, (const char *)bytes + over, len - over);
    return (ssize_t)len;
}

static ssize_t sys_pwrite(int fd, const void *bytes, size_t len, off_t at) {
    struct inode *inode = fd_inode(fd);
    MUST(len > 0 && at >= 0 && (size_t)at <= inode->data.len); /* no holes */
    if (killed()) {
        inode_write(inode, bytes, len / 2, (size_t)at);
        longjmp(sys.end, -1);
    }
    if (sys.disk_full && len < 2)
        return fail(ENOSPC);
    return inode_write(inode, bytes, sys.disk_full ? len / 2 : len, (size_t)at);
}

static ssize_t sys_pread(int fd, void *bytes, size_t len, off_t at) {
    const struct inode *inode = fd_inode(fd);
    if ((size_t)at >= inode->data.len)
        return 0;
    if (sys.read_most && at > 0 && len > sys.read_most)
        len = sys.read_most;
    if (len > inode->data.len - (size_t)at)
        len = inode->data.len - (size_t)at;
    memcpy(bytes, inode->data.at + at, len);
    return (ssize_t)len;
}

static ssize_t sys_read(int fd, void *bytes, size_t len) {
    if (sys.in_child)
        return 0;
    MUST(sys.fds[fd].kind == FD_CHILD && len == sizeof sys.report);
    if (!sys.child_reported)
        return fail(EAGAIN);
    sys.child_reported = false;
    memcpy(bytes, &sys.report, sizeof sys.report);
    return sizeof sys.report;
}

/* A report of the child; or an event, which no client can make look like two. */
static ssize_t sys_write(int fd, const void *bytes, size_t len) {
    const unsigned char *line = bytes;
    if (fd == STDERR_FILENO) {
        MUST(len > 0 && line[len - 1] == '\n' && len < 2048 + 16);
        for (size_t i = 0; i + 1 < len; i++)
            MUST(line[i] >= 0x20 && line[i] != 0x7F);
        return (ssize_t)len;
    }
    sys.child_reported = true;
    if (sys.in_child) {
        MUST(len == sizeof sys.report);
        memcpy(&sys.report, bytes, len);
    } else {
        MUST(sys.fds[fd].kind == FD_CHILD && len == 1);
        sys.report = sys.sync_fails ? EIO : 0; /* it was asked to sync */
    }
    return (ssize_t)len;
}

static int sys_ftruncate(int fd, off_t len) {
    struct inode *inode = fd_inode(fd);
    MUST((size_t)len <= inode->data.len);
    step();
    inode->data.len = (size_t)len;
    return 0;
}

static off_t sys_lseek(int fd) {
    return (off_t)fd_inode(fd)->data.len; /* only ever to its end */
}

static int sys_fsync(int fd) {
    MUST(fd >= 0 && fd < FDS && sys.fds[fd].kind != FD_FREE);
    return sys.sync_fails ? fail(EIO) : 0;
}

static int inode_stat(const struct inode *inode, struct stat *about) {
    memset(about, 0, sizeof *about);
    about->st_mode = S_IFREG | S_IRUSR | S_IWUSR;
    about->st_ino = (ino_t)(inode - sys.inodes);
    about->st_size = (off_t)inode->data.len;
    about->st_nlink = (nlink_t)inode->links;
    return 0;
}

static int sys_stat(const char *path, struct stat *about) {
    struct name *name = name_find(path);
    return name && name->inode ? inode_stat(name->inode, about) : fail(ENOENT);
}

static int sys_aio_fsync(void) {
    sys.polls = 2;
    return 0;
}

static int sys_aio_error(void) {
    return sys.polls-- > 0 ? EINPROGRESS : sys.sync_fails ? EIO : 0;
}

/* Every lock is free, and nothing waits. */
static int sys_fcntl(int fd, int command, ...) {
    MUST(fd >= 0 && fd < FDS && sys.fds[fd].kind != FD_FREE);
    (void)command;
    return 0;
}

static int sys_socketpair(int ends[2]) {
    ends[0] = fd_new(FD_CHILD);
    ends[1] = fd_new(FD_CHILD);
    sys.child_reported = false;
    return ends[1] < 0 ? -1 : 0;
}

/* Connections. */
static struct peer *fd_peer(int fd) {
    MUST(fd >= 0 && fd < FDS && sys.fds[fd].kind == FD_PEER);
    return &sys.peers[sys.fds[fd].number];
}

static int sys_accept(int listener, struct sockaddr *address) {
    for (int i = 0; i < PEERS; i++) {
        struct peer *p = &sys.peers[i];
        if (!p->waits || sys.wires[i] != sys.fds[listener].number)
            continue;
        struct sockaddr_in in = {.sin_port = (in_port_t)i};
        memcpy(address, &in, sizeof in);
        p->waits = false;
        p->fd = fd_new(FD_PEER);
        MUST(p->fd >= 0);
        sys.fds[p->fd].number = i;
        return p->fd;
    }
    return fail(EAGAIN);
}

static int sys_getnameinfo(const struct sockaddr *address, char *host, char *port) {
    struct sockaddr_in in;
    memcpy(&in, address, sizeof in);
    strcpy(host, sys.peers[in.sin_port].host);
    strcpy(port, sys.peers[in.sin_port].port);
    return 0;
}

static ssize_t sys_recv(int fd, void *bytes, size_t len) {
    struct peer *p = fd_peer(fd);
    if (p->reset)
        return fail(ECONNRESET);
    MUST(len > 0); /* or it would look like the end */
    size_t n = p->sent.len - p->read;
    if (n == 0 && !p->ends)
        return fail(EAGAIN);
    if (n == 0)
        p->ended = true;
    if (n > len)
        n = len;
    if (n)
        memcpy(bytes, p->sent.at + p->read, n);
    p->read += n;
    bytes_add(&p->reads, &n, sizeof n);
    return (ssize_t)n;
}

static ssize_t sys_send(int fd, const void *bytes, size_t len) {
    struct peer *p = fd_peer(fd);
    MUST(!p->shut && len > 0);
    if (p->reset)
        return fail(EPIPE);
    if (p->room == 0)
        return fail(EAGAIN);
    if (len > p->room)
        len = p->room;
    if (p->room != SIZE_MAX)
        p->room -= len;
    bytes_add(&p->got, bytes, len);
    return (ssize_t)len;
}

static int sys_shutdown(int fd) {
    fd_peer(fd)->shut = true;
    return 0;
}

static bool fd_is_readable(int fd) {
    const struct peer *p = &sys.peers[sys.fds[fd].number];
    if (sys.fds[fd].kind == FD_PEER)
        return p->read < p->sent.len || p->ends || p->reset;
    if (sys.fds[fd].kind != FD_LISTENER)
        return false;
    for (int i = 0; i < PEERS; i++)
        if (sys.peers[i].waits && sys.wires[i] == sys.fds[fd].number)
            return true;
    return false;
}

static bool fd_is_writable(int fd) {
    const struct peer *p = &sys.peers[sys.fds[fd].number];
    return sys.fds[fd].kind == FD_PEER && (p->room > 0 || p->reset);
}

/* If nothing is ready, time passes: until the timer ticks, or the wait is over, or sys.until. */
static int sys_pselect(int n, fd_set *readable, fd_set *writable, const struct timespec *limit) {
    int ready = 0;
    if (!readable)
        return 1; /* for an event: stderr always takes it */
    MUST(n <= FDS);
    for (int fd = 0; fd < n; fd++) {
        if (FD_ISSET(fd, readable) && !fd_is_readable(fd))
            FD_CLR(fd, readable);
        if (FD_ISSET(fd, writable) && !fd_is_writable(fd))
            FD_CLR(fd, writable);
        ready += !!FD_ISSET(fd, readable) + !!FD_ISSET(fd, writable);
    }
    if (ready)
        return ready;
    if (sys.ticking) {
        sys.now++;
        return fail(EINTR);
    }
    uint64_t ms =
        limit ? (uint64_t)limit->tv_sec * 1000 + (uint64_t)limit->tv_nsec / 1000000 : FOR_EVER;
    sys.idle = sys.now >= sys.until ? ms > 0 : ms > sys.until - sys.now;
    if (!sys.idle)
        sys.now += ms;
    else if (sys.now < sys.until)
        sys.now = sys.until;
    return 0;
}

static FILE *quiet; /* what kvss prints on stderr goes here */

#define accept(fd, address, len)               ((void)(len), sys_accept(fd, address))
#define aio_error(sync)                        sys_aio_error()
#define aio_fsync(op, sync)                    sys_aio_fsync()
#define aio_return(sync)                       (sys.sync_fails ? -1 : 0)
#define aio_suspend(list, n, limit)            ((void)(list), sys.polls = 0)
#define calloc(n, len)                         sys_calloc(n, len)
#define clock_gettime(clock, t)                sys_clock(clock, t)
#define close(fd)                              sys_close(fd)
#define crypt                                  sys_crypt
#define exit(code)                             sys_exit(code)
#define _exit(code)                            sys_child_exit(code)
#define fchmod(fd, mode)                       0
#define fchown(fd, user, group)                0
#define fcntl(...)                             sys_fcntl(__VA_ARGS__)
#define fork()                                 (setjmp(sys.parent) ? sys_parent() : sys_child())
#define free(p)                                sys_free(p)
#define fstat(fd, about)                       inode_stat(fd_inode(fd), about)
#define fsync(fd)                              sys_fsync(fd)
#define ftruncate(fd, len)                     sys_ftruncate(fd, len)
#define getnameinfo(a, len, h, hl, p, pl, how) ((void)(len), sys_getnameinfo(a, h, p))
#define getpid()                               1
#define getppid()                              1
#define isatty(fd)                             false
#define link(from, to)                         ((void)(from), (void)(to), -1)
#define lseek(fd, at, from)                    sys_lseek(fd)
#define lstat(path, about)                     sys_stat(path, about)
#define main                                   kvss_main
#define malloc(len)                            sys_malloc(len)
#define nanosleep(t, left)                     sys_nanosleep(t)
#define nice(n)                                0
#define open(...)                              sys_open(__VA_ARGS__)
#define pread(fd, bytes, len, at)              sys_pread(fd, bytes, len, at)
#define pselect(n, r, w, e, limit, signals)    sys_pselect(n, r, w, limit)
#define pwrite(fd, bytes, len, at)             sys_pwrite(fd, bytes, len, at)
#define read(fd, bytes, len)                   sys_read(fd, bytes, len)
#define realloc(p, len)                        sys_realloc(p, len)
#define realpath(path, room)                   sys_strdup(path)
#define recv(fd, bytes, len, flags)            sys_recv(fd, bytes, len)
#define rename(from, to)                       sys_rename(from, to)
#define send(fd, bytes, len, flags)            sys_send(fd, bytes, len)
#define setitimer(which, timer, old)           sys_setitimer(timer)
#define setsockopt(fd, level, name, on, len)   ((void)(on))
#define shutdown(fd, how)                      sys_shutdown(fd)
#define sigprocmask(how, set, old)             ((void)(set), (void)(old))
#define socketpair(family, type, p, ends)      sys_socketpair(ends)
#define stat(path, about)                      sys_stat(path, about)
#define strdup(s)                              sys_strdup(s)
#define unlink(path)                           sys_unlink(path)
#define write(fd, bytes, len)                  sys_write(fd, bytes, len)
#undef stderr
#define stderr quiet

#pragma clang attribute pop
#include "../../../kvss.c"

#undef calloc
#undef exit
#undef free
#undef main
#undef malloc
#undef realloc
