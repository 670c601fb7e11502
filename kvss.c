/* kvss: a key-value store service. It speaks KV/1.0 over TCP.
 *
 * Part I is the lab: a whole server for PUT, GET, DEL, STATS and QUIT, to be read from top to bottom.
 *
 *      1. Bytes          a view of bytes, a buffer, UTF-8
 *      2. Diagnostics    what the operator reads on stderr
 *      3. Replies        the table of statuses
 *      4. Store          the hash table
 *      5. Clients        what the server knows of itself and of each client
 *      6. Requests       the commands, and the way from a line to a reply
 *      7. Extensions     how Part II adds to all this
 *      8. Connections    recv(), run, send(), close()
 *      9. The loop       pselect(), accept(), stop
 *     10. Start          options, the listening socket, main()
 *
 * Part II is beyond the lab. Read its chapters in any order.
 *
 *     11. Speed          why it is fast              17. Frames        mailboxes in a binary format
 *     12. Slow requests  AUTH and LIST, in turns     18. Log           the store outlives the server
 *     13. Expiry         EXPIRE, EXPIREAT, TTL       19. Compaction    the log is written anew, shorter
 *     14. Roles          private stores, AUTH        20. Replay        the log is run again
 *     15. Patterns       regular expressions         21. Statistics    STATS in another format
 *     16. Mailboxes      CREATE, SEND, CONNECT      22. Limits        of files, memory and time
 *
 * To meet the network first, begin with chapter 9 and come back.
 *
 * One turn of the loop serves every client that is ready:
 *
 *        .--> pselect()    wait until a socket can be read or written
 *        |    accept()     newcomers become clients
 *        |    recv()       read what each client has sent, run it, collect the replies
 *        |    send()       send each client its replies
 *        '------'
 *
 * A request goes down through the chapters, and its reply comes back:
 *
 *     recv() --> client.in --> line --> verb, key, value --> command --> store
 *                                                                          |
 *     send() <-- client.out <------------- "200 OK value" <----------------'
 *
 * Ten words to know:
 *
 *     connection     a stream of bytes in each direction (TCP); it has no lines and no messages
 *     client         a program at the other end of a connection, and what the server knows of it
 *     descriptor     the small number that socket(), accept() and open() return
 *     request        a line that a client sends; each request gets exactly one reply, in order
 *     pipelining     a client sends several requests before it reads the first reply
 *     buffer         memory for bytes that have arrived, or that wait to leave
 *     to block       to wait inside a call; this server blocks in pselect() and nowhere else
 *     ready          a descriptor is ready if recv() or send() on it returns at once
 *     back-pressure  the server does not read from a client that does not read its replies
 *     half-close     a client has called shutdown(): it sends no more, but still reads replies
 *
 * docs/protocol.md says what the lines mean. C99 and POSIX.1-2008, nothing else. */
#define _XOPEN_SOURCE     700 /* POSIX.1-2008 with its XSI extension; Part II needs crypt(), nice() */
#define _FILE_OFFSET_BITS 64 /* the log of Part II may be longer than 2 GiB on any machine */

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define KVSS_VERSION "2.0.0"

/* The options of the command line. They come first, because report() and others look at them. `value`
 * and `text` hold the default until the command line replaces it. */
struct option {
    char letter;
    const char *name;
    /* The name of its value in --help. NULL: the option is a flag and takes no value. */
    const char *argument;
    long min, max; /* the value is a number from min to max; if max is 0, the value is a text */
    long value;
    const char *text; /* if the value is a text; NULL: there is none */
    const char *help;
};

enum { HOST, PORT, TIMEOUT, CLIENTS, EXPLAIN, QUIT_STOPS, VERBOSE, QUIET, HELP, VERSION };

static struct option options[] = {
    [HOST] = {'H', "host", "HOST", 0, 0, 0, "127.0.0.1", "name or address to listen on"},
    [PORT] = {'p', "port", "PORT", 0, 65535, 9000, NULL, "port to listen on, 0 for a free one"},
    [TIMEOUT] = {'t', "timeout", "SECONDS", 0, 1000000, 0, NULL, "close idle clients, 0 for never"},
    [CLIENTS] = {'m', "max-clients", "N", 1, FD_SETSIZE, FD_SETSIZE, NULL, "serve N at a time"},
    [EXPLAIN] = {'e', "explain", NULL, 0, 1, 0, NULL, "let 400 and 426 say why"},
    [QUIT_STOPS] = {'Q', "quit-stops-server", NULL, 0, 1, 0, NULL, "let QUIT stop the server too"},
    [VERBOSE] = {'v', "verbose", NULL, 0, 1, 0, NULL, "print every request and its reply"},
    [QUIET] = {'q', "quiet", NULL, 0, 1, 0, NULL, "print errors and the audit only"},
    [HELP] = {'h', "help", NULL, 0, 1, 0, NULL, "print this and exit"},
    [VERSION] = {'V', "version", NULL, 0, 1, 0, NULL, "print the version and exit"},
    {0},
};

/* == 1. Bytes =====================================================================================
 *
 * A client sends bytes, not C strings: there may be a NUL among them, and there is none at the end. So
 * a piece of what a client sent is a `str`, a pointer together with a length. A str is a view: it owns
 * no memory, and it is valid only while the bytes stay where they are. A `buf` owns memory. New bytes are
 * added behind the last one, and bytes that are done with are removed from the front.
 *
 *     buf.bytes --> [K][V][/][1][.][0][ ][G][E][T][ ][a][\n][ ][ ]...
 *                    '------------- len -----------------'
 *                    '------------------- size ------------------'
 */

struct str {
    const char *bytes;
    size_t len;
};

struct buf {
    char *bytes;
    size_t len;  /* bytes in use */
    size_t size; /* bytes allocated */
};

/* STR makes a str of a literal. As the first value of a static variable, C99 allows only STR_INIT. */
#define STR(literal) ((struct str){(literal), sizeof(literal) - 1})
#define STR_INIT(literal)                                                                          \
    { (literal), sizeof(literal) - 1 }

static struct str str_of(const char *text) {
    return (struct str){text, strlen(text)};
}

static struct str buf_str(const struct buf *b) {
    return (struct str){b->bytes, b->len};
}

static bool str_equal(struct str a, struct str b) {
    return a.len == b.len && memcmp(a.bytes, b.bytes, b.len) == 0;
}

/* Most comparisons fail at the first byte, so a plain loop is faster than strlen() and memcmp(). */
static bool str_is(struct str s, const char *text) {
    size_t i = 0;
    while (i < s.len && text[i] && text[i] == s.bytes[i])
        i++;
    return i == s.len && !text[i];
}

static struct str str_from(struct str s, size_t start) {
    return (struct str){s.bytes + start, s.len - start};
}

/* Splits text at its first max - 1 spaces. The last field is the rest of the text, and may have spaces
 * in it. Returns how many fields there are: "GET" has one, "GET " has two, and the second one is empty.
 * With max = 4, "A B C D E" has the fields "A", "B", "C" and "D E". */
static int str_split(struct str text, struct str *fields, int max) {
    int n = 0;
    for (; n < max - 1; n++) {
        const char *space = memchr(text.bytes, ' ', text.len);
        if (!space)
            break;
        fields[n] = (struct str){text.bytes, space - text.bytes};
        text = str_from(text, fields[n].len + 1);
    }
    fields[n] = text;
    return n + 1;
}

/* RFC 5234 calls these bytes CTL: 0x00 to 0x1F, and 0x7F. */
static bool is_control(char byte) {
    return (unsigned char)byte < 0x20 || byte == 0x7F;
}

/* Returns n: the first n bytes of s are printable ASCII. The function is in chapter 7, because Part II
 * has a fast version of it. */
static size_t str_printable(struct str s);

static bool str_has_control(struct str s) {
    for (size_t i = str_printable(s); i < s.len; i++)
        if (is_control(s.bytes[i]))
            return true;
    return false;
}

/* Whether s is UTF-8 without a NUL (RFC 3629). The scheme could write one character in one byte or in
 * two, but only the shortest form is allowed. Otherwise a client could hide a character from a check by
 * writing it longer. U+D800 to U+DFFF belong to UTF-16, and U+10FFFF is the last character. */
static bool str_is_text(struct str s) {
    /* least[n]: the first character that needs n more bytes. A NUL is not allowed, so least[0] is 1. */
    static const uint32_t least[] = {1, 0x80, 0x800, 0x10000};
    size_t i = str_printable(s);
    while (i < s.len) {
        uint32_t character = (unsigned char)s.bytes[i++];
        /* The first byte says how many bytes follow. Each comparison is 0 or 1. */
        int following = (character >= 0xC0) + (character >= 0xE0) + (character >= 0xF0);
        if ((character >= 0x80 && character < 0xC0) || character > 0xF4)
            return false; /* no character begins with this byte */
        if (following > 0)
            character &= 0x3FU >> following; /* 0x1F, 0x0F or 0x07 */
        for (int k = 0; k < following; k++) {
            if (i == s.len || (s.bytes[i] & 0xC0) != 0x80)
                return false;
            character = character << 6 | (s.bytes[i++] & 0x3F);
        }
        if (character < least[following] || character > 0x10FFFF)
            return false;
        if (character >= 0xD800 && character <= 0xDFFF)
            return false;
    }
    return true;
}

/* The caller has made sure that there is room. */
static void buf_append(struct buf *b, struct str s) {
    memcpy(b->bytes + b->len, s.bytes, s.len);
    b->len += s.len;
}

/* Takes n bytes off the start. */
static void buf_consume(struct buf *b, size_t n) {
    b->len -= n;
    memmove(b->bytes, b->bytes + n, b->len);
}

/* == 2. Diagnostics ===============================================================================
 *
 * The operator reads on stderr what happens, one line each: the time (ISO 8601, UTC), what happened,
 * and to whom. If a client has sent a control character, the line shows it as \xNN. Otherwise a client
 * could send a line feed and then text that looks like a message of the server, or could send commands
 * to the operator's terminal.
 *
 * stderr may be a pipe that nobody reads. A write would then block the whole server. So the server
 * drops the message instead. The next message that can be written says how many were dropped. */

enum { REPORT_MAX = 2048 }; /* bytes of a line; a longer one is cut and ends in "..." */

/* For errors that the server cannot live with: one line, and the end. The do makes it one statement. */
#define DIE(status, ...)                                                                           \
    do {                                                                                           \
        fprintf(stderr, "kvss: " __VA_ARGS__);                                                     \
        fputc('\n', stderr);                                                                       \
        exit(status);                                                                              \
    } while (0)

/* Whether write() to fd would return at once. */
static bool fd_takes_bytes(int fd) {
    struct pollfd about = {fd, POLLOUT, 0};
    return poll(&about, 1, 0) > 0;
}

/* Copies the text to the line, up to REPORT_MAX bytes in all. A control character or a backslash
 * becomes \xNN. U+0080 to U+009F are control characters, too; in UTF-8, they are the bytes C2 80 to C2
 * 9F. If the text has one of these, or is not UTF-8, all its bytes above 7F become \xNN. Returns the new
 * length. */
static size_t report_escape(char *line, size_t len, struct str text) {
    bool keep_utf8 = str_is_text(text);
    for (size_t i = 1; i < text.len; i++)
        if (text.bytes[i - 1] == (char)0xC2 && (unsigned char)text.bytes[i] < 0xA0)
            keep_utf8 = false;
    for (size_t i = 0; i < text.len && len < REPORT_MAX; i++) {
        unsigned char byte = (unsigned char)text.bytes[i];
        bool plain = byte < 0x80 ? !is_control(text.bytes[i]) && byte != '\\' : keep_utf8;
        if (plain)
            line[len++] = text.bytes[i];
        else
            len += sprintf(line + len, "\\x%02X", byte);
    }
    return len;
}

static unsigned long long reports_dropped; /* since the last one that was written */

/* Prints a line, with --quiet, too. */
static void report_always(const char *what, const char *whom, struct str text) {
    char line[REPORT_MAX + 16]; /* an escaped byte and the end may go past REPORT_MAX */
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t len = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &utc);
    len += sprintf(line + len, ".%03ldZ ", now.tv_nsec / 1000000);
    if (reports_dropped)
        len += sprintf(line + len, "(%llu lines dropped) ", reports_dropped);
    len += sprintf(line + len, "%s", what);
    if (*whom)
        line[len++] = ' ';
    len = report_escape(line, len, str_of(whom));
    if (text.len)
        line[len++] = ' ';
    len = report_escape(line, len, text);
    len += sprintf(line + len, len < REPORT_MAX ? "\n" : "...\n");
    if (fd_takes_bytes(STDERR_FILENO) && write(STDERR_FILENO, line, len) > 0)
        reports_dropped = 0;
    else
        reports_dropped++; /* the server goes on all the same */
}

static void report(const char *what, const char *whom, struct str text) {
    if (!options[QUIET].value)
        report_always(what, whom, text);
}

/* == 3. Replies ===================================================================================
 *
 * A request has one reply, a line: a code for programs and its name for people. If there is data, a
 * space and the data follow. The first digit tells the kind: 1 is a message, 2 means that the request is
 * done, 4 that the client has to change something, 5 that the server has failed. The codes are those of HTTP
 * (RFC 9110, section 15). Some codes are used by Part II only. */

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
    FULL,
    WAIT,   /* no reply yet: the request stays in the buffer, and is run again later */
    REPLIED /* the command has written its reply itself */
};

static const struct str statuses[] = {
    [MESSAGE] = STR_INIT("100 MESSAGE"),
    [OK] = STR_INIT("200 OK"),
    [CREATED] = STR_INIT("201 CREATED"),
    [ACCEPTED] = STR_INIT("202 ACCEPTED"),
    [NO_CONTENT] = STR_INIT("204 NO_CONTENT"),
    [BAD_REQUEST] = STR_INIT("400 BAD_REQUEST"),
    [UNAUTHORIZED] = STR_INIT("401 UNAUTHORIZED"),
    [FORBIDDEN] = STR_INIT("403 FORBIDDEN"),
    [NOT_FOUND] = STR_INIT("404 NOT_FOUND"),
    [CONFLICT] = STR_INIT("409 CONFLICT"),
    [UPGRADE] = STR_INIT("426 UPGRADE_REQUIRED"),
    [TOO_MANY_REQUESTS] = STR_INIT("429 TOO_MANY_REQUESTS"),
    [SERVER_ERROR] = STR_INIT("500 SERVER_ERROR"),
    [UNAVAILABLE] = STR_INIT("503 SERVICE_UNAVAILABLE"),
    [FULL] = STR_INIT("507 INSUFFICIENT_STORAGE"),
};

/* == 4. Store =====================================================================================
 *
 * A hash table with chains. The hash of a key selects one chain. The key's entry can only be in that
 * chain. The table has about twice as many chains as keys, so most entries are alone in their chain.
 *
 *     chains --> [0] --> entry "city" --> entry "foo" --> NULL
 *                [1] --> NULL
 *                [2] --> entry "bar" --> NULL
 *
 * Most hash tables double when they are full, and move all their entries at once. For a million keys
 * that is a pause of a tenth of a second. This table adds at most two chains with each new key instead:
 * linear hashing (Litwin, 1980). Chains are split in order, from 0 on: some of a chain's entries stay,
 * and the others move to a new chain at the end. When all chains have been split, the next round begins,
 * and the array doubles.
 *
 *     With small numbers: this round began with 4 chains, and the array got room for 8 (chains_size).
 *     Now there are 5 chains (chains_len). Chain 1 is the next to be split: its entries with
 *     hash % 8 == 5 move to the new chain 5.
 *
 *           0   1   2   3   4                  0   1   2   3   4   5
 *         [ a ][b c][ d ][ e ][ f ]   --->   [ a ][ b ][ d ][ e ][ f ][ c ]
 *               '- the next to be split            '- hash % 8 is 1     '- hash % 8 is 5
 *
 * A hash is SipHash-1-3 of the key with a random seed (Aumasson and Bernstein, 2012). A client that could
 * compute hashes could choose many keys of one chain, and every search in that chain would be slow. The
 * seed is secret, so no client can. */

enum {
    KEY_MAX = 250,   /* bytes; entry.key_len has to hold it */
    CHAINS_MIN = 16, /* a power of two */
};

struct entry { /* one allocation, exactly as long as it has to be */
    struct entry *next;
    uint32_t hash; /* the lower half of the hash of its key */
    uint32_t value_len;
    uint32_t note;   /* 0 in Part I; Part II: where an extension keeps more about this entry */
    uint8_t key_len; /* 1 to KEY_MAX */
    char bytes[];    /* the key, then the value */
};

static struct store {
    struct entry **chains;
    uint32_t chains_len, chains_size; /* chains in use, of those that are allocated */
    unsigned long long keys;
    unsigned long long bytes; /* of all entries */
} store;                      /* the one that all clients share */

static uint64_t hash_seed[2];

/* The next four functions are SipHash as its paper has it. You may go on with entry_key(). */
static uint64_t rotate(uint64_t x, int bits) {
    return x << bits | x >> (64 - bits);
}

static inline void sip_round(uint64_t v[4]) {
    v[0] += v[1];
    v[2] += v[3];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] = rotate(v[0], 32) + v[3];
    v[2] += v[1];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[2] = rotate(v[2], 32);
}

static inline void sip_word(uint64_t v[4], uint64_t word) {
    v[3] ^= word;
    sip_round(v);
    v[0] ^= word;
}

/* Words are read in the machine's own byte order: a hash never leaves this process. */
static uint64_t hash_key(struct str key) {
    uint64_t v[4] = {hash_seed[0] ^ 0x736f6d6570736575, hash_seed[1] ^ 0x646f72616e646f6d,
                     hash_seed[0] ^ 0x6c7967656e657261, hash_seed[1] ^ 0x7465646279746573};
    uint64_t word;
    uint64_t last = (uint64_t)key.len << 56; /* the length, and the 0 to 7 bytes that are left */
    while (key.len >= sizeof word) {
        memcpy(&word, key.bytes, sizeof word);
        sip_word(v, word);
        key = str_from(key, sizeof word);
    }
    for (size_t i = 0; i < key.len; i++)
        last |= (uint64_t)(unsigned char)key.bytes[i] << (8 * i);
    sip_word(v, last);
    v[2] ^= 0xFF;
    for (int i = 0; i < 3; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static struct str entry_key(const struct entry *e) {
    return (struct str){e->bytes, e->key_len};
}

static struct str entry_value(const struct entry *e) {
    return (struct str){e->bytes + e->key_len, e->value_len};
}

static size_t entry_size(const struct entry *e) {
    return offsetof(struct entry, bytes) + e->key_len + e->value_len;
}

/* How much memory the store takes, in bytes. An empty store counts as 0. */
static unsigned long long store_memory(const struct store *st) {
    return st->bytes + (st->chains_size - CHAINS_MIN) * sizeof *st->chains;
}

/* A store without keys. False: out of memory. */
static bool store_init(struct store *st) {
    *st = (struct store){.chains_len = CHAINS_MIN, .chains_size = CHAINS_MIN};
    st->chains = calloc(CHAINS_MIN, sizeof *st->chains);
    return st->chains != NULL;
}

/* Returns the address of the first pointer of the chain that the hash selects. If chain i does not exist
 * yet, its keys are in chain i - chains_size / 2. They move when chain i is added. */
static struct entry **store_chain(const struct store *st, uint64_t hash) {
    uint32_t i = hash & (st->chains_size - 1);
    if (i >= st->chains_len)
        i -= st->chains_size / 2;
    return &st->chains[i];
}

/* Returns the address of the pointer that points to the key's entry. This pointer is in the array of
 * chains, or it is the `next` of the entry before. To remove the entry or to replace it, write to the
 * pointer. If the key is missing, the pointer is the NULL at the end of its chain, and a new entry can be
 * put there.
 *
 *     chains[i] ---> entry "city" ---> entry "foo" ---> NULL       for "foo": &city->next
 */
static struct entry **store_find(const struct store *st, uint64_t hash, struct str key) {
    struct entry **link = store_chain(st, hash);
    while (*link) {
        if ((*link)->hash == (uint32_t)hash && str_equal(entry_key(*link), key))
            break;
        link = &(*link)->next;
    }
    return link;
}

/* Adds a chain, and moves to it the entries that belong there. When the array of pointers is full, the
 * array doubles; realloc() moves only the pointers, and no entry. Without memory, nothing is added, and
 * chains get longer. */
static void store_grow(struct store *st) {
    if (st->chains_len == st->chains_size) {
        struct entry **larger = realloc(st->chains, sizeof *larger * 2 * st->chains_size);
        if (!larger)
            return;
        st->chains = larger;
        st->chains_size *= 2;
    }
    uint32_t added = st->chains_len++;
    /* `from` walks along the old chain (in the picture: 5 - 8 / 2), `to` is the end of the new one. */
    struct entry **from = &st->chains[added - st->chains_size / 2];
    struct entry **to = &st->chains[added];
    while (*from) {
        struct entry *e = *from;
        if ((e->hash & (st->chains_size - 1)) == added) {
            *from = e->next;
            *to = e;
            to = &e->next;
        } else {
            from = &e->next;
        }
    }
    *to = NULL;
}

static void entry_forget(struct entry *e); /* see Extensions */

static void entry_free(struct store *st, struct entry *e) {
    if (e->note)
        entry_forget(e);
    st->bytes -= entry_size(e);
    free(e);
}

/* Returns CREATED for a new key, OK for a new value of an old key, and SERVER_ERROR if memory is out: the
 * store is then as it was. */
static enum status store_put(struct store *st, uint64_t hash, struct str key, struct str value) {
    struct entry **link = store_find(st, hash, key);
    struct entry *old = *link;
    if (old && !old->note && old->value_len == value.len) { /* it fits in the old one's place */
        memcpy(old->bytes + key.len, value.bytes, value.len);
        return OK;
    }
    struct entry *e = malloc(offsetof(struct entry, bytes) + key.len + value.len);
    if (!e)
        return SERVER_ERROR;
    e->next = old ? old->next : NULL;
    e->hash = (uint32_t)hash;
    e->value_len = value.len;
    e->note = 0;
    e->key_len = key.len;
    memcpy(e->bytes, key.bytes, key.len);
    memcpy(e->bytes + key.len, value.bytes, value.len);
    *link = e;
    st->bytes += entry_size(e);
    if (old) {
        entry_free(st, old);
        return OK;
    }
    st->keys++;
    for (int i = 0; i < 2; i++)
        if (2 * st->keys > st->chains_len)
            store_grow(st);
    return CREATED;
}

/* Removes the entry that store_find() has found. The chains stay, for the keys to come. */
static void store_remove(struct store *st, struct entry **link) {
    struct entry *e = *link;
    *link = e->next;
    entry_free(st, e);
    st->keys--;
}

/* == 5. Clients ===================================================================================
 *
 * Here is what the server remembers from one turn of the loop to the next, of itself and of each client.
 * A client is a small state machine:
 *
 *     accept()
 *        |
 *        v     recv() returns 0          all replies are sent
 *      OPEN --------------------> ENDING --------------------> CLOSED
 *        |                          |                             ^
 *        | QUIT, or                 | QUIT                        | the client has closed, too,
 *        | the server stops         |                             | or a second has passed
 *        v                          |                             |
 *     QUITTING <--------------------'                             |
 *        |                                                        |
 *        '----------------------------------> LINGERING ----------'
 *            all replies are sent: shutdown()
 *
 * From each phase, an error leads to CLOSED. So does --timeout, if the client is idle.
 *
 * Why LINGERING: If a server calls close() while bytes from the client are unread, TCP sends a reset
 * (RFC 1122, section 4.2.2.13). A reset ends the connection at once: the client's kernel throws away what
 * the client has not read yet. The last reply, "200 OK bye", may be lost with that. So the server ends
 * its own direction with shutdown(). It reads and drops what still comes, until the client closes. */

enum { EXTENSIONS_MAX = 16 }; /* see Extensions */

enum phase { CLOSED, OPEN, ENDING, QUITTING, LINGERING };

enum {
    ADDRESS_MAX = INET6_ADDRSTRLEN + sizeof "[]:65535",
    REQUEST_MAX = 65536, /* bytes of a line with its LF */
    REPLY_MAX = 69632,   /* bytes of a reply: a value of nearly REQUEST_MAX, and more */
    OUTPUT_MAX = 32768,  /* bytes: while so many wait to be sent, no request of the client runs */
    REPORTS_MAX = 20,    /* lines on stderr for a client's mistakes, which could fill a disk */
};

static const uint64_t NEVER = UINT64_MAX; /* a time that the clock does not reach */

/* All times are milliseconds of the monotonic clock, which nobody can set. */
static struct client {
    enum phase phase;
    const struct wire *wire; /* how its requests and replies look: see Extensions */
    struct store *store;     /* its requests are about this store */
    struct buf in;           /* requests that have arrived, and the beginning of the next one */
    struct buf out;          /* replies that wait to be sent */
    bool pending;            /* a request in `in` could not be run yet */
    bool blocked;          /* the last send() took only a part: wait until the socket is writable */
    bool skipping;         /* its line was too long: drop bytes up to the LF of that line */
    int reports;           /* lines on stderr about its mistakes so far */
    uint64_t last_active;  /* the time of the last request or send */
    uint64_t wait_until;   /* Part II, with WAIT: do not run the pending request before this time */
    uint64_t linger_until; /* LINGERING: close at this time, even if the client does not */
    char name[ADDRESS_MAX]; /* its end of the connection: 127.0.0.1:48106 */
} clients[FD_SETSIZE];      /* the index is the descriptor */

/* The buffers are static. So a client can connect and delete keys even when malloc() fails. They take
 * 172 MB of address space, but a part that is never written takes no memory. */
static struct {
    char in[REQUEST_MAX];
    char out[OUTPUT_MAX + REPLY_MAX];
} buffers[FD_SETSIZE];

struct request; /* see Requests */

static struct {
    uint64_t started;
    uint64_t now;                 /* the time when the last pselect() returned */
    volatile sig_atomic_t signal; /* SIGINT or SIGTERM; 0: none so far */
    const char *stopping;         /* why the server stops; NULL: it serves */
    uint64_t stop_by;             /* while it stops: it ends at this time at the latest */
    uint64_t accept_at;           /* do not accept() before this time */
    struct listener {
        const struct wire *wire; /* how requests and replies of its clients look */
        int fd;
    } listeners[2]; /* the sockets to which clients connect */
    int listeners_len;
    int fd_highest;       /* the highest descriptor that a listener or a client has had */
    int clients_len;      /* how many are connected */
    sigset_t signals;     /* the mask while pselect() waits: it lets SIGINT and SIGTERM through */
    int turn[FD_SETSIZE]; /* the descriptors of the clients that this turn serves */
    int turn_len;
    bool turn_all;                            /* this turn serves all clients */
    struct command *commands[EXTENSIONS_MAX]; /* the tables of all chapters, then NULL */
    struct option *options[EXTENSIONS_MAX];   /* likewise */
    /* The functions that extensions have for each request. They are copied here, because a search through
     * all extensions would cost a tenth of the time of a request. */
    enum status (*allow[EXTENSIONS_MAX])(struct request *);
    void (*answered[EXTENSIONS_MAX])(const struct request *);
    char text[1024];                        /* commands write the data of a reply here */
    unsigned long long served, refused;     /* requests served, clients refused */
    unsigned long long bytes_in, bytes_out; /* of all clients */
} server = {.fd_highest = -1};

static int client_fd(const struct client *c) {
    return c - clients;
}

static void client_report(struct client *c, const char *what, struct str text) {
    if (c->reports == REPORTS_MAX)
        return;
    c->reports++;
    report(what, c->name, text);
}

static uint64_t clock_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static uint64_t earlier(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

/* == 6. Requests ==================================================================================
 *
 *     request = "KV/1.0" SP verb [SP key [SP value]]       SP is one space
 *
 * The server parses a line: it cuts the line into fields, and looks for the verb in the table of
 * commands. The first mistake decides the reply. If there is no mistake, the function of the command
 * runs, and the status that the function returns is the reply.
 *
 * To add a command, write one function and one row of the table. */

struct request {
    struct client *client;
    struct store *store;     /* the request is about this store */
    struct str line;         /* without its LF or CR LF */
    size_t end;              /* where the next line begins in the input buffer */
    struct command *command; /* the command with this verb; NULL: there is none */
    struct str key, value;   /* the first and the second argument; empty if it was not given */
    uint64_t hash;           /* of the key */
    enum status status;      /* of the reply; OK while no mistake is found */
    struct str data;         /* of the reply; it may point into the store */
    const char *reason;      /* why the request is refused, in words, or NULL */
    bool incomplete;         /* the line has no LF: it is too long, or the client ended within it */
    bool close;              /* close the connection after the reply */
    bool secret;             /* there may be a password in the line: see struct extension, parsed */
};

/* Flags of commands. Part I does not use them; they tell extensions what to expect. */
enum {
    CHANGES = 1,    /* it changes the store */
    ADDS = 2,       /* it may need more memory for what the server keeps */
    MANAGEABLE = 4, /* managers may run it on other clients' stores */
    BECOMES = 8,    /* the log has another command in its place: EXPIREAT for EXPIRE */
};

struct command {
    const char *verb;
    const char *usage; /* the verb, and the names of the arguments */
    int min, max;      /* how many arguments; the second one may have spaces in it */
    enum status (*run)(struct request *);
    int flags;
    unsigned long long count; /* requests so far */
};

/* A loop over the rows of all tables of commands: `row` is each of them in turn. */
#define EACH_COMMAND(row)                                                                          \
    for (struct command **table = server.commands; *table; table++)                                \
        for (struct command *row = *table; row->verb; row++)

static enum status command_put(struct request *r) {
    return store_put(r->store, r->hash, r->key, r->value);
}

static enum status command_get(struct request *r) {
    struct entry *e = *store_find(r->store, r->hash, r->key);
    if (!e)
        return NOT_FOUND;
    r->data = entry_value(e);
    return OK;
}

static enum status command_del(struct request *r) {
    struct entry **link = store_find(r->store, r->hash, r->key);
    if (!*link)
        return NOT_FOUND;
    store_remove(r->store, link);
    return NO_CONTENT;
}

static enum status command_quit(struct request *r) {
    if (options[QUIT_STOPS].value)
        server.stopping = "QUIT";
    r->close = true;
    r->data = STR("bye");
    return OK;
}

/* All numbers are kept up to date, so STATS takes the same time for any number of keys. `served` + 1:
 * this STATS counts itself. */
static enum status command_stats(struct request *r) {
    unsigned long long uptime = (server.now - server.started) / 1000;
    const struct store *st = r->store;
    if (r->key.len && !str_is(r->key, "all"))
        return BAD_REQUEST;
    char *p = server.text;
    p += sprintf(p, "keys=%llu uptime=%llus served=%llu", st->keys, uptime, server.served + 1);
    if (r->key.len) {
        p += sprintf(p, " connections=%d refused=%llu", server.clients_len, server.refused);
        p += sprintf(p, " bytes_in=%llu bytes_out=%llu", server.bytes_in, server.bytes_out);
        p += sprintf(p, " memory=%llu", store_memory(st));
        EACH_COMMAND (row)
            p += sprintf(p, " %s=%llu", row->verb, row->count);
    }
    r->data = (struct str){server.text, p - server.text};
    return OK;
}

static struct command commands[] = {
    {"PUT", "PUT key value", 2, 2, command_put, CHANGES | ADDS | MANAGEABLE, 0},
    {"GET", "GET key", 1, 1, command_get, MANAGEABLE, 0},
    {"DEL", "DEL key", 1, 1, command_del, CHANGES | MANAGEABLE, 0},
    {"STATS", "STATS [all]", 0, 1, command_stats, 0, 0},
    {"QUIT", "QUIT", 0, 0, command_quit, 0, 0},
    {0},
};

/* NULL: no command has this verb. */
static struct command *command_named(struct str verb) {
    EACH_COMMAND (row) {
        if (str_is(verb, row->verb))
            return row;
    }
    return NULL;
}

/* Sets all members to their first values, but `end`, which the caller sets. To set them one by one takes
 * less time than to clear the whole struct: 7 % of the throughput. */
static void request_begin(struct request *r, struct client *c, struct str line) {
    r->client = c;
    r->store = c->store;
    r->line = line;
    r->command = NULL;
    r->key = r->value = r->data = STR("");
    r->hash = 0;
    r->status = OK;
    r->reason = NULL;
    r->incomplete = r->close = r->secret = false;
}

static enum status request_refuse(struct request *r, const char *reason) {
    r->reason = reason;
    return BAD_REQUEST;
}

/* Returns in words why the request was refused. NULL: it was not refused, or there is nothing to add.
 * If a 400 has no reason of its own, the arguments are wrong, and the usage shows what is right. The text
 * is valid until the next call. */
static const char *request_reason(const struct request *r) {
    if (r->reason || r->status != BAD_REQUEST || !r->command)
        return r->reason;
    snprintf(server.text, sizeof server.text, "usage: %s", r->command->usage);
    return server.text;
}

/* Checks the form of the arguments in key and value. `given` says how many of them the line has. */
static enum status request_arguments(struct request *r, int given) {
    if (given < r->command->min || given > r->command->max)
        return BAD_REQUEST;
    if ((given > 0 && !r->key.len) || (given > 1 && !r->value.len))
        return request_refuse(r, "a field is empty: one space stands between two fields");
    if (r->key.len > KEY_MAX)
        return request_refuse(r, "the key is longer than 250 bytes");
    if (str_has_control(r->key))
        return request_refuse(r, "the key has a control character in it");
    r->hash = hash_key(r->key);
    return OK;
}

/* Checks the line from left to right. OK: its command can be run. */
static enum status request_parse(struct request *r) {
    struct str fields[4] = {STR(""), STR(""), STR(""), STR("")}; /* version, verb, key, value */
    int n = str_split(r->line, fields, 4);
    if (!str_equal(fields[0], STR("KV/1.0"))) {
        r->reason = "a request begins with KV/1.0 and a space";
        return UPGRADE;
    }
    /* The command is found before the next checks: Part II needs it even if the line is refused. */
    r->command = command_named(fields[1]);
    if (!str_is_text(r->line))
        return request_refuse(r, "the line is not UTF-8, or has a NUL in it");
    if (!fields[1].len)
        return request_refuse(r, "the verb is missing");
    if (!r->command)
        return request_refuse(r, "there is no such verb; verbs are upper case");
    r->key = fields[2];
    r->value = fields[3];
    return request_arguments(r, n - 2);
}

/* == 7. Extensions ================================================================================
 *
 * In a first reading, go on with chapter 8. What you need from here: EACH_EXTENSION is a loop over the
 * chapters of Part II that have a function for this moment. In Part I alone, the loop does nothing. A
 * `wire` is how requests and replies look. In Part I it is always lines_wire: lines.
 *
 * Part II adds to the server without a change in Part I. Each chapter of Part II fills one struct, an
 * extension. The struct holds rows for the tables of Part I, and functions that Part I calls at certain
 * moments. A member that is NULL adds nothing.
 *
 * The list of these structs is declared here without values, and is defined with them at the end of Part
 * II. C99 allows that (6.9.2). If Part II is cut off, all pointers in the list are NULL.
 *
 * An extension keeps what it knows of clients in an array of its own. The index is the descriptor.
 *
 * Part I calls the functions in this order:
 *
 *     start
 *       .--> choose, wake_at    before pselect()
 *       |    opened             for each newcomer
 *       |    parsed             for each client that has sent something: requests
 *       |    allow, answered    for each request, before and after it runs
 *       |    commit
 *       |    feed, sent         for each client with replies
 *       |    turn
 *       '------'                closed, leaving, printable and forget: whenever there is a reason
 *     stop
 */

struct extension {
    struct command *commands; /* its commands; a row without a verb ends them */
    struct option *options;   /* its options; a row without a name ends them */

    /* The options are read, and no client is connected. */
    void (*start)(void);
    /* A client has connected. Return false to refuse the client with 503. */
    bool (*opened)(struct client *);
    /* The client's descriptor is about to be closed. Maybe another extension has refused the client. */
    void (*closed)(struct client *);
    /* The client said QUIT, or is refused. It still gets the replies that wait, and no more. */
    void (*leaving)(struct client *);
    /* Some requests have been parsed, and none of them has run. Set `secret` of a request that stderr
     * must not show. */
    void (*parsed)(struct request *, size_t);
    /* A request with a known verb is about to run; it may have mistakes. Return OK to let it run,
     * another status to reply that instead, or WAIT to run it later. If you return WAIT, set the
     * client's wait_until. A command may return WAIT, too. */
    enum status (*allow)(struct request *);
    /* The request has run, and its reply is in the output buffer. */
    void (*answered)(const struct request *);
    /* Does the work of str_printable() in less time. It may stop early, but must not count too many. */
    size_t (*printable)(struct str);
    /* An entry whose note is not 0 is about to be freed. */
    void (*forget)(struct entry *);
    /* Put the clients that the next turn serves into server.turn, and return true. Return false to let
     * the turn serve all clients. */
    bool (*choose)(void);
    /* All requests of this turn have run, and no reply has been sent. */
    void (*commit)(void);
    /* The client's output is about to be sent. Add to it what is ready and fits. */
    void (*feed)(struct client *);
    /* The kernel has taken a part of the client's output. */
    void (*sent)(struct client *);
    /* Return the time at which you need a turn at the latest, or NEVER. */
    uint64_t (*wake_at)(void);
    /* Return how many bytes you hold for clients. Chapter Limits asks. */
    size_t (*memory)(void);
    /* A turn ends. Do a little work, if there is some. */
    void (*turn)(void);
    /* The loop is over. Return false to let the server end with a failure. */
    bool (*stop)(void);
};

static const struct extension *const extensions[EXTENSIONS_MAX];

/* A loop over the extensions that have this member: x is each of them in turn. For example, this calls
 * `commit` of each extension that has one:
 *
 *     EACH_EXTENSION (x, commit)
 *         x->commit();
 */
#define EACH_EXTENSION(x, member)                                                                  \
    for (const struct extension *const *each = extensions, *x; (x = *each); each++)                \
        if (x->member)

/* A wire is how requests and replies look on a connection. Part I has one wire: lines. */
struct wire {
    void (*run)(struct client *);                        /* run what is in the input buffer */
    void (*reply)(struct buf *, const struct request *); /* append a reply to the output */
    struct str refusal;                                  /* the reply if there is no room */
};

static const struct wire lines_wire; /* see Connections */

/* Most lines have only bytes of printable ASCII. At most one extension has a function for this. */
static size_t str_printable(struct str s) {
    size_t i = 0;
    EACH_EXTENSION (x, printable)
        return x->printable(s);
    while (i < s.len && s.bytes[i] >= ' ' && s.bytes[i] <= '~')
        i++;
    return i;
}

static void entry_forget(struct entry *e) {
    EACH_EXTENSION (x, forget)
        x->forget(e);
}

static void request_answered(const struct request *r) {
    for (int i = 0; server.answered[i]; i++)
        server.answered[i](r);
}

static void requests_parsed(struct request *requests, size_t n) {
    EACH_EXTENSION (x, parsed)
        x->parsed(requests, n);
}

/* == 8. Connections ===============================================================================
 *
 * TCP carries a stream of bytes. It knows nothing of lines: one recv() may bring half a line, or two
 * hundred lines. So the client's input buffer collects the bytes that arrive. The server runs every
 * whole line in the buffer. An incomplete line stays there until its rest has arrived.
 *
 *     in:   [ GET a \n | GET b \n | GE ]        out:  [ 200 OK 1 \n | 200 OK 2 \n ]
 *             run        run        waits             leaves with one send()
 *
 * The server takes the lines in batches of up to BATCH. It parses all lines of a batch, and then runs
 * them in order. It could run each line as soon as it is parsed, and the replies would be the same. But
 * with a batch, the processor can fetch several entries from memory at once: see chapter 11, Speed.
 *
 * All sockets are non-blocking: fcntl() has set O_NONBLOCK. When there is nothing to read, or no room to
 * send, recv() and send() do not wait. They return -1, and errno is EAGAIN. pselect() tells when to try
 * again.
 *
 * While replies wait to be sent, the server reads nothing more from this client. So a client that sends
 * and never reads fills the kernel's buffers and not the server's memory; then its own send() blocks. That
 * is back-pressure. And one turn reads at most READ_MAX bytes from a client, so that the other clients do
 * not wait long. */

enum {
    READ_MAX = 16384, /* bytes: some 250 small requests */
    BATCH = 64,       /* requests that are parsed before the first of them runs */
    LINGER_MS = 1000, /* how long a client may take to close after QUIT, or when the server stops */
};

/* Whether to try again later. EAGAIN and EWOULDBLOCK mean "nothing for now"; some systems return the one,
 * some the other. EINTR means that a signal interrupted the call. */
static bool would_block(void) {
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

static void client_close(struct client *c, const char *why) {
    EACH_EXTENSION (x, closed)
        x->closed(c);
    report("disconnect", c->name, str_of(why));
    close(client_fd(c));
    c->phase = CLOSED;
    server.clients_len--;
}

/* The client gets the replies that wait for it, and nothing more. */
static void client_quit(struct client *c) {
    EACH_EXTENSION (x, leaving)
        x->leaving(c);
    c->phase = QUITTING;
    c->pending = false;
    c->in.len = 0;
}

/* First every extension may refuse the request. Then a mistake in the line decides. Without one, the
 * command runs. */
static enum status request_execute(struct request *r) {
    for (int i = 0; server.allow[i]; i++) {
        enum status status = server.allow[i](r);
        if (status != OK)
            return status;
    }
    return r->status == OK ? r->command->run(r) : r->status;
}

/* Like buf_append(), it needs room: see OUTPUT_MAX and REPLY_MAX. */
static void reply_line(struct buf *out, const struct request *r) {
    buf_append(out, statuses[r->status]);
    if (r->data.len) {
        buf_append(out, STR(" "));
        buf_append(out, r->data);
    }
    buf_append(out, STR("\n"));
}

/* What stderr shows of a request: its line. If there may be a password in the line, only the verb. */
static struct str request_shown(const struct request *r) {
    struct str fields[3]; /* version, verb, the rest */
    if (!r->secret)
        return r->line;
    if (!r->command)
        return STR("(not shown)");
    str_split(r->line, fields, 3);
    return fields[1];
}

/* What stderr shows of a reply: its line, which begins at `start` in the output. If the reply is secret
 * or is not a line, only the status. */
static struct str reply_shown(const struct request *r, size_t start) {
    const struct client *c = r->client;
    if (r->status == REPLIED)
        return statuses[OK];
    if (r->secret || c->wire != &lines_wire)
        return statuses[r->status];
    struct str reply = str_from(buf_str(&c->out), start);
    reply.len--; /* without its LF */
    return reply;
}

/* Appends the reply to a request that has run, or is refused. */
static void client_reply(struct client *c, struct request *r) {
    size_t start = c->out.len;
    const char *reason = request_reason(r);
    server.served++;
    c->last_active = server.now;
    if (options[VERBOSE].value)
        report("request", c->name, request_shown(r));
    if (reason) {
        client_report(c, "bad", str_of(reason));
        if (options[EXPLAIN].value)
            r->data = str_of(reason);
    }
    if (r->status != REPLIED)
        c->wire->reply(&c->out, r);
    if (options[VERBOSE].value)
        report("reply", c->name, reply_shown(r, start));
    request_answered(r);
    if (r->close)
        client_quit(c);
}

/* Runs a request that is parsed. False: the request has to wait, and stays in the input buffer. */
static bool client_answer(struct client *c, struct request *r) {
    struct command *command = r->command;
    if (c->out.len >= OUTPUT_MAX)
        return false;
    if (r->incomplete) {
        r->status = BAD_REQUEST;
    } else if (command) {
        command->count++; /* before it runs: STATS counts itself */
        r->status = request_execute(r);
    }
    if (r->status == WAIT) { /* so there is a command */
        command->count--;
        return false;
    }
    client_reply(c, r);
    return true;
}

/* Parses the line at `start` in the input buffer. False: the line has not arrived yet.
 *
 * If the buffer is full and has no LF, its line is too long. If the client has ended, a last line without
 * LF may be only half of what the client wanted to send. Such a line is refused, whatever it says. It is
 * parsed all the same, so that extensions see what it is. */
static bool line_parse(struct client *c, size_t start, struct request *r) {
    struct str rest = str_from(buf_str(&c->in), start);
    const char *lf = memchr(rest.bytes, '\n', rest.len);
    bool too_long = rest.len == REQUEST_MAX; /* only a line at the start can be */
    bool is_last = rest.len > 0 && c->phase == ENDING;
    if (!lf && !too_long && !is_last)
        return false;
    struct str line = rest;
    if (lf)
        line.len = lf - line.bytes;
    size_t end = start + line.len + (lf != NULL);
    if (lf && line.len && lf[-1] == '\r')
        line.len--;
    request_begin(r, c, line);
    r->end = end;
    r->status = request_parse(r);
    r->incomplete = !lf;
    if (!lf)
        r->reason = too_long ? "the line is longer than 65536 bytes" : "the line has no LF";
    return true;
}

/* Drops the rest of a line that was too long. The line is answered already. */
static void client_skip(struct client *c) {
    char *lf = memchr(c->in.bytes, '\n', c->in.len);
    size_t rest = lf ? (size_t)(lf + 1 - c->in.bytes) : c->in.len;
    c->skipping = lf == NULL;
    buf_consume(&c->in, rest);
}

/* Runs the lines in the input buffer, until there are no more, or one of them has to wait. That line and
 * those after it stay in the buffer, and are parsed anew later. If a full batch has run, there may be more
 * lines. */
static void client_run_lines(struct client *c) {
    struct request batch[BATCH];
    size_t start = 0; /* of what has not been run */
    size_t parsed, run;
    if (c->skipping)
        client_skip(c);
    do {
        size_t next = start;
        for (parsed = 0; parsed < BATCH && line_parse(c, next, &batch[parsed]); parsed++)
            next = batch[parsed].end;
        requests_parsed(batch, parsed);
        for (run = 0; run < parsed && client_answer(c, &batch[run]); run++) {
            if (c->phase == QUITTING)
                return; /* the buffer is empty */
            start = batch[run].end;
            c->skipping = batch[run].incomplete;
        }
    } while (run == BATCH);
    c->pending = run < parsed;
    buf_consume(&c->in, start);
}

static const struct wire lines_wire = {client_run_lines, reply_line,
                                       STR_INIT("503 SERVICE_UNAVAILABLE\n")};

static void client_read(struct client *c) {
    /* There is room. If the buffer was full, its lines have run; or a request is pending, and then the
     * server does not read. */
    size_t room = c->in.size - c->in.len;
    char *end = c->in.bytes + c->in.len;
    ssize_t n = recv(client_fd(c), end, room < READ_MAX ? room : READ_MAX, 0);
    if (n < 0 && would_block()) {
        /* When the server stops, and nothing more is here from this client, the client is done. EINTR
         * does not tell whether something is here, so the next turn tries again. */
        if (server.stopping && c->phase == OPEN && errno != EINTR)
            client_quit(c);
        return;
    }
    if (n < 0 || (n == 0 && c->phase == LINGERING)) {
        client_close(c, n < 0 ? strerror(errno) : "");
        return;
    }
    if (c->phase == LINGERING)
        return; /* what it sent is dropped */
    if (n == 0)
        c->phase = ENDING;
    server.bytes_in += n;
    c->in.len += n;
    c->wire->run(c);
}

/* Sends what there is, until the kernel takes no more. In Part I, the loop runs once or twice; in Part
 * II, `feed` may add more to the output. */
static void client_send(struct client *c) {
    while (c->phase != CLOSED && !c->blocked) {
        EACH_EXTENSION (x, feed)
            x->feed(c);
        if (c->out.len == 0)
            return;
        ssize_t n = send(client_fd(c), c->out.bytes, c->out.len, 0);
        if (n < 0 && !would_block()) {
            client_close(c, strerror(errno));
            return;
        }
        if (n > 0) {
            server.bytes_out += n;
            c->last_active = server.now;
            buf_consume(&c->out, n);
            EACH_EXTENSION (x, sent)
                x->sent(c);
        }
        c->blocked = c->out.len > 0;
    }
}

/* Whether a request of the client waits, and the time to try it again has not come. */
static bool client_must_wait(const struct client *c) {
    return c->pending && c->wait_until > server.now;
}

/* Whether there is work to do for the client before the server reads from it again. */
static bool client_is_behind(const struct client *c) {
    return c->pending || c->out.len > 0;
}

/* When all replies are sent, the phases ENDING and QUITTING are over. */
static void client_settle(struct client *c) {
    if (client_is_behind(c))
        return;
    if (c->phase == ENDING)
        client_close(c, "");
    if (c->phase != QUITTING)
        return;
    c->phase = LINGERING;
    c->linger_until = server.now + LINGER_MS;
    if (shutdown(client_fd(c), SHUT_WR) < 0)
        client_close(c, strerror(errno));
}

/* Returns when to close the client, or NEVER. Only a whole request or a send counts as activity.
 * Otherwise a client could keep its connection for ever with a byte now and then. */
static uint64_t client_deadline(const struct client *c) {
    uint64_t seconds = options[TIMEOUT].value;
    if (c->phase == LINGERING)
        return c->linger_until;
    if (seconds == 0 || client_must_wait(c))
        return NEVER;
    return c->last_active + seconds * 1000;
}

/* Puts the client into the set that the loop waits for:
 *
 *     replies wait                       writable
 *     nothing waits                      readable
 *     a request waits and may run now    writable: pselect() returns at once for a socket with free
 *                                        room, and the request runs in the next turn
 *     a request must wait, no replies    neither: a time ends the wait
 */
static void client_watch(const struct client *c, fd_set *readable, fd_set *writable) {
    int fd = client_fd(c);
    if (c->out.len > 0 || (c->pending && !client_must_wait(c)))
        FD_SET(fd, writable);
    else if (!c->pending)
        FD_SET(fd, readable);
}

/* == 9. The loop ==================================================================================
 *
 * One thread serves everybody. pselect() gets two sets of descriptors. It waits until a descriptor in the
 * sets is ready, or until a time is over. Then it removes from the sets all descriptors that are not
 * ready. Nothing else in the server waits, so nobody has to wait for a client that is slow or silent.
 *
 * A set holds descriptors below FD_SETSIZE, 1,024 as a rule. With a higher one, FD_SET() would write
 * behind the end of the set. So the server takes no client whose descriptor is too high.
 *
 * A danger: the server looks whether a signal has come; then one comes; then the server waits, and does
 * not know of the signal. So SIGINT and SIGTERM are blocked: the kernel keeps them back. pselect() lets
 * them in while it waits, and returns when one comes. */

enum {
    ACCEPT_PAUSE_MS = 100, /* after accept() has failed; a try at once would fail again */
    STOP_STEP_MS = 10,     /* the longest wait while the server stops */
    WAIT_MAX = 86400000,   /* ms, a day: pselect() may refuse to wait more than 31 days */
};

/* Writes 127.0.0.1:9000 or [::1]:9000. A sockaddr_storage has room for an address of any kind. The calls
 * take a pointer to what all kinds begin with, a sockaddr, and the length of the whole. */
static void address_name(const struct sockaddr_storage *address, socklen_t len, char *name) {
    char host[INET6_ADDRSTRLEN] = "?", port[6] = "?";
    getnameinfo((const struct sockaddr *)address, len, host, sizeof host, port, sizeof port,
                NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(name, ADDRESS_MAX, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

/* Starts a client on a descriptor. False: an extension has no room for the client. */
static bool client_open(struct client *c, const struct wire *wire, const char *name) {
    int fd = client_fd(c);
    *c = (struct client){.phase = OPEN, .wire = wire, .store = &store, .last_active = server.now};
    c->in = (struct buf){buffers[fd].in, 0, sizeof buffers[fd].in};
    c->out = (struct buf){buffers[fd].out, 0, sizeof buffers[fd].out};
    strcpy(c->name, name);
    bool room = true;
    EACH_EXTENSION (x, opened)
        room = room && x->opened(c);
    if (!room) {
        EACH_EXTENSION (x, closed)
            x->closed(c);
        c->phase = CLOSED;
        return false;
    }
    server.clients_len++;
    if (fd > server.fd_highest)
        server.fd_highest = fd;
    report("connect", c->name, STR(""));
    return true;
}

/* A newcomer becomes a client, if there is room. TCP_NODELAY: replies leave at once. SO_KEEPALIVE: the
 * kernel notices in the end if the client's machine has vanished. If setsockopt() fails, the client is
 * served without them. */
static void loop_admit(int fd, const struct wire *wire, const char *name) {
    int on = 1;
    bool room = fd < FD_SETSIZE && server.clients_len < options[CLIENTS].value;
    if (room && fcntl(fd, F_SETFL, O_NONBLOCK) == 0 && client_open(&clients[fd], wire, name)) {
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
        return;
    }
    server.refused++;
    report("refuse", name, STR("no room for one more client"));
    /* send() does not block, since the buffer of a new socket is empty. There is no LINGERING: a client
     * that has sent something by now may lose the 503. */
    (void)send(fd, wire->refusal.bytes, wire->refusal.len, 0);
    close(fd);
}

/* Takes the clients that wait in the queue of listen(), but in one turn no more than SOMAXCONN. */
static void loop_accept(const struct listener *listener) {
    for (int i = 0; i < SOMAXCONN; i++) {
        struct sockaddr_storage address;
        socklen_t len = sizeof address;
        char name[ADDRESS_MAX];
        int fd = accept(listener->fd, (struct sockaddr *)&address, &len);
        if (fd < 0 && errno == ECONNABORTED)
            continue; /* the newcomer has left already */
        if (fd < 0 && would_block())
            return;
        if (fd < 0) {
            report_always("error", "accept", str_of(strerror(errno)));
            server.accept_at = server.now + ACCEPT_PAUSE_MS;
            return;
        }
        address_name(&address, len, name);
        loop_admit(fd, listener->wire, name);
    }
}

static void on_signal(int signal) {
    server.signal = signal;
}

/* If a descriptor is ready at once, pselect() may return without letting a signal in. A busy server would
 * then never see the signal. So the server lets signals in here, for a moment: the handler runs within the
 * first of the two calls. */
static void loop_check_signals(void) {
    sigset_t blocked;
    sigprocmask(SIG_SETMASK, &server.signals, &blocked);
    sigprocmask(SIG_SETMASK, &blocked, NULL);
    if (server.signal == SIGINT)
        server.stopping = "SIGINT";
    if (server.signal == SIGTERM)
        server.stopping = "SIGTERM";
}

/* Chooses the clients that this turn serves: all of them, unless an extension chooses. */
static void loop_choose(void) {
    server.turn_all = false;
    EACH_EXTENSION (x, choose) {
        if (x->choose())
            return;
    }
    server.turn_all = true;
    server.turn_len = 0;
    for (int fd = 0; fd <= server.fd_highest; fd++)
        if (clients[fd].phase != CLOSED)
            server.turn[server.turn_len++] = fd;
}

/* Puts the descriptors to wait for into the sets. Returns when to stop waiting. */
static uint64_t loop_watch(fd_set *readable, fd_set *writable) {
    uint64_t until = server.now + WAIT_MAX;
    FD_ZERO(readable);
    FD_ZERO(writable);
    if (server.stopping)
        until = server.now + STOP_STEP_MS;
    EACH_EXTENSION (x, wake_at)
        until = earlier(until, x->wake_at());
    for (int i = 0; i < server.turn_len; i++) {
        const struct client *c = &clients[server.turn[i]];
        client_watch(c, readable, writable);
        until = earlier(until, client_deadline(c));
        if (client_must_wait(c))
            until = earlier(until, c->wait_until);
    }
    for (int i = 0; i < server.listeners_len; i++) {
        if (server.now < server.accept_at)
            until = earlier(until, server.accept_at);
        else
            FD_SET(server.listeners[i].fd, readable);
    }
    return until;
}

/* Waits until something is ready, or there is something to do. */
static void loop_wait(fd_set *readable, fd_set *writable) {
    uint64_t until = loop_watch(readable, writable);
    uint64_t ms = until > server.now ? until - server.now : 0;
    struct timespec wait = {ms / 1000, ms % 1000 * 1000000};
    if (pselect(server.fd_highest + 1, readable, writable, NULL, &wait, &server.signals) < 0) {
        if (errno != EINTR && errno != ENOMEM)
            DIE(EXIT_FAILURE, "pselect: %s", strerror(errno));
        FD_ZERO(readable); /* after an error the sets are undefined */
        FD_ZERO(writable);
    }
    server.now = clock_ms();
    loop_check_signals();
}

/* Runs a request that had to wait. Then reads from the client if it has sent something, and runs its
 * requests. When the server stops, it reads from every client once more, so that it answers what has
 * arrived by then. */
static void loop_serve(struct client *c, bool readable, bool writable) {
    if (writable)
        c->blocked = false;
    if (c->pending && !c->blocked && !client_must_wait(c))
        c->wire->run(c);
    bool last_look = server.stopping && c->phase == OPEN && !client_is_behind(c);
    if (c->phase != CLOSED && (readable || last_look))
        client_read(c);
}

static void loop_turn(void) {
    fd_set readable, writable;
    loop_choose();
    loop_wait(&readable, &writable);
    for (int i = 0; i < server.listeners_len; i++)
        if (FD_ISSET(server.listeners[i].fd, &readable))
            loop_accept(&server.listeners[i]);
    for (int i = 0; i < server.turn_len; i++) {
        int fd = server.turn[i];
        loop_serve(&clients[fd], FD_ISSET(fd, &readable), FD_ISSET(fd, &writable));
    }
    EACH_EXTENSION (x, commit)
        x->commit();
    for (int i = 0; i < server.turn_len; i++) {
        struct client *c = &clients[server.turn[i]];
        client_send(c);
        client_settle(c);
        if (c->phase != CLOSED && client_deadline(c) <= server.now)
            client_close(c, "idle");
    }
    EACH_EXTENSION (x, turn)
        x->turn();
}

/* Serves until a signal or QUIT ends it. To stop: accept the connections that already wait, and answer
 * what has arrived. When client_read() finds nothing more from a client, that client is QUITTING. All of
 * them together have LINGER_MS to read their replies and to close. */
static void loop_run(void) {
    while (!server.stopping)
        loop_turn();
    for (int i = 0; i < server.listeners_len; i++) {
        loop_accept(&server.listeners[i]);
        close(server.listeners[i].fd);
    }
    server.listeners_len = 0;
    report("stop", server.stopping, STR(""));
    server.stop_by = server.now + LINGER_MS;
    while (server.clients_len > 0 && server.now < server.stop_by)
        loop_turn();
    for (int fd = 0; fd <= server.fd_highest; fd++)
        if (clients[fd].phase != CLOSED)
            client_close(&clients[fd], "stop");
}

/* == 10. Start ====================================================================================
 *
 * The options, the listening socket, the loop. These are the calls of a TCP server, in order:
 *
 *     getaddrinfo()  turns a name or an address in text into an address for the calls below
 *     socket()       makes a socket
 *     bind()         gives the socket an address and a port of this machine
 *     listen()       from now on, clients can connect; they wait in a queue
 *     accept()       takes one of them out of the queue: a new socket, for this client alone
 *
 * An error before the loop ends the server with one line on stderr. The exit status is then 2 if the
 * command line is wrong, and 1 if a system call failed. */

enum { EXIT_USAGE = 2 };

#define EACH_OPTION(o)                                                                             \
    for (struct option **table = server.options; *table; table++)                                  \
        for (struct option *o = *table; o->name; o++)

/* The tables of the lab, and then those of the extensions. */
static void start_tables(void) {
    int n = 1, m = 1, allow = 0, answered = 0;
    server.commands[0] = commands;
    server.options[0] = options;
    EACH_EXTENSION (x, commands)
        server.commands[n++] = x->commands;
    EACH_EXTENSION (x, options)
        server.options[m++] = x->options;
    EACH_EXTENSION (x, allow)
        server.allow[allow++] = x->allow;
    EACH_EXTENSION (x, answered)
        server.answered[answered++] = x->answered;
}

/* Sets the option to the value. An empty text is refused: it comes from a script whose variable is not
 * set. */
static void option_set(struct option *o, const char *value) {
    char *end;
    if (!o->argument) {
        o->value = 1;
        return;
    }
    if (o->max == 0) {
        if (!*value)
            DIE(EXIT_USAGE, "%s: %s is empty", o->name, o->argument);
        o->text = value;
        return;
    }
    o->value = strtol(value, &end, 10);
    /* strtol() would allow " +1", too */
    if (strspn(value, "0123456789") == 0 || *end || o->value < o->min || o->value > o->max)
        DIE(EXIT_USAGE, "%s: '%s' is not a number from %ld to %ld", o->name, value, o->min, o->max);
}

/* Reads the option in words[i]: -p 9001, -p9001, --port 9001 or --port=9001. Returns the index of the
 * last word that belongs to it. */
static int option_read(char **words, int i) {
    const char *word = words[i];
    bool is_long = word[1] == '-';
    const char *start = word + 1 + is_long;
    struct str name = {start, is_long ? strcspn(start, "=") : 1};
    struct option *o = NULL;
    EACH_OPTION (each) {
        if (is_long ? str_is(name, each->name) : *start == each->letter)
            o = each;
    }
    if (!o)
        DIE(EXIT_USAGE, "%s: no such option; see kvss --help", word);
    const char *value = start[name.len] ? start + name.len + is_long : NULL;
    if (!o->argument && value)
        DIE(EXIT_USAGE, "%s: this option takes no value", word);
    if (o->argument && !value)
        value = words[++i];
    if (o->argument && !value)
        DIE(EXIT_USAGE, "%s: %s is missing", word, o->argument);
    option_set(o, value);
    return i;
}

/* Options may be followed by HOST and PORT, or by PORT alone. */
static void options_read(int argc, char **argv) {
    const char *operands[2] = {NULL, NULL};
    int n = 0;
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] == '-')
            i = option_read(argv, i);
        else if (n < 2)
            operands[n++] = argv[i];
        else
            DIE(EXIT_USAGE, "%s: nothing comes after HOST and PORT", argv[i]);
    }
    if (n == 2)
        option_set(&options[HOST], operands[0]);
    if (n > 0)
        option_set(&options[PORT], operands[n - 1]);
}

static void help_print(void) {
    printf("Usage: kvss [options] [[HOST] PORT]\n\nOptions (and their values):\n");
    EACH_OPTION (o) {
        int width = 22 - (int)strlen(o->name);
        printf("  -%c, --%s %-*s%s", o->letter, o->name, width, o->argument ? o->argument : "",
               o->help);
        if (o->text)
            printf(" (%s)", o->text);
        else if (o->argument && (o->max == 0 || o->value < 0))
            printf(" (none)");
        else if (o->argument)
            printf(" (%ld)", o->value);
        printf("\n");
    }
    printf("\nRequests, one a line:\n");
    EACH_COMMAND (row)
        printf("  KV/1.0 %s\n", row->usage);
}

/* accept() returns the lowest descriptor that is free. If stderr were closed, a client would get number
 * 2, and diagnostics would go to that client. So open() takes 0, 1 and 2 first, if they are free. */
static void start_standard_files(void) {
    int fd = STDIN_FILENO;
    while (fd >= 0 && fd <= STDERR_FILENO)
        fd = open("/dev/null", O_RDWR);
    if (fd < 0)
        DIE(EXIT_FAILURE, "/dev/null: %s", strerror(errno));
    close(fd);
}

static void start_store(void) {
    int fd = open("/dev/urandom", O_RDONLY);
    if (fd < 0 || read(fd, hash_seed, sizeof hash_seed) != sizeof hash_seed)
        DIE(EXIT_FAILURE, "/dev/urandom: %s", strerror(errno));
    close(fd);
    if (!store_init(&store))
        DIE(EXIT_FAILURE, "out of memory");
}

/* From now on, the signal is blocked, except while pselect() waits and in loop_check_signals(). */
static void signal_catch(int number, void (*handler)(int)) {
    struct sigaction action = {.sa_handler = handler};
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, number);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    sigdelset(&server.signals, number);
    if (sigaction(number, &action, NULL) < 0)
        DIE(EXIT_FAILURE, "sigaction: %s", strerror(errno));
}

/* If a client is gone, send() to it raises SIGPIPE, and SIGPIPE ends a process. The server ignores the
 * signal. Then send() returns -1, and the server closes that client. */
static void start_signals(void) {
    sigprocmask(SIG_BLOCK, NULL, &server.signals); /* blocks nothing, but gets the mask */
    signal_catch(SIGINT, on_signal);
    signal_catch(SIGTERM, on_signal);
    signal(SIGPIPE, SIG_IGN);
}

/* After a server has stopped, the kernel remembers its connections for a minute (TIME-WAIT; RFC 9293,
 * section 3.6.1). Without SO_REUSEADDR, the next server could not listen on the same port during that
 * minute. Returns the descriptor, or -1 with errno set. */
static int listen_on(const struct addrinfo *a) {
    int on = 1;
    int fd = socket(a->ai_family, a->ai_socktype, a->ai_protocol);
    if (fd < 0)
        return -1;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fcntl(fd, F_SETFL, O_NONBLOCK) == 0 && bind(fd, a->ai_addr, a->ai_addrlen) == 0 &&
        listen(fd, SOMAXCONN) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

/* Opens a socket to which the clients of a wire connect. A name can have several addresses; the first that
 * works is taken. `what` goes before its address on stderr. */
static void start_listening(const struct wire *wire, long number, const char *what) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    struct sockaddr_storage address;
    socklen_t len = sizeof address;
    char port[24], name[ADDRESS_MAX];
    const char *host = options[HOST].text;
    int fd = -1;
    snprintf(port, sizeof port, "%ld", number);
    int error = getaddrinfo(host, port, &hints, &found);
    if (error)
        DIE(EXIT_FAILURE, "%s: %s", host, gai_strerror(error));
    for (struct addrinfo *a = found; a && fd < 0; a = a->ai_next)
        fd = listen_on(a);
    if (fd < 0 || getsockname(fd, (struct sockaddr *)&address, &len) < 0)
        DIE(EXIT_FAILURE, "%s, port %s: %s", host, port, strerror(errno));
    freeaddrinfo(found);
    if (fd >= FD_SETSIZE)
        DIE(EXIT_FAILURE, "too many files are open already");
    if (fd > server.fd_highest)
        server.fd_highest = fd;
    server.listeners[server.listeners_len++] = (struct listener){wire, fd};
    address_name(&address, len, name);
    fprintf(stderr, "kvss: %s on %s\n", what, name);
}

int main(int argc, char **argv) {
    int status = EXIT_SUCCESS;
    start_tables();
    options_read(argc, argv);
    if (options[HELP].value)
        help_print();
    if (options[VERSION].value)
        printf("kvss %s\n", KVSS_VERSION);
    if (options[HELP].value || options[VERSION].value)
        return fflush(stdout) ? EXIT_FAILURE : 0;
    start_standard_files();
    start_signals();
    start_store();
    EACH_EXTENSION (x, start)
        x->start();
    start_listening(&lines_wire, options[PORT].value, "listening");
    server.started = server.now = clock_ms();
    report("start", "kvss", STR(KVSS_VERSION));
    loop_run();
    EACH_EXTENSION (x, stop) {
        if (!x->stop())
            status = EXIT_FAILURE;
    }
    report("goodbye", "", STR(""));
    return status;
}

/* == PART II ======================================================================================
 *
 * Beyond the lab. Each chapter ends with the struct by which it joins the server; see Extensions. */

#include <aio.h>
#include <ctype.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <wctype.h>

/* More flags of commands. */
enum {
    SECRET = 16,   /* there is a password in it */
    MANAGERS = 32, /* only managers may run it */
    MAILBOX = 64,  /* it is about mailboxes */
    DEADLINE = 128 /* it sets the deadline of a key */
};

static bool status_is_success(enum status status) {
    return status >= OK && status <= NO_CONTENT;
}

/* From now on the server calls the function for each request, as it calls `allow` of an extension. A
 * chapter whose option is not given costs no request anything. */
static void allow_add(enum status (*allow)(struct request *)) {
    int n = 0;
    while (server.allow[n])
        n++;
    server.allow[n] = allow;
}

/* Makes room for so many more bytes in a buffer that malloc() has made. False: out of memory, and the
 * buffer is as it was. */
static bool buf_reserve(struct buf *b, size_t room) {
    if (b->size - b->len >= room)
        return true;
    size_t size = b->size;
    if (size == 0)
        size = 16384;
    while (size - b->len < room)
        size *= 2;
    char *larger = realloc(b->bytes, size);
    if (!larger)
        return false;
    b->bytes = larger;
    b->size = size;
    return true;
}

/* Ends a connection with replies unsent. What the kernel has is still for the client to read, and a
 * close() could destroy it (see LINGERING), so the client has CUT_MS for that. */
enum { CUT_MS = 60000 };

static void client_cut(struct client *c) {
    client_quit(c);
    c->phase = LINGERING;
    c->linger_until = server.now + CUT_MS;
    c->out.len = 0;
    c->blocked = false;
    (void)shutdown(client_fd(c), SHUT_WR);
}

/* A page in a browser can make the browser send a request of HTTP to this server, and the page chooses
 * the lines after the header. So a line of HTTP ends the connection. Such a line ends in " HTTP/1." and
 * one more character, or it begins with "Host:" in upper or lower case. */
static bool line_is_http(struct str line) {
    const size_t version = sizeof " HTTP/1.1" - 1;
    if (line.len >= 5 && strncasecmp(line.bytes, "Host:", 5) == 0)
        return true;
    return line.len > version &&
           memcmp(line.bytes + line.len - version, " HTTP/1.", version - 1) == 0;
}

/* == 11. Speed ====================================================================================
 *
 * Two things cost most of the time, and neither is a computation.
 *
 * Memory: a key that was not used lately is not in the processor's cache. To fetch it takes as long as
 * three hundred instructions. A request needs two such fetches, one after the other: its chain and its
 * entry. But one request does not need the other requests. So the keys of a whole batch are prefetched
 * before its first request runs. The processor fetches many of them at once, and waits only once.
 *
 * select(): it costs time for every descriptor in its sets, ready or not: 200 us for 900 of them. So
 * most turns serve the active clients only, which had a reply just now. Once a millisecond, one turn
 * serves all clients:
 *
 *     active  active  active  all  active  active  ...  active  all  active
 *     '----------- 1 ms ----------'----------- 1 ms --------------'
 *
 * A time-out of pselect() could end the wait of a turn for the active clients. But to set that clock for
 * each wait costs 8 us. A timer that sends SIGALRM each millisecond is set once. */

enum {
    ACTIVE_MS = 2, /* a client is active for so long after a reply */
    ALL_MS = 1,    /* from one turn that serves all clients to the next, while some are active */
};

static struct {
    uint64_t all_at;  /* when a turn has to serve all clients */
    uint64_t wake_at; /* when the wait of this turn has to end, or NEVER */
    bool ticks;       /* the timer is on */
} speed;

/* C has no call for a prefetch, so read one byte. `volatile`: the compiler must not leave the read out,
 * even though nobody needs the byte. */
static void prefetch(const void *memory) {
    (void)*(const volatile char *)memory;
}

/* Each loop needs the memory that the loop before it has fetched. A request without a key has the hash
 * 0, and it does no harm to prefetch that chain. */
static void speed_prefetch(struct request *batch, size_t n) {
    const struct entry *entries[BATCH];
    for (size_t i = 0; i < n; i++)
        entries[i] = *store_chain(batch[i].store, batch[i].hash);
    for (size_t i = 0; i < n; i++)
        if (entries[i])
            prefetch(entries[i]);
    for (size_t i = 0; i < n; i++) {
        const struct entry *e = entries[i];
        while (e && e->hash != (uint32_t)batch[i].hash)
            e = e->next;
        if (e)
            prefetch(e->bytes + e->key_len + e->value_len - 1);
    }
}

/* Looks at eight bytes at once, as a word. A byte's high bit is set in word - n * ones if the byte is
 * less than n, or one before it was; xor with 7F makes 7F 0. (Warren, Hacker's Delight, 6-1.) */
static bool eight_printable(const char *bytes) {
    const uint64_t ones = UINT64_MAX / 255; /* 01 in each byte */
    const uint64_t highs = ones << 7;       /* 80 in each byte */
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return !((word | (word - 0x20 * ones) | ((word ^ 0x7F * ones) - ones)) & highs);
}

/* It takes a tenth of the time of a loop over bytes. The last eight bytes may overlap those before. */
static size_t speed_printable(struct str s) {
    if (s.len < 8)
        return 0;
    size_t last = s.len - 8;
    for (size_t i = 0; i < last; i += 8)
        if (!eight_printable(s.bytes + i))
            return i;
    if (!eight_printable(s.bytes + last))
        return last;
    return s.len;
}

static void on_alarm(int signal) {
    (void)signal; /* it ends pselect() with EINTR, which is all that it is for */
}

static void speed_tick(bool on) {
    struct itimerval tick = {{0, 0}, {0, 0}}; /* off */
    if (on)
        tick.it_value.tv_usec = tick.it_interval.tv_usec = ALL_MS * 1000;
    if (on != speed.ticks && setitimer(ITIMER_REAL, &tick, NULL) == 0)
        speed.ticks = on;
}

static void speed_start(void) {
    signal_catch(SIGALRM, on_alarm);
}

/* The active clients of the last turn are the next turn, unless it has to serve all clients. A turn that
 * serves all does not wait if some are active: the turn of the active clients comes next. */
static bool speed_choose(void) {
    int active = 0;
    server.now = clock_ms(); /* the last turn may have been a long one */
    for (int i = 0; i < server.turn_len; i++) {
        const struct client *c = &clients[server.turn[i]];
        if (c->phase != CLOSED && c->last_active + ACTIVE_MS >= server.now)
            server.turn[active++] = server.turn[i];
    }
    bool some = active > 0 && active < server.clients_len && !server.stopping;
    speed_tick(some);
    if (some && server.now < speed.all_at) {
        server.turn_len = active;
        speed.wake_at = speed.ticks ? NEVER : speed.all_at;
        return true;
    }
    speed.all_at = server.now + ALL_MS;
    speed.wake_at = some ? server.now : NEVER;
    return false;
}

/* A newcomer is active, too: it may have sent something already. A server that stops accepts once more
 * after a turn. Clients of that turn may have left by then, and are still in the list: it may be full. */
static bool speed_opened(struct client *c) {
    if (server.turn_len < FD_SETSIZE)
        server.turn[server.turn_len++] = client_fd(c);
    return true;
}

static uint64_t speed_wake_at(void) {
    return speed.wake_at;
}

static const struct extension speed_extension = {
    .start = speed_start,
    .opened = speed_opened,
    .parsed = speed_prefetch,
    .printable = speed_printable,
    .choose = speed_choose,
    .wake_at = speed_wake_at,
};

/* == 12. Slow requests ============================================================================
 *
 * Two requests take milliseconds: AUTH, because a hash of a password is slow by design, and LIST,
 * because there may be ten thousand names. While one of them runs, the loop serves nobody else. So such
 * a request waits. Each turn that serves all clients ends with slow requests, for BUDGET_MS:
 *
 *     command:  if (!slow_is_chosen(c, SLOW_LIST)) return WAIT;      ... later it runs again, chosen
 *
 * AUTH comes first: there is one in 40 ms at most. Then the client comes that has had the fewest lists,
 * and of these the one whose last slow request is the longest ago. So a client that sends many slow
 * requests waits behind every client that sends one, even if there are 950 of the first kind. */

enum { BUDGET_MS = 2 }; /* the last request may go over it */

enum slow { NOT_SLOW, SLOW_AUTH, SLOW_LIST, SLOW_KINDS };

static struct {
    uint64_t runs;                 /* slow requests and arrivals so far */
    uint64_t next_at[SLOW_KINDS];  /* by kind of request: none runs before this time */
    struct client *chosen;         /* the client whose slow request runs now, or NULL */
    enum slow waits[FD_SETSIZE];   /* by client: what it waits for */
    uint64_t lists[FD_SETSIZE];    /* by client: how many LISTs it has had */
    uint64_t last_run[FD_SETSIZE]; /* by client: the number of its last slow request or arrival */
} slow;

/* The number of a newcomer is the highest. Otherwise a client that connects again and again would
 * always be the first to guess a password. */
static bool slow_opened(struct client *c) {
    slow.lists[client_fd(c)] = 0;
    slow.last_run[client_fd(c)] = ++slow.runs;
    return true;
}

static void slow_leave(struct client *c) {
    slow.waits[client_fd(c)] = NOT_SLOW;
}

/* Whether the slow request of the client, or a step of it, may run now. If not, the client waits. */
static bool slow_is_chosen(struct client *c, enum slow kind) {
    slow_leave(c);
    if (slow.chosen == c) {
        slow.chosen = NULL;
        return true;
    }
    slow.waits[client_fd(c)] = kind;
    c->wait_until = NEVER;
    return false;
}

/* The slow request of the client is done. */
static void slow_done(struct client *c, enum slow kind) {
    slow.last_run[client_fd(c)] = ++slow.runs;
    if (kind == SLOW_LIST)
        slow.lists[client_fd(c)]++;
}

/* Whether client a comes before client b. */
static bool slow_is_before(int a, int b) {
    if (slow.waits[a] != slow.waits[b])
        return slow.waits[a] == SLOW_AUTH;
    if (slow.lists[a] != slow.lists[b])
        return slow.lists[a] < slow.lists[b];
    return slow.last_run[a] < slow.last_run[b];
}

/* Whether a client waits, and reads its replies. */
static bool slow_is_ready(int fd) {
    return slow.waits[fd] && !clients[fd].blocked && clients[fd].out.len < OUTPUT_MAX;
}

/* Returns the client that comes next. NULL: there is none. */
static struct client *slow_next(void) {
    int first = -1;
    for (int fd = 0; fd <= server.fd_highest; fd++) {
        if (!slow_is_ready(fd) || slow.next_at[slow.waits[fd]] > server.now)
            continue;
        if (first < 0 || slow_is_before(fd, first))
            first = fd;
    }
    return first < 0 ? NULL : &clients[first];
}

/* Runs slow requests. Their replies are sent in the next turn. */
static void slow_turn(void) {
    uint64_t end = server.now + BUDGET_MS;
    struct client *c;
    if (!server.turn_all)
        return;
    for (int fd = 0; server.stopping && fd <= server.fd_highest; fd++)
        if (slow.waits[fd])
            clients[fd].wait_until = 0; /* the command may have another reply now */
    while ((c = slow_next()) != NULL) {
        slow.chosen = c;
        c->wait_until = 0;
        c->wire->run(c);
        slow.chosen = NULL; /* perhaps the client had another reply */
        if (clock_ms() >= end)
            return;
    }
}

/* When the next slow request can run. A turn that serves only some of the clients runs none. */
static uint64_t slow_wake_at(void) {
    uint64_t at = NEVER;
    for (int fd = 0; server.turn_all && fd <= server.fd_highest; fd++)
        if (slow_is_ready(fd))
            at = earlier(at, slow.next_at[slow.waits[fd]]);
    return at;
}

static const struct extension slow_extension = {
    .opened = slow_opened,
    .closed = slow_leave,
    .leaving = slow_leave,
    .wake_at = slow_wake_at,
    .turn = slow_turn,
};

/* == 13. Expiry ===================================================================================
 *
 * A key may have a deadline, and is gone from then on. The deadlines are a heap (Williams, 1964): a
 * tree in an array, in which no deadline is before its parent. So the first deadline of the array is the
 * next one to come. To add a deadline, or to take one out anywhere, takes as many steps as the tree is
 * high.
 *
 *              [0] 12:00                    the children of i are 2i + 1 and 2i + 2
 *             /         \
 *        [1] 12:05     [2] 12:30            the note of an entry is its place in the heap + 1,
 *        /      \                           so that an entry that is freed can leave the heap
 *    [3] 13:00  [4] 12:07
 *
 * A request never sees a key whose deadline is past: the key is removed before the request runs. Each
 * turn also removes some of the keys that nobody asks for. The removal is a DEL that no client has sent,
 * and extensions are told of it by `answered`. So the log has it, too.
 *
 * Deadlines are times of the monotonic clock. So a change of the machine's clock does not make keys
 * vanish, or stay for ever. */

enum {
    EXPIRY_MAX = 10 * 365 * 86400, /* seconds: ten years */
    EXPIRY_STEP = 500,             /* keys removed in a turn: 0.1 ms */
    UNIXTIME = 10 + 1 + 3,         /* bytes: 1763719200.250 */
};

static const int64_t UNIXTIME_MAX = 9999999999; /* seconds since 1970: the year 2286 */

struct deadline {
    uint64_t at;
    struct store *store;
    struct entry *entry;
};

static struct {
    struct deadline *heap;
    uint32_t len, size;
    unsigned long long key_bytes; /* of the keys that have deadlines */
} expiry;

static void expiry_place(uint32_t place, struct deadline d) {
    expiry.heap[place] = d;
    d.entry->note = place + 1;
}

/* Finds the place for a deadline, from this place on: up past later ones, or down past earlier ones. */
static void expiry_sift(uint32_t place, struct deadline d) {
    struct deadline *heap = expiry.heap;
    while (place > 0 && d.at < heap[(place - 1) / 2].at) {
        expiry_place(place, heap[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    for (;;) {
        uint32_t child = 2 * place + 1;
        if (child >= expiry.len)
            break;
        if (child + 1 < expiry.len && heap[child + 1].at < heap[child].at)
            child++;
        if (d.at <= heap[child].at)
            break;
        expiry_place(place, heap[child]);
        place = child;
    }
    expiry_place(place, d);
}

/* An entry leaves the heap. The last deadline fills the gap. */
static void expiry_forget(struct entry *e) {
    uint32_t place = e->note - 1;
    struct deadline last = expiry.heap[--expiry.len];
    expiry.key_bytes -= e->key_len;
    if (place < expiry.len)
        expiry_sift(place, last);
}

/* SERVER_ERROR: out of memory. */
static enum status expiry_set(struct request *r, uint64_t at) {
    struct entry *e = *store_find(r->store, r->hash, r->key);
    if (!e)
        return NOT_FOUND;
    if (!e->note) {
        if (expiry.len == expiry.size) {
            uint32_t size = 2 * expiry.size + 64;
            struct deadline *larger = realloc(expiry.heap, size * sizeof *larger);
            if (!larger)
                return SERVER_ERROR;
            expiry.heap = larger;
            expiry.size = size;
        }
        e->note = ++expiry.len;
        expiry.key_bytes += e->key_len;
    }
    expiry_sift(e->note - 1, (struct deadline){at, r->store, e});
    return OK;
}

/* Returns the next deadline to come, or NEVER. */
static uint64_t expiry_wake_at(void) {
    if (expiry.len == 0)
        return NEVER;
    return expiry.heap[0].at;
}

/* Removes an entry whose deadline is past, as a DEL that nobody has sent. Extensions are told first,
 * while the key is still there. */
static void expiry_remove(struct store *st, struct entry *e) {
    struct request r = {
        .store = st,
        .command = command_named(STR("DEL")),
        .key = entry_key(e),
        .value = STR(""),
        .status = NO_CONTENT,
    };
    request_answered(&r);
    store_remove(st, store_find(st, e->hash, entry_key(e)));
}

/* If the deadline of the request's key is past, the key is removed first. */
static enum status expiry_allow(struct request *r) {
    if (expiry_wake_at() > server.now)
        return OK;
    struct entry *e = *store_find(r->store, r->hash, r->key);
    if (e && e->note && expiry.heap[e->note - 1].at <= server.now)
        expiry_remove(r->store, e);
    return OK;
}

static void expiry_commit(void) {
    for (int i = 0; i < EXPIRY_STEP && expiry_wake_at() <= server.now; i++)
        expiry_remove(expiry.heap[0].store, expiry.heap[0].entry);
}

/* Reads digits and nothing else. -1: it is no number, or the number is more than `max`. */
static int64_t number_read(struct str digits, int64_t max) {
    int64_t number = 0;
    for (size_t i = 0; i < digits.len; i++) {
        char digit = digits.bytes[i];
        if (digit < '0' || digit > '9')
            return -1;
        number = number * 10 + (digit - '0');
        if (number > max)
            return -1;
    }
    return number;
}

/* What to add to the monotonic clock for the time of day, in ms. It is rounded to the nearest, so that
 * it is the same whenever it is asked for. */
static int64_t clock_offset(void) {
    struct timespec day, up;
    clock_gettime(CLOCK_REALTIME, &day);
    clock_gettime(CLOCK_MONOTONIC, &up);
    int64_t seconds = day.tv_sec - up.tv_sec;
    return seconds * 1000 + (day.tv_nsec - up.tv_nsec + 1000500000) / 1000000 - 1000;
}

/* A deadline as time of day, UNIXTIME bytes. Valid until the next call. */
static struct str expiry_text(uint64_t at) {
    const long long latest = UNIXTIME_MAX * 1000 + 999;
    long long ms = (long long)at + clock_offset();
    if (ms < 0)
        ms = 0;
    if (ms > latest)
        ms = latest;
    sprintf(server.text, "%010lld.%03lld", ms / 1000, ms % 1000);
    return str_of(server.text);
}

/* It becomes an EXPIREAT, which means the same whenever it is run again. */
static enum status command_expire(struct request *r) {
    int64_t seconds = number_read(r->value, EXPIRY_MAX);
    if (seconds < 1)
        return BAD_REQUEST;
    uint64_t at = server.now + seconds * 1000;
    r->command = command_named(STR("EXPIREAT"));
    r->value = expiry_text(at);
    return expiry_set(r, at);
}

/* A time that is past is a deadline as well: the key is gone. */
static enum status command_expireat(struct request *r) {
    struct str whole = r->value;
    struct str thousandths = STR("000");
    if (whole.len > 4 && whole.bytes[whole.len - 4] == '.') {
        whole.len -= 4;
        thousandths = str_from(r->value, whole.len + 1);
    }
    int64_t seconds = number_read(whole, UNIXTIME_MAX);
    int64_t ms = number_read(thousandths, 999);
    if (seconds < 0 || ms < 0 || whole.len > UNIXTIME - 4)
        return BAD_REQUEST;
    int64_t at = seconds * 1000 + ms - clock_offset();
    if (at < 1)
        at = 1;
    return expiry_set(r, at);
}

/* Seconds are rounded up: a key that is there has at least one left. */
static enum status command_ttl(struct request *r) {
    const struct entry *e = *store_find(r->store, r->hash, r->key);
    long long seconds = -1;
    if (!e)
        return NOT_FOUND;
    if (e->note)
        seconds = (expiry.heap[e->note - 1].at - server.now + 999) / 1000;
    sprintf(server.text, "%lld", seconds);
    r->data = str_of(server.text);
    return OK;
}

static size_t expiry_memory(void) {
    return expiry.size * sizeof *expiry.heap;
}

static const struct extension expiry_extension = {
    .commands =
        (struct command[]){
            {"EXPIRE", "EXPIRE key seconds", 2, 2, command_expire,
             CHANGES | ADDS | DEADLINE | BECOMES, 0},
            {"EXPIREAT", "EXPIREAT key unixtime", 2, 2, command_expireat, CHANGES | ADDS | DEADLINE,
             0},
            {"TTL", "TTL key", 1, 1, command_ttl, 0, 0},
            {0},
        },
    .allow = expiry_allow,
    .forget = expiry_forget,
    .memory = expiry_memory,
    .commit = expiry_commit,
    .wake_at = expiry_wake_at,
};

/* == 14. Roles ====================================================================================
 *
 * With --private, each connection has a store of its own, as long as it lasts. A client is a guest,
 * until AUTH makes it a manager. MANAGE lets a manager run a command on the store of another client,
 * which is known by the port of its end of the connection.
 *
 * The file of --managers has no passwords, only hashes of them (POSIX, crypt()). The only way from a hash
 * back to its password is to guess, and to hash one guess takes milliseconds. So AUTH is a slow request,
 * and the server tries one password each CHECK_MS, for all clients together.
 *
 * This chapter uses Slow requests. */

enum {
    PASSWORD_MAX = 250, /* bytes: to hash more takes longer */
    FAILURES_MAX = 3,   /* of AUTH on one connection */
    CHECK_MS = 40,      /* from one password to the next: of 100 clients, the last waits 4 s */
    SWEEP_MAX = 1024,   /* chains freed in a turn */
};

/* POSIX has it in unistd.h; glibc has not, since 2.28. */
char *crypt(const char *password, const char *setting);

enum { PRIVATE, MANAGERS_FILE };

static struct option roles_options[] = {
    [PRIVATE] = {'P', "private", NULL, 0, 1, 0, NULL, "give each connection a store of its own"},
    [MANAGERS_FILE] = {'M', "managers", "FILE", 0, 0, 0, NULL,
                       "who can AUTH, a line each: name:hash"},
    {0},
};

struct manager {
    struct manager *next;
    const char *hash; /* it comes after the name */
    char name[];      /* ends in a NUL */
};

struct retired { /* the store of a connection that is closed */
    struct store store;
    struct retired *next;
};

static struct {
    struct manager *managers;     /* of the file */
    volatile sig_atomic_t hangup; /* SIGHUP has come: read the file anew */
    struct retired *retired;
    const struct manager *manager[FD_SETSIZE]; /* by client: whom AUTH has made it; NULL: a guest */
    int failures[FD_SETSIZE];                  /* by client: of AUTH */
} roles;

/* Private stores are for lines: the clients of another wire share what they work on. */
static bool roles_opened(struct client *c) {
    roles.manager[client_fd(c)] = NULL;
    roles.failures[client_fd(c)] = 0;
    if (!roles_options[PRIVATE].value || c->wire != &lines_wire)
        return true;
    struct retired *own = malloc(sizeof *own);
    if (!own || !store_init(&own->store)) {
        free(own);
        return false;
    }
    c->store = &own->store;
    return true;
}

/* To free a million entries takes a while, and other clients would have to wait. So each turn frees a
 * part. */
static void roles_closed(struct client *c) {
    if (c->store == &store)
        return;
    struct retired *own = (struct retired *)c->store; /* its first member */
    own->next = roles.retired;
    roles.retired = own;
}

static void roles_sweep(void) {
    for (int i = 0; i < SWEEP_MAX && roles.retired; i++) {
        struct retired *first = roles.retired;
        struct store *st = &first->store;
        if (st->chains_len > 0) {
            struct entry **chain = &st->chains[--st->chains_len];
            while (*chain)
                store_remove(st, chain);
            continue;
        }
        roles.retired = first->next;
        free(st->chains);
        free(first);
    }
}

static uint64_t roles_wake_at(void) {
    return roles.retired ? server.now : NEVER;
}

/* NULL: there is no manager with this name. */
static struct manager *manager_named(struct manager *list, struct str name) {
    while (list && !str_is(name, list->name))
        list = list->next;
    return list;
}

static void managers_free(struct manager *list) {
    while (list) {
        struct manager *next = list->next;
        free(list);
        list = next;
    }
}

/* Adds a line of the managers' file to the list. Returns what is wrong with the line, or NULL. */
static const char *manager_add(struct manager **list, const char *line) {
    struct str name = {line, strcspn(line, ":")};
    if (line[name.len] != ':')
        return "not name:hash";
    if (name.len == 0 || name.len > KEY_MAX || str_has_control(name) || !str_is_text(name) ||
        memchr(name.bytes, ' ', name.len))
        return "a name is 1 to 250 bytes, without a space";
    const char *hash = line + name.len + 1;
    const char *again = crypt("", hash);
    if (!again || again[0] == '*' || strlen(again) != strlen(hash))
        return "not a hash of crypt(3); openssl passwd -6 prints one";
    if (manager_named(*list, name))
        return "that name was there before";
    struct manager *m = malloc(sizeof *m + strlen(line) + 1);
    if (!m)
        return "out of memory";
    strcpy(m->name, line);
    m->name[name.len] = '\0';
    m->hash = m->name + name.len + 1;
    m->next = *list;
    *list = m;
    return NULL;
}

/* Reads the managers' file into a list. Whoever can read it can guess at home, as fast as their machine
 * is. So it has to be closed to others. False: server.text says what is wrong. */
static bool managers_read(FILE *file, struct manager **list) {
    struct stat about;
    char *line = NULL;
    size_t size = 0;
    const char *wrong = NULL;
    int number = 0;
    if (fstat(fileno(file), &about) < 0) {
        sprintf(server.text, "%s", strerror(errno));
        return false;
    }
    if (about.st_mode & (S_IRWXG | S_IRWXO)) {
        snprintf(server.text, sizeof server.text, "it is open to others; type: chmod 600 '%s'",
                 roles_options[MANAGERS_FILE].text);
        return false;
    }
    while (!wrong && getline(&line, &size, file) >= 0) {
        number++;
        line[strcspn(line, "\r\n")] = '\0';
        if (line[0] != '#' && line[strspn(line, " \t")])
            wrong = manager_add(list, line);
    }
    bool is_whole = wrong || feof(file);
    if (!is_whole)
        sprintf(server.text, "%s", strerror(errno));
    if (wrong)
        sprintf(server.text, "line %d: %s", number, wrong);
    free(line);
    return !wrong && is_whole;
}

/* Takes the managers from the file. A client whose manager is gone is a guest from now on. False:
 * server.text says what is wrong with the file, and the managers from before stay. */
static bool roles_load(void) {
    struct manager *list = NULL, *before = roles.managers;
    FILE *file = fopen(roles_options[MANAGERS_FILE].text, "r");
    if (!file) {
        sprintf(server.text, "%s", strerror(errno));
        return false;
    }
    bool is_right = managers_read(file, &list);
    fclose(file);
    if (!is_right) {
        managers_free(list);
        return false;
    }
    roles.managers = list;
    for (int fd = 0; fd < FD_SETSIZE; fd++)
        if (roles.manager[fd])
            roles.manager[fd] = manager_named(list, str_of(roles.manager[fd]->name));
    managers_free(before);
    return true;
}

static void on_hangup(int signal) {
    (void)signal;
    roles.hangup = 1;
}

/* A terminal that is closed sends SIGHUP, too. So a server without --managers whose stderr is a terminal
 * ends, as the system has it. */
static void roles_start(void) {
    const char *path = roles_options[MANAGERS_FILE].text;
    if (path && !roles_load())
        DIE(EXIT_FAILURE, "%s: %s", path, server.text);
    if (path || !isatty(STDERR_FILENO))
        signal_catch(SIGHUP, on_hangup);
}

static void roles_turn(void) {
    const char *path = roles_options[MANAGERS_FILE].text;
    roles_sweep();
    if (!roles.hangup)
        return;
    roles.hangup = 0;
    if (!path)
        report_always("audit", "SIGHUP", STR("there are no --managers to be read"));
    else if (roles_load())
        report_always("audit", path, STR("is read anew"));
    else
        report_always("error", path, str_of(server.text));
}

/* For an unknown name a password is hashed as well. Otherwise the time until the answer would tell which
 * names are known. Hashes of different kinds take different times. So an unknown name is treated like
 * one of the managers, and its hash chooses which one: always the same. SERVER_ERROR: crypt() has
 * failed. */
static enum status manager_check(struct str name, struct str password) {
    char text[PASSWORD_MAX + 1];
    const struct manager *known = manager_named(roles.managers, name);
    const struct manager *like = roles.managers;
    unsigned managers = 0;
    for (const struct manager *m = roles.managers; m; m = m->next)
        managers++;
    if (managers == 0)
        return UNAUTHORIZED;
    for (uint64_t i = hash_key(name) % managers; i > 0; i--)
        like = like->next;
    if (known)
        like = known;
    memcpy(text, password.bytes, password.len);
    text[password.len] = '\0';
    const char *hash = crypt(text, like->hash);
    if (!hash)
        return SERVER_ERROR;
    return known && strcmp(hash, known->hash) == 0 ? OK : UNAUTHORIZED;
}

static enum status command_whoami(struct request *r) {
    const struct client *c = r->client;
    const char *role = roles.manager[client_fd(c)] ? "manager" : "guest";
    sprintf(server.text, "%s %s", role, strrchr(c->name, ':') + 1); /* 127.0.0.1:48106 */
    r->data = str_of(server.text);
    return OK;
}

static enum status command_auth(struct request *r) {
    struct client *c = r->client;
    if (r->value.len > PASSWORD_MAX)
        return BAD_REQUEST;
    if (!slow_is_chosen(c, SLOW_AUTH)) {
        if (!server.stopping)
            return WAIT;
        slow_leave(c);
        return TOO_MANY_REQUESTS;
    }
    slow.next_at[SLOW_AUTH] = server.now + CHECK_MS;
    slow_done(c, SLOW_AUTH);
    enum status status = manager_check(r->key, r->value);
    if (status == OK) {
        roles.manager[client_fd(c)] = manager_named(roles.managers, r->key);
        sprintf(server.text, "AUTH %s", roles.manager[client_fd(c)]->name);
        report_always("audit", c->name, str_of(server.text));
        r->data = STR("manager");
    }
    if (status == UNAUTHORIZED) {
        /* Without the name: it may be a password, typed too early. */
        report_always("audit", c->name, STR("AUTH refused: wrong name or password"));
        r->close = ++roles.failures[client_fd(c)] >= FAILURES_MAX;
    }
    return status;
}

/* Finds the client that a manager means by a port, or by an address and a port, as WHOAMI and stderr
 * show them. The request is about the store of that client then. CONFLICT: two hosts use the port. */
static enum status manage_find(struct request *r, struct str who) {
    enum status status = NOT_FOUND;
    for (int fd = 0; fd <= server.fd_highest; fd++) {
        const struct client *c = &clients[fd];
        if (c->phase == CLOSED || c->wire != &lines_wire)
            continue;
        if (!str_is(who, c->name) && !str_is(who, strrchr(c->name, ':') + 1))
            continue;
        if (status == OK)
            return CONFLICT;
        status = OK;
        r->store = c->store;
    }
    return status;
}

/* The request becomes the inner command. The form of that command comes first, and then whether there is
 * such a client. */
static enum status command_manage(struct request *r) {
    struct str who = r->key;
    char text[128];
    struct str fields[3] = {STR(""), STR(""), STR("")}; /* verb, key, value */
    int n = str_split(r->value, fields, 3);
    struct command *inner = command_named(fields[0]);
    if (!inner || !(inner->flags & MANAGEABLE))
        return BAD_REQUEST;
    r->command = inner;
    r->key = fields[1];
    r->value = fields[2];
    r->status = request_arguments(r, n - 1);
    if (r->status == OK)
        r->status = manage_find(r, who);
    enum status status = request_execute(r);
    if (r->status == OK && status != WAIT) {
        snprintf(text, sizeof text, "MANAGE %.*s %s: %s", (int)who.len, who.bytes, inner->verb,
                 statuses[status].bytes);
        report_always("audit", r->client->name, str_of(text));
    }
    return status;
}

/* A guest may not even know whether the rest of the line is right. */
static enum status roles_allow(struct request *r) {
    if (!(r->command->flags & MANAGERS) || roles.manager[client_fd(r->client)])
        return OK;
    r->reason = NULL;
    return FORBIDDEN;
}

/* A password can be mistyped into any line, so where there are managers all lines are secret. */
static void roles_parsed(struct request *batch, size_t n) {
    for (size_t i = 0; i < n; i++)
        batch[i].secret = roles.managers || (batch[i].command && batch[i].command->flags & SECRET);
}

/* Of the stores whose clients have left. */
static size_t roles_memory(void) {
    size_t sum = 0;
    for (const struct retired *own = roles.retired; own; own = own->next)
        sum += store_memory(&own->store);
    return sum;
}

static const struct extension roles_extension = {
    .commands =
        (struct command[]){
            {"WHOAMI", "WHOAMI", 0, 0, command_whoami, 0, 0},
            {"AUTH", "AUTH user password", 2, 2, command_auth, SECRET, 0},
            {"MANAGE", "MANAGE port command", 2, 2, command_manage, MANAGERS, 0},
            {0},
        },
    .options = roles_options,
    .start = roles_start,
    .opened = roles_opened,
    .closed = roles_closed,
    .parsed = roles_parsed,
    .allow = roles_allow,
    .wake_at = roles_wake_at,
    .memory = roles_memory,
    .turn = roles_turn,
};

/* == 15. Patterns =================================================================================
 *
 * LIST takes a pattern, a regular expression. docs/protocol.md says what a pattern can have in it.
 *
 * Python's matcher tries one way to match after another. With some patterns, each byte more in a name
 * doubles the time, and the server would serve no other client meanwhile. glibc's regexec() can use up
 * the memory instead. A client chooses the pattern, so the time must be short for every pattern.
 *
 * So the pattern becomes an automaton (Glushkov, 1961). Each character of the pattern becomes a state.
 * The automaton enters the state when it reads that character in the text. The server reads the pattern
 * from left to right, and keeps the ends: the states that a match of this part can end with. A new state
 * can come after each of the ends. The automaton of a(b|c)*:
 *
 *                       .---.
 *                .---> (b) <'      read so far    ends
 *               /      ^ |         a              a
 *    start -> (a)      | |         a(b|c)         b, c       both come after a
 *               \      | v         a(b|c)*        a, b, c    b and c come after b and c, too
 *                '---> (c) <.
 *                       '---'
 *
 * The matcher reads the text once. It keeps the set of all states that the bytes so far can lead to, so
 * it follows all ways at the same time. A set of states is a word of 64 bits. For any pattern, a byte
 * takes eight look-ups in a table to come from one set to the next. A pattern that needs more than 64
 * states is refused. LIST reads its pattern anew each time that it runs, so there is only one. */

/* Bytes that no name has. NONE stands for no character. The others stand for the two ends of a name, and
 * enter the states of ^ and $. */
enum { NONE, TEXT_BEGIN, TEXT_END };

struct ends {
    uint64_t states;
    bool start; /* a match can also end where it began: it is the empty text */
};

static struct {
    char text[KEY_MAX + 1]; /* ends in a NUL */
    char *rest;             /* the part of the text that is still to be read */
    bool bad;               /* the text is no pattern, or needs too many states */
    uint64_t made;          /* all states so far: the first one is 1, the next ones 2, 4, 8, ... */
    uint64_t first;         /* the states that a match can begin with */
    struct ends ends;       /* of what has been read; in the end, of the whole pattern */
    uint64_t entered[256];  /* by byte: the states that the byte enters */
    uint64_t next[8][256];  /* by any set of eight states: the states that may follow */
} pattern;

/* Reads the text and returns true, if the text comes next. */
static bool pattern_take(const char *text) {
    if (strncmp(pattern.rest, text, strlen(text)) != 0)
        return false;
    pattern.rest += strlen(text);
    return true;
}

/* Whether one of the bytes comes next. */
static bool pattern_sees(const char *bytes) {
    return *pattern.rest && strchr(bytes, *pattern.rest);
}

/* Reads a byte. At the end of the text there is none, and so the pattern is bad. */
static int pattern_byte(void) {
    if (*pattern.rest)
        return (unsigned char)*pattern.rest++;
    pattern.bad = true;
    return 0;
}

/* From each of the states, each of the followers can be entered. Every set of eight states that has
 * one of the states in it leads to the followers, too. */
static void pattern_follow(uint64_t states, uint64_t followers) {
    for (int i = 0; states != 0; i++) {
        for (int set = 1; set < 256; set++)
            if (states & set)
                pattern.next[i][set] |= followers;
        states >>= 8;
    }
}

/* Returns the states that may come after these. A match may begin at any byte, so the first states of
 * the pattern are always among them. */
static uint64_t pattern_next(uint64_t states) {
    uint64_t next = pattern.first;
    for (int i = 0; i < 8; i++)
        next |= pattern.next[i][states >> (8 * i) & 0xFF];
    return next;
}

/* Makes a new state after the ends. It is the only end then, and the byte enters it. */
static void pattern_state(int byte) {
    uint64_t state = pattern.made + 1;
    if (state == 0) {
        pattern.bad = true;
        return;
    }
    pattern.made |= state;
    pattern.entered[byte] |= state;
    if (pattern.ends.start)
        pattern.first |= state;
    pattern_follow(pattern.ends.states, state);
    pattern.ends = (struct ends){state, false};
}

/* Adds more ends: what has been read so far can also end there. */
static void pattern_end_also(struct ends more) {
    pattern.ends.states |= more.states;
    pattern.ends.start |= more.start;
}

/* Lets each byte from `from` to `to` enter the newest state, too. That state is the only end. */
static void pattern_enter(int from, int to) {
    for (int byte = from; byte <= to; byte++)
        pattern.entered[byte] |= pattern.ends.states;
}

/* Lets all other characters enter the newest state, in place of those that enter it now. */
static void pattern_invert(void) {
    for (int byte = '!'; byte < 256; byte++)
        pattern.entered[byte] ^= pattern.ends.states;
}

/* The newest state is entered by some characters of ASCII and by all characters past ASCII, which are a
 * byte from C0 on, and then bytes from 80 to BF (UTF-8). The latter enter a state of their own. */
static void pattern_past_ascii(void) {
    uint64_t state = pattern.ends.states;
    pattern_state(NONE);
    for (int byte = 0x80; byte < 0xC0; byte++)
        pattern.entered[byte] ^= state | pattern.ends.states;
    pattern_follow(pattern.ends.states, pattern.ends.states);
    pattern.ends.states |= state;
}

/* Reads what follows a \. If that is one of dwsDWS, its class enters the newest state, and NONE is
 * returned: \d, \w and \s are classes, and \D, \W and \S are all characters that are not in them. A name
 * has no space, and each character past ASCII counts as a letter. Any other character stands for itself,
 * and its first byte is returned. \b, \1 and other escapes of Python are refused. */
static int pattern_escape(void) {
    int byte = pattern_byte();
    int lower = tolower(byte);
    if (!strchr("dws", lower)) {
        pattern.bad |= isalnum(byte) != 0;
        return byte;
    }
    for (int c = '!'; c < 256; c++) {
        bool word = c == '_' || c >= 0x80 || isalnum(c);
        bool member = (lower == 'd' && isdigit(c)) || (lower == 'w' && word);
        if (member == (byte == lower))
            pattern_enter(c, c);
    }
    return NONE;
}

/* Reads a class such as [:digit:], which enters the newest state. [.a.] and [=a=] are refused. */
static int pattern_class(void) {
    char name[sizeof "xdigit"] = ""; /* the longest name, six letters */
    int len = 0;
    sscanf(pattern.rest, "[:%6[a-z]:]%n", name, &len);
    wctype_t class = wctype(name);
    pattern.bad |= !class || !len;
    pattern.rest += len;
    for (int c = '!'; c <= '~'; c++)
        if (iswctype((wint_t)c, class))
            pattern_enter(c, c);
    return NONE;
}

/* Reads a character, and returns its first byte. Or reads a class, which enters the newest state, and
 * returns NONE. */
static int pattern_member(void) {
    if (pattern_take("\\"))
        return pattern_escape();
    if (pattern.rest[0] == '[' && strchr(".:=", pattern.rest[1]))
        return pattern_class();
    return pattern_byte();
}

/* Reads what follows a [, up to the ]: characters of ASCII, ranges and classes. */
static void pattern_brackets(void) {
    bool complement = pattern_take("^");
    do {
        int from = pattern_member();
        int to = from;
        if (pattern.rest[0] == '-' && pattern.rest[1] != ']') {
            pattern_byte();
            to = pattern_member();
            pattern.bad |= from == NONE || from > to;
        }
        pattern.bad |= to >= 0x80;
        pattern_enter(from, to);
    } while (!pattern.bad && !pattern_take("]"));
    if (complement)
        pattern_invert();
}

static void pattern_choice(void); /* an atom may be a choice in parentheses */

/* No byte of UTF-8 is FF. If it enters the state, the state is for characters past ASCII, too. A character
 * that stands for itself needs one state for each of its bytes. */
static void pattern_atom(void) {
    int byte = NONE;
    if (pattern_take("(")) {
        pattern_take("?:");
        pattern_choice();
        pattern.bad |= !pattern_take(")");
        return;
    }
    pattern_state(NONE);
    if (pattern_take("["))
        pattern_brackets();
    else if (pattern_take("."))
        pattern_invert();
    else
        byte = pattern_member();
    pattern_enter(byte, byte);
    if (pattern.entered[0xFF] & pattern.ends.states)
        pattern_past_ascii();
    while ((*pattern.rest & 0xC0) == 0x80)
        pattern_state(pattern_byte());
}

/* Reads a number, or returns `absent` if none comes next. A number is only digits: strtol() would allow
 * a sign. */
static long pattern_number(long absent) {
    return pattern_sees("0123456789") ? strtol(pattern.rest, &pattern.rest, 10) : absent;
}

/* Reads a quantifier: * + ? {n} {n,} {,m} {n,m}. It asks for `most` copies of the atom, of which the
 * first `least` must match. If it is endless, the last copy may match again and again. Returns false if
 * no quantifier comes next. A { that begins none stands for itself. */
static bool pattern_quantifier(long *least, long *most, bool *endless) {
    char *start = pattern.rest;
    *least = pattern_sees("+");
    *most = 1;
    *endless = pattern_sees("*+");
    if (pattern_sees("*+?")) {
        pattern_byte();
        return true;
    }
    if (pattern_take("{") && !pattern_sees("}")) {
        *least = pattern_number(0);
        *most = *least;
        if (pattern_take(",")) {
            *endless = pattern_sees("}");
            *most = pattern_number(*least > 0 ? *least : 1);
        }
        if (pattern_take("}"))
            return true;
    }
    pattern.rest = start;
    return false;
}

/* Reads an atom and its quantifier, if it has one. a{2,4} becomes aaa?a?, and a{2,} becomes aa+: the
 * text of the atom is read again for each copy. Each copy needs a new state, so there are not many
 * copies. A quantifier in place of an atom has nothing to repeat, so ** and a** are no patterns. */
static void pattern_repeat(void) {
    long least, most;
    bool endless;
    pattern.bad |= pattern_quantifier(&least, &most, &endless);
    char *atom = pattern.rest;
    struct ends before = pattern.ends;
    uint64_t made = pattern.made;
    pattern_atom();
    if (!pattern_quantifier(&least, &most, &endless))
        return;
    pattern_take("?"); /* lazy: it finds another match, but only if there is one */
    pattern.bad |= most < least;
    if (pattern.made == made)
        return; /* () needs no state, and is the same however often it is repeated */
    char *rest = pattern.rest;
    for (long copy = 1; !pattern.bad; copy++) {
        if (copy > least)
            pattern_end_also(before);
        if (copy >= most)
            break;
        before = pattern.ends;
        made = pattern.made;
        pattern.rest = atom;
        pattern_atom();
    }
    pattern.rest = rest;
    if (most == 0)
        pattern.ends = before;
    if (endless) /* after the last copy comes what the copy can begin with */
        pattern_follow(pattern.ends.states, pattern_next(before.states) & ~made);
}

/* Reads rows with a | between two. In a row are atoms with their quantifiers, and ^ and $, which take
 * none. */
static void pattern_choice(void) {
    struct ends before = pattern.ends;
    struct ends rows = {0, false};
    do {
        pattern.ends = before;
        while (*pattern.rest && !pattern_sees("|)")) {
            if (pattern_take("^"))
                pattern_state(TEXT_BEGIN);
            else if (pattern_take("$"))
                pattern_state(TEXT_END);
            else
                pattern_repeat();
        }
        pattern_end_also(rows);
        rows = pattern.ends;
    } while (pattern_take("|"));
}

/* Makes the automaton. False: the text is no pattern, or needs too many states. */
static bool pattern_read(struct str text) {
    memset(&pattern, 0, sizeof pattern);
    memcpy(pattern.text, text.bytes, text.len);
    pattern.rest = pattern.text;
    pattern.ends.start = true;
    pattern_choice();
    return !pattern.bad && !*pattern.rest;
}

/* Returns the states at an end of the text. ^ and $ match there and take no byte of the text, so several
 * of them may match in a row. */
static uint64_t pattern_edge(uint64_t reached, int edge) {
    uint64_t before;
    do {
        before = reached;
        reached |= pattern_next(reached) & pattern.entered[edge];
    } while (reached != before);
    return reached;
}

/* Whether a part of the text matches the pattern. */
static bool pattern_matches(struct str text) {
    uint64_t ends = pattern.ends.states;
    uint64_t reached = pattern_edge(0, TEXT_BEGIN);
    if (pattern.ends.start)
        return true;
    for (size_t i = 0; i < text.len && !(reached & ends); i++)
        reached = pattern_next(reached) & pattern.entered[(unsigned char)text.bytes[i]];
    return pattern_edge(reached, TEXT_END) & ends;
}

/* == 16. Mailboxes ================================================================================
 *
 * Each user has a mailbox. Messages to the user wait in the mailbox, in order, until a client takes them.
 * At most one client, the holder, has the mailbox at a time. The holder gets each message as a line of
 * its own. This chapter uses Patterns and Slow requests.
 *
 * A connection may die while a message is in the holder's output, and the message must not be lost. So a
 * message stays in the mailbox until the kernel has taken its last byte. Messages are appended to the
 * output when all requests of the holder are answered, and no request is run until the kernel has taken
 * them. So the end of the output is messages and nothing else:
 *
 *     out:   [ 200 OK 2 \n | 100 MESSAGE bob hi \n | 100 MESSAGE bob ho \n ]
 *                            '----------- mailbox.sending ------------'
 *
 * Another client may take the mailbox before the kernel has taken the messages. Then they are cut off
 * the output, and they are still in the mailbox. If the kernel has the beginning of a message and not
 * its end, the server cannot take the beginning back, so it ends the connection. */

enum {
    MAILBOXES_MAX = 10000,   /* LIST would take too long for more */
    HOSTS = 65536,           /* counts of mailboxes by the address of the client that made them */
    MESSAGES_MAX = 1000,     /* in a mailbox */
    MAILBOX_BYTES = 1 << 20, /* of text, in a mailbox */
    LIST_STEP = 1000,        /* names that one turn looks at: 1.4 ms for long names */
    LIST_TEXT = 1 + 1009,    /* bytes of a part of a list: a separator, and a whole frame */
};

static struct option mailboxes_options[] = {
    {'C', "max-mailboxes-per-client", "N", 1, MAILBOXES_MAX, 5000, NULL,
     "that an address may have"},
    {0},
};

struct message {
    struct message *next;
    size_t sending; /* how many bytes it takes in the holder's output, if it is there */
    size_t len;
    char bytes[]; /* the user's name, a space, the text */
};

struct mailbox {
    struct message *first, *last;
    int messages;
    size_t bytes;                 /* of the texts of all messages */
    size_t sending;               /* bytes at the end of the output that belong to messages */
    uint16_t host;                /* where it counts in mailboxes.by_host */
    struct client *holder;        /* the client that has the mailbox, or NULL */
    unsigned long long delivered; /* messages that the kernel has taken for this holder */
    char name[];                  /* ends in a NUL */
};

/* The LIST whose reply a client is getting. */
struct listing {
    bool begun;             /* a part of the reply is written */
    char next[KEY_MAX + 1]; /* the next name to look at; "": LIST begins with the first name */
};

static struct {
    struct mailbox *all[MAILBOXES_MAX]; /* sorted by name */
    size_t len;
    size_t memory;                  /* bytes of all mailboxes and messages */
    int by_host[HOSTS];             /* mailboxes that clients of an address have made */
    bool late;                      /* a message is for a holder that this turn may not serve */
    struct mailbox *of[FD_SETSIZE]; /* by client: the mailbox that it holds, or NULL */
    struct listing lists[FD_SETSIZE];
} mailboxes;

/* Returns the index of the user's mailbox in the array, or the index where it would be. strncmp() is
 * less than 0 if the name is the beginning of `user`, and 0 if it begins with `user`. */
static size_t mailbox_place(struct str user) {
    size_t low = 0, high = mailboxes.len;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (strncmp(mailboxes.all[middle]->name, user.bytes, user.len) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Returns the mailbox of the user that the request names. NULL: there is none, and r->status says why.
 * A user's name has no comma, since a comma ends the name on the wire of Frames. */
static struct mailbox *mailbox_find(struct request *r) {
    size_t place = mailbox_place(r->key);
    if (place < mailboxes.len && str_is(r->key, mailboxes.all[place]->name))
        return mailboxes.all[place];
    r->status = NOT_FOUND;
    if (memchr(r->key.bytes, ',', r->key.len))
        r->status = request_refuse(r, "a user's name has no comma");
    return NULL;
}

/* Takes the first message out of the mailbox, and frees it. */
static void mailbox_pop(struct mailbox *box) {
    struct message *m = box->first;
    box->first = m->next;
    box->messages--;
    box->bytes -= m->len - strlen(box->name) - 1;
    mailboxes.memory -= sizeof *m + m->len;
    free(m);
}

/* The holder, if there is one, gives up the mailbox. Messages that are still in the holder's output are
 * taken back. */
static void mailbox_leave(struct mailbox *box) {
    if (!box || !box->holder)
        return;
    struct client *c = box->holder;
    box->holder = NULL;
    mailboxes.of[client_fd(c)] = NULL;
    if (box->sending > c->out.len)
        client_cut(c); /* the kernel has a part of a message */
    else
        c->out.len -= box->sending;
    c->blocked = false; /* with nothing to send, it would stay blocked for ever */
    box->sending = 0;
    sprintf(server.text, "%llu delivered, %d left", box->delivered, box->messages);
    client_report(c, "leave", str_of(server.text));
}

static void mailboxes_leaving(struct client *c) {
    int fd = client_fd(c);
    mailbox_leave(mailboxes.of[fd]);
    mailboxes.lists[fd] = (struct listing){.begun = false};
}

/* Appends messages to the output of their holder, when no earlier ones are left in it. The wire writes a
 * message as a reply with a status of its own. */
static void mailboxes_feed(struct client *c) {
    struct mailbox *box = mailboxes.of[client_fd(c)];
    if (!box || c->pending || box->sending > 0)
        return;
    for (struct message *m = box->first; m && c->out.len < OUTPUT_MAX; m = m->next) {
        struct request r = {.status = MESSAGE, .data = {m->bytes, m->len}};
        size_t before = c->out.len;
        r.value = str_from(r.data, strlen(box->name) + 1);
        c->wire->reply(&c->out, &r);
        m->sending = c->out.len - before;
        box->sending += m->sending;
    }
}

/* The kernel has taken a part of the output. A message is delivered if its last byte was in that part. */
static void mailboxes_sent(struct client *c) {
    struct mailbox *box = mailboxes.of[client_fd(c)];
    while (box && box->sending > 0 && box->sending - box->first->sending >= c->out.len) {
        box->sending -= box->first->sending;
        box->delivered++;
        mailbox_pop(box);
    }
}

/* A client can connect many times, so its address counts, without the port. Two addresses may share a
 * count, if their hashes are alike. */
static uint16_t client_host(const struct client *c) {
    return hash_key((struct str){c->name, strrchr(c->name, ':') - c->name}) % HOSTS;
}

static enum status command_create(struct request *r) {
    if (mailbox_find(r))
        return CONFLICT;
    if (r->status == BAD_REQUEST)
        return BAD_REQUEST;
    uint16_t host = client_host(r->client);
    if (mailboxes.len == MAILBOXES_MAX || mailboxes.by_host[host] >= mailboxes_options[0].value)
        return FULL;
    struct mailbox *box = calloc(1, sizeof *box + r->key.len + 1);
    if (!box)
        return SERVER_ERROR;
    memcpy(box->name, r->key.bytes, r->key.len);
    size_t place = mailbox_place(r->key);
    struct mailbox **slot = &mailboxes.all[place];
    memmove(slot + 1, slot, (mailboxes.len - place) * sizeof box);
    *slot = box;
    box->host = host;
    mailboxes.by_host[host]++;
    mailboxes.len++;
    mailboxes.memory += sizeof *box + r->key.len + 1;
    return CREATED;
}

static enum status command_delete(struct request *r) {
    size_t place = mailbox_place(r->key);
    struct mailbox *box = mailbox_find(r);
    if (!box)
        return r->status;
    mailbox_leave(box);
    while (box->first)
        mailbox_pop(box);
    mailboxes.memory -= sizeof *box + strlen(box->name) + 1;
    mailboxes.by_host[box->host]--;
    free(box);
    mailboxes.len--;
    struct mailbox **slot = &mailboxes.all[place];
    memmove(slot, slot + 1, (mailboxes.len - place) * sizeof box);
    return NO_CONTENT;
}

/* OK means that the message is on its way: a client holds the mailbox, and takes messages. */
static enum status command_send(struct request *r) {
    struct mailbox *box = mailbox_find(r);
    if (!box)
        return r->status;
    if (box->messages == MESSAGES_MAX || box->bytes + r->value.len > MAILBOX_BYTES)
        return FULL;
    size_t len = r->key.len + 1 + r->value.len;
    struct message *m = malloc(sizeof *m + len);
    if (!m)
        return SERVER_ERROR;
    *m = (struct message){.len = len};
    memcpy(m->bytes, r->key.bytes, len); /* a space and the text follow the name in the line */
    if (box->first)
        box->last->next = m;
    else
        box->first = m;
    box->last = m;
    box->messages++;
    box->bytes += r->value.len;
    mailboxes.memory += sizeof *m + len;
    const struct client *c = box->holder;
    if (!c || c->blocked || (c->pending && c != r->client))
        return ACCEPTED;
    mailboxes.late = !server.turn_all;
    return OK;
}

static enum status command_connect(struct request *r) {
    int fd = client_fd(r->client);
    struct mailbox *box = mailbox_find(r);
    if (!box)
        return r->status;
    mailbox_leave(mailboxes.of[fd]);
    mailbox_leave(box);
    box->holder = r->client;
    box->delivered = 0;
    mailboxes.of[fd] = box;
    client_report(r->client, "hold", r->key);
    sprintf(server.text, "%d", box->messages);
    r->data = str_of(server.text);
    return OK;
}

/* Writes the names as the next part of the reply, and empties their buffer. Each name has a separator
 * before it. On the wire of the lab, the part is appended to the line. On another wire, each part is a
 * reply, which begins with a name. */
static void list_write(struct request *r, struct listing *list, struct buf *names) {
    struct client *c = r->client;
    if (c->wire != &lines_wire) {
        r->data = str_from(buf_str(names), names->len > 0);
        c->wire->reply(&c->out, r);
    } else {
        if (!list->begun)
            buf_append(&c->out, statuses[OK]);
        buf_append(&c->out, buf_str(names));
    }
    names->len = 0;
    list->begun = true;
}

/* Writes names that match, from list->next on, while there is room in the output. Returns true if that was
 * the last part of the list. */
static bool list_go_on(struct request *r, struct listing *list) {
    struct buf names = {server.text, 0, LIST_TEXT};
    struct str separator = r->client->wire == &lines_wire ? STR(" ") : STR(",");
    size_t place = mailbox_place(str_of(list->next));
    size_t end = place + LIST_STEP;
    for (; place < end && place < mailboxes.len; place++) {
        struct str name = str_of(mailboxes.all[place]->name);
        if (!pattern_matches(name))
            continue;
        if (names.len + 1 + name.len > names.size)
            list_write(r, list, &names);
        if (r->client->out.len >= OUTPUT_MAX)
            break;
        buf_append(&names, separator);
        buf_append(&names, name);
    }
    bool done = place == mailboxes.len;
    if (names.len || (done && !list->begun))
        list_write(r, list, &names);
    if (!done)
        strcpy(list->next, mailboxes.all[place]->name);
    return done;
}

/* There may be ten thousand names, and the reply may be long. So LIST takes several turns. If users are
 * created or deleted between two turns, they may be in the reply or not. Without a pattern, the pattern
 * is empty, and each name matches it. */
static enum status command_list(struct request *r) {
    struct client *c = r->client;
    struct listing *list = &mailboxes.lists[client_fd(c)];
    if (!slow_is_chosen(c, SLOW_LIST))
        return WAIT;
    if (!pattern_read(r->key))
        return BAD_REQUEST;
    if (!list_go_on(r, list)) {
        (void)slow_is_chosen(c, SLOW_LIST); /* wait to be chosen once more */
        return WAIT;
    }
    slow_done(c, SLOW_LIST);
    *list = (struct listing){.begun = false};
    if (c->wire == &lines_wire)
        buf_append(&c->out, STR("\n"));
    return REPLIED;
}

/* The next turn that serves all clients serves that holder. So that turn must not wait. */
static uint64_t mailboxes_wake_at(void) {
    if (!mailboxes.late || !server.turn_all)
        return NEVER;
    mailboxes.late = false;
    return server.now;
}

static size_t mailboxes_memory(void) {
    return mailboxes.memory;
}

static const struct extension mailboxes_extension = {
    .commands =
        (struct command[]){
            {"CREATE", "CREATE user", 1, 1, command_create, MAILBOX | ADDS, 0},
            {"DELETE", "DELETE user", 1, 1, command_delete, MAILBOX, 0},
            {"LIST", "LIST [pattern]", 0, 1, command_list, MAILBOX, 0},
            {"SEND", "SEND user text", 2, 2, command_send, MAILBOX | ADDS, 0},
            {"CONNECT", "CONNECT user", 1, 1, command_connect, MAILBOX, 0},
            {0},
        },
    .options = mailboxes_options,
    .memory = mailboxes_memory,
    .closed = mailboxes_leaving,
    .leaving = mailboxes_leaving,
    .feed = mailboxes_feed,
    .sent = mailboxes_sent,
    .wake_at = mailboxes_wake_at,
};

/* == 17. Frames ===================================================================================
 *
 * The mailboxes come from an assignment that has a wire of its own. --frames opens a second port for it.
 * On this wire, a request or a reply is a frame: a verb in 15 bytes, padded with NULs, and then the
 * arguments with a comma between two. A frame has at most 1,024 bytes.
 *
 *     "create" 9 NULs "bob"     "send" 11 NULs "bob,hello, you"     "ok" 13 NULs, and 1,009 more
 *
 * Nothing says where a frame ends. The assignment assumes that one recv() brings one frame, but TCP does
 * not promise that. So the server pads each frame that it sends to 1,024 bytes, and the assignment's
 * client asks recv() for 1,024 bytes. A frame that the server receives may be shorter, if it comes
 * alone. Two short frames that are sent at once may arrive as one, with NULs among its arguments. The
 * server refuses such a frame.
 *
 * A frame becomes a line of KV/1.0, so the commands need not know this wire. This chapter uses
 * Mailboxes. */

enum { FRAME_VERB = 15, FRAME_SIZE = 1024, FRAME_ROOM = FRAME_SIZE - FRAME_VERB };

static struct option frames_options[] = {
    {'F', "frames", "PORT", 0, 65535, -1, NULL, "port for the old wire, 0 for a free one"},
    {0},
};

static struct {
    char line[sizeof "KV/1.0 " + FRAME_SIZE]; /* the request of KV/1.0 that a frame becomes */
    /* By client: how many bytes of its last frame have come; 0 until it has sent a frame of full length. */
    size_t came[FD_SETSIZE];
} frames;

/* Appends the text in as many frames as it needs, and in one frame if it is empty. A frame ends between
 * two characters: a byte of the form 10xxxxxx does not begin one. strncpy() pads with NULs. */
static void frame_append(struct buf *out, const char *verb, struct str text) {
    do {
        char *frame = out->bytes + out->len;
        size_t n = text.len < FRAME_ROOM ? text.len : FRAME_ROOM;
        while (n < text.len && (text.bytes[n] & 0xC0) == 0x80)
            n--;
        strncpy(frame, verb, FRAME_SIZE);
        memcpy(frame + FRAME_VERB, text.bytes, n);
        text = str_from(text, n);
        out->len += FRAME_SIZE;
    } while (text.len > 0);
}

static void frames_reply(struct buf *out, const struct request *r) {
    if (r->status == MESSAGE)
        frame_append(out, "string", r->value);
    else if (r->status == BAD_REQUEST || r->status == SERVER_ERROR)
        frame_append(out, "error", r->data);
    else if (!status_is_success(r->status))
        frame_append(out, "notok", STR(""));
    else if (r->command->run == command_list)
        frame_append(out, "list", r->data);
    else
        frame_append(out, "ok", STR(""));
}

/* Returns the command of the mailboxes whose verb the frame begins with, or NULL. */
static const struct command *frame_command(struct str frame) {
    EACH_COMMAND (row) {
        char verb[FRAME_VERB] = "";
        for (int i = 0; row->verb[i]; i++)
            verb[i] = (char)tolower(row->verb[i]);
        if (row->flags & MAILBOX && memcmp(frame.bytes, verb, FRAME_VERB) == 0)
            return row;
    }
    return NULL;
}

/* The line of the request is a frame. Makes of it the line of KV/1.0 that asks for the same, and parses
 * that. The comma after a user becomes a space. So a space in the name of the user would end the name too
 * early. */
static enum status frame_parse(struct request *r) {
    char arguments[FRAME_ROOM + 1] = "";
    struct str *frame = &r->line;
    while (frame->len > FRAME_VERB && frame->bytes[frame->len - 1] == '\0')
        frame->len--;
    if (frame->len < FRAME_VERB)
        return request_refuse(r, "a frame begins with a verb in 15 bytes");
    const struct command *command = frame_command(*frame);
    if (!command)
        return request_refuse(r,
                              "there is no such verb; verbs are lower case and padded with NULs");
    size_t len = frame->len - FRAME_VERB;
    memcpy(arguments, frame->bytes + FRAME_VERB, len);
    if (strcspn(arguments, "\n") < len)
        return request_refuse(r, "there is a line feed or a NUL in the arguments");
    char *end = arguments + strcspn(arguments, " ,");
    if (*end == ' ')
        return request_refuse(r, "there is a space in a name");
    if (*end == ',' && command->max == 2)
        *end = ' ';
    sprintf(frames.line, "KV/1.0 %s%s%s", command->verb, len ? " " : "", arguments);
    r->line = str_of(frames.line);
    return request_parse(r);
}

/* Whether a line in the frame is of HTTP. Lines end in CR LF, or in LF. */
static bool frame_is_http(struct str frame) {
    size_t start = 0;
    for (size_t i = 0; i <= frame.len; i++) {
        if (i < frame.len && frame.bytes[i] != '\n')
            continue;
        struct str line = {frame.bytes + start, i - start};
        if (line.len && frame.bytes[i - 1] == '\r')
            line.len--;
        if (line_is_http(line))
            return true;
        start = i + 1;
    }
    return false;
}

/* Runs a frame. False: the frame has to wait. */
static bool frame_run(struct client *c, struct str frame) {
    struct request r;
    request_begin(&r, c, frame);
    r.status = frame_parse(&r);
    r.close = !r.command && frame_is_http(frame);
    requests_parsed(&r, 1);
    return client_answer(c, &r);
}

/* Runs the frames in the input buffer. All of them came with one recv(), which may have cut the last one
 * short. If this client pads its frames, the NULs that come next are the rest of that frame. */
static void frames_run(struct client *c) {
    size_t *came = &frames.came[client_fd(c)];
    size_t at = 0;
    while (*came > 0 && *came < FRAME_SIZE && at < c->in.len && c->in.bytes[at] == '\0') {
        ++*came;
        at++;
    }
    while (at < c->in.len) {
        struct str frame = str_from(buf_str(&c->in), at);
        if (frame.len > FRAME_SIZE)
            frame.len = FRAME_SIZE;
        if (!frame_run(c, frame))
            break;
        if (c->phase == QUITTING)
            return;
        at += frame.len;
        if (*came > 0 || frame.len == FRAME_SIZE)
            *came = frame.len;
    }
    buf_consume(&c->in, at);
    c->pending = c->in.len > 0;
}

static void frames_closed(struct client *c) {
    frames.came[client_fd(c)] = 0;
}

static const char frames_refusal[FRAME_SIZE] = "error"; /* and NULs */

static const struct wire frames_wire = {frames_run, frames_reply, {frames_refusal, FRAME_SIZE}};

static void frames_start(void) {
    long port = frames_options[0].value;
    if (port >= 0)
        start_listening(&frames_wire, port, "listening for frames");
}

static const struct extension frames_extension = {
    .options = frames_options,
    .start = frames_start,
    .closed = frames_closed,
};

/* == 18. Log ======================================================================================
 *
 * With --data FILE the store outlives the server. The server appends each change of the shared store to
 * FILE, as the request that makes the change. At the next start the server runs these requests again.
 *
 * A reply is a promise. So the changes of one turn of the loop are written together, before any reply
 * of that turn is sent. This is called group commit.
 *
 *     run PUT a 1 (one client) --.
 *     run DEL b (another) -------+--> write() to FILE --> (fsync) --> send() both replies
 *     run GET c -----------------'
 *
 * What the kernel has taken outlives the server, but not a power cut. fsync() waits for the disk, and
 * --fsync says whether replies wait for the disk, too.
 *
 * If write() fails, some replies promise a change that is not in FILE. The server cuts the connections
 * of these replies, with the replies unsent. It keeps the lines, and tries again each second. Until the
 * lines are written, changes get 500. Only a DEL is still made, though its reply cannot be promised. It
 * makes the store smaller, and Compaction can then write FILE anew, shorter.
 *
 * If fsync() fails, it does not help to call fsync() again: the kernel may have dropped what it could
 * not write (Rebello and others, Can Applications Recover from fsync Failures?, 2020). Changes get 500
 * until Compaction has written FILE anew.
 *
 * FILE may be moved away or deleted while it is open. write() goes on without an error then, but the
 * next start would not find what was written. So each second the server looks whether FILE still has
 * its name. While FILE has lost its name, changes get 500. */

enum {
    FILE_CHECK_MS = 1000, /* from one check of FILE to the next */
    POLL_MS = 10,         /* from one look to the next at what goes on beside the loop */
    RESERVE = 1 << 21,    /* bytes of memory that are set aside */
    PATH_SIZE = 8192,     /* bytes: more than the longest path that a system takes */
};

enum { DATA, FSYNC, REPAIR };

static struct option log_options[] = {
    [DATA] = {'d', "data", "FILE", 0, 0, 0, NULL, "keep the store in a file"},
    [FSYNC] = {'s', "fsync", "WHEN", 0, 0, 0, "everysec",
               "wait for the disk: always, everysec or no"},
    [REPAIR] = {'r', "repair", NULL, 0, 1, 0, NULL, "move bad lines of FILE to FILE.bad"},
    {0},
};

/* What has the name of FILE. */
enum place {
    IN_PLACE, /* FILE */
    MOVED,    /* nothing: FILE was moved away or deleted */
    TAKEN,    /* something else */
};

static struct {
    const char *name;          /* of FILE, as the operator has given it; for messages */
    char *path;                /* of FILE, from the root; NULL: there is no log */
    int fd;                    /* FILE, locked */
    off_t size;                /* of FILE: whole lines */
    off_t limit;               /* changes wait when FILE would get longer; 0: they do not */
    struct buf lines;          /* to be written */
    bool promised[FD_SETSIZE]; /* by client: a reply promises these lines */
    uint64_t check_at;         /* the time of the next check */
    bool changed;              /* lines were written that no check has seen, and no sync */
    enum place place;          /* where FILE was when the server last looked */
    bool sync_failed;          /* FILE cannot be trusted; a compaction heals that */
    bool refusing;             /* changes get 500, and the operator knows why */
    bool outdated;             /* FILE lacks something: a compaction is to write it anew */
    bool syncing;              /* FILE is synced beside the loop */
    struct aiocb sync;
    void *reserve;
} logfile;

static const char log_header[] = "# kvss data 1: the changes of a store, as requests\n";

static bool fsync_is(const char *when) {
    return strcmp(log_options[FSYNC].text, when) == 0;
}

/* The lock ends when the server ends, or closes any descriptor of the file. */
static bool file_lock(int fd) {
    struct flock lock = {.l_type = F_WRLCK};
    return fcntl(fd, F_SETLK, &lock) == 0;
}

/* Where FILE is now. If lstat() fails for another reason, that tells nothing new. A symbolic link with
 * the name of FILE is something else, wherever it leads, because rename() would replace the link. */
static enum place file_place(void) {
    struct stat named, opened;
    bool absent = lstat(logfile.path, &named) < 0;
    if (absent && (errno == ENOENT || errno == ENOTDIR))
        return MOVED;
    if (absent || fstat(logfile.fd, &opened) < 0)
        return logfile.place;
    bool same = named.st_ino == opened.st_ino && named.st_dev == opened.st_dev;
    return same ? IN_PLACE : TAKEN;
}

/* Writes all of the data, from the offset `at` on. False: errno says why, and a part may be written. */
static bool write_at(int fd, struct str data, off_t at) {
    while (data.len > 0) {
        ssize_t n = pwrite(fd, data.bytes, data.len, at);
        if (n < 0)
            return false;
        data = str_from(data, (size_t)n);
        at += n;
    }
    return true;
}

/* Appends the lines to a file, and empties the buffer. Returns how long the file is. -1: errno says why. */
static off_t file_append(int fd, struct buf *lines) {
    off_t end = lseek(fd, 0, SEEK_END);
    if (end < 0 || !write_at(fd, buf_str(lines), end))
        return -1;
    end += (off_t)lines->len;
    lines->len = 0;
    return end;
}

/* Appends a request. The caller has reserved REQUEST_MAX bytes, and no request is longer. */
static void log_line(struct buf *lines, const char *verb, struct str key, struct str value) {
    buf_append(lines, STR("KV/1.0 "));
    buf_append(lines, str_of(verb));
    buf_append(lines, STR(" "));
    buf_append(lines, key);
    if (value.len)
        buf_append(lines, STR(" "));
    buf_append(lines, value);
    buf_append(lines, STR("\n"));
}

/* A server whose memory is full must be able to start again. But the same entries do not always fit
 * into the same memory: it depends on the order in which they come. So the server sets some memory
 * aside before it adds anything. While there is no such memory, nothing is added. */
static bool log_has_reserve(void) {
    if (!logfile.reserve)
        logfile.reserve = malloc(RESERVE);
    return logfile.reserve != NULL;
}

static bool log_has(const struct request *r) {
    return logfile.path && r->command->flags & CHANGES && r->store == &store;
}

/* Whether the only trouble is that FILE cannot grow: there are lines that could not be written. */
static bool log_is_stuck(void) {
    bool well = !logfile.sync_failed && logfile.place == IN_PLACE;
    return well && logfile.refusing && logfile.lines.len > 0;
}

/* A change is not made if it could not be logged. But a DEL is made while FILE cannot grow: it makes room.
 * A change waits while FILE is full, until a compaction has made FILE shorter; but when the server stops,
 * nothing waits. */
static enum status log_allow(struct request *r) {
    off_t next = logfile.size + (off_t)logfile.lines.len + REQUEST_MAX;
    if (!log_has(r) || r->status != OK)
        return OK;
    bool adds = r->command->flags & ADDS;
    if (logfile.refusing && (adds || !log_is_stuck()))
        return SERVER_ERROR;
    if (!buf_reserve(&logfile.lines, REQUEST_MAX) || (adds && !log_has_reserve()))
        return SERVER_ERROR;
    if (!logfile.limit || next <= logfile.limit || server.stopping)
        return OK;
    r->client->wait_until = server.now + POLL_MS;
    return WAIT;
}

/* A change that was made is to be written. There may be no room for a DEL that no client has sent. */
static void log_answered(const struct request *r) {
    if (!r->command || !log_has(r) || !status_is_success(r->status))
        return;
    if (!buf_reserve(&logfile.lines, REQUEST_MAX)) {
        logfile.outdated = true;
        return;
    }
    log_line(&logfile.lines, r->command->verb, r->key, r->value);
    if (r->client)
        logfile.promised[client_fd(r->client)] = true;
}

/* FILE is in trouble. The operator is told of the first trouble only. */
static void log_fail(int error) {
    char text[128];
    snprintf(text, sizeof text, "%s; from now on changes get 500", strerror(error));
    if (!logfile.refusing)
        report_always("error", logfile.name, str_of(text));
    logfile.refusing = true;
}

static void log_fail_sync(int error) {
    logfile.sync_failed = true;
    log_fail(error);
}

/* The name of a file is safe on the disk only after the folder of the file is synced. Some systems
 * cannot sync a folder, and say EINVAL. The folder is opened by its path each time: somebody may have
 * moved the old folder away, and made a new one. False: errno says why. */
static bool folder_sync(void) {
    char folder[PATH_SIZE];
    snprintf(folder, sizeof folder, "%s", logfile.path);
    strrchr(folder, '/')[1] = '\0';
    int fd = open(folder, O_RDONLY);
    if (fd < 0)
        return false;
    bool synced = fsync(fd) == 0 || errno == EINVAL;
    close(fd);
    return synced;
}

/* Looks where FILE is, and tells the operator if FILE is not in its place any more. FILE is back only
 * when its name is on the disk. */
static void log_look(void) {
    static const char *const troubles[] = {
        [MOVED] = "is gone; changes get 500 until it is back, or COMPACT writes it anew",
        [TAKEN] = "is another file now; changes get 500 until the right one is back",
    };
    enum place place = file_place();
    if (place == logfile.place || (place == IN_PLACE && !folder_sync()))
        return;
    logfile.place = place;
    if (place == IN_PLACE)
        return;
    report_always("error", logfile.name, str_of(troubles[place]));
    logfile.refusing = true;
}

static void compact_keep(struct str lines); /* see Compaction */

/* If only a part of the lines was written, that part is cut off. Otherwise the next start could find
 * lines that nobody was promised. If the cut fails as well, the next start may find them. */
static void log_write(void) {
    struct str lines = buf_str(&logfile.lines);
    if (!write_at(logfile.fd, lines, logfile.size)) {
        log_fail(errno);
        int cut = ftruncate(logfile.fd, logfile.size);
        (void)cut;
        return;
    }
    compact_keep(lines);
    logfile.size += (off_t)lines.len;
    logfile.lines.len = 0;
    logfile.changed = true;
    if (fsync_is("always") && fsync(logfile.fd) < 0)
        log_fail_sync(errno);
}

/* Ends a commit. If the next start will find all that was written, the promises of this turn are kept. If
 * not, the connections that have such promises end without the replies. */
static void log_settle(void) {
    bool well = !logfile.lines.len && !logfile.sync_failed && logfile.place == IN_PLACE;
    if (well && logfile.refusing)
        report("recover", logfile.name, STR("changes are made again"));
    logfile.refusing = !well;
    for (int fd = 0; !well && fd <= server.fd_highest; fd++)
        if (logfile.promised[fd] && clients[fd].phase != CLOSED)
            client_cut(&clients[fd]);
    memset(logfile.promised, 0, sizeof logfile.promised);
}

/* Starts to sync FILE beside the loop, in a thread that the C library has for it. If there can be no
 * thread, FILE is synced here. */
static void sync_begin(void) {
    logfile.changed = false;
    if (!fsync_is("everysec"))
        return;
    logfile.sync =
        (struct aiocb){.aio_fildes = logfile.fd, .aio_sigevent.sigev_notify = SIGEV_NONE};
    logfile.syncing = aio_fsync(O_SYNC, &logfile.sync) == 0;
    if (!logfile.syncing && fsync(logfile.fd) < 0)
        log_fail_sync(errno);
}

/* Looks whether the sync is done. */
static void sync_poll(void) {
    int error = logfile.syncing ? aio_error(&logfile.sync) : EINPROGRESS;
    if (error == EINPROGRESS)
        return;
    logfile.syncing = false;
    if (aio_return(&logfile.sync) < 0)
        log_fail_sync(error);
}

/* Writes the lines of this turn. Once a second there is a check, too: the server looks where FILE is,
 * tries again to write what could not be written, and has FILE synced. Lines are written even when FILE
 * has lost its name, so that FILE is complete when somebody moves it back. */
static void log_commit(void) {
    bool check = server.now >= logfile.check_at;
    if (!logfile.path)
        return;
    if (check) {
        logfile.check_at = server.now + FILE_CHECK_MS;
        log_look();
        if (logfile.changed && !logfile.syncing)
            sync_begin();
    }
    if (logfile.lines.len && (check || !logfile.refusing))
        log_write();
    log_settle();
}

static uint64_t log_wake_at(void) {
    if (logfile.syncing)
        return server.now + POLL_MS;
    if (logfile.changed || logfile.refusing)
        return logfile.check_at;
    return NEVER;
}

/* The server ends. False: it is not known whether the disk has all that was promised, or the next start
 * would not find it. */
static bool log_stop(void) {
    if (!logfile.path)
        return true;
    log_look();
    if (logfile.lines.len)
        log_write();
    if (fsync_is("everysec") && fsync(logfile.fd) < 0)
        log_fail_sync(errno);
    log_settle();
    return !logfile.refusing;
}

static const struct extension log_extension = {
    .options = log_options,
    .answered = log_answered,
    .commit = log_commit,
    .wake_at = log_wake_at,
    .stop = log_stop,
};

/* == 19. Compaction ===============================================================================
 *
 * The log grows with each change, the store does not. When FILE is more than twice as long as the store
 * needs, or cannot grow and could be shorter, the server writes FILE anew. fork() makes a child of the
 * server, and the child writes the store to FILE.kvss-new. The server goes on meanwhile. What it changes
 * in its own memory does not change the memory of the child, which stays as it was at the fork().
 *
 *     server  ---+----- changes go to FILE, and are kept -----+------------------+--- rename() --->
 *                |                                            | appends these    | appends the last
 *                | fork()                                     |                  |
 *     child      '-- writes the store to FILE.kvss-new, ------'---- syncs -------'-- exits
 *                    syncs
 *
 *     phase  RESTING | WRITING                                | SYNCING          | RESTING
 *
 * When the child has written the store, the server appends the changes that it has kept, and asks the
 * child to sync them. Then rename() puts FILE.kvss-new in the place of FILE. So at any moment FILE is the
 * old file or the new one, and whole.
 *
 * What always holds: When FILE.kvss-new gets the name of FILE, it has all changes that FILE has. Those
 * that came before SYNCING are on the disk. The others are synced next, as in FILE; with --fsync always,
 * before rename(). This chapter uses Log and Expiry. */

enum {
    COMPACT_MIN = 1 << 20,   /* bytes of a FILE that is not worth the trouble */
    COMPACT_REST_MS = 1000,  /* from one to the next, at least, and ... */
    COMPACT_REST = 10,       /* ... times what it took: where much changes, it would never rest */
    COMPACT_NICE = 10,       /* of the child: beside a busy server it gets a tenth of a processor */
    COMPACT_LEAST = 1 << 24, /* bytes: a store that needs less counts as one that needs this */
    COMPACT_FULL = 8,        /* times what the store needs: FILE is full, and changes wait */
    KEPT_MAX = 1 << 27,      /* bytes of changes that are kept for the end */
    CLOCK_MS = 1000,         /* from one look at the machine's clock to the next; it was set if it
                              * has moved by so much */
};

static struct {
    enum { RESTING, WRITING, SYNCING } phase;
    bool asked;           /* by COMPACT, until the next one has ended */
    bool failed;          /* the last one has */
    uint64_t began;       /* when the last one began ... */
    uint64_t ended;       /* ... and ended */
    int child;            /* a socket to it; or -1 */
    char path[PATH_SIZE]; /* FILE.kvss-new */
    int fd;               /* the same, locked; or -1 */
    struct buf kept;      /* lines that were written to FILE since the fork() */
    size_t unwritten;     /* bytes of logfile.lines whose changes the child has in its memory */
    int64_t offset;       /* clock_offset() when the deadlines in FILE were written */
} compaction = {.child = -1, .fd = -1};

/* Says why a file could not get its name. Valid until the next call. */
static const char *name_trouble(const char *path, int error) {
    const char *why = error == EEXIST ? "this file is in the way; move it" : strerror(error);
    snprintf(server.text, sizeof server.text, "%.900s: %s", path, why);
    return server.text;
}

/* Makes FILE.kvss-new, and locks it before it gets the name of FILE. It gets the owner of FILE, if that
 * is allowed, and the rights of FILE. False: errno says why. */
static bool copy_open(void) {
    struct stat about;
    compaction.fd = open(compaction.path, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (compaction.fd < 0 || !file_lock(compaction.fd) || fstat(logfile.fd, &about) < 0)
        return false;
    int owned = fchown(compaction.fd, about.st_uid, about.st_gid);
    (void)owned; /* FILE need not be ours */
    return fchmod(compaction.fd, about.st_mode & 0777) == 0;
}

/* Whether a new FILE may get the name of FILE. What else has that name stays. If nothing has it, only
 * COMPACT brings FILE back, because the operator has to decide that. */
static bool copy_may_move(void) {
    return logfile.place == IN_PLACE || (logfile.place == MOVED && compaction.asked);
}

/* How long FILE has to be: a PUT for each key of the shared store, an EXPIREAT for each deadline. */
static off_t compact_size(void) {
    uint64_t size = sizeof log_header - 1 + store.bytes + expiry.key_bytes;
    size += store.keys * (sizeof "KV/1.0 PUT  \n" - 1);
    size -= store.keys * offsetof(struct entry, bytes);
    size += expiry.len * (sizeof "KV/1.0 EXPIREAT  \n" - 1 + UNIXTIME);
    return (off_t)size;
}

/* Writes the store to FILE.kvss-new, and syncs it. The child calls this, and ends if its parent has
 * ended. No malloc() here: the thread of aio_fsync() may have been in malloc() at the fork(). The lines
 * are collected in the memory of the clients' buffers, of which the child has its own copy. False:
 * errno says why. */
static bool copy_write(void) {
    pid_t parent = getppid();
    struct buf lines = {(char *)buffers, 0, 2 * REQUEST_MAX};
    buf_append(&lines, str_of(log_header));
    for (uint32_t i = 0; i < store.chains_len; i++) {
        for (const struct entry *e = store.chains[i]; e; e = e->next) {
            log_line(&lines, "PUT", entry_key(e), entry_value(e));
            if (e->note)
                log_line(&lines, "EXPIREAT", entry_key(e),
                         expiry_text(expiry.heap[e->note - 1].at));
            if (lines.len < REQUEST_MAX / 2)
                continue;
            if (getppid() != parent)
                _exit(0);
            if (file_append(compaction.fd, &lines) < 0)
                return false;
        }
    }
    return file_append(compaction.fd, &lines) >= 0 && fsync(compaction.fd) == 0;
}

/* All that the child does. It sends an errno, or 0, when the store is written, and after each sync that the
 * server asks for with a byte. It ends after the server has closed its end and the old FILE: the last
 * one to close a long file waits until its blocks are freed, 20 ms for 60 MB. The child closes its
 * copies of all connections at once. Otherwise a connection would not end when the server closes it. */
static void compact_child(int server_end) {
    char byte;
    int niceness = nice(COMPACT_NICE);
    (void)niceness; /* the child does its work in any case */
    for (int fd = STDERR_FILENO + 1; fd <= server.fd_highest; fd++)
        if (fd != logfile.fd && fd != compaction.fd && fd != server_end)
            close(fd);
    int error = copy_write() ? 0 : errno;
    while (write(server_end, &error, sizeof error) == sizeof error &&
           read(server_end, &byte, 1) == 1)
        error = fsync(compaction.fd) < 0 ? errno : 0;
    _exit(0);
}

/* The compaction is over: it failed, and `why` says why, or `why` is NULL. The operator is told of the
 * first failure, and when somebody has asked; but not if FILE is not trusted, which is told already. */
static void compact_over(const char *why) {
    if (why && !logfile.sync_failed && (compaction.asked || !compaction.failed))
        report_always("error", "compaction", str_of(why));
    if (why)
        logfile.outdated = true;
    if (compaction.child >= 0)
        close(compaction.child);
    if (compaction.fd >= 0) {
        close(compaction.fd);
        (void)unlink(compaction.path);
    }
    free(compaction.kept.bytes);
    compaction.kept = (struct buf){NULL, 0, 0};
    compaction.child = -1;
    compaction.fd = -1;
    compaction.phase = RESTING;
    compaction.asked = false;
    compaction.failed = why != NULL;
    compaction.ended = server.now;
}

/* When the next step of a compaction is due, or NEVER. After a compaction comes a rest, which is short while
 * FILE cannot be trusted. There is no rest when FILE is half full, or if it is outdated and the server
 * stops. */
static uint64_t compact_next(void) {
    bool grown = logfile.size > COMPACT_MIN && logfile.size / 2 > compact_size();
    bool stuck = log_is_stuck() && logfile.size > compact_size();
    bool needed = compaction.asked || logfile.sync_failed || logfile.outdated || grown || stuck;
    uint64_t rest = (compaction.ended - compaction.began) * COMPACT_REST;
    if (compaction.phase != RESTING)
        return server.now + POLL_MS;
    if (!needed || !copy_may_move())
        return NEVER;
    if ((logfile.limit && logfile.size > logfile.limit / 2) ||
        (server.stopping && logfile.outdated))
        return server.now;
    if (rest < COMPACT_REST_MS || logfile.sync_failed)
        rest = COMPACT_REST_MS;
    return compaction.ended + rest;
}

/* Makes FILE.kvss-new, and the child that writes it. NULL, or why that failed. */
static const char *compact_fork(void) {
    int ends[2];
    if (!copy_open())
        return name_trouble(compaction.path, errno);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0)
        return strerror(errno);
    compaction.child = ends[0];
    pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        compact_child(ends[1]);
    }
    close(ends[1]);
    if (child < 0 || fcntl(compaction.child, F_SETFL, O_NONBLOCK) < 0)
        return strerror(errno);
    return NULL;
}

/* FILE is not outdated when it is written anew. If it becomes so after the fork(), that was in vain. */
static void compact_begin(void) {
    log_look();
    if (compact_next() == NEVER)
        return; /* FILE has just been moved away */
    logfile.outdated = false;
    compaction.unwritten = logfile.lines.len;
    compaction.began = server.now;
    compaction.phase = WRITING;
    const char *why = compact_fork();
    if (why)
        compact_over(why);
}

/* Lines were written to FILE. The child does not have them in its memory. */
static void compact_keep(struct str lines) {
    compaction.unwritten = 0;
    if (compaction.phase == RESTING)
        return;
    if (compaction.kept.len + lines.len > KEPT_MAX || !buf_reserve(&compaction.kept, lines.len))
        logfile.outdated = true;
    else
        buf_append(&compaction.kept, lines);
}

/* The child is done with what it does in this phase, and FILE.kvss-new gets the lines that have come
 * meanwhile. After WRITING, the child is asked to sync them. After SYNCING, FILE.kvss-new becomes FILE.
 * False: errno says why not. */
static bool compact_step(void) {
    char text[64];
    off_t size = file_append(compaction.fd, &compaction.kept);
    if (size < 0)
        return false;
    if (compaction.phase == WRITING) {
        compaction.phase = SYNCING;
        return write(compaction.child, "", 1) == 1;
    }
    if (fsync_is("always") && fsync(compaction.fd) < 0)
        return false;
    log_look();
    errno = ENOENT;
    if (!copy_may_move() || rename(compaction.path, logfile.path) < 0)
        return false;
    snprintf(text, sizeof text, "%lld bytes, now %lld", (long long)logfile.size, (long long)size);
    close(logfile.fd);
    logfile.fd = compaction.fd;
    compaction.fd = -1;
    logfile.size = size;
    if (compaction.unwritten > 0) /* FILE has their changes now */
        buf_consume(&logfile.lines, compaction.unwritten);
    logfile.place = IN_PLACE;
    logfile.changed = true; /* the last lines are to be synced now */
    logfile.check_at = server.now;
    compact_over(NULL);
    report("compact", logfile.name, str_of(text));
    if (folder_sync())
        logfile.sync_failed = false;
    else
        log_fail_sync(errno);
    return true;
}

/* Looks whether the child is done. If FILE is outdated by now, FILE.kvss-new is, too, and is given up. */
static void compact_poll(void) {
    int error;
    ssize_t n = read(compaction.child, &error, sizeof error);
    if (n < 0 && would_block())
        return;
    if (n != sizeof error)
        compact_over("the child has died");
    else if (error)
        compact_over(strerror(error));
    else if (logfile.outdated)
        compact_over("too much has changed meanwhile");
    else if (!compact_step())
        compact_over(strerror(errno));
}

/* In FILE a deadline is a time of day, in memory it is a time of the monotonic clock. When somebody
 * sets the clock of the machine, the deadlines in FILE are wrong, until FILE is written anew. */
static void compact_check_clock(void) {
    char text[128];
    int64_t offset = clock_offset();
    int64_t moved = offset - compaction.offset;
    if (llabs(moved) < CLOCK_MS)
        return;
    compaction.offset = offset;
    if (!expiry.len)
        return;
    logfile.outdated = true;
    snprintf(text, sizeof text, "was set by %lld s; FILE gets its deadlines anew",
             (long long)moved / 1000);
    report("clock", "", str_of(text));
}

/* Without a limit, a client that changes one key again and again would fill the disk faster than
 * compaction can free it. After a failed compaction there is no limit: the disk still takes changes,
 * and nobody should wait for what may fail again. */
static void compact_turn(void) {
    off_t need = compact_size();
    if (!logfile.path)
        return;
    compact_check_clock();
    sync_poll();
    if (compaction.phase != RESTING && !logfile.syncing) /* the sync has the descriptor of FILE */
        compact_poll();
    if (need < COMPACT_LEAST)
        need = COMPACT_LEAST;
    logfile.limit = compaction.failed ? 0 : COMPACT_FULL * need;
    if (server.now >= compact_next())
        compact_begin();
}

static uint64_t compact_wake_at(void) {
    uint64_t at = compact_next();
    if (logfile.path && expiry.len)
        at = earlier(at, server.now + CLOCK_MS);
    return at;
}

/* What is due within the time to stop is done. Any other compaction is given up. */
static bool compact_stop(void) {
    struct timespec step = {0, POLL_MS * 1000000};
    while (logfile.syncing || compact_next() < server.stop_by) {
        compact_turn();
        nanosleep(&step, NULL);
        server.now = clock_ms();
    }
    compact_over(NULL);
    return true;
}

/* COMPACT joins the compaction that goes on, or asks for the next one. */
static enum status command_compact(struct request *r) {
    (void)r;
    if (!logfile.path)
        return NOT_FOUND;
    compaction.asked = true;
    return ACCEPTED;
}

static const struct extension compaction_extension = {
    .commands =
        (struct command[]){
            {"COMPACT", "COMPACT", 0, 0, command_compact, 0, 0},
            {0},
        },
    .wake_at = compact_wake_at,
    .turn = compact_turn,
    .stop = compact_stop,
};

/* == 20. Replay ===================================================================================
 *
 * At the start the server runs the lines of FILE again, as if a client had sent them.
 *
 * The last line may be torn, if the server or the machine ended while the line was written. The server
 * cuts a torn line off. With --fsync always nobody was promised that line. Without it, the line is
 * among the last second or two that a power cut may take. Any other bad line means that something else
 * has changed FILE. Then the server does not start. With --repair it moves such lines, and a torn one,
 * to FILE.bad, and Compaction writes FILE anew from the store.
 *
 * During the replay server.now is 0, so that no deadline is past. For a later line may put off a
 * deadline that is past by now.
 *
 * Two servers on one FILE would ruin it. So FILE is locked. Nothing else in the server may open FILE
 * and close it again, because the lock would end with that. This chapter uses Log and Compaction. */

enum {
    REPLAY_STEP = 1 << 20,  /* bytes read at a time */
    PROGRESS_MIN = 8 << 20, /* bytes: if FILE is longer, a terminal shows how far the replay is */
};

static struct {
    off_t total;            /* bytes of FILE, to show how far the replay is */
    struct buf in;          /* read from FILE, but not run; FILE has it after logfile.size bytes */
    unsigned long long run; /* lines so far, without the header */
    unsigned long long bad; /* other lines, and the torn one */
    struct buf put_aside;   /* the bad lines, for FILE.bad */
} replay;

/* Whether a file begins as a data file does, as far as it goes. */
static bool file_has_header(int fd) {
    char begin[sizeof log_header];
    ssize_t n = pread(fd, begin, sizeof log_header - 1, 0);
    return n >= 0 && memcmp(begin, log_header, (size_t)n) == 0;
}

/* Opens a file beside FILE, or makes it if `flags` is O_CREAT. -1: errno says why. EEXIST: what has the
 * name is no regular file, where open() might wait or follow a link. Or it has several names, and one of
 * them may be FILE: to close it would end the lock on FILE. */
static int open_beside(const char *path, int flags) {
    struct stat about;
    if (lstat(path, &about) == 0 && (!S_ISREG(about.st_mode) || about.st_nlink > 1)) {
        errno = EEXIST;
        return -1;
    }
    return open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | flags, 0600);
}

/* Removes the FILE.kvss-new of a compaction that did not end. Such a file is locked by nobody, and
 * begins as a data file does, as far as it goes. False: errno says why. EEXIST: the file is not the
 * server's own, and stays. */
static bool replay_clear(void) {
    int fd = open_beside(compaction.path, 0);
    if (fd < 0)
        return errno == ENOENT;
    bool left = file_lock(fd) && file_has_header(fd);
    close(fd);
    errno = EEXIST;
    return left && unlink(compaction.path) == 0;
}

/* A system call has failed. FILE stays as it is. */
static void replay_die(const char *path) {
    DIE(EXIT_FAILURE, "%s", name_trouble(path, errno));
}

/* Opens and locks FILE. FILE may be a symbolic link, so the path of the file itself is kept. */
static void replay_open(const char *path) {
    struct stat about;
    int flags = O_RDWR | O_CREAT | O_NONBLOCK | O_NOCTTY; /* open() never waits, even for a FIFO */
    logfile.name = path;
    logfile.fd = open(path, flags, 0600);
    if (logfile.fd < 0 || fstat(logfile.fd, &about) < 0)
        replay_die(path);
    if (!S_ISREG(about.st_mode))
        DIE(EXIT_FAILURE, "%s is not a regular file", path);
    bool locked = file_lock(logfile.fd);
    if (!locked && errno != EACCES && errno != EAGAIN)
        replay_die(path);
    logfile.path = realpath(path, NULL);
    if (!logfile.path)
        replay_die(path);
    /* If the path leads to another file now, another server has just put it there. */
    if (!locked || file_place() != IN_PLACE)
        DIE(EXIT_FAILURE, "%s is in use by another kvss", path);
    replay.total = about.st_size;
    snprintf(compaction.path, PATH_SIZE, "%s.kvss-new", logfile.path);
    if (!folder_sync())
        replay_die(path);
}

/* FILE gets the header that it has. It may be torn, and a new FILE has none. */
static void replay_header(void) {
    struct str header = str_of(log_header);
    if (!file_has_header(logfile.fd))
        DIE(EXIT_FAILURE, "%s, line 1: a data file of kvss begins with '%.*s'", logfile.name,
            (int)header.len - 1, header.bytes);
    logfile.size = (off_t)header.len;
    if (!write_at(logfile.fd, header, 0))
        replay_die(logfile.name);
}

/* Runs a line. Returns NULL, or what is wrong with the line. A key that is missing is no mistake: its
 * deadline may have been past. */
static const char *replay_run(struct str line) {
    struct client nobody = {.store = &store};
    struct request r;
    if (line.len >= REQUEST_MAX)
        return "the line is longer than 65536 bytes";
    request_begin(&r, &nobody, line);
    r.status = request_parse(&r);
    if (r.status != OK)
        return request_reason(&r);
    if ((r.command->flags & (CHANGES | BECOMES)) != CHANGES)
        return "it is no PUT, DEL or EXPIREAT";
    r.status = r.command->run(&r);
    if (r.status == SERVER_ERROR)
        DIE(EXIT_FAILURE, "%s: out of memory", log_options[DATA].text);
    return request_reason(&r);
}

static void replay_put_aside(struct str line) {
    replay.bad++;
    if (!buf_reserve(&replay.put_aside, line.len + 1))
        replay_die(logfile.name);
    buf_append(&replay.put_aside, line);
    buf_append(&replay.put_aside, STR("\n"));
}

/* Runs the lines that are whole, and takes them out of the buffer. The header is line 1. */
static void replay_lines(void) {
    struct str rest = buf_str(&replay.in);
    const char *lf;
    while ((lf = memchr(rest.bytes, '\n', rest.len))) {
        struct str line = {rest.bytes, (size_t)(lf - rest.bytes)};
        const char *wrong = replay_run(line);
        if (!wrong)
            replay.run++;
        else if (log_options[REPAIR].value)
            replay_put_aside(line);
        else
            DIE(EXIT_FAILURE, "%s, line %llu: %s; --repair moves such lines to %s.bad",
                logfile.name, replay.run + 2, wrong, logfile.path);
        rest = str_from(rest, line.len + 1);
    }
    size_t whole = replay.in.len - rest.len;
    buf_consume(&replay.in, whole);
    logfile.size += (off_t)whole;
}

/* Appends the bad lines to FILE.bad. After that, a compaction writes FILE anew. In this order each line
 * is in one of the two files at any moment. */
static void replay_repair(void) {
    char path[PATH_SIZE];
    snprintf(path, PATH_SIZE, "%s.bad", logfile.path);
    int fd = open_beside(path, O_CREAT);
    if (fd < 0 || file_append(fd, &replay.put_aside) < 0 || fsync(fd) < 0 || !folder_sync())
        replay_die(path);
    close(fd);
    logfile.outdated = true;
}

static void replay_report(double seconds) {
    const char *s = replay.run == 1 ? "" : "s";
    fprintf(stderr, "kvss: replayed %llu line%s", replay.run, s);
    if (replay.bad && log_options[REPAIR].value) {
        s = replay.bad == 1 ? "" : "s";
        fprintf(stderr, ", %llu bad line%s moved to %s.bad,", replay.bad, s, logfile.path);
    } else if (replay.bad) {
        fprintf(stderr, ", 1 torn line dropped,");
    }
    fprintf(stderr, " in %.1f s\n", seconds);
}

/* Reads the next part of FILE, and runs its lines. False: that was the end. The line that shows how far
 * the replay is ends with a CR, so that the next message replaces it. SIGINT and SIGTERM are blocked
 * during the replay, which may take seconds. So this function looks for them. No line of FILE has been
 * changed by then. */
static bool replay_step(void) {
    struct buf *in = &replay.in;
    off_t at = logfile.size + (off_t)in->len;
    if (!buf_reserve(in, REPLAY_STEP))
        replay_die(logfile.name);
    ssize_t n = pread(logfile.fd, in->bytes + in->len, REPLAY_STEP, at);
    if (n < 0)
        replay_die(logfile.name);
    in->len += (size_t)n;
    replay_lines();
    if (replay.total > PROGRESS_MIN && isatty(STDERR_FILENO))
        fprintf(stderr, "kvss: replaying, %d %%\r", (int)(logfile.size * 100 / replay.total));
    loop_check_signals();
    if (server.stopping)
        DIE(EXIT_SUCCESS, "%s ends the replay; %s is as it was", server.stopping, logfile.name);
    return n > 0;
}

/* The lines are run. What is left of FILE is a torn line, which has no LF. */
static void replay_end(void) {
    struct str torn = buf_str(&replay.in);
    if (torn.len > 0)
        replay_put_aside(torn);
    if (replay.bad && log_options[REPAIR].value)
        replay_repair();
    /* What kill -9 left unsynced is promised, too. */
    if (ftruncate(logfile.fd, logfile.size) < 0 || fsync(logfile.fd) < 0)
        replay_die(logfile.name);
    if (!replay_clear())
        replay_die(compaction.path);
    free(replay.in.bytes);
    free(replay.put_aside.bytes);
}

static void replay_file(const char *path) {
    uint64_t started = clock_ms();
    replay_open(path);
    compaction.offset = clock_offset();
    replay_header();
    while (replay_step())
        continue;
    replay_end();
    if (!buf_reserve(&logfile.lines, 2 * REQUEST_MAX))
        replay_die(path);
    replay_report((double)(clock_ms() - started) / 1000);
}

/* A FILE that is mounted by itself, for example into a container, cannot be replaced by rename(). link()
 * tells that, because it fails with EXDEV from one mount to another. */
static void replay_check_mount(void) {
    char other[PATH_SIZE];
    snprintf(other, sizeof other, "%s.kvss-link", logfile.path);
    if (link(logfile.path, other) == 0)
        (void)unlink(other);
    else if (errno == EXDEV)
        fprintf(stderr,
                "kvss: %s is mounted by itself, so it cannot be written anew; mount its folder\n",
                logfile.path);
}

/* SIGXFSZ comes of writing to a file that must not grow, and would end the server. The write() fails as
 * well, and that is enough. SIGCHLD is ignored, so that nobody has to wait for a child that has
 * ended. */
static void replay_start(void) {
    const char *path = log_options[DATA].text;
    if (!fsync_is("always") && !fsync_is("everysec") && !fsync_is("no"))
        DIE(EXIT_USAGE, "fsync: '%s' is not always, everysec or no", log_options[FSYNC].text);
    if (log_options[REPAIR].value && !path)
        DIE(EXIT_USAGE, "repair: --data FILE is missing");
    if (!path)
        return;
    signal(SIGXFSZ, SIG_IGN);
    signal(SIGCHLD, SIG_IGN);
    if (roles_options[PRIVATE].value)
        fprintf(stderr, "kvss: with --private, nothing that clients store is kept in %s\n", path);
    replay_file(path);
    replay_check_mount();
    allow_add(log_allow);
}

static const struct extension replay_extension = {
    .start = replay_start,
};

/* == 21. Statistics ===============================================================================
 *
 * With --long-stats, STATS answers in the words of another assignment. */

static struct option statistics_options[] = {
    {'S', "long-stats", NULL, 0, 1, 0, NULL, "let STATS count PUT, GET and DEL"},
    {0},
};

static unsigned long long command_count(const char *verb) {
    return command_named(str_of(verb))->count;
}

/* The uptime is as Python prints a timedelta: 0:05:23, or 2 days, 0:05:23. This STATS is not counted. */
static enum status command_long_stats(struct request *r) {
    unsigned long long seconds = (server.now - server.started) / 1000;
    unsigned long long days = seconds / 86400;
    if (r->key.len)
        return command_stats(r);
    char *p = server.text + sprintf(server.text, "uptime: ");
    if (days)
        p += sprintf(p, "%llu day%s, ", days, days == 1 ? "" : "s");
    p += sprintf(p, "%llu:%02llu:%02llu", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    p += sprintf(p, "; connections: %d; commands_processed: %llu", server.clients_len,
                 server.served);
    p += sprintf(p, "; get_requests: %llu; put_requests: %llu; del_requests: %llu",
                 command_count("GET"), command_count("PUT"), command_count("DEL"));
    sprintf(p, "; keys_stored: %llu", r->store->keys);
    r->data = str_of(server.text);
    return OK;
}

static void statistics_start(void) {
    if (statistics_options[0].value)
        command_named(STR("STATS"))->run = command_long_stats;
}

static const struct extension statistics_extension = {
    .options = statistics_options,
    .start = statistics_start,
};

/* == 22. Limits ===================================================================================
 *
 * What a server needs that runs for others, day and night.
 *
 * Descriptors: the system gives a process a number of them and no more. If none is free, accept() fails,
 * and newcomers wait without an answer. So the server keeps some for itself. A newcomer that finds no
 * room takes one of these, gets 503, and gives the descriptor back.
 *
 * Browsers: see line_is_http(). The connection of such a line ends.
 *
 * Memory: with --max-memory, what would need more gets 507. Memory is counted anew at the end of each turn.
 * Within a turn, each request that may need memory is added.
 *
 * The table of the store grows with its keys. When most of them are gone, the table shrinks.
 * Without that, a store that had ten million keys once would keep 160 MB for ever.
 *
 * SIGUSR1: the server prints what STATS all would reply. */

enum {
    OWN_DESCRIPTORS = 8, /* kept free of clients: a 503 takes one, a compaction 3 */
    SHRINK_MAX = 64,     /* chains that one turn removes */
};

static struct option limits_options[] = {
    {'B', "max-memory", "BYTES", 0, 0, 0, NULL, "hold no more; K, M or G may follow"},
    {0},
};

static struct {
    int clients_end;                        /* clients have descriptors below this */
    unsigned long long memory_max;          /* 0: no limit */
    unsigned long long memory;              /* what the server holds for clients */
    enum status (*stats)(struct request *); /* the command STATS without this chapter */
    volatile sig_atomic_t asked;            /* SIGUSR1 has come */
} limits = {.clients_end = FD_SETSIZE};

/* Raises the system's limit of open files to what select() can use and OWN_DESCRIPTORS more, or as far
 * as it goes. A new descriptor is the lowest that is free (POSIX, 2.14), so the highest ones are always
 * there for the server itself. */
static void limits_files(void) {
    struct rlimit limit;
    rlim_t wanted = FD_SETSIZE + OWN_DESCRIPTORS;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        DIE(EXIT_FAILURE, "getrlimit: %s", strerror(errno));
    rlim_t files = limit.rlim_cur;
    if (files < wanted) {
        limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
        if (setrlimit(RLIMIT_NOFILE, &limit) == 0)
            files = limit.rlim_cur;
    }
    if (files >= wanted)
        return;
    limits.clients_end = (int)files - OWN_DESCRIPTORS;
    int room = -1; /* one is for the socket that will listen */
    for (int fd = 0; fd < limits.clients_end; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            room++; /* it is not open */
    if (room < 1)
        DIE(EXIT_FAILURE, "ulimit -n %d leaves no room for a client", (int)files);
    if (room < options[CLIENTS].value)
        fprintf(stderr, "kvss: ulimit -n %d leaves room for %d clients\n", (int)files, room);
}

/* Returns the number of bytes that the text means: 64K, 100M, 2G. 0: it means none. */
static uint64_t bytes_read(const char *text) {
    char *end;
    int shift = 0;
    errno = 0;
    uint64_t n = strtoull(text, &end, 10);
    if (*end == 'K')
        shift = 10;
    if (*end == 'M')
        shift = 20;
    if (*end == 'G')
        shift = 30;
    if (shift)
        end++;
    if (errno || strspn(text, "0123456789") == 0 || *end || n > UINT64_MAX >> shift)
        return 0;
    return n << shift;
}

/* What the server holds for clients, in bytes: stores, what extensions hold, requests that have arrived,
 * and replies that wait. */
static unsigned long long limits_memory(void) {
    unsigned long long sum = store_memory(&store);
    for (int fd = 0; fd <= server.fd_highest; fd++) {
        const struct client *c = &clients[fd];
        if (c->phase == CLOSED)
            continue;
        sum += c->in.len + c->out.len;
        if (c->store != &store)
            sum += store_memory(c->store);
    }
    EACH_EXTENSION (x, memory)
        sum += x->memory();
    return sum;
}

/* Refuses a PUT, SEND or CREATE that needs more than there is. A value may become shorter all the same. So
 * may a key get a deadline, because that makes room in the end. */
static enum status limits_allow(struct request *r) {
    const size_t chains =
        4 * sizeof(struct entry *); /* two for a new key, and the array may double */
    unsigned long long more = sizeof(struct entry) + chains + r->line.len;
    if (!(r->command->flags & ADDS) || r->command->flags & DEADLINE || r->status != OK)
        return OK;
    if (limits.memory + more > limits.memory_max) {
        const struct entry *old = NULL;
        if (r->command->flags & CHANGES)
            old = *store_find(r->store, r->hash, r->key);
        if (!old || old->value_len < r->value.len)
            return FULL;
    }
    limits.memory += more;
    return OK;
}

/* STATS all says in the end how much is held, and the limit. */
static enum status limits_stats(struct request *r) {
    enum status status = limits.stats(r);
    if (status == OK && r->key.len)
        r->data.len += sprintf(server.text + r->data.len, " held=%llu max_memory=%llu",
                               limits_memory(), limits.memory_max);
    return status;
}

static void limits_print(void) {
    struct client nobody = {.store = &store};
    struct request r;
    request_begin(&r, &nobody, STR(""));
    r.key = STR("all");
    limits_stats(&r);
    report_always("stats", "", r.data);
}

static void on_usr1(int signal) {
    (void)signal;
    limits.asked = 1;
}

static void limits_start(void) {
    const char *text = limits_options[0].text;
    struct command *stats = command_named(STR("STATS"));
    limits.stats = stats->run;
    stats->run = limits_stats;
    limits.memory_max = text ? bytes_read(text) : 0;
    if (text && !limits.memory_max)
        DIE(EXIT_USAGE, "max-memory: '%s' is not a number of bytes, like 64K, 100M or 2G", text);
    if (limits.memory_max)
        allow_add(limits_allow);
    signal_catch(SIGUSR1, on_usr1);
    limits_files();
}

static bool limits_opened(struct client *c) {
    return client_fd(c) < limits.clients_end;
}

static void limits_parsed(struct request *batch, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (batch[i].status != UPGRADE || !line_is_http(batch[i].line))
            continue;
        batch[i].close = true;
        batch[i].reason = "this is HTTP: nothing after it is run";
    }
}

/* Removes the last chain. Its entries go back to the chain from which they were split. If that was the
 * first split of its round, the round is undone, and the array is halved. */
static void store_shrink(struct store *st) {
    uint32_t half = st->chains_size / 2;
    uint32_t last = --st->chains_len;
    struct entry **end = &st->chains[last - half];
    while (*end)
        end = &(*end)->next;
    *end = st->chains[last];
    if (last > half)
        return;
    struct entry **smaller = realloc(st->chains, half * sizeof *smaller);
    if (smaller)
        st->chains = smaller;
    st->chains_size = half;
}

static bool limits_has_spare_chains(void) {
    return store.chains_len > CHAINS_MIN && store.chains_len > 4 * store.keys;
}

static void limits_turn(void) {
    for (int i = 0; i < SHRINK_MAX && limits_has_spare_chains(); i++)
        store_shrink(&store);
    if (limits.memory_max)
        limits.memory = limits_memory();
    if (limits.asked)
        limits_print();
    limits.asked = 0;
}

static uint64_t limits_wake_at(void) {
    if (limits_has_spare_chains())
        return server.now;
    return NEVER;
}

static const struct extension limits_extension = {
    .options = limits_options,
    .start = limits_start,
    .opened = limits_opened,
    .parsed = limits_parsed,
    .wake_at = limits_wake_at,
    .turn = limits_turn,
};

/* == The list of extensions =======================================================================
 *
 * Take a line out, and its chapter adds nothing. Slow requests is needed by Roles and by Mailboxes;
 * Mailboxes by Frames; Expiry and Log by Compaction; Compaction by Replay. The order matters for
 * `stop`: a compaction ends before the log is closed; and for `start`: FILE is replayed before the first
 * socket listens. */

/* clang-format off */
static const struct extension *const extensions[EXTENSIONS_MAX] = {
    &speed_extension,
    &slow_extension,
    &expiry_extension,
    &roles_extension,
    &mailboxes_extension,
    &compaction_extension,
    &log_extension,
    &replay_extension,
    &frames_extension,
    &statistics_extension,
    &limits_extension,
};
