"""Maps of dictionaries: directions that are alike lie together."""

import numpy as np

from unbox.atlas.dictionary_map import NEIGHBOURS, dictionary_map, neighbour_graph


def planted(groups: int, each: int, width: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Directions about random centres, shuffled, and the group of each."""
    random = np.random.default_rng(3)
    group = random.permutation(np.repeat(np.arange(groups), each))
    centres = random.standard_normal((groups, width))
    return centres[group] + 0.3 * random.standard_normal((len(group), width)), group


def test_groups_of_directions_lie_together():
    directions, group = planted(6, 40)
    found = dictionary_map(directions)
    apart = np.linalg.norm(found.places[:, None] - found.places[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    nearest = np.argsort(apart, 1)[:, :10]
    assert (group[nearest] == group[:, None]).mean() > 0.95
    assert found.places.min() >= 0
    assert found.places.max() <= 1
    shuffled = np.random.default_rng(0).permutation(group)
    assert (shuffled[nearest] == shuffled[:, None]).mean() < 0.4  # what chance gives


def test_the_same_seed_gives_the_same_map_and_few_features_have_one():
    directions, _ = planted(2, 10)
    assert np.array_equal(dictionary_map(directions, 5).places, dictionary_map(directions, 5).places)
    assert dictionary_map(directions[:2]).places.shape == (2, 2)


def test_neighbours_are_those_of_all_cosines():
    directions, _ = planted(5, 9)
    unit = (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)
    head, tail, weight = neighbour_graph(unit)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -1)
    for feature in range(len(unit)):
        assert set(tail[head == feature]) == set(np.argsort(-cosine[feature])[:NEIGHBOURS])
    assert weight.max() == 1
    assert weight.min() > 0
