// What a run is, how its elements are read and written, and in which order its loops visit them.
//
// A run is rows: of one channel each (planar), visited one after the other, or across channels (along), visited strip by strip of a
// cache line's width, down the rows. Either way a channel's values and sums are held in registers.
#pragma once

#include "../common/activations.h"
#include "../common/epilogue.h"
#include "memory.h"

namespace fastlayers::FL_CPU_CAPABILITY {

constexpr int sum_lanes = 16;
constexpr int64_t page_bytes = 4096;
constexpr int64_t prefetch_bytes = 2048;  // tensors are fetched this far ahead: the loops keep the processor too busy to see as far itself

// Values of a parameter: those of row or element i are at values + i * step, step 0 or 1. Sixteen may be read where step is 0.
template <class T> struct Column {
  const T* values;
  int64_t step;

  FL_HD Column from(int64_t i) const { return {values + i * step, step}; }
};

// The columns of a run, in the order they are kept.
enum ColumnName { column_mean, column_scale, column_shift, column_mean_dz, column_slope, column_arguments };
constexpr int column_count = column_arguments + max_arguments;

template <class Storage> struct Run {
  using T = typename Compute<Storage>::type;

  int64_t count, rows, stride;  // `rows` rows of `count` elements, `stride` apart
  const Storage *x, *dy, *residual, *residual_after;  // the residuals may be null
  Storage *y, *dx, *dresidual;       // dx and dresidual may be null
  T* parked;                         // dz for a second visit of the same elements, row after row, or null
  const uint16_t* numbers;           // of the run's elements, or null for no dropout
  const uint16_t* uniform_numbers;   // for a random activation
  int32_t threshold;
  T keep_scale, keep_shift, drop_value;
  bool past_caches;  // whether results are so large that they leave the caches before anyone reads them
  bool shifts;  // whether keep_shift or drop_value is anything but 0
  bool affine, corrected;  // whether mean, scale, shift are anything but 0, 1, 0; whether mean_dz and slope are anything but 0
  int repeats;             // how many of each learnable parameter there are
  Column<T> columns[column_count];
  T* sums;  // sum k is at sums + k * sums_step: 16 partial ones of each row (planar) or one per element of a row. Null: none wanted
  int64_t sums_step;
  bool sums_dz;  // whether those of dz are wanted, beside the parameters'
  bool sums_begin;  // planar: whether they begin at 0, whatever is in memory
};

namespace {

// Loads and stores of V::size elements, or of the first `count` where the run ends inside the vector.
template <bool whole> struct Access {
  int count = 0;
  int64_t ahead = prefetch_bytes;  // how far ahead tensors are fetched
  int64_t skipped = 0;             // elements between the run's first one and here that are not the run's

  template <class V, class Storage> FL_HD V read(const Storage* address) const {
    if constexpr (whole) return load<V>(address);
    else return load<V>(address, count);
  }
  // read from a tensor that the loop walks through.
  template <class V, class Storage> FL_HD V stream(const Storage* address) const {
    if constexpr (whole) __builtin_prefetch(reinterpret_cast<const char*>(address) + ahead);
    return read<V>(address);
  }
  template <class V, class Storage> FL_HD void write(Storage* address, V value) const {
    if constexpr (whole) store(address, value);
    else store(address, value, count);
  }
  // write of a result. past_caches asks for an address that is a multiple of what is written.
  template <class V, class Storage> FL_HD void write(Storage* address, V value, bool past_caches) const {
    if constexpr (whole) {
      if (past_caches) return store_past_caches(address, value);
    }
    write(address, value);
  }
  // Of a column beside row `lane`, or beside element `lane` and those after it; & with -step is times step, which is 0 or 1.
  template <class V, bool along> FL_HD V column(const Column<typename V::Scalar>& column, int64_t lane) const {
    if constexpr (along) return read<V>(column.values + (lane & -column.step));
    else return V(column.values[lane & -column.step]);
  }
  // What may be added to a sum: nothing for lanes past the end.
  template <class V> FL_HD V counted(V value) const {
    if constexpr (whole) return value;
    else return first_of(value, count);
  }
};

// Vectors that make up a strip of a run along channels: a cache line, for lines that are written past the caches to be written whole.
template <class Storage> constexpr int strip_vectors = 64 / sizeof(Storage) / Block<typename Compute<Storage>::type>::size;

// body(j) for j < count, which is `most` where the loop is unrolled.
template <int most, bool unrolled, class Body> FL_HD void for_each_vector(int count, Body body) {
  if constexpr (unrolled) {
#pragma GCC unroll 2
    for (int j = 0; j < most; ++j) body(j);
  } else {
#pragma GCC unroll 1
    for (int j = 0; j < count; ++j) body(j);
  }
}

// Carries a loop over a run along channels, strip by strip, down the rows: loop.enter takes a strip's columns, step an element's vector,
// leave what has been gathered. Tensors are fetched one run ahead, in the order of memory: the strided order alone is half as fast. Rows
// of pages are fetched each along itself, and parts of rows where the next run has them.
template <class Storage, class Loop> FL_HD void walk_rows(const Run<Storage>& r, Loop& loop) {
  constexpr int size = Block<typename Compute<Storage>::type>::size, most = strip_vectors<Storage>;
  constexpr bool unrolled = most <= 2;
  constexpr int64_t least = unrolled ? most : 1, element = sizeof(Storage), line = most * size * element;
  const int64_t gap = r.stride - r.count, run = r.rows * r.stride * element;
  const int64_t ahead = gap ? run : r.stride * element > page_bytes ? prefetch_bytes : 0;  // 0: as memory lies
  int64_t lane = 0, fetched = larger(run, prefetch_bytes);
  while (lane + least * size <= r.count) {
    const int vectors = static_cast<int>(smaller(most, (r.count - lane) / size));
    for_each_vector<most, unrolled>(vectors, [&](int j) __attribute__((always_inline)) { loop.enter(j, lane + j * size, Access<true>{}); });
    int64_t i = lane;
    for (int64_t row = 0; row < r.rows; ++row, i += r.stride, fetched += line) {
      const Access<true> access{0, ahead ? ahead : fetched - i * element, row * gap};
      for_each_vector<most, unrolled>(vectors, [&](int j) __attribute__((always_inline)) { loop.step(j, i + j * size, access); });
    }
    for_each_vector<most, unrolled>(vectors, [&](int j) __attribute__((always_inline)) { loop.leave(j, lane + j * size, Access<true>{}); });
    lane += vectors * size;
  }
  for (; lane < r.count; lane += size) {
    Access<false> access{static_cast<int>(smaller(size, r.count - lane))};
    loop.enter(0, lane, access);
    for (int64_t row = 0; row < r.rows; ++row, access.skipped += gap) loop.step(0, lane + row * r.stride, access);
    loop.leave(0, lane, access);
  }
}

// Over a planar run, in which nothing is gathered.
template <class Storage, class Loop> FL_HD void walk_planar(const Run<Storage>& r, Loop& loop) {
  constexpr int size = Block<typename Compute<Storage>::type>::size;
  for (int64_t row = 0; row < r.rows; ++row) {
    int64_t i = row * r.stride;
    const int64_t end = i + r.count;
    loop.enter(0, row, Access<true>{});
    for (; i + size <= end; i += size) loop.step(0, i, Access<true>{});
    if (i < end) loop.step(0, i, Access<false>{static_cast<int>(end - i)});
  }
}

template <bool along, class Storage, class Loop> FL_HD void walk(const Run<Storage>& r, Loop& loop) {
  if constexpr (along) walk_rows(r, loop);
  else walk_planar(r, loop);
}

// Whether what the run writes at this address can go past the caches: whole vectors, of whole lines.
template <bool along, class Storage> FL_HD bool can_pass_caches(const Run<Storage>& r, const Storage* address) {
  constexpr int vector_bytes = Block<typename Compute<Storage>::type>::size * sizeof(Storage);
  if (!r.past_caches) return false;
  const int unit = along && r.rows > 1 ? 64 : vector_bytes;
  return reinterpret_cast<uintptr_t>(address) % unit == 0 && (r.rows == 1 || r.stride * sizeof(Storage) % unit == 0);
}

}  // namespace
}  // namespace fastlayers::FL_CPU_CAPABILITY
