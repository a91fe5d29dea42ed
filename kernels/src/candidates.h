/* The largest scores of a row, falling, equal ones by rising index.
 *
 * A heap of the best so far, its least on top. Blocks of 32 whose largest score is not above that
 * are passed over, and since scores are looked at in their order, of equal ones the first stay.
 */

enum { SCORES = 32 };

typedef struct {
    float score;
    int32_t index;
} Candidate;

/* Whether `a` is the worse one. */
INLINE int worse(Candidate a, Candidate b) {
    return a.score < b.score || (a.score == b.score && a.index > b.index);
}

static void sink(Candidate *heap, int size, int place) {
    Candidate moved = heap[place];
    for (int child; (child = 2 * place + 1) < size; place = child) {
        if (child + 1 < size && worse(heap[child + 1], heap[child])) child++;
        if (!worse(heap[child], moved)) break;
        heap[place] = heap[child];
    }
    heap[place] = moved;
}

INLINE int any_above(const float *scores, float least) {
    i32x16 above = (load(scores) > least) | (load(scores + 16) > least);
    int32_t any = 0;
    for (int i = 0; i < 16; i++) any |= above[i];
    return any;
}

static void best(const float *scores, int size, int count, float *best_scores,
                 int64_t *best_ids) {
    Candidate heap[256];
    for (int i = 0; i < count; i++) heap[i] = (Candidate){scores[i], i};
    for (int i = 0; i < count; i++)
        if (heap[i].score != heap[i].score) heap[i].score = -__builtin_inff(); /* NaN */
    for (int place = count / 2 - 1; place >= 0; place--) sink(heap, count, place);
    for (int i = count; i < size;) {
        if (i % SCORES == 0 && i + SCORES <= size && !any_above(scores + i, heap[0].score)) {
            i += SCORES;
            continue;
        }
        int end = i + SCORES - i % SCORES < size ? i + SCORES - i % SCORES : size;
        for (; i < end; i++)
            if (scores[i] > heap[0].score) {
                heap[0] = (Candidate){scores[i], i};
                sink(heap, count, 0);
            }
    }
    for (int left = count; left > 0; left--) {
        best_scores[left - 1] = scores[heap[0].index];
        best_ids[left - 1] = heap[0].index;
        heap[0] = heap[left - 1];
        sink(heap, left - 1, 0);
    }
}
