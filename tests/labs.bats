#!/usr/bin/env bats
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

@test "links on the pages of the labs lead somewhere" {
    for page in README.md */README.md; do
        while read -r link; do
            [ -e "$(dirname "$page")/$link" ] || missing "$link" "$page"
        done < <(grep -o '](\([^)]*\))' "$page" | sed 's/^](//; s/)$//; s/#.*//')
    done
}

@test "functions that the labs name are in kvss.c" {
    # shellcheck disable=SC2016 # these are backquotes of Markdown
    functions=$(grep -ho '`[a-z]*_[a-z_]*()`' ./*/README.md | tr -d '`()' | sort -u)
    [ "$functions" ]
    for function in ${functions/aio_fsync/}; do # that one is of POSIX
        grep -q "^static .*\b$function(" "$ROOT/kvss.c" || missing "$function()" kvss.c
    done
}
