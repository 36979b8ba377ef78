// The Chebyshev recurrence of chebyshev.py, its tangent and its adjoint, for processors; called through XLA's FFI.
//
// One work item is a segment and as many of its tilts as a vector has lanes. Its state, matrix and sums stay in the
// caches of one core, and nearly all time goes into `product`, a register tile of GROUP rows by one complex vector.
// The formulas and the names are those of chebyshev.py.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

// GROUP: rows of a tile, whose sums fill half of the registers. WIDEST: bytes of a register, NARROWEST: of the vectors of
// segments with few tilts. Wider ones than the registers took twelve to nineteen times as long: GCC keeps them in memory.
#if defined(__AVX512F__)
constexpr int GROUP = 8, WIDEST = 64, NARROWEST = 32;
#elif defined(__AVX__)
constexpr int GROUP = 4, WIDEST = 32, NARROWEST = 32;
#elif defined(__aarch64__)
constexpr int GROUP = 8, WIDEST = 16, NARROWEST = 16;
#else
constexpr int GROUP = 4, WIDEST = 16, NARROWEST = 16;
#endif
constexpr int BLOCK = 16;                // steps whose scored beams are summed over the nodes together
constexpr int64_t HISTORY = 256 * 1024;  // bytes of steps whose outer products are taken together

int64_t groups_of(int64_t count, int64_t size) { return (count + size - 1) / size; }

// Sums over k of a[k] * b[k] for GROUP rows: complex (PARTS = 2, b is Re, Im) or real (two columns b).
template <int PARTS, class Real, class Vec>
inline void product(const Real* a, const Vec* b, int64_t length, Vec* first, Vec* second) {
  Vec s[GROUP] = {}, t[GROUP] = {};
  for (int64_t k = 0; k < length; ++k, a += PARTS * GROUP, b += 2) {
    const Vec b0 = b[0], b1 = b[1];
#pragma GCC unroll 8
    for (int r = 0; r < GROUP; ++r) {
      s[r] += a[r] * b0;
      t[r] += a[r] * b1;
      if constexpr (PARTS == 2) {
        s[r] -= a[GROUP + r] * b1;
        t[r] += a[GROUP + r] * b0;
      }
    }
  }
  for (int r = 0; r < GROUP; ++r) {
    first[r] += s[r];
    second[r] += t[r];
  }
}

// Sizes shared by all segments of a call.
struct Shape {
  int64_t segments, beams, tilts, sums, terms, rows;
};

// What a thread needs for one work item; kept between items so that memory is taken once.
template <class Real, class Vec, int PARTS>
struct Item {
  static constexpr int64_t LANES = sizeof(Vec) / sizeof(Real);
  using Vecs = std::vector<Vec>;
  int64_t n, panels, first_tilt, lanes;
  std::vector<Real> matrix, adjoint;  // the adjoint is empty where it is the matrix itself
  Vecs diagonal, flux;
  Real damping;  // of Ahat = M V M + D - i damping

  // Packs rows of the matrix [PARTS beams beams] in groups, [panel][column][part][row].
  void pack(const Real* source, int64_t beams, std::vector<Real>& packed) const {
    packed.assign(panels * n * PARTS * GROUP, Real(0));
    for (int64_t g = 0; g < n; ++g)
      for (int part = 0; part < PARTS; ++part) {
        Real* to = &packed[((g / GROUP * n) * PARTS + part) * GROUP + g % GROUP];
        const Real* from = source + (part * beams + g) * beams;
        for (int64_t h = 0; h < n; ++h) to[h * PARTS * GROUP] = from[h];
      }
  }

  // Packs the adjoint of the matrix where it is another matrix, as with absorption.
  void pack_adjoint(const Real* source, int64_t beams) {
    auto element = [&](int part, int64_t g, int64_t h) { return source[(part * beams + g) * beams + h]; };
    auto mate = [&](int part, int64_t g, int64_t h) { return part ? -element(1, h, g) : element(0, h, g); };
    adjoint.clear();
    bool same = true;
    for (int part = 0; part < PARTS; ++part)
      for (int64_t g = 0; g < n && same; ++g)
        for (int64_t h = 0; h <= g; ++h) same = same && element(part, g, h) == mate(part, g, h);
    if (same) return;
    adjoint.assign(matrix.size(), Real(0));
    for (int64_t g = 0; g < n; ++g)
      for (int64_t h = 0; h < n; ++h)
        for (int part = 0; part < PARTS; ++part)
          adjoint[((g / GROUP * n + h) * PARTS + part) * GROUP + g % GROUP] = mate(part, g, h);
  }

  // Lanes of an array [beams tilts]; lanes without a tilt get `fill`.
  void lanes_of(const Real* source, int64_t tilts, Real fill, Vecs& to) const {
    to.assign(panels * GROUP, Vec{} + fill);
    for (int64_t g = 0; g < n; ++g)
      for (int64_t t = 0; t < lanes; ++t) to[g][t] = source[g * tilts + first_tilt + t];
  }

  // Lanes of complex rows stored as [Re | Im] side by side [rows 2*tilts], to [row][Re, Im].
  void complex_lanes(const Real* source, int64_t count, int64_t tilts, Vec* to) const {
    for (int64_t g = 0; g < count; ++g)
      for (int part = 0; part < 2; ++part) {
        to[2 * g + part] = Vec{};
        for (int64_t t = 0; t < lanes; ++t) to[2 * g + part][t] = source[(2 * g + part) * tilts + first_tilt + t];
      }
  }

  void store_lanes(const Vec* from, int64_t count, int64_t tilts, Real* to) const {
    for (int64_t g = 0; g < count; ++g)
      for (int part = 0; part < 2; ++part)
        for (int64_t t = 0; t < lanes; ++t) to[(2 * g + part) * tilts + first_tilt + t] = from[2 * g + part][t];
  }

  void load(const Shape& shape, int64_t segment, int64_t chunk, int64_t beams, const Real* v, const Real* d,
            const Real* m, const Real* damp) {
    n = beams;
    damping = damp[segment];
    panels = groups_of(n, GROUP);
    first_tilt = chunk * LANES;
    lanes = std::min<int64_t>(LANES, shape.tilts - first_tilt);
    pack(v + segment * PARTS * shape.beams * shape.beams, shape.beams, matrix);
    lanes_of(d + segment * shape.beams * shape.tilts, shape.tilts, Real(0), diagonal);
    lanes_of(m + segment * shape.beams * shape.tilts, shape.tilts, Real(1), flux);
  }

  int64_t size() const { return 2 * panels * GROUP; }

  void incident(Vecs& state) const {
    state.assign(size(), Vec{});
    for (int64_t t = 0; t < lanes; ++t) state[0][t] = Real(1);
  }

  // out = M * in
  void with_flux(const Vecs& in, Vecs& out) const {
    for (int64_t g = 0; g < n; ++g) {
      out[2 * g] = flux[g] * in[2 * g];
      out[2 * g + 1] = flux[g] * in[2 * g + 1];
    }
  }

  // out += matrix * in
  void couple(const std::vector<Real>& packed, const Vecs& in, Vecs& out) const {
    for (int64_t p = 0; p < panels; ++p) {
      Vec re[GROUP] = {}, im[GROUP] = {};
      product<PARTS>(&packed[p * n * PARTS * GROUP], in.data(), n, re, im);
      for (int r = 0; r < GROUP; ++r) {
        out[2 * (p * GROUP + r)] += re[r];
        out[2 * (p * GROUP + r) + 1] += im[r];
      }
    }
  }

  // coupled = V (M X); older becomes factor * (M coupled + D X - i damping X) - older, the next state
  void advance(const Vecs& state, Vecs& older, Vecs& fluxed, Vecs& coupled, Real factor) const {
    advance_by(matrix, damping, state, older, fluxed, coupled, factor);
  }

  // The same with V^H and + i damping.
  void advance_adjoint(const Vecs& state, Vecs& older, Vecs& fluxed, Vecs& coupled, Real factor) const {
    advance_by(adjoint.empty() ? matrix : adjoint, -damping, state, older, fluxed, coupled, factor);
  }

  void advance_by(const std::vector<Real>& packed, Real damp, const Vecs& state, Vecs& older, Vecs& fluxed,
                  Vecs& coupled, Real factor) const {
    with_flux(state, fluxed);
    std::fill(coupled.begin(), coupled.end(), Vec{});
    couple(packed, fluxed, coupled);
    for (int64_t g = 0; g < n; ++g)
      for (int64_t i = 2 * g; i < 2 * g + 2; ++i)
        older[i] = factor * (flux[g] * coupled[i] + diagonal[g] * state[i]) - older[i];
    add_damping(factor * damp, state, older);
  }

  // older -= i amount * state
  void add_damping(Real amount, const Vecs& state, Vecs& older) const {
    if (amount == Real(0)) return;
    for (int64_t g = 0; g < n; ++g) {
      older[2 * g] += amount * state[2 * g + 1];
      older[2 * g + 1] -= amount * state[2 * g];
    }
  }

  // X_0 and X_{-1} = X_1
  void begin(Vecs& state, Vecs& older, Vecs& fluxed, Vecs& coupled) const {
    incident(state);
    older.assign(size(), Vec{});
    fluxed.assign(size(), Vec{});
    coupled.assign(size(), Vec{});
    advance(state, older, fluxed, coupled, Real(1));
  }
};

// Coefficients of a segment as [term][sum], sums padded to a multiple of eight.
template <class Real>
struct Coefficients {
  int64_t width;
  std::vector<Real> value;
  void load(const Shape& shape, const Real* source) {
    width = groups_of(shape.sums, 8) * 8;
    value.assign((shape.terms + BLOCK) * width, Real(0));
    for (int64_t q = 0; q < shape.sums; ++q)
      for (int64_t k = 0; k < shape.terms; ++k) value[k * width + q] = source[q * shape.terms + k];
  }
};

// sums[parity][q][row][Re, Im] += coefficients of the block times its history [step][row][Re, Im]
template <class Real, class Vec>
void add_block(const Coefficients<Real>& c, int64_t start, int64_t steps, int64_t values, const std::vector<Vec>& history,
               std::vector<Vec>& sums) {
  for (int64_t v = 0; v < values; ++v)
    for (int64_t parity = 0; parity < 2; ++parity)
      for (int64_t q = 0; q < c.width; q += 8) {
        Vec s[8] = {};
        for (int64_t k = parity; k < steps; k += 2) {
          const Vec x = history[k * values + v];
          const Real* a = &c.value[(start + k) * c.width + q];
#pragma GCC unroll 8
          for (int j = 0; j < 8; ++j) s[j] += a[j] * x;
        }
        for (int j = 0; j < 8; ++j) sums[(parity * c.width + q + j) * values + v] += s[j];
      }
}

// history[step][row][Re, Im] = what the sums' cotangents give each step of the block
template <class Real, class Vec>
void spread_block(const Coefficients<Real>& c, int64_t start, int64_t values, const std::vector<Vec>& cotangent,
                  std::vector<Vec>& history) {
  for (int64_t v = 0; v < values; ++v)
    for (int64_t parity = 0; parity < 2; ++parity) {
      Vec s[BLOCK / 2] = {};
      const Real* a = &c.value[(start + parity) * c.width];
      for (int64_t q = 0; q < c.width; ++q, ++a) {
        const Vec x = cotangent[(parity * c.width + q) * values + v];
#pragma GCC unroll 8
        for (int j = 0; j < BLOCK / 2; ++j) s[j] += a[2 * j * c.width] * x;
      }
      for (int j = 0; j < BLOCK / 2; ++j) history[(2 * j + parity) * values + v] = s[j];
    }
}

// Work items by several threads, the last (largest) segments first.
template <class Work>
void in_parallel(int64_t items, int64_t threads, Work work) {
  std::atomic<int64_t> next{items};
  auto run = [&] {
    auto one = work();
    for (int64_t i = --next; i >= 0; i = --next) one(i);
  };
  std::vector<std::thread> pool;
  for (int64_t t = 1; t < std::min(threads, items); ++t) pool.emplace_back(run);
  run();
  for (auto& thread : pool) thread.join();
}

// sums[segment][parity q row 2*tilts] of the array [2 segments sums rows 2*tilts]
inline int64_t sum_place(const Shape& s, int64_t parity, int64_t segment, int64_t q) {
  return ((parity * s.segments + segment) * s.sums + q) * s.rows * 2 * s.tilts;
}

template <class Real, class Vec, int PARTS>
void forward(const Shape& shape, int64_t threads, const Real* v, const Real* d, const Real* m, const Real* damping,
             const Real* coefficient, const int32_t* steps, const int32_t* beams, Real* out, Real* last, Real* beyond) {
  using One = Item<Real, Vec, PARTS>;
  const int64_t chunks = groups_of(shape.tilts, One::LANES), values = 2 * shape.rows;
  in_parallel(shape.segments * chunks, threads, [&] {
    return [&, item = One(), c = Coefficients<Real>(), state = std::vector<Vec>(), older = std::vector<Vec>(),
            fluxed = std::vector<Vec>(), coupled = std::vector<Vec>(), history = std::vector<Vec>(),
            sums = std::vector<Vec>()](int64_t index) mutable {
      const int64_t segment = index / chunks, total = std::min<int64_t>(steps[segment], shape.terms);
      item.load(shape, segment, index % chunks, beams[segment], v, d, m, damping);
      c.load(shape, coefficient + segment * shape.sums * shape.terms);
      item.begin(state, older, fluxed, coupled);
      const int64_t kept = std::min(values, item.size());
      history.assign(BLOCK * values, Vec{});
      sums.assign(2 * c.width * values, Vec{});
      for (int64_t start = 0; start < total; start += BLOCK) {
        const int64_t count = std::min<int64_t>(BLOCK, total - start);
        for (int64_t k = 0; k < count; ++k) {
          std::copy(state.begin(), state.begin() + kept, history.begin() + k * values);
          item.advance(state, older, fluxed, coupled, Real(2));
          std::swap(state, older);
        }
        add_block(c, start, count, values, history, sums);
      }
      for (int64_t parity = 0; parity < 2; ++parity)
        for (int64_t q = 0; q < shape.sums; ++q)
          item.store_lanes(&sums[(parity * c.width + q) * values], shape.rows, shape.tilts,
                           out + sum_place(shape, parity, segment, q));
      const int64_t offset = segment * shape.beams * 2 * shape.tilts;
      item.store_lanes(older.data(), item.n, shape.tilts, last + offset);
      item.store_lanes(state.data(), item.n, shape.tilts, beyond + offset);
    };
  });
}

// Outer products sum_k L_k X_k^H of a few steps, taken together: both sides are packed for `product`.
template <class Real, class Vec, int PARTS>
struct Outer {
  static constexpr int64_t LANES = sizeof(Vec) / sizeof(Real), WIDE = PARTS == 2 ? LANES : 2 * LANES;
  int64_t n, panels, columns, most, length, filled = 0;
  std::vector<Real> left;
  std::vector<Vec> right, sums;

  void begin(int64_t beams) {
    n = beams;
    panels = groups_of(n, GROUP);
    columns = groups_of(n, WIDE);
    most = std::clamp<int64_t>(HISTORY / (4 * n * int64_t(sizeof(Vec))), 1, BLOCK);
    length = most * LANES * (PARTS == 2 ? 1 : 2);
    left.assign(panels * length * PARTS * GROUP, Real(0));
    right.assign(columns * length * 2, Vec{});
    sums.assign(panels * columns * 2 * GROUP, Vec{});
    filled = 0;
  }

  void add(const std::vector<Vec>& l, const std::vector<Vec>& x, Real weight) {
    const int64_t step = PARTS == 2 ? LANES : 2 * LANES, place = filled * step;
    for (int64_t g = 0; g < n; ++g) {
      const Real* from = reinterpret_cast<const Real*>(&l[2 * g]);
      Real* to = &left[(g / GROUP * length + place) * PARTS * GROUP + g % GROUP];
      for (int64_t t = 0; t < LANES; ++t) {
        if constexpr (PARTS == 2) {
          to[2 * t * GROUP] = weight * from[t];
          to[(2 * t + 1) * GROUP] = weight * from[LANES + t];
        } else {
          to[t * GROUP] = weight * from[t];
          to[(LANES + t) * GROUP] = weight * from[LANES + t];
        }
      }
    }
    Real* base = reinterpret_cast<Real*>(right.data());
    for (int64_t h = 0; h < n; ++h) {
      const Real* from = reinterpret_cast<const Real*>(&x[2 * h]);
      Real* to = base + (h / WIDE * length + place) * 2 * LANES + h % WIDE;
      for (int64_t t = 0; t < LANES; ++t) {
        if constexpr (PARTS == 2) {
          to[2 * t * LANES] = from[t];
          to[(2 * t + 1) * LANES] = -from[LANES + t];
        } else {
          to[2 * t * LANES] = from[t];
          to[2 * (LANES + t) * LANES] = from[LANES + t];
        }
      }
    }
    if (++filled == most) flush();
  }

  void flush() {
    const int64_t used = filled * LANES * (PARTS == 2 ? 1 : 2);
    for (int64_t column = 0; column < columns; ++column)
      for (int64_t p = 0; p < panels; ++p) {
        Vec* to = &sums[(p * columns + column) * 2 * GROUP];
        product<PARTS>(&left[p * length * PARTS * GROUP], &right[column * length * 2], used, to, to + GROUP);
      }
    filled = 0;
  }

  void add_to(Real* out, int64_t beams) const {
    for (int64_t g = 0; g < n; ++g)
      for (int64_t h = 0; h < n; ++h) {
        const Vec* from = &sums[(g / GROUP * columns + h / WIDE) * 2 * GROUP + g % GROUP];
        if constexpr (PARTS == 2) {
          out[g * beams + h] += from[0][h % WIDE];
          out[(beams + g) * beams + h] += from[GROUP][h % WIDE];
        } else {
          out[g * beams + h] += from[h % WIDE < LANES ? 0 : GROUP][h % LANES];
        }
      }
  }
};

template <class Real, class Vec, int PARTS>
void backward(const Shape& shape, int64_t threads, const Real* v, const Real* d, const Real* m, const Real* damping,
              const Real* coefficient, const int32_t* steps, const int32_t* beams, const Real* last, const Real* beyond,
              const Real* cotangent, Real* d_v, Real* d_d, Real* d_m) {
  using One = Item<Real, Vec, PARTS>;
  const int64_t chunks = groups_of(shape.tilts, One::LANES), values = 2 * shape.rows;
  std::vector<std::mutex> owner(64);
  in_parallel(shape.segments * chunks, threads, [&] {
    using Vecs = std::vector<Vec>;
    return [&, item = One(), c = Coefficients<Real>(), outer = Outer<Real, Vec, PARTS>(), state = Vecs(), newer = Vecs(),
            adjoint = Vecs(), above = Vecs(), fluxed = Vecs(), coupled = Vecs(), left = Vecs(), coupled_left = Vecs(),
            history = Vecs(), sums = Vecs(), by_diagonal = Vecs(), by_flux = Vecs()](int64_t index) mutable {
      const int64_t segment = index / chunks, total = std::min<int64_t>(steps[segment], shape.terms);
      item.load(shape, segment, index % chunks, beams[segment], v, d, m, damping);
      c.load(shape, coefficient + segment * shape.sums * shape.terms);
      item.pack_adjoint(v + segment * PARTS * shape.beams * shape.beams, shape.beams);
      outer.begin(item.n);
      for (Vecs* x : {&state, &newer, &adjoint, &above, &fluxed, &coupled, &left, &coupled_left})
        x->assign(item.size(), Vec{});
      const int64_t offset = segment * shape.beams * 2 * shape.tilts, kept = std::min(values, item.size());
      item.complex_lanes(last + offset, item.n, shape.tilts, state.data());
      item.complex_lanes(beyond + offset, item.n, shape.tilts, newer.data());
      sums.assign(2 * c.width * values, Vec{});
      for (int64_t parity = 0; parity < 2; ++parity)
        for (int64_t q = 0; q < shape.sums; ++q)
          item.complex_lanes(cotangent + sum_place(shape, parity, segment, q), shape.rows, shape.tilts,
                             &sums[(parity * c.width + q) * values]);
      history.assign(BLOCK * values, Vec{});
      by_diagonal.assign(item.n, Vec{});
      by_flux.assign(item.n, Vec{});
      for (int64_t k = total - 1; k >= 0; --k) {
        // newer = X_{k+1}, state = X_k, adjoint = L_{k+1}, above = L_{k+2}
        if (k == total - 1 || k % BLOCK == BLOCK - 1) spread_block(c, k / BLOCK * BLOCK, values, sums, history);
        const Real weight = k == 0 ? Real(1) : Real(2);
        item.advance(state, newer, fluxed, coupled, Real(2));
        item.advance_adjoint(adjoint, above, left, coupled_left, weight);
        for (int64_t i = 0; i < kept; ++i) above[i] += history[k % BLOCK * values + i];
        for (int64_t g = 0; g < item.n; ++g)
          for (int64_t i = 2 * g; i < 2 * g + 2; ++i) {
            by_diagonal[g] += weight * adjoint[i] * state[i];
            by_flux[g] += weight * (adjoint[i] * coupled[i] + coupled_left[i] * state[i]);
          }
        outer.add(left, fluxed, weight);
        std::swap(state, newer);
        std::swap(adjoint, above);
      }
      outer.flush();
      for (int64_t g = 0; g < item.n; ++g)
        for (int64_t t = 0; t < item.lanes; ++t) {
          const int64_t place = (segment * shape.beams + g) * shape.tilts + item.first_tilt + t;
          d_d[place] = by_diagonal[g][t];
          d_m[place] = by_flux[g][t];
        }
      std::lock_guard<std::mutex> lock(owner[segment % owner.size()]);
      outer.add_to(d_v + segment * PARTS * shape.beams * shape.beams, shape.beams);
    };
  });
}

// Where one of `count` batched results finds its argument with `own` leading elements: 1 or all of them.
inline int64_t batch_place(int64_t index, int64_t own) { return own == 1 ? 0 : index; }

template <class Real>
struct Batched {
  const Real* data;
  int64_t count, size;
  const Real* at(int64_t index) const { return data + batch_place(index, count) * size; }
};

template <class Real, class Vec, int PARTS>
void tangent(const Shape& shape, int64_t threads, int64_t batch, Batched<Real> v, Batched<Real> d, Batched<Real> m,
             Batched<Real> damping, Batched<Real> coefficient, Batched<int32_t> steps, Batched<int32_t> beams,
             Batched<Real> dot_v, Batched<Real> dot_d, Batched<Real> dot_m, Real* out) {
  using One = Item<Real, Vec, PARTS>;
  struct Tangent {
    std::vector<Vec> state, older, diagonal, flux, history, sums;
    std::vector<Real> matrix;
    bool couples;
  };
  const int64_t chunks = groups_of(shape.tilts, One::LANES), values = 2 * shape.rows;
  const bool shared = v.count == 1 && d.count == 1 && m.count == 1 && damping.count == 1 && coefficient.count == 1 &&
                      steps.count == 1;
  const int64_t runs = shared ? 1 : batch, together = shared ? batch : 1, area = shape.beams * shape.beams * PARTS;
  in_parallel(runs * shape.segments * chunks, threads, [&] {
    using Vecs = std::vector<Vec>;
    return [&, item = One(), c = Coefficients<Real>(), state = Vecs(), older = Vecs(), fluxed = Vecs(), coupled = Vecs(),
            turned = Vecs(), gained = Vecs(), tangents = std::vector<Tangent>()](int64_t index) mutable {
      const int64_t run = index / (shape.segments * chunks), segment = index / chunks % shape.segments;
      const int64_t total = std::min<int64_t>(steps.at(run)[segment], shape.terms);
      item.load(shape, segment, index % chunks, beams.at(run)[segment], v.at(run), d.at(run), m.at(run),
                damping.at(run));
      c.load(shape, coefficient.at(run) + segment * shape.sums * shape.terms);
      item.begin(state, older, fluxed, coupled);
      turned.assign(item.size(), Vec{});
      gained.assign(item.size(), Vec{});
      const int64_t kept = std::min(values, item.size()), plane = segment * shape.beams * shape.tilts;
      tangents.resize(together);
      // d X_{k+1} = factor * (dM (V M X) + M (V (dM X + M dX) + dV M X) + dD X + (D - i damping) dX) - d X_{k-1}
      auto change = [&](Tangent& one, Real factor) {
        for (int64_t g = 0; g < item.n; ++g)
          for (int64_t i = 2 * g; i < 2 * g + 2; ++i)
            turned[i] = item.flux[g] * one.state[i] + one.flux[g] * state[i];
        std::fill(gained.begin(), gained.end(), Vec{});
        item.couple(item.matrix, turned, gained);
        if (one.couples) item.couple(one.matrix, fluxed, gained);
        for (int64_t g = 0; g < item.n; ++g)
          for (int64_t i = 2 * g; i < 2 * g + 2; ++i)
            one.older[i] = factor * (item.flux[g] * gained[i] + one.flux[g] * coupled[i] +
                                     item.diagonal[g] * one.state[i] + one.diagonal[g] * state[i]) -
                           one.older[i];
        item.add_damping(factor * item.damping, one.state, one.older);
      };
      for (int64_t b = 0; b < together; ++b) {
        Tangent& one = tangents[b];
        const Real* matrix = dot_v.at(run + b) + segment * area;
        one.couples = std::any_of(matrix, matrix + area, [](Real x) { return x != Real(0); });
        if (one.couples) item.pack(matrix, shape.beams, one.matrix);
        item.lanes_of(dot_d.at(run + b) + plane, shape.tilts, Real(0), one.diagonal);
        item.lanes_of(dot_m.at(run + b) + plane, shape.tilts, Real(0), one.flux);
        one.state.assign(item.size(), Vec{});
        one.older.assign(item.size(), Vec{});
        one.history.assign(BLOCK * values, Vec{});
        one.sums.assign(2 * c.width * values, Vec{});
        change(one, Real(1));
      }
      for (int64_t start = 0; start < total; start += BLOCK) {
        const int64_t count = std::min<int64_t>(BLOCK, total - start);
        for (int64_t k = 0; k < count; ++k) {
          item.advance(state, older, fluxed, coupled, Real(2));
          for (Tangent& one : tangents) {
            std::copy(one.state.begin(), one.state.begin() + kept, one.history.begin() + k * values);
            change(one, Real(2));
            std::swap(one.state, one.older);
          }
          std::swap(state, older);
        }
        for (Tangent& one : tangents) add_block(c, start, count, values, one.history, one.sums);
      }
      const int64_t all = 2 * shape.segments * shape.sums * shape.rows * 2 * shape.tilts;
      for (int64_t b = 0; b < together; ++b)
        for (int64_t parity = 0; parity < 2; ++parity)
          for (int64_t q = 0; q < shape.sums; ++q)
            item.store_lanes(&tangents[b].sums[(parity * c.width + q) * values], shape.rows, shape.tilts,
                             out + (run + b) * all + sum_place(shape, parity, segment, q));
    };
  });
}

// Calls work<Vec, PARTS> for the parts of the matrix (real or complex) and the number of tilts.
template <class Real, class Work>
void choose(int64_t parts, int64_t tilts, Work work) {
  typedef Real Half __attribute__((vector_size(NARROWEST)));
  typedef Real Full __attribute__((vector_size(WIDEST)));
  const bool half = tilts * int64_t(sizeof(Real)) <= NARROWEST;
  if (parts == 2)
    half ? work(Half{}, std::integral_constant<int, 2>{}) : work(Full{}, std::integral_constant<int, 2>{});
  else
    half ? work(Half{}, std::integral_constant<int, 1>{}) : work(Full{}, std::integral_constant<int, 1>{});
}

template <ffi::DataType T>
using In = ffi::Buffer<T>;
template <ffi::DataType T>
using Out = ffi::Result<ffi::Buffer<T>>;
using Ints = ffi::Buffer<ffi::S32>;

// V [.. segments parts beams beams], D [.. segments beams tilts], coefficients [.. segments sums terms]
template <class V, class D, class C>
Shape shape_of(const V& v, const D& d, const C& c, int64_t rows) {
  auto a = v.dimensions(), b = d.dimensions(), e = c.dimensions();
  return {int64_t(a[a.size() - 4]), int64_t(a[a.size() - 1]), int64_t(b[b.size() - 1]),
          int64_t(e[e.size() - 2]), int64_t(e[e.size() - 1]), rows};
}

template <class B>
int64_t parts_of(const B& v) {
  auto a = v.dimensions();
  return a[a.size() - 3];
}

template <ffi::DataType T>
ffi::Error forward_call(int64_t rows, int64_t threads, In<T> v, In<T> d, In<T> m, In<T> damping, In<T> c, Ints steps,
                        Ints beams, Out<T> out, Out<T> last, Out<T> beyond) {
  using Real = ffi::NativeType<T>;
  std::memset(last->untyped_data(), 0, last->size_bytes());
  std::memset(beyond->untyped_data(), 0, beyond->size_bytes());
  const Shape shape = shape_of(v, d, c, rows);
  choose<Real>(parts_of(v), shape.tilts, [&](auto vec, auto parts) {
    forward<Real, decltype(vec), decltype(parts)::value>(
        shape, threads, v.typed_data(), d.typed_data(), m.typed_data(), damping.typed_data(), c.typed_data(),
        steps.typed_data(), beams.typed_data(), out->typed_data(), last->typed_data(), beyond->typed_data());
  });
  return ffi::Error::Success();
}

template <ffi::DataType T>
ffi::Error backward_call(int64_t rows, int64_t threads, In<T> v, In<T> d, In<T> m, In<T> damping, In<T> c, Ints steps,
                         Ints beams, In<T> last, In<T> beyond, In<T> cotangent, Out<T> d_v, Out<T> d_d, Out<T> d_m) {
  using Real = ffi::NativeType<T>;
  for (auto* out : {&d_v, &d_d, &d_m}) std::memset((*out)->untyped_data(), 0, (*out)->size_bytes());
  const Shape shape = shape_of(v, d, c, rows);
  choose<Real>(parts_of(v), shape.tilts, [&](auto vec, auto parts) {
    backward<Real, decltype(vec), decltype(parts)::value>(
        shape, threads, v.typed_data(), d.typed_data(), m.typed_data(), damping.typed_data(), c.typed_data(),
        steps.typed_data(), beams.typed_data(), last.typed_data(), beyond.typed_data(), cotangent.typed_data(),
        d_v->typed_data(), d_d->typed_data(), d_m->typed_data());
  });
  return ffi::Error::Success();
}

template <ffi::DataType T>
ffi::Error tangent_call(int64_t rows, int64_t threads, In<T> v, In<T> d, In<T> m, In<T> damping, In<T> c, Ints steps,
                        Ints beams, In<T> dot_v, In<T> dot_d, In<T> dot_m, Out<T> out) {
  using Real = ffi::NativeType<T>;
  const Shape shape = shape_of(v, d, c, rows);
  const int64_t n = shape.segments * shape.beams, each = 4 * shape.segments * shape.sums * shape.rows * shape.tilts;
  const int64_t batch = out->element_count() / each, parts = parts_of(v);
  auto batched = [&](const auto& buffer, int64_t size) {
    return Batched<std::remove_const_t<std::remove_pointer_t<decltype(buffer.typed_data())>>>{
        buffer.typed_data(), int64_t(buffer.element_count()) / size, size};
  };
  for (int64_t count : {batched(v, n * shape.beams * parts).count, batched(dot_v, n * shape.beams * parts).count,
                        batched(d, n * shape.tilts).count, batched(dot_d, n * shape.tilts).count})
    if (count != 1 && count != batch)
      return ffi::Error::InvalidArgument("nested batches of tangents: expected one batch axis");
  auto zero = [](const auto& buffer) {
    const Real* x = buffer.typed_data();
    return std::all_of(x, x + buffer.element_count(), [](Real value) { return value == Real(0); });
  };
  if (zero(dot_d) && zero(dot_m) && zero(dot_v)) {  // a change of thickness alone leaves the recurrence as it is
    std::memset(out->untyped_data(), 0, out->size_bytes());
    return ffi::Error::Success();
  }
  choose<Real>(parts, shape.tilts, [&](auto vec, auto number) {
    tangent<Real, decltype(vec), decltype(number)::value>(
        shape, threads, batch, batched(v, n * shape.beams * parts), batched(d, n * shape.tilts),
        batched(m, n * shape.tilts), batched(damping, shape.segments),
        batched(c, shape.segments * shape.sums * shape.terms), batched(steps, shape.segments),
        batched(beams, shape.segments), batched(dot_v, n * shape.beams * parts), batched(dot_d, n * shape.tilts),
        batched(dot_m, n * shape.tilts), out->typed_data());
  });
  return ffi::Error::Success();
}

}  // namespace

#define ARGUMENTS(T)                                                                                                 \
  Attr<int64_t>("rows").Attr<int64_t>("threads").Arg<In<T>>().Arg<In<T>>().Arg<In<T>>().Arg<In<T>>().Arg<In<T>>()    \
      .Arg<Ints>().Arg<Ints>()

#define HANDLERS(NAME, T)                                                                                            \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(pendel_forward_##NAME, forward_call<T>,                                              \
                                ffi::Ffi::Bind().ARGUMENTS(T).Ret<In<T>>().Ret<In<T>>().Ret<In<T>>());               \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(pendel_backward_##NAME, backward_call<T>,                                            \
                                ffi::Ffi::Bind().ARGUMENTS(T).Arg<In<T>>().Arg<In<T>>().Arg<In<T>>().Ret<In<T>>()    \
                                    .Ret<In<T>>().Ret<In<T>>());                                                     \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(pendel_tangent_##NAME, tangent_call<T>,                                              \
                                ffi::Ffi::Bind().ARGUMENTS(T).Arg<In<T>>().Arg<In<T>>().Arg<In<T>>().Ret<In<T>>());

HANDLERS(float32, ffi::F32)
HANDLERS(float64, ffi::F64)
