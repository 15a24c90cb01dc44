"""Names and explanations of the nodes, in three languages."""

import ast
import json
import re
import urllib.request
from functools import cache

import pytest

from support.pack import ROOT, part
from tools import comfyui, node_words
from tools.workflows import client

NODES = {node.GET_SCHEMA().node_id: node.GET_NODE_INFO_V1() for node in part("nodes").NODES}
WORDS = {language: node_words.read(language) for language in node_words.HEADINGS}
TRANSLATED = [language for language in WORDS if language != "en"]
NAMES = {"VAE", "CLIP", "CFG", "LoRA", "ControlNet", "Latent", "Sigmas"}  # the same in every language
HAN, KANA = "[\u4e00-\u9fff]", "[\u3041-\u30ff]"
TEMPLATES = {file.stem for file in (ROOT / "workflows").glob("*.json")}
INPUTS = {name for words in WORDS["en"].values() for name in words["inputs"]}
OUTPUTS = {output["name"] for words in WORDS["en"].values() for output in words["outputs"].values()}
WRITTEN = {
    "diffusion_models",
    "text_encoders",
    "easyanimate_data",
    "smooth_output",
}  # words with a line in them that are neither inputs nor outputs

every_node = pytest.mark.parametrize("node", NODES)
every_translation = pytest.mark.parametrize("language", TRANSLATED)
every_language = pytest.mark.parametrize("language", WORDS)


def leaves(value, *path: str):
    """(path, text) of every text in a nested dict."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, *path, key)
    else:
        yield path, value


def page(node: str, language: str) -> str:
    return node_words.page(node, language).read_text(encoding="utf-8")


def test_english_is_what_the_schemas_say():
    written = (ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8")
    assert written == node_words.as_text(node_words.english(NODES)), "run `python3 dev.py words`"


@every_node
def test_every_output_has_a_tooltip(node):
    assert all(NODES[node]["output_tooltips"])


@every_translation
@every_node
def test_a_translation_says_all_that_english_says(node, language):
    english, ours = (dict(leaves(WORDS[key][node])) for key in ("en", language))
    assert ours.keys() == english.keys()
    for path, text in ours.items():
        assert re.search(HAN if language == "zh" else f"{HAN}|{KANA}", text) or text in NAMES, path
        if path[-1] in ("tooltip", "description"):
            assert set(hard_facts(english[path])) <= set(hard_facts(text)), path
            assert text.endswith("。"), path
        if language == "zh":
            assert not re.search(KANA, text), path


def hard_facts(text: str) -> list[str]:
    """Numbers, folders and file endings, which are the same in every language."""
    return re.findall(r"\d+(?:\.\d+)?|(?:models|output)/\w+|\.\w{3,4}\b", text)


@every_translation
def test_the_same_is_said_in_the_same_words(language):
    translations = {}
    for (path, english), (_, ours) in zip(leaves(WORDS["en"]), leaves(WORDS[language]), strict=True):
        if path[-1] == "tooltip":
            assert translations.setdefault(english, ours) == ours, path


@every_language
def test_nothing_means_more_to_the_front_end_than_it_says(language):
    """Its messages are templates, in which these four stand for something."""
    assert [path for path, text in leaves(WORDS[language]) if re.search(r"[{}@|]", text)] == []


@every_language
def test_node_names_differ(language):
    names = [words["display_name"] for words in WORDS[language].values()]
    assert len(set(names)) == len(names) and all("EasyAnimate" in name for name in names)


@every_language
@every_node
def test_a_page_names_each_input_and_no_other(node, language):
    text, words = page(node, language), WORDS[language][node]
    assert text.startswith(f"# {words['display_name']}\n")
    assert node_words.with_tables(text, language, words, NODES[node]) == text, "run `python3 dev.py words`"
    plain = re.sub(r"`[^`]*`|\*“[^”]*”\*|\]\([^)]*\)", "", text)
    assert set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", plain, re.ASCII)) <= INPUTS | OUTPUTS | TEMPLATES | WRITTEN


@every_language
@every_node
def test_a_page_names_nodes_as_the_language_does(node, language):
    names = {words["display_name"] for words in WORDS[language].values()}
    others = {name for name in re.findall(r"\*\*([^*]+)\*\*", page(node, language)) if "EasyAnimate" in name}
    assert others <= names and others


@every_language
@every_node
def test_a_page_quotes_messages_that_there_are(node, language):
    for quoted in re.findall(r"\*“([^”]+)”\*", page(node, language)):
        parts = [re.escape(part) for part in quoted.split("…") if part.strip()]
        assert re.search(".*".join(parts), messages()), quoted


@cache
def messages() -> str:
    """Every text in the pack's code, a line each, with … for what is filled in."""
    files = [file for folder in ("nodes", "easyanimate_models") for file in (ROOT / folder).rglob("*.py")]
    trees = [ast.walk(ast.parse(file.read_text(encoding="utf-8"))) for file in files]
    return "\n".join(text.replace("\n", " ") for tree in trees for node in tree if (text := _text(node)))


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(value) or "…" for value in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else ""


@every_language
@every_node
def test_a_page_says_as_much_as_in_english(node, language):
    """As many sections, rows and hints."""
    ours, english = (
        ["".join(re.findall(r"^(?:## |[|] |- )", line)) for line in page(node, key).splitlines()]
        for key in (language, "en")
    )
    assert ours == english


@every_language
@every_node
def test_a_page_shows_its_node(node, language):
    """The front end looks for pictures beside the English pages, and takes other links for the server's own."""
    assert re.findall(r"\]\(([^)]+)\)", page(node, language)) == [f"pictures/{node}.png"]
    assert (node_words.DOCS / "pictures" / f"{node}.png").is_file()


def test_there_are_no_pages_of_other_nodes():
    expected = {node_words.page(node, language) for node in NODES for language in WORDS}
    assert set(node_words.DOCS.rglob("*.md")) == expected


def test_the_server_serves_names_and_pages(server):
    served = client.get(server, "/i18n")
    for language, words in WORDS.items():
        ours = {name: served[language]["nodeDefs"][name] for name in NODES}
        main = json.loads((ROOT / "locales" / language / "main.json").read_text(encoding="utf-8"))
        assert ours == words and main.items() <= served[language].items()
    docs = f"http://127.0.0.1:{server}/extensions/{comfyui.PACK}/docs"
    for node in NODES:
        for language in WORDS:
            where = node_words.page(node, language).relative_to(node_words.DOCS).as_posix()
            with urllib.request.urlopen(f"{docs}/{where}", timeout=60) as reply:
                assert reply.read().decode() == page(node, language)


def test_the_server_describes_the_same_schemas(server):
    """From which `python3 dev.py words` writes English."""
    assert node_words.english(comfyui.our_nodes(server)) == WORDS["en"]
