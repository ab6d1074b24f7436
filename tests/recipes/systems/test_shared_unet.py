"""RoleNetworks over one base: encoders against hooks, adapters that do not touch each other, gradients with
activations computed again."""

import pytest
import torch

from tests.models.tiny import tiny_unet
from unbox.recipes.sdxl.sdxl_settings import TrainingSettings
from unbox.recipes.systems.shared_unet import RoleNetworks, TextCondition, guided
from unbox.recipes.systems.unet_critic import ProjectedCritic, UNetCritic

PLAIN = {"lora_rank": 2, "mixed_precision": "no"}


@pytest.fixture
def unet():
    return tiny_unet()


@pytest.fixture
def example():
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(shape, generator=generator)

    given = TextCondition(drawn(2, 7, 64), drawn(2, 32), torch.full((2, 6), 64.0))
    return drawn(2, 4, 16, 16), torch.tensor([3, 900]), given


def plain(unet, x, t, given):
    added = {"text_embeds": given.pooled, "time_ids": given.sizes}
    return unet(x, t, given.context, added_cond_kwargs=added, return_dict=False)[0]


def shaken(network):
    """An adapter that does something: its second factors begin at zero."""
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    return network


@pytest.mark.parametrize("mid", [True, False])
def test_an_encoder_gives_what_the_unet_has_inside(unet, example, mid):
    kept = []
    part = unet.mid_block if mid else unet.down_blocks[-1]
    hook = part.register_forward_hook(lambda *given: kept.append(given[2] if mid else given[2][0]))
    with torch.no_grad():
        plain(unet, *example)
        hook.remove()
        found = RoleNetworks(unet, TrainingSettings(**PLAIN)).teacher().encode(*example, mid=mid)
    assert torch.equal(found, kept[0])


def test_networks_of_one_base_do_not_touch_each_other(unet, example):
    with torch.no_grad():
        before = plain(unet, *example)
    networks = RoleNetworks(unet, TrainingSettings(**PLAIN))
    teacher, student, critic = (
        networks.teacher(),
        networks.student(),
        networks.learner("critic", encoder=True),
    )
    assert torch.equal(teacher(*example), before)
    assert torch.equal(student(*example), before)
    shaken(student)
    moved = student(*example).detach()
    assert not torch.equal(moved, before)
    assert torch.equal(teacher(*example), before)
    assert not list(teacher.parameters())
    names = {name for name, _ in critic.named_parameters()}
    assert names
    assert not any("up_blocks" in name for name in names)
    copied = networks.frozen_copy(student, "copy")
    assert torch.equal(copied(*example), moved)
    shaken(copied)
    assert torch.equal(student(*example), moved)


@pytest.mark.slow
def test_gradients_are_the_roles_whose_forward_it_was(unet, example):
    """Two adapters are called one after the other, then both losses go backward: each has its own gradient,
    with activations computed again too."""
    grads = []
    for again in (False, True):
        made = tiny_unet()
        networks = RoleNetworks(made, TrainingSettings(gradient_checkpointing=again, **PLAIN))
        student, score = shaken(networks.student()), shaken(networks.learner("score"))
        x, t, given = example
        first = student(x, t, given).square().mean()
        second = score(x, t, given).abs().mean()
        (first + second).backward()
        grads.append([p.grad.clone() for each in (student, score) for p in each.parameters()])
        if not again:
            alone = student(x, t, given).square().mean()
            expected = torch.autograd.grad(alone, list(student.parameters()))
            for p, grad in zip(student.parameters(), expected, strict=True):
                assert torch.allclose(p.grad, grad, atol=1e-6)
    for one, other in zip(*grads, strict=True):
        assert torch.allclose(one, other, atol=1e-5, rtol=1e-3)


def test_a_whole_students_teacher_stays(unet, example):
    networks = RoleNetworks(unet, TrainingSettings(full=True, mixed_precision="no"))
    teacher, student = networks.teacher(), networks.student()
    before = teacher(*example)
    shaken(student)
    assert not torch.equal(student(*example), before)
    assert torch.equal(teacher(*example), before)
    critic = networks.learner("critic", encoder=True)
    assert sum(p.numel() for p in critic.parameters()) < 0.7 * sum(p.numel() for p in student.parameters())
    assert critic.encode(*example).shape == (2, 128, 4, 4)


def test_guidance_is_the_usual_formula(unet, example):
    x, t, given = example
    nothing = TextCondition(torch.zeros_like(given.context), torch.zeros_like(given.pooled), given.sizes)
    teacher = RoleNetworks(unet, TrainingSettings(**PLAIN)).teacher()
    with torch.no_grad():
        conditional, unconditional = teacher(x, t, given), teacher(x, t, nothing)
        found = guided(teacher, given, nothing, 6.0)(x, t)
    assert torch.allclose(found, unconditional + 6 * (conditional - unconditional), atol=1e-4)


@pytest.mark.parametrize(("side", "layers"), [(32, 3), (16, 2), (8, 1), (4, 0), (3, 0)])
def test_a_critics_head_is_as_deep_as_its_map(unet, side, layers):
    critic = UNetCritic(
        RoleNetworks(unet, TrainingSettings(**PLAIN)).learner("critic", encoder=True), side, True
    )
    strided = [part for part in critic.head if getattr(part, "stride", None) == (2, 2)]
    assert len(strided) == layers
    assert critic.head(torch.randn(2, 256, side, side)).shape == (2, 1, 1, 1)


def test_a_projected_critic_asks_every_map_with_the_caption():
    critic = ProjectedCritic([8, 16], 32)
    maps = [torch.randn(2, 8, 4, 4), torch.randn(2, 16, 2, 2)]
    logits = critic(maps, torch.randn(2, 32))
    assert logits.shape == (2, 4 * 4 + 2 * 2)
    assert not torch.equal(logits, critic(maps, torch.randn(2, 32)))
