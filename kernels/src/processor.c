/* Which kernels this processor and its system can run.
 *
 * Asked of cpuid and xgetbv themselves: __builtin_cpu_supports answers no under zig. Bits are
 * those of Intel's Software Developer's Manual, volume 2, CPUID.
 */
#include <cpuid.h>

#include "processor.h"

enum { AVX_STATE = 0x6, AVX512_STATE = 0xe6 }; /* registers that the system saves */

static uint64_t saved_registers(void) {
    uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

int processor_runs(const Kernels *kernels) {
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    const uint32_t needed = 1u << 12 | 1u << 27 | 1u << 28; /* FMA, OSXSAVE, AVX */
    if ((c & needed) != needed) return 0;
    uint64_t saved = saved_registers();
    if ((saved & AVX_STATE) != AVX_STATE || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    const uint32_t avx2 = 1u << 5, f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31;
    const uint32_t vnni = 1u << 11, avx512 = f | dq | bw | vl;
    if (kernels == &kernels_avx2) return (b & avx2) != 0;
    return (saved & AVX512_STATE) == AVX512_STATE && (b & avx512) == avx512 && (c & vnni);
}

const Kernels *processor_kernels(void) {
    if (processor_runs(&kernels_avx512)) return &kernels_avx512;
    return processor_runs(&kernels_avx2) ? &kernels_avx2 : NULL;
}
