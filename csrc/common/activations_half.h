// Functors for results of 16 bits, where there is one that is less exact than the row's own and faster; rough.h says how exact.
#pragma once

#include "activations_gates.h"
#include "activations_periodic.h"
#include "activations_piecewise.h"
#include "activations_smooth.h"
#include "activations_soft_exponential.h"
#include "rough.h"

namespace fastlayers::FL_NAMESPACE {
namespace activations {

template <> struct ForHalfTypes<sigmoid> {
  struct type : sigmoid {
    template <class T> FL_HD static T forward(T x, const T*) { return math::rough_sigmoid(math::logistic_bounded(x)); }
    template <class T> FL_HD static T derivative(T x, const T*, T*) {
      const math::RoughLogistic<T> s(-math::at_most(absolute(x), math::decay_bound<T>));
      return s.value * s.rest;
    }
  };
};

template <> struct ForHalfTypes<tanh> {
  struct type : tanh {
    template <class T> FL_HD static T forward(T x, const T*) { return math::rough_tanh(x); }
    template <class T> FL_HD static T derivative(T x, const T* p, T* dp) {
      return T(4) * ForHalfTypes<sigmoid>::type::derivative(x + x, p, dp);
    }
  };
};

// x s(v) and its derivative in x, v' the derivative of v: s(v) + x v' s(v) s(-v).
template <> struct ForHalfTypes<silu> {
  struct type : silu {
    template <class T> FL_HD static T forward(T x, const T*) {
      const T bounded = math::at_least(x, math::logistic_closed);
      return bounded * math::rough_sigmoid(math::at_most(bounded, math::logistic_open));
    }
    template <class T> FL_HD static T derivative(T x, const T*, T*) {
      const T bounded = math::logistic_bounded(x);
      const math::RoughLogistic<T> s(bounded);
      return multiply_add(bounded * s.rest, s.value, s.value);
    }
  };
};

template <> struct ForHalfTypes<gelu> {
  using type = GeluWith<math::RoughNormalTail>;
};

template <> struct ForHalfTypes<gelu_tanh> {
  struct type : gelu_tanh {
    template <class T> FL_HD static T forward(T x, const T*) {
      const T bounded = math::at_least(x, closed), near = math::at_most(bounded, open);
      return bounded * math::rough_sigmoid(near * multiply_add(near * near, T(float(cubic)), T(float(linear))));
    }
    template <class T> FL_HD static T derivative(T x, const T*, T*) {
      const T near = math::at_most(math::at_least(x, closed), open), square = near * near;
      const math::RoughLogistic<T> s(near * multiply_add(square, T(float(cubic)), T(float(linear))));
      return multiply_add(near * multiply_add(square, T(float(3 * cubic)), T(float(linear))) * s.rest, s.value, s.value);
    }

   private:
    static constexpr float closed = -10.5f, open = 7.5f;  // where v is -99.4, and 42.1
  };
};

template <> struct ForHalfTypes<mish> {
  struct type : mish {
    template <class T> FL_HD static T forward(T x, const T*) {
      const T bounded = math::at_least(x, math::logistic_closed), n = growth(math::rough_exponential(math::at_most(bounded, open)));
      return bounded * math::rough_quotient(n, n + T(2));
    }
    // With t = n / (n + 2): t + x (1 - t^2) s, where 1 - t^2 = 4 (e + 1)^2 / (n + 2)^2 and s = e / (e + 1).
    template <class T> FL_HD static T derivative(T x, const T*, T*) {
      const T bounded = math::at_most(math::at_least(x, math::logistic_closed), open), e = math::rough_exponential(bounded), n = growth(e);
      const T inverse = math::rough_quotient(T(1), n + T(2));
      return inverse * multiply_add(T(4) * bounded * e * (e + T(1)), inverse, n);
    }

   private:
    static constexpr float open = 30.0f;

    template <class T> FL_HD static T growth(T e) { return multiply_add(e, e, e + e); }
  };
};

template <> struct ForHalfTypes<swish> {
  struct type : swish {
    template <class T> FL_HD static T forward(T x, const T* p) {
      const T v = p[0] * x;
      return select(v < T(math::logistic_closed), T(0), x) * math::rough_sigmoid(math::logistic_bounded(v));
    }
    template <class T> FL_HD static T derivative(T x, const T* p, T* dp) {
      const T v = p[0] * x, near = math::logistic_bounded(v), inside = select(near == v, x, T(0));
      const math::RoughLogistic<T> s(near);
      const T density = s.rest * s.value;
      dp[0] = inside * density * inside;
      return multiply_add(near, density, s.value);
    }
  };
};

template <> struct ForHalfTypes<quick_gelu> {
  struct type : quick_gelu {
    template <class T> FL_HD static T forward(T x, const T*) {
      const T bounded = math::at_least(x, math::logistic_closed / float(factor));
      return bounded * math::rough_sigmoid(math::at_most(bounded * T(float(factor)), math::logistic_open));
    }
    template <class T> FL_HD static T derivative(T x, const T* p, T* dp) {
      return ForHalfTypes<silu>::type::derivative(x * T(float(factor)), p, dp);
    }
  };
};

template <> struct ForHalfTypes<rrelu> {
  struct type : rrelu {
    template <class T> FL_HD static T forward(T x, const T* p) { return select(x > T(0), x, slope(p) * x); }
    template <class T> FL_HD static T derivative(T x, const T* p, T*) { return select(x > T(0), T(1), slope(p)); }

   private:
    template <class T> FL_HD static T slope(const T* p) { return multiply_add(p[1], p[2], p[0]); }
  };
};

template <> struct ForHalfTypes<elu> {
  struct type : elu {
    template <class T> FL_HD static T forward(T x, const T* p) { return select(x > T(0), x, p[0] * math::rough_expm1(x)); }
    template <class T> FL_HD static T derivative(T x, const T* p, T*) {
      return select(x > T(0), T(1), p[0] * math::rough_exponential(math::at_least(x, -150)));
    }
  };
};

template <> struct ForHalfTypes<selu> {
  struct type : selu {
    template <class T> FL_HD static T forward(T x, const T*) {
      return select(x > T(0), T(float(scale)) * x, T(float(scale_alpha)) * math::rough_expm1(x));
    }
    template <class T> FL_HD static T derivative(T x, const T*, T*) {
      return select(x > T(0), T(float(scale)), T(float(scale_alpha)) * math::rough_exponential(math::at_least(x, -150)));
    }
  };
};

template <> struct ForHalfTypes<celu> {
  struct type : celu {
    template <class T> FL_HD static T forward(T x, const T* p) { return select(x > T(0), x, p[0] * math::rough_expm1(x * (T(1) / p[0]))); }
    template <class T> FL_HD static T derivative(T x, const T* p, T*) {
      return select(x > T(0), T(1), math::rough_exponential(math::at_most(math::at_least(x * (T(1) / p[0]), -150), 150)));
    }
  };
};

template <> struct ForHalfTypes<softplus> {
  struct type : softplus {
    template <class T> FL_HD static T forward(T x, const T* p) {
      const T scaled = p[0] * x;
      return select(scaled > p[1], x, math::rough_softplus(scaled) * (T(1) / p[0]));
    }
    template <class T> FL_HD static T derivative(T x, const T* p, T*) {
      const T scaled = p[0] * x;
      return select(scaled > p[1], T(1), math::rough_sigmoid(math::logistic_bounded(scaled)));
    }
  };
};

template <> struct ForHalfTypes<log_sigmoid> {
  struct type : log_sigmoid {
    template <class T> FL_HD static T forward(T x, const T*) { return -math::rough_softplus(-x); }
    template <class T> FL_HD static T derivative(T x, const T*, T*) { return math::rough_sigmoid(math::logistic_bounded(-x)); }
    template <class T> FL_HD static T derivative_from_output(T y, const T*) { return -math::rough_expm1(y); }
  };
};

template <> struct ForHalfTypes<tanhshrink> {
  struct type : tanhshrink {
    template <class T> FL_HD static T forward(T x, const T*) { return math::rough_tanhshrink(x); }
    template <class T> FL_HD static T derivative(T x, const T*, T*) {
      const T y = math::rough_tanh(x);
      return y * y;
    }
  };
};

// Far from 0 the terms one by one: their sum lies close to the middle of two numbers of 16 bits, and must stay on its side.
template <> struct ForHalfTypes<bent_identity> {
  struct type : bent_identity {
    template <class T> FL_HD static T forward(T x, const T*) {
      const T magnitude = absolute(x), root = math::rough_square_root(multiply_add(x, x, T(1)));
      const auto away = magnitude > T(16);
      const T inverse = math::rough_quotient(T(0.5f), root + select(away, magnitude, T(1)));
      const T far = (multiply_add(magnitude, T(0.5f), x) - math::at_least(magnitude * T(0x1p-22f), 0.5f)) + inverse;
      return select(away, select(magnitude == T(infinity<T>), x, far), x * multiply_add(x, inverse, T(1)));
    }
  };
};

template <> struct ForHalfTypes<srelu> {
  struct type : srelu {
    template <class T> FL_HD static T forward(T x, const T* p) {
      const auto right = x >= p[2];
      const Line<T> left_line(p[0], p[1], -1), right_line(p[2], p[3], 1);
      const T slope = select(right, right_line.slope, left_line.slope), offset = select(right, right_line.offset, left_line.offset);
      const T product = slope * select(slope == T(0), T(0), x), sum = product + offset;
      const T value = select(sum == product, product * select(right, right_line.rest, left_line.rest), sum);
      return select(right | (x <= p[0]), value, x);
    }
    template <class T> FL_HD static T derivative(T x, const T* p, T* dp) {
      const auto right = x >= p[2];
      const T below = select(right, p[0], x);
      const auto left = below < p[0];
      dp[0] = select(left, T(1) - p[1], T(0));
      dp[1] = select(left, below - p[0], T(0));
      dp[2] = select(right, T(1) - p[3], T(0));
      dp[3] = select(right, x - p[2], T(0));
      return select(right, p[3], select(left, p[1], T(1)));
    }

   private:
    // edge + slope (x - edge) = slope x + offset. Where the offset is lost the product is made a little larger or smaller, as the side of
    // the edge wants it: it may lie in the middle of two numbers of 16 bits.
    template <class T> struct Line {
      const T slope, offset, rest;

      FL_HD Line(T edge, T a, int side)
          : slope(a), offset(multiply_add(-a, edge, edge)),
            rest(select(offset == T(0), T(1), T(1) + with_sign_of(T(0x1p-23f), a * offset * T(side)))) {}
    };
  };
};

template <> struct ForHalfTypes<apl> {
  struct type : apl {
    static constexpr bool side_by_side = true;

    template <class T> FL_HD static T forward(T x, const T* p, int hinges) {
      if (any_below(x, bound)) return beyond(x, sum_of(math::at_least(x, bound), p, hinges), p, hinges);
      return sum_of(x, p, hinges);
    }
    template <class T> FL_HD static T derivative(T x, const T* p, T* dp, int hinges) {
      T sum = select(x < T(0), T(0), T(1));
      for (int s = 0; s < hinges; ++s) {
        const T b = p[hinges + s], bent = select(x < b, p[s], T(0));
        sum -= bent;
        dp[s] = math::at_least(b - x, 0);
        dp[hinges + s] = bent;
      }
      return sum;
    }

   private:
    static constexpr float bound = -0x1p100f;

    template <class T> FL_HD static T sum_of(T x, const T* p, int hinges) {
      T sum = math::at_least(x, 0);
      for (int s = 0; s < hinges; ++s) sum = multiply_add(p[s], math::at_least(p[hinges + s] - x, 0), sum);
      return sum;
    }
    // Left of the bound, where sums might overflow, the value there, so many times.
    template <class T> FL_HD static T beyond(T x, T sum, const T* p, int hinges) {
      T limit(0);
      for (int s = 0; s < hinges; ++s) limit += select(p[s] == T(0), T(0), p[s] * -x);  // where x is -infinity
      return select(x == T(-infinity<T>), limit, select(x < T(bound), sum * (x * T(1 / bound)), sum));
    }
  };
};

template <> struct ForHalfTypes<sinusoid> {
  struct type : sinusoid {
    static constexpr bool side_by_side = true;

    template <class T> FL_HD static T forward(T x, const T*) { return math::rough_sine(x, nan<T>); }
    template <class T> FL_HD static T derivative(T x, const T*, T*) { return math::rough_cosine(x, nan<T>); }
  };
};

template <> struct ForHalfTypes<sinc> {
  struct type : sinc {
    static constexpr bool derives_side_by_side = true;

    template <class T> FL_HD static T forward(T x, const T*) {
      return select(absolute(x) < T(0x1p-20f), T(1), math::rough_quotient(math::rough_sine(x, 0), x));
    }
    // Near 0 x times a polynomial of x^2 that has the first zero, at x^2 = 20.19, as a factor.
    template <class T> FL_HD static T derivative(T x, const T*, T*) {
      const T square = x * x;
      const T near = x * (square - T(20.1907291f)) *
                     math::polynomial(square, 0.0165092256f, -0.000833253667f, 1.76901994e-05f, -2.15347555e-07f, 1.70791414e-09f,
                                      -9.08408505e-12f, 2.67408081e-14f);
      if (!any_above(square, bound)) return near;
      const T inverse = math::rough_quotient(T(1), x);
      const math::RoughAngle<T> angle(x);
      const T far = negated_if_odd((angle.cosine - angle.sine * inverse) * inverse, angle.parity);
      return select(square > T(bound), select(absolute(x) == T(infinity<T>), T(0), far), near);
    }

   private:
    static constexpr float bound = 36.0f;  // of x^2
  };
};

// p: alpha. What the sine adds does not count where |alpha x| is huge.
template <> struct ForHalfTypes<snake> {
  struct type : snake {
    static constexpr bool derives_side_by_side = true;

    template <class T> FL_HD static T forward(T x, const T* p) {
      const T angle = p[0] * x, sine = math::rough_sine_near(math::HalfTurns<T, false>(angle).rest);
      return multiply_add(select(absolute(angle) < T(0x1p22f), sine * sine, T(0)), inverse(p[0]), x);
    }
    // f' = (sin(u) + cos(u))^2 and df/dalpha = q (2 x cos(u) - q), u = alpha x and q = sin(u) / alpha.
    template <class T> FL_HD static T derivative(T x, const T* p, T* dp) {
      const math::RoughAngle<T> angle(p[0], x);
      const T scale = inverse(p[0]), q = angle.sine * scale, sum = angle.sine + angle.cosine, turned = x * angle.cosine;
      dp[0] = multiply_add(q, turned, q * (turned - q));
      if (any(scale == T(0))) dp[0] = select(scale == T(0), x * x, dp[0]);
      return sum * sum;
    }

   private:
    // 1 / alpha, and 0 where alpha is nearly 0.
    template <class T> FL_HD static T inverse(T alpha) { return select(vanishes(alpha), T(0), T(1) / alpha); }
  };
};

// p: alpha. The derivatives for alpha >= 0; all else cancels and has to be exact.
template <> struct ForHalfTypes<soft_exponential> {
  struct type : soft_exponential {
    static constexpr bool derives_side_by_side = true;

    template <class T> FL_HD static T derivative(T x, const T* p, T* dp) {
      const T alpha = p[0], scale = T(1) / alpha;
      const T v = alpha * math::within(x, T(150) / maximum(T(1e-36f), absolute(alpha)));
      T slope = math::rough_exponential(v);
      const T g = math::polynomial(v, 0.500000179f, 0.333335459f, 0.124996938f, 0.0333150253f, 0.00695133954f, 0.0012285281f,
                                   0.000171853884f);
      const T unit = scale * T(0x1p-24f);  // neither it nor its products overflow before the result does
      const T far = multiply_add(multiply_add(multiply_add(v, unit, -unit), slope, unit), scale * T(0x1p24f), T(1));
      dp[0] = select(absolute(v) < T(1), multiply_add(x, x * g, T(1)), far);
      if (any(alpha < T(0))) replace_left(x, alpha, slope, dp[0]);
      return slope;
    }

   private:
    // The derivatives where alpha < 0.
    template <class T> FL_HD static void replace_left(T x, T alpha, T& slope, T& to_alpha) {
      if constexpr (one_by_one<T>) {
        for (int i = 0; i < T::size; ++i) {
          if (alpha[i] < 0) replace_left(x[i], alpha[i], slope.lanes[i], to_alpha.lanes[i]);
        }
      } else {
        const Logarithm<T> left(x, alpha);
        T left_to_alpha;
        slope = select(alpha < T(0), left.slope(left_to_alpha), slope);
        to_alpha = select(alpha < T(0), left_to_alpha, to_alpha);
      }
    }
  };
};

}  // namespace activations
}  // namespace fastlayers::FL_NAMESPACE
