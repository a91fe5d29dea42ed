/* One row of activations: normalised, then quantised with a scale of its own.
 *
 *     normed = (x - mean) / √(variance + epsilon) × gamma + beta
 *     quantised = round(normed × 127 / largest),   largest = max |normed|
 *
 * A NaN or an infinity makes `largest` one, so that it reaches every output of its row, and of its
 * row alone.
 */

INLINE f32x16 load_at(const float *source, int index, int width) {
    return index + 16 <= width ? load(source + index) : load_some(source + index, width - index);
}

/* The first `count` numbers; those behind the row become 0. */
INLINE f32x16 only(f32x16 value, int count) {
    return as_float(as_int(value) & (lanes() < count));
}

static void normalise(const float *source, const Norm *norm, int width, float *target) {
    f32x16 total = {0}, squares = {0};
    for (int i = 0; i < width; i += 16) total += load_at(source, i, width);
    float mean = sum(total) / (float)width;
    for (int i = 0; i < width; i += 16) {
        f32x16 away = only(load_at(source, i, width) - mean, width - i);
        squares += away * away;
    }
    float factor = 1.0f / __builtin_sqrtf(sum(squares) / (float)width + norm->epsilon);
    for (int i = 0; i < width; i += 16) {
        f32x16 away = (load_at(source, i, width) - mean) * factor;
        f32x16 value = away * load(norm->gamma + i) + load(norm->beta + i);
        store(target + i, only(value, width - i));
    }
}

static float quantize(const float *source, const Norm *norm, int width, float *scratch,
                      uint32_t *words) {
    if (norm != NULL) {
        normalise(source, norm, width, scratch);
        source = scratch;
    } else if (width % 16) {
        memset(scratch + width / 16 * 16, 0, 16 * sizeof *scratch);
        source = memcpy(scratch, source, (size_t)width * sizeof *source);
    }
    i32x16 most = {0}; /* as whole numbers, absolute floats keep their order, and NaN is above */
    for (int i = 0; i < width; i += 16) most = larger(most, as_int(load(source + i)) & INT32_MAX);
    float largest = float_of_bits(largest_whole(most));
    float factor = largest == 0 ? 0 : 127.0f / largest;
    for (int i = 0; i < width; i += 16)
        store_words(clamp(nearest(load(source + i) * factor), -127, 127), words + i / GROUP);
    return largest;
}
