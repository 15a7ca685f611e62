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
#include "steps/movement.h"
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
  for (int call = 0; call < 3; ++call) program.run(*context, inputs, outputs, nullptr);
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
        executed(elements, x, y, make_mean<float>(x, y, elements), input);
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
