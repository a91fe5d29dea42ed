/* Choosing the next token of a row; see choose.h. */
#include "choose.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_BEST = 256 };

static int all_finite(const float *scores, int count) {
    float broken = 0;
    for (int i = 0; i < count; i++) broken += scores[i] - scores[i];
    return broken == 0;
}

static int has_watched(const Choice *choice, const int64_t *ids, int count) {
    int found = 0;
    for (int which = 0; which < WATCHED && choice->watched[which] >= 0; which++)
        for (int i = 0; i < count; i++) found |= ids[i] == choice->watched[which];
    return found;
}

/* Sort scores downwards, equal ones by rising id; most are in order. */
static void sort(float *scores, int64_t *ids, int count) {
    for (int i = 1; i < count; i++) {
        float score = scores[i];
        int64_t id = ids[i];
        int place = i;
        for (; place > 0; place--) {
            float before = scores[place - 1];
            if (before > score || (before == score && ids[place - 1] < id)) break;
            scores[place] = before;
            ids[place] = ids[place - 1];
        }
        scores[place] = score;
        ids[place] = id;
    }
}

/* The best scores of a row as its settings make them. */
typedef struct {
    int count;
    float scores[MOST_BEST];
    int64_t ids[MOST_BEST];
} Best;

/* From the graph's best scores to those that are drawn from; whether they are enough for it. */
static int find_best(const Kernels *kernels, const Choice *choice, const ChoiceScores *given,
                     size_t row, Best *best) {
    int count = best->count;
    if (!all_finite(best->scores, count)) return 0;
    if (choice->allowed != NULL) {
        if (given->all == NULL) return 0;
        kernels->best(given->all + row * (size_t)given->size, given->size, choice->allowed, count,
                      best->scores, best->ids);
    }
    float last = best->scores[count - 1]; /* no score outside is above it */
    if (has_penalties(&choice->penalties)) {
        int32_t counts[MOST_BEST] = {0};
        apply_penalties(&choice->penalties, best->ids, count, best->scores, counts);
        sort(best->scores, best->ids, count);
    }
    return choice->edge < 0 || last == -INFINITY || best->scores[choice->edge] > last;
}

static int64_t choose_among_best(const Kernels *kernels, const Choice *choice,
                                 const ChoiceScores *given, size_t row, double uniform,
                                 int changed) {
    Best best = {.count = given->count};
    size_t count = (size_t)best.count;
    memcpy(best.scores, given->best + row * count, count * sizeof *best.scores);
    memcpy(best.ids, given->ids + row * count, count * sizeof *best.ids);
    if (!changed && !find_best(kernels, choice, given, row, &best)) return -1;
    if (!(best.scores[0] - best.scores[0] == 0)) return -1;
    int draws = choice->kind == DRAW;
    int place = draws ? draw_best(best.scores, best.count, choice->cut, uniform) : 0;
    if (place < 0) return -1;
    int watched = !changed && has_watched(choice, best.ids, best.count);
    return watched ? -2 - best.ids[place] : best.ids[place];
}

/* What drawing from all scores of a row needs. */
typedef struct {
    int32_t *counts; /* zeros */
    float *scores;
    void *nucleus;
} Scratch;

static int64_t choose_from_all(const Kernels *kernels, const Choice *choice,
                               const ChoiceScores *given, size_t row, double uniform,
                               Scratch scratch) {
    int size = given->size;
    const float *scores = given->all + row * (size_t)size;
    if (!all_finite(given->best + row * (size_t)given->count, given->count)) return -1;
    if (has_penalties(&choice->penalties) || choice->allowed != NULL) {
        memcpy(scratch.scores, scores, (size_t)size * sizeof *scores);
        scores = scratch.scores;
        if (has_penalties(&choice->penalties))
            apply_penalties(&choice->penalties, NULL, size, scratch.scores, scratch.counts);
        for (int i = 0; choice->allowed != NULL && i < size; i++)
            if (!(choice->allowed[i / 8] >> (i % 8) & 1)) scratch.scores[i] = -INFINITY;
    }
    Cut cut = choice->cut;
    int token = kernels->draw_nucleus(scores, size, cut.temperature, cut.limit, cut.min_p,
                                      uniform, scratch.nucleus);
    return token >= 0 && choice->watched[0] >= 0 ? -2 - token : token;
}

void choose_tokens(const Kernels *kernels, const Choice *choices, size_t rows,
                   const ChoiceScores *given, const double *uniform, int changed,
                   int64_t *tokens) {
    size_t size = (size_t)given->size;
    char *memory = NULL;
    for (size_t row = 0; row < rows; row++) {
        const Choice *choice = choices + row;
        tokens[row] = -1;
        if (choice->kind == LEAVE || given->count < 1 || given->count > MOST_BEST) continue;
        if (choice->kind != DRAW_FROM_ALL) {
            tokens[row] = choose_among_best(kernels, choice, given, row, uniform[row], changed);
            continue;
        }
        if (changed || given->all == NULL) continue;
        if (memory == NULL) memory = calloc(1, 2 * size * 4 + nucleus_scratch(given->size));
        if (memory == NULL) continue;
        Scratch scratch = {(int32_t *)memory, (float *)memory + size, memory + 2 * size * 4};
        tokens[row] = choose_from_all(kernels, choice, given, row, uniform[row], scratch);
    }
    free(memory);
}
