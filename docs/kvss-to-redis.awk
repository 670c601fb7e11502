# Turns a data file of kvss into commands of Redis:
#
#     LC_ALL=C awk -f docs/kvss-to-redis.awk data | redis-cli --pipe
#
# A command of Redis says how long each of its words is, in bytes; hence LC_ALL=C. Whatever the
# bytes of a value are, it needs no quotes.

BEGIN { ORS = "\r\n" }

# print and not printf: mawk's printf has no room for a long value.
function word(text) {
    print "$" length(text)
    print text
}

function command(verb, key) {
    print "*" (verb == "DEL" ? 2 : 3)
    word(verb)
    word(key)
}

# 1763719200.250 or 1763719200 in milliseconds. Redis takes no zeros at the start.
function milliseconds(unixtime) {
    if (!sub(/\./, "", unixtime)) unixtime = unixtime "000"
    sub(/^0+/, "", unixtime)
    return unixtime == "" ? "0" : unixtime
}

NR == 1 {
    if (/^# kvss data 1:/) next
    printf "this is no data file of kvss\n" | "cat >&2"
    exit 1
}

# KV/1.0 verb key [the rest, spaces and all]
{
    verb = $2
    key = $3
    rest = substr($0, length("KV/1.0 " verb " " key " ") + 1)
}

verb == "PUT" { command("SET", key); word(rest) }
verb == "DEL" { command("DEL", key) }
verb == "EXPIREAT" { deadline[key] = milliseconds(rest); next }
{ delete deadline[key] }

# Each key's last deadline, and only then: one that is past would make Redis remove the key at once,
# when a later line may put it off.
END {
    for (key in deadline) {
        command("PEXPIREAT", key)
        word(deadline[key])
    }
}
