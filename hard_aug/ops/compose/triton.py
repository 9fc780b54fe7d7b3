"""Triton kernels that compute the map and the colour matrix from `u`, and the gradient of `u`.

One program computes a block of samples. The forward pass is that of `reference.py`, the backward pass its derivative in
closed form; the README beside this file has both. The tuples `at`, `centres` and `halves` have one entry for each of
`plan.SLOTS`, in their order.
"""

import math

import triton
import triton.language as tl

#: The kernels that are launched; the other functions are inlined into them.
LAUNCHED = ("_forward", "_backward")
# A kernel may read a global only if it is a constexpr.
_SQRT_HALF = tl.constexpr(math.sqrt(0.5))
_TWICE_DENSITY = tl.constexpr(math.sqrt(2 / math.pi))
_RADIANS = tl.constexpr(math.pi / 180)
_SQRT_THIRD = tl.constexpr(1 / math.sqrt(3))
_TRANSLATION_X, _TRANSLATION_Y, _ROTATION = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
_SCALE_X, _SCALE_Y, _SHEAR = tl.constexpr(3), tl.constexpr(4), tl.constexpr(5)
_TILT_X, _TILT_Y = tl.constexpr(6), tl.constexpr(7)
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = tl.constexpr(8), tl.constexpr(9), tl.constexpr(10), tl.constexpr(11)


@triton.jit
def _value(u, sample, valid, size, at, centres, halves, SLOT: tl.constexpr):
    """Decode the parameter of a slot (for factors its logarithm); 0 if it is switched off."""
    value = tl.zeros(sample.shape, tl.float32)
    if at[SLOT] >= 0:
        value = tl.load(u + sample * size + at[SLOT], mask=valid, other=0.0)
        value = centres[SLOT] + halves[SLOT] * tl.erf(value * _SQRT_HALF)
    return value


@triton.jit
def _store_gradient(gradient, u, out, sample, valid, size, at, halves, SLOT: tl.constexpr):
    """Store the gradient of a slot's `u` from that of its value (for factors: of the logarithm)."""
    if at[SLOT] >= 0:
        value = tl.load(u + sample * size + at[SLOT], mask=valid, other=0.0)
        slope = halves[SLOT] * _TWICE_DENSITY * tl.exp(-0.5 * value * value)
        tl.store(out + sample * size + at[SLOT], gradient * slope, mask=valid)


@triton.jit
def _affine(u, sample, valid, size, at, centres, halves, height, width):
    """Return the entries `a b c d` of the linear part, the shift `x y`, and intermediates for the backward pass."""
    x = _value(u, sample, valid, size, at, centres, halves, _TRANSLATION_X) * width
    y = _value(u, sample, valid, size, at, centres, halves, _TRANSLATION_Y) * height
    angle = _value(u, sample, valid, size, at, centres, halves, _ROTATION) * _RADIANS
    inverse_x = tl.exp(-_value(u, sample, valid, size, at, centres, halves, _SCALE_X))
    inverse_y = tl.exp(-_value(u, sample, valid, size, at, centres, halves, _SCALE_Y))
    shear = _value(u, sample, valid, size, at, centres, halves, _SHEAR)
    cos = tl.cos(angle)
    sin = tl.sin(angle)
    a = (cos + shear * sin) * inverse_x
    b = (sin - shear * cos) * inverse_x
    c = -sin * inverse_y
    d = cos * inverse_y
    return a, b, c, d, x, y, cos, sin, inverse_x


@triton.jit
def _affine_map(parts):
    a, b, c, d, x, y, _cos, _sin, _inverse_x = parts
    zero = tl.zeros(a.shape, tl.float32)
    return a, b, -(a * x + b * y), c, d, -(c * x + d * y), zero, zero, zero + 1


@triton.jit
def _tilts(u, sample, valid, size, at, centres, halves):
    tilt_x = _value(u, sample, valid, size, at, centres, halves, _TILT_X) * _RADIANS
    tilt_y = _value(u, sample, valid, size, at, centres, halves, _TILT_Y) * _RADIANS
    return tl.sin(tilt_x), tl.cos(tilt_x), tl.sin(tilt_y), tl.cos(tilt_y)


@triton.jit
def _perspective_map(parts, distance):
    sin_x, cos_x, sin_y, cos_y = parts
    zero = tl.zeros(sin_x.shape, tl.float32)
    return (
        cos_x, -sin_x * sin_y, zero,
        zero, cos_y, zero,
        -cos_x * sin_y / distance, sin_x / distance, cos_x * cos_y,
    )  # fmt: skip


@triton.jit
def _product(first, second):
    """Multiply 3x3 matrices given as tuples."""
    entries = ()
    for i in tl.static_range(3):
        for j in tl.static_range(3):
            entries = entries + (
                first[3 * i] * second[j] + first[3 * i + 1] * second[3 + j] + first[3 * i + 2] * second[6 + j],
            )
    return entries


@triton.jit
def _transposed(m):
    return m[0], m[3], m[6], m[1], m[4], m[7], m[2], m[5], m[8]


@triton.jit(do_not_specialize=["batch"])
def _forward(
    u, inverse_map, color, batch, size, centres, halves, height, width, distance,
    AT: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, C: tl.constexpr, COLORED: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute map and matrix; FIRST and SECOND are the stages that move pixels: 1 affine, 2 perspective, 0 none."""
    sample = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    valid = sample < batch
    if FIRST > 0:
        if FIRST == 1:
            entries = _affine_map(_affine(u, sample, valid, size, AT, centres, halves, height, width))
        else:
            entries = _perspective_map(_tilts(u, sample, valid, size, AT, centres, halves), distance)
        if SECOND == 1:
            entries = _product(
                entries, _affine_map(_affine(u, sample, valid, size, AT, centres, halves, height, width))
            )
        if SECOND == 2:
            entries = _product(entries, _perspective_map(_tilts(u, sample, valid, size, AT, centres, halves), distance))
        for i in tl.static_range(9):
            tl.store(inverse_map + sample * 9 + i, entries[i], mask=valid)
    if COLORED:
        contrast = tl.exp(_value(u, sample, valid, size, AT, centres, halves, _CONTRAST))
        offset = 0.5 * (1 - contrast) + _value(u, sample, valid, size, AT, centres, halves, _BRIGHTNESS)
        place = color + sample * (C * (C + 1))
        if C == 1:
            tl.store(place, contrast, mask=valid)
            tl.store(place + 1, offset, mask=valid)
        else:
            strength = contrast * tl.exp(_value(u, sample, valid, size, AT, centres, halves, _SATURATION))
            angle = _value(u, sample, valid, size, AT, centres, halves, _HUE) * _RADIANS
            across = strength * tl.cos(angle)
            turn = strength * tl.sin(angle) * _SQRT_THIRD
            grey = (contrast - across) / 3
            for i in tl.static_range(3):
                tl.store(place + 4 * i + i, grey + across, mask=valid)
                tl.store(place + 4 * i + (i + 1) % 3, grey - turn, mask=valid)
                tl.store(place + 4 * i + (i + 2) % 3, grey + turn, mask=valid)
                tl.store(place + 4 * i + 3, offset, mask=valid)


@triton.jit
def _store_affine_gradients(g, parts, u, out, sample, valid, size, at, halves, height, width):
    """Store the gradients of the affine parameters, from those of the nine entries `g`."""
    a, b, c, d, x, y, cos, sin, inverse_x = parts
    to_a = g[0] - g[2] * x
    to_b = g[1] - g[2] * y
    to_c = g[3] - g[5] * x
    to_d = g[4] - g[5] * y
    _store_gradient(-(g[2] * a + g[5] * c) * width, u, out, sample, valid, size, at, halves, _TRANSLATION_X)
    _store_gradient(-(g[2] * b + g[5] * d) * height, u, out, sample, valid, size, at, halves, _TRANSLATION_Y)
    turned = to_b * a - to_a * b + to_d * c - to_c * d
    _store_gradient(turned * _RADIANS, u, out, sample, valid, size, at, halves, _ROTATION)
    _store_gradient(-(to_a * a + to_b * b), u, out, sample, valid, size, at, halves, _SCALE_X)
    _store_gradient(-(to_c * c + to_d * d), u, out, sample, valid, size, at, halves, _SCALE_Y)
    _store_gradient(inverse_x * (to_a * sin - to_b * cos), u, out, sample, valid, size, at, halves, _SHEAR)


@triton.jit
def _store_tilt_gradients(g, parts, u, out, sample, valid, size, at, halves, distance):
    """Store the gradients of the perspective parameters, from those of the nine entries `g`."""
    sin_x, cos_x, sin_y, cos_y = parts
    tilted_x = (
        -g[0] * sin_x - g[1] * cos_x * sin_y + (g[6] * sin_x * sin_y + g[7] * cos_x) / distance - g[8] * sin_x * cos_y
    )
    tilted_y = -g[1] * sin_x * cos_y - g[4] * sin_y - g[6] * cos_x * cos_y / distance - g[8] * cos_x * sin_y
    _store_gradient(tilted_x * _RADIANS, u, out, sample, valid, size, at, halves, _TILT_X)
    _store_gradient(tilted_y * _RADIANS, u, out, sample, valid, size, at, halves, _TILT_Y)


@triton.jit(do_not_specialize=["batch"])
def _backward(
    map_gradient, color_gradient, u, out, batch, size, centres, halves, height, width, distance,
    AT: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, C: tl.constexpr, COLORED: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Write to `out`, which holds zeros for columns that belong to no slot. FIRST is 0 if the map has no gradient."""
    sample = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    valid = sample < batch
    if FIRST > 0:
        g = ()
        for i in tl.static_range(9):
            g = g + (tl.load(map_gradient + sample * 9 + i, mask=valid, other=0.0),)
        if FIRST == 1 or SECOND == 1:
            affine = _affine(u, sample, valid, size, AT, centres, halves, height, width)
        if FIRST == 2 or SECOND == 2:
            tilts = _tilts(u, sample, valid, size, AT, centres, halves)
        if FIRST == 1:
            mine = g
            if SECOND == 2:
                mine = _product(g, _transposed(_perspective_map(tilts, distance)))
                theirs = _product(_transposed(_affine_map(affine)), g)
                _store_tilt_gradients(theirs, tilts, u, out, sample, valid, size, AT, halves, distance)
            _store_affine_gradients(mine, affine, u, out, sample, valid, size, AT, halves, height, width)
        else:
            mine = g
            if SECOND == 1:
                mine = _product(g, _transposed(_affine_map(affine)))
                theirs = _product(_transposed(_perspective_map(tilts, distance)), g)
                _store_affine_gradients(theirs, affine, u, out, sample, valid, size, AT, halves, height, width)
            _store_tilt_gradients(mine, tilts, u, out, sample, valid, size, AT, halves, distance)
    if COLORED:
        place = color_gradient + sample * (C * (C + 1))
        contrast = tl.exp(_value(u, sample, valid, size, AT, centres, halves, _CONTRAST))
        if C == 1:
            to_offset = tl.load(place + 1, mask=valid, other=0.0)
            to_contrast = tl.load(place, mask=valid, other=0.0) - 0.5 * to_offset
            _store_gradient(contrast * to_contrast, u, out, sample, valid, size, AT, halves, _CONTRAST)
        else:
            to_same = tl.zeros(sample.shape, tl.float32)
            to_before = to_same
            to_after = to_same
            to_offset = to_same
            for i in tl.static_range(3):
                to_same += tl.load(place + 4 * i + i, mask=valid, other=0.0)
                to_before += tl.load(place + 4 * i + (i + 1) % 3, mask=valid, other=0.0)
                to_after += tl.load(place + 4 * i + (i + 2) % 3, mask=valid, other=0.0)
                to_offset += tl.load(place + 4 * i + 3, mask=valid, other=0.0)
            strength = contrast * tl.exp(_value(u, sample, valid, size, AT, centres, halves, _SATURATION))
            angle = _value(u, sample, valid, size, AT, centres, halves, _HUE) * _RADIANS
            cos = tl.cos(angle)
            sin = tl.sin(angle) * _SQRT_THIRD
            to_grey = to_same + to_before + to_after
            to_across = to_same - to_grey / 3
            to_turn = to_after - to_before
            to_strength = strength * (to_across * cos + to_turn * sin)
            to_contrast = contrast * (to_grey / 3 - 0.5 * to_offset)
            to_angle = strength * (to_turn * cos * _SQRT_THIRD - to_across * tl.sin(angle))
            _store_gradient(to_contrast + to_strength, u, out, sample, valid, size, AT, halves, _CONTRAST)
            _store_gradient(to_strength, u, out, sample, valid, size, AT, halves, _SATURATION)
            _store_gradient(to_angle * _RADIANS, u, out, sample, valid, size, AT, halves, _HUE)
        _store_gradient(to_offset, u, out, sample, valid, size, AT, halves, _BRIGHTNESS)
