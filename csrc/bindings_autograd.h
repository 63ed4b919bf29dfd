// What the autograd functions in C++ share.
#pragma once

#include <torch/csrc/autograd/custom_function.h>

#include "bindings_arguments.h"

namespace fastlayers {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Tells an emulator, which sees the arguments of Python's calls, of tensors that are none.
template <class... Tensors> void note_saved_memory([[maybe_unused]] const Tensors&... tensors) {
#if defined(FL_EMULATED)
  const auto note = [](const Optional& tensor) {
    if (tensor && in_memory(*tensor)) note_written_memory(*tensor);
  };
  (note(tensors), ...);
#endif
}

// dy, or a copy of it, with these strides: element i of memory is then that of the tensor they are from.
inline Tensor with_strides(const Tensor& dy, at::IntArrayRef strides) {
  return dy.strides() == strides ? dy : dy.new_empty_strided(dy.sizes(), strides).copy_(dy);
}

inline Optional saved_tensor(const Tensor& tensor) { return tensor.defined() ? Optional(tensor) : std::nullopt; }
inline Tensor undefined_if_none(const Optional& tensor) { return tensor.value_or(Tensor()); }

// A function's facts for backward, one by one: compiled autograd hashes no lists.
inline void save_facts(AutogradContext* context, std::vector<at::IValue> facts, const std::vector<double>& constants) {
  facts.insert(facts.end(), constants.begin(), constants.end());
  context->saved_data["facts"] = c10::ivalue::Tuple::create(std::move(facts));
}
inline const std::vector<at::IValue> saved_facts(AutogradContext* context) {
  return context->saved_data["facts"].toTupleRef().elements().vec();
}
inline Constants constants_of(const std::vector<at::IValue>& facts, size_t first) {
  Constants constants;
  for (size_t i = first; i < facts.size(); ++i) constants.push_back(facts[i].toDouble());
  return constants;
}

}  // namespace fastlayers
