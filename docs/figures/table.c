/* One of the store's 256 tables just before and just after it grows, for docs/figures/tour-table.svg: a
 * line for each slot, with its number, and its key and that key's home if there is one. */
#define main kvss_main
#include "../../kvss.c"
#undef main

enum { WHICH = 0, FULL_AT = 6 }; /* a table; entries it has when one more makes it grow */

static void print_table(const char *when) {
    const struct table *t = &store.tables[WHICH];
    for (uint32_t i = 0; i < t->size; i++) {
        const struct slot *s = &t->slots[i];
        printf("%s\t%u", when, (unsigned)i);
        if (s->entry)
            printf("\t%.*s\t%u", s->entry->key_len, s->entry->bytes,
                   (unsigned)table_home(t, s->hash));
        printf("\n");
    }
}

int main(void) {
    store_seed[0] = 8; /* always the same hashes; some keys have to go out of each other's way */
    char name[16];
    for (int n = 0; store.tables[WHICH].used <= FULL_AT; n++) {
        struct str key = {name, (size_t)snprintf(name, sizeof name, "key%d", n)};
        uint64_t hash = store_hash(key);
        if (hash >> 56 != WHICH)
            continue;
        if (store.tables[WHICH].used == FULL_AT)
            print_table("before");
        if (store_put(&store, hash, key, STR("value")) == NOT_STORED)
            return 1;
    }
    print_table("after");
    return 0;
}
