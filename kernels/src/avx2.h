/* Products of small integers by AVX2: pairs of 16-bit numbers, exact.
 *
 * pmaddubsw, which takes bytes, saturates: 255 × 127 × 2 does not fit 16 bits.
 */
#define GROUP 2   /* activations in a word, int16 */
#define COLUMNS 1 /* vectors of 16 columns in a panel */
#define OFFSET 0  /* that activations are stored with */

typedef struct {
    __m256i half[2];
} Sums;
typedef Sums Weights;

INLINE Sums no_sums(void) {
    return (Sums){{_mm256_setzero_si256(), _mm256_setzero_si256()}};
}

INLINE i32x16 whole(Sums sums) {
    i32x16 value;
    memcpy(&value, &sums, sizeof value);
    return value;
}

/* 16 columns of a group. */
INLINE Weights load_weights(const int8_t *source) {
    const __m128i *bytes = (const __m128i *)source;
    return (Weights){{_mm256_cvtepi8_epi16(_mm_load_si128(bytes)),
                      _mm256_cvtepi8_epi16(_mm_load_si128(bytes + 1))}};
}

INLINE Sums dot(Sums sums, Weights weights, uint32_t word) {
    __m256i activations = _mm256_set1_epi32((int32_t)word);
    for (int i = 0; i < 2; i++)
        sums.half[i] = _mm256_add_epi32(sums.half[i],
                                        _mm256_madd_epi16(weights.half[i], activations));
    return sums;
}

INLINE void store_words(i32x16 values, uint32_t *words) {
    i16x16 narrow = __builtin_convertvector(values, i16x16);
    memcpy(words, &narrow, sizeof narrow);
}

INLINE void store_sums(const __m256i *sums, int32_t *results) {
    __m256i pairs = _mm256_hadd_epi32(sums[0], sums[1]);
    __m256i fours = _mm256_hadd_epi32(pairs, _mm256_hadd_epi32(sums[2], sums[3]));
    __m128i eights = _mm_add_epi32(_mm256_castsi256_si128(fours),
                                   _mm256_extracti128_si256(fours, 1));
    _mm_storeu_si128((__m128i *)results, eights);
}

/* Four rows of `size` bytes, `stride` apart, times a 16-bit query; size a multiple of 16. */
INLINE void four_dots(const int16_t *query, const int8_t *rows, size_t stride, int size,
                      int32_t *results) {
    __m256i sums[4];
    for (int r = 0; r < 4; r++) sums[r] = _mm256_setzero_si256();
    for (int i = 0; i < size; i += 16) {
        __m256i part = _mm256_loadu_si256((const __m256i *)(query + i));
        for (int r = 0; r < 4; r++) {
            __m128i bytes = _mm_loadu_si128((const __m128i *)(rows + (size_t)r * stride + i));
            __m256i products = _mm256_madd_epi16(_mm256_cvtepi8_epi16(bytes), part);
            sums[r] = _mm256_add_epi32(sums[r], products);
        }
    }
    store_sums(sums, results);
}

/* Two rows of 16 bytes, interleaved and widened: what `dot` takes for a pair of positions. */
INLINE Weights load_pair(const int8_t *first, const int8_t *second) {
    __m128i a = _mm_loadu_si128((const __m128i *)first);
    __m128i b = _mm_loadu_si128((const __m128i *)second);
    return (Weights){{_mm256_cvtepi8_epi16(_mm_unpacklo_epi8(a, b)),
                      _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(a, b))}};
}

typedef Weights Pairs;

INLINE Pairs load_pairs(const int16_t *source) {
    const __m256i *halves = (const __m256i *)source;
    return (Pairs){{_mm256_loadu_si256(halves), _mm256_loadu_si256(halves + 1)}};
}

INLINE Sums dot_pair(Sums sums, Pairs pair, uint32_t word) { return dot(sums, pair, word); }

/* Products of half bytes and bytes, 16 columns of four inputs: pmaddubsw, whose 16-bit sums hold a
 * block, since 8 × 2 × 15 × 127 < 32768. */
typedef Sums Partial;
typedef Sums Nibbles;

INLINE Partial no_partial(void) { return no_sums(); }

INLINE void load_nibbles(const uint8_t *source, Nibbles *low, Nibbles *high) {
    const __m256i mask = _mm256_set1_epi8(15);
    for (int i = 0; i < 2; i++) {
        __m256i bytes = _mm256_loadu_si256((const __m256i *)source + i);
        low->half[i] = _mm256_and_si256(bytes, mask);
        high->half[i] = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask);
    }
}

INLINE Partial dot_nibbles(Partial sums, Nibbles weights, uint32_t word) {
    __m256i activations = _mm256_set1_epi32((int32_t)word);
    for (int i = 0; i < 2; i++)
        sums.half[i] = _mm256_add_epi16(sums.half[i],
                                        _mm256_maddubs_epi16(weights.half[i], activations));
    return sums;
}

INLINE i32x16 whole_partial(Partial sums) {
    for (int i = 0; i < 2; i++)
        sums.half[i] = _mm256_madd_epi16(sums.half[i], _mm256_set1_epi16(1));
    return whole(sums);
}
