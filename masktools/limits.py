"""How much a file from a stranger may cost: every limit, each with its reason.

Two kinds of numbers stand here. Most are far above what any network needs, and exist because a
file may claim anything; the others (`room`) grow with the file, so that cost stays in proportion
to what was sent. SECURITY.md says what is promised; docs/format.md and docs/mask_formats.md say
what a file meets.
"""

from __future__ import annotations

# --- memory for what a file unpacks to ---------------------------------------------------------

# Masks compress a thousandfold, so a small file may unpack to this much whatever its size: what a
# laptop has to spare, and the masks of a network of a thousand million weights.
FREE_BYTES = 2**30
# Beyond that, bytes for each byte of the file: bits that become float32 take 32.
EXPANSION = 32

# --- files -------------------------------------------------------------------------------------

# Characters of a tensor's name. The longest in use have some 200; what reads names backtracks
# and counts digits, and so takes time that grows faster than their length.
NAME_LENGTH = 4096
# Groups inside groups of an HDF5 file. Keras nests three; the C library recurses at each.
HDF5_DEPTH = 32
# Objects of an HDF5 file: ten for each layer of the deepest networks, and each takes a lookup.
HDF5_OBJECTS = 2**17

# --- pickles -----------------------------------------------------------------------------------

# Steps (opcodes, and the parts that a call copies). A checkpoint takes about 30 for each tensor;
# one step may make an object of 200 bytes, so that all of them stay within FREE_BYTES.
PICKLE_STEPS = 2**21
# Tuples inside tuples, anywhere, and values inside values when they are read. Arrays and tensors
# take 5; hashing, comparing and printing recurse on the C stack.
PICKLE_DEPTH = 32
# The same for what is hashed: a dict's key, a member of a set. Names and numbers have none.
PICKLE_KEY_DEPTH = 4
# Parts of a key, shared ones counted each time that they occur, since a hash visits them so.
PICKLE_KEY_SIZE = 64
# Keys that are not text. Their hashes can be foreseen, so that all fall together and n of them
# take n * n / 2 comparisons; an optimizer has one for each parameter.
PICKLE_KEYS = 2**14

# --- ONNX --------------------------------------------------------------------------------------

# Functions that call functions: exporters write two levels.
FUNCTION_DEPTH = 32
# Elements of all constants that are computed while a network is read: 256 MiB in float32 ...
FOLDED = 2**26
# ... and this many more for each element that the file holds: a masked, scaled, transposed weight
# is computed three times over.
FOLDED_FOR_EACH = 8

# --- networks ----------------------------------------------------------------------------------

# Nodes, of ONNX once local functions are written out: the largest networks have some 20,000.
NODES = 2**16
# Inputs and outputs of one node: a dense block of 264 layers joins some 100.
ENDS = 2**12
# ... and of all nodes together: four for each node.
ALL_ENDS = 2**18
# Axes of a value. Formats in use have 5, the kernels 8; NumPy ends at 32 or 64 without grace.
RANK = 8
# Numbers in one value of one sample: 64 channels of 2048 x 2048 pixels.
VALUE = 2**28
# Numbers of one sample that are live at once: twice a value, so that any step can run.
LIVE = 2**29
# Entries that one Gather lists, in the header too: an image of 1024 x 1024 pixels in any order.
INDICES = 2**20
# Taps of one window. A mean over 1024 x 1024 pixels has as many; every tap is listed.
TAPS = 2**20
# Rows of all weights together, counted for each layer that reads them: the table of every row
# takes some 60 bytes. The widest classifiers have three million classes, ResNet-50 27,560 rows.
ROWS = 2**22
# Positions of all weights together, stored or not, counted for each layer that reads them: tables
# by row and tap are as large in the worst case, with 12 bytes for each ...
POSITIONS = 2**27
# ... and this many more for each stored weight: one in 128 is sparser than any in use.
POSITIONS_FOR_EACH = 128
# Entries along the axes that nodes pick from, all nodes together (Resize, Pad by reflection,
# Slice backwards): each is listed, in 1 GiB for as many as one value may have. A Resize to 4K
# takes 6,000.
PICKED = 2**28


def room(held: int) -> int:
    """Return the bytes that what a file holds may unpack to.

    Parameters
    ----------
    held : int
        Bytes of the file.

    Examples
    --------
    >>> room(0) == 2**30, room(2**30) == 33 * 2**30
    (True, True)
    """
    return FREE_BYTES + EXPANSION * held
