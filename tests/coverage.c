/* Linked into the programs by tests/coverage.bash. exit() writes down what was run; _exit(), by which
 * the child of a compaction ends, does not. */
#include <unistd.h>

void __gcov_dump(void);
void __real__exit(int status);
void __wrap__exit(int status);

void __wrap__exit(int status) {
    __gcov_dump();
    __real__exit(status);
}
