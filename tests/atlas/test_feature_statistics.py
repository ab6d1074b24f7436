"""What a pass keeps: places in arrays that are seldom moved, counts in large tables, captions in one go."""

import numpy as np

from unbox.atlas.caption_labels import Captions, terms_of
from unbox.atlas.feature_statistics import Entries, GrowingPairs, _count_in, pairs_of
from unbox.atlas.top_images import Best


def test_places_are_moved_as_often_as_they_double():
    pairs, moves, address, expected = GrowingPairs(), 0, None, []
    for batch in range(3000):  # a million images in batches would be sixty thousand
        rows = np.full(40, batch)
        expected.append(rows)
        pairs.add(rows, rows + 1)
        here = pairs.pairs[0].__array_interface__["data"][0]
        moves, address = moves + (here != address), here
    first, second = pairs.pairs
    assert moves <= 2 + np.log2(3000 * 40 / 1024)  # one for each batch before: quadratic in images
    assert np.array_equal(first, np.concatenate(expected))
    assert np.array_equal(second, first + 1)
    assert first.dtype == np.int32


def test_few_entries_and_many_are_counted_alike():
    random = np.random.default_rng(0)
    for count in (10, 5000):
        row, column = random.integers(0, 30, count), random.integers(0, 20, count)
        table, slow = np.ones((30, 20), np.int64), np.ones((30, 20), np.int64)
        for place in zip(row, column, strict=True):
            slow[place] += 1
        _count_in(table, row, column)
        assert np.array_equal(table, slow)


def test_captions_that_stream_by_are_those_of_a_list():
    random = np.random.default_rng(2)
    words = ["red", "green", "cat", "dog", "the", "moon", "river"]
    texts = [" ".join(random.choice(words, 4)) for _ in range(50)] + ["", "once only xylophone"]
    found = Captions.of(each for each in texts)
    sets = [set(terms_of(text)) for text in texts]
    common = {term for terms in sets for term in terms if sum(term in other for other in sets) > 1}
    assert set(found.terms) == common
    assert found.has.shape == (len(texts), len(common))
    for row, terms in enumerate(sets):
        assert {found.terms[i] for i in found.has[row].indices} == terms & common
    counts = [sum(term in terms for terms in sets) for term in found.terms]
    assert counts == sorted(counts, reverse=True)


def test_few_candidates_are_sorted_once_many_images_have_been_seen(monkeypatch):
    """Of m images in a random order the i-th is among the s best with probability s / i: the sum is s (1 +
    log(m / s)) a feature, where all m were sorted before."""
    rows, size, batch, batches = 50, 4, 20, 100
    random, best, sorted_ = np.random.default_rng(0), Best.empty(50, 4, 0), []
    lexsort = np.lexsort
    monkeypatch.setattr(np, "lexsort", lambda keys: (sorted_.append(len(keys[0])), lexsort(keys))[1])
    keys = random.random((rows, batch * batches))
    for start in range(0, batch * batches, batch):
        row, image = np.divmod(np.arange(rows * batch), batch)
        part = keys[:, start : start + batch].ravel()
        best.offer(row, part, start + image, part.astype(np.float32))
    wanted = np.argsort(-keys, axis=1)[:, :size]
    assert np.array_equal(best.sorted().image, wanted)
    first = batch  # the first batch passes whole, and others by what was there before them
    assert sum(sorted_) < 1.3 * rows * (first + size * (1 + np.log(batch * batches / size)))
    assert sum(sorted_) < 0.05 * keys.size


def test_entries_are_grouped_by_image_and_feature():
    random, count, latents = np.random.default_rng(3), 400, 7
    feature, image, step = (
        random.integers(0, 7, count),
        random.integers(0, 9, count),
        random.integers(0, 4, count),
    )
    value = random.random(count).astype(np.float32)
    zero = np.zeros(count, np.int64)
    pairs = pairs_of(Entries(feature, value, image, step, zero, zero, zero), latents)
    every = sorted(set(zip(image.tolist(), feature.tolist(), strict=True)))
    assert list(zip(pairs.image.tolist(), pairs.feature.tolist(), strict=True)) == every
    for number, (i, f) in enumerate(every):
        mine = (image == i) & (feature == f)
        assert (pairs.of_entry[mine] == number).all()
        assert pairs.peak[number] == value[mine].max()
        assert (pairs.first[number], pairs.last[number]) == (step[mine].min(), step[mine].max())
    nothing = pairs_of(
        Entries(*(each[:0] for each in (feature, value, image, step, zero, zero, zero))), latents
    )
    assert [len(each) for each in nothing] == [0] * 6
