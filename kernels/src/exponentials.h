/* Of a row of scores the largest, and the sum of exp(score - largest): what log-probabilities need.
 *
 * Floats are added within blocks of 512 scores, the blocks in double: within 1e-6 of an exact sum.
 * A score that is not finite makes the sum NaN.
 */

enum { ADDED = 512 };

static void sum_exponentials(const float *scores, int size, float *largest, double *total) {
    f32x16 most = splat(-3.4e38f), broken = {0};
    for (int i = 0; i < size; i += 16) {
        f32x16 value = load_some(scores + i, size - i);
        i32x16 counts = (value > most) & (lanes() < size - i);
        most = as_float(pick(counts, as_int(value), as_int(most)));
        broken += value - value;
    }
    *largest = most[0];
    for (int i = 1; i < 16; i++) *largest = most[i] > *largest ? most[i] : *largest;
    *total = sum(broken);
    for (int block = 0; block < size; block += ADDED) {
        int end = block + ADDED < size ? block + ADDED : size;
        f32x16 sums = {0};
        for (int i = block; i < end; i += 16) {
            f32x16 value = load_some(scores + i, end - i);
            sums += only(exponential(value - *largest), end - i);
        }
        *total += sum(sums);
    }
}
