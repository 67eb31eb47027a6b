"""The choice of questions for the sheets."""

import pytest
from judged_boxes import answered, baseline, box, image_of, mixed, question

from gemma_lisa.evaluation.error_classes import CLASSES
from gemma_lisa.evaluation.report.sheets import (
    HEADINGS,
    MAX_CARDS,
    PRESENCE,
    cards_per_sheet,
    choose_sheets,
    draw_cards,
)


def chosen(judged, name: str) -> list:
    (sheet,) = [sheet for sheet in choose_sheets(judged) if sheet.name == name]
    return [judged[at] for at in sheet.chosen]


def test_best_and_worst_are_sorted_by_iou_and_have_a_mask():
    judged = mixed(80)
    worst, best = [one.iou for one in chosen(judged, "worst")], [one.iou for one in chosen(judged, "best")]
    assert worst == sorted(worst) and best == sorted(best, reverse=True) and worst[0] < best[0]
    assert all(one.prediction.masks for one in chosen(judged, "worst"))


def test_every_class_of_error_has_a_sheet_and_presence_has_two():
    assert set(HEADINGS) == set(CLASSES) - {PRESENCE}
    judged = mixed(80)
    errors = {one.error for one in judged} - {None, PRESENCE}
    names = [sheet.name for sheet in choose_sheets(judged)]
    assert names == ["worst", "best", "random", "refusals", "invented", *sorted(errors)]
    assert all(one.question.targets and not one.prediction.masks for one in chosen(judged, "refusals"))
    assert all(not one.question.targets and one.prediction.masks for one in chosen(judged, "invented"))
    for name in errors:
        assert {one.error for one in chosen(judged, name)} == {name}


def test_totals_count_all_questions_and_the_choice_is_always_the_same():
    judged = mixed(80)
    sheets = {sheet.name: sheet for sheet in choose_sheets(judged, 3)}
    assert sheets["random"].total == 80 and len(sheets["random"].chosen) == 3
    assert sheets["refusals"].total == 10
    assert choose_sheets(judged, 3) == choose_sheets(judged, 3)


def test_questions_without_masks_are_not_shown():
    assert choose_sheets([answered(question(0, None), text="7")]) == []


def test_a_perfect_system_has_no_sheets_of_errors():
    assert [sheet.name for sheet in choose_sheets(baseline("truth"))] == ["worst", "best", "random"]


@pytest.mark.parametrize("count", [1, 8, 30, 500])
def test_the_number_of_cards_is_bounded(count):
    assert cards_per_sheet(count) * count <= max(MAX_CARDS, count)


def test_each_image_is_read_once_per_card():
    judged, read = baseline("truth"), []

    def reading(index: int):
        read.append(index)
        return image_of(index)

    sheet = choose_sheets(judged)[0]
    cards = draw_cards(sheet, judged, reading)
    assert read == sheet.chosen
    assert cards[0]["question"] == judged[sheet.chosen[0]].question.text and cards[0]["expected"].count("[SEG]") >= 1


def test_a_card_has_what_was_asked_and_answered():
    judged = [answered(question(0, [box(0, 0)], kind="large"), [box(0, 0, 6)], text="It is [SEG].", scores=[0.7])]
    (card,) = draw_cards(choose_sheets(judged)[0], judged, None)
    shown = {name: card[name] for name in ("kind", "iou", "error", "answer", "num_targets", "num_masks", "scores")}
    assert shown == {
        "kind": "large",
        "iou": 0.5,
        "error": "boundary",
        "answer": "It is [SEG].",
        "num_targets": 1,
        "num_masks": 1,
        "scores": [0.7],
    }
    assert card["target_share"] == 0.05 and card["prediction_share"] == 0.025
