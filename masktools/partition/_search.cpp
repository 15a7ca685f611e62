// Simulated annealing over row groups: swap two rows of different groups while that pays.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "_row_groups.h"

namespace py = pybind11;
using masktools::Groups;

namespace {

constexpr double kProposalWork = 100;  // of a swap turned down by the bound, in visited values
constexpr int kProposals = 16;         // to one row in turn, while it is in the cache
constexpr int kBlocks = 64;            // of the search, between two looks at price and table
constexpr double kPriceTolerance = 1e-2;
constexpr double kDescent = 0.25;  // of the work of the annealing, for the descent that follows
constexpr int kSamples = 2048;     // of random swaps, to set the first temperature
constexpr int kLevels = 4096;      // of the acceptance threshold

class Random {  // splitmix64
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t Next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  std::size_t Below(std::size_t n) { return static_cast<std::size_t>(((Next() >> 32) * n) >> 32); }

 private:
  std::uint64_t state_;
};

// Swaps i and j if that gains at least `threshold`. Returns the values visited; adds to `updates`
// what the table's update costs, kept or not.
double Try(Groups* groups, std::size_t i, std::size_t j, float threshold, double* updates) {
  if (groups->label(i) == groups->label(j)) return kProposalWork;
  if (groups->bounded() && groups->Bound(i, j) < threshold) return kProposalWork;
  if (groups->Gain(i, j) < threshold) return kProposalWork + groups->GainWork();
  const double visited = groups->Swap(i, j);
  *updates += visited;
  return kProposalWork + 3 * groups->GainWork() + (groups->bounded() ? visited : 0);
}

// Returns the temperature at which a share of the random swaps that lose would be accepted.
float TemperatureFor(const Groups& groups, double share, Random* random) {
  std::vector<double> gains;
  for (int n = 0; n < kSamples; ++n) {
    const std::size_t i = random->Below(groups.rows()), j = random->Below(groups.rows());
    if (groups.label(i) == groups.label(j)) continue;
    const double gain = groups.Gain(i, j);
    if (gain < 0) gains.push_back(gain);
  }
  double low = 0, high = 0;
  for (const double gain : gains) high = std::max(high, -gain / -std::log(share));
  for (int halving = 0; halving < 30; ++halving) {
    const double middle = (low + high) / 2;
    double accepted = 0;
    for (const double gain : gains) accepted += std::exp(gain / middle);
    (accepted < share * static_cast<double>(gains.size()) ? low : high) = middle;
  }
  return static_cast<float>(high);
}

// Anneals by swaps of random rows, geometrically in the work done, from the temperature at which
// the share `hot` of those that lose would be accepted to `cold` times that temperature.
double Anneal(Groups* groups, double work, double hot, double cold, std::uint64_t seed) {
  Random random(seed);
  const float start = TemperatureFor(*groups, hot, &random);
  std::vector<float> level(kLevels);
  for (int x = 0; x < kLevels; ++x) {
    level[x] = static_cast<float>(std::log((x + 0.5) / kLevels));
  }
  double done = 0;
  for (int block = 0; block < kBlocks; ++block) {
    const float share = static_cast<float>(block) / kBlocks;
    const float temperature = start * std::pow(static_cast<float>(cold), share);
    double proposals = 0, updates = 0;
    while (done < work * (block + 1) / kBlocks) {
      const std::size_t i = random.Below(groups->rows());
      for (int n = 0; n < kProposals; ++n) {
        const std::size_t j = random.Below(groups->rows());
        done += Try(groups, i, j, temperature * level[random.Below(kLevels)], &updates);
      }
      proposals += kProposals;
    }
    // The table saves evaluations and costs updates; once these are few, it pays from there on.
    const bool bounded = groups->bounded() || updates < 0.25 * proposals * groups->GainWork();
    const bool stale = block % 8 == 7 && groups->Reprice(kPriceTolerance);
    if (bounded && (stale || !groups->bounded())) done += groups->BuildTable();
  }
  return done;
}

// Swaps whatever still gains at the price of now, until nothing does or the work is done.
void Descend(Groups* groups, double work, float least_gain) {
  groups->Reprice(0);
  double updates = 1, done = groups->BuildTable();
  while (updates > 0 && done < work) {
    updates = 0;
    for (std::size_t i = 0; i < groups->rows() && done < work; ++i) {
      for (std::size_t j = 0; j < i; ++j) done += Try(groups, i, j, least_gain, &updates);
    }
  }
}

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Ints = py::array_t<std::int32_t, py::array::c_style | py::array::forcecast>;

Groups Make(const Floats& saliency, const Ints& labels, const Floats& cost, double budget) {
  if (saliency.ndim() != 2 || labels.ndim() != 1 || cost.ndim() != 1 ||
      labels.shape(0) != saliency.shape(0) || cost.shape(0) != saliency.shape(1)) {
    throw std::invalid_argument(
        "expected saliency (rows, columns), labels (rows,), cost (columns,)");
  }
  return Groups(saliency.data(), static_cast<std::size_t>(saliency.shape(0)),
                static_cast<std::size_t>(saliency.shape(1)), labels.data(), cost.data(), budget);
}

Ints Labels(const Groups& groups) {
  Ints labels(static_cast<py::ssize_t>(groups.rows()));
  std::copy(groups.labels().begin(), groups.labels().end(), labels.mutable_data());
  return labels;
}

}  // namespace

PYBIND11_MODULE(_search, module) {
  module.doc() =
      "Simulated annealing over row groups; masktools.partition.search is its front door.";
  module.def(
      "anneal",
      [](const Floats& saliency, const Ints& labels, const Floats& cost, double budget, double work,
         double hot, double cold, std::uint64_t seed) {
        Groups groups = Make(saliency, labels, cost, budget);
        {
          const py::gil_scoped_release release;
          const double done = Anneal(&groups, work, hot, cold, seed);
          Descend(&groups, kDescent * done, static_cast<float>(1e-5 * groups.MeanStep()));
        }
        return Labels(groups);
      },
      py::arg("saliency"), py::arg("labels"), py::arg("cost"), py::arg("budget"), py::arg("work"),
      py::arg("hot"), py::arg("cold"), py::arg("seed"));

  // For the tests, which hold its bookkeeping against NumPy.
  py::class_<Groups>(module, "Groups")
      .def(py::init(&Make))
      .def_property_readonly("price", &Groups::price)
      .def_property_readonly("labels", &Labels)
      .def("gain", &Groups::Gain)
      .def("bound", &Groups::Bound)
      .def("swap", &Groups::Swap)
      .def("build_table", &Groups::BuildTable);
}
