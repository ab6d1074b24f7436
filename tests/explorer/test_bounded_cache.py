"""What is kept is bounded in bytes, and what was used last stays."""

from hypothesis import given
from hypothesis import strategies as st

from unbox.explorer.bounded_cache import BoundedCache

acts = st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 60)), max_size=40)


@given(acts)
def test_the_cache_is_the_latest_that_fit(acts):
    """Against the whole history of uses: a key is there if those used after it leave room."""
    cache, sizes, used = BoundedCache[int, str](100), {}, []
    for put, key, size in acts:
        if put:
            cache.put(key, f"{key}:{size}", size)
            sizes[key] = size
        elif cache.get(key) is None:
            assert key not in sizes
            continue
        used = [each for each in used if each != key] + [key]
        while sum(sizes[each] for each in used) > 100 and len(used) > 1:
            del sizes[used.pop(0)]
        assert len(cache) == len(used)
        assert cache.size == sum(sizes.values())
        assert all(key in sizes for key in used)
    for key, size in sizes.items():
        assert cache.get(key) == f"{key}:{size}"
