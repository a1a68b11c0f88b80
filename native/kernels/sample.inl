// sample: one token from one row of scores. The order of the filters and what each keeps is specified in
// src/whimbrel/ops/sample/__init__.py.
//
// Nothing is sorted. All three filters that need an order ask the same question: which is the largest threshold above
// which the values weigh enough (in tokens for top-k, in probability for top-p and typical-p)? Bisection on the bits of
// the threshold answers it in at most 32 passes over the candidates, and there are few: maxima of 64 logits each bound
// the k-th largest logit from below, and only groups that reach the bound are read again.
//
// Microseconds at 49,152 normal logits (deviation 3), one core of a Sapphire Rapids, AVX-512 / AVX2 / baseline: greedy
// 8 / 18 / 55, top-k 50 with top-p 0.9: 11 / 20 / 60, top-p 0.9 alone: 117 / 130 / 275, no filter: 30 / 44 / 128. The
// log-softmax of the whole row is 6 of the 8.

constexpr int kMaximumOf = 64;       // logits per maximum: 768 maxima at 49,152, 50 of them reach a typical top-k
constexpr int kFirstNucleus = 256;   // candidates that top-p tries first; then 16 times as many; then all
constexpr float kLowest = -3.4028235e38f;  // of all that is not forbidden
constexpr float kForbidden = -__builtin_inff();

// Tokens still in the game, ids ascending. Arrays are padded to whole vectors with values no threshold reaches.
struct Candidates {
  int count = 0;
  int32_t* ids;
  float* scores;  // logits at first, then (logit - largest) / temperature, in powers of 2
  float* masses;  // 2^score
};

struct SampleScratch {
  float *maxima, *distances;
  Candidates candidates;
};

inline int vectors_of(int count) { return (count + 15) / 16; }

inline void carve(SampleScratch& s, int vocab_size, Carver& carver) {
  const size_t padded = size_t(vectors_of(vocab_size) + 1) * 16;
  s.maxima = carver.take<float>(padded / kMaximumOf + 32);
  s.distances = carver.take<float>(padded);
  s.candidates.ids = carver.take<int32_t>(padded);
  s.candidates.scores = carver.take<float>(padded);
  s.candidates.masses = carver.take<float>(padded);
}

// Vector i of n floats; forbidden behind the end.
inline F32 vector_at(const float* x, int n, int i) {
  const ptrdiff_t at = ptrdiff_t(i) * 16, left = n - at;
  return left >= 16 ? load(x + at) : keep_first(load_first(x + at, int(left)), int(left), kForbidden);
}

// Sum of term(0 .. vectors - 1): four chains in fp32 hide the additions' latency, every 1,024 lanes go to a double.
template <class Term>
inline double sum_of(int vectors, Term term) {
  double total = 0;
  for (int start = 0; start < vectors; start += 64) {
    const int stop = vectors - start < 64 ? vectors : start + 64;
    F32 chains[4] = {zero(), zero(), zero(), zero()};
    int i = start;
    for (; i + 4 <= stop; i += 4) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) chains[j] = add(chains[j], term(i + j));
    }
    for (; i < stop; ++i) chains[0] = add(chains[0], term(i));
    total += double(reduce_add(add(add(chains[0], chains[1]), add(chains[2], chains[3]))));
  }
  return total;
}

// The largest logit; maxima[i] of every kMaximumOf. Padded with one vector of forbidden ones.
inline float find_maxima(const float* x, int n, float* maxima) {
  F32 largest = splat(kForbidden);
  const int vectors = vectors_of(n);
  int groups = 0;
  for (int i = 0; i < vectors; i += kMaximumOf / 16, ++groups) {
    F32 group = vector_at(x, n, i);
    for (int j = i + 1; j < i + kMaximumOf / 16 && j < vectors; ++j) group = max(group, vector_at(x, n, j));
    maxima[groups] = reduce_max(group);
    largest = max(largest, group);
  }
  store(maxima + groups, splat(kForbidden));
  return reduce_max(largest);
}

// Sum of 2^(factor * (x - largest)): NaN if any logit is.
inline double total_mass(const float* x, int n, float largest, float factor) {
  const F32 top = splat(largest), scale = splat(factor);
  return sum_of(vectors_of(n), [&](int i) { return exp2(mul(sub(vector_at(x, n, i), top), scale)); });
}

// Floats as integers in the same order.
inline uint32_t key_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
inline float value_of(uint32_t key) {
  const uint32_t bits = key >> 31 ? key & 0x7fffffffu : ~key;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// Weight of the values at or above a bound; weights null: their number.
inline double weight_above(const float* values, const float* weights, int n, float bound) {
  const F32 least = splat(bound), one = splat(1.0f);
  return sum_of(vectors_of(n), [&](int i) {
    return keep_where(vector_at(values, n, i), least, weights ? load(weights + 16 * i) : one);
  });
}

// The largest bound with weight_above(bound) >= amount, or kLowest if there is none; any bound does whose weight is at
// most `enough`. No value is above `largest`.
inline float bound_for(const float* values, const float* weights, int n, float largest, double amount, double enough) {
  uint32_t low = key_of(kLowest), high = key_of(largest) + 1;
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    const double weight = weight_above(values, weights, n, value_of(middle));
    (weight >= amount ? low : high) = middle;
    if (weight >= amount && weight <= enough) break;
  }
  return value_of(low);
}

// A bound that k logits reach, and not many more.
inline float loose_bound(const float* x, int n, const float* maxima, float largest, int k) {
  const int groups = (n + kMaximumOf - 1) / kMaximumOf;
  if (k <= groups / 2) return bound_for(maxima, nullptr, groups, largest, k, k * 1.25 + 8);
  return bound_for(x, nullptr, n, largest, k, k * 1.25 + 8);
}

// Candidates become the logits that reach the bound.
inline void gather(const float* x, int n, const float* maxima, float bound, Candidates& c) {
  const F32 least = splat(bound);
  int count = 0;
  for (int start = 0; start < n; start += kMaximumOf) {
    if (maxima[start / kMaximumOf] < bound) continue;
    for (int i = start / 16; i < (start + kMaximumOf) / 16 && 16 * i < n; ++i) {
      const F32 logits = vector_at(x, n, i);
      unsigned bits = greater_equal(logits, least);
      if (bits == 0xffff) {
        store(c.scores + count, logits);
        for (int lane = 0; lane < 16; ++lane) c.ids[count + lane] = 16 * i + lane;
        count += 16;
        continue;
      }
      for (; bits; bits &= bits - 1, ++count) {
        c.ids[count] = 16 * i + __builtin_ctz(bits);
        c.scores[count] = x[c.ids[count]];
      }
    }
  }
  c.count = count;
}

// Keeps the candidates for which keep(i) holds, in order.
template <class Keep>
inline void filter(Candidates& c, Keep keep) {
  int kept = 0;
  for (int i = 0; i < c.count; ++i) {
    if (!keep(i)) continue;
    c.ids[kept] = c.ids[i], c.scores[kept] = c.scores[i], c.masses[kept] = c.masses[i];
    ++kept;
  }
  c.count = kept;
}

// Pads the arrays to a whole vector: scores that no bound reaches, and no mass.
inline void pad(Candidates& c) {
  for (int i = c.count; i % 16; ++i) c.scores[i] = kForbidden, c.masses[i] = 0;
}
inline double mass_of(const Candidates& c) {
  return sum_of(vectors_of(c.count), [&](int i) { return load(c.masses + 16 * i); });
}

// Logits become scores, relative to the largest, with their masses. Returns the sum of the masses.
inline double weigh(Candidates& c, float largest, float factor) {
  pad(c);
  const F32 top = splat(largest), scale = splat(factor);
  return sum_of(vectors_of(c.count), [&](int i) {
    const F32 score = mul(sub(load(c.scores + 16 * i), top), scale), mass = exp2(score);
    store(c.scores + 16 * i, score), store(c.masses + 16 * i, mass);
    return mass;
  });
}

// In descending order, lower ids first among equals, while the mass before is below `amount`; at least one.
inline void keep_nucleus(Candidates& c, double amount) {
  const float bound = bound_for(c.scores, c.masses, c.count, 0.0f, amount, amount);
  double before = 0;
  for (int i = 0; i < c.count; ++i) before += c.scores[i] > bound ? double(c.masses[i]) : 0;
  filter(c, [&](int i) {
    if (c.scores[i] != bound) return c.scores[i] > bound;
    if (before >= amount && before > 0) return false;
    before += double(c.masses[i]);
    return true;
  });
  pad(c);
}

// Those whose surprise is nearest to the entropy: all at most as far as the first that completes the mass `typical_p`.
inline void keep_typical(Candidates& c, double typical_p, float* distances) {
  const double total = mass_of(c);
  // Surprise is log(total) - score, so its distance from the entropy is that of the score from the mean score. The
  // bound keeps 0 * -infinity out of the mean; scores below it have no mass.
  const double sum = sum_of(vectors_of(c.count), [&](int i) {
    return mul(load(c.masses + 16 * i), max(load(c.scores + 16 * i), splat(-1000.0f)));
  });
  const F32 mean = splat(float(sum / total));
  for (int i = 0; i < c.count; i += 16) {
    store(distances + i, sub(zero(), abs(sub(load(c.scores + i), mean))));  // nearer is larger
  }
  const float bound = bound_for(distances, c.masses, c.count, 0.0f, typical_p * total, typical_p * total);
  filter(c, [&](int i) { return distances[i] >= bound; });
  pad(c);
}

// The candidates of top-p: the largest logits that hold it, filtered.
inline void take_nucleus(const SampleArgs& args, const SampleScratch& s, float largest, float factor, Candidates& c) {
  const int n = args.vocab_size;
  const double amount = double(args.top_p) * total_mass(args.logits, n, largest, factor);
  for (int wanted = kFirstNucleus;; wanted *= 16) {
    const bool all = wanted >= n;
    gather(args.logits, n, s.maxima, all ? kLowest : loose_bound(args.logits, n, s.maxima, largest, wanted), c);
    if (weigh(c, largest, factor) >= amount || all) break;
  }
  keep_nucleus(c, amount);
}

// The first id at which the cumulative mass exceeds its share. Whole runs are skipped by their sums.
inline int32_t draw(const Candidates& c, double uniform) {
  constexpr int kRun = 256;
  double rest = uniform * mass_of(c);
  int last = -1;
  for (int start = 0; start < c.count; start += kRun) {
    const int stop = c.count - start < kRun ? c.count : start + kRun;
    const double run = sum_of(vectors_of(stop - start), [&](int i) { return load(c.masses + start + 16 * i); });
    if (stop < c.count && run <= rest) {
      rest -= run;
      continue;
    }
    for (int i = start; i < stop; ++i) {
      if (c.masses[i] == 0) continue;
      last = i;
      rest -= double(c.masses[i]);
      if (rest < 0) return c.ids[i];
    }
  }
  // Rounding left a little over.
  for (int i = 0; last < 0; ++i) last = c.scores[i] == 0 ? i : last;
  return c.ids[last];
}

inline int32_t lowest_id_of(const float* x, int n, const float* maxima, float largest) {
  int group = 0;
  while (maxima[group] != largest) ++group;
  int id = group * kMaximumOf;
  while (id < n - 1 && x[id] != largest) ++id;
  return id;
}

// What a logit must reach at least to pass top-k, or else min-p.
inline float first_bound(const SampleArgs& args, const float* maxima, float largest, float factor) {
  const int n = args.vocab_size;
  if (args.top_k > 0 && args.top_k < n) return loose_bound(args.logits, n, maxima, largest, args.top_k);
  if (args.min_p <= 0) return kLowest;
  const double slack = 0.01;  // powers of 2; the filter itself is exact
  const double bound = double(largest) + (::log2(double(args.min_p)) - slack) / double(factor);
  return bound > double(kLowest) ? float(bound) : kLowest;
}

inline int32_t sampled(const SampleArgs& args, SampleScratch& s, float largest) {
  const int n = args.vocab_size;
  const double log2e = 1.4426950408889634, per_power = log2e / double(args.temperature);
  const float factor = float(per_power < 1e30 ? per_power : 1e30);  // finite: 0 times it is the largest's score
  Candidates& c = s.candidates;
  const bool top_k = args.top_k > 0 && args.top_k < n, top_p = args.top_p < 1;
  if (!top_k && top_p) {
    take_nucleus(args, s, largest, factor, c);
  } else {
    gather(args.logits, n, s.maxima, first_bound(args, s.maxima, largest, factor), c);
    if (top_k) {
      const float bound = bound_for(c.scores, nullptr, c.count, largest, args.top_k, args.top_k);
      filter(c, [&](int i) { return c.scores[i] >= bound; });
    }
    const double total = weigh(c, largest, factor);
    if (top_p) keep_nucleus(c, double(args.top_p) * total);
  }
  if (args.min_p > 0) {
    const double least = ::log2(double(args.min_p));
    filter(c, [&](int i) { return double(c.scores[i]) >= least; });
    pad(c);
  }
  if (args.typical_p < 1) keep_typical(c, double(args.typical_p), s.distances);
  return draw(c, args.uniform);
}

// Sets args.token and args.logprob; token -1 where no logit is finite or one is NaN.
inline void sample(SampleArgs& args) {
  static thread_local Scratch memory;
  SampleScratch s;
  Carver count;
  carve(s, args.vocab_size, count);
  Carver carver{memory.reserve(count.used)};
  carve(s, args.vocab_size, carver);

  const float largest = find_maxima(args.logits, args.vocab_size, s.maxima);
  args.token = -1, args.logprob = 0.0f;
  if (!(largest >= kLowest && largest <= -kLowest)) return;
  const double total = total_mass(args.logits, args.vocab_size, largest, 1.4426950408889634f);
  if (!(total > 0)) return;
  args.token = args.temperature == 0 ? lowest_id_of(args.logits, args.vocab_size, s.maxima, largest) : sampled(args, s, largest);
  args.logprob = float(double(args.logits[args.token]) - double(largest) - ::log(total));
}
