#!/usr/bin/env bats
# What is no request of KV/1.0: 426 where the version is wrong, else 400.

load public

@test "[4] no version: 426 UPGRADE_REQUIRED" {
    replies 'GET city' '426 UPGRADE_REQUIRED'
}

@test "[2] another version: 426 UPGRADE_REQUIRED" {
    each 'KV/2.0 GET city' '426 UPGRADE_REQUIRED' \
         'WRONG/1.0 GET city' '426 UPGRADE_REQUIRED'
}

@test "[1] an empty line has no version" {
    replies '' '426 UPGRADE_REQUIRED'
}

@test "[4] POTT: 400 BAD_REQUEST" {
    replies 'KV/1.0 POTT user42 Alice' '400 BAD_REQUEST'
}

@test "[2] no verb: 400 BAD_REQUEST" {
    replies 'KV/1.0' '400 BAD_REQUEST'
}

@test "[3] an argument too few: 400 BAD_REQUEST" {
    each 'KV/1.0 GET' '400 BAD_REQUEST' \
         'KV/1.0 DEL' '400 BAD_REQUEST' \
         'KV/1.0 PUT' '400 BAD_REQUEST' \
         'KV/1.0 PUT city' '400 BAD_REQUEST'
}

@test "[2] an argument too many: 400 BAD_REQUEST" {
    put city Hanoi
    each 'KV/1.0 GET city town' '400 BAD_REQUEST' \
         'KV/1.0 DEL city town' '400 BAD_REQUEST'
}

@test "[2] after an error, the connection goes on" {
    put city Hanoi
    connect ann
    says ann 'POTT' 'KV/1.0 POTT' 'KV/1.0 GET city'
    next ann
    next ann
    hears ann '200 OK Hanoi'
}
