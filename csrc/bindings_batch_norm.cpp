// Batch norm under autograd without Python, which small tensors feel.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include "bindings_autograd.h"
#include "bindings_layers.h"
#include "bindings_ordinary.h"

namespace fastlayers {
namespace {

// What the kernels take beside tensors that have gradients.
struct Settings {
  std::string_view activation;
  const Constants& constants;
  double p;
  bool training;
  std::optional<double> momentum;
  double eps;
  int64_t channel_dim;
  const Optional &seed, &running_mean, &running_var, &num_batches_tracked;
};

std::tuple<Tensor, Tensor, Tensor> normalise(const Tensor& x, const Optional& weight, const Optional& bias, const Optional& residual,
                                             const Optional& parameters, const Settings& s) {
  return with_memory("batch_norm_forward", batch_norm_forward, [&](auto function) {
    return function(x, weight, bias, s.running_mean, s.running_var, s.num_batches_tracked, residual, parameters, s.seed, s.activation,
                    s.constants, s.p, s.training, s.momentum, s.eps, s.channel_dim);
  });
}

// fastlayers.autograd.batch_norm.BatchNorm, which says what is saved.
struct BatchNorm : torch::autograd::Function<BatchNorm> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Optional& weight, const Optional& bias, const Optional& residual,
                        const Optional& parameters, const Settings& s, bool keeps_x, bool keeps_residual) {
    auto [y, mean, rstd] = normalise(x, weight, bias, residual, parameters, s);
    context->save_for_backward({keeps_x ? x : Tensor(), mean, rstd, undefined_if_none(weight), undefined_if_none(bias),
                                keeps_residual ? undefined_if_none(residual) : Tensor(), undefined_if_none(parameters),
                                undefined_if_none(s.seed)});
    std::vector<at::IValue> facts = {std::string(s.activation), s.p, s.training, s.eps, s.channel_dim, residual.has_value()};
    save_strides(facts, x.strides());
    save_facts(context, std::move(facts), s.constants);
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Optional weight = saved_tensor(saved[3]), bias = saved_tensor(saved[4]);
    const Optional parameters = saved_tensor(saved[6]), seed = saved_tensor(saved[7]);
    const Facts facts = saved_facts(context);
    const std::string activation = facts[0].toStringRef();
    const double p = facts[1].toDouble(), eps = facts[3].toDouble();
    const bool training = facts[2].toBool();
    const int64_t channel_dim = facts[4].toInt();
    size_t next = 6;
    const std::vector<int64_t> strides = saved_strides(facts, next);
    const Constants constants = constants_of(facts, next);

    const Tensor dy = with_strides(gradients[0], strides);
    const Tensor x = saved[0].defined() ? with_strides(saved[0], strides) : dy;  // of what does not depend on x
    const Optional residual = saved_tensor(with_strides(saved[5], strides));
    WantedGradients wanted(context);
    const bool wants_x = wanted(true), wants_weight = wanted(weight.has_value()), wants_bias = wanted(bias.has_value());
    const bool wants_residual = wanted(facts[5].toBool()), wants_parameters = wanted(parameters.has_value());
    const bool dresidual_is_dy = hands_on(activation, p);
    const OutputMask mask = {wants_x, wants_residual && !dresidual_is_dy, wants_weight, wants_bias, wants_parameters};

    const auto call = [&](auto function) {
      return function(dy, x, saved[1], saved[2], weight, bias, residual, parameters, seed, activation, constants, p, training, channel_dim,
                      mask);
    };
    const auto differentiable = [eps](const auto&... values) {  // for a backward pass that is itself differentiated
      return in_python<Gradients>("fastlayers.autograd.batch_norm", "differentiable_gradients", values..., eps);
    };
    note_saved_memory(dy, x, saved[1], saved[2], weight, bias, residual, parameters, seed);
    auto [dx, dresidual, dweight, dbias, dparameters] =
        at::GradMode::is_enabled() ? call(differentiable) : with_memory("batch_norm_backward", batch_norm_backward, call);
    if (wants_residual && dresidual_is_dy) dresidual = dy;
    return {undefined_if_none(dx), undefined_if_none(dweight), undefined_if_none(dbias), undefined_if_none(dresidual),
            undefined_if_none(dparameters), Tensor(), Tensor(), Tensor()};
  }
};

Tensor batch_norm(const Tensor& x, const Optional& weight, const Optional& bias, const Optional& residual, const Optional& parameters,
                  const Optional& seed, const Optional& running_mean, const Optional& running_var, const Optional& num_batches_tracked,
                  std::string_view activation, const Constants& constants, double p, bool training, std::optional<double> momentum,
                  double eps, int64_t channel_dim, bool keeps_x, bool keeps_residual) {
  const Settings settings{activation, constants, p, training, momentum, eps, channel_dim, seed, running_mean, running_var, num_batches_tracked};
  if (differentiated(x, weight, bias, residual, parameters)) {
    return BatchNorm::apply(x, weight, bias, residual, parameters, settings, keeps_x, keeps_residual);
  }
  return std::get<0>(normalise(x, weight, bias, residual, parameters, settings));
}

// Tensors that are None or ordinary.
class OrdinaryOrNone {
 public:
  explicit OrdinaryOrNone(pybind11::handle object) : none_(object.is_none()), tensor_(none_ ? nullptr : ordinary(object)) {}

  explicit operator bool() const { return none_ || tensor_; }
  Optional optional() const { return tensor_ ? Optional(*tensor_) : std::nullopt; }
  bool none() const { return none_; }
  const Tensor* operator->() const { return tensor_; }

 private:
  bool none_;
  const Tensor* tensor_;
};

// batch_norm() without learnable parameters and dropout, of whatever Python has been given; None where anything is unusual or wrong.
pybind11::object plain_batch_norm(pybind11::handle x_object, pybind11::handle weight_object, pybind11::handle bias_object,
                                  pybind11::handle residual_object, pybind11::handle mean_object, pybind11::handle var_object,
                                  pybind11::handle batches_object, std::string_view activation, const Constants& constants, bool training,
                                  pybind11::handle momentum, pybind11::handle eps_object, int64_t channel_dim, bool keeps_x,
                                  bool keeps_residual) {
  const Tensor* const x = ordinary_input(x_object);
  if (!x || (training && torch::autograd::get_current_graph_task_id() != -1)) return pybind11::none();
  const OrdinaryOrNone weight(weight_object), bias(bias_object), residual(residual_object), mean(mean_object), var(var_object);
  const OrdinaryOrNone batches(batches_object);
  if (!weight || !bias || !residual || !mean || !var || !batches) return pybind11::none();
  if (channel_dim < 0) channel_dim += x->dim();
  if (x->numel() == 0 || channel_dim < 0 || channel_dim >= x->dim()) return pybind11::none();
  const int64_t c = x->size(channel_dim);
  const auto fits = [&](const OrdinaryOrNone& vector) {
    return vector.none() || (vector->scalar_type() == accumulate_type(*x) && vector->dim() == 1 && vector->size(0) == c &&
                             vector->is_contiguous());
  };
  const auto counts = [&] { return batches->scalar_type() == at::kLong && batches->numel() == 1; };
  const bool fit = fits(weight) && fits(bias) && fits(mean) && fits(var) && mean.none() == var.none() && (training || !mean.none()) &&
                   (mean.none() || !(mean->requires_grad() || var->requires_grad())) && (batches.none() || counts()) &&
                   (residual.none() || (residual->scalar_type() == x->scalar_type() && residual->sizes() == x->sizes() &&
                                        same_order(*residual.operator->(), *x)));
  if (!fit || (training && x->numel() == c) || !PyFloat_CheckExact(eps_object.ptr())) return pybind11::none();
  if (!(momentum.is_none() ? !training || mean.none() || !batches.none() : PyFloat_CheckExact(momentum.ptr()))) return pybind11::none();
  const double eps = PyFloat_AS_DOUBLE(eps_object.ptr());
  if (!(eps > 0)) return pybind11::none();
  const std::optional<double> rate = momentum.is_none() ? std::nullopt : std::optional<double>(PyFloat_AS_DOUBLE(momentum.ptr()));
  return with_gil_for_little(*x, [&] {
    return batch_norm(*x, weight.optional(), bias.optional(), residual.optional(), std::nullopt, std::nullopt, mean.optional(),
                      var.optional(), batches.optional(), activation, constants, 0.0, training, rate, eps, channel_dim, keeps_x, keeps_residual);
  });
}

}  // namespace

void bind_batch_norm(pybind11::module_& module) {
  module.def("batch_norm", &batch_norm, pybind11::call_guard<pybind11::gil_scoped_release>(),
             "fastlayers.autograd.batch_norm.BatchNorm, told what to keep for backward.");
  module.def("plain_batch_norm", &plain_batch_norm,
             "batch_norm() without learnable parameters and dropout, or None: it takes ordinary tensors that need no conversion.");
}

}  // namespace fastlayers
