// optimizer_step and gradient_norm on GPUs: what updates_cuda.cpp hands to the kernels, and how a list is divided among blocks.
//
// A block takes one chunk of one tensor. Which one it finds in a table in device memory, which the host fills in.
#pragma once

#include <cstddef>

#include "../common/optimizers.h"
#include "../common/platform.h"
#include "runtime.h"

namespace fastlayers::cuda {

constexpr unsigned list_threads = 128, finish_threads = 1024;  // of a block
constexpr int64_t smallest_chunk = 4096, largest_chunk = 16384;
constexpr int64_t enough_blocks = 16 * 132;  // sixteen for each multiprocessor of an H100

// The elements of a block, from those of the whole list: many where there are enough blocks all the same, so that what a block does once
// weighs little.
constexpr int64_t chunk_size(int64_t numel) {
  int64_t chunk = smallest_chunk;
  while (chunk < largest_chunk && numel >= 2 * chunk * enough_blocks) chunk *= 2;
  return chunk;
}

// Chunks of one tensor; an empty one has a step to count, too.
constexpr int64_t chunk_count(int64_t numel, int64_t chunk) { return numel == 0 ? 1 : (numel + chunk - 1) / chunk; }

// A list in device memory: where the chunks of each tensor begin, which follow one another, the tensors, and a ticket counter each, of
// the blocks that have read the tensor's scalars; zero between launches.
struct ListTable {
  void* memory;
  int64_t count, chunk, chunks;  // tensors, elements of a chunk, chunks altogether

  FL_HD constexpr size_t tensors_offset() const { return (count + 1) * sizeof(int64_t); }
  FL_HD constexpr size_t tickets_offset() const { return tensors_offset() + count * sizeof(UpdateTensor); }
};

constexpr size_t table_bytes(int64_t count) { return ListTable{nullptr, count, 0, 0}.tickets_offset() + (count + 1) / 2 * sizeof(int64_t); }

// Fills in host memory of table_bytes(count) bytes that are zero; returns the table, whose memory is yet to be set.
ListTable fill_table(void* host, const UpdateTensor* tensors, int64_t count);

// A number in device memory; none where address is nullptr.
struct StoredNumber {
  const void* address;
  DataType type;
};

struct Update {
  int rule;  // position in FL_UPDATE_RULES
  DataType param_type, state_type;
  double hyperparameters[max_hyperparameters];     // [lr, weight_decay, ...]
  StoredNumber tensors[max_hyperparameters];       // what stands for a hyperparameter, where there is one
  bool flags[max_flags];                           // [maximize, ...]
  StoredNumber grad_scale, found_inf;
  const double* squares;                           // sum of the squares of all gradients where they are clipped, or nullptr
  double max_norm, average_weight;                 // average_weight: 1 - ema_decay
  const uint64_t* seed;                            // of stochastic rounding, or nullptr
  bool plain;                                      // no masters, averages or seed
  ListTable list;
};

void optimizer_step(const Update& update, Stream stream);

// partials[i]: sum of squares of chunk i; partials[stride + i]: 0, or NaN where an element of it is not finite.
void sum_squares(DataType type, const ListTable& list, double* partials, int64_t stride, Stream stream);

// result[0]: the sum of the squares; result[1]: 1 if any element is not finite, else 0.
void finish_squares(const double* partials, int64_t count, double* result, Stream stream);

}  // namespace fastlayers::cuda
