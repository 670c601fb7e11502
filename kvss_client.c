/* kvss_client: a client for a KV/1.0 server. It has three ways to work.
 *
 *     kvss_client put foo bar       once: one request, its reply, an exit status for scripts
 *     kvss_client                   at a terminal: a prompt, with editing and history
 *     kvss_client < requests        batch: one request a line, pipelined
 *
 *     1. Tables     the commands and the options
 *     2. Network    connect, send, receive
 *     3. Requests   what the user types becomes a line of KV/1.0
 *     4. Replies    a line of KV/1.0 becomes output and an exit status
 *     5. Batch      many requests; once is a batch of one request
 *     6. Terminal   what a terminal sends when a key is pressed
 *     7. Editor     the line that is being typed, and the lines before it
 *     8. Prompt     the terminal and the server at the same time
 *     9. Start      options, main()
 *
 * Chapters 1 to 5 and 9 are a whole client. Chapters 6 to 8 are for the prompt only.
 *
 * docs/protocol.md says what the lines mean. C99 and POSIX.1-2008, nothing else. */
#define _XOPEN_SOURCE     700 /* POSIX.1-2008 with its XSI extension, which has wcwidth() */
#define _FILE_OFFSET_BITS 64  /* files may be longer than 2 GiB, where a long has 32 bits */

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
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
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>

#define KVSS_VERSION "2.0.0"

/* == 1. Tables ====================================================================================
 *
 * The table of commands is for help, and for the spaces of a command line: see request_from_words().
 * The client sends a verb that is not in the table, too. The server decides whether it knows the verb,
 * so this client also works with a server that has more commands. */

struct command {
    const char *verb;
    int words; /* how many words, the verb among them, have no space; the next one may have spaces */
    const char *usage, *help;
};

static const struct command commands[] = {
    {"PUT", 2, "put KEY VALUE", "store a value: 201 if the key is new, 200 if it was there"},
    {"GET", 2, "get KEY", "show the value, or 404"},
    {"DEL", 2, "del KEY", "delete the key: 204, or 404"},
    {"STATS", 2, "stats [all]", "show what the server counts"},
    {"QUIT", 1, "quit", "end the connection"},
    {"EXPIRE", 2, "expire KEY SECONDS", "let the key go after so many seconds: 200, or 404"},
    {"EXPIREAT", 2, "expireat KEY UNIXTIME", "let it go then, as date +%s counts: 200, or 404"},
    {"TTL", 2, "ttl KEY", "show the seconds that it has left, -1 for ever, or 404"},
    {"COMPACT", 1, "compact", "let the server write its --data file anew, shorter"},
    {"WHOAMI", 1, "whoami", "show whether you are a guest or a manager, and your port"},
    {"AUTH", 2, "auth USER PASSWORD", "become a manager"},
    {"MANAGE", 4, "manage PORT COMMAND", "put, get or del on the store of the client there"},
    {"CREATE", 2, "create USER", "make a mailbox: 201, or 409 if it's there"},
    {"DELETE", 2, "delete USER", "delete it with its messages: 204, or 404"},
    {"LIST", 2, "list [PATTERN]", "show the users, or those that a regular expression matches"},
    {"SEND", 2, "send USER TEXT", "send a message: 200 delivered, 202 it waits in the mailbox"},
    {"CONNECT", 2, "connect USER", "get the user's messages, at the prompt as they come"},
    {0},
};

/* The options of the command line. `value` and `text` hold the default until an option replaces it. */
struct option {
    char letter;
    const char *name;
    const char *argument; /* what its value is called; NULL: a flag, 0 or 1 */
    long max;             /* a number from 0 to max; where max is 0, a text */
    long value;
    const char *text;
    const char *help;
};

enum { HOST, PORT, TIMEOUT, FROM, VALUE, HELP, VERSION };

static struct option options[] = {
    [HOST] = {'H', "host", "HOST", 0, 0, "127.0.0.1", "where the server is"},
    [PORT] = {'p', "port", "PORT", 65535, 9000, NULL, "and the port that it listens on"},
    [TIMEOUT] = {'t', "timeout", "SECONDS", 1000000, 10, NULL, "wait for the server, 0 for ever"},
    [FROM] = {'f', "file", "FILE", 0, 0, "-", "take requests from a file"},
    [VALUE] = {'v', "value", NULL, 1, 0, NULL, "print data and messages only"},
    [HELP] = {'h', "help", NULL, 1, 0, NULL, "print this and exit"},
    [VERSION] = {'V', "version", NULL, 1, 0, NULL, "print the version and exit"},
    {0},
};

/* The exit status, when it is not EXIT_SUCCESS. */
enum {
    EXIT_REFUSED = 1,  /* a reply was 4xx or 5xx */
    EXIT_NO_REPLY = 2, /* a request has no reply */
};

/* For errors after which there is no reply: one line on stderr, and the end. */
#define DIE(...)                                                                                   \
    do {                                                                                           \
        fprintf(stderr, "kvss_client: " __VA_ARGS__);                                              \
        fputc('\n', stderr);                                                                       \
        exit(EXIT_NO_REPLY);                                                                       \
    } while (0)

/* The same, with the reason that errno names. */
#define DIE_ERRNO(what) DIE("%s: %s", what, strerror(errno))

/* The column is as wide as the longest usage, and a space. */
static void help_row(const char *usage, const char *help) {
    printf("  %-22s%s\n", usage, help);
}

static void commands_print(void) {
    for (const struct command *c = commands; c->verb; c++)
        help_row(c->usage, c->help);
}

/* `verb` may be in any case. NULL: there is no such command. */
static const struct command *command_named(const char *verb) {
    for (const struct command *c = commands; c->verb; c++)
        if (strcasecmp(verb, c->verb) == 0)
            return c;
    return NULL;
}

static bool starts_with(const char *text, const char *prefix) {
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* == 2. Network ===================================================================================
 *
 * Two queues of bytes, one each way. The socket never blocks, select() does the waiting: a client
 * that waits in send(), for a server that waits until its replies are taken, waits for ever. */

enum {
    REQUEST_MAX = 65536,          /* bytes of a request with its LF */
    QUEUE_SIZE = 4 * REQUEST_MAX, /* bytes: some of the longest lines */
    REPLIES_SIZE = 1 << 22,       /* bytes: LIST may name 10,000 users, each 250 bytes long */
};

struct queue {
    char *bytes;
    size_t size, start, end; /* in use: bytes[start] up to and not including bytes[end] */
};

static char out_bytes[QUEUE_SIZE], in_bytes[REPLIES_SIZE];

static struct {
    int fd;
    bool ended, quit; /* the server has closed the connection; it was asked to */
    bool connects;    /* to a mailbox, so that messages may come at any time */
    bool leaving;     /* has been told that there are no more requests */
    unsigned long requests, replies;
    struct queue out, in;
} server = {.fd = -1, .out = {out_bytes, QUEUE_SIZE, 0, 0}, .in = {in_bytes, REPLIES_SIZE, 0, 0}};

static size_t queue_len(const struct queue *q) {
    return q->end - q->start;
}

/* Moves what there is to the front, and returns the room behind it. */
static size_t queue_room(struct queue *q) {
    if (q->start > 0)
        memmove(q->bytes, q->bytes + q->start, queue_len(q));
    q->end -= q->start;
    q->start = 0;
    return q->size - q->end;
}

/* The next line of the queue without its LF, which becomes a NUL, or NULL. It's good until
 * queue_room(). */
static char *queue_line(struct queue *q, size_t *len) {
    char *line = q->bytes + q->start, *lf = memchr(line, '\n', queue_len(q));
    if (!lf)
        return NULL;
    *lf = '\0';
    *len = (size_t)(lf - line);
    q->start += *len + 1;
    return line;
}

/* The address of one end of the connection: which is getpeername or getsockname. */
static const char *server_address(int (*which)(int, struct sockaddr *, socklen_t *)) {
    static char name[INET6_ADDRSTRLEN + sizeof "[]:65535"];
    struct sockaddr_storage address;
    socklen_t len = sizeof address;
    char host[INET6_ADDRSTRLEN] = "?", port[6] = "?";
    if (which(server.fd, (struct sockaddr *)&address, &len) == 0)
        getnameinfo((struct sockaddr *)&address, len, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(name, sizeof name, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
    return name;
}

/* Requests are still to be sent, or replies to come. */
static bool server_due(void) {
    return queue_len(&server.out) || server.replies < server.requests;
}

/* Waits until there is input (-1: don't), the server has sent something, or it takes what there is
 * to send. For a reply, or the end, not longer than --timeout. False: a signal has come. */
static bool server_wait(int input, fd_set *readable, fd_set *writable, const sigset_t *signals) {
    struct timespec limit = {options[TIMEOUT].value, 0};
    bool due = server_due() || server.quit || server.leaving;
    FD_ZERO(readable);
    FD_ZERO(writable);
    if (input >= 0)
        FD_SET(input, readable);
    FD_SET(server.fd, readable);
    if (queue_len(&server.out))
        FD_SET(server.fd, writable);
    int ready = pselect((input > server.fd ? input : server.fd) + 1, readable, writable, NULL,
                        due && limit.tv_sec ? &limit : NULL, signals);
    if (ready < 0 && errno != EINTR)
        DIE("pselect: %s", strerror(errno));
    if (ready == 0)
        DIE("no reply in %ld s; --timeout sets how long to wait", options[TIMEOUT].value);
    return ready > 0;
}

static bool is_later(void) {
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

/* Moves bytes between the queues and the socket, as select() allows. What the server has sent
 * before it went away is read first; sending to it may fail then, and that is not yet the end. */
static void server_move(const fd_set *readable, const fd_set *writable) {
    if (FD_ISSET(server.fd, writable)) {
        ssize_t n = send(server.fd, server.out.bytes + server.out.start, queue_len(&server.out),
                         MSG_NOSIGNAL);
        if (n > 0)
            server.out.start += (size_t)n;
        if (n < 0 && !is_later()) {
            (void)shutdown(server.fd, SHUT_WR); /* nothing may follow half a request */
            server.out.start = server.out.end;
        }
    }
    if (FD_ISSET(server.fd, readable)) {
        size_t room = queue_room(&server.in);
        if (room == 0)
            DIE("the reply does not end; is that a KV/1.0 server?");
        ssize_t n = recv(server.fd, server.in.bytes + server.in.end, room, 0);
        if (n > 0)
            server.in.end += (size_t)n;
        server.ended = n == 0 || (n < 0 && !is_later());
    }
}

/* A connection to the address, or -1 with errno. The time limit needs a socket that does not block:
 * connect() begins, select() waits, and SO_ERROR tells how it went (POSIX, connect()). */
static int server_try(const struct addrinfo *a) {
    int fd = socket(a->ai_family, a->ai_socktype, a->ai_protocol), error = 0, ready = -1;
    socklen_t len = sizeof error;
    struct timespec limit = {options[TIMEOUT].value, 0};
    if (fd < 0)
        return -1;
    if (fd >= FD_SETSIZE || fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        error = EMFILE;
    if (!error && connect(fd, a->ai_addr, a->ai_addrlen) < 0) {
        fd_set writable;
        FD_ZERO(&writable);
        FD_SET(fd, &writable);
        if (errno == EINPROGRESS)
            ready = pselect(fd + 1, NULL, &writable, NULL, limit.tv_sec ? &limit : NULL, NULL);
        if (ready == 0)
            error = ETIMEDOUT;
        else if (ready < 0 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
            error = errno;
    }
    if (!error)
        return fd;
    close(fd);
    errno = error;
    return -1;
}

/* Says that there are no more requests. A kvss that has messages for a mailbox sends them and then
 * closes; if the client closed first, those on their way would be lost. */
static void server_leave(void) {
    server.leaving = true;
    (void)shutdown(server.fd, SHUT_WR);
}

static void server_connect(void) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    const char *host = options[HOST].text;
    char port[24];
    snprintf(port, sizeof port, "%ld", options[PORT].value);
    int error = getaddrinfo(host, port, &hints, &found);
    if (error)
        DIE("%s: %s", host, gai_strerror(error));
    for (struct addrinfo *a = found; a && server.fd < 0; a = a->ai_next)
        server.fd = server_try(a);
    if (server.fd < 0)
        DIE("%s port %s: %s; is the server running? ./kvss %s starts it", host, port,
            strerror(errno), port);
    freeaddrinfo(found);
}

/* == 3. Requests =============================================================================== */

#define QUIT     "KV/1.0 QUIT\n"
#define CONNECT  "KV/1.0 CONNECT "
#define MANAGE   "MANAGE "
#define TOO_LONG "that is longer than a request can be, 65536 bytes"

/* "WRONG/1.0 GET test" brings a version of its own: letters, a slash, a digit. */
static bool has_version(const char *line) {
    const char *slash = line;
    while (isalpha((unsigned char)*slash))
        slash++;
    return slash > line && *slash == '/' && isdigit((unsigned char)slash[1]);
}

/* Of ASCII alone: what is upper case may depend on the language. */
static void upper_case(char *word, const char *end) {
    for (; word < end && *word != ' '; word++)
        if (*word >= 'a' && *word <= 'z')
            *word = (char)(*word - 'a' + 'A');
}

/* Queues what was typed as a request, and returns what is wrong with it, or NULL. The verb may be
 * in any case, and so may the one that MANAGE is to run. There is room: at the prompt all has been
 * sent before, and a batch looks. */
static const char *request_queue(const char *line, size_t len) {
    (void)queue_room(&server.out); /* at the end, where it is written to */
    for (; *line == ' '; line++)
        len--;
    size_t prefix = has_version(line) ? 0 : strlen("KV/1.0 ");
    if (prefix + len + 1 > REQUEST_MAX)
        return TOO_LONG;
    char *bytes = server.out.bytes + server.out.end, *end = bytes + prefix + len;
    memcpy(bytes, "KV/1.0 ", prefix);
    memcpy(bytes + prefix, line, len);
    *end = '\n';
    if (prefix)
        upper_case(bytes + prefix, end);
    if (prefix && len > strlen(MANAGE) && !memcmp(bytes + prefix, MANAGE, strlen(MANAGE))) {
        char *space = memchr(bytes + prefix + strlen(MANAGE), ' ', len - strlen(MANAGE));
        if (space)
            upper_case(space + 1, end);
    }
    server.quit = prefix + len + 1 == strlen(QUIT) && !memcmp(bytes, QUIT, strlen(QUIT));
    server.connects |= !strncmp(bytes, CONNECT, strlen(CONNECT));
    server.out.end += prefix + len + 1;
    server.requests++;
    return NULL;
}

/* Reads all of stdin, for the value "-". An LF at its end belongs to the file and not the value. */
static size_t request_read_stdin(char *bytes, size_t size) {
    size_t len = fread(bytes, 1, size, stdin);
    if (ferror(stdin))
        DIE("standard input: %s", strerror(errno));
    if (len > 0 && bytes[len - 1] == '\n')
        len--;
    return len;
}

/* Queues the words of the command line as one request, with a space between two. What would break
 * the line, or make other fields of it, is refused before anything is sent. */
static void request_from_words(char **words) {
    static char line[2 * REQUEST_MAX];
    const struct command *command = command_named(words[0]);
    int without_space = command ? command->words : 2;
    size_t len = 0;
    for (int i = 0; words[i]; i++) {
        if (len > REQUEST_MAX)
            DIE(TOO_LONG);
        bool from_stdin = i == without_space && !words[i + 1] && !strcmp(words[i], "-");
        size_t room = sizeof line - len - 1, n = strlen(words[i]);
        if (!from_stdin && n > room)
            DIE(TOO_LONG);
        char *word = line + len;
        if (from_stdin)
            n = request_read_stdin(word, room);
        else
            memcpy(word, words[i], n);
        if (n == 0)
            DIE("an empty argument: no field of a request can be empty");
        if (i < without_space && memchr(word, ' ', n))
            DIE("'%s' has a space in it, and only a value can", words[i]);
        if (memchr(word, '\n', n))
            DIE("a line feed in an argument would end the request there");
        len += n;
        if (words[i + 1])
            line[len++] = ' ';
        else if (word[n - 1] == '\r')
            DIE("a carriage return at the end would be dropped");
    }
    line[len] = '\0';
    const char *wrong = request_queue(line, len);
    if (wrong)
        DIE("%s", wrong);
}

/* == 4. Replies ===================================================================================
 *
 * The first digit of a reply decides the exit status, so that a script need not read it. A line
 * that begins with 1 is no reply: it's a message, and may come at any time. */

/* Counts a reply, and returns the exit status it stands for. */
static int reply_status(const char *line, size_t len) {
    if (strspn(line, "0123456789") != 3 || (len > 3 && line[3] != ' '))
        DIE("what came is no reply of KV/1.0; is that kvss?");
    if (line[0] == '1')
        return EXIT_SUCCESS;
    server.replies++;
    return line[0] == '2' ? EXIT_SUCCESS : EXIT_REFUSED;
}

/* What --value leaves of a line: the data of a 200, the text of a message, or NULL. */
static const char *reply_value(const char *line) {
    if (!strncmp(line, "200 OK ", strlen("200 OK ")))
        return line + strlen("200 OK ");
    if (strncmp(line, "100 MESSAGE ", strlen("100 MESSAGE ")) != 0)
        return NULL;
    const char *space = strchr(line + strlen("100 MESSAGE "), ' ');
    return space ? space + 1 : NULL;
}

/* Prints a reply; with --value, what isn't a success on stderr. */
static int reply_print(const char *line, size_t len) {
    int status = reply_status(line, len);
    FILE *to = options[VALUE].value && status != EXIT_SUCCESS ? stderr : stdout;
    const char *value = options[VALUE].value && status == EXIT_SUCCESS ? reply_value(line) : line;
    if (!value)
        return status;
    fwrite(value, 1, len - (size_t)(value - line), to);
    fputc('\n', to);
    return status;
}

/* Data that is lost must not look like success. A fflush() that fails sets the error indicator. */
static void output_flush(void) {
    (void)fflush(stdout);
    if (ferror(stdout))
        DIE("standard output: %s", strerror(errno));
}

/* == 5. Batch =====================================================================================
 *
 * Requests go out as long as there is room for them, without waiting for replies; replies come in
 * the order of the requests. One request of the command line is a batch without input. */

static char input_bytes[QUEUE_SIZE];

static struct {
    int fd;                /* -1: there is no more */
    long long bytes, size; /* read so far, and in all; size 0: not known */
    unsigned long lines;
    bool wrong; /* a line of it could not be sent */
    struct queue in;
} input = {.fd = -1, .in = {input_bytes, QUEUE_SIZE, 0, 0}};

/* Queues the lines that have been read, as far as there is room, and nothing after QUIT. */
static void input_queue(void) {
    const char *wrong = NULL;
    while (!wrong && !server.quit && queue_room(&server.out) >= REQUEST_MAX) {
        size_t len = 0;
        char *line = queue_line(&input.in, &len);
        if (!line && queue_len(&input.in) < REQUEST_MAX)
            return;
        input.lines++;
        if (len > 0 && line[len - 1] == '\r')
            len--;
        if (!line)
            wrong = TOO_LONG;
        else if (len > 0)
            wrong = request_queue(line, len);
    }
    if (wrong)
        fprintf(stderr, "kvss_client: line %lu: %s\n", input.lines, wrong);
    if (!wrong && !server.quit)
        return;
    input.wrong = wrong != NULL;
    input.fd = -1;
    input.in.start = input.in.end;
}

static void input_read(void) {
    size_t room = queue_room(&input.in);
    ssize_t n = read(input.fd, input.in.bytes + input.in.end, room - 1);
    if (n < 0 && is_later())
        return;
    if (n < 0)
        DIE("cannot read the requests: %s", strerror(errno));
    input.bytes += n;
    input.in.end += (size_t)n;
    if (n > 0)
        return;
    input.fd = -1;
    if (queue_len(&input.in) > 0)
        input.in.bytes[input.in.end++] = '\n'; /* the last may lack it */
}

/* How far a long load has come, once a second, on a terminal that does not show the replies. */
static void input_progress(bool last) {
    static time_t next;
    static bool shown;
    time_t now = time(NULL);
    if (next == 0)
        next = now + 1;
    if (input.size == 0 || !isatty(STDERR_FILENO) || isatty(STDOUT_FILENO) ||
        (last ? !shown : now < next))
        return;
    next = now + 1;
    shown = true;
    fprintf(stderr, "\r%lu replies, %lld %% of the file%s", server.replies,
            input.bytes * 100 / input.size, last ? "\n" : "");
}

static bool batch_goes_on(void) {
    return input.fd >= 0 || queue_len(&input.in) || server_due();
}

/* Returns the exit status: that of the worst reply. */
static int batch_run(void) {
    int worst = EXIT_SUCCESS;
    while (!server.ended && (batch_goes_on() || server.leaving)) {
        fd_set readable, writable;
        size_t len;
        bool reads = input.fd >= 0 && queue_room(&input.in) > QUEUE_SIZE / 2;
        if (!server_wait(reads ? input.fd : -1, &readable, &writable, NULL))
            continue;
        if (reads && FD_ISSET(input.fd, &readable))
            input_read();
        server_move(&readable, &writable);
        input_queue(); /* last: what it leaves behind there is no room for, and a reply will come */
        for (char *line; (line = queue_line(&server.in, &len));)
            if (reply_print(line, len) != EXIT_SUCCESS)
                worst = EXIT_REFUSED;
        output_flush();
        input_progress(false);
        if (server.connects && !server.quit && !server.leaving && !batch_goes_on())
            server_leave();
    }
    input_progress(true);
    if (server.ended && !server.quit && (input.fd >= 0 || queue_len(&input.in)))
        DIE("the server closed the connection, and the requests from line %lu on were not sent",
            input.lines + 1);
    if (server.replies < server.requests)
        DIE("the server closed the connection; %lu of %lu requests have no reply",
            server.requests - server.replies, server.requests);
    return input.wrong ? EXIT_NO_REPLY : worst;
}

/* == 6. Keys ======================================================================================
 *
 * In raw mode a terminal sends each key at once: a character as its bytes of UTF-8, other keys as
 * control characters or as an escape sequence. ESC [ A, say, is the up arrow (ECMA-48, section 5.4,
 * has the form). Asked with ESC [ 6 n, the terminal reports where the cursor is in the same way;
 * that is how POSIX.1-2008 lets one find out how wide a terminal is. */

enum { ESC = 0x1B, BACKSPACE = 0x7F, CTRL = 0x1F }; /* 'A' & CTRL is Ctrl-A */

enum { KEY_BYTES_MAX = 32 }; /* of an escape sequence; past that it is none */

enum { KEY_UP = 256, KEY_DOWN, KEY_LEFT, KEY_RIGHT, KEY_HOME, KEY_END, KEY_DELETE, KEY_NONE };

static struct termios terminal_saved;
static bool terminal_is_raw;
static int terminal_columns = 80; /* until the terminal says otherwise */
static bool terminal_asked;       /* and it has not */

/* TCSAFLUSH drops what was typed and not read: a late report would end up in the shell. */
static void terminal_restore(void) {
    if (terminal_is_raw)
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &terminal_saved);
    terminal_is_raw = false;
}

/* Keys one by one, and no echo; but Ctrl-C and Ctrl-Z are signals as always. With VMIN 0,
 * read() returns where there is nothing: Ctrl-C takes back what was typed before it, even between
 * select(), which promised it, and read(), which would then wait for ever with signals blocked. */
static void terminal_raw(void) {
    if (tcgetattr(STDIN_FILENO, &terminal_saved) < 0)
        DIE("tcgetattr: %s", strerror(errno));
    struct termios raw = terminal_saved;
    raw.c_iflag &= (tcflag_t) ~(ICRNL | IXON);
    raw.c_lflag &= (tcflag_t) ~(ICANON | ECHO | IEXTEN);
    raw.c_cc[VMIN] = 0;
    raw.c_cc[VTIME] = 0;
    if (tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) < 0)
        DIE("tcsetattr: %s", strerror(errno));
    terminal_is_raw = true;
}

static void terminal_write(const char *bytes, size_t len) {
    while (len > 0) {
        ssize_t n = write(STDOUT_FILENO, bytes, len);
        if (n < 0 && !is_later())
            DIE("terminal: %s", strerror(errno));
        if (n > 0)
            bytes += n, len -= (size_t)n;
    }
}

/* Sends an escape sequence, or a text that has no variable part. */
static void terminal_put(const char *s) {
    terminal_write(s, strlen(s));
}

/* Has the terminal report its width: save the cursor, go far right, report, go back. */
static void terminal_ask(void) {
    terminal_put("\x1b\x37\x1b[999C\x1b[6n\x1b\x38");
    terminal_asked = true;
}

/* Decodes the key at the front of len bytes. Returns how many bytes it took, or 0 when its end is
 * still to come. */
static size_t key_decode(const char *p, size_t len, int *key) {
    static const char finals[] = "ABDCHF"; /* in the order of KEY_UP to KEY_END */
    static const int numbered[] = {KEY_NONE, KEY_HOME, KEY_NONE, KEY_DELETE, KEY_END,
                                   KEY_NONE, KEY_NONE, KEY_HOME, KEY_END};
    *key = (unsigned char)p[0];
    if (*key != ESC)
        return 1;
    *key = KEY_NONE;
    if (len < 2)
        return 0;
    if (p[1] != '[' && p[1] != 'O')
        return 2;
    size_t n = 2;
    while (n < len && (p[n] < 0x40 || p[n] == 0x7F))
        n++;
    if (n == len)
        return len < KEY_BYTES_MAX ? 0 : len;
    const char *final = strchr(finals, p[n]), *second = memchr(p, ';', n);
    int number = isdigit((unsigned char)p[2]) ? p[2] - '0' : 0;
    if (final)
        *key = KEY_UP + (int)(final - finals);
    if (p[n] == '~' && n == 3 && number <= 8)
        *key = numbered[number];
    if (p[n] == 'R' && second && terminal_asked && atoi(second + 1) > 0) {
        terminal_columns = atoi(second + 1);
        terminal_asked = false; /* Shift-F3 may look the same */
    }
    return n + 1;
}

/* == 7. Editor ====================================================================================
 *
 * The line being typed. It's edited by character, which in UTF-8 is up to four bytes, and marks
 * that have no width of their own go with the character before. A line too long for the terminal is
 * shown in part, around the cursor. */

#define PROMPT "KVSS> "

enum { HISTORY_MAX = 1000 }; /* lines */

enum typed { TYPING, ENTERED, LEAVING };

static struct {
    char text[REQUEST_MAX];
    size_t len, cursor;             /* bytes */
    bool full;                      /* more was typed than fits */
    char *history[HISTORY_MAX + 1]; /* [lines] is what was being typed when up was pressed */
    int lines, at;
} editor;

/* Returns where the character at i ends, and sets how many columns it takes. */
static size_t editor_character(size_t i, int *columns) {
    wchar_t character;
    mbstate_t state;
    memset(&state, 0, sizeof state);
    size_t n = mbrtowc(&character, editor.text + i, editor.len - i, &state);
    bool valid = n <= editor.len - i; /* 0 is for a NUL, and there is none */
    *columns = valid ? wcwidth(character) : 1;
    if (*columns < 0)
        *columns = 1;
    return i + (valid ? n : 1);
}

static int editor_columns(size_t from, size_t to) {
    int sum = 0, columns;
    for (size_t i = from; i < to; sum += columns)
        i = editor_character(i, &columns);
    return sum;
}

static size_t editor_right(size_t i) {
    int columns;
    if (i < editor.len)
        i = editor_character(i, &columns);
    while (i < editor.len) {
        size_t next = editor_character(i, &columns);
        if (columns > 0)
            break;
        i = next;
    }
    return i;
}

static size_t editor_left(size_t i) {
    int columns = 0;
    while (i > 0 && columns == 0) {
        size_t bytes = i < MB_CUR_MAX ? i : MB_CUR_MAX; /* the longest that could end at i */
        while (bytes > 1 && editor_character(i - bytes, &columns) != i)
            bytes--;
        i -= bytes;
        editor_character(i, &columns);
    }
    return i;
}

/* Draws the prompt and what of the line fits, the cursor in it. A tab is shown as a space. */
static void editor_draw(void) {
    static char shown[REQUEST_MAX];
    int room = terminal_columns - (int)strlen(PROMPT) - 1;
    bool fits = editor_columns(0, editor.len) <= room;
    int left = fits || editor.cursor == editor.len ? room : room * 2 / 3; /* of the cursor */
    size_t from = editor.cursor, n = 0;
    while (from > 0 && editor_columns(editor_left(from), editor.cursor) <= left)
        from = editor_left(from);
    size_t to = editor.cursor;
    while (to < editor.len && editor_columns(from, editor_right(to)) <= room)
        to = editor_right(to);
    for (size_t i = from; i < to; i++)
        shown[n++] = editor.text[i] == '\t' ? ' ' : editor.text[i];
    terminal_put("\r" PROMPT);
    terminal_write(shown, n);
    n = (size_t)snprintf(shown, sizeof shown, "\x1b[K\r\x1b[%dC",
                         (int)strlen(PROMPT) + editor_columns(from, editor.cursor));
    terminal_write(shown, n);
}

static void editor_set(const char *text) {
    editor.full = false;
    editor.len = editor.cursor = strlen(text);
    memcpy(editor.text, text, editor.len);
}

static void editor_insert(char byte) {
    editor.full |= editor.len + 1 >= sizeof editor.text;
    if (editor.full)
        return;
    memmove(editor.text + editor.cursor + 1, editor.text + editor.cursor,
            editor.len - editor.cursor);
    editor.text[editor.cursor++] = byte;
    editor.len++;
}

/* Deletes from one place to another, and leaves the cursor there. */
static void editor_delete(size_t from, size_t to) {
    memmove(editor.text + from, editor.text + to, editor.len - to);
    editor.len -= to - from;
    editor.cursor = from;
}

static size_t editor_word_start(void) {
    size_t i = editor.cursor;
    while (i > 0 && editor.text[i - 1] == ' ')
        i--;
    while (i > 0 && editor.text[i - 1] != ' ')
        i--;
    return i;
}

/* Without memory, a line is not remembered; nothing else depends on it. */
static void history_add(void) {
    editor.text[editor.len] = '\0';
    bool again = editor.lines > 0 && !strcmp(editor.history[editor.lines - 1], editor.text);
    char *line = editor.len > 0 && !again ? strdup(editor.text) : NULL;
    free(editor.history[editor.lines]);
    editor.history[editor.lines] = line;
    if (line && editor.lines == HISTORY_MAX) {
        free(editor.history[0]);
        memmove(editor.history, editor.history + 1, HISTORY_MAX * sizeof *editor.history);
        editor.history[HISTORY_MAX] = NULL;
    } else if (line) {
        editor.lines++;
    }
    editor.at = editor.lines;
}

static void history_go(int to) {
    if (to < 0 || to > editor.lines)
        return;
    editor.text[editor.len] = '\0';
    if (editor.at == editor.lines) {
        free(editor.history[editor.lines]);
        editor.history[editor.lines] = strdup(editor.text);
    }
    if (!editor.history[to])
        return;
    editor_set(editor.history[to]);
    editor.at = to;
}

static enum typed editor_key(int key) {
    size_t at = editor.cursor;
    switch (key) {
    case '\r':
    case '\n':
        return ENTERED;
    case 'D' & CTRL:
        if (editor.len == 0)
            return LEAVING;
        /* fall through */
    case KEY_DELETE:
        editor_delete(at, editor_right(at));
        break;
    case 'H' & CTRL:
    case BACKSPACE:
        editor_delete(editor_left(at), at);
        break;
    case 'B' & CTRL:
    case KEY_LEFT:
        editor.cursor = editor_left(at);
        break;
    case 'F' & CTRL:
    case KEY_RIGHT:
        editor.cursor = editor_right(at);
        break;
    case 'A' & CTRL:
    case KEY_HOME:
        editor.cursor = 0;
        break;
    case 'E' & CTRL:
    case KEY_END:
        editor.cursor = editor.len;
        break;
    case 'P' & CTRL:
    case KEY_UP:
        history_go(editor.at - 1);
        break;
    case 'N' & CTRL:
    case KEY_DOWN:
        history_go(editor.at + 1);
        break;
    case 'K' & CTRL:
        editor.len = at;
        break;
    case 'U' & CTRL:
        editor_delete(0, at);
        break;
    case 'W' & CTRL:
        editor_delete(editor_word_start(), at);
        break;
    case 'L' & CTRL:
        terminal_put("\x1b[H\x1b[2J");
        break;
    default:
        if (key == '\t' || (key >= ' ' && key <= 0xFF))
            editor_insert((char)key);
    }
    return TYPING;
}

/* == 8. Prompt ====================================================================================
 *
 * Two sources at once: keys, and the server, which may close or speak at any time. What it says is
 * shown above the line being typed. While a reply is due, keys wait: so lines that are pasted stand
 * each before its reply. */

static volatile sig_atomic_t prompt_signal;

static void on_signal(int signal) {
    prompt_signal = signal;
}

static void prompt_help(void) {
    commands_print();
    help_row("help", "show this");
    help_row("exit", "leave; so does Ctrl-D");
    printf("A line with a version of its own, like KV/2.0 GET name, is sent as it is.\n");
    fflush(stdout);
}

/* Runs the line. False: it was the last. */
static bool prompt_enter(void) {
    const char *wrong = editor.full ? TOO_LONG : NULL;
    editor.cursor = editor.len;
    editor_draw(); /* pasted, it was not shown yet */
    terminal_put("\n");
    history_add();
    if (!strcmp(editor.text, "exit"))
        return false;
    if (!strcmp(editor.text, "help"))
        prompt_help();
    else if (editor.len > 0 && !wrong)
        wrong = request_queue(editor.text, editor.len);
    if (wrong)
        printf("%s\n", wrong);
    fflush(stdout);
    editor_set("");
    terminal_ask();
    return true;
}

/* Shows the replies that have come. A value can hold an escape sequence, which is not for the
 * terminal: control characters are shown as \xNN, those of the second set too (C2 80 to C2 9F). */
static void prompt_replies(void) {
    size_t len;
    for (char *line; (line = queue_line(&server.in, &len));) {
        terminal_put("\r\x1b[K");
        reply_status(line, len);
        for (size_t i = 0; i < len; i++) {
            unsigned char byte = (unsigned char)line[i], next = (unsigned char)line[i + 1];
            bool second = byte == 0xC2 && next < 0xA0;
            bool hidden = byte < 0x20 || byte == 0x7F || second;
            printf(hidden ? "\\x%02X" : "%c", byte);
            if (second && ++i < len)
                printf("\\x%02X", next);
        }
        printf("\n");
        fflush(stdout);
    }
}

static const int prompt_stops[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP};

enum { PROMPT_STOPS = sizeof prompt_stops / sizeof *prompt_stops };

/* Blocks the signals, which pselect() lets in while it waits. */
static void prompt_signals(void) {
    struct sigaction obey = {.sa_handler = on_signal};
    sigset_t blocked;
    sigemptyset(&blocked);
    for (int i = 0; i < PROMPT_STOPS; i++) {
        sigaddset(&blocked, prompt_stops[i]);
        sigaction(prompt_stops[i], &obey, NULL);
    }
    sigprocmask(SIG_BLOCK, &blocked, NULL);
}

/* Lets a signal do what it does, with the terminal restored. Only Ctrl-Z comes back from it:
 * when the client goes on, or where nobody could make it go on, at once (POSIX: orphaned process
 * group). */
static void prompt_obey(int signal) {
    struct sigaction usual = {.sa_handler = SIG_DFL};
    sigset_t set;
    prompt_signal = 0;
    terminal_restore();
    sigaction(signal, &usual, NULL);
    raise(signal);
    sigemptyset(&set);
    sigaddset(&set, signal);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    prompt_signals();
    terminal_raw();
    terminal_ask();
}

static struct {
    size_t len;
    char bytes[4096];
} keys;

/* For a reply, or for the end of the connection. */
static bool prompt_waits(void) {
    return server_due() || server.quit;
}

/* Takes the keys that have come, until a line has been sent. False: the user leaves. */
static bool prompt_keys(void) {
    while (keys.len > 0 && !prompt_waits()) {
        int key;
        size_t used = key_decode(keys.bytes, keys.len, &key);
        if (used == 0)
            return true;
        memmove(keys.bytes, keys.bytes + used, keys.len -= used);
        enum typed typed = editor_key(key);
        if (typed == LEAVING || (typed == ENTERED && !prompt_enter()))
            return false;
    }
    return true;
}

/* False: the terminal is gone. It says so by nothing to read, as above, but has no settings
 * either. */
static bool prompt_read(void) {
    struct termios settings;
    ssize_t n = read(STDIN_FILENO, keys.bytes + keys.len, sizeof keys.bytes - keys.len);
    if (n > 0)
        keys.len += (size_t)n;
    return n > 0 || (n == 0 ? tcgetattr(STDIN_FILENO, &settings) == 0 : is_later());
}

static int prompt_run(void) {
    sigset_t none;
    sigemptyset(&none);
    prompt_signals();
    if (!setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1)
        setlocale(LC_CTYPE, "C.UTF-8");
    atexit(terminal_restore);
    printf("connected to %s", server_address(getpeername));
    printf(" from port %s; help lists the commands, exit leaves\n",
           strrchr(server_address(getsockname), ':') + 1);
    fflush(stdout);
    terminal_raw();
    terminal_ask();
    for (bool stays = true; !server.ended && (stays || server.leaving);) {
        fd_set readable, writable;
        bool reads = stays && !prompt_waits();
        if (reads)
            editor_draw();
        if (server_wait(reads ? STDIN_FILENO : -1, &readable, &writable, &none)) {
            if (reads && FD_ISSET(STDIN_FILENO, &readable))
                stays = prompt_read();
            server_move(&readable, &writable);
            prompt_replies();
        }
        if (prompt_signal)
            prompt_obey(prompt_signal);
        stays = stays && prompt_keys();
        if (!stays && server.connects && !server.leaving)
            server_leave();
    }
    terminal_put("\r\x1b[K");
    if (server.ended && !server.quit && !server.leaving)
        DIE("the server closed the connection");
    return EXIT_SUCCESS;
}

/* == 9. Start =====================================================================================
 *
 * The command line decides how the client works. With a command: once. Without one: the prompt, if
 * stdin and stdout are a terminal and there is no --file; else a batch. */

/* `value` belongs to an option that takes one. */
static void option_set(struct option *o, const char *value) {
    char *end;
    if (o->max == 0) {
        o->text = value;
        return;
    }
    o->value = strtol(value, &end, 10);
    if (end == value || *end || o->value < 0 || o->value > o->max)
        DIE("%s: '%s' is not a number from 0 to %ld", o->name, value, o->max);
}

/* `name` is a letter, or `len` letters of a long name. NULL: there is no such option. */
static struct option *option_named(const char *name, size_t len, bool is_long) {
    for (struct option *o = options; o->name; o++) {
        if (!is_long && o->letter == name[0])
            return o;
        if (is_long && strlen(o->name) == len && starts_with(name, o->name))
            return o;
    }
    return NULL;
}

/* Reads an option: -p 9001, -p9001, --port 9001 or --port=9001. Returns the word after it. */
static char **option_read(char **words) {
    const char *word = *words++;
    bool is_long = word[1] == '-';
    const char *name = word + 1 + is_long;
    size_t len = is_long ? strcspn(name, "=") : 1;
    struct option *o = option_named(name, len, is_long);
    if (!o)
        DIE("%s: no such option; see kvss_client --help", word);
    const char *value = name[len] ? name + len + is_long : NULL;
    if (!o->argument && value)
        DIE("%s: this option takes no value", word);
    if (o->argument && !value)
        value = *words++;
    if (o->argument && !value)
        DIE("%s: %s is missing", word, o->argument);
    if (o->argument)
        option_set(o, value);
    else
        o->value = 1;
    return words;
}

/* Options end at the first word that is no option, or after "--". Returns the word where they end. The
 * word "-" is no option: it may be a key. */
static char **options_read(char **words) {
    while (*words && (*words)[0] == '-' && (*words)[1]) {
        if (strcmp(*words, "--") == 0)
            return words + 1;
        words = option_read(words);
    }
    return words;
}

/* HOST PORT may come before the command. Then the second word is a number, and the first word is no
 * command. Returns the word after them. */
static char **operands_read(char **words) {
    if (!words[0] || command_named(words[0]) || !words[1])
        return words;
    if (strspn(words[1], "0123456789") != strlen(words[1]))
        return words;
    options[HOST].text = words[0];
    option_set(&options[PORT], words[1]);
    return words + 2;
}

static void help_print(void) {
    printf("Usage: kvss_client [options] [HOST PORT] [COMMAND [ARGUMENT ...]]\n\n"
           "Options (and what holds without them):\n");
    for (const struct option *o = options; o->name; o++) {
        const char *argument = o->argument ? o->argument : "";
        printf("  -%c, --%s %-*s%s", o->letter, o->name, 18 - (int)strlen(o->name), argument,
               o->help);
        if (o->text)
            printf(" (%s)", o->text);
        else if (o->argument)
            printf(" (%ld)", o->value);
        printf("\n");
    }
    printf("\nCommands, in any case; VALUE and PASSWORD may have spaces, and - reads one from "
           "stdin:\n");
    commands_print();
    printf("\nWithout a command: a prompt on a terminal, else a request a line from stdin.\n"
           "Exit status: 0 for 2xx, 1 for 4xx and 5xx, 2 where there was no reply.\n");
}

/* A terminal that calls itself dumb knows no escape sequences. */
static bool at_terminal(void) {
    const char *type = getenv("TERM");
    return type && strcmp(type, "dumb") != 0 && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
}

/* Opens the file of requests. The size of a regular file is known, so progress can be shown. */
static void input_open(const char *file) {
    struct stat about;
    input.fd = STDIN_FILENO;
    if (strcmp(file, "-") != 0)
        input.fd = open(file, O_RDONLY);
    if (input.fd < 0)
        DIE_ERRNO(file);
    if (fstat(input.fd, &about) == 0 && S_ISREG(about.st_mode))
        input.size = about.st_size;
}

int main(int argc, char **argv) {
    (void)argc;
    /* If stdin, stdout or stderr were closed, the socket would get its number, and output would go to
     * the server. So /dev/null gets these numbers. */
    int spare = STDIN_FILENO;
    while (spare >= 0 && spare <= STDERR_FILENO)
        spare = open("/dev/null", O_RDWR);
    char **words = operands_read(options_read(argv + 1));
    if (options[HELP].value)
        help_print();
    if (options[VERSION].value)
        printf("kvss_client %s\n", KVSS_VERSION);
    if (options[HELP].value || options[VERSION].value) {
        output_flush();
        return EXIT_SUCCESS;
    }
    const char *file = options[FROM].text;
    bool from_stdin = strcmp(file, "-") == 0;
    bool prompts = !words[0] && from_stdin && at_terminal();
    if (words[0] && !from_stdin)
        DIE("a command, or --file: not both");
    if (words[0])
        request_from_words(words);
    else if (!prompts)
        input_open(file);
    server_connect();
    return prompts ? prompt_run() : batch_run();
}
