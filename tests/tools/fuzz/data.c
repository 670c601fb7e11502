/* A data file at the start. The first byte of an input chooses options, the second how many changes
 * of files are made before kvss is killed, the first time. The rest is the file; there FE n means
 * that the last byte stands there 257 n times more. What kvss makes of it is held against a model,
 * which knows no more than docs/protocol.md. */
#include "check.h"

#pragma clang attribute push(__attribute__((no_sanitize("coverage"))), apply_to = function)

enum { HEADER = 1, REPAIRS = 2, ALWAYS = 4, SHORT_READS = 8, OLD_BAD = 16, REPEATS = 0xFE };

/* What should come of the file: lines that are good, and others, as they are to be in FILE and
 * FILE.bad. */
static struct {
    bool begun, fits; /* it's the beginning of a header; or it has one */
    struct bytes good, bad;
    size_t run, bads;
    bool torn;
    struct model_key {
        struct str key, value;
        uint64_t at; /* as time of day, ms; 0: no deadline */
    } keys[2048];
    size_t keys_len;
} model;

/* One character, by decoding it. 0: there is none that is well formed. */
static size_t model_character(const unsigned char *p, size_t len) {
    static const uint32_t least[] = {0, 1, 0x80, 0x800, 0x10000};
    size_t n = *p < 0x80 ? 1 : *p < 0xC0 ? 0 : *p < 0xE0 ? 2 : *p < 0xF0 ? 3 : *p < 0xF8 ? 4 : 0;
    if (n == 0 || n > len)
        return 0;
    uint32_t code = n == 1 ? *p : *p & (0xFFu >> (n + 1));
    for (size_t i = 1; i < n; i++) {
        if (p[i] >> 6 != 2)
            return 0;
        code = code << 6 | (p[i] & 0x3F);
    }
    bool surrogate = code >= 0xD800 && code <= 0xDFFF;
    return code < least[n] || code > 0x10FFFF || surrogate ? 0 : n;
}

static bool model_is_text(struct str s) {
    for (size_t at = 0, n; at < s.len; at += n) {
        n = model_character((const unsigned char *)s.bytes + at, s.len - at);
        if (n == 0)
            return false;
    }
    return true;
}

/* Takes the bytes up to the next space; false: there is no space. */
static bool model_word(struct str *line, struct str *word) {
    *word = (struct str){line->bytes, 0};
    while (word->len < line->len && word->bytes[word->len] != ' ')
        word->len++;
    bool more = word->len < line->len;
    *line = (struct str){line->bytes + word->len + more, line->len - word->len - more};
    return more;
}

static bool model_is_key(struct str key) {
    for (size_t i = 0; i < key.len; i++)
        if ((unsigned char)key.bytes[i] < 33 || key.bytes[i] == 127)
            return false;
    return key.len >= 1 && key.len <= 250;
}

/* 1*10DIGIT ["." 3DIGIT], in ms. */
static bool model_time(struct str text, uint64_t *ms) {
    char digits[16];
    unsigned long long seconds;
    unsigned part = 0;
    size_t whole = 0;
    if (text.len == 0 || text.len > 14)
        return false;
    memcpy(digits, text.bytes, text.len);
    digits[text.len] = '\0';
    whole = strspn(digits, "0123456789");
    bool form = whole == text.len || (digits[whole] == '.' && text.len == whole + 4 &&
                                      strspn(digits + whole + 1, "0123456789") == 3);
    if (whole == 0 || whole > 10 || !form)
        return false;
    sscanf(digits, "%llu.%3u", &seconds, &part);
    *ms = seconds * 1000 + part;
    return true;
}

static struct model_key *model_find(struct str key) {
    struct model_key *k = model.keys;
    while (k < model.keys + model.keys_len && !str_equal(k->key, key))
        k++;
    return k;
}

/* False: it's not one for a data file. */
static bool model_run(struct str line) {
    struct str version, verb, key;
    uint64_t at;
    if (line.len >= 65536 || !model_is_text(line))
        return false;
    if (!model_word(&line, &version) || !str_equal(version, str_of("KV/1.0")))
        return false;
    if (!model_word(&line, &verb))
        return false;
    bool put = str_equal(verb, str_of("PUT")), del = str_equal(verb, str_of("DEL"));
    bool expireat = str_equal(verb, str_of("EXPIREAT")), more = model_word(&line, &key);
    if (!model_is_key(key) || (!put && !del && !expireat) || more == del)
        return false;
    if ((more && line.len == 0) || (expireat && !model_time(line, &at)))
        return false;
    struct model_key *k = model_find(key), *end = model.keys + model.keys_len;
    if (put)
        *k = (struct model_key){key, line, 0};
    if (put && k == end)
        model.keys_len++;
    if (del && k < end)
        *k = model.keys[--model.keys_len];
    if (expireat && k < end)
        k->at = at ? at : 1;
    return true;
}

static void model_read(struct str file) {
    struct str header = {log_header, sizeof log_header - 1};
    model.good.len = model.bad.len = model.run = model.bads = model.keys_len = 0;
    model.torn = false;
    size_t same = file.len < header.len ? file.len : header.len;
    model.begun = file.len < header.len && memcmp(file.bytes, header.bytes, same) == 0;
    model.fits = file.len >= header.len && memcmp(file.bytes, header.bytes, same) == 0;
    bytes_add(&model.good, header.bytes, header.len);
    bytes_add(&model.bad, "", 0);
    for (size_t at = header.len; model.fits && at < file.len;) {
        size_t len = 0;
        while (at + len < file.len && file.bytes[at + len] != '\n')
            len++;
        struct str line = {file.bytes + at, len};
        model.torn = at + len == file.len;
        bool good = !model.torn && model_run(line);
        bytes_add(good ? &model.good : &model.bad, line.bytes, line.len);
        bytes_add(good ? &model.good : &model.bad, "\n", 1);
        model.run += good;
        model.bads += !good;
        at += len + 1;
    }
}

static void check_model(void) {
    check_expiry(check_store(&store));
    MUST(store.keys == model.keys_len && server.now == 0);
    for (size_t i = 0; i < model.keys_len; i++) {
        const struct model_key *k = &model.keys[i];
        const struct entry *e = *store_find(&store, hash_key(k->key), k->key);
        MUST(e && str_equal(k->value, entry_value(e)) && !e->note == !k->at);
        if (!k->at)
            continue;
        uint64_t at = expiry.heap[e->note - 1].at;
        uint64_t before = EPOCH_MS - sys.began; /* of our clock's beginning */
        MUST(at == (k->at <= before ? 1 : k->at - before));
    }
}

static bool file_is(const char *path, const struct bytes *wanted) {
    const struct inode *inode = name_find(path)->inode;
    if (!wanted)
        return !inode;
    return inode && inode->data.len == wanted->len &&
           memcmp(inode->data.at, wanted->at, wanted->len) == 0;
}

static void file_make(const char *path, struct str bytes) {
    int fd = sys_open(path, O_CREAT);
    bytes_add(&fd_inode(fd)->data, bytes.bytes, bytes.len);
    sys_close(fd);
}

/* Nothing of it is left, but the files. */
static void process_vanish(void) {
    for (int fd = 0; fd < FDS; fd++)
        if (sys.fds[fd].kind != FD_FREE)
            sys_close(fd);
    while (sys.blocks)
        sys_free(sys.blocks + 1);
}

enum { STARTED = 100, KILLED = -1 }; /* or else the exit status, and 1 more */

static int start(bool repair, long steps) {
    process_begin();
    sys.steps = steps;
    log_options[REPAIR].value = repair;
    log_options[DATA].text = "/data";
    int end = setjmp(sys.end);
    if (!end)
        replay_file("/data");
    sys.steps = -1;
    return end ? end : STARTED;
}

static void stop(void) {
    process_end(NULL);
    MUST(!sys.blocks);
}

/* FILE is what the model made of it, or is written anew, as long as COMPACT would make it. The next start
 * has nothing to say about it. */
static void check_file(bool anew) {
    size_t size = name_find("/data")->inode->data.len;
    MUST(anew || file_is("/data", &model.good));
    MUST(file_is("/data.kvss-new", NULL));
    int begun = start(false, -1);
    MUST(begun == STARTED && replay.bad == 0);
    MUST(anew ? size == (size_t)compact_size() : replay.run == model.run);
    check_model();
}

/* Lets the compaction end that somebody has asked for, or that FILE needs. */
static void compact_all(void) {
    server.now = sys.now;
    for (int turns = 0; compaction.asked || logfile.outdated || compaction.phase != RESTING;
         turns++) {
        compact_turn();
        MUST(turns < 100);
    }
}

/* The store as COMPACT writes it is the same store. */
static void check_compaction(void) {
    off_t size = compact_size();
    MUST(command_compact(NULL) == ACCEPTED);
    compact_all();
    MUST(logfile.size == size && name_find("/data")->inode->data.len == (size_t)size);
    while (logfile.syncing)
        sync_poll();
    stop();
    MUST(file_is("/data.kvss-new", NULL));
    int begun = start(false, -1);
    MUST(begun == STARTED && replay.bad == 0);
    check_model();
    stop();
}

/* FILE.bad has the bad lines, after what was there before; after a start that was killed, perhaps
 * once more. */
static void check_bad(struct str before, bool killed_before) {
    const struct inode *inode = name_find("/data.bad")->inode;
    size_t len = before.len + model.bad.len;
    if (model.bads == 0)
        MUST(inode ? before.len && inode->data.len == before.len : !before.len);
    if (model.bads == 0)
        return;
    MUST(inode && inode->data.len >= len && (killed_before || inode->data.len == len));
    MUST(memcmp(inode->data.at, before.bytes, before.len) == 0);
    MUST(memcmp(inode->data.at + inode->data.len - model.bad.len, model.bad.at, model.bad.len) ==
         0);
}

/* A file that kvss refuses is as it was. */
static void check_refused(struct str file, struct str bad) {
    struct bytes same = {(char *)file.bytes, file.len, 0}, bads = {(char *)bad.bytes, bad.len, 0};
    MUST(file_is("/data", &same));
    MUST(file_is("/data.bad", bad.len ? &bads : NULL));
}

static void run(struct str file, uint8_t with, uint8_t steps) {
    struct str bad = with & OLD_BAD ? STR("what was there\n") : STR("");
    bool repair = with & REPAIRS, was_killed = false;
    bool refused = (!model.begun && !model.fits) || (!repair && model.bads > (size_t)model.torn);
    file_make("/data", file);
    if (bad.len)
        file_make("/data.bad", bad);
    int begun = start(repair, steps % 32 ? steps % 32 - 1 : -1);
    if (begun == KILLED) {
        was_killed = true;
        process_vanish();
        begun = start(repair, -1);
    }
    MUST((begun == STARTED) == !refused);
    if (refused) {
        process_vanish();
        check_refused(file, bad);
        return;
    }
    check_model();
    if (!was_killed)
        MUST(replay.run == model.run && replay.bad == model.bads);
    if (repair)
        check_bad(bad, was_killed);
    compact_all();
    stop();
    check_file(repair && model.bads > 0);
    check_compaction();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct bytes file;
    if (size < 2)
        return 0;
    file.len = 0;
    bytes_add(&file, log_header, data[0] & HEADER ? sizeof log_header - 1 : 0);
    for (size_t i = 2; i < size; i++) {
        bool repeats = data[i] == REPEATS;
        char byte = !repeats ? (char)data[i] : file.len ? file.at[file.len - 1] : ' ';
        size_t times = !repeats ? 1 : ++i < size ? data[i] * 257u : 0;
        while (times-- > 0)
            bytes_add(&file, &byte, 1);
    }
    sys.now = sys.began = 1000000;
    sys.memory = sys.steps = -1;
    sys.read_most = data[0] & SHORT_READS ? 7 + file.len / 64 : 0;
    log_options[FSYNC].text = data[0] & ALWAYS ? "always" : "everysec";
    model_read((struct str){file.at, file.len});
    run((struct str){file.at, file.len}, data[0], data[1]);
    for (int i = 0; i < 3; i++)
        if (sys.names[i].inode)
            sys_unlink(sys.names[i].path);
    return 0;
}

#pragma clang attribute pop
