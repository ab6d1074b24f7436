"""What a pass keeps: places in arrays that are seldom moved, counts in large tables, captions in one go."""

import numpy as np

from unbox.atlas.caption_labels import Captions, terms_of
from unbox.atlas.feature_statistics import GrowingPairs, _count_in


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
