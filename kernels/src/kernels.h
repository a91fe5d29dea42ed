/* What an instruction set implements: the arithmetic of every operator, without onnxruntime.
 *
 * Each operator's file has its formula. `reference.c` implements the same table in plain C; the
 * others equal it bit for bit where their file says so.
 */
#ifndef GPT2JA_KERNELS_H
#define GPT2JA_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* LayerNormalization over the last axis; its arrays are padded to whole vectors. */
typedef struct {
    const float *gamma, *beta;
    float epsilon;
} Norm;

typedef enum { PLAIN, GELU, RESIDUAL } Epilogue;

/* An int8 matrix with a scale a column, packed for one instruction set. */
typedef struct {
    int inputs, outputs;
    int bytes; /* of each activation: 1, or 2 */
    int8_t *weights; /* packed, see linear.h */
    float *scales;   /* column scale / 127; padded to whole panels like the two below */
    float *bias;     /* zeros where there is none */
    int32_t *sums;   /* what an unsigned activation's offset adds to each column */
} Linear;

/* An int4 matrix with a scale and a zero point for each BLOCK4 inputs of a column. */
typedef struct {
    int inputs, outputs; /* inputs: a multiple of BLOCK4 */
    uint8_t *weights;    /* packed, see linear4.h */
    float *bias;         /* padded to whole panels */
} Linear4;

enum { BLOCK4 = 32, PANEL4 = 16 };

/* A block of activations: quantised in steps of largest / 127, and the sum of the quantised. */
typedef struct {
    float step, sum;
} Scale4;

/* Activations of a row for an int4 matrix. */
typedef struct {
    uint32_t *words; /* four int8 each */
    Scale4 *scales;  /* of each block */
} Row4;

/* One layer's attention over an int8 cache. */
typedef struct {
    int heads, head_size, capacity;
    int bytes; /* of each number in the cache: 1, or 2 */
    float key_scale, value_scale;
} Attention;

/* Bytes of a head's keys, and of its values, at one position. */
static inline int cached_size(const Attention *attention) {
    return attention->head_size * attention->bytes;
}

typedef struct {
    const char *name;
    int group; /* activations in a 32-bit word */
    int panel; /* columns that are packed together */

    /* Pack the panels `first` to `last`. `row` and `column` are the strides of the weights (inputs,
     * outputs), one of which is 1. */
    void (*pack)(const Linear *linear, const int8_t *weights, size_t row, size_t column,
                 int first, int last);
    /* Normalise and quantise one row of `width` floats to words, those of the low bytes behind
     * those of the high ones where there are two; `scratch` holds the row, padded. Returns the
     * row's largest absolute value. */
    float (*quantize)(const float *source, const Norm *norm, int width, int bytes, float *scratch,
                      uint32_t *words);
    /* Panels `first` to `last` of `rows` quantised rows times the matrix. */
    void (*multiply)(const Linear *linear, const uint32_t *words, const float *largest, int rows,
                     int first, int last, Epilogue epilogue, const float *residual, float *output);
    /* The same for int4. Weights as in MatMulNBits of onnxruntime: (outputs, blocks, 16) bytes with
     * the even inputs in the low halves, scales (outputs, blocks), zero points (outputs, half the
     * blocks, rounded up). */
    void (*pack4)(const Linear4 *linear, const uint8_t *weights, const float *scales,
                  const uint8_t *zeros);
    void (*quantize4)(const float *source, const Norm *norm, int width, float *scratch, Row4 row);
    void (*multiply4)(const Linear4 *linear, Row4 rows, int count, int first, int last,
                      Epilogue epilogue, const float *residual, float *output);
    /* Quantise `size` floats to the cache; low bytes lie behind the high ones. */
    void (*store)(const float *source, int size, int bytes, float scale, int8_t *target);
    /* One head's `count` queries of consecutive positions; query i sees `length` + i positions.
     * Queries and outputs are `stride` floats apart. `scratch`: see
     * attention_scratch. `ahead`: how many bytes further the keys and values lie that are likely
     * read after this call, or 0; a hint. */
    void (*attend)(const Attention *attention, const float *queries, size_t stride, int count,
                   const int8_t *keys, const int8_t *values, size_t ahead, int length,
                   void *scratch, float *outputs, size_t output_stride);
    /* One embedding row: int8 × scale + position. */
    void (*embed)(const int8_t *row, float scale, const float *position, int width, float *output);
    /* The largest of `size` scores, and the sum of exp(score - largest). */
    void (*sum_exponentials)(const float *scores, int size, float *largest, double *total);
    /* Draw from a row's nucleus: the index of a score, or -1 where the caller has to decide.
     * `scratch`: see nucleus_scratch. */
    int (*draw_nucleus)(const float *scores, int size, float temperature, double limit,
                        double min_p, double uniform, void *scratch);
    /* The `count` largest of `size` scores, falling, equal ones by rising index. `allowed` has a
     * bit for each score; those without it count as minus infinity. Null: all are allowed. */
    void (*best)(const float *scores, int size, const uint8_t *allowed, int count,
                 float *best_scores, int64_t *best_ids);
} Kernels;

extern const Kernels kernels_reference;
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;

/* Floats in a row that is padded to whole vectors. */
static inline int padded(int width) { return (width + 15) / 16 * 16; }

/* Words of a quantised row, for each of its bytes. */
static inline int row_words(const Kernels *kernels, int inputs) {
    return padded(inputs) / kernels->group;
}

/* How many steps of a low byte make one of a high byte. */
enum { LOW_STEPS = 254 };

/* Rows of bytes that are multiplied with a panel at a time: as many as there are registers for. */
enum { TILE_ROWS = 6 };

static inline int panels(const Kernels *kernels, int outputs) {
    return (outputs + kernels->panel - 1) / kernels->panel;
}

/* Bytes of a packed matrix. */
static inline size_t packed_bytes(const Kernels *kernels, int inputs, int outputs) {
    size_t groups = (size_t)(inputs + kernels->group - 1) / (size_t)kernels->group;
    return groups * (size_t)kernels->group * (size_t)panels(kernels, outputs) *
           (size_t)kernels->panel;
}

static inline int panels4(int outputs) { return (outputs + PANEL4 - 1) / PANEL4; }

/* Bytes of a packed int4 matrix: for each block of a panel its scales, zero points and weights. */
enum { BLOCK4_BYTES = PANEL4 * (4 + 1 + BLOCK4 / 2) };
static inline size_t packed4_bytes(int inputs, int outputs) {
    return (size_t)(inputs / BLOCK4) * (size_t)panels4(outputs) * BLOCK4_BYTES;
}

/* So many queries are not worth packing keys and values for; of others, so many are computed
 * together, at most. */
enum { FEW_QUERIES = 7, MOST_TOGETHER = 8, LARGEST_HEAD = 256 };

/* Bytes that `count` queries need which see so many positions at most. */
static inline size_t attention_scratch(const Attention *attention, int count, int positions) {
    size_t width = (size_t)padded(positions), size = (size_t)cached_size(attention);
    size_t each = width * (sizeof(float) + sizeof(int16_t)) + (size + 16) * sizeof(int16_t);
    return count <= FEW_QUERIES ? each : MOST_TOGETHER * each + 2 * width * size * sizeof(int16_t);
}

/* Bytes that drawing from a row needs. */
static inline size_t nucleus_scratch(int size) {
    return 2 * ((size_t)padded(size) + 16) * sizeof(float);
}

#endif
