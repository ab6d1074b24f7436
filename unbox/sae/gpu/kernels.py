"""Triton kernels of the training step on a GPU: top-k, the forward pass, gradients by latent with Adam.

Each program's sums have a fixed order and nothing is added by atomics, so a step repeats to the bit. They run
in Triton's interpreter without a GPU (TRITON_INTERPRET=1), which is how the tests run them here.
"""

import triton
import triton.language as tl


@triton.jit
def _keys(value, valid, BITS: tl.constexpr):
    """Whole numbers in the order of positive floats: their bits. 0 for the rest, -1 where nothing is."""
    if BITS == 15:
        key = value.to(tl.int16, bitcast=True).to(tl.int32)
    else:
        key = value.to(tl.float32).to(tl.int32, bitcast=True)
    return tl.where(valid, tl.maximum(key, 0), -1)


@triton.jit
def _kth(key, k, BITS: tl.constexpr):
    """The k-th largest key, bit by bit from the highest: a bit stays where at least k keys reach it."""
    least = tl.zeros((), tl.int32)
    for i in tl.static_range(BITS):
        higher = least | (1 << (BITS - 1 - i))
        count = tl.sum((key >= higher).to(tl.int32), 0)
        least = tl.where(count >= k, higher, least)
    return least


@triton.jit
def group_maxima_kernel(values, maxima, n, groups, SIZE: tl.constexpr, GROUPS: tl.constexpr):
    """The largest of every SIZE neighbours of a row."""
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    column = group[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    value = tl.load(values + row * n + column, mask=column < n, other=float("-inf"))
    largest = tl.max(value.to(tl.float32), 1)
    tl.store(maxima + row * groups + group, largest, mask=group < groups)


@triton.jit
def topk_kernel(
    values, chosen_groups, found_values, found_indices, n, candidates, k, wide,
    SIZE: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The k largest of a row of values, by rising place; of equals the first.

    With SIZE > 0 only the groups of SIZE neighbours that are named are looked through: those with the k
    largest maxima hold the k largest values. What is negative may come in any order: it is 0 after the ReLU.
    """
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    valid = at < candidates
    column = at
    if SIZE > 0:
        group = tl.load(chosen_groups + row * wide + at // SIZE, mask=valid, other=0)
        column = group * SIZE + at % SIZE
        valid = valid & (column < n)
    value = tl.load(values + row * n + column, mask=valid, other=0.0)
    key = _keys(value, valid, BITS)
    least = _kth(key, k, BITS)
    over, equal = key > least, key == least
    room = k - tl.sum(over.to(tl.int32), 0)
    taken = over | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= room))
    to = row * k + tl.cumsum(taken.to(tl.int32), 0) - 1
    tl.store(found_values + to, value, mask=taken)
    tl.store(found_indices + to, column, mask=taken)


@triton.jit
def forward_kernel(
    x, b_pre, w_enc, b_lat, w_dec, indices, codes, slopes, error, squares, factor,
    d, k, K_BLOCK: tl.constexpr, D_BLOCK: tl.constexpr,
):  # fmt: skip
    """One row: codes of its active latents, reconstruction, error, and the loss's gradient by each code.

    code = relu(<x - b_pre, W_enc> + b_lat); error = sum of code * W_dec - (x - b_pre);
    slope = factor * <error, W_dec> where the code is positive. All sums in float32.
    """
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, D_BLOCK)
    inside = column < d
    centred = tl.load(x + row * d + column, mask=inside, other=0.0).to(tl.float32)
    centred -= tl.load(b_pre + column, mask=inside, other=0.0)
    found = -centred
    entry = tl.arange(0, K_BLOCK)
    for start in range(0, k, K_BLOCK):
        there = start + entry < k
        latent = tl.load(indices + row * k + start + entry, mask=there, other=0).to(tl.int64)
        both = there[:, None] & inside[None, :]
        place = latent[:, None] * d + column[None, :]
        weight = tl.load(w_enc + place, mask=both, other=0.0)
        pre = tl.sum(weight * centred[None, :], 1) + tl.load(b_lat + latent, mask=there, other=0.0)
        code = tl.where(there, tl.maximum(pre, 0.0), 0.0)
        tl.store(codes + row * k + start + entry, code, mask=there)
        decoder = tl.load(w_dec + place, mask=both, other=0.0)
        found += tl.sum(code[:, None] * decoder, 0)
    tl.store(error + row * d + column, found, mask=inside)
    tl.store(squares + row, tl.sum(found * found, 0))
    tl.debug_barrier()  # the codes are read again below, by other threads than wrote them
    for start in range(0, k, K_BLOCK):
        there = start + entry < k
        latent = tl.load(indices + row * k + start + entry, mask=there, other=0).to(tl.int64)
        both = there[:, None] & inside[None, :]
        decoder = tl.load(w_dec + latent[:, None] * d + column[None, :], mask=both, other=0.0)
        code = tl.load(codes + row * k + start + entry, mask=there, other=0.0)
        slope = tl.sum(decoder * found[None, :], 1) * factor
        tl.store(slopes + row * k + start + entry, tl.where(code > 0, slope, 0.0), mask=there)


@triton.jit
def latent_sums_kernel(
    order, starts, codes, slopes, sums, rows, sorted_codes, sorted_slopes, n, k,
    BLOCK: tl.constexpr, LATENTS: tl.constexpr,
):  # fmt: skip
    """Of each latent over its entries: (sum of slopes, sum of code * slope, number of positive codes).

    Writes the entries' rows, codes and slopes in order of latents beside them.
    """
    latent = tl.program_id(0) * LATENTS + tl.arange(0, LATENTS)
    there = latent < n
    begin = tl.load(starts + latent, mask=there, other=0)
    end = tl.load(starts + latent + 1, mask=there, other=0)
    longest = tl.max(end - begin, 0)
    lane = tl.arange(0, BLOCK)
    bias = tl.zeros((LATENTS,), tl.float32)
    radial = tl.zeros((LATENTS,), tl.float32)
    active = tl.zeros((LATENTS,), tl.float32)
    for offset in range(0, longest, BLOCK):
        at = begin[:, None] + offset + lane[None, :]
        valid = at < end[:, None]
        entry = tl.load(order + at, mask=valid, other=0)
        code = tl.load(codes + entry, mask=valid, other=0.0)
        slope = tl.load(slopes + entry, mask=valid, other=0.0)
        tl.store(rows + at, entry // k, mask=valid)
        tl.store(sorted_codes + at, code, mask=valid)
        tl.store(sorted_slopes + at, slope, mask=valid)
        bias += tl.sum(slope, 1)
        radial += tl.sum(code * slope, 1)
        active += tl.sum((code > 0).to(tl.float32), 1)
    tl.store(sums + latent, bias, mask=there)
    tl.store(sums + n + latent, radial, mask=there)
    tl.store(sums + 2 * n + latent, active, mask=there)


@triton.jit
def column_sums_kernel(
    codes, slopes, sums, count, n, ROWS: tl.constexpr, TILE: tl.constexpr, COLUMNS: tl.constexpr
):
    """The sums of `latent_sums_kernel` over ROWS rows of dense codes and slopes."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    part = tl.program_id(1)
    there = column < n
    bias = tl.zeros((COLUMNS,), tl.float32)
    radial = tl.zeros((COLUMNS,), tl.float32)
    active = tl.zeros((COLUMNS,), tl.float32)
    for offset in range(0, ROWS, TILE):
        row = part * ROWS + offset + tl.arange(0, TILE)
        both = (row < count)[:, None] & there[None, :]
        place = row.to(tl.int64)[:, None] * n + column[None, :]
        code = tl.load(codes + place, mask=both, other=0.0).to(tl.float32)
        slope = tl.load(slopes + place, mask=both, other=0.0).to(tl.float32)
        bias += tl.sum(slope, 0)
        radial += tl.sum(code * slope, 0)
        active += tl.sum((code > 0).to(tl.float32), 0)
    to = sums + part * 3 * n + column
    tl.store(to, bias, mask=there)
    tl.store(to + n, radial, mask=there)
    tl.store(to + 2 * n, active, mask=there)


@triton.jit
def _adam(weight, mean, square, gradient, rate, correction1, correction2, BETA1, BETA2, EPS):
    """Adam's new weight and moments (Kingma & Ba, algorithm 1); the corrections are 1 - beta^t."""
    mean = BETA1 * mean + (1 - BETA1) * gradient
    square = BETA2 * square + (1 - BETA2) * gradient * gradient
    step = (mean / correction1) / (tl.sqrt(square / correction2) + EPS)
    return weight - rate * step, mean, square


@triton.jit
def _entry_sums(
    x, b_pre, error, rows, codes, slopes, begin, end, column, inside, d,
    ROWS: tl.constexpr, D_BLOCK: tl.constexpr,
):  # fmt: skip
    """Over a latent's entries, the sums of slope * (x - b_pre) and of code * error, in some columns."""
    centre = tl.load(b_pre + column, mask=inside, other=0.0)
    encoder = tl.zeros((D_BLOCK,), tl.float32)
    decoder = tl.zeros((D_BLOCK,), tl.float32)
    lane = tl.arange(0, ROWS)
    for offset in range(begin, end, ROWS):
        valid = offset + lane < end
        row = tl.load(rows + offset + lane, mask=valid, other=0).to(tl.int64)
        code = tl.load(codes + offset + lane, mask=valid, other=0.0)
        slope = tl.load(slopes + offset + lane, mask=valid, other=0.0)
        both = valid[:, None] & inside[None, :]
        at = row[:, None] * d + column[None, :]
        centred = tl.load(x + at, mask=both, other=0.0).to(tl.float32) - centre[None, :]
        wrong = tl.load(error + at, mask=both, other=0.0).to(tl.float32)
        encoder += tl.sum(slope[:, None] * centred, 0)
        decoder += tl.sum(code[:, None] * wrong, 0)
    return encoder, decoder


@triton.jit
def update_kernel(
    x, b_pre, error, rows, starts, codes, slopes, radials, factor,
    w_enc, m_enc, v_enc, w_dec, m_dec, v_dec, low_enc, low_dec, norms,
    aux_slot, aux_enc, aux_dec, rate, step,
    d, chunks,
    BETA1: tl.constexpr, BETA2: tl.constexpr, LOG1: tl.constexpr, LOG2: tl.constexpr, EPS: tl.constexpr,
    GIVEN: tl.constexpr, AUX: tl.constexpr, UNIT: tl.constexpr, LOW: tl.constexpr,
    ROWS: tl.constexpr, D_BLOCK: tl.constexpr,
):  # fmt: skip
    """A range of columns of one latent: its gradients, summed over its entries, and Adam's step with them.

    gradient of W_enc = sum of slope * (x - b_pre); of W_dec = factor * sum of code * error, less its radial
    part. With GIVEN the sums are read, from x and error (n, d); with AUX the dead latents' are added.
    With UNIT the range is the whole row, which is made unit here; else `norms` are its squares for that.
    """
    latent = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    column = chunk * D_BLOCK + tl.arange(0, D_BLOCK)
    inside = column < d
    place = latent * d + column
    if GIVEN:
        encoder = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        decoder = tl.load(error + place, mask=inside, other=0.0).to(tl.float32) * factor
    else:
        encoder, decoder = _entry_sums(
            x, b_pre, error, rows, codes, slopes, tl.load(starts + latent), tl.load(starts + latent + 1),
            column, inside, d, ROWS, D_BLOCK,
        )  # fmt: skip
        decoder *= factor
    w_e = tl.load(w_enc + place, mask=inside, other=0.0)
    w_d = tl.load(w_dec + place, mask=inside, other=0.0)
    if AUX:
        slot = tl.load(aux_slot + latent).to(tl.int64)
        dead = inside & (slot + tl.zeros((D_BLOCK,), tl.int64) >= 0)
        encoder += tl.load(aux_enc + slot * d + column, mask=dead, other=0.0).to(tl.float32)
        decoder += tl.load(aux_dec + slot * d + column, mask=dead, other=0.0).to(tl.float32)
    decoder -= tl.load(radials + latent) * w_d
    rate, steps = tl.load(rate), tl.load(step).to(tl.float64)
    correction1 = (1 - tl.exp(steps * LOG1)).to(tl.float32)
    correction2 = (1 - tl.exp(steps * LOG2)).to(tl.float32)
    m, v = tl.load(m_enc + place, mask=inside, other=0.0), tl.load(v_enc + place, mask=inside, other=0.0)
    w_e, m, v = _adam(w_e, m, v, encoder, rate, correction1, correction2, BETA1, BETA2, EPS)
    tl.store(m_enc + place, m, mask=inside)
    tl.store(v_enc + place, v, mask=inside)
    tl.store(w_enc + place, w_e, mask=inside)
    tl.store(low_enc + place, w_e, mask=inside)
    m, v = tl.load(m_dec + place, mask=inside, other=0.0), tl.load(v_dec + place, mask=inside, other=0.0)
    w_d, m, v = _adam(w_d, m, v, decoder, rate, correction1, correction2, BETA1, BETA2, EPS)
    tl.store(m_dec + place, m, mask=inside)
    tl.store(v_dec + place, v, mask=inside)
    w_d = tl.where(inside, w_d, 0.0)
    square = tl.sum(w_d * w_d, 0)
    if UNIT:
        w_d = w_d / tl.maximum(tl.sqrt(square), 1e-12)
        if LOW:
            tl.store(low_dec + place, w_d, mask=inside)
    else:
        tl.store(norms + latent * chunks + chunk, square)
    tl.store(w_dec + place, w_d, mask=inside)


@triton.jit
def unit_rows_kernel(
    weight, low, norms, d, chunks, LOW: tl.constexpr, CHUNKS: tl.constexpr, D_BLOCK: tl.constexpr
):
    """Divides a row by its norm (`norms` has its squares by chunk), and writes its copy in low precision."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, CHUNKS)
    square = tl.sum(tl.load(norms + row * chunks + part, mask=part < chunks, other=0.0), 0)
    column = tl.arange(0, D_BLOCK)
    inside = column < d
    value = tl.load(weight + row * d + column, mask=inside) / tl.maximum(tl.sqrt(square), 1e-12)
    tl.store(weight + row * d + column, value, mask=inside)
    if LOW:
        tl.store(low + row * d + column, value, mask=inside)


@triton.jit
def keep_largest_kernel(values, out, n, k, BITS: tl.constexpr, BLOCK: tl.constexpr):
    """A row of values with all but its k largest set to 0 (equals of the k-th are kept), after the ReLU."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    valid = at < n
    value = tl.load(values + row * n + at, mask=valid, other=0.0)
    key = _keys(value, valid, BITS)
    least = _kth(key, k, BITS)
    tl.store(out + row * n + at, tl.where((key >= least) & (key > 0), value, 0.0), mask=valid)
