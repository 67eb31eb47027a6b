"""The output of SAM 3's agent: one JSON object per question, in a file of its own or in a list.

    {"text_prompt": "the person who …", "image_path": "val/1.jpg", "orig_img_h": 480, "orig_img_w": 640,
     "pred_masks": ["0e\\>…"], "pred_boxes": [[x, y, width, height]], "pred_scores": [0.9]}

`pred_masks` are the compressed counts of RLE masks of orig_img_h x orig_img_w pixels. Boxes are not used. The agent
writes `NAME_pred.json` beside `NAME_pred.png` and `NAME_history.json`; of a folder, only the files `*_pred.json` are
read.

A question is named by the key `question_id` or `id` if there is one. Otherwise it is the question with the text
`text_prompt` about the image whose name is that of `image_path`.
"""

from pathlib import Path
from typing import Any

from gemma_lisa.safety.short_text import show

from .entries import FIRST_ID_KEYS, Entry, check_boxes, check_scores, id_of, list_of, place_of

MASKS = "pred_masks"
FILES = "*_pred.json"


def read_sam3_agent(content: Any, path: Path) -> Entry:
    """Return the entry of one output of the agent.

    Args:
        content: JSON object.
        path: of the file, for errors.

    Raises:
        ValueError: it is not an output of the agent, or its lists do not fit together.
    """
    if not isinstance(content, dict) or MASKS not in content:
        raise ValueError(f"{path}: expected an object with the key {MASKS}, got {show(content)}.")
    name, asked, where = None, None, str(path)
    if any(key in content for key in FIRST_ID_KEYS):
        name = id_of(content, where)
        where = place_of(path, name)
    else:
        image, text = content.get("image_path", content.get("original_image_path")), content.get("text_prompt")
        if not isinstance(image, str) or not isinstance(text, str):
            raise ValueError(f"{where}: text_prompt and image_path, or the id of the question, are missing; add them.")
        asked = (image, text)
        where = f"{where}: {show(text)}"
    counts = list_of(content, MASKS, where)
    size = [content.get("orig_img_h"), content.get("orig_img_w")]
    if not all(type(side) is int for side in size):
        raise ValueError(f"{where}: orig_img_h and orig_img_w must be whole numbers of pixels, got {show(size)}.")
    check_boxes(content.get("pred_boxes"), len(counts), where)
    scores = list_of(content, "pred_scores", where) if "pred_scores" in content else []
    masks = [{"size": size, "counts": one} for one in counts]
    return Entry(where, name, masks, check_scores(scores, len(masks), where), asked, tuple(size))
