"""Inputs that few change are folded away where the host can do so, and shown where it can't."""

import pytest

from support.pack import part

schema = part("nodes.schema")
NODES = {cls.GET_SCHEMA().node_id: cls for cls in part("nodes").NODES}


@pytest.mark.parametrize("kind", schema.ADVANCED)
def test_advanced_inputs_are_inputs(kind):
    assert set(schema.ADVANCED[kind]) <= {given.id for given in NODES[kind].define_schema().inputs}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("kind", NODES)
def test_they_are_marked_where_the_host_knows_it(kind, known, monkeypatch):
    monkeypatch.setattr(schema, "knows_advanced_inputs", lambda: known)
    marked = {given.id for given in NODES[kind].define_schema().inputs if given.as_dict().get("advanced")}
    assert marked == (set(schema.ADVANCED.get(kind, ())) if known else set())
