"""Check that an exported folder works with transformers but without this project.

    python -I -S scripts/loading_check.py SITE_PACKAGES FOLDER [NAME]

AutoModel with AutoProcessor, the pipeline and handler.py answer the examples of FOLDER. Texts and masks must equal
those of `examples/answers.json`. With NAME the model is loaded from this name on the Hub, and handler.py is
skipped. The program prints one line of JSON.
"""

import importlib.util
import json
import sys
from pathlib import Path

site_packages, folder, *names = sys.argv[1:]
folder = Path(folder)
source = names[0] if names else str(folder)
if site_packages:
    sys.path.append(site_packages)
sys.modules["gemma_lisa"] = None  # importing it fails, even if it is installed

import numpy as np  # noqa: E402
from transformers import AutoModel, AutoProcessor, pipeline  # noqa: E402


def module_of(name):
    """Import a Python file of the folder."""
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


images = module_of("images_gemma_lisa")


def by_auto_classes():
    """Return a function (image, text) -> (text, bool masks (K, H, W)) with AutoModel and AutoProcessor."""
    processor = AutoProcessor.from_pretrained(source, trust_remote_code=True)
    model = AutoModel.from_pretrained(source, trust_remote_code=True).eval()

    def answer(image, text):
        content = [{"type": "image", "image": image}, {"type": "text", "text": text}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
        )
        (found,) = processor.post_process_segmentation(model.segment(**inputs, max_new_tokens=64), inputs)
        return found["text"], list(found["masks"].numpy())

    return answer


def by_pipeline():
    ask = pipeline("reasoning-segmentation", model=source, trust_remote_code=True, device="cpu")

    def answer(image, text):
        found = ask(images=image, text=text)
        return found["text"], [np.asarray(segment["mask"]) > 0 for segment in found["segments"]]

    return answer


def by_handler():
    handler = module_of("handler").EndpointHandler(str(folder))

    def answer(image, text):
        found = handler({"inputs": {"image": image, "text": text}})
        if "error" in found:
            raise SystemExit(f"handler.py: {found['error']}")
        masks = []
        for mask in found["masks"]:
            counts = mask["rle"]["counts"]
            values = np.arange(len(counts)) % 2 == 1
            height, width = mask["rle"]["size"]
            masks.append(np.repeat(values, counts).reshape(width, height).T)
        return found["text"], masks

    return answer


def check(answer, way):
    """Compare the answers to all examples and return the number of masks."""
    count = 0
    for example in json.loads((folder / "examples" / "answers.json").read_text(encoding="utf-8")):
        text, masks = answer(images.load_rgb(folder / example["image"]), example["text"])
        expected = [np.asarray(images.open_upright(folder / mask["mask"])) > 0 for mask in example["masks"]]
        if text != example["answer"] or len(masks) != len(expected):
            raise SystemExit(
                f"{way}: the answer to {example['text']!r} is {text!r}, number of masks: {len(masks)}; expected "
                f"{example['answer']!r} with {len(expected)}"
            )
        for found, wanted in zip(masks, expected, strict=True):
            if found.shape != wanted.shape or (found != wanted).any():
                raise SystemExit(f"{way}: the masks for {example['text']!r} differ from examples/answers.json")
        count += len(masks)
    return count


ways = {"AutoModel": by_auto_classes, "pipeline": by_pipeline}
if not names:
    ways["handler"] = by_handler
counts = {way: check(opened(), way) for way, opened in ways.items()}  # only one model at a time is in memory
print(json.dumps({"masks": counts, "modules": sorted({name.split(".")[0] for name in sys.modules})}))
