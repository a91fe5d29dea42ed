/* Choosing the next token of a row; see choose.h. */
#include "choose.h"

#include <math.h>

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

/* Whether no score outside can tie with one that is kept. */
static int are_enough(const Choice *choice, const float *scores, int count) {
    float last = scores[count - 1];
    return choice->edge < 0 || last == -INFINITY || scores[choice->edge] > last;
}

int64_t choose_token(const Kernels *kernels, const Choice *choice, const ChoiceScores *given,
                     size_t row, double uniform, int changed) {
    int count = given->count;
    const float *scores = given->best + row * (size_t)count;
    const int64_t *ids = given->ids + row * (size_t)count;
    float allowed_scores[MOST_BEST];
    int64_t allowed_ids[MOST_BEST];
    int watched = 0;
    if (choice->kind == LEAVE || count < 1 || count > MOST_BEST) return -1;
    if (!changed) {
        if (!all_finite(scores, count)) return -1;
        if (choice->allowed != NULL) {
            if (given->all == NULL) return -1;
            kernels->best(given->all + row * (size_t)given->size, given->size, choice->allowed,
                          count, allowed_scores, allowed_ids);
            scores = allowed_scores;
            ids = allowed_ids;
        }
        if (!are_enough(choice, scores, count)) return -1;
        watched = has_watched(choice, ids, count);
    }
    if (!(scores[0] - scores[0] == 0)) return -1;
    int place = choice->kind == DRAW ? draw_best(scores, count, choice->cut, uniform) : 0;
    if (place < 0) return -1;
    return watched ? -2 - ids[place] : ids[place];
}
