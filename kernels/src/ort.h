/* The part of onnxruntime's C interface that the operators use.
 *
 * onnxruntime's wheel ships no headers. The table of functions only ever grows, so an entry keeps
 * its index (onnxruntime's documentation, "Versioning"); the indices here are those of version 17
 * of the interface, which onnxruntime 1.17 introduced.
 */
#ifndef GPT2JA_ORT_H
#define GPT2JA_ORT_H

#include <stddef.h>
#include <stdint.h>

enum { ORT_API = 17 };
enum { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 };
enum { ORT_FLOAT = 1, ORT_UINT8 = 2, ORT_INT8 = 3, ORT_INT32 = 6, ORT_INT64 = 7 };

typedef struct OrtCustomOp OrtCustomOp;
typedef struct OrtStatus OrtStatus;
typedef struct OrtValue OrtValue;
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtCustomOpDomain OrtCustomOpDomain;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorInfo;

/* Entries of the table, by index. */
typedef struct OrtApi {
    void *entries[275];
} OrtApi;

typedef struct OrtApiBase {
    const OrtApi *(*GetApi)(uint32_t version);
    const char *(*GetVersionString)(void);
} OrtApiBase;

#define ORT_FUNCTION(index, name, result, ...)                                   \
    typedef result (*Function##name)(__VA_ARGS__);                                \
    static inline Function##name ort_##name(const OrtApi *api) {                  \
        return (Function##name)(uintptr_t)api->entries[index];                    \
    }

ORT_FUNCTION(0, CreateStatus, OrtStatus *, int code, const char *message)
ORT_FUNCTION(26, CreateDomain, OrtStatus *, const char *name, OrtCustomOpDomain **domain)
ORT_FUNCTION(27, DomainAdd, OrtStatus *, OrtCustomOpDomain *domain, const OrtCustomOp *op)
ORT_FUNCTION(28, AddDomain, OrtStatus *, OrtSessionOptions *options, OrtCustomOpDomain *domain)
ORT_FUNCTION(51, TensorData, OrtStatus *, OrtValue *value, void **data)
ORT_FUNCTION(61, DimensionsCount, OrtStatus *, const OrtTensorInfo *info, size_t *count)
ORT_FUNCTION(62, Dimensions, OrtStatus *, const OrtTensorInfo *info, int64_t *dims, size_t count)
ORT_FUNCTION(65, TensorInfo, OrtStatus *, const OrtValue *value, OrtTensorInfo **info)
ORT_FUNCTION(85, AttributeFloat, OrtStatus *, const OrtKernelInfo *info, const char *name,
             float *value)
ORT_FUNCTION(86, AttributeInt, OrtStatus *, const OrtKernelInfo *info, const char *name,
             int64_t *value)
ORT_FUNCTION(90, ContextInput, OrtStatus *, const OrtKernelContext *context, size_t index,
             const OrtValue **value)
ORT_FUNCTION(91, ContextOutput, OrtStatus *, OrtKernelContext *context, size_t index,
             const int64_t *dims, size_t count, OrtValue **value)
ORT_FUNCTION(93, ReleaseStatus, void, OrtStatus *status)
ORT_FUNCTION(99, ReleaseTensorInfo, void, OrtTensorInfo *info)
ORT_FUNCTION(249, ConstantInput, OrtStatus *, const OrtKernelInfo *info, size_t index,
             int *is_constant, const OrtValue **value)
ORT_FUNCTION(274, ParallelFor, OrtStatus *, const OrtKernelContext *context,
             void (*task)(void *data, size_t index), size_t count, size_t batches, void *data)

/* What onnxruntime asks of an operator; members that are absent stay null. */
struct OrtCustomOp {
    uint32_t version;
    void *(*CreateKernel)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *);
    const char *(*GetName)(const OrtCustomOp *);
    const char *(*GetExecutionProviderType)(const OrtCustomOp *);
    int (*GetInputType)(const OrtCustomOp *, size_t);
    size_t (*GetInputTypeCount)(const OrtCustomOp *);
    int (*GetOutputType)(const OrtCustomOp *, size_t);
    size_t (*GetOutputTypeCount)(const OrtCustomOp *);
    void (*KernelCompute)(void *, OrtKernelContext *);
    void (*KernelDestroy)(void *);
    int (*GetInputCharacteristic)(const OrtCustomOp *, size_t);
    int (*GetOutputCharacteristic)(const OrtCustomOp *, size_t);
    int (*GetInputMemoryType)(const OrtCustomOp *, size_t);
    int (*GetVariadicInputMinArity)(const OrtCustomOp *);
    int (*GetVariadicInputHomogeneity)(const OrtCustomOp *);
    int (*GetVariadicOutputMinArity)(const OrtCustomOp *);
    int (*GetVariadicOutputHomogeneity)(const OrtCustomOp *);
    OrtStatus *(*CreateKernelV2)(const OrtCustomOp *, const OrtApi *,
                                 const OrtKernelInfo *, void **);
    OrtStatus *(*KernelComputeV2)(void *, OrtKernelContext *);
    OrtStatus *(*InferOutputShape)(const OrtCustomOp *, void *);
    int (*GetStartVersion)(const OrtCustomOp *);
    int (*GetEndVersion)(const OrtCustomOp *);
    size_t (*GetMayInplace)(int **, int **);
    void (*ReleaseMayInplace)(int *, int *);
    size_t (*GetAliasMap)(int **, int **);
    void (*ReleaseAliasMap)(int *, int *);
};

#endif
