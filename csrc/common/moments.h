// Mean and M2 (sum of squared deviations) of parts of a channel, merged in double (Chan, Golub & LeVeque 1979), and what batch norm
// makes of them: never E[x^2] - E[x]^2.
#pragma once

#include "scalar.h"

namespace fastlayers::FL_NAMESPACE {

struct Moments {
  double mean, m2;
};

// From the sums of deviations from a pivot near the mean, and of their squares, of count > 0 elements.
FL_HD Moments moments_about(double pivot, double sum, double squares, double count) {
  const double deviation = sum / count, m2 = squares - count * deviation * deviation;
  return {pivot + deviation, m2 < 0 ? 0 : m2};
}

// Adds `other` of count_other elements to `moments` of `count`.
FL_HD void merge(Moments& moments, double count, const Moments& other, double count_other) {
  if (count == 0) {
    moments = other;
    return;
  }
  const double delta = other.mean - moments.mean, share = count_other / (count + count_other);
  moments.mean += absolute(delta) < HUGE_VAL ? delta * share : other.mean;  // an infinite mean stays so, or is NaN beside its opposite
  moments.m2 += other.m2 + delta * delta * count * share;
}

FL_HD double inverse_deviation(double variance, double eps) { return 1 / square_root(variance + eps); }

// A running statistic after a batch.
FL_HD double moved(double running, double batch, double rate) { return (1 - rate) * running + rate * batch; }

// The slope of EpilogueGradients, from the mean of dz (x - mean).
template <class T> FL_HD T slope_of(T mean_dz_centred, T rstd) { return mean_dz_centred * rstd * rstd; }

}  // namespace fastlayers::FL_NAMESPACE
