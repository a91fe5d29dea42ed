/* The largest scores of a row, falling, equal ones by rising index.
 *
 * A first pass takes the largest score of each block. Where `count` blocks reach a score, at least
 * so many scores do, and none below it is among the best: few are left, of which a heap keeps
 * `count`, its least on top. Equal scores are looked at in their order, so that the first stay.
 *
 * `allowed` has a bit for each score, the lowest of a byte first; scores without one, if any are,
 * count as minus infinity. It is null where all are allowed.
 */

enum { BLOCKS = 1024, SLOTS = 256, ROUNDS = 4, FEW_MORE = 16, LEFT = 1024 };

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

INLINE int is_allowed(const uint8_t *allowed, int i) {
    return allowed == NULL || (allowed[i / 8] >> (i % 8) & 1);
}

INLINE float score_of(const float *scores, const uint8_t *allowed, int i) {
    return is_allowed(allowed, i) ? scores[i] : -__builtin_inff();
}

/* Of 16 scores from `i` on, a multiple of 16: -1 where there is one that is allowed, else 0. */
INLINE i32x16 counting(const uint8_t *allowed, int size, int i) {
    if (allowed == NULL) return lanes() < size - i;
    int bits = allowed[i / 8] | (i + 8 < size ? allowed[i / 8 + 1] << 8 : 0);
    return (lanes() < size - i) & -((bits >> lanes()) & 1);
}

/* The largest score of each block of `length`, a multiple of 16; minus infinity of NaN alone. */
INLINE void largest_of_blocks(const float *scores, int size, const uint8_t *allowed, int length,
                              float *largest) {
    for (int begin = 0; begin < size; begin += length, largest++) {
        f32x16 most = splat(-__builtin_inff());
        for (int i = begin; i < begin + length && i < size; i += 16) {
            f32x16 value = load_some(scores + i, size - i);
            i32x16 larger = (value > most) & counting(allowed, size, i);
            most = as_float(pick(larger, as_int(value), as_int(most)));
        }
        for (int half = 8; half > 0; half /= 2)
            for (int i = 0; i < half; i++) {
                float other = most[i + half];
                most[i] = other > most[i] ? other : most[i];
            }
        *largest = most[0];
    }
}

/* A score that at least `count` of the blocks reach, and few more; infinity where there is none.
 * Slots of equal width from the lowest to the highest; the slot with the `count`-th is cut again,
 * since one score far above all others, as a model has them, leaves few slots for the rest. */
static float reached(const float *largest, int blocks, int count) {
    float low = __builtin_inff(), high = -__builtin_inff();
    int some = 0; /* blocks with a score at all */
    for (int i = 0; i < blocks; i++) {
        if (largest[i] == -__builtin_inff()) continue;
        low = largest[i] < low ? largest[i] : low;
        high = largest[i] > high ? largest[i] : high;
        some++;
    }
    if (some < count || !(high - low < 3e38f)) return __builtin_inff();
    for (int round = 0; round < ROUNDS && low < high; round++) {
        float scale = (SLOTS - 1) / (high - low), first = low, last = high;
        if (!(scale < 3e38f)) break; /* they are as good as equal */
        int counts[SLOTS] = {0}, slot = SLOTS - 1;
        for (int i = 0; i < blocks; i++)
            if (largest[i] >= first && largest[i] <= last)
                counts[(int)((largest[i] - first) * scale)]++;
        for (; counts[slot] < count; slot--) count -= counts[slot];
        low = last, high = first;
        for (int i = 0; i < blocks; i++)
            if (largest[i] >= first && largest[i] <= last &&
                (int)((largest[i] - first) * scale) == slot) {
                low = largest[i] < low ? largest[i] : low;
                high = largest[i] > high ? largest[i] : high;
            }
        if (counts[slot] <= count + FEW_MORE) break;
    }
    return low;
}

/* The scores from `least` on, in their order; -1 if they are more than LEFT. */
INLINE int at_least(const float *scores, int size, const uint8_t *allowed, float least,
                    const float *largest, int length, Candidate *found) {
    int count = 0;
    for (int begin = 0; begin < size; begin += length) {
        if (!(*largest++ >= least)) continue;
        int end = begin + length < size ? begin + length : size;
        if (count + length > LEFT) return -1;
        for (int i = begin; i < end; i++) {
            found[count] = (Candidate){scores[i], i};
            count += scores[i] >= least && is_allowed(allowed, i);
        }
    }
    return count;
}

INLINE void best_allowed(const float *scores, int size, const uint8_t *allowed, int count,
                         float *best_scores, int64_t *best_ids) {
    float largest[BLOCKS];
    Candidate heap[256], found[LEFT + 1];
    int length = ((size + BLOCKS - 1) / BLOCKS + 15) / 16 * 16;
    largest_of_blocks(scores, size, allowed, length, largest);
    float least = reached(largest, (size + length - 1) / length, count);
    int left = length > LEFT ? -1 : at_least(scores, size, allowed, least, largest, length, found);
    int all = left < count; /* then every score is looked at */
    for (int i = 0; i < count; i++)
        heap[i] = all ? (Candidate){score_of(scores, allowed, i), i} : found[i];
    for (int i = 0; i < count; i++)
        if (heap[i].score != heap[i].score) heap[i].score = -__builtin_inff(); /* NaN */
    for (int place = count / 2 - 1; place >= 0; place--) sink(heap, count, place);
    for (int i = count; i < (all ? size : left); i++) {
        if (all && allowed != NULL && i % 8 == 0 && allowed[i / 8] == 0) {
            i += 7; /* none of eight */
            continue;
        }
        Candidate next = all ? (Candidate){score_of(scores, allowed, i), i} : found[i];
        if (next.score > heap[0].score) {
            heap[0] = next;
            sink(heap, count, 0);
        }
    }
    for (int rest = count; rest > 0; rest--) {
        best_scores[rest - 1] = score_of(scores, allowed, heap[0].index);
        best_ids[rest - 1] = heap[0].index;
        heap[0] = heap[rest - 1];
        sink(heap, rest - 1, 0);
    }
}

static void best(const float *scores, int size, const uint8_t *allowed, int count,
                 float *best_scores, int64_t *best_ids) {
    if (allowed == NULL)
        best_allowed(scores, size, NULL, count, best_scores, best_ids);
    else
        best_allowed(scores, size, allowed, count, best_scores, best_ids);
}
