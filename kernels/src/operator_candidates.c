/* Candidates: the best scores of every position, and their ids. */
#include <stdlib.h>
#include <string.h>

#include "operator.h"
#include "register.h"

enum { MOST = 256 };

typedef struct {
    Operator base;
    int count;
} CandidatesKernel;

typedef struct {
    const CandidatesKernel *kernel;
    const float *logits;
    float *scores;
    int64_t *ids;
    size_t vocabulary;
} Call;

static void task(void *data, size_t row) {
    const Call *call = data;
    size_t count = (size_t)call->kernel->count;
    call->kernel->base.kernels->best(call->logits + row * call->vocabulary, (int)call->vocabulary, NULL,
                                     (int)count, call->scores + row * count,
                                     call->ids + row * count);
}

static OrtStatus *compute(void *kernel, OrtKernelContext *context) {
    const CandidatesKernel *self = kernel;
    const OrtApi *api = self->base.api;
    Tensor logits;
    TRY(read_input(api, context, 0, &logits));
    int64_t vocabulary = logits.rank ? logits.dims[logits.rank - 1] : 0;
    if (vocabulary < self->count || vocabulary > INT32_MAX)
        return invalid(api, "there are fewer scores than candidates");
    Call call = {.kernel = self, .logits = logits.data, .vocabulary = (size_t)vocabulary};
    int64_t dims[4];
    memcpy(dims, logits.dims, sizeof dims);
    dims[logits.rank - 1] = self->count;
    TRY(make_output(api, context, 0, dims, logits.rank, &call.scores));
    TRY(make_output(api, context, 1, dims, logits.rank, &call.ids));
    count_call();
    size_t rows = (size_t)(logits.size / vocabulary);
    if (rows <= 1) {
        if (rows) task(&call, 0);
        return NULL;
    }
    return ort_ParallelFor(api)(context, task, rows, rows, &call);
}

static void destroy(void *kernel) { free(kernel); }

static OrtStatus *fill(void *kernel, const OrtKernelInfo *info) {
    CandidatesKernel *self = kernel;
    const OrtApi *api = self->base.api;
    int64_t count;
    TRY(ort_AttributeInt(api)(info, "count", &count));
    if (count < 1 || count > MOST) return invalid(api, "count must be from 1 to 256");
    self->count = (int)count;
    return NULL;
}

static const int inputs[] = {ORT_FLOAT};
static const int outputs[] = {ORT_FLOAT, ORT_INT64};
DEFINE_OPERATOR(candidates, "Candidates", CandidatesKernel, inputs, outputs, 0)
