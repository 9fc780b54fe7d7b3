"""Triton kernels of the warp-and-colour operation, tested against `reference.py`; the README derives the formulas.

One program computes a tile of output pixels of one sample. The arithmetic is float32 for all input and output types.
The backward pass sums over the pixels of a sample in a fixed order that depends on the image size alone: each program
adds up its tiles and writes its sums, and a second stage adds those. Only the gradient of the images uses atomic adds,
because several output pixels read the same input pixel.
"""

import triton
import triton.language as tl

from hard_aug.ops.warp_color.triton_sampling import corner, sampled, sources

#: The kernels that are launched; the other functions are inlined into them.
LAUNCHED = ("_forward", "_backward")


@triton.jit
def _numbers(pointer, present: tl.constexpr, COUNT: tl.constexpr):
    """Load `COUNT` scalars; an empty tuple if not `present`."""
    values = ()
    if present:
        for i in tl.static_range(COUNT):
            values = values + (tl.load(pointer + i).to(tl.float32),)
    return values


@triton.jit
def _pixels(tile, tiles_across, height, width, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr):
    """Return the rows and columns of the pixels of a tile, and which of them are inside the image."""
    index = tl.arange(0, TILE_HEIGHT * TILE_WIDTH)
    row = (tile // tiles_across) * TILE_HEIGHT + index // TILE_WIDTH
    column = (tile % tiles_across) * TILE_WIDTH + index % TILE_WIDTH
    return row, column, (row < height) & (column < width)


@triton.jit
def _blended(values, others, mix, C: tl.constexpr):
    """Interpolate linearly between `values` and `others`, by channel."""
    blend = ()
    for c in tl.static_range(C):
        blend = blend + (values[c] + mix * (others[c] - values[c]),)
    return blend


@triton.jit
def _forward(
    images, partner, theta, control, color, weight, norms, first, second, third,
    image_strides, partner_strides, out_strides, height, width, rows, columns, tiles_across, tiles,
    C: tl.constexpr, PADDING: tl.constexpr, MAP: tl.constexpr, PROJECTIVE: tl.constexpr, DISPLACED: tl.constexpr,
    COLORED: tl.constexpr, MIXED: tl.constexpr, NORMS: tl.constexpr, CLAMP: tl.constexpr,
    SCALE: tl.constexpr, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    sample = (program // tiles).to(tl.int64)
    tile = program % tiles
    row, column, inside = _pixels(tile, tiles_across, height, width, TILE_HEIGHT, TILE_WIDTH)
    numbers = _numbers(theta + sample * 9, MAP, 9)
    image = images + sample * image_strides[0]
    if MAP or DISPLACED:
        x, y, _sx, _sy, _x, _y, _u, _v, _depth = sources(
            numbers, control + sample * 2 * rows * columns, row, column, height, width, rows, columns,
            PADDING, MAP, PROJECTIVE, DISPLACED,
        )  # fmt: skip
        values, _along_x, _along_y = sampled(image, x, y, inside, image_strides, height, width, SCALE, C)
    else:
        values = corner(image, row, column, inside, image_strides, height, width, SCALE, C)
    if MIXED:
        mix = tl.load(weight + sample).to(tl.float32)
        other = partner + sample * partner_strides[0]
        if MAP or DISPLACED:
            mixed, _mixed_x, _mixed_y = sampled(other, x, y, inside, partner_strides, height, width, SCALE, C)
        else:
            mixed = corner(other, row, column, inside, partner_strides, height, width, SCALE, C)
        values = _blended(values, mixed, mix, C)
    offset = sample * out_strides[0] + row * out_strides[2] + column * out_strides[3]
    matrix = _numbers(color + sample * (C * (C + 1)), COLORED, C * (C + 1))
    for c in tl.static_range(C):
        value = values[c]
        if COLORED:
            value = matrix[c * (C + 1) + C]
            for i in tl.static_range(C):
                value += matrix[c * (C + 1) + i] * values[i]
        if CLAMP:
            # CUDA's own minimum would replace NaN by a number.
            value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)
            value = tl.minimum(value, 1.0, propagate_nan=tl.PropagateNan.ALL)
        place = offset + c * out_strides[1]
        tl.store(first + place, value.to(first.dtype.element_ty), mask=inside)
        if NORMS > 0:
            normal = (value - tl.load(norms + c)) / tl.load(norms + C + c)
            tl.store(second + place, normal.to(second.dtype.element_ty), mask=inside)
        if NORMS > 1:
            normal = (value - tl.load(norms + 2 * C + c)) / tl.load(norms + 3 * C + c)
            tl.store(third + place, normal.to(third.dtype.element_ty), mask=inside)


@triton.jit
def _upstream(pointer, strides, sample, row, column, inside, C: tl.constexpr):
    """Load the gradient of one output, by channel."""
    offset = sample * strides[0] + row * strides[2] + column * strides[3]
    values = ()
    for c in tl.static_range(C):
        values = values + (tl.load(pointer + offset + c * strides[1], mask=inside, other=0.0).to(tl.float32),)
    return values


@triton.jit
def _added(gradients, more, std, C: tl.constexpr):
    """Add the gradients of a normalised output, divided by its standard deviation, to `gradients`."""
    total = ()
    for c in tl.static_range(C):
        total = total + (gradients[c] + more[c] / tl.load(std + c),)
    return total


@triton.jit
def _scattered(pointer, gradients, x, y, inside, factor, strides, height, width, C: tl.constexpr):
    """Add the gradients of bilinear samples at (x, y) to the pixels they were read from, with atomics."""
    left = tl.floor(x)
    top = tl.floor(y)
    for i in tl.static_range(2):
        for j in tl.static_range(2):
            column = left.to(tl.int32) + j
            row = top.to(tl.int32) + i
            across = x - left if j == 1 else 1 - (x - left)
            down = y - top if i == 1 else 1 - (y - top)
            valid = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            offset = row * strides[2] + column * strides[3]
            for c in tl.static_range(C):
                tl.atomic_add(
                    pointer + offset + c * strides[1], gradients[c] * across * down * factor, mask=valid, sem="relaxed"
                )


@triton.jit
def _stored(pointer, gradients, row, column, inside, factor, strides, C: tl.constexpr):
    offset = row * strides[2] + column * strides[3]
    for c in tl.static_range(C):
        tl.store(pointer + offset + c * strides[1], gradients[c] * factor, mask=inside)


@triton.jit
def _backward(
    images, partner, theta, control, color, weight, norms, first, second, third,
    map_sums, color_sums, weight_sums, field, image_gradient, partner_gradient,
    image_strides, partner_strides, first_strides, second_strides, third_strides, gradient_strides,
    height, width, rows, columns, tiles_across, tiles, programs,
    C: tl.constexpr, PADDING: tl.constexpr, MAP: tl.constexpr, PROJECTIVE: tl.constexpr, DISPLACED: tl.constexpr,
    COLORED: tl.constexpr, MIXED: tl.constexpr, SCALE: tl.constexpr,
    FIRST: tl.constexpr, SECOND: tl.constexpr, THIRD: tl.constexpr,
    NEED_MAP: tl.constexpr, NEED_FIELD: tl.constexpr, NEED_COLOR: tl.constexpr, NEED_WEIGHT: tl.constexpr,
    NEED_IMAGES: tl.constexpr, NEED_PARTNER: tl.constexpr, MAP_ROWS: tl.constexpr,
    TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    sample = (program // programs).to(tl.int64)
    split = program % programs
    nothing = tl.zeros((TILE_HEIGHT * TILE_WIDTH,), tl.float32)
    numbers = _numbers(theta + sample * 9, MAP, 9)
    matrix = _numbers(color + sample * (C * (C + 1)), COLORED, C * (C + 1))
    image = images + sample * image_strides[0]
    other = partner + sample * partner_strides[0]
    mix = 0.0
    if MIXED:
        mix = tl.load(weight + sample).to(tl.float32)
    weight_sum = nothing
    map_sum = ()
    for _ in tl.static_range(MAP_ROWS * 3):
        map_sum = map_sum + (nothing,)
    color_sum = ()
    for _ in tl.static_range(C * (C + 1)):
        color_sum = color_sum + (nothing,)
    for tile in range(split, tiles, programs):
        row, column, inside = _pixels(tile, tiles_across, height, width, TILE_HEIGHT, TILE_WIDTH)
        # The gradient of the output colours: their own, and those of the normalised outputs.
        out = ()
        for _ in tl.static_range(C):
            out = out + (nothing,)
        if FIRST:
            out = _upstream(first, first_strides, sample, row, column, inside, C)
        if SECOND:
            more = _upstream(second, second_strides, sample, row, column, inside, C)
            out = _added(out, more, norms + C, C)
        if THIRD:
            more = _upstream(third, third_strides, sample, row, column, inside, C)
            out = _added(out, more, norms + 3 * C, C)
        # The samples, recomputed.
        if MAP or DISPLACED:
            x, y, slope_x, slope_y, before_x, before_y, u, v, depth = sources(
                numbers, control + sample * 2 * rows * columns, row, column, height, width, rows, columns,
                PADDING, MAP, PROJECTIVE, DISPLACED,
            )  # fmt: skip
            values, along_x, along_y = sampled(image, x, y, inside, image_strides, height, width, SCALE, C)
        else:
            values = corner(image, row, column, inside, image_strides, height, width, SCALE, C)
        if MIXED:
            if MAP or DISPLACED:
                mixed, mixed_x, mixed_y = sampled(other, x, y, inside, partner_strides, height, width, SCALE, C)
                along_x = _blended(along_x, mixed_x, mix, C)
                along_y = _blended(along_y, mixed_y, mix, C)
            else:
                mixed = corner(other, row, column, inside, partner_strides, height, width, SCALE, C)
        # Back through the colour matrix to the samples.
        read = out
        if COLORED:
            read = ()
            for i in tl.static_range(C):
                gradient = nothing
                for c in tl.static_range(C):
                    gradient += matrix[c * (C + 1) + i] * out[c]
                read = read + (gradient,)
        if NEED_COLOR:
            seen = values
            if MIXED:
                seen = _blended(values, mixed, mix, C)
            sums = ()
            for c in tl.static_range(C):
                for i in tl.static_range(C):
                    sums = sums + (color_sum[c * (C + 1) + i] + out[c] * seen[i],)
                sums = sums + (color_sum[c * (C + 1) + C] + out[c],)
            color_sum = sums
        if NEED_WEIGHT:
            for c in tl.static_range(C):
                weight_sum += read[c] * (mixed[c] - values[c])
        if NEED_MAP or NEED_FIELD:
            to_x = nothing
            to_y = nothing
            for c in tl.static_range(C):
                to_x += read[c] * along_x[c]
                to_y += read[c] * along_y[c]
            to_x = tl.where(inside, to_x * slope_x / depth, 0.0)
            to_y = tl.where(inside, to_y * slope_y / depth, 0.0)
            # Out of view the slopes are 0, and non-finite values must not give 0 * NaN.
            to_depth = -(tl.where(to_x != 0, to_x * u, 0.0) + tl.where(to_y != 0, to_y * v, 0.0))
            if NEED_MAP:
                safe_x = tl.where((to_x != 0) | (to_y != 0), before_x, 0.0)
                safe_y = tl.where((to_x != 0) | (to_y != 0), before_y, 0.0)
                to = (to_x, to_y, to_depth)
                sums = ()
                for i in tl.static_range(MAP_ROWS):
                    sums = sums + (map_sum[3 * i] + to[i] * safe_x, map_sum[3 * i + 1] + to[i] * safe_y)
                    sums = sums + (map_sum[3 * i + 2] + to[i],)
                map_sum = sums
            if NEED_FIELD:
                field_x = to_x
                field_y = to_y
                if MAP:
                    field_x = to_x * numbers[0] + to_y * numbers[3]
                    field_y = to_x * numbers[1] + to_y * numbers[4]
                    if PROJECTIVE:
                        field_x += to_depth * numbers[6]
                        field_y += to_depth * numbers[7]
                    no_gradient = (to_x == 0) & (to_y == 0)  # also where the map is not finite
                    field_x = tl.where(no_gradient, 0.0, field_x)
                    field_y = tl.where(no_gradient, 0.0, field_y)
                place = field + sample * 2 * height * width + row * width + column
                tl.store(place, field_x, mask=inside)
                tl.store(place + height * width, field_y, mask=inside)
        if NEED_IMAGES:
            target = image_gradient + sample * gradient_strides[0]
            if MAP or DISPLACED:
                _scattered(target, read, x, y, inside, (1 - mix) * SCALE, gradient_strides, height, width, C)
            else:
                _stored(target, read, row, column, inside, (1 - mix) * SCALE, gradient_strides, C)
        if NEED_PARTNER:
            target = partner_gradient + sample * gradient_strides[0]
            if MAP or DISPLACED:
                _scattered(target, read, x, y, inside, mix * SCALE, gradient_strides, height, width, C)
            else:
                _stored(target, read, row, column, inside, mix * SCALE, gradient_strides, C)
    if NEED_MAP:
        place = map_sums + program.to(tl.int64) * 9
        for i in tl.static_range(MAP_ROWS * 3):
            tl.store(place + i, tl.sum(map_sum[i]))
        for i in tl.static_range(MAP_ROWS * 3, 9):
            tl.store(place + i, 0.0)
    if NEED_COLOR:
        place = color_sums + program.to(tl.int64) * (C * (C + 1))
        for i in tl.static_range(C * (C + 1)):
            tl.store(place + i, tl.sum(color_sum[i]))
    if NEED_WEIGHT:
        tl.store(weight_sums + program, tl.sum(weight_sum))
