// NormalTail for registers of floats: polynomials in place of common/exponentials.h's exponential and quotient, half as many operations.
//
// |x| chooses among eight polynomials by shuffles of registers, which the processor does beside the arithmetic. Where a lane is farther
// out on the negative side than they reach, its result comes from the exponential, which is then computed as well: results of a lane do
// not depend on its neighbours, times do. 2 ULP within reach. The tables are what tools/fit_normal_tail.py prints.
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
    {0.580601394f, 1.72816586f, 2.71536255f, 3.44274974f, 4.0614562f, 4.59944725f, 5.089993f, 5.53406858f},
    {
        {0.280754566f, 0.0419792458f, 0.00331016257f, 0.000287915958f, 2.4383784e-05f, 2.11806719e-06f, 1.79038366e-07f, 1.56443267e-08f},
        {-0.337062299f, -0.0896163806f, -0.00999634806f, -0.00106455176f, -0.000104465696f, -1.01666683e-05f, -9.44176293e-07f,
         -8.92435992e-08f},
        {0.0978493989f, 0.0774360299f, 0.0135718547f, 0.00183249253f, 0.000212141415f, 2.33805295e-05f, 2.40292616e-06f, 2.46940203e-07f},
        {0.037240047f, -0.0296713915f, -0.0106181307f, -0.00192551396f, -0.000269790326f, -3.41513769e-05f, -3.91960702e-06f,
         -4.40655612e-07f},
        {-0.0217127744f, -8.77951243e-05f, 0.00494605862f, 0.00135186536f, 0.000238579654f, 3.53722317e-05f, 4.58710792e-06f,
         5.68481141e-07f},
        {-0.00306633464f, 0.0044818758f, -0.00109298003f, -0.000642018334f, -0.000153322486f, -2.74147751e-05f, -4.08084634e-06f,
         -5.62952607e-07f},
        {0.00318382378f, -0.00127182796f, -0.000165214078f, 0.000187799844f, 7.19475356e-05f, 1.63126078e-05f, 2.85370379e-06f,
         4.44171661e-07f},
        {0.000107966458f, -0.000225071926f, 0.000191792191f, -1.50405513e-05f, -2.34972686e-05f, -7.50598838e-06f, -1.6144171e-06f,
         -2.89460814e-07f},
        {-0.000322752865f, 0.000166032682f, -4.50001935e-05f, -1.15717585e-05f, 4.37350764e-06f, 2.42545048e-06f, 6.83153928e-07f,
         1.42799379e-07f},
    },
};

// The derivative of a (1 - Phi(a)), within 4e-8 of it; where it crosses zero, within 3e-9.
constexpr Pieces normal_moment_derivative = {
    6.0f, 0.137316674f, 0.424433321f,
    {0.455613643f, 1.51590502f, 2.55100489f, 3.36848783f, 4.06309462f, 4.67216253f, 5.23881435f, 5.75147629f},
    {
        {0.160489917f, -0.126911774f, -0.0339398384f, -0.00423992425f, -0.000397425174f, -3.24174944e-05f, -2.21269488e-06f,
         -1.46088823e-07f},
        {-0.644573867f, 0.0376775339f, 0.0694616213f, 0.0128133297f, 0.00150561123f, 0.000143907586f, 1.11396439e-05f, 8.13328654e-07f},
        {0.310682386f, 0.163125947f, -0.0492880009f, -0.0169629417f, -0.00263708201f, -0.000302272063f, -2.68857711e-05f, -2.18840978e-06f},
        {0.155233264f, -0.143416524f, 0.00204392173f, 0.012182897f, 0.00278416765f, 0.00039638186f, 4.12341542e-05f, 3.78015602e-06f},
        {-0.107590221f, 0.0159430299f, 0.0184022505f, -0.00422025053f, -0.00191393634f, -0.000359410682f, -4.48506289e-05f,
         -4.69314273e-06f},
        {-0.0242572203f, 0.0282915365f, -0.0113149909f, -0.000440102856f, 0.000832682592f, 0.000234241612f, 3.64871594e-05f,
         4.43820454e-06f},
        {0.0220905934f, -0.0106567666f, 0.00150594069f, 0.00119695009f, -0.000164830999f, -0.000108661261f, -2.27555956e-05f,
         -3.3102765e-06f},
        {0.00232259557f, -0.00215832004f, 0.00130434835f, -0.00052494253f, -5.38822751e-05f, 3.21417647e-05f, 1.09465645e-05f,
         2.00680938e-06f},
        {-0.00309330295f, 0.00173543859f, -0.000608119648f, 6.04829438e-05f, 5.01345203e-05f, -3.33840671e-06f, -3.64710877e-06f,
         -8.90214949e-07f},
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
