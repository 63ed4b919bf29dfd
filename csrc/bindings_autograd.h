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

// call(function), or call of the reference's function of that name for arguments that are not in memory.
template <class Function, class Call> auto with_memory(const char* name, Function function, const Call& call) -> decltype(call(function)) {
  try {
    return call(function);
  } catch (const NotInMemory&) {
    return call([name](const auto&... values) { return by_reference<decltype(call(function))>(name, values...); });
  }
}

// The same in a backward pass; where that is itself differentiated, the reference in any case.
template <class Function, class Call> Gradients gradients_by(const char* name, Function function, const Call& call) {
  if (at::GradMode::is_enabled()) return call([name](const auto&... values) { return by_reference<Gradients>(name, values...); });
  return with_memory(name, function, call);
}

// value, or a copy of it, with these strides: element i of memory is then that of the tensor they are from. A hook on saved tensors may
// have given back others.
inline Tensor with_strides(const Tensor& value, at::IntArrayRef strides) {
  if (!value.defined() || value.strides() == strides) return value;
  return value.new_empty_strided(value.sizes(), strides).copy_(value);
}

inline Optional saved_tensor(const Tensor& tensor) { return tensor.defined() ? Optional(tensor) : std::nullopt; }
inline Tensor undefined_if_none(const Optional& tensor) { return tensor.value_or(Tensor()); }

// Whether autograd is to remember a function of these tensors.
template <class... Tensors> bool differentiated(const Tensors&... tensors) {
  const auto asks = [](const Optional& tensor) { return tensor && tensor->requires_grad(); };
  return at::GradMode::is_enabled() && (asks(tensors) || ...);
}

// Which gradients backward is asked for: to be called for one input of forward after another, with whether there was such a tensor.
class WantedGradients {
 public:
  explicit WantedGradients(AutogradContext* context) : context_(context) {}
  bool operator()(bool given) { return given && context_->needs_input_grad(next_++); }

 private:
  AutogradContext* context_;
  size_t next_ = 0;
};

// fastlayers.autograd.common.hands_on.
inline bool hands_on(std::string_view activation, double p) { return activation == "identity" && p == 0; }

// A function's facts for backward, one by one: compiled autograd hashes no lists.
inline void save_facts(AutogradContext* context, std::vector<at::IValue> facts, const std::vector<double>& constants) {
  facts.insert(facts.end(), constants.begin(), constants.end());
  context->saved_data["facts"] = c10::ivalue::Tuple::create(std::move(facts));
}
using Facts = at::ArrayRef<at::IValue>;
inline Facts saved_facts(AutogradContext* context) { return context->saved_data["facts"].toTupleRef().elements().asArrayRef(); }
// How many strides there are and which.
inline void save_strides(std::vector<at::IValue>& facts, at::IntArrayRef strides) {
  facts.emplace_back(static_cast<int64_t>(strides.size()));
  facts.insert(facts.end(), strides.begin(), strides.end());
}
inline std::vector<int64_t> saved_strides(Facts facts, size_t& next) {
  std::vector<int64_t> strides;
  const size_t end = next + 1 + facts[next].toInt();
  for (++next; next < end; ++next) strides.push_back(facts[next].toInt());
  return strides;
}
inline Constants constants_of(Facts facts, size_t first) {
  Constants constants;
  for (size_t i = first; i < facts.size(); ++i) constants.push_back(facts[i].toDouble());
  return constants;
}

}  // namespace fastlayers
