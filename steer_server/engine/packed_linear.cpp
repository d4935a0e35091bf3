// What a layer does in a step, its own product and the bank's, as one operation: see packed.py, which has the
// same in Python.
//
// Of few tokens the layer's rows and those of A are one product, by vLLM's own kernel. B is then added: of
// each token only the ranks that it has a gate for, two at a time, as AVX-512 multiplies pairs of bf16.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <immintrin.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

namespace {

constexpr int64_t RANKS_PER_BLOCK = 32;
constexpr int64_t LANES = 16;  // float32 of a register
constexpr int64_t COLUMNS = 8 * LANES;  // of the output, summed at once: each sum waits for the one before
constexpr int64_t PRODUCTS_PER_THREAD = 1 << 16;  // fewer are not worth starting one
constexpr int64_t TOKENS_PER_THREAD = 64;
// Numbers of a product with the layer's rows and A's: to copy more is slower than a product of its own for A.
constexpr int64_t MOST_TOGETHER = 1 << 15;

using BF16 = at::BFloat16;

void product(at::Tensor y, const at::Tensor& x, const at::Tensor& packed) {
  static const auto kernel = c10::Dispatcher::singleton().findSchemaOrThrow("_C::weight_packed_linear", "");
  torch::jit::Stack stack{y, x, packed, c10::IValue(), true};
  kernel.callBoxed(stack);
}

// What every layer of a step needs for its own time: kept, as new memory of this size is slow to get.
struct Scratch {
  std::vector<BF16> wide;
  std::vector<int64_t> num_pairs;  // by token: pairs of ranks that it has a gate for
  std::vector<int32_t> pairs;  // by token and place
  std::vector<int32_t> values;  // by slice, token and place: `gate * (A x)`, two bf16 in each
};

void gate(Scratch& scratch, const BF16* wide, int64_t stride, const BF16* gates, int64_t gates_stride,
          int64_t num_tokens, int64_t width, int64_t num_slices) {
  const int64_t most = width / 2;
  scratch.num_pairs.resize(num_tokens);
  scratch.pairs.resize(num_tokens * most);
  scratch.values.resize(num_slices * num_tokens * most);
  int64_t* const num_pairs = scratch.num_pairs.data();
  int32_t *const pairs = scratch.pairs.data(), *const values = scratch.values.data();
  at::parallel_for(0, num_tokens, TOKENS_PER_THREAD, [=](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      int64_t place = token * most;
      for (int64_t rank = 0; rank < width; rank += 2) {
        const float first = gates[token * gates_stride + rank];
        const float second = gates[token * gates_stride + rank + 1];
        if (first == 0 && second == 0) continue;
        const int64_t block = rank / RANKS_PER_BLOCK * num_slices;
        const BF16* of_rank = wide + token * stride + block * RANKS_PER_BLOCK + rank % RANKS_PER_BLOCK;
        for (int64_t slice = 0; slice < num_slices; ++slice, of_rank += RANKS_PER_BLOCK) {
          const BF16 both[2] = {BF16(first * float(of_rank[0])), BF16(second * float(of_rank[1]))};
          std::memcpy(values + slice * num_tokens * most + place, both, sizeof(both));
        }
        pairs[place++] = rank / 2;
      }
      num_pairs[token] = place - token * most;
    }
  });
}

// `y = own + Σ value B` for so many registers of columns of one token.
template <int REGISTERS>
void add(BF16* y, const BF16* own, const BF16* b, int64_t num_outputs, const int32_t* pairs,
         const int32_t* values, int64_t num_pairs) {
  __m512 sum[REGISTERS];
  for (int i = 0; i < REGISTERS; ++i) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(own + i * LANES));
    sum[i] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
  for (int64_t k = 0; k < num_pairs; ++k) {
    const __m512bh value = (__m512bh)_mm512_set1_epi32(values[k]);
    const BF16* row = b + pairs[k] * num_outputs * 2;
    for (int i = 0; i < REGISTERS; ++i) {
      sum[i] = _mm512_dpbf16_ps(sum[i], (__m512bh)_mm512_loadu_si512(row + i * LANES * 2), value);
    }
  }
  for (int i = 0; i < REGISTERS; ++i) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(y + i * LANES), (__m256i)_mm512_cvtneps_pbh(sum[i]));
  }
}

void packed_linear(at::Tensor& y, const at::Tensor& x, const at::Tensor& down, at::TensorList up,
                   const at::Tensor& gates, const at::Tensor& num_used_1, int64_t num_own) {
  const int64_t num_tokens = x.size(0), num_outputs = y.size(1), num_slices = up.size();
  const int64_t num_used = *num_used_1.const_data_ptr<int64_t>();
  const int64_t width = (num_used + RANKS_PER_BLOCK - 1) / RANKS_PER_BLOCK * RANKS_PER_BLOCK;
  const int64_t num_rows = num_slices * width;
  const bool is_together = num_used > 0 && num_own > 0 && num_tokens * (num_own + num_rows) <= MOST_TOGETHER;
  if (!is_together) {
    if (num_own > 0) {
      product(y, x, down.narrow(0, 0, num_own));
    } else {
      y.zero_();
    }
    if (num_used == 0) return;
  }
  static thread_local Scratch scratch;
  const int64_t first_row = is_together ? 0 : num_own, columns = num_own - first_row + num_rows;
  scratch.wide.resize(std::max<size_t>(scratch.wide.size(), num_tokens * columns));
  product(at::from_blob(scratch.wide.data(), {num_tokens, columns}, x.options()), x,
          down.narrow(0, first_row, columns));
  const BF16* own = is_together ? scratch.wide.data() : nullptr;
  const BF16* ranks = scratch.wide.data() + num_own - first_row;
  gate(scratch, ranks, columns, gates.const_data_ptr<BF16>(), gates.size(1), num_tokens, width, num_slices);

  const int64_t most = width / 2;
  const int64_t* num_pairs = scratch.num_pairs.data();
  const int64_t all_pairs = std::accumulate(num_pairs, num_pairs + num_tokens, int64_t{0});
  const int64_t grain = std::max<int64_t>(1, PRODUCTS_PER_THREAD / ((num_tokens + 2 * all_pairs) * COLUMNS));
  BF16* out = y.data_ptr<BF16>();
  int64_t first = 0;
  for (int64_t slice = 0; slice < num_slices; ++slice) {
    const int64_t size = up[slice].size(1);
    const BF16* b = up[slice].const_data_ptr<BF16>();
    const int32_t *pairs = scratch.pairs.data(), *values = scratch.values.data() + slice * num_tokens * most;
    at::parallel_for(0, (size + COLUMNS - 1) / COLUMNS, grain, [=](int64_t begin, int64_t end) {
      const int64_t last = std::min(end * COLUMNS, size);
      for (int64_t column = begin * COLUMNS, count; column < last; column += count) {
        const int64_t left = last - column;
        count = left >= COLUMNS ? COLUMNS : left >= COLUMNS / 2 ? COLUMNS / 2 : COLUMNS / 4;
        const auto add_to_token = count == COLUMNS ? add<8> : count == COLUMNS / 2 ? add<4> : add<2>;
        for (int64_t token = 0; token < num_tokens; ++token) {
          if (!own && !num_pairs[token]) continue;
          BF16* sum = out + token * num_outputs + first + column;
          add_to_token(sum, own ? own + token * columns + first + column : sum, b + column * 2, size,
                       pairs + token * most, values + token * most, num_pairs[token]);
        }
      }
    });
    first += size;
  }
}

}  // namespace

TORCH_LIBRARY_IMPL(steer, CPU, m) { m.impl("packed_linear", packed_linear); }
