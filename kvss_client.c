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
 * The client sends requests while replies arrive. If it waited in send() until the server takes its
 * requests, and the server waited until the client takes its replies, both would wait for ever. So the
 * socket never blocks, and the client waits in pselect() only, for both directions at once.
 *
 * What cannot be sent yet, and what has not been read yet, is in a queue for each direction:
 *
 *     request_queue() --> to_server   --> send() --> the server
 *        queue_line() <-- from_server <-- recv() <-- the server
 *
 * A queue fills at its end and empties at its start:
 *
 *     queue.bytes --> [ taken already | in use      | room ]
 *                      0               start         end    size */

enum {
    REQUEST_MAX = 65536,          /* bytes of a request with its LF */
    QUEUE_SIZE = 4 * REQUEST_MAX, /* bytes: a few of the longest requests */
    REPLIES_SIZE = 1 << 22,       /* bytes: LIST may name 10,000 users, each 250 bytes long */
    KEYS_SIZE = 4096,             /* bytes of keys that are typed ahead */
};

struct queue {
    char *bytes;
    size_t size, start, end; /* in use: bytes[start] up to and not including bytes[end] */
};

/* The bytes of all queues. They are static: a page that was never used costs no memory. */
static struct {
    char to_server[QUEUE_SIZE];
    char from_server[REPLIES_SIZE];
    char from_file[QUEUE_SIZE];
    char keys[KEYS_SIZE];
} buffers;

static struct queue to_server = {buffers.to_server, QUEUE_SIZE, 0, 0};
static struct queue from_server = {buffers.from_server, REPLIES_SIZE, 0, 0};

static struct {
    int fd;                          /* -1: not connected */
    bool ended;                      /* the server has closed the connection */
    bool quitting;                   /* QUIT is the last request, so the server is going to close */
    bool in_mailbox;                 /* CONNECT was sent: messages may come at any time */
    bool half_closed;                /* the server knows that no more requests come */
    unsigned long requests, replies; /* queued and received so far */
} server = {.fd = -1};

static size_t queue_len(const struct queue *q) {
    return q->end - q->start;
}

/* Moves the bytes in use to the front, and returns how much room is behind them. */
static size_t queue_room(struct queue *q) {
    if (q->start > 0)
        memmove(q->bytes, q->bytes + q->start, queue_len(q));
    q->end -= q->start;
    q->start = 0;
    return q->size - q->end;
}

/* The caller has made sure that there is room. */
static void queue_append(struct queue *q, const char *bytes, size_t len) {
    memcpy(q->bytes + q->end, bytes, len);
    q->end += len;
}

/* Takes the next line. A NUL replaces its LF. The line is valid until queue_room() is called. NULL:
 * there is no whole line. */
static char *queue_line(struct queue *q, size_t *len) {
    char *line = q->bytes + q->start;
    char *lf = memchr(line, '\n', queue_len(q));
    if (!lf)
        return NULL;
    *lf = '\0';
    *len = (size_t)(lf - line);
    q->start += *len + 1;
    return line;
}

/* Reads what fits, and returns what read() returns. */
static ssize_t queue_read(struct queue *q, int fd) {
    size_t room = queue_room(q);
    ssize_t n = read(fd, q->bytes + q->end, room);
    if (n > 0)
        q->end += (size_t)n;
    return n;
}

/* POSIX has two names for "nothing for now", and lets a signal interrupt any call. */
static bool is_later(void) {
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

/* Requests wait to be sent, replies are missing, or the server has not closed after a half-close. */
static bool server_due(void) {
    return queue_len(&to_server) || server.replies < server.requests || server.half_closed;
}

/* The client waits for something that the server has to do: to reply, or to close. */
static bool server_awaited(void) {
    return server_due() || server.quitting;
}

/* When send() fails, replies may still wait to be read, so the client goes on reading. But send() may
 * have sent half of a request, and nothing may follow half of a request. */
static void server_send(void) {
    const char *start = to_server.bytes + to_server.start;
    ssize_t n = send(server.fd, start, queue_len(&to_server), MSG_NOSIGNAL);
    if (n > 0)
        to_server.start += (size_t)n;
    if (n < 0 && !is_later()) {
        (void)shutdown(server.fd, SHUT_WR);
        to_server.start = to_server.end;
    }
}

static void server_receive(void) {
    size_t room = queue_room(&from_server);
    if (room == 0)
        DIE("the reply does not end; is that a KV/1.0 server?");
    ssize_t n = recv(server.fd, from_server.bytes + from_server.end, room, 0);
    if (n > 0)
        from_server.end += (size_t)n;
    else
        server.ended = n == 0 || !is_later();
}

/* One turn of the client: waits until the server has sent something, or takes what is in the queue, or
 * `input` can be read (-1: there is no input). Then moves bytes between the queues and the socket.
 * --timeout limits the wait when the server is awaited. Returns whether the input can be read. After a
 * signal, nothing is ready. */
static bool server_turn(int input, const sigset_t *signals) {
    fd_set readable, writable;
    struct timespec limit = {options[TIMEOUT].value, 0};
    bool limited = limit.tv_sec && server_awaited();
    FD_ZERO(&readable);
    FD_ZERO(&writable);
    FD_SET(server.fd, &readable);
    if (queue_len(&to_server))
        FD_SET(server.fd, &writable);
    if (input >= 0)
        FD_SET(input, &readable);
    int ready = pselect(FD_SETSIZE, &readable, &writable, NULL, limited ? &limit : NULL, signals);
    if (ready == 0)
        DIE("no reply in %ld s; --timeout sets how long to wait", options[TIMEOUT].value);
    if (ready < 0 && errno != EINTR)
        DIE_ERRNO("pselect");
    if (ready < 0)
        return false;
    if (FD_ISSET(server.fd, &writable))
        server_send();
    if (FD_ISSET(server.fd, &readable))
        server_receive();
    return input >= 0 && FD_ISSET(input, &readable);
}

/* The client has no more requests. If it has opened a mailbox, messages may be on their way, and they
 * would be lost if the client closed the connection now. So it ends its own direction only. The server
 * then sends the messages that it has, and closes. */
static void server_half_close(void) {
    if (server.half_closed || !server.in_mailbox)
        return;
    server.half_closed = true;
    (void)shutdown(server.fd, SHUT_WR);
}

/* connect() has no time limit of its own. So the socket does not block: connect() only begins, pselect()
 * waits until the socket is writable, and SO_ERROR says how it went (POSIX, connect). Returns 0, or an
 * error number like errno. */
static int socket_connect(int fd, const struct addrinfo *a) {
    struct timespec limit = {options[TIMEOUT].value, 0};
    fd_set writable;
    int error = 0;
    socklen_t len = sizeof error;
    if (fd >= FD_SETSIZE || fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        return EMFILE;
    if (connect(fd, a->ai_addr, a->ai_addrlen) == 0)
        return 0;
    if (errno != EINPROGRESS)
        return errno;
    FD_ZERO(&writable);
    FD_SET(fd, &writable);
    int ready = pselect(fd + 1, NULL, &writable, NULL, limit.tv_sec ? &limit : NULL, NULL);
    if (ready == 0)
        return ETIMEDOUT;
    if (ready < 0 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
        return errno;
    return error;
}

/* Returns a socket that is connected to the address. -1: errno says why there is none. */
static int server_try(const struct addrinfo *a) {
    int fd = socket(a->ai_family, a->ai_socktype, a->ai_protocol);
    if (fd < 0)
        return -1;
    int error = socket_connect(fd, a);
    if (error == 0)
        return fd;
    close(fd);
    errno = error;
    return -1;
}

/* A name may have several addresses: the first one that answers is the server. */
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

/* == 3. Requests ==================================================================================
 *
 * A user leaves out the version and types verbs in any case. The server wants both, so the client adds
 * the version and makes the verb upper case:
 *
 *     get foo   -->   KV/1.0 GET foo
 *
 * A line that has a version already is sent as it is. That lets a user see what the server says to a
 * line that is wrong. */

#define KV       "KV/1.0 "
#define MANAGE   "MANAGE "
#define LETTERS  "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
#define TOO_LONG "that is longer than a request can be, 65536 bytes"

/* A version is letters, a slash, and a digit. The line "WRONG/1.0 GET test" has one. */
static bool has_version(const char *line) {
    size_t letters = strspn(line, LETTERS);
    return letters > 0 && line[letters] == '/' && isdigit((unsigned char)line[letters + 1]);
}

/* Makes the verb upper case. MANAGE PORT COMMAND has a second verb, at the start of COMMAND. Only ASCII
 * letters change: what toupper() does depends on the language of the user. */
static void upper_case_verbs(char *verb, const char *end) {
    bool manages = strncasecmp(verb, MANAGE, strlen(MANAGE)) == 0;
    int field = 0;
    for (char *p = verb; p < end; p++) {
        if (*p == ' ')
            field++;
        bool in_verb = field == 0 || (field == 2 && manages);
        if (in_verb && *p >= 'a' && *p <= 'z')
            *p -= 'a' - 'A';
    }
}

/* Makes a request of a line, and queues it. The queue has room for one: a batch waits for room, and
 * the prompt waits until everything is sent. Returns what is wrong with the line, or NULL. */
static const char *request_queue(const char *line, size_t len) {
    while (*line == ' ') {
        line++;
        len--;
    }
    const char *prefix = has_version(line) ? "" : KV;
    size_t whole = strlen(prefix) + len + 1;
    if (whole > REQUEST_MAX)
        return TOO_LONG;
    queue_room(&to_server); /* moves the room to the end */
    char *request = to_server.bytes + to_server.end;
    queue_append(&to_server, prefix, strlen(prefix));
    queue_append(&to_server, line, len);
    queue_append(&to_server, "\n", 1);
    if (*prefix)
        upper_case_verbs(request + strlen(KV), request + whole - 1);
    server.quitting = starts_with(request, KV "QUIT\n");
    server.in_mailbox |= starts_with(request, KV "CONNECT ");
    server.requests++;
    return NULL;
}

/* Reads all of stdin, for the value "-". An LF at its end belongs to the file and not to the value. */
static size_t word_from_stdin(char *bytes, size_t size) {
    size_t len = fread(bytes, 1, size, stdin);
    if (ferror(stdin))
        DIE_ERRNO("standard input");
    if (len > 0 && bytes[len - 1] == '\n')
        len--;
    return len;
}

/* Refuses a word that would end the line too early, or would become several fields. */
static void word_check(const char *word, size_t len, bool may_have_spaces) {
    if (len == 0)
        DIE("an empty argument: no field of a request can be empty");
    if (!may_have_spaces && memchr(word, ' ', len))
        DIE("'%s' has a space in it, and only a value can", word);
    if (memchr(word, '\n', len))
        DIE("a line feed in an argument would end the request there");
}

/* Queues the words of the command line as one request, with a space between two words. Nothing is sent
 * before all words are checked. */
static void request_from_words(char **words) {
    char line[2 * REQUEST_MAX];
    size_t len = 0;
    const struct command *command = command_named(words[0]);
    int without_space = command ? command->words : 2; /* words */
    for (int i = 0; words[i]; i++) {
        char *word = line + len;
        size_t size = sizeof line - len;
        size_t word_len;
        if (len > REQUEST_MAX)
            DIE(TOO_LONG);
        if (i == without_space && !words[i + 1] && strcmp(words[i], "-") == 0)
            word_len = word_from_stdin(word, size - 1);
        else
            word_len = (size_t)snprintf(word, size, "%s", words[i]);
        if (word_len >= size)
            DIE(TOO_LONG);
        word_check(word, word_len, i >= without_space);
        len += word_len;
        line[len++] = ' ';
    }
    len--; /* the last space */
    line[len] = '\0';
    if (line[len - 1] == '\r')
        DIE("a carriage return at the end would be dropped");
    const char *wrong = request_queue(line, len);
    if (wrong)
        DIE("%s", wrong);
}

/* == 4. Replies ===================================================================================
 *
 * A reply is a line: a code of three digits, its name, and data if there is any. The first digit says
 * how it went, and decides the exit status, so a script does not have to read the reply. A line that
 * begins with 1 is no reply: it is a message, and may come at any time. */

/* Counts a reply, and returns the exit status that it stands for. */
static int reply_status(const char *line, size_t len) {
    if (strspn(line, "0123456789") != 3 || (len > 3 && line[3] != ' '))
        DIE("what came is no reply of KV/1.0; is that kvss?");
    if (line[0] == '1')
        return EXIT_SUCCESS;
    server.replies++;
    return line[0] == '2' ? EXIT_SUCCESS : EXIT_REFUSED;
}

/* What --value prints of a line: the data of a 200, or the text of a message. NULL: nothing. */
static const char *reply_value(const char *line) {
    if (starts_with(line, "200 OK "))
        return line + strlen("200 OK ");
    if (!starts_with(line, "100 MESSAGE "))
        return NULL;
    const char *user = line + strlen("100 MESSAGE ");
    const char *space = strchr(user, ' ');
    return space ? space + 1 : NULL;
}

/* Prints a reply, and returns its exit status. With --value, stdout gets data only, and a refusal goes
 * to stderr. */
static int reply_print(const char *line, size_t len) {
    int status = reply_status(line, len);
    const char *shown = line;
    FILE *to = stdout;
    if (options[VALUE].value && status == EXIT_SUCCESS)
        shown = reply_value(line);
    else if (options[VALUE].value)
        to = stderr;
    if (shown) {
        fwrite(shown, 1, len - (size_t)(shown - line), to);
        fputc('\n', to);
    }
    return status;
}

/* Output that is lost must not look like success. If fflush() fails, it sets the error indicator. */
static void output_flush(void) {
    (void)fflush(stdout);
    if (ferror(stdout))
        DIE_ERRNO("standard output");
}

/* == 5. Batch =====================================================================================
 *
 * A batch is pipelined: requests are sent as long as there is room for them, without waiting for the
 * replies. Replies come in the order of the requests. One request of the command line is a batch
 * without input.
 *
 *     file --> from_file --> lines --> to_server
 *
 * The last line of the input may be a QUIT, or a line that is too long. Nothing is sent after it. */

static struct {
    int fd;              /* -1: nothing is left to read */
    long long size;      /* of the file, in bytes; 0: not known */
    long long bytes;     /* read so far */
    unsigned long lines; /* queued so far */
    bool wrong;          /* a line could not be sent */
    time_t progress_at;  /* when to show the progress next */
    bool progress_shown;
} input = {.fd = -1};

/* One byte is spare: the last line of a file may lack its LF, and gets one. */
static struct queue from_file = {buffers.from_file, QUEUE_SIZE - 1, 0, 0};

/* Queues the lines that have been read, as long as there is room for the longest request. */
static void input_queue(void) {
    while (queue_room(&to_server) >= REQUEST_MAX) {
        const char *wrong = NULL;
        size_t len = 0;
        char *line = queue_line(&from_file, &len);
        if (!line && queue_len(&from_file) < REQUEST_MAX)
            return;
        input.lines++;
        if (len > 0 && line[len - 1] == '\r')
            len--;
        if (!line)
            wrong = TOO_LONG;
        else if (len > 0)
            wrong = request_queue(line, len);
        if (wrong) {
            fprintf(stderr, "kvss_client: line %lu: %s\n", input.lines, wrong);
            input.wrong = true;
        }
        if (wrong || server.quitting) {
            input.fd = -1;
            from_file.start = from_file.end;
        }
    }
}

static void input_read(void) {
    ssize_t n = queue_read(&from_file, input.fd);
    if (n < 0 && is_later())
        return;
    if (n < 0)
        DIE_ERRNO("cannot read the requests");
    input.bytes += n;
    if (n > 0)
        return;
    input.fd = -1;
    if (queue_len(&from_file))
        queue_append(&from_file, "\n", 1);
}

static void progress_print(const char *end) {
    long long percent = input.bytes * 100 / input.size;
    fprintf(stderr, "\r%lu replies, %lld %% of the file%s", server.replies, percent, end);
}

/* Shows once a second how far a long file has come, on a terminal that does not show the replies. */
static void progress_show(void) {
    time_t now = time(NULL);
    bool shows = input.size > 0 && isatty(STDERR_FILENO) && !isatty(STDOUT_FILENO);
    if (!shows || now < input.progress_at)
        return;
    input.progress_at = now + 1;
    input.progress_shown = true;
    progress_print("");
}

/* There is more to read, to queue, to send or to receive. */
static bool batch_goes_on(void) {
    return input.fd >= 0 || queue_len(&from_file) || server_due();
}

/* Lines are queued at the end of the turn. A line that stays in from_file then is not whole, or has no
 * room in to_server, so there is always something to wait for. Returns the exit status. */
static int batch_run(void) {
    int worst = EXIT_SUCCESS;
    input.progress_at = time(NULL) + 1;
    while (!server.ended && batch_goes_on()) {
        size_t len;
        char *line;
        int from = -1;
        if (input.fd >= 0 && queue_room(&from_file) >= QUEUE_SIZE / 2)
            from = input.fd;
        if (server_turn(from, NULL))
            input_read();
        input_queue();
        while ((line = queue_line(&from_server, &len)))
            if (reply_print(line, len) != EXIT_SUCCESS)
                worst = EXIT_REFUSED;
        output_flush();
        progress_show();
        if (!server.quitting && !batch_goes_on())
            server_half_close();
    }
    if (input.progress_shown)
        progress_print("\n");
    if (server.ended && !server.quitting && (input.fd >= 0 || queue_len(&from_file)))
        DIE("the server closed the connection, and the requests from line %lu on were not sent",
            input.lines + 1);
    if (server.replies < server.requests)
        DIE("the server closed the connection; %lu of %lu requests have no reply",
            server.requests - server.replies, server.requests);
    return input.wrong ? EXIT_NO_REPLY : worst;
}

/* == 6. Terminal ==================================================================================
 *
 * As a rule a terminal shows what is typed, and sends a line when the user presses Enter. In raw mode
 * it sends each key at once, and shows nothing. A character is sent as its bytes of UTF-8. Other keys
 * are sent as a control character, or as an escape sequence (ECMA-48, section 5.4):
 *
 *     ESC [ A          the up arrow: a final byte names the key
 *     ESC [ 3 ~        Delete: before ~, a digit names the key
 *     ESC [ 24 ; 80 R  a report: the cursor is in line 24 and column 80
 *
 * POSIX.1-2008 has no call for the width of a terminal. So the client moves the cursor far to the
 * right, and asks for a report with ESC [ 6 n. The column in the report is the width. */

enum {
    ESC = 0x1B,
    BACKSPACE = 0x7F,
    CTRL = 0x1F,        /* 'A' & CTRL is Ctrl-A */
    KEY_BYTES_MAX = 32, /* no escape sequence is that long */
};

/* The number of a key is its byte. For an escape sequence it is KEY and the byte that names the key. */
enum {
    KEY = 256,
    KEY_UP = KEY + 'A',
    KEY_DOWN = KEY + 'B',
    KEY_RIGHT = KEY + 'C',
    KEY_LEFT = KEY + 'D',
    KEY_END = KEY + 'F',
    KEY_HOME = KEY + 'H',
    KEY_DELETE = KEY + '3',
};

#define CLEAR_TO_END "\x1b[K"
#define CLEAR_SCREEN "\x1b[H\x1b[2J"
#define ASK_WIDTH    "\x1b\x37\x1b[999C\x1b[6n\x1b\x38" /* save, go right, ask, go back */

static struct {
    struct termios saved; /* its settings before raw mode */
    bool raw;
    int columns; /* a guess, until a report has come */
    bool asked;  /* a report is still to come */
} terminal = {.columns = 80};

static struct queue keys = {buffers.keys, KEYS_SIZE, 0, 0}; /* not decoded yet */

/* A report may come late. TCSAFLUSH drops what was not read, or the shell would get the report. */
static void terminal_restore(void) {
    if (terminal.raw)
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &terminal.saved);
    terminal.raw = false;
}

/* Ctrl-C and Ctrl-Z still make signals (ISIG stays). Ctrl-C also drops the keys that were typed before
 * it, even after pselect() has said that there are some. read() would then wait for ever, with all
 * signals blocked. So VMIN is 0, and read() returns if there are no keys. */
static void terminal_raw(void) {
    if (tcgetattr(STDIN_FILENO, &terminal.saved) < 0)
        DIE_ERRNO("tcgetattr");
    struct termios raw = terminal.saved;
    raw.c_iflag &= ~(ICRNL | IXON);
    raw.c_lflag &= ~(ICANON | ECHO | IEXTEN);
    raw.c_cc[VMIN] = 0;
    raw.c_cc[VTIME] = 0;
    if (tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) < 0)
        DIE_ERRNO("tcsetattr");
    terminal.raw = true;
}

static void terminal_write(const char *bytes, size_t len) {
    while (len > 0) {
        ssize_t n = write(STDOUT_FILENO, bytes, len);
        if (n < 0 && !is_later())
            DIE_ERRNO("terminal");
        if (n > 0) {
            bytes += n;
            len -= (size_t)n;
        }
    }
}

static void terminal_put(const char *text) {
    terminal_write(text, strlen(text));
}

static void terminal_ask(void) {
    terminal_put(ASK_WIDTH);
    terminal.asked = true;
}

/* Takes the column from a report. Shift-F3 can look like a report, so a report counts only if the
 * client has asked for it. */
static void terminal_report(const char *sequence, size_t len) {
    const char *semicolon = memchr(sequence, ';', len);
    int columns = semicolon ? atoi(semicolon + 1) : 0;
    if (columns <= 0 || !terminal.asked)
        return;
    terminal.columns = columns;
    terminal.asked = false;
}

/* Decodes the first key. Returns how many bytes it took; 0: its end is still to come. */
static size_t key_decode(const char *bytes, size_t len, int *key) {
    *key = (unsigned char)bytes[0];
    if (*key != ESC)
        return 1;
    *key = KEY; /* none that has a name */
    if (len < 2)
        return 0;
    if (bytes[1] != '[' && bytes[1] != 'O')
        return 2;
    size_t last = 2;
    while (last < len && (bytes[last] < 0x40 || bytes[last] == 0x7F))
        last++;
    if (last == len && len < KEY_BYTES_MAX)
        return 0;
    if (last == len)
        return len;
    size_t name = last;
    if (bytes[last] == '~' && last == 3)
        name = 2;
    if (bytes[last] == 'R')
        terminal_report(bytes, last);
    *key = KEY + (unsigned char)bytes[name];
    return last + 1;
}

/* == 7. Editor ====================================================================================
 *
 * The editor holds the line that is being typed. A character of UTF-8 has up to four bytes, and takes
 * no column, one, or two. A mark without a column of its own, such as an accent, belongs to the
 * character before it: the cursor never stops between them. If the line is too long for the terminal,
 * the part around the cursor is shown.
 *
 * The history is the lines typed before, the oldest first. Behind them is one place more, for the line
 * that was being typed when the user pressed up:
 *
 *     history:  [0] "put a 1"   [1] "get a"   [2] "del"
 *                                              '- lines = 2; at = 2: the editor shows this one */

#define PROMPT         "KVSS> "
#define PROMPT_COLUMNS 6

enum { HISTORY_MAX = 1000 }; /* lines */

static struct {
    char text[REQUEST_MAX];
    size_t len;    /* bytes */
    size_t cursor; /* bytes before the cursor */
    bool full;     /* more was typed than fits */
    char *history[HISTORY_MAX + 1];
    int lines; /* of the history */
    int at;    /* the line of the history that is shown */
} editor;

/* Returns where the character at i ends, and sets how many columns it takes. A byte that is no
 * character takes one. */
static size_t editor_character(size_t i, int *columns) {
    wchar_t character;
    mbstate_t state = {0};
    size_t n = mbrtowc(&character, editor.text + i, editor.len - i, &state);
    *columns = 1;
    if (n > editor.len - i)
        return i + 1;
    int width = wcwidth(character);
    if (width >= 0)
        *columns = width;
    return i + n;
}

static int editor_columns(size_t from, size_t to) {
    int sum = 0;
    while (from < to) {
        int columns;
        from = editor_character(from, &columns);
        sum += columns;
    }
    return sum;
}

/* The end of the character at i, with its marks. */
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

/* The start of the character that ends at i, with its marks. UTF-8 is read forwards only, so each
 * length is tried, the longest first. */
static size_t editor_left(size_t i) {
    int columns = 0;
    while (i > 0 && columns == 0) {
        size_t bytes = i < MB_CUR_MAX ? i : MB_CUR_MAX;
        while (bytes > 1 && editor_character(i - bytes, &columns) != i)
            bytes--;
        i -= bytes;
        editor_character(i, &columns);
    }
    return i;
}

static size_t editor_word_start(size_t i) {
    while (i > 0 && editor.text[i - 1] == ' ')
        i--;
    while (i > 0 && editor.text[i - 1] != ' ')
        i--;
    return i;
}

/* Draws the prompt and as much of the line as fits, and puts the cursor in its place. If not all fits,
 * two thirds of the room are for what is left of the cursor. A tab is shown as a space. */
static void editor_draw(void) {
    char shown[REQUEST_MAX], end[32];
    size_t cursor = editor.cursor, from = cursor, to = cursor;
    int room = terminal.columns - PROMPT_COLUMNS - 1;
    int left = room;
    if (cursor < editor.len && editor_columns(0, editor.len) > room)
        left = room * 2 / 3;
    while (from > 0 && editor_columns(editor_left(from), cursor) <= left)
        from = editor_left(from);
    while (to < editor.len && editor_columns(from, editor_right(to)) <= room)
        to = editor_right(to);
    for (size_t i = from; i < to; i++)
        shown[i - from] = editor.text[i] == '\t' ? ' ' : editor.text[i];
    int column = PROMPT_COLUMNS + editor_columns(from, cursor);
    snprintf(end, sizeof end, CLEAR_TO_END "\r\x1b[%dC", column);
    terminal_put("\r" PROMPT);
    terminal_write(shown, to - from);
    terminal_put(end);
}

static void editor_set(const char *text) {
    editor.full = false;
    editor.len = strlen(text);
    editor.cursor = editor.len;
    memcpy(editor.text, text, editor.len);
}

/* Inserts the key, if it is a byte of a text. */
static void editor_insert(int key) {
    if (key != '\t' && (key < ' ' || key > 0xFF))
        return;
    editor.full |= editor.len + 1 >= sizeof editor.text;
    if (editor.full)
        return;
    char *at = editor.text + editor.cursor;
    memmove(at + 1, at, editor.len - editor.cursor);
    *at = (char)key;
    editor.cursor++;
    editor.len++;
}

/* Deletes what is between two places, and leaves the cursor there. */
static void editor_delete(size_t from, size_t to) {
    memmove(editor.text + from, editor.text + to, editor.len - to);
    editor.len -= to - from;
    editor.cursor = from;
}

/* Keeps the line that is being typed behind the last line of the history. */
static void history_keep(void) {
    editor.text[editor.len] = '\0';
    free(editor.history[editor.lines]);
    editor.history[editor.lines] = strdup(editor.text);
}

/* Adds the line, unless it is empty, or equal to the line before it. When the history is full, its
 * oldest line goes. If there is no memory, the line is not added: nothing else depends on it. */
static void history_add(void) {
    history_keep();
    char **added = &editor.history[editor.lines];
    bool again = editor.lines > 0 && strcmp(added[-1], editor.text) == 0;
    if (*added && editor.len > 0 && !again)
        editor.lines++;
    if (editor.lines > HISTORY_MAX) {
        editor.lines--;
        free(editor.history[0]);
        memmove(editor.history, editor.history + 1, HISTORY_MAX * sizeof *editor.history);
        *added = NULL;
    }
    editor.at = editor.lines;
}

/* Shows another line of the history. The line being typed is kept behind the last one. */
static void history_go(int to) {
    if (to < 0 || to > editor.lines)
        return;
    if (editor.at == editor.lines)
        history_keep();
    if (!editor.history[to])
        return;
    editor_set(editor.history[to]);
    editor.at = to;
}

/* A key that moves the cursor, inserts or deletes. Some terminals send a digit for Home and End. */
static void editor_character_key(int key) {
    size_t at = editor.cursor;
    switch (key) {
    case KEY_LEFT:
    case 'B' & CTRL:
        editor.cursor = editor_left(at);
        break;
    case KEY_RIGHT:
    case 'F' & CTRL:
        editor.cursor = editor_right(at);
        break;
    case KEY_HOME:
    case KEY + '1':
    case KEY + '7':
    case 'A' & CTRL:
        editor.cursor = 0;
        break;
    case KEY_END:
    case KEY + '4':
    case KEY + '8':
    case 'E' & CTRL:
        editor.cursor = editor.len;
        break;
    case BACKSPACE:
    case 'H' & CTRL:
        editor_delete(editor_left(at), at);
        break;
    case KEY_DELETE:
    case 'D' & CTRL:
        editor_delete(at, editor_right(at));
        break;
    default:
        editor_insert(key);
    }
}

/* A key for the history, for a part of the line, or for the screen. All other keys are above. */
static void editor_key(int key) {
    switch (key) {
    case KEY_UP:
    case 'P' & CTRL:
        history_go(editor.at - 1);
        break;
    case KEY_DOWN:
    case 'N' & CTRL:
        history_go(editor.at + 1);
        break;
    case 'U' & CTRL:
        editor_delete(0, editor.cursor);
        break;
    case 'K' & CTRL:
        editor.len = editor.cursor;
        break;
    case 'W' & CTRL:
        editor_delete(editor_word_start(editor.cursor), editor.cursor);
        break;
    case 'L' & CTRL:
        terminal_put(CLEAR_SCREEN);
        break;
    default:
        editor_character_key(key);
    }
}

/* == 8. Prompt ====================================================================================
 *
 * The prompt waits for two things at once, for keys and for the server: the server may send a message,
 * or close, while the user types. What it sends is shown above the line that is being typed.
 *
 *     connected to 127.0.0.1:9000 from port 41316; help lists the commands, exit leaves
 *     KVSS> get foo
 *     200 OK bar
 *     KVSS> _
 *
 * While a reply is due, keys wait. So when several lines are pasted, each line is followed by its
 * reply. */

static volatile sig_atomic_t caught_signal; /* 0: none so far */

static void on_signal(int signal) {
    caught_signal = signal;
}

static void prompt_help(void) {
    commands_print();
    help_row("help", "show this");
    help_row("exit", "leave; so does Ctrl-D");
    printf("A line with a version of its own, like KV/2.0 GET name, is sent as it is.\n");
}

/* Runs the line that was typed. False: the user leaves. */
static bool prompt_enter(void) {
    const char *wrong = NULL;
    editor.cursor = editor.len;
    editor_draw(); /* a line that was pasted has not been shown yet */
    terminal_put("\n");
    history_add();
    if (strcmp(editor.text, "exit") == 0)
        return false;
    if (strcmp(editor.text, "help") == 0)
        prompt_help();
    else if (editor.len > 0 && !editor.full)
        wrong = request_queue(editor.text, editor.len);
    if (editor.full)
        wrong = TOO_LONG;
    if (wrong)
        puts(wrong);
    fflush(stdout);
    editor_set("");
    terminal_ask();
    return true;
}

/* A value may hold an escape sequence, and the terminal must not obey it. So control characters are
 * shown as \xNN, those of the second set (U+0080 to U+009F, which is C2 80 to C2 9F) too. */
static void prompt_print(const char *line, size_t len) {
    bool second = false; /* the second byte of such a character */
    for (size_t i = 0; i < len; i++) {
        unsigned char byte = (unsigned char)line[i];
        bool first = byte == 0xC2 && (unsigned char)line[i + 1] < 0xA0;
        if (first || second || byte < 0x20 || byte == 0x7F)
            printf("\\x%02X", byte);
        else
            putchar(byte);
        second = first;
    }
    printf("\n");
    fflush(stdout);
}

/* Shows the replies and messages that have come. */
static void prompt_replies(void) {
    size_t len;
    char *line;
    while ((line = queue_line(&from_server, &len))) {
        terminal_put("\r" CLEAR_TO_END);
        reply_status(line, len);
        prompt_print(line, len);
    }
}

static const int prompt_stops[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, 0};

/* Blocks the signals. They come while pselect() waits, and at no other time. */
static void prompt_signals(void) {
    struct sigaction caught = {.sa_handler = on_signal};
    sigset_t blocked;
    sigemptyset(&blocked);
    for (const int *stop = prompt_stops; *stop; stop++) {
        sigaddset(&blocked, *stop);
        sigaction(*stop, &caught, NULL);
    }
    sigprocmask(SIG_BLOCK, &blocked, NULL);
}

/* Restores the terminal, and lets the signal do what it does by default. Most signals end the client.
 * After Ctrl-Z it goes on when the user continues it, or at once if no shell could continue it (POSIX:
 * orphaned process group). */
static void prompt_obey(int signal) {
    struct sigaction usual = {.sa_handler = SIG_DFL};
    sigset_t set;
    caught_signal = 0;
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

/* False: the user leaves. */
static bool prompt_key(int key) {
    if (key == '\r' || key == '\n')
        return prompt_enter();
    if (key == ('D' & CTRL) && editor.len == 0)
        return false;
    editor_key(key);
    return true;
}

/* Runs the keys that have come, until the server is awaited. False: the user leaves. */
static bool prompt_keys(void) {
    while (queue_len(&keys) && !server_awaited()) {
        int key;
        size_t used = key_decode(keys.bytes + keys.start, queue_len(&keys), &key);
        if (used == 0)
            return true;
        keys.start += used;
        if (!prompt_key(key))
            return false;
    }
    return true;
}

/* If read() returns nothing, Ctrl-C has dropped the keys, see terminal_raw(), or the terminal is gone.
 * A terminal that is gone has no settings either. False: it is gone. */
static bool prompt_read(void) {
    struct termios settings;
    ssize_t n = queue_read(&keys, STDIN_FILENO);
    if (n < 0)
        return is_later();
    return n > 0 || tcgetattr(STDIN_FILENO, &settings) == 0;
}

/* One end of the connection, in digits; "?" if it is not known. */
struct address {
    char host[INET6_ADDRSTRLEN], port[6];
};

/* `get_end` is getpeername or getsockname. */
static struct address address_of(int (*get_end)(int, struct sockaddr *, socklen_t *)) {
    struct address a = {"?", "?"};
    struct sockaddr_storage bytes;
    socklen_t len = sizeof bytes;
    if (get_end(server.fd, (struct sockaddr *)&bytes, &len) == 0)
        getnameinfo((struct sockaddr *)&bytes, len, a.host, sizeof a.host, a.port, sizeof a.port,
                    NI_NUMERICHOST | NI_NUMERICSERV);
    return a;
}

static void prompt_greet(void) {
    struct address peer = address_of(getpeername), own = address_of(getsockname);
    printf(strchr(peer.host, ':') ? "connected to [%s]:%s" : "connected to %s:%s", peer.host,
           peer.port);
    printf(" from port %s; help lists the commands, exit leaves\n", own.port);
    fflush(stdout);
}

/* Returns the exit status. If all characters of the locale are single bytes, it has no UTF-8, and
 * C.UTF-8 takes its place. */
static int prompt_run(void) {
    bool stays = true; /* the user has not left */
    sigset_t none;
    sigemptyset(&none);
    prompt_signals();
    if (!setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1)
        setlocale(LC_CTYPE, "C.UTF-8");
    atexit(terminal_restore);
    prompt_greet();
    terminal_raw();
    terminal_ask();
    while (!server.ended && (stays || server.half_closed)) {
        int from = -1;
        if (stays && !server_awaited()) {
            editor_draw();
            from = STDIN_FILENO;
        }
        if (server_turn(from, &none))
            stays = prompt_read();
        prompt_replies();
        if (caught_signal)
            prompt_obey(caught_signal);
        stays = stays && prompt_keys();
        if (!stays)
            server_half_close();
    }
    terminal_put("\r" CLEAR_TO_END);
    if (server.ended && !server.quitting && !server.half_closed)
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
