// What there is to know of a row of scores at once: its highest, and what a softmax of all of them comes to.

#include "lanes.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

namespace {

constexpr int64_t BLOCK = 64;
// Scores that are summed up before a sum takes them in with more digits.
constexpr int64_t PART = 1024;

struct Sums {
  float total, entropy;
};

inline float widened(float score) { return score; }

template <typename Score>
struct Row {
  const Score* scores;
  int64_t size;

  Floats at(int64_t index) const { return some(scores + index, size - index); }

  float one(int64_t index) const { return widened(scores[index]); }

  // Of the scores divided by a temperature: the logarithm of the sum of their exponentials, and the entropy in nats.
  Sums sums(float highest, float temperature) const {
    const Floats scale = all(1.0f / temperature), shift = all(highest);
    double sum = 0.0, weighed = 0.0;
    for (int64_t begin = 0; begin < size; begin += PART) {
      Floats part = zeros(), product = zeros();
      for (int64_t index = begin; index < std::min(size, begin + PART); index += LANES) {
        // In this order a NaN is kept.
        const Floats below = higher(all(LOWEST), times(minus(at(index), shift), scale));
        const Floats power = exponential(below);
        part = plus(part, power);
        product = times_plus(power, below, product);
      }
      sum += summed(part);
      weighed += summed(product);
    }
    return {static_cast<float>(std::log(sum) + static_cast<double>(highest) / temperature), static_cast<float>(std::log(sum) - weighed / sum)};
  }
};

// The `count` highest, those that are equal by their ids.
template <typename Score>
void find(const Row<Score>& row, const std::vector<float>& maxima, int64_t count, float* top, int64_t* ids) {
  float least = MINUS_INFINITY;
  if (static_cast<int64_t>(maxima.size()) > count) {
    std::vector<float> ordered = maxima;
    std::nth_element(ordered.begin(), ordered.begin() + count - 1, ordered.end(), std::greater<float>());
    least = ordered[count - 1];
  }
  std::vector<std::pair<float, int64_t>> found;
  for (int64_t block = 0; block < static_cast<int64_t>(maxima.size()); block++) {
    if (!(maxima[block] >= least)) continue;
    for (int64_t id = block * BLOCK; id < std::min(row.size, (block + 1) * BLOCK); id++)
      if (row.one(id) >= least) found.emplace_back(-row.one(id), id);
  }
  const int64_t kept = std::min<int64_t>(count, found.size());
  std::partial_sort(found.begin(), found.begin() + kept, found.end());
  for (int64_t index = 0; index < count; index++) {
    top[index] = index < kept ? -found[index].first : MINUS_INFINITY;
    ids[index] = index < kept ? found[index].second : 0;
  }
}

template <typename Score>
void look(
    const Score* scores, const float* temperatures, float* top, int64_t* ids, int64_t* best, float* totals, float* plain_totals,
    float* entropies, int64_t rows, int64_t size, int64_t count, bool plain, int64_t threads) {
#pragma omp parallel for num_threads(std::min(threads, rows)) if (rows > 1)
  for (int64_t n = 0; n < rows; n++) {
    const Row<Score> row{scores + n * size, size};
    std::vector<float> maxima((size + BLOCK - 1) / BLOCK);
    for (int64_t block = 0; block < static_cast<int64_t>(maxima.size()); block++) {
      Floats maximum = row.at(block * BLOCK);
      for (int64_t index = block * BLOCK + LANES; index < std::min(size, (block + 1) * BLOCK); index += LANES)
        maximum = higher(maximum, row.at(index));
      maxima[block] = highest(maximum);
    }
    find(row, maxima, count, top + n * count, ids + n * count);
    const float highest = top[n * count];
    best[n] = ids[n * count];
    for (int64_t index = 0; index < count; index++) top[n * count + index] /= temperatures[n];
    const bool divided = temperatures[n] != 1.0f;
    if (divided) totals[n] = row.sums(highest, temperatures[n]).total;
    if (plain || !divided) {
      const Sums sums = row.sums(highest, 1.0f);
      if (!divided) totals[n] = sums.total;
      plain_totals[n] = sums.total;
      entropies[n] = sums.entropy;
    }
  }
}

}  // namespace

// For each row of `scores` [rows, size], which are bfloat16 if `halves`, else float, divided by its temperature: the `count`
// highest with their ids [rows, count], whose the very highest is and the logarithm of the sum of all exponentials; if `plain`,
// that sum and the entropy in nats undivided too, all [rows]. Where a score is NaN so are they.
extern "C" void chatui_top_logits(
    const void* scores, const float* temperatures, float* top, int64_t* ids, int64_t* best, float* totals, float* plain_totals,
    float* entropies, int64_t rows, int64_t size, int64_t count, int64_t plain, int64_t halves, int64_t threads) {
  const auto all = [&](const auto* typed) {
    look(typed, temperatures, top, ids, best, totals, plain_totals, entropies, rows, size, count, plain, threads);
  };
  if (halves)
    all(static_cast<const uint16_t*>(scores));
  else
    all(static_cast<const float*>(scores));
}
