// How a tensor is walked on a GPU: pure functions from sizes to grids, blocks and bytes of shared memory. No CUDA headers.
//
// A thread takes a vector of `width` neighbouring elements, 16 bytes or less, at a time. Planar: a block walks through the rows (image,
// channel) of one channel. Along (channels_last and matrices): a row is the least number of images whose channels fill whole vectors,
// its columns are vectors, and a block walks down the rows of a few of them. Reductions are cut into as many chunks as fill the
// device a few times over, whatever the number of channels; where they are cut depends on the sizes alone.
#pragma once

#include "../common/platform.h"

namespace fastlayers::cuda {

constexpr int64_t multiprocessors = 132;                // of an H100
constexpr int64_t most_blocks = 8 * multiprocessors;    // of a reduction over a large tensor
constexpr int64_t most_chunks = 1024;
constexpr int64_t usual_steps = 8;                      // vectors of 16 bytes that a thread takes
constexpr int64_t most_rows = (int64_t(1) << 31) - (1 << 16);  // and vectors of one: an int counts them, with room for a last step

struct Launch {
  unsigned blocks, threads, shared_bytes, second_blocks;  // of a grid's second dimension
};

// What kernels need to know of the order in which they walk.
struct Walk {
  bool along;
  int width;         // elements of a vector
  bool aligned;      // all tensors begin at whole vectors in memory
  bool whole;        // and every vector lies within one row
  int64_t numel;
  int64_t length;    // planar: elements of a row
  int channels;      // of the tensor
  int columns;       // planar: channels; along: vectors of a row
  int rows;          // planar: vectors of a channel; along: rows
  int chunk_rows, chunks;
  int lanes;         // along: columns that a block walks down side by side
  int column_blocks; // blocks that share out the columns of a chunk
  int sums;          // that a chunk leaves behind: one per channel, or along per element of a row
  int row_vectors;   // planar: vectors that a row touches,
  unsigned multiplier;  // and its reciprocal: n / row_vectors is (n * multiplier >> 32) >> bits
  int bits;
  int row_step;      // how many rows there are to a thread's next vector, which is
  int64_t first_step, first_wrap;  // so many elements farther into the tensor, and planar
  int within_step, within_wrap;    // so many vectors into its row, where it is in the same row and where it is in another,
  int within_limit;                // as it is from this vector of a row on
  int sample_rows;   // images of a sample whose channels are dropped whole, 0: every element by itself
};

struct Plan {
  Walk walk;
  Launch launch;
};

FL_HD constexpr int64_t power_of_two(int64_t n) {  // the smallest that is at least n
  int64_t power = 1;
  while (power < n) power *= 2;
  return power;
}
constexpr int64_t greatest_common_divisor(int64_t a, int64_t b) { return b ? greatest_common_divisor(b, a % b) : a; }

// multiplier and bits of a divisor: for 1 < divisor < 2^31 they divide any n < 2^31.
constexpr void set_reciprocal(Walk& w, int64_t divisor) {
  w.bits = 0;
  while ((int64_t(2) << w.bits) < divisor) ++w.bits;
  w.multiplier = divisor < 2 ? 0 : static_cast<unsigned>(divide_up(int64_t(1) << (32 + w.bits), divisor));
}

// Cuts rows, of which a block takes `step` at a time, into chunks: `steps` steps each; fewer where that leaves multiprocessors idle, more
// where the device is full anyway.
constexpr void set_chunks(Walk& w, int64_t step, int64_t blocks_beside, int64_t steps, bool sums) {
  const int64_t all = larger(1, divide_up(w.rows, step));
  int64_t each = larger(1, smaller(steps, all * blocks_beside / multiprocessors));
  if (sums) each = larger(each, larger(divide_up(all * blocks_beside, most_blocks), divide_up(all, most_chunks)));
  w.chunk_rows = static_cast<int>(each * step);
  w.chunks = static_cast<int>(divide_up(all, each));
}

// The sizes (n, c, s) of a tensor in memory order. sample > 0: samples of so many elements have channels that are dropped whole.
struct Sizes {
  int64_t n, c, s, sample;
};

// n * c * s elements as they are walked: as one row where channels do not matter.
constexpr Sizes walked(Sizes sizes, bool per_channel) {
  const auto [n, c, s, sample] = sizes;
  if (sample && c == 1) return {n * s / sample, 1, sample, sample};
  if (!per_channel && !sample) return {1, 1, n * c * s, 0};
  return sizes;
}

constexpr Plan planar_plan(Sizes sizes, int width, bool aligned, bool sums) {
  const auto [n, c, s, sample] = sizes;
  Walk w = {};
  const bool one_row = n == 1 && c == 1, fits = s % width == 0;
  w.width = width;
  w.aligned = aligned;
  w.whole = fits && aligned;
  w.numel = n * c * s;
  w.length = s;
  w.channels = w.columns = static_cast<int>(c);
  w.row_vectors = static_cast<int>(fits ? s / width : one_row ? divide_up(s, width) : (s + 2 * width - 2) / width);
  w.rows = static_cast<int>(n * w.row_vectors);
  w.sample_rows = static_cast<int>(sample ? sample / (c * s) : 0);
  set_reciprocal(w, w.row_vectors);
  const bool large = c == 1 || w.rows * c >= most_blocks * 128 * 4;
  const int64_t threads = smaller(large ? 128 : 64, larger(32, power_of_two(w.rows)));
  w.column_blocks = w.sums = w.columns;
  w.row_step = static_cast<int>(threads);
  w.within_step = static_cast<int>(threads % larger(1, w.row_vectors));
  w.within_wrap = w.within_step - w.row_vectors;
  w.within_limit = -w.within_wrap;
  w.first_step = threads / larger(1, w.row_vectors) * c * s + w.within_step * width;
  w.first_wrap = w.first_step + (c - 1) * s;
  set_chunks(w, threads, c, sums || c > 1 ? usual_steps : usual_steps / 2, sums || c > 1);
  return {w, {static_cast<unsigned>(w.chunks * c), static_cast<unsigned>(threads), 0, 1}};
}

constexpr Plan along_plan(Sizes sizes, int width, bool aligned, int full_width) {
  const auto [n, c, s, sample] = sizes;
  Walk w = {};
  w.along = true;
  const int64_t images = width / greatest_common_divisor(c, width);
  w.width = width;
  w.aligned = aligned;
  w.whole = n % images == 0 && aligned;
  w.numel = n * c;
  w.length = 1;
  w.channels = static_cast<int>(c);
  w.columns = static_cast<int>(images * c / width);
  w.rows = static_cast<int>(divide_up(n, images));
  w.sample_rows = static_cast<int>(sample ? sample / c : 0);
  const bool large = w.columns > 2 && static_cast<int64_t>(w.rows) * w.columns >= most_blocks * 128 * 16;
  const int64_t threads = large ? 128 : 64, beside = larger((large ? 32 : 16) / width, threads / power_of_two(w.rows));
  const int64_t lanes = smaller(power_of_two(w.columns), beside);
  w.lanes = static_cast<int>(lanes);
  w.column_blocks = static_cast<int>(divide_up(w.columns, lanes));
  w.sums = w.columns * width;
  w.row_step = static_cast<int>(threads / lanes);
  w.first_step = static_cast<int64_t>(w.row_step) * w.sums;
  set_chunks(w, w.row_step, w.column_blocks, usual_steps * full_width / width, true);
  return {w, {static_cast<unsigned>(w.chunks) * w.column_blocks, static_cast<unsigned>(threads), 0, 1}};
}

// How to walk a tensor of these sizes by vectors of `width` elements, of which 16 bytes hold `full_width`. aligned: all tensors begin at
// whole vectors in memory; sums: each block also sums over what it has seen.
constexpr bool walks_along(Sizes sizes) { return sizes.s == 1 && sizes.c > 1; }
constexpr Plan plan(Sizes sizes, int width, bool aligned, bool sums, int full_width) {
  return walks_along(sizes) ? along_plan(sizes, width, aligned, full_width) : planar_plan(sizes, width, aligned, sums);
}

// The second stage of a reduction: a block for so many channels of each of `sums` sums.
constexpr int finish_lanes = 32, finish_rows = 8;
constexpr Launch finish_launch(int64_t channels, int64_t sums) {
  return {static_cast<unsigned>(larger(1, divide_up(channels, finish_lanes))), finish_lanes * finish_rows, 0, static_cast<unsigned>(sums)};
}

// A thread for each of so many values.
constexpr Launch plain_launch(int64_t values) { return {static_cast<unsigned>(divide_up(values, 256)), 256, 0, 1}; }

// The first element of a planar vector: the one so many after the first of its row.
FL_HD constexpr int64_t planar_first(const Walk& w, int image, int channel, int within) {
  return (static_cast<int64_t>(image) * w.channels + channel) * w.length + static_cast<int64_t>(within) * w.width;
}

// Whether threads can count what a plan of these sizes has them walk through.
constexpr bool walkable(Sizes sizes, int width) {
  const auto [n, c, s, sample] = sizes;
  const int64_t images = width / greatest_common_divisor(c, width);
  if (walks_along(sizes)) return divide_up(n, images) < most_rows && images * c < most_rows;
  return c < most_rows && n * ((s + 2 * width - 2) / width) < most_rows;
}

// Large tensors, of which no test has the memory.
static_assert(planar_first(plan({1, 1, int64_t(1) << 33, 0}, 8, true, false, 8).walk, 0, 0, (1 << 30) - 1) == (int64_t(1) << 33) - 8);
static_assert(walkable({1, 1, int64_t(1) << 33, 0}, 8) && !walkable({1, 1, int64_t(1) << 34, 0}, 8));
static_assert(walkable({65536, 32768, 1, 0}, 8) && walkable({1 << 30, 2, 1, 0}, 2) && !walkable({int64_t(1) << 30, 2, 2, 0}, 8));

}  // namespace fastlayers::cuda
