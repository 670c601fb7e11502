#!/usr/bin/env bats
# bats file_tags=own
# The labs in docs/labs are whole: each has a page, tests and a model. Whether these do what they
# should, make labs checks.

load helper

# missing WHAT WHERE
missing() {
    echo "$1 is not in $2" >&2
    return 1
}

setup() { cd "$ROOT/docs/labs" || return; }

@test "each lab has a page, tests and a model, and is in the list" {
    [ "$(find . -mindepth 1 -maxdepth 1 -type d | wc -l)" -ge 8 ]
    for lab in */; do
        lab=${lab%/}
        grep -q "^| \[$lab\]($lab/README.md) |" README.md || missing "$lab" README.md
        for file in README.md lab.bats model.patch; do
            [ -s "$lab/$file" ] || missing "$file" "$lab"
        done
        grep -q '^\*\*Goal\.\*\*' "$lab/README.md"
        grep -q '^<details><summary>' "$lab/README.md"
        grep -q "check_page docs/labs/$lab/README.md" "$lab/lab.bats"
    done
}
