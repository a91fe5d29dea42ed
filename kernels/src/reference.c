/* The operators in plain C, one number at a time: what the others are held to by the tests. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

enum { GROUP = 1 };

/* Unpacked: (outputs, inputs). */
static void pack(const Linear *linear, const int8_t *weights, size_t row, size_t column,
                 int first, int last) {
    for (int output = first; output < last; output++) {
        linear->sums[output] = 0;
        for (int input = 0; input < linear->inputs; input++)
            linear->weights[(size_t)output * (size_t)linear->inputs + (size_t)input] =
                weights[(size_t)input * row + (size_t)output * column];
    }
}

static float largest_of(const float *source, int width) {
    float largest = 0;
    for (int i = 0; i < width; i++) {
        if (isnan(source[i])) return NAN;
        largest = fmaxf(largest, fabsf(source[i]));
    }
    return largest;
}

static int whole(float value, int low, int high) {
    if (isnan(value) || value < (float)low) return low;
    return value > (float)high ? high : (int)rintf(value);
}

/* To whole numbers; returns the row's largest absolute value. */
static float quantize(const float *source, const Norm *norm, int width, int bytes, float *scratch,
                      uint32_t *words) {
    if (norm != NULL) {
        double mean = 0, variance = 0;
        for (int i = 0; i < width; i++) mean += source[i];
        mean /= width;
        for (int i = 0; i < width; i++) variance += (source[i] - mean) * (source[i] - mean);
        double factor = 1 / sqrt(variance / width + norm->epsilon);
        for (int i = 0; i < width; i++)
            scratch[i] = (float)((source[i] - mean) * factor) * norm->gamma[i] + norm->beta[i];
        source = scratch;
    }
    float largest = largest_of(source, width);
    int most = bytes == 2 ? 127 * LOW_STEPS : 127;
    float factor = largest == 0 ? 0 : (float)most / largest;
    for (int i = 0; i < width; i++) {
        int value = whole(source[i] * factor, -most, most);
        int high = bytes == 2 ? (int)rintf((float)value / LOW_STEPS) : value;
        words[i] = (uint32_t)high;
        if (bytes == 2) words[padded(width) + i] = (uint32_t)(value - high * LOW_STEPS);
    }
    return largest;
}

static float gelu(float x) {
    return 0.5f * x * (1 + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
}

static void multiply(const Linear *linear, const uint32_t *words, const float *largest, int rows,
                     int first, int last, Epilogue epilogue, const float *residual,
                     float *output) {
    for (int r = 0; r < rows; r++)
        for (int column = first; column < last; column++) {
            const int8_t *weights = linear->weights + (size_t)column * (size_t)linear->inputs;
            size_t width = (size_t)padded(linear->inputs);
            const uint32_t *row = words + (size_t)(r * linear->bytes) * width;
            int32_t sum = 0, low = 0;
            for (int i = 0; i < linear->inputs; i++) sum += weights[i] * (int32_t)row[i];
            for (int i = 0; linear->bytes == 2 && i < linear->inputs; i++)
                low += weights[i] * (int32_t)row[width + (size_t)i];
            float value = (float)sum + (float)low / LOW_STEPS;
            value = value * linear->scales[column] * largest[r] + linear->bias[column];
            size_t place = (size_t)r * (size_t)linear->outputs + (size_t)column;
            if (epilogue == GELU) value = gelu(value);
            if (epilogue == RESIDUAL) value += residual[place];
            output[place] = value;
        }
}

/* (outputs, inputs) bytes with zero points taken off, then (outputs, blocks) scales. */
static void pack4(const Linear4 *linear, const uint8_t *weights, const float *scales,
                  const uint8_t *zeros) {
    size_t blocks = (size_t)linear->inputs / BLOCK4, count = blocks * (size_t)linear->outputs;
    int8_t *target = (int8_t *)linear->weights;
    for (size_t i = 0; i < count * BLOCK4; i++) {
        size_t block = i / BLOCK4 % blocks, column = i / BLOCK4 / blocks;
        int zero = zeros[column * ((blocks + 1) / 2) + block / 2] >> 4 * (block % 2) & 15;
        target[i] = (int8_t)((weights[i / 2] >> 4 * (i % 2) & 15) - zero);
    }
    memcpy(target + count * BLOCK4, scales, count * sizeof *scales);
}

static void quantize4(const float *source, const Norm *norm, int width, float *scratch,
                      Row4 row) {
    uint32_t values[4096];
    if (norm != NULL) {
        quantize(source, norm, width, 1, scratch, values);
        source = scratch;
    }
    for (int i = 0; i < width; i += BLOCK4) {
        Scale4 *scale = row.scales + i / BLOCK4;
        *scale = (Scale4){quantize(source + i, NULL, BLOCK4, 1, NULL, values) / 127, 0};
        for (int j = 0; j < BLOCK4; j++) {
            ((int8_t *)row.words)[i + j] = (int8_t)(int32_t)values[j];
            scale->sum += (float)(int32_t)values[j];
        }
    }
}

static void multiply4(const Linear4 *linear, Row4 rows, int count, int first, int last,
                      Epilogue epilogue, const float *residual, float *output) {
    size_t inputs = (size_t)linear->inputs, blocks = inputs / BLOCK4;
    const int8_t *weights = (const int8_t *)linear->weights;
    const float *scales = (const float *)(weights + inputs * (size_t)linear->outputs);
    for (int r = 0; r < count; r++)
        for (size_t column = (size_t)first * PANEL4;
             column < (size_t)last * PANEL4 && column < (size_t)linear->outputs; column++) {
            const int8_t *row = (const int8_t *)rows.words + (size_t)r * inputs;
            double total = 0;
            for (size_t i = 0; i < inputs; i++)
                total += (double)row[i] * weights[column * inputs + i] *
                         scales[column * blocks + i / BLOCK4] *
                         rows.scales[(size_t)r * blocks + i / BLOCK4].step;
            float value = (float)total + linear->bias[column];
            size_t place = (size_t)r * (size_t)linear->outputs + column;
            if (epilogue == GELU) value = gelu(value);
            if (epilogue == RESIDUAL) value += residual[place];
            output[place] = value;
        }
}

static void store(const float *source, int size, int bytes, float scale, int8_t *target) {
    for (int i = 0; i < size; i++) {
        float value = source[i] / scale;
        int high = whole(value, bytes == 1 ? -128 : -127, 127);
        target[i] = (int8_t)high;
        if (bytes == 2) target[size + i] = (int8_t)whole((value - (float)high) * 254, -127, 127);
    }
}

static double cached(const Attention *attention, const int8_t *numbers, int position, int i) {
    const int8_t *high = numbers + position * cached_size(attention) + i;
    return *high + (attention->bytes == 2 ? high[attention->head_size] / 254.0 : 0);
}

static void attend(const Attention *attention, const float *queries, size_t stride, int count,
                   const int8_t *keys, const int8_t *values, size_t ahead, int length,
                   void *scratch, float *outputs, size_t output_stride) {
    (void)ahead;
    int size = attention->head_size;
    float *scores = scratch;
    for (int q = 0; q < count; q++) {
        const float *query = queries + (size_t)q * stride;
        float step = largest_of(query, size) / 32767.0f, highest = -INFINITY;
        for (int p = 0; p < length + q; p++) {
            double product = 0;
            for (int i = 0; i < size; i++)
                product += cached(attention, keys, p, i) *
                           whole(step == 0 ? 0 : query[i] / step, -32767, 32767);
            scores[p] = (float)product * step * attention->key_scale / sqrtf((float)size);
            highest = fmaxf(highest, scores[p]);
        }
        double total = 0;
        for (int p = 0; p < length + q; p++) total += scores[p] = expf(scores[p] - highest);
        for (int i = 0; i < size; i++) {
            double mixed = 0;
            for (int p = 0; p < length + q; p++) mixed += scores[p] * cached(attention, values, p, i);
            outputs[(size_t)q * output_stride + (size_t)i] =
                (float)(mixed / total) * attention->value_scale + (step - step);
        }
    }
}

static void embed(const int8_t *row, float scale, const float *position, int width,
                  float *output) {
    for (int i = 0; i < width; i++) output[i] = (float)row[i] * scale + position[i];
}

static float score_of(const float *scores, const uint8_t *allowed, int i) {
    return allowed == NULL || (allowed[i / 8] >> (i % 8) & 1) ? scores[i] : -INFINITY;
}

static void best(const float *scores, int size, const uint8_t *allowed, int count,
                 float *best_scores, int64_t *best_ids) {
    for (int place = 0; place < count; place++) {
        int found = -1;
        for (int i = 0; i < size; i++) {
            int taken = 0;
            for (int earlier = 0; earlier < place; earlier++) taken |= best_ids[earlier] == i;
            if (!taken && (found < 0 || score_of(scores, allowed, i) >
                                            score_of(scores, allowed, found)))
                found = i;
        }
        best_scores[place] = score_of(scores, allowed, found);
        best_ids[place] = found;
    }
}

static void sum_exponentials(const float *scores, int size, float *largest, double *total) {
    *largest = -INFINITY;
    *total = 0;
    for (int i = 0; i < size; i++) *largest = scores[i] > *largest ? scores[i] : *largest;
    for (int i = 0; i < size; i++) *total += exp((double)scores[i] - *largest);
    for (int i = 0; i < size; i++) *total += scores[i] - scores[i]; /* NaN if not finite */
}

static int draw_nucleus(const float *scores, int size, float temperature, double limit,
                        double min_p, double uniform, void *scratch) {
    (void)scratch;
    int *order = malloc((size_t)size * sizeof *order); /* sorted by insertion */
    double *weights = malloc((size_t)size * sizeof *weights), total = 0, before = 0, wanted;
    if (order == NULL || weights == NULL) abort();
    for (int i = 0; i < size; i++) {
        int place = i;
        for (; place > 0 && scores[order[place - 1]] <= scores[i]; place--)
            order[place] = order[place - 1];
        order[place] = i;
    }
    for (int i = 0; i < size; i++) {
        float cooled = scores[order[i]] / temperature, largest = scores[order[0]] / temperature;
        total += weights[i] = exp((double)cooled - largest);
    }
    int kept = 0;
    do before += weights[kept++];
    while (kept < size && 1 - before / total > limit && weights[kept] >= min_p);
    wanted = uniform * before, before = 0;
    int place = 0;
    while (place < kept - 1 && before + weights[place] < wanted) before += weights[place++];
    int drawn = order[place];
    free(order), free(weights);
    return drawn;
}

const Kernels kernels_reference = {
    .name = "reference", .group = GROUP, .panel = 1, .pack = pack, .quantize = quantize,
    .multiply = multiply, .pack4 = pack4, .quantize4 = quantize4, .multiply4 = multiply4,
    .store = store, .attend = attend, .embed = embed, .best = best,
    .sum_exponentials = sum_exponentials, .draw_nucleus = draw_nucleus,
};
