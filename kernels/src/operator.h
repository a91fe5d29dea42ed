/* What the operators share: reading tensors, errors, counting. */
#ifndef GPT2JA_OPERATOR_H
#define GPT2JA_OPERATOR_H

#include "kernels.h"
#include "ort.h"

#define TRY(call)                           \
    do {                                    \
        OrtStatus *status_ = (call);        \
        if (status_ != NULL) return status_; \
    } while (0)

typedef struct {
    void *data;
    int64_t dims[4];
    size_t rank;
    int64_t size; /* elements */
} Tensor;

/* What every kernel begins with. */
typedef struct {
    const OrtApi *api;
    const Kernels *kernels;
    int form; /* where one file defines several operators: which one */
} Operator;

/* The kernels that this processor runs. */
const Kernels *chosen_kernels(void);

/* Makes a kernel of `size` bytes, which begin with an Operator, and fills it from its node. */
OrtStatus *create_kernel(const OrtApi *api, const OrtKernelInfo *info, size_t size, int form,
                         OrtStatus *(*fill)(void *kernel, const OrtKernelInfo *info),
                         void (*destroy)(void *kernel), void **kernel);

static inline OrtStatus *invalid(const OrtApi *api, const char *message) {
    return ort_CreateStatus(api)(ORT_INVALID_ARGUMENT, message);
}

static inline OrtStatus *out_of_memory(const OrtApi *api) {
    return ort_CreateStatus(api)(ORT_FAIL, "Failed to allocate memory for a native operator");
}

OrtStatus *read_input(const OrtApi *api, const OrtKernelContext *context, size_t index,
                      Tensor *tensor);
/* An input that must not change between calls. */
OrtStatus *read_constant(const OrtApi *api, const OrtKernelInfo *info, size_t index,
                         Tensor *tensor);
OrtStatus *make_output(const OrtApi *api, OrtKernelContext *context, size_t index,
                       const int64_t *dims, size_t rank, void *data);

/* Calls of native operators since the library was loaded. */
void count_call(void);

/* Operators, for register.c. */
extern const OrtCustomOp operator_embed, operator_norm_linear, operator_norm_linear_gelu,
    operator_linear_residual, operator_attention, operator_attention_kv16, operator_norm_head,
    operator_candidates, operator_norm_linear_a16, operator_norm_linear_gelu_a16,
    operator_linear_residual_a16, operator_norm_linear_int4, operator_norm_linear_gelu_int4, operator_linear_residual_int4;

#endif
