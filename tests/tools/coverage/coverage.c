/* Linked into both programs by tests/tools/coverage/run.bash. What was run is written down by exit() only; this
 * does it before a child ends by _exit(), and before a crash that a test has brought about, by
 * SIGUSR1. No call of gcov's own must fail, and no memory limit of a test be its own. */
#define _POSIX_C_SOURCE 200809L
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>

void __gcov_dump(void);
void __real__exit(int status);
void __wrap__exit(int status);

static void end_faults(void) {
    struct rlimit memory;
    (void)unsetenv("FAULTS");
    (void)getrlimit(RLIMIT_AS, &memory);
    memory.rlim_cur = memory.rlim_max;
    (void)setrlimit(RLIMIT_AS, &memory);
}

void __wrap__exit(int status) {
    end_faults();
    __gcov_dump();
    __real__exit(status);
}

__attribute__((constructor)) static void take_crashes(void) {
    struct sigaction crash = {.sa_handler = __wrap__exit};
    (void)sigaction(SIGUSR1, &crash, NULL);
    (void)atexit(end_faults);
}
