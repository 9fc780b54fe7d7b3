"""Triton kernels of the divergence, tested against `reference.py`; the README derives the formulas.

One program computes some rows: all classes at once if they are few, else block by block with running maxima and sums
(Milakov and Gimelshein, arXiv:1805.02867), so that a row of any length is read once. The arithmetic is float32.
"""

import triton
import triton.language as tl

#: The kernels that are launched; the other functions are inlined into them.
LAUNCHED = ("_forward", "_backward")


@triton.jit
def _logits(pointer, row, stride, valid, column, classes, temperature):
    """Load a block of rows and columns, divided by the temperature; -inf outside."""
    inside = valid[:, None] & (column < classes)[None, :]
    offset = row.to(tl.int64)[:, None] * stride + column[None, :]
    return tl.load(pointer + offset, mask=inside, other=float("-inf")).to(tl.float32) / temperature


@triton.jit
def _rescaled(largest, values):
    """Update the running maximum with a block of values.

    Returns the new maximum, a finite value to subtract, the factor that scales earlier sums, and the change of earlier
    differences to the maximum.
    """
    new = tl.maximum(largest, tl.max(values, axis=1))
    finite = tl.where(new == float("-inf"), 0.0, new)
    return new, finite, tl.exp(largest - finite), tl.where(largest == float("-inf"), 0.0, largest - finite)


@triton.jit
def _write_gradients(
    teacher, student, teacher_gradient, student_gradient, row, valid, teacher_stride, student_stride, classes,
    temperature, factor, largest_t, log_t, largest_s, log_s, divergence,
    NEED_TEACHER: tl.constexpr, NEED_STUDENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the gradients of some rows, from their maxima, the logarithms of their sums, and the divergence."""
    for start in range(0, classes, BLOCK):
        column = start + tl.arange(0, BLOCK)
        t = _logits(teacher, row, teacher_stride, valid, column, classes, temperature)
        s = _logits(student, row, student_stride, valid, column, classes, temperature)
        log_p = (t - largest_t[:, None]) - log_t[:, None]
        log_q = (s - largest_s[:, None]) - log_s[:, None]
        p = tl.exp(log_p)
        inside = valid[:, None] & (column < classes)[None, :]
        place = row.to(tl.int64)[:, None] * classes + column[None, :]
        no_gradient = (factor == 0) | (divergence == float("inf"))
        if NEED_STUDENT:
            gradient = tl.where(no_gradient[:, None], 0.0, factor[:, None] * (tl.exp(log_q) - p))
            tl.store(student_gradient + place, gradient.to(student_gradient.dtype.element_ty), mask=inside)
        if NEED_TEACHER:
            gradient = factor[:, None] * p * (log_p - log_q - divergence[:, None])
            gradient = tl.where(no_gradient[:, None] | (p == 0), 0.0, gradient)  # not 0 * inf
            tl.store(teacher_gradient + place, gradient.to(teacher_gradient.dtype.element_ty), mask=inside)


@triton.jit
def _weight(weights, mask, row, present, WEIGHTED: tl.constexpr, MASKED: tl.constexpr):
    """Return the weight of each row, and whether it is used."""
    valid = present
    if MASKED:
        valid = valid & (tl.load(mask + row, mask=present, other=0) != 0)
    weight = tl.where(valid, 1.0, 0.0)
    if WEIGHTED:
        weight = tl.load(weights + row, mask=valid, other=0.0).to(tl.float32)
    return weight, valid


@triton.jit(do_not_specialize=["batch"])
def _forward(
    teacher, student, weights, mask, losses, statistics, teacher_gradient, student_gradient,
    teacher_stride, student_stride, batch, classes, temperature,
    WEIGHTED: tl.constexpr, MASKED: tl.constexpr, NEED_TEACHER: tl.constexpr, NEED_STUDENT: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    present = row < batch
    weight, valid = _weight(weights, mask, row, present, WEIGHTED, MASKED)
    nothing = tl.zeros((ROWS,), tl.float32)
    largest_t = nothing + float("-inf")
    largest_s = nothing + float("-inf")
    sum_t = nothing
    sum_s = nothing
    moment = nothing
    ruled_out = nothing + float("-inf")
    for start in range(0, classes, BLOCK):
        column = start + tl.arange(0, BLOCK)
        t = _logits(teacher, row, teacher_stride, valid, column, classes, temperature)
        s = _logits(student, row, student_stride, valid, column, classes, temperature)
        largest_t, finite_t, scale_t, fall_t = _rescaled(largest_t, t)
        largest_s, finite_s, scale_s, fall_s = _rescaled(largest_s, s)
        sum_t *= scale_t  # 0 where a mask has put all earlier classes far below this block; then not 0 * inf:
        moment = moment * scale_t + tl.where(sum_t == 0, 0.0, sum_t * (fall_t - fall_s))
        p = tl.exp(t - finite_t[:, None])
        q = tl.exp(s - finite_s[:, None])
        excluded = (p == 0) | (s == float("-inf"))
        sum_t += tl.sum(p, axis=1)
        sum_s = sum_s * scale_s + tl.sum(q, axis=1)
        difference = (t - finite_t[:, None]) - (s - finite_s[:, None])
        moment += tl.sum(p * tl.where(excluded, 0.0, difference), axis=1)
        ruled_out = tl.maximum(ruled_out, tl.max(tl.where(s == float("-inf"), t, float("-inf")), axis=1))
    log_t = tl.log(sum_t)
    log_s = tl.log(sum_s)
    divergence = moment / sum_t - log_t + log_s
    infinite = tl.exp(ruled_out - largest_t) > 0  # the student rules out what the teacher does not
    divergence = tl.where(infinite & (divergence == divergence), float("inf"), divergence)  # NaN is kept
    loss = tl.where(valid, temperature * temperature * weight * divergence, 0.0)
    tl.store(losses + row, loss, mask=present)
    tl.store(statistics + row, tl.where(valid, largest_t, 0.0), mask=present)
    tl.store(statistics + batch + row, tl.where(valid, log_t, 0.0), mask=present)
    tl.store(statistics + 2 * batch + row, tl.where(valid, largest_s, 0.0), mask=present)
    tl.store(statistics + 3 * batch + row, tl.where(valid, log_s, 0.0), mask=present)
    tl.store(statistics + 4 * batch + row, tl.where(valid, divergence, 0.0), mask=present)
    if NEED_TEACHER or NEED_STUDENT:
        _write_gradients(
            teacher, student, teacher_gradient, student_gradient, row, present, teacher_stride, student_stride, classes,
            temperature, tl.where(valid, weight * temperature, 0.0), largest_t, log_t, largest_s, log_s, divergence,
            NEED_TEACHER, NEED_STUDENT, BLOCK,
        )  # fmt: skip


@triton.jit(do_not_specialize=["batch"])
def _backward(
    upstream, teacher, student, weights, mask, statistics, teacher_gradient, student_gradient,
    upstream_stride, teacher_stride, student_stride, batch, classes, temperature,
    WEIGHTED: tl.constexpr, MASKED: tl.constexpr, NEED_TEACHER: tl.constexpr, NEED_STUDENT: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    present = row < batch
    weight, valid = _weight(weights, mask, row, present, WEIGHTED, MASKED)
    above = tl.load(upstream + row.to(tl.int64) * upstream_stride, mask=valid, other=0.0).to(tl.float32)
    _write_gradients(
        teacher, student, teacher_gradient, student_gradient, row, present, teacher_stride, student_stride, classes,
        temperature, tl.where(valid, above * weight * temperature, 0.0),
        tl.load(statistics + row, mask=present, other=0.0),
        tl.load(statistics + batch + row, mask=present, other=0.0),
        tl.load(statistics + 2 * batch + row, mask=present, other=0.0),
        tl.load(statistics + 3 * batch + row, mask=present, other=0.0),
        tl.load(statistics + 4 * batch + row, mask=present, other=0.0),
        NEED_TEACHER, NEED_STUDENT, BLOCK,
    )  # fmt: skip
