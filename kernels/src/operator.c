/* What the operators share: reading tensors, errors, counting. */
#include <stdatomic.h>
#include <stdlib.h>

#include "arena.h"
#include "operator.h"

#define EXPORT __attribute__((visibility("default")))

static _Atomic uint64_t calls;

/* For the runtime, by ctypes. */
EXPORT uint64_t gpt2ja_calls(void) { return calls; }
EXPORT uint64_t gpt2ja_bytes(void) { return arena_bytes(); }

void count_call(void) { atomic_fetch_add_explicit(&calls, 1, memory_order_relaxed); }

static OrtStatus *describe(const OrtApi *api, const OrtValue *value, Tensor *tensor) {
    OrtTensorInfo *info;
    TRY(ort_TensorData(api)((OrtValue *)(uintptr_t)value, &tensor->data));
    TRY(ort_TensorInfo(api)(value, &info));
    OrtStatus *status = ort_DimensionsCount(api)(info, &tensor->rank);
    if (status == NULL && tensor->rank > 4) status = invalid(api, "a tensor has too many axes");
    if (status == NULL) status = ort_Dimensions(api)(info, tensor->dims, tensor->rank);
    ort_ReleaseTensorInfo(api)(info);
    tensor->size = 1;
    for (size_t axis = 0; status == NULL && axis < tensor->rank; axis++)
        tensor->size *= tensor->dims[axis];
    return status;
}

OrtStatus *read_input(const OrtApi *api, const OrtKernelContext *context, size_t index,
                      Tensor *tensor) {
    const OrtValue *value;
    TRY(ort_ContextInput(api)(context, index, &value));
    return describe(api, value, tensor);
}

OrtStatus *read_constant(const OrtApi *api, const OrtKernelInfo *info, size_t index,
                         Tensor *tensor) {
    const OrtValue *value = NULL;
    int is_constant = 0;
    TRY(ort_ConstantInput(api)(info, index, &is_constant, &value));
    if (!is_constant || value == NULL) return invalid(api, "a weight is not constant");
    return describe(api, value, tensor);
}

OrtStatus *make_output(const OrtApi *api, OrtKernelContext *context, size_t index,
                       const int64_t *dims, size_t rank, void *data) {
    OrtValue *value;
    TRY(ort_ContextOutput(api)(context, index, dims, rank, &value));
    return ort_TensorData(api)(value, data);
}

OrtStatus *create_kernel(const OrtApi *api, const OrtKernelInfo *info, size_t size, int form,
                         OrtStatus *(*fill)(void *kernel, const OrtKernelInfo *info),
                         void (*destroy)(void *kernel), void **kernel) {
    Operator *made = calloc(1, size);
    if (made == NULL) return out_of_memory(api);
    *made = (Operator){api, chosen_kernels(), form};
    OrtStatus *status = fill(made, info);
    if (status != NULL)
        destroy(made);
    else
        *kernel = made;
    return status;
}
