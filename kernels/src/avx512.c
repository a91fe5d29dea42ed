/* The operators for AVX-512 VNNI. */
#include "kernels.h"
#include "vector.h"

#include "avx512.h"

#include "instruction_set.h"

const Kernels kernels_avx512 = KERNELS("avx512_vnni");
