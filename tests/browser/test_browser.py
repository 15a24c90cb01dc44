"""The pack in ComfyUI's own front end, in a real browser; only with `--browser`."""

import contextlib
import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from support.pack import ROOT, part
from support.stand_ins import files_for, swapped
from support.videos import assert_shows, read_video
from tools import comfyui
from tools.browser import front_end as browser
from tools.browser.front_end import FrontEnd
from tools.workflows import client, files, graphs, tiny

FOLDER = ROOT / "workflows"
WORKFLOWS = {make.__name__: make() for make in graphs.WORKFLOWS}
TINY = WORKFLOWS["text_to_video_tiny"]
EMPTY, SAMPLER, SAVE = (TINY.ids()[name] for name in ("empty", "sampler", "save"))
NODES = {schema.node_id: schema.display_name for schema in (cls.GET_SCHEMA() for cls in part("nodes").NODES)}
DOCS = ROOT / "web" / "docs"
STEPS = 4  # enough for a video
STEPS_TO_SHOW = 8  # enough for what it shows
SLOW = 96  # frames: so that a busy machine still finds time to draw between steps
LONG = 480  # frames: so that there are steps and slices to stop between
FOUND = {"access-control-allow-origin": "*", "content-length": "1"}  # what the hub says of a file

every_workflow = pytest.mark.parametrize("workflow", WORKFLOWS.values(), ids=list(WORKFLOWS))


@pytest.fixture(scope="module")
def window():
    """One window for all these tests; one core computes, the other draws."""
    tiny.bring_inputs(comfyui.BASE)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")
        with files_for(WORKFLOWS.values()), browser.opened() as opened:
            yield opened


@pytest.fixture
def front_end(window) -> FrontEnd:
    """The window, in which nothing may go wrong that is ours."""
    window.errors.clear()
    yield window
    assert window.errors == []


def test_the_template_browser_shows_every_workflow_with_its_picture(front_end):
    cards = front_end.browse_templates()
    assert sorted(cards) == [workflow.name for workflow in WORKFLOWS.values()]
    for name, card in cards.items():
        card.scroll_into_view_if_needed()
        picture = card.get_by_role("img", name=name)
        expect(picture).to_have_js_property("complete", True)
        assert picture.evaluate("picture => picture.naturalWidth") > 100
    front_end.page.keyboard.press("Escape")


@every_workflow
def test_a_template_opens_by_a_click_and_its_video_plays(front_end, workflow):
    front_end.open_template(workflow.name)
    expect(front_end.dialog).to_have_count(0)
    for number, inputs in tiny_inputs(front_end.port, workflow).items():
        front_end.fill(number, **inputs)
    assert front_end.run()["state"] == "success"
    for name, (frames, side) in workflow.tiny.saves.items():
        video = read_video(front_end.play(workflow.ids()[name]))
        assert video.shape == (frames, side, side, 3)
    assert front_end.overlaps() == []  # with previews and videos on the nodes


def test_a_template_is_an_app_that_asks_for_little(front_end):
    front_end.open_template(TINY.name)
    front_end.fill(SAMPLER, steps=STEPS)
    if not front_end.has_app_mode:
        pytest.skip("This front end has no app mode.")
    with front_end.app() as result:
        for name in ("positive", "length", "seed"):
            expect(front_end.page.get_by_text(name, exact=True).filter(visible=True)).to_have_count(1)
        expect(front_end.page.get_by_text("cfg", exact=True).filter(visible=True)).to_have_count(0)
        assert front_end.run()["state"] == "success"
        expect(result).to_be_visible()


def test_in_classic_nodes_none_covers_another(front_end):
    for workflow in WORKFLOWS.values():
        front_end.open(FOLDER / f"{workflow.name}.json")
        assert front_end.overlaps() == [], workflow.name


def test_in_nodes_2_none_covers_another(front_end):
    with front_end.second_window(VueNodes_Enabled=True) as window:
        for workflow in reversed(WORKFLOWS.values()):  # the tiny model's comes last
            window.open(FOLDER / f"{workflow.name}.json")
            assert window.overlaps() == [], workflow.name
        assert window.run()["state"] == "success"
        assert window.overlaps() == []
        assert window.errors == []


def test_a_model_that_is_missing_is_offered_for_download(front_end):
    named = {model.name: model for model in files.DOWNLOADS.values()}
    transformer, vae = (named[name] for name in (f"{files.V51}.safetensors", files.V51_VAE))
    with missing(transformer, vae), front_end.second_window() as window:
        window.page.route("https://huggingface.co/**", lambda route: route.fulfill(headers=FOUND))
        window.open(FOLDER / f"{WORKFLOWS['v51_text_to_video'].name}.json")
        listed = window.missing_models()
        for model in (transformer, vae):
            expect(listed.get_by_text(model.name).first).to_be_visible()
            expect(listed.get_by_text(model.directory).first).to_be_visible()
        buttons = listed.get_by_role("button", name=re.compile(r"^Download (?!all)"))
        assert sorted(window.addresses(buttons)) == sorted([transformer.url, vae.url])
        assert window.errors == []


@contextlib.contextmanager
def missing(*models: files.Download):
    """Take stand-ins of these models away for a while."""
    paths = [comfyui.BASE / "models" / model.directory / model.name for model in models]
    for path in paths:
        path.rename(path.with_suffix(".away"))
    try:
        yield
    finally:
        for path in paths:
            path.with_suffix(".away").rename(path)


def tiny_inputs(port: int, workflow: graphs.Workflow) -> dict[int, dict]:
    """What to type into which node, so that the built-in tiny model runs a workflow in few steps."""
    shipped = client.load(port, FOLDER / f"{workflow.name}.json")
    changed = swapped(tiny.as_tiny(shipped, workflow))
    for inputs in (node["inputs"] for node in changed.values() if "steps" in node["inputs"]):
        inputs["steps"] = min(inputs["steps"], STEPS)
    return {
        int(number): {k: v for k, v in node["inputs"].items() if v != shipped[number]["inputs"].get(k)}
        for number, node in changed.items()
    }


def test_previews_and_progress_bars_move(front_end):
    front_end.open(FOLDER / f"{TINY.name}.json")
    front_end.fill(EMPTY, length=SLOW)
    run = front_end.run()
    assert run["state"] == "success"
    for kind, most in {"EasyAnimateSampler": 25, "EasyAnimateDecode": SLOW // 8}.items():
        bars, pictures = front_end.drawn(kind)
        assert bars == sorted(bars) and bars[-1] > 0.5 and len(bars) > 3
        assert pictures > 2 or kind == "EasyAnimateDecode"
        assert [kind, most, most] in run["steps"]
    front_end.play(SAVE)


@pytest.mark.parametrize(("kind", "steps"), [("EasyAnimateSampler", 25), ("EasyAnimateDecode", 1)])
def test_cancel_stops_within_a_step_and_the_next_run_is_whole(front_end, kind, steps):
    front_end.open(FOLDER / f"{TINY.name}.json")
    front_end.fill(EMPTY, length=LONG)
    front_end.fill(SAMPLER, steps=steps)
    front_end.press_run()
    front_end.wait(f"run.steps?.some(([kind, value]) => kind === '{kind}' && value > 0)")
    front_end.press_cancel()
    run = front_end.end()
    assert run["state"] == "interrupted" and run["detail"]["node_type"] == kind
    assert run["late"] <= 2  # the step that was under way, and one that was being reported
    assert run["steps"][-1][1] < run["steps"][-1][2]
    front_end.fill(EMPTY, length=24)
    front_end.fill(SAMPLER, steps=STEPS_TO_SHOW)
    assert front_end.run()["state"] == "success"
    assert_shows(read_video(front_end.play(SAVE)))


@pytest.mark.parametrize("kind", NODES)
def test_the_help_page_of_a_node_opens(front_end, kind):
    front_end.show_alone(kind)
    assert_explains(front_end.help(kind), DOCS / f"{kind}.md")


def assert_explains(help_page: Locator, page: Path) -> None:
    """A help page is this one, with its picture."""
    title = page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
    expect(help_page.get_by_role("heading", level=1)).to_have_text(title)
    expect(help_page.get_by_role("img")).to_have_js_property("complete", True)
    assert help_page.get_by_role("img").evaluate("picture => picture.naturalWidth") > 100


@pytest.fixture(scope="module", params=["zh", "ja"])
def translated(window, request):
    """A language, and a window in it."""
    with window.second_window(Locale=request.param) as opened:
        yield request.param, opened


def test_groups_and_notes_of_a_template_speak_the_language(translated):
    language, window = translated
    path = FOLDER / f"{WORKFLOWS['text_to_video'].name}.json"
    words = json.loads(path.read_text(encoding="utf-8"))["extra"]["easyanimate"][language]
    window.open(path)
    groups, extra, notes = window.page.evaluate(
        """() => [app.graph._groups.map(({title}) => title), app.graph.extra,
          app.graph.nodes.filter(({type}) => type === 'MarkdownNote').map(({widgets}) => widgets[0].value)]"""
    )
    assert groups == list(words["titles"].values()) and notes == [words["note"]]
    assert "easyanimate" not in extra  # what is saved is the user's
    assert window.errors == []


def test_nodes_and_pages_speak_the_language(translated):
    language, window = translated
    words = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    for kind in ("EasyAnimateSampler", "EasyAnimateDecode"):
        window.show_alone(kind)
        assert_explains(window.help(kind), DOCS / kind / f"{language}.md")
    titles = {}
    for kind in NODES:
        window.show_alone(kind)
        titles |= window.titles()
        assert without_types(window.names(), kind) == without_types(names(words[kind]), kind)
    assert titles == {kind: words[kind]["display_name"] for kind in NODES}
    name = titles["EasyAnimateSampler"]
    expect(window.search(name).filter(has_text=name)).to_be_visible()
    assert window.errors == []


def without_types(names: dict[str, str], kind: str) -> dict[str, str]:
    """The same without outputs that have no name but their type: newer front ends say the type in their own words."""
    outputs = next(cls.GET_SCHEMA() for cls in part("nodes").NODES if cls.__name__ == kind).outputs
    unnamed = {str(i) for i, output in enumerate(outputs) if output.display_name in (None, output.get_io_type())}
    return {id_: name for id_, name in names.items() if id_ not in unnamed}


def names(words: dict) -> dict[str, str]:
    """What inputs and outputs are called, by their ids and numbers."""
    return {id_: entry["name"] for part_ in ("inputs", "outputs") for id_, entry in words[part_].items()}
