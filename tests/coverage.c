/* Linked into the programs by tests/coverage.bash. What was run is written down by exit() only. These
 * do it before a child of kvss ends by _exit(), and now and then while a program waits: tests kill
 * some. */
#define _XOPEN_SOURCE 700
#include <sys/select.h>
#include <unistd.h>

void __gcov_dump(void);
void __gcov_reset(void);

void __real__exit(int status);
void __wrap__exit(int status);
int __real_pselect(int top, fd_set *readable, fd_set *writable, fd_set *failed,
                   const struct timespec *limit, const sigset_t *signals);
int __wrap_pselect(int top, fd_set *readable, fd_set *writable, fd_set *failed,
                   const struct timespec *limit, const sigset_t *signals);

void __wrap__exit(int status) {
    __gcov_dump();
    __real__exit(status);
}

/* At the first call, the second, the fourth, ...: to write takes some milliseconds. */
int __wrap_pselect(int top, fd_set *readable, fd_set *writable, fd_set *failed,
                   const struct timespec *limit, const sigset_t *signals) {
    static unsigned long calls;
    if ((calls & (calls + 1)) == 0) {
        __gcov_dump();
        __gcov_reset();
    }
    calls++;
    return __real_pselect(top, readable, writable, failed, limit, signals);
}
