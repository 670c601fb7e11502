/* The bytes of connections. Three peers talk to the loop of kvss: with WIRE=LINES two of them
 * KV/1.0, and the third in frames; with WIRE=FRAMES it's the other way round. The first byte of an
 * input chooses options, the second how the loop runs. Then come the bytes that the peers send;
 * those that UTF-8 never has say what else happens:
 *
 *     F6 n  n allocations succeed, and no more after that; from 16 on: any number
 *     F7    NULs are added to what was sent, up to a multiple of 1,024 bytes
 *     F8 n  the next bytes are sent by peer n
 *     F9    what follows comes with another recv()
 *     FA n  n seconds pass
 *     FB n  the peer takes 2^n bytes and no more for now; 0: none, from 15 on: any number
 *     FC    the peer ends its side
 *     FD    the connection is lost, and the peer makes another
 *     FE n  the last byte is sent 257 n times more; if it's an LF, n times
 *     FF n  bit 0: the disk is full; bit 1: a sync fails
 *
 * An input that fails nothing is run twice: once as it is, once cut into other pieces. The replies
 * must be the same. */
#include "check.h"

#pragma clang attribute push(__attribute__((no_sanitize("coverage"))), apply_to = function)

enum { FAILS_MEMORY = 0xF6, PADS, SENDS, CUTS, WAITS, TAKES, ENDS, LOSES, REPEATS, FAILS_DISK };
enum { LINES, FRAMES, WIRES }; /* the numbers of the wires here */
enum { SENT_MAX = 1 << 18, TURNS_MAX = 200000 };

static struct {
    bool in_pieces, ticks;
    bool fails;  /* something has failed, or was late, on purpose */
    bool abrupt; /* QUIT has stopped the server in the middle of that */
    int peer;
    size_t sent;
    unsigned random, made;
    struct bytes piece, said; /* said: all replies, less what may differ */
    bool cut[PEERS];
} run;

static void peer_connect(int i) {
    static const char *const hosts[] = {"127.0.0.1", "::1", "127.0.0.2"};
    struct peer *p = &sys.peers[i];
    p->fd = -1;
    p->sent.len = p->got.len = p->reads.len = p->read = 0;
    p->ends = p->ended = p->reset = p->shut = run.cut[i] = false;
    p->room = SIZE_MAX;
    p->waits = true;
    bytes_add(&p->sent, "", 0);
    bytes_add(&p->got, "", 0);
    bytes_add(&p->reads, "", 0);
    strcpy(p->host, hosts[i]);
    snprintf(p->port, sizeof p->port, "4000%u", (unsigned)(i + (int)run.made++ / PEERS) % 2);
}

/* One turn. Where time stands still all clients are attended, as if none had been busy. */
static void turn(void) {
    for (int fd = 0; !run.ticks && fd <= server.fd_highest; fd++)
        clients[fd].last_active = 0;
    sys.idle = false;
    loop_turn();
}

static void note_cuts(void) {
    for (int i = 0; i < PEERS; i++) {
        int fd = sys.peers[i].fd;
        bool lingers = fd >= 0 && clients[fd].phase == LINGERING;
        if (lingers && clients[fd].linger_until > server.now + LINGER_MS)
            run.cut[i] = true;
    }
}

/* Until nothing is to be done for that time. Without memory it may go on and on. */
static void settle(uint64_t ms) {
    int turns = sys.memory < 0 ? TURNS_MAX : 100;
    sys.until = sys.now + ms;
    do {
        slow.next_at[SLOW_AUTH] = 0; /* between two passwords no time passes */
        turn();
        note_cuts();
    } while (!sys.idle && --turns > 0 && !server.stopping);
    MUST(turns > 0 || sys.memory >= 0);
}

/* What the peer sends, in one piece or in many. */
static void deliver(void) {
    struct peer *p = &sys.peers[run.peer];
    size_t most = run.in_pieces && sys.wires[run.peer] == LINES ? run.piece.len / 16 + 1 : SIZE_MAX;
    for (size_t at = 0; at < run.piece.len && !server.stopping;) {
        size_t n = run.piece.len - at;
        run.random = run.random * 1103515245 + 12345;
        if (n > most)
            n = 1 + (run.random >> 16) % most;
        if (!p->ends && !p->reset)
            bytes_add(&p->sent, run.piece.at + at, n);
        at += n;
        settle(0);
    }
    check_all(sys.idle && sys.memory < 0);
    run.piece.len = 0;
}

/* Not by memcmp(), which libFuzzer learns from. */
static bool begins(const char *line, size_t len, const char *with) {
    while (len > 0 && *with && *line == *with)
        line++, with++, len--;
    return !*with;
}

/* The statuses that docs/protocol.md has for each verb. */
static const char *const answers[][2] = {
    {"PUT", "200 201 400 500"},
    {"GET", "200 400 404"},
    {"DEL", "204 400 404 500"},
    {"STATS", "200 400"},
    {"QUIT", "200 400"},
    {"EXPIRE", "200 400 404 500"},
    {"EXPIREAT", "200 400 404 500"},
    {"TTL", "200 400 404"},
    {"COMPACT", "202 400 404"},
    {"WHOAMI", "200 400"},
    {"AUTH", "200 400 401 429"},
    {"MANAGE", "200 201 204 400 403 404 409 500"},
    {"CREATE", "201 400 409 500 507"},
    {"DELETE", "204 400 404"},
    {"LIST", "200 400"},
    {"SEND", "200 202 400 404 500 507"},
    {"CONNECT", "200 400 404"},
};

/* A reply is one of the statuses of the verb, and bare where it has to be. */
static void check_status(struct str line, struct str answer) {
    const char *allowed = "400";
    char code[4] = "";
    struct str fields[3] = {{0}}; /* version, verb, the rest */
    bool known = false;
    str_split(line, fields, 3);
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++)
        if (str_equal(fields[1], str_of(answers[i][0])))
            allowed = answers[i][1];
    if (!str_equal(fields[0], STR("KV/1.0")))
        allowed = "426";
    for (size_t i = OK; i < sizeof statuses / sizeof *statuses; i++) {
        size_t len = statuses[i].len;
        if (!begins(answer.bytes, answer.len, statuses[i].bytes))
            continue;
        known = answer.len == len || (answer.bytes[len] == ' ' && answer.len > len + 1);
        known &= answer.len == len || *answer.bytes == '2' || options[EXPLAIN].value;
        break;
    }
    MUST(known);
    memcpy(code, answer.bytes, 3);
    MUST(strstr(allowed, code) || (run.fails && strcmp(code, "500") == 0));
}

/* Keeps of a reply what does not depend on how the requests were cut. Whether a message is on its
 * way does, and how many wait. STATS counts keys that are gone and not removed yet; with all, it ends
 * with bytes and connections. */
static void note(struct str line, struct str answer) {
    if (begins(line.bytes, line.len, "KV/1.0 STATS") && *answer.bytes == '2') {
        while (*answer.bytes != 'u')
            answer = str_from(answer, 1);
        size_t all = answer.len;
        for (answer.len = 0; answer.len < all && answer.bytes[answer.len] != 'c';)
            answer.len++;
    }
    if (begins(line.bytes, line.len, "KV/1.0 CONNECT ") && *answer.bytes == '2')
        answer.len = 3;
    if (begins(line.bytes, line.len, "KV/1.0 SEND ") &&
        (*answer.bytes == '2' || begins(answer.bytes, answer.len, "507")))
        answer = STR("sent");
    bytes_add(&run.said, answer.bytes, answer.len);
    bytes_add(&run.said, "\n", 1);
}

/* The next reply, which is no message. False: there is none. */
static bool next_answer(const struct peer *p, size_t *at, struct str *answer) {
    const char *lf;
    do {
        const char *line = p->got.at + *at;
        lf = *at < p->got.len ? memchr(line, '\n', p->got.len - *at) : NULL;
        if (!lf)
            return false;
        *answer = (struct str){line, (size_t)(lf - line)};
        *at += answer->len + 1;
    } while (begins(answer->bytes, answer->len, "100 MESSAGE "));
    return true;
}

/* Each line that the server has read got one reply. exact: nothing has kept it from that. */
static void check_lines(struct peer *p, bool exact) {
    size_t at = 0, got = 0;
    int failures = 0;
    struct str answer;
    while (at < p->read) {
        const char *begin = p->sent.at + at, *lf = memchr(begin, '\n', p->read - at);
        size_t len = lf ? (size_t)(lf - begin) + 1 : p->read - at;
        if (!lf && len < REQUEST_MAX && !p->ended)
            break;
        if (!next_answer(p, &got, &answer)) {
            MUST(!exact);
            return;
        }
        struct str line = {begin, lf ? len - 1 : len}, fields[2];
        bool partial = len > REQUEST_MAX || !lf;
        if (!partial && line.len && line.bytes[line.len - 1] == '\r')
            line.len--;
        if (line.len > REQUEST_MAX)
            line.len = REQUEST_MAX;
        if (partial) {
            MUST(begins(answer.bytes, answer.len, "400 BAD_REQUEST"));
        } else {
            check_status(line, answer);
            note(line, answer);
        }
        at += len;
        failures += str_equal(answer, statuses[UNAUTHORIZED]);
        bool bye = !partial && str_is(line, "KV/1.0 QUIT");
        MUST(!bye || str_is(answer, "200 OK bye"));
        str_split(line, fields, 2);
        bool is_http = !str_is(fields[0], "KV/1.0") && line_is_http(line);
        if (is_http || bye || failures == FAILURES_MAX)
            break;
    }
    MUST(!next_answer(p, &got, &answer));
    MUST(got == p->got.len || !exact);
}

/* How many frames the server has read, see frames_run(): those that one recv() brings. */
static size_t frames_read(const struct peer *p) {
    size_t frames = 0, padding = 0, at = 0;
    bool pads = false;
    for (size_t i = 0; i < p->reads.len / sizeof(size_t); i++) {
        size_t n;
        memcpy(&n, p->reads.at + i * sizeof n, sizeof n);
        size_t end = at + n;
        while (padding && at < end && !p->sent.at[at])
            at++, padding--;
        for (; at < end; frames++) {
            struct request r;
            n = end - at < FRAME_SIZE ? end - at : FRAME_SIZE;
            pads |= n == FRAME_SIZE;
            padding = pads ? FRAME_SIZE - n : 0;
            struct str frame = {(const char *)p->sent.at + at, n};
            request_begin(&r, clients, frame);
            (void)frame_parse(&r);
            if (!r.command && frame_is_http(frame))
                return frames + 1;
            at += n;
        }
    }
    return frames;
}

/* All that comes back is whole frames; each frame gets one that is not a message, or several of a
 * list. */
static void check_frames(struct peer *p, bool exact) {
    size_t answers_len = 0, lists = 0, frames = frames_read(p);
    MUST(!exact || p->got.len % FRAME_SIZE == 0);
    for (const char *f = p->got.at; f + FRAME_SIZE <= p->got.at + p->got.len; f += FRAME_SIZE) {
        static const char *const verbs[] = {"ok", "notok", "error", "list", "string"};
        size_t verb = 0, len = FRAME_VERB;
        while (verb < 5 && strncmp(f, verbs[verb], FRAME_VERB) != 0)
            verb++;
        MUST(verb < 5);
        for (size_t i = strlen(verbs[verb]); i < FRAME_VERB; i++)
            MUST(!f[i]);
        while (len < FRAME_SIZE && f[len])
            len++;
        MUST(str_is_text((struct str){f + FRAME_VERB, len - FRAME_VERB}));
        MUST(verb > 1 || len == FRAME_VERB);
        for (; len < FRAME_SIZE; len++)
            MUST(!f[len]);
        if (verb == 4)
            continue;
        answers_len++;
        lists += verb == 3;
        bytes_add(&run.said, f, FRAME_SIZE);
    }
    MUST(answers_len - lists <= frames);
    MUST(!exact || answers_len >= frames);
    MUST(!exact || lists || answers_len == frames);
}

static void check_peer(int i) {
    struct peer *p = &sys.peers[i];
    bool exact = !p->reset && !run.cut[i] && !run.abrupt;
    bool refused = begins(p->got.at, p->got.len, "503") || (p->got.len && !p->reads.len);
    MUST(!refused || run.fails);
    if (refused)
        return; /* there was no memory for a client */
    if (sys.wires[i] == LINES)
        check_lines(p, exact);
    else
        check_frames(p, exact);
}

static void lose(void) {
    struct peer *p = &sys.peers[run.peer];
    p->reset = true;
    settle(0);
    if (p->fd >= 0 || p->waits)
        return; /* there was no memory */
    check_peer(run.peer);
    peer_connect(run.peer);
    settle(0);
}

static void pad(void) {
    static const char nuls[FRAME_SIZE];
    bytes_add(&run.piece, nuls, (FRAME_SIZE - run.piece.len % FRAME_SIZE) % FRAME_SIZE);
}

/* Not 65,535 lines, which would only take long. */
static void repeat(size_t n) {
    static char many[255 * 257];
    char last = run.piece.len ? run.piece.at[run.piece.len - 1] : ' ';
    size_t times = last == '\n' ? n : n * 257;
    if (times > SENT_MAX - run.piece.len)
        times = 0;
    memset(many, last, times);
    bytes_add(&run.piece, many, times);
}

/* Each of these has its number after it. */
static void happen(int what, unsigned n) {
    struct peer *p = &sys.peers[run.peer];
    if (what == SENDS)
        run.peer = (int)(n % PEERS);
    if (what == WAITS)
        settle(n % 16 * 1000);
    if (what == TAKES)
        p->room = n % 16 == 15 ? SIZE_MAX : n % 16 ? (size_t)1 << n % 16 : 0;
    if (what == FAILS_MEMORY)
        sys.memory = n % 32 < 16 ? n % 32 : -1;
    if (what == FAILS_DISK)
        sys.disk_full = n & 1, sys.sync_fails = n & 2;
    run.fails |= what == TAKES || what == FAILS_MEMORY || what == FAILS_DISK;
    if (what == TAKES)
        settle(0);
}

static void play(const uint8_t *data, size_t size) {
    for (size_t i = 0; i < size && !server.stopping && run.sent < SENT_MAX; i++) {
        int what = data[i];
        bool has_number =
            what >= FAILS_MEMORY && what != PADS && what != CUTS && what != ENDS && what != LOSES;
        unsigned n = has_number && i + 1 < size ? data[++i] : 0;
        if (what < FAILS_MEMORY) {
            bytes_add(&run.piece, &data[i], 1);
        } else if (what == REPEATS) {
            repeat(n);
        } else if (what == PADS) {
            pad();
        } else {
            run.sent += run.piece.len;
            deliver();
            if (what == ENDS)
                sys.peers[run.peer].ends = true, settle(0);
            if (what == LOSES)
                lose();
            if (has_number && !server.stopping)
                happen(what, n);
        }
    }
    deliver();
}

static void listen_for(int number, const struct wire *wire) {
    int fd = fd_new(FD_LISTENER);
    sys.fds[fd].number = number;
    if (fd > server.fd_highest)
        server.fd_highest = fd;
    server.listeners[server.listeners_len++] = (struct listener){wire, fd};
}

/* As main() does it. */
static void start(uint8_t with, uint8_t how) {
    static const char *const fsyncs[] = {"everysec", "always", "no", "everysec"};
    options[EXPLAIN].value = with & 1;
    options[VERBOSE].value = with >> 1 & 1;
    options[QUIT_STOPS].value = with >> 4 & 1;
    roles_options[PRIVATE].value = with >> 2 & 1;
    log_options[DATA].text = with >> 5 & 1 ? "/data" : NULL;
    log_options[FSYNC].text = fsyncs[how >> 1 & 3];
    process_begin();
    if (with >> 3 & 1) {
        char line[32] = "adam:";
        MUST(!manager_add(&roles.managers, strcat(line, sys_crypt("eve", "$"))));
        MUST(!manager_add(&roles.managers, "kant:$00000000"));
    }
    if (log_options[DATA].text)
        replay_file("/data");
    listen_for(LINES, &lines_wire);
    listen_for(FRAMES, &frames_wire);
    server.started = server.now = clock_ms();
}

/* The next start finds in FILE what was stored. */
static void check_restart(const struct stored *before) {
    process_begin();
    replay_file("/data");
    MUST(replay.bad == 0);
    server.now = sys.now;
    while (expiry.len && expiry.heap[0].at <= server.now)
        expiry_commit();
    check_same(before);
    process_end(NULL);
}

static void serve(const uint8_t *data, size_t size) {
    struct stored before;
    bool well = true;
    sys.now += 10000; /* whatever a process remembers of passwords is over */
    sys.began = sys.now;
    start(data[0], data[1]);
    for (int i = 0; i < PEERS; i++) {
        sys.wires[i] = i < 2 ? WIRE : WIRES - 1 - WIRE;
        peer_connect(i);
    }
    settle(0);
    play(data + 2, size - 2);
    sys.memory = -1;
    sys.disk_full = sys.sync_fails = false;
    for (int i = 0; i < PEERS; i++)
        sys.peers[i].room = SIZE_MAX;
    if (!server.stopping)
        settle(5000);
    run.abrupt = server.stopping && run.fails;
    if (!server.stopping)
        server.stopping = "SIGTERM";
    run.ticks = true;
    sys.until = FOR_EVER;
    loop_run();
    speed_tick(false);
    check_all(false);
    EACH_EXTENSION (x, stop)
        well &= x->stop();
    MUST(well || run.abrupt);
    for (int i = 0; i < PEERS; i++)
        check_peer(i);
    bool logged = logfile.path;
    process_end(&before);
    if (logged)
        check_restart(&before);
    stored_free(&before);
    for (int i = 0; i < 3; i++)
        if (sys.names[i].inode)
            sys_unlink(sys.names[i].path);
    MUST(!sys.blocks);
}

static void run_once(const uint8_t *data, size_t size, bool in_pieces) {
    struct bytes piece = run.piece, said = run.said;
    piece.len = said.len = 0;
    memset(&run, 0, sizeof run);
    run.piece = piece, run.said = said;
    bytes_add(&run.said, "", 0);
    run.ticks = data[1] & 1;
    run.in_pieces = in_pieces;
    serve(data, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct bytes said;
    if (size < 3)
        return 0;
    if (setjmp(sys.end))
        MUST(!"kvss goes on");
    run_once(data, size, false);
    if (run.fails || data[1] & 1)
        return 0;
    said.len = 0;
    bytes_add(&said, run.said.at, run.said.len);
    run_once(data, size, true);
    MUST(said.len == run.said.len && memcmp(said.at, run.said.at, said.len) == 0);
    return 0;
}

#pragma clang attribute pop
