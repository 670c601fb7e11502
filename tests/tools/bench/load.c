/* load: puts a load on a key-value server, and measures it. For Linux: epoll().
 *
 * A closed loop: each connection sends a batch of requests, waits for all the replies, and sends
 * the next batch. What is sent, and what has to come back, is built before the clock starts; then
 * each byte that comes is compared. The same seed gives the same keys, values and order in each
 * protocol.
 *
 *     load --protocol kv|resp|memcached|floor --port N [--pid N] [options], see the table below
 *
 * Prints a line of name=value: operations a second; with --pid, CPU time of that process for each
 * operation; how long a batch took: median, percentiles 99 and 99.9, and the longest, all in us. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PROTOCOL, PORT, PID, CONNECTIONS, IDLE, DEPTH, KEYS, WRITES, PLAN, MS, FILL, OPTIONS };

static struct {
    const char *name;
    const char *help;
    long value;
    const char *text;
} options[] = {
    [PROTOCOL] = {"protocol", "kv, resp, memcached, or floor: see floor.c", 0, "kv"},
    [PORT] = {"port", "of the server, on 127.0.0.1", 9000, NULL},
    [PID] = {"pid", "of the server, to count its CPU time", 0, NULL},
    [CONNECTIONS] = {"connections", "that send requests", 50, NULL},
    [IDLE] = {"idle", "more connections, that send nothing", 0, NULL},
    [DEPTH] = {"depth", "requests in a batch", 1, NULL},
    [KEYS] = {"keys", "that there are", 100000, NULL},
    [WRITES] = {"writes", "percent of the requests that write", 10, NULL},
    [PLAN] = {"plan", "requests that are built; then they come again", 400000, NULL},
    [MS] = {"ms", "how long", 1000, NULL},
    [FILL] = {"fill", "1: write each key once, in order, and end", 0, NULL},
};

enum protocol { KV, RESP, MEMCACHED, FLOOR, PROTOCOLS };
enum { KEY_LEN = 16, VALUE_LEN = 32 };

/* What asks for a key, and what has to come back; what writes one, and what comes back then. # stands
 * for a key, and @ for a value. */
static const struct {
    const char *name, *get, *value, *set, *done;
} protocols[] = {
    [KV] = {"kv", "KV/1.0 GET #\n", "200 OK @\n", "KV/1.0 PUT # @\n", "200 OK\n"},
    [RESP] = {"resp", "*2\r\n$3\r\nGET\r\n$16\r\n#\r\n", "$32\r\n@\r\n",
              "*3\r\n$3\r\nSET\r\n$16\r\n#\r\n$32\r\n@\r\n", "+OK\r\n"},
    [MEMCACHED] = {"memcached", "get #\r\n", "VALUE # 0 32\r\n@\r\nEND\r\n",
                   "set # 0 0 32\r\n@\r\n", "STORED\r\n"},
    [FLOOR] = {"floor", NULL, NULL, NULL, NULL}, /* it counts bytes and does not read them */
};

struct bytes {
    char *at;
    size_t len, size;
};

struct connection {
    int fd;
    struct bytes requests, replies;  /* of the whole plan */
    size_t *request_end, *reply_end; /* of each batch */
    size_t batch, batches;
    size_t sent, received;
    uint64_t began; /* the batch; ns */
    bool blocked;   /* the batch is not sent yet, and the socket is full */
};

static struct connection *connections;
static uint32_t *waits; /* of all batches, in ns */
static size_t waits_len, waits_size;

#define DIE(...) (fprintf(stderr, "load: " __VA_ARGS__), fputc('\n', stderr), exit(1))

static long option(int i) {
    return options[i].value;
}

static uint64_t now_ns(clockid_t clock) {
    struct timespec t;
    if (clock_gettime(clock, &t) < 0)
        DIE("clock_gettime: %s", strerror(errno));
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* xorshift64* (Vigna, 2016) */
static uint64_t random_next(void) {
    static uint64_t state = 88172645463325252u;
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 2685821657736338717u;
}

static void *grown(void *p, size_t size) {
    p = realloc(p, size);
    if (!p)
        DIE("out of memory");
    return p;
}

static void append(struct bytes *b, const char *text, size_t len) {
    if (b->len + len > b->size)
        b->at = grown(b->at, b->size = 2 * (b->len + len));
    memcpy(b->at + b->len, text, len);
    b->len += len;
}

/* Appends a text of the table. The value of a key is always the same, so that any order of the
 * connections gives the same replies. */
static void append_text(struct bytes *b, const char *text, uint64_t number) {
    char key[KEY_LEN + 8], value[VALUE_LEN + 1];
    sprintf(key, "%0*llu", KEY_LEN, (unsigned long long)number);
    sprintf(value, "%0*llu", VALUE_LEN, (unsigned long long)number * 7);
    for (; *text; text++) {
        if (*text == '#')
            append(b, key, KEY_LEN);
        else if (*text == '@')
            append(b, value, VALUE_LEN);
        else
            append(b, text, 1);
    }
}

static void append_request(enum protocol protocol, struct connection *c, uint64_t number,
                           bool write) {
    static char many[1024];
    if (protocol == FLOOR) { /* as many bytes as KV/1.0 takes, on average */
        memset(many, 'x', sizeof many);
        append(&c->requests, many, (size_t)(12 + KEY_LEN + option(WRITES) * (VALUE_LEN + 1) / 100));
        append(&c->replies, many, (size_t)((100 - option(WRITES)) * (VALUE_LEN + 1) / 100 + 7));
    } else if (write) {
        bool created = protocol == KV && option(FILL);
        append_text(&c->requests, protocols[protocol].set, number);
        append_text(&c->replies, created ? "201 CREATED\n" : protocols[protocol].done, number);
    } else {
        append_text(&c->requests, protocols[protocol].get, number);
        append_text(&c->replies, protocols[protocol].value, number);
    }
}

static int connect_to(long port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        DIE("port %ld: %s", port, strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

/* Builds the plan of a connection. Keys to fill are dealt out in turn. */
static void plan(struct connection *c, long index, enum protocol protocol) {
    long share = (option(FILL) ? option(KEYS) : option(PLAN)) / option(CONNECTIONS),
         depth = option(DEPTH);
    c->batches = (size_t)((share + depth - 1) / depth);
    c->request_end = grown(NULL, c->batches * sizeof *c->request_end);
    c->reply_end = grown(NULL, c->batches * sizeof *c->reply_end);
    for (size_t batch = 0; batch < c->batches; batch++) {
        for (long i = 0; i < depth; i++) {
            uint64_t random = random_next() >> 11, key = random / 100 % (uint64_t)option(KEYS);
            bool write = option(FILL) || (long)(random % 100) < option(WRITES);
            if (option(FILL))
                key = (uint64_t)(((long)batch * depth + i) * option(CONNECTIONS) + index);
            append_request(protocol, c, key, write);
        }
        c->request_end[batch] = c->requests.len;
        c->reply_end[batch] = c->replies.len;
    }
}

/* The floor has to be told how many bytes to answer how many with. */
static void tell_floor(struct connection *c) {
    char text[64];
    int len = sprintf(text, "%zu %zu\n", c->request_end[0] / (size_t)option(DEPTH),
                      c->reply_end[0] / (size_t)option(DEPTH));
    if (write(c->fd, text, (size_t)len) != len)
        DIE("the floor does not listen");
}

static void batch_send(struct connection *c, int epoll) {
    size_t end = c->request_end[c->batch];
    while (c->sent < end) {
        ssize_t n =
            send(c->fd, c->requests.at + c->sent, end - c->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN)
            DIE("send: %s", strerror(errno));
        if (n < 0)
            break;
        c->sent += (size_t)n;
    }
    bool blocked = c->sent < end;
    if (blocked == c->blocked)
        return;
    struct epoll_event event = {.events = EPOLLIN | (blocked ? EPOLLOUT : 0u), .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
    c->blocked = blocked;
}

static void batch_begin(struct connection *c, int epoll) {
    c->began = now_ns(CLOCK_MONOTONIC);
    batch_send(c, epoll);
}

/* True: all replies of the batch have come. */
static bool batch_receive(struct connection *c) {
    static char got[1 << 20];
    size_t end = c->reply_end[c->batch];
    ssize_t n = recv(c->fd, got, sizeof got, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return false;
    if (n <= 0)
        DIE("recv: %s", n < 0 ? strerror(errno) : "the server has closed");
    if ((size_t)n > end - c->received || memcmp(got, c->replies.at + c->received, (size_t)n) != 0)
        DIE("a wrong reply: '%.*s' and not '%.*s'", n > 60 ? 60 : (int)n, got, n > 60 ? 60 : (int)n,
            c->replies.at + c->received);
    c->received += (size_t)n;
    return c->received == end;
}

static void batch_end(struct connection *c) {
    if (waits_len == waits_size)
        waits = grown(waits, (waits_size = waits_size * 2 + 65536) * sizeof *waits);
    waits[waits_len++] = (uint32_t)(now_ns(CLOCK_MONOTONIC) - c->began);
    if (++c->batch == c->batches)
        c->batch = c->sent = c->received = 0;
}

/* Runs until the time is up, or each has filled its keys. Returns the number of batches. */
static size_t run(int epoll, uint64_t until) {
    struct epoll_event events[256];
    size_t busy = (size_t)option(CONNECTIONS), first = waits_len;
    bool fill = option(FILL);
    for (long i = 0; i < option(CONNECTIONS); i++)
        batch_begin(&connections[i], epoll);
    while (busy > 0) {
        int n = epoll_wait(epoll, events, 256, 60000);
        if (n <= 0)
            DIE("the server does not answer");
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT)
                batch_send(c, epoll);
            if (!(events[i].events & ~(uint32_t)EPOLLOUT) || !batch_receive(c))
                continue;
            batch_end(c);
            bool done = fill ? c->batch == 0 : now_ns(CLOCK_MONOTONIC) >= until;
            if (done)
                busy--;
            else
                batch_begin(c, epoll);
        }
    }
    return waits_len - first;
}

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double percentile(double percent) {
    size_t i = (size_t)((double)waits_len * percent / 100);
    return waits[i < waits_len ? i : waits_len - 1] / 1000.0;
}

static void options_read(char **words) {
    for (; *words; words += 2) {
        int i = 0;
        while (i < OPTIONS &&
               (strncmp(*words, "--", 2) != 0 || strcmp(*words + 2, options[i].name) != 0))
            i++;
        if (i == OPTIONS || !words[1]) {
            for (i = 0; i < OPTIONS; i++)
                fprintf(stderr, "  --%-12s %s\n", options[i].name, options[i].help);
            DIE("%s: no such option, or no value", *words);
        }
        if (options[i].text)
            options[i].text = words[1];
        else
            options[i].value = atol(words[1]);
    }
}

int main(int argc, char **argv) {
    (void)argc;
    options_read(argv + 1);
    int protocol = 0, epoll = epoll_create1(0);
    while (protocol < PROTOCOLS && strcmp(protocols[protocol].name, options[PROTOCOL].text) != 0)
        protocol++;
    if (protocol == PROTOCOLS)
        DIE("%s: no such protocol", options[PROTOCOL].text);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    for (long i = 0; i < option(IDLE); i++)
        connect_to(option(PORT));
    connections = grown(NULL, (size_t)option(CONNECTIONS) * sizeof *connections);
    for (long i = 0; i < option(CONNECTIONS); i++) {
        struct connection *c = &connections[i];
        *c = (struct connection){.fd = connect_to(option(PORT))};
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event);
        plan(c, i, (enum protocol)protocol);
        if (protocol == FLOOR)
            tell_floor(c);
    }
    clockid_t cpu_clock = CLOCK_MONOTONIC;
    if (option(PID) && clock_getcpuclockid((pid_t)option(PID), &cpu_clock) != 0)
        DIE("no such process");
    if (!option(FILL))
        run(epoll, now_ns(CLOCK_MONOTONIC) + (uint64_t)option(MS) * 100000); /* to warm up */
    waits_len = 0;
    uint64_t cpu = now_ns(cpu_clock), began = now_ns(CLOCK_MONOTONIC);
    size_t batches = run(epoll, began + (uint64_t)option(MS) * 1000000);
    double seconds = (double)(now_ns(CLOCK_MONOTONIC) - began) / 1e9;
    double operations = (double)batches * (double)option(DEPTH);
    cpu = now_ns(cpu_clock) - cpu;
    qsort(waits, waits_len, sizeof *waits, by_size);
    printf("ops=%.0f cpu_ns=%.1f p50=%.1f p99=%.1f p999=%.1f max=%.1f\n", operations / seconds,
           option(PID) ? (double)cpu / operations : 0, percentile(50), percentile(99),
           percentile(99.9), waits[waits_len - 1] / 1000.0);
    return 0;
}
