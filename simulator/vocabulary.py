# ruff: noqa: RUF001 - letters of several scripts that look alike are what this file is for
# ruff: noqa: SIM905 - a word per line would be five pages
"""The words the simulator speaks in: several scripts, emoji, and what JSON must escape."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """One way of writing: its words and how sentences are set in it."""

    words: tuple[str, ...]
    #: What stands between two words.
    space: str = " "
    comma: str = ","
    stops: tuple[str, ...] = (".", ".", ".", "!", "?")


LATIN = Script(
    words=tuple(
        """about above lantern harbour window garden journal weather quiet river mountain copper
        engine letter silver morning kitchen village shadow thunder painter orchard bridge candle
        feather island voyage compass mirror planet library blanket winter summer distance horizon
        station machine pattern signal teacher villager fortune carpenter electricity
        understanding interruption extraordinary naïve façade café jalapeño Übermut Straße
        crème brûlée señor œuvre fjord smørrebrød łódź żółw čeština þing the of and to in is it
        for with as was on that by at from no not one all has had when""".split()
    )
)
CYRILLIC = Script(
    words=tuple(
        """река город письмо дорога окно ветер корабль память фонарь берег человек молчание звезда
        тишина яблоко поезд книга вечер солнце достопримечательность и в не на он что это""".split()
    )
)
GREEK = Script(
    words=tuple(
        """θάλασσα ουρανός γράμμα δρόμος παράθυρο άνεμος πλοίο μνήμη φανάρι νύχτα άνθρωπος σιωπή
        αστέρι βιβλίο μηχανή κήπος και το να με δεν για""".split()
    ),
    stops=(".", ".", "!", ";"),
)
HAN = Script(
    words=tuple(
        """河流 城市 信 道路 窗户 风 船 记忆 灯笼 海岸 人 沉默 星 苹果 火车 书 晚上 太阳 的 在 了
        という 物語 ひかり カメラ 서울 바람 𠮷野家""".split()
    ),
    space="",
    comma="，",
    stops=("。", "。", "！", "？"),
)
ARABIC = Script(
    words=tuple(
        """نهر مدينة رسالة طريق نافذة ريح سفينة ذاكرة فانوس شاطئ إنسان صمت نجمة تفاحة قطار كتاب
        مساء شمس في من على إلى""".split()
    ),
    comma="،",
    stops=(".", ".", "؟"),
)
DEVANAGARI = Script(
    words=tuple(
        """नदी शहर चिट्ठी सड़क खिड़की हवा जहाज़ स्मृति लालटेन किनारा मनुष्य मौन तारा सेब रेलगाड़ी
        किताब शाम सूर्य में से को और है""".split()
    ),
    stops=("।", "।", "!"),
)
#: Latin six times: most of what is read in logs and diffs should be readable.
SCRIPTS = (*6 * (LATIN,), CYRILLIC, GREEK, HAN, ARABIC, DEVANAGARI)

_ZWJ = "\u200d"
EMOJI = (
    "🙂",
    "🚀",
    "🌊",
    "👍🏽",
    "🇬🇷",
    "❤️",
    f"👩{_ZWJ}🚀",
    f"🧑🏾{_ZWJ}💻",
    f"👨{_ZWJ}👩{_ZWJ}👧{_ZWJ}👦",
    f"🏳️{_ZWJ}🌈",
)
#: What a careless reader or writer trips over: quotes, backslashes, tabs, and the line separators
#: that split lines in Python and JavaScript but not in an event stream.
AWKWARD = (
    ' "quoted"',
    " C:\\new\\table",
    "\t",
    " <b>bold</b>",
    " `data: [DONE]`",
    "\u2028",
    "\u2029",
    "\u0085",
    " e\u0301",
    " null",
    "\x7f",
    " \\u0041",
)


def split_emoji(emoji: str) -> list[str]:
    """Cut a joined emoji behind each joiner, as byte-pair tokens do."""
    parts = emoji.split(_ZWJ)
    return [part + _ZWJ for part in parts[:-1]] + parts[-1:]


def _distinct_words() -> tuple[str, ...]:
    """Words of all scripts that cannot be mistaken for each other.

    No two have the same first three characters: who is cut inside a word can be continued in one
    way. And none is another one with a part left out: a damaged word is never a word.
    """
    found: dict[str, str] = {}
    for word in (*EMOJI, *(word for script in dict.fromkeys(SCRIPTS) for word in script.words)):
        if word[:3] not in found and not any(_mistakable(word, other) for other in found.values()):
            found[word[:3]] = word
    return tuple(found.values())


def _mistakable(one: str, other: str) -> bool:
    """Tell whether one of two words is the other with a part left out."""
    short, long = sorted((one, other), key=len)
    at = 0
    while at < len(short) and short[at] == long[at]:
        at += 1
    return long.endswith(short[at:])


#: The words of sampling mode.
SAMPLED_WORDS = _distinct_words()
