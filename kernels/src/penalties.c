/* Lowering scores by a text's history; see penalties.h.
 *
 * The tokens are put into a table, in which those of the history are looked up.
 */
#include "penalties.h"

#include <math.h>
#include <string.h>

enum { SLOTS = 512, MOST = 256 };

typedef struct {
    int16_t slots[SLOTS]; /* places, or -1 */
    const int64_t *ids;
} Table;

static int slot_of(int64_t token) { return (int)((uint32_t)token * 2654435761u >> 23); }

static void fill(Table *table, const int64_t *ids, int count) {
    memset(table->slots, -1, sizeof table->slots);
    table->ids = ids;
    for (int place = 0; place < count; place++) {
        int slot = slot_of(ids[place]);
        while (table->slots[slot] >= 0) slot = (slot + 1) % SLOTS;
        table->slots[slot] = (int16_t)place;
    }
}

/* The place of a token, or -1. */
static int find(const Table *table, int64_t token) {
    for (int slot = slot_of(token); table->slots[slot] >= 0; slot = (slot + 1) % SLOTS)
        if (table->ids[table->slots[slot]] == token) return table->slots[slot];
    return -1;
}

static void ban_ngrams(const Penalties *penalties, const Table *table, float *scores) {
    const int64_t *history = penalties->history;
    int before = penalties->ngram - 1, last = penalties->length - before;
    for (int start = 0; start + before < penalties->length; start++) {
        size_t bytes = (size_t)before * sizeof *history;
        if (memcmp(history + start, history + last, bytes) != 0) continue;
        int place = find(table, history[start + before]);
        if (place >= 0) scores[place] = -INFINITY;
    }
}

int has_penalties(const Penalties *penalties) {
    return penalties->repetition != 1 || penalties->presence != 0 || penalties->frequency != 0 ||
           penalties->ngram > 0;
}

void apply_penalties(const Penalties *penalties, const int64_t *ids, int count, float *scores) {
    Table table;
    int seen[MOST] = {0}, generated[MOST] = {0};
    fill(&table, ids, count);
    for (int i = 0; i < penalties->length; i++) {
        int place = find(&table, penalties->history[i]);
        if (place < 0) continue;
        seen[place] = 1;
        generated[place] += i >= penalties->prompt;
    }
    for (int place = 0; place < count; place++) {
        float score = scores[place];
        if (seen[place] && penalties->repetition != 1)
            score = score < 0 ? score * penalties->repetition : score / penalties->repetition;
        if (generated[place])
            score -= (float)generated[place] * penalties->frequency + penalties->presence;
        scores[place] = score;
    }
    if (penalties->ngram > 0 && penalties->length >= penalties->ngram)
        ban_ngrams(penalties, &table, scores);
}
