/* Lowering scores by a text's history; see penalties.h.
 *
 * Some tokens are put into a table, in which those of the history are looked up.
 */
#include "penalties.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

enum { SLOTS = 512 }; /* twice as many as tokens */

typedef struct {
    const int64_t *ids; /* null for all tokens */
    int count;
    int16_t slots[SLOTS]; /* places of the ids, or -1 */
} Table;

static int slot_of(int64_t token) { return (int)((uint32_t)token * 2654435761u >> 23); }

static void fill(Table *table, const int64_t *ids, int count) {
    table->ids = ids;
    table->count = count;
    if (ids == NULL) return;
    memset(table->slots, -1, sizeof table->slots);
    for (int place = 0; place < count; place++) {
        int slot = slot_of(ids[place]);
        while (table->slots[slot] >= 0) slot = (slot + 1) % SLOTS;
        table->slots[slot] = (int16_t)place;
    }
}

/* The place of a token, or -1. */
static int64_t find(const Table *table, int64_t token) {
    if (table->ids == NULL) return token < table->count ? token : -1;
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
        int64_t place = find(table, history[start + before]);
        if (place >= 0) scores[place] = -INFINITY;
    }
}

int has_penalties(const Penalties *penalties) {
    return penalties->repetition != 1 || penalties->presence != 0 || penalties->frequency != 0 ||
           penalties->ngram > 0;
}

static float lowered(const Penalties *penalties, float score, int32_t generated) {
    if (penalties->repetition != 1)
        score = score < 0 ? score * penalties->repetition : score / penalties->repetition;
    if (generated > 0) score -= (float)generated * penalties->frequency + penalties->presence;
    return score;
}

void apply_penalties(const Penalties *penalties, const int64_t *ids, int count, float *scores,
                     int32_t *counts) {
    Table table;
    fill(&table, ids, count);
    /* Twice how often a token was generated, and 1 where it was seen at all. */
    for (int i = 0; i < penalties->length; i++) {
        int64_t place = find(&table, penalties->history[i]);
        if (place >= 0) counts[place] = (counts[place] | 1) + 2 * (i >= penalties->prompt);
    }
    for (int i = 0; i < penalties->length; i++) {
        int64_t place = find(&table, penalties->history[i]);
        if (place < 0 || counts[place] == 0) continue;
        scores[place] = lowered(penalties, scores[place], counts[place] / 2);
        counts[place] = 0;
    }
    if (penalties->ngram > 0 && penalties->length >= penalties->ngram)
        ban_ngrams(penalties, &table, scores);
}
