"""The page's parts: its words, what is shown, bad input, and a conversation, by the events that its buttons are."""

import base64
import io
import json
import re
import runpy
import subprocess
import sys
import tomllib

import gradio as gr
import numpy as np
import pytest
import yaml
from picture_files import REFUSED_FILES, ROOT, SCENE, taken_files
from PIL import Image

from gemma_lisa.checkpoints.loading import EXAMPLE, load_checkpoint
from gemma_lisa.datasets_builder.rows import decode_mask
from gemma_lisa.images_gemma_lisa import MAX_IMAGE_PIXELS_VARIABLE
from gemma_lisa.interfaces.web.conversations import MAX_QUESTION, Conversations, Refused, Turn
from gemma_lisa.interfaces.web.events import Events
from gemma_lisa.interfaces.web.layers import mask_layer, number_place, shown_picture
from gemma_lisa.interfaces.web.page import build_page
from gemma_lisa.interfaces.web.parts import SCENES, examples, message
from gemma_lisa.interfaces.web.translations import LANGUAGES, WORDS, preferred

UPLOAD = ("stage", "talk", "message", "conversation", "start")


@pytest.fixture(autouse=True)
def page_limit(monkeypatch):
    """What the server sets for itself."""
    monkeypatch.setenv(MAX_IMAGE_PIXELS_VARIABLE, "25000000")


@pytest.fixture
def events(tiny):
    return Events(Conversations(*tiny))


@pytest.fixture(scope="module")
def example():
    return load_checkpoint(EXAMPLE)


@pytest.fixture
def talking(example):
    """Events with a visitor "a" who looks at the scene with the small checkpoint."""
    events = Events(Conversations(*example))
    events.conversations.open("a", SCENE.read_bytes(), "scene.png")
    return events


def visitor(key: str = "a") -> gr.Request:
    return gr.Request(session_hash=key, headers={})


def happened(**values) -> gr.EventData:
    return gr.EventData(None, values)


def put_in(events: Events, name: str, content: bytes, key: str = "a", language: str = "en") -> dict:
    events.receive(events.conversations.uploads.add(content, name), visitor(key))
    return dict(zip(UPLOAD, events.open(language, visitor(key)), strict=True))


def line_of(html: str) -> str:
    (line,) = re.fullmatch('<p role="alert">(.*)</p>', html, re.S).groups()
    return line


def asked(events: Events, question: str, language: str = "en", key: str = "a") -> list[tuple]:
    return list(events.ask(question, language, visitor(key)))


# ----------------------------------------------------------------------------------------------------------------------
# Words


def test_both_languages_say_the_same_things():
    assert set(WORDS) == set(LANGUAGES)
    assert WORDS["en"].keys() == WORDS["ja"].keys()
    for key, english in WORDS["en"].items():
        slots = [sorted(re.findall(r"\{(\w+)", text)) for text in (english, WORDS["ja"][key])]
        assert slots[0] == slots[1], key
        assert WORDS["ja"][key] != english, f"{key} is not translated"


def test_every_word_is_used():
    files = [*(ROOT / "web").glob("*.py"), *(ROOT / "web").glob("*.js")]
    code = "".join(path.read_text() for path in files if path.name != "words.py")
    for key in WORDS["en"]:
        assert re.search(rf"""["']{key}["']|words\.{key}\b""", code), key
    assert set(re.findall(r"\b(?:shown|told)\.words\.(\w+)", code)) <= WORDS["en"].keys()


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("ja,en-US;q=0.9", "ja"),
        ("ja-JP", "ja"),
        ("en-GB,ja;q=0.5", "en"),
        ("fr,ja;q=0.8,en;q=0.5", "ja"),
        ("fr", "en"),
        ("", "en"),
        (None, "en"),
        ("<script>", "en"),
    ],
)
def test_the_browsers_language_is_chosen(header, language):
    assert preferred(header) == language


# ----------------------------------------------------------------------------------------------------------------------
# What is shown


@pytest.mark.parametrize("size", [(40, 60), (512, 300), (2000, 1500), (1, 900)])
def test_a_layer_covers_what_its_mask_covers(size):
    mask = np.zeros(size, dtype=bool)
    mask[: size[0] // 2 + 1, size[1] // 3 :] = True
    kind, content = mask_layer(mask, (255, 0, 10)).split(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as opened:
        layer = np.asarray(opened.convert("RGBA"))
    assert max(layer.shape[:2]) <= 1280
    assert (layer[layer[..., 3] > 0][:, :3] == (255, 0, 10)).all()
    assert (layer[..., 3] > 0).mean() == pytest.approx(mask.mean(), abs=0.01)
    assert set(np.unique(layer[..., 3])) <= {0, 110, 255}


def test_a_number_stands_on_its_mask():
    ring = np.ones((50, 100), dtype=bool)
    ring[5:45, 5:95] = False
    x, y = number_place(ring)
    assert ring[int(y * 50), int(x * 100)]
    assert number_place(np.zeros((5, 5), dtype=bool)) is None


def test_a_large_picture_goes_to_the_browser_smaller_and_keeps_its_size_in_words(make_picture):
    shown = shown_picture(make_picture(1000, 2600))
    with Image.open(io.BytesIO(base64.b64decode(shown["url"].split(",")[1]))) as opened:
        assert opened.size == (1280, 492)
    assert (shown["width"], shown["height"], shown["is_small"]) == (2600, 1000, False)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["It is ", "."], ["the question"]),
        (["They are ", " red circle, ", " star in blue."], ["red circle", "star in blue"]),
        (["They are ", " and ", "."], ["the question", "the question"]),
        (["The dog ", " and the cat ", "."], ["The dog", "the cat"]),
        (["", " left upper."], ["left upper"]),
        (["No, I see none."], []),
    ],
)
def test_masks_have_names(words, names):
    assert Turn("the question", {}, words, 0, [[] for _ in words[1:]]).names == names


def test_what_is_shown_in_a_message_is_text():
    assert "<b>" not in message("<b>x</b>")
    assert "<script" not in examples("en")
    assert all(path.is_file() for path, _ in SCENES)


# ----------------------------------------------------------------------------------------------------------------------
# Bad input


@pytest.mark.parametrize("name", REFUSED_FILES)
def test_a_file_that_is_no_picture_is_refused_in_plain_words_and_the_page_goes_on(events, name):
    content, reason = REFUSED_FILES[name]
    changed = put_in(events, name, content)
    line = line_of(changed["message"])
    assert reason in line and "<img" not in line and "Traceback" not in line and "GEMMA" not in line
    assert len(events.conversations) == 0
    japanese = line_of(put_in(events, name, content, language="ja")["message"])
    assert re.search("[\u3040-\u30ff]", japanese)
    put_in(events, "scene.png", SCENE.read_bytes())
    assert len(events.conversations) == 1


@pytest.mark.parametrize("name", taken_files())
def test_every_kind_of_picture_is_taken(events, name):
    changed = put_in(events, name, taken_files()[name])
    assert changed["message"] == ""
    assert (changed["stage"]["picture"]["width"], changed["stage"]["picture"]["height"]) == (128, 128)


def test_a_picture_that_is_refused_leaves_the_one_before(talking):
    put_in(talking, "text.png", b"no picture")
    assert asked(talking, "the red circle")[-1][1]["turns"][0]["words"][0]


@pytest.mark.parametrize(
    ("question", "reason"),
    [("", "no_question"), ("  \n", "no_question"), ("x" * 100_000, "long_question"), ("x" * 501, "long_question")],
)
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_question_that_cannot_be_asked_is_answered_in_plain_words(talking, question, reason, language):
    ((_, _, said, _, _),) = asked(talking, question, language)
    expected = WORDS[language][reason].format(length=len(question), limit=MAX_QUESTION)
    assert line_of(said) == expected and len(said) < 300
    assert asked(talking, "the red circle")[-1][1]["turns"]


def test_without_a_picture_every_button_says_so(events):
    request, line = visitor("nobody"), WORDS["en"]["no_picture"]
    happening = happened(turn=0, mask=0, x=1, y=1, label=1)
    said = [
        asked(events, "the red circle", key="nobody")[0][2],
        events.point("en", request, happening)[1],
        events.undo("en", request)[1],
        events.show("en", request, happening)[2],
        events.forget("en", request)[2],
        events.save_picture("", "", "en", request)[1],
        events.save_json("en", request)[1],
    ]
    assert [line_of(one) for one in said] == [line] * len(said)
    events.receive(None, request)
    for number in ("not/there.png", str(SCENE), "/etc/passwd", "https://example.com/x.png", ""):
        events.receive(number, request)
    assert line_of(events.open("en", request)[2]) == WORDS["en"]["lost"]


def test_clicks_and_numbers_that_mean_nothing_are_refused_in_plain_words(talking):
    asked(talking, "the red circle")
    for wrong in (
        dict(turn=0, mask=9, x=1, y=1, label=1),
        dict(turn=7, mask=0, x=1, y=1, label=1),
        dict(turn=-1, mask=0, x=1, y=1, label=1),
        dict(turn=0, mask=0, x=-5, y=1, label=1),
        dict(turn=0, mask=0, x=1, y=500, label=1),
        dict(turn=0, mask=0, x=1, y=1, label=7),
        dict(turn=0, mask=0, x=float("nan"), y=1, label=1),
    ):
        stage, said = talking.point("en", visitor(), happened(**wrong))
        assert line_of(said), wrong
    assert line_of(talking.save_picture("x", "", "en", visitor())[1])
    assert line_of(talking.save_picture("5", "", "en", visitor())[1])
    assert line_of(talking.undo("en", visitor())[1]) == WORDS["en"]["nothing_to_undo"]


@pytest.mark.slow
def test_an_unknown_model_ends_the_start_in_one_line():
    done = subprocess.run(
        [sys.executable, "app.py", "--model", "no/such/folder"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "no/such/folder" in line and "Traceback" not in done.stderr
    assert "The page is at" not in done.stdout


@pytest.mark.slow
def test_a_wrong_option_ends_the_start_in_one_line():
    done = subprocess.run(
        [sys.executable, "app.py", "--port", "x"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


# ----------------------------------------------------------------------------------------------------------------------
# A conversation


def test_an_answer_comes_word_by_word_with_its_masks_and_equals_the_sessions(talking, example):
    steps = asked(talking, "all the blue triangles")
    model, processor = example
    whole = model.start(SCENE, processor).ask("all the blue triangles")
    spoken = [step[1]["turns"][-1]["words"] for step in steps]
    assert spoken[0] == [""] and len(spoken) > 5
    assert [len(words) for words in spoken] == sorted(len(words) for words in spoken)
    assert processor.seg_token.join(spoken[-1]) == whole["raw_text"]
    stages = [step[0] for step in steps if "turn" in step[0]]
    assert [len(stage["masks"]) for stage in stages] == [0, 1, 2, 2]
    assert [stage["whole"] for stage in stages] == [False, False, False, True]
    conversation = talking.conversations.of("a")
    assert (conversation.masks_of(conversation.turns[0]) == whole["masks"].numpy()).all()


def test_a_follow_up_keeps_what_was_said_and_a_new_conversation_forgets_it(talking):
    asked(talking, "the red circle")
    second = asked(talking, "all the blue triangles")[-1]
    assert [turn["question"] for turn in second[1]["turns"]] == ["the red circle", "all the blue triangles"]
    conversation = talking.conversations.of("a")
    assert len(conversation.session.messages) == 4
    shown = talking.show("en", visitor(), happened(turn=0))
    assert shown[0]["turn"] == 0 and shown[1]["shown"] == 0
    stage, talk, said = talking.forget("en", visitor())
    assert stage["masks"] == [] and talk["turns"] == [] and said == ""
    assert conversation.session.messages == [] and conversation.turns == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_stopped_answer_was_never_asked_for(talking, language):
    (*_, expected) = asked(talking, "the red circle")
    for before in (0, 1):
        if not before:
            talking.forget(language, visitor())
        steps = talking.ask("all the blue triangles", language, visitor())
        assert next(steps)[-1] == gr.update(visible=True)
        while not (step := next(steps))[0].get("masks"):
            pass
        assert step[4] == gr.skip() and talking.stop(language, visitor()) == ""
        (stopped,) = steps
        stage, talk, message, question, button = stopped
        assert line_of(message) == WORDS[language]["stopped"] and question == "all the blue triangles"
        assert len(stage["masks"]) == before == len(talk["turns"]) and button == gr.update(visible=False)
        conversation = talking.conversations.of("a")
        assert len(conversation.session.messages) == 2 * before and len(conversation.session.pointed_at) == before
        if not before:
            again = asked(talking, "the red circle", language)[-1]
            assert again[0]["masks"] == expected[0]["masks"]
    assert len(asked(talking, "all the blue triangles")[-1][0]["masks"]) == 2


def test_an_answer_is_stopped_before_its_first_word_too(talking):
    steps = talking.ask("the red circle", "en", visitor())
    next(steps)
    talking.stop("en", visitor())
    (*_, stopped) = steps
    assert line_of(stopped[2]) == WORDS["en"]["stopped"] and talking.conversations.of("a").turns == []


def test_stopping_after_the_last_word_comes_too_late(talking):
    steps = talking.ask("the red circle", "en", visitor())
    conversation = talking.conversations.of("a")
    while not conversation.session.messages:
        next(steps)
    talking.stop("en", visitor())
    (*_, last) = steps
    assert last[-1] == gr.update(visible=False) and len(conversation.turns) == 1


def test_a_click_corrects_a_mask_and_undoing_brings_it_back(talking):
    asked(talking, "the red circle")
    conversation = talking.conversations.of("a")
    before = conversation.masks_of(conversation.turns[0])
    stage, said = talking.point("en", visitor(), happened(turn=0, mask=0, x=20.0, y=24.0, label=1))
    assert said == "" and stage["masks"][0]["points"] == [(20.0, 24.0, 1)]
    after = conversation.masks_of(conversation.turns[0])
    assert (after != before).any(), "the click changed nothing"
    talking.point("en", visitor(), happened(turn=0, mask=0, x=100.0, y=100.0, label=0))
    assert conversation.session.pointed_at[0].points == [(20.0, 24.0, 1), (100.0, 100.0, 0)]
    talking.undo("en", visitor())
    assert (conversation.masks_of(conversation.turns[0]) == after).all()
    stage, _ = talking.undo("en", visitor())
    assert (conversation.masks_of(conversation.turns[0]) == before).all()
    assert stage["masks"][0]["points"] == [] and conversation.session.pointed_at[0].points == []


def test_what_is_downloaded_is_the_answer(talking):
    assert line_of(talking.save_json("en", visitor())[1]) == WORDS["en"]["no_answer"]
    asked(talking, "all the blue triangles")
    stage, said = talking.save_json("en", visitor())
    assert said == "" and stage["file"]["name"] == "scene-answers.json"
    (told,) = json.loads(base64.b64decode(stage["file"]["base64"]))
    assert told["query"] == "all the blue triangles" and told["image"] == "scene.png"
    conversation = talking.conversations.of("a")
    for mask, one in zip(conversation.masks_of(conversation.turns[0]), told["masks"], strict=True):
        assert (decode_mask(one["rle"], "x") == mask).all()
        assert one["area"] == mask.sum() and set(one) >= {"rle", "box", "area", "score", "phrase"}

    pictures = []
    for hidden in ("", "0"):
        stage, _ = talking.save_picture("0", hidden, "en", visitor())
        with Image.open(io.BytesIO(base64.b64decode(stage["file"]["base64"]))) as opened:
            pictures.append(np.asarray(opened.convert("RGB")))
    assert pictures[0].shape[0] > 512, "no legend"
    assert (pictures[0][:512] != pictures[1][:512]).any(), "the hidden mask is drawn"


def test_an_answer_without_masks_can_be_downloaded(talking):
    asked(talking, "the green square")
    conversation = talking.conversations.of("a")
    assert conversation.turns[0].words and not conversation.turns[0].answer["masks"]
    assert talking.save_picture("", "", "en", visitor())[1] == ""


def test_the_visit_that_was_silent_longest_makes_room(tiny):
    conversations = Conversations(*tiny, limit=2)
    for key in ("a", "b"):
        conversations.open(key, SCENE.read_bytes(), "scene.png")
    conversations.of("a")
    conversations.open("c", SCENE.read_bytes(), "scene.png")
    assert len(conversations) == 2
    with pytest.raises(Refused, match="expired"):
        conversations.of("b")
    assert conversations.expire() == []
    assert conversations.expire(silence=0) == ["a", "c"]
    with pytest.raises(Refused, match="expired"):
        conversations.of("a")
    with pytest.raises(Refused, match="no_picture"):
        conversations.of("d")


def test_pictures_of_all_visits_are_limited_in_pixels(tiny, monkeypatch):
    monkeypatch.setattr(
        "gemma_lisa.interfaces.web.conversations.MAX_HELD_PIXELS", 40_000
    )  # two of 128 x 128, and not three
    conversations = Conversations(*tiny)
    for key in ("a", "b", "c"):
        conversations.open(key, SCENE.read_bytes(), "scene.png")
    assert len(conversations) == 2
    with pytest.raises(Refused, match="expired"):
        conversations.of("a")
    monkeypatch.setattr("gemma_lisa.interfaces.web.conversations.MAX_HELD_PIXELS", 1)
    conversations.open("d", SCENE.read_bytes(), "scene.png")
    assert conversations.of("d").session.image.width == 128


def test_a_conversation_has_a_limit_of_questions_clicks_and_masks(talking, monkeypatch):
    monkeypatch.setattr("gemma_lisa.interfaces.web.conversations.MAX_TURNS", 1)
    monkeypatch.setattr("gemma_lisa.interfaces.web.conversations.MAX_CORRECTIONS", 1)
    asked(talking, "the red circle")
    ((_, _, said, _, _),) = asked(talking, "the red circle")
    assert line_of(said) == WORDS["en"]["long_conversation"].format(limit=1)
    click = happened(turn=0, mask=0, x=20.0, y=24.0, label=1)
    assert talking.point("en", visitor(), click)[1] == ""
    assert line_of(talking.point("en", visitor(), click)[1]) == WORDS["en"]["many_clicks"].format(limit=1)
    talking.forget("en", visitor())
    monkeypatch.setattr("gemma_lisa.interfaces.web.conversations.MAX_MASK_PIXELS", 128 * 128)
    stage, talk, said, question, _ = asked(talking, "all the blue triangles")[-1]
    assert line_of(said) == WORDS["en"]["many_masks"].format(count=2)
    assert talk["turns"] == [] and question == "all the blue triangles"
    assert asked(talking, "the red circle")[-1][1]["turns"]


@pytest.mark.parametrize(
    "values",
    [
        None,
        {},
        {"turn": "0", "mask": 0, "x": 1, "y": 1, "label": 1},
        {"turn": 0, "mask": [], "x": 1, "y": 1, "label": 1},
        {"turn": 0, "mask": 0, "x": {}, "y": 1, "label": 1},
        {"turn": 0, "mask": 0, "x": 1, "y": 10**400, "label": 1},
        {"turn": 0, "mask": 0, "x": 1, "y": 1, "label": 0.5},
        {"turn": True, "mask": 0, "x": 1, "y": 1, "label": 1},
        {"turn": 0, "mask": 0, "x": float("inf"), "y": 1, "label": 1},
    ],
)
def test_what_is_no_number_is_refused_in_plain_words(talking, values):
    asked(talking, "the red circle")
    assert line_of(talking.point("en", visitor(), gr.EventData(None, values))[1]) == WORDS["en"]["bad_event"]


@pytest.mark.parametrize("event", [None, {}, {"scene": -1}, {"scene": 99}, {"scene": "0"}, {"scene": 0.5}])
def test_a_drawing_that_there_is_not_is_refused_in_plain_words(events, event):
    changed = events.choose("en", visitor(), gr.EventData(None, event))
    assert line_of(changed[2]) == WORDS["en"]["bad_event"] and len(events.conversations) == 0


@pytest.mark.parametrize("shown", ["x", "1e3", "0x1", "0" * 5000, "²", "1;2", "--1"])
def test_a_list_of_masks_that_is_none_is_refused_in_plain_words(talking, shown):
    asked(talking, "the red circle")
    for values in ((shown, ""), ("0", shown)):
        assert line_of(talking.save_picture(*values, "en", visitor())[1]) == WORDS["en"]["bad_event"]


def test_the_page_itself_names_no_other_server(tiny):
    page = build_page(Conversations(*tiny))
    assert page.analytics_enabled is False
    sources = [path.read_text() for path in (ROOT / "web").iterdir() if path.suffix in (".js", ".css", ".py")]
    assert not re.search(r"https?://(?!127\.0\.0\.1)", "".join(sources))


def test_the_page_and_the_space_go_where_the_package_goes():
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "gemma_lisa.interfaces.web" in told["packages"]
    data = {path for glob in told["package-data"]["gemma_lisa.interfaces.web"] for path in (ROOT / "web").glob(glob)}
    needed = {path for path in (ROOT / "web").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert needed - data == {path for path in needed if path.suffix == ".py"}
    data = {path for glob in told["package-data"]["gemma_lisa"] for path in ROOT.glob(glob)}
    brought = [*(ROOT / "examples" / EXAMPLE.name).iterdir(), *(path.resolve() for path, _ in SCENES)]
    assert set(brought) <= data | needed


def test_the_space_asks_for_what_is_tested():
    space = ROOT / "hub" / "space"
    ours = (ROOT / "requirements.txt").read_text().splitlines()
    ours = {line.split("#")[0].strip() for line in ours}
    asked_for = [line for line in (space / "requirements.txt").read_text().splitlines() if line[:1] not in ("#", "")]
    assert [line for line in asked_for if line not in ours and "git+" not in line] == []
    front = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert f"gradio=={front['sdk_version']}" in (ROOT / "constraints.txt").read_text().splitlines()
    assert (space / front["app_file"]).is_file() and front["sdk"] == "gradio"
    assert len(front["short_description"]) <= 60  # the Hub refuses a longer one


def test_the_space_refuses_a_blank_model_variable(monkeypatch):
    model_name = runpy.run_path(str(ROOT / "hub" / "space" / "app.py"))["model_name"]
    monkeypatch.delenv("MODEL", raising=False)
    assert model_name() is None
    monkeypatch.setenv("MODEL", " org/model\n")
    assert model_name() == "org/model"
    for blank in ("", " "):
        monkeypatch.setenv("MODEL", blank)
        with pytest.raises(ValueError, match="MODEL is empty"):
            model_name()
