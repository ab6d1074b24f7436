"""Batches by bucket: every example once an epoch, the same for a seed, shared among processes."""

from collections import Counter

import numpy as np

from unbox.training.data.bucket_sampler import BucketSampler

COUNTS = (10, 0, 3, 7)


def epoch(sampler, number, ranks=(0,)):
    first = number * sampler.per_epoch
    return [
        [(bucket, int(row)) for rank in ranks for bucket, rows in [sampler.rows(i, rank)] for row in rows]
        for i in range(first, first + sampler.per_epoch)
    ]


def test_an_epoch_shows_every_example_and_fills_last_batches_up():
    sampler = BucketSampler(COUNTS, 4, seed=3)
    assert sampler.per_epoch == 3 + 1 + 2
    batches = epoch(sampler, 0)
    assert all(len({bucket for bucket, _ in batch}) == 1 for batch in batches)
    seen = Counter(example for batch in batches for example in batch)
    assert set(seen) == {(b, i) for b, count in enumerate(COUNTS) for i in range(count)}
    assert sum(seen.values()) == 4 * sampler.per_epoch
    assert max(seen.values()) == 2
    assert epoch(sampler, 0) != epoch(sampler, 1)


def test_a_batch_is_a_function_of_the_seed_and_its_number():
    whole = BucketSampler(COUNTS, 2, seed=1)
    for number in (0, 5, 23, 4, 100):
        bucket, rows = BucketSampler(COUNTS, 2, seed=1).rows(number)
        assert (bucket, rows.tolist()) == (whole.rows(number)[0], whole.rows(number)[1].tolist())
    other = BucketSampler(COUNTS, 2, seed=2)
    assert any(whole.rows(i)[1].tolist() != other.rows(i)[1].tolist() for i in range(8))


def test_processes_share_a_batch_of_one_bucket():
    shared, alone = BucketSampler(COUNTS, 2, world=2, seed=5), BucketSampler(COUNTS, 4, seed=5)
    assert epoch(shared, 0, ranks=(0, 1)) == epoch(alone, 0)


def test_a_bucket_smaller_than_a_batch_is_repeated():
    bucket, rows = BucketSampler((1,), 4).rows(0)
    assert bucket == 0
    assert np.array_equal(rows, [0, 0, 0, 0])


def test_a_million_and_a_half_examples_are_shuffled_at_once():
    sampler = BucketSampler((1_500_000,), 8, world=8)
    assert len(set(sampler.rows(0)[1].tolist()) | set(sampler.rows(1)[1].tolist())) == 16
    assert sum(order.nbytes for order in sampler._orders) + sampler._batches.nbytes < 16 * 1_500_000
