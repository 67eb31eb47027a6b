"""Concepts: well-known things and descriptions that a person associates with one color or one shape.

A picture does not say that blood is red or that a wedding band is a ring. A model knows it from text.

The table has, for each color and each shape, the concepts of training and those of validation and test. The split is
part of the table, so a test concept is never trained. Close relatives, such as a fire engine and a fire extinguisher,
are on one side. So are the words of `paraphrases.py`: "an emerald" is a test concept because "emerald" is a paraphrase.

Rules: a concept suggests one of the six colors or shapes only. It has no name of a color or shape in it, also not in a
compound: no "blueberry", no "starfish".
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Concept:
    """A concept and its answer.

    Args:
        phrase: noun phrase with article, such as "a ripe tomato". If whole, a complete question: "the thing with three
            corners".
        attribute: "color" or "shape".
        value: name of the color or shape.
        whole: whether the phrase is a complete question, so that no wording is put around it.
    """

    phrase: str
    attribute: str
    value: str
    whole: bool = False


# A phrase with this mark at its start is a complete question.
_WHOLE = "= "

# attribute: value: phrases
_TRAIN = {
    "color": {
        "red": (
            "a ripe tomato", "ketchup", "a fire engine", "a fire extinguisher", "a strawberry", "a cherry",
            "a raspberry", "a ladybird", "a poppy", "Santa Claus's coat", "a London bus", "a radish",
            "the planet Mars", "a bullfighter's cape", "a Ferrari", "a Coca-Cola can", "a Valentine's heart",
            "a rooster's comb", "pomegranate seeds",
        ),
        "green": (
            "grass", "a lawn", "a frog", "spinach", "a cactus", "a cucumber", "a pickle", "lettuce", "a pea",
            "a crocodile", "moss", "a fir tree", "a grasshopper", "the Incredible Hulk", "a kiwi's flesh",
            "the cloth of a billiard table", "a garden hedge", "celery",
        ),
        "blue": (
            "a clear sky", "the sea", "the ocean", "the water on a globe", "a swimming pool", "a Smurf",
            "the Facebook logo", "a police officer's uniform", "a nazar amulet", "Cookie Monster",
            "a peacock's neck", "the planet Neptune", "Superman's suit", "a gas flame", "a ballpoint pen's ink",
            "the Twitter bird", "Dory the fish",
        ),
        "yellow": (
            "a ripe banana", "a canary", "an egg yolk", "a sunflower", "a taxi in New York", "sweetcorn",
            "a rubber duck", "a baby chick", "butter", "custard", "SpongeBob", "a dandelion",
            "the sun in a child's drawing", "a smiley face", "Homer Simpson's skin", "the arches of McDonald's",
            "a slice of pineapple", "the Beatles' submarine", "Winnie-the-Pooh's fur",
        ),
        "purple": (
            "grape juice", "grape jelly", "lavender", "a ripe plum", "Barney the dinosaur",
            "an emperor's robe", "a bishop's robe", "lilac blossom", "a Milka chocolate wrapper", "Thanos's skin",
            "the Twitch logo", "wisteria", "ube ice cream", "a thistle flower", "elderberry juice",
            "Waluigi's shirt", "Daphne's dress in Scooby-Doo", "= the one in the colour of kings",
        ),
        "white": (
            "snow", "a snowman", "milk", "cream", "yoghurt", "salt", "sugar", "a swan", "a sheet of printer paper",
            "a sheep's wool", "a ghost", "a dove", "a doctor's coat", "clean teeth", "toothpaste", "cauliflower",
            "boiled rice", "a golf ball", "a cloud on a fine day", "an igloo",
        ),
    },
    "shape": {
        "circle": (
            "a coin", "a clock face", "a dinner plate", "a whole pizza", "a pancake", "a tennis ball",
            "a billiard ball", "a hockey puck", "a manhole cover", "a cookie", "a jar lid", "a drum seen from above",
            "a marble", "= the thing with no corners and no hole",
        ),
        "square": (
            "a chessboard", "a checkerboard", "a bathroom tile", "a floor tile", "a slice of toast",
            "a paper napkin", "a postage stamp", "a key of a keyboard", "a pixel", "a Polaroid picture", "a cracker",
            "a throw pillow",
        ),
        "triangle": (
            "a slice of pizza", "a slice of watermelon", "a tent seen from the front", "a coat hanger",
            "the sail of a small boat", "a mountain peak", "the play button of a video", "a guitar pick",
            "a pennant", "a party hat", "a shark's fin", "an arrowhead",
        ),
        "star": (
            "a sheriff's badge", "the top of a Christmas tree", "the emblem on the flag of Texas",
            "the emblem on the flag of Vietnam", "the tip of a fairy's wand",
            "the emblem on Captain America's shield", "a plaque on the Hollywood Walk of Fame",
            "the logo of the Dallas Cowboys", "the mark in a hotel rating", "the Converse logo",
            "a general's rank badge",
        ),
        "ring": (
            "a car tyre", "a lifebuoy", "a hula hoop", "a bracelet", "a bangle", "a roll of tape", "a metal washer",
            "fried calamari", "an angel's halo", "a Christmas wreath", "a bicycle's inner tube", "a dog's collar",
            "a Polo mint", "= the thing with a hole in the middle",
        ),
        "cross": (
            "the emblem on the flag of Switzerland", "the emblem on the flag of England", "a crucifix",
            "the symbol on a church's roof", "a wooden grave marker", "a junction of two roads", "a lug wrench",
            "the tip of a Phillips screwdriver", "the sails of a windmill", "the emblem of the Knights Templar",
            "a scarecrow's frame",
        ),
    },
}  # fmt: skip
_TEST = {
    "color": {
        "red": (
            "blood", "a stop sign", "a ruby", "a boiled lobster", "lipstick", "a cranberry", "a clown's nose",
            "= the one in the colour that tells drivers to stop",
        ),
        "green": (
            "broccoli", "an emerald", "a lime", "a shamrock", "Shrek", "seaweed", "a praying mantis", "asparagus",
            "= the one in the colour that lets drivers go",
        ),
        "blue": (
            "a sapphire", "a pair of jeans", "a cornflower", "lapis lazuli", "Sonic the Hedgehog", "a robin's egg",
            "the flag of the European Union", "= the one in the colour for a baby boy",
        ),
        "yellow": (
            "a lemon", "mustard", "cheese", "an American school bus", "Pikachu", "a daffodil", "a Minion",
            "= the one in the colour of a warning card in football",
        ),
        "purple": (
            "an aubergine", "an eggplant", "an amethyst", "a violet in bloom", "heather in bloom",
            "an iris in bloom", "Tinky Winky the Teletubby", "the rain in Prince's song",
        ),
        "white": (
            "chalk", "cotton", "a wedding dress", "a polar bear", "flour", "a skeleton's bones", "a pearl", "tofu",
            "= the one in the colour of a flag of surrender",
        ),
    },
    "shape": {
        "circle": (
            "a full moon", "a dartboard", "a poker chip", "a petri dish", "a frisbee", "the dot on an i",
            "a shirt button", "the sun at noon",
        ),
        "square": (
            "a face of a die", "a side of a Rubik's cube", "an ice cube", "a QR code", "a sudoku grid",
            "a floppy disk", "a sticky note", "= the thing with four equal sides",
        ),
        "triangle": (
            "an Egyptian pyramid", "a yield sign", "the gable of a roof", "a tortilla chip",
            "the Greek letter delta", "a traffic cone", "half a sandwich cut from corner to corner",
            "= the thing with three corners", "= the thing with three sides",
        ),
        "star": (
            "an asterisk", "a pentagram", "a shuriken", "a slice of carambola", "the button for a favourite page",
            "a sticker for good homework", "= the thing with five points", "= the one that the three wise men followed",
            "= what children draw in the night sky", "= the one that you wish upon at night",
        ),
        "ring": (
            "a donut", "a bagel", "a wedding band", "the letter O", "the digit zero", "a Cheerio",
            "a slice of onion", "= the one that you could wear on a finger",
        ),
        "cross": (
            "a plus sign", "the key for addition", "the front of a first-aid kit", "the sign of a pharmacy",
            "the direction pad of a game controller", "the spot on a treasure map", "a small letter t", "the letter X",
            "= the thing with four arms",
        ),
    },
}  # fmt: skip


def _read(table: dict[str, dict[str, tuple[str, ...]]]) -> tuple[Concept, ...]:
    return tuple(
        Concept(phrase.removeprefix(_WHOLE), attribute, value, phrase.startswith(_WHOLE))
        for attribute, values in table.items()
        for value, phrases in values.items()
        for phrase in phrases
    )


TRAIN, TEST = _read(_TRAIN), _read(_TEST)
