"""Everything a newcomer or a developer does, in one command each. Standard library only.

python3 dev.py demo ["a prompt"]   make the video that the prompt describes, on this machine, and a contact sheet
python3 dev.py test [PATH ...]     lint, types and the whole test suite, or only these paths; other arguments go to
                                   pytest; --host FOLDER first: on that ComfyUI (COMFYUI_PATH); --browser: the front
                                   end in a real browser too; --true-size: only published files at their true size
python3 dev.py serve               ComfyUI with this pack, for wiring by hand
python3 dev.py workflows           write workflows/*.json from tools/workflows; --pictures [NAME ...]: thumbnails too
python3 dev.py words               write locales/en/nodeDefs.json and the tables of the help pages from the schemas
python3 dev.py pictures            take the screenshots of the help pages and of the README again
python3 dev.py train RECIPE.toml   train as a recipe says; FOLDER: the built-in tiny model again; FOLDER v51: another
                                   one, of V5.1's kind (all resume)
python3 dev.py data RECIPE.toml    footage into a data set to train on: split, filter, caption (resumes)
python3 dev.py clips FOLDER [SET]  write toy clips with captions into a folder, to try training on: look (default),
                                   colour, shape, known, wider, word
python3 dev.py bench [NAME ...]    measure speed and memory; writes benchmarks/RESULTS.md; --original FOLDER: against a
                                   checkout of the original too
"""

import contextlib
import sys


def commands() -> dict:
    """What each command calls with its arguments; it returns the exit code."""
    from tools import checks, comfyui, demo, modules, node_words
    from tools.browser import install
    from tools.workflows import command

    return {
        "demo": demo.demo,
        "test": checks.test,
        "serve": comfyui.serve,
        "workflows": command.workflows,
        "words": node_words.words,
        "pictures": install.pictures,
        "train": modules.train,
        "data": modules.data,
        "clips": modules.clips,
        "bench": modules.bench,
    }


def main() -> None:
    if sys.version_info < (3, 10):  # noqa: UP036  (an older Python gets this sentence instead of a SyntaxError)
        sys.exit("Python 3.10 or newer is needed; install one and run this again with it.")
    name, *arguments = sys.argv[1:] or ["help"]
    command = commands().get(name)
    if command is None:
        sys.exit(__doc__)
    from tools import checks, comfyui, environment

    if name == "test" and arguments[:1] == ["--host"]:  # whose environment is set up by the process that it starts
        sys.exit(checks.test_on_host(arguments[1:]))
    environment.set_up()
    comfyui.link_pack()
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(command(arguments))


if __name__ == "__main__":
    main()
