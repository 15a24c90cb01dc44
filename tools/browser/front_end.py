"""ComfyUI's own front end in a real browser: what a user presses, and what is shown and played then."""

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlparse

from playwright.sync_api import ConsoleMessage, ElementHandle, Locator, Page, Route, expect, sync_playwright
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from .. import comfyui
from ..environment import ROOT
from .install import FRONT_END, find_browser
from .scripts import ALL_DRAWN, FIT_VIEW, NO_DOWNLOADS, OVERLAPS, READY, RECORDER, STILL

SIZE = {"width": 1600, "height": 900}
SETTINGS = {  # no first-use dialogs, the whole graph visible, few frames a second for machines without a GPU
    "Comfy.TutorialCompleted": True,
    "Comfy.Locale": "en",
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Workflow.Persist": False,
    "Comfy.VueNodes.Enabled": False,  # Nodes 2.0
    "LiteGraph.Canvas.MaximumFps": 15,
}
NO_PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'
OUR_TEMPLATES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
SOON = 3_000  # milliseconds
TIMEOUT = 60_000  # milliseconds; machines that run tests are busy
START = 3 * TIMEOUT  # of the front end, from an empty cache
expect.set_options(timeout=TIMEOUT)
NO_BANNER = "localStorage.setItem('vueNodesBannerDismissed', 'true')"
NOT_OURS = (  # what the front end logs by itself
    r"/user\.css|/userdata",  # files that a user may have
    r" https://",  # what is not on this machine
    r"^Error fetching file size",  # of a model that it would download from there
    r"at onChange \(.*/assets/",  # a setting read before its panel is there
    r"^ComfyApp graph accessed before initialization .*/assets/",  # or before its graph is
    r"/api/jobs\?|JobsApiError|/templates/index_logo\.json",  # what an older host than its own lacks
    r"/docs/\w+/\w+\.md",  # the help page in the user's language, tried first
)


class FrontEnd:
    """One page of the front end; `errors` is what it logged, without `NOT_OURS`."""

    def __init__(self, page: Page, port: int):
        self.page, self.port = page, port
        self.errors: list[str] = []
        page.set_default_timeout(TIMEOUT)
        page.route("**/*", _offline)
        page.add_init_script(NO_BANNER)
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.errors.append(f"{error.message}\n{error.stack}"))
        page.goto(f"http://127.0.0.1:{port}/", wait_until="domcontentloaded")
        self._begin()

    def _note(self, message: ConsoleMessage) -> None:
        text = f"{message.text} {message.location['url']}"
        if message.type == "error" and not re.search("|".join(NOT_OURS), text):
            self.errors.append(text)

    def _begin(self) -> None:
        self.page.wait_for_function(READY, timeout=START)
        self.page.evaluate(RECORDER)

    @contextlib.contextmanager
    def second_window(self, **settings) -> Iterator["FrontEnd"]:
        """A second window, with settings of its own: some of `SETTINGS`, without `Comfy.`, and with _ for each dot."""
        changed = {f"Comfy.{name.replace('_', '.')}": value for name, value in settings.items()}
        for name, value in changed.items():
            self._set(name, value)
        try:
            with self.page.context.browser.new_page(viewport=SIZE) as page:
                yield FrontEnd(page, self.port)
        finally:
            for name in changed:
                self._set(name, SETTINGS[name])

    def _set(self, setting: str, value) -> None:
        self.page.evaluate("([name, value]) => app.extensionManager.setting.set(name, value)", [setting, value])

    def command(self, name: str) -> None:
        """Run a command of the front end, as a menu entry does."""
        self.page.evaluate("name => app.extensionManager.command.execute(name)", name)

    def browse_templates(self) -> dict[str, Locator]:
        """Open the template browser on our templates; returns their cards by name."""
        self.command("Comfy.BrowseTemplates")
        self.dialog.get_by_role("button", name=comfyui.PACK).click()
        cards = self._cards
        expect(self._card(OUR_TEMPLATES[0])).to_be_visible()
        expect(cards).to_have_count(len(OUR_TEMPLATES))
        return {card.get_attribute("data-testid").removeprefix("template-workflow-"): card for card in cards.all()}

    def open_template(self, name: str) -> None:
        """Open a template by a click on its card and fit it into view; dialogs that it brings up stay."""
        card = self.browse_templates()[name]
        self._mark_graph()
        card.click()
        expect(self._cards).to_have_count(0)
        self._wait_for_graph(name)

    def open(self, workflow: Path) -> None:
        """Open a workflow file and fit it into view."""
        self._mark_graph()
        self.page.set_input_files("#comfy-file-input", workflow)
        self._wait_for_graph(workflow.stem)

    def _mark_graph(self) -> None:
        """Mark the graph as the one before; names alone don't tell, as one may be the beginning of another."""
        self.page.evaluate("app.graph.extra = {...app.graph.extra, before: true}, 0")

    def _wait_for_graph(self, name: str) -> None:
        """Wait until another graph is there under this name, and fit it into view."""
        there = "name => document.title.includes(name) && !app.graph.extra?.before && app.graph._nodes.length"
        self.page.wait_for_function(there, arg=name)
        self.page.evaluate(FIT_VIEW)

    @property
    def has_app_mode(self) -> bool:
        """Front ends of ComfyUI 0.33 have, that of 0.3.75 has not."""
        return self._app_button.count() > 0

    @property
    def _app_button(self) -> Locator:
        return self.page.get_by_role("button", name="Enter app mode")

    @contextlib.contextmanager
    def app(self) -> Iterator[Locator]:
        """The graph as an app, past the tour of it: what shows its results."""
        self._app_button.click()
        with contextlib.suppress(PlaywrightTimeout):
            self.page.get_by_role("button", name="Skip", exact=True).click(timeout=SOON)
        yield self.page.get_by_test_id("linear-video-output")
        self.page.get_by_role("button", name="Enter node graph").click()

    def overlaps(self) -> list[str]:
        """Pairs of nodes that cover a part of each other as they are drawn, once all their pictures are there."""
        self.wait(ALL_DRAWN)
        self.page.evaluate(STILL)
        return self.page.evaluate(OVERLAPS)

    def missing_models(self) -> Locator:
        """Where the models that a workflow lacks are listed: in a dialog, in newer front ends in a panel."""
        details = self.page.get_by_role("button", name="View details")
        expect(self.dialog.or_(details).first).to_be_visible()
        if not details.is_visible():
            return self.dialog
        details.click()
        return self.page.get_by_test_id("error-group-missing-model")

    def addresses(self, buttons: Locator) -> list[str]:
        """Press all these buttons; what the browser would have opened or downloaded then."""
        self.page.evaluate(NO_DOWNLOADS)
        for button in buttons.all():
            button.click()
        self.wait(f"asked.length >= {buttons.count()}")
        return self.page.evaluate("asked")

    @property
    def dialog(self) -> Locator:
        return self.page.get_by_role("dialog")

    @property
    def _cards(self) -> Locator:
        return self.dialog.locator("[data-testid^='template-workflow-']")

    def _card(self, name: str) -> Locator:
        return self.dialog.get_by_test_id(f"template-workflow-{name}")

    def fill(self, number: int, **inputs) -> None:
        """Set widgets of the node with this number."""
        self.page.evaluate(
            """([number, inputs]) => {
              const node = app.graph.getNodeById(number)
              for (const [name, value] of Object.entries(inputs)) {
                const widget = node.widgets.find(widget => widget.name === name)
                widget.value = value
                widget.callback?.(value, app.canvas, node)
              }
              app.canvas.setDirty(true, true)
            }""",
            [number, inputs],
        )

    def press_run(self) -> None:
        self.page.evaluate("run = {state: 'none'}, drawn = {bars: {}, pictures: {}}, 0")
        with self.page.expect_response("**/prompt") as answer:
            self._run_button.click()
        assert answer.value.ok, answer.value.text()

    @property
    def _run_button(self) -> Locator:
        """Of the graph, or in app mode of the app."""
        in_app = self.page.get_by_role("button", name="Run", exact=True)
        return self.page.get_by_test_id("queue-button").or_(in_app).filter(visible=True).first

    def press_cancel(self) -> None:
        self.page.get_by_role("button", name="Cancel current run").click()

    def run(self) -> dict:
        """Press Run and wait until it has ended, in whatever way."""
        self.press_run()
        return self.end()

    def end(self) -> dict:
        """Wait until the run has ended: `state` (success, error, interrupted), `steps` ([node type, step, total] each),
        `late` (how many steps were reported after Cancel was answered), `detail`."""
        self.wait("run.detail")
        return self.page.evaluate("run")

    def wait(self, condition: str) -> None:
        """Until a JavaScript expression is true in the page."""
        self.page.wait_for_function(condition)

    def drawn(self, kind: str) -> tuple[list[float], int]:
        """Nodes of this type in this run: the positions of the progress bar, and how many different pictures."""
        bars = self.page.evaluate("kind => drawn.bars[kind] ?? []", kind)
        return bars, self.page.evaluate("kind => new Set((drawn.pictures[kind] ?? []).map(p => p.pixels)).size", kind)

    def play(self, number: int, seconds: float = 0.1) -> Path:
        """Press play in a node and wait until `seconds` have played; the video's file."""
        video = self._video(number)
        try:
            video.click()
        except PlaywrightError:  # newer front ends put another in its place once the file is there
            video = self._video(number)
            video.click()
        self.page.wait_for_function("([video, seconds]) => video.currentTime > seconds", arg=[video, seconds])
        return saved_file(video)

    def _video(self, number: int) -> ElementHandle:
        """The video that a node shows, when it can be played."""
        return self.page.wait_for_function(
            """number => app.graph.getNodeById(number).widgets.map(widget => widget.element?.querySelector?.('video'))
              .find(video => video?.readyState >= 2)""",
            arg=number,
        ).as_element()

    def pause(self) -> None:
        """Pause whatever plays."""
        self.page.evaluate("document.querySelectorAll('video').forEach(video => video.pause())")

    def show_alone(self, kind: str) -> dict[str, float]:
        """Show a single node of this type in the middle; returns its bounding box on the page.

        Of one that is taller than the page the upper part is shown, its buttons below the path of the workflow.
        It has a number of its own: newer front ends keep what they show of a node by its number.
        """
        return self.page.evaluate(
            """kind => {
              const last = app.graph.last_node_id ?? 0
              app.graph.clear()
              app.graph.last_node_id = last
              const node = LiteGraph.createNode(kind)
              app.graph.add(node)
              app.canvas.setDirty(true, true)
              const {canvas, ds} = app.canvas, title = LiteGraph.NODE_TITLE_HEIGHT
              const [x, y, width, height] = [node.pos[0], node.pos[1] - title, node.size[0], node.size[1] + title]
              const area = canvas.getBoundingClientRect()
              ds.scale = 1
              ds.offset = [(area.width - width) / 2 - x, Math.max((area.height - height) / 2, 160) - y]
              return {x: area.x + x + ds.offset[0], y: area.y + y + ds.offset[1], width, height}
            }""",
            kind,
        )

    def select(self, kind: str) -> None:
        """Select the first node of this type."""
        self.page.evaluate("kind => app.canvas.selectNode(app.graph.nodes.find(node => node.type === kind))", kind)

    def help(self, kind: str) -> Locator:
        """Open the help page of the first node of this type by its info button."""
        info = self.page.get_by_test_id("info-button")
        self.select(kind)
        with contextlib.suppress(PlaywrightTimeout):  # the first selection may show only its menu
            info.wait_for(timeout=SOON)
        if not info.is_visible():
            self.page.evaluate("app.canvas.deselectAll()")
            self.select(kind)
        info.click()
        return self.page.locator(".node-help-content")

    def titles(self) -> dict[str, str]:
        """Titles of the graph's nodes by type."""
        return dict(self.page.evaluate("app.graph.nodes.map(({type, title}) => [type, title])"))

    def names(self) -> dict[str, str]:
        """Labels of the only node's inputs and widgets by id, and of its outputs by number."""
        return self.page.evaluate(
            """() => {
              const {inputs = [], widgets = [], outputs = []} = app.graph.nodes[0], names = {}
              for (const {name, localized_name} of inputs) names[name] = localized_name
              for (const {name, label} of widgets) if (name in names) names[name] = label
              outputs.forEach(({localized_name}, i) => { names[i] = localized_name })
              return names
            }"""
        )

    def search(self, text: str) -> Locator:
        """Type into the node search; returns the results."""
        self.command("Workspace.SearchBox.Toggle")
        found = self.page.get_by_role("option")
        found.nth(1).wait_for()  # the first suggestions
        self.page.keyboard.type(text)
        return found


def saved_file(element: ElementHandle) -> Path:
    """The file in the output folder that an element shows."""
    query = parse_qs(urlparse(element.get_attribute("src")).query)
    return comfyui.OUTPUT / query.get("subfolder", [""])[0] / query["filename"][0]


def _offline(route: Route) -> None:
    """Blocks other machines, and replaces ComfyUI's own thumbnails: hundreds, and slow to draw without a GPU."""
    url = urlparse(route.request.url)
    if url.path.startswith("/templates/") and url.path.endswith(".webp"):
        route.fulfill(body=NO_PICTURE, content_type="image/svg+xml")
    elif url.hostname == "127.0.0.1" or url.scheme in ("data", "blob"):
        route.continue_()
    else:
        route.abort()


@contextlib.contextmanager
def opened(**page) -> Iterator[FrontEnd]:
    """A browser on a server with a fresh user and with previews; `page` goes to Playwright's `new_page`."""
    with tempfile.TemporaryDirectory() as users:
        settings = Path(users) / "default" / "comfy.settings.json"
        settings.parent.mkdir()
        settings.write_text(json.dumps(SETTINGS))
        options = ["--user-directory", users, "--preview-method", "latent2rgb"]
        if front_end := os.environ.get(FRONT_END):
            options += ["--front-end-root", front_end]
        with comfyui.server(*options) as port, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=find_browser(), args=["--disable-gpu"])
            yield FrontEnd(browser.new_page(**{"viewport": SIZE, **page}), port)
            browser.close()
