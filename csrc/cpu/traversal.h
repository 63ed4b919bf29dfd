// In which order the elements of an (n, c, s) tensor are visited, and how a reduction is cut.
//
// Planar (s large): a run is rows of one sample, each of one channel and at most `longest_run` elements. Along (s small: channels_last and
// matrices): a run is rows across the channels of a group, a row several samples where one fills no cache lines. A *step* is one row of
// each channel (planar) or one run of all channels (along) of a group; partial sums are folded into double every `fold` steps, and `chunk`
// steps are the unit of a reduction. Both depend on the shape alone, so sums have the same bits for any number of threads.
#pragma once

#include <new>

#include "../parallel.h"
#include "walk.h"

namespace fastlayers::FL_CPU_CAPABILITY {

constexpr int64_t least_planar = 64;          // shorter rows of one channel are gone through along the channels,
constexpr int64_t least_samples_along = 8;    // given so many samples: what is read per channel is copied for every element of a row
constexpr int64_t longest_run = 4096;
constexpr int64_t elements_per_group = 4096;  // planar, of a sample: with fewer, what is worked out per group would be felt
constexpr int64_t longest_row = 1024;         // along channels, of several samples; what is longer is wide
constexpr int64_t elements_per_run = 2048;    // along channels: with the next one's, x and dy stay in L1
constexpr int64_t rows_of_wide = 4;           // of which a run then is
constexpr int64_t least_group = 256;          // channels that threads take to themselves, for rows to be read in pieces worth fetching
constexpr int64_t longest_sum = 128;          // a float of a run along channels is added to so often before it is folded into double
constexpr int64_t chunk_elements = 1 << 17;   // of a reduction along channels, or
constexpr int64_t samples_per_chunk = 256;    // of one over a small or wide tensor, or
constexpr int64_t folds_per_chunk = 8;        // of a planar one
constexpr int64_t line_elements = 32;         // of the smallest type
constexpr int64_t cached_bytes = 1 << 19;     // a slab of this size is still in L2 when it is visited again

FL_HD int64_t clamped(int64_t value, int64_t low, int64_t high) { return larger(low, smaller(value, high)); }

// Memory aligned to a cache line, for vectors to be read and written whole.
template <class T> class Buffer {
 public:
  explicit Buffer(int64_t size) : data_(size ? static_cast<T*>(::operator new(size * sizeof(T), alignment)) : nullptr) {}
  ~Buffer() { ::operator delete(data_, alignment); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  FL_HD T* data() { return data_; }
  FL_HD T& operator[](int64_t i) { return data_[i]; }

 private:
  static constexpr std::align_val_t alignment{64};
  T* data_;
};

struct Geometry {
  int64_t n, c, s;
  bool along;
  int64_t blocks = 1;  // planar: runs in one row
  int64_t repeat = 1;  // along: samples in one run
  int64_t period = 0;  // along: elements in a row of a run, whose columns and sums are kept
  int64_t group = 1;   // channels visited together
  int64_t steps = 0, fold = 1, chunk = 1;

  FL_HD int64_t groups() const { return divide_up(c, group); }
  FL_HD int64_t chunks() const { return divide_up(steps, chunk); }
  FL_HD int64_t numel() const { return n * c * s; }
  FL_HD int64_t first_channel(int64_t g) const { return g * group; }
  FL_HD int64_t last_channel(int64_t g) const { return smaller(c, (g + 1) * group); }
  FL_HD int64_t last_step(int64_t j) const { return smaller(steps, (j + 1) * chunk); }
  // Elements of one channel in steps q0 .. q1 - 1.
  FL_HD int64_t count(int64_t q0, int64_t q1) const { return elements_before(q1) - elements_before(q0); }
  // Units of (chunk, group) that make a task worth a thread.
  FL_HD int64_t grain() const { return larger(1, elements_per_task * groups() * chunks() / larger(1, numel())); }
  // Elements of the longest run along channels, and how far apart the columns and sums of its rows are kept.
  FL_HD int64_t run() const { return group * s * repeat; }
  FL_HD int64_t padded_row() const { return divide_up(period, sum_lanes) * sum_lanes; }

 private:
  FL_HD int64_t elements_before(int64_t q) const {
    if (along) return smaller(q * repeat, n) * s;
    return q / blocks * s + smaller(q % blocks * longest_run, s);
  }
};

FL_HD bool goes_along(int64_t n, int64_t c, int64_t s) {
  return c > 1 && s < least_planar && (s == 1 || n >= least_samples_along);
}
FL_HD bool is_small(const Geometry& g) { return g.s == 1 && g.n * g.c <= 8 * longest_row; }
FL_HD bool is_wide(const Geometry& g) { return g.c * g.s > longest_row; }

// Sets the runs along channels: rows are whole cache lines of any type where that takes few samples, and a run is several of them, for
// columns and sums to be read once for all. Of a small matrix both are read in place, which beats longer runs over copies of them.
FL_HD void set_rows(Geometry& g) {
  const int64_t elements = g.c * g.s;
  g.group = elements <= 2 * longest_row ? g.c : larger(1, longest_row / (sum_lanes * g.s) * sum_lanes);
  g.period = g.group * g.s;
  if (is_small(g)) {
    g.fold = longest_sum / 8;  // costs little here
  } else if (is_wide(g)) {
    g.repeat = clamped(rows_of_wide, 1, g.n);
    g.fold = longest_sum / rows_of_wide;
  } else {
    int64_t samples = line_elements;
    while (samples > 1 && elements * (samples / 2) % line_elements == 0) samples /= 2;
    if (samples * elements > longest_row) samples = 1;
    const int64_t rows = larger(1, elements_per_run / (samples * elements));
    g.repeat = clamped(rows * samples, 1, g.n);
    g.period = smaller(samples, g.n) * elements;
    g.fold = larger(1, longest_sum / rows);
  }
}

// Runs and steps; what is visited together is left open.
FL_HD Geometry base_geometry(int64_t n, int64_t c, int64_t s) {
  Geometry g = {n, c, s, goes_along(n, c, s)};
  if (g.along) {
    set_rows(g);
    g.steps = divide_up(n, g.repeat);
  } else {
    g.blocks = larger(1, divide_up(s, longest_run));
    g.fold = larger(1, longest_run / clamped(s, 1, longest_run));
    g.steps = n * g.blocks;
  }
  return g;
}

// The traversal of a reduction over n and s.
FL_HD Geometry reduction_geometry(int64_t n, int64_t c, int64_t s, int64_t element_bytes) {
  Geometry g = base_geometry(n, c, s);
  if (g.along) {
    const bool apart = is_small(g) || is_wide(g);
    g.chunk = apart ? samples_per_chunk / g.repeat : g.fold * larger(1, chunk_elements / (g.fold * g.run()));
    if (apart && (g.chunks() == 1 || n * s * least_group * element_bytes <= cached_bytes)) {  // threads share channels, not rows
      g.group = clamped(elements_per_task / 2 / larger(1, n * s) / sum_lanes * sum_lanes, smaller(g.group, least_group), g.group);
      g.period = g.group * s;
    }
  } else {
    g.group = clamped(elements_per_group / clamped(s, 1, elements_per_group), 1, c);
    const int64_t cached = cached_bytes / larger(1, n * s * element_bytes);
    if (cached >= 1) g.group = clamped(g.group, 1, cached);
    if (g.group > sum_lanes) g.group -= g.group % sum_lanes;  // what is worked out per channel fills vectors
    g.chunk = folds_per_chunk * g.fold;
  }
  return g;
}

// The traversal where nothing is summed: memory order.
FL_HD Geometry plain_geometry(int64_t n, int64_t c, int64_t s) {
  Geometry g = base_geometry(n, c, s);
  const int64_t wanted = elements_per_task / 2;
  if (g.along) {
    g.chunk = larger(1, wanted / g.run());
  } else if (c == 1 && n == 1) {
    g.chunk = 1;  // threads share it evenly
  } else {
    g.group = clamped(wanted / larger(1, s), 1, c);
    g.chunk = g.blocks * larger(1, wanted / larger(1, c * s));
  }
  return g;
}

}  // namespace fastlayers::FL_CPU_CAPABILITY
