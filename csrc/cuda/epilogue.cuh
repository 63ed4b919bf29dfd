// The epilogue's kernels. A file per storage type makes them for every activation: epilogue_float32.cu and its like.
#pragma once

#include "layers.h"
#include "../common/formula.h"
#include "../common/moments.h"
#include "lanes.cuh"
#include "reductions.cuh"

namespace fastlayers::cuda {

constexpr int most_constants = 2;

// What a kernel takes, worked out on the host.
template <class T> struct Arguments {
  Epilogue e;
  EpilogueGradients g;
  void* y;
  T* partials;  // of sums, [sum, chunk, Walk::sums]: dz, dz (x - mean), gradients of the parameters
  Walk walk;
  bool affine, shifts;     // whether mean, scale, weight or shift is given or a gradient of theirs asked for; keep_shift or drop_value is not 0
  bool wide;               // whether per-channel values can be read in whole vectors
  uint32_t threshold;      // of 16 bits, the upper ones; where nothing is kept, kept values become what dropped ones do
  T keep_scale, keep_shift, drop_value;
  T constants[most_constants];
};

template <class Storage> using LaunchFunction = void (*)(const Arguments<typename Compute<Storage>::type>&, const Launch&, Stream);

// What there is of one activation for one storage type, in the order of FL_ACTIVATIONS; null what there is not.
template <class Storage> struct ActivationKernels {
  LaunchFunction<Storage> forward, backward, backward_from_output, inverse;  // backward sums where there are partials to write
  int widths[2];  // of the vectors that a thread takes: planar, along
  int learnables, most_repeats, constants;  // learnables of one repeat
  double (*constant)(const double* given, int k);
};
template <class Storage> const ActivationKernels<Storage>* activation_kernels();

// An activation with so many repeats of its learnable parameters.
template <class Activation, int count> struct Repeated : Activation {
  static constexpr int repeats = count, parameters = Activation::learnables * count;

  template <class T> __device__ __forceinline__ static T value(T z, const T* p) {
    if constexpr (Activation::most_repeats > 1) return Activation::forward(z, p, count);
    else return Activation::forward(z, p);
  }
  template <class T> __device__ __forceinline__ static T slope(T z, const T* p, T* dp) {
    if constexpr (Activation::most_repeats > 1) return Activation::derivative(z, p, dp, count);
    else return Activation::derivative(z, p, dp);
  }
};

// What a kernel reads for every channel, and how z comes of x.
template <class Activation, class Storage, int width, bool along> struct Inputs {
  using T = typename Compute<Storage>::type;
  using Channel = PerChannel<T, width, along>;

  const Arguments<T>& a;
  const Cursor<width, along>& cursor;
  Channel mean, scale, shift, parameters[Activation::parameters ? Activation::parameters : 1];
  PhiloxKeys keys;

  __device__ __forceinline__ Inputs(const Arguments<T>& arguments, const Cursor<width, along>& at) : a(arguments), cursor(at) {
    const Epilogue& e = a.e;
    if (a.affine) {
      if (e.mean && e.scale && e.shift) {  // as batch norm has it
        mean = cursor.template per_channel<T>(e.mean, a.wide);
        scale = cursor.template per_channel<T>(e.scale, a.wide);
        shift = cursor.template per_channel<T>(e.shift, a.wide);
      } else {
        mean = given_or(e.mean, T(0));
        scale = given_or(e.scale, T(1));
        shift = given_or(e.shift, T(-0.0));
      }
      if (e.weight) multiply(scale, cursor.template per_channel<T>(e.weight, a.wide));
    }
    if (Activation::repeats == 1 || a.e.repeats == Activation::repeats) read_parameters<true>();
    else read_parameters<false>();
    if (e.seed) keys = PhiloxKeys(*e.seed);
  }

  __device__ __forceinline__ Channel given_or(const void* values, T otherwise) const {
    return values ? cursor.template per_channel<T>(values, a.wide) : cursor.everywhere(otherwise);
  }

  // all: every repeat is given.
  template <bool all> __device__ __forceinline__ void read_parameters() {
    if (Activation::parameters && a.e.parameter_count == 1) read_parameters<all, true>(true);
    else if (!along || a.wide) read_parameters<all, false>(true);
    else read_parameters<all, false>(false);
  }
  // Repeats that are not given are 0, which is nothing. shared: a parameter is one number for all channels.
  template <bool all, bool shared> __device__ __forceinline__ void read_parameters(bool wide) {
    const T* source = static_cast<const T*>(a.e.parameters);
#pragma unroll
    for (int k = 0; k < Activation::parameters; ++k) {
      if (!all && k % Activation::repeats >= a.e.repeats) {
        parameters[k] = cursor.everywhere(T(0));
        continue;
      }
      if constexpr (shared) parameters[k] = cursor.everywhere(*source);
      else parameters[k] = cursor.template per_channel<T>(source, wide);
      source += a.e.parameter_count;
    }
  }

  // z, and where a.affine x - mean.
  __device__ __forceinline__ void pre_activation(const Place& place, T (&centred)[width], T (&z)[width]) const {
    load<width, Storage>(a.e.x, place, z);
    if constexpr (Activation::reads_output) return;
    if (a.affine) {
#pragma unroll
      for (int j = 0; j < width; ++j) {
        centred[j] = z[j] - mean[j];
        z[j] = affine_of(centred[j], scale[j], shift[j]);
      }
    }
    if (a.e.residual) {
      T residual[width];
      load<width, Storage>(a.e.residual, place, residual);
#pragma unroll
      for (int j = 0; j < width; ++j) z[j] += residual[j];
    }
  }

  // What the activation takes beside z from element j on; numbers are those of a random one.
  template <class Value> __device__ __forceinline__ void arguments_of(int j, const Numbers<width>& numbers, Value* values) const {
#pragma unroll
    for (int k = 0; k < Activation::parameters; ++k) set_lanes(values[k], [&](int i) { return parameters[k][j + i]; });
#pragma unroll
    for (int k = 0; k < Activation::constants; ++k) values[Activation::parameters + k] = a.constants[k];
    if constexpr (Activation::random) {
      set_lanes(values[Activation::parameters + Activation::constants], [&](int i) { return numbers.template uniform<T>(j + i); });
    }
  }
  __device__ __forceinline__ Numbers<width> activation_numbers(const Place& place) const {
    if constexpr (Activation::random) return numbers_at<width>(place.first, activation_stream, keys);
    else return {};
  }
};

template <class Activation, class Storage, int width, bool along>
__global__ void __launch_bounds__(most_threads) forward_kernel(const __grid_constant__ Arguments<typename Compute<Storage>::type> a) {
  using T = typename Compute<Storage>::type;
  constexpr int taken = Activation::side_by_side ? width : 1;
  using Value = std::conditional_t<Activation::side_by_side, Lanes<T, width>, T>;
  Cursor<width, along> cursor(a.walk);
  const Inputs<Activation, Storage, width, along> inputs(a, cursor);
  for (; cursor.more(); cursor.advance()) {
    const Place place = cursor.place();
    T centred[width], z[width];
    inputs.pre_activation(place, centred, z);
    const Numbers<width> drawn = inputs.activation_numbers(place);
#pragma unroll
    for (int j = 0; j < width; j += taken) {
      Value point, values[max_arguments + 1];
      set_lanes(point, [&](int i) { return z[j + i]; });
      inputs.arguments_of(j, drawn, values);
      point = Activation::value(point, values);
#pragma unroll
      for (int i = 0; i < taken; ++i) z[j + i] = lane_of(point, i);
    }
    if (a.e.dropout) {
      const Numbers<width> numbers = cursor.dropout_numbers(place, inputs.keys);
#pragma unroll
      for (int j = 0; j < width; ++j) {
        const bool kept = numbers.reaches(j, a.threshold);
        z[j] *= kept ? a.keep_scale : T(0);
      }
      if (a.shifts) {
#pragma unroll
        for (int j = 0; j < width; ++j) z[j] += numbers.reaches(j, a.threshold) ? a.keep_shift : a.drop_value;
      }
    }
    if (a.e.residual_after) {
      T residual[width];
      load<width, Storage>(a.e.residual_after, place, residual);
#pragma unroll
      for (int j = 0; j < width; ++j) z[j] += residual[j];
    }
    store<Storage>(a.y, place, z);
  }
}

// What a vector's missing elements have becomes 0.
template <int width, class T> __device__ __forceinline__ void leave_out(const Place& place, T (&terms)[width]) {
#pragma unroll
  for (int j = 0; j < width; ++j) terms[j] = place.has(j) ? terms[j] : T(0);
}

// sums: whether the block leaves its sums behind. What it writes besides is a matter of which pointers there are.
template <class Activation, class Storage, int width, bool along, bool sums>
__global__ void __launch_bounds__(most_threads) backward_kernel(const __grid_constant__ Arguments<typename Compute<Storage>::type> a) {
  using T = typename Compute<Storage>::type;
  constexpr int sum_count = sum_first_parameter + Activation::parameters, taken = Activation::derives_side_by_side ? width : 1;
  using Value = std::conditional_t<Activation::derives_side_by_side, Lanes<T, width>, T>;
  Cursor<width, along> cursor(a.walk);
  const Inputs<Activation, Storage, width, along> inputs(a, cursor);
  typename Inputs<Activation, Storage, width, along>::Channel mean_dz, slope;
  if (!sums && a.g.mean_dz) {
    mean_dz = cursor.template per_channel<T>(a.g.mean_dz, a.wide);
    slope = cursor.template per_channel<T>(a.g.slope, a.wide);
  }
  Sum<T, width, along> totals[sum_count];
  for (; cursor.more(); cursor.advance()) {
    const Place place = cursor.place();
    T centred[width], z[width], gradient[width], derivative[width], dz[width];
    T all_slopes[Activation::parameters ? Activation::parameters : 1][width];
    if (sums || !Activation::constant_derivative || a.g.mean_dz) inputs.pre_activation(place, centred, z);
    load<width, Storage>(a.g.dy, place, gradient);
    const Numbers<width> drawn = inputs.activation_numbers(place);
    if (a.e.dropout) {
      const Numbers<width> numbers = cursor.dropout_numbers(place, inputs.keys);
#pragma unroll
      for (int j = 0; j < width; ++j) gradient[j] *= numbers.reaches(j, a.threshold) ? a.keep_scale : T(0);
    }
#pragma unroll
    for (int j = 0; j < width; j += taken) {
      Value point, values[max_arguments + 1], slopes[max_learnables];
      set_lanes(point, [&](int i) { return z[j + i]; });
      inputs.arguments_of(j, drawn, values);
      const Value slope_there = Activation::slope(point, values, slopes);
#pragma unroll
      for (int i = 0; i < taken; ++i) {
        derivative[j + i] = lane_of(slope_there, i);
#pragma unroll
        for (int k = 0; k < Activation::parameters; ++k) all_slopes[k][j + i] = lane_of(slopes[k], i);
      }
    }
    if constexpr (sums) {
      if constexpr (!Activation::everywhere) {  // it may have no slope at the 0 that stands for elements which are not there
        if (!place.whole()) {
#pragma unroll
          for (int k = 0; k < Activation::parameters; ++k) leave_out(place, all_slopes[k]);
          leave_out(place, derivative);
        }
      }
#pragma unroll
      for (int k = 0; k < Activation::parameters; ++k) totals[sum_first_parameter + k].add_products(gradient, all_slopes[k]);
    }
#pragma unroll
    for (int j = 0; j < width; ++j) gradient[j] = reaching<Activation>(gradient[j], derivative[j]);
    if (!sums && a.g.mean_dz) {  // batch norm's second sweep
#pragma unroll
      for (int j = 0; j < width; ++j) {
        dz[j] = through_statistics(gradient[j], derivative[j], centred[j], mean_dz[j], slope[j]) * inputs.scale[j];
      }
      store<Storage>(a.g.dx, place, dz);
      continue;
    }
#pragma unroll
    for (int j = 0; j < width; ++j) dz[j] = gradient[j] * derivative[j];
    if (a.g.dresidual) store<Storage>(a.g.dresidual, place, dz);
    if constexpr (sums) {
      if (a.affine) {
        totals[sum_dz].add(dz);
        totals[sum_dz_centred].add_products(dz, centred);
      }
    }
    if (a.g.dx) {
      if (a.affine) {
#pragma unroll
        for (int j = 0; j < width; ++j) dz[j] *= inputs.scale[j];
      }
      store<Storage>(a.g.dx, place, dz);
    }
  }
  if constexpr (sums) {
    const int64_t step = static_cast<int64_t>(a.walk.chunks) * a.walk.sums;
    store_sums(cursor, a.walk, a.partials + static_cast<int64_t>(cursor.chunk()) * a.walk.sums, step, totals);
  }
}

// x, written to a.y, from y, which stands in x's place.
template <class Activation, class Storage, int width, bool along>
__global__ void __launch_bounds__(most_threads) inverse_kernel(const __grid_constant__ Arguments<typename Compute<Storage>::type> a) {
  using T = typename Compute<Storage>::type;
  Cursor<width, along> cursor(a.walk);
  Inputs<Activation, Storage, width, along> inputs(a, cursor);
  invert(inputs.scale);
  for (; cursor.more(); cursor.advance()) {
    const Place place = cursor.place();
    T z[width], residual[width] = {}, values[max_arguments + 1];
    load<width, Storage>(a.e.x, place, z);
    if (a.e.residual) load<width, Storage>(a.e.residual, place, residual);
#pragma unroll
    for (int j = 0; j < width; ++j) {
      inputs.arguments_of(j, {}, values);
      z[j] = inverse_affine_of(Activation::inverse(z[j], values) - residual[j], inputs.scale[j], inputs.mean[j], inputs.shift[j]);
    }
    store<Storage>(a.y, place, z);
  }
}

template <class Storage> constexpr int full_width = 16 / sizeof(Storage);

// Elements of a vector: 16 bytes, along fewer where a thread would need more per-channel values than it has registers.
template <class Storage, class Activation, bool along>
constexpr int width_of = along && Activation::learnables * Activation::most_repeats > 8 ? 2 : full_width<Storage>;

// Calls function(Repeated<...>) with the least compiled number of repeats that is enough.
template <class Activation, class Function> void with_repeats(int repeats, Function function) {
  if constexpr (Activation::most_repeats == 1) return function(Repeated<Activation, 1>{});
  else if (repeats == 1) return function(Repeated<Activation, 1>{});
  else if (repeats == 2) return function(Repeated<Activation, 2>{});
  else if (repeats <= 4) return function(Repeated<Activation, 4>{});
  else return function(Repeated<Activation, Activation::most_repeats>{});
}

// The number of repeats that is compiled for so many.
constexpr int compiled_repeats(int repeats, int most) { return static_cast<int>(smaller(most, power_of_two(repeats))); }

template <class Activation, class Storage>
void launch_forward(const Arguments<typename Compute<Storage>::type>& a, const Launch& launch, Stream stream) {
  constexpr int planar = width_of<Storage, Activation, false>, along = width_of<Storage, Activation, true>;
  with_repeats<Activation>(a.e.repeats, [&](auto activation) {
    using Chosen = decltype(activation);
    if (a.walk.along) forward_kernel<Chosen, Storage, along, true><<<launch.blocks, launch.threads, launch.shared_bytes, stream>>>(a);
    else forward_kernel<Chosen, Storage, planar, false><<<launch.blocks, launch.threads, launch.shared_bytes, stream>>>(a);
  });
}

template <class Activation, class Storage>
void launch_backward(const Arguments<typename Compute<Storage>::type>& a, const Launch& launch, Stream stream) {
  constexpr int planar = width_of<Storage, Activation, false>, along = width_of<Storage, Activation, true>;
  with_repeats<Activation>(a.e.repeats, [&](auto activation) {
    using Chosen = decltype(activation);
    const auto kernel = a.walk.along ? a.partials ? backward_kernel<Chosen, Storage, along, true, true> : backward_kernel<Chosen, Storage, along, true, false>
                        : a.partials ? backward_kernel<Chosen, Storage, planar, false, true> : backward_kernel<Chosen, Storage, planar, false, false>;
    kernel<<<launch.blocks, launch.threads, launch.shared_bytes, stream>>>(a);
  });
}

template <class Activation, class Storage>
void launch_inverse(const Arguments<typename Compute<Storage>::type>& a, const Launch& launch, Stream stream) {
  constexpr int width = width_of<Storage, Activation, false>;
  const auto kernel = a.walk.along ? inverse_kernel<Repeated<Activation, 1>, Storage, width, true>
                                   : inverse_kernel<Repeated<Activation, 1>, Storage, width, false>;
  kernel<<<launch.blocks, launch.threads, launch.shared_bytes, stream>>>(a);
}

template <class Row, class Storage> constexpr ActivationKernels<Storage> kernels_of() {
  using Activation = typename Chosen<Row, sizeof(Storage) == 2>::type;
  static_assert(Activation::constants <= most_constants);
  ActivationKernels<Storage> kernels = {launch_forward<Activation, Storage>, launch_backward<Activation, Storage>, nullptr, nullptr,
                                        {width_of<Storage, Activation, false>, width_of<Storage, Activation, true>}, Activation::learnables, Activation::most_repeats,
                                        Activation::constants, Activation::constant};
  if constexpr (Activation::from_output) kernels.backward_from_output = launch_backward<FromOutputOf<Activation>, Storage>;
  if constexpr (Activation::invertible) kernels.inverse = launch_inverse<Activation, Storage>;
  return kernels;
}

// All of them, for one storage type.
#define FL_ACTIVATION_KERNELS(Storage)                                               \
  template <> const ActivationKernels<Storage>* activation_kernels<Storage>() {      \
    static constexpr ActivationKernels<Storage> kernels[] = {FL_ACTIVATIONS(FL_ROW)}; \
    return kernels;                                                                  \
  }

}  // namespace fastlayers::cuda
