// exp, expm1, log and what is built on them: the logistic sigmoid, tanh, the tail of the normal distribution.
#pragma once

#include "elementary.h"

namespace fastlayers::FL_NAMESPACE {
namespace math {

// The float 1.5 * 2^23 + 127 + bias: adding it to a number rounds that to a whole one, n, and leaves the exponent field of 2^(n + bias).
template <class T> FL_HD T exponent_shifter(int bias) { return T(12582912.0f + static_cast<float>(127 + bias)); }

// (exp(r) - 1 - r) / r^2 for |r| <= ln(2) / 2; r^2 times its error is less than 3e-9.
template <class T> FL_HD T exponential_tail(T r) { return polynomial(r, 0.5f, 0.16666518f, 0.041666206f, 0.008368953f, 0.0013950587f); }

// exp(x + low) = 2^n (1 + expm1) with whole n: power = 2^(n + bias) and expm1 = exp(r) - 1 for the rest r, |r| <= ln(2) / 2.
template <class T> struct ReducedExponential {
  T power, expm1;

  FL_HD ReducedExponential(T x, int bias) {
    const T n = begin(x, exponent_shifter<T>(bias));
    finish(multiply_add(n, T(2.12194440e-4f), multiply_add(n, T(-0.693359375f), x)));
  }
  FL_HD ReducedExponential(T x, T low, int bias) : ReducedExponential(x, low, exponent_shifter<T>(bias)) {}
  FL_HD ReducedExponential(T x, T low, T shifter) {
    const T n = begin(x, shifter);
    finish(multiply_add(n, T(-0.693359375f), x) + multiply_add(n, T(2.12194440e-4f), low));
  }

 private:
  // Sets power; returns n. The constants of the rest add up to ln 2, the larger one of ten bits, so that n times it is exact.
  FL_HD T begin(T x, T shifter) {
    const T shifted = multiply_add(x, T(1.44269504f), shifter);
    power = power_from_shifted(shifted);
    return shifted - shifter;
  }
  FL_HD void finish(T r) { expm1 = multiply_add(r * r, exponential_tail(r), r); }
};

// log(1 + e) / e = 2 P(s^2) / (2 + e) with s = e / (2 + e), for |s| <= 0.43: atanh(s) / s = P(s^2) = 1 + s^2 logarithm_tail(s^2).
constexpr int32_t sqrt_half_bits = 0x3f3504f3;  // sqrt(1/2)
template <class T> FL_HD T logarithm_tail(T square) {
  return polynomial(square, 0.333334178f, 0.199938864f, 0.144281179f, 0.0969106406f, 0.151959762f);
}

// exp(x + low) for -150 <= x <= 15 and tiny low. Kept 2^100 times too large, so that a product with it underflows only if the product
// itself does, and is rounded once there. 1 ULP.
template <class T, bool = is_double<T>> class Decay {
 public:
  FL_HD explicit Decay(T x) : Decay(ReducedExponential<T>(x, 100)) {}
  FL_HD Decay(T x, T low) : Decay(ReducedExponential<T>(x, low, 100)) {}
  FL_HD T value() const { return magnified_ * T(0x1p-100f); }
  FL_HD T times(T factor) const { return factor * magnified_ * T(0x1p-100f); }
  // number + value, and number - value * numerator / denominator.
  FL_HD T added_to(T number) const { return multiply_add(magnified_, T(0x1p-100f), number); }
  FL_HD T share_less(T number, T numerator, T denominator) const {
    return multiply_add(numerator * magnified_ / denominator, T(-0x1p-100f), number);
  }
  // log(1 + value). 2 ULP.
  FL_HD T log1p() const {
    const T e = value(), inverse = T(1.0f) / (e + T(2.0f)), s = e * inverse, square = s * s;
    return times((inverse + inverse) * multiply_add(square, logarithm_tail(square), T(1.0f)));
  }

 private:
  FL_HD explicit Decay(const ReducedExponential<T>& reduced) : magnified_(multiply_add(reduced.power, reduced.expm1, reduced.power)) {}

  T magnified_;
};

template <class T> class Decay<T, true> {
 public:
  FL_HD explicit Decay(T x) : value_(system_exp(x)) {}
  FL_HD Decay(T x, T) : Decay(x) {}
  FL_HD T value() const { return value_; }
  FL_HD T times(T factor) const { return factor * value_; }
  FL_HD T added_to(T number) const { return number + value_; }
  FL_HD T share_less(T number, T numerator, T denominator) const { return number - numerator * value_ / denominator; }
  // log(1 + value) = 2 atanh(s), s = value / (value + 2) <= 1/3: a Chebyshev series in s^2, cut at 5e-18. 2 ULP.
  FL_HD T log1p() const {
    const T s = value_ / (value_ + T(2.0)), square = s * s;
    const T tail = polynomial(square, 0.3333333333333333, 0.20000000000007456, 0.1428571428351453, 0.11111111362409382,
                              0.09090894546491375, 0.07692789505129312, 0.06657003641335145, 0.060011469977136564, 0.04397433369474833,
                              0.08087903454072548);
    return multiply_add((s + s) * square, tail, s + s);
  }

 private:
  T value_;
};

// factor * exp(x + low) for any x and tiny low. 2 ULP.
template <class T> FL_HD T times_exp(T factor, Pair<T> x) {
  if constexpr (is_double<T>) {
    return factor * system_exp(x.value);
  } else {
    x = bounded(x, T(-150.0f), T(104.0f));
    const auto falls = x.value < T(0);
    const ReducedExponential<T> reduced(x.value, x.low, select(falls, exponent_shifter<T>(100), exponent_shifter<T>(-24)));
    return factor * multiply_add(reduced.power, reduced.expm1, reduced.power) * select(falls, T(0x1p-100f), T(0x1p24f));
  }
}

// exp(x + low) for float and any x and tiny low, as value * unit: a product of value with a small number does not overflow. 2 ULP.
template <class T> struct ScaledExponential {
  T value, unit;

  FL_HD explicit ScaledExponential(Pair<T> x) {
    x = bounded(x, T(-150.0f), T(104.0f));
    const auto falls = x.value < T(0.0f);
    const ReducedExponential<T> reduced(x.value, x.low, select(falls, exponent_shifter<T>(100), exponent_shifter<T>(-40)));
    value = multiply_add(reduced.power, reduced.expm1, reduced.power) * select(falls, T(0x1p-100f), T(1.0f));
    unit = select(falls, T(1.0f), T(0x1p40f));
  }
};

// exp(x + low) - 1. 2 ULP.
template <class T> FL_HD T expm1(Pair<T> x) {
  if constexpr (is_double<T>) {
    return system_expm1(x.value);
  } else {
    x = bounded(x, T(-30.0f), T(89.0f));
    const ReducedExponential<T> reduced(x.value, x.low, -1);
    const T half = multiply_add(reduced.power, reduced.expm1, reduced.power - T(0.5f));
    return half + half;
  }
}
template <class T> FL_HD T expm1(T x) { return expm1(Pair<T>{x, T(0)}); }

// exp(x + low) - 1 for float, so exact that adding a number near its opposite costs nothing. Kept as (value + low) / unit, with a power of
// two that keeps it from overflow and underflow.
template <class T> struct ExactExpm1 {
  Pair<T> scaled;
  T unit, inverse_unit;

  FL_HD explicit ExactExpm1(Pair<T> x) {
    const auto falls = x.value < T(0.0f), vanishes = x.value < T(-103.0f);
    x = bounded(x, T(-103.0f), T(104.0f));
    const T shifter = select(falls, exponent_shifter<T>(24), exponent_shifter<T>(-24));
    const T shifted = multiply_add(x.value, T(1.44269504f), shifter), n = shifted - shifter, power = power_from_shifted(shifted);
    unit = select(falls, T(0x1p24f), T(0x1p-24f));
    inverse_unit = select(falls, T(0x1p-24f), T(0x1p24f));
    const Pair<T> rest = exact_sum(multiply_add(n, T(-0.693359375f), x.value), multiply_add(n, T(2.12194440e-4f), x.low));
    const T tail = multiply_add(rest.value * rest.value, exponential_tail(rest.value), rest.low);
    const Pair<T> whole = exact_sum(power, -unit), sum = exact_sum(power * rest.value, whole.value);
    scaled = {select(vanishes, -unit, sum.value), select(vanishes, T(0.0f), multiply_add(power, tail, sum.low + whole.low))};
  }
};

// log(u + low) for float, u >= 0 or NaN, low less than u's rounding; exact in relative terms near u = 1, too. 3 ULP.
template <class T> FL_HD T log(Pair<T> u, T extra_exponent) {
  const auto tiny = u.value < T(FLT_MIN);
  const auto bits = float_as_int(select(tiny, u.value * T(0x1p25f), u.value));
  using Bits = decltype(float_as_int(T()));
  const Bits offset = bits - Bits(sqrt_half_bits);
  const T mantissa = int_as_float((offset & Bits(0x007fffff)) + Bits(sqrt_half_bits));  // in [sqrt(1/2), sqrt(2))
  const T whole = int_as_float((offset >> 23) + Bits(0x4b400000)) - T(12582912.0f);    // the integer as a float: 0x4b400000 is 1.5 * 2^23
  const T exponent = whole + (extra_exponent + select(tiny, T(-25.0f), T(0.0f)));
  const T s = (mantissa - T(1.0f)) / (mantissa + T(1.0f)), square = s * s;
  const T correction = u.low * minimum(T(largest<T>), T(1.0f) / u.value);
  const T rest = multiply_add(exponent, T(-2.12194440e-4f), multiply_add((s + s) * square, logarithm_tail(square), correction));
  const T value = multiply_add(exponent, T(0.693359375f), (s + s) + rest);
  return select(u.value > T(0.0f), select(u.value < T(infinity<T>), value, u.value), select(u.value == T(0.0f), T(-infinity<T>), T(nan<T>)));
}

// |x|, at most so large that exp(-|x|) is 0 (150 for float, 750 for double).
template <class T> constexpr Constant<T> decay_bound = is_double<T> ? 750 : 150;
template <class T> FL_HD T bounded_magnitude(T x) { return minimum(T(decay_bound<T>), absolute(x)); }

// exp(-|x + low|).
template <class T> FL_HD Decay<T> decay_of(Pair<T> x) {
  const Pair<T> v = bounded(Pair<T>{-absolute(x.value), select(x.value < T(0), x.low, -x.low)}, T(-decay_bound<T>), T(0));
  return Decay<T>(v.value, v.low);
}

// Half a unit of 1, the distance to the number below it.
template <class T> constexpr Constant<T> half_unit = static_cast<Constant<T>>(is_double<T> ? 0x1p-53 : 0x1p-24);

template <class T> FL_HD T log(T u) {
  if constexpr (is_double<T>) return system_log(u);
  else return log(Pair<T>{u, T(0)}, T(0));
}

// log(1 + x) for x <= 0, as if no x were nearer to -1 than half a unit.
template <class T> FL_HD T bounded_log1p(T x) {
  const T left = maximum(T(half_unit<T> - 1), x);
  if constexpr (is_double<T>) return system_log1p(left);
  else return log(exact_sum(T(1), left), T(0));
}

// What the logistic sigmoid s(x) = 1 / (1 + exp(-x)) and all that is built on it are made of.
template <class T> struct Logistic {
  const T magnitude;     // a = |x|, bounded
  const Decay<T> decay;  // exp(-a)
  T larger, smaller;     // s(a), s(-a)

  FL_HD explicit Logistic(T x) : magnitude(bounded_magnitude(x)), decay(-magnitude) { finish(); }
  FL_HD explicit Logistic(Pair<T> x)
      : magnitude(bounded_magnitude(x.value)), decay(decay_of(x)) {
    finish();
  }

 private:
  FL_HD void finish() {
    larger = T(1) / decay.added_to(T(1));
    smaller = decay.value() * larger;
  }
};

// 2 ULP.
template <class T> FL_HD T sigmoid(T x) {
  const Decay<T> e(-bounded_magnitude(x));
  return select(x < T(0), e.value(), T(1)) / e.added_to(T(1));
}

// s(x) s(-x) with one rounding less than the product. 3 ULP.
template <class T> FL_HD T logistic_density(T x) {
  const T e = Decay<T>(-bounded_magnitude(x)).value();
  return e / multiply_add(e, e + T(2), T(1));
}

// tanh(x) = x / (1 + f) for doubles |x| <= 1, with f = x^2 / (3 + x^2 / (5 + ... x^2 / 23)) = numerator / denominator.
template <class T> struct TanhFraction {
  T numerator, denominator;

  FL_HD explicit TanhFraction(T x) {
    const T square = x * x;
    numerator = square * polynomial(square, 105411381075, 8249586345, 174594420, 1276275, 2925, 1);
    denominator = polynomial(square, 316234143225, 45831035250, 1571349780, 18378360, 75075, 78);
  }
  FL_HD T times(T factor, T part) const { return factor * part / (denominator + numerator); }
};

// 3 ULP.
template <class T> FL_HD T tanh(T x) {
  if constexpr (is_double<T>) {
    const T magnitude = minimum(T(20.0), absolute(x));
    const TanhFraction<T> f(magnitude);
    const T far = T(1.0) - T(2.0) / (system_exp(magnitude + magnitude) + T(1.0));
    return with_sign_of(select(magnitude < T(1.0), f.times(magnitude, f.denominator), far), x);
  } else {
    const T magnitude = minimum(T(10.0f), absolute(x));
    const ReducedExponential<T> reduced(magnitude + magnitude, 0);
    const T expm1 = multiply_add(reduced.power, reduced.expm1, reduced.power - T(1.0f));
    return with_sign_of(expm1 / (expm1 + T(2.0f)), x);
  }
}

// log(1 + exp(x + low)). 3 ULP.
template <class T> FL_HD T softplus(Pair<T> x) {
  return maximum(T(0), x.value) + (select(x.value > T(0), x.low, T(0)) + decay_of(x).log1p());
}

// x - tanh(x): a polynomial near 0, then (E + 2 - E / a) a / (E + 2) with E = exp(2 a) - 1, where nothing cancels. 4 ULP.
template <class T> FL_HD T tanhshrink(T x) {
  if constexpr (is_double<T>) {
    const TanhFraction<T> f(x);
    return select(absolute(x) < T(1.0), f.times(x, f.numerator), x - tanh(x));
  } else {
    const T magnitude = absolute(x), bounded = minimum(T(10.0f), magnitude), square = bounded * bounded;
    const T near = bounded * square * polynomial(square, 0.333333343f, -0.133333102f, 0.053963419f, -0.0218295846f, 0.00869794656f,
                                                 -0.00320694735f, 0.000923604763f, -0.000142822682f);
    const T growth = expm1(bounded + bounded);
    const T ratio = multiply_add(bounded - T(1.0f), growth, bounded + bounded) / (growth + T(2.0f));
    return with_sign_of(select(magnitude < T(1.0f), near, select(magnitude > T(9.5f), magnitude - T(1.0f), ratio)), x);
  }
}

// The standard normal distribution at a = |x|: upper tail 1 - Phi(a), density exp(-a^2 / 2) / sqrt(2 pi).
template <class T, bool = is_double<T>> struct NormalTailOf;
template <class T> struct NormalTailFor {  // csrc/cpu/normal_tail.h has another for registers of floats
  using type = NormalTailOf<T>;
};
template <class T> using NormalTail = typename NormalTailFor<T>::type;

template <class T> struct NormalTailOf<T, false> {
  const T magnitude;  // a, at most 15, where the tail is 0
  const T exponent;   // -a^2 / 2, rounded
  const Decay<T> decay;
  T numerator, denominator;  // tail = exp(-a^2 / 2) times their quotient, which falls from 0.5 at a = 0 to 0.027 at a = 15. 3 ULP

  FL_HD explicit NormalTailOf(T x)
      : magnitude(minimum(T(15.0f), absolute(x))),
        exponent(T(-0.5f) * magnitude * magnitude),
        decay(exponent, multiply_subtract_once(T(-0.5f) * magnitude, magnitude, exponent)) {
    // minimax for a <= 14.75, of relative error 1e-8
    numerator = polynomial(magnitude, 0.5f, 0.43810683f, 0.1830662f, 0.040567763f, 0.0041041044f);
    denominator = polynomial(magnitude, 1.0f, 1.6740985f, 1.2018658f, 0.4690172f, 0.10169469f, 0.010287346f);
  }
  // number - a * tail, where a * tail is within 4 ULP.
  FL_HD T moment_less(T number) const { return decay.share_less(number, magnitude * numerator, denominator); }
  // tail - a * density, the derivative of a * tail.
  FL_HD T moment_derivative() const { return decay.times(multiply_add(magnitude, T(-0.3989422804f), numerator / denominator)); }
};

template <class T> struct NormalTailOf<T, true> {
  const T magnitude;  // at most 39, where the tail is 0
  T density, mills;   // exp(-a^2 / 2), and the tail as a multiple of it: Mills' ratio / sqrt(2 pi). 3 ULP

  FL_HD explicit NormalTailOf(T x) : magnitude(minimum(T(39.0), absolute(x))) {
    const T half = T(-0.5) * magnitude, exponent = half * magnitude;
    density = system_exp(exponent);
    density = multiply_add(density, multiply_subtract_once(half, magnitude, exponent), density);
    // (a + 1) mills as a Chebyshev series in (a - 4) / (a + 4), cut at 1e-16, after Shepherd & Laframboise, Math. Comp. 36 (1981)
    mills = polynomial(
        (magnitude - T(4.0)) / (magnitude + T(4.0)), 0.47205320650984467, -0.0967034773265256, 0.01399963472443148,
        0.02860036405352718, -0.032197837428408475, 0.017936097480419664, -0.005002378584267332, -0.00028562310835360814,
        0.0006948970305874886, -9.44301781652119e-05, -8.785270626823438e-05, 2.1249740404648273e-05, 1.3624924881461717e-05,
        -3.4315183435070443e-06, -2.607764425830651e-06, 4.0392731364622593e-07, 5.431778117877027e-07, 6.594361676139867e-10,
        -1.0152473254280275e-07, -1.7465185918744316e-08, 1.1849977515902403e-08, 3.944904539399657e-09) /
            (magnitude + T(1.0));
  }
  FL_HD T moment_less(T number) const { return multiply_add(magnitude * mills, -density, number); }
  FL_HD T moment_derivative() const { return density * multiply_add(magnitude, T(-0.398942280401432678), mills); }
};

}  // namespace math
}  // namespace fastlayers::FL_NAMESPACE
