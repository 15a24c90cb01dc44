"""What nodes that are called directly would show below themselves."""

from types import ModuleType, SimpleNamespace


def shown_by(module: ModuleType, monkeypatch) -> list[str]:
    """The texts, as the nodes of `module` show them from now on."""
    texts: list[str] = []
    monkeypatch.setattr(module, "show_text", lambda node, text: texts.append(text))
    for node in module.NODES:
        monkeypatch.setattr(node, "hidden", SimpleNamespace(unique_id="1"))
    return texts
