#!/usr/bin/env bats
# The inputs that fuzzing has kept: see README.md, beside it.

load ../../helper

@test "no input of the corpus breaks kvss, or what must be so in it" {
    echo 'int LLVMFuzzerTestOneInput(void); int LLVMFuzzerTestOneInput(void) { return 0; }' |
        clang -fsanitize=fuzzer,address -x c -o "$BATS_TEST_TMPDIR/probe" - 2>/dev/null ||
        skip "no clang with libFuzzer: apt-get install clang libclang-rt-dev"
    TIME=0 OUT=$BATS_TEST_TMPDIR "$ROOT/tests/tools/fuzz/run.bash"
    for entry in lines frames data; do
        grep -q INITED "$BATS_TEST_TMPDIR/$entry.log"
        [ "$(find "$ROOT/tests/tools/fuzz/corpus/$entry" -type f | wc -l)" -gt 20 ]
    done
}
