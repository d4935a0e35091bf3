// What a layer does in a step, its own product and the bank's, as one operation: see packed.py, which has the
// same in Python.
//
// Of few tokens the layer's rows and those of A are one product, by vLLM's own kernel. B is then added: of
// each token only the ranks that it has a gate for, two at a time, as AVX-512 multiplies pairs of bf16; or, of
// more tokens and where that is quicker, all ranks that the step uses, by the CPU's matrix units.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/cpu/Utils.h>
#include <ATen/native/CPUBlas.h>
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
constexpr int64_t TILE_TOKENS = 16, TOKENS = 4 * TILE_TOKENS;  // multiplied at once by the matrix units
constexpr int64_t MATRIX_SPEED = 8;  // of their products take as long as one without them
constexpr int64_t PRODUCTS_PER_THREAD = 1 << 18;  // fewer are not worth starting one
constexpr int64_t RANKS_PER_THREAD = 1 << 14;  // likewise, of gates
// Numbers of a product with the layer's rows and A's: to copy more is slower than a product of its own for A.
constexpr int64_t MOST_TOGETHER = 1 << 15;

using BF16 = at::BFloat16;

// Rows of numbers in memory.
template <typename T>
struct Rows {
  T* data;
  int64_t stride;

  T* at(int64_t row, int64_t column) const { return data + row * stride + column; }
};

// Columns of the output that are summed at once, and where their B is: `[G / 2, num_outputs, 2]`.
struct Block {
  int64_t slice, first, count;
  const BF16* b;
  int64_t num_outputs;
};

// What every layer of a step needs for its own time: kept, as new memory of this size is slow to get.
struct Scratch {
  std::vector<BF16> wide;
  std::vector<int64_t> num_gates, num_pairs;  // by token
  std::vector<int32_t> pairs;  // by token and place: pairs of ranks that it has a gate for
  std::vector<int32_t> values;  // by slice, token and place: `gate * (A x)`, two bf16 in each
  std::vector<BF16> gated;  // the same of all ranks, by slice, token and rank
  std::vector<Block> blocks;
};

template <typename T>
T* room(std::vector<T>& numbers, int64_t count) {
  if (int64_t(numbers.size()) < count) numbers.resize(count);
  return numbers.data();
}

void product(at::Tensor y, const at::Tensor& x, const at::Tensor& packed) {
  static const auto kernel = c10::Dispatcher::singleton().findSchemaOrThrow("_C::weight_packed_linear", "");
  torch::jit::Stack stack{y, x, packed, c10::IValue(), true};
  kernel.callBoxed(stack);
}

__m512 load(const BF16* halves) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

void store(BF16* halves, __m512 floats) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(halves), (__m256i)_mm512_cvtneps_pbh(floats));
}

int64_t count_gates(int64_t* num_gates, Rows<const BF16> gates, int64_t num_tokens, int64_t width) {
  int64_t all_gates = 0;
  for (int64_t token = 0; token < num_tokens; ++token) {
    num_gates[token] = 0;
    for (int64_t rank = 0; rank < width; rank += LANES) {
      const auto is_open = _mm512_cmp_ps_mask(load(gates.at(token, rank)), _mm512_setzero_ps(), _CMP_NEQ_UQ);
      num_gates[token] += _mm_popcnt_u32(is_open);
    }
    all_gates += num_gates[token];
  }
  return all_gates;
}

// Where the first of some ranks is in `A x`, whose blocks lie with those of the layer's other slices.
const BF16* in_block(Rows<const BF16> ranks, int64_t token, int64_t rank, int64_t slice, int64_t num_slices) {
  const int64_t block = rank / RANKS_PER_BLOCK * num_slices + slice;
  return ranks.at(token, block * RANKS_PER_BLOCK + rank % RANKS_PER_BLOCK);
}

// `y = own + Σ value B` for so many registers of columns of one token.
template <int REGISTERS>
void add(BF16* y, const BF16* own, const BF16* b, int64_t num_outputs, const int32_t* pairs,
         const int32_t* values, int64_t num_pairs) {
  __m512 sum[REGISTERS];
  for (int i = 0; i < REGISTERS; ++i) sum[i] = load(own + i * LANES);
  for (int64_t k = 0; k < num_pairs; ++k) {
    const __m512bh value = (__m512bh)_mm512_set1_epi32(values[k]);
    const BF16* row = b + pairs[k] * num_outputs * 2;
    for (int i = 0; i < REGISTERS; ++i) {
      sum[i] = _mm512_dpbf16_ps(sum[i], (__m512bh)_mm512_loadu_si512(row + i * LANES * 2), value);
    }
  }
  for (int i = 0; i < REGISTERS; ++i) store(y + i * LANES, sum[i]);
}

// Every token's own ranks.
void add_own_ranks(Scratch& scratch, Rows<BF16> y, Rows<const BF16> own, Rows<const BF16> ranks,
                   Rows<const BF16> gates, int64_t num_tokens, int64_t width, int64_t num_slices) {
  const int64_t most = width / 2;
  int64_t* const num_pairs = room(scratch.num_pairs, num_tokens);
  int32_t* const pairs = room(scratch.pairs, num_tokens * most);
  int32_t* const values = room(scratch.values, num_slices * num_tokens * most);
  at::parallel_for(0, num_tokens, RANKS_PER_THREAD / width, [=](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      int64_t place = token * most;
      for (int64_t rank = 0; rank < width; rank += 2) {
        const float first = *gates.at(token, rank), second = *gates.at(token, rank + 1);
        if (first == 0 && second == 0) continue;
        for (int64_t slice = 0; slice < num_slices; ++slice) {
          const BF16* of_pair = in_block(ranks, token, rank, slice, num_slices);
          const BF16 both[2] = {BF16(first * float(of_pair[0])), BF16(second * float(of_pair[1]))};
          std::memcpy(values + slice * num_tokens * most + place, both, sizeof(both));
        }
        pairs[place++] = rank / 2;
      }
      num_pairs[token] = place - token * most;
    }
  });
  const int64_t all_pairs = std::accumulate(num_pairs, num_pairs + num_tokens, int64_t{0});
  const int64_t grain = std::max<int64_t>(1, PRODUCTS_PER_THREAD / ((num_tokens + 2 * all_pairs) * COLUMNS));
  const Block* const blocks = scratch.blocks.data();
  at::parallel_for(0, scratch.blocks.size(), grain, [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const Block& block = blocks[n];
      for (int64_t column = 0, count; column < block.count; column += count) {
        const int64_t left = block.count - column;
        count = left >= COLUMNS ? COLUMNS : left >= COLUMNS / 2 ? COLUMNS / 2 : COLUMNS / 4;
        const auto add_to_token = count == COLUMNS ? add<8> : count == COLUMNS / 2 ? add<4> : add<2>;
        for (int64_t token = 0; token < num_tokens; ++token) {
          if (own.data == y.data && !num_pairs[token]) continue;
          const int32_t* of_token = values + (block.slice * num_tokens + token) * most;
          add_to_token(y.at(token, block.first + column), own.at(token, block.first + column),
                       block.b + column * 2, block.num_outputs, pairs + token * most, of_token,
                       num_pairs[token]);
        }
      }
    }
  });
}

// `gate * (A x)` of all ranks, for whole tiles of tokens: those behind the last token are 0.
void gate_all(Rows<BF16> gated, Rows<const BF16> ranks, Rows<const BF16> gates, int64_t num_tokens,
              int64_t num_rows, int64_t num_slices) {
  const int64_t width = gated.stride;
  at::parallel_for(0, num_rows, RANKS_PER_THREAD / width, [=](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      for (int64_t slice = 0; slice < num_slices; ++slice) {
        BF16* const row = gated.at(slice * num_rows + token, 0);
        if (token >= num_tokens) {
          std::fill_n(row, width, BF16(0));
          continue;
        }
        for (int64_t rank = 0; rank < width; rank += LANES) {
          const __m512 of_ranks = load(in_block(ranks, token, rank, slice, num_slices));
          store(row + rank, _mm512_mul_ps(load(gates.at(token, rank)), of_ranks));
        }
      }
    }
  });
}

// All ranks of the step, of tiles of tokens. A token without gates stays as it is, to the sign of a 0.
void add_all_ranks(Scratch& scratch, Rows<BF16> y, Rows<const BF16> ranks, Rows<const BF16> gates,
                   int64_t num_tokens, int64_t width, int64_t num_slices) {
  const int64_t num_rows = (num_tokens + TILE_TOKENS - 1) / TILE_TOKENS * TILE_TOKENS;
  const Rows<BF16> gated{room(scratch.gated, num_slices * num_rows * width), width};
  gate_all(gated, ranks, gates, num_tokens, num_rows, num_slices);
  const int64_t num_blocks = scratch.blocks.size();
  const int64_t rows_at_once = std::min(num_rows, TOKENS), num_all = (num_rows + TOKENS - 1) / TOKENS * num_blocks;
  const int64_t grain =
      std::max<int64_t>(1, MATRIX_SPEED * PRODUCTS_PER_THREAD / (rows_at_once * (width + MATRIX_SPEED) * COLUMNS));
  const Block* const blocks = scratch.blocks.data();
  const int64_t* const num_gates = scratch.num_gates.data();
  at::parallel_for(0, num_all, grain, [=](int64_t begin, int64_t end) {
    alignas(64) float sum[TOKENS * COLUMNS];
    for (int64_t n = begin; n < end; ++n) {
      const Block& block = blocks[n % num_blocks];
      const int64_t first = n / num_blocks * TOKENS;
      const int64_t last = std::min(num_tokens, first + TOKENS), rows = std::min(num_rows - first, TOKENS);
      for (int64_t token = first; token < last; ++token) {
        for (int64_t column = 0; column < block.count; column += LANES) {
          _mm512_store_ps(sum + (token - first) * COLUMNS + column, load(y.at(token, block.first + column)));
        }
      }
      std::fill(sum + (last - first) * COLUMNS, sum + rows * COLUMNS, 0.0f);
      at::native::cpublas::brgemm(rows, block.count, width, width, block.num_outputs, COLUMNS, true,
                                  gated.at(block.slice * num_rows + first, 0), block.b, sum);
      for (int64_t token = first; token < last; ++token) {
        if (!num_gates[token]) continue;
        for (int64_t column = 0; column < block.count; column += LANES) {
          store(y.at(token, block.first + column), _mm512_load_ps(sum + (token - first) * COLUMNS + column));
        }
      }
    }
    at::native::cpublas::brgemm_release();
  });
}

void packed_linear(at::Tensor& y, const at::Tensor& x, const at::Tensor& down, at::TensorList up,
                   const at::Tensor& gates, const at::Tensor& num_used_1, int64_t num_own) {
  static const bool has_matrix_units = at::cpu::init_amx();
  static thread_local Scratch scratch;
  const int64_t num_tokens = x.size(0), num_outputs = y.size(1), num_slices = up.size();
  const int64_t num_used = *num_used_1.const_data_ptr<int64_t>();
  const int64_t width = (num_used + RANKS_PER_BLOCK - 1) / RANKS_PER_BLOCK * RANKS_PER_BLOCK;
  const int64_t num_rows = num_slices * width;
  const Rows<const BF16> gates_of{gates.const_data_ptr<BF16>(), gates.size(1)};
  const int64_t all_gates = count_gates(room(scratch.num_gates, num_tokens), gates_of, num_tokens, width);
  const bool is_by_matrix =
      has_matrix_units && num_tokens >= TILE_TOKENS && num_tokens * width <= MATRIX_SPEED * all_gates;
  const bool is_together =
      all_gates > 0 && !is_by_matrix && num_own > 0 && num_tokens * (num_own + num_rows) <= MOST_TOGETHER;
  if (!is_together) {
    if (num_own > 0) {
      product(y, x, down.narrow(0, 0, num_own));
    } else {
      y.zero_();
    }
    if (all_gates == 0) return;
  }
  const int64_t first_row = is_together ? 0 : num_own, columns = num_own - first_row + num_rows;
  BF16* const wide = room(scratch.wide, num_tokens * columns);
  product(at::from_blob(wide, {num_tokens, columns}, x.options()), x, down.narrow(0, first_row, columns));
  const Rows<BF16> out{y.data_ptr<BF16>(), num_outputs};
  const Rows<const BF16> ranks{wide + num_own - first_row, columns};

  scratch.blocks.clear();
  for (int64_t slice = 0, first = 0; slice < num_slices; first += up[slice++].size(1)) {
    const int64_t size = up[slice].size(1);
    for (int64_t column = 0; column < size; column += COLUMNS) {
      const BF16* b = up[slice].const_data_ptr<BF16>() + column * 2;
      scratch.blocks.push_back({slice, first + column, std::min(COLUMNS, size - column), b, size});
    }
  }
  if (is_by_matrix) {
    add_all_ranks(scratch, out, ranks, gates_of, num_tokens, width, num_slices);
  } else {
    const Rows<const BF16> in_y{out.data, num_outputs}, in_wide{wide, columns};
    add_own_ranks(scratch, out, is_together ? in_wide : in_y, ranks, gates_of, num_tokens, width, num_slices);
  }
}

}  // namespace

TORCH_LIBRARY_IMPL(steer, CPU, m) { m.impl("packed_linear", packed_linear); }
