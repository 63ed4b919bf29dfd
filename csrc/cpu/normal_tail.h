// NormalTail for registers of floats: polynomials in place of common/exponentials.h's exponential and quotient, half as many operations.
//
// |x| chooses among eight polynomials by shuffles of registers, which the processor does beside the arithmetic. Where a lane is farther
// out on the negative side than they reach, its result comes from the exponential, which is then computed as well: results of a lane do
// not depend on its neighbours, times do. 2.5 ULP within reach. The tables are what tools/fit_normal_tail.py prints.
#pragma once

#include "../common/exponentials.h"
#include "interleaved.h"

#if defined(FL_AVX512) || defined(FL_AVX2)

namespace fastlayers::FL_CPU_CAPABILITY {
namespace math {

// A function on [0, end] as polynomials about eight centers; (square a + linear) a, rounded, is the number of the one for a.
struct Pieces {
  float end, square, linear;
  float centers[8];
  float coefficients[9][8];  // the eight constant terms, the eight linear ones, ...
};

// 1 - Phi(a), within 2e-8 of it.
constexpr Pieces normal_tail = {
    5.75f, 0.190294147f, 0.208417386f,
    {0.817518651f, 1.96819174f, 2.87234378f, 3.57897735f, 4.17257977f, 4.70369625f, 5.18228865f, 5.62586069f},
    {
        {0.206816047f, 0.02452299f, 0.00203719735f, 0.000172470682f, 1.50585056e-05f, 1.27746637e-06f, 1.09589834e-07f, 9.22926358e-09f},
        {-0.28561604f, -0.057508193f, -0.00644714478f, -0.000659863232f, -6.61127124e-05f, -6.26007932e-06f, -5.87731108e-07f,
         -5.34728031e-08f},
        {0.116748244f, 0.0565935485f, 0.00925920811f, 0.00118081784f, 0.000137930285f, 1.47227556e-05f, 1.52289579e-06f, 1.50415261e-07f},
        {0.0157879833f, -0.0275441036f, -0.00779067911f, -0.00129873178f, -0.000180823219f, -2.20403854e-05f, -2.53272788e-06f,
         -2.73157127e-07f},
        {-0.022685742f, 0.0041216542f, 0.00405117637f, 0.000965221319f, 0.000165636229f, 2.34642102e-05f, 3.02758826e-06f, 3.59122851e-07f},
        {0.0013435249f, 0.00250685751f, -0.00115884899f, -0.00049598742f, -0.000111090092f, -1.87715123e-05f, -2.75908315e-06f,
         -3.63346544e-07f},
        {0.00285546808f, -0.00138231018f, 1.44527376e-05f, 0.000167573351f, 5.51907506e-05f, 1.15693983e-05f, 1.97334998e-06f,
         2.91779543e-07f},
        {-0.000496932655f, 9.27346846e-05f, 0.000133622729f, -2.76765095e-05f, -1.98294219e-05f, -5.47907666e-06f, -1.11355541e-06f,
         -1.85036768e-07f},
        {-0.000317774422f, 0.000165387944f, -4.68642174e-05f, -1.18366179e-05f, 4.00082945e-06f, 2.44319403e-06f, 6.77609478e-07f,
         1.42304216e-07f},
    },
};

// The derivative of a (1 - Phi(a)), within 4e-8 of it; where it crosses zero, within 3e-9.
constexpr Pieces normal_moment_derivative = {
    6.0f, 0.137316674f, 0.424433321f,
    {0.62905401f, 1.73835075f, 2.72896242f, 3.51231623f, 4.19400787f, 4.79580545f, 5.33989859f, 5.85609102f},
    {
        {0.0587499514f, -0.111984245f, -0.0231115054f, -0.00271348446f, -0.000239800123f, -1.85737081e-05f, -1.32310277e-06f,
         -8.1135731e-08f},
        {-0.525129139f, 0.089973256f, 0.0524734408f, 0.00863913447f, 0.000942307408f, 8.48773707e-05f, 6.80056701e-06f, 4.60494903e-07f},
        {0.3710742f, 0.0748559833f, -0.0453108214f, -0.0122360913f, -0.00172251905f, -0.00018414385f, -1.67875623e-05f, -1.26484429e-06f},
        {0.0756466091f, -0.117709674f, 0.0117692547f, 0.00972747989f, 0.0019167898f, 0.000250587647f, 2.63954444e-05f, 2.23398615e-06f},
        {-0.118430212f, 0.0389663018f, 0.00926457066f, -0.00421824306f, -0.0014144337f, -0.000237445856f, -2.95279697e-05f,
         -2.84214866e-06f},
        {-0.000716291252f, 0.0128964158f, -0.00903034862f, 0.000374474126f, 0.000690250366f, 0.000163576333f, 2.48231172e-05f,
         2.76442279e-06f},
        {0.0222988538f, -0.0116141876f, 0.00258977688f, 0.000703719154f, -0.000190471299f, -8.2264618e-05f, -1.60532363e-05f,
         -2.11267024e-06f},
        {-0.00192592572f, 0.00092644f, 0.000430246029f, -0.000452584558f, -3.0854892e-06f, 2.90725438e-05f, 8.00402722e-06f,
         1.26495524e-06f},
        {-0.00304441946f, 0.00173361658f, -0.000614667952f, 6.32929296e-05f, 4.84685406e-05f, -3.00887132e-06f, -3.63710933e-06f,
         -8.87400347e-07f},
    },
};

FL_HD Vector<float> evaluate(const Pieces& pieces, Vector<float> a) {
  using T = Vector<float>;
  const auto number = float_as_int(multiply_add(multiply_add(a, T(pieces.square), T(pieces.linear)), a, T(12582912.0f)));  // 1.5 * 2^23
  const T distance = a - entries(pieces.centers, number);
  T sum = entries(pieces.coefficients[8], number);
  for (int k = 7; k >= 0; --k) sum = multiply_add(sum, distance, entries(pieces.coefficients[k], number));
  return sum;
}

// At the positive ends, and with them beyond, the tail is less than half a unit of the results.
struct NormalTailInPieces {
  using T = Vector<float>;
  const T x;

  FL_HD explicit NormalTailInPieces(T x) : x(x) {}
  FL_HD T moment_less(T number) const {
    const T a = minimum(T(normal_tail.end), absolute(x)), near = multiply_add(-a, evaluate(normal_tail, a), number);
    return any_below(x, -normal_tail.end) ? moment_less_far(x, number, near) : near;
  }
  FL_HD T moment_derivative() const {
    const T near = evaluate(normal_moment_derivative, minimum(T(normal_moment_derivative.end), absolute(x)));
    return any_below(x, -normal_moment_derivative.end) ? moment_derivative_far(x, near) : near;
  }

 private:
  FL_APART static T moment_less_far(T x, T number, T near) {
    return select(x < T(-normal_tail.end), NormalTailOf<T>(x).moment_less(number), near);
  }
  FL_APART static T moment_derivative_far(T x, T near) {
    return select(x < T(-normal_moment_derivative.end), NormalTailOf<T>(x).moment_derivative(), near);
  }
};

struct TwoNormalTailsInPieces {
  const NormalTailInPieces first, second;

  FL_HD explicit TwoNormalTailsInPieces(Interleaved<float> x) : first(x.first), second(x.second) {}
  FL_HD Interleaved<float> moment_less(Interleaved<float> number) const {
    return {first.moment_less(number.first), second.moment_less(number.second)};
  }
  FL_HD Interleaved<float> moment_derivative() const { return {first.moment_derivative(), second.moment_derivative()}; }
};

template <> struct NormalTailFor<Vector<float>> {
  using type = NormalTailInPieces;
};
template <> struct NormalTailFor<Interleaved<float>> {
  using type = TwoNormalTailsInPieces;
};

}  // namespace math
}  // namespace fastlayers::FL_CPU_CAPABILITY

#endif
