"""The loop: resumes to the bit, stops without loss, several roles in turn, one rate for every machine."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from tests.training.toy import run, toy_network
from unbox.sae.safetensors_io import read_tensors
from unbox.stopping import Stopped, stopping
from unbox.training.loop import CheckpointState, Step, TrainingPlan, Turn, finished, load_trained, train
from unbox.training.optimizers import adamw, muon
from unbox.training.roles import Role

ROOT = Path(__file__).parents[2]


def same(one: nn.Module, two: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path):
    whole = run(tmp_path / "whole", 12)

    def stopped_at(step: int) -> None:
        network, accelerator = toy_network(), Accelerator(cpu=True)
        role = Role(network, muon, 1e-2, ema=0.9)

        def loss(at: Step) -> torch.Tensor:
            if at.number == step:
                signal.raise_signal(signal.SIGTERM)
            x = torch.randn(8, 2, 4, 4, generator=at.generator)
            return (role.model(x)[:, 0] - x.mean((1, 2, 3))).square().mean()

        with stopping(), pytest.raises(Stopped):
            train({"toy": role}, [Turn("toy", loss)], TrainingPlan(12, 3), tmp_path / "parts", accelerator)

    stopped_at(4)
    assert CheckpointState.read(tmp_path / "parts").step == 5
    stopped_at(8)
    assert same(whole, run(tmp_path / "parts", 12))


@pytest.fixture
def one_thread():
    """As `toy.py` computes: sums of several threads have other last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    whole = run(tmp_path / "whole", 400)
    command = [sys.executable, "-m", "tests.training.toy", str(tmp_path / "parts"), "400"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    state = tmp_path / "parts" / "state.json"
    while not (state.exists() and CheckpointState.read(state.parent).step > 20):
        time.sleep(0.05)
        assert process.poll() is None
    process.kill()
    process.wait()
    assert not finished(state.parent)
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stderr=subprocess.DEVNULL)
    resumed = toy_network()
    load_trained({"toy": resumed}, state.parent)
    assert same(whole, resumed)


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on_to_the_same_bits(tmp_path):
    """A signal that reaches one of them alone stops both, at one step."""

    def launch(folder: Path, *more: str) -> dict[str, torch.Tensor]:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
        command += ["--rdzv-endpoint=localhost:0", "-m", "tests.training.toy", str(folder), "25", *more]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stderr=subprocess.DEVNULL)
        return read_tensors(folder / "toy.safetensors")

    whole = launch(tmp_path / "whole")
    launch(tmp_path / "parts", "7")
    assert not finished(tmp_path / "parts")
    assert 7 < CheckpointState.read(tmp_path / "parts").step < 25
    resumed = launch(tmp_path / "parts")
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
    alone = run(tmp_path / "alone", 25)  # the other process drew batches of its own
    assert any(not torch.equal(whole[f"average.{name}"], p) for name, p in alone.named_parameters())


@pytest.mark.usefixtures("own_accelerator")
def test_a_run_that_goes_on_in_another_precision_says_so(tmp_path):
    """One that was begun on a processor that multiplies bfloat16, and goes on at one that does not."""

    def go_on(precision: str, stop: int | None = None) -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        role = Role(nn.Linear(2, 1), adamw, 1e-3)

        def loss(step: Step) -> torch.Tensor:
            if step.number == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return role.model(torch.ones(1, 2)).square().mean()

        accelerator = Accelerator(cpu=True, mixed_precision=precision)
        train({"line": role}, [Turn("line", loss)], TrainingPlan(6, warmup=1), tmp_path / "line", accelerator)

    with stopping(), pytest.raises(Stopped):
        go_on("bf16", stop=2)
    with stopping(), pytest.raises(Stopped):  # the same again is silent: warnings are errors here
        go_on("bf16", stop=4)
    with pytest.warns(UserWarning, match="began with mixed precision bf16 and goes on with no"):
        go_on("no")
    go_on("bf16")  # finished: nothing goes on


def test_a_finished_run_is_loaded_and_not_trained(tmp_path):
    first = run(tmp_path / "toy", 3)
    again = run(tmp_path / "toy", 3)
    assert same(first, again)
    assert not (tmp_path / "toy" / "weights.safetensors").exists()


def test_the_rate_follows_steps():
    plan = TrainingPlan(100, warmup=10, decay_from=0.5)
    assert plan.rate(0) == pytest.approx(0.1)
    assert plan.rate(40) == pytest.approx(1.0)
    assert plan.rate(75) == pytest.approx(0.5)
    assert plan.rate(100) == pytest.approx(0.0)


def test_minutes_become_steps_that_a_checkpoint_keeps(tmp_path):
    network, accelerator = nn.Linear(2, 1), Accelerator(cpu=True)
    role = Role(network, adamw, 1e-3)

    def loss(step: Step) -> torch.Tensor:
        time.sleep(0.002)
        return role.model(torch.ones(1, 2)).square().mean()

    plan = TrainingPlan(1_000_000, minutes=0.005)
    train({"line": role}, [Turn("line", loss)], plan, tmp_path / "line", accelerator)
    state = CheckpointState.read(tmp_path / "line")
    assert state.done
    assert 41 <= state.step == state.steps <= 300


@pytest.mark.parametrize("stops", [(17,), (3, 30), (40,)])
def test_a_run_by_minutes_that_is_stopped_at_once_ends_nevertheless(tmp_path, stops):
    """Before its pace is measured its length is a bound, and no length to go on to."""
    plan, left = TrainingPlan(1_000_000, minutes=0.005), list(stops)

    def go_on() -> None:
        network = nn.Linear(2, 1)
        role = Role(network, adamw, 1e-3)

        def loss(step: Step) -> torch.Tensor:
            if left and step.number == left[0]:
                os.kill(os.getpid(), signal.SIGTERM)
                left.pop(0)
            assert step.number < 2000
            time.sleep(0.002)
            return role.model(torch.ones(1, 2)).square().mean()

        train({"line": role}, [Turn("line", loss)], plan, tmp_path / "line", Accelerator(cpu=True))

    for _ in stops:
        with stopping(), pytest.raises(Stopped):
            go_on()
    go_on()
    state = CheckpointState.read(tmp_path / "line")
    assert state.done
    assert 41 <= state.step == state.steps <= 300


def test_accumulated_batches_make_the_step_of_one_large_batch(tmp_path):
    def fitted(accumulate: int) -> nn.Module:
        network = nn.Linear(3, 1)
        nn.init.ones_(network.weight)
        nn.init.zeros_(network.bias)
        role = Role(network, adamw, 1e-2, clip=1e9)
        seen = []

        def loss(step: Step) -> torch.Tensor:
            seen.append(step.number)
            x = torch.arange(12.0).view(4, 3)
            rows = x if accumulate == 1 else x[2 * (len(seen) % 2) :][:2]
            return role.model(rows).square().mean()

        plan = TrainingPlan(3, warmup=1, accumulate=accumulate)
        train({"a": role}, [Turn("a", loss)], plan, tmp_path / str(accumulate), Accelerator(cpu=True))
        return network

    one, two = fitted(1), fitted(2)
    assert torch.allclose(one.weight, two.weight, atol=1e-6)


def test_two_players_play_in_turn(tmp_path):
    """A small adversarial run: the generator's mean comes to the data's, by its critic alone."""
    torch.manual_seed(0)
    generator, critic = nn.Linear(1, 1), nn.Sequential(nn.Linear(1, 16), nn.SiLU(), nn.Linear(16, 1))
    with torch.no_grad():
        generator.bias.fill_(-2.0)
    roles = {
        "generator": Role(generator, adamw, 3e-2, ema=0.9),
        "critic": Role(critic, adamw, 3e-2),
    }

    def drawn(step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        real = 1.0 + 0.5 * torch.randn(64, 1, generator=step.generator)
        return real, generator(torch.randn(64, 1, generator=step.generator))

    def judged(step: Step) -> torch.Tensor:
        real, fake = drawn(step)
        return F.softplus(-critic(real)).mean() + F.softplus(critic(fake.detach())).mean()

    turns = [
        Turn("critic", judged),
        Turn("generator", lambda s: F.softplus(-critic(drawn(s)[1])).mean(), every=2),
    ]
    train(roles, turns, TrainingPlan(400, warmup=1), tmp_path / "pair", Accelerator(cpu=True))
    assert float(generator.bias.detach()) == pytest.approx(1.0, abs=0.4)
    kept = {file.name for file in (tmp_path / "pair").iterdir()}
    assert kept == {"generator.safetensors", "critic.safetensors", "state.json"}


def test_a_preference_is_learned_against_a_frozen_reference(tmp_path):
    """A small preference run: the loss starts at log 2 where policy and reference agree, and falls."""
    torch.manual_seed(0)
    policy = nn.Linear(2, 1)
    reference = nn.Linear(2, 1).requires_grad_(False)
    reference.load_state_dict(policy.state_dict())
    losses = []
    role = Role(policy, adamw, 1e-2)

    def loss(step: Step) -> torch.Tensor:
        x = torch.randn(32, 2, generator=step.generator)
        target = x.sum(1, keepdim=True)
        better, worse = target + 0.1, target - 1.0

        def error(network: nn.Module, value: torch.Tensor) -> torch.Tensor:
            return (network(x) - value).square()

        gained = error(reference, better) - error(role.model, better)
        lost = error(reference, worse) - error(role.model, worse)
        value = -F.logsigmoid(gained - lost).mean()
        losses.append(float(value.detach()))
        return value

    before = [p.clone() for p in reference.parameters()]
    train(
        {"policy": role},
        [Turn("policy", loss)],
        TrainingPlan(60, warmup=1),
        tmp_path / "p",
        Accelerator(cpu=True),
    )
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[-1] < 0.5
    assert all(torch.equal(a, b) for a, b in zip(before, reference.parameters(), strict=True))


def test_only_what_is_trained_is_kept(tmp_path):
    network = toy_network()
    network[0].requires_grad_(False)
    role = Role(network, muon, 1e-2, ema=0.9)
    turn = Turn("toy", lambda step: role.model(torch.ones(1, 2, 4, 4)).square().mean())
    train({"toy": role}, [turn], TrainingPlan(2, warmup=1), tmp_path / "toy", Accelerator(cpu=True))
    kept = read_tensors(tmp_path / "toy" / "toy.safetensors")
    assert set(kept) == {"average.3.weight", "average.3.bias"}
