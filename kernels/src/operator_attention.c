/* Attention: appends keys and values to the int8 cache, and attends over it. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "form.h"
#include "operator.h"
#include "register.h"

enum { QUERIES_A_TASK = 64 };
enum { LITTLE_WORK = 4096 }; /* positions × heads: below, one thread is faster */

typedef struct {
    Operator base;
    Attention attention; /* but for the capacity, which calls have */
} AttentionKernel;

typedef struct {
    const AttentionKernel *kernel;
    Attention attention;
    const float *packed; /* (rows, new, 3, heads, size): queries, keys, values */
    const int32_t *lengths;
    int8_t *keys, *values; /* (rows, heads, capacity, size × bytes) */
    float *output;         /* (rows, new, heads, size) */
    int rows, new, first_prompt, pieces;
    atomic_int failed;
} Call;

typedef struct {
    int past, fresh; /* positions in the cache, and new ones that are no padding */
} Span;

static Span span(const Call *call, int row) {
    int length = call->lengths[row] + 1;
    int past = call->first_prompt ? 0 : length - call->new;
    int fresh = length - past < call->new ? length - past : call->new;
    return (Span){past, fresh};
}

static void append_task(void *data, size_t index) {
    const Call *call = data;
    const Attention *attention = &call->attention;
    const Kernels *kernels = call->kernel->base.kernels;
    size_t row = index / (size_t)attention->heads, head = index % (size_t)attention->heads;
    size_t size = (size_t)attention->head_size, width = size * (size_t)attention->heads;
    Span rows = span(call, (int)row);
    for (int token = 0; token < rows.fresh; token++) {
        const float *source =
            call->packed + (row * (size_t)call->new + (size_t)token) * 3 * width + head * size;
        size_t place = (index * (size_t)attention->capacity + (size_t)(rows.past + token)) *
                       (size_t)cached_size(attention);
        kernels->store(source + width, (int)size, attention->bytes, attention->key_scale,
                       call->keys + place);
        kernels->store(source + 2 * width, (int)size, attention->bytes, attention->value_scale,
                       call->values + place);
    }
}

static void attend_task(void *data, size_t index) {
    Call *call = data;
    const Attention *attention = &call->attention;
    size_t piece = index % (size_t)call->pieces, line = index / (size_t)call->pieces;
    size_t row = line / (size_t)attention->heads, head = line % (size_t)attention->heads;
    size_t size = (size_t)attention->head_size, width = size * (size_t)attention->heads;
    size_t head_bytes = (size_t)attention->capacity * (size_t)cached_size(attention);
    size_t place = line * head_bytes;
    Span rows = span(call, (int)row);
    int last = line + 1 == (size_t)call->rows * (size_t)attention->heads;
    /* The next head's; a prompt's tasks go on with the same keys. */
    size_t ahead = last || call->new > 1 ? 0 : head_bytes;
    int begin = (int)piece * QUERIES_A_TASK, end = begin + QUERIES_A_TASK;
    if (end > call->new) end = call->new;
    int seen = rows.fresh < end ? rows.fresh - begin : end - begin;
    if (seen > 0) {
        size_t bytes = attention_scratch(attention, seen, rows.past + begin + seen);
        void *scratch = aligned_alloc(64, (bytes + 63) / 64 * 64);
        if (scratch == NULL) {
            atomic_store(&call->failed, 1);
            return;
        }
        size_t flat = row * (size_t)call->new + (size_t)begin;
        call->kernel->base.kernels->attend(
            attention, call->packed + flat * 3 * width + head * size, 3 * width, seen,
            call->keys + place, call->values + place, ahead, rows.past + begin + 1, scratch,
            call->output + flat * width + head * size, width);
        free(scratch);
    }
    for (int token = begin + (seen > 0 ? seen : 0); token < end; token++) { /* padding */
        size_t flat = row * (size_t)call->new + (size_t)token;
        memset(call->output + flat * width + head * size, 0, size * sizeof(float));
    }
}

static void append_and_attend(void *data, size_t index) {
    append_task(data, index);
    attend_task(data, index);
}

static OrtStatus *check(const AttentionKernel *self, const Tensor *packed, const Tensor *keys,
                        const Tensor *values, const Tensor *lengths, const Tensor *total) {
    const OrtApi *api = self->base.api;
    int64_t width = (int64_t)self->attention.heads * self->attention.head_size;
    if (packed->rank != 3 || packed->dims[2] != 3 * width || packed->dims[1] > 1 << 24)
        return invalid(api, "queries, keys and values are not of shape (rows, new, 3 × width)");
    if (keys->rank != 4 || memcmp(keys->dims, values->dims, sizeof keys->dims) ||
        keys->dims[0] != packed->dims[0] || keys->dims[1] != self->attention.heads ||
        keys->dims[2] > 1 << 24 || keys->dims[3] != cached_size(&self->attention))
        return invalid(api, "the cache is not of shape (rows, heads, capacity, head size)");
    if (lengths->size != packed->dims[0] || total->size != 1)
        return invalid(api, "there is not a length for each row");
    int64_t capacity = keys->dims[2], new = packed->dims[1];
    int first_prompt = *(int32_t *)total->data == new;
    for (int64_t row = 0; row < lengths->size; row++) {
        int64_t length = (int64_t)((int32_t *)lengths->data)[row] + 1;
        if (length < (first_prompt ? 1 : new) || length > capacity)
            return invalid(api, "a row's length lies outside of its cache");
    }
    return NULL;
}

static OrtStatus *run(Call *call, OrtKernelContext *context) {
    const OrtApi *api = call->kernel->base.api;
    size_t lines = (size_t)call->rows * (size_t)call->attention.heads;
    call->pieces = (call->new + QUERIES_A_TASK - 1) / QUERIES_A_TASK;
    if (call->new > 1) {
        TRY(ort_ParallelFor(api)(context, append_task, lines, 0, call));
        size_t tasks = lines * (size_t)call->pieces;
        return ort_ParallelFor(api)(context, attend_task, tasks, tasks, call);
    }
    size_t work = 0;
    for (int row = 0; row < call->rows; row++) work += (size_t)call->lengths[row] + 1;
    if (work * (size_t)call->attention.heads >= LITTLE_WORK)
        return ort_ParallelFor(api)(context, append_and_attend, lines, lines, call);
    for (size_t line = 0; line < lines; line++) append_and_attend(call, line);
    return NULL;
}

static OrtStatus *compute(void *kernel, OrtKernelContext *context) {
    const AttentionKernel *self = kernel;
    const OrtApi *api = self->base.api;
    Tensor packed, keys, values, lengths, total;
    TRY(read_input(api, context, 0, &packed));
    TRY(read_input(api, context, 1, &keys));
    TRY(read_input(api, context, 2, &values));
    TRY(read_input(api, context, 3, &lengths));
    TRY(read_input(api, context, 4, &total));
    TRY(check(self, &packed, &keys, &values, &lengths, &total));
    Call call = {.kernel = self, .attention = self->attention, .packed = packed.data,
                 .lengths = lengths.data, .rows = (int)packed.dims[0],
                 .new = (int)packed.dims[1]};
    call.attention.capacity = (int)keys.dims[2];
    call.first_prompt = *(int32_t *)total.data == call.new;
    int64_t dims[] = {packed.dims[0], packed.dims[1], packed.dims[2] / 3};
    TRY(make_output(api, context, 0, dims, 3, &call.output));
    TRY(make_output(api, context, 1, keys.dims, 4, &call.keys));
    TRY(make_output(api, context, 2, keys.dims, 4, &call.values));
    /* Whoever binds the caches as outputs too has them changed in place. */
    if (call.keys != keys.data) memcpy(call.keys, keys.data, (size_t)keys.size);
    if (call.values != values.data) memcpy(call.values, values.data, (size_t)values.size);
    count_call();
    if (call.rows == 0 || call.new == 0) return NULL;
    TRY(run(&call, context));
    return call.failed ? out_of_memory(api) : NULL;
}

static OrtStatus *fill(void *kernel, const OrtKernelInfo *info) {
    AttentionKernel *self = kernel;
    const OrtApi *api = self->base.api;
    Tensor key_scale, value_scale;
    int64_t heads, head_size;
    TRY(read_constant(api, info, 5, &key_scale));
    TRY(read_constant(api, info, 6, &value_scale));
    TRY(ort_AttributeInt(api)(info, "num_heads", &heads));
    TRY(ort_AttributeInt(api)(info, "head_size", &head_size));
    if (key_scale.size != 1 || value_scale.size != 1)
        return invalid(api, "the cache has more than one scale");
    if (heads < 1 || heads > 1 << 16 || head_size < 16 || head_size > LARGEST_HEAD ||
        head_size % 16)
        return invalid(api, "the size of the heads is not a multiple of 16 up to 256");
    int bytes = self->base.form & TWO_BYTES ? 2 : 1;
    self->attention = (Attention){(int)heads, (int)head_size, 0, bytes, *(float *)key_scale.data,
                                  *(float *)value_scale.data};
    return NULL;
}

static void destroy(void *kernel) { free(kernel); }

static const int inputs[] = {ORT_FLOAT, ORT_INT8,  ORT_INT8, ORT_INT32,
                             ORT_INT32, ORT_FLOAT, ORT_FLOAT};
static const int outputs[] = {ORT_FLOAT, ORT_INT8, ORT_INT8};
DEFINE_OPERATOR(attention, "Attention", AttentionKernel, inputs, outputs, 0)
DEFINE_OPERATOR(attention_kv16, "AttentionKV16", AttentionKernel, inputs, outputs, TWO_BYTES)
