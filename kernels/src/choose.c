/* Choosing the next token of a row; see choose.h. */
#include "choose.h"

#include <math.h>
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

int64_t choose_token(const Kernels *kernels, const Choice *choice, const ChoiceScores *given,
                     size_t row, double uniform, int changed) {
    int count = given->count, watched = 0;
    const float *scores = given->best + row * (size_t)count;
    const int64_t *ids = given->ids + row * (size_t)count;
    float own_scores[MOST_BEST];
    int64_t own_ids[MOST_BEST];
    if (choice->kind == LEAVE || count < 1 || count > MOST_BEST) return -1;
    if (!changed) {
        if (!all_finite(scores, count)) return -1;
        if (choice->allowed != NULL) {
            if (given->all == NULL) return -1;
            kernels->best(given->all + row * (size_t)given->size, given->size, choice->allowed,
                          count, own_scores, own_ids);
            scores = own_scores;
            ids = own_ids;
        }
        float last = scores[count - 1]; /* no score outside is above it */
        if (has_penalties(&choice->penalties)) {
            memmove(own_scores, scores, (size_t)count * sizeof *scores);
            memmove(own_ids, ids, (size_t)count * sizeof *ids);
            apply_penalties(&choice->penalties, own_ids, count, own_scores);
            sort(own_scores, own_ids, count);
            scores = own_scores;
            ids = own_ids;
        }
        if (choice->edge >= 0 && last != -INFINITY && !(scores[choice->edge] > last)) return -1;
        watched = has_watched(choice, ids, count);
    }
    if (!(scores[0] - scores[0] == 0)) return -1;
    int place = choice->kind == DRAW ? draw_best(scores, count, choice->cut, uniform) : 0;
    if (place < 0) return -1;
    return watched ? -2 - ids[place] : ids[place];
}
