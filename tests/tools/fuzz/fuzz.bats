#!/usr/bin/env bats
# The inputs that fuzzing has kept (see README.md, beside it), and its dictionary.

load ../../helper

# replay ENTRY: no input of the corpus breaks kvss, or what must be so in it.
replay() {
    echo 'int LLVMFuzzerTestOneInput(void); int LLVMFuzzerTestOneInput(void) { return 0; }' |
        clang -fsanitize=fuzzer,address -x c -o "$BATS_TEST_TMPDIR/probe" - 2>/dev/null ||
        skip "no clang with libFuzzer: apt-get install clang libclang-rt-dev"
    TIME=0 OUT=$BATS_TEST_TMPDIR "$ROOT/tests/tools/fuzz/run.bash" "$1"
    grep -q INITED "$BATS_TEST_TMPDIR/$1.log"
    [ "$(find "$ROOT/tests/tools/fuzz/corpus/$1" -type f | wc -l)" -gt 20 ]
}

@test "the corpus of KV/1.0 connections" {
    replay lines
}

@test "the corpus of frames connections" {
    replay frames
}

@test "the corpus of data files" {
    replay data
}

@test "the dictionary has every verb" {
    verbs=$("$KVSS" --help | sed -n 's/^  KV\/1\.0 \([A-Z]*\).*/\1/p')
    [ "$(wc -l <<<"$verbs")" -ge 17 ]
    for verb in $verbs; do
        grep -q "^\"KV/1.0 $verb *\"\$" "$ROOT/tests/tools/fuzz/kv.dict" ||
            { echo "no $verb" >&2; return 1; }
    done
    # Those that frames have, in lower case, with NULs up to 15 bytes.
    for verb in create delete list send connect; do
        nuls=$(printf '%*s' $((15 - ${#verb})) '' | sed 's/ /\\\\x00/g')
        grep -q "^\"$verb$nuls\"\$" "$ROOT/tests/tools/fuzz/kv.dict"
    done
}
