"""The web page: what visitors see, what bad input gets, twenty at once, and a real browser on the real server."""

import base64
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import tomllib
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio as gr
import httpx
import numpy as np
import pytest
import yaml
from gradio_client import Client, handle_file
from PIL import Image

from gemma_lisa.checkpoint import EXAMPLE, load_checkpoint
from gemma_lisa.datasets_builder.rows import decode_mask
from gemma_lisa.images_gemma_lisa import MAX_IMAGE_PIXELS_VARIABLE
from gemma_lisa.web.events import Events
from gemma_lisa.web.layers import mask_layer, number_place, shown_picture
from gemma_lisa.web.page import UPLOADS_EVERY, UPLOADS_KEPT, build_page
from gemma_lisa.web.parts import SCENES, examples, message
from gemma_lisa.web.visits import MAX_QUESTION, Refused, Turn, Visits
from gemma_lisa.web.words import LANGUAGES, WORDS, preferred

ROOT = Path(__file__).resolve().parents[1]
SCENE = ROOT / "docs" / "scene.png"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CHROMIUM_OPTIONS = (
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
SECONDS = 90  # for anything: machines that run tests are busy
UPLOAD = ("stage", "talk", "message", "upload", "conversation", "start", "key")


def huge_png(width: int = 30_000, height: int = 30_000) -> bytes:
    """A PNG that declares so many pixels and holds next to none of them."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def saved(picture: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=format, **options)
    return buffer.getvalue()


REFUSED_FILES = {
    "text.png": (b"This is no picture.\n" * 20, "in no format of pictures"),
    "empty.png": (b"", "is empty"),
    "truncated.png": (SCENE.read_bytes()[:9_000], "cannot be read"),
    "huge.png": (huge_png(), "more than 25,000,000 pixels"),
    "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "drawing"),
    "<img src=x onerror=alert(1)>.png": (b"nothing", "in no format of pictures"),
}


def taken_files() -> dict[str, bytes]:
    with Image.open(SCENE) as opened:
        scene = opened.convert("RGB")
    deep = Image.fromarray(np.asarray(scene.convert("L")).astype(np.uint16) * 257)
    turned = scene.transpose(Image.Transpose.ROTATE_90)
    return {
        "animated.gif": saved(scene, "GIF", save_all=True, append_images=[turned, scene]),
        "cmyk.jpg": saved(scene.convert("CMYK"), "JPEG"),
        "deep.png": saved(deep, "PNG"),
        "clear.png": saved(scene.convert("RGBA"), "PNG"),
        "photo.webp": saved(scene, "WEBP"),
    }


@pytest.fixture(autouse=True)
def page_limit(monkeypatch):
    """What the server sets for itself."""
    monkeypatch.setenv(MAX_IMAGE_PIXELS_VARIABLE, "25000000")


@pytest.fixture
def events(tiny):
    return Events(Visits(*tiny))


@pytest.fixture(scope="module")
def example():
    return load_checkpoint(EXAMPLE)


@pytest.fixture
def talking(example):
    """Events with a visitor "a" who looks at the scene with the small checkpoint."""
    events = Events(Visits(*example))
    events.visits.open("a", SCENE.read_bytes(), "scene.png")
    return events


def visitor(key: str = "a") -> gr.Request:
    return gr.Request(session_hash=key, headers={})


def happened(**values) -> gr.EventData:
    return gr.EventData(None, values)


def put_in(events: Events, folder: Path, name: str, content: bytes, key: str = "a", language: str = "en") -> dict:
    path = folder / name
    path.write_bytes(content)
    events.receive(str(path), visitor(key))
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
def test_a_file_that_is_no_picture_is_refused_in_plain_words_and_the_page_goes_on(events, tmp_path, name):
    content, reason = REFUSED_FILES[name]
    changed = put_in(events, tmp_path, name, content)
    line = line_of(changed["message"])
    assert reason in line and "<img" not in line and "Traceback" not in line and "GEMMA" not in line
    assert len(events.visits) == 0
    japanese = line_of(put_in(events, tmp_path, name, content, language="ja")["message"])
    assert re.search("[\u3040-\u30ff]", japanese)
    put_in(events, tmp_path, "scene.png", SCENE.read_bytes())
    assert len(events.visits) == 1


@pytest.mark.parametrize("name", taken_files())
def test_every_kind_of_picture_is_taken(events, tmp_path, name):
    changed = put_in(events, tmp_path, name, taken_files()[name])
    assert changed["message"] == ""
    assert (changed["stage"]["picture"]["width"], changed["stage"]["picture"]["height"]) == (128, 128)
    assert changed["key"] == "a"


def test_a_picture_that_is_refused_leaves_the_one_before(talking, tmp_path):
    put_in(talking, tmp_path, "text.png", b"no picture")
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
    events.receive("not/there.png", request)
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
        stage, said, _ = talking.point("en", visitor(), happened(**wrong))
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
    visit = talking.visits.of("a")
    assert (visit.masks_of(visit.turns[0]) == whole["masks"].numpy()).all()


def test_a_follow_up_keeps_what_was_said_and_a_new_conversation_forgets_it(talking):
    asked(talking, "the red circle")
    second = asked(talking, "all the blue triangles")[-1]
    assert [turn["question"] for turn in second[1]["turns"]] == ["the red circle", "all the blue triangles"]
    visit = talking.visits.of("a")
    assert len(visit.session.messages) == 4
    shown = talking.show("en", visitor(), happened(turn=0))
    assert shown[0]["turn"] == 0 and shown[1]["shown"] == 0
    stage, talk, said, _ = talking.forget("en", visitor())
    assert stage["masks"] == [] and talk["turns"] == [] and said == ""
    assert visit.session.messages == [] and visit.turns == []


def test_a_click_corrects_a_mask_and_undoing_brings_it_back(talking):
    asked(talking, "the red circle")
    visit = talking.visits.of("a")
    before = visit.masks_of(visit.turns[0])
    stage, said, _ = talking.point("en", visitor(), happened(turn=0, mask=0, x=20.0, y=24.0, label=1))
    assert said == "" and stage["masks"][0]["points"] == [(20.0, 24.0, 1)]
    after = visit.masks_of(visit.turns[0])
    assert (after != before).any(), "the click changed nothing"
    talking.point("en", visitor(), happened(turn=0, mask=0, x=100.0, y=100.0, label=0))
    assert visit.session.pointed_at[0].points == [(20.0, 24.0, 1), (100.0, 100.0, 0)]
    talking.undo("en", visitor())
    assert (visit.masks_of(visit.turns[0]) == after).all()
    stage, _, _ = talking.undo("en", visitor())
    assert (visit.masks_of(visit.turns[0]) == before).all()
    assert stage["masks"][0]["points"] == [] and visit.session.pointed_at[0].points == []


def test_what_is_downloaded_is_the_answer(talking):
    assert line_of(talking.save_json("en", visitor())[1]) == WORDS["en"]["no_answer"]
    asked(talking, "all the blue triangles")
    stage, said = talking.save_json("en", visitor())
    assert said == "" and stage["file"]["name"] == "scene-answers.json"
    (told,) = json.loads(base64.b64decode(stage["file"]["base64"]))
    assert told["query"] == "all the blue triangles" and told["image"] == "scene.png"
    visit = talking.visits.of("a")
    for mask, one in zip(visit.masks_of(visit.turns[0]), told["masks"], strict=True):
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
    visit = talking.visits.of("a")
    assert visit.turns[0].words and not visit.turns[0].answer["masks"]
    assert talking.save_picture("", "", "en", visitor())[1] == ""


def test_the_visit_that_was_silent_longest_makes_room(tiny):
    visits = Visits(*tiny, limit=2)
    for key in ("a", "b"):
        visits.open(key, SCENE.read_bytes(), "scene.png")
    visits.of("a")
    visits.open("c", SCENE.read_bytes(), "scene.png")
    assert len(visits) == 2
    with pytest.raises(Refused, match="expired"):
        visits.of("b")
    visits.end("a")
    with pytest.raises(Refused, match="expired"):
        visits.of("a")
    with pytest.raises(Refused, match="no_picture"):
        visits.of("d")
    visits.end(None)
    visits.end("d")


def test_the_page_itself_names_no_other_server(tiny):
    page = build_page(Visits(*tiny))
    assert page.analytics_enabled is False
    sources = [path.read_text() for path in (ROOT / "web").iterdir() if path.suffix in (".js", ".css", ".py")]
    assert not re.search(r"https?://(?!127\.0\.0\.1)", "".join(sources))


def test_the_page_and_the_space_go_where_the_package_goes():
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "gemma_lisa.web" in told["packages"]
    data = {path for glob in told["package-data"]["gemma_lisa.web"] for path in (ROOT / "web").glob(glob)}
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


# ----------------------------------------------------------------------------------------------------------------------
# The server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """app.py as people start it: its address, its process, and the folder its temporary files lie in."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log"
    environment = os.environ | {"TMPDIR": str(folder / "temporary"), "OMP_NUM_THREADS": "1"}
    environment.pop(MAX_IMAGE_PIXELS_VARIABLE, None)
    (folder / "temporary").mkdir()
    with log.open("w") as written:
        process = subprocess.Popen(
            [sys.executable, "app.py", "--port", str(port), "--device", "cpu"],
            cwd=ROOT,
            env=environment,
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    started = time.monotonic()
    while "The page is at" not in log.read_text():
        assert process.poll() is None and time.monotonic() - started < 300, log.read_text()
        time.sleep(0.2)
    yield f"http://127.0.0.1:{port}/", process, folder / "temporary"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert "Traceback" not in log.read_text(), log.read_text()
    # Gradio makes empty folders of its own while it is imported
    left = [path for path in (folder / "temporary").rglob("*") if path.is_file() or path.name.startswith("gemma-lisa")]
    assert left == [], "the server left something behind"


def left_in(folder: Path) -> list[Path]:
    """The files that are there still once the server had time to remove what was uploaded."""
    waited = time.monotonic() + UPLOADS_KEPT + 2 * UPLOADS_EVERY + 10
    while (files := [path for path in folder.rglob("*") if path.is_file()]) and time.monotonic() < waited:
        time.sleep(0.5)
    return files


def bring(client: Client, path: Path, language: str = "en") -> tuple:
    client.predict(handle_file(path), api_name="/receive")
    return client.predict(language, api_name="/open")


def client_of(address: str, folder: Path) -> Client:
    options = {"timeout": SECONDS}
    return Client(address, verbose=False, download_files=str(folder), analytics_enabled=False, httpx_kwargs=options)


@pytest.mark.slow
def test_twenty_visitors_at_once_each_get_the_answer_to_their_own_question(server, example, tmp_path):
    address, _, folder = server
    colours, shapes = ("red", "blue", "green", "yellow", "purple"), ("circle", "square", "triangle", "shape")
    questions = [f"the {colour} {shape}" for colour in colours for shape in shapes]
    scenes = [path for path, _ in SCENES]
    model, processor = example
    expected = []
    for number, question in enumerate(questions):
        answer = model.start(scenes[number % len(scenes)], processor).ask(question, max_new_tokens=128)
        expected.append((answer["raw_text"], [int(mask.sum()) for mask in answer["masks"]]))
    ready = threading.Barrier(len(questions))

    def visit(number: int):
        client = client_of(address, tmp_path / str(number))
        ready.wait(SECONDS)
        bring(client, scenes[number % len(scenes)])
        said = client.submit(questions[number], "en", api_name="/ask").result(SECONDS)[1]
        (stage, _) = client.predict("en", api_name="/json")
        (told,) = json.loads(base64.b64decode(stage["file"]["base64"]))
        assert said["turns"][0]["question"] == told["query"] == questions[number]
        return processor.seg_token.join(said["turns"][0]["words"]), [mask["area"] for mask in told["masks"]]

    with ThreadPoolExecutor(len(questions)) as pool:
        found = list(pool.map(visit, range(len(questions))))
    assert found == expected
    assert len({(text, *areas) for text, areas in expected}) > 5
    assert left_in(folder) == []


@pytest.mark.slow
def test_bad_input_is_answered_by_the_server_which_lives_on(server, tmp_path):
    address, process, folder = server
    client = client_of(address, tmp_path / "client")
    for name, (content, reason) in REFUSED_FILES.items():
        path = tmp_path / name
        path.write_bytes(content)
        said = bring(client, path)[2]
        assert reason in said and "<img" not in said, name
    for name, content in taken_files().items():
        (tmp_path / name).write_bytes(content)
        stage, _, said, *_ = bring(client, tmp_path / name)
        assert said == "" and stage["picture"]["width"] == 128, name
    assert "100,000" in client.predict("x" * 100_000, "en", api_name="/ask")[2]
    assert WORDS["ja"]["no_question"] in client.predict("", "ja", api_name="/ask")[2]
    sent = httpx.post(f"{address}gradio_api/upload", files={"files": ("large.png", bytes(25_000_000))}, timeout=SECONDS)
    assert sent.status_code == 413 and "maximum allowed size" in sent.text
    assert process.poll() is None
    assert client.predict("the red circle", "en", api_name="/ask")[1]["turns"]
    assert left_in(folder) == []


@pytest.mark.slow
def test_the_server_hands_out_no_file_of_its_machine(server):
    for path in (ROOT / "README.md", "README.md", "../README.md", ROOT / "web" / "page.py"):
        assert httpx.get(f"{server[0]}gradio_api/file={path}", timeout=SECONDS).status_code in (403, 404), path


@pytest.mark.slow
def test_a_full_queue_refuses_in_plain_words_and_goes_on(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr("gemma_lisa.web.page.QUEUE_LENGTH", 2)
    page = build_page(Visits(*tiny))
    _, address, _ = page.launch(
        prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", ssr_mode=False, _frontend=False
    )
    try:
        clients = [client_of(address, tmp_path) for _ in range(12)]
        for client in clients[:2]:
            bring(client, SCENE)
        jobs = [client.submit("the red circle", "en", api_name="/ask") for client in clients]
        errors = [job.exception(SECONDS) for job in jobs]
        full = [str(error) for error in errors if error is not None]
        assert 0 < len(full) < len(jobs), errors
        assert all("try again" in error for error in full), full
        assert clients[0].predict("the red circle", "en", api_name="/ask")[1]["turns"]
    finally:
        page.close()


# ----------------------------------------------------------------------------------------------------------------------
# A browser


@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium: install Debian's package of that name")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(CHROMIUM_OPTIONS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory):
    folder = os.environ.get("GEMMA_LISA_SCREENSHOTS")
    if folder is None:
        return tmp_path_factory.mktemp("screenshots")
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)


@pytest.fixture
def browse(server, chromium):
    """Opens the page; at the end no script failed, and nothing was asked of any other server."""
    contexts, wrong = [], []

    def open_page(size=DESK, locale="en-US"):
        context = chromium.new_context(viewport=size, locale=locale, accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(SECONDS * 1000)
        page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
        page.on("console", lambda line: wrong.append(f"console: {line.text}") if line.type == "error" else None)
        page.on(
            "request",
            lambda sent: None if sent.url.startswith((server[0], "data:", "blob:")) else wrong.append(sent.url),
        )
        page.goto(server[0])
        page.wait_for_selector("#ask")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def put_scene_in(page, path: Path | dict = SCENE) -> None:
    page.set_input_files("#upload input[type=file]", path)
    page.wait_for_selector(".gl-picture")


def ask_for(page, question: str, answers: int = 1) -> None:
    page.fill("#question textarea", question)
    page.click("#ask")
    page.wait_for_function(f"document.querySelectorAll('button.gl-answered').length == {answers}")


def layers_seen(page) -> int:
    return page.locator(".gl-layer:not(.gl-off)").count()


def colour_at(page, x: float, y: float) -> tuple[int, ...]:
    """What is seen at a place of the picture, given as shares of width and height."""
    box = page.locator(".gl-frame").bounding_box()
    clip = {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"], "width": 3, "height": 3}
    with Image.open(io.BytesIO(page.screenshot(clip=clip))) as opened:
        return opened.convert("RGB").getpixel((1, 1))


@pytest.mark.slow
def test_in_a_browser_two_masks_appear_are_hidden_followed_up_and_corrected(browse, screenshots):
    page = browse()
    page.screenshot(path=screenshots / "1-start.png")
    put_scene_in(page)
    ask_for(page, "all the blue triangles")
    page.wait_for_timeout(700)  # they fade in
    assert layers_seen(page) == 2 and page.locator(".gl-row").count() == 2
    page.screenshot(path=screenshots / "2-two-masks.png")

    # Hover names the mask under the pointer
    box = page.locator(".gl-number[data-mask='1']").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector(".gl-tip:not([hidden])")
    assert page.locator(".gl-tip").inner_text().startswith("2 ")
    page.screenshot(path=screenshots / "3-hover.png")
    page.mouse.move(5, 5)

    # Hiding one shows what is under it
    place = page.evaluate(
        "(() => { const n = document.querySelector('.gl-number[data-mask=\"1\"]'); return "
        "[parseFloat(n.style.left) / 100, parseFloat(n.style.top) / 100]; })()"
    )
    page.uncheck(".gl-row[data-mask='1'] input")
    page.wait_for_timeout(300)
    assert layers_seen(page) == 1
    blue = colour_at(page, *place)
    assert blue[2] > 180 and blue[0] < 100, blue
    with page.expect_download() as saved_picture:
        page.click("#png")
    with Image.open(saved_picture.value.path()) as opened:
        assert opened.width == 512 and opened.height > 512
    with page.expect_download() as saved_json:
        page.click("#json")
    (told,) = json.loads(Path(saved_json.value.path()).read_text())
    assert told["query"] == "all the blue triangles" and len(told["masks"]) == 2
    page.check(".gl-row[data-mask='1'] input")
    assert layers_seen(page) == 2

    # A follow-up
    ask_for(page, "the red circle", answers=2)
    assert page.locator(".gl-asked").all_inner_texts() == ["all the blue triangles", "the red circle"]
    page.screenshot(path=screenshots / "4-follow-up.png")
    page.click("button.gl-answered >> nth=0")
    page.wait_for_function("document.querySelectorAll('.gl-layer').length == 2")

    # Correct by click, and take it back
    before = page.locator(".gl-layer >> nth=0").get_attribute("src")
    page.click(".gl-row[data-mask='0'] button")
    box = page.locator(".gl-frame").bounding_box()
    page.mouse.click(box["x"] + 0.8 * box["width"], box["y"] + 0.65 * box["height"])
    page.wait_for_selector(".gl-dot")
    assert page.locator(".gl-layer >> nth=0").get_attribute("src") != before
    page.click(".gl-tools button >> nth=1")
    page.mouse.click(box["x"] + 0.15 * box["width"], box["y"] + 0.2 * box["height"])
    page.wait_for_function("document.querySelectorAll('.gl-dot').length == 2")
    page.screenshot(path=screenshots / "5-corrected.png")
    for left in (1, 0):
        page.click(".gl-tools button >> nth=2")
        page.wait_for_function(f"document.querySelectorAll('.gl-dot').length == {left}")
    assert page.locator(".gl-layer >> nth=0").get_attribute("src") == before

    page.click("#anew")
    page.wait_for_function("document.querySelectorAll('.gl-said, .gl-layer').length == 0")
    ask_for(page, "the green square")
    page.screenshot(path=screenshots / "6-not-there.png")
    page.click("#other")
    page.wait_for_selector("#upload input[type=file]", state="attached")
    assert page.locator(".gl-picture").count() == 0


@pytest.mark.slow
def test_in_a_browser_errors_are_plain_words_and_the_page_goes_on(browse, screenshots):
    page = browse()
    page.click("#ask")
    page.wait_for_selector("#message p")
    assert page.locator("#message").inner_text() == WORDS["en"]["no_picture"]
    page.click("#message")
    page.wait_for_selector("#message p", state="detached")
    page.click("#ask")
    page.wait_for_selector("#message p")
    for name in ("text.png", "empty.png", "truncated.png"):
        content = {"name": name, "mimeType": "image/png", "buffer": REFUSED_FILES[name][0]}
        page.set_input_files("#upload input[type=file]", content)
        page.wait_for_function(f"document.querySelector('#message').innerText.includes('{name}')")
        assert REFUSED_FILES[name][1] in page.locator("#message").inner_text()
        page.wait_for_timeout(300)
    page.screenshot(path=screenshots / "7-no-picture.png")
    put_scene_in(page, {"name": "huge.gif", "mimeType": "image/gif", "buffer": taken_files()["animated.gif"]})
    assert page.locator("#message p").count() == 0
    page.fill("#question textarea", "x" * 100_000)
    page.click("#ask")
    page.wait_for_function("document.querySelector('#message').innerText.includes('100,000')")
    page.screenshot(path=screenshots / "8-long-question.png")
    injection = "<img src=x onerror=\"document.title='broken'\"><b>the</b> <script>alert(1)</script> circle"
    ask_for(page, injection)
    assert page.locator(".gl-asked").inner_text() == injection
    assert page.locator(".gl-talk img, .gl-talk script, .gl-talk b").count() == 0
    assert page.title() == WORDS["en"]["title"]
    page.screenshot(path=screenshots / "9-injection.png")


@pytest.mark.slow
@pytest.mark.parametrize("locale", ["en-US", "ja-JP"])
def test_on_a_phone_the_page_is_readable_in_both_languages(browse, screenshots, locale):
    language = locale[:2]
    page = browse(PHONE, locale)
    words = WORDS[language]
    page.wait_for_function(f"document.querySelector('#ask').innerText.includes('{words['ask']}')")
    assert page.locator("h1").inner_text() == words["title"]
    page.click("#ask")
    page.wait_for_selector("#message p")
    line = page.locator("#message p").bounding_box()
    assert 0 <= line["y"] < PHONE["height"] and 0 <= line["x"] and line["x"] + line["width"] <= PHONE["width"]
    page.screenshot(path=screenshots / f"10-phone-error-{language}.png")
    page.click("#message")
    page.screenshot(path=screenshots / f"10-phone-start-{language}.png", full_page=True)
    page.click("[data-scene='1']")
    page.wait_for_selector(".gl-picture")
    assert page.input_value("#question textarea") == SCENES[1][1]
    page.click("#ask")
    page.wait_for_selector("button.gl-answered")
    page.click(".gl-row[data-mask='0'] button")
    page.wait_for_timeout(700)
    page.screenshot(path=screenshots / f"11-phone-answer-{language}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for part in page.locator("button:visible, .gl-frame, .gl-said, textarea:visible").all():
        box = part.bounding_box()
        assert box is None or (box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"]), part
    other = "en" if language == "ja" else "ja"
    page.click(f"#language label:has-text('{LANGUAGES[other]}')")
    page.wait_for_function(f"document.querySelector('#ask').innerText.includes('{WORDS[other]['ask']}')")
    page.wait_for_function(f"document.querySelector('.gl-legend h3').innerText == '{WORDS[other]['masks']}'")


@pytest.mark.slow
def test_once_the_browser_is_closed_no_picture_is_left(browse, server):
    page = browse()
    put_scene_in(page)
    page.context.close()
    assert left_in(server[2]) == []
