"""The host's own front end in a real browser, as its user meets it: what is pressed, shown and played."""

import contextlib
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlparse

from playwright.sync_api import ConsoleMessage, ElementHandle, Locator, Page, Route, expect, sync_playwright

import dev

SIZE = {"width": 1600, "height": 900}
SETTINGS = {  # of a user who has been here before and wants to see the graph, on a machine without a GPU
    "Comfy.TutorialCompleted": True,
    "Comfy.Locale": "en",
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Workflow.Persist": False,
    "LiteGraph.Canvas.MaximumFps": 15,
}
NO_PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'
HANG = 60_000  # milliseconds, on a machine with much else to do
expect.set_options(timeout=60_000)
QUIET = "localStorage.setItem('vueNodesBannerDismissed', 'true')"
READY = "window.app?.graph && Object.keys(window.LiteGraph?.registered_node_types ?? {}).length > 100"
NOT_OURS = (  # what the front end logs by itself
    r"/user\.css|/userdata",  # files that a user may have
    r" https://",  # what is not on this machine
    r"at onChange \(.*/assets/",  # a setting read before its panel is there
    r"/docs/\w+/\w+\.md",  # the help page in the user's language, tried first
    r"/view\?.*filename=clip\.mp4",  # the user's own clip, which templates ask for
)
WATCH = """() => {
  const pixels = document.createElement('canvas').getContext('2d', {willReadFrequently: true})
  window.drawn = {bars: {}, pictures: {}}  // by type: what nodes drew, one after the other
  window.run = {state: 'none'}             // how the last run goes, as the server tells
  const look = () => {
    for (const {type, progress, imgs} of app.graph.nodes) {
      const bars = drawn.bars[type] ??= [], pictures = drawn.pictures[type] ??= []
      if (progress !== undefined && bars.at(-1) !== progress) bars.push(progress)
      if (imgs?.[0]?.naturalWidth && pictures.at(-1)?.src !== imgs[0].src) {
        pixels.drawImage(imgs[0], 0, 0, 16, 16)
        pictures.push({src: imgs[0].src, seen: pixels.getImageData(0, 0, 16, 16).data.join()})
      }
    }
  }
  setInterval(look, 20)
  app.api.addEventListener('execution_start', () => { run = {state: 'running', steps: [], late: 0} })
  for (const end of ['success', 'error', 'interrupted'])
    app.api.addEventListener('execution_' + end, ({detail}) => Object.assign(run, {state: end, detail}))
  app.api.addEventListener('progress', ({detail}) => {
    run.steps.push([app.graph.getNodeById(detail.node)?.type, detail.value, detail.max])
    run.late += Boolean(run.told)
  })
  const send = window.fetch
  window.fetch = async (...told) => {
    const answer = await send(...told)
    if (/\\/interrupt$/.test(told[0])) run.told = true
    return answer
  }
}"""


class FrontEnd:
    """One page of the front end; `errors` is what it logged that is not the host's own."""

    def __init__(self, page: Page, port: int):
        self.page, self.port = page, port
        self.errors: list[str] = []
        page.set_default_timeout(HANG)
        page.route("**/*", _only_here)
        page.add_init_script(QUIET)
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.errors.append(f"{error.message}\n{error.stack}"))
        page.goto(f"http://127.0.0.1:{port}/", wait_until="domcontentloaded")
        self._begin()

    def _note(self, said: ConsoleMessage) -> None:
        text = f"{said.text} {said.location['url']}"
        if said.type == "error" and not re.search("|".join(NOT_OURS), text):
            self.errors.append(text)

    def _begin(self) -> None:
        self.page.wait_for_function(READY)
        self.page.evaluate(WATCH)

    @contextlib.contextmanager
    def speaking(self, language: str) -> Iterator["FrontEnd"]:
        """Another window, in this language."""
        self._set("Comfy.Locale", language)
        with self.page.context.browser.new_page(viewport=SIZE) as page:
            yield FrontEnd(page, self.port)
        self._set("Comfy.Locale", SETTINGS["Comfy.Locale"])

    def _set(self, setting: str, value) -> None:
        self.page.evaluate("told => app.extensionManager.setting.set(...told)", [setting, value])

    def command(self, name: str) -> None:
        """What an entry of a menu does."""
        self.page.evaluate("name => app.extensionManager.command.execute(name)", name)

    def browse_templates(self) -> dict[str, Locator]:
        """Our templates in the template browser: their cards by name."""
        self.command("Comfy.BrowseTemplates")
        self.dialog.get_by_role("button", name=dev.PACK).click()
        expect(self._pack_shown).to_be_visible()
        cards = self.dialog.locator("[data-testid^='template-workflow-']")
        cards.first.wait_for()
        return {card.get_attribute("data-testid").removeprefix("template-workflow-"): card for card in cards.all()}

    def open_template(self, name: str) -> None:
        """A template by a click on its card, all of it in view; dialogs that it brings up stay."""
        self.browse_templates()[name].click()
        expect(self._pack_shown).to_have_count(0)
        self.page.wait_for_function("name => document.title.includes(name)", arg=name)
        self.command("Comfy.Canvas.FitView")

    def open(self, workflow: Path) -> None:
        """A workflow from a file, all of it in view."""
        self.page.set_input_files("#comfy-file-input", workflow)
        self.page.wait_for_function("name => document.title.includes(name)", arg=workflow.stem)
        self.command("Comfy.Canvas.FitView")

    @property
    def dialog(self) -> Locator:
        return self.page.get_by_role("dialog")

    @property
    def _pack_shown(self) -> Locator:
        return self.dialog.get_by_role("main").get_by_text(dev.PACK)

    def fill(self, number: int, **inputs) -> None:
        """Type into the widgets of the node of this number."""
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
            self.page.get_by_test_id("queue-button").click()
        assert answer.value.ok, answer.value.text()

    def press_cancel(self) -> None:
        self.page.get_by_role("button", name="Cancel current run").click()

    def run(self) -> dict:
        """Press Run and wait for the end, whichever it is."""
        self.press_run()
        return self.end()

    def end(self) -> dict:
        """`state`: success, error or interrupted; `steps`: of which node, which, of how many; `late`: those told after
        Cancel was answered; `detail`."""
        self.wait("run.detail")
        return self.page.evaluate("run")

    def wait(self, condition: str) -> None:
        """Until an expression holds in the page."""
        self.page.wait_for_function(condition)

    def drawn(self, kind: str) -> tuple[list[float], int]:
        """Of the nodes of this type in this run: where the progress bar was, and how many pictures were seen."""
        bars = self.page.evaluate("kind => drawn.bars[kind] ?? []", kind)
        return bars, self.page.evaluate("kind => new Set((drawn.pictures[kind] ?? []).map(p => p.seen)).size", kind)

    def play(self, number: int, seconds: float = 0.1) -> Path:
        """Press play in a node and watch; the file of the video that plays."""
        shown = self.page.wait_for_function(
            """number => app.graph.getNodeById(number).widgets.map(widget => widget.element?.querySelector?.('video'))
              .find(video => video?.readyState >= 2)""",
            arg=number,
        ).as_element()
        shown.click()
        self.page.wait_for_function("([video, seconds]) => video.currentTime > seconds", arg=[shown, seconds])
        return saved_file(shown)

    def pause(self) -> None:
        """Whatever plays."""
        self.page.evaluate("document.querySelectorAll('video').forEach(video => video.pause())")

    def show_alone(self, kind: str) -> dict[str, float]:
        """A graph of one node of this type, in the middle; the box that it fills on the page."""
        return self.page.evaluate(
            """kind => {
              app.graph.clear()
              const node = LiteGraph.createNode(kind)
              app.graph.add(node)
              app.canvas.setDirty(true, true)
              const {canvas, ds} = app.canvas, title = LiteGraph.NODE_TITLE_HEIGHT
              const [x, y, width, height] = [node.pos[0], node.pos[1] - title, node.size[0], node.size[1] + title]
              const room = canvas.getBoundingClientRect()
              ds.scale = 1
              ds.offset = [(room.width - width) / 2 - x, (room.height - height) / 2 - y]
              return {x: room.x + x + ds.offset[0], y: room.y + y + ds.offset[1], width, height}
            }""",
            kind,
        )

    def select(self, kind: str) -> None:
        """The first node of this type."""
        self.page.evaluate("kind => app.canvas.selectNode(app.graph.nodes.find(node => node.type === kind))", kind)

    def help(self, kind: str) -> Locator:
        """Press the info button of the first node of this type: its help page."""
        self.select(kind)
        self.page.get_by_test_id("info-button").click()
        return self.page.locator(".node-help-content")

    def titles(self) -> dict[str, str]:
        """What the nodes of the graph are called, by type."""
        return dict(self.page.evaluate("app.graph.nodes.map(({type, title}) => [type, title])"))

    def names(self) -> dict[str, str]:
        """What inputs, widgets and outputs of the only node are called, by their ids and numbers."""
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
        """Type into the search for nodes; what it finds."""
        self.command("Workspace.SearchBox.Toggle")
        found = self.page.get_by_role("option")
        found.nth(1).wait_for()  # the first suggestions
        self.page.keyboard.type(text)
        return found


def saved_file(shown: ElementHandle) -> Path:
    """Where the server found what an element shows."""
    asked = parse_qs(urlparse(shown.get_attribute("src")).query)
    return dev.OUTPUT / asked.get("subfolder", [""])[0] / asked["filename"][0]


def _only_here(route: Route) -> None:
    """Nothing leaves this machine, nor are the host's own thumbnails drawn: hundreds, and slow without a GPU."""
    url = urlparse(route.request.url)
    if url.path.startswith("/templates/") and url.path.endswith(".webp"):
        route.fulfill(body=NO_PICTURE, content_type="image/svg+xml")
    elif url.hostname == "127.0.0.1" or url.scheme in ("data", "blob"):
        route.continue_()
    else:
        route.abort()


@contextlib.contextmanager
def opened(**page) -> Iterator[FrontEnd]:
    """A server with a user of its own and with previews, in a browser; `page` as Playwright's `new_page` takes it."""
    with tempfile.TemporaryDirectory() as users:
        settings = Path(users) / "default" / "comfy.settings.json"
        settings.parent.mkdir()
        settings.write_text(json.dumps(SETTINGS))
        options = ("--user-directory", users, "--preview-method", "latent2rgb")
        with dev.server(*options) as port, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=dev.find_browser(), args=["--disable-gpu"])
            yield FrontEnd(browser.new_page(**{"viewport": SIZE, **page}), port)
            browser.close()
