// Interleaved<Scalar>: two registers as one vector, with the operators of Vector.
//
// An activation is a long chain of operations that wait for one another. With AVX2 two chains side by side take less time, the more the
// quieter the core's other hyperthread; a processor with AVX-512 is kept busy by one.
#pragma once

#include "vector.h"

namespace fastlayers::FL_CPU_CAPABILITY {

template <class Scalar> struct InterleavedMask {
  Mask<Scalar> first, second;

  friend FL_HD InterleavedMask operator&(InterleavedMask a, InterleavedMask b) { return {a.first & b.first, a.second & b.second}; }
  friend FL_HD InterleavedMask operator|(InterleavedMask a, InterleavedMask b) { return {a.first | b.first, a.second | b.second}; }
  friend FL_HD InterleavedMask operator!(InterleavedMask a) { return {!a.first, !a.second}; }
};

template <class ScalarType> struct Interleaved {
  using Scalar = ScalarType;
  using Part = Vector<Scalar>;
  static constexpr int registers = 2, size = registers * Part::size;

  Part first, second;

  Interleaved() = default;
  FL_HD Interleaved(Part first, Part second) : first(first), second(second) {}
  FL_HD Interleaved(Scalar value) : first(value), second(value) {}

  FL_HD Scalar operator[](int lane) const { return lane < Part::size ? first[lane] : second[lane - Part::size]; }
  FL_HD void set(int lane, Scalar value) { lane < Part::size ? first.set(lane, value) : second.set(lane - Part::size, value); }
  FL_HD Interleaved operator-() const { return {-first, -second}; }
  FL_HD Interleaved& operator+=(Interleaved other) { return first += other.first, second += other.second, *this; }
  FL_HD Interleaved& operator-=(Interleaved other) { return first -= other.first, second -= other.second, *this; }
  FL_HD Interleaved& operator*=(Interleaved other) { return first *= other.first, second *= other.second, *this; }

#define FL_OPERATOR(Result, symbol) \
  friend FL_HD Result operator symbol(Interleaved a, Interleaved b) { return {a.first symbol b.first, a.second symbol b.second}; }
  FL_OPERATOR(Interleaved, +)
  FL_OPERATOR(Interleaved, -)
  FL_OPERATOR(Interleaved, *)
  FL_OPERATOR(Interleaved, /)
  FL_OPERATOR(Interleaved, &)
  FL_OPERATOR(Interleaved, |)
  FL_OPERATOR(Interleaved, ^)
  FL_OPERATOR(InterleavedMask<Scalar>, <)
  FL_OPERATOR(InterleavedMask<Scalar>, <=)
  FL_OPERATOR(InterleavedMask<Scalar>, >)
  FL_OPERATOR(InterleavedMask<Scalar>, >=)
  FL_OPERATOR(InterleavedMask<Scalar>, ==)
  FL_OPERATOR(InterleavedMask<Scalar>, !=)
#undef FL_OPERATOR
  friend FL_HD Interleaved operator<<(Interleaved a, int bits) { return {a.first << bits, a.second << bits}; }
  friend FL_HD Interleaved operator>>(Interleaved a, int bits) { return {a.first >> bits, a.second >> bits}; }

  friend FL_HD Interleaved maximum(Interleaved a, Interleaved b) { return {maximum(a.first, b.first), maximum(a.second, b.second)}; }
  friend FL_HD Interleaved minimum(Interleaved a, Interleaved b) { return {minimum(a.first, b.first), minimum(a.second, b.second)}; }
  friend FL_HD Interleaved absolute(Interleaved x) { return {absolute(x.first), absolute(x.second)}; }
  friend FL_HD Interleaved square_root(Interleaved x) { return {square_root(x.first), square_root(x.second)}; }
  friend FL_HD Interleaved power_from_shifted(Interleaved x) { return {power_from_shifted(x.first), power_from_shifted(x.second)}; }
  friend FL_HD Interleaved with_sign_of(Interleaved a, Interleaved b) {
    return {with_sign_of(a.first, b.first), with_sign_of(a.second, b.second)};
  }
  friend FL_HD Interleaved multiply_add(Interleaved a, Interleaved b, Interleaved c) {
    return {multiply_add(a.first, b.first, c.first), multiply_add(a.second, b.second, c.second)};
  }
  friend FL_HD Interleaved multiply_subtract_once(Interleaved a, Interleaved b, Interleaved c) {
    return {multiply_subtract_once(a.first, b.first, c.first), multiply_subtract_once(a.second, b.second, c.second)};
  }
};

FL_HD bool any(InterleavedMask<float> mask) { return any(mask.first | mask.second); }

FL_HD bool any_above(Interleaved<float> x, float bound) { return any(x > Interleaved<float>(bound)); }
FL_HD bool any_below(Interleaved<float> x, float bound) { return any(x < Interleaved<float>(bound)); }
FL_HD bool any_beyond(Interleaved<float> x, float bound) { return any_above(absolute(x), bound); }

template <class Truth, class Scalar>
FL_HD Interleaved<Scalar> select(InterleavedMask<Truth> mask, Interleaved<Scalar> a, Interleaved<Scalar> b) {
  return {select(mask.first, a.first, b.first), select(mask.second, a.second, b.second)};
}

FL_HD Interleaved<int32_t> float_as_int(Interleaved<float> x) { return {float_as_int(x.first), float_as_int(x.second)}; }
FL_HD Interleaved<float> int_as_float(Interleaved<int32_t> x) { return {int_as_float(x.first), int_as_float(x.second)}; }
FL_HD Interleaved<float> negated_if_odd(Interleaved<float> x, Interleaved<int32_t> number) {
  return {negated_if_odd(x.first, number.first), negated_if_odd(x.second, number.second)};
}

// What the loops around activations compute with.
template <class Scalar> struct BlockOf {
  using type = Vector<Scalar>;
};
#if defined(FL_AVX2)
template <> struct BlockOf<float> {
  using type = Interleaved<float>;
};
#endif
template <class Scalar> using Block = typename BlockOf<Scalar>::type;

}  // namespace fastlayers::FL_CPU_CAPABILITY
