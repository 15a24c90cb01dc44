"""How V1 to V3 clean a prompt before T5 reads it: what captions scraped from the web are full of is removed.

The rules are those of the released pipelines, applied twice, as they do; results are compared with theirs in tests.
"""

import html
import re
import unicodedata
import urllib.parse

_DASHES = (
    "\u002d\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40"
    "\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d"
)
_IDEOGRAPHS = "\u31c0-\u31ef\u31f0-\u31ff\u3200-\u32ff\u3300-\u33ff\u3400-\u4dbf\u4dc0-\u4dff\u4e00-\u9fff"
_ODD_PUNCTUATION = r"[#\u00ae\u2022\u00a9\u2122&@\u00b7\u00ba\u00bd\u00be\u00bf\u00a1\u00a7~\)\(\]\[\}\{\|\\/*]+"
_DOMAINS = r"(?:com|co|ru|net|org|edu|gov|it)"

_LIGATURES = {
    ord(letter): unicodedata.normalize("NFKC", letter)
    for letter in "\u0132\u0133\u0149\u01c4\u01c5\u01c6\u01c7\u01c8\u01c9\u01ca\u01cb\u01cc\u01f1\u01f2\u01f3"
    "\ufb00\ufb01\ufb02\ufb03\ufb04\ufb06"
} | {0xFB05: "\u017ft"}
_WIDTHS = {0x3000: " "} | {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFF01, 0xFFF0)}
_LINE_BREAKS = dict.fromkeys((0x0085, 0x2028, 0x2029), "\n")
_CONTROLS = dict.fromkeys(
    (*range(0x09), 0x0B, *range(0x0E, 0x20), 0x7F, *range(0x206A, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFD)), ""
)

_BEFORE_TAGS = (
    (re.compile(r"<person>"), "person"),
    (re.compile(rf"\b(?:https?:(?:/{{1,3}}|[a-z0-9%])|[a-z0-9.\-]+[.]{_DOMAINS}[\w/\-]*\b/?(?!@))"), ""),
    (re.compile(rf"\b(?:www:(?:/{{1,3}}|[a-z0-9%])|[a-z0-9.\-]+[.]{_DOMAINS}[\w/\-]*\b/?(?!@))"), ""),
)
_TAG = re.compile(r"<[^>]*>")
_RULES = (
    (re.compile(r"@[\w\d]+\b"), ""),
    (re.compile(f"[{_IDEOGRAPHS}]+"), ""),
    (re.compile(f"[{_DASHES}]+"), "-"),
    (re.compile("[`\u00b4\u00ab\u00bb\u201c\u201d\u00a8]"), '"'),
    (re.compile("[\u2018\u2019]"), "'"),
    (re.compile(r"&quot;?"), ""),
    (re.compile(r"&amp"), ""),
    (re.compile(r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}"), " "),
    (re.compile(r"\d:\d\d\s+$"), ""),
    (re.compile(r"\\n"), " "),
    (re.compile(r"#\d{1,3}\b"), ""),
    (re.compile(r"#\d{5,}\b"), ""),
    (re.compile(r"\b\d{6,}\b"), ""),
    (re.compile(r"\S+\.(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)"), ""),
    (re.compile(r"[\"']{2,}"), '"'),
    (re.compile(r"\.{2,}"), " "),
    (re.compile(_ODD_PUNCTUATION), " "),
    (re.compile(r"\s+\.\s+"), " "),
)
_FILE_NAME_MARKS = re.compile(r"[-_]")
_ADVERTISING = (
    (re.compile(r"\b[a-z]{1,3}\d{3,15}\b"), ""),
    (re.compile(r"\b[a-z]+\d+[a-z]+\b"), ""),
    (re.compile(r"\b\d+[a-z]+\d+\b"), ""),
    (re.compile(r"(?:worldwide\s+)?(?:free\s+)?shipping"), ""),
    (re.compile(r"(?:free\s)?download(?:\sfree)?"), ""),
    (re.compile(r"\bclick\b\s(?:for|on)\s\w+"), ""),
    (re.compile(r"\b(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)(?:\simages?)?"), ""),
    (re.compile(r"\bpage\s+\d+\b"), ""),
    (re.compile(r"\b\d*[a-z]+\d+[a-z]+\d+[a-z\d]*\b"), " "),
    (re.compile(r"\b\d+\.?\d*[x\u0445\u00d7]\d+\.?\d*\b"), ""),
    (re.compile(r"\b\s+:\s+"), ": "),
    (re.compile(r"(\D[,./])\b"), r"\1 "),
    (re.compile(r"\s+"), " "),
)
_ENDS = (
    (re.compile(r"^[\"'](.+)[\"']$", re.S), r"\1"),
    (re.compile(r"^['_,\-:;]"), ""),
    (re.compile(r"['_,\-:\-+]$"), ""),
    (re.compile(r"^\.\S+$"), ""),
)


def clean_prompt(text: str) -> str:
    """`text` as the released V1-V3 pipelines hand it to T5 by default."""
    return _clean_once(_clean_once(text))


def _clean_once(text: str) -> str:
    text = urllib.parse.unquote_plus(text).strip().lower()
    text = _apply(_BEFORE_TAGS, text)
    text = html.unescape(_TAG.sub("", text))
    text = _apply(_RULES, text)
    if len(_FILE_NAME_MARKS.findall(text)) > 3:
        text = _FILE_NAME_MARKS.sub(" ", text)
    text = html.unescape(html.unescape(_fix_text(text))).strip()
    text = _apply(_ADVERTISING, text).strip()
    return _apply(_ENDS, text).strip()


def _fix_text(text: str) -> str:
    """What the original has ftfy do: ligatures, widths, line breaks, control characters, composed accents."""
    text = text.translate(_LIGATURES | _WIDTHS | _LINE_BREAKS | _CONTROLS)
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))


def _apply(rules, text: str) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text
