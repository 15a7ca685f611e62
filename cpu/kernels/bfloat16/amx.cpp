// Products of bfloat16 by the tile unit of AMX: 16 rows x 32 columns x 16 lanes an instruction.
// The unit counts denormal inputs and results as zero.
#include "kernels/bfloat16/product.h"

#if defined(__x86_64__) && defined(__linux__) && defined(__AVX512BW__) && \
    (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define MASKTOOLS_AMX 1
#endif

#ifdef MASKTOOLS_AMX

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "kernels/bfloat16/panel.h"

// The compilers' own intrinsics differ in whether they keep their order among stores; these say.
#define MT_ZERO(t) asm volatile("tilezero %%tmm" #t::)
#define MT_LOAD(t, from, bytes) \
  asm volatile("tileloadd (%0,%1,1), %%tmm" #t::"r"(from), "r"(std::int64_t{bytes}) : "memory")
#define MT_STORE(t, to, bytes) \
  asm volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"(to), "r"(std::int64_t{bytes}) : "memory")
#define MT_PRODUCT(c, a, b) asm volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c::)
#define MT_TARGET __attribute__((target("amx-tile,amx-bf16")))

namespace masktools {
namespace {

constexpr std::int64_t kTileBytes = 64;  // of a row of any tile
constexpr std::int64_t kSumBytes = kProductLanes * sizeof(float);

// What ldtilecfg reads: all eight tiles are as large as can be.
struct alignas(64) TileConfiguration {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfiguration) == 64, "the processor reads 64 bytes");

MT_TARGET void begin() {
  const TileConfiguration configuration;
  asm volatile("ldtilecfg %0" ::"m"(configuration));
}

MT_TARGET void end() { asm volatile("tilerelease" ::); }

// Tiles 0 to 3 hold the sums of 16 rows, a tile for each 16 lanes.
template <int kLanes>
MT_TARGET inline void zero_sums() {
  MT_ZERO(0);
  if constexpr (kLanes > 1) MT_ZERO(1);
  if constexpr (kLanes > 2) MT_ZERO(2);
  if constexpr (kLanes > 3) MT_ZERO(3);
}

template <int kLanes>
MT_TARGET inline void load_sums(const float* sums) {
  MT_LOAD(0, sums, kSumBytes);
  if constexpr (kLanes > 1) MT_LOAD(1, sums + kTileLanes, kSumBytes);
  if constexpr (kLanes > 2) MT_LOAD(2, sums + 2 * kTileLanes, kSumBytes);
  if constexpr (kLanes > 3) MT_LOAD(3, sums + 3 * kTileLanes, kSumBytes);
}

template <int kLanes>
MT_TARGET inline void store_sums(float* sums) {
  MT_STORE(0, sums, kSumBytes);
  if constexpr (kLanes > 1) MT_STORE(1, sums + kTileLanes, kSumBytes);
  if constexpr (kLanes > 2) MT_STORE(2, sums + 2 * kTileLanes, kSumBytes);
  if constexpr (kLanes > 3) MT_STORE(3, sums + 3 * kTileLanes, kSumBytes);
}

template <int kLanes>
MT_TARGET inline void add_products(const Bfloat16* weights, const Bfloat16* panel) {
  MT_LOAD(4, weights, kTileBytes);
  MT_LOAD(6, panel, kTileBytes);
  MT_PRODUCT(0, 4, 6);
  if constexpr (kLanes > 1) {
    MT_LOAD(7, panel + kTileElements, kTileBytes);
    MT_PRODUCT(1, 4, 7);
  }
  if constexpr (kLanes > 2) {
    MT_LOAD(6, panel + 2 * kTileElements, kTileBytes);
    MT_PRODUCT(2, 4, 6);
  }
  if constexpr (kLanes > 3) {
    MT_LOAD(7, panel + 3 * kTileElements, kTileBytes);
    MT_PRODUCT(3, 4, 7);
  }
}

// The first 16 rows gather the panel, one tile of columns ahead of its product, so that both go on
// at once; the other rows find it in the cache. A group of one tile of rows needs two tiles of
// columns at a time: it keeps its sums in place over all of them.
template <int kLanes>
MT_TARGET void multiply_lanes(const Product& product) {
  const __m512i order = pair_order();
  const std::int64_t row_tiles = (product.rows + kTileRows - 1) / kTileRows;
  const std::int64_t chunk = row_tiles == 1 ? product.count : kPanelTiles;
  const std::int64_t kept = row_tiles == 1 ? 2 : kPanelTiles;
  for (std::int64_t first = 0; first < product.count; first += chunk) {
    const ColumnTile* tiles = product.tiles + first;
    const std::int64_t count = std::min(chunk, product.count - first);
    const auto panel = [&](std::int64_t k) {
      return product.panel + (k & (kept - 1)) * (kLanes * kTileElements);
    };
    for (std::int64_t r = 0; r < row_tiles; ++r) {
      const Bfloat16* weights = product.weights + r * product.column_tiles * kTileElements;
      float* sums = product.sums + r * kTileRows * kProductLanes;
      if (first == 0) {
        zero_sums<kLanes>();
      } else {
        load_sums<kLanes>(sums);
      }
      if (r == 0) gather<kLanes>(product, tiles[0], order, panel(0));
      for (std::int64_t k = 0; k < count; ++k) {
        if (r == 0 && k + 1 < count) gather<kLanes>(product, tiles[k + 1], order, panel(k + 1));
        add_products<kLanes>(weights + tiles[k].tile * kTileElements, panel(k));
      }
      store_sums<kLanes>(sums);
    }
  }
}

void multiply(const Product& product) {
  with_lane_tiles(product, [&](auto lanes) { multiply_lanes<lanes>(product); });
}

// Whether the processor has tiles and their products of bfloat16, the operating system saves them,
// and it lets this process use them: it has to be asked once, for all threads.
bool granted() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;
  if ((d & kBf16) == 0 || (d & kTile) == 0) return false;
  __cpuid(1, a, b, c, d);
  constexpr unsigned kOsSaves = 1u << 27;
  if ((c & kOsSaves) == 0) return false;
  unsigned low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kTileState = 3u << 17;
  if ((low & kTileState) != kTileState) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

const ProductKernel* amx_kernel() {
  static constexpr ProductKernel kKernel = {"amx", begin, multiply, end};
  static const bool kGranted = granted();
  return kGranted ? &kKernel : nullptr;
}

}  // namespace masktools

#else

namespace masktools {

const ProductKernel* amx_kernel() { return nullptr; }

}  // namespace masktools

#endif
