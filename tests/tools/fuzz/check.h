/* What must be so in kvss between two turns of its loop, whatever has come; and how a process of it
 * begins and ends here. */
#include "system.h"

#pragma clang attribute push(__attribute__((no_sanitize("coverage"))), apply_to = function)

static struct {
    __typeof__(compaction) compaction;
    __typeof__(logfile) logfile;
} parent;

static void save_parent(void) {
    parent.compaction = compaction, parent.logfile = logfile;
}
static void restore_parent(void) {
    compaction = parent.compaction, logfile = parent.logfile;
}

/* The entry is where searches for it end. Returns its bytes. */
static size_t check_entry(struct store *st, int i, const struct slot *s) {
    const struct entry *e = s->entry;
    struct str key = {e->bytes, e->key_len};
    MUST(e->key_len > 0 && e->key_len <= KEY_MAX && e->value_len > 0);
    MUST(store_hash(key) >> 56 == (unsigned)i && (uint32_t)store_hash(key) == s->hash);
    MUST(table_find(&st->tables[i], s->hash, key) == s);
    if (!e->expires)
        return entry_size(e);
    uint32_t place = expiry_place(e);
    MUST(place < st->deadlines_len && st->deadlines[place].entry == e);
    MUST(place == 0 || st->deadlines[(place - 1) / 2].at <= st->deadlines[place].at);
    return entry_size(e);
}

static void check_store(struct store *st) {
    unsigned long long keys = 0, bytes = 0, deadlines = 0, deadline_keys = 0;
    for (int i = 0; i < TABLES; i++) {
        const struct table *t = &st->tables[i];
        uint32_t used = 0;
        if (!t->size)
            continue;
        MUST((t->size & (t->size - 1)) == 0 && t->size >= TABLE_MIN);
        for (uint32_t slot = 0; slot < t->size; slot++) {
            const struct entry *e = t->slots[slot].entry;
            if (!e)
                continue;
            bytes += check_entry(st, i, &t->slots[slot]);
            used++;
            deadlines += e->expires;
            deadline_keys += e->expires ? e->key_len : 0;
        }
        MUST(t->used == used && used < t->size);
        keys += used;
    }
    MUST(st->keys == keys && st->bytes == bytes && st->deadlines_len == deadlines);
    MUST(st->deadline_keys == deadline_keys && st->deadlines_len <= st->deadlines_size);
}

static void check_mailbox(const struct mailbox *box) {
    const struct message *last = NULL, *unsent = box->first;
    size_t bytes = 0, sending = 0;
    int messages = 0;
    for (const struct message *m = box->first; m; last = m, m = m->next) {
        bytes += m->len;
        messages++;
        MUST(m->len > 0);
    }
    for (; unsent && unsent != box->unsent; unsent = unsent->next)
        sending += unsent->sending;
    MUST(unsent == box->unsent);
    MUST(box->messages == messages && messages <= MESSAGES_MAX);
    MUST(box->bytes == bytes && bytes <= MAILBOX_BYTES);
    MUST(!last || box->last == last);
    MUST(box->sending == sending);
    MUST(box->holder ? box->holder->mailbox == box : box->unsent == box->first);
}

static void check_mailboxes(void) {
    MUST(mailboxes_len <= MAILBOXES_MAX);
    for (size_t i = 0; i < mailboxes_len; i++) {
        check_mailbox(mailboxes[i]);
        MUST(!i || name_compare(mailbox_name(mailboxes[i - 1]), mailbox_name(mailboxes[i])) < 0);
    }
}

/* rested: nothing is to be done until something comes. */
static void check_client(struct client *c, bool rested) {
    struct peer *p = fd_peer(client_fd(c));
    MUST(c->phase != CLOSED && p->fd == client_fd(c));
    MUST(c->in_len <= REQUEST_MAX && c->scanned <= c->in_len && c->out.len <= c->out.size);
    MUST(!memchr(c->in, '\n', c->scanned));
    MUST(!c->mailbox || (c->mailbox->holder == c && c->phase <= ENDING));
    MUST(!c->mailbox || c->mailbox->messages == 0 || c->out.len > 0 || !rested);
    if (c->store != &store)
        check_store(c->store);
    if (!rested || p->room == 0)
        return;
    MUST(!c->pending && !c->out.len && c->phase != ENDING && c->phase != QUITTING);
    MUST(c->phase == LINGERING || (p->read == p->sent.len && !p->ended));
    MUST(c->wire == LINES ? c->scanned == c->in_len && c->in_len < REQUEST_MAX : !c->in_len);
}

static void check_all(bool rested) {
    long open = 0;
    check_store(&store);
    check_mailboxes();
    for (int fd = 0; fd < FDS; fd++) {
        if (sys.fds[fd].kind == FD_PEER)
            check_client(&clients[fd], rested), open++;
        MUST((sys.fds[fd].kind == FD_PEER) == (clients[fd].phase != CLOSED));
    }
    MUST(server.clients == open);
    bool writing = logfile.behind || logfile.untrusted;
    MUST(!rested || !logfile.path || writing || !logfile.lines.len);
    MUST(!rested || logfile.behind || !logfile.promises.len);
}

/* Takes what is past out, so that two stores can be compared. */
static void store_expire(struct store *st) {
    while (expiry_next(st) <= server.now)
        expiry_step(st, EXPIRY_STEP);
}

/* Every key has the same value and deadline in both. */
static void check_same(struct store *a, struct store *b) {
    MUST(a->keys == b->keys && a->bytes == b->bytes && a->deadlines_len == b->deadlines_len);
    for (int i = 0; i < TABLES; i++) {
        for (uint32_t slot = 0; slot < a->tables[i].size; slot++) {
            const struct slot *s = &a->tables[i].slots[slot];
            const struct entry *e = s->entry, *f;
            if (!e)
                continue;
            struct str key = {e->bytes, e->key_len};
            const struct slot *other = table_find(&b->tables[i], s->hash, key);
            MUST(other && other->entry);
            f = other->entry;
            MUST(f->value_len == e->value_len && f->expires == e->expires);
            MUST(memcmp(f->bytes, e->bytes, (size_t)e->key_len + e->value_len) == 0);
            MUST(!e->expires ||
                 a->deadlines[expiry_place(e)].at == b->deadlines[expiry_place(f)].at);
        }
    }
}

static void store_empty(struct store *st) {
    for (struct table *t = st->tables; t < st->tables + TABLES; t++) {
        for (uint32_t i = 0; i < t->size; i++)
            sys_free(t->slots[i].entry);
        sys_free(t->slots);
    }
    sys_free(st->deadlines);
    memset(st, 0, sizeof *st);
}

static void process_begin(void) {
    if (!quiet)
        quiet = fopen("/dev/null", "w");
    store_seed[0] = 1, store_seed[1] = 2;
    memset(clients, 0, FDS * sizeof *clients);
    memset(&server, 0, sizeof server);
    memset(&logfile, 0, sizeof logfile);
    logfile.folder = -1;
    memset(&compaction, 0, sizeof compaction);
    memset(&replay, 0, sizeof replay);
    memset(&attended, 0, sizeof attended);
    server.listeners[LINES] = server.listeners[FRAMES] = -1;
    compaction.child = compaction.fd = -1;
    mailboxes_len = 0;
    sys.memory = sys.steps = -1;
}

/* As main() ends, and then all memory and all descriptors are free. kept: the store may outlive it.
 * */
static void process_end(struct store *kept) {
    while (reserve_held > 0)
        sys_free(reserve[--reserve_held]);
    reserve_wanted = 0;
    while (retired)
        store_sweep();
    if (kept)
        *kept = store, memset(&store, 0, sizeof store);
    store_empty(&store);
    for (size_t i = 0; i < mailboxes_len; i++) {
        while (mailboxes[i]->first)
            mailbox_pop(mailboxes[i]);
        sys_free(mailboxes[i]);
    }
    for (struct manager *next; managers; managers = next) {
        next = managers->next;
        sys_free(managers->name);
        sys_free(managers);
    }
    managers_count = 0;
    if (logfile.path)
        sys_close(logfile.folder);
    sys_free(logfile.path);
    sys_free(logfile.folder_path);
    sys_free(logfile.lines.bytes);
    sys_free(logfile.promises.bytes);
    sys_free(compaction.path);
    if (compaction.child >= 0)
        sys_close(compaction.child);
    for (int fd = 0; fd < FDS; fd++)
        MUST(sys.fds[fd].kind == FD_FREE);
}

#pragma clang attribute pop
