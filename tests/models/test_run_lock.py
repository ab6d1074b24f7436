"""Threads that share a model: every picture and tape is the one made alone, nobody waits for ever."""

import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from unbox import UnboxError, record
from unbox.edit import Block
from unbox.edits import applied, invert
from unbox.models import Model, load
from unbox.models.run_lock import exclusive, holds

SIZE = {"steps": 1, "guidance": 0.0, "height": 64, "width": 64}


def at_once(jobs: int, work: Callable[[int], object]) -> list:
    """What `work` gives for each of 0..jobs-1, each in a thread of its own, begun together."""
    barrier = threading.Barrier(jobs)

    def begin(number: int) -> object:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(jobs) as pool:
        return [future.result(120) for future in [pool.submit(begin, job) for job in range(jobs)]]


def drawn(model: Model, thread: int, number: int) -> tuple[bytes, torch.Tensor]:
    """A generation that no other thread asks for: its edit, prompt, seed, size; the picture and its tape."""
    edit = (Block("mid.0").scale(1 + thread), Block("up.0.1").scale(number / 2), None)[(thread + number) % 3]
    where, sides = ("mid.0", "up.0.1")[thread % 2], SIZE | {"width": 64 + 32 * (thread % 3), "edits": edit}
    with record(model, [where]) as tape:
        if thread % 4 == 3:  # any diffusers call, in the edits' own context
            with applied(model, edit):
                (image,) = model.pipeline(
                    "a cat", num_inference_steps=1, guidance_scale=0.0, height=64, width=64,
                    generator=torch.Generator().manual_seed(100 * thread + number),
                ).images  # fmt: skip
        else:
            (image,) = model.generate(f"a red cat {number}", seed=100 * thread + number, **sides)
    return image.tobytes(), tape[where]


def check_threads(model: Model, threads: int, each: int, kinds: int) -> None:
    """Every thread's generations, of which so many are of different kinds."""
    alone = [[drawn(model, thread, number) for number in range(kinds)] for thread in range(threads)]
    together = at_once(threads, lambda thread: [drawn(model, thread, i % kinds) for i in range(each)])
    for mine, its in zip(alone, together, strict=True):
        assert len(its) == each
        for i, (other, other_tape) in enumerate(its):
            picture, tape = mine[i % kinds]
            assert picture == other
            assert torch.equal(tape, other_tape)
    assert model.clock is None
    assert not holds(model)


def test_threads_get_what_they_get_alone(model):
    check_threads(model, 4, 3, 3)


@pytest.mark.slow
def test_eight_threads_of_forty_generations_on_the_bundled_model():
    check_threads(load("shapes-turbo"), 8, 40, 8)


def test_inversions_and_generations_take_turns(model):
    (image,) = model.generate("a cat", seed=3, **SIZE)

    def inverted() -> bytes:
        return invert(model, image, "a cat", steps=2, seed=1).draw(Block("mid.0").scale(0)).tobytes()

    alone = inverted(), model.generate("a cat", seed=3, **SIZE)[0].tobytes()
    jobs = (inverted, lambda: model.generate("a cat", seed=3, **SIZE)[0].tobytes()) * 2
    assert at_once(4, lambda job: jobs[job]()) == list(alone) * 2


@pytest.fixture
def held(model):
    """The model, held by another thread until the test ends."""
    begun, over = threading.Event(), threading.Event()

    def hold() -> None:
        with record(model, ["mid.0"]):
            begun.set()
            over.wait()

    thread = threading.Thread(target=hold, name="the other")
    thread.start()
    begun.wait()
    yield model
    over.set()
    thread.join()


@pytest.mark.parametrize(
    ("what", "call"),
    [
        ("generate", lambda model: model.generate("a cat", wait=False)),
        ("recording", lambda model: record(model, ["mid.0"], wait=False).__enter__()),
        ("edits", lambda model: applied(model, Block("mid.0").scale(2), wait=False).__enter__()),
        ("edits", lambda model: applied(model, None, wait=False).__enter__()),
        ("calls of its own", lambda model: model.exclusive(wait=False).__enter__()),
    ],
)
def test_who_will_not_wait_is_told_who_has_the_model(held, what, call):
    with pytest.raises(
        UnboxError, match=rf"{what} is refused: thread 'the other' has this model, for recording"
    ):
        call(held)


def test_another_model_of_the_same_unet_has_the_same_lock(held):
    with pytest.raises(UnboxError, match="thread 'the other'"):
        Model(held.pipeline, held.system).generate("a cat", wait=False)


def test_bare_calls_from_another_thread_are_errors_in_it_or_in_both(held, model):
    with pytest.raises(UnboxError, match=r"thread 'MainThread' calls .* thread 'the other' has it; put the"):
        model.pipeline("a cat", num_inference_steps=1)


def test_a_run_that_a_bare_call_has_spoilt_is_an_error(model):
    def call() -> None:
        with pytest.raises(UnboxError, match="thread 'bare' calls this model"):
            model.pipeline("a cat")

    spoilt = threading.Thread(target=call, name="bare")
    with record(model, ["mid.0"]):
        spoilt.start()
        spoilt.join()
        with pytest.raises(UnboxError, match="thread 'bare' called this model in the middle of a run"):
            model.generate("a cat", **SIZE)
    assert model.generate("a cat", seed=0, **SIZE)


def test_a_thread_may_take_its_model_again(model):
    with (
        record(model, ["mid.0"]) as tape,
        applied(model, Block("mid.0").scale(2)),
        model.exclusive(wait=False),
    ):
        model.generate("a cat", seed=0, wait=False, **SIZE)
    assert len(tape) == 1
    assert not holds(model)


def test_threads_that_would_wait_for_each_other_are_told(tiny):
    models, barrier = (load(tiny), load(tiny)), threading.Barrier(2)

    def crossed(first: int) -> str:
        with exclusive(models[first], "the first"):
            barrier.wait(60)
            try:
                with exclusive(models[1 - first], "the second"):
                    return "both"
            except UnboxError as error:
                return str(error)

    ends = sorted(at_once(2, crossed), key=len)
    assert ends[0] == "both"
    assert "waits for one that this thread has: take both in one order" in ends[1]


def test_what_an_ended_thread_left_open_is_named_and_ends_with_it(model):
    left = []

    def leave() -> None:
        context = record(model, ["mid.0"])
        context.__enter__()
        left.append(context)

    thread = threading.Thread(target=leave, name="gone")
    thread.start()
    thread.join()
    with pytest.raises(UnboxError, match="thread 'gone' has this model, for recording, and has ended"):
        model.generate("a cat", **SIZE)
    left.clear()
    gc.collect()
    assert model.generate("a cat", seed=0, **SIZE)
