// optimizer_step and gradient_norm of the cpp backend: numbers read on the host, kernels of the processor's capability.
#include <algorithm>
#include <memory>

#include "cpu/optimizers.h"
#include "updates.h"

namespace fastlayers {
namespace {

// The scalars of every tensor, advanced: once where neighbours share them, for it may take two powers, felt where tensors are small.
void advance(const RuleFacts& facts, const double* hyperparameters, std::vector<UpdateTensor>& tensors) {
  float before[max_scalars], after[max_scalars];
  for (size_t i = 0; i < tensors.size() && facts.scalars; ++i) {
    bool same = i > 0;
    for (int k = 0; k < facts.scalars; ++k) {
      const float own = *tensors[i].scalars[k];
      same = same && own == before[k];
      before[k] = own;
    }
    if (!same) {
      std::copy_n(before, facts.scalars, after);
      facts.advance(hyperparameters, after);
    }
    std::copy_n(after, facts.scalars, tensors[i].advanced);
  }
}

}  // namespace

bool is_skipped(const Optional& found_inf) { return found_inf && found_inf->item<double>() != 0; }

void update(Work& work, const Scaling& scaling) {
  std::vector<double> numbers = work.hyperparameters;
  for (size_t i = 0; i < work.hyperparameter_tensors.size(); ++i) {
    if (work.hyperparameter_tensors[i]) numbers[i] = work.hyperparameter_tensors[i]->item<double>();
  }
  const double squares = scaling.norm ? scaling.norm->select(0, 0).item<double>() : 0;
  const double factor = host::gradient_factor(work.flags[0], scaling.grad_scale ? scaling.grad_scale->item<double>() : 1,
                                              scaling.norm ? &squares : nullptr, scaling.max_grad_norm);
  const uint64_t seed = work.seed ? static_cast<uint64_t>(work.seed->item<int64_t>()) : 0;
  std::optional<py::gil_scoped_release> released;
  if (work.releases) released.emplace();
  advance(work.facts(), numbers.data(), work.tensors);
  FL_KERNELS(optimizer_kernels).step({work.rule, work.type, work.state_type, numbers.data(), work.flags, factor,
                                      1 - work.ema_decay.value_or(0), work.seed ? &seed : nullptr, work.plain(), work.tensors.data(),
                                      static_cast<int64_t>(work.tensors.size()), work.numel});
  for (const UpdateTensor& tensor : work.tensors) {
    for (int k = 0; k < work.facts().scalars; ++k) *tensor.scalars[k] = static_cast<float>(tensor.advanced[k]);
  }
}

at::Tensor squares_of(const std::vector<const GradientList*>& lists, at::Device) {
  at::Tensor result = at::zeros({2}, at::kDouble);
  double* const out = result.mutable_data_ptr<double>();
  std::optional<py::gil_scoped_release> released;
  if (std::all_of(lists.begin(), lists.end(), [](const GradientList* list) { return list->releases; })) released.emplace();
  for (const GradientList* list : lists) {
    std::vector<NormPart> parts;
    for (const UpdateTensor& tensor : list->tensors) {
      for (int64_t begin = 0; begin < tensor.numel; begin += norm_part_size) {
        parts.push_back({tensor.grad, begin, std::min(begin + norm_part_size, tensor.numel)});
      }
    }
    std::vector<double> sums(parts.size());
    const std::unique_ptr<bool[]> finite(new bool[parts.size()]);
    FL_KERNELS(optimizer_kernels).norm(list->type, parts.data(), parts.size(), sums.data(), finite.get());
    for (size_t i = 0; i < parts.size(); ++i) {
      out[0] += sums[i];
      if (!finite[i]) out[1] = 1;
    }
  }
  return result;
}

}  // namespace fastlayers
