// What convolutions by rows of nonzeros refuse, and what they say of it.
#include <limits>
#include <string>

#include "kernels/nonzeros/row_kernel.h"
#include "rows_case.h"
#include "simd/vector.h"

namespace masktools {
namespace {

constexpr std::int64_t kChannels = 5, kRows = 7;
constexpr std::int64_t kHuge = std::int64_t{1} << 60;
constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();

// Changes to a layer that is in order, and what is said of them.
struct Change {
  const char* what;
  const char* reason;
  void (*make)(RowsLayer*);
};

// Two panels, of 3 and 2 channels.
RowsCase in_order() {
  RowsLayer layer = same_size(2, 4, 6);
  layer.halo = 1;
  layer.panel_channels = 3;
  layer.parts = 2;
  layer.tile = {2, 3, 2};
  return RowsCase(layer, kChannels, kRows, 0.5, true, 1);
}

template <std::size_t kCount>
void expect_all_refused(const Change (&changes)[kCount]) {
  const RowsCase c = in_order();
  c.check();
  for (const Change& change : changes) {
    RowsLayer layer = c.layer;
    change.make(&layer);
    expect_refused(change.what, [&] { Rows made(layer); }, std::string("rows: ") + change.reason);
  }
}

TEST(rows_refuse_images_that_do_not_fit) {
  using L = RowsLayer;
  constexpr Change kChanges[] = {
      {"x without planes", "x has an impossible size", [](L* l) { l->x.planes = 0; }},
      {"x of no height", "x has an impossible size", [](L* l) { l->in.height = 0; }},
      {"x of no width", "x has an impossible size", [](L* l) { l->in.width = 0; }},
      {"x of no pitch", "x has an impossible size", [](L* l) { l->in.pitch = 0; }},
      {"no samples", "x has an impossible size", [](L* l) { l->in.batch = 0; }},
      {"huge batch", "x has an impossible size", [](L* l) { l->in.batch = kHuge; }},
      {"x wider than its pitch", "x has an impossible pitch",
       [](L* l) { l->in.width = l->in.pitch + 1; }},
      {"x before", "x leaves the arena", [](L* l) { l->x.offset = -1; }},
      {"x far before", "x leaves the arena", [](L* l) { l->x.offset = -kMost - 1; }},
      {"x outside", "x leaves the arena", [](L* l) { l->x.offset = l->arena_elements; }},
      {"x far outside", "x leaves the arena", [](L* l) { l->x.offset = kMost; }},
      {"x too high", "x leaves the arena", [](L* l) { l->in.height = 1000; }},
      {"planes of x that overlap", "x leaves the arena",
       [](L* l) {
         l->x.plane = ((l->in.height - 1) * l->in.pitch + l->in.width) * l->in.batch - 1;
       }},
      {"planes of x too far apart", "x leaves the arena", [](L* l) { l->x.plane = kHuge; }},
      {"y without planes", "y has an impossible size", [](L* l) { l->y.planes = 0; }},
      {"y of no height", "y has an impossible size", [](L* l) { l->out.height = 0; }},
      {"y wider than its pitch", "y has an impossible pitch",
       [](L* l) { l->out.width = l->out.pitch + 1; }},
      {"no halo", "y has an impossible pitch", [](L* l) { l->halo = -1; }},
      {"huge halo", "y has an impossible pitch", [](L* l) { l->halo = kHuge; }},
      {"halo beyond the pitch", "y has an impossible pitch",
       [](L* l) { l->halo = l->out.pitch - l->out.width + 1; }},
      {"halo before the arena", "y leaves the arena", [](L* l) { l->y.offset = 1; }},
      {"y outside", "y leaves the arena", [](L* l) { l->y.offset = l->arena_elements - 40; }},
      {"y too high", "y leaves the arena", [](L* l) { l->out.height = 1000; }},
      {"planes of y that overlap", "y leaves the arena",
       [](L* l) {
         const std::int64_t pixels = (l->out.height - 1) * l->out.pitch + l->out.width + l->halo;
         l->y.plane = pixels * l->out.batch - 1;
       }},
      {"planes of y too far apart", "y leaves the arena", [](L* l) { l->y.plane = kHuge; }},
      {"skip of less than no planes", "skip has an impossible size",
       [](L* l) { l->skip.planes = -1; }},
      {"skip outside", "skip leaves the arena",
       [](L* l) { l->skip.offset = l->arena_elements - 40; }},
      {"skip of other planes", "skip has other planes than y",
       [](L* l) { l->skip.planes = kRows - 1; }},
      {"another batch", "x and y differ in batch", [](L* l) { l->in.batch = 1; }},
  };
  expect_all_refused(kChanges);
}

TEST(rows_refuse_windows_that_do_not_fit) {
  using L = RowsLayer;
  constexpr const char* kTooLarge = "the window of a panel is too large";
  constexpr Change kChanges[] = {
      {"no rows of taps", "impossible taps", [](L* l) { l->taps.kernel_y = 0; }},
      {"a huge kernel", "impossible taps", [](L* l) { l->taps.kernel_x = kHuge; }},
      {"no stride along y", "impossible taps", [](L* l) { l->taps.stride_y = 0; }},
      {"a huge stride", "impossible taps", [](L* l) { l->taps.stride_x = kHuge; }},
      {"no dilation", "impossible taps", [](L* l) { l->taps.dilation_y = 0; }},
      {"a huge dilation", "impossible taps", [](L* l) { l->taps.dilation_x = kHuge; }},
      {"negative padding", "impossible taps", [](L* l) { l->taps.pad_top = -1; }},
      {"huge padding", "impossible taps", [](L* l) { l->taps.pad_left = kMost; }},
      {"a wide window", kTooLarge, [](L* l) { l->taps.dilation_y = 4096; }},
      {"a tap for each element", kTooLarge,
       [](L* l) { l->taps.kernel_y = l->taps.kernel_x = 4096, l->copies = Copies::kTaps; }},
      {"no way to copy", "no such copies", [](L* l) { l->copies = static_cast<Copies>(3); }},
      {"no way to share", "no such copies", [](L* l) { l->copies = static_cast<Copies>(-1); }},
      {"columns of every second row", "copies of columns at a stride",
       [](L* l) { l->taps.stride_y = 2, l->copies = Copies::kColumns; }},
      {"a tile without rows", "impossible tile", [](L* l) { l->tile.rows = 0; }},
      {"a tile without samples", "impossible tile", [](L* l) { l->tile.samples = -1; }},
      {"a huge tile", "impossible tile", [](L* l) { l->tile.pixels = kHuge; }},
      {"more sums than registers", "tile too large",
       [](L* l) { l->tile.rows = kRowVectors, l->tile.pixels = kLanes; }},
      {"no parts", "impossible parts", [](L* l) { l->parts = 0; }},
      {"more parts than rows", "impossible parts", [](L* l) { l->parts = kRows + 1; }},
      {"panels of no channels", "impossible panels", [](L* l) { l->panel_channels = 0; }},
      {"a panel beyond x", "impossible panels", [](L* l) { l->panel_channels = kChannels + 1; }},
  };
  expect_all_refused(kChanges);
}

TEST(rows_refuse_pooling_that_does_not_fit) {
  using L = RowsLayer;
  constexpr const char* kReason = "impossible pooling";
  constexpr Change kChanges[] = {
      {"no such combination", kReason, [](L* l) { l->combine = static_cast<Combine>(3); }},
      {"windows of no rows", kReason, [](L* l) { l->pool_y = 0; }},
      {"windows of no pixels", kReason, [](L* l) { l->pool_x = 0; }},
      {"windows that nothing combines", kReason, [](L* l) { l->pool_y = 2; }},
      {"windows higher than a tile", kReason,
       [](L* l) { l->combine = Combine::kMax, l->pool_y = 4; }},
      {"windows that tiles cut", kReason, [](L* l) { l->combine = Combine::kAdd, l->pool_x = 2; }},
      {"windows and a skip branch", "pooling goes with no skip branch",
       [](L* l) { l->combine = Combine::kMax, l->halo = 0; }},
      {"windows and a halo", "pooling goes with no skip branch",
       [](L* l) { l->combine = Combine::kMax, l->skip.planes = 0; }},
  };
  expect_all_refused(kChanges);
}

TEST(rows_refuse_arrays_of_other_sizes) {
  using L = RowsLayer;
  constexpr const char* kReason = "starts are not starts of the nonzeros";
  constexpr Change kChanges[] = {
      {"bias", "bias of another size", [](L* l) { l->bias.size -= 1; }},
      {"starts", kReason, [](L* l) { l->starts.size -= 1; }},
      {"no starts", kReason, [](L* l) { l->starts.size = 0; }},
      {"starts of one panel", kReason, [](L* l) { l->panel_channels = kChannels; }},
      {"weights", kReason, [](L* l) { l->weights.size -= 1; }},
      {"columns", kReason, [](L* l) { l->columns.size -= 1; }},
  };
  expect_all_refused(kChanges);
}

TEST(rows_refuse_nonzeros_in_the_wrong_place) {
  const RowsCase c = in_order();
  const auto change_start = [&](std::size_t at, std::int32_t start) {
    std::vector<std::int32_t> starts = c.starts;
    starts[at] = start;
    RowsLayer layer = c.layer;
    layer.starts = array(starts);
    expect_refused("start " + std::to_string(at), [&] { Rows made(layer); }, "rows: starts are");
  };
  change_start(0, 1);
  change_start(3, -1);
  change_start(3, c.starts.back() + 1);
  change_start(c.starts.size() - 1, c.starts.back() - 1);
  const auto change_column = [&](std::size_t at, std::uint16_t column) {
    std::vector<std::uint16_t> columns = c.columns;
    columns[at] = column;
    RowsLayer layer = c.layer;
    layer.columns = array(columns);
    expect_refused("column " + std::to_string(at), [&] { Rows made(layer); }, "rows: a column is");
  };
  change_column(0, 3 * 9);
  change_column(c.columns.size() - 1, 2 * 9);  // of the last panel, which has fewer channels
}

}  // namespace
}  // namespace masktools
