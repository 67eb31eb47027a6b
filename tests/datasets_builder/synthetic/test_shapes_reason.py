"""Level "reason" of shapes: a reader of the questions finds the answers of the rows; training sees no test words."""

import re
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from gemma_lisa.answers_gemma_lisa import answer_status, phrases_of, repeats_itself
from gemma_lisa.datasets_builder.rows import check_row, decode_mask
from gemma_lisa.datasets_builder.synthetic import paraphrases, shapes_reason
from gemma_lisa.datasets_builder.synthetic.concepts import TEST, TRAIN
from gemma_lisa.datasets_builder.synthetic.shapes import Shapes, row_of_scene
from gemma_lisa.datasets_builder.synthetic.shapes_reason_phrases import UNTRAINED_NEGATED, UNTRAINED_WORDINGS
from gemma_lisa.evaluation.judging import judge
from gemma_lisa.evaluation.phrases import names_of
from gemma_lisa.evaluation.records import Prediction, Question

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZE = 128
COLORS = ("red", "green", "blue", "yellow", "purple", "white")
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
KINDS = {"plain", "paraphrase", "concept", "negation", "comparison", "ja_plain", "ja_concept", "absent"}
KINDS |= {"absent_concept"}


def make(index, training=False, size=SIZE):
    rng = np.random.default_rng((7, training, index))
    scene = shapes_reason.draw_scene(rng, size)
    return scene, row_of_scene(scene, rng, training, f"test/{index}", shapes_reason)


@pytest.fixture(scope="module")
def evaluation():
    return [make(index) for index in range(1000)]


@pytest.fixture(scope="module")
def training():
    return [make(index, training=True, size=64) for index in range(2000)]


# ---------------------------------------------------------------------------------------------------------------------
# The reader: it knows what words mean, and finds objects by the description of the scene
# ---------------------------------------------------------------------------------------------------------------------
def vocabulary():
    """Return (pattern, attribute, value) of all words and concepts, long phrases first."""
    known = [(value, "color", value) for value in COLORS] + [(value, "shape", value) for value in SHAPES]
    known += [("crosses" if value == "cross" else f"{value}s", "shape", value) for value in SHAPES]
    known += [(one.phrase, one.attribute, one.value) for one in (*TRAIN, *TEST)]
    for attribute, tables in {
        "color": (paraphrases.COLORS, paraphrases.JAPANESE_COLORS, paraphrases.JAPANESE_CONCEPTS["color"]),
        "shape": (paraphrases.SHAPES, paraphrases.JAPANESE_SHAPES, paraphrases.JAPANESE_CONCEPTS["shape"]),
    }.items():
        known += [(word, attribute, value) for table in tables for value, words in table.items() for word in words]
    known.sort(key=lambda entry: -len(entry[0]))
    whole_words = [rf"(?<!\w){re.escape(word)}(?!\w)" if word.isascii() else re.escape(word) for word, _, _ in known]
    return [(re.compile(word), *entry[1:]) for word, entry in zip(whole_words, known, strict=True)]


VOCABULARY = vocabulary()
FILLERS = set("the all a two of in one shape shapes thing things object objects and that has have looks look".split())
FILLERS |= set("coloured colour color like shaped with outline matching whose hue is painted shade tinted".split())
FILLERS |= set("resembling drawn form could be mistaken for silhouette not are match resemble".split())
JAPANESE_FILLERS = re.compile("[のをしたとにようなた同じ色似形図もの]*")


def read(phrase):
    """Return {attribute: value} of a phrase. Raises an error for words without meaning, or two values."""
    meaning = {}
    for pattern, attribute, value in VOCABULARY:
        rest = pattern.sub("", phrase, count=1)
        if rest != phrase:
            assert attribute not in meaning, f"{phrase}: two values of {attribute}"
            meaning[attribute], phrase = value, rest
    if phrase.isascii():
        assert not set(re.findall(r"[\w'-]+", phrase)) - FILLERS, phrase
    else:
        assert JAPANESE_FILLERS.fullmatch(phrase), phrase
    return meaning


def masks_of(target):
    return [decode_mask(mask, "") == 1 for mask in target["masks"]]


def those(things, phrase):
    meaning = read(phrase)
    return [at for at, thing in enumerate(things) if all(getattr(thing, name) == meaning[name] for name in meaning)]


def solve(things, text):
    """Return the indices of the objects that a question asks for. Raises an error if it is not clear."""
    if compared := re.fullmatch(r"the (larger|smaller) of the two (.+)", text):
        one, other = sorted(those(things, compared[2]), key=lambda at: things[at].radius)
        assert things[other].radius >= 1.2 * things[one].radius
        assert things[other].mask.sum() > 1.3 * things[one].mask.sum()
        return [other if compared[1] == "larger" else one]
    if beside := re.fullmatch(r"(.+?)(?: that is)? (left of|right of|above|below) (the .+)", text):
        return [solve_side(things, *beside.groups())]
    if negated := re.fullmatch(r"(.+) that (?:is|are|does|do) not (.+)", text):
        [(attribute, value)] = read(negated[2]).items()
        found = [at for at in those(things, negated[1]) if getattr(things[at], attribute) != value]
        assert len(found) < len(those(things, negated[1]))  # something is excluded
    else:
        found = those(things, text)
    assert len(found) != 1 if text.startswith("all ") else len(found) <= 1
    return found


def solve_side(things, group, side, anchor):
    [beside] = those(things, anchor)
    axis, sign = {"left of": (1, -1), "right of": (1, 1), "above": (0, -1), "below": (0, 1)}[side]
    candidates = [at for at in those(things, group) if at != beside]
    assert len(candidates) > 1
    offsets = {at: sign * (things[at].center[axis] - things[beside].center[axis]) for at in candidates}
    [found] = [at for at, offset in offsets.items() if offset > 0]
    assert offsets[found] >= 5 * len(things[0].mask) / 64
    return found


@pytest.mark.parametrize("split", ["evaluation", "training"])
def test_each_question_has_the_answer_that_the_reader_finds(split, request):
    for scene, row in request.getfixturevalue(split)[:400]:
        check_row(row)
        assert len({target["texts"][0] for target in row["targets"]}) == len(row["targets"]) == 4
        for target in row["targets"]:
            (text,) = target["texts"]
            found = [scene.objects[at] for at in solve(scene.objects, text)]
            found.sort(key=lambda thing: tuple(np.argwhere(thing.mask).mean(axis=0)))
            for mask, thing in zip(masks_of(target), found, strict=True):
                np.testing.assert_array_equal(mask, thing.mask)
            assert bool(found) != target["kind"].startswith("absent")
            assert (target["is_sentence"], target["ignore"], target["explanation"]) == (False, None, None)


@pytest.mark.parametrize("split", ["evaluation", "training"])
def test_answers_say_in_plain_words_what_was_asked_for_and_then_name_each_object(split, request):
    for scene, row in request.getfixturevalue(split)[:400]:
        for target in row["targets"]:
            (text,) = target["texts"]
            opening, named = re.fullmatch(r"The (.+): (.+)\.", target["answer"]).groups()
            assert not set(re.findall(r"[\w'-]+", opening)) - PLAIN
            found = solve(scene.objects, text)
            plural = text.startswith("all the ")
            assert solve(scene.objects, f"all the {opening}" if plural else f"the {opening}") == found
            if not found:
                assert named == "none"
                continue
            found.sort(key=lambda at: tuple(np.argwhere(scene.objects[at].mask).mean(axis=0)))
            things = [scene.objects[at] for at in found]
            assert named == ", ".join(f"{thing.color} {thing.shape} {{seg}}" for thing in things)


PLAIN = {*COLORS, *SHAPES, *(f"{shape}s" for shape in SHAPES), "crosses", "shape", "shapes", "the", "a", "of", "two"}
PLAIN |= {"larger", "smaller", "left", "right", "above", "below", "that", "is", "are", "not"}


def test_answers_are_read_as_masks_with_phrases_and_as_refusals(evaluation):
    for _, row in evaluation:
        for target in row["targets"]:
            phrases = phrases_of(target["answer"].split("{seg}"))
            assert len(phrases) == len(target["masks"]) and all(phrases)
            if len(phrases) > 1:
                assert phrases == target["answer"].partition(": ")[2].replace(" {seg}", "")[:-1].split(", ")
            text = target["answer"].replace("{seg}", "")
            status = answer_status(text, True, ["found"] * len(phrases))
            assert status == ("found" if target["masks"] else "not there")
            assert not repeats_itself(target["answer"].replace("{seg}", "[SEG]"))


def judged(target, row, change):
    """Return the scores of a target's own answer, with its phrases changed by a function."""
    index = row["targets"].index(target)
    others = [mask for at, other in enumerate(row["targets"]) if at != index for mask in other["masks"]]
    names, size = names_of(row["targets"], index), (SIZE, SIZE)
    source = row["source"].replace("test", "shapes-reason/test")
    question = Question("q", "shapes/reason", source, None, "", "", size, target["masks"], None, others, names)
    phrases = [change(phrase) for phrase in phrases_of(target["answer"].split("{seg}"))]
    one = judge(question, Prediction("q", target["masks"], [], phrases=phrases))
    return one.phrases_right, one.phrases_judged


def test_phrases_of_the_right_answers_are_judged_as_true(evaluation):
    """A phrase with a comparison or negation is not judged."""
    targets = [(target, row) for _, row in evaluation[:200] for target in row["targets"] if target["masks"]]
    right, total = np.sum([judged(target, row, str) for target, row in targets], axis=0)
    assert right == total > 0.6 * sum(len(target["masks"]) for target, _ in targets)
    changed = re.compile("red|green")
    wrong = [
        judged(target, row, lambda phrase: changed.sub("blue", phrase))
        for target, row in targets
        if target["kind"] == "plain" and changed.search(target["texts"][0]) and len(target["masks"]) == 1
    ]
    assert len(wrong) > 20 and not any(right for right, _ in wrong)


# ---------------------------------------------------------------------------------------------------------------------
# Splits and shares
# ---------------------------------------------------------------------------------------------------------------------
def texts_of(pairs):
    return [text for _, row in pairs for target in row["targets"] for text in target["texts"]]


def has(text, phrase):
    return re.search(rf"(?<![\w-]){re.escape(phrase)}(?![\w-])", text) is not None


def test_training_has_no_word_of_the_test(training):
    wordings = [*(one for many in UNTRAINED_WORDINGS.values() for one in many), *UNTRAINED_NEGATED.values()]
    parts = {part.strip() for wording in wordings for part in re.split(r"\{.*?\}", wording) if part.strip()}
    held_out = {one.phrase for one in TEST} | (parts - {"that", "in colour"})
    held_out |= {word for table in (paraphrases.COLORS, paraphrases.SHAPES) for many in table.values() for word in many}
    assert {"blood", "resembling", "crimson", "disc", "whose hue is that of"} <= held_out
    joined = "\n".join(texts_of(training))
    assert joined.isascii()  # no Japanese
    assert [phrase for phrase in held_out if has(joined, phrase)] == []
    assert [one.phrase for one in TRAIN if not has(joined, one.phrase)] == []


def test_every_word_of_the_test_is_asked_for(evaluation):
    joined = "\n".join(texts_of(evaluation))
    tables = (paraphrases.COLORS, paraphrases.SHAPES, *paraphrases.JAPANESE_CONCEPTS.values())
    words = [word for table in tables for many in table.values() for word in many]
    assert [one.phrase for one in TEST if not has(joined, one.phrase)] == []
    assert [word for word in words if word not in joined] == []
    assert [one.phrase for one in TRAIN if has(joined, one.phrase)] == []


def test_half_of_the_concepts_of_the_test_have_untrained_wordings(evaluation):
    starts = [wording.split(" {")[0] for many in UNTRAINED_WORDINGS.values() for wording in many]
    texts = [target["texts"][0] for _, row in evaluation for target in row["targets"] if target["kind"] == "concept"]
    texts = [text for text in texts if text not in {one.phrase for one in TEST}]
    assert sum(any(start in text for start in starts) for text in texts) / len(texts) == pytest.approx(0.5, abs=0.08)


def kinds_of(pairs):
    return Counter(target["kind"] for _, row in pairs for target in row["targets"])


def test_kinds_of_the_test_are_equally_frequent(evaluation):
    kinds = kinds_of(evaluation)
    assert kinds.keys() == KINDS
    for kind, count in kinds.items():
        assert count / kinds.total() == pytest.approx(1 / 9, abs=0.015), kind


def test_kinds_of_training_have_their_shares(training):
    kinds = kinds_of(training)
    expected = {"plain": 0.30, "concept": 0.33, "negation": 0.06, "comparison": 0.06}
    expected |= {"absent": 0.125, "absent_concept": 0.125}
    assert {kind: count / kinds.total() for kind, count in kinds.items()} == pytest.approx(expected, abs=0.015)
    assert sum(shapes_reason.TRAIN.values()) == pytest.approx(1)


def test_each_row_of_training_has_a_grid_question_and_no_row_a_counting_question(training, evaluation):
    assert all(row["conversation"][0]["question"].startswith("Which ") for _, row in training)
    assert {len(row["conversation"]) for _, row in training} == {1}
    for scene, row in training[:300]:
        words = row["conversation"][0]["answer"].split()
        assert len(words) == 16 and sum(word != "none" for word in words) == len(scene.objects)
    assert not any(row["conversation"] for _, row in evaluation)


def test_a_random_object_has_an_iou_of_a_quarter(evaluation):
    ious = []
    for scene, row in evaluation:
        for target in row["targets"]:
            if target["masks"]:
                asked = np.any(masks_of(target), axis=0)
                one_of = [(thing.mask & asked).sum() / (thing.mask | asked).sum() for thing in scene.objects]
                ious.append(np.mean(one_of))
    assert np.mean(ious) == pytest.approx(0.25, abs=0.03)


# ---------------------------------------------------------------------------------------------------------------------
# Scenes and rows
# ---------------------------------------------------------------------------------------------------------------------
def test_scenes_have_three_to_five_separate_objects_that_look_different(evaluation):
    counts, looks = Counter(), Counter()
    for scene, _ in evaluation:
        counts[len(scene.objects)] += 1
        looks.update((thing.color, thing.shape) for thing in scene.objects)
        assert len({(thing.color, thing.shape) for thing in scene.objects}) == len(scene.objects)
        for one, other in combinations(scene.objects, 2):
            distance = np.hypot(one.center[0] - other.center[0], one.center[1] - other.center[1])
            assert distance >= one.radius + other.radius
            cells = [tuple(int(at * shapes_reason.GRID / SIZE) for at in thing.center) for thing in (one, other)]
            assert cells[0] != cells[1]
    assert counts.keys() == {3, 4, 5} and min(counts.values()) > 1000 / 3 * 0.8
    assert len(looks) == 36 and min(looks.values()) > 0.6 * looks.total() / 36


def test_masks_of_the_smallest_scenes_are_not_empty_and_rings_have_a_hole():
    for index in range(100):
        scene, _ = make(index, size=shapes_reason.MIN_SIZE)
        assert scene.image.shape == (64, 64, 3)
        for thing in scene.objects:
            assert thing.mask.sum() > 40
            center = tuple(int(at) for at in thing.center)
            assert thing.mask[center] == (thing.shape != "ring")


def test_same_seed_gives_the_same_rows_and_splits_differ(tmp_path):
    splits = []
    for folder in ("a", "b"):
        rows = {"train_rows": 12, "validation_rows": 12, "test_rows": 12}
        builder = Shapes(config_name="reason", cache_dir=str(tmp_path / folder), **rows)
        builder.download_and_prepare()
        splits.append({name: rows.to_list() for name, rows in builder.as_dataset().items()})
    assert splits[0] == splits[1]
    assert splits[0]["test"][3]["source"] == "shapes-reason/test/000003"
    assert {tuple(rle["size"]) for row in splits[0]["test"] for one in row["targets"] for rle in one["masks"]} == {
        (SIZE, SIZE)
    }
    images = [row["image"]["bytes"] for rows in splits[0].values() for row in rows]
    assert len(set(images)) == 36
