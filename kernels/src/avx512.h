/* Products of small integers by AVX-512 VNNI: four bytes, or two 16-bit numbers, exact.
 *
 * Without the instructions (GPT2JA_EMULATE), the same results come from plain C, so that the
 * layouts can be tested on any processor.
 */
#define GROUP 4    /* activations in a word, uint8 */
#define COLUMNS 4  /* vectors of 16 columns in a panel */
#define OFFSET 128 /* that activations are stored with */

#ifdef GPT2JA_EMULATE
typedef struct {
    int32_t lane[16];
} Sums;
typedef struct {
    int8_t byte[64];
} Weights;
typedef struct {
    int16_t lane[32];
} Pairs;

INLINE Sums no_sums(void) { return (Sums){{0}}; }

INLINE Weights load_weights(const int8_t *source) {
    Weights weights;
    memcpy(&weights, source, sizeof weights);
    return weights;
}

INLINE Sums dot(Sums sums, Weights weights, uint32_t word) {
    for (int i = 0; i < 64; i++)
        sums.lane[i / 4] += weights.byte[i] * (int32_t)(word >> 8 * (i % 4) & 255);
    return sums;
}

INLINE Pairs widen(const int8_t *source) {
    Pairs pairs;
    for (int i = 0; i < 32; i++) pairs.lane[i] = source[i];
    return pairs;
}

INLINE Pairs widen_half(const int8_t *source) {
    Pairs pairs = {{0}};
    for (int i = 0; i < 16; i++) pairs.lane[i] = source[i];
    return pairs;
}

INLINE void add_lanes(const Sums *sums, int32_t *totals) {
    for (int r = 0; r < 4; r++) {
        totals[r] = 0;
        for (int i = 0; i < 16; i++) totals[r] += sums[r].lane[i];
    }
}

INLINE Pairs load_pairs(const int16_t *source) {
    Pairs pairs;
    memcpy(&pairs, source, sizeof pairs);
    return pairs;
}

INLINE Pairs load_pair(const int8_t *first, const int8_t *second) {
    Pairs pairs;
    for (int i = 0; i < 16; i++) pairs.lane[2 * i] = first[i], pairs.lane[2 * i + 1] = second[i];
    return pairs;
}

INLINE Pairs splat_pair(uint32_t word) {
    Pairs pairs;
    for (int i = 0; i < 32; i++) pairs.lane[i] = (int16_t)(word >> 16 * (i % 2));
    return pairs;
}

INLINE Sums add_products(Sums sums, Pairs a, Pairs b) {
    for (int i = 0; i < 32; i++) sums.lane[i / 2] += a.lane[i] * b.lane[i];
    return sums;
}
typedef Sums Partial;
typedef Weights Nibbles;

INLINE void load_nibbles(const uint8_t *source, Nibbles *low, Nibbles *high) {
    for (int i = 0; i < 64; i++) {
        low->byte[i] = source[i] & 15;
        high->byte[i] = source[i] >> 4;
    }
}

INLINE Partial dot_nibbles(Partial sums, Nibbles weights, uint32_t word) {
    for (int i = 0; i < 64; i++)
        sums.lane[i / 4] += weights.byte[i] * (int32_t)(int8_t)(word >> 8 * (i % 4));
    return sums;
}
#else
typedef __m512i Sums;
typedef __m512i Weights;
typedef __m512i Pairs;

INLINE Sums no_sums(void) { return _mm512_setzero_si512(); }
INLINE Weights load_weights(const int8_t *source) { return _mm512_load_si512(source); }
INLINE Sums dot(Sums sums, Weights weights, uint32_t word) {
    return _mm512_dpbusd_epi32(sums, _mm512_set1_epi32((int32_t)word), weights);
}
INLINE Pairs widen(const int8_t *source) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)source));
}
INLINE Pairs widen_half(const int8_t *source) {
    __m128i bytes = _mm_loadu_si128((const __m128i *)source);
    return _mm512_cvtepi8_epi16(_mm256_zextsi128_si256(bytes));
}
/* The sums of four vectors' lanes: transposed within 128 bits, so that four are added at once. */
INLINE void add_lanes(const Sums *sums, int32_t *totals) {
    __m512i pairs = _mm512_add_epi32(_mm512_unpacklo_epi32(sums[0], sums[1]),
                                     _mm512_unpackhi_epi32(sums[0], sums[1]));
    __m512i others = _mm512_add_epi32(_mm512_unpacklo_epi32(sums[2], sums[3]),
                                      _mm512_unpackhi_epi32(sums[2], sums[3]));
    __m512i fours = _mm512_add_epi32(_mm512_unpacklo_epi64(pairs, others),
                                     _mm512_unpackhi_epi64(pairs, others));
    __m256i halves = _mm256_add_epi32(_mm512_castsi512_si256(fours),
                                      _mm512_extracti64x4_epi64(fours, 1));
    __m128i all = _mm_add_epi32(_mm256_castsi256_si128(halves),
                                _mm256_extracti128_si256(halves, 1));
    _mm_storeu_si128((__m128i *)totals, all);
}
INLINE Pairs load_pairs(const int16_t *source) { return _mm512_loadu_si512(source); }
INLINE Pairs load_pair(const int8_t *first, const int8_t *second) {
    __m128i a = _mm_loadu_si128((const __m128i *)first);
    __m128i b = _mm_loadu_si128((const __m128i *)second);
    return _mm512_cvtepi8_epi16(_mm256_set_m128i(_mm_unpackhi_epi8(a, b),
                                                 _mm_unpacklo_epi8(a, b)));
}
INLINE Pairs splat_pair(uint32_t word) { return _mm512_set1_epi32((int32_t)word); }
INLINE Sums add_products(Sums sums, Pairs a, Pairs b) { return _mm512_dpwssd_epi32(sums, a, b); }

typedef __m512i Partial;
typedef __m512i Nibbles;

INLINE void load_nibbles(const uint8_t *source, Nibbles *low, Nibbles *high) {
    const __m512i mask = _mm512_set1_epi8(15);
    __m512i bytes = _mm512_loadu_si512(source);
    *low = _mm512_and_si512(bytes, mask);
    *high = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask);
}

INLINE Partial dot_nibbles(Partial sums, Nibbles weights, uint32_t word) {
    return _mm512_dpbusd_epi32(sums, weights, _mm512_set1_epi32((int32_t)word));
}
#endif

INLINE Partial no_partial(void) { return no_sums(); }

INLINE i32x16 whole(Sums sums) {
    i32x16 value;
    memcpy(&value, &sums, sizeof value);
    return value;
}

INLINE void store_words(i32x16 values, uint32_t *words) {
    u8x16 narrow = __builtin_convertvector(values + OFFSET, u8x16);
    memcpy(words, &narrow, sizeof narrow);
}

/* Four rows of `size` bytes, `stride` apart, times a 16-bit query; size a multiple of 16. The query
 * is 0 from there to the next multiple of 32. */
INLINE void four_dots(const int16_t *query, const int8_t *rows, size_t stride, int size,
                      int32_t *results) {
    Sums sums[4];
    for (int r = 0; r < 4; r++) sums[r] = no_sums();
    for (int i = 0; i < size; i += 32) {
        Pairs part = load_pairs(query + i);
        for (int r = 0; r < 4; r++) {
            const int8_t *bytes = rows + (size_t)r * stride + i;
            Pairs wide = size - i < 32 ? widen_half(bytes) : widen(bytes);
            sums[r] = add_products(sums[r], wide, part);
        }
    }
    add_lanes(sums, results);
}

INLINE Sums dot_pair(Sums sums, Pairs pair, uint32_t word) {
    return add_products(sums, pair, splat_pair(word));
}

INLINE i32x16 whole_partial(Partial sums) { return whole(sums); }
