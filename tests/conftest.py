"""Shared fixtures: a small Gemma-LISA with random weights, a few rows of shapes, reference values of LISA."""

import importlib
import logging
import os
import shutil
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

os.environ["HF_HUB_OFFLINE"] = "1"  # must be set before huggingface_hub is imported
# On a CPU, its import warns about a kernel that is not used here. The summary of pytest should be the last line.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

import hub_server
import numpy as np
import pytest
import torch
from adapter_runs import RANK, trainer_of
from conversations import IMAGE
from PIL import Image
from stock_checkpoints import write_gemma, write_sam
from transformers import set_seed

from gemma_lisa.checkpoints.loading import EXAMPLE
from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.questions import TrainingQuestions
from gemma_lisa.datasets_builder.rows import SEG_SLOT
from gemma_lisa.datasets_builder.synthetic.shapes import Shapes
from gemma_lisa.datasets_builder.templates import Conversation
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.safety.secret_names import is_secret_name
from gemma_lisa.scripts import export
from gemma_lisa.scripts.init_tiny import build_config, build_tiny, initialize
from gemma_lisa.training.arguments import ModelArguments
from gemma_lisa.training.load_model import load_model

REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "reference"
# In tokens: shorter than a question with its answer, and shorter than the prefix with the image
SHORT_WINDOW = 12


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Test results must not depend on the number of cores."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_seed():
    """Random numbers of a test must not depend on earlier tests of the same process."""
    set_seed(0)


@pytest.fixture(autouse=True)
def denormal_numbers():
    """`train.main` makes the CPU flush denormal numbers to 0, and later tests of the same process need them."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def own_cache(monkeypatch, tmp_path):
    """A new cache of data sets in the folder of the test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def no_login(monkeypatch):
    """Hide the secrets of this machine: those of its environment and of a login to the Hub."""
    for name in [name for name in os.environ if is_secret_name(name) or name.endswith("_KEY")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("gemma_lisa.safety.secret_names.get_token", lambda: None)


@pytest.fixture(scope="session")
def tiny():
    """(model, processor) for images of 64 × 64 pixels, with random weights of seed 0, in evaluation mode."""
    model, processor = build_tiny(image_size=64, seed=0)
    return model.eval(), processor


@pytest.fixture(scope="session")
def windowed(tiny):
    """Like `tiny`, with two layers: a sliding window of SHORT_WINDOW tokens, then full attention."""
    _, processor = tiny
    config = build_config(processor, image_size=64)
    config.text_config.num_hidden_layers = 2
    config.text_config.layer_types = ["sliding_attention", "full_attention"]
    config.text_config.sliding_window = SHORT_WINDOW
    torch.manual_seed(0)
    model = GemmaLisaForConditionalGeneration(config)
    initialize(model)
    model.generation_config = tiny[0].generation_config
    return model.eval(), processor


@pytest.fixture(scope="session")
def rows(tmp_path_factory):
    """Twelve rows of the training split of shapes."""
    builder = Shapes(
        config_name="easy",
        cache_dir=str(tmp_path_factory.mktemp("shapes")),
        train_rows=12,
        validation_rows=2,
        test_rows=2,
    )
    builder.download_and_prepare()
    return builder.as_dataset(split="train")


@pytest.fixture(scope="session")
def samples(rows):
    """The rows with a question about each of four targets. The last conversation of each row has two turns."""
    questions = TrainingQuestions(rows, seed=0, max_questions=4)
    asked = [questions[index] for index in range(len(questions))]
    for sample in asked:
        sample["conversations"][-1] = Conversation((*sample["conversations"][-1].turns, ("And how many in all?", "4.")))
    return asked


@pytest.fixture(scope="session")
def make_picture():
    """Make an image of noise of the given size (height, width) in pixels; the seed determines the noise."""

    def make(height=64, width=64, seed=0):
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    return make


@pytest.fixture(scope="session")
def make_sample(make_picture):
    """Make a sample like those of the mixture: one conversation per answer, one box per `{seg}`."""

    def make(answers, size=(64, 64), seed=0, with_image=True, source="some_set/train/000007"):
        conversations, masks = [], []
        for number, answer in enumerate(answers):
            turns = (("Where is the object?", answer),)
            boxes = np.zeros((answer.count(SEG_SLOT), *size), dtype=np.uint8)
            for at, box in enumerate(boxes):
                box[: size[0] // 2 + number, size[1] // 4 + at :] = 1
            conversations.append(Conversation(turns, ({},) if with_image else ()))
            masks.append(boxes if with_image else None)
        image = make_picture(*size, seed) if with_image else None
        return {"source": source, "image": image, "conversations": conversations, "masks": masks}

    return make


@pytest.fixture
def make_conversation(make_picture):
    """Make messages from (role, part, part, …), where a part is a text or IMAGE."""

    def make(*turns, picture=None):
        def part(content):
            if content is IMAGE:
                return {"type": "image", "image": picture or make_picture()}
            return {"type": "text", "text": content}

        return [{"role": role, "content": [part(content) for content in parts]} for role, *parts in turns]

    return make


@pytest.fixture(scope="session")
def processor(tiny):
    return tiny[1]


@pytest.fixture(scope="session")
def checkpoint(tiny, tmp_path_factory):
    """A folder with the saved `tiny`."""
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    for part in tiny:
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def segment_anything():
    """The segment_anything package: `.build_sam` builds models of real size, `.modeling` has their modules."""
    package = ModuleType("segment_anything")
    # Its own __init__ imports torchvision, which the models do not need.
    package.__path__ = find_spec("segment_anything").submodule_search_locations
    sys.modules["segment_anything"] = package
    for name in ("modeling", "build_sam"):
        importlib.import_module(f"segment_anything.{name}")
    return package


@pytest.fixture(scope="session")
def randomize_sam():
    """Randomize every weight of a segment_anything model. Initially, positions are zeros and norms are ones."""

    @torch.no_grad()
    def randomize(sam, seed=0):
        generator = torch.Generator().manual_seed(seed)
        for module in sam.modules():
            for name, weight in module.named_parameters(recurse=False):
                if name in ("rel_pos_h", "rel_pos_w", "pos_embed"):
                    weight.normal_(std=0.2, generator=generator)
                elif isinstance(module, torch.nn.Embedding):
                    weight.normal_(generator=generator)
                elif weight.ndim == 1:  # biases, and the weights of norms
                    weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.1)
                else:
                    weight.normal_(std=weight[0].numel() ** -0.5, generator=generator)
        return sam.eval()

    return randomize


@pytest.fixture(scope="session")
def small_sam(segment_anything, randomize_sam):
    """A segment_anything model with a small encoder: images of 64 pixels, layers with and without windows.

    Prompt encoder and decoder have their real sizes.
    """
    parts, side, patch, width = segment_anything.modeling, 64, 8, 256
    grid = side // patch
    torch.manual_seed(0)
    encoder = parts.ImageEncoderViT(
        img_size=side,
        patch_size=patch,
        embed_dim=48,
        depth=5,
        num_heads=3,
        mlp_ratio=2,
        out_chans=width,
        norm_layer=lambda size: torch.nn.LayerNorm(size, eps=1e-6),
        use_rel_pos=True,
        window_size=3,
        global_attn_indexes=(1, 4),
    )
    decoder = parts.MaskDecoder(
        transformer=parts.TwoWayTransformer(depth=2, embedding_dim=width, mlp_dim=2048, num_heads=8),
        transformer_dim=width,
    )
    prompt_encoder = parts.PromptEncoder(width, (grid, grid), (side, side), mask_in_chans=16)
    return randomize_sam(parts.Sam(encoder, prompt_encoder, decoder))


@pytest.fixture(scope="session")
def small_sam_file(small_sam, tmp_path_factory):
    path = tmp_path_factory.mktemp("small_sam") / "sam_small.pth"
    torch.save(small_sam.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def reference():
    """The folder with reference values of the original LISA."""
    if not REFERENCE.is_dir():
        pytest.skip(f"the reference values of LISA are missing: no folder {REFERENCE}")
    return REFERENCE


@pytest.fixture
def interruptible():
    """Make SIGINT raise KeyboardInterrupt, even if the tests run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def no_hang():
    """Stop a test that would run for hours."""

    def end(*args):
        raise TimeoutError("the patterns take more than linear time")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def set_config(monkeypatch):
    """Set fields of a model's configuration for one test."""

    def set_fields(model, **fields):
        for name, value in fields.items():
            monkeypatch.setattr(model.config, name, value)

    return set_fields


@pytest.fixture
def question(make_picture):
    def make(text="the red circle", seed=0, size=(64, 64), with_image=True):
        image = [{"type": "image", "image": make_picture(*size, seed)}] if with_image else []
        return [{"role": "user", "content": [*image, {"type": "text", "text": text}]}]

    return make


@pytest.fixture
def server():
    """A local Hub server."""
    with hub_server.serve() as found:
        yield found


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """`model`, small and random, and two exports: `cut` has its weights in several files, `whole` in one."""
    at = tmp_path_factory.mktemp("folders")
    for part in build_tiny(image_size=32):
        part.save_pretrained(at / "model")
    question = ["--examples", str(export.SCENE), "a circle"]
    for name, size in (("cut", "1MB"), ("whole", "5GB")):
        export.main(["--model", str(at / "model"), "--output", str(at / name), "--max_shard_size", size, *question])
    return at


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """The small checkpoint exported as a repository, with its results."""
    folder = tmp_path_factory.mktemp("published") / "shapes-tiny"
    results = [str(EXAMPLE / f"{level}.json") for level in ("easy", "hard")]
    export.main(["--model", str(EXAMPLE), "--output", str(folder), "--results", *results])
    return folder


@pytest.fixture(scope="session")
def base(tiny, tmp_path_factory):
    """A folder with a small random Gemma-LISA."""
    folder = tmp_path_factory.mktemp("base")
    for part in tiny:
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def batch(tiny, samples):
    """A batch of two rows for `forward`."""
    return GemmaLisaCollator(tiny[1])(samples[:2])


@pytest.fixture(scope="session")
def train(base, rows, tmp_path_factory):
    """Train a few steps with the options of train.py, and return the model and the folder it was saved to."""

    def call(model=None, **options):
        folder = tmp_path_factory.mktemp("trained")
        adapted, processor = load_model(ModelArguments(str(model or base), **options), device=torch.device("cpu"))
        trainer = trainer_of(adapted, processor, rows, folder)
        trainer.train()
        trainer.save_model()
        return adapted, folder

    return call


@pytest.fixture(scope="session")
def lora(train):
    """(model, folder) of a LoRA run."""
    return train(lora_rank=RANK)


@pytest.fixture(scope="session")
def gemma(tmp_path_factory):
    """A folder with a small stock Gemma 3."""
    return write_gemma(tmp_path_factory.mktemp("gemma"))


@pytest.fixture(scope="session")
def sam(tmp_path_factory):
    """A folder with a small stock SAM."""
    return write_sam(tmp_path_factory.mktemp("sam"))


@pytest.fixture
def copies(gemma, sam, tmp_path):
    """Copies of both checkpoints that a test can damage."""
    return Path(shutil.copytree(gemma, tmp_path / "gemma")), Path(shutil.copytree(sam, tmp_path / "sam"))
