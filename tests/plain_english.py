"""Check the language of code and docs: forbidden synonyms, and sentences that are too long.

    python tests/plain_english.py                     # every text file
    python tests/plain_english.py train.py training   # some files and folders

tests/end_to_end/test_plain_english.py runs it on the whole project.
"""

import ast
import io
import re
import sys
import tokenize
from pathlib import Path

from project_files import ROOT, files_of

MAX_WORDS = 25  # in a sentence
SUFFIXES = (".py", ".md", ".yaml", ".toml", ".js", ".css", ".sbatch", ".ipynb", "")
# Records of measurements keep the words of their time; code in examples/ is a copy; legal texts are quoted
NOT_OURS = (
    "examples/shapes-tiny/",
    "LICENSE",
    "NOTICE",
    "THIRD_PARTY",
    "tests/plain_english.py",
    "tests/end_to_end/test_plain_english.py",
    "CITATION",
)

COUNTED = (
    "rows|samples|questions|images|pictures|bytes|tokens|files|masks|steps|batches|units|pixels|cells|scenes|lines"
)
PER = "(optimizer )?step|row|image|picture|second|question|process|file|batch|epoch|device|side|scene|line|day|class"
# Class names of public data sets, and old names of options and of keys of training records
QUOTED = (
    re.compile(r'"rows_a_step"|"dialogue_share"|\bfloor(-\w+|\.\w+)?[",;\' ]|\bhouse[",;\']'),
    ("datasets_builder/", "checkpoints/", "training/"),
)
# (pattern, what to write). One word per concept.
FORBIDDEN = [
    (r"(?<![-_])\bchat(s|ted|ting)?\b(?!([- _]template|\.completion| completion))", "conversation"),
    (r"\b(talk(s|ed|ing)?|dialogues?)\b", "conversation"),
    (r"\brounds\b(?! (to|up|down|off|half|it|its|them|each|values|inputs))", "turn"),
    (r"\b(a|the|one|each|every|this) round\b(?!( |-)trip)", "turn"),
    (r"\bvisit(s|ed|ing|or|ors)?\b", "session, user, client"),
    (r"what is meant", "target"),
    (r"\bnot counted\b", "ignored, ignore region"),
    (r"\bhand(s|ed|ing)?\b(?! side)", "simulated prompt, user; pass, give"),
    (rf"\b({COUNTED}) an? ({PER})\b", "per"),
    (r"\b(go|goes|going|went|gone) on\b", "resume, continue"),
    (r"\b(take|takes|taken|taking|took) (\w+ )?away\b|\bforg(e|o)t(s|ten|ting|ful)?\b", "delete, overwrite"),
    (r"\b(left|leave|leaves|leaving) (\w+ )?out\b|\bpass(ed|es)? over\b", "skip, omit"),
    (r"\bhalves\b", "bf16, half"),
    (r"\bcomplain(s|ed|t|ts|ing)?\b|\b(say|says|said|saying) so\b", "raise, refuse with an error"),
    (r"\bby heart\b", "memorize"),
    (r"\btold\b", "distinguished, reported, given"),
    (r"\bhouses?\b(?!\W*[\]\"'])", "no metaphors"),
    (r"(?<!\.)(?<!_)\bfloor\b(?!\()", "no metaphors"),
    (r"\b(such|other) draws\b", "95% CI"),
    (r"\b[Ww]hoever\b|\bNot so\b|\bbut for\b|\bgone back through\b|\baloud\b|\bmends?\b|\bmended\b", "plain words"),
]
FORBIDDEN = [(re.compile(pattern, re.IGNORECASE), instead) for pattern, instead in FORBIDDEN]


def text_files(arguments: list[str]) -> list[Path]:
    """Return the project's text files at or below the given paths from its root, or all of them."""
    folders = [argument.rstrip("/") for argument in arguments]
    return [
        ROOT / name
        for name in files_of(ROOT)
        if not folders or any(name == folder or name.startswith(f"{folder}/") for folder in folders)
        if Path(name).suffix in SUFFIXES and not name.startswith(NOT_OURS) and not (ROOT / name).is_symlink()
    ]


def findings(path: Path) -> list[str]:
    """Return a line "file:line: what" for each forbidden synonym and each sentence of more than MAX_WORDS words."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT)
    found = [
        f"{name}:{number}: {match.group(0)!r} (write: {instead})"
        for number, line in enumerate(_without_quotes(text, str(name)).splitlines(), 1)
        for pattern, instead in FORBIDDEN
        # A name of code counts as its words: left_out, HANDS
        for match in pattern.finditer(re.sub(r"(?<=[a-zA-Z])_(?=[a-zA-Z])", " ", line))
    ]
    paragraphs = (
        _prose_of_python(text) if path.suffix == ".py" else _prose_of_markdown(text) if path.suffix == ".md" else []
    )
    for number, paragraph in paragraphs:
        for sentence in re.split(r"(?<=[.!?:;])\s+(?=[A-Z`\"*\[(])|\n\s*\n", paragraph):
            n_words = len(re.findall(r"[\w'’./-]*\w[\w'’./-]*", re.sub(r"`[^`]*`|\([^)]*\)|<[^>]*>", "code", sentence)))
            if n_words > MAX_WORDS:
                found.append(f"{name}:{number}: {n_words} words: {' '.join(sentence.split())[:90]}…")
    return found


def _without_quotes(text: str, name: str) -> str:
    """Remove the words that are quoted from data."""
    pattern, folders = QUOTED
    return pattern.sub("", text) if name.removeprefix("tests/").startswith(folders) else text


def _prose_of_python(text: str) -> list[tuple[int, str]]:
    """Return (line, paragraph) of each docstring's paragraphs and of each block of comments."""
    prose = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(
            node
        ):
            start = node.body[0].lineno
            for part in re.split(r"\n\s*\n", ast.get_docstring(node)):
                # Code, tables and lists of arguments end a sentence where the line ends
                blocks = re.split(r"\n(?=\s{4,}|\s*[\w`*, ]+: |\s*[-*|] )", part)
                prose += [(start, block) for block in blocks]
    block, last = [], -1
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        is_whole_line = token.line.strip().startswith("#")
        if block and is_whole_line and token.start[0] == last + 1:
            block = [(block[0][0], f"{block[0][1]}\n{token.string.lstrip('# ')}")]
        else:
            prose += block
            block = [(token.start[0], token.string.lstrip("# "))]
        # A comment after code ends with its line
        last = token.start[0] if is_whole_line else -1
    return prose + block


def _prose_of_markdown(text: str) -> list[tuple[int, str]]:
    """Return (line, paragraph) of the prose: no code, tables, headings or HTML."""
    text = re.sub(r"^(```|---\n)[\s\S]*?^(```|---)", lambda block: "\n" * block.group(0).count("\n"), text, flags=re.M)
    text = re.sub(r"\{%.*?%\}", "\n\n", text)
    prose, line = [], 1
    for paragraph in re.split(r"(\n\s*\n)", text):
        for item in re.split(r"\n(?=\s*([-*]|\d+\.) )", paragraph):
            if item and not re.match(r"\s*([|#<!]|[-*]$)", item):
                prose.append((line, item))
        line += paragraph.count("\n")
    return prose


if __name__ == "__main__":
    lines = [line for path in text_files(sys.argv[1:]) for line in findings(path)]
    print("\n".join(lines))
    print(f"{len(lines)} findings")
    sys.exit(bool(lines))
