/* Makes system calls of a program fail, while a file says so: LD_PRELOAD=faults.so FAULTS=FILE kvss
 *
 *     fsync EIO        each line of FILE: a call, and how it fails
 *     aio_fsync EIO
 *     pwrite ENOSPC
 *     pwrite HALF      or falls short: it writes half of what it's given, and then fails with ENOSPC
 *
 * FILE is read at each call, so that the disk can break, and be well again, while the program runs.
 * While fsync() fails, there is no aio_fsync(): the program has to do without it. One that itself
 * is to fail does so at the end, when the program asks how it went. */
#define _GNU_SOURCE
#include <aio.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { HALF = -1 };

static const struct {
    const char *name;
    int error;
} errors[] = {{"EIO", EIO}, {"ENOSPC", ENOSPC}, {"HALF", HALF}};

enum { ERRORS = sizeof errors / sizeof *errors };

/* 0: the call is to work. */
static int fault(const char *call) {
    char name[32], how[32];
    int error = 0;
    const char *path = getenv("FAULTS");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return 0;
    while (fscanf(file, "%31s %31s", name, how) == 2) {
        size_t i = 0;
        while (i < ERRORS && strcmp(how, errors[i].name) != 0) i++;
        if (i == ERRORS) abort(); /* the test is wrong */
        if (strcmp(name, call) == 0) error = errors[i].error;
    }
    fclose(file);
    return error;
}

/* The function of that name that would have been called. */
#define REAL(name) ((__typeof__(&(name)))dlsym(RTLD_NEXT, #name))

static int fail(int error) {
    errno = error;
    return -1;
}

int fsync(int fd) {
    int error = fault("fsync");
    return error ? fail(error) : REAL(fsync)(fd);
}

/* These have a 64 in their names where a file can be over 2 GiB. */

int aio_fsync64(int operation, struct aiocb64 *job) {
    return fault("fsync") ? fail(EAGAIN) : REAL(aio_fsync64)(operation, job);
}

int aio_error64(const struct aiocb64 *job) {
    int error = REAL(aio_error64)(job);
    return error ? error : fault("aio_fsync");
}

ssize_t aio_return64(struct aiocb64 *job) {
    ssize_t n = REAL(aio_return64)(job);
    return fault("aio_fsync") ? -1 : n;
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t at) {
    static bool was_half;
    int error = fault("pwrite");
    was_half = error == HALF && !was_half;
    if (was_half) return REAL(pwrite64)(fd, bytes, len / 2, at);
    if (error) return fail(error == HALF ? ENOSPC : error);
    return REAL(pwrite64)(fd, bytes, len, at);
}

int ftruncate64(int fd, off64_t size) {
    int error = fault("ftruncate");
    return error ? fail(error) : REAL(ftruncate64)(fd, size);
}

int rename(const char *from, const char *to) {
    int error = fault("rename");
    return error ? fail(error) : REAL(rename)(from, to);
}

pid_t fork(void) {
    int error = fault("fork");
    return error ? fail(error) : REAL(fork)();
}
