/* Embed: a token's embedding plus its position's. */
#include <stdlib.h>

#include "operator.h"
#include "register.h"

static OrtStatus *compute(void *kernel, OrtKernelContext *context) {
    const Operator *self = kernel;
    const OrtApi *api = self->api;
    Tensor ids, places, matrix, scales, positions;
    float *output;
    TRY(read_input(api, context, 0, &ids));
    TRY(read_input(api, context, 1, &places));
    TRY(read_input(api, context, 2, &matrix));
    TRY(read_input(api, context, 3, &scales));
    TRY(read_input(api, context, 4, &positions));
    if (ids.rank != 2 || ids.size != places.size)
        return invalid(api, "there is not a position for each token");
    if (matrix.rank != 2 || positions.rank != 2 || matrix.dims[1] != positions.dims[1] ||
        scales.size != matrix.dims[0])
        return invalid(api, "the embeddings' sizes do not fit each other");
    int64_t width = matrix.dims[1], dims[] = {ids.dims[0], ids.dims[1], width};
    TRY(make_output(api, context, 0, dims, 3, &output));
    count_call();
    for (int64_t i = 0; i < ids.size; i++) {
        int64_t id = ((int64_t *)ids.data)[i], place = ((int64_t *)places.data)[i];
        if (id < 0 || id >= matrix.dims[0]) return invalid(api, "a token id is out of its range");
        if (place < 0 || place >= positions.dims[0])
            return invalid(api, "a position is out of its range");
        self->kernels->embed((int8_t *)matrix.data + id * width, ((float *)scales.data)[id],
                             (float *)positions.data + place * width, (int)width,
                             output + i * width);
    }
    return NULL;
}

static void destroy(void *kernel) { free(kernel); }

static OrtStatus *fill(void *kernel, const OrtKernelInfo *info) {
    (void)kernel, (void)info;
    return NULL; /* all that it needs are inputs */
}

static const int inputs[] = {ORT_INT64, ORT_INT64, ORT_INT8, ORT_FLOAT, ORT_FLOAT};
static const int outputs[] = {ORT_FLOAT};
DEFINE_OPERATOR(embed, "Embed", Operator, inputs, outputs, 0)
