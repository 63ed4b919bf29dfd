// Batch norm under autograd without Python, which small tensors feel.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include "bindings_autograd.h"
#include "bindings_layers.h"

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
    const Facts& facts = saved_facts(context);
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

}  // namespace

void bind_batch_norm(pybind11::module_& module) {
  module.def("batch_norm", &batch_norm, pybind11::call_guard<pybind11::gil_scoped_release>(),
             "fastlayers.autograd.batch_norm.BatchNorm, told what to keep for backward.");
}

}  // namespace fastlayers
