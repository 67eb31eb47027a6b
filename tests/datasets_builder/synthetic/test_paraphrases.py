"""Synonyms and Japanese: all colors and shapes, and no name or character of the answer in them."""

import re

from gemma_lisa.datasets_builder.synthetic import paraphrases
from gemma_lisa.datasets_builder.synthetic.concepts import TRAIN

COLORS = {"red": "赤", "green": "緑", "blue": "青", "yellow": "黄", "purple": "紫", "white": "白"}
SHAPES = {"circle": "円丸", "square": "四", "triangle": "三角", "star": "星", "ring": "輪", "cross": "十字"}


def all_synonyms():
    tables = (paraphrases.COLORS, paraphrases.SHAPES)
    return [word for table in tables for words in table.values() for word in words]


def test_each_color_and_shape_has_at_least_two_synonyms_that_name_nothing_plainly():
    assert paraphrases.COLORS.keys() == COLORS.keys() and paraphrases.SHAPES.keys() == SHAPES.keys()
    synonyms = [
        word for table in (paraphrases.COLORS, paraphrases.SHAPES) for words in table.values() for word in words
    ]
    assert len(set(synonyms)) == len(synonyms) >= 2 * 12
    assert not {part for word in synonyms for part in re.findall("[a-z]+", word)} & {*COLORS, *SHAPES}
    assert {"three-cornered", "round"} <= paraphrases.ADJECTIVES < set(synonyms)
    assert set(paraphrases.COLOR_ADJECTIVES) < set(synonyms)


def test_no_synonym_is_a_word_of_a_training_concept():
    trained = {word for concept in TRAIN for word in re.findall("[a-z-]+", concept.phrase.lower())}
    synonyms = {
        word for table in (paraphrases.COLORS, paraphrases.SHAPES) for words in table.values() for word in words
    }
    parts = {part for word in synonyms for part in word.split()}
    assert not trained & (synonyms | parts - {"sign"})


def test_japanese_words_name_their_value():
    assert paraphrases.JAPANESE_COLORS.keys() == COLORS.keys() and paraphrases.JAPANESE_SHAPES.keys() == SHAPES.keys()
    for color, words in paraphrases.JAPANESE_COLORS.items():
        assert all(word.startswith(COLORS[color]) for word in words)
    for shape, words in paraphrases.JAPANESE_SHAPES.items():
        assert all(word[0] in SHAPES[shape] or word == "リング" or word == "正方形" for word in words)


def test_each_value_has_at_least_five_japanese_concepts_without_its_characters():
    concepts = paraphrases.JAPANESE_CONCEPTS
    assert concepts["color"].keys() == COLORS.keys() and concepts["shape"].keys() == SHAPES.keys()
    phrases = [phrase for values in concepts.values() for words in values.values() for phrase in words]
    assert len(set(phrases)) == len(phrases)
    assert all(len(words) >= 5 for values in concepts.values() for words in values.values())
    assert not set("".join(phrases)) & set("赤緑青黄紫白円丸星輪角十")
    assert not any("リング" in phrase for phrase in phrases)
