/* What must be so in kvss between two turns of its loop, whatever has come; and how a process of it
 * begins and ends here. */
#include "system.h"

#pragma clang attribute push(__attribute__((no_sanitize("coverage"))), apply_to = function)

static struct {
    __typeof__(compaction) compaction;
    __typeof__(logfile) logfile;
} parent;

static void save_parent(void) {
    parent.compaction = compaction;
    parent.logfile = logfile;
}
static void restore_parent(void) {
    compaction = parent.compaction;
    logfile = parent.logfile;
}

/* Every entry is where searches for it end, and those that have deadlines are in the heap. Returns how
 * many of these there are. */
static uint32_t check_store(struct store *st) {
    unsigned long long keys = 0, bytes = 0;
    uint32_t deadlines = 0;
    MUST(st->chains_size >= CHAINS_MIN && (st->chains_size & (st->chains_size - 1)) == 0);
    MUST(st->chains_len <= st->chains_size && st->chains_len > st->chains_size / 2);
    for (uint32_t i = 0; i < st->chains_len; i++) {
        for (struct entry **link = &st->chains[i], *e; (e = *link); link = &e->next) {
            uint64_t hash = hash_key(entry_key(e));
            MUST(e->key_len > 0 && e->key_len <= KEY_MAX && e->value_len > 0);
            MUST(e->hash == (uint32_t)hash && store_find(st, hash, entry_key(e)) == link);
            keys++;
            bytes += entry_size(e);
            if (!e->note)
                continue;
            const struct deadline *d = &expiry.heap[e->note - 1];
            MUST(e->note <= expiry.len && d->entry == e && d->store == st);
            deadlines++;
        }
    }
    MUST(st->keys == keys && st->bytes == bytes);
    return deadlines;
}

/* deadlines: of all stores. */
static void check_expiry(uint32_t deadlines) {
    unsigned long long key_bytes = 0;
    MUST(expiry.len == deadlines && expiry.len <= expiry.size);
    for (uint32_t i = 0; i < expiry.len; i++) {
        const struct deadline *d = &expiry.heap[i];
        MUST(i == 0 || expiry.heap[(i - 1) / 2].at <= d->at);
        key_bytes += d->entry->key_len;
    }
    MUST(expiry.key_bytes == key_bytes);
}

static void check_mailbox(const struct mailbox *box) {
    const struct message *last = NULL;
    size_t bytes = 0, sending = 0;
    int messages = 0;
    for (const struct message *m = box->first; m; last = m, m = m->next) {
        MUST(m->len > strlen(box->name) + 1);
        bytes += m->len - strlen(box->name) - 1;
        messages++;
    }
    for (const struct message *m = box->first; m && sending < box->sending; m = m->next)
        sending += m->sending;
    MUST(box->messages == messages && messages <= MESSAGES_MAX);
    MUST(box->bytes == bytes && bytes <= MAILBOX_BYTES);
    MUST(!last || box->last == last);
    MUST(box->sending == sending);
    MUST(box->holder ? mailboxes.of[client_fd(box->holder)] == box : !sending);
    /* The first one has not left. */
    MUST(!sending || sending - box->first->sending < box->holder->out.len);
}

static void check_mailboxes(void) {
    MUST(mailboxes.len <= MAILBOXES_MAX);
    for (size_t i = 0; i < mailboxes.len; i++) {
        check_mailbox(mailboxes.all[i]);
        MUST(!i || strcmp(mailboxes.all[i - 1]->name, mailboxes.all[i]->name) < 0);
    }
}

/* rested: nothing is to be done until something comes. */
static void check_client(const struct client *c, bool rested) {
    int fd = client_fd(c);
    const struct peer *p = fd_peer(fd);
    const struct mailbox *box = mailboxes.of[fd];
    MUST(c->phase != CLOSED && p->fd == fd);
    MUST(c->in.bytes == buffers[fd].in && c->in.size == REQUEST_MAX);
    MUST(c->out.bytes == buffers[fd].out && c->out.size == OUTPUT_MAX + REPLY_MAX);
    MUST(c->in.len <= c->in.size && c->out.len <= c->out.size);
    MUST(c->pending ? c->in.len > 0 : !memchr(c->in.bytes, '\n', c->in.len));
    MUST(c->pending || c->wire == &lines_wire || !c->in.len);
    MUST(!c->blocked || c->out.len > 0);
    MUST(!c->skipping || !c->in.len);
    MUST(!box || (box->holder == c && c->phase <= ENDING));
    MUST(!box || box->messages == 0 || c->out.len > 0 || !rested);
    MUST(!slow.waits[fd] || c->pending);
    if (!rested || p->room == 0)
        return;
    MUST(!c->pending && !c->out.len && c->phase != ENDING && c->phase != QUITTING);
    MUST(c->phase == LINGERING || (p->read == p->sent.len && !p->ended));
    MUST(c->in.len < REQUEST_MAX);
}

/* Nothing of a client that is gone is left for the next one with its descriptor. */
static void check_closed(int fd) {
    MUST(!mailboxes.of[fd] && !mailboxes.lists[fd].begun && !mailboxes.lists[fd].next[0]);
    MUST(!slow.waits[fd] && !frames.came[fd]);
}

static void check_slow(void) {
    MUST(!slow.chosen || (slow.chosen->pending && slow.waits[client_fd(slow.chosen)]));
}

/* FILE has what was written and no more. What is kept of it for a compaction is its end. */
static void check_log(bool rested) {
    const struct buf *kept = &compaction.kept;
    MUST(!memchr(logfile.promised, true, FDS));
    if (!logfile.path)
        return;
    const struct bytes *file = &fd_inode(logfile.fd)->data;
    MUST(file->len == (size_t)logfile.size);
    MUST(!rested || logfile.refusing || !logfile.lines.len);
    MUST(compaction.phase != RESTING ||
         (!kept->bytes && compaction.child < 0 && compaction.fd < 0));
    MUST(kept->len <= kept->size && kept->len <= file->len);
    MUST(logfile.outdated || !kept->len ||
         memcmp(file->at + file->len - kept->len, kept->bytes, kept->len) == 0);
}

static void check_all(bool rested) {
    int open = 0;
    uint32_t deadlines = check_store(&store);
    check_mailboxes();
    check_slow();
    check_log(rested);
    for (int fd = 0; fd < FDS; fd++) {
        struct client *c = &clients[fd];
        MUST((sys.fds[fd].kind == FD_PEER) == (c->phase != CLOSED));
        if (c->phase == CLOSED) {
            check_closed(fd);
            continue;
        }
        check_client(c, rested);
        open++;
        if (c->store != &store)
            deadlines += check_store(c->store);
    }
    MUST(server.clients_len == open);
    MUST(!rested || !roles.retired);
    if (!roles.retired) /* or they have deadlines, too */
        check_expiry(deadlines);
}

/* What a process has stored, when it is over. */
struct stored {
    struct store store;
    __typeof__(expiry) expiry;
};

/* Every key has the same value and deadline there and here. */
static void check_same(const struct stored *a) {
    MUST(a->store.keys == store.keys && a->store.bytes == store.bytes);
    MUST(a->expiry.len == expiry.len);
    for (uint32_t i = 0; i < a->store.chains_len; i++) {
        for (const struct entry *e = a->store.chains[i]; e; e = e->next) {
            const struct entry *f = *store_find(&store, hash_key(entry_key(e)), entry_key(e));
            MUST(f && str_equal(entry_value(e), entry_value(f)) && !e->note == !f->note);
            MUST(!e->note || a->expiry.heap[e->note - 1].at == expiry.heap[f->note - 1].at);
        }
    }
}

static void stored_free(struct stored *s) {
    for (uint32_t i = 0; i < s->store.chains_len; i++) {
        for (struct entry *e = s->store.chains[i], *next; e; e = next) {
            next = e->next;
            sys_free(e);
        }
    }
    sys_free(s->store.chains);
    sys_free(s->expiry.heap);
}

/* As main() does it, up to the replay. */
static void process_begin(void) {
    if (!quiet)
        quiet = fopen("/dev/null", "w");
    hash_seed[0] = 1;
    hash_seed[1] = 2;
    memset(clients, 0, FDS * sizeof *clients);
    memset(&server, 0, sizeof server);
    memset(&expiry, 0, sizeof expiry);
    memset(&logfile, 0, sizeof logfile);
    memset(&compaction, 0, sizeof compaction);
    memset(&replay, 0, sizeof replay);
    memset(&speed, 0, sizeof speed);
    limits.clients_end = FDS;
    server.fd_highest = compaction.child = compaction.fd = -1;
    sys.memory = sys.steps = -1;
    sys.ticking = false;
    start_tables();
    MUST(store_init(&store));
}

/* After main() has ended: all memory and all descriptors are free. */
static void process_end(struct stored *kept) {
    sys_free(logfile.reserve);
    while (roles.retired)
        roles_turn();
    while (expiry.len && expiry.heap[0].at <= server.now)
        expiry_commit();
    check_expiry(check_store(&store));
    struct stored stored = {store, expiry};
    if (kept)
        *kept = stored;
    else
        stored_free(&stored);
    while (mailboxes.len > 0) {
        struct mailbox *box = mailboxes.all[--mailboxes.len];
        while (box->first)
            mailbox_pop(box);
        mailboxes.by_host[box->host]--;
        sys_free(box);
    }
    for (struct manager *next; roles.managers; roles.managers = next) {
        next = roles.managers->next;
        sys_free(roles.managers);
    }
    if (logfile.path)
        sys_close(logfile.fd);
    sys_free(logfile.path);
    sys_free(logfile.lines.bytes);
    sys_free(compaction.kept.bytes);
    if (compaction.child >= 0)
        sys_close(compaction.child);
    for (int fd = 0; fd < FDS; fd++)
        MUST(sys.fds[fd].kind == FD_FREE);
}

#pragma clang attribute pop
