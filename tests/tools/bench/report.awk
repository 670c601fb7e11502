# The table of docs/performance.md, from the numbers of run.bash: awk -f report.awk FILE
# A ratio is of the two that were measured one after the other; what is shown is the median of rounds.
BEGIN { FS = "\t" }
/^#/ { next }
{ n[$1, $2]++
    ops[$1, $2, $3] = $4; cpu[$1, $2, $3] = $5; p50[$1, $2, $3] = $6; p99[$1, $2, $3] = $7
    p999[$1, $2, $3] = $8; longest[$1, $2, $3] = $9; kb[$1, $2, $3] = $10 }

function median(values, count,    i, j, swap) {
    for (i = 2; i <= count; i++)
        for (j = i; j > 1 && values[j - 1] > values[j]; j--) { swap = values[j]; values[j] = values[j - 1]; values[j - 1] = swap }
    return count % 2 ? values[(count + 1) / 2] : (values[count / 2] + values[count / 2 + 1]) / 2
}

function middle(what, work, server,    i, values) {
    for (i = 1; i <= n[work, server]; i++) values[i] = what[work, server, i]
    return median(values, n[work, server])
}

function ratio(what, work, server,    i, values) {
    for (i = 1; i <= n[work, server]; i++) values[i] = what[work, "kvss", i] / what[work, server, i]
    return median(values, n[work, server])
}

function number(x) {
    x = sprintf("%d", x)
    while (match(x, /^[0-9]+[0-9][0-9][0-9]/)) x = substr(x, 1, RLENGTH - 3) "," substr(x, RLENGTH - 2)
    return x
}

# The one of the two that kvss has the harder time with.
function better(what, work, more_is_better,    r, m) {
    r = ratio(what, work, "redis"); m = ratio(what, work, "memcached")
    return more_is_better ? (r < m ? "redis" : "memcached") : (r > m ? "redis" : "memcached")
}

function row(name, against, what, value, wanted) {
    printf "| %s | %s | %s | %.2f | %s |\n", name, against, what, value, wanted
}

END {
    print "| work | against | what | kvss / it | wanted |"
    print "| --- | --- | --- | --- | --- |"
    row("50 clients, depth 100", "redis", "throughput", ratio(ops, "50 clients, depth 100", "redis"), "4 or more")
    row("50 clients, depth 16", "redis", "throughput", ratio(ops, "50 clients, depth 16", "redis"), "2.2 or more")
    row("1 client, depth 100", "redis", "throughput", ratio(ops, "1 client, depth 100", "redis"), "1.6 or more")
    w = "50 clients, depth 1"; s = better(ops, w, 1); row(w, s, "throughput", ratio(ops, w, s), "1.1 or more")
    s = better(p99, w, 0); row(w, s, "99 of 100 waits", ratio(p99, w, s), "1 or less")
    w = "900 clients, depth 1"; s = better(ops, w, 1); row(w, s, "throughput", ratio(ops, w, s), "1.05 or more")
    s = better(longest, w, 0); row(w, s, "longest wait", ratio(longest, w, s), "1 or less")
    w = "1 client, 900 idle"; row(w, "redis", "CPU for a request", ratio(cpu, w, "redis"), "1.2 or less")
    w = "50 clients, depth 100"; row(w, "the floor", "throughput", ratio(ops, w, "floor"), "0.5 or more")
    row("1,000,000 keys held", "redis", "memory", ratio(kb, "fill", "redis"), "0.7 or less")
    row("growing to 1,000,000 keys", "redis", "longest wait", ratio(longest, "fill", "redis"), "1 or less")
    print ""
    print "| work | server | requests a second | kvss / it | CPU each, ns | median, us | 99 % | 99.9 % | longest |"
    print "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    works = "50 clients, depth 100;50 clients, depth 16;1 client, depth 100;50 clients, depth 1;900 clients, depth 1;1 client, 900 idle"
    count = split(works, list, ";")
    servers = split("kvss redis memcached python floor", names, " ")
    for (i = 1; i <= count; i++)
        for (j = 1; j <= servers; j++) {
            w = list[i]; s = names[j]
            if (n[w, s]) printf "| %s | %s | %s | %.2f | %s | %s | %s | %s | %s |\n", w, s, number(middle(ops, w, s)), ratio(ops, w, s), number(middle(cpu, w, s)),
                number(middle(p50, w, s)), number(middle(p99, w, s)), number(middle(p999, w, s)), number(middle(longest, w, s))
        }
}
