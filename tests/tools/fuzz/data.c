/* A data file at the start. The first byte of an input chooses options, the second how many changes
 * of files are made before kvss is killed, the first time. The rest is the file; there FE n means
 * that the last byte stands there 257 n times more. What kvss makes of it is held against a model,
 * which knows no more than docs/protocol.md. */
#include "check.h"
#include <locale.h>
#include <regex.h>
#include <wchar.h>

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

static bool model_is_text(struct str s) {
    mbstate_t state = {0};
    wchar_t c;
    for (size_t at = 0, n; at < s.len; at += n) {
        n = mbrtowc(&c, s.bytes + at, s.len - at, &state);
        if (n == 0 || n > s.len || c > 0x10FFFF)
            return false;
    }
    return true;
}

static struct model_key *model_find(struct str key) {
    struct model_key *k = model.keys;
    while (k < model.keys + model.keys_len && !str_equal(k->key, key))
        k++;
    return k;
}

/* The text of a part of the pattern below. */
static struct str model_part(const char *text, regmatch_t part) {
    return (struct str){text + part.rm_so, (size_t)(part.rm_eo - part.rm_so)};
}

/* False: it's not one for a data file. */
static bool model_run(struct str line) {
    static const char pattern[] = "^KV/1\\.0 (PUT|EXPIREAT|DEL) ([^\001-\040\177]+)"
                                  "( (([0-9]{1,10})(\\.([0-9]{3}))?|.+))?$";
    enum { VERB = 1, KEY, ARGUMENT = 4, SECONDS, MS = 7, PARTS };
    static regex_t compiled;
    static char text[65536];
    regmatch_t parts[PARTS];
    if (!compiled.re_nsub &&
        (!setlocale(LC_CTYPE, "C.UTF-8") || regcomp(&compiled, pattern, REG_EXTENDED)))
        abort();
    if (line.len >= sizeof text || !model_is_text(line))
        return false;
    memcpy(text, line.bytes, line.len);
    text[line.len] = '\0';
    if (regexec(&compiled, text, PARTS, parts, 0) != 0)
        return false;
    bool put = text[parts[VERB].rm_so] == 'P', del = text[parts[VERB].rm_so] == 'D';
    bool is_time = parts[SECONDS].rm_so >= 0, has_argument = parts[ARGUMENT].rm_so >= 0;
    struct str key = model_part(line.bytes, parts[KEY]);
    if (key.len > 250 || has_argument == del || (!put && !del && !is_time))
        return false;
    struct model_key *k = model_find(key), *end = model.keys + model.keys_len;
    if (put)
        *k = (struct model_key){key, model_part(line.bytes, parts[ARGUMENT]), 0};
    if (put && k == end)
        model.keys_len++;
    if (del && k < end)
        *k = model.keys[--model.keys_len];
    if (!put && !del && k < end) {
        k->at = strtoull(text + parts[SECONDS].rm_so, NULL, 10) * 1000;
        if (parts[MS].rm_so >= 0)
            k->at += strtoull(text + parts[MS].rm_so, NULL, 10);
        if (k->at == 0)
            k->at = 1;
    }
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
