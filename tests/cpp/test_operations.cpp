// Operations on strided views, and the threads that share them, against their definitions.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <thread>

#include "check.h"
#include "definitions.h"
#include "program/program.h"
#include "program/threads.h"
#include "steps/elementwise.h"
#include "steps/matmul.h"
#include "steps/movement.h"
#include "steps/reduce.h"
#include "steps/reduction.h"

namespace masktools {
namespace {

// Samples last, as whole pixels have them; x and y of one shape.
struct Pair {
  View x, y;
  std::int64_t elements;
};

View channels_first(std::int64_t offset, const Index& shape) {
  const std::int64_t n = shape[0], w = n * shape[3], h = w * shape[2];
  return {offset, 4, shape, {1, h, w, n}};
}

// What a program of one operation makes of an input that is copied to x, as copied from y.
std::vector<float> executed(std::int64_t elements, const View& x, const View& y,
                            std::unique_ptr<const Operation> operation,
                            const std::vector<float>& input) {
  Program program(elements, sizeof(float), 3);
  program.add(-1, make_copy_in<float>(0, x, elements));
  program.add(0, std::move(operation));
  program.add(-1, make_copy_out<float>(y, 0, elements));
  std::vector<float> output(y.elements(), std::nanf(""));
  const float* inputs[] = {input.data()};
  float* outputs[] = {output.data()};
  std::unique_ptr<Context> context = program.acquire();
  for (int call = 0; call < 3; ++call) program.run(*context, inputs, outputs, nullptr, [] {});
  program.release(std::move(context));
  return output;
}

TEST(copies_to_whole_pixels_and_back) {
  for (const std::int64_t batch : {1, 3, 16, 33, 64}) {
    const Index shape{batch, 3, 7, 19};
    const View x = channels_first(0, shape);
    View y = contiguous(4, shape);
    y.offset = x.elements();
    const std::vector<float> input = Random(1).numbers(x.elements());
    const std::int64_t elements = 2 * x.elements();
    const std::vector<float> output =
        executed(elements, x, y, make_copy<float>(x, y, elements), input);
    expect(output == input, "a copy differs");
  }
}

TEST(activations_of_vectors_and_of_their_tails) {
  const Index shape{1, 1, 1, 1003};
  const View x = contiguous(4, shape);
  std::vector<float> input(1003);
  for (std::size_t i = 0; i < input.size(); ++i) input[i] = (static_cast<float>(i) - 501) / 20;
  input[7] = std::nanf("");
  input[1001] = std::nanf("");
  const auto check = [&](const Activation& activation) {
    const std::vector<float> output = executed(
        1003, x, x,
        make_elementwise<float>(Arithmetic::kIdentity, {{x, nullptr}}, x, activation, 1003), input);
    for (std::size_t i = 0; i < input.size(); ++i) {
      const double wanted = std::isnan(input[i]) ? std::nan("") : activated(activation, input[i]);
      expect_near(output[i], wanted, 1e-6, "element " + std::to_string(i));
    }
  };
  for (const Activation& activation : kActivations) check(activation);
  for (const Activation& activation : kSteepActivations) check(activation);
}

TEST(softmax_and_mean) {
  for (const std::int64_t batch : {1, 20}) {
    const Index shape{batch, 70, 3, 2}, one{batch, 70, 1, 1};
    const View x = channels_first(0, shape);
    const std::int64_t elements = 2 * x.elements();
    const std::vector<float> input = Random(3).numbers(x.elements());
    const std::vector<float> soft =
        executed(elements, x, x, make_softmax<float>(x, x, 1, false, elements), input);
    const View y = channels_first(x.elements(), one);
    const std::vector<float> mean =
        executed(elements, x, y, make_mean<float>(x, y, 6, elements), input);
    for (std::int64_t n = 0; n < batch; ++n) {
      for (std::int64_t p = 0; p < 6; ++p) {
        double sum = 0;
        for (std::int64_t c = 0; c < 70; ++c) sum += std::exp(input[(n * 70 + c) * 6 + p]);
        for (std::int64_t c = 0; c < 70; ++c) {
          const std::int64_t i = (n * 70 + c) * 6 + p;
          expect_near(soft[i], std::exp(input[i]) / sum, 1e-6, "softmax");
        }
      }
      for (std::int64_t c = 0; c < 70; ++c) {
        double sum = 0;
        for (std::int64_t p = 0; p < 6; ++p) sum += input[(n * 70 + c) * 6 + p];
        expect_near(mean[n * 70 + c], sum / 6, 1e-6, "mean");
      }
    }
  }
}

TEST(reductions_over_channels_and_rows) {
  for (const std::int64_t batch : {1, 20}) {
    const Index shape{batch, 70, 3, 2}, one{batch, 1, 3, 1};
    const View x = channels_first(0, shape), y = channels_first(x.elements(), one);
    const std::int64_t elements = 2 * x.elements();
    const std::vector<float> input = Random(4).numbers(x.elements());
    const auto made = [&](Reduction reduction) {
      return executed(elements, x, y, make_reduce<float>(reduction, x, y, elements), input);
    };
    const std::vector<float> sum = made(Reduction::kSum), mean = made(Reduction::kMean),
                             max = made(Reduction::kMax), min = made(Reduction::kMin),
                             norm = made(Reduction::kL2);
    for (std::int64_t n = 0; n < batch; ++n) {
      for (std::int64_t row = 0; row < 3; ++row) {
        double total = 0, squares = 0, highest = -1e9, lowest = 1e9;
        for (std::int64_t c = 0; c < 70; ++c) {
          for (std::int64_t p = 0; p < 2; ++p) {
            const double value = input[((n * 70 + c) * 3 + row) * 2 + p];
            total += value;
            squares += value * value;
            highest = std::max(highest, value);
            lowest = std::min(lowest, value);
          }
        }
        const std::int64_t at = n * 3 + row;
        expect_near(sum[at], total, 1e-4, "sum");
        expect_near(mean[at], total / 140, 1e-6, "mean");
        expect_near(norm[at], std::sqrt(squares), 1e-4, "norm");
        expect(max[at] == highest && min[at] == lowest, "an extreme differs");
      }
    }
  }
}

TEST(normalised_rows_with_scale_and_shift) {
  for (const std::int64_t batch : {1, 20}) {
    const Index shape{batch, 5, 3, 23};
    const View x = channels_first(0, shape);
    const std::vector<float> input = Random(5).numbers(x.elements());
    const std::vector<float> scale = Random(6).numbers(69), shift = Random(7).numbers(69);
    const std::vector<float> output =
        executed(x.elements(), x, x,
                 make_normalize<float>(x, x, 2, 0.1f, scale, shift, x.elements()), input);
    for (std::int64_t row = 0; row < batch * 5; ++row) {
      const float* from = input.data() + row * 69;
      double mean = 0, variance = 0;
      for (int k = 0; k < 69; ++k) mean += from[k] / 69.0;
      for (int k = 0; k < 69; ++k) variance += (from[k] - mean) * (from[k] - mean) / 69;
      for (int k = 0; k < 69; ++k) {
        const double wanted = (from[k] - mean) / std::sqrt(variance + 0.1) * scale[k] + shift[k];
        expect_near(output[row * 69 + k], wanted, 1e-5, "normalised");
      }
    }
  }
}

TEST(products_of_matrices_of_odd_sizes) {
  for (const Index& size :
       {Index{1, 7, 1}, Index{5, 3, 2}, Index{13, 200, 33}, Index{193, 129, 194}}) {
    const std::int64_t m = size[0], k = size[1], n = size[2];
    // Both factors in one input: a first, then b.
    const View whole = contiguous(1, {2 * (m * k + k * n)});
    View a = contiguous(3, {2, m, k}), b = contiguous(3, {2, k, n}), y = contiguous(3, {2, m, n});
    b.offset = 2 * m * k;
    y.offset = b.offset + 2 * k * n;
    const std::int64_t elements = y.offset + 2 * m * n;
    const std::vector<float> input = Random(8).numbers(whole.elements());
    const std::vector<float> output =
        executed(elements, whole, y, make_matmul<float>(a, b, y, elements), input);
    for (std::int64_t i = 0; i < 2 * m * n; ++i) {
      const std::int64_t matrix = i / (m * n), row = i / n % m, column = i % n;
      double sum = 0;
      for (std::int64_t j = 0; j < k; ++j) {
        sum += double{input[(matrix * m + row) * k + j]} *
               input[b.offset + (matrix * k + j) * n + column];
      }
      expect_near(output[i], sum, 1e-4, "product");
    }
  }
}

// Each item of each job once, though jobs follow each other at once and after long pauses.
TEST(every_item_is_executed_once) {
  const std::vector<std::int64_t> items = {1, 7, 0, 100, 2};
  for (const int threads : {1, 2, 5}) {
    std::vector<std::vector<std::atomic<int>>> count;
    for (const std::int64_t n : items) count.emplace_back(n);
    Team team(threads, items, [&](std::int64_t job, std::int64_t item, int thread) {
      expect(thread >= 0 && thread < threads, "impossible thread");
      ++count[job][item];
    });
    constexpr int kRounds = 300;
    for (int round = 0; round < kRounds; ++round) {
      if (round % 100 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      for (std::size_t job = 0; job < items.size(); ++job) {
        team.run(static_cast<std::int64_t>(job));
        for (const std::atomic<int>& n : count[job]) expect(n == round + 1, "items were lost");
      }
    }
  }
}

TEST(what_an_item_throws_reaches_the_caller) {
  for (const int threads : {1, 3}) {
    std::atomic<int> executed_items{0};
    Team team(threads, {20}, [&](std::int64_t, std::int64_t item, int) {
      ++executed_items;
      if (item == 5) throw std::runtime_error("item 5");
    });
    for (int round = 0; round < 50; ++round) {
      std::string message;
      try {
        team.run(0);
      } catch (const std::runtime_error& error) {
        message = error.what();
      }
      expect(message == "item 5", "the exception was lost");
    }
    expect(threads == 1 || executed_items == 1000, "an exception kept other items from running");
  }
}

}  // namespace
}  // namespace masktools
