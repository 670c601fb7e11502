/* Makes system calls of a program fail, while a file says so: LD_PRELOAD=faults.so FAULTS=FILE kvss
 *
 *     fsync EIO        each line of FILE: a call, and how it fails
 *     pwrite ENOSPC
 *     pwrite HALF      or falls short: it writes half of what it's given, and then fails with ENOSPC
 *
 * FILE is read at each call, so that the disk can break, and be well again, while the program runs.
 * aio_fsync() fails whenever fsync() does, with EAGAIN: the program has to do it by itself then. */
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

static const struct {
    const char *name;
    int error;
} errors[] = {{"EIO", EIO}, {"ENOSPC", ENOSPC}, {"EAGAIN", EAGAIN}, {"HALF", -1}};

/* 0: the call is to work. */
static int fault(const char *call) {
    char name[32], how[32];
    int error = 0;
    const char *path = getenv("FAULTS");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return 0;
    while (fscanf(file, "%31s %31s", name, how) == 2)
        for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
            if (!strcmp(name, call) && !strcmp(how, errors[i].name)) error = errors[i].error;
    fclose(file);
    return error;
}

/* The function of that name that would have been called. */
#define REAL(name) ((__typeof__(&(name)))dlsym(RTLD_NEXT, #name))

#define FAIL(error) return errno = (error), -1

int fsync(int fd) {
    int error = fault("fsync");
    if (error) FAIL(error);
    return REAL(fsync)(fd);
}

int aio_fsync64(int operation, struct aiocb64 *job) {
    if (fault("fsync")) FAIL(EAGAIN);
    return REAL(aio_fsync64)(operation, job);
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t at) {
    static bool half;
    int error = fault("pwrite");
    half = error == -1 && !half;
    if (half) return REAL(pwrite64)(fd, bytes, len / 2, at);
    if (error) FAIL(error == -1 ? ENOSPC : error);
    return REAL(pwrite64)(fd, bytes, len, at);
}

int rename(const char *from, const char *to) {
    int error = fault("rename");
    if (error) FAIL(error);
    return REAL(rename)(from, to);
}

pid_t fork(void) {
    int error = fault("fork");
    if (error) FAIL(error);
    return REAL(fork)();
}
