/* kvss: a key-value store service, KV/1.0 over TCP. To be read from top to bottom:
 *
 *     1. Bytes      a view of bytes, a buffer that grows, UTF-8
 *     2. Events     what the operator reads on stderr
 *     3. Store      the hash table
 *     4. Replies    the table of statuses
 *     5. State      what is known of the server and of each client
 *     6. Commands   PUT GET DEL STATS QUIT
 *     7. Expiry     beyond the lab: EXPIRE EXPIREAT TTL
 *     8. Roles      beyond the lab: a store for each client, managers
 *     9. Patterns   beyond the lab: regular expressions
 *    10. Mailboxes  beyond the lab: CREATE DELETE LIST SEND CONNECT
 *    11. Requests   a line becomes a reply; the table of commands
 *    12. Log        beyond the lab: the store outlives the server
 *    13. Compaction beyond the lab: the log is written anew, shorter
 *    14. Replay     beyond the lab: the log is run again
 *    15. Frames     beyond the lab: the mailboxes on another wire
 *    16. Clients    a connection: read, run, write, close
 *    17. Loop       select(), accept, stop
 *    18. Start      the table of options, the listening sockets, main
 *
 * A chapter uses those above it. So the way of a request goes from Clients up to the store,
 * and back:
 *
 *     recv -> client's in buffer -> line -> version, verb, arguments -> command -> store
 *                                                                          |
 *     send <- client's out buffer <--------- reply("200 OK ...") <---------+
 *
 * docs/protocol.md says what the lines mean. A new command is one function in Commands and one row
 * of the table in Requests. C99 and POSIX.1-2008, nothing else. */
#define _XOPEN_SOURCE     700 /* POSIX.1-2008, with its extension XSI: nice() and crypt() */
#define _FILE_OFFSET_BITS 64  /* for files over 2 GiB, where a long has 32 bits */

#include <aio.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#include <wctype.h>

#define KVSS_VERSION "1.0.0"

/* What the command line can set. Value and text are the defaults until it does. */
enum {
    HOST,
    PORT,
    TIMEOUT,
    CLIENTS,
    PRIVATE,
    MANAGERS,
    FRAMES_PORT,
    DATA,
    FSYNC,
    REPAIR,
    EXPLAIN,
    LONG_STATS,
    QUIT_STOPS,
    VERBOSE,
    QUIET,
    HELP,
    VERSION,
    OPTIONS
};

static struct option {
    char letter;
    const char *name, *argument; /* no argument: a flag, 0 or 1 */
    long least, most;            /* a number from least to most ... */
    long value;                  /* -1: not given, and there is no default */
    const char *text;            /* ... or, where most is 0, a text. NULL: not given */
    const char *help;
} options[] = {
    [HOST] = {'H', "host", "HOST", 0, 0, -1, "127.0.0.1", "name or address to listen on"},
    [PORT] = {'p', "port", "PORT", 0, 65535, 9000, NULL, "port to listen on, 0 for a free one"},
    [TIMEOUT] = {'t', "timeout", "SECONDS", 0, 1000000, 0, NULL, "close idle clients, 0 for never"},
    [CLIENTS] = {'m', "max-clients", "N", 1, FD_SETSIZE, FD_SETSIZE, NULL, "serve N at a time"},
    [PRIVATE] = {'P', "private", NULL, 0, 1, 0, NULL, "give each connection a store of its own"},
    [MANAGERS] = {'M', "managers", "FILE", 0, 0, -1, NULL, "who can AUTH, a line each: name:hash"},
    [FRAMES_PORT] = {'F', "frames", "PORT", 0, 65535, -1, NULL,
                     "port for the old wire, 0 for a free one"},
    [DATA] = {'d', "data", "FILE", 0, 0, -1, NULL, "keep the store in a file"},
    [FSYNC] = {'s', "fsync", "WHEN", 0, 0, -1, "everysec",
               "wait for the disk: always, everysec or no"},
    [REPAIR] = {'r', "repair", NULL, 0, 1, 0, NULL, "move bad lines of FILE to FILE.bad"},
    [EXPLAIN] = {'e', "explain", NULL, 0, 1, 0, NULL, "let 400 and 426 say why"},
    [LONG_STATS] = {'S', "long-stats", NULL, 0, 1, 0, NULL, "let STATS count PUT, GET and DEL"},
    [QUIT_STOPS] = {'Q', "quit-stops-server", NULL, 0, 1, 0, NULL, "let QUIT stop the server too"},
    [VERBOSE] = {'v', "verbose", NULL, 0, 1, 0, NULL, "log every request and its reply"},
    [QUIET] = {'q', "quiet", NULL, 0, 1, 0, NULL, "log errors only"},
    [HELP] = {'h', "help", NULL, 0, 1, 0, NULL, "print this and exit"},
    [VERSION] = {'V', "version", NULL, 0, 1, 0, NULL, "print the version and exit"},
};

/* == 1. Bytes =====================================================================================
 *
 * What a client sends is bytes, not a C string: it may hold a NUL, and need not end in one. So a
 * piece of it is a str, a pointer and a length that stay together. A str owns nothing, and lasts
 * as long as the bytes it points into. A buf owns its bytes: in at the end, out at the start. */

struct str {
    const char *bytes; /* never NULL, even if len is 0: memcmp() and memcpy() don't allow it */
    size_t len;
};

struct buf {
    char *bytes;
    size_t len, size; /* bytes in use, of those that are there */
    char *fixed;      /* static memory that it begins with, and never frees; or NULL */
};

#define TEXT(literal) .bytes = (literal), .len = sizeof(literal) - 1
#define STR(literal)  ((struct str){TEXT(literal)})

enum { BUF_SIZE = 16384 }; /* bytes that a buf begins with: small replies to READ_MAX of requests */

static struct str str_of(const char *s) { return (struct str){s, strlen(s)}; }

static bool str_equal(struct str a, struct str b) {
    return a.len == b.len && memcmp(a.bytes, b.bytes, b.len) == 0;
}

/* As a rule the first byte is another: then strlen() and memcmp() would take longer. */
static bool str_is(struct str s, const char *text) {
    size_t i = 0;
    while (i < s.len && text[i] && text[i] == s.bytes[i]) i++;
    return i == s.len && !text[i];
}

/* Cuts the first field off rest, with the space after it. False: there was no space, and field is
 * the last one, all of rest. After "GET " comes one more field, an empty one; after "GET" none. */
static bool str_field(struct str *rest, struct str *field) {
    const char *space = memchr(rest->bytes, ' ', rest->len);
    *field = *rest;
    if (!space) return false;
    field->len = (size_t)(space - rest->bytes);
    *rest = (struct str){space + 1, rest->len - field->len - 1};
    return true;
}

/* Takes the prefix off the start, if it's there. */
static bool str_skip(struct str *s, struct str prefix) {
    if (s->len < prefix.len || memcmp(s->bytes, prefix.bytes, prefix.len) != 0) return false;
    *s = (struct str){s->bytes + prefix.len, s->len - prefix.len};
    return true;
}

/* What RFC 5234 calls CTL: %x00-1F and %x7F. */
static bool is_control(char byte) { return (unsigned char)byte < 0x20 || byte == 0x7F; }

/* How many bytes at its start are printable ASCII, or fewer: it looks at eight at once, as a word;
 * the last one overlaps. A byte's high bit is set in word - n * ones if the byte is less than n, or
 * one before it was; xor with 7F makes 7F 0. (Warren, Hacker's Delight, section 6-1.) */
static size_t str_printable(struct str s) {
    const uint64_t ones = UINT64_MAX / 255, highs = ones << 7; /* 01 or 80 in each byte */
    size_t i = 0;
    for (uint64_t word; i < s.len && s.len >= sizeof word; i += sizeof word) {
        size_t last = s.len - sizeof word;
        memcpy(&word, s.bytes + (i < last ? i : last), sizeof word);
        if ((word | (word - 0x20 * ones) | ((word ^ 0x7F * ones) - ones)) & highs) return i;
    }
    return i < s.len ? i : s.len;
}

static bool str_has_control(struct str s) {
    for (size_t i = str_printable(s); i < s.len; i++)
        if (is_control(s.bytes[i])) return true;
    return false;
}

/* UTF-8 without a NUL (RFC 3629, section 4). The second byte has a higher minimum after E0 and F0,
 * or a character could be written in two ways, and slip past a check that knows one of them. It has
 * a lower maximum after ED (surrogates belong to UTF-16) and after F4 (U+10FFFF is the last). */
static bool str_is_text(struct str s) {
    const unsigned char *p = (const unsigned char *)s.bytes, *end = p + s.len;
    p += str_printable(s);
    while (p < end) {
        unsigned char lead = *p++;
        if (lead < 0x80 && lead != 0) continue;
        if (lead < 0xC2 || lead > 0xF4) return false;
        unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
        unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
        for (int more = lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3; more > 0; more--) {
            if (p == end || *p < low || *p > high) return false;
            p++, low = 0x80, high = 0xBF;
        }
    }
    return true;
}

/* Makes room for that many more bytes. False: out of memory, and the buf is as it was. */
static bool buf_reserve(struct buf *b, size_t room) {
    if (b->size - b->len >= room) return true;
    size_t size = b->size ? b->size : BUF_SIZE;
    while (size - b->len < room) size *= 2;
    bool is_fixed = b->bytes == b->fixed;
    char *bytes = realloc(is_fixed ? NULL : b->bytes, size);
    if (!bytes) return false;
    if (is_fixed && b->len) memcpy(bytes, b->bytes, b->len);
    b->bytes = bytes;
    b->size = size;
    return true;
}

static void buf_free(struct buf *b) {
    if (b->bytes != b->fixed) free(b->bytes);
}

/* All that's in it; good until it changes. */
static struct str buf_str(const struct buf *b) { return (struct str){b->bytes, b->len}; }

/* The caller has reserved the room. */
static void buf_append(struct buf *b, struct str s) {
    memcpy(b->bytes + b->len, s.bytes, s.len);
    b->len += s.len;
}

/* Takes n bytes off the start. */
static void buf_consume(struct buf *b, size_t n) {
    b->len -= n;
    memmove(b->bytes, b->bytes + n, b->len);
}

/* == 2. Events ====================================================================================
 *
 * What happens is told on stderr, a line an event: the time (ISO 8601, UTC), what, and to whom. A
 * client's bytes are escaped there. Copied as they are, a line feed among them would begin a line
 * that the client wrote and kvss seems to say, and an escape sequence would do its work in the
 * terminal of whoever reads the log.
 *
 * The log is a pipe, perhaps, whose reader sleeps. Then events are lost: the service goes on. */

enum {
    EVENT_MAX = 2048, /* bytes of a line; a longer one is cut and ends in "..." */
    WHOM_MAX = 1024,  /* of them */
};

/* For what kvss can't go on without: one line, and the end. */
#define DIE(code, ...) (fprintf(stderr, "kvss: " __VA_ARGS__), fputc('\n', stderr), exit(code))

/* Control characters and the backslash are shown as \xNN; so is every byte past ASCII if text
 * isn't UTF-8, or has control characters of the second set (C2 80 to C2 9F, U+0080 to U+009F). */
static void event(const char *what, const char *whom, struct str text) {
    if (options[QUIET].value && strcmp(what, "error") != 0) return;
    char line[EVENT_MAX + 16];
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t n = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &utc);
    n += (size_t)snprintf(line + n, sizeof line - n, ".%03ldZ %s%s%.*s%s", now.tv_nsec / 1000000,
                          what, *whom ? " " : "", WHOM_MAX, whom, text.len ? " " : "");
    bool wide = str_is_text(text);
    for (size_t i = 1; i < text.len; i++)
        if (text.bytes[i - 1] == (char)0xC2 && (unsigned char)text.bytes[i] < 0xA0) wide = false;
    for (size_t i = 0; i < text.len && n < EVENT_MAX; i++) {
        unsigned char byte = (unsigned char)text.bytes[i];
        if (byte < 0x80 ? !is_control(text.bytes[i]) && byte != '\\' : wide)
            line[n++] = text.bytes[i];
        else
            n += (size_t)snprintf(line + n, sizeof line - n, "\\x%02X", byte);
    }
    n += (size_t)snprintf(line + n, sizeof line - n, n < EVENT_MAX ? "\n" : "...\n");
    fd_set writable;
    struct timespec at_once = {0, 0};
    FD_ZERO(&writable);
    FD_SET(STDERR_FILENO, &writable);
    if (pselect(STDERR_FILENO + 1, NULL, &writable, NULL, &at_once, NULL) <= 0) return;
    if (write(STDERR_FILENO, line, n) < 0) return; /* no reader is no reason to stop serving */
}

/* == 3. Store =====================================================================================
 *
 * A hash table with open addressing: an array of slots. An entry is in the first free slot at or
 * after its home, which its hash names; to look up a key is to go from its home to the first empty
 * slot. (Knuth, The Art of Computer Programming, volume 3, section 6.4, algorithms L and R.)
 *
 * A full table moves to one twice its size. To move a million keys at once would be a pause that
 * users notice; so there are 256 tables, chosen by eight bits of the hash, which grow one by one. A
 * slot has 32 bits of the hash, to tell most keys apart, and to grow, without a look at entries.
 *
 * The hash is SipHash-1-3 (Aumasson and Bernstein, 2012) with a random seed. If clients could
 * compute it, they could choose keys that share a home, and every look-up would pass them all. */

enum {
    TABLES = 256,
    TABLE_MIN = 8, /* slots to begin with */
    KEY_MAX = 250, /* bytes; entry.key_len has to hold it */
    BATCH = 64,    /* keys that are touched together */
};

struct entry { /* one allocation, sized exactly */
    uint32_t value_len;
    uint8_t key_len; /* 1 to KEY_MAX */
    bool expires;    /* see Expiry */
    char bytes[];    /* the key, then the value; then, if it expires, its place in the heap */
};

struct slot {
    struct entry *entry; /* NULL: empty */
    uint32_t hash;
};

struct table {
    struct slot *slots;
    uint32_t size, used;
};

static struct store {
    struct table tables[TABLES];
    unsigned long long keys, bytes; /* bytes: of all entries */
    struct deadline *deadlines;     /* a heap; see Expiry */
    uint32_t deadlines_len, deadlines_size;
    unsigned long long deadline_keys; /* bytes of the keys that have one */
    struct store *next;               /* of the list that it's in, if any */
} store;                              /* the one that all share */

static uint64_t store_seed[2];

static uint64_t rotate(uint64_t x, int bits) { return x << bits | x >> (64 - bits); }

static inline void sip_round(uint64_t v[4]) {
    v[0] += v[1], v[1] = rotate(v[1], 13) ^ v[0], v[0] = rotate(v[0], 32);
    v[2] += v[3], v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3], v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1], v[1] = rotate(v[1], 17) ^ v[2], v[2] = rotate(v[2], 32);
}

static inline void sip_word(uint64_t v[4], uint64_t word) {
    v[3] ^= word;
    sip_round(v);
    v[0] ^= word;
}

/* Words are read in the machine's own byte order: a hash never leaves the process. */
static uint64_t store_hash(struct str key) {
    uint64_t v[4] = {store_seed[0] ^ 0x736f6d6570736575, store_seed[1] ^ 0x646f72616e646f6d,
                     store_seed[0] ^ 0x6c7967656e657261, store_seed[1] ^ 0x7465646279746573};
    uint64_t word, last = (uint64_t)key.len << 56;
    for (; key.len >= sizeof word; key.bytes += sizeof word, key.len -= sizeof word) {
        memcpy(&word, key.bytes, sizeof word);
        sip_word(v, word);
    }
    for (size_t i = 0; i < key.len; i++) last |= (uint64_t)(unsigned char)key.bytes[i] << (8 * i);
    sip_word(v, last);
    v[2] ^= 0xFF;
    for (int i = 0; i < 3; i++) sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* The hash, as a fraction of 2^32, scaled to the size: a remainder without a division. */
static uint32_t table_home(const struct table *t, uint32_t hash) {
    return (uint32_t)((uint64_t)hash * t->size >> 32);
}

static uint32_t table_next(const struct table *t, uint32_t i) {
    return i + 1 < t->size ? i + 1 : 0;
}

/* The key's slot, or the empty one where the search for it ended: a table is never full. NULL: it
 * has no slots yet. */
static struct slot *table_find(const struct table *t, uint32_t hash, struct str key) {
    for (uint32_t i = table_home(t, hash); t->size > 0; i = table_next(t, i)) {
        struct slot *s = &t->slots[i];
        if (!s->entry) return s;
        if (s->hash == hash && str_equal(key, (struct str){s->entry->bytes, s->entry->key_len}))
            return s;
    }
    return NULL;
}

/* False: out of memory, and the table is as it was. */
static bool table_resize(struct table *t, uint32_t size) {
    struct table new = {calloc(size, sizeof *new.slots), size, t->used};
    if (!new.slots) return false;
    for (uint32_t i = 0; i < t->size; i++) {
        if (!t->slots[i].entry) continue;
        uint32_t to = table_home(&new, t->slots[i].hash);
        while (new.slots[to].entry) to = table_next(&new, to);
        new.slots[to] = t->slots[i];
    }
    free(t->slots);
    *t = new;
    return true;
}

/* Empties a slot. Searches end at an empty one; so an entry further on, whose search would come by,
 * moves into the hole, and the hole to where that was (algorithm R). */
static void table_remove(struct table *t, struct slot *s) {
    uint32_t hole = (uint32_t)(s - t->slots);
    for (uint32_t i = table_next(t, hole); t->slots[i].entry; i = table_next(t, i)) {
        uint32_t home = table_home(t, t->slots[i].hash);
        bool between = hole < i ? hole < home && home <= i : hole < home || home <= i;
        if (between) continue; /* its search begins after the hole */
        t->slots[hole] = t->slots[i];
        hole = i;
    }
    t->slots[hole].entry = NULL;
    t->used--;
}

static bool expiry_is_past(const struct store *st, const struct entry *e); /* see Expiry */
static void expiry_forget(struct store *st, const struct entry *e);
static void log_expired(const struct store *st, struct str key); /* see Log */

static size_t entry_size(const struct entry *e) {
    size_t place = e->expires ? sizeof(uint32_t) : 0;
    return offsetof(struct entry, bytes) + e->key_len + e->value_len + place;
}

static void store_free(struct store *st, struct entry *e) {
    if (e->expires) expiry_forget(st, e);
    st->bytes -= entry_size(e);
    free(e);
}

/* A table nearly empty shrinks, or stays where there is no memory. */
static void store_remove(struct store *st, struct table *t, struct slot *s) {
    store_free(st, s->entry);
    st->keys--;
    table_remove(t, s);
    if (t->size > TABLE_MIN && t->used < t->size / 8) table_resize(t, t->size / 2);
}

/* As table_find() does it; but an entry whose time is past is removed, which is a change. */
static struct slot *store_find(struct store *st, uint64_t hash, struct str key) {
    struct table *t = &st->tables[hash >> 56];
    struct slot *s = table_find(t, (uint32_t)hash, key);
    if (!s || !s->entry || !s->entry->expires || !expiry_is_past(st, s->entry)) return s;
    log_expired(st, key);
    store_remove(st, t, s);
    return table_find(t, (uint32_t)hash, key);
}

/* Looks at what the searches for keys of these hashes will look at. A piece of memory that was not
 * used lately takes a tenth of a microsecond to come; for many that don't depend on each other the
 * processor waits once, where the searches would wait one after the other. The sum makes the
 * compiler look. */
static unsigned store_touch(const struct store *st, const uint64_t *hashes, size_t n) {
    const struct table *tables[BATCH];
    const struct entry *entries[BATCH];
    unsigned sum = 0;
    for (size_t i = 0; i < n; i++) {
        const struct table *t = tables[i] = &st->tables[hashes[i] >> 56];
        if (t->size) sum += t->slots[table_home(t, (uint32_t)hashes[i])].hash;
    }
    for (size_t i = 0; i < n; i++) {
        const struct table *t = tables[i];
        uint32_t hash = (uint32_t)hashes[i], at = t->size ? table_home(t, hash) : 0;
        while (t->size && t->slots[at].entry && t->slots[at].hash != hash) at = table_next(t, at);
        entries[i] = t->size ? t->slots[at].entry : NULL;
    }
    for (size_t i = 0; i < n; i++) { /* its end may be in the next piece */
        const struct entry *e = entries[i];
        if (e) sum += (unsigned char)e->bytes[e->key_len + e->value_len - 1];
    }
    return sum;
}

/* False: there is no such key. The value is good until the store changes. */
static bool store_get(struct store *st, uint64_t hash, struct str key, struct str *value) {
    struct slot *s = store_find(st, hash, key);
    if (!s || !s->entry) return false;
    *value = (struct str){s->entry->bytes + s->entry->key_len, s->entry->value_len};
    return true;
}

/* With --data, a server that is full must be able to start again, and the same entries do not always
 * fit into the same memory: it depends on the order in which they come. So a part of the memory is
 * set aside when the replay has ended. While it could not be set aside, nothing is added. */
enum { RESERVE_PIECES = 32, RESERVE_PIECE = 65536 /* bytes */ };

static void *reserve[RESERVE_PIECES];
static int reserve_wanted, reserve_held; /* pieces */

static bool store_has_reserve(void) {
    while (reserve_held < reserve_wanted) {
        reserve[reserve_held] = malloc(RESERVE_PIECE);
        if (!reserve[reserve_held]) return false;
        reserve_held++;
    }
    return true;
}

enum stored { STORED_NEW, STORED_OVER, NOT_STORED };

/* NOT_STORED: out of memory, and the store is as it was. From three quarters full on, searches get
 * long and a table grows; if it can't, it still serves until one empty slot is left. */
static enum stored store_put(struct store *st, uint64_t hash, struct str key, struct str value) {
    struct table *t = &st->tables[hash >> 56];
    struct slot *s = store_find(st, hash, key);
    bool added = !s || !s->entry;
    if (added && t->used >= t->size / 4 * 3) {
        bool grown = table_resize(t, t->size ? t->size * 2 : TABLE_MIN);
        if (!grown && t->used + 1 >= t->size) return NOT_STORED;
        s = table_find(t, (uint32_t)hash, key);
    }
    if (!added && !s->entry->expires && s->entry->value_len == value.len) {
        memcpy(s->entry->bytes + key.len, value.bytes, value.len); /* 150 ns, and not 185 */
        return STORED_OVER;
    }
    if (!store_has_reserve()) return NOT_STORED;
    struct entry *e = malloc(offsetof(struct entry, bytes) + key.len + value.len);
    if (!e) return NOT_STORED;
    e->key_len = (uint8_t)key.len;
    e->value_len = (uint32_t)value.len;
    e->expires = false;
    memcpy(e->bytes, key.bytes, key.len);
    memcpy(e->bytes + key.len, value.bytes, value.len);
    if (!added) store_free(st, s->entry);
    *s = (struct slot){e, (uint32_t)hash};
    st->bytes += entry_size(e);
    t->used += added;
    st->keys += added;
    return added ? STORED_NEW : STORED_OVER;
}

/* False: there is no such key. */
static bool store_del(struct store *st, uint64_t hash, struct str key) {
    struct slot *s = store_find(st, hash, key);
    if (!s || !s->entry) return false;
    store_remove(st, &st->tables[hash >> 56], s);
    return true;
}

/* == 4. Replies ===================================================================================
 *
 * A request has one reply, a line: a code for programs, its name for people, then, after a space,
 * data if there is any. For a program, the first digit is enough: 2 it's done, 4 the client has to
 * change something, 5 the server failed. The codes are HTTP's (RFC 9110, section 15). */

enum status {
    MESSAGE,
    OK,
    CREATED,
    ACCEPTED,
    NO_CONTENT,
    BAD_REQUEST,
    UNAUTHORIZED,
    FORBIDDEN,
    NOT_FOUND,
    CONFLICT,
    UPGRADE,
    TOO_MANY_REQUESTS,
    SERVER_ERROR,
    UNAVAILABLE,
    FULL
};

static const struct str statuses[] = {
    [MESSAGE] = {TEXT("100 MESSAGE")},
    [OK] = {TEXT("200 OK")},
    [CREATED] = {TEXT("201 CREATED")},
    [ACCEPTED] = {TEXT("202 ACCEPTED")},
    [NO_CONTENT] = {TEXT("204 NO_CONTENT")},
    [BAD_REQUEST] = {TEXT("400 BAD_REQUEST")},
    [UNAUTHORIZED] = {TEXT("401 UNAUTHORIZED")},
    [FORBIDDEN] = {TEXT("403 FORBIDDEN")},
    [NOT_FOUND] = {TEXT("404 NOT_FOUND")},
    [CONFLICT] = {TEXT("409 CONFLICT")},
    [UPGRADE] = {TEXT("426 UPGRADE_REQUIRED")},
    [TOO_MANY_REQUESTS] = {TEXT("429 TOO_MANY_REQUESTS")},
    [SERVER_ERROR] = {TEXT("500 SERVER_ERROR")},
    [UNAVAILABLE] = {TEXT("503 SERVICE_UNAVAILABLE")},
    [FULL] = {TEXT("507 INSUFFICIENT_STORAGE")},
};

enum { REPLY_ROOM = 32 }; /* bytes: every reply without data fits */

/* The caller has reserved REPLY_ROOM. Data for which there's no memory makes the reply a 500: the
 * client waits for one line, and gets one whatever happens. */
static void reply(struct buf *out, enum status status, struct str data) {
    if (!buf_reserve(out, REPLY_ROOM + data.len)) status = SERVER_ERROR, data.len = 0;
    buf_append(out, statuses[status]);
    if (data.len) buf_append(out, STR(" "));
    buf_append(out, data);
    buf_append(out, STR("\n"));
}

/* == 5. State =====================================================================================
 *
 * What is known between two turns of the loop: of the server, and of each client. A command sees it
 * through the request that it gets. What becomes of a client is told in chapter 16. */

enum phase { CLOSED, OPEN, ENDING, QUITTING, LINGERING };

enum wire { LINES, FRAMES, WIRES }; /* KV/1.0, and the one of chapter 15 */

enum {
    ADDRESS_MAX = INET6_ADDRSTRLEN + sizeof "[]:65535",
    OUTPUT_MAX = 32768, /* bytes of replies: with more of them waiting, no request is run */
    EVENTS_MAX = 20,    /* lines of the log, see client_event() */
};

static const uint64_t NEVER = UINT64_MAX; /* a time that the clock does not reach */

static struct client {
    enum phase phase;
    enum wire wire;
    struct store *store;    /* that its requests are about */
    bool pending;           /* whole lines may be left in the buffer: enough were run this turn */
    bool blocked;           /* the socket takes no more for now */
    bool held;              /* the next line is a change, and FILE was full: see log_is_full() */
    bool skipping;          /* the rest of the line belongs to a request already refused */
    int events;             /* logged so far, of those that it can cause again and again */
    uint64_t active;        /* when it last got an answer or took a reply. LINGERING: until when */
    struct buf out;         /* replies */
    char *in;               /* requests, REQUEST_MAX bytes */
    size_t in_len, scanned; /* scanned: bytes known to hold no LF. Each is looked at once */
    char name[ADDRESS_MAX]; /* 127.0.0.1:48106 */
    /* Beyond the lab: */
    bool manager;            /* AUTH has made it one */
    int failures;            /* of AUTH */
    uint64_t ticket;         /* its place in the queue of those who wait for AUTH, or 0 */
    struct mailbox *mailbox; /* that it holds, or NULL */
    bool pads;               /* it has sent a frame of full length */
    size_t padding;          /* bytes that the last frame lacked */
} clients[FD_SETSIZE];       /* by descriptor */

static int client_fd(const struct client *c) { return (int)(c - clients); }

/* Logs what a client did, the first EVENTS_MAX times: or it could fill the disk. */
static void client_event(struct client *c, const char *what, struct str text) {
    if (c->events++ < EVENTS_MAX) event(what, c->name, text);
}

static struct {
    uint64_t started, now; /* milliseconds of the monotonic clock; now: when this turn began */
    const char *stopping;  /* what made it stop; NULL: it serves */
    uint64_t stop_by;      /* when it's gone; 0: it serves */
    uint64_t accept_at;    /* no earlier: see ACCEPT_PAUSE_MS */
    long clients;          /* connected */
    int listeners[WIRES];  /* descriptors, or -1 */
    int descriptors;       /* a client's is less than this: the others are kvss's own */
    int top;               /* no client has a higher descriptor */
    int turn;              /* the descriptor that comes first in the next turn */
    bool slow;             /* a slow request was run in this turn of the loop */
    uint64_t auth_at;      /* the next password may be tried: no earlier */
    uint64_t tickets;      /* drawn so far, see AUTH */
    int waiting;           /* clients that hold a ticket */
    struct client *trying; /* whose turn it is with AUTH, or NULL */
    bool read_only;        /* what would change the shared store can't be logged, and gets 500 */
    sigset_t signals;      /* blocked while pselect() waits: not those that stop */
    unsigned long long served, refused, bytes_in, bytes_out; /* requests; clients; of all clients */
} server = {.listeners = {-1, -1}};

static uint64_t clock_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Nothing for now from a socket that does not block. POSIX has two names for it, and lets any call
 * be interrupted. */
static bool would_block(void) { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

/* == 6. Commands ==================================================================================
 *
 * A command is a function. It gets a request whose form was checked, does what it asks, and returns
 * the status for the reply, with data for it in the request where there is some. */

struct request {
    struct client *client;
    struct store *store;     /* the client's, or with MANAGE another's */
    struct str line;         /* without its end */
    struct command *command; /* that the verb names, or NULL */
    struct str key, value;   /* the arguments; one that was not given is empty */
    uint64_t hash;           /* of the key */
    enum status status;      /* for the reply; OK: nothing is wrong so far */
    struct str data;         /* for the reply; good until the store changes */
    struct str reason;       /* why it's refused, in words; else empty */
    bool close;              /* close the connection after the reply */
};

static enum status command_put(struct request *r) {
    enum stored stored = store_put(r->store, r->hash, r->key, r->value);
    return stored == NOT_STORED ? SERVER_ERROR : stored == STORED_NEW ? CREATED : OK;
}

static enum status command_get(struct request *r) {
    return store_get(r->store, r->hash, r->key, &r->data) ? OK : NOT_FOUND;
}

static enum status command_del(struct request *r) {
    return store_del(r->store, r->hash, r->key) ? NO_CONTENT : NOT_FOUND;
}

static enum status command_stats(struct request *r); /* below the table, whose counts it shows */

static enum status command_quit(struct request *r) {
    if (options[QUIT_STOPS].value) server.stopping = "QUIT";
    r->close = true;
    r->data = STR("bye");
    return OK;
}

/* == 7. Expiry ====================================================================================
 *
 * Beyond the lab. A key may have a deadline, and is gone from then on. The deadlines of a store are
 * a heap (Williams, 1964): a tree in an array, where the children of i are 2i + 1 and 2i + 2, and
 * no deadline is before its parent's. So the first is the next one, and to add one, or to take one
 * out anywhere, takes no more steps than the tree is high. An entry knows its place in the heap.
 *
 * No command sees a key whose deadline is past: the search for it removes it. Those that nobody
 * asks for are removed a few each turn of the loop, which wakes up for them. Either is a change of
 * the store, and logged as a DEL. Time is the monotonic clock's, so that nobody who sets the clock
 * of the machine makes keys vanish, or stay for ever. */

enum {
    EXPIRY_MAX = 10 * 365 * 86400, /* seconds: ten years */
    UNIXTIME = 10 + 1 + 3,         /* bytes: 1763719200.250 */
    EXPIRY_STEP = 500,             /* keys removed in a turn: 0.1 ms */
    DEADLINES_MIN = 64             /* of the array */
};

static const uint64_t UNIXTIME_MAX = 9999999999; /* seconds since 1970: to the year 2286 */

struct deadline {
    uint64_t at; /* ms, of the monotonic clock */
    struct entry *entry;
};

/* Bytes of an entry are not aligned, so its place is copied there and back. */
static uint32_t expiry_place(const struct entry *e) {
    uint32_t place;
    memcpy(&place, e->bytes + e->key_len + e->value_len, sizeof place);
    return place;
}

static void expiry_set(struct store *st, uint32_t place, struct deadline d) {
    st->deadlines[place] = d;
    memcpy(d.entry->bytes + d.entry->key_len + d.entry->value_len, &place, sizeof place);
}

/* Finds the deadline its place, from this one on: up past those that are later, or down. */
static void expiry_sift(struct store *st, uint32_t place, struct deadline d) {
    struct deadline *heap = st->deadlines;
    for (; place > 0 && d.at < heap[(place - 1) / 2].at; place = (place - 1) / 2)
        expiry_set(st, place, heap[(place - 1) / 2]);
    for (uint32_t child; (child = 2 * place + 1) < st->deadlines_len; place = child) {
        if (child + 1 < st->deadlines_len && heap[child + 1].at < heap[child].at) child++;
        if (d.at <= heap[child].at) break;
        expiry_set(st, place, heap[child]);
    }
    expiry_set(st, place, d);
}

static bool expiry_is_past(const struct store *st, const struct entry *e) {
    return st->deadlines[expiry_place(e)].at <= server.now;
}

/* Takes out the deadline of an entry; the last of the array fills the gap. The array shrinks when
 * it is mostly empty. */
static void expiry_forget(struct store *st, const struct entry *e) {
    uint32_t place = expiry_place(e), half = st->deadlines_size / 2;
    st->deadline_keys -= e->key_len;
    struct deadline last = st->deadlines[--st->deadlines_len];
    if (place < st->deadlines_len) expiry_sift(st, place, last);
    if (half < DEADLINES_MIN || st->deadlines_len > half / 2) return;
    struct deadline *smaller = realloc(st->deadlines, half * sizeof *smaller);
    if (smaller) st->deadlines = smaller, st->deadlines_size = half;
}

/* Makes room for one more deadline, and for its place in the entry, which may move. False: out of
 * memory, and nothing has changed. */
static bool expiry_begin(struct store *st, struct slot *s) {
    if (!store_has_reserve()) return false;
    if (st->deadlines_len == st->deadlines_size) {
        uint32_t size = st->deadlines_size ? st->deadlines_size * 2 : DEADLINES_MIN;
        struct deadline *larger = realloc(st->deadlines, size * sizeof *larger);
        if (!larger) return false;
        st->deadlines = larger;
        st->deadlines_size = size;
    }
    struct entry *e = realloc(s->entry, entry_size(s->entry) + sizeof(uint32_t));
    if (!e) return false;
    e->expires = true;
    st->bytes += sizeof(uint32_t);
    st->deadline_keys += e->key_len;
    s->entry = e;
    st->deadlines_len++;
    return true;
}

/* When the loop has to wake up, or NEVER. */
static uint64_t expiry_next(const struct store *st) {
    return st->deadlines_len ? st->deadlines[0].at : NEVER;
}

/* Removes some of the entries whose deadline is past: to search for one is to remove it. */
static void expiry_step(struct store *st, int most) {
    for (int i = 0; i < most && expiry_next(st) <= server.now; i++) {
        struct entry *e = st->deadlines[0].entry;
        struct str key = {e->bytes, e->key_len};
        store_find(st, store_hash(key), key);
    }
}

/* Digits and nothing else, and not more than that. */
static bool expiry_number(struct str digits, uint64_t most, uint64_t *number) {
    *number = 0;
    for (size_t i = 0; i < digits.len; i++) {
        char digit = digits.bytes[i];
        if (digit < '0' || digit > '9' || *number > most) return false;
        *number = *number * 10 + (uint64_t)(digit - '0');
    }
    return digits.len > 0 && *number <= most;
}

/* The key gets this deadline, in place of any that it had. */
static enum status expiry_start(struct request *r, uint64_t at) {
    struct store *st = r->store;
    struct slot *s = store_find(st, r->hash, r->key);
    if (!s || !s->entry) return NOT_FOUND;
    bool again = s->entry->expires;
    if (!again && !expiry_begin(st, s)) return SERVER_ERROR;
    uint32_t place = again ? expiry_place(s->entry) : st->deadlines_len - 1;
    expiry_sift(st, place, (struct deadline){at, s->entry});
    return OK;
}

/* What to add to the monotonic clock for the time of day, in ms, rounded to the nearest: it should
 * be the same whenever it's asked for. */
static int64_t expiry_offset(void) {
    struct timespec day, up;
    clock_gettime(CLOCK_REALTIME, &day);
    clock_gettime(CLOCK_MONOTONIC, &up);
    int64_t seconds = (int64_t)day.tv_sec - (int64_t)up.tv_sec;
    return seconds * 1000 + (day.tv_nsec - up.tv_nsec + 1000500000) / 1000000 - 1000;
}

/* A deadline as time of day, for who can't see our clock: UNIXTIME bytes, until called again. */
static struct str expiry_text(uint64_t at) {
    static char text[UNIXTIME + 1];
    int64_t most = (int64_t)UNIXTIME_MAX * 1000 + 999, ms = (int64_t)at + expiry_offset();
    ms = ms < 0 ? 0 : ms > most ? most : ms;
    snprintf(text, sizeof text, "%010lld.%03d", (long long)ms / 1000, (int)(ms % 1000));
    return (struct str){text, UNIXTIME};
}

/* The value becomes what EXPIREAT would have to be told, to set the same deadline. */
static enum status command_expire(struct request *r) {
    uint64_t seconds;
    if (!expiry_number(r->value, EXPIRY_MAX, &seconds) || seconds < 1) return BAD_REQUEST;
    uint64_t at = server.now + seconds * 1000;
    r->value = expiry_text(at);
    return expiry_start(r, at);
}

/* A time of day that is past is a deadline as well: the key is gone. */
static enum status command_expireat(struct request *r) {
    uint64_t seconds, ms = 0;
    struct str whole = r->value, part = r->value;
    const char *point = memchr(whole.bytes, '.', whole.len);
    if (point) {
        whole.len = (size_t)(point - whole.bytes);
        part = (struct str){point + 1, part.len - whole.len - 1};
        if (part.len != 3 || !expiry_number(part, 999, &ms)) return BAD_REQUEST;
    }
    if (whole.len > UNIXTIME - 4 || !expiry_number(whole, UNIXTIME_MAX, &seconds))
        return BAD_REQUEST;
    int64_t at = (int64_t)(seconds * 1000 + ms) - expiry_offset();
    return expiry_start(r, at < 1 ? 1 : (uint64_t)at);
}

/* Seconds are rounded up: a key that is there has one left at least. */
static enum status command_ttl(struct request *r) {
    static char text[24];
    struct slot *s = store_find(r->store, r->hash, r->key);
    if (!s || !s->entry) return NOT_FOUND;
    r->data = STR("-1");
    if (!s->entry->expires) return OK;
    uint64_t left = r->store->deadlines[expiry_place(s->entry)].at - server.now;
    snprintf(text, sizeof text, "%llu", (unsigned long long)(left + 999) / 1000);
    r->data = str_of(text);
    return OK;
}

/* == 8. Roles =====================================================================================
 *
 * Beyond the lab. With --private, each connection has a store of its own, as long as it lasts. A
 * client is a guest, until AUTH makes it a manager; MANAGE lets a manager run a command on the
 * store of another, who is known by the port that its end of the connection has.
 *
 * The file of --managers has no passwords, only hashes of them (POSIX, crypt()): nobody gets from
 * the hash back to the password but by guessing, and to hash one guess takes milliseconds. For that
 * time the loop serves nobody. So one guess is made each CHECK_MS, whoever asks. Clients that ask
 * wait in a queue, with one guess each: who guesses on can't keep others out, only make them wait
 * for one guess of each. After three failures a connection ends, and a new one is last again. */

enum {
    PASSWORD_MAX = 250, /* bytes: to hash more takes longer */
    FAILURES_MAX = 3,   /* of AUTH, on one connection */
    CHECK_MS = 40,      /* from one guess to the next: of 100 clients, the last waits 4 s */
    SWEEP_MAX = 1024,   /* slots freed in a turn; a table that's begun is finished */
};

/* POSIX has it in unistd.h; glibc has not, since 2.28. */
char *crypt(const char *password, const char *setting);

struct manager {
    struct manager *next;
    char *name, *hash;
};

static struct manager *managers;
static unsigned managers_count;

static struct store *retired; /* stores of connections that are closed */

/* The store for a new connection. NULL: out of memory. */
static struct store *store_open(void) {
    return options[PRIVATE].value ? calloc(1, sizeof(struct store)) : &store;
}

/* To free a million entries takes a while, and others would have to wait. So it's done in steps. */
static void store_close(struct store *st) {
    if (st == &store) return;
    st->next = retired;
    retired = st;
}

/* A step, each turn of the loop: whole tables, until SWEEP_MAX slots are freed. */
static void store_sweep(void) {
    for (uint32_t swept = 0; retired && swept < SWEEP_MAX; swept++) {
        struct store *st = retired;
        struct table *t = st->tables;
        while (t < st->tables + TABLES && !t->slots) t++;
        if (t == st->tables + TABLES) {
            retired = st->next;
            free(st->deadlines);
            free(st);
            continue;
        }
        for (uint32_t i = 0; i < t->size; i++) free(t->slots[i].entry);
        free(t->slots);
        swept += t->size;
        *t = (struct table){NULL, 0, 0};
    }
}

/* Adds a line of the managers' file. Returns what is wrong with it, or NULL. */
static const char *manager_add(const char *line) {
    struct str name = {line, strcspn(line, ":")};
    if (line[name.len] != ':') return "not name:hash";
    if (name.len == 0 || name.len > KEY_MAX || str_has_control(name) || !str_is_text(name) ||
        memchr(name.bytes, ' ', name.len))
        return "a name is 1 to 250 bytes, without a space";
    const char *hash = line + name.len + 1, *again = crypt("", hash);
    if (!again || again[0] == '*' || strlen(again) != strlen(hash))
        return "not a hash of crypt(3); openssl passwd -6 prints one";
    for (struct manager *m = managers; m; m = m->next)
        if (str_is(name, m->name)) return "that name was there before";
    struct manager *m = malloc(sizeof *m);
    char *copy = strdup(line);
    if (!m || !copy) {
        free(m);
        free(copy);
        return "out of memory";
    }
    copy[name.len] = '\0';
    *m = (struct manager){managers, copy, copy + name.len + 1};
    managers = m;
    managers_count++;
    return NULL;
}

/* At the start. Whoever can read the file can guess at home, as fast as they like. */
static void managers_read(const char *path) {
    struct stat about;
    char line[1024];
    FILE *file = fopen(path, "r");
    if (!file || fstat(fileno(file), &about) < 0)
        DIE(EXIT_FAILURE, "%s: %s", path, strerror(errno));
    if (about.st_mode & (S_IRWXG | S_IRWXO))
        DIE(EXIT_FAILURE, "%s is open to others; type: chmod 600 '%s'", path, path);
    for (int number = 1; fgets(line, sizeof line, file); number++) {
        bool whole = strchr(line, '\n') || feof(file);
        line[strcspn(line, "\r\n")] = '\0';
        if (whole && (line[0] == '#' || !line[strspn(line, " \t")])) continue;
        const char *wrong = whole ? manager_add(line) : "too long";
        if (wrong) DIE(EXIT_FAILURE, "%s, line %d: %s", path, number, wrong);
    }
    if (ferror(file)) DIE(EXIT_FAILURE, "%s: %s", path, strerror(errno));
    fclose(file);
}

/* For an unknown name the password is hashed as well, or the time that the answer takes would tell
 * which names are known. Not always in the same way: hashes of several kinds take several times. So
 * its own hash says which manager it's like, always the same one. SERVER_ERROR: nobody can tell. */
static enum status manager_check(struct str name, struct str password) {
    char text[PASSWORD_MAX + 1];
    struct manager *m = managers, *known = managers;
    if (!managers) return UNAUTHORIZED;
    while (known && !str_is(name, known->name)) known = known->next;
    for (uint64_t i = store_hash(name) % managers_count; i > 0; i--) m = m->next;
    if (known) m = known;
    memcpy(text, password.bytes, password.len);
    text[password.len] = '\0';
    const char *hash = crypt(text, m->hash);
    if (!hash || hash[0] == '*') return SERVER_ERROR;
    return strcmp(hash, m->hash) == 0 && known ? OK : UNAUTHORIZED;
}

static enum status command_whoami(struct request *r) {
    static char text[sizeof "manager 65535"];
    const char *role = r->client->manager ? "manager" : "guest";
    snprintf(text, sizeof text, "%s %s", role, strrchr(r->client->name, ':') + 1);
    r->data = str_of(text);
    return OK;
}

/* Puts the client at the end of the queue, unless it is in the queue. */
static void auth_queue(struct client *c) {
    if (c->ticket) return;
    c->ticket = ++server.tickets;
    server.waiting++;
}

static void auth_leave(struct client *c) {
    if (!c->ticket) return;
    c->ticket = 0;
    server.waiting--;
}

/* The first of the queue, or NULL. */
static struct client *auth_first(void) {
    struct client *first = NULL;
    for (struct client *c = clients; server.waiting && c <= clients + server.top; c++)
        if (c->ticket && (!first || c->ticket < first->ticket)) first = c;
    return first;
}

static enum status command_auth(struct request *r) {
    struct client *c = r->client;
    if (r->value.len > PASSWORD_MAX) return BAD_REQUEST;
    if (c != server.trying) return TOO_MANY_REQUESTS; /* kvss stops, and it had to wait */
    server.trying = NULL;
    server.auth_at = server.now + CHECK_MS;
    server.slow = true;
    enum status status = manager_check(r->key, r->value);
    if (status == SERVER_ERROR) return status;
    if (status == OK) {
        c->manager = true;
        event("manager", c->name, r->key);
        r->data = STR("manager");
        return OK;
    }
    /* Without the name: it may be a password, typed too early. */
    event("refuse", c->name, STR("wrong name or password"));
    r->close = ++c->failures >= FAILURES_MAX;
    return UNAUTHORIZED;
}

/* Finds the client that is meant by a port, or by an address and a port, as WHOAMI and the log show
 * it. CONFLICT: two hosts use that port. */
static enum status client_find(struct str who, struct client **found) {
    *found = NULL;
    for (struct client *c = clients; c <= clients + server.top; c++) {
        if (c->phase == CLOSED || c->wire != LINES) continue;
        struct str name = str_of(c->name), port = str_of(strrchr(c->name, ':') + 1);
        if (!str_equal(who, name) && !str_equal(who, port)) continue;
        if (*found) return CONFLICT;
        *found = c;
    }
    return *found ? OK : NOT_FOUND;
}

static enum status command_manage(struct request *r); /* below the table: it runs another command */

/* == 9. Patterns ==================================================================================
 *
 * Beyond the lab: LIST takes a regular expression; docs/protocol.md says of what kind. A matcher
 * that backtracks, like Python's, can take twice the time for each byte more of a name, and the
 * server would serve nobody meanwhile. glibc's regexec() can fill the memory instead.
 *
 * So a pattern becomes an automaton (Glushkov, 1961). Each character of the pattern is a state,
 * which is entered when the text has that character. The automaton of a(b|c)*:
 *
 *                       .---.
 *                .---> (b) <'      first:    a          the states that a match can begin with
 *               /      ^ |         last:     a, b, c    the states that a match can end with
 *    start -> (a)      | |         nullable: no         the empty text is no match
 *               \      | v
 *                '---> (c) <.
 *                       '---'
 *
 * The text is read once, with the set of all states that it can have led to. A set of states is a
 * word of 64 bits. One byte leads from a set to the next set with eight look-ups, whatever the
 * pattern is. A pattern that needs more than 64 states is refused. */

enum { STATES = 64, ENDLESS = -1 };

/* Two bytes that no name has stand for its two ends. They enter the states of ^ and $. */
enum { TEXT_BEGIN = 1, TEXT_END = 2 };

/* A set of characters is a bool[CHARACTERS]: ASCII one by one, and all other characters together. */
enum { OTHERS = 128, CHARACTERS };

/* The automaton of a part of a pattern. */
struct fragment {
    uint64_t first, last; /* the states that a match of it can begin with, and end with */
    bool nullable;        /* it matches the empty text, too */
};

struct pattern {
    char *rest; /* of the text, still to be read */
    bool bad;   /* the text is no pattern, or needs too many states */
    int states; /* so far */
    struct fragment whole;
    uint64_t entered[256];          /* by byte: the states that it enters */
    uint64_t next[STATES / 8][256]; /* by any set of the nth eight states: those that may follow */
    char text[KEY_MAX + 1];         /* ends in a NUL */
};

static const struct fragment EMPTY = {0, 0, true}; /* matches the empty text and nothing else */

/* Reads the text, if it comes next. */
static bool pattern_take(struct pattern *p, const char *text) {
    if (strncmp(p->rest, text, strlen(text)) != 0) return false;
    p->rest += strlen(text);
    return true;
}

/* Whether one of these bytes comes next. */
static bool pattern_sees(const struct pattern *p, const char *bytes) {
    return *p->rest && strchr(bytes, *p->rest);
}

/* Reads a byte. At the end there is none: the pattern is bad. */
static int pattern_byte(struct pattern *p) {
    if (!*p->rest) p->bad = true;
    return p->bad ? 0 : (unsigned char)*p->rest++;
}

/* A new state, which any of these bytes enters. */
static struct fragment pattern_state(struct pattern *p, int from, int to) {
    if (p->states == STATES) p->bad = true;
    if (p->bad) return EMPTY;
    uint64_t state = (uint64_t)1 << p->states++;
    for (int byte = from; byte <= to; byte++) p->entered[byte] |= state;
    return (struct fragment){state, state, false};
}

/* After any of these states, any of those may come. */
static void pattern_follow(struct pattern *p, uint64_t these, uint64_t those) {
    for (int i = 0; i < STATES; i++)
        if (these >> i & 1) p->next[i / 8][1 << i % 8] |= those;
}

/* One fragment, then the other. */
static struct fragment pattern_join(struct pattern *p, struct fragment a, struct fragment b) {
    struct fragment both = {a.first, b.last, a.nullable && b.nullable};
    if (a.nullable) both.first |= b.first;
    if (b.nullable) both.last |= a.last;
    pattern_follow(p, a.last, b.first);
    return both;
}

/* One character of the set. In UTF-8, a character past ASCII is a byte from C0 on, and then bytes
 * from 80 to BF: one state for the first byte, and one for the bytes after it. */
static struct fragment pattern_one_of(struct pattern *p, const bool set[CHARACTERS]) {
    struct fragment one = pattern_state(p, 0xC0, set[OTHERS] ? 0xFF : 0);
    for (int byte = '!'; byte <= '~'; byte++)
        if (set[byte]) p->entered[byte] |= one.first;
    if (!set[OTHERS]) return one;
    struct fragment more = pattern_state(p, 0x80, 0xBF);
    pattern_follow(p, more.last, more.first);
    more.nullable = true;
    return pattern_join(p, one, more);
}

/* Reads a \, if it comes next. True: it began \d, \w or \s, or \D, \W or \S for all other
 * characters, and these were added to the set. False: what comes now stands for itself. Characters
 * past ASCII count as letters; no name has a space. Python's \b, \1 and so on are refused. */
static bool pattern_escape(struct pattern *p, bool set[CHARACTERS]) {
    if (!pattern_take(p, "\\")) return false;
    if (!pattern_sees(p, "dDwWsS")) {
        if (isalnum((unsigned char)*p->rest)) p->bad = true;
        return false;
    }
    int letter = pattern_byte(p), lower = tolower(letter);
    for (int c = 0; c < CHARACTERS; c++) {
        bool word = c == '_' || c == OTHERS || isalnum(c);
        bool meant = (lower == 'd' && isdigit(c)) || (lower == 'w' && word);
        if (meant == (letter == lower)) set[c] = true;
    }
    return true;
}

/* Reads a class, if one comes next, such as [:digit:] or \d, and adds it to the set. */
static bool pattern_class(struct pattern *p, bool set[CHARACTERS]) {
    if (pattern_take(p, "[.") || pattern_take(p, "[=")) p->bad = true; /* not supported */
    if (!pattern_take(p, "[:")) return pattern_escape(p, set);
    char name[sizeof "xdigit"] = "";
    for (size_t i = 0; i + 1 < sizeof name && !pattern_sees(p, ":"); i++)
        name[i] = (char)pattern_byte(p);
    wctype_t class = wctype(name);
    if (!class || !pattern_take(p, ":]")) p->bad = true;
    for (int c = 0; c < OTHERS; c++)
        if (iswctype((wint_t)c, class)) set[c] = true;
    return true;
}

/* What comes after a [: characters of ASCII, ranges and classes, up to the ]. */
static struct fragment pattern_brackets(struct pattern *p) {
    bool set[CHARACTERS] = {false}, complement = pattern_take(p, "^");
    do {
        bool class = pattern_class(p, set);
        int from = class ? 0 : pattern_byte(p), to = from;
        if (p->rest[0] == '-' && p->rest[1] != ']') {
            pattern_byte(p);
            if (class || pattern_class(p, set)) p->bad = true;
            to = pattern_byte(p);
        }
        if (from > to || to >= OTHERS) p->bad = true;
        for (int c = from; c <= to && !p->bad; c++) set[c] = true;
    } while (!p->bad && !pattern_take(p, "]"));
    for (int c = 0; c < CHARACTERS; c++) set[c] = set[c] != complement;
    return pattern_one_of(p, set);
}

/* A character that stands for itself: a state for each of its bytes. */
static struct fragment pattern_character(struct pattern *p) {
    struct fragment whole = EMPTY;
    do {
        int byte = pattern_byte(p);
        whole = pattern_join(p, whole, pattern_state(p, byte, byte));
    } while (!p->bad && ((unsigned char)*p->rest & 0xC0) == 0x80);
    return whole;
}

static struct fragment pattern_choice(struct pattern *p); /* an atom may hold one */

static struct fragment pattern_atom(struct pattern *p) {
    bool set[CHARACTERS] = {false}, escaped = pattern_sees(p, "\\");
    if (pattern_escape(p, set)) return pattern_one_of(p, set);
    if (escaped) return pattern_character(p);
    if (pattern_take(p, ".")) {
        memset(set, true, sizeof set);
        return pattern_one_of(p, set);
    }
    if (pattern_take(p, "^")) return pattern_state(p, TEXT_BEGIN, TEXT_BEGIN);
    if (pattern_take(p, "$")) return pattern_state(p, TEXT_END, TEXT_END);
    if (pattern_take(p, "[")) return pattern_brackets(p);
    if (!pattern_take(p, "(?:") && !pattern_take(p, "(")) return pattern_character(p);
    struct fragment group = pattern_choice(p);
    if (!pattern_take(p, ")")) p->bad = true;
    return group;
}

/* Reads a number. Python's and POSIX's have digits only, not the sign that strtol() allows. */
static long pattern_number(struct pattern *p, long absent) {
    return pattern_sees(p, "0123456789") ? strtol(p->rest, &p->rest, 10) : absent;
}

/* Reads a quantifier: * + ? {n} {n,} {,m} {n,m}. False: none comes next. A { that does not begin one
 * stands for itself. */
static bool pattern_quantifier(struct pattern *p, long *least, long *most) {
    char *start = p->rest;
    *least = pattern_sees(p, "+");
    *most = pattern_sees(p, "?") ? 1 : ENDLESS;
    if (pattern_sees(p, "*+?")) return pattern_byte(p);
    if (pattern_take(p, "{") && !pattern_sees(p, "}")) {
        *least = pattern_number(p, 0);
        *most = pattern_take(p, ",") ? pattern_number(p, ENDLESS) : *least;
        if (pattern_take(p, "}")) return true;
    }
    p->rest = start;
    return false;
}

/* An atom, perhaps with a quantifier. a{2,4} becomes aaa?a?, and a{2,} becomes aa+: the atom's text
 * is read again for each copy. A copy takes a state or more, so there can't be many copies. */
static struct fragment pattern_repeat(struct pattern *p) {
    long least, most, unused;
    int states = p->states;
    bool anchor = pattern_sees(p, "^$");
    if (pattern_quantifier(p, &least, &most)) p->bad = true; /* nothing to repeat */
    char *atom = p->rest;
    struct fragment copy = pattern_atom(p), whole = EMPTY;
    if (!pattern_quantifier(p, &least, &most)) return copy;
    pattern_take(p, "?"); /* lazy: another match is found, but only if there is one */
    if (anchor || pattern_quantifier(p, &unused, &unused)) p->bad = true;
    if (most != ENDLESS && most < least) p->bad = true;
    if (p->states == states) return copy; /* (), however often, is () */
    char *rest = p->rest;
    long copies = most;
    if (most == ENDLESS) copies = least > 0 ? least : 1;
    for (long i = 0; i < copies && !p->bad; i++) {
        p->rest = atom;
        if (i > 0) copy = pattern_atom(p);
        if (i >= least) copy.nullable = true;
        whole = pattern_join(p, whole, copy);
    }
    if (most == ENDLESS) pattern_follow(p, copy.last, copy.first);
    p->rest = rest;
    return whole;
}

/* Atoms in a row, and rows with a | between them. */
static struct fragment pattern_choice(struct pattern *p) {
    struct fragment any = {0, 0, false};
    do {
        struct fragment row = EMPTY;
        while (!p->bad && *p->rest && !pattern_sees(p, "|)"))
            row = pattern_join(p, row, pattern_repeat(p));
        any.first |= row.first;
        any.last |= row.last;
        any.nullable |= row.nullable;
    } while (pattern_take(p, "|"));
    return any;
}

/* False: the text is no pattern, or needs too many states. */
static bool pattern_read(struct pattern *p, struct str text) {
    memset(p, 0, sizeof *p);
    memcpy(p->text, text.bytes, text.len);
    p->rest = p->text;
    p->whole = pattern_choice(p);
    if (p->bad || *p->rest) return false;
    for (int i = 0; i < STATES / 8; i++) /* a set: its lowest state, and the others */
        for (int set = 1; set < 256; set++)
            p->next[i][set] = p->next[i][set & -set] | p->next[i][set & (set - 1)];
    return true;
}

/* The states after the byte. A match may begin anywhere, so first is always among the next. */
static uint64_t pattern_step(const struct pattern *p, uint64_t reached, int byte) {
    uint64_t next = p->whole.first;
    for (int i = 0; i < STATES / 8; i++) next |= p->next[i][reached >> (8 * i) & 0xFF];
    return next & p->entered[byte];
}

/* At the ends of the text ^ and $ match without taking a byte, and so any number of them. */
static uint64_t pattern_edge(const struct pattern *p, uint64_t reached, int edge) {
    uint64_t before;
    do {
        before = reached;
        reached |= pattern_step(p, reached, edge);
    } while (reached != before);
    return reached;
}

/* Whether a part of the text matches. */
static bool pattern_matches(const struct pattern *p, struct str text) {
    uint64_t reached = pattern_edge(p, 0, TEXT_BEGIN);
    for (size_t i = 0; i < text.len && !(reached & p->whole.last); i++)
        reached = pattern_step(p, reached, (unsigned char)text.bytes[i]);
    return p->whole.nullable || reached & p->whole.last ||
           pattern_edge(p, reached, TEXT_END) & p->whole.last;
}

/* == 10. Mailboxes ================================================================================
 *
 * Beyond the lab. A user is a mailbox: messages wait in it, in order, until a connection takes
 * them. One connection at most has a mailbox, its holder, and gets each message as a line of its
 * own.
 *
 * A message stays in the mailbox until the kernel has taken its last byte. So messages go to the
 * end of the holder's out buffer when all its requests have been answered, and no request is run
 * until they are gone: what is at the end of that buffer is messages, and nothing else. From a
 * holder that loses the mailbox before that, they are taken back by cutting the buffer short. Only
 * if the kernel has the beginning of a message and not its end, that can't be undone: the
 * connection is ended. */

enum {
    MAILBOXES_MAX = 10000,   /* LIST looks at them all: 14 ms, for long names */
    MESSAGES_MAX = 1000,     /* in a mailbox */
    MAILBOX_BYTES = 1 << 20, /* of text, in a mailbox */
    CUT_MS = 60000,          /* for a connection that is ended in the middle of a message */
};

struct message {
    struct message *next;
    size_t sending; /* bytes that it takes in the holder's out buffer, or 0: it's not there */
    size_t len;
    char text[];
};

struct mailbox {
    struct message *first, *last, *unsent; /* unsent: the first that is not in out */
    int messages;
    size_t bytes;                 /* of texts */
    size_t sending;               /* bytes of messages whose last byte the kernel has not taken */
    struct client *holder;        /* or NULL */
    unsigned long long delivered; /* to the holder */
    size_t name_len;
    char name[];
};

static struct mailbox *mailboxes[MAILBOXES_MAX]; /* sorted by name */
static size_t mailboxes_len;

static bool frame_append(struct buf *out, const char *verb, struct str text); /* see Frames */

static struct str mailbox_name(const struct mailbox *box) {
    return (struct str){box->name, box->name_len};
}

/* Byte by byte; the beginning of a name comes before the name. */
static int name_compare(struct str a, struct str b) {
    int order = memcmp(a.bytes, b.bytes, a.len < b.len ? a.len : b.len);
    return order ? order : (a.len > b.len) - (a.len < b.len);
}

/* Where the user's mailbox is, or would be. */
static size_t mailbox_place(struct str user) {
    size_t low = 0, high = mailboxes_len;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (name_compare(mailbox_name(mailboxes[middle]), user) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* NULL: there is none. */
static struct mailbox *mailbox_find(struct str user) {
    size_t at = mailbox_place(user);
    bool found = at < mailboxes_len && str_equal(mailbox_name(mailboxes[at]), user);
    return found ? mailboxes[at] : NULL;
}

/* False: out of memory. */
static bool message_append(struct buf *out, struct str user, struct str text) {
    if (!buf_reserve(out, REPLY_ROOM + user.len + text.len)) return false;
    buf_append(out, statuses[MESSAGE]);
    buf_append(out, STR(" "));
    buf_append(out, user);
    buf_append(out, STR(" "));
    buf_append(out, text);
    buf_append(out, STR("\n"));
    return true;
}

/* Takes the first message out, and frees it. */
static void mailbox_pop(struct mailbox *box) {
    struct message *m = box->first;
    box->first = m->next;
    if (box->unsent == m) box->unsent = m->next;
    box->messages--;
    box->bytes -= m->len;
    free(m);
}

/* Ends a connection after a part of a message. What the kernel has is still for the client to read,
 * and a close() could destroy it (see LINGERING), so it gets some time for that. */
static void client_cut(struct client *c) {
    c->phase = LINGERING;
    c->active = server.now + CUT_MS;
    c->out.len = c->in_len = c->scanned = 0;
    c->pending = c->blocked = false;
    (void)shutdown(client_fd(c), SHUT_WR);
}

/* The client gives up its mailbox, if it has one, with the messages that were not sent. */
static void mailbox_leave(struct client *c) {
    struct mailbox *box = c->mailbox;
    char text[64];
    if (!box) return;
    bool halfway = box->sending > c->out.len;
    if (!halfway) c->out.len -= box->sending;
    box->sending = 0;
    box->unsent = box->first;
    box->holder = NULL;
    c->mailbox = NULL;
    if (halfway) client_cut(c);
    snprintf(text, sizeof text, "%llu delivered, %d left", box->delivered, box->messages);
    client_event(c, "leave", str_of(text));
}

/* Adds messages to the holder's out buffer. If there's no memory for a single one, they stay where
 * they are, and the connection is ended: there may be memory when the user connects again. */
static void mailbox_feed(struct client *c) {
    struct mailbox *box = c->mailbox;
    if (!box || c->pending) return;
    while (box->unsent && c->out.len < OUTPUT_MAX) {
        struct message *m = box->unsent;
        struct str text = {m->text, m->len}, user = mailbox_name(box);
        size_t before = c->out.len;
        bool fits = c->wire == FRAMES ? frame_append(&c->out, "string", text)
                                      : message_append(&c->out, user, text);
        if (!fits && c->out.len > 0) return; /* there may be memory when that is sent */
        if (!fits) {
            mailbox_leave(c);
            client_cut(c);
            return;
        }
        m->sending = c->out.len - before;
        box->sending += m->sending;
        box->unsent = m->next;
    }
}

/* The kernel has taken bytes of out: messages whose last byte is among them are delivered. */
static void mailbox_taken(struct client *c) {
    struct mailbox *box = c->mailbox;
    while (box && box->sending > 0 && box->sending - box->first->sending >= c->out.len) {
        box->sending -= box->first->sending;
        box->delivered++;
        mailbox_pop(box);
    }
}

static enum status command_create(struct request *r) {
    size_t at = mailbox_place(r->key);
    if (mailbox_find(r->key)) return CONFLICT;
    if (mailboxes_len == MAILBOXES_MAX) return FULL;
    struct mailbox *box = malloc(sizeof *box + r->key.len);
    if (!box) return SERVER_ERROR;
    *box = (struct mailbox){.name_len = r->key.len};
    memcpy(box->name, r->key.bytes, r->key.len);
    memmove(mailboxes + at + 1, mailboxes + at, (mailboxes_len++ - at) * sizeof *mailboxes);
    mailboxes[at] = box;
    return CREATED;
}

static enum status command_delete(struct request *r) {
    size_t at = mailbox_place(r->key);
    struct mailbox *box = mailbox_find(r->key);
    if (!box) return NOT_FOUND;
    if (box->holder) mailbox_leave(box->holder);
    while (box->first) mailbox_pop(box);
    free(box);
    memmove(mailboxes + at, mailboxes + at + 1, (--mailboxes_len - at) * sizeof *mailboxes);
    return NO_CONTENT;
}

/* OK means that it's on its way: a connection has the mailbox, and takes what there is. */
static enum status command_send(struct request *r) {
    struct mailbox *box = mailbox_find(r->key);
    if (!box) return NOT_FOUND;
    if (box->messages == MESSAGES_MAX || box->bytes + r->value.len > MAILBOX_BYTES) return FULL;
    struct message *m = malloc(sizeof *m + r->value.len);
    if (!m) return SERVER_ERROR;
    *m = (struct message){.len = r->value.len};
    memcpy(m->text, r->value.bytes, m->len);
    if (box->first)
        box->last->next = m;
    else
        box->first = m;
    box->last = m;
    if (!box->unsent) box->unsent = m;
    box->messages++;
    box->bytes += m->len;
    struct client *c = box->holder;
    return c && !c->blocked && (!c->pending || c == r->client) ? OK : ACCEPTED;
}

static enum status command_connect(struct request *r) {
    static char number[16];
    struct mailbox *box = mailbox_find(r->key);
    if (!box) return NOT_FOUND;
    mailbox_leave(r->client);
    if (box->holder) mailbox_leave(box->holder);
    box->holder = r->client;
    box->delivered = 0;
    r->client->mailbox = box;
    client_event(r->client, "hold", r->key);
    r->data = (struct str){number, (size_t)snprintf(number, sizeof number, "%d", box->messages)};
    return OK;
}

static enum status command_list(struct request *r) {
    static struct pattern pattern;
    static struct buf names;
    names.len = 0;
    server.slow = true;
    if (r->key.len && !pattern_read(&pattern, r->key)) return BAD_REQUEST;
    for (size_t i = 0; i < mailboxes_len; i++) {
        struct str name = mailbox_name(mailboxes[i]);
        if (r->key.len && !pattern_matches(&pattern, name)) continue;
        if (!buf_reserve(&names, 1 + name.len)) return SERVER_ERROR;
        if (names.len) buf_append(&names, r->client->wire == FRAMES ? STR(",") : STR(" "));
        buf_append(&names, name);
    }
    if (names.len) r->data = (struct str){names.bytes, names.len};
    return OK;
}

/* == 11. Requests =================================================================================
 *
 *     request = "KV/1.0" SP verb [SP key [SP value]]
 *
 * The table of commands is the heart of the program. A line is compared with it from left to right,
 * and the first thing that's wrong decides: one request has one answer. */

enum { REQUEST_MAX = 65536 }; /* bytes of a line with its LF */

static enum status command_compact(struct request *r); /* see Compaction */

/* MANAGE can run what is ON_STORE; what is ON_MAILBOX can come in a frame. */
enum kind { GENERAL, ON_STORE, FOR_MANAGERS, ON_MAILBOX };

static struct command {
    const char *verb;
    enum kind kind;
    int least, most; /* arguments; a second one is the rest of the line, spaces and all */
    enum status (*run)(struct request *);
    const char *logged_as; /* by what verb the change is logged, with the arguments left by run() */
    const char *usage, *reason; /* reason: what to say where there are too few or too many */
    unsigned long long count;   /* requests so far */
} commands[] = {
    {"PUT", ON_STORE, 2, 2, command_put, "PUT", "PUT key value", "PUT needs a key and a value", 0},
    {"GET", ON_STORE, 1, 1, command_get, NULL, "GET key", "GET needs a key and nothing more", 0},
    {"DEL", ON_STORE, 1, 1, command_del, "DEL", "DEL key", "DEL needs a key and nothing more", 0},
    {"STATS", GENERAL, 0, 1, command_stats, NULL, "STATS [all]",
     "STATS takes nothing or the word all", 0},
    {"QUIT", GENERAL, 0, 0, command_quit, NULL, "QUIT", "QUIT takes nothing", 0},
    /* Beyond the lab: */
    {"EXPIRE", GENERAL, 2, 2, command_expire, "EXPIREAT", "EXPIRE key seconds",
     "EXPIRE needs a key and a number of seconds, from 1 to 315360000", 0},
    {"EXPIREAT", GENERAL, 2, 2, command_expireat, "EXPIREAT", "EXPIREAT key unixtime",
     "EXPIREAT needs a key and seconds since 1970, as in 1763719200 or 1763719200.250", 0},
    {"TTL", GENERAL, 1, 1, command_ttl, NULL, "TTL key", "TTL needs a key and nothing more", 0},
    {"COMPACT", GENERAL, 0, 0, command_compact, NULL, "COMPACT", "COMPACT takes nothing", 0},
    {"WHOAMI", GENERAL, 0, 0, command_whoami, NULL, "WHOAMI", "WHOAMI takes nothing", 0},
    {"AUTH", GENERAL, 2, 2, command_auth, NULL, "AUTH user password",
     "AUTH needs a user and a password of up to 250 bytes", 0},
    {"MANAGE", FOR_MANAGERS, 2, 2, command_manage, NULL, "MANAGE port PUT|GET|DEL key [value]",
     "MANAGE needs a port and a PUT, GET or DEL", 0},
    {"CREATE", ON_MAILBOX, 1, 1, command_create, NULL, "CREATE user", "CREATE needs a user", 0},
    {"DELETE", ON_MAILBOX, 1, 1, command_delete, NULL, "DELETE user", "DELETE needs a user", 0},
    {"LIST", ON_MAILBOX, 0, 1, command_list, NULL, "LIST [pattern]",
     "LIST takes nothing or a pattern, as docs/protocol.md describes it, of up to 64 states", 0},
    {"SEND", ON_MAILBOX, 2, 2, command_send, NULL, "SEND user text", "SEND needs a user and a text",
     0},
    {"CONNECT", ON_MAILBOX, 1, 1, command_connect, NULL, "CONNECT user", "CONNECT needs a user", 0},
};

enum { COMMANDS = sizeof commands / sizeof *commands };

/* Why it's refused. A reason that is there already comes first. */
static enum status request_bad(struct request *r, const char *reason) {
    if (!r->reason.len) r->reason = str_of(reason);
    return BAD_REQUEST;
}

static struct command *request_command(struct str verb) {
    for (struct command *c = commands; c < commands + COMMANDS; c++)
        if (str_is(verb, c->verb)) return c;
    return NULL;
}

/* What another assignment's server answers to STATS. The uptime is as Python prints a timedelta:
 * 0:05:23, or 2 days, 0:05:23. This STATS itself is not counted as processed yet. */
static size_t stats_in_words(char *text, unsigned long long keys, unsigned long long seconds) {
    unsigned long long days = seconds / 86400;
    char *p = text + sprintf(text, "uptime: ");
    if (days) p += sprintf(p, "%llu day%s, ", days, days == 1 ? "" : "s");
    p += sprintf(p, "%llu:%02llu:%02llu", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    p += sprintf(p, "; connections: %ld", server.clients);
    p += sprintf(p, "; commands_processed: %llu", server.served - 1);
    p += sprintf(p, "; get_requests: %llu", request_command(STR("GET"))->count);
    p += sprintf(p, "; put_requests: %llu", request_command(STR("PUT"))->count);
    p += sprintf(p, "; del_requests: %llu", request_command(STR("DEL"))->count);
    p += sprintf(p, "; keys_stored: %llu", keys);
    return (size_t)(p - text);
}

/* Nothing is counted here: however many keys there are, it takes the same time. So a key whose time
 * is past counts, until it's removed. */
static enum status command_stats(struct request *r) {
    static char text[1024];
    if (r->key.len && !str_is(r->key, "all")) return BAD_REQUEST;
    unsigned long long uptime = (server.now - server.started) / 1000, memory = r->store->bytes;
    for (int i = 0; i < TABLES; i++) memory += r->store->tables[i].size * sizeof(struct slot);
    char *p = text;
    memory += r->store->deadlines_size * sizeof(struct deadline);
    if (!r->key.len && options[LONG_STATS].value) {
        r->data = (struct str){text, stats_in_words(text, r->store->keys, uptime)};
        return OK;
    }
    p += sprintf(p, "keys=%llu uptime=%llus served=%llu", r->store->keys, uptime, server.served);
    if (r->key.len) {
        p += sprintf(p, " connections=%ld refused=%llu", server.clients, server.refused);
        p += sprintf(p, " bytes_in=%llu bytes_out=%llu", server.bytes_in, server.bytes_out);
        p += sprintf(p, " memory=%llu", memory);
        for (int i = 0; i < COMMANDS; i++)
            p += sprintf(p, " %s=%llu", commands[i].verb, commands[i].count);
    }
    r->data = (struct str){text, (size_t)(p - text)};
    return OK;
}

/* Cuts the arguments, which rest has if there are more, and checks their form. */
static enum status request_arguments(struct request *r, bool more, struct str rest) {
    const struct command *command = r->command;
    int given = more;
    r->key = r->value = STR("");
    if (more && str_field(&rest, &r->key)) r->value = rest, given++;
    const char *wrong = NULL;
    if (given < command->least || given > command->most)
        wrong = command->reason;
    else if ((given > 0 && !r->key.len) || (given > 1 && !r->value.len))
        wrong = "a field is empty: one space stands between two fields";
    else if (r->key.len > KEY_MAX)
        wrong = "the key is longer than 250 bytes";
    else if (str_has_control(r->key))
        wrong = "the key has a control character in it";
    else if (command->kind == ON_MAILBOX && command->run != command_list &&
             memchr(r->key.bytes, ',', r->key.len))
        wrong = "a user's name has no comma";
    if (wrong) return request_bad(r, wrong);
    r->hash = store_hash(r->key);
    return OK;
}

/* The arguments are checked. What changes the shared store is not run if it can't be logged. */
static enum status request_execute(struct request *r) {
    bool refused = server.read_only && r->command->logged_as && r->store == &store;
    return refused ? SERVER_ERROR : r->command->run(r);
}

/* Its own form and that of the command come first, and then whether there is such a client. */
static enum status command_manage(struct request *r) {
    struct str who = r->key, rest = r->value, verb;
    struct client *other;
    bool more = str_field(&rest, &verb);
    struct command *command = request_command(verb);
    if (!command || command->kind != ON_STORE) return BAD_REQUEST;
    r->command = command;
    enum status status = request_arguments(r, more, rest);
    if (status == OK) status = client_find(who, &other);
    if (status != OK) return status;
    r->store = other->store;
    return request_execute(r);
}

/* A request of which nothing but the line is known. */
static void request_begin(struct request *r, struct client *c, struct str line) {
    r->client = c;
    r->store = c->store;
    r->line = line;
    r->command = NULL;
    r->key = r->value = r->data = r->reason = STR("");
    r->hash = 0;
    r->status = OK;
    r->close = false;
}

/* Whether a line of the text is one of HTTP: a request line ends in HTTP/1.1, and a browser's next
 * line begins with Host. A page in a browser can send such requests to this server, and choose what
 * comes after the header. The text is a line or, on the wire of chapter 15, a frame. */
static bool request_is_http(struct str text) {
    const struct str version = STR(" HTTP/1."), host = STR("Host:");
    for (const char *lf = text.bytes; lf;) {
        struct str line = text;
        lf = memchr(text.bytes, '\n', text.len);
        if (lf) {
            line.len = (size_t)(lf - text.bytes);
            text = (struct str){lf + 1, text.len - line.len - 1};
        }
        if (line.len > 0 && line.bytes[line.len - 1] == '\r') line.len--;
        if (line.len >= host.len && strncasecmp(line.bytes, host.bytes, host.len) == 0) return true;
        if (line.len <= version.len) continue;
        const char *end = line.bytes + line.len - 1; /* the digit after the point */
        if (memcmp(end - version.len, version.bytes, version.len) == 0) return true;
    }
    return false;
}

/* Cuts the line, and compares it with the table. OK: its command can be run. */
static enum status request_parse(struct request *r) {
    struct str rest = r->line, verb;
    bool has_version = str_skip(&rest, STR("KV/1.0")) && (!rest.len || str_skip(&rest, STR(" ")));
    if (!has_version) {
        r->close = request_is_http(r->line);
        r->reason = r->close ? STR("this is HTTP: nothing after it is run")
                             : STR("a request begins with KV/1.0 and a space");
        return UPGRADE;
    }
    bool more = str_field(&rest, &verb);
    r->command = request_command(verb);
    if (!str_is_text(r->line)) return request_bad(r, "the line is not UTF-8, or has a NUL in it");
    if (!verb.len) return request_bad(r, "the verb is missing");
    if (!r->command) return request_bad(r, "there is no such verb; verbs are upper case");
    return request_arguments(r, more, rest);
}

/* What was found wrong with the line decides, unless it's nothing that this client may ask for. */
static enum status request_run(struct request *r) {
    struct command *command = r->command;
    if (!command) return r->status;
    command->count++;
    if (command->kind == FOR_MANAGERS && !r->client->manager) {
        r->reason = STR("");
        return FORBIDDEN;
    }
    enum status status = r->status == OK ? request_execute(r) : r->status;
    return status == BAD_REQUEST ? request_bad(r, command->reason) : status;
}

/* Of those that take milliseconds, a turn of the loop runs one, whoever asks for more. */
static bool request_is_slow(const struct request *r) {
    return r->command && r->command->run == command_list;
}

/* A password is not tried before it is the client's turn. When kvss stops, nobody waits. */
static bool request_has_to_wait(const struct request *r) {
    bool is_auth = r->command && r->command->run == command_auth && r->status == OK;
    return is_auth && r->client != server.trying && !server.stopping;
}

/* What of a line may be logged. A password must not be, even if what came before it is misspelt, or
 * another command: so where there are managers, it's the verb alone, if that is one. */
static struct str request_shown(const struct request *r) {
    bool is_auth = r->command && r->command->run == command_auth;
    if (!managers && !is_auth) return r->line;
    if (!r->command) return STR("(not shown)");
    return (struct str){r->line.bytes, strlen("KV/1.0 ") + strlen(r->command->verb)};
}

/* == 12. Log ======================================================================================
 *
 * Beyond the lab. With --data FILE the store outlives the server: each change of the store that all
 * share is appended to FILE, as the request that makes it, and at the start these are run again.
 *
 * A reply is a promise. So what a turn of the loop has changed is written, all in one, before any
 * reply of that turn is sent: that's group commit. What the kernel has taken outlives kvss, but not
 * a power cut; fsync() waits for the disk. --fsync says whether the replies wait for that, too.
 *
 * If the disk takes nothing more, the promises of that turn become 500. Their lines are kept, and
 * tried again each second; until they are written nothing else is changed. If fsync() fails, it's
 * no use to call it again: the kernel may have dropped what it could not write (Rebello and others,
 * Can Applications Recover from fsync Failures?, 2020). Then Compaction writes FILE anew.
 *
 * FILE may be moved away or deleted while it is open. Writing goes on without an error then, but the
 * next start would not find what was written. So kvss looks each second whether FILE still has its
 * name. While it has not, changes get 500. */

enum {
    RETRY_MS = 1000,      /* from one failure to the next try */
    PLACE_MS = 1000,      /* from one look at FILE's name to the next */
    SYNC_MS = 1000,       /* from one sync to the next, with --fsync everysec */
    POLL_MS = 10,         /* from one look to the next at what goes on beside the loop */
    CLOCK_LOOK_MS = 1000, /* from one look at the machine's clock to the next, at most */
    CLOCK_SET_MS = 1000,  /* the clock was set by that much, or more; less does not matter */
    LINES_KEPT = 1 << 20, /* bytes; a larger buffer is freed when its lines are written */
    DEL_MAX = sizeof "KV/1.0 DEL \n" + KEY_MAX, /* bytes of a line */
};

static const struct str log_header = {TEXT("# kvss data 1: the changes of a store, as requests\n")};

/* A reply that must not be sent before the log is written. */
struct promise {
    struct client *client;
    size_t at; /* where it begins in out */
};

/* Where FILE is, as its name tells. */
enum place {
    IN_PLACE,
    MOVED, /* nothing has its name: it was moved away or deleted */
    TAKEN, /* something else has its name */
};

static struct {
    char *path;          /* of FILE, from the root; NULL: there is no log */
    int fd;              /* FILE, locked */
    char *folder_path;   /* of the folder that it's in */
    int folder;          /* the same, open */
    off_t size;          /* its bytes, as far as lines are whole */
    off_t limit;         /* as many at most, or changes wait; 0: they don't. See Compaction */
    struct buf lines;    /* to be written */
    struct buf promises; /* replies that are about these lines */
    enum place place;    /* when kvss last looked */
    uint64_t look_at;    /* the next look: no earlier */
    bool unseen;         /* lines were written since the last look */
    bool behind;         /* the lines could not be written */
    uint64_t retry_at;   /* then: no earlier */
    bool untrusted;      /* a sync has failed */
    bool outdated;       /* it has keys that are gone, or deadlines of before the clock was set */
    int64_t offset;      /* expiry_offset(), by which its deadlines were written */
    bool unsynced;       /* something was written since the last sync began */
    uint64_t sync_at;    /* the next one: no earlier */
    bool syncing;        /* one goes on beside the loop */
    int sync_error;      /* of the last one: of FILE, or of FILE.kvss-new while that is SYNCING */
    struct aiocb sync;
} logfile = {.folder = -1};

static bool fsync_is(const char *when) { return strcmp(options[FSYNC].text, when) == 0; }

/* A lock that ends with kvss, however that ends, or when it closes any descriptor of the file. */
static bool file_lock(int fd) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return fcntl(fd, F_SETLK, &lock) == 0;
}

/* Whether the file of that name is this one. */
static bool file_is_at(const char *path, int fd) {
    struct stat named, opened;
    return stat(path, &named) == 0 && fstat(fd, &opened) == 0 && named.st_ino == opened.st_ino &&
           named.st_dev == opened.st_dev;
}

/* Where FILE is now. A name that can't be looked at tells nothing new. A symbolic link with the name
 * of FILE is something else, wherever it leads: rename() would replace it. */
static enum place file_place(void) {
    struct stat named, opened;
    bool absent = lstat(logfile.path, &named) < 0;
    if (absent && (errno == ENOENT || errno == ENOTDIR)) return MOVED;
    if (absent || fstat(logfile.fd, &opened) < 0) return logfile.place;
    bool same = named.st_ino == opened.st_ino && named.st_dev == opened.st_dev;
    return same ? IN_PLACE : TAKEN;
}

/* Writes it there, over what may be there already. False: errno says why, and a part of it may be
 * written. */
static bool write_at(int fd, struct str data, off_t at) {
    while (data.len > 0) {
        ssize_t n = pwrite(fd, data.bytes, data.len, at);
        if (n < 0 && errno != EINTR) return false;
        if (n < 0) continue;
        data = (struct str){data.bytes + n, data.len - (size_t)n};
        at += n;
    }
    return true;
}

/* The caller has reserved REQUEST_MAX: no line is longer than a request can be. */
static void log_line(struct buf *lines, const char *verb, struct str key, struct str value) {
    buf_append(lines, STR("KV/1.0 "));
    buf_append(lines, str_of(verb));
    buf_append(lines, STR(" "));
    buf_append(lines, key);
    if (value.len) buf_append(lines, STR(" "));
    buf_append(lines, value);
    buf_append(lines, STR("\n"));
}

/* Whether what is written now will be there at the next start. */
static bool log_is_well(void) {
    return !logfile.behind && !logfile.untrusted && logfile.place == IN_PLACE;
}

/* Changes are let in while the disk takes them, and there's memory for one more line. */
static void log_set_read_only(void) {
    bool room = buf_reserve(&logfile.lines, REQUEST_MAX) &&
                buf_reserve(&logfile.promises, sizeof(struct promise));
    server.read_only = !room || !log_is_well();
}

/* Changes have to wait until a compaction has made FILE shorter. When kvss stops, nothing waits. */
static bool log_is_full(void) {
    off_t next = logfile.size + (off_t)logfile.lines.len + REQUEST_MAX; /* with one line more */
    return logfile.limit && next > logfile.limit && !server.stopping;
}

/* Whether the request may change the shared store, and FILE is full. */
static bool log_holds(const struct request *r) {
    if (r->status != OK || !log_is_full()) return false;
    if (r->command->run == command_manage) return true;
    return r->command->logged_as && r->store == &store;
}

/* The request has been run. If it has changed the store, its line is to be written, and its reply,
 * which begins at reply_at in the client's out buffer, is a promise. */
static void log_append(const struct request *r, size_t reply_at) {
    if (!logfile.path || statuses[r->status].bytes[0] != '2') return;
    if (!r->command->logged_as || r->store != &store) return;
    struct promise promise = {r->client, reply_at};
    log_line(&logfile.lines, r->command->logged_as, r->key, r->value);
    buf_append(&logfile.promises, (struct str){(char *)&promise, sizeof promise});
    log_set_read_only();
}

/* A key of this store is about to be removed, since its deadline is past. Without a line that says
 * so, it would be there again if the clock is behind at the next start. A line for a change may
 * come as well in this turn, and keeps its room. Where there is no memory, FILE is written anew. */
static void log_expired(const struct store *st, struct str key) {
    if (!logfile.path || st != &store) return;
    if (buf_reserve(&logfile.lines, DEL_MAX + REQUEST_MAX))
        log_line(&logfile.lines, "DEL", key, STR(""));
    else
        logfile.outdated = true;
}

/* Each turn. FILE has deadlines as time of day, and memory as time of the monotonic clock. When
 * somebody sets the machine's clock, those in FILE are wrong by that much, until it's written anew.
 */
static void log_check_clock(void) {
    char text[128];
    int64_t offset = expiry_offset(), moved = offset - logfile.offset;
    if (moved > -CLOCK_SET_MS && moved < CLOCK_SET_MS) return;
    logfile.offset = offset;
    if (!store.deadlines_len) return;
    logfile.outdated = true;
    snprintf(text, sizeof text, "was set by %lld s; FILE gets its deadlines anew",
             (long long)moved / 1000);
    event("clock", "", str_of(text));
}

/* Makes a reply that's in the out buffer a 500. */
static void promise_break(struct promise promise) {
    struct buf *out = &promise.client->out;
    struct str failed = statuses[SERVER_ERROR];
    if (promise.at >= out->len) return; /* the client is gone */
    if (options[VERBOSE].value) event("revoke", promise.client->name, failed);
    if (!buf_reserve(out, REPLY_ROOM)) {
        client_cut(promise.client);
        return;
    }
    char *reply = out->bytes + promise.at, *end = out->bytes + out->len;
    char *lf = memchr(reply, '\n', (size_t)(end - reply));
    memmove(reply + failed.len, lf, (size_t)(end - lf));
    memcpy(reply, failed.bytes, failed.len);
    out->len = promise.at + failed.len + (size_t)(end - lf);
}

/* From the last to the first, so that the others stay where they are. */
static void promises_break(void) {
    struct buf *promises = &logfile.promises;
    struct promise last;
    while (promises->len) {
        promises->len -= sizeof last;
        memcpy(&last, promises->bytes + promises->len, sizeof last);
        promise_break(last);
    }
}

/* The operator is told of the first trouble, and when there is none any more. */
static void log_fail(bool *trouble, int error) {
    char text[128];
    snprintf(text, sizeof text, "%s; from now on changes get 500", strerror(error));
    if (log_is_well()) event("error", options[DATA].text, str_of(text));
    *trouble = server.read_only = true;
    logfile.retry_at = server.now + RETRY_MS;
    promises_break();
}

static void log_say_well(void) {
    if (log_is_well()) event("recover", options[DATA].text, STR("changes are made again"));
}

static void log_recover(bool *trouble) {
    if (!*trouble) return;
    *trouble = false;
    log_say_well();
}

/* A file's name is on the disk when its folder is. Some systems can't sync one, and say EINVAL. */
static bool folder_sync(void) { return fsync(logfile.folder) == 0 || errno == EINVAL; }

/* Opens the folder that FILE is in; again, if the old one was moved away with FILE in it. False:
 * errno says why. */
static bool folder_open(void) {
    int fd = open(logfile.folder_path, O_RDONLY);
    if (fd < 0) return false;
    if (logfile.folder >= 0) close(logfile.folder);
    logfile.folder = fd;
    return true;
}

/* Looks where FILE is, and says what is new. FILE is back only when its name is on the disk. */
static void log_look(void) {
    enum place place = file_place();
    const char *why = place == MOVED
                          ? "is gone; changes get 500 until it is back, or COMPACT writes it anew"
                          : "is another file now; changes get 500 until the right one is back";
    logfile.look_at = server.now + PLACE_MS;
    logfile.unseen = false;
    if (place == logfile.place) return;
    if (place == IN_PLACE && (!folder_open() || !folder_sync())) return;
    logfile.place = place;
    if (place == IN_PLACE) {
        log_say_well();
        return;
    }
    event("error", options[DATA].text, str_of(why));
    promises_break();
}

/* What is written halfway is cut off, so that it's not there if kvss ends before the next try. If
 * that fails too, it's a torn line, or some that nobody was promised. */
static void log_write(void) {
    bool always = fsync_is("always");
    if (!write_at(logfile.fd, buf_str(&logfile.lines), logfile.size)) {
        int error = errno, cut = ftruncate(logfile.fd, logfile.size);
        (void)cut;
        log_fail(&logfile.behind, error);
        return;
    }
    logfile.size += (off_t)logfile.lines.len;
    logfile.lines.len = 0;
    logfile.unseen = true;
    logfile.unsynced = !always;
    log_recover(&logfile.behind);
    if (always && fsync(logfile.fd) < 0) log_fail(&logfile.untrusted, errno);
    logfile.promises.len = 0;
    if (logfile.lines.size <= LINES_KEPT) return;
    free(logfile.lines.bytes);
    logfile.lines = (struct buf){NULL, 0, 0, NULL};
}

/* Once a turn, before any reply is sent. Lines are written even when FILE has lost its name: a FILE
 * that is moved back is complete. */
static void log_commit(void) {
    if (!logfile.path) return;
    if (server.now >= logfile.look_at) log_look();
    bool paused = logfile.behind && server.now < logfile.retry_at;
    if (logfile.lines.len && !paused) log_write();
    log_set_read_only();
}

/* Starts to sync a file beside the loop, in a thread that libc has for it. With --fsync always, or
 * if there can be no thread, it's done right here. */
static void sync_begin(int fd) {
    logfile.sync = (struct aiocb){.aio_fildes = fd};
    logfile.sync.aio_sigevent.sigev_notify = SIGEV_NONE;
    logfile.syncing = !fsync_is("always") && aio_fsync(O_SYNC, &logfile.sync) == 0;
    logfile.sync_error = !logfile.syncing && fsync(fd) < 0 ? errno : 0;
}

static void sync_poll(void) {
    int error = logfile.syncing ? aio_error(&logfile.sync) : EINPROGRESS;
    if (error == EINPROGRESS) return;
    logfile.syncing = false;
    logfile.sync_error = aio_return(&logfile.sync) < 0 ? error : 0;
}

static void sync_wait(void) {
    const struct aiocb *list[] = {&logfile.sync};
    if (logfile.syncing) (void)aio_suspend(list, 1, NULL);
    sync_poll();
}

/* How the last sync of FILE went. */
static void log_check_sync(void) {
    if (logfile.sync_error) log_fail(&logfile.untrusted, logfile.sync_error);
    logfile.sync_error = 0;
}

/* The next one, with --fsync everysec. */
static void log_sync(void) {
    if (!logfile.unsynced || !fsync_is("everysec") || server.now < logfile.sync_at) return;
    logfile.unsynced = false;
    logfile.sync_at = server.now + SYNC_MS;
    sync_begin(logfile.fd);
}

/* When the loop has to look after the log, or NEVER. */
static uint64_t log_next(void) {
    if (logfile.syncing) return server.now + POLL_MS;
    uint64_t until = NEVER;
    if (logfile.unsynced && fsync_is("everysec")) until = logfile.sync_at;
    if (logfile.behind && logfile.retry_at < until) until = logfile.retry_at;
    bool looks = logfile.unseen || logfile.place != IN_PLACE;
    if (looks && logfile.look_at < until) until = logfile.look_at;
    return until;
}

/* At the end of kvss. False: it's not known whether the disk has all that was promised, or the next
 * start would not find it. */
static bool log_close(void) {
    if (!logfile.path) return true;
    logfile.retry_at = logfile.look_at = 0;
    log_commit();
    sync_wait();
    int error = logfile.sync_error;
    bool last = logfile.unsynced && !logfile.untrusted && !fsync_is("no");
    if (last && fsync(logfile.fd) < 0) error = errno;
    if (error) event("error", options[DATA].text, str_of(strerror(error)));
    close(logfile.fd);
    return !error && !logfile.untrusted && logfile.place == IN_PLACE;
}

/* == 13. Compaction ===============================================================================
 *
 * Beyond the lab. The log grows with each change, the store does not. When FILE is more than twice
 * what the store needs, a child of kvss, made by fork(), writes the store to FILE.kvss-new, while
 * kvss goes on: the child has the memory as it was when it was made, whatever kvss changes in its
 * own.
 *
 * When the child is done, what FILE has got since then is appended to FILE.kvss-new, that is
 * synced, and rename() puts it in the place of FILE. Whenever the end comes, FILE is the old one or
 * the new one, and whole. As little of this as can be holds up the loop, which has to write to FILE
 * all the time. So kvss does not touch FILE.kvss-new while it's being synced, when a write would
 * have to wait; and FILE is closed by the child after kvss has closed it: the last one to do so
 * waits until its blocks are freed, 20 ms for 60 MB. */

enum {
    COMPACT_MIN = 1 << 20,   /* bytes of a file that is not worth the trouble */
    COMPACT_REST_MS = 1000,  /* from one to the next, at least, and ... */
    COMPACT_REST = 10,       /* times what it took: where much changes, it would never rest */
    COMPACT_NICE = 10,       /* of the child: beside a busy kvss, it gets a tenth of a processor */
    COMPACT_LEAST = 1 << 24, /* bytes: a store that needs less counts as one that needs this */
    COMPACT_HASTE = 4,       /* times what the store needs: FILE is longer, so no rest */
    COMPACT_FULL = 8,        /* times what the store needs: changes wait */
    COPY_STEP = 1 << 20,     /* bytes appended to FILE.kvss-new in a turn */
};

static struct {
    enum { RESTING, WRITING, COPYING, SYNCING } phase;
    bool asked;     /* by COMPACT, until the next one has ended */
    bool failed;    /* the last one has */
    bool heals;     /* FILE was untrusted when it began ... */
    bool updates;   /* ... or outdated */
    uint64_t began; /* the last one */
    uint64_t from;  /* the next: no earlier */
    int child;      /* a socket to it; or -1 */
    char *path;     /* FILE.kvss-new */
    int fd;         /* the same, locked; or -1 */
    off_t size;     /* of FILE.kvss-new */
    off_t made_up;  /* bytes of FILE that FILE.kvss-new makes up for */
    off_t last_end; /* of FILE, a turn ago */
} compaction = {.child = -1, .fd = -1};

/* Whether a file beside FILE may be opened: it is not there, or it is a regular file. Another name
 * of FILE may not: to close it would end the lock on FILE. */
static bool file_is_apart(const char *path) {
    struct stat about;
    if (lstat(path, &about) < 0) return true;
    return S_ISREG(about.st_mode) && !file_is_at(path, logfile.fd);
}

/* Whether this is what a compaction left that did not end: nobody has locked it, and it begins as
 * a data file does, as far as it goes. It may be empty: kvss was killed before it wrote. */
static bool copy_is_left(int fd) {
    char begin[128]; /* log_header is shorter */
    ssize_t n = file_lock(fd) ? pread(fd, begin, log_header.len, 0) : -1;
    return n >= 0 && memcmp(begin, log_header.bytes, (size_t)n) == 0;
}

/* Removes what a compaction left. False: errno says why; EEXIST: the file is not kvss's own, and
 * stays. */
static bool copy_clear(void) {
    bool apart = file_is_apart(compaction.path);
    int fd = apart ? open(compaction.path, O_RDWR | O_NOFOLLOW | O_NONBLOCK) : -1;
    if (apart && fd < 0) return errno == ENOENT;
    bool left = apart && copy_is_left(fd);
    if (fd >= 0) close(fd);
    if (left) return unlink(compaction.path) == 0;
    errno = EEXIST;
    return false;
}

/* Says why a file could not get its name. Good until the next call. */
static const char *name_trouble(const char *path, int error) {
    static char text[EVENT_MAX];
    const char *why = error == EEXIST ? "this file is in the way; move it" : strerror(error);
    snprintf(text, sizeof text, "%.*s: %s", WHOM_MAX, path, why);
    return text;
}

/* Makes FILE.kvss-new, and locks it before it gets the name of FILE; and the owner and rights of
 * FILE, if we can give it these. */
static bool copy_open(void) {
    struct stat about;
    if (!copy_clear() || fstat(logfile.fd, &about) < 0) return false;
    compaction.fd = open(compaction.path, O_RDWR | O_CREAT | O_EXCL, S_IRUSR | S_IWUSR);
    compaction.size = 0;
    if (compaction.fd < 0 || !file_lock(compaction.fd)) return false;
    int owned = fchown(compaction.fd, about.st_uid, about.st_gid);
    (void)owned; /* FILE need not be ours */
    return fchmod(compaction.fd, about.st_mode & (S_IRWXU | S_IRWXG | S_IRWXO)) == 0;
}

static void copy_drop(void) {
    if (compaction.fd < 0) return;
    close(compaction.fd);
    (void)unlink(compaction.path);
    compaction.fd = -1;
}

/* FILE.kvss-new, which is on the disk, becomes FILE. The folder has to be synced then. If somebody
 * has put another file in the place of FILE, that stays. If FILE has been moved away, it has its
 * name again. */
static bool copy_take(void) {
    log_look();
    if (logfile.place == TAKEN) {
        errno = EEXIST;
        return false;
    }
    if (rename(compaction.path, logfile.path) < 0) return false;
    close(logfile.fd);
    logfile.fd = compaction.fd;
    logfile.size = compaction.size;
    compaction.fd = -1;
    log_look();
    return true;
}

/* Bytes of the shared store as lines: a PUT for each key, an EXPIREAT for each deadline. */
static off_t compact_size(void) {
    uint64_t keys = store.keys, deadlines = store.deadlines_len;
    uint64_t entries = keys * offsetof(struct entry, bytes) + deadlines * sizeof(uint32_t);
    uint64_t size = log_header.len + store.bytes - entries + keys * strlen("KV/1.0 PUT  \n");
    size += store.deadline_keys + deadlines * (strlen("KV/1.0 EXPIREAT  \n") + UNIXTIME);
    return (off_t)size;
}

/* From here to compact_child(), all is the child's. It says how it went, an errno or 0, and waits
 * for the end of the stream, which comes when kvss has closed FILE; so the child is the last to
 * close that. */
static void compact_report(int kvss, int error) {
    if (write(kvss, &error, sizeof error) == sizeof error)
        while (read(kvss, &error, sizeof error) > 0) continue;
    _exit(0);
}

/* If kvss has ended, nobody waits for this. */
static void compact_flush(int kvss, pid_t parent, struct buf *lines) {
    if (getppid() != parent) _exit(0);
    if (!write_at(compaction.fd, buf_str(lines), compaction.size)) compact_report(kvss, errno);
    compaction.size += (off_t)lines->len;
    lines->len = 0;
}

/* The child has descriptors of all connections. They would stay open when kvss closes its own. */
static void compact_close_sockets(void) {
    for (int wire = 0; wire < WIRES; wire++) close(server.listeners[wire]);
    for (int fd = 0; fd <= server.top; fd++)
        if (clients[fd].phase != CLOSED) close(fd);
}

/* No malloc() here: at the time of the fork(), the thread of aio_fsync() may have been in it. */
static void compact_child(int kvss, pid_t parent) {
    static char room[2 * REQUEST_MAX];
    struct buf lines = {room, 0, sizeof room, room};
    int niceness = nice(COMPACT_NICE);
    (void)niceness; /* it does its work, however nice it is */
    compact_close_sockets();
    buf_append(&lines, log_header);
    for (int i = 0; i < TABLES; i++) {
        const struct table *t = &store.tables[i];
        for (uint32_t slot = 0; slot < t->size; slot++) {
            struct entry *e = t->slots[slot].entry;
            if (!e) continue;
            struct str key = {e->bytes, e->key_len}, value = {e->bytes + key.len, e->value_len};
            log_line(&lines, "PUT", key, value);
            if (e->expires)
                log_line(&lines, "EXPIREAT", key, expiry_text(store.deadlines[expiry_place(e)].at));
            if (lines.len > REQUEST_MAX / 2) compact_flush(kvss, parent, &lines);
        }
    }
    compact_flush(kvss, parent, &lines);
    compact_report(kvss, fsync(compaction.fd) < 0 ? errno : 0);
}

/* The compaction is over. Whatever asks for the next one, it comes after the rest. */
static void compact_rest(bool failed) {
    uint64_t rest = (server.now - compaction.began) * COMPACT_REST;
    if (compaction.child >= 0) close(compaction.child);
    if (failed && compaction.updates) logfile.outdated = true;
    compaction.updates = false;
    compaction.child = -1;
    compaction.phase = RESTING;
    compaction.asked = false;
    compaction.failed = failed;
    compaction.from = server.now + (rest > COMPACT_REST_MS ? rest : COMPACT_REST_MS);
}

/* FILE.kvss-new is given up. It will be tried again and again. The operator is told of the first
 * failure, and when somebody has asked; of FILE that is untrusted, the operator knows already. */
static void compact_fail(const char *why) {
    bool tell = compaction.asked || !compaction.failed;
    if (tell && !logfile.untrusted) event("error", "compaction", str_of(why));
    copy_drop();
    compact_rest(true);
}

static void compact_begin(void) {
    int ends[2];
    pid_t parent = getpid();
    compaction.heals = logfile.untrusted;
    compaction.updates = logfile.outdated;
    logfile.outdated = false; /* if the clock is set from now on, this one may have missed it */
    compaction.began = server.now;
    compaction.made_up = compaction.last_end = logfile.size;
    log_look();
    if (logfile.place == TAKEN) {
        compact_fail(name_trouble(logfile.path, EEXIST));
        return;
    }
    if (!copy_open()) {
        compact_fail(name_trouble(compaction.path, errno));
        return;
    }
    bool paired = socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0;
    if (paired) compaction.child = ends[0];
    pid_t child = paired ? fork() : -1;
    if (child == 0) {
        close(ends[0]);
        compact_child(ends[1], parent);
    }
    int error = errno;
    if (paired) close(ends[1]);
    if (child < 0 || fcntl(compaction.child, F_SETFL, O_NONBLOCK) < 0)
        compact_fail(strerror(error));
    else
        compaction.phase = WRITING;
}

/* Waits for the child, but not here. */
static void compact_wait(void) {
    int error;
    ssize_t n = read(compaction.child, &error, sizeof error);
    if (n < 0 && would_block()) return;
    if (n != sizeof error) {
        compact_fail("the child has died");
    } else if (error) {
        compact_fail(strerror(error));
    } else {
        compaction.phase = COPYING;
        compaction.last_end = logfile.size; /* what came until now is copied step by step */
        compaction.size = lseek(compaction.fd, 0, SEEK_END);
    }
}

/* Appends to FILE.kvss-new so much of what FILE has more. False: errno says why. */
static bool compact_copy(off_t most) {
    static char bytes[65536];
    off_t left = logfile.size - compaction.made_up;
    for (left = left < most ? left : most; left > 0;) {
        size_t step = left < (off_t)sizeof bytes ? (size_t)left : sizeof bytes;
        ssize_t n = pread(logfile.fd, bytes, step, compaction.made_up);
        if (n == 0) errno = EIO;
        if (n <= 0 || !write_at(compaction.fd, (struct str){bytes, (size_t)n}, compaction.size))
            return false;
        left -= n;
        compaction.made_up += n;
        compaction.size += n;
    }
    return true;
}

/* A step, and as much as was added since the last: so it catches up. Then FILE.kvss-new is synced.
 */
static void compact_catch_up(void) {
    off_t added = logfile.size - compaction.last_end;
    compaction.last_end = logfile.size;
    if (!compact_copy(COPY_STEP + added)) {
        compact_fail(strerror(errno));
    } else if (compaction.made_up == logfile.size) {
        compaction.phase = SYNCING;
        sync_begin(compaction.fd);
    }
}

/* FILE.kvss-new has been synced. What has come meanwhile is appended; it's not synced in FILE
 * either, since one sync goes on at a time, and with --fsync always nothing has come. */
static void compact_end(void) {
    char text[64];
    long long before = logfile.size;
    int error = logfile.sync_error;
    logfile.sync_error = 0;
    if (!error && logfile.size - compaction.made_up > COPY_STEP) {
        compaction.phase = COPYING; /* a slow disk, and a lot has come: once more */
        return;
    }
    if (!error && (!compact_copy(logfile.size) || !copy_take())) error = errno;
    if (error) {
        compact_fail(strerror(error));
        return;
    }
    compact_rest(false);
    logfile.unsynced = !fsync_is("always");
    snprintf(text, sizeof text, "%lld bytes, now %lld", before, (long long)logfile.size);
    event("compact", options[DATA].text, str_of(text));
    if (folder_sync())
        log_recover(&logfile.untrusted);
    else
        log_fail(&logfile.untrusted, errno);
}

/* What FILE has to hold, for the bounds on its length. */
static off_t compact_need(void) {
    off_t size = compact_size();
    return size > COMPACT_LEAST ? size : COMPACT_LEAST;
}

/* Once a turn. Without a limit, a client that changes one key again and again would fill the disk
 * faster than compaction can free it. After a compaction has failed there is none: the disk still
 * takes changes, and so nobody waits for what may fail again. */
static void compact_set_limit(void) {
    bool bounded = logfile.path && !compaction.failed && !server.read_only;
    logfile.limit = bounded ? COMPACT_FULL * compact_need() : 0;
}

/* When the next one may begin. */
static uint64_t compact_from(void) {
    bool haste = !compaction.failed && logfile.size > COMPACT_HASTE * compact_need();
    return haste ? 0 : compaction.from;
}

/* While FILE is not in its place, that is for the operator to decide. */
static bool compact_is_wanted(void) {
    bool grown = logfile.size > COMPACT_MIN && logfile.size / 2 > compact_size();
    bool needed = logfile.untrusted || logfile.outdated || grown;
    return compaction.asked || (needed && logfile.place == IN_PLACE);
}

/* When the loop has to look after it, or NEVER. */
static uint64_t compact_next(void) {
    if (compaction.phase == COPYING && !logfile.syncing) return server.now;
    if (compaction.phase != RESTING || logfile.syncing) return server.now + POLL_MS;
    if (!logfile.path) return NEVER;
    uint64_t look = store.deadlines_len ? server.now + CLOCK_LOOK_MS : NEVER; /* at the clock */
    return compact_is_wanted() && compact_from() < look ? compact_from() : look;
}

/* Once a turn. One sync goes on at a time: FILE's, once a second, or that of FILE.kvss-new. A
 * compaction that began before FILE was untrusted has copied what can't be trusted, and does not
 * heal it. */
static void compact_step(void) {
    sync_poll();
    if (!logfile.path) return;
    log_check_clock();
    if (logfile.syncing) return;
    if (compaction.phase != SYNCING) log_check_sync();
    uint64_t soon = server.now + RETRY_MS; /* until FILE is written anew, changes get 500 */
    if (logfile.untrusted && compaction.from > soon) compaction.from = soon;
    bool in_vain = logfile.untrusted && !compaction.heals && compaction.phase != RESTING;
    if (in_vain) compact_fail("");
    if (compaction.phase == RESTING || compaction.phase == WRITING) log_sync();
    if (compaction.phase == WRITING) compact_wait();
    if (compaction.phase == COPYING && !logfile.syncing && !logfile.sync_error) compact_catch_up();
    if (compaction.phase == SYNCING && !logfile.syncing) compact_end();
    bool rested = server.now >= compact_from();
    if (compaction.phase == RESTING && rested && compact_is_wanted()) compact_begin();
}

/* At the end of kvss: what is not done by then is not needed. A child that still writes will see
 * that kvss is gone. */
static void compact_stop(void) {
    if (compaction.phase == SYNCING) {
        sync_wait();
        logfile.sync_error = 0;
    }
    copy_drop();
}

/* It joins the compaction that goes on, or asks for the next one. */
static enum status command_compact(struct request *r) {
    (void)r;
    if (!logfile.path) return NOT_FOUND;
    compaction.asked = true;
    return ACCEPTED;
}

/* == 14. Replay ===================================================================================
 *
 * Beyond the lab: at the start FILE is run again, line by line, as if a client had sent it. Its
 * last line may be torn, where the end came while it was written. It is cut off: with --fsync always
 * it was acknowledged to nobody, else it is among the last second or two that a power cut may take.
 * Any other bad line means that something else has gone wrong: kvss does not start; or, with
 * --repair, it moves such lines, and a torn one, to FILE.bad.
 *
 * Meanwhile server.now is 0, so that no deadline is past: another line may put off what is past by
 * now, and was not then.
 *
 * Two servers on one file would ruin it. So FILE is locked; and nothing else here may open FILE and
 * close it again, since the lock would end with that. */

enum {
    REPLAY_STEP = 1 << 20,  /* bytes read at a time */
    PROGRESS_MIN = 8 << 20, /* bytes that take so long that a terminal shows how far it is */
};

static struct {
    off_t read;                 /* bytes of FILE, so far */
    unsigned long long number;  /* of the line; the header is the first */
    unsigned long long run;     /* lines, so far */
    unsigned long long bad;     /* the others, and the torn one */
    struct buf kept, put_aside; /* with --repair: what goes to FILE.kvss-new, and to FILE.bad */
} replay;

static void loop_look_for_signals(void); /* see Loop */

/* An error of the system. FILE stays as it is, and nothing else is left. */
static void replay_die(const char *path) {
    int error = errno;
    copy_drop();
    DIE(EXIT_FAILURE, "%s", name_trouble(path, error));
}

/* A path that begins and ends so. */
static char *path_join(const char *begin, const char *end) {
    char *path = malloc(strlen(begin) + strlen(end) + 1);
    if (!path) replay_die(begin);
    return strcat(strcpy(path, begin), end);
}

/* Opens and locks FILE. Names are kept from the root on: FILE may be a symbolic link. Its size
 * counts only when nobody else can change it any more. */
static void replay_open(const char *path) {
    struct stat about;
    int flags = O_RDWR | O_CREAT | O_NONBLOCK | O_NOCTTY; /* what is no file is not waited for */
    logfile.fd = open(path, flags, S_IRUSR | S_IWUSR);
    if (logfile.fd < 0 || fstat(logfile.fd, &about) < 0) replay_die(path);
    if (!S_ISREG(about.st_mode)) DIE(EXIT_FAILURE, "%s is not a regular file", path);
    bool locked = file_lock(logfile.fd);
    if (!locked && errno != EACCES && errno != EAGAIN) replay_die(path);
    /* If FILE is another one now, another kvss has just put it there. */
    if (!locked || !file_is_at(path, logfile.fd))
        DIE(EXIT_FAILURE, "%s is in use by another kvss", path);
    logfile.path = realpath(path, NULL);
    if (!logfile.path || fstat(logfile.fd, &about) < 0) replay_die(path);
    logfile.size = about.st_size;
    compaction.path = path_join(logfile.path, ".kvss-new");
    logfile.folder_path = path_join(logfile.path, "");
    strrchr(logfile.folder_path, '/')[1] = '\0';
    if (!folder_open()) replay_die(logfile.folder_path);
}

/* Runs a line. NULL, or what is wrong with it. That a key is not there is no reason to stop: its
 * deadline may be past by now. */
static const char *replay_run(struct str line) {
    static struct client nobody = {.store = &store};
    struct request r;
    if (line.len >= REQUEST_MAX) return "the line is longer than 65536 bytes";
    request_begin(&r, &nobody, line);
    (void)request_parse(&r);
    if (r.reason.len) return r.reason.bytes;
    const char *verb = r.command->verb, *logged_as = r.command->logged_as;
    if (!logged_as || strcmp(logged_as, verb) != 0) return "it's no PUT, DEL or EXPIREAT";
    enum status status = r.command->run(&r);
    if (status == SERVER_ERROR) DIE(EXIT_FAILURE, "%s: out of memory", options[DATA].text);
    return status == BAD_REQUEST ? r.command->reason : NULL;
}

static void replay_keep(struct buf *lines, struct str line) {
    if (!buf_reserve(lines, line.len + 1)) replay_die(options[DATA].text);
    buf_append(lines, line);
    buf_append(lines, STR("\n"));
}

/* The next line, without its LF. */
static void replay_line(struct str line) {
    struct str header = {log_header.bytes, log_header.len - 1};
    bool is_header = ++replay.number == 1;
    if (is_header && !str_equal(line, header))
        DIE(EXIT_FAILURE, "%s, line 1: a data file of kvss begins with '%.*s'", options[DATA].text,
            (int)header.len, header.bytes);
    if (is_header && options[REPAIR].value && !copy_open()) replay_die(compaction.path);
    const char *wrong = is_header ? NULL : replay_run(line);
    if (wrong && !options[REPAIR].value)
        DIE(EXIT_FAILURE, "%s, line %llu: %s; --repair moves such lines to %s.bad",
            options[DATA].text, replay.number, wrong, logfile.path);
    if (options[REPAIR].value) replay_keep(wrong ? &replay.put_aside : &replay.kept, line);
    replay.run += !is_header && !wrong;
    replay.bad += wrong != NULL;
}

/* A file that was not there, or whose header was not finished. */
static void replay_new_file(struct str begun) {
    if (begun.len >= log_header.len || memcmp(begun.bytes, log_header.bytes, begun.len) != 0)
        DIE(EXIT_FAILURE, "%s is not a data file of kvss", options[DATA].text);
    logfile.size = (off_t)log_header.len;
    if (!write_at(logfile.fd, log_header, 0) || fsync(logfile.fd) < 0 || !folder_sync())
        replay_die(options[DATA].text);
}

/* Runs the lines that are whole, and takes them out. */
static void replay_lines(struct buf *in) {
    size_t at = 0;
    for (char *lf; (lf = memchr(in->bytes + at, '\n', in->len - at));) {
        size_t len = (size_t)(lf - in->bytes) - at;
        replay_line((struct str){in->bytes + at, len});
        at += len + 1;
    }
    buf_consume(in, at);
    if (!replay.kept.len) return;
    if (!write_at(compaction.fd, buf_str(&replay.kept), compaction.size))
        replay_die(compaction.path);
    compaction.size += (off_t)replay.kept.len;
    replay.kept.len = 0;
}

/* What is left has no LF. */
static void replay_rest(struct str torn) {
    if (replay.number == 0) {
        replay_new_file(torn);
        return;
    }
    if (torn.len == 0) return;
    replay.bad++;
    if (options[REPAIR].value) {
        replay_keep(&replay.put_aside, torn);
        return;
    }
    logfile.size -= (off_t)torn.len;
    if (ftruncate(logfile.fd, logfile.size) < 0) replay_die(options[DATA].text);
}

/* FILE.bad gets the bad lines, after those that it may have, and FILE.kvss-new, with the others,
 * becomes FILE. In this order: no line is ever in neither. FILE.bad may be there already, as a link
 * to somebody else's file, or as a FIFO, where open() would wait. */
static void replay_repair(void) {
    char *path = path_join(logfile.path, ".bad");
    int flags = O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK;
    if (!file_is_apart(path)) {
        errno = EEXIST;
        replay_die(path);
    }
    int fd = open(path, flags, S_IRUSR | S_IWUSR);
    off_t end = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    if (end < 0 || !write_at(fd, buf_str(&replay.put_aside), end) || fsync(fd) < 0 ||
        !folder_sync())
        replay_die(path);
    close(fd);
    free(path);
    if (fsync(compaction.fd) < 0 || !copy_take() || !folder_sync()) replay_die(options[DATA].text);
}

static bool replay_is_shown(void) { return logfile.size > PROGRESS_MIN && isatty(STDERR_FILENO); }

/* SIGINT and SIGTERM are blocked while FILE is replayed, which may take seconds. So replay asks for
 * them after each step. Nothing has been written to FILE by then. */
static void replay_look_for_signals(void) {
    loop_look_for_signals();
    if (!server.stopping) return;
    copy_drop();
    if (replay_is_shown()) fprintf(stderr, "\n");
    DIE(EXIT_SUCCESS, "%s ends the replay; %s is as it was", server.stopping, options[DATA].text);
}

/* For people: 1,000,000 lines. */
static void print_lines(unsigned long long lines, const char *kind) {
    char digits[24];
    int len = snprintf(digits, sizeof digits, "%llu", lines);
    for (int i = 0; i < len; i++)
        fprintf(stderr, i > 0 && (len - i) % 3 == 0 ? ",%c" : "%c", digits[i]);
    fprintf(stderr, " %sline%s", kind, lines == 1 ? "" : "s");
}

static void replay_report(double seconds) {
    bool repaired = options[REPAIR].value;
    if (replay_is_shown()) fprintf(stderr, "\r");
    fprintf(stderr, "kvss: replayed ");
    print_lines(replay.run, "");
    if (replay.bad) {
        fprintf(stderr, ", ");
        print_lines(replay.bad, repaired ? "bad " : "torn ");
        fprintf(stderr, repaired ? " moved to %s.bad," : " dropped,", logfile.path);
    }
    fprintf(stderr, " in %.1f s\n", seconds);
}

/* When it returns, there is a log. */
static void replay_file(const char *path) {
    uint64_t started = clock_ms();
    static char room[REPLAY_STEP + REQUEST_MAX];
    struct buf in = {room, 0, sizeof room, room};
    ssize_t n;
    replay_open(path);
    logfile.offset = expiry_offset();
    do {
        if (!buf_reserve(&in, 1))
            replay_die(path); /* it is full: a line is longer than all of it */
        n = read(logfile.fd, in.bytes + in.len, in.size - in.len);
        if (n < 0) replay_die(path);
        in.len += (size_t)n;
        replay.read += n;
        replay_lines(&in);
        if (replay.number == 0 && in.len >= log_header.len) break;
        if (replay_is_shown())
            fprintf(stderr, "\rkvss: replaying, %d %%", (int)(replay.read * 100 / logfile.size));
        replay_look_for_signals();
    } while (n > 0);
    replay_rest(buf_str(&in));
    if (replay.bad && options[REPAIR].value) replay_repair();
    copy_drop();
    if (!copy_clear()) replay_die(compaction.path);
    if (!fsync_is("no") && fsync(logfile.fd) < 0) replay_die(path); /* what kill -9 left unsynced */
    reserve_wanted = RESERVE_PIECES;
    replay_report((double)(clock_ms() - started) / 1000);
    buf_free(&in);
    free(replay.kept.bytes);
    free(replay.put_aside.bytes);
    log_set_read_only();
}

/* == 15. Frames ===================================================================================
 *
 * Beyond the lab: the mailboxes on the wire of the assignment that they come from. A frame is a
 * verb in 15 bytes, padded with NULs, then the arguments, with commas between them; at most 1,024
 * bytes.
 *
 *     "create" 9 NULs "bob"     "send" 11 NULs "bob,hello, you"     "ok" 13 NULs, and 1,009 more
 *
 * Nothing says where a frame ends. The assignment takes what one recv() brings for one message, and
 * TCP makes no such promise. So the frames that leave here are padded to 1,024 bytes, the number
 * that its client asks recv() for. Of those that come here, one shorter than that has to come
 * alone; two sent at once may arrive as one, with NULs among its arguments, and that is refused. */

enum { FRAME_VERB = 15, FRAME_SIZE = 1024, FRAME_ROOM = FRAME_SIZE - FRAME_VERB };

/* Where to end a frame, if the text is longer: between two characters or, for a list, two names. */
static size_t frame_fill(struct str text, bool is_list) {
    size_t n = FRAME_ROOM;
    if (text.len <= n) return text.len;
    while (is_list ? text.bytes[n] != ',' : ((unsigned char)text.bytes[n] & 0xC0) == 0x80) n--;
    return n;
}

/* Appends the text in as many frames as it needs, and one if it's empty. False: out of memory, and
 * nothing was appended. */
static bool frame_append(struct buf *out, const char *verb, struct str text) {
    bool is_list = strcmp(verb, "list") == 0;
    if (!buf_reserve(out, (text.len / (FRAME_ROOM - KEY_MAX) + 1) * FRAME_SIZE)) return false;
    do {
        char *frame = out->bytes + out->len;
        size_t n = frame_fill(text, is_list), skip = is_list && n < text.len; /* the comma */
        memset(frame, 0, FRAME_SIZE);
        memcpy(frame, verb, strlen(verb));
        memcpy(frame + FRAME_VERB, text.bytes, n);
        text = (struct str){text.bytes + n + skip, text.len - n - skip};
        out->len += FRAME_SIZE;
    } while (text.len > 0);
    return true;
}

/* The caller has reserved FRAME_SIZE. */
static void frame_reply(struct buf *out, const struct request *r) {
    bool done = statuses[r->status].bytes[0] == '2';
    bool is_list = done && r->command->run == command_list;
    bool wrong = r->status == BAD_REQUEST || r->status == SERVER_ERROR;
    const char *verb = is_list ? "list" : done ? "ok" : wrong ? "error" : "notok";
    bool has_text = is_list || wrong;
    if (!frame_append(out, verb, has_text ? r->data : STR(""))) frame_append(out, "error", STR(""));
}

/* The request of KV/1.0 that asks for the same; the line is good until the next call. NULL, or what
 * is wrong with the frame. A space in a name would make two fields of it, and an LF two lines. */
static const char *frame_to_line(struct str frame, struct str *line) {
    static char text[sizeof "KV/1.0 " + FRAME_SIZE];
    size_t len = strlen(strcpy(text, "KV/1.0 ")), i = 0;
    while (frame.len > FRAME_VERB && frame.bytes[frame.len - 1] == '\0') frame.len--;
    *line = frame;
    if (frame.len < FRAME_VERB) return "a frame begins with a verb in 15 bytes";
    for (; i < FRAME_VERB && frame.bytes[i] >= 'a' && frame.bytes[i] <= 'z'; i++)
        text[len++] = (char)(frame.bytes[i] - 'a' + 'A');
    struct command *command = request_command((struct str){text + len - i, i});
    while (i < FRAME_VERB && frame.bytes[i] == '\0') i++;
    if (i < FRAME_VERB) return "a verb is lower case and padded with NULs";
    if (!command || command->kind != ON_MAILBOX) return "there is no such verb";
    struct str key = {frame.bytes + FRAME_VERB, frame.len - FRAME_VERB};
    const char *comma = command->most == 2 ? memchr(key.bytes, ',', key.len) : NULL;
    if (memchr(key.bytes, '\n', key.len)) return "there is a line feed in the arguments";
    if (key.len) text[len++] = ' ';
    memcpy(text + len, key.bytes, key.len);
    *line = (struct str){text, len + key.len};
    if (comma) {
        key.len = (size_t)(comma - key.bytes);
        text[len + key.len] = ' ';
    }
    return memchr(key.bytes, ' ', key.len) ? "there is a space in a name" : NULL;
}

/* == 16. Clients ==================================================================================
 *
 * A client is a small state machine. While it's OPEN, what it sends is read into its in buffer and
 * every whole line there is run; the replies gather in out and leave together. TCP carries a stream
 * of bytes and knows no lines: one recv() may bring half a line or two hundred.
 *
 * While replies wait to be sent, nothing more is read. So a client that sends and never reads fills
 * its socket and not the server's memory: that's back-pressure. And a turn reads no more than
 * READ_MAX of a client, however much it sends: the others wait for that, not for all of it.
 *
 * OPEN -> ENDING: nothing more will come. Run what has come, send the replies, close.
 * OPEN -> QUITTING -> LINGERING: it said QUIT. Send the replies and end the stream by shutdown();
 * then read and drop what comes until the client closes. After a close() with something unread, TCP
 * sends a reset, which can overtake "200 OK bye" and destroy it (RFC 1122, section 4.2.2.13). */

enum {
    READ_MAX = 16384, /* bytes: some 250 small requests */
    BUSY_MS = 2,      /* after an answer */
    LINGER_MS = 1000, /* to close after QUIT, and for all clients when kvss stops */
};

/* Every in, and the first bytes of every out. They are static, so that a client can come and delete
 * something when the memory is full. Pages never used cost no memory. */
static char inputs[FD_SETSIZE][REQUEST_MAX];
static char outputs[FD_SETSIZE][BUF_SIZE];

/* An empty buffer for the replies to the client of that descriptor. */
static struct buf client_output(int fd) {
    return (struct buf){outputs[fd], 0, BUF_SIZE, outputs[fd]};
}

static void client_close(struct client *c, const char *why) {
    mailbox_leave(c);
    auth_leave(c);
    event("disconnect", c->name, str_of(why));
    close(client_fd(c));
    store_close(c->store);
    buf_free(&c->out);
    *c = (struct client){.phase = CLOSED};
    server.clients--;
}

/* Nothing more is run, and nothing sent that it did not ask for. */
static void client_quit(struct client *c) {
    mailbox_leave(c);
    c->phase = QUITTING;
}

static void client_count(struct client *c, const struct request *r) {
    server.served++;
    c->active = server.now;
    if (options[VERBOSE].value) event("request", c->name, request_shown(r));
}

/* Appends the reply to a request that has been run, or refused. */
static void client_reply(struct client *c, struct request *r) {
    if (r->reason.len) client_event(c, "bad", r->reason);
    if (r->reason.len && options[EXPLAIN].value) r->data = r->reason;
    size_t before = c->out.len;
    if (c->wire == FRAMES)
        frame_reply(&c->out, r);
    else
        reply(&c->out, r->status, r->data);
    log_append(r, before);
    struct str sent = {c->out.bytes + before, c->out.len - before - 1};
    if (c->wire == FRAMES || managers) sent = statuses[r->status]; /* data may be a password, too */
    if (options[VERBOSE].value) event("reply", c->name, sent);
    if (r->close) client_quit(c);
}

static void client_answer(struct client *c, struct request *r) {
    client_count(c, r);
    r->status = request_run(r);
    client_reply(c, r);
}

/* Whatever the line says, it's not run: 400. */
static void client_refuse(struct client *c, struct str line, const char *reason) {
    struct request r;
    request_begin(&r, c, line);
    (void)request_parse(&r);
    client_count(c, &r);
    r.status = BAD_REQUEST;
    if (!r.close) r.reason = str_of(reason);
    client_reply(c, &r);
}

/* What is left in the buffer has no LF. Full, it's too long a line; at the end of the stream, a
 * line cut short. Either is answered now and skipped, with what may still come of it. */
static void client_run_partial(struct client *c) {
    bool too_long = c->in_len == REQUEST_MAX, cut_short = c->in_len && c->phase == ENDING;
    c->scanned = c->in_len;
    if (!too_long && !cut_short && !c->skipping) return;
    struct str line = {c->in, c->in_len};
    const char *reason = too_long ? "the line is longer than 65536 bytes" : "the line has no LF";
    if (!c->skipping) client_refuse(c, line, reason);
    c->skipping = true;
    c->in_len = c->scanned = 0;
}

/* Takes n bytes off the start of the in buffer. */
static void client_consume(struct client *c, size_t n) {
    c->in_len -= n;
    memmove(c->in, c->in + n, c->in_len);
}

/* Runs the frames in the buffer, all of which came with one recv(). It may have cut the last short:
 * if this client pads its frames, NULs that come next are the rest of that. */
static void client_run_frames(struct client *c) {
    size_t at = 0;
    while (c->padding > 0 && at < c->in_len && c->in[at] == '\0') at++, c->padding--;
    while (at < c->in_len && c->phase != QUITTING) {
        if (c->out.len >= OUTPUT_MAX || !buf_reserve(&c->out, FRAME_SIZE)) break;
        size_t n = c->in_len - at < FRAME_SIZE ? c->in_len - at : FRAME_SIZE;
        struct str line;
        struct request r;
        const char *wrong = frame_to_line((struct str){c->in + at, n}, &line);
        request_begin(&r, c, line);
        r.status = request_parse(&r);
        if (server.slow && request_is_slow(&r)) break;
        if (wrong)
            client_refuse(c, line, wrong);
        else
            client_answer(c, &r);
        at += n;
        c->pads |= n == FRAME_SIZE;
        c->padding = c->pads ? FRAME_SIZE - n : 0;
    }
    if (c->phase == QUITTING) at = c->in_len;
    client_consume(c, at);
    c->pending = c->in_len > 0;
}

/* Reads the next lines that are whole as requests, up to BATCH of them. Next is where the first
 * begins, and then where the line after the last one does. */
static size_t client_requests(struct client *c, size_t *next, struct request *requests) {
    size_t n = 0;
    while (n < BATCH) {
        const char *begin = c->in + *next, *from = begin + c->scanned;
        const char *lf = memchr(from, '\n', c->in_len - *next - c->scanned);
        if (!lf) break;
        struct str line = {begin, (size_t)(lf - begin)};
        *next += line.len + 1;
        c->scanned = 0;
        if (line.len && lf[-1] == '\r') line.len--;
        struct request *r = &requests[n++];
        request_begin(r, c, line);
        r->status = request_parse(r);
    }
    return n;
}

static void client_touch_keys(const struct client *c, const struct request *requests, size_t n) {
    static volatile unsigned touched;
    uint64_t hashes[BATCH];
    for (size_t i = 0; i < n; i++) hashes[i] = requests[i].hash;
    touched = store_touch(c->store, hashes, n);
    (void)touched;
}

/* False: it has to wait, for room for the reply or in FILE, for its turn with AUTH, or because it's
 * one more slow request. */
static bool client_run_request(struct client *c, struct request *r) {
    if (c->out.len >= OUTPUT_MAX || !buf_reserve(&c->out, REPLY_ROOM)) return false;
    if (server.slow && !c->skipping && request_is_slow(r)) return false;
    if (!c->skipping && request_has_to_wait(r)) {
        auth_queue(c);
        return false;
    }
    auth_leave(c);
    c->held = !c->skipping && log_holds(r);
    if (c->held) return false;
    if (!c->skipping) client_answer(c, r);
    c->skipping = false;
    return true;
}

/* Runs the lines in the buffer, until the next is not whole, or has to wait. */
static void client_run_lines(struct client *c) {
    struct request requests[BATCH];
    size_t next = 0, n, run;
    do {
        n = client_requests(c, &next, requests);
        if (n > 1) client_touch_keys(c, requests, n);
        for (run = 0; run < n && c->phase != QUITTING; run++)
            if (!client_run_request(c, &requests[run])) break;
    } while (run == BATCH);
    if (c->phase == QUITTING) run = n, next = c->in_len;
    c->pending = run < n;
    client_consume(c, c->pending ? (size_t)(requests[run].line.bytes - c->in) : next);
    if (!c->pending) client_run_partial(c);
}

static void client_run(struct client *c) {
    if (c->wire == FRAMES)
        client_run_frames(c);
    else
        client_run_lines(c);
}

/* When kvss stops, a client from which nothing more has come is done with, as after QUIT. */
static void client_read(struct client *c) {
    size_t room = REQUEST_MAX - c->in_len;
    ssize_t n = recv(client_fd(c), c->in + c->in_len, room < READ_MAX ? room : READ_MAX, 0);
    if (n < 0 && would_block()) {
        if (!server.stopping || c->phase != OPEN || errno == EINTR) return;
        client_quit(c);
        c->in_len = c->scanned = 0;
        return;
    }
    if (n < 0 || (n == 0 && c->phase == LINGERING)) client_close(c, n < 0 ? strerror(errno) : "");
    if (c->phase == LINGERING || c->phase == CLOSED) return;
    if (n == 0) c->phase = ENDING;
    server.bytes_in += (uint64_t)n;
    c->in_len += (size_t)n;
    client_run(c);
}

/* When all replies are sent, an out buffer that had grown gives its memory back: one long reply
 * should not cost it for the rest of a connection. */
static void client_trim(struct client *c) {
    if (c->out.len > 0 || c->out.size == BUF_SIZE) return;
    buf_free(&c->out);
    c->out = client_output(client_fd(c));
}

static void client_write(struct client *c) {
    ssize_t n = send(client_fd(c), c->out.bytes, c->out.len, 0);
    if (n < 0 && !would_block()) client_close(c, strerror(errno));
    if (n > 0) {
        server.bytes_out += (uint64_t)n;
        c->active = server.now;
        buf_consume(&c->out, (size_t)n);
        client_trim(c);
        mailbox_taken(c);
    }
    c->blocked = c->out.len > 0;
}

/* There are replies to send, or requests to run first, or messages. */
static bool client_is_sending(const struct client *c) {
    return c->pending || c->out.len || (c->mailbox && c->mailbox->first);
}

/* It waits for its turn with AUTH or for room in FILE, and nothing can be done for it before. */
static bool client_waits(const struct client *c) {
    bool waits = c->ticket || (c->held && log_is_full());
    return waits && !c->out.len && !server.stopping;
}

/* Nothing waits to be sent to it but messages: or those who send them could keep it from being
 * read. */
static bool client_is_read(const struct client *c) {
    return !c->pending && !c->out.len && c->phase != ENDING;
}

/* With all replies sent, some phases are over. */
static void client_settle(struct client *c) {
    if (client_is_sending(c)) return;
    if (c->phase == ENDING) client_close(c, "");
    if (c->phase != QUITTING) return;
    c->phase = LINGERING;
    c->active = server.now + LINGER_MS;
    if (shutdown(client_fd(c), SHUT_WR) < 0) client_close(c, strerror(errno));
}

/* A request of it may be on its way: it has just had an answer. */
static bool client_is_busy(const struct client *c) {
    return c->phase != CLOSED && c->phase != LINGERING && c->active + BUSY_MS >= server.now;
}

/* When to close it, or NEVER. Half a line is no sign of life, or a byte now and then would be. */
static uint64_t client_deadline(const struct client *c) {
    if (c->phase == LINGERING) return c->active;
    if (c->ticket || c->held) return NEVER; /* it's kvss that lets it wait */
    long seconds = options[TIMEOUT].value;
    return seconds ? c->active + (uint64_t)seconds * 1000 : NEVER;
}

/* == 17. Loop =====================================================================================
 *
 * A turn of the loop: wait until something can be done at once; read from everybody who has sent
 * something, and run it; then send. select() takes sets of descriptors and leaves in them those
 * that are ready. A set holds descriptors below FD_SETSIZE: with another, FD_SET() would write past
 * its end. So no client is taken whose descriptor is too high. A new descriptor is the lowest that is
 * free (POSIX, 2.14). So those above the clients' are always there for kvss itself.
 *
 * select() asks each descriptor in the sets: 200 us for 900 idle clients. So a turn is about those
 * that were busy just now; each millisecond, or when nobody is busy, it's about all.
 *
 * A signal that comes just before select() would be seen only after it. pselect() closes the gap:
 * SIGINT and SIGTERM are blocked at all times but while it waits (POSIX, pselect). */

static volatile sig_atomic_t loop_signal; /* SIGINT or SIGTERM, once one was let in */

enum {
    ACCEPT_PAUSE_MS = 100, /* after accept() failed: tried at once, it would fail again */
    LOOK_MS = 1,           /* from one look at all clients to the next, while some are busy */
    NO_MEMORY_MS = 10,     /* after select() found none for its sets */
    WAIT_MAX = 86400000,   /* a day, in ms: pselect() has to take 31 of them, and no more */
};

/* The clients that a turn is about. */
static struct {
    int fds[FD_SETSIZE], len;
    bool some;        /* of all are busy, and so the others must not be forgotten */
    uint64_t look_at; /* when it has to be all */
} attended;

static struct client *attended_client(int i) { return &clients[attended.fds[i % attended.len]]; }

/* 127.0.0.1:9000, [::1]:9000 */
static void address_name(const struct sockaddr_storage *address, socklen_t len, char *name) {
    char host[INET6_ADDRSTRLEN] = "?", port[6] = "?";
    getnameinfo((const struct sockaddr *)address, len, host, sizeof host, port, sizeof port,
                NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(name, ADDRESS_MAX, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

/* Its socket is new, so that one line fits and send() does not wait. */
static void loop_refuse(enum wire wire, int fd, const char *name) {
    char line[FRAME_SIZE] = "error"; /* and NULs: a whole frame */
    int len = FRAME_SIZE;
    if (wire == LINES) len = snprintf(line, sizeof line, "%s\n", statuses[UNAVAILABLE].bytes);
    server.refused++;
    event("refuse", name, STR("no room for one more client"));
    (void)send(fd, line, (size_t)len, 0);
    close(fd);
}

/* The newcomer becomes a client, if there is room. TCP_NODELAY: replies leave at once.
 * SO_KEEPALIVE: a peer gone without a word is noticed in the end. Both are good to have, and not
 * having them is no error. */
static void loop_admit(enum wire wire, int fd, const struct sockaddr_storage *address,
                       socklen_t size) {
    struct client c = {.phase = OPEN, .wire = wire, .store = &store, .active = server.now};
    int on = 1;
    address_name(address, size, c.name);
    bool room = fd < server.descriptors && server.clients < options[CLIENTS].value;
    if (room && wire == LINES) c.store = store_open();
    if (!room || !c.store || fcntl(fd, F_SETFL, O_NONBLOCK) < 0) {
        if (c.store) store_close(c.store);
        loop_refuse(wire, fd, c.name);
        return;
    }
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    c.in = inputs[fd];
    c.out = client_output(fd);
    clients[fd] = c;
    attended.fds[attended.len++] = fd;
    server.clients++;
    server.top = fd > server.top ? fd : server.top;
    event("connect", c.name, STR(""));
}

/* Takes everybody who waits, or the last would wait for many turns; but no more than listen() lets
 * wait, so that the clients get theirs. */
static void loop_accept(enum wire wire) {
    int listener = server.listeners[wire];
    for (int i = 0; i < SOMAXCONN; i++) {
        struct sockaddr_storage address;
        socklen_t size = sizeof address;
        int fd = accept(listener, (struct sockaddr *)&address, &size);
        if (fd >= 0) loop_admit(wire, fd, &address, size);
        if (fd >= 0 || errno == ECONNABORTED) continue; /* aborted: it has left already */
        if (would_block()) return;
        event("error", "accept", str_of(strerror(errno)));
        server.accept_at = server.now + ACCEPT_PAUSE_MS;
        return;
    }
}

/* When kvss stops, each client is read once more, whether or not it has sent something. */
static bool loop_finishes(const struct client *c) {
    return server.stopping && c->phase == OPEN && !client_is_sending(c);
}

/* Chooses the clients for this turn: those that were busy just now or, each LOOK_MS, all. */
static void loop_attend(void) {
    int busy = 0;
    server.now = clock_ms(); /* the last turn may have been a long one */
    for (int i = 0; i < attended.len; i++) {
        const struct client *c = &clients[attended.fds[i]];
        if (client_is_busy(c)) attended.fds[busy++] = client_fd(c);
    }
    attended.len = busy;
    attended.some = busy > 0 && busy < server.clients && !server.stopping;
    if (attended.some && server.now < attended.look_at) return;
    attended.look_at = server.now + LOOK_MS;
    attended.len = 0;
    for (int fd = 0; fd <= server.top; fd++)
        if (clients[fd].phase != CLOSED) attended.fds[attended.len++] = fd;
}

/* Puts what there is to wait for in the sets. Returns until when, or NEVER. */
static uint64_t loop_watch(fd_set *readable, fd_set *writable) {
    uint64_t until = server.stop_by ? server.stop_by : NEVER;
    if (expiry_next(&store) < until) until = expiry_next(&store);
    if (server.waiting && server.auth_at < until) until = server.auth_at;
    if (log_next() < until) until = log_next();
    if (compact_next() < until) until = compact_next();
    FD_ZERO(readable);
    FD_ZERO(writable);
    for (int wire = 0; wire < WIRES; wire++) {
        if (server.listeners[wire] < 0) continue;
        if (server.now < server.accept_at)
            until = server.accept_at;
        else
            FD_SET(server.listeners[wire], readable);
    }
    for (int i = 0; i < attended.len; i++) {
        int fd = attended.fds[i];
        struct client *c = &clients[fd];
        if (client_is_sending(c) && !client_waits(c)) FD_SET(fd, writable);
        if (client_is_read(c)) FD_SET(fd, readable);
        if (client_deadline(c) < until) until = client_deadline(c);
        if (expiry_next(c->store) < until) until = expiry_next(c->store);
        if (loop_finishes(c)) until = server.now;
    }
    return retired ? server.now : until;
}

static void on_signal(int signal) { loop_signal = signal; }

/* When something is ready at once, pselect() may return without having let a signal in; so under
 * load it would never be seen. Then it's still pending. */
static void loop_look_for_signals(void) {
    sigset_t pending;
    sigemptyset(&pending);
    sigpending(&pending);
    if (loop_signal == SIGINT || sigismember(&pending, SIGINT)) server.stopping = "SIGINT";
    if (loop_signal == SIGTERM || sigismember(&pending, SIGTERM)) server.stopping = "SIGTERM";
}

/* While some are busy, SIGALRM ends a wait for them each LOOK_MS. A time-out of pselect() would,
 * too; but to set the clock for each wait made 39 us of 31, for a request of a single client.
 * False: nothing will end the wait. */
static bool loop_tick(bool on) {
    static bool ticking;
    struct itimerval tick = {{0, on ? LOOK_MS * 1000 : 0}, {0, on ? LOOK_MS * 1000 : 0}};
    if (on != ticking && setitimer(ITIMER_REAL, &tick, NULL) == 0) ticking = on;
    return ticking;
}

static void on_alarm(int signal) { (void)signal; }

/* False: there is nothing to do. */
static bool loop_wait(fd_set *readable, fd_set *writable) {
    loop_attend();
    bool ticks = loop_tick(attended.some);
    /* Not to wait: to look at all, and go on with some; or if no tick would end the wait. */
    bool look = attended.some && (!ticks || attended.len == server.clients);
    uint64_t until = loop_watch(readable, writable);
    uint64_t ms = until > server.now && !look ? until - server.now : 0;
    if (ms > WAIT_MAX) ms = WAIT_MAX;
    struct timespec wait = {(time_t)(ms / 1000), (long)(ms % 1000 * 1000000)};
    struct timespec *limit = until == NEVER && !look ? NULL : &wait;
    int top = server.top;
    for (int wire = 0; wire < WIRES; wire++)
        if (server.listeners[wire] > top) top = server.listeners[wire];
    int ready = pselect(top + 1, readable, writable, NULL, limit, &server.signals);
    if (ready < 0) {
        struct timespec pause = {0, NO_MEMORY_MS * 1000000L};
        if (errno == ENOMEM)
            nanosleep(&pause, NULL);
        else if (errno != EINTR)
            DIE(EXIT_FAILURE, "pselect: %s", strerror(errno));
        FD_ZERO(readable);
        FD_ZERO(writable);
    }
    server.now = clock_ms();
    loop_look_for_signals();
    return ready > 0 || server.now >= until || server.stopping;
}

/* Turns begin after the client that was served last: who came too late for one is among the first
 * of the next, and does not wait for two. (With 900 clients that all ask at once, the longest wait
 * is 10.6 ms and not 14.) Who had a slow request run is behind all others who want one. */
static void loop_serve(struct client *c, const fd_set *readable, const fd_set *writable) {
    int fd = client_fd(c);
    bool can_read = FD_ISSET(fd, readable), can_write = FD_ISSET(fd, writable);
    bool was_slow = server.slow;
    if (can_write) c->blocked = false;
    if (can_write && c->pending) client_run(c);
    if (can_read || loop_finishes(c)) client_read(c);
    if ((can_read || can_write) && !was_slow) server.turn = fd + 1;
}

/* Lets the first of the queue try a password, when it's time. This comes before all else in a turn:
 * AUTH is the slow request of this turn, so that nobody's LIST can keep it out. */
static void loop_auth(void) {
    struct client *c = server.now >= server.auth_at ? auth_first() : NULL;
    if (!c) return;
    auth_leave(c);
    server.trying = c;
    client_run(c);
    server.trying = NULL;
}

/* Sends what there is, and sees to what time has brought. */
static void loop_send(struct client *c) {
    int share = EXPIRY_STEP / attended.len + 1; /* all private stores together get one step */
    if (c->store != &store) expiry_step(c->store, share);
    mailbox_feed(c);
    if (c->out.len && !c->blocked) client_write(c);
    client_settle(c);
    if (c->phase != CLOSED && client_deadline(c) <= server.now) client_close(c, "idle");
}

static void loop_turn(void) {
    fd_set readable, writable;
    int first = 0;
    compact_set_limit();
    if (!loop_wait(&readable, &writable)) return;
    server.slow = false;
    for (int wire = 0; wire < WIRES; wire++)
        if (server.listeners[wire] >= 0 && FD_ISSET(server.listeners[wire], &readable))
            loop_accept((enum wire)wire);
    loop_auth();
    while (first < attended.len && attended.fds[first] < server.turn) first++;
    for (int i = 0; i < attended.len; i++)
        loop_serve(attended_client(first + i), &readable, &writable);
    expiry_step(&store, EXPIRY_STEP); /* its lines are written with those of the requests */
    log_commit();
    for (int i = 0; i < attended.len; i++) {
        struct client *c = attended_client(first + i);
        if (c->phase != CLOSED) loop_send(c);
    }
    store_sweep();
    compact_step();
}

/* Until a signal or a QUIT ends it. Then those who wait are the last to be taken, and what has
 * arrived is answered; whoever has not read that after LINGER_MS is left. FILE has as long to be
 * written anew, if its deadlines are of before the clock was set. The last turn may have
 * closed clients that are still in attended. With as many newcomers it would overflow, so it is
 * emptied first: from now on each turn chooses from all clients. */
static void loop_run(void) {
    while (!server.stopping) loop_turn();
    attended.len = 0;
    for (int wire = 0; wire < WIRES; wire++) {
        if (server.listeners[wire] < 0) continue;
        loop_accept((enum wire)wire);
        close(server.listeners[wire]);
        server.listeners[wire] = -1;
    }
    event("stop", server.stopping, STR(""));
    server.stop_by = server.now + LINGER_MS;
    while ((server.clients > 0 || logfile.outdated || compaction.updates) &&
           server.now < server.stop_by)
        loop_turn();
    for (int fd = 0; fd <= server.top; fd++)
        if (clients[fd].phase != CLOSED) client_close(&clients[fd], "stop");
    compact_stop();
}

/* == 18. Start ====================================================================================
 *
 * The options, the socket, the loop. What goes wrong before the loop is told in one line, with exit
 * status 2 where the command line is at fault and 1 where the system is. */

enum {
    EXIT_USAGE = 2,
    OWN_DESCRIPTORS = 8, /* kept: a client that gets 503 takes one, a compaction three */
};

/* An empty text is refused: a script whose variable is not set would run without its file. */
static void option_set(struct option *o, const char *value) {
    char *end;
    if (!o->argument) {
        o->value = 1;
        return;
    }
    if (o->most == 0) {
        if (!*value) DIE(EXIT_USAGE, "%s: %s is empty", o->name, o->argument);
        o->text = value;
        return;
    }
    o->value = strtol(value, &end, 10);
    bool digits = strchr("0123456789", *value) && end != value && !*end;
    if (!digits || o->value < o->least || o->value > o->most)
        DIE(EXIT_USAGE, "%s: '%s' is not a number from %ld to %ld", o->name, value, o->least,
            o->most);
}

/* Reads the option in word i: -p 9001, -p9001, --port 9001 or --port=9001. Returns the index of the
 * last word that belongs to it. */
static int option_read(char **words, int i) {
    bool is_long = words[i][1] == '-';
    const char *value = NULL;
    struct str name = {words[i] + 1 + is_long, is_long ? strcspn(words[i] + 2, "=") : 1};
    struct option *o = options;
    while (o < options + OPTIONS && !(is_long ? str_is(name, o->name) : *name.bytes == o->letter))
        o++;
    if (o == options + OPTIONS) DIE(EXIT_USAGE, "%s: no such option; see kvss --help", words[i]);
    if (name.bytes[name.len]) value = name.bytes + name.len + is_long;
    if (!o->argument && value) DIE(EXIT_USAGE, "%s: this option takes no value", words[i]);
    if (o->argument && !value) value = words[++i];
    if (o->argument && !value) DIE(EXIT_USAGE, "%s: %s is missing", words[i - 1], o->argument);
    option_set(o, value);
    return i;
}

static void options_read(int argc, char **argv) {
    char *operands[2] = {NULL, NULL}; /* [[HOST] PORT] */
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] == '-')
            i = option_read(argv, i);
        else if (operands[1])
            DIE(EXIT_USAGE, "%s: what comes after HOST and PORT?", argv[i]);
        else
            operands[operands[0] != NULL] = argv[i];
    }
    if (operands[0]) option_set(&options[operands[1] ? HOST : PORT], operands[0]);
    if (operands[1]) option_set(&options[PORT], operands[1]);
    if (!fsync_is("always") && !fsync_is("everysec") && !fsync_is("no"))
        DIE(EXIT_USAGE, "fsync: '%s' is not always, everysec or no", options[FSYNC].text);
    if (options[REPAIR].value && !options[DATA].text)
        DIE(EXIT_USAGE, "repair: --data FILE is missing");
}

static void help_print(void) {
    printf("Usage: kvss [options] [[HOST] PORT]\n\nOptions (and their values):\n");
    for (struct option *o = options; o < options + OPTIONS; o++) {
        const char *argument = o->argument ? o->argument : "";
        printf("  -%c, --%s %-*s", o->letter, o->name, 22 - (int)strlen(o->name), argument);
        printf("%s", o->help);
        if (o->text)
            printf(" (%s)\n", o->text);
        else if (o->value < 0)
            printf(" (none)\n");
        else
            printf(o->argument ? " (%ld)\n" : "\n", o->value);
    }
    printf("\nRequests, one a line:\n");
    for (int i = 0; i < COMMANDS; i++) printf("  KV/1.0 %s\n", commands[i].usage);
}

/* SIGINT and SIGTERM are blocked, but not in the set for pselect(). SIGPIPE comes of sending to a
 * client that is gone, SIGXFSZ of writing to a file that must not grow, and they would end kvss;
 * the calls fail as well, and that's enough. To ignore SIGCHLD means that nobody has to wait for
 * children that have ended. */
static void start_signals(void) {
    struct sigaction stop = {.sa_handler = on_signal}, ignore = {.sa_handler = SIG_IGN};
    struct sigaction alarm = {.sa_handler = on_alarm};
    sigset_t stops;
    sigemptyset(&stops);
    sigaddset(&stops, SIGINT);
    sigaddset(&stops, SIGTERM);
    sigaddset(&stops, SIGALRM);
    sigprocmask(SIG_BLOCK, &stops, &server.signals);
    sigdelset(&server.signals, SIGINT);
    sigdelset(&server.signals, SIGTERM);
    sigdelset(&server.signals, SIGALRM);
    if (sigaction(SIGINT, &stop, NULL) < 0 || sigaction(SIGTERM, &stop, NULL) < 0 ||
        sigaction(SIGALRM, &alarm, NULL) < 0 || sigaction(SIGPIPE, &ignore, NULL) < 0 ||
        sigaction(SIGXFSZ, &ignore, NULL) < 0 || sigaction(SIGCHLD, &ignore, NULL) < 0)
        DIE(EXIT_FAILURE, "sigaction: %s", strerror(errno));
}

/* -1: errno says why. Without SO_REUSEADDR, connections of a server that has stopped would keep the
 * next one from its port for a minute, in TIME-WAIT (RFC 9293, section 3.6.1). */
static int listen_on(const struct addrinfo *a) {
    int fd = socket(a->ai_family, a->ai_socktype, a->ai_protocol), on = 1;
    if (fd < 0) return -1;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fcntl(fd, F_SETFL, O_NONBLOCK) == 0 && bind(fd, a->ai_addr, a->ai_addrlen) == 0 &&
        listen(fd, SOMAXCONN) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

static void start_listening(enum wire wire, long number, const char *what) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    struct sockaddr_storage address;
    socklen_t len = sizeof address;
    char port[24], name[ADDRESS_MAX];
    const char *host = options[HOST].text;
    int listener = -1;
    snprintf(port, sizeof port, "%ld", number);
    int error = getaddrinfo(host, port, &hints, &found);
    if (error) DIE(EXIT_FAILURE, "%s: %s", host, gai_strerror(error));
    for (struct addrinfo *a = found; a && listener < 0; a = a->ai_next) listener = listen_on(a);
    if (listener < 0 || getsockname(listener, (struct sockaddr *)&address, &len) < 0)
        DIE(EXIT_FAILURE, "%s, port %s: %s", host, port, strerror(errno));
    freeaddrinfo(found);
    if (listener >= FD_SETSIZE) DIE(EXIT_FAILURE, "too many files are open already");
    server.listeners[wire] = listener;
    address_name(&address, len, name);
    fprintf(stderr, "kvss: %s on %s\n", what, name);
}

/* Called when all is open that kvss keeps open, but the sockets that listen. The limit of the system
 * is raised, as far as it can be, to what select() can use. */
static void start_descriptors(int listeners) {
    struct rlimit limit;
    rlim_t wanted = FD_SETSIZE + OWN_DESCRIPTORS;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) DIE(EXIT_FAILURE, "getrlimit: %s", strerror(errno));
    rlim_t most = limit.rlim_cur;
    if (most < wanted) {
        limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
        if (setrlimit(RLIMIT_NOFILE, &limit) == 0) most = limit.rlim_cur;
    }
    server.descriptors = FD_SETSIZE;
    if (most >= wanted) return;
    server.descriptors = (int)most - OWN_DESCRIPTORS;
    int room = -listeners;
    for (int fd = 0; fd < server.descriptors; fd++)
        if (fcntl(fd, F_GETFD) < 0) room++; /* it is not open */
    if (room < 1) DIE(EXIT_FAILURE, "ulimit -n %d leaves no room for a client", (int)most);
    if (room < options[CLIENTS].value)
        fprintf(stderr, "kvss: ulimit -n %d leaves room for %d clients\n", (int)most, room);
}

int main(int argc, char **argv) {
    options_read(argc, argv);
    if (options[HELP].value) help_print();
    if (options[VERSION].value) printf("kvss %s\n", KVSS_VERSION);
    if (options[HELP].value || options[VERSION].value) return fflush(stdout) ? EXIT_FAILURE : 0;
    /* Were stdin, stdout or stderr closed, a client would get its number, and the log would go
     * to that client. So /dev/null gets these numbers. */
    int null = STDIN_FILENO;
    while (null >= 0 && null <= STDERR_FILENO) null = open("/dev/null", O_RDWR);
    if (null < 0) DIE(EXIT_FAILURE, "/dev/null: %s", strerror(errno));
    close(null);
    int random = open("/dev/urandom", O_RDONLY);
    if (random < 0 || read(random, store_seed, sizeof store_seed) != sizeof store_seed)
        DIE(EXIT_FAILURE, "/dev/urandom: %s", strerror(errno));
    close(random);
    if (options[MANAGERS].text) managers_read(options[MANAGERS].text);
    start_signals();
    if (options[DATA].text && options[PRIVATE].value)
        fprintf(stderr, "kvss: with --private, nothing that clients store is kept in %s\n",
                options[DATA].text);
    if (options[DATA].text) replay_file(options[DATA].text);
    long frames = options[FRAMES_PORT].value;
    start_descriptors(frames < 0 ? 1 : 2);
    start_listening(LINES, options[PORT].value, "listening");
    if (frames >= 0) start_listening(FRAMES, frames, "listening for frames");
    server.started = server.now = clock_ms();
    event("start", "kvss", STR(KVSS_VERSION));
    loop_run();
    bool kept = log_close();
    event("goodbye", "", STR(""));
    return kept ? 0 : EXIT_FAILURE;
}
