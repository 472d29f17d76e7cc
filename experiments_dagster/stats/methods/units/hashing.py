"""Poisson weights by hashing, and sums under them: a unit draws the same number anywhere.

    state = mix(key ⊕ mix(seed))                        one 64-bit word per unit
    hash(key, counter, seed) = mix(state + (counter + 1)·γ)

`mix` is the finaliser of SplitMix64 and γ its increment, so that the counters of one unit run
through a SplitMix64 stream. A partition of the units needs nothing from the others, and neither
order nor number of draws matters: weighted sums over partitions add up to those of the whole.

What does not belong here: assignment to arms (`stats.design.allocation`, cryptographic and salted).

References:
    Steele, Lea & Flood 2014, OOPSLA; Salmon et al. 2011 for counter-based generators.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Words = NDArray[np.uint64]
Matrix = NDArray[np.float64]

GAMMA = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio, odd
FIRST_FACTOR = np.uint64(0xBF58476D1CE4E5B9)
SECOND_FACTOR = np.uint64(0x94D049BB133111EB)
WORD_BITS = 64
CELL_BITS = 16
POINTS_PER_WORD = 2
BUCKETS = 1000
BUCKET_COUNTER = 0  # the replicates use counters from 1
UNITS_PER_TILE = 512  # a tile of weights stays in the cache
REPLICATES_PER_TILE = 256


def unit_keys(ids: ArrayLike) -> Words:
    """Return one 64-bit key per unit id; equal ids give equal keys.

    Args:
        ids: Integers, or strings of any length, shape (n,).

    Raises:
        ValueError: The ids are neither integers nor strings, or not one column.

    Examples:
        >>> unit_keys([3, 1]).tolist()
        [3, 1]
        >>> keys = unit_keys(["anna", "bo", "anna"])
        >>> bool(keys[0] == keys[2]), bool(keys[0] == keys[1])
        (True, False)
    """
    column = np.asarray(ids)
    if column.ndim == 1 and column.dtype.kind in "iu":
        return column.astype(np.uint64)
    if column.dtype.kind == "O" and all(isinstance(value, str) for value in column.flat):
        column = column.astype(np.str_)
    if column.ndim != 1 or column.dtype.kind != "U":
        msg = (
            f"unit ids of type {column.dtype}, shape {column.shape}: need integers or strings (n,)"
        )
        raise ValueError(msg)
    return _fold_strings(column)


def hash_counters(keys: Words, counters: ArrayLike, *, seed: int) -> Words:
    """Return hash(key, counter, seed) for every pair, shape (len(keys), len(counters)).

    Args:
        keys: One word per unit, shape (n,).
        counters: Non-negative integers, such as numbers of replicates.
        seed: Any integer.

    Examples:
        >>> whole = hash_counters(np.arange(3, dtype=np.uint64), [0, 1], seed=7)
        >>> part = hash_counters(np.array([2], dtype=np.uint64), [1], seed=7)
        >>> bool(part[0, 0] == whole[2, 1])
        True
    """
    start = np.array([seed % 2**WORD_BITS], dtype=np.uint64)
    states = mix(keys ^ mix(start))
    steps = (np.asarray(counters, dtype=np.uint64) + np.uint64(1)) * GAMMA
    words = states[:, None] + steps
    return mix(words, out=words)


def mix(words: Words, out: Words | None = None) -> Words:
    """Return the words scrambled one to one (SplitMix64 finaliser); in place where `out` says."""
    mixed = words.copy() if out is None else out
    shifted = np.empty_like(mixed)
    for shift, factor in ((30, FIRST_FACTOR), (27, SECOND_FACTOR)):
        np.right_shift(mixed, np.uint64(shift), out=shifted)
        np.bitwise_xor(mixed, shifted, out=mixed)
        np.multiply(mixed, factor, out=mixed)
    np.right_shift(mixed, np.uint64(31), out=shifted)
    np.bitwise_xor(mixed, shifted, out=mixed)
    return mixed


def poisson_counts(words: Words) -> NDArray[np.uint8]:
    """Return Poisson(1) counts by inversion of uniform words, the same shape.

    Examples:
        >>> poisson_counts(np.array([0, 2**63, 2**64 - 1], dtype=np.uint64)).tolist()
        [0, 1, 20]
    """
    cells = (words >> np.uint64(WORD_BITS - CELL_BITS)).astype(np.uint16)
    counts = POISSON_TABLE[cells]
    undecided = np.nonzero(counts == UNDECIDED)
    counts[undecided] = np.searchsorted(POISSON_STEPS, words[undecided], side="right")
    return counts


def bootstrap_sums(values: ArrayLike, keys: ArrayLike, *, replicates: int, seed: int) -> Matrix:
    """Return the weighted count and sums of each replicate; partitions of the units add up.

    Args:
        values: Shape (n, k).
        keys: Integers or strings, shape (n,); rows with one key get one weight.
        replicates: Number of replicates.
        seed: Any integer, the same for all partitions.

    Returns:
        Shape (replicates, 1 + k).

    Examples:
        >>> keys, values = np.arange(100), np.ones((100, 1))
        >>> whole = bootstrap_sums(values, keys, replicates=4, seed=1)
        >>> parts = [bootstrap_sums(values[p], keys[p], replicates=4, seed=1)
        ...          for p in (slice(30), slice(30, 100))]
        >>> bool((whole == parts[0] + parts[1]).all())
        True
    """
    return resample(_with_count(values), unit_keys(keys), replicates, seed)


def bucket_sums(values: ArrayLike, keys: ArrayLike, *, seed: int, buckets: int = BUCKETS) -> Matrix:
    """Return the count and sums of each hash bucket of units; partitions of the units add up.

    Args:
        values: Shape (n, k).
        keys: Integers or strings, shape (n,).
        seed: Any integer, the same for all partitions.
        buckets: Number of buckets.

    Returns:
        Shape (buckets, 1 + k).

    Examples:
        >>> bucket_sums(np.ones((100, 1)), np.arange(100), seed=1, buckets=8).sum(axis=0).tolist()
        [100.0, 100.0]
    """
    words = hash_counters(unit_keys(keys), [BUCKET_COUNTER], seed=seed)[:, 0]
    # The upper half of the word times the number of buckets, without a division.
    codes = ((words >> np.uint64(32)) * np.uint64(buckets)) >> np.uint64(32)
    return sums_by_code(_with_count(values), codes.astype(np.intp), buckets)


def resample(columns: Matrix, keys: Words, replicates: int, seed: int) -> Matrix:
    """Poisson-weighted sums of the columns, shape (replicates, k), by tiles of weights."""
    sums = np.zeros((replicates, columns.shape[1]))
    for start in range(0, replicates, REPLICATES_PER_TILE):
        stop = min(start + REPLICATES_PER_TILE, replicates)
        counters = np.arange(start, stop) + BUCKET_COUNTER + 1
        for first in range(0, len(keys), UNITS_PER_TILE):
            tile = slice(first, first + UNITS_PER_TILE)
            weights = poisson_counts(hash_counters(keys[tile], counters, seed=seed))
            sums[start:stop] += weights.T.astype(np.float64) @ columns[tile]
    return sums


def sums_by_code(columns: Matrix, codes: NDArray[np.intp], size: int) -> Matrix:
    """Sums of the rows of each code, shape (size, k)."""
    sums: Matrix = np.column_stack([np.bincount(codes, column, size) for column in columns.T])
    return sums


def _fold_strings(column: NDArray[np.str_]) -> Words:
    """Hash strings by their code points, two at a time; the padding leaves no trace."""
    width = column.dtype.itemsize // np.dtype(np.uint32).itemsize
    points = np.ascontiguousarray(column).view(np.uint32).reshape(len(column), width)
    keys = np.zeros(len(column), dtype=np.uint64)
    for start in range(0, width, POINTS_PER_WORD):
        pair = points[:, start : start + POINTS_PER_WORD].astype(np.uint64)
        word = pair[:, 0].copy()
        if pair.shape[1] == POINTS_PER_WORD:
            word |= pair[:, 1] << np.uint64(WORD_BITS // 2)
        folded = mix((keys ^ word) + GAMMA)
        keys = np.where(word == 0, keys, folded)
    return keys


def _with_count(values: ArrayLike) -> Matrix:
    matrix = np.asarray(values, dtype=np.float64)
    return np.column_stack([np.ones(len(matrix)), matrix])


def _poisson_steps() -> Words:
    """First words of the counts 1, 2, ...: the distribution function of Poisson(1) × 2**64."""
    largest = 20  # beyond it less than one word is left
    # Sums of 1/k! in integers: exact where a float would keep 53 of 64 bits.
    digits = 10**40
    total, steps = 0, []
    inverse_e = sum((-1) ** k * digits // math.factorial(k) for k in range(40))
    for k in range(largest):
        total += inverse_e // math.factorial(k)
        steps.append(total * 2**WORD_BITS // digits)
    return np.array(steps, dtype=np.uint64)


def _poisson_table() -> NDArray[np.uint8]:
    """Count of each cell of the leading bits, `UNDECIDED` where a step falls within the cell."""
    cells = np.arange(2**CELL_BITS, dtype=np.uint64) << np.uint64(WORD_BITS - CELL_BITS)
    last_word = np.uint64(2 ** (WORD_BITS - CELL_BITS) - 1)
    first = np.searchsorted(POISSON_STEPS, cells, side="right")
    last = np.searchsorted(POISSON_STEPS, cells + last_word, side="right")
    return np.where(first == last, first, UNDECIDED).astype(np.uint8)


UNDECIDED = 255
POISSON_STEPS = _poisson_steps()
POISSON_TABLE = _poisson_table()
