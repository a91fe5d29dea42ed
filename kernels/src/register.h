/* Describes operators to onnxruntime; included by the files that define them. */
#ifndef GPT2JA_REGISTER_H
#define GPT2JA_REGISTER_H

#include "operator.h"

static inline const char *on_cpu(const OrtCustomOp *op) {
    (void)op;
    return "CPUExecutionProvider";
}

static inline int zero(const OrtCustomOp *op, size_t index) {
    (void)op, (void)index;
    return 0; /* a required input or output, in the default memory */
}

#define LENGTH(array) (sizeof(array) / sizeof(array)[0])

/* An operator `name` whose kernel is a `type`, over `fill`, `compute` and `destroy`. */
#define DEFINE_OPERATOR(id, name, type, inputs, outputs, form)                                \
    static const char *id##_name(const OrtCustomOp *op) { return (void)op, name; }             \
    static int id##_input(const OrtCustomOp *op, size_t i) { return (void)op, (inputs)[i]; }   \
    static int id##_output(const OrtCustomOp *op, size_t i) { return (void)op, (outputs)[i]; } \
    static size_t id##_inputs(const OrtCustomOp *op) { return (void)op, LENGTH(inputs); }      \
    static size_t id##_outputs(const OrtCustomOp *op) { return (void)op, LENGTH(outputs); }    \
    static OrtStatus *id##_create(const OrtCustomOp *op, const OrtApi *api,                   \
                                  const OrtKernelInfo *info, void **kernel) {                 \
        (void)op;                                                                             \
        return create_kernel(api, info, sizeof(type), form, fill, destroy, kernel);           \
    }                                                                                         \
    const OrtCustomOp operator_##id = {                                                       \
        .version = ORT_API,                                                                   \
        .GetName = id##_name,                                                                 \
        .GetExecutionProviderType = on_cpu,                                                   \
        .GetInputType = id##_input,                                                           \
        .GetInputTypeCount = id##_inputs,                                                     \
        .GetOutputType = id##_output,                                                         \
        .GetOutputTypeCount = id##_outputs,                                                   \
        .KernelDestroy = destroy,                                                             \
        .GetInputCharacteristic = zero,                                                       \
        .GetOutputCharacteristic = zero,                                                      \
        .GetInputMemoryType = zero,                                                           \
        .CreateKernelV2 = id##_create,                                                        \
        .KernelComputeV2 = compute,                                                           \
    };

#endif
