"""Words of validation and test that are never trained: synonyms of colors and shapes, and Japanese.

The Japanese concepts are well-known things, also in Japan. No concept has a character of its color or shape in it.
"""

COLORS = {
    "red": ("crimson", "scarlet"),
    "green": ("emerald", "jade"),
    "blue": ("azure", "cobalt"),
    "yellow": ("golden", "lemony"),
    "purple": ("violet", "mauve"),
    "white": ("ivory", "alabaster"),
}
COLOR_ADJECTIVES = ("golden", "lemony")  # not after "in"
# Nouns, and adjectives before "shape" or "one"
SHAPES = {
    "circle": ("disc", "disk", "round"),
    "square": ("box", "four-sided", "box-shaped"),
    "triangle": ("trigon", "three-sided", "three-cornered"),
    "star": ("pentagram", "five-pointed"),
    "ring": ("annulus", "doughnut-shaped", "hollow round"),
    "cross": ("plus sign", "plus-shaped", "four-armed"),
}
ADJECTIVES = frozenset(word for words in SHAPES.values() for word in words if "-" in word or "round" in word)

# Before a noun. The first is also for colors without a shape: 赤い形
JAPANESE_COLORS = {
    "red": ("赤い", "赤色の"),
    "green": ("緑の", "緑色の"),
    "blue": ("青い", "青色の"),
    "yellow": ("黄色い", "黄色の"),
    "purple": ("紫の", "紫色の"),
    "white": ("白い", "白色の"),
}
JAPANESE_SHAPES = {
    "circle": ("円", "丸"),
    "square": ("四角", "正方形"),
    "triangle": ("三角", "三角形"),
    "star": ("星", "星形"),
    "ring": ("輪", "リング"),
    "cross": ("十字", "十字形"),
}
JAPANESE_ANY = ("形", "図形", "もの")  # a thing of any shape
JAPANESE_CONCEPTS = {
    "color": {
        "red": ("トマト", "血", "消防車", "いちご", "さくらんぼ", "ポスト"),
        "green": ("芝生", "カエル", "ほうれん草", "きゅうり", "ブロッコリー", "抹茶"),
        "blue": ("晴れた空", "海", "サファイア", "ジーンズ", "ドラえもん"),
        "yellow": ("バナナ", "レモン", "カナリア", "ひまわり", "ひよこ", "たんぽぽ"),
        "purple": ("なす", "ラベンダー", "すみれ", "ぶどうジュース", "アメジスト", "藤の花"),
        "white": ("雪", "牛乳", "塩", "ご飯", "豆腐", "ウェディングドレス"),
    },
    "shape": {
        "circle": ("コイン", "満月", "お皿", "ピザ", "時計の文字盤"),
        "square": ("サイコロの面", "タイル", "折り紙", "将棋盤の目", "食パン", "付箋"),
        "triangle": ("ピラミッド", "おにぎり", "ピザの一切れ", "テントの正面", "山", "屋根"),
        "star": ("ヒトデ", "保安官のバッジ", "手裏剣", "ベトナムの国旗の印", "クリスマスツリーの先の飾り"),
        "ring": ("ドーナツ", "ベーグル", "タイヤ", "フラフープ", "アルファベットのO", "数字のゼロ"),
        "cross": ("足し算の記号", "プラス記号", "教会の屋根の印", "スイスの国旗の印", "救急箱の印"),
    },
}
# {0} is the concept, {1} the noun
JAPANESE_WORDINGS = {
    "color": ("{0}の色の{1}", "{0}の色をした{1}", "{0}と同じ色の{1}", "{0}のような色の{1}"),
    "shape": ("{0}の形の{1}", "{0}の形をした{1}", "{0}のような形の{1}", "{0}に似た形の{1}"),
}
