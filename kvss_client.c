/* kvss_client: talks to a KV/1.0 server, in one of two ways.
 *
 *     kvss_client put foo bar       once: one request, its reply, an exit status for scripts
 *     kvss_client < requests        batch: a request a line, pipelined
 *
 *     1. Table      the commands and the options
 *     2. Network    connect, send, receive
 *     3. Requests   what a user types becomes a line of KV/1.0
 *     4. Replies    a line of KV/1.0 becomes output and an exit status
 *     5. Batch      many requests; one is just a short batch
 *     6. Start      options, main
 *
 * C99 and POSIX.1-2008, nothing else. */
#define _POSIX_C_SOURCE 200809L

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define KVSS_VERSION "1.0.0"

/* == 1. Table =====================================================================================
 *
 * A verb that is not in the table of commands is sent all the same: the server decides. */

static const struct command {
    const char *verb, *usage, *help;
} commands[] = {
    {"PUT", "put KEY VALUE", "store a value: 201 if the key is new, 200 if it was there"},
    {"GET", "get KEY", "show the value, or 404"},
    {"DEL", "del KEY", "delete the key: 204, or 404"},
    {"STATS", "stats [all]", "show what the server counts"},
    {"QUIT", "quit", "end the connection"},
};

enum { COMMANDS = sizeof commands / sizeof *commands };

enum { HOST, PORT, TIMEOUT, FROM, VALUE, HELP, VERSION, OPTIONS };

static struct option {
    char letter;
    const char *name, *argument; /* no argument: a flag, 0 or 1 */
    long most, value;            /* a number from 0 to most ... */
    const char *text;            /* ... or else a text */
    const char *help;
} options[] = {
    [HOST] = {'H', "host", "HOST", 0, 0, "127.0.0.1", "where the server is"},
    [PORT] = {'p', "port", "PORT", 65535, 9000, "", "and the port that it listens on"},
    [TIMEOUT] = {'t', "timeout", "SECONDS", 1000000, 10, "", "wait for the server, 0 for ever"},
    [FROM] = {'f', "file", "FILE", 0, 0, "-", "take requests from a file"},
    [VALUE] = {'v', "value", NULL, 1, 0, "", "print the data of a 200 only"},
    [HELP] = {'h', "help", NULL, 1, 0, "", "print this and exit"},
    [VERSION] = {'V', "version", NULL, 1, 0, "", "print the version and exit"},
};

enum { EXIT_REFUSED = 1, EXIT_NO_REPLY = 2 }; /* 4xx or 5xx; none came */

/* One line on stderr, and no reply. */
#define DIE(...)                                                                                   \
    (fprintf(stderr, "kvss_client: " __VA_ARGS__), fputc('\n', stderr), exit(EXIT_NO_REPLY))

/* == 2. Network ===================================================================================
 *
 * Two queues of bytes, one each way. The socket never blocks, select() does the waiting: a client
 * that waits in send(), for a server that waits until its replies are taken, waits for ever. */

enum {
    REQUEST_MAX = 65536,          /* bytes of a request with its LF */
    QUEUE_SIZE = 4 * REQUEST_MAX, /* bytes: some of the longest lines */
};

struct queue {
    size_t start, end; /* in use: bytes[start] up to and not including bytes[end] */
    char bytes[QUEUE_SIZE];
};

static struct {
    int fd;
    bool ended, quit; /* the server has closed the connection; it was asked to */
    unsigned long requests, replies;
    struct queue out, in;
} server = {.fd = -1};

static size_t queue_len(const struct queue *q) { return q->end - q->start; }

/* Moves what there is to the front, and returns the room behind it. */
static size_t queue_room(struct queue *q) {
    memmove(q->bytes, q->bytes + q->start, queue_len(q));
    q->end -= q->start;
    q->start = 0;
    return QUEUE_SIZE - q->end;
}

/* The next line of the queue without its LF, which becomes a NUL, or NULL. It's good until
 * queue_room(). */
static char *queue_line(struct queue *q, size_t *len) {
    char *line = q->bytes + q->start, *lf = memchr(line, '\n', queue_len(q));
    if (!lf) return NULL;
    *lf = '\0';
    *len = (size_t)(lf - line);
    q->start += *len + 1;
    return line;
}

/* Waits until there is input (-1: don't), the server has sent something, or it takes what there is
 * to send. With a reply due, not longer than --timeout. False: a signal has come. */
static bool server_wait(int input, fd_set *readable, fd_set *writable, const sigset_t *signals) {
    struct timespec limit = {options[TIMEOUT].value, 0};
    bool due = queue_len(&server.out) || server.replies < server.requests;
    FD_ZERO(readable);
    FD_ZERO(writable);
    if (input >= 0) FD_SET(input, readable);
    FD_SET(server.fd, readable);
    if (queue_len(&server.out)) FD_SET(server.fd, writable);
    int ready = pselect((input > server.fd ? input : server.fd) + 1, readable, writable, NULL,
                        due && limit.tv_sec ? &limit : NULL, signals);
    if (ready < 0 && errno != EINTR) DIE("pselect: %s", strerror(errno));
    if (ready == 0)
        DIE("no reply in %ld s; --timeout sets how long to wait", options[TIMEOUT].value);
    return ready > 0;
}

static bool is_later(void) { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

/* Moves bytes between the queues and the socket, as select() allows. What the server has sent before
 * it went away is read first; sending to it may fail then, and that is not yet the end. */
static void server_move(const fd_set *readable, const fd_set *writable) {
    if (FD_ISSET(server.fd, writable)) {
        ssize_t n = send(server.fd, server.out.bytes + server.out.start, queue_len(&server.out),
                         MSG_NOSIGNAL);
        if (n > 0) server.out.start += (size_t)n;
        if (n < 0 && !is_later()) server.out.start = server.out.end;
    }
    if (FD_ISSET(server.fd, readable)) {
        size_t room = queue_room(&server.in);
        if (room == 0) DIE("the reply does not end; is that a KV/1.0 server?");
        ssize_t n = recv(server.fd, server.in.bytes + server.in.end, room, 0);
        if (n > 0) server.in.end += (size_t)n;
        server.ended = n == 0 || (n < 0 && !is_later());
    }
}

/* A connection to the address, or -1 with errno. The time limit needs a socket that does not block:
 * connect() begins, select() waits, and SO_ERROR tells how it went (POSIX, connect()). */
static int server_try(const struct addrinfo *a) {
    int fd = socket(a->ai_family, a->ai_socktype, a->ai_protocol), error = 0;
    socklen_t len = sizeof error;
    struct timespec limit = {options[TIMEOUT].value, 0};
    if (fd < 0) return -1;
    if (fd >= FD_SETSIZE || fcntl(fd, F_SETFL, O_NONBLOCK) < 0) error = EMFILE;
    if (!error && connect(fd, a->ai_addr, a->ai_addrlen) < 0) {
        fd_set writable;
        FD_ZERO(&writable);
        FD_SET(fd, &writable);
        if (errno != EINPROGRESS)
            error = errno;
        else if (pselect(fd + 1, NULL, &writable, NULL, limit.tv_sec ? &limit : NULL, NULL) <= 0)
            error = ETIMEDOUT;
        else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
            error = errno;
    }
    if (!error) return fd;
    close(fd);
    errno = error;
    return -1;
}

static void server_connect(void) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    const char *host = options[HOST].text;
    char port[24];
    snprintf(port, sizeof port, "%ld", options[PORT].value);
    int error = getaddrinfo(host, port, &hints, &found);
    if (error) DIE("%s: %s", host, gai_strerror(error));
    for (struct addrinfo *a = found; a && server.fd < 0; a = a->ai_next) server.fd = server_try(a);
    if (server.fd < 0)
        DIE("%s port %s: %s; is the server running? ./kvss %s starts it", host, port,
            strerror(errno), port);
    freeaddrinfo(found);
}

/* == 3. Requests ================================================================================== */

#define QUIT     "KV/1.0 QUIT\n"
#define TOO_LONG "that is longer than a request can be, 65536 bytes"

/* "WRONG/1.0 GET test" brings a version of its own: letters, a slash, a digit. */
static bool has_version(const char *line) {
    const char *slash = line;
    while (isalpha((unsigned char)*slash)) slash++;
    return slash > line && *slash == '/' && isdigit((unsigned char)slash[1]);
}

/* Queues what was typed as a request, and returns what is wrong with it, or NULL. The verb may be
 * typed in any case. The queue must have room for REQUEST_MAX. */
static const char *request_queue(const char *line, size_t len) {
    char *bytes = server.out.bytes + server.out.end;
    size_t prefix = has_version(line) ? 0 : strlen("KV/1.0 ");
    if (prefix + len + 1 > REQUEST_MAX) return TOO_LONG;
    memcpy(bytes, "KV/1.0 ", prefix);
    memcpy(bytes + prefix, line, len);
    bytes[prefix + len] = '\n';
    for (size_t i = prefix; prefix && i < prefix + len && bytes[i] != ' '; i++)
        bytes[i] = (char)toupper((unsigned char)bytes[i]);
    server.quit = prefix + len + 1 == strlen(QUIT) && !memcmp(bytes, QUIT, strlen(QUIT));
    server.out.end += prefix + len + 1;
    server.requests++;
    return NULL;
}

/* Reads all of stdin, for the value "-". An LF at its end belongs to the file and not the value. */
static size_t request_read_stdin(char *bytes, size_t size) {
    size_t len = fread(bytes, 1, size, stdin);
    if (ferror(stdin)) DIE("standard input: %s", strerror(errno));
    if (len > 0 && bytes[len - 1] == '\n') len--;
    return len;
}

/* Queues the words of the command line as one request, with a space between two. What would break
 * the line, or make other fields of it, is refused before anything is sent. */
static void request_from_words(char **words) {
    static char line[2 * REQUEST_MAX];
    size_t len = 0;
    for (int i = 0; words[i]; i++) {
        bool from_stdin = i == 2 && !words[3] && !strcmp(words[2], "-");
        size_t room = sizeof line - len - 1, n = strlen(words[i]);
        if (!from_stdin && n > room) DIE(TOO_LONG);
        char *word = line + len;
        if (from_stdin)
            n = request_read_stdin(word, room);
        else
            memcpy(word, words[i], n);
        if (n == 0) DIE("an empty argument: no field of a request can be empty");
        if (i < 2 && memchr(word, ' ', n))
            DIE("'%s' has a space in it, and only a value can", words[i]);
        if (memchr(word, '\n', n)) DIE("a line feed in an argument would end the request there");
        len += n;
        if (words[i + 1])
            line[len++] = ' ';
        else if (word[n - 1] == '\r')
            DIE("a carriage return at the end would be dropped");
    }
    line[len] = '\0';
    const char *wrong = request_queue(line, len);
    if (wrong) DIE("%s", wrong);
}

/* == 4. Replies ===================================================================================
 *
 * The first digit of a reply decides the exit status, so that a script need not read it. */

/* Counts a reply, and returns the exit status it stands for. */
static int reply_status(const char *line, size_t len) {
    if (strspn(line, "0123456789") != 3 || (len > 3 && line[3] != ' '))
        DIE("'%.60s' is no reply of KV/1.0; is that kvss?", line);
    server.replies++;
    return line[0] == '2' ? EXIT_SUCCESS : EXIT_REFUSED;
}

/* Prints a reply; with --value, only the data of a 200, and what isn't a success on stderr. */
static int reply_print(const char *line, size_t len) {
    int status = reply_status(line, len);
    FILE *to = options[VALUE].value && status != EXIT_SUCCESS ? stderr : stdout;
    if (options[VALUE].value && status == EXIT_SUCCESS) {
        size_t name = strlen("200 OK ");
        if (strncmp(line, "200 OK ", name) != 0) return status;
        line += name;
        len -= name;
    }
    fwrite(line, 1, len, to);
    fputc('\n', to);
    return status;
}

/* == 5. Batch =====================================================================================
 *
 * Requests go out as long as there is room for them, without waiting for replies; replies come in
 * the order of the requests. One request of the command line is a batch without input. */

static struct {
    int fd;                /* -1: there is no more */
    long long bytes, size; /* read so far, and in all; size 0: not known */
    unsigned long lines;
    bool wrong; /* a line of it could not be sent */
    struct queue in;
} input = {.fd = -1};

/* Queues the lines that have been read, as far as there is room, and nothing after QUIT. */
static void input_queue(void) {
    const char *wrong = NULL;
    while (!wrong && !server.quit && queue_room(&server.out) >= REQUEST_MAX) {
        size_t len = 0;
        char *line = queue_line(&input.in, &len);
        if (!line && queue_len(&input.in) < REQUEST_MAX) return;
        input.lines++;
        if (len > 0 && line[len - 1] == '\r') len--;
        if (!line)
            wrong = TOO_LONG;
        else if (len > 0)
            wrong = request_queue(line, len);
    }
    if (wrong) fprintf(stderr, "kvss_client: line %lu: %s\n", input.lines, wrong);
    if (!wrong && !server.quit) return;
    input.wrong = wrong != NULL;
    input.fd = -1;
    input.in.start = input.in.end;
}

static void input_read(void) {
    size_t room = queue_room(&input.in);
    ssize_t n = read(input.fd, input.in.bytes + input.in.end, room - 1);
    if (n < 0 && is_later()) return;
    if (n < 0) DIE("cannot read the requests: %s", strerror(errno));
    input.bytes += n;
    input.in.end += (size_t)n;
    if (n > 0) return;
    input.fd = -1;
    if (queue_len(&input.in) > 0) input.in.bytes[input.in.end++] = '\n'; /* the last may lack it */
}

/* How far a long load has come, once a second, on a terminal. */
static void input_progress(bool last) {
    static time_t shown;
    time_t now = time(NULL);
    if (shown == 0) shown = now;
    if (input.size == 0 || (shown == now && !last) || !isatty(STDERR_FILENO)) return;
    shown = now;
    fprintf(stderr, "\r%lu replies, %lld %% of the file%s", server.replies,
            input.bytes * 100 / input.size, last ? "\n" : "");
}

static bool batch_goes_on(void) {
    return input.fd >= 0 || queue_len(&input.in) || queue_len(&server.out) ||
           server.replies < server.requests;
}

/* Returns the exit status: that of the worst reply. */
static int batch_run(void) {
    int worst = EXIT_SUCCESS;
    while (!server.ended && batch_goes_on()) {
        fd_set readable, writable;
        size_t len;
        bool reads = input.fd >= 0 && queue_room(&input.in) > QUEUE_SIZE / 2;
        if (!server_wait(reads ? input.fd : -1, &readable, &writable, NULL)) continue;
        if (reads && FD_ISSET(input.fd, &readable)) input_read();
        input_queue();
        server_move(&readable, &writable);
        for (char *line; (line = queue_line(&server.in, &len));)
            if (reply_print(line, len) != EXIT_SUCCESS) worst = EXIT_REFUSED;
        if (fflush(stdout) != 0) DIE("standard output: %s", strerror(errno));
        input_progress(false);
    }
    input_progress(true);
    if (server.replies < server.requests)
        DIE("the server closed the connection; %lu of %lu requests have no reply",
            server.requests - server.replies, server.requests);
    return input.wrong ? EXIT_NO_REPLY : worst;
}

/* == 6. Start ===================================================================================== */

static void option_set(struct option *o, const char *value) {
    char *end;
    if (!o->argument) o->value = 1;
    if (o->argument && o->most == 0) o->text = value;
    if (o->most <= 1) return;
    o->value = strtol(value, &end, 10);
    if (end == value || *end || o->value < 0 || o->value > o->most)
        DIE("%s: '%s' is not a number from 0 to %ld", o->name, value, o->most);
}

static struct option *option_find(const char *word, bool is_long, size_t len) {
    for (struct option *o = options; o < options + OPTIONS; o++)
        if (is_long ? strlen(o->name) == len && !strncmp(o->name, word, len) : o->letter == *word)
            return o;
    return NULL;
}

/* Reads the options, which end at the first word that is none. Returns that word. */
static char **options_read(char **words) {
    for (; *words && **words == '-' && (*words)[1]; words++) {
        if (!strcmp(*words, "--")) return words + 1;
        bool is_long = (*words)[1] == '-';
        char *name = *words + 1 + is_long, *word = *words;
        size_t len = is_long ? strcspn(name, "=") : 1;
        struct option *o = option_find(name, is_long, len);
        if (!o) DIE("%s: no such option; see kvss_client --help", word);
        const char *value = name[len] ? name + len + is_long : NULL;
        if (!o->argument && value) DIE("%s: this option takes no value", word);
        if (o->argument && !value) value = *++words;
        if (o->argument && !value) DIE("%s: %s is missing", word, o->argument);
        option_set(o, value);
    }
    return words;
}

/* HOST PORT may come before the command: two words, of which the second is a number and the first no
 * command. */
static char **operands_read(char **words) {
    for (int i = 0; i < COMMANDS; i++)
        if (words[0] && !strcasecmp(words[0], commands[i].verb)) return words;
    if (!words[0] || !words[1] || strspn(words[1], "0123456789") != strlen(words[1])) return words;
    options[HOST].text = words[0];
    option_set(&options[PORT], words[1]);
    return words + 2;
}

static void help_print(void) {
    printf("Usage: kvss_client [options] [HOST PORT] [COMMAND [ARGUMENT ...]]\n\n"
           "Options (and what holds without them):\n");
    for (struct option *o = options; o < options + OPTIONS; o++) {
        const char *argument = o->argument ? o->argument : "";
        printf("  -%c, --%s %-*s", o->letter, o->name, 18 - (int)strlen(o->name), argument);
        if (o->most > 1)
            printf("%s (%ld)\n", o->help, o->value);
        else
            printf(o->argument ? "%s (%s)\n" : "%s\n", o->help, o->text);
    }
    printf("\nCommands, in any case; VALUE may have spaces, and - reads it from stdin:\n");
    for (const struct command *c = commands; c < commands + COMMANDS; c++)
        printf("  %-16s %s\n", c->usage, c->help);
    printf("\nWithout a command: a request a line from stdin.\n"
           "Exit status: 0 for 2xx, 1 for 4xx and 5xx, 2 where there was no reply.\n");
}

/* Opens what requests are to be read from. */
static void input_open(void) {
    struct stat about;
    bool is_stdin = !strcmp(options[FROM].text, "-");
    input.fd = is_stdin ? STDIN_FILENO : open(options[FROM].text, O_RDONLY);
    if (input.fd < 0) DIE("%s: %s", options[FROM].text, strerror(errno));
    if (fstat(input.fd, &about) == 0 && S_ISREG(about.st_mode)) input.size = about.st_size;
}

int main(int argc, char **argv) {
    (void)argc;
    char **words = operands_read(options_read(argv + 1));
    if (options[HELP].value) help_print();
    if (options[VERSION].value) printf("kvss_client %s\n", KVSS_VERSION);
    if (options[HELP].value || options[VERSION].value)
        return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_NO_REPLY;
    if (words[0])
        request_from_words(words);
    else
        input_open();
    server_connect();
    return batch_run();
}
