"""Which arm a unit belongs to: fixed vectors, uniform, monotone, and no two triples alike."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2, kstest

from experiments_dagster.stats.design.allocation import assign, bucket

EVEN = {"control": 0.5, "treatment": 0.5}
TEXT = st.text(max_size=12)


@pytest.mark.parametrize(
    ("unit", "experiment", "salt", "ratio"),
    [
        ("user_001", "1", "", 0.040838210307),
        ("u1", "checkout", "s1", 0.485327776293),
        ("ü-𝒳", "exp", "s", 0.440977290190),
    ],
)
def test_the_vectors_of_the_incrementality_scheme(unit, experiment, salt, ratio):
    assert bucket(unit, experiment, salt, "incrementality") == pytest.approx(ratio, abs=5e-13)


@given(unit=TEXT, experiment=TEXT, salt=TEXT)
def test_the_default_key_is_length_prefixed(unit, experiment, salt):
    key = b"".join(
        str(len(f.encode())).encode() + b":" + f.encode() for f in (unit, experiment, salt)
    )
    first = int(hashlib.sha256(key).hexdigest()[:16], 16)
    assert bucket(unit, experiment, salt) == first / 2**64


def test_fixed_vectors_of_the_default_scheme():
    # printf '2:u18:checkout2:s1' | sha256sum
    assert bucket("u1", "checkout", "s1") == 0xE2283A4D760BA777 / 2**64
    assert bucket("ü", "e", "s") == 0x1FBCCC2FF79FE3BD / 2**64


def test_the_ambiguous_pair_differs_in_the_default_scheme():
    a, b = ("a:1", "2", "s"), ("a", "1:2", "s")
    assert bucket(*a, "incrementality") == bucket(*b, "incrementality")
    assert bucket(*a) != bucket(*b)


def test_buckets_are_uniform_over_many_salts():
    levels = []
    for salt in range(40):
        counts = [0] * 20
        for k in range(1000):
            counts[int(bucket(f"user_{k}", "checkout", f"salt-{salt}") * 20)] += 1
        statistic = sum((n - 50) ** 2 / 50 for n in counts)
        levels.append(chi2.sf(statistic, 19))
    assert kstest(levels, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("scheme", ["default", "incrementality"])
def test_raising_a_share_moves_nobody_out_of_the_arm(scheme):
    ramped = "treatment" if scheme == "incrementality" else "control"
    members = set()
    for share in (0.01, 0.05, 0.2, 0.5, 0.9):
        shares = {"control": 1 - share, "treatment": share}
        if scheme == "default":
            shares = {"control": share, "treatment": 1 - share}
        now = {
            u
            for u in map(str, range(500))
            if assign(u, experiment="e", salt="s", shares=shares, scheme=scheme).variant == ramped
        }
        assert members <= now
        assert abs(len(now) / 500 - share) < 0.1
        members = now


@pytest.mark.parametrize(
    ("shares", "scheme", "rule"),
    [
        ({"a": 0.5, "b": 0.4}, "default", "their sum 1"),
        ({"a": 1.5, "b": -0.5}, "default", "must be positive"),
        ({}, "default", "their sum 1"),
        ({"a": float("nan"), "b": 0.5}, "default", "their sum 1"),
        ({"a": 0.5, "b": 0.5}, "incrementality", "needs arms control and treatment"),
    ],
)
def test_shares_that_do_not_fit_are_refused(shares, scheme, rule):
    with pytest.raises(ValueError, match=rule):
        assign("u", experiment="e", salt="s", shares=shares, scheme=scheme)


def test_shares_that_sum_to_one_up_to_rounding_leave_nobody_out():
    shares = {f"arm{k}": 0.1 for k in range(10)}
    arms = {assign(str(k), experiment="e", salt="s", shares=shares).variant for k in range(400)}
    assert arms == set(shares)
