"""Loads packs as a real host does, ours between them, and prints what that changed: for a process of its own.

python load_packs.py HOST FOLDER...: ours is the folder with `easyanimate_models`.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from types import ModuleType

WATCHED = (
    *("comfy", "comfy_api", "comfy_execution", "comfy_extras", "nodes", "folder_paths", "execution", "server", "app"),
    *("latent_preview", "node_helpers", "torch", "torchvision", "einops", "numpy", "safetensors", "transformers"),
)


def main(host: str, *packs: str) -> None:
    sys.path.insert(0, host)
    sys.argv[1:] = ["--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import nodes

    asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
    report = {}
    for pack in packs:
        if not (Path(pack) / "easyanimate_models" / "dit").is_dir():
            assert asyncio.run(nodes.load_custom_node(pack)), pack
            continue
        modules, before, started = set(sys.modules), everything(), time.process_time()
        assert asyncio.run(nodes.load_custom_node(pack)), pack
        report["seconds"] = time.process_time() - started
        report["changed"] = differences(before, everything())
        report["modules"] = sorted(set(sys.modules) - modules)
    report["names"] = {name: owner(name) for name in ("nodes", "utils", "dit", "easyanimate_models")}
    sys.stdout.write("\n" + json.dumps(report))


def owner(name: str) -> str | None:
    """The file that a module of this name comes from."""
    return getattr(sys.modules.get(name), "__file__", None)


def everything() -> dict[str, object]:
    """What the host and its libraries hold in their modules, their classes and the containers there, by name."""
    found = {}
    for name, module in list(sys.modules.items()):
        if not isinstance(module, ModuleType) or name.split(".")[0] not in WATCHED:
            continue
        for key, value in list(vars(module).items()):
            found[f"{name}:{key}"] = value
            if isinstance(value, type) and value.__module__ == name:
                found |= {f"{name}:{key}.{inner}": member for inner, member in vars(value).items()}
            elif isinstance(value, dict):
                found |= {f"{name}:{key}[{inner!r}]": member for inner, member in list(value.items())}
            elif isinstance(value, list):
                found |= {f"{name}:{key}[{i}]": member for i, member in enumerate(value)}
    return found


def differences(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """Names of what came, went, or is another thing now; modules that were merely imported do not count."""
    same = {name for name in before.keys() & after.keys() if is_same(before[name], after[name])}
    return sorted(name for name in (before.keys() | after.keys()) - same if not isinstance(after.get(name), ModuleType))


def is_same(a: object, b: object) -> bool:
    """The same object, or an equal number or text."""
    return a is b or isinstance(a, (int, float, str)) and type(a) is type(b) and a == b


if __name__ == "__main__":
    main(*sys.argv[1:])
