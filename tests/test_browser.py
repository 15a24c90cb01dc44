"""The pack in the host's own front end, in a real browser; only with `--browser`."""

import client
import front_end as driver
import graphs
import pytest
import tiny
from conftest import HOST, ROOT, part
from front_end import FrontEnd
from playwright.sync_api import expect
from seeing import read_video
from stand_ins import files_for, swapped

FOLDER = ROOT / "workflows"
WORKFLOWS = {workflow.name: workflow for workflow in (make() for make in graphs.WORKFLOWS)}
NODES = [cls.GET_SCHEMA().node_id for cls in part("nodes").NODES]
STEPS = 4
TINY = WORKFLOWS["text_to_video_tiny"]
LONG = 480  # frames: steps and slices enough to stop between

every_workflow = pytest.mark.parametrize("workflow", WORKFLOWS.values(), ids=list(WORKFLOWS))


@pytest.fixture(scope="module")
def window():
    """The one window that all these tests look at."""
    tiny.bring_inputs(HOST)
    with files_for(WORKFLOWS.values()), driver.opened() as opened:
        yield opened


@pytest.fixture
def front_end(window) -> FrontEnd:
    """The window, in which nothing may go wrong that is ours."""
    window.errors.clear()
    yield window
    assert window.errors == []


def test_the_template_browser_shows_every_workflow_with_its_picture(front_end):
    cards = front_end.browse_templates()
    assert sorted(cards) == sorted(WORKFLOWS)
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


def tiny_inputs(port: int, workflow: graphs.Workflow) -> dict[int, dict]:
    """What to type into which node, so that the built-in tiny model runs a workflow in few steps."""
    shipped = client.load(port, FOLDER / f"{workflow.name}.json")
    wanted = swapped(tiny.as_tiny(shipped, workflow))
    for inputs in (node["inputs"] for node in wanted.values() if "steps" in node["inputs"]):
        inputs["steps"] = min(inputs["steps"], STEPS)
    return {
        int(number): {k: v for k, v in node["inputs"].items() if v != shipped[number]["inputs"].get(k)}
        for number, node in wanted.items()
    }
