"""Systems fetched over HTTP from a Hub on this machine, with files of the real names: which, how often, and
how much."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from tests.models.original_layout import save_original
from tests.models.tiny import tiny_pipeline, tiny_refiner, tiny_unet, tiny_vae
from unbox.models import SYSTEMS
from unbox.models.hub import quiet
from unbox.models.systems import BUNDLED

pytestmark = pytest.mark.slow
BASE = "stabilityai/stable-diffusion-xl-base-1.0"
REFINER = "stabilityai/stable-diffusion-xl-refiner-1.0"
COMPONENTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
TOKENIZER = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json")


def publish(kind, plain: Path, place: Path) -> None:
    """A repository as Stability's are: both precisions, single files, ONNX, another VAE, a card."""
    with quiet():
        shutil.copytree(plain, place)
        kind.from_pretrained(plain, dtype=torch.float16).save_pretrained(place, variant="fp16")
    for junk in (
        "sd_xl_base_1.0.safetensors",
        "README.md",
        "unet/model.onnx",
        "text_encoder/openvino_model.bin",
    ):
        (place / junk).parent.mkdir(exist_ok=True)
        (place / junk).write_bytes(b"not for us" * 9)
    (place / "vae_1_0").mkdir()
    (place / "vae_1_0" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"an older one")


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """What the process of `hub_session` tells, and its progress bars."""
    root = tmp_path_factory.mktemp("hub") / "repositories"
    base = tiny_pipeline(root.parent / "base", layers_2=10)
    refiner = tiny_refiner(root.parent / "refiner")
    (root / "someone").mkdir(parents=True)
    publish(StableDiffusionXLPipeline, base, root / BASE)
    publish(StableDiffusionXLImg2ImgPipeline, refiner, root / REFINER)
    for row in SYSTEMS.values():
        if row.base and not row.base.startswith(BUNDLED) and not (root / row.base).exists():
            shutil.copytree(root / BASE, root / row.base)
        for part in row.parts:
            publish_part(root / part.repo, part)
    lone_vaes(root)
    shutil.copytree(base, root / "someone" / "pickles")
    for file in (root / "someone" / "pickles").glob("*/*.safetensors"):
        torch.save({}, file.with_suffix(".bin"))
        file.unlink()
    index = json.loads((shutil.copytree(base, root / "someone" / "flux") / "model_index.json").read_text())
    other = json.dumps(index | {"_class_name": "FluxPipeline"})
    (root / "someone" / "flux" / "model_index.json").write_text(other)
    (root / "someone" / "empty").mkdir()
    (root / "someone" / "empty" / "README.md").write_text("nothing")
    with quiet():
        save_original(StableDiffusionXLPipeline.from_pretrained(base), root / "checkpoint.safetensors")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    with open(root.parent / "bars.txt", "w+") as bars:
        done = subprocess.run(
            [sys.executable, "-m", "tests.models.hub_session", str(root)],
            stdout=subprocess.PIPE,
            stderr=bars,
            text=True,
            cwd=Path(__file__).parents[2],
            env=environment | {"HF_HOME": str(root.parent / "home"), "HF_HUB_DISABLE_XET": "1"},
        )
        bars.seek(0)
        said = bars.read()
    assert done.returncode == 0, said[-3000:]
    return root, json.loads(done.stdout.splitlines()[-1]), said


def publish_part(place: Path, part) -> None:
    """A UNet or LoRA under the name that its row gives it."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "README.md").write_text("a part")
    file = place / (part.file or "pytorch_lora_weights.safetensors")
    file.parent.mkdir(exist_ok=True)
    if part.kind == "unet":
        state = {name: tensor.half() for name, tensor in tiny_unet(seed=5).state_dict().items()}
        save_file(state, file) if file.suffix == ".safetensors" else torch.save(state, file)
        return
    unet = tiny_unet()
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    state = {f"unet.{name}": tensor for name, tensor in get_peft_model_state_dict(unet).items()}
    save_file(state, file)


def lone_vaes(root: Path) -> None:
    """Repositories of a VAE alone, with single files beside it."""
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )  # fmt: skip
    for name, vae in (("sdxl-vae-fp16-fix", tiny_vae(3)), ("taesdxl", tiny)):
        vae.save_pretrained(root / "madebyollin" / name)
        (root / "madebyollin" / name / "sdxl_vae.safetensors").write_bytes(b"the same again")


def texts(root: Path, repo: str) -> set[str]:
    """Configurations and tokenizers of a pipeline."""
    files = [path.relative_to(root / repo) for path in (root / repo).rglob("*") if path.is_file()]
    kept = [path for path in files if path.name in (*TOKENIZER, "config.json", "scheduler_config.json")]
    return {f"{repo}/{path.as_posix()}" for path in kept} | {f"{repo}/model_index.json"}


def half(repo: str, without=()) -> set[str]:
    """Half-precision weights of a pipeline: of those components, the ones that its repository has."""
    names = COMPONENTS if repo != REFINER else {k: v for k, v in COMPONENTS.items() if k != "text_encoder"}
    return {f"{repo}/{k}/{v}.fp16.safetensors" for k, v in names.items() if k not in without}


def expected(root: Path, row) -> set[str]:
    unets = [part for part in row.parts if part.kind == "unet"]
    files = texts(root, row.base) | half(row.base, ["unet"] if unets else [])
    if row.refiner:
        files |= texts(root, row.refiner) | {f"{row.refiner}/unet/diffusion_pytorch_model.fp16.safetensors"}
    return files | {f"{part.repo}/{part.file or 'pytorch_lora_weights.safetensors'}" for part in row.parts}


def contents(root: Path, files) -> set[str]:
    """Digests of files: of two that are the same, as the two tokenizers' here, the client fetches one."""
    return {hashlib.sha256((root / file).read_bytes()).hexdigest() for file in files}


def same(root: Path, given, wanted: set[str]) -> bool:
    return given.keys() <= wanted and contents(root, given) == contents(root, wanted)


def test_each_system_asks_for_what_it_needs_once_and_for_as_much_as_was_said(session):
    root, told, bars = session
    ways = {
        "sdxl-base",
        "sdxl-refiner",
        "sdxl-base+refiner",
        "sdxl-lightning-8step",
        "sdxl-dpo",
        "sdxl-ncp-dpo",
    }
    assert (
        ways | {"sdxl-lightning-8step-lora", "dmd2-1step", "sdxl-distar-1step"} <= told["every_system"].keys()
    )
    for name, found in told["every_system"].items():
        given = found["given"]
        assert same(root, given, expected(root, SYSTEMS[name])), name
        assert all(len(answers) == 1 for answers in given.values()), name
        of_weights = sum(
            sum(answers) for file, answers in given.items() if file.endswith((".safetensors", ".bin"))
        )
        assert of_weights == found["missing"], name
        assert not found["again"], name
    assert "100%" in bars


def test_a_dropped_connection_goes_on_where_it_broke_off(session):
    root, told, _ = session
    given = told["a_connection_that_drops"]
    unet = f"{BASE}/unet/diffusion_pytorch_model.fp16.safetensors"
    size = (root / unet).stat().st_size
    first, second = given[unet]
    assert first == size // 2
    assert size - first <= second < size - first + (1 << 20)  # the client writes, and so loses, whole chunks
    assert same(root, given, texts(root, BASE) | half(BASE))


def test_a_refused_file_is_named_and_never_leads_to_another_precision(session):
    root, told, _ = session
    found = told["a_refusal"]
    assert "403" in found["said"]
    assert "on the Hub:" in found["said"]
    files = {file for file in found["first"] if file.endswith(".safetensors")}
    assert files <= half(BASE, ["unet"])
    assert not found["first"].keys() & found["second"].keys()
    assert same(root, found["first"] | found["second"], texts(root, BASE) | half(BASE))


def test_a_single_file_takes_the_texts_alone(session):
    root, told, _ = session
    assert same(root, told["a_single_file"], texts(root, BASE))


def test_a_vae_in_the_place_of_the_bases_own(session):
    root, told, _ = session
    for name, repo, kind in (
        ("fp16-fix", "sdxl-vae-fp16-fix", "AutoencoderKL"),
        ("taesd", "taesdxl", "AutoencoderTiny"),
    ):
        own = {
            f"madebyollin/{repo}/{file}" for file in ("config.json", "diffusion_pytorch_model.safetensors")
        }
        assert same(root, told["vaes"][name]["given"], texts(root, BASE) | half(BASE, ["vae"]) | own)
        assert told["vaes"][name]["kind"] == kind


@pytest.mark.parametrize(
    ("repo", "reason"),
    [
        ("nobody/nothing", "there is no such repository, or it is private"),
        ("tianweiy/DMD2", "holds weights of several systems"),
        ("someone/pickles", "holds its weights as pickles alone"),
        ("someone/empty", "is no diffusers pipeline: it has no model_index.json"),
        ("not a name/at all", "that is no repository's name"),
        ("someone/flux", "someone/flux is a FluxPipeline, by its model_index.json"),
    ],
)
def test_the_reason_is_told(session, repo, reason):
    assert reason in session[1]["mistakes"][repo]


def test_of_another_kind_of_pipeline_no_weights_are_fetched(session):
    assert session[1]["mistakes"]["asked for"] == ["someone/flux/model_index.json"]
