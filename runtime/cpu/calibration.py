"""Every measured constant of the CPU backend: what the cost model and the cuts of work rest on.

All were measured in November 2026 on two cores of an Intel Xeon (Sapphire Rapids, 3.8 GHz, 48 KiB
and 2 MiB of cache a core, two multiplications and two loads of 512 bits a cycle), with two threads
and the variant avx512. Each is a share, a number of cycles, or a size, so that it can be carried
to another processor by what `runtime.cpu.machine.Machine` says of that. A constant measured anew
on another machine says so beside it. None is a matter of correctness: another value is only slower.
"""

from __future__ import annotations

# --- the machine, where its system does not tell ------------------------------------------------

# Bytes of the first and second level of the cache, and cycles a second where vectors are busy.
LEVEL1, LEVEL2, CLOCK = 48 << 10, 2 << 20, 3.125e9
# Cache that a core reads at nearly full speed, in sizes of its second level, by vendor; of others,
# one. On two cores of an AMD EPYC (Zen 5, 1 MiB), whose third level holds what the second one
# drops, VGG-16 at batch 64 takes 5 % less time, and ResNet-50 at batch 8 3 %, with twice the size.
NEAR_LEVELS = {"AuthenticAMD": 2}
# Vector multiplications, and loads of a vector, that begin in a cycle.
MULTIPLICATIONS, LOADS = 2, 2

# --- layout of values ---------------------------------------------------------------------------

# A batch is padded to whole vectors where that wastes no more than this.
PADDED_BATCH = 1.1
# A halo may widen a row by no more than this share of it: else taps are unfolded.
WIDEST_HALO = 0.25
# And where the layer is depthwise: no other kernel takes it nearly as fast.
WIDEST_DEPTHWISE_HALO = 1.0
# Rows flow together, halos included, where vectors of each by itself take more than this for what
# does not fill them.
WIDEST_WASTE = 1.1
# Rows of a strided convolution are computed each by itself where that takes no more than this for
# what fills no vector.
WIDEST_GAP = 1.1

# --- slices of a batch --------------------------------------------------------------------------

# Slices that are worth joining again: narrower pixels do not leave the cache.
LEAST_SLICES = 4
# Pixels of a map from which its pixels need not be wide: rows of them fill the kernels.
LEAST_PIXELS = 64
# Vectors of a map that each thread needs: with fewer they would wait for each other.
LEAST_VECTORS = 16
# Bytes of a layer's weights, at most: every slice reads them again.
MOST_WEIGHTS = 4 << 20

# --- items of work ------------------------------------------------------------------------------

# Seconds of work below which an item is not worth handing out.
LEAST_ITEM = 1e-6
# How the work of a layer is cut by default: see `runtime.cpu.kernels.problem.Configuration`.
TILE_VECTORS, PREFETCH, ITEMS = 24, 16, 4
# Share of the near cache that the weights of a panel may fill.
PANEL_SHARE = 0.25

# --- groups of rows -----------------------------------------------------------------------------

# Share of the peak that groups of 1, 2, ... rows reach: a column is loaded once for all of them.
GROUP_EFFICIENCY = (0.0, 0.30, 0.60, 0.68, 0.75, 0.80, 0.84, 0.86, 0.88)
# What beginning and ending a row's sum costs, in columns.
ROW_COLUMNS = 4
# Lanes of an output from which single rows reach half of the speed that their share tells: runs
# are short below.
ROW_LANES = 128
# Single rows: the channels of a panel at least, and the columns that a row keeps of them; the taps
# that make a panel worth it, and the vectors of lanes that each thread needs.
PANEL_CHANNELS, PANEL_COLUMNS = 16, 24
PANEL_TAPS, PANEL_VECTORS = 4, 8
# Vectors of a pixel that fill a kernel by themselves: runs of narrower ones go from pixel to pixel.
WIDE_PIXEL = 4
# Pixels of a row that are worth a run: a kernel's width.
LEAST_LINE = 3

# --- pooling while a layer is written -----------------------------------------------------------

# Vectors of a pixel from which a convolution may write into a pooled one: below, runs of single
# pixels would be too short for the kernels.
POOLED_VECTORS = 4
# Pixels of a pooling window, at most: they are computed one after the other.
POOLED_PIXELS = 16

# --- rows as lanes ------------------------------------------------------------------------------

# Share of the peak that groups of one vector of rows reach, and of two, which share each pixel
# that is broadcast.
NARROW_EFFICIENCY = (0.6, 0.8)
# Lanes of the whole output up to which rows may be lanes instead: beyond, taps find little of x in
# the first level of the cache. Of single rows, which make no vector, a share of one.
NARROW_LANES, NARROW_ROWS = 256, 0.25
# Density from which rows of nonzeros are multiplied as a dense weight on up to so many lanes: a
# nonzero by itself takes as long as eight to twelve multiplications of rows that are lanes.
NARROW_DENSE, NARROW_DENSE_LANES = 0.12, 8
# By how much a thread's rows may exceed the mean before groups are made half as high.
NARROW_UNEVEN = 1.1
# What vectors along pixels take where strides or dilations make them read a copy of the input.
NARROW_COPIED = 1.5

# --- rows of nonzeros over windows --------------------------------------------------------------

# Share of the first-level cache that a window takes: what leaves room for sums and weights.
WINDOW_SHARE = 0.75
# Cycles. A load, of which a nonzero takes one for each vector and two for itself; a load that
# crosses a cache line counts twice. An address, of which it takes one for each row. The sums of a
# panel, for each vector, and what a row costs at least: they come from the second level. What a
# vector of outputs costs to finish, and lanes that lie side by side to write; such a piece of a
# window to find, and a vector of it to copy.
WINDOW_LOAD, WINDOW_ADDRESS = 0.55, 0.5
WINDOW_SUM, WINDOW_ROW = 5.0, 10.0
WINDOW_FINISH, WINDOW_STRETCH = 4.0, 20.0
WINDOW_PIECE, WINDOW_COPY = 5.0, 3.0
# Pixels of a pooling window, at most: a window of inputs holds what all of them read.
WINDOW_POOLED = 4

# --- minimal filtering --------------------------------------------------------------------------

# Share of the near cache that transformed inputs take: what leaves room for weights.
WINOGRAD_SHARE = 0.625
# Shares of the peak that products of two vectors and of one reach, and what is left of them where
# the transformed inputs do not stay in cache. Multiplications that transforming an entry costs.
WINOGRAD_PRODUCTS, WINOGRAD_SINGLE, WINOGRAD_UNCACHED = 0.8, 0.75, 0.7
WINOGRAD_TRANSFORM = 8
# The same of the whole layer, beside other kernels: what the rest of it takes is in these shares.
WINOGRAD_WHOLE, WINOGRAD_WHOLE_TRANSFORM = 0.42, 12
# And where pixels do not fill vectors: what a tile reads and writes lies in pieces.
WINOGRAD_PIECES, WINOGRAD_PIECES_TRANSFORM = 0.62, 36
# And of single pixels, which whole vectors take apart.
WINOGRAD_PIXELS, WINOGRAD_PIXELS_TRANSFORM = 0.77, 21
# Multiplications in the time that a byte of weights takes, of those that a dense weight has not: in
# a network they come from behind the near cache, once for each call.
WINOGRAD_BYTE = 8
# Channels and rows below which its transforms are not paid back.
WINOGRAD_CHANNELS = 16

# --- depthwise ----------------------------------------------------------------------------------

# Bytes a second that one thread reads and writes beyond its second-level cache, about.
BANDWIDTH = 30e9
# Items of a thread, at most.
DEPTHWISE_ITEMS = 4

# --- bfloat16 -----------------------------------------------------------------------------------

# What 64 lanes take, in nanoseconds of one core: for each tile of columns, to gather it and to
# multiply it by a tile of 16 rows; for a row, to be written; for a column of a group of one row.
BFLOAT16_LANES = 64
BFLOAT16_GATHER = {"amx": 60.0, "avx512_bf16": 35.0}
BFLOAT16_TILE = {"amx": 22.0, "avx512_bf16": 34.0 * 16}
BFLOAT16_ROW = 10.0
BFLOAT16_COLUMN = 1.2
