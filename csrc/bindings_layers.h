// The functions of bindings_layers.cpp that other bindings call.
#pragma once

#include "bindings_arguments.h"

namespace fastlayers {

Tensor epilogue_forward(const Tensor& x, const Optional& mean, const Optional& scale, const Optional& shift, const Optional& residual,
                        const Optional& parameters, const Optional& seed, std::string_view activation, const Constants& constants, double p,
                        int64_t channel_dim, const Optional& residual_after, int64_t sample, const Outcome& outcome);

Gradients epilogue_backward(const Tensor& dy, const Tensor& x, const Optional& mean, const Optional& scale, const Optional& shift,
                            const Optional& residual, const Optional& parameters, const Optional& seed, std::string_view activation,
                            const Constants& constants, double p, int64_t channel_dim, bool from_output, const OutputMask& output_mask,
                            int64_t sample, const Outcome& outcome);

std::tuple<Tensor, Tensor, Tensor> batch_norm_forward(
    const Tensor& x, const Optional& weight, const Optional& bias, const Optional& running_mean, const Optional& running_var,
    const Optional& num_batches_tracked, const Optional& residual, const Optional& parameters, const Optional& seed,
    std::string_view activation, const Constants& constants, double p, bool training, std::optional<double> momentum, double eps,
    int64_t channel_dim);

Gradients batch_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& rstd, const Optional& weight,
                              const Optional& bias, const Optional& residual, const Optional& parameters, const Optional& seed,
                              std::string_view activation, const Constants& constants, double p, bool training, int64_t channel_dim,
                              const OutputMask& output_mask);

}  // namespace fastlayers
