#!/usr/bin/env bats
# PUT, GET and DEL. The number in a test's name is its points.

load public

@test "[3] PUT: 201 CREATED for a new key" {
    replies 'KV/1.0 PUT city Hanoi' '201 CREATED'
}

@test "[3] PUT: 200 OK for a key that is there" {
    put city Hanoi
    replies 'KV/1.0 PUT city Hue' '200 OK'
}

@test "[3] GET: 200 OK and the value" {
    put city Hanoi
    replies 'KV/1.0 GET city' '200 OK Hanoi'
}

@test "[3] GET: the newest value" {
    put city Hanoi
    put city Hue
    replies 'KV/1.0 GET city' '200 OK Hue'
}

@test "[3] GET: 404 NOT_FOUND without such a key" {
    put city Hanoi
    replies 'KV/1.0 GET town' '404 NOT_FOUND'
}

@test "[3] DEL: 204 NO_CONTENT" {
    put city Hanoi
    replies 'KV/1.0 DEL city' '204 NO_CONTENT'
}

@test "[3] DEL: the key is gone, and no other" {
    put city Hanoi
    put town Hue
    ask 'KV/1.0 DEL city' >"$BATS_TEST_TMPDIR/del"
    replies 'KV/1.0 GET town' '200 OK Hue'
    [[ $(ask 'KV/1.0 GET city') != *Hanoi* ]]
}

@test "[3] DEL: 404 NOT_FOUND without such a key" {
    replies 'KV/1.0 DEL city' '404 NOT_FOUND'
}

@test "[2] a value may have spaces: one, two, at its end" {
    put city 'Ho Chi Minh  City '
    replies 'KV/1.0 GET city' '200 OK Ho Chi Minh  City '
}

@test "[2] keys and values in UTF-8" {
    put thành_phố 'Hà Nội'
    replies 'KV/1.0 GET thành_phố' '200 OK Hà Nội'
}

@test "[2] city and City are two keys" {
    put city Hanoi
    put City Hue
    replies 'KV/1.0 GET city' '200 OK Hanoi'
}
