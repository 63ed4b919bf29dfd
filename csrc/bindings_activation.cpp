// Plain activations under autograd without Python: on a small tensor that costs more than the kernel.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include "bindings_autograd.h"
#include "bindings_layers.h"
#include "bindings_ordinary.h"

namespace fastlayers {
namespace {

// What the kernels take beside x, the learnable parameters and dy.
struct Plain {
  std::string_view name;
  const Constants& constants;
  int64_t channel_dim;
  bool from_output;  // whether backward is given y in place of x

  Tensor forward(const Tensor& x, const Optional& parameters) const {
    const Optional none;
    return with_memory("epilogue_forward", epilogue_forward, [&](auto function) {
      return function(x, none, none, none, none, parameters, none, name, constants, 0.0, channel_dim, none, int64_t{0}, Outcome());
    });
  }

  Gradients backward(const Tensor& dy, const Tensor& saved, const Optional& parameters, const OutputMask& mask) const {
    const Optional none;
    note_saved_memory(dy, saved, parameters);
    return gradients_by("epilogue_backward", epilogue_backward, [&](auto function) {
      return function(dy, saved, none, none, none, none, parameters, none, name, constants, 0.0, channel_dim, from_output, mask,
                      int64_t{0}, Outcome());
    });
  }
};

// fastlayers.autograd.activations.Activation: saved for backward are y where the derivative follows from it, else x, and the parameters.
struct Activation : torch::autograd::Function<Activation> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Optional& parameters, const Plain& plain) {
    Tensor y = plain.forward(x, parameters);
    context->save_for_backward({plain.from_output ? y : x, undefined_if_none(parameters)});
    save_facts(context, {std::string(plain.name), plain.channel_dim, plain.from_output}, plain.constants);
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list tensors = context->get_saved_variables();
    const Tensor& saved = tensors[0];
    const Optional parameters = saved_tensor(tensors[1]);
    const Tensor dy = with_strides(gradients[0], saved.strides());
    const Facts facts = saved_facts(context);
    const Constants constants = constants_of(facts, 3);
    const Plain plain{facts[0].toStringRef(), constants, facts[1].toInt(), facts[2].toBool()};
    const bool wants_parameters = parameters && context->needs_input_grad(1);
    auto [dx, dresidual, dscale, dshift, dparameters] =
        plain.backward(dy, saved, parameters, {context->needs_input_grad(0), false, false, false, wants_parameters});
    return {undefined_if_none(dx), undefined_if_none(dparameters), Tensor()};
  }
};

Tensor activation(const Tensor& x, const Optional& parameters, std::string_view name, const Constants& constants, int64_t channel_dim,
                  bool from_output) {
  const Plain plain{name, constants, channel_dim, from_output};
  return differentiated(x, parameters) ? Activation::apply(x, parameters, plain) : plain.forward(x, parameters);
}

// What plain_activation returns.
class PlainActivation {
 public:
  PlainActivation(const std::string& name, Constants constants, bool from_output, bool from_half_output)
      : name_(activation_facts[activation_position("plain_activation", name)].name), constants_(std::move(constants)),
        from_output_(from_output), from_half_output_(from_half_output) {}

  pybind11::object operator()(pybind11::handle object) const {
    const Tensor* const x = ordinary_input(object);
    if (!x) return pybind11::none();
    return with_gil_for_little(*x, [&] {
      return activation(*x, std::nullopt, name_, constants_, 0, x->itemsize() == 2 ? from_half_output_ : from_output_);
    });
  }

 private:
  std::string_view name_;
  Constants constants_;
  bool from_output_, from_half_output_;
};

pybind11::object plain_activation(const std::string& name, Constants constants, bool from_output, bool from_half_output) {
  return pybind11::cpp_function(PlainActivation(name, std::move(constants), from_output, from_half_output));
}

// What functors say about themselves, which the rows of specs.py say as well.
pybind11::dict facts_of_activations() {
  using pybind11::literals::operator""_a;
  pybind11::dict all;
  for (const ActivationFacts& facts : activation_facts) {
    all[pybind11::str(std::string(facts.name))] =
        pybind11::dict("learnables"_a = facts.learnables, "most_repeats"_a = facts.most_repeats, "constants"_a = facts.constants,
                       "everywhere"_a = facts.everywhere, "masks"_a = facts.masks, "from_output"_a = facts.from_output,
                       "random"_a = facts.random, "invertible"_a = facts.invertible);
  }
  return all;
}

}  // namespace

void bind_activation(pybind11::module_& module) {
  module.def("activation_facts", &facts_of_activations, "For each activation a dict: the numbers of its parameters, and what it can.");
  module.def("activation", &activation, pybind11::call_guard<pybind11::gil_scoped_release>(),
             "As fastlayers.autograd.activations.Activation, with channel_dim and from_output worked out.");
  module.def("plain_activation", &plain_activation, pybind11::arg("name"), pybind11::arg("constants"), pybind11::arg("from_output"),
             pybind11::arg("from_half_output"),
             "activation() of one activation as a function of x alone, or None: it takes ordinary dense tensors.");
}

}  // namespace fastlayers
