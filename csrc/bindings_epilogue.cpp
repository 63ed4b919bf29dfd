// The epilogue under autograd without Python, which small tensors feel: dropout, bias + activation, random activations.
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
  int64_t channel_dim, sample;
  const Outcome& outcome;
  const Optional& seed;
};

Tensor run(const Tensor& x, const Optional& scale, const Optional& shift, const Optional& residual, const Optional& parameters,
           const Optional& residual_after, const Settings& s) {
  const Optional none;
  return with_memory("epilogue_forward", epilogue_forward, [&](auto function) {
    return function(x, none, scale, shift, residual, parameters, s.seed, s.activation, s.constants, s.p, s.channel_dim, residual_after,
                    s.sample, s.outcome);
  });
}

// fastlayers.autograd.epilogue.Epilogue, which says what is saved.
struct EpilogueFunction : torch::autograd::Function<EpilogueFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Optional& scale, const Optional& shift, const Optional& residual,
                        const Optional& parameters, const Optional& residual_after, const Settings& s, bool keeps_x, bool keeps_y) {
    Tensor y = run(x, scale, shift, residual, parameters, residual_after, s);
    const auto kept = [&](const Optional& tensor) { return keeps_x && tensor ? *tensor : Tensor(); };
    context->save_for_backward({keeps_y ? y : keeps_x ? x : Tensor(), undefined_if_none(scale), kept(shift), kept(residual),
                                undefined_if_none(parameters), undefined_if_none(s.seed)});
    std::vector<at::IValue> facts = {std::string(s.activation), s.p, s.channel_dim, s.sample, keeps_y, shift.has_value(),
                                     residual.has_value(), residual_after.has_value(), s.outcome.has_value()};
    const std::array<double, 3> outcome = s.outcome.value_or(std::array<double, 3>{});
    facts.insert(facts.end(), outcome.begin(), outcome.end());
    save_strides(facts, x.strides());
    save_facts(context, std::move(facts), s.constants);
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Optional scale = saved_tensor(saved[1]), shift = saved_tensor(saved[2]);
    const Optional parameters = saved_tensor(saved[4]), seed = saved_tensor(saved[5]);
    const Facts facts = saved_facts(context);
    const std::string activation = facts[0].toStringRef();
    const double p = facts[1].toDouble();
    const int64_t channel_dim = facts[2].toInt(), sample = facts[3].toInt();
    const bool from_output = facts[4].toBool();
    Outcome outcome;
    if (facts[8].toBool()) outcome = {facts[9].toDouble(), facts[10].toDouble(), facts[11].toDouble()};
    size_t next = 12;
    const std::vector<int64_t> strides = saved_strides(facts, next);
    const Constants constants = constants_of(facts, next);

    WantedGradients wanted(context);
    const bool wants_x = wanted(true), wants_scale = wanted(scale.has_value()), wants_shift = wanted(facts[5].toBool());
    const bool wants_residual = wanted(facts[6].toBool()), wants_parameters = wanted(parameters.has_value());
    const bool wants_after = wanted(facts[7].toBool());
    const Tensor dafter = wants_after ? gradients[0] : Tensor();
    const bool scaled = scale.has_value(), known = hands_on(activation, p);
    const bool wants_dz = !known && (wants_residual || (wants_x && !scaled));  // of what the activation is given, dx unless scaled
    const OutputMask mask = {scaled ? wants_x : wants_dz, wants_dz && scaled, wants_scale, wants_shift, wants_parameters};
    Optional dx, dz, dscale, dshift, dparameters;
    if (mask != OutputMask{}) {
      const Tensor dy = with_strides(gradients[0], strides);
      const Tensor x = saved[0].defined() ? with_strides(saved[0], strides) : dy;  // of what does not depend on x
      const Optional none, residual = saved_tensor(with_strides(saved[3], strides));
      note_saved_memory(dy, x, scale, shift, residual, parameters, seed);
      std::tie(dx, dz, dscale, dshift, dparameters) = gradients_by("epilogue_backward", epilogue_backward, [&](auto function) {
        return function(dy, x, none, scale, shift, residual, parameters, seed, activation, constants, p, channel_dim, from_output, mask,
                        sample, outcome);
      });
    }
    if (known) dz = gradients[0];
    else if (!scaled) dz = dx;
    if (!scaled) dx = wants_x ? dz : std::nullopt;
    return {undefined_if_none(dx), undefined_if_none(dscale), undefined_if_none(dshift), wants_residual ? undefined_if_none(dz) : Tensor(),
            undefined_if_none(dparameters), dafter, Tensor(), Tensor(), Tensor()};
  }
};

Tensor epilogue(const Tensor& x, const Optional& scale, const Optional& shift, const Optional& residual, const Optional& parameters,
                const Optional& seed, const Optional& residual_after, std::string_view activation, const Constants& constants, double p,
                int64_t channel_dim, int64_t sample, const Outcome& outcome, bool keeps_x, bool keeps_y) {
  const Settings settings{activation, constants, p, channel_dim, sample, outcome, seed};
  if (differentiated(x, scale, shift, residual, parameters, residual_after)) {
    return EpilogueFunction::apply(x, scale, shift, residual, parameters, residual_after, settings, keeps_x, keeps_y);
  }
  return run(x, scale, shift, residual, parameters, residual_after, settings);
}

// dropout(activation(x)) with a seed from torch's generator, drawn as fastlayers.functional.epilogue.seed_for does.
pybind11::object plain_dropout(pybind11::handle object, std::string_view activation, const Constants& constants, double p) {
  const Tensor* const x = ordinary_input(object);
  if (!x) return pybind11::none();
  return with_gil_for_little(*x, [&] {
    const Optional none, seed = at::randint(INT64_MIN, INT64_MAX, {}, at::TensorOptions(at::kLong).device(x->device()));
    return epilogue(*x, none, none, none, none, seed, none, activation, constants, p, 0, 0, std::nullopt, activation != "identity", false);
  });
}

}  // namespace

void bind_epilogue(pybind11::module_& module) {
  module.def("epilogue", &epilogue, pybind11::call_guard<pybind11::gil_scoped_release>(),
             "fastlayers.autograd.epilogue.Epilogue, told what to keep for backward.");
  module.def("plain_dropout", &plain_dropout,
             "dropout(activation(x)) with a seed of its own, without learnable parameters, or None: it takes ordinary dense tensors.");
}

}  // namespace fastlayers
