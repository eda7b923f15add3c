// The three matrix products of a linear layer, blocked for the caches of one core. See README.md.
#include "cpu.h"

#include "rows.h"
#include "tiles.h"

namespace fpm {
namespace {

constexpr int64_t kRowBlock = 64;     // rows whose operand stays in the first-level cache
constexpr int64_t kDepthBlock = 256;  // of the sums over rows in `weight_grad`

int64_t memory(const LinearArguments& a) {
    const int64_t widest = a.inputs > a.outputs ? a.inputs : a.outputs;
    const int64_t panel = round_up(widest, kLanes) * kPair;
    const int64_t last_rows = 2 * kTileRows * widest;
    return panel + last_rows + kTileRows * kDepthBlock;
}

// c (rows, columns) (+)= a b for any number of rows: the last ones are computed in `spare`, which holds whole tiles.
FPM_INLINE void multiply_rows(
    const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* c, int64_t c_stride, int64_t rows,
    int64_t columns, int64_t depth, bool add, float* spare) {
    const int64_t whole = rows / kTileRows * kTileRows, rest = rows - whole;
    if (add) {
        multiply<true, true>(a, a_stride, b, b_stride, c, c_stride, whole, columns, depth);
    } else {
        multiply<true, false>(a, a_stride, b, b_stride, c, c_stride, whole, columns, depth);
    }
    if (!rest) return;
    float *last_a = spare, *last_c = spare + kTileRows * depth;
    std::memset(last_a, 0, kTileRows * depth * sizeof(float));
    for (int64_t row = 0; row < rest; ++row) {
        std::memcpy(last_a + row * depth, a + (whole + row) * a_stride, depth * sizeof(float));
        std::memcpy(last_c + row * columns, c + (whole + row) * c_stride, columns * sizeof(float));
    }
    if (add) {
        multiply<true, true>(last_a, depth, b, b_stride, last_c, columns, kTileRows, columns, depth);
    } else {
        multiply<true, false>(last_a, depth, b, b_stride, last_c, columns, kTileRows, columns, depth);
    }
    for (int64_t row = 0; row < rest; ++row) {
        std::memcpy(c + (whole + row) * c_stride, last_c + row * columns, columns * sizeof(float));
    }
}

void forward(const LinearArguments& a, int64_t begin, int64_t end, float* scratch) {
    float* spare = scratch + round_up(a.inputs, kLanes) * kPair;
    if (a.bias) {
        for (int64_t row = begin; row < end; ++row) {
            std::memcpy(a.out + row * a.outputs, a.bias, a.outputs * sizeof(float));
        }
    }
    for (int64_t first = 0; first < a.outputs; first += kPair) {
        const int64_t columns = a.outputs - first < kPair ? a.outputs - first : kPair;
        pack_transposed(a.weight + first * a.inputs, a.inputs, columns, a.inputs, scratch);
        multiply_rows(
            a.x + begin * a.inputs, a.inputs, scratch, kPair, a.out + begin * a.outputs + first, a.outputs,
            end - begin, columns, a.inputs, a.bias != nullptr, spare);
    }
}

void input_grad(const LinearArguments& a, int64_t begin, int64_t end, float* scratch) {
    for (int64_t row = begin; row < end; row += kRowBlock) {
        const int64_t rows = end - row < kRowBlock ? end - row : kRowBlock;
        for (int64_t first = 0; first < a.inputs; first += kPair) {
            const int64_t columns = a.inputs - first < kPair ? a.inputs - first : kPair;
            multiply_rows(
                a.grad + row * a.outputs, a.outputs, a.weight + first, a.inputs, a.out + row * a.inputs + first,
                a.inputs, rows, columns, a.outputs, a.add, scratch);
        }
    }
}

void weight_grad(const LinearArguments& a, int64_t begin, int64_t end, float* scratch) {
    for (int64_t depth = 0; depth < a.rows; depth += kDepthBlock) {
        const int64_t count = a.rows - depth < kDepthBlock ? a.rows - depth : kDepthBlock;
        const float *x = a.x + depth * a.inputs, *grad = a.grad + depth * a.outputs;
        for (int64_t row = begin; row < end; row += kTileRows) {
            for (int64_t i = 0; i < count; ++i) {  // a column of tiles, whose stride may be a multiple of a page
                std::memcpy(scratch + i * kTileRows, grad + i * a.outputs + row, kTileRows * sizeof(float));
            }
            float* out = a.out + row * a.inputs;
            if (depth) {
                multiply<false, true>(scratch, kTileRows, x, a.inputs, out, a.inputs, kTileRows, a.inputs, count);
            } else {
                multiply<false, false>(scratch, kTileRows, x, a.inputs, out, a.inputs, kTileRows, a.inputs, count);
            }
        }
    }
}

}  // namespace

const LinearKernels FPM_ISA_NAME(linear) = {memory, forward, input_grad, weight_grad};

}  // namespace fpm
