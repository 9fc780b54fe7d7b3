"""Sampling functions of the warp-and-colour kernels: source positions and bilinear reads."""

import triton
import triton.language as tl

from hard_aug.ops.warp_color.reference import MIN_DEPTH, OUTSIDE

# A kernel may read a global only if it is a constexpr.
_MIN_DEPTH, _OUTSIDE = tl.constexpr(MIN_DEPTH), tl.constexpr(OUTSIDE)
#: Positions are clamped to this many pixels, so that they fit an integer.
_FAR = tl.constexpr(float(2**22))


@triton.jit
def _spline_weights(place):
    """Return the index of the first of four control points at `place`, and their uniform cubic B-spline weights."""
    first = tl.floor(place)
    f = place - first
    g = 1 - f
    weights = (
        g * g * g / 6,
        2 / 3 - f * f * (1 - f / 2),
        2 / 3 - g * g * (1 - g / 2),
        f * f * f / 6,
    )
    return first.to(tl.int32), weights


@triton.jit
def _displaced(control, row, column, height, width, rows, columns):
    """Evaluate the spline of the control grid of one sample at pixels (row, column): displacements in x and in y."""
    first_column, across = _spline_weights((column + 0.5) * ((columns - 3) / width))
    first_row, down = _spline_weights((row + 0.5) * ((rows - 3) / height))
    first_column = tl.minimum(first_column, columns - 4)
    first_row = tl.minimum(first_row, rows - 4)
    x = tl.zeros_like(across[0])
    y = tl.zeros_like(across[0])
    for i in tl.static_range(4):
        for j in tl.static_range(4):
            point = (first_row + i) * columns + first_column + j
            weight = down[i] * across[j]
            x += weight * tl.load(control + point)
            y += weight * tl.load(control + rows * columns + point)
    return x, y


@triton.jit
def _mapped(theta, x, y, PROJECTIVE: tl.constexpr):
    """Map (x, y): return the position in pixels from the centre, its depth, and whether it is in view."""
    u = theta[0] * x + theta[1] * y + theta[2]
    v = theta[3] * x + theta[4] * y + theta[5]
    depth = tl.full(x.shape, 1.0, tl.float32)
    visible = depth > 0
    if PROJECTIVE:
        depth = theta[6] * x + theta[7] * y + theta[8]
        visible = (depth > _MIN_DEPTH) & (depth < float("inf"))
        depth = tl.where(visible, depth, 1.0)
        u = u / depth
        v = v / depth
    return u, v, depth, visible


@triton.jit
def _placed(position, seen, size):
    """Convert pixels from the image centre to pixels from the first pixel's centre; unseen positions lie outside."""
    place = tl.where(seen, position, _OUTSIDE * 0.5 * size) + (size * 0.5 - 0.5)
    return tl.minimum(tl.maximum(place, -_FAR), _FAR)


@triton.jit
def _padded(place, size, PADDING: tl.constexpr):
    """Apply the padding mode to a position; return the position that is read, and its derivative."""
    slope = tl.full(place.shape, 1.0, tl.float32)
    if PADDING == 2:  # about the outer edges of the outermost pixels
        shifted = place + 0.5
        slope = tl.where(shifted < 0, -1.0, 1.0)
        shifted = tl.abs(shifted)
        times = tl.floor(shifted / size)
        rest = shifted - times * size
        odd = (times - 2 * tl.floor(times * 0.5)) > 0.5
        slope = tl.where(odd, -slope, slope)
        place = tl.where(odd, size - rest, rest) - 0.5
    if PADDING > 0:
        slope = tl.where((place > 0) & (place < size - 1), slope, 0.0)
        place = tl.minimum(tl.maximum(place, 0.0), size - 1.0)
    return place, slope


@triton.jit
def corner(images, row, column, inside, strides, height, width, SCALE: tl.constexpr, C: tl.constexpr):
    """Load the channels of the pixels at (row, column) of one sample, 0 outside the image."""
    valid = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    offset = row * strides[2] + column * strides[3]
    values = ()
    for c in tl.static_range(C):
        value = tl.load(images + c * strides[1] + offset, mask=valid, other=0.0).to(tl.float32)
        values = values + (value * SCALE,)
    return values


@triton.jit
def sampled(images, x, y, inside, strides, height, width, SCALE: tl.constexpr, C: tl.constexpr):
    """Sample one image bilinearly at (x, y); return values by channel, and their derivatives in x and in y."""
    left = tl.floor(x)
    top = tl.floor(y)
    right_weight = x - left
    lower_weight = y - top
    column = left.to(tl.int32)
    row = top.to(tl.int32)
    a = corner(images, row, column, inside, strides, height, width, SCALE, C)
    b = corner(images, row, column + 1, inside, strides, height, width, SCALE, C)
    c = corner(images, row + 1, column, inside, strides, height, width, SCALE, C)
    d = corner(images, row + 1, column + 1, inside, strides, height, width, SCALE, C)
    values = ()
    along_x = ()
    along_y = ()
    for i in tl.static_range(C):
        # In this form weights of 0 and 1 return a pixel exactly.
        upper = (1 - right_weight) * a[i] + right_weight * b[i]
        lower = (1 - right_weight) * c[i] + right_weight * d[i]
        values = values + ((1 - lower_weight) * upper + lower_weight * lower,)
        along_x = along_x + ((1 - lower_weight) * (b[i] - a[i]) + lower_weight * (d[i] - c[i]),)
        along_y = along_y + (lower - upper,)
    return values, along_x, along_y


@triton.jit
def sources(
    theta, control, row, column, height, width, rows, columns,
    PADDING: tl.constexpr, MAP: tl.constexpr, PROJECTIVE: tl.constexpr, DISPLACED: tl.constexpr,
):  # fmt: skip
    """Compute the source positions of output pixels.

    Returns (x, y) in pixels from the first pixel, its derivatives, the position before the map, the position after it,
    and its depth.
    """
    x = column + 0.5 - width * 0.5
    y = row + 0.5 - height * 0.5
    if DISPLACED:
        moved_x, moved_y = _displaced(control, row, column, height, width, rows, columns)
        x += moved_x
        y += moved_y
    depth = tl.full(x.shape, 1.0, tl.float32)
    visible = depth > 0
    u = x
    v = y
    if MAP:
        u, v, depth, visible = _mapped(theta, x, y, PROJECTIVE)
    seen = visible & (tl.abs(u) < float("inf")) & (tl.abs(v) < float("inf"))  # false for NaN
    place_x, slope_x = _padded(_placed(u, seen, width), width, PADDING)
    place_y, slope_y = _padded(_placed(v, seen, height), height, PADDING)
    slope_x = tl.where(seen, slope_x, 0.0)
    slope_y = tl.where(seen, slope_y, 0.0)
    return place_x, place_y, slope_x, slope_y, x, y, u, v, depth
