# A second implementation of KV/1.0, to hold kvss against. It shares no line and no method with it:
# requests come as hexadecimal digits (od -An -v -tx1), and the rules are regular expressions on
# those. A line "session" begins a new connection; the store outlives it. Run with LC_ALL=C.

function answer(text) { print text }

# Takes the bytes before the first space off REST, and says in MORE whether there was a space.
function field(    i) {
    for (i = 1; i <= length(REST) && substr(REST, i, 2) != "20"; i += 2) continue
    FIELD = substr(REST, 1, i - 1)
    MORE = i <= length(REST)
    REST = substr(REST, i + 2)
    return FIELD
}

function text_of(hex,    i) {
    for (i = 1; i < length(hex); i += 2) printf "%s", CHARACTER[substr(hex, i, 2)]
    print ""
}

function run(line,    verb, key, value, given) {
    SERVED++
    REST = line
    if (field() != "4b562f312e30") return answer("426 UPGRADE_REQUIRED")
    if (line !~ UTF8 || !MORE) return answer("400 BAD_REQUEST")
    verb = field()
    if (MORE) { given = 1; key = field() }
    if (given && MORE) { given = 2; value = REST }
    if (!(verb in LEAST) || given < LEAST[verb] || given > MOST[verb] ||
        (given > 0 && key == "") || (given > 1 && value == "") ||
        length(key) > 500 || key ~ CONTROL) return answer("400 BAD_REQUEST")
    if (verb == "505554") {
        answer(key in STORE ? "200 OK" : "201 CREATED")
        KEYS += !(key in STORE)
        STORE[key] = value
    } else if (verb == "51554954") {
        answer("200 OK bye")
        QUIT = 1
    } else if (verb == "5354415453") {
        answer(key == "" ? "200 OK keys=" KEYS + 0 " uptime=Ns served=" SERVED : "400 BAD_REQUEST")
    } else if (!(key in STORE)) {
        answer("404 NOT_FOUND")
    } else if (verb == "474554") {
        printf "200 OK "
        text_of(STORE[key])
    } else {
        answer("204 NO_CONTENT")
        delete STORE[key]
        KEYS--
    }
}

# A line has ended: with its LF, or with the stream.
function ended(with_lf) {
    if (QUIT) return
    if (length(LINE) / 2 + 1 > 65536 || !with_lf) { SERVED++; answer("400 BAD_REQUEST") }
    else { sub(/0d$/, "", LINE); run(LINE) }
    LINE = ""
}

function session_ends() {
    if (LINE != "") ended(0)
    LINE = ""
    QUIT = 0
}

BEGIN {
    any = "[0-9a-f]"
    tail = "[89ab]" any
    CONTROL = "^(" any any ")*([01]" any "|7f)"
    UTF8 = "^(0[1-9a-f]|[1-7]" any "|(c[2-9a-f]|d" any ")" tail "|e0[ab]" any tail \
        "|(e[1-9abcef])" tail tail "|ed[89]" any tail "|f0[9ab]" any tail tail \
        "|f[123]" tail tail tail "|f48" any tail tail ")*$"
    for (i = 0; i < 256; i++) CHARACTER[sprintf("%02x", i)] = sprintf("%c", i)
    LEAST["505554"] = MOST["505554"] = 2    # PUT
    LEAST["474554"] = MOST["474554"] = 1    # GET
    LEAST["44454c"] = MOST["44454c"] = 1    # DEL
    LEAST["5354415453"] = 0; MOST["5354415453"] = 1 # STATS
    LEAST["51554954"] = MOST["51554954"] = 0 # QUIT
}

$1 == "session" { session_ends(); next }
!/0a/ { gsub(/ /, ""); LINE = LINE $0; next }
{ for (i = 1; i <= NF; i++) if ($i == "0a") ended(1); else LINE = LINE $i }
END { session_ends() }
