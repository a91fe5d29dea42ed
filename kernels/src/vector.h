/* Sixteen numbers at a time, to the same bits on every instruction set.
 *
 * The compiler splits these vectors where registers are shorter. No operation here depends on
 * their length, and products and sums are fused where this file says so, nowhere else
 * (-ffp-contract=off).
 */
#ifndef GPT2JA_VECTOR_H
#define GPT2JA_VECTOR_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef int16_t i16x16 __attribute__((vector_size(32)));
typedef uint8_t u8x16 __attribute__((vector_size(16)));
typedef int8_t i8x16 __attribute__((vector_size(16)));

#define INLINE static inline __attribute__((always_inline))

INLINE f32x16 load(const float *source) {
    f32x16 value;
    memcpy(&value, source, sizeof value);
    return value;
}

INLINE void store(float *target, f32x16 value) { memcpy(target, &value, sizeof value); }

/* The first `count` of 16 numbers, mostly all; the others are 0. */
INLINE f32x16 load_some(const float *source, int count) {
    if (count >= 16) return load(source);
    f32x16 value = {0};
    memcpy(&value, source, (size_t)count * sizeof(float));
    return value;
}

INLINE void store_some(float *target, f32x16 value, int count) {
    if (count >= 16) {
        store(target, value);
        return;
    }
    memcpy(target, &value, (size_t)count * sizeof(float));
}

INLINE f32x16 splat(float value) { return value - (f32x16){0}; }
INLINE f32x16 as_float(i32x16 bits) { return (f32x16)bits; }
INLINE i32x16 as_int(f32x16 value) { return (i32x16)value; }
INLINE f32x16 to_float(i32x16 value) { return __builtin_convertvector(value, f32x16); }
INLINE i32x16 pick(i32x16 mask, i32x16 yes, i32x16 no) { return (mask & yes) | (~mask & no); }
INLINE i32x16 smaller(i32x16 a, i32x16 b) { return pick(a < b, a, b); }
INLINE i32x16 larger(i32x16 a, i32x16 b) { return pick(a > b, a, b); }
INLINE i32x16 clamp(i32x16 value, int32_t low, int32_t high) {
    return smaller(larger(value, low - (i32x16){0}), high - (i32x16){0});
}

INLINE i32x16 lanes(void) {
    return (i32x16){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
}

/* To the nearest whole number, ties to the even one; what no int32 holds becomes INT32_MIN. */
INLINE i32x16 nearest(f32x16 value) {
#if defined(__AVX512F__)
    return (i32x16)_mm512_cvtps_epi32((__m512)value);
#else
    __m256 halves[2];
    memcpy(halves, &value, sizeof halves);
    __m256i whole[2] = {_mm256_cvtps_epi32(halves[0]), _mm256_cvtps_epi32(halves[1])};
    i32x16 result;
    memcpy(&result, whole, sizeof result);
    return result;
#endif
}

/* Sums in one fixed order. */
INLINE float sum(f32x16 value) {
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++) value[i] += value[i + half];
    return value[0];
}

INLINE int32_t sum_whole(i32x16 value) {
    int32_t total = 0;
    for (int i = 0; i < 16; i++) total += value[i];
    return total;
}

INLINE int32_t largest_whole(i32x16 value) {
    int32_t most = value[0];
    for (int i = 1; i < 16; i++) most = value[i] > most ? value[i] : most;
    return most;
}

INLINE float float_of_bits(int32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* 64 numbers: four independent chains of operations, which fill the processor where one waits for
 * each result. */
typedef float f32x64 __attribute__((vector_size(256)));
typedef int32_t i32x64 __attribute__((vector_size(256)));

INLINE f32x64 followed_by_zeros(f32x16 value) {
    f32x64 wide = {0};
    memcpy(&wide, &value, sizeof value);
    return wide;
}

INLINE f32x16 first_of(f32x64 wide) {
    f32x16 value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

INLINE f32x64 all(float value) { return value - (f32x64){0}; }

#if defined(__AVX512F__)
typedef __m512 Register;
#define OF_REGISTERS(name) _mm512_##name##_ps
#else
typedef __m256 Register;
#define OF_REGISTERS(name) _mm256_##name##_ps
#endif
enum { REGISTERS = sizeof(f32x64) / sizeof(Register) };

/* a × b + c, rounded once. */
INLINE f32x64 fused(f32x64 a, f32x64 b, f32x64 c) {
    Register x[REGISTERS], y[REGISTERS], z[REGISTERS];
    memcpy(x, &a, sizeof a), memcpy(y, &b, sizeof b), memcpy(z, &c, sizeof c);
    for (int i = 0; i < REGISTERS; i++) z[i] = OF_REGISTERS(fmadd)(x[i], y[i], z[i]);
    memcpy(&c, z, sizeof c);
    return c;
}

/* The nearest number between the bounds; of NaN the low one. */
INLINE f32x64 bounded(f32x64 value, float low, float high) {
    f32x64 least = all(low), most = all(high);
    Register x[REGISTERS], y[REGISTERS], z[REGISTERS];
    memcpy(x, &value, sizeof value), memcpy(y, &least, sizeof least), memcpy(z, &most, sizeof most);
    for (int i = 0; i < REGISTERS; i++)
        x[i] = OF_REGISTERS(min)(OF_REGISTERS(max)(x[i], y[i]), z[i]);
    memcpy(&value, x, sizeof value);
    return value;
}

INLINE i32x64 all_nearest(f32x64 value) {
    f32x16 parts[4];
    i32x64 result;
    memcpy(parts, &value, sizeof parts);
    for (int i = 0; i < 4; i++) {
        i32x16 part = nearest(parts[i]);
        memcpy((char *)&result + sizeof part * (size_t)i, &part, sizeof part);
    }
    return result;
}

/* exp(x), within 2 units in the last place from -87 to 88, beyond at these bounds; of NaN some
 * number. Cody and Waite's reduction by ln 2, Cephes' polynomial (expf). */
INLINE f32x64 exponentials(f32x64 x) {
    x = bounded(x, -87, 88);
    i32x64 power = all_nearest(x * 1.44269504f);
    f32x64 whole = __builtin_convertvector(power, f32x64);
    f32x64 rest = fused(whole, all(-0.693359375f), x);
    rest = fused(whole, all(2.12194440e-4f), rest);
    f32x64 value = fused(rest, all(1.9875691500e-4f), all(1.3981999507e-3f));
    value = fused(value, rest, all(8.3334519073e-3f));
    value = fused(value, rest, all(4.1665795894e-2f));
    value = fused(value, rest, all(1.6666665459e-1f));
    value = fused(value, rest, all(5.0000001201e-1f));
    value = fused(value, rest * rest, rest + 1.0f);
    return value * (f32x64)((power + 127) << 23);
}

INLINE f32x16 exponential(f32x16 x) { return first_of(exponentials(followed_by_zeros(x))); }

#endif
