// torch's types and memory orders as the bindings know them.
#pragma once

#include <ATen/ATen.h>

#include <optional>

#include "common/platform.h"

namespace fastlayers {

inline std::optional<DataType> find_data_type(at::ScalarType type) {
  switch (type) {
    case at::kFloat: return DataType::float32;
    case at::kDouble: return DataType::float64;
    case at::kHalf: return DataType::float16;
    case at::kBFloat16: return DataType::bfloat16;
    default: return std::nullopt;
  }
}

inline at::ScalarType scalar_type(DataType type) {
  switch (type) {
    case DataType::float32: return at::kFloat;
    case DataType::float64: return at::kDouble;
    case DataType::float16: return at::kHalf;
    default: return at::kBFloat16;
  }
}

// What is computed in: also the type of per-channel numbers, and of averages of parameters.
inline at::ScalarType accumulate_type(at::ScalarType type) { return type == at::kDouble ? at::kDouble : at::kFloat; }

// Whether two tensors of one shape lie in memory alike; strides of dimensions of size 1 mean nothing.
inline bool same_order(const at::Tensor& x, const at::Tensor& model) {
  if (x.strides() == model.strides() || x.numel() == 0) return true;
  for (int64_t d = 0; d < x.dim(); ++d) {
    if (x.size(d) != 1 && x.stride(d) != model.stride(d)) return false;
  }
  return true;
}

}  // namespace fastlayers
