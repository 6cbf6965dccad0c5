"""Random answers and golds in 12 scripts, and the two published QA metrics written from their definitions."""

import random
import unicodedata
from fractions import Fraction

ASCII_PUNCTUATION = {chr(code) for code in range(33, 127) if not chr(code).isalnum()}
# Articles of MLQA's languages are among the words, whole and inside others; so are native digits.
WORDS = {
    "Latin": "The an a theory Apple den Die das dieselbe ein la El las lasso của là cái năm naïve 12 3rd",
    "Cyrillic": "дом Москва река в 1812 году ёлка Київ і а the",
    "Arabic": "ال الكتاب سؤال مدينة القاهرة والله ١٢ ۱۲ اللال في",
    "Devanagari": "नदी दिल्ली के का १२ राजा गाँव में हिन्दी",
    "Han": "中国 北京 的 人民 the 12 三月 中 𠮷野 々 龥 龦 㐀 国the中",
    "Thai": "กรุงเทพ แม่น้ำ ที่ ปี ๑๒ น้ำ ไทย",
    "Greek": "ο Η πόλη Αθήνα ΟΔΟΣ του 12 α",
    "Hangul": "서울 강 한국의 12 도시 은 서울은",
    "Kana": "とうきょう ガーデン の は ﾊﾝ がっこう ァ",
    "Bengali": "নদী ঢাকা ১২ রাজা শহর ও য়",
    "Telugu": "నది హైదరాబాద్ ౧౨ రాజు లో",
    "Hebrew": "העיר ירושלים של 12 הנהר ה",
}
SEPARATORS = [" ", " ", " ", "  ", "\u00a0", "\t", "\n", "\u3000", "-", ", ", ". ", "_", "", "’", "、", "/"]
# Every category of punctuation, the ASCII symbols that are none to Unicode, and symbols that stay.
NOISE = list("_‿-–—([{«„‘“”’»)]}!?.,;:…،؟।॥۔。、「」《》・·'\"$+<=>^`|~€°∞¿¡％－׃־჻\u200b\u0301\u200d")


def pairs(count, seed=0):
    """``count`` of (script, answer, golds): one to three golds, answers made mostly from one of them."""
    rng = random.Random(seed)
    scripts = sorted(WORDS)
    for index in range(count):
        script = scripts[index % len(scripts)]
        words = WORDS[script].split() + (WORDS["Latin"].split() if rng.random() < 0.3 else [])
        golds = [
            _write([rng.choice(words) for _ in range(rng.randint(0, 5))], rng)
            for _ in range(rng.randint(1, 3))
        ]
        kept = [word for word in rng.choice(golds).split() if rng.random() < 0.8]
        added = [rng.choice(words) for _ in range(rng.choice([0, 0, 1, 2]))]
        answer = kept + added
        if rng.random() < 0.2:
            rng.shuffle(answer)
        yield script, _write(answer, rng), golds


def _write(words, rng):
    text = "".join(
        rng.choice([word, word, word.upper(), word.title()]) + rng.choice(SEPARATORS) for word in words
    )
    for _ in range(rng.choice([0, 0, 1, 2, 4])):
        place = rng.randint(0, len(text))
        text = text[:place] + rng.choice(NOISE) + text[place:]
    return text


def published_squad(text):
    """The tokens of SQuAD v1.1's normalised text."""
    kept = "".join("" if char in ASCII_PUNCTUATION else char for char in text.lower())
    return without_words(kept, {"a", "an", "the"}).split()


def published_mlqa(text, language):
    """The tokens of MLQA's normalised text, for its seven languages."""
    kept = "".join(
        "" if char in ASCII_PUNCTUATION or unicodedata.category(char) in PUNCTUATION else char
        for char in text.lower()
    )
    if language == "ar":
        kept = kept.replace("ال", " ")
    kept = without_words(kept, MLQA_ARTICLES.get(language, set()))
    if language != "zh":
        return kept.split()
    tokens = [""]
    for char in kept:
        if 0x4E00 <= ord(char) <= 0x9FA5:
            tokens += [char, ""]
        elif char.isspace():
            tokens.append("")
        else:
            tokens[-1] += char
    return [token for token in tokens if token]


PUNCTUATION = {"Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po"}
MLQA_ARTICLES = {
    "de": {"ein", "eine", "einen", "einem", "eines", "einer", "der", "die", "das", "den", "dem", "des"},
    "en": {"a", "an", "the"},
    "es": {"un", "una", "unos", "unas", "el", "la", "los", "las"},
    "vi": {"của", "là", "cái", "chiếc", "những"},
}


def without_words(text, words):
    """The text with a space for each of the words where no letter, digit or low line touches it."""
    out, run = [], ""
    for char in text + "\0":
        if char.isalnum() or char == "_":
            run += char
        else:
            out += [" " if run in words else run, char]
            run = ""
    return "".join(out)[:-1]


def published_f1(answer, gold):
    """Twice the shared tokens over all tokens, shared ones crossed off one by one."""
    left = list(gold)
    for token in answer:
        if token in left:
            left.remove(token)
    shared = len(gold) - len(left)
    return Fraction(2 * shared, len(answer) + len(gold)) if shared else Fraction(0)
