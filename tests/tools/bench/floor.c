/* floor: what a select() server can't be faster than. It reads what kvss would read, writes what
 * kvss would write, with the same calls in the same order, and does nothing else: no lines, no
 * store.
 *
 *     floor PORT
 *
 * A client says first how many bytes of requests get how many bytes of replies: "31 37\n". */
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_MAX = 16384 };

static struct client {
    bool open;
    unsigned long request, reply; /* bytes */
    unsigned long unanswered;     /* bytes that have come of requests */
} clients[FD_SETSIZE];

static char in[READ_MAX + 1], out[1 << 20];
static size_t waiting[FD_SETSIZE]; /* bytes to be sent */

static void client_read(int fd) {
    struct client *c = &clients[fd];
    ssize_t n = recv(fd, in, READ_MAX, 0);
    if (n <= 0) {
        close(fd);
        *c = (struct client){false, 0, 0, 0};
        return;
    }
    in[n] = '\0';
    if (c->request == 0) {
        sscanf(in, "%lu %lu", &c->request, &c->reply);
        n -= strchr(in, '\n') + 1 - in;
    }
    c->unanswered += (unsigned long)n;
    waiting[fd] = c->unanswered / c->request * c->reply;
    c->unanswered %= c->request;
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1, top = listener;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((unsigned short)(argc > 1 ? atoi(argv[1]) : 0));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(listener, SOMAXCONN) < 0) {
        perror("floor");
        return 1;
    }
    memset(out, 'x', sizeof out);
    for (;;) {
        fd_set readable;
        FD_ZERO(&readable);
        FD_SET(listener, &readable);
        for (int fd = 0; fd <= top; fd++)
            if (clients[fd].open)
                FD_SET(fd, &readable);
        if (select(top + 1, &readable, NULL, NULL, NULL) < 0)
            return 1;
        if (FD_ISSET(listener, &readable)) {
            int fd = accept(listener, NULL, NULL);
            if (fd >= FD_SETSIZE)
                close(fd);
            if (fd < 0 || fd >= FD_SETSIZE)
                continue;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            clients[fd].open = true;
            if (fd > top)
                top = fd;
        }
        for (int fd = 0; fd <= top; fd++)
            if (clients[fd].open && FD_ISSET(fd, &readable))
                client_read(fd);
        for (int fd = 0; fd <= top; fd++) {
            if (clients[fd].open && waiting[fd])
                (void)!send(fd, out, waiting[fd], 0);
            waiting[fd] = 0;
        }
    }
}
